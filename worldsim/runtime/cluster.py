"""A pool of worker processes on the machines of a Ray cluster.

It runs what a :class:`worldsim.runtime.workers.WorkerPool` runs on one machine.
Ray places the tasks and repeats those whose machine is lost. On each machine, a task is played by a
:class:`worldsim.runtime.workers.Worker`: a process of its own, which is replaced if its engine
crashes or hangs. The result of a task must depend on the task alone, as in a pool on one machine.

Ray is the extra ``cluster``. All machines need the same versions of Python, Ray and worldsim.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, Protocol, TypeVar

from worldsim.errors import NotFoundError, WorldsimError
from worldsim.runtime.extras import missing
from worldsim.runtime.workers import ENGINE_TIMEOUT_S, POLL_S, TRIES, Closes, Engine, Worker

AUTO, LOCAL = "auto", "local"
"""Addresses: of the cluster that ``RAY_ADDRESS`` names or that runs on this machine; and of one
that is started here and ends with the program."""

CONNECT_S = 10.0
"""Seconds that the head of a cluster may take to answer."""

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


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Context with a connection to a Ray cluster; yields the module ``ray``.

    A connection that is there already is used, and left open.

    address: ``auto``, ``local``, or ``host:port``, see :data:`AUTO`.

    Raises MissingDependencyError without Ray, and NotFoundError if no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise missing("--cluster needs Ray", "cluster", error) from error
    if ray.is_initialized():
        yield ray
        return
    try:
        if address not in (AUTO, LOCAL):
            # Ray itself asks for many minutes.
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_S).close()
        ray.init(
            address=address,
            # Nothing outside this machine reaches what is started here.
            _node_ip_address="127.0.0.1" if address == LOCAL else None,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise NotFoundError(
            f"no Ray cluster answers at {address!r} ({error}): start one with `ray start --head`, "
            f"or pass --cluster {LOCAL}"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def result_of(ray: Any, reference: Any) -> Any:
    """Return the result of a remote call; raises what the call raised, as if it were made here."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None


class ClusterPool(Generic[T]):
    """A pool whose processes are on the machines of a Ray cluster; a context manager.

    Each running task takes one of the cluster's CPUs.

    address: of the cluster, see :func:`connected`.
    make: creates what the processes play with; a function that can be sent to a process.
    timeout_s: time limit of one engine call, seconds.
    """

    def __init__(
        self, address: str, make: Callable[[], T], timeout_s: float = ENGINE_TIMEOUT_S
    ) -> None:
        self._address, self._make, self._timeout_s = address, make, timeout_s
        self._key = secrets.token_hex(8)
        self._left = contextlib.ExitStack()

    def __enter__(self) -> ClusterPool[T]:
        self._ray = self._left.enter_context(connected(self._address))
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
    ) -> Iterator[tuple[int, R]]:
        """See :class:`worldsim.runtime.workers.WorkerPool`.

        died: not called: Ray repeats the tasks of lost machines by itself.

        Raises what ``function`` raises, or WorldsimError for a task whose machine was lost
        :data:`worldsim.runtime.workers.TRIES` times.
        """
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_retries=TRIES - 1)(_play)
        make = ray.put(_seal(self._make))
        waiting = {
            remote.remote(self._key, make, self._timeout_s, _seal((function, task))): index
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
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.RaySystemError) as error:
            raise WorldsimError(
                f"task {index} was lost with its machine {TRIES} times ({error}). What is finished "
                f"is kept: run the same command again to go on."
            ) from error


def _seal(value: object) -> bytes:
    """Return what a pipe between two processes would send.

    A process of Ray passes it on to its engine's process without importing what is inside: PyTorch
    alone takes it 1.4 s and 150 MB.
    """
    return bytes(ForkingPickler.dumps(value))


# On the cluster's machines, in processes of Ray.

_workers: list[tuple[str, Worker[Any]]] = []
"""The engine's process that belongs to this process of Ray, and its pool's key."""


def _play(key: str, make: bytes, timeout_s: float, call: bytes) -> bytes:
    """Run a task in the engine's process; starts it for the first task of a pool.

    key: of the pool.
    make, call: sealed; a function and its arguments after the engine are a call.
    """
    if _workers and _workers[0][0] != key:
        _workers.pop()[1].close()
    if not _workers:
        _workers.append((key, Worker(partial(_make, make), timeout_s)))
    return _workers[0][1].call(_call, call)


# On the cluster's machines, in processes of engines.


def _make(make: bytes) -> Closes:
    created: Closes = ForkingPickler.loads(make)()
    return created


def _call(engine: Engine[Any], call: bytes) -> bytes:
    function, task = ForkingPickler.loads(call)
    return _seal(function(engine, *task))
