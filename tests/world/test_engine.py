"""How steps are run: settings by name, steps in place as CUDA graphs make them, and what happens
where something is missing."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.painters import make_tiny_painter
from tests.helpers.worlds import make_tiny_world
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError
from worldsim.state import WorldState, bytes_of, flatten, map_tensors
from worldsim.world import World
from worldsim.world import engine as engines
from worldsim.world.engine import (
    PLAIN,
    Compiled,
    EngineConfig,
    GraphedStep,
    cpu_options,
    resolve_engine,
)
from worldsim.world.paint_ahead import PaintAheadConfig
from worldsim.world.scene_files import load_scene

CPU = torch.device("cpu")


def initial(world: World, scenes_folder: Path) -> WorldState:
    scenes = [load_scene(scenes_folder / name) for name in ("room-6-1", "room-7-1", "room-7-2")]
    return world.initial(scenes, [4, 5, 6])


@pytest.fixture
def state(tiny_world: World, scenes_folder: Path) -> WorldState:
    return initial(tiny_world, scenes_folder)


@pytest.fixture
def stepping_in_place(monkeypatch: pytest.MonkeyPatch, tiny_world: World) -> World:
    """A world that steps in buffers as a CUDA graph does; what is replayed is the step itself."""
    monkeypatch.setattr(engines._Captured, "_capture", lambda self: self._run)
    world = tiny_world.with_engine("plain")
    world.running.graphed = GraphedStep(world.running.inner)
    return world


def same(a: Any, b: Any) -> bool:
    left, right = flatten(a), flatten(b)
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


def acts(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_names() -> None:
    assert resolve_engine("plain", CPU) == PLAIN
    assert resolve_engine("compiled", torch.device("cuda")) == EngineConfig(
        "bfloat16", "default", graph=True, whole=True, widen=True
    )
    assert resolve_engine("fast", torch.device("cuda")) == EngineConfig(
        "bfloat16", graph=True, widen=True
    )
    assert not resolve_engine("fast", CPU).graph and not resolve_engine("fast", CPU).compile
    with pytest.raises(InvalidInputError, match="'plain', 'fast', 'compiled'.*'turbo'"):
        resolve_engine("turbo", CPU)
    with pytest.raises(InvalidInputError, match="precision.*'int4'"):
        EngineConfig(precision="int4")


def test_bfloat16_is_exact_with_itself_and_close_to_float32(
    tiny_world: World, state: WorldState
) -> None:
    half = tiny_world.with_engine(EngineConfig(precision="bfloat16"))
    assert (
        half.network is tiny_world.network
        and next(half.network.parameters()).dtype == torch.float32
    )
    assert (
        half.blank(1).context.cache.dtype == torch.bfloat16
        and half.state_bytes() < tiny_world.state_bytes()
    )
    first, again = (half.step(state, acts(1, 2, 3)) for _ in range(2))
    assert same(first, again)
    exact = tiny_world.step(state, acts(1, 2, 3))[1].frame.rgb.float()
    assert (first[1].frame.rgb.float() - exact).square().mean() < 2.0
    # Rows do not feel their neighbours, and a state goes on under another setting.
    turned = half.step(state.select(acts(2, 1, 0)), acts(3, 2, 1))
    assert same(first[1].frame, map_tensors(lambda x: x.flip(0), turned[1].frame))
    assert tiny_world.step(first[0], acts(1, 1, 1))[0].context.cache.dtype == torch.float32


@pytest.mark.slow
def test_compiled_steps_are_exact_with_themselves_and_close_to_plain_ones(
    scenes_folder: Path,
) -> None:
    """Of a network with few layers: each takes seconds to compile."""
    world = make_tiny_world(depth=1, fold=2)
    state = initial(world, scenes_folder)
    compiled = world.with_engine(EngineConfig(compile="default", whole=True))
    told = set(engines._told)
    before, walked, plain = state.clone(), state, state
    for act in (acts(1, 2, 3), acts(1, 1, 4), acts(3, 0, 1)):
        kept = walked
        walked, seen = compiled.step(walked, act)
        plain, expected = world.step(plain, act)
        difference = (seen.frame.rgb.float() - expected.frame.rgb.float()).abs()
        assert (difference > 2).float().mean() < 0.02 and torch.allclose(
            seen.frame.pose, expected.frame.pose, atol=2e-3
        )
    assert same(compiled.step(kept, act), (walked, seen)) and same(state, before)
    # Rows do not feel their neighbours, wherever they are.
    turned = compiled.step(kept.select(acts(2, 1, 0)), act.flip(0))
    assert same(turned, map_tensors(lambda x: x.flip(0), (walked, seen)))
    # The memory takes in the same frame the same way, bit by bit.
    assert same(
        compiled.observe(kept, act, expected.frame).memory,
        world.observe(kept, act, expected.frame).memory,
    )
    # A given pose goes round the ego-motion head.
    mine, theirs = (w.step(kept, act, expected.frame.pose)[1].frame for w in (compiled, world))
    assert (
        torch.equal(mine.pose, theirs.pose)
        and ((mine.rgb.float() - theirs.rgb.float()).abs() > 2).float().mean() < 0.02
    )
    assert engines._told == told, "nothing fell back to plain torch"


class Scaled:
    """Something whose method has a weight."""

    def __init__(self, factor: float) -> None:
        self.factor = torch.full((8,), factor)

    def times(self, x: torch.Tensor, shift: int | None = None) -> torch.Tensor:
        return x * self.factor if shift is None else x * self.factor + shift


@pytest.mark.slow
def test_compiled_methods_keep_their_own_weights() -> None:
    x, told = torch.ones(2, 8), set(engines._told)
    twice, thrice = (Compiled(Scaled(factor).times, "default", CPU) for factor in (2.0, 3.0))
    with torch.no_grad():
        for function, factor in ((twice, 2.0), (thrice, 3.0), (twice, 2.0)):
            assert torch.equal(function(x), factor * x)
        assert torch.equal(twice(x, 1), 2 * x + 1) and torch.equal(twice(x[:1]), 2 * x[:1])
    assert engines._told == told


def test_settings_of_the_compiler() -> None:
    assert cpu_options("default") == {"freezing": True}
    # Not chosen by time between libraries, or two runs would round differently.
    assert cpu_options("max-autotune-no-cudagraphs")["max_autotune_gemm_backends"] == "CPP"


def test_steps_in_place_are_the_same_steps(
    stepping_in_place: World, tiny_world: World, state: WorldState
) -> None:
    plain, before = tiny_world, state.clone()
    mine, reference = state, state
    for act in (acts(1, 1, 2), acts(3, 0, 4), acts(5, 6, 1)):
        mine, seen = stepping_in_place.step(mine, act)
        reference, expected = plain.step(reference, act)
        assert same(seen, expected) and same(mine, reference)
    assert same(state, before), "a state from elsewhere is left as it is"


def test_walks_side_by_side_have_buffers_of_their_own(
    stepping_in_place: World, tiny_world: World, state: WorldState
) -> None:
    other = state.select(acts(1, 2, 0))
    one, two = state, other
    for act in (acts(1, 1, 2), acts(3, 0, 4)):
        one, _ = stepping_in_place.step(one, act)
        two, _ = stepping_in_place.step(two, act)
    expected = tiny_world.step(tiny_world.step(state, acts(1, 1, 2))[0], acts(3, 0, 4))[0]
    assert same(one, expected) and not same(two, expected)


def test_painted_dreams_step_in_place_beside_plain_ones(
    monkeypatch: pytest.MonkeyPatch, tiny_world: World, state: WorldState
) -> None:
    """A painted dream's memory takes fewer pixels, so its steps need buffers of their own."""
    monkeypatch.setattr(engines._Captured, "_capture", lambda self: self._run)
    painted, mine = (
        tiny_world.with_painting(make_tiny_painter(), PaintAheadConfig()) for _ in range(2)
    )
    mine.running.graphed = GraphedStep(mine.running.inner)
    assert painted.painting is not None
    plain = state
    one = two = painted.painting.begin(state)
    for act in (acts(1, 2, 3), acts(1, 1, 4), acts(3, 0, 1)):
        one, seen = painted.step(one, act)
        two, also = mine.step(two, act)
        assert same(seen, also) and same(one, two)
        plain, _ = mine.step(plain, act)
    unpainted = state
    for act in (acts(1, 2, 3), acts(1, 1, 4), acts(3, 0, 1)):
        unpainted, _ = tiny_world.step(unpainted, act)
    assert same(plain, unpainted)


