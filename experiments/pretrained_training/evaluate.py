"""True return trips on test maps: trained video models against splats and copies.

Each world receives the true frames of 32 steps out and generates the way back at the true poses,
chunk by chunk, through the adapters of :mod:`worldsim.pretrained`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from worldsim.camera import Camera, nearest_pose, snap_pose
from worldsim.evaluation.benchmark_set import record_test_set
from worldsim.evaluation.measure import start_walks
from worldsim.evaluation.metrics import psnr
from worldsim.evaluation.statistics import interval, mean_statistic
from worldsim.evaluation.trip_recording import Trip, TripConfig, Trips, stack_trips
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import PointMemoryConfig
from worldsim.painting.holes import fill_holes
from worldsim.pretrained.dynamics import PretrainedDynamics
from worldsim.pretrained.worlds import world_of
from worldsim.protocols import DepthEstimator, VideoModel
from worldsim.runtime.files import replacing
from worldsim.runtime.types import JsonObject
from worldsim.world import World

LENGTH = 32
"""Steps out, and as many back."""
SKIPPED = 5
"""First steps of the way back that are left out: true frames are among the past ones then."""
KEPT_TRIPS = 4
"""Trips whose frames are kept for pictures."""


def trip_config() -> TripConfig:
    """Return the settings of the trips."""
    return TripConfig("worldsim/FreedoomReal-v0", {}, lengths=(LENGTH,))


def record_trips(count: int, workers: int, cache: Path) -> list[Trip]:
    """Return the first trips, from the cache where they are there."""
    return record_test_set(trip_config(), range(count), workers, cache)


def world(model: VideoModel, depth: DepthEstimator) -> World:
    """Return a world of a video model for the trips. Its memory is on the CPU."""
    dynamics = PretrainedDynamics(model, depth, 64, 64, actions=7)
    return world_of(dynamics, memory=PointMemoryConfig(capacity=32768))


@torch.no_grad()
def way_back(one: World, trips: Trips) -> tuple[Tensor, float]:
    """Return the generated way back (e, n, 3, h, w) uint8, and generated per emitted frames."""
    state = start_walks(one, trips)
    for t in range(1, trips.config.turn(LENGTH) + 1):
        state = one.observe(state, trips.act[:, t - 1], trips.frame(t))
    frames = []
    for i in range(LENGTH):
        act, pose = trips.back_act[LENGTH][:, i], trips.back_pose[LENGTH][:, i]
        state, transition = one.step(state, act, pose=pose)
        frames.append(transition.frame.rgb.clone())
    dynamics: Any = one.dynamics
    return torch.stack(frames, 1), float(dynamics.generated_per_emitted(state.context).mean())


@torch.no_grad()
def baselines(trips: Trips) -> dict[str, Tensor]:
    """Return ways back (e, n, 3, h, w) that need no model.

    splat: the memory of the way out at the true poses, holes filled from the frame of the nearest
    pose. splat_near: filled from the nearest known pixel. nearest: that frame. copy: the last
    frame.
    """
    memory = PointMemory(PointMemoryConfig(capacity=32768))
    device, turn = trips.rgb.device, trips.config.turn(LENGTH)
    data = memory.empty(len(trips), device)
    height, width = trips.rgb.shape[-2:]
    for t in range(turn + 1):
        frame = trips.frame(t)
        pose = snap_pose(trips.pose[:, t])
        step = torch.full((len(trips),), t, dtype=torch.int64, device=device)
        camera = Camera(pose, trips.intrinsics, height, width)
        data = memory.integrate(
            data, type(frame)(frame.rgb, frame.inverse_depth, pose), camera, step
        )
    rows = torch.arange(len(trips), device=device)
    index = torch.stack(
        [
            nearest_pose(back, out[: turn + 1])
            for back, out in zip(trips.back_pose[LENGTH], trips.pose, strict=True)
        ]
    )
    found: dict[str, list[Tensor]] = {x: [] for x in ("splat", "splat_near", "nearest", "copy")}
    for i in range(LENGTH):
        near = trips.rgb[rows, index[:, i]]
        camera = Camera(snap_pose(trips.back_pose[LENGTH][:, i]), trips.intrinsics, height, width)
        view = memory.render(data, camera)
        pairs = zip(view.rgb, view.mask, strict=True)
        found["splat"].append(torch.where(view.mask[:, None], view.rgb, near))
        found["splat_near"].append(torch.stack([fill_holes(*pair) for pair in pairs]))
        found["nearest"].append(near)
        found["copy"].append(trips.rgb[:, turn])
    return {name: torch.stack(frames, 1) for name, frames in found.items()}


def measure(
    trips: Sequence[Trip],
    models: Mapping[str, tuple[VideoModel, DepthEstimator]],
    folder: Path,
    shard: int,
    shards: int,
) -> None:
    """Measure each model with and without memory on a share of the trips.

    Scores and frames go to ``folder/SHARD-ROW.safetensors`` as soon as they are known.
    """
    chosen = list(range(len(trips)))[shard::shards]
    there = stack_trips([trips[i] for i in chosen], trip_config())
    truth = there.back_rgb[LENGTH]
    folder.mkdir(parents=True, exist_ok=True)

    def store(name: str, frames: Tensor, generated: float = 1.0) -> None:
        tensors = {
            "trip": torch.tensor(chosen),
            "psnr": psnr(frames, truth).cpu(),
            "generated": torch.full((len(chosen),), generated),
        }
        kept = [row for row, i in enumerate(chosen) if i < KEPT_TRIPS]
        tensors["frames"] = frames[kept].cpu().contiguous()
        with replacing(folder / f"{shard}-{name}.safetensors") as path:
            save_file(tensors, path)
        print(shard, name, round(float(tensors["psnr"][:, SKIPPED:].mean()), 2), flush=True)

    store("truth", truth)
    for name, frames in baselines(there).items():
        store(name, frames)
    for name, (model, depth) in models.items():
        one = world(model, depth)
        store(name, *way_back(one, there))
        store(f"{name}_no_memory", *way_back(one.without_memory(), there))


def collect(folder: Path) -> JsonObject:
    """Return the results of all shards: means, intervals over trips, and paired differences."""
    parts: dict[str, list[dict[str, Tensor]]] = {}
    for path in sorted(folder.glob("*-*.safetensors")):
        parts.setdefault(path.stem.split("-", 1)[1], []).append(load_file(path))
    scores: dict[str, np.ndarray[Any, Any]] = {}
    results: JsonObject = {"skipped_steps": SKIPPED, "rows": {}, "differences": {}}
    trips: list[int] | None = None
    for name, found in parts.items():
        order = torch.cat([x["trip"] for x in found]).argsort()
        which = torch.cat([x["trip"] for x in found])[order].tolist()
        trips = which if trips is None or len(which) > len(trips) else trips
        table = torch.cat([x["psnr"] for x in found])[order].double().numpy()
        if len(which) < len(trips):
            continue
        scores[name] = table
        generated = torch.cat([x["generated"] for x in found]).mean()
        results["rows"][name] = {
            **_mean(table[:, SKIPPED:]),
            "all_steps": round(float(table.mean()), 3),
            "by_step": table.mean(0).round(2).tolist(),
            "generated_per_emitted": round(float(generated), 2),
        }
    for name in scores:
        if f"{name}_no_memory" not in scores:
            continue
        for other in (f"{name}_no_memory", "splat", "splat_near", "nearest", "copy"):
            gain = scores[name] - scores[other]
            results["differences"][f"{name} - {other}"] = _mean(gain[:, SKIPPED:])
    results["trips"] = len(trips or [])
    return results


def _mean(values: np.ndarray[Any, Any]) -> JsonObject:
    found = interval(mean_statistic(list(values)), len(values))
    return {"mean": round(float(values.mean()), 3), "ci95": found}
