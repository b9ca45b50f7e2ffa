"""What a step takes, computes and moves: against hand-computed numbers; no test looks at a
clock."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from worldsim.evaluation import stopwatch
from worldsim.state import SceneStart, WorldState
from worldsim.world import World
from worldsim.world.engine import free_memory

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state(tiny_world: World, room_scene: SceneStart) -> WorldState:
    """Two environments at a start scene."""
    return tiny_world.initial([room_scene, room_scene], [0, 1])


def test_compute_counts_products_convolutions_and_attention():
    a, b = torch.ones(4, 8), torch.ones(8, 16)
    assert stopwatch.compute(lambda: a @ b) == (2 * 4 * 8 * 16, "float32")
    halves = (a.bfloat16(), b.bfloat16())
    assert stopwatch.compute(lambda: halves[0] @ halves[1]) == (2 * 4 * 8 * 16, "bfloat16")
    # The type of most operations counts, not of most results: 2 x 2 numbers here, 8 x 8 there.
    long, short = torch.ones(2, 1000, dtype=torch.bfloat16), torch.ones(8, 1)
    assert stopwatch.compute(lambda: (long @ long.T, short @ short.T)) == (
        2 * 4 * 1000 + 2 * 64,
        "bfloat16",
    )
    image, filters = torch.ones(1, 3, 10, 10), torch.ones(8, 3, 3, 3)
    assert stopwatch.compute(lambda: F.conv2d(image, filters, padding=1))[0] == 2 * 8 * 3 * 9 * 100
    q, k = torch.ones(2, 4, 16, 32), torch.ones(2, 4, 24, 32)
    mask = torch.ones(2, 1, 16, 24, dtype=torch.bool)
    # Scores (16 x 24 products of length 32) and their sum over values of length 32, in 2 x 4 heads.
    expected = 2 * (2 * 4) * 16 * 24 * (32 + 32)
    assert stopwatch.compute(lambda: F.scaled_dot_product_attention(q, k, k))[0] == expected
    assert (
        stopwatch.compute(lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=mask))[0]
        == expected
    )


def test_a_watched_world_steps_as_it_does_unwatched(tiny_world: World, state: WorldState):
    acts = torch.tensor([1, 3])
    sections = stopwatch.Sections(CPU)
    watched = stopwatch.in_sections(tiny_world, sections)
    expected, _ = tiny_world.step(state, acts)
    found, _ = watched.step(state, acts)
    assert torch.equal(found.frame.rgb, expected.frame.rgb) and torch.equal(
        found.memory.position, expected.memory.position
    )
    assert set(sections.total()) == set(stopwatch.PARTS)
    # Nothing stays behind in the world itself.
    assert "render" not in vars(tiny_world.memory) and "predict" not in vars(tiny_world.dynamics)
    assert "predict_motion" not in vars(tiny_world) and isinstance(
        tiny_world.outcome, torch.nn.Module
    )


def test_shares_make_up_the_whole(tiny_world: World, state: WorldState):
    acts = torch.ones(3, 2, dtype=torch.int64)
    share = stopwatch.shares(tiny_world, state, acts)
    assert list(share) == [*stopwatch.PARTS, "overhead"] and sum(share.values()) == pytest.approx(
        1.0
    )
    assert all(0.0 < value < 1.0 for value in share.values())
    bare = tiny_world.without_memory()
    share = stopwatch.shares(
        bare,
        bare.initial(
            [
                SceneStart(
                    state.frame.rgb[:1],
                    torch.zeros(1, dtype=torch.int64),
                    state.frame.inverse_depth[:1],
                    state.frame.pose[:1],
                )
            ],
            [0],
        ),
        acts[:, :1],
    )
    assert share["memory_render"] + share["integrate"] < share["denoise"]


def test_bytes_of_a_step(tiny_world: World, state: WorldState):
    weights = (
        sum(p.numel() for module in tiny_world.modules().values() for p in module.parameters()) * 4
    )
    # Of two environments, two layers of keys and values of three frames, 16 tokens each, of 32
    # features, float32; read and written.
    cache = 2 * 2 * (2 * 2 * 3 * 16 * 32 * 4)
    used = int(tiny_world.memory.count(state.memory).sum())
    # Position 12, colour 3, seen 4, kind, source and confidence 1 each.
    slots = 2 * used * 22
    # Noise of four channels and a view of eight, float32; a frame of 3 bytes and a code of 4 a
    # pixel, and a pose.
    pixels = 2 * (32 * 32 * (12 * 4 + 3 + 4) + 16 * 4)
    assert used > 0
    assert stopwatch.step_bytes(tiny_world, state) == weights + cache + slots + pixels


def test_what_takes_longest():
    x = torch.randn(512, 512)
    rows = stopwatch.longest(lambda: [x @ x for _ in range(8)] + [x + 1], CPU, most=3)
    assert len(rows) <= 3 and rows[0]["name"] == "aten::mm" and rows[0]["calls"] == 8
    assert 0.0 < rows[1]["share"] <= rows[0]["share"] <= 1.0 and rows[0]["ms"] > 0


def test_ceilings_are_measured():
    found = stopwatch.ceilings(CPU, quick=True)
    assert set(found) == {"float32_flop_per_s", "bfloat16_flop_per_s", "copy_bytes_per_s"}
    assert min(found.values()) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's tables")
def test_peak_memory_is_what_was_held_at_most():
    peak = stopwatch.PeakMemory(CPU)
    held = torch.ones(1 << 24)
    del held
    assert 60e6 < peak.read() < 200e6
    assert 1e8 < free_memory(CPU) < 1 << 50


def test_threads_are_put_back():
    before = torch.get_num_threads()
    with stopwatch.using_threads(before + 1) as count:
        assert count == torch.get_num_threads() == before + 1
    with stopwatch.using_threads(None) as count:
        assert count == before
    assert torch.get_num_threads() == before


def test_spread():
    assert stopwatch.spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