def test_a_state_stepped_in_place_cannot_be_stepped_again(
    stepping_in_place: World, state: WorldState
) -> None:
    first, _ = stepping_in_place.step(state, acts(1, 1, 1))
    kept = first.clone()
    second, _ = stepping_in_place.step(first, acts(1, 1, 1))
    with pytest.raises(
        InvalidInputError, match="stepped from before, in place: keep state.clone()"
    ):
        stepping_in_place.step(first, acts(1, 1, 1))
    assert same(stepping_in_place.step(kept, acts(1, 1, 1))[0], second)


def test_what_is_put_or_owned_outlives_a_step(
    stepping_in_place: World, tiny_world: World, state: WorldState
) -> None:
    now, _ = stepping_in_place.step(state, acts(1, 2, 3))
    owned = stepping_in_place.own(now)
    expected = owned.put(acts(2), state.select(acts(0)))
    after = stepping_in_place.put(now, acts(2), state.select(acts(0)))
    assert same(after, expected)
    assert after.memory.kind.data_ptr() == now.memory.kind.data_ptr(), "put within the buffers"
    moved, _ = stepping_in_place.step(after, acts(1, 1, 1))
    assert same(moved, tiny_world.step(expected, acts(1, 1, 1))[0])
    assert same(owned, tiny_world.step(state, acts(1, 2, 3))[0])


