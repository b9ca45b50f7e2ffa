"""Return trips: what a world shows when the agent comes back along its way.

*True return*: the dream receives the true frames of the way out and generates the way back at the
true poses. *Dream return*: both ways are generated, the way back at the dream's own poses of the
way out, reversed. A memory that is fitted is fitted where the way back begins, and again along it.
Axes: ``e`` trips, ``n`` steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.evaluation.figures import REDUCED, Figures
from worldsim.evaluation.measure import start_walks
from worldsim.evaluation.memory_fitting import Fits, fit_memory
from worldsim.evaluation.metrics import scores, sharpness
from worldsim.evaluation.statistics import report
from worldsim.evaluation.trip_recording import Trips
from worldsim.memory.retrieval import RetrievalMemory, RetrievalMemoryConfig
from worldsim.runtime.types import Array, JsonMapping, JsonObject
from worldsim.state import WorldState, concatenate
from worldsim.world import World

Tick = Callable[[], object]

NOVELTY_STEPS = 12
NOVELTY_CODES = 16
"""A pixel is new after so many steps if a colour of it changed by more than so many codes of
255."""
MEMORIES = ("", "_no_memory", "_retrieval")
"""The world as it is, its memory switched off, its memory restricted to the past frame of the
nearest pose."""


@dataclass(frozen=True)
class Returned:
    """Scores of return trips by length n and kind of memory, CPU tensors (e, n, k).

    Index i is step i + 1 of the way back. The k scores are those of
    :func:`worldsim.evaluation.metrics.scores`.

    real: PSNR of the true way back against the real twin.
    dream: PSNR of the dreamed way back against the dream's own way out; without the last step,
        which leads to a given frame.
    sharpness: (e, 2 n) of the dream's frames, out and back, and of the real ones.
    novelty: (e, n - 12) share of pixels that changed, dream and real; by length only.
    """

    real: dict[tuple[int, str], Tensor]
    dream: dict[tuple[int, str], Tensor]
    sharpness: dict[int, tuple[Tensor, Tensor]]
    novelty: dict[int, tuple[Tensor, Tensor]]


def memories_of(world: World) -> tuple[str, ...]:
    """Return the kinds of memory that a world is measured with, of :data:`MEMORIES`."""
    return MEMORIES[:1] if world.config.memory is None else MEMORIES


def with_kind(world: World, kind: str, frames: int) -> World:
    """Return the world with a kind of memory of :data:`MEMORIES`.

    frames: number of past frames to choose the nearest one from.
    """
    if kind == "_no_memory":
        return world.without_memory()
    if kind == "_retrieval":
        spec = world.spec
        retrieval = RetrievalMemoryConfig(spec.height, spec.width, frames)
        return world.with_memory(RetrievalMemory(retrieval))
    return world


def worlds_of(world: World, trips: Trips) -> dict[str, World]:
    """Return the world with each kind of memory; the world alone if it has none."""
    longest = trips.config.lengths[-1]
    frames = trips.config.turn(longest) + longest + 1
    return {kind: with_kind(world, kind, frames) for kind in memories_of(world)}


def steps_of(world: World, trips: Trips) -> int:
    """Return how often :func:`measure_returns` calls its ``tick``."""
    kinds = len(worlds_of(world, trips))
    config = trips.config
    longest = config.lengths[-1]
    both = min(kinds, 2)
    return kinds * (config.turn(longest) + sum(config.lengths)) + both * (
        config.start - 1 + longest + sum(config.lengths)
    )


@torch.no_grad()
def measure_returns(
    world: World, trips: Trips, tick: Tick = lambda: None, fits: Fits | None = None
) -> Returned:
    """Return the scores of all trips of one chunk.

    fits: when the world's memory is fitted on the ways back, if it can be.
    """
    real: dict[tuple[int, str], Tensor] = {}
    dream: dict[tuple[int, str], Tensor] = {}
    sharp: dict[int, tuple[Tensor, Tensor]] = {}
    novel: dict[int, tuple[Tensor, Tensor]] = {}
    for kind, one in worlds_of(world, trips).items():
        for length, state in _shown_the_way_out(one, trips, tick).items():
            back = _follow(one, state, trips.back_act[length], trips.back_pose[length], tick, fits)
            real[length, kind] = scores(back, trips.back_rgb[length]).cpu()
        if kind == "_retrieval":
            continue
        out, poses, states = _dreamed_way_out(one, trips, tick)
        for length, state in states.items():
            # Back to the pose of each step before the turn, the last being that of the last given
            # frame.
            reversed_poses = poses[:, :length].flip(1)
            back = _follow(one, state, trips.back_act[length], reversed_poses, tick, fits)
            dream[length, kind] = scores(back[:, :-1], out[:, : length - 1].flip(1)).cpu()
            if not kind:
                truth = trips.rgb[:, trips.config.start : trips.config.turn(length) + 1]
                both, real_both = (
                    torch.cat([out[:, :length], back], 1),
                    torch.cat([truth, trips.back_rgb[length]], 1),
                )
                sharp[length] = (sharpness(both).cpu(), sharpness(real_both).cpu())
                novel[length] = (changed_share(out[:, :length]).cpu(), changed_share(truth).cpu())
    return Returned(real, dream, sharp, novel)


def changed_share(rgb: Tensor) -> Tensor:
    """Return the share of pixels that changed over 12 frames.

    rgb: (e, n, 3, h, w) uint8.

    Returns (e, max(n - 12, 0)) float32.
    """
    after, before = (
        rgb[:, NOVELTY_STEPS:].int(),
        rgb[:, : max(rgb.shape[1] - NOVELTY_STEPS, 0)].int(),
    )
    return ((after - before).abs().amax(2) > NOVELTY_CODES).float().mean((-2, -1))


def _shown_the_way_out(world: World, trips: Trips, tick: Tick) -> dict[int, WorldState]:
    """Return, by length, the state at the turning point after true frames alone."""
    turns = {trips.config.turn(length): length for length in trips.config.lengths}
    state = start_walks(world, trips)
    states = {}
    for t in range(1, max(turns) + 1):
        state = world.observe(state, trips.act[:, t - 1], trips.frame(t))
        tick()
        if t in turns:
            states[turns[t]] = state.clone()
    return states


def _dreamed_way_out(
    world: World, trips: Trips, tick: Tick
) -> tuple[Tensor, Tensor, dict[int, WorldState]]:
    """Dream the ways out.

    Returns generated frames (e, n, 3, h, w) uint8; the poses (e, n + 1, 4, 4) of the last given
    frame and of these; states by length.
    """
    begin, lengths = trips.config.start, trips.config.lengths
    state = start_walks(world, trips)
    for t in range(1, begin):
        state = world.observe(state, trips.act[:, t - 1], trips.frame(t))
        tick()
    assert state.frame.pose is not None
    rgb, poses, states = [], [state.frame.pose], {}
    for i in range(lengths[-1]):
        state, transition = world.step(state, trips.act[:, begin - 1 + i])
        tick()
        assert transition.frame.pose is not None
        rgb.append(transition.frame.rgb.clone())
        poses.append(transition.frame.pose.clone())
        if i + 1 in lengths:
            states[i + 1] = state.clone()
    return torch.stack(rgb, 1), torch.stack(poses, 1), states


def _follow(
    world: World, state: WorldState, acts: Tensor, poses: Tensor, tick: Tick, fits: Fits | None
) -> Tensor:
    """Generate frames (e, n, 3, h, w) for given actions at given poses."""
    rgb = []
    for i in range(acts.shape[1]):
        state = fit_memory(world, state, i, fits)
        state, transition = world.step(state, acts[:, i], pose=poses[:, i])
        tick()
        rgb.append(transition.frame.rgb.clone())
    return torch.stack(rgb, 1)


def join(parts: list[Returned]) -> Returned:
    """Join chunks over trips."""
    return concatenate(parts)


def compute(returned: Returned, window: int, draws: int, seed: int) -> JsonObject:
    """Return the results and their intervals over trips.

    window: number of frames that attention spans; frames that are still in it are left out.
    """
    first = next(iter(returned.real.values()))
    figures = Figures(len(first), draws, seed)
    _picture_figures(figures, returned, window, 0)
    for group, name in (("sharpness_ratio", "sharpness"), ("novelty", "novelty")):
        for length, (dream, real) in getattr(returned, name).items():
            figures.ratio(f"{group}.{length}", dream.double().numpy(), real.double().numpy())
    results = {**figures.values, "ci95": figures.ci95}
    if first.shape[-1] > 1:
        reduced = Figures(len(first), draws, seed)
        _picture_figures(reduced, returned, window, 1)
        results[REDUCED] = {**reduced.values, "ci95": reduced.ci95}
    return results


def _picture_figures(figures: Figures, returned: Returned, window: int, k: int) -> None:
    """Add all PSNRs of the ``k``-th size."""

    def mean(key: str, values: Array) -> None:
        figures.mean(
            key, values, np.broadcast_to(np.arange(1, values.shape[1] + 1) >= window, values.shape)
        )

    for group, name in (("return_real_psnr", "real"), ("return_psnr", "dream")):
        for (length, kind), values in getattr(returned, name).items():
            mean(f"{group}{kind}.{length}", values[..., k].numpy())
    for kind in ("_no_memory", "_retrieval"):
        for length in sorted(length for length, other in returned.real if other == kind):
            gain = returned.real[length, ""][..., k] - returned.real[length, kind][..., k]
            mean(f"return_real_gain_over{kind}.{length}", gain.numpy())


ROWS = (
    ("true return, dB", "return_real_psnr"),
    ("  memory off", "return_real_psnr_no_memory"),
    ("  nearest past frame", "return_real_psnr_retrieval"),
    ("  above memory off", "return_real_gain_over_no_memory"),
    ("  above nearest frame", "return_real_gain_over_retrieval"),
    ("dream return, dB", "return_psnr"),
    ("  memory off", "return_psnr_no_memory"),
    ("  sharpness, dream/real", "sharpness_ratio"),
    ("  novelty, dream/real", "novelty"),
)
"""Name and key."""


def table(results: JsonMapping) -> str:
    """Return the results as a table."""
    lengths = list(results["return_real_psnr"])
    lines = [f"{'steps out and back':<27}" + "".join(f"{n:>22}" for n in lengths)]
    for name, key in ROWS:
        if key in results:
            lines.append(f"{name:<27}" + "".join(f"{_cell(results, key, n):>22}" for n in lengths))
    for name, key in ROWS[:2] + ROWS[5:7] if REDUCED in results else ():
        lines.append(
            f"{name.replace('dB', '64x64'):<27}"
            + "".join(f"{_cell(results[REDUCED], key, n):>22}" for n in lengths)
        )
    lines.append(
        f"{results['episodes']} trips; {results['sampling_steps']} sampling steps; "
        f"{results['seconds']:.0f} s"
    )
    return report(lines, results["episodes"])


def _cell(results: JsonMapping, key: str, length: str) -> str:
    value, interval = results[key].get(length), results["ci95"].get(f"{key}.{length}")
    if value is None:
        return "-"
    return f"{value:.2f}" + (
        f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval is not None else ""
    )
