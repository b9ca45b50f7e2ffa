"""CUDA graphs: one launch instead of hundreds of small kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Runs before a capture, in which kernels are compiled and libraries allocate their workspaces."""


def capture_graph(run: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Capture ``run`` as a CUDA graph after a few warm-up runs; returns a function that replays it.

    ``run`` must not synchronise with the host.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    # thread_local: calls of other threads, such as NCCL's watchdog, do not break the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        run()
    return graph.replay


def copy_in(buffer: Tensor, value: Tensor) -> Tensor:
    """Copy ``value`` into ``buffer``, unless they share memory; returns the buffer."""
    if buffer.data_ptr() != value.data_ptr():
        buffer.copy_(value)
    return buffer
