"""The protocol ``task``: a world without geometry against its real twin, on new episodes.

The real twin plays ``persistent-v1`` with fixed seeds. The world predicts each next frame, reward
and termination from the true past; then it dreams as many episodes of the same policy from the same
first frames, and the returns are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch
from torch import Tensor

from worldsim.evaluation.episodes import (
    Played,
    Task,
    dream_together,
    limit_of,
    play_real,
    watched_twin,
)
from worldsim.evaluation.metrics import changed_psnr, psnr
from worldsim.evaluation.policy_batch import Crowd, PolicySpec
from worldsim.evaluation.statistics import interval, interval_text, mean_statistic, report
from worldsim.evaluation.task_outcomes import (
    calibration,
    count_events,
    errors_of_constant,
    f1_score,
)
from worldsim.runtime.cluster import pool_of
from worldsim.runtime.types import Array, Env, JsonMapping, JsonObject
from worldsim.runtime.workers import Engine
from worldsim.state import Frame, SceneStart, WorldState
from worldsim.training.buffer import is_synthetic_terminal
from worldsim.world import World
from worldsim.world.spread import portable
from worldsim.world.world import bucket

PROTOCOL = "task/1"
POLICY = "persistent-v1"
STEPS = 500
"""Longest episode where the twin has no time limit."""
SEED_SPACE = 0x7A51
"""Keeps these seeds apart from those of recordings, which begin with the recording's own."""
HORIZONS = (1, 8, 32)


@dataclass(frozen=True)
class Truth:
    """One true episode of t steps.

    rgb: (t + 1, 3, h, w) uint8.
    act: (t, ...).
    rew: (t,).
    ended: whether it terminated, rather than being truncated.
    pictured: whether the last frame is rendered by the environment, rather than synthetic.
    """

    rgb: Tensor
    act: Tensor
    rew: Array
    ended: bool
    pictured: bool

    def __len__(self) -> int:
        return len(self.rew)

    @staticmethod
    def of(played: Played) -> Truth:
        """Return the truth of an episode that was played with its frames kept."""
        over = played.terminated or played.truncated
        assert played.frames is not None and played.acts is not None
        return Truth(
            rgb=torch.from_numpy(played.frames).permute(0, 3, 1, 2).contiguous(),
            act=torch.from_numpy(played.acts),
            rew=np.array(played.rewards),
            ended=played.terminated and not played.truncated,
            pictured=not (over and is_synthetic_terminal(played.frames[-2], played.frames[-1])),
        )


@dataclass(frozen=True)
class Forced:
    """The world's predictions for each step of an episode, given the true past: (t,) each.

    psnr, copied: of the prediction, and of the last true frame again, against the true frame.
    changed, changed_copied: the same over the pixels that the step changed; NaN without any.
    """

    psnr: Array
    copied: Array
    changed: Array
    changed_copied: Array
    rew: Array
    termination_prob: Array


@dataclass(frozen=True)
class Dreamed:
    """One dream from the first frame of an episode.

    It has the return, the number of steps, and by horizon: PSNR against the true frames, that of
    the first frame again, and both over the pixels that differ from the first frame (NaN without
    any).
    """

    total: float
    steps: int
    psnr_at: dict[int, float]
    first_at: dict[int, float]
    changed_at: dict[int, float]
    changed_first_at: dict[int, float]


def play(
    world: World,
    count: int,
    seed: int,
    told: Callable[[int], object],
    cluster: str | None = None,
) -> tuple[list[Truth], int]:
    """Play the real episodes; returns them and the steps after which they are truncated.

    told: called with 1 after each.
    cluster: address of a Ray cluster that plays them; None plays here.
    """
    episodes: dict[int, Truth] = {}
    tasks = [Task(PolicySpec(POLICY), *_seeds(seed, i)) for i in range(count)]
    played = world if cluster is None else portable(world)
    with pool_of(cluster, 0, partial(watched_twin, played)) as pool:
        ((_, limit),) = pool.run(limit_of, [(None, STEPS)])
        for index, truth in pool.run(_play_one, [(task, limit) for task in tasks]):
            episodes[index] = truth
            told(1)
    return [episodes[i] for i in range(count)], limit


def _play_one(engine: Engine[Env], task: Task, limit: int) -> Truth:
    return engine.play(lambda env: Truth.of(play_real(env, task, limit, keep=True)))


def _seeds(seed: int, number: int) -> tuple[int, int]:
    """Return the environment's and the policy's seed of an episode."""
    env, policy = np.random.SeedSequence([SEED_SPACE, seed, number]).generate_state(2)
    return int(env) >> 1, int(policy) >> 1


def measure(
    world: World,
    episodes: Sequence[Truth],
    seed: int,
    first: int,
    limit: int,
    tick: Callable[[int], object],
) -> tuple[list[Forced], list[Dreamed]]:
    """Predict the episodes step by step, and dream as many: :func:`force` and :func:`dream`."""
    return force(world, episodes, tick), dream(world, episodes, seed, first, limit, tick)


