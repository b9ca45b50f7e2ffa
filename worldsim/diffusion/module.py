"""Base class of trained modules: a diffusers model, saved and loaded by diffusers' own code.

Importing diffusers' model classes also imports torch's compiler, which takes longer than everything
else that a first step needs. Nothing here compiles, so the compiler is imported on first use.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar, get_type_hints

import pydantic
from torch import nn

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import JsonMapping, JsonObject

COMPILER = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Context in which imports do not find ``torch._dynamo``, unless it is already loaded.

    After the context, imports find it again.
    """
    if COMPILER in sys.modules or "diffusers.utils.torch_utils" in sys.modules:
        yield
        return
    sys.modules[COMPILER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[COMPILER]
    # What diffusers put in its place does nothing; models of its own that are imported later get
    # the real one.
    torch_utils = sys.modules["diffusers.utils.torch_utils"]
    torch_utils.maybe_allow_in_graph = _allow_in_graph  # type: ignore[attr-defined]


def _allow_in_graph(cls: Class) -> Class:
    from torch._dynamo import allow_in_graph

    return allow_in_graph(cls)


try:
    with without_compiler():
        from diffusers import configuration_utils
        from diffusers.models.modeling_utils import ModelMixin
except ImportError:
    # A version of diffusers that cannot do without.
    from diffusers import configuration_utils
    from diffusers.models.modeling_utils import ModelMixin

Class = TypeVar("Class", bound=type)
Init = TypeVar("Init", bound=Callable[..., None])

LARGEST, MOST, DEEPEST, WIDEST = 65_536, 64, 64, 1024
"""Largest number, most numbers in a list, most blocks and widest attention window that a module's
settings in a file may claim."""


def register_to_config(init: Init) -> Init:
    """Decorate a module's constructor so that ``config`` holds its arguments, as in diffusers."""
    registered: Init = configuration_utils.register_to_config(init)
    return registered


@functools.cache
def _form(cls: Any) -> type[pydantic.BaseModel]:
    """Return the arguments of a module's constructor as a pydantic model."""
    hints = get_type_hints(cls.__init__)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is p.empty else p.default) for p in parameters
    }
    rules = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return pydantic.create_model(cls.__name__, __config__=rules, **fields)


class Module(ModelMixin, configuration_utils.ConfigMixin):  # type: ignore[misc]
    """Base of the network and of the heads.

    ``config``, ``from_pretrained`` and ``save_pretrained`` are diffusers'.
    """

    config: Any

    @property
    def settings(self) -> JsonObject:
        """Return the constructor's arguments by name."""
        return {
            name: value for name, value in dict(self.config).items() if not name.startswith("_")
        }

    @classmethod
    def of_settings(cls, settings: JsonMapping) -> Self:
        """Return a module with these constructor arguments, with fresh weights."""
        made = cls.from_config(dict(settings))
        assert isinstance(made, cls)
        return made

    @classmethod
    def check_settings(cls, settings: JsonMapping) -> None:
        """Raise InvalidInputError unless ``settings`` are valid arguments of this class.

        They come from a file. Checks types and sizes: integers lie in [0, 65,536], and lists have
        at most 64 entries.
        """
        key: Any = cls
        try:
            _form(key).model_validate_json(json.dumps(dict(settings)))
        except (pydantic.ValidationError, RecursionError) as error:
            found = (
                error.errors()[0]
                if isinstance(error, pydantic.ValidationError)
                else {"loc": ("settings",), "msg": str(error)}
            )
            raise InvalidInputError(
                f"{cls.__name__}: {'.'.join(map(str, found['loc']))}: {found['msg']}"
            ) from None
        for name, value in settings.items():
            numbers = value if isinstance(value, (list, tuple)) else [value]
            if len(numbers) > MOST or any(
                isinstance(n, (int, float)) and not 0 <= n <= LARGEST for n in numbers
            ):
                raise InvalidInputError(
                    f"{cls.__name__}: {name} is {str(value)[:80]}: numbers lie in [0, {LARGEST}], "
                    f"at most {MOST} in a list"
                )
        for name, least, most in (
            ("depth", 1, DEEPEST),
            ("window", 1, WIDEST),
            ("heads", 1, LARGEST),
            ("fold", 1, MOST),
        ):
            if name in settings and not least <= settings[name] <= most:
                raise InvalidInputError(
                    f"{cls.__name__}: {name} is {settings[name]}: it must lie in [{least}, {most}]"
                )

    def to(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Move or cast the weights.

        The method of diffusers checks for offloading first, which imports the compiler.
        """
        if "diffusers.hooks.group_offloading" in sys.modules:
            return super().to(*args, **kwargs)
        return nn.Module.to(self, *args, **kwargs)
