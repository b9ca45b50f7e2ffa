"""Frame-by-frame scores on the test set: a world's dreams and baselines against the real frames.

Axes: ``e`` walks, ``h`` frames after the history. Everything stays on the device until the end of a
    chunk of walks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worldsim.camera import Camera, nearest_pose, snap_pose
from worldsim.evaluation.benchmark_set import RecordedWalks, TestSet
from worldsim.evaluation.memory_fitting import Fits, fit_memory
from worldsim.evaluation.metrics import psnr, scores
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.splat import frame_points, nearest, splat
from worldsim.protocols import SceneMemory
from worldsim.runtime.types import NamedArrays
from worldsim.state import SceneStart, WorldState
from worldsim.world import World

Tick = Callable[[], object]

FORK_MARGIN_DB = 39.0
"""Two actions are indistinguishable where their true frames agree better than this: then neither
counts in the accuracy."""

SCORES = ("next", "copy", "warp", "other", "given", "no_memory", "own", "nearest", "splat", "stand")
"""The fields of :class:`Measured` that are PSNR."""


@dataclass(frozen=True)
class Measured:
    """One tensor per quantity; None where the world or the data cannot provide it.

    PSNR in dB, (e, h, k) unless stated otherwise; the k scores are of the frames as they are and,
    if they are larger, reduced to 64x64 (:func:`worldsim.evaluation.metrics.scores`).

    next, copy, warp: the next frame from the true history, the last frame, the last frame warped.
    other: the next frame under another action.
    given, no_memory: free-running at the true poses, with and without memory.
    own: free-running at the world's own poses.
    nearest, splat, stand: history frame of the nearest pose, splatted history, last history frame.
    fork_right, fork_counts: (e, s, k) bool, whether a dream is closest to its own action's true
        frame, and whether it counts.
    own_pose: (e, h, 4, 4) camera-to-world.
    """

    next: Tensor
    copy: Tensor
    warp: Tensor | None
    other: Tensor
    given: Tensor | None
    no_memory: Tensor | None
    own: Tensor
    nearest: Tensor
    splat: Tensor
    stand: Tensor
    fork_right: Tensor
    fork_counts: Tensor
    own_pose: Tensor | None


@dataclass(frozen=True)
class Rollout:
    """Free-running frames.

    rgb: (e, h, 3, y, x) uint8.
    pose: (e, h, 4, 4), or None.
    view_rgb, view_mask: memory views for pictures, or None.
    """

    rgb: Tensor
    pose: Tensor | None = None
    view_rgb: Tensor | None = None
    view_mask: Tensor | None = None


def steps_of(world: World, history: int, horizon: int, forks: int, actions: int) -> int:
    """Return how often :func:`measure` calls its ``tick``."""
    without = (history - 1 + horizon) if needs_memory_run(world) else 0
    return (
        history
        - 1
        + forks * actions
        + horizon * (2 if world.has_geometry else 1)
        + without
        + 2 * horizon
    )


def needs_memory_run(world: World) -> bool:
    """Return whether the world differs without its memory."""
    return world.has_geometry and world.config.memory is not None


def start_walks(world: World, test: RecordedWalks) -> WorldState:
    """Return the state after the walks' first frames.

    The rest of the history follows by :meth:`World.observe`, batched.
    """
    scenes = []
    for e in range(len(test)):
        scenes.append(
            SceneStart(
                rgb=test.rgb[e, :1],
                act=torch.zeros_like(test.act[e, :1]),
                inverse_depth=test.inverse_depth[e, :1],
                pose=test.pose[e, :1],
                intrinsics=test.intrinsics[e],
            )
        )
    return world.initial(scenes, test.seed)


def take_in_history(
    world: World,
    test: TestSet,
    tick: Tick,
    at_fork: Callable[[int, WorldState], object] | None = None,
) -> WorldState:
    """Return the state after all true frames of the history.

    at_fork: called with the state at each fork frame.
    """
    forks = test.config.fork_frames
    state = start_walks(world, test)
    for t in range(test.config.history):
        if t > 0:
            state = world.observe(state, test.act[:, t - 1], test.frame(t))
            tick()
        if at_fork is not None and t in forks:
            at_fork(forks.index(t), state)
    return state


def free_run(
    world: World,
    state: WorldState,
    test: TestSet,
    poses_given: bool,
    tick: Tick,
    keep_views: bool = False,
    fits: Fits | None = None,
) -> Rollout:
    """Dream from the end of the history with the recorded actions."""
    rgb, pose, view_rgb, view_mask = [], [], [], []
    for t in range(test.config.history, test.config.frames):
        state = fit_memory(world, state, t - test.config.history, fits)
        state, transition = world.step(
            state, test.act[:, t - 1], pose=test.pose[:, t] if poses_given else None
        )
        rgb.append(transition.frame.rgb)
        if transition.frame.pose is not None:
            pose.append(transition.frame.pose)
        if keep_views and transition.view is not None:
            view_rgb.append(transition.view.rgb)
            view_mask.append(transition.view.mask)
        tick()
    return Rollout(
        torch.stack(rgb, 1),
        *(torch.stack(x, 1) if x else None for x in (pose, view_rgb, view_mask)),
    )


@torch.no_grad()
def measure(
    world: World, test: TestSet, tick: Tick = lambda: None, fits: Fits | None = None
) -> Measured:
    """Return all scores of one chunk of walks.

    fits: when the world's memory is fitted after the history, if it can be.
    """
    forks: dict[int, tuple[Tensor, Tensor]] = {}

    def at_fork(index: int, state: WorldState) -> None:
        forks[index] = _forks(world, state, test, index, tick)

    state = take_in_history(world, test, tick, at_fork)
    future = test.rgb[:, test.config.history :]
    own = free_run(world, state.clone(), test, False, tick, fits=fits)
    given = (
        free_run(world, state.clone(), test, True, tick, fits=fits) if world.has_geometry else None
    )
    no_memory = None
    if given is not None:
        no_memory = _without_memory(world, test, tick) if needs_memory_run(world) else given
    baselines = _seen_baselines(world, state, test)
    step_by_step: NamedArrays = _next_frames(world, state, test, tick)
    return Measured(
        **step_by_step,
        **baselines,
        stand=scores(test.rgb[:, test.config.history - 1, None], future),
        given=scores(given.rgb, future) if given is not None else None,
        no_memory=scores(no_memory.rgb, future) if no_memory is not None else None,
        own=scores(own.rgb, future),
        own_pose=own.pose,
        fork_right=torch.stack([forks[i][0] for i in sorted(forks)], 1),
        fork_counts=torch.stack([forks[i][1] for i in sorted(forks)], 1),
    )


def join(parts: list[Measured]) -> NamedArrays:
    """Join chunks as NumPy arrays by name (None where there is nothing)."""
    joined: NamedArrays = {}
    for field in dataclasses.fields(Measured):
        values = [getattr(p, field.name) for p in parts]
        joined[field.name] = (
            None if values[0] is None else torch.cat([v.cpu() for v in values]).numpy()
        )
    return joined


def at_size(measured: NamedArrays, k: int) -> NamedArrays:
    """Return :func:`join`'s arrays with the scores (e, h) of the ``k``-th size alone."""
    return {
        name: values[..., k] if name in SCORES and values is not None else values
        for name, values in measured.items()
    }


