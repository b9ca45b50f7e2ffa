"""The real twin: contract, determinism, geometry against the engine itself, and its errors."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from worldsim.envs import doom
from worldsim.errors import InvalidInputError, MissingDependencyError, NotFoundError
from worldsim.evaluation.metrics import area_average, psnr

ENV_ID = "worldsim/FreedoomReal-v0"


@pytest.fixture(scope="module")
def env() -> Iterator[doom.FreedoomReal]:
    real = doom.FreedoomReal()
    yield real
    real.close()


def play(
    env: gym.Env[Any, Any], seed: int, options: dict[str, Any] | None, steps: int = 64
) -> list[Any]:
    rng = np.random.default_rng(seed)
    obs, info = env.reset(seed=seed, options=options)
    track = [obs, info["depth"], info["pose"]]
    for index in range(steps):
        if index % 4 == 0:
            action = int(rng.integers(7))
        obs, _, _, _, info = env.step(action)
        track += [obs, info["depth"], info["pose"]]
    return track


@pytest.mark.filterwarnings("error")
def test_gymnasium_check_env() -> None:
    real = gym.make(ENV_ID, render_mode="rgb_array")
    check_env(real.unwrapped)
    real.close()


@pytest.mark.filterwarnings("error")
def test_stable_baselines3_check_env() -> None:
    real = gym.make(ENV_ID)
    check_env_sb3(real)
    real.close()


def test_maps_are_split_once_and_for_all() -> None:
    assert len(doom.MAPS) == 68
    assert doom.TEST_MAPS == (
        "freedoom2/MAP28",
        "freedoom2/MAP29",
        "freedoom2/MAP30",
        "freedoom2/MAP31",
        "freedoom2/MAP32",
    )
    assert len(doom.TRAIN_MAPS) == 63
    assert not set(doom.TRAIN_MAPS) & set(doom.TEST_MAPS)


def test_resets_draw_from_the_split(env: doom.FreedoomReal) -> None:
    assert env.reset(seed=1)[1]["map"] in doom.TEST_MAPS
    assert env.reset(seed=1, options={"split": "train"})[1]["map"] in doom.TRAIN_MAPS
    assert env.reset(seed=1, options={"map": "MAP30"})[1]["map"] == "freedoom2/MAP30"
    assert env.reset(seed=1, options={"map": "freedoom1/E1M1"})[1]["map"] == "freedoom1/E1M1"


def test_info_in_the_conventions(env: doom.FreedoomReal) -> None:
    obs, info = env.reset(seed=5, options={"map": "MAP30"})
    assert obs.shape == (64, 64, 3) and obs.dtype == np.uint8
    assert (
        info["depth"].shape == (64, 64)
        and info["depth"].dtype == np.float32
        and (info["depth"] > 0).all()
    )
    # 80 of 160 columns across 90 degrees; the middle 120 become 64; pixels are 1.2 times as tall.
    np.testing.assert_allclose(
        info["intrinsics"], [80 * 64 / 120, 96 * 64 / 120, 32, 32], rtol=1e-6
    )
    pose = info["pose"]
    assert pose.shape == (4, 4) and pose.dtype == np.float32
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(pose[:3, 1], [0, 0, -1], atol=1e-6)


def test_camera_pose_by_hand() -> None:
    # 64 units east, 32 north, 16 up, facing north: right is east, down is -z, forward is north.
    expected = [[1, 0, 0, 2], [0, 0, 1, 1], [0, -1, 0, 0.5], [0, 0, 0, 1]]
    np.testing.assert_allclose(doom.camera_pose(64, 32, 16, np.pi / 2), expected, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"map": "MAP30"}, {"split": "train"}, {"map": "freedoom1/E1M3"}]
)
def test_episodes_repeat_exactly(env: doom.FreedoomReal, options: dict[str, Any]) -> None:
    other = doom.FreedoomReal()
    first = play(other, 11, options)
    other.close()
    play(env, 7, {"map": "MAP07"}, steps=9)
    second = play(env, 11, options)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_process_gives_the_same_frames(env: doom.FreedoomReal) -> None:
    code = (
        "import gymnasium, worldsim, zlib\n"
        f"env = gymnasium.make({ENV_ID!r}); obs, info = env.reset(seed=21)\n"
        "for _ in range(8): obs, *_ = env.step(1)\n"
        "print(zlib.crc32(obs.tobytes())); env.close()"
    )
    there = int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()[-1]
    )
    obs, _ = env.reset(seed=21)
    for _ in range(8):
        obs, *_ = env.step(1)
    assert zlib.crc32(obs.tobytes()) == there


def test_actions_move_the_camera_as_named(env: doom.FreedoomReal) -> None:
    def motion(action: int) -> Any:
        for seed in range(20):
            before = env.reset(seed=seed, options={"map": "MAP30"})[1]["pose"].astype(np.float64)
            for _ in range(3):
                after = env.step(action)[4]["pose"]
            moved = np.linalg.inv(before) @ after
            if action in (3, 4) or np.abs(moved[[0, 2], 3]).max() > 0.3:
                return moved
        raise AssertionError("every start was blocked")

    assert motion(1)[2, 3] > 0.3 and motion(2)[2, 3] < -0.3
    assert motion(3)[0, 2] < -0.1 and motion(4)[0, 2] > 0.1
    assert motion(5)[0, 3] < -0.3 and motion(6)[0, 3] > 0.3


def test_depth_agrees_with_the_engine(env: doom.FreedoomReal) -> None:
    """On four maps, the ray-cast depth falls on the buffer's own 8-bit levels nearly everywhere but
    at edges."""
    for name in ("MAP30", "MAP01", "freedoom1/E1M2", "MAP29"):
        env.reset(seed=2, options={"map": name})
        for _ in range(6):
            _, _, _, _, info = env.step(1)
        level = (
            env._game.get_state()
            .depth_buffer[np.ix_(env._pixel_row, env._pixel_column)]
            .astype(np.float64)
        )
        depth = info["depth"] * doom.UNITS_PER_METRE
        inside = (depth > 30) & (depth < 800)
        expected = doom.BUFFER_OFFSET + doom.BUFFER_UNIT * level
        assert (np.abs(depth - expected) < 2 * doom.BUFFER_UNIT)[inside].mean() > 0.95


def test_starts_are_free_and_varied(env: doom.FreedoomReal) -> None:
    places = []
    for seed in range(6):
        _, info = env.reset(seed=seed, options={"map": "MAP29"})
        assert np.median(info["depth"]) > 0.5
        places.append(info["pose"][:2, 3])
    assert np.ptp(np.stack(places), axis=0).min() > 5.0


def test_an_episode_lasts_500_steps() -> None:
    real = gym.make(ENV_ID)
    assert real.spec is not None and real.spec.max_episode_steps == 500
    real.close()


def test_the_end_of_a_level_truncates_and_holds_the_last_frame(env: doom.FreedoomReal) -> None:
    obs, info = env.reset(seed=3)
    env._game.send_game_command("kill")
    for _ in range(2):
        held, reward, terminated, truncated, info_held = env.step(0)
        assert (reward, terminated, truncated) == (0.0, False, True)
        np.testing.assert_array_equal(held, obs)
        np.testing.assert_array_equal(info_held["depth"], info["depth"])
    assert env.reset(seed=3)[0].shape == (64, 64, 3)
    assert not env.step(0)[3]


def test_the_world_is_still(env: doom.FreedoomReal) -> None:
    """Walking over a box of rockets leaves it there, and MAP30's last foe throws nothing."""

    def seen() -> set[tuple[str, float, float]]:
        labels = env._game.get_state().labels
        return {
            (label.object_name, label.object_position_x, label.object_position_y)
            for label in labels
        }

    env.reset(seed=4, options={"map": "MAP30"})
    env._game.send_game_command("warp 512 1472")
    for action in [0] * 3 + [2] * 14:
        env.step(action)
    assert ("RocketBox", 512.0, 1472.0) in seen()
    names: set[str] = set()
    for _ in range(60):
        env.step(3)
        names |= {name for name, _, _ in seen()}
    assert "SpawnShot" not in names


