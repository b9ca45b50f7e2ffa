"""A teacher at several sampling steps and its students, on the same walks with the same noise:
``python distil.py --help``.

Walks and measures are those of ``worldsim evaluate``; differences are paired, their intervals a
bootstrap over walks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from worldsim.errors import InvalidInputError
from worldsim.evaluation import measure
from worldsim.evaluation import return_trips as returns
from worldsim.evaluation.benchmark_set import TestSet, digest, record_test_set
from worldsim.evaluation.evaluate import EvaluateConfig, frozen_test_set, steps_per_second
from worldsim.evaluation.figures import SEEN_FRAME_SHARE
from worldsim.evaluation.metrics import moved_frames, psnr, sharpness
from worldsim.evaluation.statistics import bootstrap_ci, mean_statistic, pooled_mean
from worldsim.evaluation.trip_recording import TripConfig, stack_trips
from worldsim.runtime.json_config import write_json
from worldsim.world import World

Array = NDArray[Any]


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    teacher: str = "freedoom-tiny"
    """Name or folder of the teacher."""
    students: tuple[str, ...] = ()
    """Names or folders of the students; each is measured at its own number of steps."""
    teacher_steps: tuple[int, ...] = (1, 2, 3, 4, 8)
    """Sampling steps at which the teacher is measured."""
    temperatures: tuple[float, ...] = ()
    """Temperatures at which the teacher is measured in one step, too, as if each were a student."""
    episodes: int = 32
    """Walks; from 32 on, more are added until 300 frames show seen places. Fewer are a look, not a
    result."""
    trips: int = 0
    """Return trips to measure, too (8 for a result)."""
    lengths: tuple[int, ...] = (32, 125, 250)
    """Steps out, and as many back, of return trips."""
    seed: int = 0
    """Of test set and dreams."""
    cache: Path | None = None
    """Folder in which recorded walks are kept, as ``worldsim evaluate --cache``."""
    batch: int = 32
    """Walks that are dreamed at once."""
    device: str | None = None
    """CUDA where there is one, if not given."""
    draws: int = 2000
    """Resamples behind each interval."""
    out: Path = Path("out/distil")
    """Folder for distil.json and distil.png (per walk: the real twin, then each world at each
    number of steps)."""


@dataclass(frozen=True)
class Measured:
    """Of one world at one number of steps. next, seen: PSNR (e, h). sharp, sharp_next: sharpness
    (e, h) of the frames dreamed at the true poses and of the next frames. dream: (e, h, 3, y, x) of
    the former."""

    next: Tensor
    seen: Tensor
    sharp: Tensor
    sharp_next: Tensor
    dream: Tensor


@torch.no_grad()
def measured(world: World, test: TestSet, worlds: Sequence[World], bar: Any) -> list[Measured]:
    """The world as each of ``worlds`` samples it; the history is taken in once, as it does not
    depend on that."""
    n, config = test.config.history, test.config
    state = measure.take_in_history(world, test, bar.update)
    truth = test.rgb[:, n:]
    dreams = [measure.free_run(one, state.clone(), test, True, bar.update).rgb for one in worlds]
    frames: list[list[Tensor]] = [[] for _ in worlds]
    for t in range(n, config.frames):
        for i, one in enumerate(worlds):
            frames[i].append(one.step(state.clone(), test.act[:, t - 1])[1].frame.rgb)
            bar.update()
        state = world.observe(state, test.act[:, t - 1], test.frame(t))
    return [
        Measured(
            *(
                x.cpu()
                for x in (
                    psnr(step, truth),
                    psnr(dream, truth),
                    sharpness(dream),
                    sharpness(step),
                    dream,
                )
            )
        )
        for step, dream in zip((torch.stack(f, 1) for f in frames), dreams, strict=True)
    ]


def on_all_walks(
    world: World, test: TestSet, worlds: Sequence[World], config: Config
) -> list[Measured]:
    """:func:`measured`, in chunks of walks, joined."""
    chunks = range(0, len(test), config.batch)
    per_chunk = test.config.history - 1 + 2 * test.config.horizon * len(worlds)
    with tqdm(total=len(chunks) * per_chunk, desc="dreaming", unit="step") as bar:
        parts = [
            measured(world, test.part(i, i + config.batch, world.device), worlds, bar)
            for i in chunks
        ]
    names = [f.name for f in dataclasses.fields(Measured)]
    joined = zip(*parts, strict=True)
    return [
        Measured(**{name: torch.cat([getattr(p, name) for p in column]) for name in names})
        for column in joined
    ]


def chosen_frames(test: TestSet, window: int) -> dict[str, Array]:
    """Which frames (e, h) count, as in the protocol: those in motion; of these, seen places that no
    true frame is attended for."""
    n = test.config.history
    moved = moved_frames(test.pose)[:, n - 1 :]
    late = torch.arange(1, test.config.horizon + 1) >= window
    return {
        "next": moved.numpy(),
        "seen": (moved & late & (test.covered > SEEN_FRAME_SHARE)).numpy(),
    }


def kept(values: Tensor, chosen: Array) -> list[Array]:
    """One array a walk."""
    return [v[c] for v, c in zip(values.numpy(), chosen, strict=True)]


def behind_the_best(
    teachers: list[list[Array]], student: list[Array], config: Config
) -> dict[str, Any]:
    """How far a student is below the best of its teachers (chosen anew in each resample, so on the
    safe side), dB."""
    best, own = [mean_statistic(t) for t in teachers], mean_statistic(student)
    low, high = bootstrap_ci(
        lambda n: np.max([t(n) for t in best], 0) - own(n), len(student), config.draws, config.seed
    )
    return {
        "behind": max(pooled_mean(t) for t in teachers) - pooled_mean(student),
        "ci95": [low, high],
    }


def sharpness_ratio(dream: Tensor, best: Tensor, truth: Tensor, config: Config) -> dict[str, Any]:
    """A dream's sharpness over the real twin's, and how much it is over that of ``best``, another
    dream of the same walks."""
    rows = [list(x.numpy().astype(np.float64)) for x in (dream, best, truth)]
    up, other, down = (mean_statistic(row) for row in rows)
    mine, its, real = (pooled_mean(row) for row in rows)
    intervals = [
        bootstrap_ci(statistic, len(truth), config.draws, config.seed)
        for statistic in (lambda n: up(n) / down(n), lambda n: (up(n) - other(n)) / down(n))
    ]
    return {
        "value": mine / real,
        "ci95": intervals[0],
        "over_best": (mine - its) / real,
        "over_best_ci95": intervals[1],
    }


def on_return_trips(worlds: dict[str, World], config: Config) -> dict[str, Any]:
    """True and dream returns of every world on the same trips, with what each is behind the first
    world's."""
    first = next(iter(worlds.values()))
    settings = TripConfig(
        first.config.env_id, dict(first.config.env_kwargs), config.seed, lengths=config.lengths
    )
    recorded = record_test_set(
        settings, range(config.trips), max(1, min(8, config.trips // 4)), config.cache, lambda: None
    )
    trips = stack_trips(recorded, settings, first.device)
    parts = {name: returns.measure_returns(world, trips) for name, world in worlds.items()}
    window = first.network.config.window
    results: dict[str, Any] = {"test_set_sha256": digest(recorded)}
    for name, part in parts.items():
        figures = returns.compute(part, window, config.draws, config.seed)
        mine = {key: figures[key] for key in ("return_real_psnr", "return_psnr", "sharpness_ratio")}
        for key, field in (("return_real_psnr", "real"), ("return_psnr", "dream")):
            for length in config.lengths:
                pair = [
                    getattr(p, field)[length, ""][:, window - 1 :].numpy()
                    for p in (next(iter(parts.values())), part)
                ]
                mine.setdefault(f"{key}_behind", {})[str(length)] = behind_the_best(
                    [list(pair[0])], list(pair[1]), config
                )
        results[name] = mine
    return results


def picture(test: TestSet, rows: Sequence[Tensor], file: Path) -> None:
    """Strips of up to three walks, every sixth dreamed frame."""
    walks = range(min(3, len(test)))
    strips = [torch.cat([torch.cat(list(r[e, ::6]), 2) for r in rows], 1) for e in walks]
    Image.fromarray(torch.cat(strips, 1).permute(1, 2, 0).numpy()).save(file)


def main(config: Config) -> None:
    """Measure the teacher, then its students."""
    teacher = World.from_pretrained(config.teacher, config.device)
    if not teacher.has_geometry:
        raise InvalidInputError(
            f"world {config.teacher} has no poses: seen places cannot be measured"
        )
    protocol = EvaluateConfig(
        config.teacher, episodes=config.episodes, seed=config.seed, cache=config.cache
    )
    episodes, test = frozen_test_set(protocol, teacher)
    sights, n = chosen_frames(test, teacher.network.config.window), test.config.history
    worlds = {
        f"{config.teacher} @{steps}": teacher.with_dynamics(num_inference_steps=steps)
        for steps in config.teacher_steps
    }
    for temperature in config.temperatures:
        worlds[f"{config.teacher} @1, {temperature:g}"] = teacher.with_dynamics(
            num_inference_steps=1, temperature=temperature
        )
    found = dict(
        zip(worlds, on_all_walks(teacher, test, list(worlds.values()), config), strict=True)
    )
    teachers = list(found.values())[: len(config.teacher_steps)]
    for name in config.students:
        student = World.from_pretrained(name, config.device)
        known = set(student.card.get("train_maps", ())) & set(test.maps)
        if known:
            raise InvalidInputError(
                f"student {name} was trained on {', '.join(sorted(known))}, which the test set "
                f"draws from"
            )
        key = f"{name} @{student.config.dynamics.num_inference_steps}"
        worlds[key], (found[key],) = student, on_all_walks(student, test, [student], config)
    truth = sharpness(test.rgb[:, n:])
    best = max(teachers, key=lambda t: pooled_mean(kept(t.next, sights["next"])))
    results: dict[str, Any] = {}
    for name, one in found.items():
        values: dict[str, Any] = {}
        for key, chosen in sights.items():
            mine = kept(getattr(one, key), chosen)
            values[f"{key}_psnr"] = pooled_mean(mine)
            values[f"{key}_behind_best"] = behind_the_best(
                [kept(getattr(t, key), chosen) for t in teachers], mine, config
            )
        values["sharpness_ratio"] = sharpness_ratio(one.sharp, best.sharp, truth, config)
        values["sharpness_ratio_next"] = sharpness_ratio(
            one.sharp_next, best.sharp_next, truth, config
        )
        values["steps_per_second"] = steps_per_second(worlds[name], test)
        results[name] = values
    report: dict[str, Any] = {
        "test_set_sha256": digest(episodes),
        "walks": len(test),
        "device": str(teacher.device),
    }
    report |= {f"{key}_frames": int(chosen.sum()) for key, chosen in sights.items()} | {
        "worlds": results
    }
    config.out.mkdir(parents=True, exist_ok=True)
    picture(test, [test.rgb[:, n:], *(f.dream for f in found.values())], config.out / "distil.png")
    if config.trips:
        report["return_trips"] = on_return_trips(worlds, config)
    write_json(config.out / "distil.json", report)
    print(table(report))


def table(report: dict[str, Any]) -> str:
    """What matters, in a line a world.

    dB behind the teacher's best and, in brackets, the upper end of the 95% interval; the sharpness
    of next and of dreamed frames over the twin's and, in brackets, the lower end of what this is
    over that of the teacher at the steps of its best next frames.
    """
    width = max(len(name) for name in report["worlds"])
    lines = [
        f"{'':<{width}}  next dB  behind (to)    seen dB  behind (to)    sharp next (from)  "
        f"dreamed (from)  steps/s"
    ]
    for name, v in report["worlds"].items():
        cells = []
        for key in ("next", "seen"):
            gap = v[f"{key}_behind_best"]
            cells.append(f"{v[f'{key}_psnr']:7.2f}  {gap['behind']:+5.2f} ({gap['ci95'][1]:+5.2f})")
        for key in ("sharpness_ratio_next", "sharpness_ratio"):
            cells.append(f"{v[key]['value']:5.2f} ({v[key]['over_best_ci95'][0]:+5.2f})")
        lines.append(
            f"{name:<{width}}  {cells[0]}    {cells[1]}     {cells[2]}   {cells[3]}   "
            f"{v['steps_per_second']:7.1f}"
        )
    for name, v in report.get("return_trips", {}).items():
        if isinstance(v, dict):
            parts = [
                f"{key} {n}: {x:.2f}"
                for key in ("return_real_psnr", "return_psnr")
                for n, x in v[key].items()
            ]
            lines.append(f"{name:<{width}}  {', '.join(parts)}")
    lines.append(
        f"{report['walks']} walks, {report['next_frames']} frames in motion, "
        f"{report['seen_frames']} of seen places"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Config))
