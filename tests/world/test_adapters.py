"""Adapters of a world: read as data, added up, turned off, and named by snapshots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldsim.envs.world_env import WorldEnv
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.world import World
from worldsim.world.adapters import CONFIG, PREFIX, WEIGHTS, factor_shapes

QKV, ACTION, RAYS = "dynamics.blocks.0.temporal.qkv", "dynamics.action", "dynamics.rays"
RANK, ALPHA = 2, 4


def write(folder: Path, world: World, seed: int = 0, **changes: Any) -> Path:
    """An adapter of random numbers, as peft writes it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key in (QKV, ACTION, RAYS, "outcome.mlp.1", "ego_motion.correction.6"):
        part, layer = key.split(".", 1)
        shapes = factor_shapes(world.modules()[part].get_submodule(layer), RANK)
        assert shapes is not None
        kind = "lora_embedding_{}" if key == ACTION else "lora_{}.weight"
        for factor, shape in zip("AB", shapes, strict=True):
            name = f"{PREFIX}{key}.{kind.format(factor)}"
            tensors[name] = 0.2 * torch.randn(shape, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / CONFIG).write_text(json.dumps(config | changes.pop("config", {})))
    save_file(tensors | changes.pop("tensors", {}), folder / WEIGHTS)
    return folder


@pytest.fixture
def world(world_folder: Path) -> World:
    return World.from_pretrained(world_folder, device="cpu")


def walk(world: World | Any, steps: int = 3) -> np.ndarray:
    env = world if isinstance(world, gym.Env) else WorldEnv(world)
    env.reset(seed=5)
    return np.stack([env.step(1)[0] for _ in range(steps)])


def weights_of(world: World, key: str) -> torch.Tensor:
    part, layer = key.split(".", 1)
    held = {"dynamics": world.dynamics.network, "outcome": world.running.inner.outcome}
    return held[part].get_submodule(layer).weight


def test_changes_add_up_and_the_world_stays(world: World, tmp_path: Path) -> None:
    """W + sum of scale * alpha / r * B A, by hand; scale 0 gives the world's own bits."""
    ice, dark = (write(tmp_path / name, world, i) for i, name in enumerate(("ice", "dark")))
    own, before = world.weights_id, walk(world)
    world.load_adapter(ice).load_adapter(dark, scale=0.5)
    assert world.adapters == {"ice": 1.0, "dark": 0.5}
    expected = world.network.get_submodule("blocks.0.temporal.qkv").weight.clone()
    for adapter in world._adapters:
        a, b = adapter.factors[QKV]
        expected += adapter.scale * ALPHA / RANK * b @ a
    torch.testing.assert_close(weights_of(world, QKV), expected)
    a, b = world._adapters[0].factors[ACTION]
    delta = weights_of(world.with_adapters([]), ACTION)  # the same adapters
    torch.testing.assert_close(delta, weights_of(world, ACTION))
    assert (walk(world) != before).any() and world.weights_id != own

    both = walk(world)
    np.testing.assert_array_equal(walk(world.fuse_adapters()), both)
    world.set_adapters("ice")
    assert world.adapters == {"ice": 1.0, "dark": 0.0} and (walk(world) != both).any()
    world.set_adapters(["ice", "dark"], 0)
    np.testing.assert_array_equal(walk(world), before)
    assert world.weights_id == own
    np.testing.assert_array_equal(walk(world.set_adapters(["dark", "ice"], [0.5, 1.0])), both)
    np.testing.assert_array_equal(walk(world.delete_adapters(["ice", "dark"])), before)
    assert world.adapters == {}


def test_convolutions_and_embeddings_change_as_in_peft(world: World, tmp_path: Path) -> None:
    world.load_adapter(write(tmp_path / "one", world))
    for key in (ACTION, RAYS):
        a, b = world._adapters[0].factors[key]
        base = world.network.get_submodule(key.partition(".")[2]).weight
        if key == ACTION:
            by_hand = torch.stack([b @ a[:, act] for act in range(base.shape[0])])
        else:
            by_hand = torch.einsum("or,ri->oi", b[:, :, 0, 0], a[:, :, 0, 0])[:, :, None, None]
        torch.testing.assert_close(weights_of(world, key) - base, 2.0 * by_hand)


def test_every_engine_and_eight_bits(world: World, tmp_path: Path) -> None:
    folder = write(tmp_path / "ice", world)
    own, plain = walk(world, 1).astype(int), walk(world.with_adapters(folder), 1)
    assert world.adapters == {}
    fast = walk(world.with_engine("fast").load_adapter(folder), 1)
    assert np.abs(fast - plain.astype(int)).mean() < 0.2 * np.abs(own - plain).mean()
    world.save_pretrained(tmp_path / "packed", eight_bit=True)
    packed = World.from_pretrained(tmp_path / "packed", device="cpu")
    files = {p: p.read_bytes() for p in (tmp_path / "packed").rglob("*") if p.is_file()}
    own = walk(WorldEnv(packed, scenes=str(world.folder / "scenes")))  # type: ignore[operator]
    packed.load_adapter(folder)
    changed = walk(WorldEnv(packed, scenes=str(world.folder / "scenes")))  # type: ignore[operator]
    assert (own != changed).any()
    assert files == {p: p.read_bytes() for p in files}


