"""A dream beside its real twin under the same actions: the video, the figures, and starts where a
real environment stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from worldsim.app.cli import main
from worldsim.app.compare import CompareConfig, compare, read_actions
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.world import World
from worldsim.world.twin import FrameHistory, frames_of, make_twin

CARRACING = gym.spaces.Box(np.float32([-1, 0, 0]), np.float32([1, 1, 1]))


@pytest.fixture(scope="module")
def tiny() -> World:
    return World.from_pretrained("freedoom-tiny", device="cpu")


@pytest.mark.slow
def test_compare_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reproduces: comparing dream and twin took fifteen lines of a user's own."""
    actions = tmp_path / "actions.json"
    actions.write_text("[3, 3, 4, 4, 0]")
    out, figures = tmp_path / "films" / "c.mp4", tmp_path / "c.json"
    line = ["compare", "freedoom-tiny", "--actions", str(actions), "--history", "6", "--seed", "2"]
    assert (
        main([*line, "--reset-options", "map", "MAP30", "--out", str(out), "--json", str(figures)])
        == 0
    )
    told = capsys.readouterr()
    assert (
        "5 steps after 6 true frames (MAP30, seed 2)" in told.out and f"result: {out}" in told.err
    )
    found = json.loads(figures.read_text())
    assert found["actions"] == [3, 3, 4, 4, 0] and len(found["psnr_by_step"]) == 5
    # Turning to and fro on the spot, just after true frames: better than the still picture.
    assert found["psnr"] > max(22.0, found["still_psnr"])
    with av.open(str(out)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 5 + 10 and frames[0].shape[1] > 5 * 64 * 4


@pytest.mark.slow
def test_continuous_actions(tmp_path: Path) -> None:
    figures = compare(
        CompareConfig("carracing", tmp_path / "c.mp4", policy="random", steps=3, history=4)
    )
    assert (
        np.shape(figures["actions"]) == (3, 3) and figures["psnr"] > 15.0 and "psnr_at" in figures
    )


@pytest.mark.slow
def test_a_dream_starts_where_a_real_environment_stands(tiny: World) -> None:
    """The same state as from the frames by hand; the real environment is left as it is."""
    real = make_twin(tiny, history=5)
    obs, info = real.reset(seed=1)
    seen, acts = [obs], []
    for act in (3, 3, 1, 1, 4, 1):
        obs, _, _, _, info = real.step(act)
        seen.append(obs)
        acts.append(act)
    dream = WorldEnv(tiny)
    first, told = dream.start_from(real, seed=7)
    np.testing.assert_array_equal(first, obs)
    np.testing.assert_allclose(told["pose"], info["pose"], atol=1e-3)
    start = frames_of(real)
    assert start.act.tolist() == acts[-5:] and len(dream.trajectory) == 5
    np.testing.assert_array_equal(start.rgb.permute(0, 2, 3, 1).numpy(), np.stack(seen[-5:]))
    again, _ = gym.make("worldsim/FreedoomDream-v0", world=tiny).reset(
        seed=7, options={"frames": gym.wrappers.TimeLimit(real, 99)}
    )
    np.testing.assert_array_equal(again, first)
    one, other = dream.step(1)[0], WorldEnv(tiny)
    other.reset(seed=7, options={"frames": start})
    np.testing.assert_array_equal(one, other.step(1)[0])
    real.close()


def test_environments_that_keep_no_frames(tiny: World) -> None:
    bare = gym.make("worldsim/FreedoomReal-v0")
    dream = WorldEnv(tiny)
    with pytest.raises(InvalidInputError, match="FrameHistory"):
        dream.start_from(bare)
    with pytest.raises(ResetNeeded):
        dream.start_from(FrameHistory(bare))
    with pytest.raises(InvalidInputError, match="length = 0"):
        FrameHistory(bare, 0)
    bare.close()


@pytest.mark.parametrize(
    ("content", "space", "problem"),
    [
        ("[]", gym.spaces.Discrete(7), "a JSON list of actions is needed"),
        ('{"acts": [1]}', gym.spaces.Discrete(7), "a JSON list of actions is needed"),
        ("[1, 7]", gym.spaces.Discrete(7), "action 1 is 7"),
        ("[1.5]", gym.spaces.Discrete(7), "action 0 is 1.5"),
        ("[[1]]", gym.spaces.Discrete(7), r"action 0 is \[1\]"),
        ('["left"]', gym.spaces.Discrete(7), "action 0 is 'left'"),
        ("[[0, 0, 2]]", CARRACING, r"action 0 is \[0, 0, 2\]"),
        ("[[0, 0]]", CARRACING, r"action 0 is \[0, 0\]"),
        ("[[0, 0, NaN]]", CARRACING, "action 0 is"),
        ("[3]", CARRACING, "action 0 is 3"),
    ],
)
def test_actions_that_are_none(
    tmp_path: Path, content: str, space: gym.Space[Any], problem: str
) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InvalidInputError, match=problem):
        read_actions(tmp_path / "a.json", space)


def test_files_of_actions_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read_actions(tmp_path / "none.json", CARRACING)
    (tmp_path / "cut.json").write_text("[1, 2")
    with pytest.raises(DamagedFileError):
        read_actions(tmp_path / "cut.json", CARRACING)
    with pytest.raises(InvalidInputError, match="must end in .mp4"):
        CompareConfig(out=Path("c.gif"))


@pytest.mark.slow
def test_no_episode_is_long_enough(goal_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="lower --history"):
        compare(CompareConfig(str(goal_folder), tmp_path / "c.mp4", policy="random", history=2000))
