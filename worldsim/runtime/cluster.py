"""A pool of worker processes on the machines of a Ray cluster.

It runs what a :class:`worldsim.runtime.workers.WorkerPool` runs on one machine.
Ray places the tasks and repeats those whose machine is lost. On each machine, a task is played by a
:class:`worldsim.runtime.workers.Worker`: a process of its own, which is replaced if its engine
crashes or hangs. The result of a task must depend on the task alone, as in a pool on one machine.

Ray is the extra ``cluster``. All machines need the same versions of Python, Ray, worldsim, PyTorch
and NumPy, which is checked before a task runs (:func:`require_versions`).
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from copyreg import dispatch_table
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, Protocol, TypeVar

from worldsim.errors import WorldsimError
from worldsim.runtime.cluster_connection import (
    connected,
    enter_folder,
    naming_machine,
    require_room,
    require_versions,
    result_of,
    versions_here,
)
from worldsim.runtime.workers import (
    ENGINE_TIMEOUT_S,
    POLL_S,
    TRIES,
    Closes,
    Engine,
    Worker,
    WorkerPool,
)

T = TypeVar("T", bound=Closes)
R = TypeVar("R")


class Pool(Protocol):
    """Processes with an engine each, on one machine or on many."""

    @property
    def progress(self) -> int:
        """Sum of what is reported of the present tasks."""
        ...

    def run(
        self,
        function: Callable[..., R],
        tasks: Sequence[tuple[object, ...]],
        told: Callable[[], object] = ...,
        died: Callable[[int, str], object] = ...,
    ) -> Iterator[tuple[int, R]]:
        """Yield (index, result) of ``function(engine, *task)``, in order of completion."""
        ...


def pool_of(
    cluster: str | None,
    workers: int,
    make: Callable[[], T],
    timeout_s: float = ENGINE_TIMEOUT_S,
) -> WorkerPool[T] | ClusterPool[T]:
    """Return a pool on a cluster, or one of ``workers`` processes here if ``cluster`` is None."""
    if cluster is None:
        return WorkerPool(workers, make, timeout_s)
    return ClusterPool(cluster, make, timeout_s)


class ClusterPool(Generic[T]):
    """A pool whose processes are on the machines of a Ray cluster; a context manager.

    address: of the cluster, see :func:`connected`.
    make: creates what the processes play with; a function that can be sent to a process.
    timeout_s: time limit of one engine call, seconds.
    resources: what a running task takes of its machine: ``num_cpus``, by default 1, ``num_gpus``.

    Entering raises InvalidInputError if no machine has so much.
    """

    def __init__(
        self,
        address: str,
        make: Callable[[], T],
        timeout_s: float = ENGINE_TIMEOUT_S,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self._address, self._make, self._timeout_s = address, make, timeout_s
        self._resources = {"num_cpus": 1.0, **(resources or {})}
        self._key = secrets.token_hex(8)
        self._left = contextlib.ExitStack()

    def __enter__(self) -> ClusterPool[T]:
        with contextlib.ExitStack() as left:
            self._ray = left.enter_context(connected(self._address))
            require_room(self._ray, self._resources)
            # Once: what is made may be large.
            self._sealed = self._ray.put(seal(self._make))
            self._left = left.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._left.close()

    @property
    def progress(self) -> int:
        """0: tasks on other machines report when they end."""
        return 0

    def run(
        self,
        function: Callable[..., R],
        tasks: Sequence[tuple[object, ...]],
        told: Callable[[], object] = lambda: None,
        died: Callable[[int, str], object] = lambda index, cause: None,
        shared: tuple[object, ...] = (),
    ) -> Iterator[tuple[int, R]]:
        """See :class:`worldsim.runtime.workers.WorkerPool`.

        died: not called: Ray repeats the tasks of lost machines by itself.
        shared: arguments of all tasks, after the engine. They are sent to each machine once.

        Raises what ``function`` raises, WorldsimError for a task whose machine was lost
        :data:`worldsim.runtime.workers.TRIES` times, and MissingDependencyError if a machine has
        other versions than this one.
        """
        ray = self._ray
        remote = ray.remote(max_retries=TRIES - 1, **self._resources)(_play)
        common = self._key, self._sealed, (self._timeout_s, os.getcwd()), versions_here()
        together = ray.put(seal(shared))
        waiting = {
            remote.remote(*common, seal((function, task)), together): index
            for index, task in enumerate(tasks)
        }
        try:
            while waiting:
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=POLL_S)
                told()
                for reference in ready:
                    index = waiting.pop(reference)
                    yield index, self._result(reference, index)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    def _result(self, reference: Any, index: int) -> Any:
        errors = self._ray.exceptions
        try:
            return ForkingPickler.loads(result_of(self._ray, reference))
        except errors.RayTaskError:
            raise
        except errors.RayError as error:
            raise WorldsimError(
                f"task {index} was lost {TRIES} times, with its process or its machine ({error}). "
                f"Finished shards are kept: run the same command again, with more memory or fewer "
                f"processes on each machine."
            ) from error


class _ByValue(ForkingPickler):
    """Writes tensors as they are, where a pipe's would write handles of this machine's memory."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.dispatch_table = dispatch_table

    def reducer_override(self, value: Any) -> Any:
        """Write tensors for the CPU, and of a part of one the part alone; all else as usual."""
        kind = type(value)
        if (kind.__module__, kind.__name__) != ("torch", "Tensor") or value.requires_grad:
            return NotImplemented
        if value.device.type != "cpu":
            value = value.cpu()
        if value.untyped_storage().nbytes() > value.nbytes:
            value = value.clone()
        return value.__reduce_ex__(5)


def seal(value: object) -> bytes:
    """Return a value as the bytes that processes of other machines read.

    A process of Ray passes them on to its engine's process without importing what is inside:
    PyTorch alone takes it 1.4 s and 150 MB.
    """
    file = io.BytesIO()
    _ByValue(file).dump(value)
    return file.getvalue()


# On the cluster's machines, in processes of Ray.

_workers: list[tuple[str, tuple[float, str], Worker[Any]]] = []
"""The engine's process that belongs to this process of Ray, with its pool's key, its time limit and
its caller's folder."""


def _play(
    key: str,
    make: bytes,
    settings: tuple[float, str],
    versions: dict[str, str],
    call: bytes,
    shared: bytes,
) -> bytes:
    """Run a task in the engine's process; starts it for the first task of a pool.

    key: of the pool.
    settings: the time limit of one engine call, seconds, and the folder in which the caller works.
    versions: of the caller's packages.
    make, call, shared: sealed; a function and its arguments after the engine are a call.
    """
    require_versions(versions)
    if _workers and _workers[0][1] != settings:
        _workers.pop()[2].close()
    if not _workers:
        timeout_s, folder = settings
        enter_folder(folder)
        _workers.append((key, settings, Worker(functools.partial(_make, make), timeout_s)))
    worker = _workers[0][2]
    if _workers[0][0] != key:
        # The process stays: it has imported what takes seconds.
        worker.play_with(functools.partial(_make, make))
        _workers[0] = key, settings, worker
    with naming_machine():
        return worker.call(_call, call, shared)


# On the cluster's machines, in processes of engines.


def _make(make: bytes) -> Closes:
    import torch

    # What was played before may have set another number.
    torch.set_num_threads(1)
    created: Closes = ForkingPickler.loads(make)()
    return created


def _call(engine: Engine[Any], call: bytes, shared: bytes) -> bytes:
    function, task = ForkingPickler.loads(call)
    return seal(function(engine, *ForkingPickler.loads(shared), *task))
