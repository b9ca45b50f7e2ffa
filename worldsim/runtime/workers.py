"""Worker processes that play environments, with recovery when a process or an engine fails.

The result of a task must depend on the task alone. Then no failure changes a result:

- An engine that raises is created anew and plays the same episode again (:class:`Engine`).
- An engine that does not answer in time is killed, so that it raises.
- A process that dies, or still hangs then, is replaced, and its task is repeated
  (:class:`WorkerPool`).

A task that fails :data:`TRIES` times raises an error that says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, SupportsFloat, TypeVar

import gymnasium as gym
import psutil
from gymnasium.core import ActType, ObsType

from worldsim.errors import EngineError, InvalidInputError, WorldsimError
from worldsim.runtime.children import safe_imports
from worldsim.runtime.scratch import Scratch, engine_home, home, remove_orphaned_memory
from worldsim.runtime.types import Info

ENGINE_TIMEOUT_S = 60.0
"""Seconds that one call of an engine may take, by default; a reset of the real twin takes about
one."""
TRIES = 4
"""An episode is played, and a task begun, at most this often."""
POLL_S, GRACE_S, CLOSE_S = 0.25, 10.0, 10.0
"""Seconds between looks at the workers, from an engine's end to that of its worker, and for the
workers to close their engines."""


CALLS = ("a call", "make", "reset", "step", "close")
"""Calls of an engine that have a time limit, as messages name them."""


class Closes(Protocol):
    """Anything with ``close``: an environment, or a holder of one."""

    def close(self) -> object:
        """Close it."""


T = TypeVar("T", bound=Closes)
R = TypeVar("R")
Task = tuple[Callable[..., object], tuple[object, ...]]
"""A function, and its arguments after the engine."""
Answer = tuple[bool, object]
"""Whether a task succeeded, and its result or its error."""


class _Sign(ctypes.Structure):
    """The state that a worker shares with its parent, in shared memory."""

    timeout_s: float
    deadline: float
    progress: int
    call: int
    _fields_ = (
        ("timeout_s", ctypes.c_double),
        ("deadline", ctypes.c_double),
        ("progress", ctypes.c_int64),
        ("call", ctypes.c_int64),
    )


_sign: _Sign | None = None


@contextlib.contextmanager
def time_limit(call: str = CALLS[0]) -> Iterator[None]:
    """Context that limits its body, in a worker, to the time of one engine call.

    Has no effect outside a worker.

    call: one of :data:`CALLS`, for messages.
    """
    if _sign is None:
        yield
        return
    sign = _sign
    sign.call = CALLS.index(call)
    before, sign.deadline = sign.deadline, time.monotonic() + sign.timeout_s
    try:
        yield
    finally:
        sign.deadline = before


def report(progress: int) -> None:
    """Report how much of its task this worker has done, in the caller's unit."""
    if _sign is not None:
        _sign.progress = progress


class Watched(gym.Wrapper[ObsType, ActType, ObsType, ActType]):
    """An environment whose every call has a :func:`time_limit`.

    Its engine keeps its files in a temporary folder.
    """

    def __init__(self, env: gym.Env[ObsType, ActType]) -> None:
        super().__init__(env)
        self._id = env.spec.id if env.spec is not None else ""

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[ObsType, Info]:
        """Reset the environment within the time limit."""
        with time_limit("reset"), engine_home(self._id):
            return self.env.reset(seed=seed, options=options)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, Info]:
        """Step the environment within the time limit."""
        with time_limit("step"):
            return self.env.step(action)

    def close(self) -> None:
        """Close the environment within the time limit."""
        with time_limit("close"):
            self.env.close()