def force(world: World, episodes: Sequence[Truth], told: Callable[[int], object]) -> list[Forced]:
    """Predict each next step of each episode from its true past.

    told: called with 1 after each step.
    """
    state = _start(world, episodes, range(len(episodes)))
    longest = max(map(len, episodes))
    found: dict[str, list[Tensor]] = {field.name: [] for field in fields(Forced)}
    for t in range(longest):
        act, before, after = _at(episodes, t, world)
        _, transition = world.step(world.own(state), act)
        rgb, prob = transition.frame.rgb, transition.termination_prob
        step = {
            "psnr": psnr(rgb, after),
            "copied": psnr(before, after),
            "changed": changed_psnr(rgb, after, before),
            "changed_copied": changed_psnr(before, after, before),
            "rew": transition.rew,
            "termination_prob": transition.term.float() if prob is None else prob,
        }
        for name, values in step.items():
            found[name].append(values[: len(episodes)].cpu())
        state = world.observe(state, act, Frame(after))
        told(1)
    stacked = {name: torch.stack(values).numpy() for name, values in found.items()}
    return [
        Forced(**{name: values[: len(e), i] for name, values in stacked.items()})
        for i, e in enumerate(episodes)
    ]


def dream(
    world: World,
    episodes: Sequence[Truth],
    seed: int,
    first: int,
    limit: int,
    told: Callable[[int], object],
) -> list[Dreamed]:
    """Dream as many episodes of the same policy from the same first frames.

    The policy does not use the frames, so its actions are the true ones, continued after them.

    first: number of the first episode.
    """
    numbers = range(first, first + len(episodes))
    crowd = Crowd(
        PolicySpec(POLICY),
        world.action_space,
        [_seeds(seed, number)[1] for number in numbers],
        world.device,
    )
    shown: list[tuple[dict[int, float], ...]] = [({}, {}, {}, {}) for _ in episodes]

    def look(t: int, rgb: Tensor, rew: Tensor) -> None:
        if t in HORIZONS:
            for at, frame, episode in zip(shown, rgb.cpu(), episodes, strict=True):
                if t < len(episode) + episode.pictured:
                    first, truth = episode.rgb[0], episode.rgb[t]
                    found = (
                        psnr(frame, truth),
                        psnr(first, truth),
                        changed_psnr(frame, truth, first),
                        changed_psnr(first, truth, first),
                    )
                    for values, value in zip(at, found, strict=True):
                        values[t] = float(value)
        told(1)

    dreamed = dream_together(world, crowd, _starts(episodes), list(numbers), limit, look)
    return [Dreamed(one.total, one.steps, *at) for one, at in zip(dreamed, shown, strict=True)]


def compute(
    episodes: Sequence[Truth],
    forced: Sequence[Forced],
    dreams: Sequence[Dreamed],
    draws: int,
    seed: int,
) -> JsonObject:
    """Return the results; means have a 95% interval over episodes."""
    pictures = [
        (f, len(e) if e.pictured else len(e) - 1) for f, e in zip(forced, episodes, strict=True)
    ]
    errors = [np.abs(f.rew - e.rew) for f, e in zip(forced, episodes, strict=True)]
    each: dict[str, list[Array]] = {
        "next_frame_psnr": [f.psnr[:n] for f, n in pictures],
        "copy_last_psnr": [f.copied[:n] for f, n in pictures],
        "changed_psnr": [_known(f.changed[:n]) for f, n in pictures],
        "changed_copy_psnr": [_known(f.changed_copied[:n]) for f, n in pictures],
        "changed_gain": [_known((f.changed - f.changed_copied)[:n]) for f, n in pictures],
        "reward_error": errors,
        "reward_error_continuing": [
            _continuing(x, e) for x, e in zip(errors, episodes, strict=True)
        ],
        "reward_error_of_constant": errors_of_constant(
            [_continuing(e.rew, e) for e in episodes],
            [_continuing(e.act.numpy(), e) for e in episodes],
            discrete=episodes[0].act.ndim == 1,
        ),
        "ending_log_loss": [
            _log_loss(f.termination_prob, e) for f, e in zip(forced, episodes, strict=True)
        ],
        "dream_ending_share": [f.termination_prob for f in forced],
        "real_return_mean": [np.array([e.rew.sum()]) for e in episodes],
        "dream_return_mean": [np.array([d.total]) for d in dreams],
        "real_steps_mean": [np.array([float(len(e))]) for e in episodes],
        "dream_steps_mean": [np.array([float(d.steps)]) for d in dreams],
    }
    results: JsonObject = {name: _mean(np.concatenate(values)) for name, values in each.items()}
    results["ci95"] = {
        name: interval(mean_statistic(values), len(episodes), draws, seed)
        for name, values in each.items()
    }
    events = count_events([e.rew for e in episodes], [f.rew for f in forced])
    results["reward_f1"] = None if events is None else float(f1_score(events.sum(0)))
    results["reward_events"] = 0 if events is None else int(events[:, 2].sum())
    results["ci95"]["reward_f1"] = (
        None
        if events is None
        else interval(lambda counts: f1_score(counts @ events), len(episodes), draws, seed)
    )
    total = sum(map(len, episodes))
    share = sum(e.ended for e in episodes) / total
    results["real_ending_share"] = share
    # What one would say who knew this share and nothing else.
    results["ending_log_loss_of_share"] = float(
        -sum(p * np.log(p) for p in (share, 1.0 - share) if p > 0)
    )
    results["ending_calibration"], results["ending_calibration_error"] = calibration(
        np.concatenate([f.termination_prob for f in forced]),
        np.concatenate([_ends(e) for e in episodes]),
    )
    results["psnr_at"] = _by_horizon([d.psnr_at for d in dreams])
    results["first_frame_psnr_at"] = _by_horizon([d.first_at for d in dreams])
    results["changed_psnr_at"] = _by_horizon([d.changed_at for d in dreams])
    results["changed_first_frame_psnr_at"] = _by_horizon([d.changed_first_at for d in dreams])
    return results


