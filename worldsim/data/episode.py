"""A recorded episode, and checks that it is valid and that its actions, frames and poses line up.

Off-by-one errors between actions, frames and poses are silent: training converges to a worse model.
:func:`check_alignment` detects them from the data alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import DTypeLike

from worldsim.camera import (
    Camera,
    check_poses,
    dequantise_depth,
    project,
    relative_motion,
    unproject,
)
from worldsim.data.action_lag import measure_action_lag
from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Array, JsonObject

MOVED_METRES, TURNED_RADIANS = 0.02, 0.01
"""Two relative poses that differ by less than both show no shift, and are left out of the alignment
checks."""
LAGS = (-3, -2, -1, 0, 1)
"""Offsets at which actions are tried as the cause of a motion; 0 is right."""
GAIN_FLOOR = 0.02
"""An action at some lag matters if it explains at least this share more of a motion's variance."""
FRAME_SHIFTS = (-1, 0, 1)
MARGIN = 0.98
"""A shifted order fits better only if its error is below this share of the right order's error."""
MAX_PAIRS = 128
"""Pairs of neighbouring frames that an alignment check looks at."""
MIN_PAIRS = 8
"""With fewer telling pairs of frames, or steps, a check stays undecided."""
MIN_STEPS = 60


@dataclass(frozen=True)
class Episode:
    """An episode of t frames; ``act[i]`` leads from frame i to frame i + 1.

    The last action is padding (zeros).

    rgb: (t, h, w, 3) uint8.
    act: (t,) int64 of a Discrete space or (t, ...) float32 of a Box.
    rew, term, trunc: (t,) float32, bool, bool, of the transition that ``act[i]`` causes; the last
        is padding.
    inverse_depth: (t, h, w) uint16 code (``worldsim.camera.quantise_depth``).
    pose: (t, 4, 4) float32 camera-to-world, OpenCV axes, metres.
    intrinsics: (4,) float32 ``fx fy cx cy`` in pixels. ``inverse_depth``, ``pose`` and
        ``intrinsics`` are all present or all None.
    info: JSON values about the episode, such as ``seed``, ``map``, ``split``.
    """

    rgb: Array
    act: Array
    rew: Array
    term: Array
    trunc: Array
    inverse_depth: Array | None = None
    pose: Array | None = None
    intrinsics: Array | None = None
    info: JsonObject = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rgb)

    @property
    def has_geometry(self) -> bool:
        """Whether the episode has depth, poses and intrinsics."""
        return self.pose is not None


@dataclass(frozen=True)
class AlignmentReport:
    """The result of :func:`measure_alignment`.

    action_gain: with poses, {lag: largest share of a motion component's variance that the action at
        this lag adds to all earlier ones}; without, the gains of
        :class:`worldsim.data.action_lag.ActionLag`.
    depth_error: {shift: mean |log depth ratio| when depths are paired with poses ``shift`` frames
        later}.
    rgb_error: {shift: mean absolute colour error, 0 to 255, when frames are paired with geometry
        ``shift`` frames later}.
    problems: one sentence for each misalignment.
    undecided: checks for which the data is insufficient.
    """

    action_gain: dict[int, float]
    depth_error: dict[int, float]
    rgb_error: dict[int, float]
    problems: tuple[str, ...]
    undecided: tuple[str, ...]


def validate_episode(episode: Episode, name: str = "episode") -> None:
    """Raise :class:`InvalidInputError` unless ``episode`` satisfies :class:`Episode`.

    The error names the field and the value.
    """
    rgb = episode.rgb
    if (
        not isinstance(rgb, np.ndarray)
        or rgb.ndim != 4
        or rgb.shape[-1] != 3
        or rgb.dtype != np.uint8
        or 0 in rgb.shape
    ):
        raise InvalidInputError(f"{name}: rgb must be (t, h, w, 3) uint8, got {_describe(rgb)}.")
    if len(rgb) < 2:
        raise InvalidInputError(f"{name}: an episode needs at least 2 frames, got {len(rgb)}.")
    t, height, width = rgb.shape[:3]
    _require(name, "rew", episode.rew, np.float32, (t,))
    _require(name, "term", episode.term, np.bool_, (t,))
    _require(name, "trunc", episode.trunc, np.bool_, (t,))
    act = episode.act
    if (
        not isinstance(act, np.ndarray)
        or act.ndim < 1
        or act.dtype not in (np.int64, np.float32)
        or len(act) != t
    ):
        raise InvalidInputError(
            f"{name}: act must be int64 or float32 with {t} entries, one a frame, got "
            f"{_describe(act)}."
        )
    for field_name in ("act", "rew"):
        _require_finite(name, field_name, getattr(episode, field_name))
    for field_name in ("act", "rew", "term", "trunc"):
        if np.any(getattr(episode, field_name)[-1]):
            raise InvalidInputError(
                f"{name}: {field_name}[{t - 1}] is {getattr(episode, field_name)[-1]!r}, but no "
                f"transition follows the last "
                f"frame: it must be zero. {field_name}[i] belongs to the step from frame i to "
                f"frame i + 1."
            )
    ended = np.flatnonzero(episode.term[: t - 2] | episode.trunc[: t - 2])
    if len(ended):
        raise InvalidInputError(
            f"{name}: step {ended[0]} ends the episode, but {t - 2 - ended[0]} more steps follow."
        )
    _validate_geometry(episode, name, (t, height, width))


