"""Measure the radiance field on views that it has not seen: ``python radiance.py --help``.

A walk through the textured room (:func:`worldsim.envs.tiny_room.textured_room`), or through a real
twin, is integrated, a field is fitted with growing numbers of iterations, from the points and from
noise, and views between the frames of the walk are compared with the truth.
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
from PIL import Image
from torch import Tensor

from worldsim.camera import Camera, quantise_depth, snap_pose
from worldsim.envs.tiny_room import textured_room, textured_room_walk
from worldsim.evaluation.metrics import psnr
from worldsim.io.pictures import contact_sheet, enlarge, holes_marked
from worldsim.memory import (
    PointMemory,
    PointMemoryConfig,
    RadianceField,
    RadianceMemory,
    RadianceMemoryConfig,
)
from worldsim.shipped.policies import make_policy
from worldsim.state import Frame, MemoryView, map_tensors
from worldsim.world.image_env import make_env


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    frames: int = 48
    """Frames of the walk; as many held-out views lie between them."""
    env_id: str = ""
    """A real twin to walk in with the persistent policy, such as ``worldsim/FreedoomReal-v0``;
    none: the textured room."""
    walks: int = 1
    """How many walks in it, each with its own seed."""
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
    label = cv2.distanceTransformWithLabels(
        (~mask).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    return torch.from_numpy(rgb[:, mask][:, label - 1])


def score(
    memory: PointMemory | RadianceMemory, data: object, frames: Frame, camera: Camera
) -> dict[str, float]:
    """Means over views: dB of all pixels with holes black, and with holes filled; dB of the known
    pixels, their share; error of depth as a share of it, median."""
    rows = []
    for i in range(len(frames.rgb)):
        truth, view = one(frames, i), memory.render(data, one(camera, i))
        mask = view.mask[0]
        error = ((view.depth[0] - truth.depth[0]).abs() / truth.depth[0])[
            mask & torch.isfinite(truth.depth[0])
        ]
        known = psnr(view.rgb[0][:, mask][..., None], truth.rgb[0][:, mask][..., None])
        decibels = psnr(view.rgb[0], truth.rgb[0]), psnr(filled(view), truth.rgb[0].cpu()), known
        rows.append([float(x) for x in (*decibels, view.coverage, error.nanmedian())])
    names = ("black_db", "filled_db", "known_db", "coverage", "depth_error")
    return dict(zip(names, np.mean(rows, 0).tolist(), strict=True))


def walk(config: Config, number: int) -> tuple[Frame, Camera]:
    """Frames, twice as many as are integrated, and their cameras."""
    if not config.env_id:
        camera = textured_room_walk(2 * config.frames)
        return textured_room(camera), camera
    env = make_env(config.env_id, {})
    policy = make_policy("persistent", env.action_space)
    obs, info = env.reset(seed=number, options={"split": "test"})
    policy.reset(number)
    rgb, depth, pose = [], [], []
    for _ in range(2 * config.frames):
        rgb.append(torch.from_numpy(np.array(obs)).permute(2, 0, 1))
        depth.append(torch.from_numpy(np.array(info["depth"], np.float32)))
        pose.append(torch.from_numpy(np.array(info["pose"], np.float32)))
        obs, _, _, _, info = env.step(policy.act(obs))
    env.close()
    frames = Frame(
        torch.stack(rgb), quantise_depth(torch.stack(depth)), snap_pose(torch.stack(pose))
    )
    assert frames.pose is not None
    intrinsics = torch.from_numpy(np.array(info["intrinsics"], np.float32)).expand(len(rgb), 4)
    return frames, Camera(frames.pose, intrinsics, *frames.rgb.shape[-2:])


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    points = PointMemory(PointMemoryConfig(capacity=131072))
    memory = RadianceMemory(points, config.memory)
    walked = []
    for number in range(config.walks):
        frames, camera = (
            map_tensors(lambda x: x.to(config.device), record) for record in walk(config, number)
        )
        seen, held_out = (map_tensors(lambda x, s=s: x[s::2], (frames, camera)) for s in (0, 1))
        data = memory.empty(1, config.device)
        for i in range(config.frames):
            data = memory.integrate(
                data, one(seen[0], i), one(seen[1], i), torch.tensor([i], device=config.device)
            )
        print(
            f"{int(points.count(data.points))} points, {int(data.frames.count)} frames kept",
            flush=True,
        )
        walked.append((data, held_out))
    report("points", 0, 0.0, [score(points, data.points, *held_out) for data, held_out in walked])
    for from_points, lengths in ((True, config.iterations), (False, config.noise_iterations)):
        for iterations in lengths:
            begin = time.perf_counter()
            fitted = [memory.fit(data, iterations, config.seed, from_points) for data, _ in walked]
            seconds = (time.perf_counter() - begin) / len(walked)
            name = "field from points" if from_points else "field from noise"
            scores = [
                score(memory, f, *held_out) for f, (_, held_out) in zip(fitted, walked, strict=True)
            ]
            report(name, iterations, seconds, scores)
    if config.picture:
        data, held_out = walked[0]
        draw(memory, memory.fit(data, 200, config.seed), held_out, config.picture)


def report(name: str, iterations: int, seconds: float, scores: list[dict[str, float]]) -> None:
    """A row of the table: means over walks."""
    means = {key: float(np.mean([s[key] for s in scores])) for key in scores[0]}
    figures = " | ".join(
        f"{value:.4f}" if "error" in key or "cov" in key else f"{value:.2f}"
        for key, value in means.items()
    )
    print(f"| {name} | {iterations} | {seconds:.1f} | {figures} |", flush=True)


def draw(
    memory: RadianceMemory, data: RadianceField, held_out: tuple[Frame, Camera], path: Path
) -> None:
    """True view, points and field at held-out views, at the frames' size and at three times it."""
    frames, camera = held_out
    chosen = [(2 * i + 1) * len(frames.rgb) // 6 for i in range(3)]
    rows: dict[str, list[np.ndarray]] = {
        "true view": [],
        "points": [],
        "field": [],
        "points\n3 x size": [],
        "field\n3 x size": [],
    }
    for i in chosen:
        small = one(camera, i)
        large = dataclasses.replace(
            small, intrinsics=3 * small.intrinsics, height=3 * small.height, width=3 * small.width
        )
        rows["true view"].append(enlarge(frames.rgb[i].permute(1, 2, 0).cpu().numpy(), 3))
        for size, at, scale in (("", small, 3), ("\n3 x size", large, 1)):
            for name, view in (
                ("points", memory.points.render(data.points, at)),
                ("field", memory.render(data, at)),
            ):
                picture = holes_marked(
                    view.rgb[0].permute(1, 2, 0).cpu().numpy(), view.mask[0].cpu().numpy()
                )
                rows[name + size].append(enlarge(picture, scale))
    sheet = Image.fromarray(contact_sheet(rows, [f"view {i}" for i in chosen], scale=1))
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
