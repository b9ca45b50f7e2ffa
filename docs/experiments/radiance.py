"""Measure the radiance field on views that it has not seen: ``python radiance.py --help``.

A walk through the textured room (:func:`worldsim.testing.textured_room`) is integrated, a field is fitted with growing numbers of
iterations, from the points and from noise, and views between the frames of the walk are compared with the truth.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from torch import Tensor

from worldsim.camera import Camera
from worldsim.memory import PointMemory, PointMemoryConfig, RadianceField, RadianceMemory, RadianceMemoryConfig
from worldsim.metrics import psnr
from worldsim.pictures import contact_sheet, depth_picture, holes_marked, save_png
from worldsim.state import Frame, MemoryView, map_tensors
from worldsim.testing import textured_room, textured_room_walk


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    frames: int = 48
    """Frames of the walk; as many held-out views lie between them."""
    iterations: tuple[int, ...] = (1, 25, 50, 100, 200, 400, 800)
    """Lengths of the fits."""
    noise_iterations: tuple[int, ...] = (200, 800)
    """Lengths of the fits that start from noise."""
    threads: int = 2
    """Threads of the CPU."""
    seed: int = 0
    """Of the fits."""
    device: str = "cpu"
    """Where to fit and render."""
    picture: Path | None = None
    """File to draw the comparison to."""
    memory: RadianceMemoryConfig = field(default_factory=RadianceMemoryConfig)
    """The memory measured."""


def one(record: Frame | Camera, i: int) -> Frame | Camera:
    return map_tensors(lambda x: x[i : i + 1], record)


def filled(view: MemoryView) -> Tensor:
    """A view's colours (3, h, w), each hole with those of the known pixel nearest to it."""
    rgb, mask = view.rgb[0].cpu().numpy(), view.mask[0].cpu().numpy()
    # Labels number the known pixels in order.
    label = cv2.distanceTransformWithLabels((~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    return torch.from_numpy(rgb[:, mask][:, label - 1])


def score(memory: PointMemory | RadianceMemory, data: object, frames: Frame, camera: Camera) -> dict[str, float]:
    """Means over views: dB of all pixels with holes black, and with holes filled; dB of the known pixels, their share; error of
    depth as a share of it, median."""
    rows = []
    for i in range(len(frames.rgb)):
        truth, view = one(frames, i), memory.render(data, one(camera, i))
        mask = view.mask[0]
        error = ((view.depth[0] - truth.depth[0]).abs() / truth.depth[0])[mask & torch.isfinite(truth.depth[0])]
        known = psnr(view.rgb[0][:, mask][..., None], truth.rgb[0][:, mask][..., None])
        decibels = psnr(view.rgb[0], truth.rgb[0]), psnr(filled(view), truth.rgb[0].cpu()), known
        rows.append([float(x) for x in (*decibels, view.coverage, error.nanmedian())])
    names = ("black_db", "filled_db", "known_db", "coverage", "depth_error")
    return dict(zip(names, np.mean(rows, 0).tolist(), strict=True))


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    camera = textured_room_walk(2 * config.frames)
    frames = textured_room(camera)
    move = lambda record: map_tensors(lambda x: x.to(config.device), record)  # noqa: E731
    seen, held_out = (map_tensors(lambda x, s=s: x[s::2], (move(frames), move(camera))) for s in (0, 1))
    points = PointMemory(PointMemoryConfig(capacity=131072))
    memory = RadianceMemory(points, config.memory)
    data = memory.empty(1, config.device)
    for i in range(config.frames):
        data = memory.integrate(data, one(seen[0], i), one(seen[1], i), torch.tensor([i], device=config.device))
    print(f"{int(points.count(data.points))} points, {int(data.frames.count)} frames kept")
    report("points", 0, 0.0, score(points, data.points, *held_out))
    best: RadianceField = data
    for from_points, lengths in ((True, config.iterations), (False, config.noise_iterations)):
        for iterations in lengths:
            begin = time.perf_counter()
            fitted = memory.fit(data, iterations, config.seed, from_points)
            seconds = time.perf_counter() - begin
            report("field from points" if from_points else "field from noise", iterations, seconds, score(memory, fitted, *held_out))
            best = fitted if from_points and iterations <= 400 else best
    if config.picture:
        draw(memory, best, held_out, config.picture)


def report(name: str, iterations: int, seconds: float, scores: dict[str, float]) -> None:
    figures = " | ".join(f"{value:.4f}" if "error" in key or "cov" in key else f"{value:.2f}" for key, value in scores.items())
    print(f"| {name} | {iterations} | {seconds:.1f} | {figures} |", flush=True)


def draw(memory: RadianceMemory, data: RadianceField, held_out: tuple[Frame, Camera], path: Path) -> None:
    """True view, points and field at held-out views, at the frames' size and (without truth from the walk) at four times it."""
    frames, camera = held_out
    chosen = [i * len(frames.rgb) // 6 for i in range(6)]
    rows: dict[str, list[np.ndarray]] = {"true view": [], "points": [], "field": [], "points\n4 x size": [], "field\n4 x size": []}
    for i in chosen:
        small = one(camera, i)
        large = dataclasses.replace(small, intrinsics=4 * small.intrinsics, height=4 * small.height, width=4 * small.width)
        rows["true view"].append(frames.rgb[i].permute(1, 2, 0).cpu().numpy().repeat(4, 0).repeat(4, 1))
        for size, at, scale in (("", small, 4), ("\n4 x size", large, 1)):
            for name, view in (("points", memory.points.render(data.points, at)), ("field", memory.render(data, at))):
                picture = holes_marked(view.rgb[0].permute(1, 2, 0).cpu().numpy(), view.mask[0].cpu().numpy())
                rows[name + size].append(picture.repeat(scale, 0).repeat(scale, 1))
    rows["field's depth"] = [
        depth_picture(memory.render(data, one(camera, i)).depth[0].cpu().numpy()).repeat(4, 0).repeat(4, 1) for i in chosen
    ]
    save_png(contact_sheet(rows, [f"view {i}" for i in chosen], scale=1), path)


if __name__ == "__main__":
    main(tyro.cli(Config))
