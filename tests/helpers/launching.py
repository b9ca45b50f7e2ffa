"""Programs in processes of their own, alone or as the ranks of a distributed run.

A new interpreter takes seconds to import what training needs. These processes are forks of one that
has imported it, so they start at once; otherwise they are like new: arguments, environment, signals
and standard streams are the program's own. ``python -m torch.distributed.run`` sets the same
variables of the environment.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers.ports import free_port

PATIENCE = 600.0
"""Seconds for a program on a busy machine."""
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["worldsim.training.train", "worldsim.training.distil", __name__])


@dataclass(frozen=True)
class Launched:
    """Processes that run a program."""

    processes: list[BaseProcess]
    log: Path

    @property
    def printed(self) -> str:
        """Return what they have written to their standard streams."""
        return self.log.read_text(errors="replace")

    def is_running(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def send_signal(self, number: int) -> None:
        for process in self.processes:
            assert process.pid is not None
            os.kill(process.pid, number)

    def wait(self) -> set[int | None]:
        """Wait for their end; returns the exit codes, None for a process that does not end."""
        deadline = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0.0))
        return {process.exitcode for process in self.processes}


@contextlib.contextmanager
def launched(program: str | Path, *arguments: str, ranks: int = 1) -> Iterator[Launched]:
    """Run a module by its name, or a file, as the main program until the context ends."""
    shared = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if ranks > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    with tempfile.TemporaryDirectory(prefix="worldsim-launched-") as folder:
        log = Path(folder, "log.txt")
        log.touch()
        processes: list[BaseProcess] = [
            CONTEXT.Process(
                target=_become,
                args=(
                    str(program),
                    arguments,
                    shared | ({"RANK": str(i), "LOCAL_RANK": str(i)} if ranks > 1 else {}),
                    os.getcwd(),
                    log,
                ),
            )
            for i in range(ranks)
        ]
        for process in processes:
            process.start()
        try:
            yield Launched(processes, log)
        finally:
            for process in processes:
                process.kill()
                process.join()


def run(program: str | Path, *arguments: str, ranks: int = 1) -> str:
    """Run a program to its end, which must be a success; returns what it printed."""
    with launched(program, *arguments, ranks=ranks) as processes:
        codes = processes.wait()
        assert codes == {0}, f"{codes}: {processes.printed[-4000:]}"
        return processes.printed


def _become(
    program: str, arguments: tuple[str, ...], variables: dict[str, str], folder: str, log: Path
) -> None:
    """Run the program in this process, as the interpreter would in a new one."""
    os.environ.update(variables)
    os.chdir(folder)
    # As at the interpreter's start; whoever runs the tests in the background ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("ab", buffering=0) as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