class Engine(Generic[T]):
    """Holds what a worker plays with: created on first use, and again after a failure."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._held: T | None = None

    def play(self, part: Callable[[T], R]) -> R:
        """Run ``part`` with the environment, and once more with a new one if it fails.

        Errors of worldsim and Gymnasium are not retried. Raises EngineError after :data:`TRIES`
        failures.
        """
        for attempt in range(TRIES):
            try:
                if self._held is None:
                    with time_limit("make"):
                        self._held = self._make()
                return part(self._held)
            except (WorldsimError, gym.error.Error):
                raise
            except Exception as error:
                self.close()
                if attempt == TRIES - 1:
                    raise EngineError(
                        f"the engine broke down {TRIES} times in a row ({type(error).__name__}: "
                        f"{error})"
                    ) from error
        raise AssertionError("unreachable")

    def play_with(self, make: Callable[[], T]) -> None:
        """Close what is held; the next part plays with what ``make`` creates."""
        self.close()
        self._make = make

    def close(self) -> None:
        """Close what is held, working or not."""
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(Exception):
                held.close()


class WorkerPool(Generic[T]):
    """A pool of processes, each with its own engine; a context manager.

    count: number of processes; 0 plays in this process, where a call that hangs cannot be ended.
    make: creates what they play with; a function that can be sent to a process.
    timeout_s: time limit of one engine call, seconds.
    """

    def __init__(
        self, count: int, make: Callable[[], T], timeout_s: float = ENGINE_TIMEOUT_S
    ) -> None:
        self._here = Engine(make) if count == 0 else None
        self._make, self._timeout_s = make, timeout_s
        self._count = count
        self._seats: list[_Seat] = []
        self._left = contextlib.ExitStack()

    def __enter__(self) -> WorkerPool[T]:
        self._left.callback(remove_orphaned_memory)
        scratch = Scratch()
        self._left.callback(scratch.close)
        self._left.enter_context(home(scratch.open()))
        self._seats = [
            _Seat(scratch.open() / str(i), self._make, self._timeout_s) for i in range(self._count)
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # All of it, however impatient the user is: it takes seconds.
        with deaf_to_interrupts(), self._left:
            if self._here is not None:
                self._here.close()
            started = [seat for seat in self._seats if seat.process is not None]
            if kind is None:
                for seat in started:
                    seat.begin(_close, ())
                deadline = time.monotonic() + CLOSE_S
                while time.monotonic() < deadline and not all(
                    seat.ready(POLL_S) for seat in started
                ):
                    pass
            for seat in started:
                seat.end()

    @property
    def progress(self) -> int:
        """Return the sum of what the workers have :func:`report`-ed for their current tasks."""
        return sum(seat.progress for seat in self._seats)

    def run(
        self,
        function: Callable[..., R],
        tasks: Sequence[tuple[object, ...]],
        told: Callable[[], object] = lambda: None,
        died: Callable[[int, str], object] = lambda index, cause: None,
    ) -> Iterator[tuple[int, R]]:
        """Yield (index, result) of ``function(engine, *task)`` per task, in order of completion.

        told: called at intervals while waiting.
        died: called with a task's index and the cause in words if its process has ended, such as
            by a segmentation fault, before the task is repeated.

        Raises what ``function`` raises, or WorldsimError if a task ends its process :data:`TRIES`
        times.
        """
        if self._here is not None:
            for index, task in enumerate(tasks):
                yield index, function(self._here, *task)
                told()
            return
        waiting, running, ended = deque(range(len(tasks))), dict[int, _Seat](), Counter[int]()
        while waiting or running:
            for seat in self._seats:
                if waiting and seat not in running.values():
                    index = waiting.popleft()
                    running[index] = seat
                    seat.begin(function, tasks[index])
            wait([seat.pipe for seat in running.values()], POLL_S)
            told()
            for index, seat in list(running.items()):
                seat.watch()
                if not seat.ready():
                    continue
                del running[index]
                try:
                    result = seat.result()
                except EOFError:
                    cause = seat.cause()
                    seat.end()
                    ended[index] += 1
                    if ended[index] == TRIES:
                        raise WorldsimError(_lost(index, cause)) from None
                    died(index, cause)
                    waiting.appendleft(index)
                else:
                    yield index, result


class Worker(Generic[T]):
    """One process with an engine that keeps its state from call to call.

    A call whose process dies is repeated in a new process, with a new engine. So the function must
    notice that the state it needs is not there.

    make: creates what the process plays with; a function that can be sent to a process.
    timeout_s: time limit of one engine call, seconds.
    """

    def __init__(self, make: Callable[[], T], timeout_s: float = ENGINE_TIMEOUT_S) -> None:
        self._scratch = Scratch()
        self._seat = _Seat(self._scratch.open() / "0", make, timeout_s)

    @property
    def process_id(self) -> int | None:
        """Id of the process; None before the first call."""
        return None if self._seat.process is None else self._seat.process.pid

    def play_with(self, make: Callable[[], T]) -> None:
        """Let the process play with something else from now on, unless ``make`` is the same."""
        if make == self._seat.make:
            return
        self._seat.make = make
        if self._seat.process is not None:
            self.call(_play_with, make)

    def call(self, function: Callable[..., R], *task: object) -> R:
        """Return ``function(engine, *task)``.

        Raises what it raises, or EngineError if it ends its process :data:`TRIES` times.
        """
        seat, cause = self._seat, ""
        for _ in range(TRIES):
            seat.begin(function, task)
            while not seat.ready(POLL_S):
                seat.watch()
            try:
                result: R = seat.result()
                return result
            except EOFError:
                cause = seat.cause()
                seat.end()
        raise EngineError(f"the process of an engine ended {TRIES} times; the last time, {cause}")

    def close(self) -> None:
        """Close the engine and end the process."""
        seat = self._seat
        if seat.process is not None:
            seat.begin(_close, ())
            seat.ready(CLOSE_S)
            seat.end()
        self._scratch.close()


class _Seat:
    """A worker process and, after its death, its replacement."""

    def __init__(self, folder: Path, make: Callable[[], Closes], timeout_s: float) -> None:
        self.folder, self.make, self.timeout_s = folder, make, timeout_s
        self.process: BaseProcess | None = None
        self.pipe: Connection[Task, Any]
        self.hung = self.late = ""

    def begin(self, function: Callable[..., object], task: tuple[object, ...]) -> None:
        """Send a task to the process; starts the process if necessary."""
        if self.process is None:
            self._start()
        self.hung = self.late = ""
        # One that has died meanwhile is met when its result is asked for.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send((function, task))

    def _start(self) -> None:
        # Spawned, not forked: engines and torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sign: _Sign = context.RawValue(_Sign, self.timeout_s)
        self.pipe, other = context.Pipe()
        process = context.Process(target=_serve, args=(other, self.sign, self.folder, self.make))
        try:
            with deaf_to_interrupts(), safe_imports():
                process.start()
        except OSError:
            raise
        except Exception as error:
            self.pipe.close()
            raise InvalidInputError(
                f"what a worker plays with cannot be sent to its process ({error}): register "
                f"environments by text, as 'module:Class'"
            ) from error
        finally:
            other.close()
        self.process = process

    @property
    def progress(self) -> int:
        return 0 if self.process is None else int(self.sign.progress)

    def ready(self, timeout: float = 0.0) -> bool:
        """Return whether there is a result, or the process is dead."""
        return self.pipe.poll(timeout)

    def result(self) -> Any:
        """Return the task's result or raise its error; EOFError if the process is dead."""
        try:
            fine, value = self.pipe.recv()
        except ConnectionResetError:
            raise EOFError from None
        if not fine:
            # Errors of worldsim explain themselves: no traceback of how they came here.
            raise value from None
        return value

    def watch(self) -> None:
        """End an engine that does not answer in time, and the process if that does not help."""
        process = self.process
        assert process is not None and process.pid is not None
        # Read once: the worker sets it back to 0 at any moment.
        deadline = float(self.sign.deadline)
        late = time.monotonic() - deadline if deadline else 0.0
        if late > GRACE_S:
            self.hung = CALLS[int(self.sign.call)]
            process.kill()
        elif late > 0:
            self.late = CALLS[int(self.sign.call)]
            end_engines(process.pid)

    def cause(self) -> str:
        """Return why the process, which is dead or dying, has ended."""
        if self.hung:
            return self._late(self.hung)
        assert self.process is not None
        self.process.join(GRACE_S)
        status = self.process.exitcode
        if status is None or status >= 0:
            return f"it ended with exit status {status}"
        name = f"signal {-status}"
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
        # Some engines' clients do not survive that their engine is ended.
        after = f" after its engine was ended, since {self._late(self.late)}" if self.late else ""
        return f"it was killed by {name}{after}"

    def _late(self, call: str) -> str:
        return f"{call} of the environment took more than {self.timeout_s:g} s (engine_timeout_s)"

    def end(self) -> None:
        """Kill the process and its engines, if they are alive, and remove its files."""
        process = self.process
        assert process is not None and process.pid is not None
        end_engines(process.pid)
        process.kill()
        # Its engines are in its process group, which outlives it.
        with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        self.process = None
        self.pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        remove_orphaned_memory()