def _validate_geometry(episode: Episode, name: str, shape: tuple[int, int, int]) -> None:
    parts = {
        "inverse_depth": episode.inverse_depth,
        "pose": episode.pose,
        "intrinsics": episode.intrinsics,
    }
    missing = [key for key, value in parts.items() if value is None]
    if len(missing) == 3:
        return
    if missing:
        raise InvalidInputError(
            f"{name}: {', '.join(missing)} missing; depth, pose and intrinsics come together or "
            f"not at all."
        )
    _require(name, "inverse_depth", episode.inverse_depth, np.uint16, shape)
    pose = _require(name, "pose", episode.pose, np.float32, (shape[0], 4, 4))
    intrinsics = _require(name, "intrinsics", episode.intrinsics, np.float32, (4,))
    _require_finite(name, "pose", pose)
    _require_finite(name, "intrinsics", intrinsics)
    if (intrinsics[:2] <= 0).any():
        raise InvalidInputError(
            f"{name}: intrinsics fx, fy must be positive pixels, got {intrinsics[:2].tolist()}."
        )
    check_poses(pose, f"{name}: pose")


def _require(
    name: str, field_name: str, value: object, dtype: DTypeLike, shape: tuple[int, ...]
) -> Array:
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
        raise InvalidInputError(
            f"{name}: {field_name} must be {shape} {np.dtype(dtype)}, got {_describe(value)}."
        )
    return value


def _require_finite(name: str, field_name: str, value: Array) -> None:
    good = np.isfinite(value)
    if not good.all():
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        raise InvalidInputError(
            f"{name}: {field_name}{list(index)} is {value[index]}; every value must be finite."
        )


def _describe(value: object) -> str:
    return f"{value.shape} {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def check_alignment(episodes: Episode | Iterable[Episode]) -> AlignmentReport:
    """Raise :class:`InvalidInputError` if actions, frames, depths and poses are shifted.

    episodes: one, several, or an ``EpisodeDataset``; a few hundred steps with varied actions
        suffice.

    Checks for which the data is too short or too still do not raise: the returned report lists them
    under ``undecided``.
    """
    report = measure_alignment(episodes)
    if report.problems:
        raise InvalidInputError(" ".join(report.problems))
    return report


def measure_alignment(
    episodes: Episode | Iterable[Episode], max_episodes: int = 16
) -> AlignmentReport:
    """Measure how well actions, frames, depths and poses line up, compared to shifted data.

    Three independent checks detect a shift of any one of the four:

    - Actions: a motion may depend on earlier actions (momentum) but never on later ones. The last
      action that explains something that the actions before it do not must be ``act[t]`` for the
      motion from frame t to t + 1.
    - Depth against pose: points of frame t + 1 must have in frame t the depth recorded there.
    - Frames against geometry: the same points must have in frame t the colour recorded there.

    Without poses, the images tell the motion, by
    :func:`worldsim.data.action_lag.measure_action_lag`. Uses the first ``max_episodes`` episodes.
    """
    chosen = (
        [episodes]
        if isinstance(episodes, Episode)
        else [e for e, _ in zip(episodes, range(max_episodes), strict=False)]
    )
    if not chosen:
        raise InvalidInputError("check_alignment: no episodes were given.")
    problems: list[str] = []
    undecided: list[str] = []
    if all(e.has_geometry for e in chosen):
        action_gain = _check_actions(chosen, problems, undecided)
    else:
        lag = measure_action_lag(chosen)
        action_gain = lag.gains
        problems += [lag.problem] if lag.problem else []
        undecided += [lag.note] if lag.note else []
    depth_error: dict[int, float] = {}
    rgb_error: dict[int, float] = {}
    if all(e.has_geometry for e in chosen):
        depth_error, rgb_error = _check_frames(chosen, problems, undecided)
    return AlignmentReport(action_gain, depth_error, rgb_error, tuple(problems), tuple(undecided))


