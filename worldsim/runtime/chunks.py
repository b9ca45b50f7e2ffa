"""Work that is done chunk by chunk: here, or on the machines of a cluster.

What is computed for a chunk depends on the chunk and on what all chunks share. So results do not
depend on where a chunk is computed, as long as the chunks are the same, the number of threads is,
and the machines have the same kind of processor or GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from worldsim.runtime.cluster import ClusterPool
from worldsim.runtime.workers import ENGINE_TIMEOUT_S, Engine

H = TypeVar("H")
R = TypeVar("R")
Tick = Callable[..., object]


def _ignore(n: float = 1) -> None:
    """Steps on other machines are not shown here."""


class Chunks(Protocol):
    """Maps a function over chunks."""

    def map(
        self,
        function: Callable[..., R],
        parts: Iterable[tuple[object, ...]],
        tick: Tick = ...,
        shared: tuple[object, ...] = ...,
        ticks: float = ...,
    ) -> list[R]:
        """Return ``function(held, *shared, *part, tick=...)`` of all parts, in their order.

        function: one that can be sent to a process.
        tick: what the function calls for each step; where that happens elsewhere, it is called for
            a whole part, with ``ticks``.
        shared: arguments that all parts have in common.
        """
        ...


class Here(Generic[H]):
    """Maps in this process, one part after another.

    held: what the functions work with, such as a world.
    """

    def __init__(self, held: H) -> None:
        self.held = held

    def map(
        self,
        function: Callable[..., R],
        parts: Iterable[tuple[object, ...]],
        tick: Tick = _ignore,
        shared: tuple[object, ...] = (),
        ticks: float = 1,
    ) -> list[R]:
        """See :class:`Chunks`."""
        return [function(self.held, *shared, *part, tick=tick) for part in parts]


class OnCluster(Generic[H]):
    """Maps on the machines of a Ray cluster, all parts side by side; a context manager.

    A part whose machine is lost is computed again on another one.

    address: of the cluster, see :func:`worldsim.runtime.cluster_connection.connected`.
    make: creates what the functions work with; a function that can be sent to a process.
    threads: PyTorch's threads for each part.
    resources: what a part takes of its machine, see :class:`worldsim.runtime.cluster.ClusterPool`.
    """

    def __init__(
        self,
        address: str,
        make: Callable[[], H],
        threads: int,
        resources: dict[str, float] | None = None,
    ) -> None:
        self._pool = ClusterPool(
            address, partial(_Holder, make, threads), ENGINE_TIMEOUT_S, resources
        )

    def __enter__(self) -> OnCluster[H]:
        self._pool.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.__exit__(kind, error, trace)

    def map(
        self,
        function: Callable[..., R],
        parts: Iterable[tuple[object, ...]],
        tick: Tick = _ignore,
        shared: tuple[object, ...] = (),
        ticks: float = 1,
    ) -> list[R]:
        """See :class:`Chunks`.

        Raises what ``function`` raises, and the errors of
        :meth:`worldsim.runtime.cluster.ClusterPool.run`.
        """
        tasks = [(function, *part) for part in parts]
        found: dict[int, R] = {}
        for index, result in self._pool.run(_work, tasks, shared=(shared,)):
            found[index] = result
            tick(ticks)
        return [found[i] for i in range(len(tasks))]


class _Holder(Generic[H]):
    """What a process of the cluster works with."""

    def __init__(self, make: Callable[[], H], threads: int) -> None:
        import torch

        # Sums are formed in another order by another number of threads.
        torch.set_num_threads(threads)
        self.held = make()

    def close(self) -> None:
        """Nothing to close: all of it ends with the process."""


def _work(
    engine: Engine[_Holder[Any]], shared: tuple[Any, ...], function: Callable[..., R], *part: Any
) -> R:
    # Errors of the function are its caller's: they are not repeated as an engine's are.
    held = engine.play(lambda holder: holder.held)
    return function(held, *shared, *part, tick=_ignore)
