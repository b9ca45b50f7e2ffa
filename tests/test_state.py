"""The frames of a walk as a record, and how an environment keeps them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.camera import snap_pose
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.state import Frame, Trajectory


def frame(value: int) -> Frame:
    return Frame(
        torch.full((1, 3, 2, 4), value, dtype=torch.uint8),
        torch.full((1, 2, 4), 8192 * value).int(),
        torch.eye(4)[None],
    )


def test_there_and_back() -> None:
    trajectory = Trajectory.of([frame(0), frame(2)], torch.tensor([1.0, 2, 3, 4]))
    assert (
        len(trajectory) == 2
        and trajectory.rgb[1, 0, 0, 0] == 2
        and trajectory.intrinsics.tolist() == [1, 2, 3, 4]
    )
    assert trajectory.depth[0].isinf().all() and float(trajectory.depth[1, 0, 0]) == pytest.approx(
        0.5, rel=1e-3
    )
    camera = trajectory.cameras
    assert (
        camera.pose.shape == (2, 4, 4)
        and camera.intrinsics.shape == (2, 4)
        and (camera.height, camera.width) == (2, 4)
    )
    again = Trajectory.of(trajectory.frames, trajectory.intrinsics)
    for name in ("rgb", "inverse_depth", "pose", "intrinsics"):
        assert torch.equal(getattr(again, name), getattr(trajectory, name))


def test_bad_input() -> None:
    with pytest.raises(InvalidInputError, match="at least one"):
        Trajectory.of([], torch.ones(4))
    with pytest.raises(MissingGeometryError):
        Trajectory.of([dataclasses.replace(frame(1), pose=None)], torch.ones(4))
    trajectory = Trajectory.of([frame(0)], torch.ones(4))
    with pytest.raises(InvalidInputError, match="do not fit"):
        dataclasses.replace(trajectory, pose=torch.eye(4).repeat(2, 1, 1))


def test_the_walk_since_the_reset(world_folder: Path) -> None:
    """The four start frames and each step's, as emitted; a reset begins anew; forks leave it as it
    is."""
    env = WorldEnv(world_folder)
    first, info = env.reset(seed=3)
    assert len(env.trajectory) == 4
    np.testing.assert_array_equal(env.trajectory.rgb[-1].permute(1, 2, 0), first)
    np.testing.assert_array_equal(env.trajectory.pose[-1], info["pose"])
    torch.testing.assert_close(env.trajectory.pose, snap_pose(env.trajectory.pose), atol=0, rtol=0)
    seen = [env.step(action) for action in (1, 3)]
    env.fork(2).step(np.array([1, 2]))
    assert len(env.trajectory) == 6
    for t, (obs, _, _, _, info) in zip((4, 5), seen, strict=True):
        np.testing.assert_array_equal(env.trajectory.rgb[t].permute(1, 2, 0), obs)
        np.testing.assert_array_equal(env.trajectory.depth[t], info["depth"])
        np.testing.assert_array_equal(env.trajectory.pose[t], info["pose"])
    env.reset(seed=3)
    assert len(env.trajectory) == 4


def test_the_newest_are_kept(world_folder: Path) -> None:
    env = WorldEnv(world_folder, trajectory=3)
    env.reset(seed=3)
    shots = [env.step(1)[0] for _ in range(2)]
    assert len(env.trajectory) == 3
    np.testing.assert_array_equal(env.trajectory.rgb[1:].permute(0, 2, 3, 1), np.stack(shots))


def test_none_are_kept(world_folder: Path) -> None:
    env = WorldEnv(world_folder, trajectory=0)
    env.reset(seed=3)
    env.step(1)
    with pytest.raises(InvalidInputError, match="trajectory=2000"):
        _ = env.trajectory
    assert env.snapshot().trajectory is None


@pytest.mark.parametrize("trajectory", [-1, 1.5, True, None])
def test_bad_lengths(world_folder: Path, trajectory: object) -> None:
    with pytest.raises(InvalidInputError, match="trajectory must be"):
        WorldEnv(world_folder, trajectory=trajectory)  # type: ignore[arg-type]


def test_snapshots_bring_the_walk_back(world_folder: Path) -> None:
    env = WorldEnv(world_folder)
    env.reset(seed=3)
    env.step(1)
    snapshot, before = env.snapshot(), env.trajectory
    assert snapshot.trajectory is not None and torch.equal(snapshot.trajectory.rgb, before.rgb)
    env.step(2)
    env.reset(seed=9)
    env.restore(snapshot)
    assert torch.equal(env.trajectory.rgb, before.rgb) and torch.equal(
        env.trajectory.pose, before.pose
    )
    # Without its walk, a snapshot's newest frame is the first of a new one; one that keeps less
    # keeps the newest.
    env.restore(dataclasses.replace(snapshot, frames=()))
    assert torch.equal(env.trajectory.rgb, before.rgb[-1:])
    short = WorldEnv(world_folder, trajectory=2)
    short.restore(snapshot)
    assert torch.equal(short.trajectory.rgb, before.rgb[-2:])