def _check_actions(
    episodes: list[Episode], problems: list[str], undecided: list[str]
) -> dict[int, float]:
    motion, lagged = [], []
    categories = (
        np.unique(np.concatenate([e.act[:-1] for e in episodes]))
        if episodes[0].act.dtype == np.int64
        else None
    )
    for episode in episodes:
        moved = _pose_motion(episode)
        features = _action_features(episode.act[:-1], categories)
        steps = np.arange(-LAGS[0], len(moved) - LAGS[-1])
        if len(steps):
            motion.append(moved[steps])
            lagged.append(np.stack([features[steps + lag] for lag in LAGS]))
    count = sum(len(m) for m in motion)
    if count < MIN_STEPS:
        undecided.append(f"actions: {count} steps are too few to tell; {MIN_STEPS} are needed")
        return {}
    gains = _explained_gains(np.concatenate(motion), np.concatenate(lagged, 1))
    # Spurious gain of as many random features, times the correlation between neighbouring steps.
    floor = max(GAIN_FLOOR, 5.0 * lagged[0].shape[-1] / count)
    report = {lag: float(gains[i].max()) for i, lag in enumerate(LAGS)}
    now, later = gains[LAGS.index(0)], gains[LAGS.index(1)]
    telling = int(later.argmax())
    if later[telling] > max(floor, 0.5 * now[telling]):
        problems.append(
            f"Actions come one frame late: act[t + 1] explains {later[telling]:.0%} more of the "
            f"motion from frame t to t + 1 "
            f"than all actions up to act[t]. act[t] must lead from frame t to frame t + 1."
        )
    elif now.max() < floor < gains[: LAGS.index(0)].max():
        problems.append(
            f"Actions come one frame early: act[t] adds {max(now.max(), 0):.1%} to what earlier "
            f"actions explain of the motion from "
            f"frame t to t + 1. act[t] must lead from frame t to frame t + 1."
        )
    elif now.max() < floor:
        undecided.append("actions: no action changes the motion, so their order cannot be told")
    return report


def _explained_gains(motion: Array, lagged: Array) -> Array:
    """Return the share of each component's variance that each lag adds to the lags before it.

    By least squares; (lags, components).
    """
    spread = motion.std(0)
    # A component that does not move, such as height on a flat floor, explains nothing.
    motion = motion[:, spread > max(1e-4, 1e-3 * float(spread.max()))]
    if motion.shape[1] == 0:
        return np.zeros((len(lagged), 1))
    motion = (motion - motion.mean(0)) / motion.std(0)
    explained = [np.zeros(motion.shape[1])]
    for i in range(len(lagged)):
        inputs = np.concatenate([np.ones((len(motion), 1)), *lagged[: i + 1]], 1)
        coefficients = np.linalg.lstsq(inputs, motion, rcond=1e-6)[0]
        explained.append(1.0 - np.square(motion - inputs @ coefficients).mean(0))
    return np.diff(np.stack(explained), axis=0)


def _action_features(act: Array, categories: Array | None) -> Array:
    """Return features (n, k) float64: one-hot if discrete, else values and squares."""
    if categories is not None:
        return (act.reshape(len(act), -1)[:, :1] == categories).astype(np.float64)
    flat = act.reshape(len(act), -1).astype(np.float64)
    return np.concatenate([flat, flat**2], 1)


def _pose_motion(episode: Episode) -> Array:
    pose = torch.from_numpy(np.array(episode.pose))
    return relative_motion(pose[:-1], pose[1:]).numpy().astype(np.float64)