def warp(rgb: Tensor, inverse_depth: Tensor, camera: Camera, target: Camera) -> Tensor:
    """Warp a frame to another camera by splatting one pixel per point.

    Holes are filled from the frame itself. Returns (b, 3, h, w) uint8.
    """
    b, _, h, w = rgb.shape
    mask, slot, _ = nearest(splat(*frame_points(inverse_depth, camera), target), h * w)
    shown = rgb.flatten(2).gather(2, slot[:, None].expand(b, 3, h * w))
    return torch.where(mask[:, None], shown, rgb.flatten(2)).view(b, 3, h, w)


def _next_frames(
    world: World, state: WorldState, test: TestSet, tick: Tick
) -> dict[str, Tensor | None]:
    """Predict each future frame from its true history.

    Returns the world's frames, under the action taken and under another, and the baselines.
    """
    n = test.config.history
    found: dict[str, list[Tensor]] = {"next": [], "other": [], "copy": [], "warp": []}
    for t in range(n, test.config.frames):
        act, last, truth = test.act[:, t - 1], test.frame(t - 1), test.rgb[:, t]
        _, transition = world.step(state.clone(), act)
        _, other = world.step(state.clone(), test.other_act[:, t - n])
        found["next"].append(scores(transition.frame.rgb, truth))
        found["other"].append(scores(other.frame.rgb, truth))
        found["copy"].append(scores(last.rgb, truth))
        if transition.frame.pose is not None:
            assert last.pose is not None and last.inverse_depth is not None
            target = test.camera(transition.frame.pose)
            # Seen from where the world believes it is: its newest pose is the true one, snapped.
            picture = warp(last.rgb, last.inverse_depth, test.camera(snap_pose(last.pose)), target)
            found["warp"].append(scores(picture, truth))
        state = world.observe(state, act, test.frame(t))
        tick()
        tick()
    return {name: torch.stack(values, 1) if values else None for name, values in found.items()}