def test_frames_of_other_sizes() -> None:
    real = doom.FreedoomReal(height=48, width=80, render_mode="rgb_array")
    obs, info = real.reset(seed=0)
    assert obs.shape == (48, 80, 3) and info["depth"].shape == (48, 80)
    picture = real.render()
    assert picture is not None
    np.testing.assert_array_equal(picture, obs)
    real.close()


def test_a_walk_is_the_same_at_every_size(env: doom.FreedoomReal) -> None:
    """The same poses, the same field of view: reduced to 64x64, larger frames are those of 64x64
    but for rounding at edges."""
    large = doom.FreedoomReal(height=96, width=128)
    np.testing.assert_allclose(
        large.reset(seed=5)[1]["intrinsics"], [256 / 3, 76.8, 64, 48], rtol=1e-6
    )
    for seed in range(5, 8):
        (a, info), (b, info_b) = env.reset(seed=seed), large.reset(seed=seed)
        for act in (1, 1, 3, 1):
            np.testing.assert_array_equal(info["pose"], info_b["pose"])
            reduced = area_average(torch.from_numpy(b).permute(2, 0, 1), 64, 64)
            assert psnr(reduced, torch.from_numpy(a).permute(2, 0, 1)).item() > 35
            middle = np.median(
                np.abs(1 / info["depth"][1::2, 1::2] - 1 / info_b["depth"][1::3, 2::4])
            )
            assert middle < 0.02
            (a, *_, info), (b, *_, info_b) = env.step(act), large.step(act)
    large.close()


