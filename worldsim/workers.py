"""What processes that play environments have in common."""

from __future__ import annotations

from multiprocessing.util import Finalize
from typing import Protocol


class Closes(Protocol):
    """An environment, or what holds one."""

    def close(self) -> object: ...


def close_at_exit(held: Closes) -> None:
    """Close ``held`` when this worker process ends. A pool ends its workers without cleaning up, and an engine that runs as a
    process of its own, as ViZDoom's does, would outlive them."""
    Finalize(held, held.close, exitpriority=10)
