"""Threads of the CPU, of this process.

PyTorch's threads wait for one another by spinning (OpenMP's default): beside another busy process
each waits for threads that the system has put aside, and both become many times slower
(docs/how_to/measure_speed.md).
"""

from __future__ import annotations

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Environment variables that let threads sleep while they wait: OpenMP's own, and that of Intel's
and LLVM's OpenMP."""


def wait_passively() -> None:
    """Have this process's threads, and those of processes that it starts, sleep while they wait.

    OpenMP reads the variables of :data:`WAITING` when torch loads, so this comes before. Variables
    that are set already stay.
    """
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


def use_threads(count: int | None) -> None:
    """Compute with ``count`` threads from now on, in the whole process; None leaves PyTorch's
    choice.

    Raises InvalidInputError unless it is a whole number from 1 to 1,024.
    """
    if count is None:
        return
    from worldsim.runtime.arguments import whole

    checked = whole("threads", count, 1, 1024)
    import torch

    torch.set_num_threads(checked)
