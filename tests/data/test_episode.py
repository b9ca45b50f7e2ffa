"""Well-formed episodes, and actions, frames, depths and poses that line up: planted shifts must be
found."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from worldsim.camera import DEPTH_CODES, DEPTH_NEAR
from worldsim.data.episode import Episode, check_alignment, measure_alignment, validate_episode
from worldsim.errors import InvalidInputError

STEPS = 240
TURN, FORWARD = 0.15, 0.25


def small_episode(t: int = 4) -> Episode:
    """A valid episode of 2x3-pixel frames."""
    pose = np.tile(np.eye(4, dtype=np.float32), (t, 1, 1))
    return Episode(
        rgb=np.zeros((t, 2, 3, 3), np.uint8),
        act=np.array([1] * (t - 1) + [0]),
        rew=np.zeros(t, np.float32),
        term=np.zeros(t, bool),
        trunc=np.zeros(t, bool),
        inverse_depth=np.full((t, 2, 3), 100, np.uint16),
        pose=pose,
        intrinsics=np.array([1, 1, 1.5, 1], np.float32),
    )


def test_a_well_formed_episode_passes() -> None:
    validate_episode(small_episode())
    validate_episode(replace(small_episode(), inverse_depth=None, pose=None, intrinsics=None))
    ending = small_episode()
    ending.term[2] = True
    validate_episode(ending)


def changed(name: str, change: Callable[[Any], Any]) -> Episode:
    episode = small_episode()
    return replace(episode, **{name: change(getattr(episode, name).copy())})


def put(index: Any, value: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "rgb",
            lambda x: x.astype(np.float32),
            r"rgb must be \(t, h, w, 3\) uint8, got \(4, 2, 3, 3\) float32",
        ),
        ("rgb", lambda x: x[..., :1], r"rgb must be .* got \(4, 2, 3, 1\) uint8"),
        ("rgb", lambda x: x[:1], "at least 2 frames, got 1"),
        ("act", lambda x: x[:-1], "act must be int64 or float32 with 4 entries"),
        ("act", lambda x: x.astype(np.int32), "act must be int64 or float32"),
        ("act", put(-1, 2), r"act\[3\] is .*2.* must be zero"),
        ("rew", lambda x: x.astype(np.float64), r"rew must be \(4,\) float32, got \(4,\) float64"),
        ("rew", put(1, np.nan), r"rew\[1\] is nan"),
        ("term", put(3, True), r"term\[3\] is .*True.* must be zero"),
        ("trunc", put(0, True), "step 0 ends the episode, but 2 more steps follow"),
        (
            "inverse_depth",
            lambda x: x.astype(np.int32),
            r"inverse_depth must be \(4, 2, 3\) uint16",
        ),
        ("inverse_depth", lambda x: None, "inverse_depth missing"),
        ("intrinsics", put(0, -1.0), "fx, fy must be positive"),
        ("pose", put((2, 0, 3), np.inf), r"pose\[2, 0, 3\] is inf"),
        ("pose", put((1, 0, 0), 1.1), r"pose\[1\] has a rotation that is not orthonormal"),
        ("pose", put((1, 0, 0), -1.0), r"pose\[1\] mirrors"),
        ("pose", put((1, 3, 0), 1.0), r"pose\[1\] does not end with the row 0 0 0 1"),
    ],
)
def test_each_fault_is_named(name: str, change: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        validate_episode(changed(name, change), "episode 5")
    with pytest.raises(InvalidInputError, match="^episode 5: "):
        validate_episode(changed(name, change), "episode 5")


@lru_cache
def walk(seed: int = 0, momentum: float = 0.0, size: int = 24) -> Episode:
    """Hand-made truth: a camera turning and walking in the middle of a round room of radius 5 m
    with a smooth wall painting.

    Actions 0 forward, 1 left, 2 right, 3 backward, held for 2 to 6 steps. ``momentum`` of the
    walking speed stays each step.
    """
    rng = np.random.default_rng(seed)
    act = np.concatenate([np.full(rng.integers(2, 7), rng.choice(4)) for _ in range(STEPS)])[
        : STEPS + 1
    ]
    yaw, position, speed = 0.0, np.zeros(2), 0.0
    focal = size / 2
    u, v = np.meshgrid(
        (np.arange(size) + 0.5 - focal) / focal, (np.arange(size) + 0.5 - focal) / focal
    )
    rgb, codes, poses = [], [], []
    for a in act:
        forward, right = np.array([np.cos(yaw), np.sin(yaw)]), np.array([np.sin(yaw), -np.cos(yaw)])
        ray = forward[:, None, None] + right[:, None, None] * u
        # |position + s * ray| = 5; the ray has z = 1 in the camera, so s is the depth.
        aa, bb = (ray**2).sum(0), np.einsum("i,ihw->hw", position, ray)
        depth = (-bb + np.sqrt(bb**2 - aa * ((position**2).sum() - 25))) / aa
        hit = position[:, None, None] + ray * depth
        bearing, height = np.arctan2(hit[1], hit[0]), -v * depth
        painting = np.stack(
            [np.sin(9 * bearing + height), np.sin(5 * bearing - 2 * height), np.cos(7 * bearing)],
            -1,
        )
        rgb.append(np.round(127 + 120 * painting).astype(np.uint8))
        codes.append(np.round(DEPTH_CODES * DEPTH_NEAR / depth).astype(np.uint16))
        pose = np.eye(4, dtype=np.float32)
        pose[:3, 0], pose[:3, 1], pose[:3, 2] = (*right, 0), (0, 0, -1), (*forward, 0)
        pose[:2, 3] = position
        poses.append(pose)
        yaw += {1: TURN, 2: -TURN}.get(int(a), 0.0)
        speed = momentum * speed + {0: FORWARD, 3: -FORWARD}.get(int(a), 0.0) * (1 - momentum)
        ahead = position + speed * np.array([np.cos(yaw), np.sin(yaw)])
        position = ahead if np.hypot(*ahead) < 3 else position
    t = len(act)
    act[-1] = 0
    flags = np.zeros(t, bool)
    intrinsics = np.array([focal, focal, focal, focal], np.float32)
    return Episode(
        np.stack(rgb),
        act,
        np.zeros(t, np.float32),
        flags,
        flags.copy(),
        np.stack(codes),
        np.stack(poses),
        intrinsics,
    )


def shifted(episode: Episode, names: tuple[str, ...], by: int) -> Episode:
    """The episode with some of its fields written ``by`` frames too late, cropped to where all are
    known."""
    t = len(episode)
    fields = {}
    for name in ("rgb", "act", "rew", "term", "trunc", "inverse_depth", "pose"):
        value = (
            np.roll(getattr(episode, name), by, axis=0) if name in names else getattr(episode, name)
        )
        fields[name] = value[2 : t - 2].copy()
    fields["act"][-1] = 0
    return replace(episode, **fields)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_right_order_passes(momentum: float) -> None:
    episode = walk(momentum=momentum)
    validate_episode(episode)
    report = check_alignment(episode)
    assert report.problems == () and report.undecided == ()
    assert report.rgb_error[0] < 0.5 * report.rgb_error[1]
    assert report.depth_error[0] < 0.5 * report.depth_error[-1]
    assert report.action_gain[0] > 0.1 > 0.05 > report.action_gain[1]
    check_alignment(shifted(episode, (), 0))
    # Everything shifted together is in order.
    check_alignment(shifted(episode, ("rgb", "act", "inverse_depth", "pose"), 1))


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize(
    ("names", "by", "message"),
    [
        (("act",), 1, "Actions come one frame late"),
        (("act",), -1, "Actions come one frame early"),
        (("rgb", "inverse_depth", "pose"), 1, "Actions come one frame early"),
        (("pose",), 1, "Depth and pose are shifted: .* poses [+]1 frame"),
        (("pose",), -1, "Depth and pose are shifted: .* poses -1 frame"),
        (("inverse_depth",), 1, "Depth and pose are shifted"),
        (("inverse_depth",), -1, "Depth and pose are shifted"),
        (("rgb",), 1, "Frames and geometry are shifted: .* pose -1 frame"),
        (("rgb",), -1, "Frames and geometry are shifted: .* pose [+]1 frame"),
        (("inverse_depth", "pose"), 1, "Frames and geometry are shifted"),
    ],
)
def test_a_planted_off_by_one_is_found(
    names: tuple[str, ...], by: int, message: str, momentum: float
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_alignment(shifted(walk(momentum=momentum), names, by))


def without_geometry(episode: Episode) -> Episode:
    return replace(episode, inverse_depth=None, pose=None, intrinsics=None)


def test_without_poses_the_images_tell() -> None:
    episodes = [without_geometry(walk(seed)) for seed in range(2)]
    report = check_alignment(episodes)
    assert report.undecided == () and report.rgb_error == {}
    with pytest.raises(InvalidInputError, match="late"):
        check_alignment([shifted_images(e, 1) for e in episodes])
    with pytest.raises(InvalidInputError, match="early"):
        check_alignment([shifted_images(e, -1) for e in episodes])


def shifted_images(episode: Episode, by: int) -> Episode:
    act = np.roll(episode.act, by)
    act[-1] = 0
    return replace(episode, act=act)


def test_continuous_actions() -> None:
    episode = walk()
    turn = np.array([0, 1, -1, 0], np.float32)[episode.act]
    go = np.array([1, 0, 0, -1], np.float32)[episode.act]
    continuous = replace(episode, act=np.stack([go, turn], 1))
    continuous.act[-1] = 0
    check_alignment(continuous)
    with pytest.raises(InvalidInputError, match="late"):
        check_alignment(shifted(continuous, ("act",), 1))


def test_too_little_to_tell_is_said() -> None:
    report = measure_alignment(small_episode())
    assert report.problems == ()
    assert len(report.undecided) == 2
    still = deepcopy(walk())
    for name in ("rgb", "inverse_depth", "pose"):
        getattr(still, name)[:] = getattr(still, name)[0]
    report = measure_alignment(still)
    assert report.problems == () and "no action changes the motion" in report.undecided[0]
    with pytest.raises(InvalidInputError, match="no episodes"):
        check_alignment([])