def _without_memory(world: World, test: TestSet, tick: Tick) -> Rollout:
    bare = world.without_memory()
    return free_run(bare, take_in_history(bare, test, tick), test, True, tick)


def _seen_baselines(world: World, state: WorldState, test: TestSet) -> dict[str, Tensor]:
    """Return two baselines from the history.

    They are the frame of the nearest pose, and the memory splatted at the true pose, with holes
    filled from that frame.
    """
    n, walks = test.config.history, torch.arange(len(test), device=test.rgb.device)
    index = torch.stack(
        [nearest_pose(test.pose[e, n:], test.pose[e, :n]) for e in range(len(test))]
    )
    memory, data = _history_memory(world, state, test)
    found: dict[str, list[Tensor]] = {"nearest": [], "splat": []}
    for t in range(n, test.config.frames):
        near = test.rgb[walks, index[:, t - n]]
        view = memory.render(data, test.camera(snap_pose(test.pose[:, t])))
        found["nearest"].append(scores(near, test.rgb[:, t]))
        found["splat"].append(
            scores(torch.where(view.mask[:, None], view.rgb, near), test.rgb[:, t])
        )
    return {name: torch.stack(values, 1) for name, values in found.items()}


def _history_memory(world: World, state: WorldState, test: TestSet) -> tuple[SceneMemory, Any]:
    """Return the world's memory of the true history.

    For a world without memory, a default point memory.
    """
    if needs_memory_run(world):
        return world.memory, state.memory
    memory = PointMemory(PointMemoryConfig())
    data = memory.empty(len(test), test.rgb.device)
    for t in range(test.config.history):
        frame = test.frame(t)
        assert frame.pose is not None
        pose = snap_pose(frame.pose)
        step = torch.full((len(test),), t, dtype=torch.int64, device=test.rgb.device)
        data = memory.integrate(
            data, dataclasses.replace(frame, pose=pose), test.camera(pose), step
        )
    return memory, data


def _forks(
    world: World, state: WorldState, test: TestSet, index: int, tick: Tick
) -> tuple[Tensor, Tensor]:
    """Dream every action from a fork frame.

    Returns (e, k) bool: closest to its own true frame; distinguishable at all.
    """
    acts, truths = test.fork_act[:, index], test.fork_rgb[:, index]
    count = acts.shape[1]
    right, counts = [], []
    for k in range(count):
        _, transition = world.step(state.clone(), acts[:, k])
        tick()
        right.append(psnr(transition.frame.rgb[:, None], truths).argmax(1) == k)
        alike = psnr(truths[:, k, None], truths) > FORK_MARGIN_DB
        counts.append(alike.sum(1) == 1)
    return torch.stack(right, 1), torch.stack(counts, 1)
