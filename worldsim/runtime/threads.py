"""The CPU threads of this process.

PyTorch's threads wait for one another by spinning (OpenMP's default). Beside another busy process,
each waits for threads that are not scheduled, and both become many times slower
(docs/how_to/measure_speed.md).
"""

from __future__ import annotations

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""Environment variables that let threads sleep while they wait: OpenMP's own, and that of Intel's
and LLVM's OpenMP."""
FEW = 2
"""Processors of which a page's server leaves one to the browser, the twins and its event loop."""


def wait_passively() -> None:
    """Make threads of this process and its child processes sleep while they wait.

    OpenMP reads the variables of :data:`WAITING` when torch loads, so call this before. Variables
    that are already set stay.
    """
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


def page_threads(count: int | None) -> int | None:
    """Return the threads that step worlds behind a page on a CPU; None leaves PyTorch's default.

    With two processors or fewer, one thread steps, unless ``count`` says otherwise. Two that share
    a core compute hardly more together than one (docs/experiments/sessions.md).
    """
    if count is not None:
        return count
    processors = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    )
    return 1 if (processors or 1) <= FEW else None


def use_threads(count: int | None) -> None:
    """Set the number of threads that PyTorch computes with; None leaves its default.

    Applies to the whole process. Raises InvalidInputError unless ``count`` is an integer from 1 to
    1,024.
    """
    if count is None:
        return
    from worldsim.runtime.arguments import whole

    checked = whole("threads", count, 1, 1024)
    import torch

    torch.set_num_threads(checked)