def _check_frames(
    episodes: list[Episode], problems: list[str], undecided: list[str]
) -> tuple[dict[int, float], dict[int, float]]:
    depth_errors: dict[int, list[float]] = {s: [] for s in FRAME_SHIFTS}
    rgb_errors: dict[int, list[float]] = {s: [] for s in FRAME_SHIFTS}
    for episode in episodes:
        for t in _telling_pairs(episode, -(-MAX_PAIRS // len(episodes))):
            for shift in FRAME_SHIFTS:
                depth_errors[shift].append(_depth_error(episode, t, shift))
                rgb_errors[shift].append(_rgb_error(episode, t, shift))
    depth = _mean_errors(depth_errors)
    rgb = _mean_errors(rgb_errors)
    if len(depth) == 0:
        undecided.append("frames and poses: too few neighbouring frames whose motion changes")
        return {}, {}
    best = min(depth, key=depth.__getitem__)
    if best != 0 and depth[best] < MARGIN * depth[0]:
        problems.append(
            f"Depth and pose are shifted: depths agree better with the poses {best:+d} frame later "
            f"(error {depth[best]:.4f}) than with their own ({depth[0]:.4f})."
        )
    best = min(rgb, key=rgb.__getitem__)
    if best != 0 and rgb[best] < MARGIN * rgb[0]:
        problems.append(
            f"Frames and geometry are shifted: colours agree better with depth and pose {best:+d} "
            f"frame later "
            f"(error {rgb[best]:.2f}) than with their own ({rgb[0]:.2f})."
        )
    return depth, rgb


def _mean_errors(errors: dict[int, list[float]]) -> dict[int, float]:
    """Return the mean per shift over pairs that all shifts can judge; empty if they are too few."""
    table = np.array([errors[s] for s in FRAME_SHIFTS])
    table = table[:, np.isfinite(table).all(0)]
    if table.shape[1] < MIN_PAIRS:
        return {}
    return {s: float(table[i].mean()) for i, s in enumerate(FRAME_SHIFTS)}


def _telling_pairs(episode: Episode, limit: int) -> list[int]:
    """Return the times t whose motion to t + 1 differs from the motion before or after.

    Where motions repeat, a shift has no effect.
    """
    motion = _pose_motion(episode)
    change = np.diff(motion, axis=0)
    differs = (np.linalg.norm(change[:, :3], axis=1) > MOVED_METRES) | (
        np.linalg.norm(change[:, 3:], axis=1) > TURNED_RADIANS
    )
    times = np.flatnonzero(differs[:-1] | differs[1:]) + 1
    spaced = np.linspace(0, len(times) - 1, min(limit, len(times))).round().astype(np.int64)
    return [int(times[i]) for i in np.unique(spaced)] if len(times) else []


def _camera(episode: Episode, t: int) -> Camera:
    assert episode.pose is not None and episode.intrinsics is not None
    pose = torch.from_numpy(np.array(episode.pose[t]))[None]
    return Camera(
        pose, torch.from_numpy(np.array(episode.intrinsics))[None], *episode.rgb.shape[1:3]
    )


def _depth(episode: Episode, t: int) -> torch.Tensor:
    assert episode.inverse_depth is not None
    return dequantise_depth(torch.from_numpy(episode.inverse_depth[t].astype(np.int32)))[None]


def _reproject(
    episode: Episode, depth_of: int, pose_of: int, pose_to: int
) -> tuple[Array, Array, Array]:
    """Project the pixels with finite depth into another frame.

    Returns their flat indices, where they fall in the other frame, and their depth there.
    """
    depth = _depth(episode, depth_of)
    points = unproject(depth, _camera(episode, pose_of)).reshape(1, -1, 3)
    u, v, z = (
        x[0].numpy()
        for x in project(
            points, torch.zeros(points.shape[:2], dtype=torch.bool), _camera(episode, pose_to)
        )
    )
    height, width = episode.rgb.shape[1:3]
    usable = (
        (z > 0.05)
        & (u >= 0)
        & (u < width)
        & (v >= 0)
        & (v < height)
        & torch.isfinite(depth).numpy().ravel()
    )
    pixels = np.flatnonzero(usable)
    return pixels, v[pixels].astype(np.int64) * width + u[pixels].astype(np.int64), z[pixels]


def _depth_error(episode: Episode, t: int, shift: int) -> float:
    """Return the error of the depth that frame t + 1 predicts for frame t.

    It is the mean |log ratio| to the recorded depth, NaN if no point of frame t + 1 falls into
    frame t.
    """
    _, target, z = _reproject(episode, t + 1, t + 1 + shift, t + shift)
    recorded = _depth(episode, t).numpy().ravel()[target]
    finite = np.isfinite(recorded)
    if finite.sum() < 0.1 * recorded.size or not finite.any():
        return float("nan")
    # Capped: what comes into view or is hidden says nothing of the order.
    return float(np.minimum(np.abs(np.log(z[finite] / recorded[finite])), 0.5).mean())


def _rgb_error(episode: Episode, t: int, shift: int) -> float:
    """Return the mean absolute colour difference between pixels of frame t + 1 and of frame t.

    In [0, 255]; pixels are paired by reprojection.
    """
    pixels, target, _ = _reproject(episode, t + 1 + shift, t + 1 + shift, t + shift)
    if len(pixels) == 0:
        return float("nan")
    here = episode.rgb[t + 1].reshape(-1, 3)[pixels].astype(np.int64)
    there = episode.rgb[t].reshape(-1, 3)[target].astype(np.int64)
    return float(np.abs(here - there).mean())