def test_gym_make_takes_adapters(world: World, tmp_path: Path) -> None:
    folder = write(tmp_path / "ice", world)
    wanted = walk(world.with_adapters({folder: 0.5}))
    env = gym.make("worldsim/Dream-v0", world=world, adapters={folder: 0.5})
    np.testing.assert_array_equal(walk(env), wanted)
    assert world.adapters == {}
    envs = gym.make_vec("worldsim/Dream-v0", 2, world=world, adapters=str(folder))
    assert envs.unwrapped.world.adapters == {"ice": 1.0}  # type: ignore[attr-defined]


def test_snapshots_name_their_adapters(world: World, tmp_path: Path) -> None:
    folder = write(tmp_path / "ice", world)
    env, plain = WorldEnv(world, adapters={folder: 0.5}), WorldEnv(world)
    env.reset(seed=0)
    plain.reset(seed=0)
    env.step(1)
    snapshot = env.snapshot()
    env.save(tmp_path / "walk.safetensors")
    following = env.step(1)[0]
    told = "taken with adapters ice at 0.5, and this world has no adapter: load the same"
    with pytest.raises(InvalidInputError, match=f"this snapshot was {told}"):
        plain.restore(snapshot)
    with pytest.raises(InvalidInputError, match=f"walk.safetensors was {told}"):
        plain.load(tmp_path / "walk.safetensors")
    again = WorldEnv(world, adapters={folder: 0.5})
    again.load(tmp_path / "walk.safetensors")
    np.testing.assert_array_equal(again.step(1)[0], following)
    with pytest.raises(InvalidInputError, match="with no adapter, and this world has adapters ice"):
        again.restore(plain.snapshot())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": {"peft_type": "IA3"}}, "type 'IA3': only LORA"),
        ({"config": {"use_dora": True}}, "use_dora = True: only plain LoRA"),
        ({"config": {"rank_pattern": {"qkv": 0}}}, "rank_pattern = {'qkv': 0}: a number"),
        ({"config": {"alpha_pattern": [1]}}, "alpha_pattern"),
        ({"config": {"modules_to_save": ["out"]}}, "modules_to_save"),
        ({"config": {"r": 0}}, "r = 0"),
        ({"tensors": {"dynamics.out.weight": torch.zeros(3)}}, "which is no factor"),
        ({"tensors": {f"{PREFIX}dynamics.out.lora_A.weight": torch.zeros(2, 3)}}, "without the"),
        ({"tensors": {f"{PREFIX}{QKV}.lora_A.weight": torch.full((2, 8), torch.nan)}}, "NaN"),
    ],
)
def test_damaged_files_are_refused(
    world: World, tmp_path: Path, changes: Any, message: str
) -> None:
    with pytest.raises(DamagedFileError, match=message):
        world.load_adapter(write(tmp_path / "bad", world, **changes))
    assert world.adapters == {}


def test_what_does_not_fit_is_refused(world: World, tmp_path: Path) -> None:
    folder = write(tmp_path / "ice", world)
    strange = {f"{PREFIX}dynamics.strange.lora_{x}.weight": torch.zeros(2, 2) for x in "AB"}
    with pytest.raises(InvalidInputError, match="dynamics.strange, which this world does not have"):
        world.load_adapter(write(tmp_path / "strange", world, tensors=strange))
    with pytest.raises(InvalidInputError, match="and this world takes .* at rank 3"):
        world.load_adapter(write(tmp_path / "rank", world, config={"r": 3}))
    with pytest.raises(NotFoundError, match="has no adapter_config.json"):
        world.load_adapter(tmp_path)
    with pytest.raises(NotFoundError, match="does not exist"):
        world.load_adapter(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="scale is nan"):
        world.load_adapter(folder, scale=float("nan"))
    with pytest.raises(InvalidInputError, match="name is 'a/b'"):
        world.load_adapter(folder, name="a/b")
    world.load_adapter(folder)
    with pytest.raises(InvalidInputError, match="'ice' is loaded already"):
        world.load_adapter(folder)
    with pytest.raises(InvalidInputError, match="no adapter 'fire': loaded are ice"):
        world.set_adapters("fire")
    with pytest.raises(InvalidInputError, match="1 adapters and 2 scales"):
        world.set_adapters(["ice"], [1.0, 2.0])
    with pytest.raises(InvalidInputError, match="no adapter 'fire'"):
        world.delete_adapters("fire")
