"""Worlds: functional steps, exact states, and the folder on disk."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.app import cli
from worldsim.camera import snap_pose
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.runtime.json_config import write_sealed
from worldsim.runtime.rng import Purpose, uniform
from worldsim.state import Frame, SceneStart, WorldState, flatten, unflatten
from worldsim.world import World
from worldsim.world.config import Termination, WorldConfig
from worldsim.world.files import write_card
from worldsim.world.heads import EgoMotionHead, OutcomeHead
from worldsim.world.image_env import PixelsConfig
from worldsim.world.scene_files import load_scene
from worldsim.world.snapshots import fingerprint
from worldsim.world.world import bucket

pytestmark = pytest.mark.fast

SIZE = 32


@pytest.fixture
def scenes(scenes_folder: Path) -> list[SceneStart]:
    return [load_scene(scenes_folder / name) for name in ("room-6-1", "room-7-1", "room-7-2")]


def acts(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def walk(world: World, state: WorldState, steps: int, act: int = 1) -> WorldState:
    for _ in range(steps):
        state, _ = world.step(state, torch.full((len(state),), act))
    return state


def assert_same(a: Any, b: Any) -> None:
    """Bit by bit."""
    first, second = flatten(a), flatten(b)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_buckets() -> None:
    assert [bucket(n) for n in (1, 2, 8, 9, 32, 33, 256, 257)] == [1, 8, 8, 32, 32, 64, 256, 512]
    assert [bucket(n) for n in (1024, 1025, 2049)] == [1024, 2048, 3072]


def test_starts_taken_in_together_do_not_depend_on_their_neighbours(
    tiny_world: World, scenes: list[SceneStart]
) -> None:
    """As a GPU takes them in: always as many at once, so that a start is the same bits whatever is
    reset beside it."""
    bare = [dataclasses.replace(scene, memory=None) for scene in scenes]
    # Another number of frames goes apart.
    bare.append(
        dataclasses.replace(
            bare[0], rgb=bare[0].rgb[-1:], act=bare[0].act[-1:], pose=bare[0].pose[-1:]
        )
    )  # type: ignore[index]
    bare[-1] = dataclasses.replace(bare[-1], inverse_depth=bare[0].inverse_depth[-1:], name="")  # type: ignore[index]
    alone = tiny_world.initial(bare, [1, 2, 3, 4])
    together = tiny_world.with_engine("plain")
    together._starts.together = 4
    all_at_once = together.initial(bare, [1, 2, 3, 4])
    # Named ones are kept, and what is kept is the row of its own scene, whatever the next reset's
    # order.
    assert len(together._starts) == 3
    again = together.with_engine("plain")
    again._starts.together = 4
    for i in (2, 0, 3, 1):
        assert_same(all_at_once.select(acts(i)), together.initial([bare[i]], [i + 1]))
        assert_same(all_at_once.select(acts(i)), again.initial([bare[i]], [i + 1]))
    for (name, one), other in zip(
        flatten(alone).items(), flatten(all_at_once).values(), strict=True
    ):
        assert torch.allclose(one.float(), other.float(), atol=1e-4), name


def test_initial_ends_in_the_last_frame(tiny_world: World, scenes: list[SceneStart]) -> None:
    state = tiny_world.initial(scenes, [4, 5, 6])
    assert len(state) == 3
    assert state.seed.tolist() == [4, 5, 6] and state.step.tolist() == [0, 0, 0]
    for i, scene in enumerate(scenes):
        assert scene.pose is not None and scene.inverse_depth is not None
        assert torch.equal(state.frame.rgb[i], scene.rgb[-1])
        assert state.frame.inverse_depth is not None and torch.equal(
            state.frame.inverse_depth[i], scene.inverse_depth[-1]
        )
        assert state.frame.pose is not None and torch.equal(
            state.frame.pose[i], snap_pose(scene.pose[-1:])[0]
        )
        assert state.act[i, -4:].tolist() == scene.act.tolist()
    # The motion to the first frame is unknown: zero; those between the frames are there.
    assert (state.motion[:, :-3] == 0).all() and (state.motion[:, -3:].abs().sum((1, 2)) > 0).all()


def test_step_leaves_its_input_alone(tiny_world: World, scenes: list[SceneStart]) -> None:
    state = walk(tiny_world, tiny_world.initial(scenes, [1, 2, 3]), 6)
    before = state.clone()
    first, transition = tiny_world.step(state, acts(1, 3, 0))
    assert_same(state, before)
    again, _ = tiny_world.step(state, acts(1, 3, 0))
    assert_same(first, again)
    assert first.step.tolist() == [7, 7, 7]
    assert (
        transition.frame.rgb.dtype == torch.uint8
        and transition.rew.tolist() == [0, 0, 0]
        and not transition.term.any()
    )
    assert first.frame.pose is not None and torch.equal(
        first.frame.pose, snap_pose(first.frame.pose)
    )


def test_what_is_emitted_is_what_is_kept(tiny_world: World, scenes: list[SceneStart]) -> None:
    state, transition = tiny_world.step(tiny_world.initial(scenes, [1, 2, 3]), acts(1, 2, 3))
    assert_same(state.frame, transition.frame)
    view = transition.view
    assert view is not None
    torch.testing.assert_close(transition.coverage, view.mask.float().mean((1, 2)))
    torch.testing.assert_close(tiny_world.coverage(state), transition.coverage)
    assert (
        state.frame.rgb.is_contiguous()
        and state.frame.inverse_depth is not None
        and state.frame.inverse_depth.is_contiguous()
    )


def test_steps_by_name_resume_from_flat_tensors(
    tiny_world: World, scenes: list[SceneStart]
) -> None:
    """A state survives as plain tensors by name: what a file holds."""
    state = walk(tiny_world, tiny_world.initial(scenes, [1, 2, 3]), 5)
    flat = {
        name: torch.from_numpy(tensor.numpy().copy()) for name, tensor in flatten(state).items()
    }
    resumed = unflatten(tiny_world.blank(1), flat)
    assert_same(walk(tiny_world, resumed, 5), walk(tiny_world, state, 5))


def test_seed_and_action_matter(tiny_world: World, scenes: list[SceneStart]) -> None:
    state = tiny_world.initial([scenes[0]] * 3, [1, 1, 2])
    state, _ = tiny_world.step(state, acts(1, 1, 1))
    assert torch.equal(state.frame.rgb[0], state.frame.rgb[1]) and not torch.equal(
        state.frame.rgb[0], state.frame.rgb[2]
    )
    state, _ = tiny_world.step(state, acts(1, 3, 1))
    assert not torch.equal(state.frame.rgb[0], state.frame.rgb[1])


def test_padding_does_not_touch_the_rest(tiny_world: World, scenes: list[SceneStart]) -> None:
    state = tiny_world.initial(scenes, [1, 2, 3])
    padded = tiny_world.pad(state, 8)
    assert len(padded) == 8 and padded.seed.tolist() == [1, 2, 3, 1, 1, 1, 1, 1]
    assert_same(padded.select(torch.arange(3)), state)


def test_imposed_pose(tiny_world: World, scenes: list[SceneStart]) -> None:
    state = tiny_world.initial(scenes[:1], [0])
    assert state.frame.pose is not None
    pose = state.frame.pose.clone()
    pose[:, :3, 3] += torch.tensor([0.25, 0.0001, 0.0])
    state, _ = tiny_world.step(state, acts(0), pose)
    assert state.frame.pose is not None
    torch.testing.assert_close(state.frame.pose[:, 0, 3], pose[:, 0, 3], atol=2e-4, rtol=0)
    assert torch.equal(state.frame.pose, snap_pose(pose))


def test_observing_a_walk_is_what_a_start_does(tiny_world: World, scenes: list[SceneStart]) -> None:
    scene = scenes[0]
    short = dataclasses.replace(
        scene,
        name="",
        **{k: getattr(scene, k)[:3] for k in ("rgb", "act", "inverse_depth", "pose")},
    )
    state = tiny_world.initial([short], [0])
    assert scene.inverse_depth is not None and scene.pose is not None
    state = tiny_world.observe(
        state, scene.act[3:], Frame(scene.rgb[3:], scene.inverse_depth[3:], scene.pose[3:])
    )
    whole = tiny_world.initial([scene], [0])
    for name in ("frame", "memory", "motion", "act"):
        # The step at which points were seen counts from the end of the start.
        mine, other = flatten(getattr(state, name)), flatten(getattr(whole, name))
        assert all(torch.equal(mine[k], other[k]) for k in mine if not k.endswith("seen"))
    with pytest.raises(InvalidInputError, match="float32"):
        tiny_world.observe(state, acts(0), Frame(torch.zeros(1, 3, SIZE, SIZE)))
    with pytest.raises(MissingGeometryError, match="depth"):
        tiny_world.observe(state, acts(0), Frame(scene.rgb[:1]))


def test_without_memory_nothing_is_remembered(tiny_world: World, scenes: list[SceneStart]) -> None:
    bare = tiny_world.without_memory()
    state, transition = bare.step(bare.initial(scenes, [1, 2, 3]), acts(1, 1, 1))
    assert state.memory == () and transition.coverage.tolist() == [0.0, 0.0, 0.0]


def test_starts_are_kept_by_content(tiny_world: World, scenes: list[SceneStart]) -> None:
    first = tiny_world.initial([scenes[0]], [0])
    other = dataclasses.replace(scenes[0], rgb=255 - scenes[0].rgb)
    assert torch.equal(tiny_world.initial([other], [0]).frame.rgb[0], other.rgb[-1])
    assert_same(tiny_world.initial([scenes[0]], [0]), first)
    first.frame.rgb.zero_()
    assert tiny_world.initial([scenes[0]], [0]).frame.rgb.any()


def test_bad_starts(tiny_world: World, scenes: list[SceneStart]) -> None:
    with pytest.raises(InvalidInputError, match="2 seeds"):
        tiny_world.initial(scenes, [1, 2])
    with pytest.raises(InvalidInputError, match="room-6-1.*rgb"):
        tiny_world.initial([dataclasses.replace(scenes[0], rgb=scenes[0].rgb.float())], [1])
    with pytest.raises(MissingGeometryError, match="room-6-1"):
        tiny_world.initial([dataclasses.replace(scenes[0], pose=None)], [1])


def test_a_memory_needs_geometry(tiny_world: World) -> None:
    with pytest.raises(MissingGeometryError, match="intrinsics"):
        World(tiny_world.network, WorldConfig(intrinsics=None), tiny_world.ego_motion)
    with pytest.raises(MissingGeometryError):
        World(tiny_world.network, WorldConfig(intrinsics=(1.0, 1.0, 0.0, 0.0)))


# On disk.


def test_round_trip(tiny_world: World, scenes: list[SceneStart], tmp_path: Path) -> None:
    tiny_world.card = {"summary": "a room", "results": {"next_frame_psnr": 30.5}}
    tiny_world.save_pretrained(tmp_path)
    loaded = World.from_pretrained(tmp_path, device="cpu")
    assert (
        loaded.config == tiny_world.config
        and loaded.card == tiny_world.card
        and loaded.folder == tmp_path
    )
    assert (
        loaded.observation_space == tiny_world.observation_space
        and loaded.action_space == tiny_world.action_space
    )
    a, b = (walk(w, w.initial(scenes, [1, 2, 3]), 4) for w in (tiny_world, loaded))
    assert_same(a, b)


def test_eight_bit_round_trip(tiny_world: World, scenes: list[SceneStart], tmp_path: Path) -> None:
    """A quarter of the size, nearly the same pictures; saved and loaded once more, exactly the
    same."""
    plain, packed, again = (tmp_path / name for name in ("plain", "packed", "again"))
    tiny_world.save_pretrained(plain)
    tiny_world.save_pretrained(packed, eight_bit=True)
    small, large = (
        sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        for folder in (packed, plain)
    )
    assert small < 0.4 * large
    loaded = World.from_pretrained(packed)
    loaded.save_pretrained(again, eight_bit=True)
    assert_same(*(World.from_pretrained(folder).network.state_dict() for folder in (packed, again)))
    (a, _), (b, _) = (
        w.step(w.initial(scenes, [1, 2, 3]), acts(1, 1, 1)) for w in (tiny_world, loaded)
    )
    assert np.abs(a.frame.rgb.numpy().astype(int) - b.frame.rgb.numpy()).mean() < 3


def test_plain_over_eight_bit_is_plain(
    tiny_world: World, scenes: list[SceneStart], tmp_path: Path
) -> None:
    """Saving over a folder leaves no older weights that would be loaded instead."""
    tiny_world.save_pretrained(tmp_path, eight_bit=True)
    tiny_world.save_pretrained(tmp_path)
    loaded = World.from_pretrained(tmp_path)
    assert_same(loaded.network.state_dict(), tiny_world.network.state_dict())


def test_files_are_diffusers_layout(world_folder: Path) -> None:
    from worldsim.diffusion.network import SpaceTimeTransformer

    network = SpaceTimeTransformer.from_pretrained(world_folder / "dynamics")
    assert_same(network.state_dict(), World.from_pretrained(world_folder).network.state_dict())
    head = EgoMotionHead.from_pretrained(world_folder / "ego_motion")
    assert float(head.scale[0]) == pytest.approx(0.3)


@pytest.mark.parametrize("device", [10**9, "mps", "gpu", object()])
def test_devices_that_are_not_there(tiny_world: World, device: Any) -> None:
    with pytest.raises(InvalidInputError, match="device"):
        tiny_world.to(device)


@pytest.fixture
def copied(world_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world_folder, tmp_path / "world"))


@pytest.mark.parametrize(
    "name",
    [
        "dynamics/diffusion_pytorch_model.safetensors",
        "ego_motion/diffusion_pytorch_model.safetensors",
    ],
)
def test_damaged_weights(copied: Path, name: str) -> None:
    data = (copied / name).read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"\0" * 100):
        (copied / name).write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=name):
            World.from_pretrained(copied)
    (copied / name).unlink()
    with pytest.raises(NotFoundError, match=str(Path(name).parent)):
        World.from_pretrained(copied)


def test_weights_of_another_size(copied: Path) -> None:
    path = copied / "dynamics" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dim": 64}))
    with pytest.raises(DamagedFileError, match="dynamics"):
        World.from_pretrained(copied)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "something"},
        {"version": 99},
        {"version": "x"},
        {"config": {"colour": 1}},
        {"config": None},
        {"config": {"dynamics": 3}},
        None,
        "cut",
    ],
)
def test_damaged_card(copied: Path, change: Any) -> None:
    path = copied / "world.json"
    meta = json.loads(path.read_text())
    text = path.read_text()[:50] if change == "cut" else json.dumps(meta | change if change else [])
    path.write_text(text)
    with pytest.raises(DamagedFileError, match=r"world\.json"):
        World.from_pretrained(copied)


def test_a_shipped_world_may_share_a_module_with_another(tmp_path: Path) -> None:
    """freedoom-small walks as freedoom-tiny does: one file for both. What is saved holds all it
    needs."""
    tiny, small = (
        World.from_pretrained(f"freedoom-{size}", device="cpu") for size in ("tiny", "small")
    )
    assert (
        tiny.folder is not None
        and small.folder is not None
        and tiny.ego_motion is not None
        and small.ego_motion is not None
    )
    assert not list((small.folder / "ego_motion").glob("*.safetensors"))
    assert_same(small.ego_motion.state_dict(), tiny.ego_motion.state_dict())
    saved = small.save_pretrained(tmp_path / "saved", eight_bit=True)
    first, second = (folder / "ego_motion" / "int8.safetensors" for folder in (saved, tiny.folder))
    assert first.read_bytes() == second.read_bytes()
    (saved / "ego_motion" / "config.json").write_text('{"_same_as": "../elsewhere"}')
    write_card(saved, small.config, small.card)
    with pytest.raises(DamagedFileError, match="'../elsewhere' is no shipped world"):
        World.from_pretrained(saved)


@pytest.mark.parametrize("damage", ["{", "[]", '{"dim": "large"}', '{"height": 33}'])
def test_damaged_module_config(copied: Path, damage: str) -> None:
    path = copied / "dynamics" / "config.json"
    if damage.startswith('{"'):
        damage = json.dumps(json.loads(path.read_text()) | json.loads(damage))
    path.write_text(damage)
    with pytest.raises(DamagedFileError, match="dynamics"):
        World.from_pretrained(copied)


def test_unknown_world(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in (
        "freedoom-huge",
        tmp_path / "nowhere",
        tmp_path,
        tmp_path / "file",
        "no owner/no world",
    ):
        with pytest.raises(NotFoundError, match=str(name)):
            World.from_pretrained(name)


def test_ends_are_drawn_with_their_probability() -> None:
    """A head that always says 0.25: a quarter of the worlds end at each step, each by its own seed
    and step, and never by 0.5."""
    world = make_tiny_world(geometry=False, rewards=True, termination=Termination.SAMPLE)
    logit = math.log(0.25 / 0.75)
    state = dataclasses.replace(world.blank(512), seed=torch.arange(512))
    later = [dataclasses.replace(state, step=state.step + i) for i in range(8)]
    ended = torch.stack(
        [world.running.inner.draw_terminations(torch.full((512,), logit), s) for s in later]
    )
    assert float(ended.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((ended[0] & ended[1]).float().mean()) == pytest.approx(0.0625, abs=0.03)
    # The same draw for a neighbourless copy; another purpose's numbers are others.
    alone = state.select(torch.tensor([77]))
    assert bool(world.running.inner.draw_terminations(torch.full((1,), logit), alone)) == bool(
        ended[0, 77]
    )
    expected = uniform(torch.tensor([77]), torch.tensor([0]), Purpose.HEADS, (1,)) < 0.25
    assert bool(expected) == bool(ended[0, 77])
    # Certain ends and none.
    assert bool(world.running.inner.draw_terminations(torch.full((512,), 40.0), state).all())
    assert not bool(world.running.inner.draw_terminations(torch.full((512,), -40.0), state).any())
    threshold = make_tiny_world(geometry=False, rewards=True)
    assert threshold.config.termination == "threshold"
    assert not bool(
        threshold.running.inner.draw_terminations(torch.full((512,), logit), state).any()
    )
    assert bool(threshold.running.inner.draw_terminations(torch.full((512,), 0.1), state).all())


def test_an_end_has_a_reward_of_its_own() -> None:
    """Rewards are in the environment's units: 4 for going on, -96 for the end that is drawn, so
    forks agree on both."""
    world = make_tiny_world(geometry=False, rewards=True, termination=Termination.SAMPLE)
    head = OutcomeHead(dim=32, hidden=8, on_end=True)
    head.offset.copy_(torch.tensor([4.0, -96.0]))
    head.prior.fill_(0.0)
    world = World(world.network, world.config, None, head)
    start = SceneStart(
        rgb=torch.zeros(1, 3, 32, 32, dtype=torch.uint8), act=torch.zeros(1, dtype=torch.int64)
    )
    state = world.initial([start] * 32, range(32))
    _, transition = world.step(state, torch.zeros(32, dtype=torch.int64))
    assert 4 < int(transition.term.sum()) < 28
    assert transition.rew.tolist() == [
        -96.0 if ended else 4.0 for ended in transition.term.tolist()
    ]
    _, again = world.step(
        state.select(torch.arange(31, -1, -1)), torch.zeros(32, dtype=torch.int64)
    )
    assert torch.equal(again.term.flip(0), transition.term)


def test_settings_of_ends_are_kept(tmp_path: Path) -> None:
    """In the card, in the heads' files (plain and 8-bit) and in the fingerprint; older cards mean
    the threshold."""
    pixels = PixelsConfig((32, 32), "screen")
    world = make_tiny_world(
        geometry=False, rewards=True, termination=Termination.SAMPLE, pixels=pixels
    )
    world.outcome = OutcomeHead(dim=32, hidden=8, on_end=True)
    world.outcome.scale.copy_(torch.tensor([0.5, 20.0]))
    for eight_bit in (False, True):
        loaded = World.from_pretrained(
            world.save_pretrained(tmp_path / str(eight_bit), eight_bit=eight_bit), "cpu"
        )
        assert loaded.config.termination is Termination.SAMPLE and loaded.config.pixels == pixels
        assert loaded.outcome.scale.tolist() == [0.5, 20.0]
    path = tmp_path / "False" / "world.json"
    card = json.loads(path.read_text())
    del card["config"]["termination"], card["config"]["pixels"]
    write_sealed(path, card)
    older = World.from_pretrained(path.parent, "cpu")
    assert older.config.termination is Termination.THRESHOLD and older.config.pixels is None
    assert fingerprint(older) != fingerprint(
        World.from_pretrained(path.parent.with_name("True"), "cpu")
    )
    assert "termination=" not in repr(older.config)


def test_the_folder_of_a_training_names_its_world(
    tmp_path: Path, world_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reproduces: ``evaluate runs/x`` said that it is no world, and not that ``runs/x/world`` is
    one."""
    shutil.copytree(world_folder, tmp_path / "run" / "world")
    with pytest.raises(
        NotFoundError,
        match=rf"'{tmp_path}/run' is the folder of a training: its world is '{tmp_path}/run/world'",
    ):
        World.from_pretrained(tmp_path / "run", "cpu")
    for command in (
        ["evaluate"],
        ["bench"],
        ["agreement"],
        ["export", "--out", str(tmp_path / "e")],
        ["demo", "--world"],
    ):
        assert cli.main([*command, str(tmp_path / "run")]) == 2
        assert f"its world is '{tmp_path}/run/world'" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    with pytest.raises(NotFoundError, match="is not a world: it has no world.json"):
        World.from_pretrained(tmp_path / "other", "cpu")