def _by_horizon(dreams: Sequence[dict[int, float]]) -> JsonObject:
    """Return the means over dreams by horizon, without horizons that none has a value at."""
    shown = {h: _known(np.array([d[h] for d in dreams if h in d])) for h in HORIZONS}
    return {str(h): float(values.mean()) for h, values in shown.items() if len(values)}


def _known(values: Array) -> Array:
    return values[~np.isnan(values)]


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _continuing(values: Array, episode: Truth) -> Array:
    """Return the values of an episode's steps that do not terminate it."""
    return values[: len(values) - episode.ended]


def _ends(episode: Truth) -> Array:
    """Return which steps of an episode terminate it, (t,) bool."""
    ends = np.zeros(len(episode), bool)
    ends[-1] = episode.ended
    return ends


def _log_loss(termination_prob: Array, episode: Truth) -> Array:
    right = np.where(_ends(episode), termination_prob, 1.0 - termination_prob)
    return -np.log(np.clip(right, 1e-6, 1.0))


def _start(world: World, episodes: Sequence[Truth], seeds: Sequence[int]) -> WorldState:
    return world.pad(world.initial(_starts(episodes), list(seeds)), bucket(len(episodes)))


def _starts(episodes: Sequence[Truth]) -> list[SceneStart]:
    return [SceneStart(rgb=e.rgb[:1], act=torch.zeros_like(e.act[:1])) for e in episodes]


def _at(episodes: Sequence[Truth], t: int, world: World) -> tuple[Tensor, Tensor, Tensor]:
    """Return the action of step t and the frames before and after it, padded to the batch's bucket.

    Episodes that are over repeat their last ones.
    """
    rows = [min(t, len(e) - 1) for e in episodes]
    parts = [(e.act[i], e.rgb[i], e.rgb[i + 1]) for e, i in zip(episodes, rows, strict=True)]
    parts += parts[:1] * (bucket(len(episodes)) - len(episodes))
    act, before, after = (torch.stack(part).to(world.device) for part in zip(*parts, strict=True))
    return act, before, after


def table(results: JsonMapping) -> str:
    """Return the results as a table."""

    def row(name: str, key: str, digits: int = 2) -> str:
        found, value = results["ci95"].get(key), results[key]
        shown = "" if found is None else f" {interval_text(found, digits)}"
        return f"{name:<34}{'none' if value is None else f'{value:.{digits}f}'}{shown}"

    def at(name: str, key: str) -> str:
        values = ", ".join(f"{v:.2f} at {k}" for k, v in results[key].items())
        return f"{name:<34}{values or 'none'}"

    lines = [
        row("next frame, PSNR dB", "next_frame_psnr"),
        row("  the last frame again", "copy_last_psnr"),
        row("  on pixels that change", "changed_psnr"),
        row("    the last frame again", "changed_copy_psnr"),
        row("reward, absolute error", "reward_error", 3),
        row("  on steps that continue", "reward_error_continuing", 3),
        row("    the best constant", "reward_error_of_constant", 3),
        row("  unusual ones within 2, F1", "reward_f1"),
        row("share of steps that end, dream", "dream_ending_share", 4),
        row("  real twin", "real_ending_share", 4),
        row("log loss of ends, nats a step", "ending_log_loss", 4),
        row("  of the real share", "ending_log_loss_of_share", 4),
        row("  calibration error", "ending_calibration_error", 4),
        row("return, dream", "dream_return_mean"),
        row("  real twin", "real_return_mean"),
        row("steps an episode, dream", "dream_steps_mean", 1),
        row("  real twin", "real_steps_mean", 1),
        at("free-running, PSNR dB", "psnr_at"),
        at("  the first frame again", "first_frame_psnr_at"),
        at("  on pixels that changed", "changed_psnr_at"),
        at("    the first frame again", "changed_first_frame_psnr_at"),
        f"{results['episodes']} episodes of {POLICY}; {results['sampling_steps']} sampling steps; "
        f"{results['seconds']:.0f} s",
    ]
    return report(lines, results["episodes"])
