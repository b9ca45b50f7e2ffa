"""CUDA graphs of a painter's network: one launch instead of hundreds of small kernels.

A painter of a few views of 64x64 pixels is bound by kernel launches on a GPU.
"""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor, nn

from worldsim.painting.network import PainterBatch, PainterNetwork
from worldsim.runtime.cuda_graphs import capture_graph
from worldsim.state import map_tensors


class GraphedNetwork(nn.Module):
    """Evaluates a painter's network on a GPU as CUDA graphs, one for each shape of its inputs.

    Autocast to bfloat16 is part of the graphs. Inputs are copied into a graph's buffers, and
    results out of them, so that calls do not depend on one another.
    """

    def __init__(self, network: PainterNetwork) -> None:
        super().__init__()
        self.network = network
        self._captured: dict[tuple[torch.Size, ...], _Captured] = {}

    def __getstate__(self) -> dict[str, object]:
        # Graphs belong to a process; they are captured again.
        return self.__dict__ | {"_captured": {}}

    def forward(self, batch: PainterBatch) -> Tensor:
        """Return what the network returns. See :meth:`PainterNetwork.forward`."""
        key = tuple(getattr(batch, field.name).shape for field in fields(batch))
        if key not in self._captured:
            self._captured[key] = _Captured(self.network, batch)
        found: Tensor = self._captured[key](batch)
        return found


class _Captured:
    def __init__(self, network: PainterNetwork, batch: PainterBatch) -> None:
        self.network, self.batch = network, map_tensors(torch.clone, batch)
        self.out: Tensor
        self.replay = capture_graph(self._run, batch.noisy.device)

    def _run(self) -> None:
        # Without autocast's cache, whose casts would be freed when autocast is left.
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            self.out = self.network(self.batch)

    def __call__(self, batch: PainterBatch) -> Tensor:
        map_tensors(lambda own, new: own.copy_(new), self.batch, batch)
        self.replay()
        return self.out.clone()