def _lost(task: int, cause: str) -> str:
    return (
        f"A process that plays ended {TRIES} times at task {task}; the last time, {cause}. What is "
        f"finished is kept: run the same command again to go on, with fewer workers if memory is "
        f"short, or with a larger engine_timeout_s if calls are slow. A script of your own needs "
        "'if __name__ == \"__main__\":' around the call."
    )


def end_engines(pid: int) -> None:
    """Kill all child processes of process ``pid``."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Context in which new processes ignore Ctrl-C.

    A terminal sends Ctrl-C to all its processes; here the parent alone handles it, and ends its
    workers in order. The parent receives it after the context.
    """
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the worker.


def _serve(
    pipe: Connection[Answer, Task], sign: _Sign, folder: Path, make: Callable[[], Closes]
) -> None:
    """Do tasks until the parent ends this process."""
    global _sign
    _sign = sign
    _set_apart(folder)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    import torch

    torch.set_num_threads(1)
    with home(folder):
        _do_tasks(pipe, sign, Engine(make))


def _do_tasks(pipe: Connection[Answer, Task], sign: _Sign, engine: Engine[Closes]) -> None:
    while True:
        try:
            function, task = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        report(0)
        sign.deadline = 0.0
        try:
            answer: Answer = True, function(engine, *task)
        except Exception as error:
            answer = False, _sendable(error)
        pipe.send(answer)
        report(0)


def _set_apart(folder: Path) -> None:
    """Give this process its own process group and its own folder for temporary files.

    Its engines are in the group and end with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    if os.name != "posix":
        return
    os.setpgid(0, 0)
    # Some terminals stop groups in the background that write to them.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    # An engine that held the pipes by which the parent knows that this process lives would hide its
    # death.
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)


def _end_with_parent(folder: Path) -> None:
    """End this worker when its parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    end_engines(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()
    remove_orphaned_memory(but=os.getpid())
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _sendable(error: Exception) -> Exception:
    """Return an error that the parent can read, whatever classes it knows."""
    if isinstance(error, (WorldsimError, gym.error.Error)):
        return error
    sent = (
        error
        if type(error).__module__ == "builtins"
        else RuntimeError(f"{type(error).__name__}: {error}")
    )
    sent.add_note(f"In a worker process:\n{traceback.format_exc()}")
    return sent


def _play_with(engine: Engine[Closes], make: Callable[[], Closes]) -> None:
    engine.play_with(make)


def _close(engine: Engine[Closes]) -> None:
    engine.close()
