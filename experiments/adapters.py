"""Adapters on changed dynamics: how much of full fine-tuning's gain do few clips give?

    python -m experiments.adapters --twin takecover --out /tmp/adapters --json adapters.json

The shipped world of the real twin is adapted to a twin with other dynamics
(experiments/changed_twins.py). From the same start and in the same steps are trained: an adapter on
5 clips, an adapter on 50 clips, all weights on the 50 clips, and all weights on many clips.
Measured are predictions of test clips that none of them has seen: the next frame from the true
past, and frames of a dream that receives the true actions. Results are written as they come; what
is there already is not done again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import Episode
from worldsim.data.record import RecordConfig, record
from worldsim.data.starts import scene_at
from worldsim.evaluation.metrics import psnr
from worldsim.evaluation.statistics import interval, mean_statistic
from worldsim.runtime.json_config import read_json, write_json
from worldsim.state import Frame
from worldsim.training.config import AdapterLayers, TrainConfig
from worldsim.training.loss import LossConfig
from worldsim.training.train import train
from worldsim.world import World
from worldsim.world.world import bucket


@dataclass(frozen=True)
class Twin:
    """A shipped world and the changed twin that it is adapted to."""

    world: str
    env_id: str
    env_kwargs: dict[str, int | float | bool | str]
    size: tuple[int, int] | None = (64, 64)
    key: str | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    memory: bool = False
    last_frames: int = 4


TASK_LOSS = LossConfig(energy=0.9, detail=0.8, balance="level", outcome_weight=2.0)  # type: ignore[arg-type]
TWINS = {
    "takecover": Twin(
        "takecover",
        "experiments.changed_twins:FastTakeCover-v0",
        {"frame_skip": 4, "max_episode_steps": 525},
        key="screen",
        loss=TASK_LOSS,
    ),
    "carracing": Twin("carracing", "experiments.changed_twins:IcyCarRacing-v0", {}, last_frames=0),
    "freedoom": Twin(
        "freedoom-tiny", "experiments.changed_twins:FastFreedoom-v0", {}, size=None, memory=True
    ),
}
ARMS = {
    "adapter, 5 clips": (5, True),
    "adapter, 50 clips": (50, True),
    "all weights, 5 clips": (5, False),
    "all weights, 50 clips": (50, False),
    "all weights, many clips": (0, False),
}
"""Number of clips (0: all) and whether an adapter is trained."""
AGES = (1, 4, 16)
"""Steps of a dream at which frames are compared."""


@dataclass(frozen=True)
class Args:
    """What is trained and measured."""

    out: Path
    """Folder for recordings and trainings."""
    json: Path = Path("experiments/adapters.json")
    """File for the figures."""
    twin: str = "takecover"
    """Name in ``TWINS``."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Names in ``ARMS``."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the trainings."""
    rank: int = 16
    """Rank of the adapters."""
    layers: AdapterLayers = AdapterLayers.TEMPORAL
    """Layers that the adapters change."""
    steps: int = 400
    """Training steps of every arm."""
    batch_size: int | None = None
    """Windows per step."""
    adapter_rate: float = 2e-3
    """Peak learning rate of the adapters."""
    full_rate: float = 1e-4
    """Peak learning rate where all weights are trained."""
    clip: int = 48
    """Steps per clip."""
    many: int = 500
    """Clips of the largest recording."""
    tests: int = 64
    """Test clips."""
    workers: int = 8
    """Processes that record."""
    compile: bool = False
    """Compile the network in training."""
    engine: str = "plain"
    """Engine of the measured worlds."""
    record_only: bool = False
    """Record all clips, and train nothing."""


def clips(args: Args, name: str, count: int, seed: int) -> Path:
    """Record ``count`` clips, or resume; recordings of one seed begin with the same clips."""
    twin, out = TWINS[args.twin], args.out / name
    frames = count * (args.clip + 1)
    if (out / "dataset.json").exists() and EpisodeDataset(out).frames >= frames:
        # Several processes may train on one recording, but only one may record.
        return out
    record(
        RecordConfig(
            twin.env_id,
            out,
            frames=frames,
            frames_per_shard=5 * (args.clip + 1),
            episode_steps=args.clip,
            workers=args.workers,
            env_kwargs=twin.env_kwargs,
            size=twin.size,
            key=twin.key,
            min_travel=0.0,
            seed=seed,
        )
    )
    return out


def fit(args: Args, arm: str, data: Path, seed: int) -> World:
    """Train one arm; returns its world on the CPU."""
    twin, (_, adapts) = TWINS[args.twin], ARMS[arm]
    return train(
        TrainConfig(
            data,
            args.out / f"{arm.replace(', ', '-').replace(' ', '-')}-{seed}",
            init_from=twin.world,
            adapter=args.rank if adapts else 0,
            adapter_layers=args.layers,
            steps=args.steps,
            batch_size=args.batch_size,
            learning_rate=args.adapter_rate if adapts else args.full_rate,
            motion_learning_rate=args.adapter_rate if adapts else args.full_rate,
            warmup=max(1, args.steps // 8),
            decay=0.5,
            ema=0.98,
            memory=twin.memory,
            last_frames=twin.last_frames,
            loss=twin.loss,
            colour=0.0,
            save_every=10**6,
            sample_every=10**6,
            scenes=0,
            compile=args.compile,
            seed=seed,
        )
    )


def frame_of(episodes: Sequence[Episode], t: int, device: torch.device) -> Frame:
    """Return the true frames at step t."""
    rgb = torch.from_numpy(np.stack([e.rgb[t] for e in episodes])).permute(0, 3, 1, 2)
    if not episodes[0].has_geometry:
        return Frame(rgb.contiguous().to(device))
    depth = torch.from_numpy(np.stack([e.inverse_depth[t].astype(np.int32) for e in episodes]))
    pose = torch.from_numpy(np.stack([e.pose[t] for e in episodes]).astype(np.float32))
    return Frame(rgb.contiguous().to(device), depth.to(device), pose.to(device))


@torch.no_grad()
def measure(world: World, episodes: Sequence[Episode]) -> dict[str, object]:
    """Return the PSNR of next frames and of dreams at their ages, with intervals over clips."""
    count = len(episodes)
    scenes = [scene_at(e, 0, 1) for e in episodes]
    device, least = world.device, min(map(len, episodes))

    def padded(x: torch.Tensor, rows: int) -> torch.Tensor:
        return torch.cat([x, x[:1].expand(rows - len(x), *x.shape[1:])])

    true = world.pad(world.initial(scenes, list(range(count))), bucket(count))
    dream, rows = true, len(true)
    found: dict[str, list[np.ndarray]] = {"next_frame_psnr": [], "copy_last_psnr": []}
    for t in range(least - 1):
        act = padded(torch.from_numpy(np.stack([e.act[t] for e in episodes])).to(device), rows)
        before, after = frame_of(episodes, t, device), frame_of(episodes, t + 1, device)
        _, told = world.step(world.own(true), act)
        found["next_frame_psnr"].append(psnr(told.frame.rgb[:count], after.rgb).cpu().numpy())
        found["copy_last_psnr"].append(psnr(before.rgb, after.rgb).cpu().numpy())
        if after.pose is not None:
            missed = (told.frame.pose[:count, :3, 3] - after.pose[:, :3, 3]).norm(dim=1)
            found.setdefault("position_error_m", []).append(missed.cpu().numpy())
        fields = (after.rgb, after.inverse_depth, after.pose)
        seen = Frame(*(None if x is None else padded(x, rows) for x in fields))
        true = world.observe(true, act, seen)
        dream, shown = world.step(dream, act)
        if t + 1 in AGES:
            value = psnr(shown.frame.rgb[:count], after.rgb).cpu().numpy()
            found[f"dream_psnr_{t + 1}"] = [value]
    results: dict[str, object] = {}
    for name, values in found.items():
        each = list(np.stack(values, 1))
        results[name] = round(float(np.mean(each)), 3)
        # Too few clips have no interval.
        if (found_interval := interval(mean_statistic(each), count, 1000, 0)) is not None:
            results[f"{name}_ci95"] = [round(value, 3) for value in found_interval]
    return results


def shares(
    results: dict[str, dict[str, object]], figure: str = "next_frame_psnr"
) -> dict[str, float]:
    """Return each arm's mean gain in dB, and those of adapters as shares of all weights' gains."""
    base = float(results["base"][figure])  # type: ignore[arg-type]
    gains: dict[str, list[float]] = {}
    for name, row in results.items():
        if name != "base":
            gain = float(row[figure]) - base  # type: ignore[arg-type]
            gains.setdefault(name.rpartition(", seed")[0], []).append(gain)
    mean = {arm: float(np.mean(values)) for arm, values in gains.items()}
    found = {f"gain_db: {arm}": round(gain, 3) for arm, gain in mean.items()}
    for whole in ("all weights, 50 clips", "all weights, many clips"):
        if mean.get(whole, 0.0) > 0:
            found |= {
                f"share of {whole}: {arm}": round(gain / mean[whole], 3)
                for arm, gain in mean.items()
                if arm.startswith("adapter")
            }
    return found


def main(args: Args) -> None:
    """Record, train, measure, and print a table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.record_only:
        clips(args, "tests", args.tests, seed=1000)
        for count in sorted({ARMS[arm][0] or args.many for arm in args.arms}):
            clips(args, f"clips-{count}", count, seed=1)
        return
    report = read_json(args.json) if args.json.exists() else {}
    mine = report.setdefault(args.twin, {"settings": {}, "results": {}})
    mine["settings"] = {
        "rank": args.rank, "layers": str(args.layers), "steps": args.steps, "clip": args.clip,
        "many": args.many,
        "batch_size": args.batch_size, "adapter_rate": args.adapter_rate,
        "full_rate": args.full_rate, "tests": args.tests,
        "hardware": torch.cuda.get_device_name() if device == "cuda" else "CPU",
    }  # fmt: skip
    results = mine["results"]
    tests = list(EpisodeDataset(clips(args, "tests", args.tests, seed=1000)))[: args.tests]
    # Clips that ended early are of no use: what is compared are frames of the same age.
    tests = [e for e in tests if len(e) > args.clip]
    print(f"{len(tests)} test clips", flush=True)

    def add(name: str, world: World, begun: float) -> None:
        world = world.to(device).with_engine(args.engine)
        results[name] = {**measure(world, tests), "seconds": round(time.monotonic() - begun, 1)}
        mine["gains"] = shares(results)
        mine["dream_gains"] = shares(results, f"dream_psnr_{AGES[-1]}")
        write_json(args.json, report)
        print(name, results[name], flush=True)

    if "base" not in results:
        base = World.from_pretrained(TWINS[args.twin].world, device=device)
        own = sum(p.numel() for m in base.modules().values() for p in m.parameters())
        mine["parameters"] = own
        add("base", base, time.monotonic())
    for seed in args.seeds:
        for arm in args.arms:
            name = f"{arm}, seed {seed}"
            if name in results:
                continue
            begun, count = time.monotonic(), ARMS[arm][0] or args.many
            data = clips(args, f"clips-{count}", count, seed=1)
            add(name, fit(args, arm, data, seed), begun)
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
    for name, value in mine["gains"].items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main(tyro.cli(Args, config=(tyro.conf.EnumChoicesFromValues,)))
