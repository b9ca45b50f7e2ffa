"""Episodes in lockstep: packed views, and steps on buffers of their own, as CUDA graphs make
them."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import pytest
import torch

from tests.helpers.recordings import SIZE, plain, room
from tests.helpers.training import CLEAN, CPU, network
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig
from worldsim.protocols import SceneMemory
from worldsim.state import MemoryView
from worldsim.training import rollout as lockstep
from worldsim.training.buffer import FrameBuffer
from worldsim.training.corruption import OwnFrames, PerturbConfig
from worldsim.training.rollout import pack_view, unpack_view
from worldsim.world import engine

DEGRADED = PerturbConfig(sparse=1.0, blurred=1.0, depth_noise=1.0, own=0.5, own_frames=(2.0, 16.0))


def taken_in(
    graphs: bool, perturb: PerturbConfig = DEGRADED, memory: SceneMemory | None = None
) -> dict[str, torch.Tensor]:
    """What a buffer holds of eleven episodes, in batches of four and one, some of them dreamed in
    part."""
    own = OwnFrames(network(0, height=SIZE, width=SIZE))
    memory = memory or PointMemory(PointMemoryConfig(capacity=1024))
    buffer = FrameBuffer(1000, 20, memory, CPU, perturb, episodes_at_once=4, graphs=graphs)
    for lengths in ((24, 20, 30), (25, 25, 24, 26), (22, 22, 22, 20)):
        buffer.add(room(*lengths))
    buffer.remember(1, own)
    return buffer._data


def test_replayed_steps_are_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """On buffers as a CUDA graph has them, one for each kind of batch; what is replayed is the step
    itself."""
    made = []

    def capture_graph(run: Any, device: torch.device) -> Any:
        # What runs before the capture leaves no trace.
        run()
        made.append(run)
        return run

    expected = taken_in(graphs=False)
    monkeypatch.setattr(lockstep, "capture_graph", capture_graph)
    found = taken_in(graphs=True)
    assert bool(expected["dreamed"].any()) and not bool(expected["dreamed"].all())
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    # With dreams and without.
    assert len(made) == 2
    own = OwnFrames(network(0, height=8, width=8, channels=3, view_channels=0, actions=64))
    shard = plain(60)
    shard["rgb"] = shard["rgb"][:, :1, :1].repeat(8, 1).repeat(8, 2)
    without = []
    for graphs in (False, True):
        buffer = FrameBuffer(
            100, 60, None, CPU, PerturbConfig(own=1.0), episodes_at_once=1, graphs=graphs
        )
        buffer.add(shard)
        buffer.remember(0, own)
        without.append(buffer._data)
    assert [
        name for name in without[0] if not torch.equal(without[0][name], without[1][name])
    ] == []


def test_without_cuda_graphs_it_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_told", set())
    perturb = dataclasses.replace(CLEAN, own=1.0)
    with pytest.warns(
        UserWarning, match="no CUDA graph .*: episodes are taken in step by step, slower"
    ) as told:
        found = taken_in(graphs=True, perturb=perturb)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = taken_in(graphs=True, perturb=perturb)
    expected = taken_in(graphs=False, perturb=perturb)
    for name in expected:
        assert torch.equal(expected[name], found[name]) and torch.equal(
            expected[name], again[name]
        ), name


def test_memories_of_whole_frames_leave_some_out_as_well() -> None:
    """They do not listen to what a frame leaves unsaid, so that frames are kept from them as a
    whole."""
    sparse = dataclasses.replace(CLEAN, sparse=1.0)
    memory = RetrievalMemory(RetrievalMemoryConfig(height=SIZE, width=SIZE))
    few, all_of_them = (taken_in(False, perturb, memory) for perturb in (sparse, CLEAN))
    known = [
        float(unpack_view(data["view"][:250]).mask.float().mean()) for data in (few, all_of_them)
    ]
    assert known[0] < known[1]


def test_packing_a_view_loses_nothing() -> None:
    generator = torch.Generator().manual_seed(0)

    def number(high: int, *shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        return torch.randint(0, high, (2, *shape, 64, 64), generator=generator).to(dtype)

    view = MemoryView(
        rgb=number(256, 3),
        inverse_depth=number(65536, dtype=torch.int32),
        mask=number(2, dtype=torch.bool),
        offset=number(16, 2),
        source=number(256),
    )
    packed = pack_view(view)
    assert packed.shape == (2, 8, 64, 64) and packed.dtype == torch.uint8
    back = unpack_view(packed)
    for field in dataclasses.fields(view):
        a, b = getattr(view, field.name), getattr(back, field.name)
        assert a.dtype == b.dtype and torch.equal(a, b), field.name