def test_area_taps_by_hand() -> None:
    # [1, 4) of a row in two cells of 1.5 pixels: 1 and half of 2; half of 2 and 3.
    pixel, weight = doom.area_taps(1.0, 4.0, 6, 2)
    dense = np.zeros((2, 6))
    for row in range(len(pixel)):
        for cell in range(2):
            dense[cell, pixel[row, cell]] += weight[row, cell]
    np.testing.assert_allclose(
        dense, [[0, 2 / 3, 1 / 3, 0, 0, 0], [0, 0, 1 / 3, 2 / 3, 0, 0]], atol=1e-6
    )
    picture = np.arange(6, dtype=np.uint8)[None, :, None].repeat(4, 0).repeat(3, 2) * 30
    np.testing.assert_array_equal(
        doom.area_resize(picture, doom.area_taps(0.0, 4.0, 4, 2), (pixel, weight))[0, :, 0],
        [40, 80],
    )


def test_fusing_sprites_grates_and_moved_floors() -> None:
    depth, none = np.full((8, 8), 500.0), np.full((1, 8), np.inf)
    level = np.full((8, 8), 68, np.uint8)  # 14.5 + 68 x 7.159 = 501
    sprite = np.zeros((8, 8))
    np.testing.assert_array_equal(doom.fuse_buffer(depth, none, level, sprite), depth)
    sprite[0, 0] = 123.0
    assert doom.fuse_buffer(depth, none, level, sprite)[0, 0] == 123.0
    level[2:6, 2:6] = 20  # 157.7: something stands there that the map does not know
    fused = doom.fuse_buffer(depth, none, level, sprite)
    np.testing.assert_allclose(fused[2:6, 2:6], doom.BUFFER_OFFSET + 20 * doom.BUFFER_UNIT)
    assert fused[7, 7] == 500.0
    hung = np.full((1, 8), 155.0)
    np.testing.assert_array_equal(doom.fuse_buffer(depth, hung, level, sprite)[2:6, 2:6], 155.0)
    level[2:6, 2:6] = 68
    level[4, 4] = 20  # a single pixel is the engine's rounding at an edge
    assert doom.fuse_buffer(depth, none, level, sprite)[4, 4] == 500.0


@pytest.mark.parametrize("name", ["MAP33", "freedoom1/MAP01", "E5M1", 7, None])
def test_unknown_map(env: doom.FreedoomReal, name: object) -> None:
    with pytest.raises(NotFoundError, match=r"no map .*freedoom2/MAP01 to freedoom2/MAP32"):
        env.reset(options={"map": name})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "MAP01"}, "'level'.*'map' and 'split'"),
        ({"split": "all"}, "'all'.*'train'"),
        ({"map": "MAP01", "split": "test"}, "not both"),
    ],
)
def test_bad_options(env: doom.FreedoomReal, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        env.reset(options=options)


@pytest.mark.parametrize("action", [7, -1, 1.5, "forward", None])
def test_action_outside_the_space(env: doom.FreedoomReal, action: Any) -> None:
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match="0 to 6"):
        env.step(action)


def test_step_before_reset() -> None:
    with pytest.raises(InvalidInputError, match="reset"):
        doom.FreedoomReal().step(0)


@pytest.mark.parametrize(
    "arguments", [{"height": 4}, {"width": 1000}, {"height": 64.0}, {"render_mode": "human"}]
)
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(arguments))):
        doom.FreedoomReal(**arguments)


def test_vizdoom_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[doom\]'"):
        doom.FreedoomReal()
