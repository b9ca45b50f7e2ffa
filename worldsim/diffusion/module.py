"""What every trained part is: a diffusers model, saved, loaded and shared by diffusers' own code.

Importing diffusers' model classes imports torch's compiler as well, which takes longer than everything else that a first step
needs together. Nothing here compiles, so the compiler is left to whoever uses it first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

COMPILER = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Imports inside find no ``torch._dynamo``, unless it is there already; afterwards, everything finds it again."""
    if COMPILER in sys.modules or "diffusers.utils.torch_utils" in sys.modules:
        yield
        return
    sys.modules[COMPILER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[COMPILER]
    # What diffusers put in its place does nothing; models of its own that are imported later get the real one.
    torch_utils = sys.modules["diffusers.utils.torch_utils"]
    torch_utils.maybe_allow_in_graph = _allow_in_graph  # type: ignore[attr-defined]


def _allow_in_graph(cls: Any) -> Any:
    from torch._dynamo import allow_in_graph

    return allow_in_graph(cls)


try:
    with without_compiler():
        from diffusers.configuration_utils import ConfigMixin, register_to_config
        from diffusers.models.modeling_utils import ModelMixin
except ImportError:
    # A version of diffusers that cannot do without.
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.modeling_utils import ModelMixin

__all__ = ["Module", "register_to_config"]


class Module(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Base of the network and of the heads: ``config``, ``from_pretrained`` and ``save_pretrained`` are diffusers'."""

    config: Any

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that it was made with, by name."""
        return {name: value for name, value in dict(self.config).items() if not name.startswith("_")}

    def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Move or cast the weights. diffusers' own looks for offloading first, whose import brings the compiler back."""
        if "diffusers.hooks.group_offloading" in sys.modules:
            return super().to(*args, **kwargs)
        return nn.Module.to(self, *args, **kwargs)