def test_an_environment_on_buffers(
    stepping_in_place: World, tiny_world: World, scenes_folder: Path
) -> None:
    mine, reference = (
        WorldEnv(world, scenes=scenes_folder) for world in (stepping_in_place, tiny_world)
    )
    for env in (mine, reference):
        env.reset(seed=3)
        env.step(1)
    memory, snapshot = mine.memory, mine.snapshot()
    points, fork = memory.data.kind.clone(), mine.fork(2)
    for env in (mine, reference):
        env.step(3)
        env.step(4)
    assert same(mine.state, reference.state) and same(mine.trajectory, reference.trajectory)
    assert torch.equal(memory.data.kind, points), "a memory in hand stays as it was"
    fork.step([3, 3])
    mine.restore(snapshot)
    reference.restore(snapshot)
    mine.step(5)
    reference.step(5)
    assert same(mine.state, reference.state)


def test_missing_compiler_and_graphs_are_said_once(
    monkeypatch: pytest.MonkeyPatch, tiny_world: World, state: WorldState
) -> None:
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda function, **options: broken)
    monkeypatch.setattr(engines, "_told", set())
    function = Compiled(lambda x: x + 1, "default", CPU)
    with pytest.warns(
        UserWarning, match="inductor failed .*No working C\\+\\+ compiler.*uncompiled, slower"
    ):
        assert function(1) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert function(1) == 2
        world = tiny_world.with_engine(EngineConfig(compile="default", whole=True))
        assert same(
            world.step(state, acts(1, 1, 1))[0].frame,
            tiny_world.step(state, acts(1, 1, 1))[0].frame,
        )
    with pytest.warns(UserWarning, match="CUDA graphs need CUDA: on cpu"):
        tiny_world.with_engine(EngineConfig(graph=True))


def test_a_step_never_waits_for_the_device(tiny_world: World, state: WorldState) -> None:
    """On the meta device, asking for a tensor's value or for a shape that depends on one is an
    error."""
    world = copy.deepcopy(tiny_world).to("meta")
    blank = world.blank(3)
    after, transition = world.step(blank, torch.zeros(3, dtype=torch.int64, device="meta"))
    shapes = {name: (x.shape, x.dtype) for name, x in flatten(after).items()}
    assert shapes == {name: (x.shape, x.dtype) for name, x in flatten(blank).items()}
    assert transition.frame.rgb.device.type == "meta"


def test_wider_convolutions_compute_the_same(tiny_world: World, state: WorldState) -> None:
    wide = tiny_world.with_engine(EngineConfig(widen=True))
    network = wide.dynamics.network
    assert (network.stem.in_channels, network.out.out_channels) == (16, 8)
    assert network.stem.weight.shape[1] == 16 and network.out.weight.shape[0] == 8
    assert tiny_world.network.stem.in_channels == 12 and tiny_world.network.out.out_channels == 4
    mine, expected = (world.step(state, acts(1, 2, 3))[1].frame for world in (wide, tiny_world))
    assert (mine.rgb.int() - expected.rgb.int()).abs().max() <= 1


def test_folded_pixels_under_every_setting(state: WorldState) -> None:
    """A folded network has the same tokens, so the same states; its channels are those of four
    pixels each."""
    world = make_tiny_world(fold=2)
    expected = world.step(state, acts(1, 2, 3))[1].frame.rgb.int()
    wide = world.with_engine(EngineConfig(widen=True))
    assert (wide.dynamics.network.stem.in_channels, wide.dynamics.network.out.out_channels) == (
        48,
        16,
    )
    half = world.with_engine(EngineConfig(precision="bfloat16", widen=True))
    for engine, most in ((wide, 1), (half, 16)):
        assert (engine.step(state, acts(1, 2, 3))[1].frame.rgb.int() - expected).abs().max() <= most
    assert world.step_bytes() < make_tiny_world().step_bytes()


def test_bytes() -> None:
    record = {"a": torch.zeros(3, 4), "b": (torch.zeros(5, dtype=torch.uint8),)}
    assert bytes_of(record) == 53
    assert dataclasses.asdict(PLAIN) == {
        "precision": "float32",
        "compile": "",
        "graph": False,
        "whole": False,
        "widen": False,
    }


def test_worlds_of_the_same_weights_share_what_an_engine_runs(tiny_world: World) -> None:
    """Worlds of other temperatures take no memory of their own, until the weights change."""

    engine = EngineConfig(precision="bfloat16")
    with torch.no_grad():
        weight = tiny_world.network.out.weight
        kept = weight.clone()
        first = tiny_world.with_dynamics(temperature=0.5).with_engine(engine)
        shared = first.dynamics.network
        second = tiny_world.with_dynamics(temperature=0.8).with_engine(engine)
        assert shared is second.dynamics.network and shared is not tiny_world.network
        # As an average of weights is written.
        weight.data.add_(1.0)
        assert tiny_world.with_engine(engine).dynamics.network is not shared
        weight.copy_(kept)
