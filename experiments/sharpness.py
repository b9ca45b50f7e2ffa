"""How sharp, new, right and lasting the dreams of several worlds are on the same walks:
``python sharpness.py --help``.

Walks come from a recording: so many true frames, then so many dreamed ones, at the true poses and
at the world's own; from the end of the former the way is dreamed back, too, with the actions
undone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from worldsim.data.dataset import EpisodeDataset
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.evaluation.return_trips import changed_share
from worldsim.evaluation.trip_recording import UNDO
from worldsim.state import Frame, SceneStart
from worldsim.world import World

SHORTEST_M = 3.0
ONE_STEP = 16
"""Next frames are measured on so many of the last true ones."""
TURN = 10
"""Frames this close to the turning point are left out of the way back: the network still attends to
them."""


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    data: Path
    """Recording with geometry that no world was trained on."""
    worlds: tuple[str, ...] = ("freedoom-tiny",)
    """Worlds to compare: names or folders."""
    out: Path = Path("out/sharpness")
    """Folder for sharpness.json and sharpness.png (a row of the real twin, then one of each
    world)."""
    walks: int = 64
    """At most so many."""
    history: int = 48
    """True frames."""
    horizon: int = 48
    """Dreamed frames, a multiple of 4."""
    steps: int = 1
    """Sampling steps."""
    device: str | None = None
    """CUDA where there is one, if not given."""


@dataclass(frozen=True)
class Walks:
    """Tensors (e, t, ...) of the walks; act[:, t] leads from frame t to frame t + 1."""

    rgb: Tensor
    code: Tensor
    pose: Tensor
    act: Tensor
    intrinsics: Tensor

    def frame(self, t: int) -> Frame:
        """Frame t of all walks."""
        return Frame(self.rgb[:, t], self.code[:, t], self.pose[:, t])


def load(config: Config, device: torch.device) -> Walks:
    """The first episodes that are long enough."""
    dataset, length, found = EpisodeDataset(config.data), config.history + config.horizon, []
    for index in range(len(dataset.shards)):
        arrays, _ = dataset.load_shard(index)
        for start, stop in zip(
            arrays["episode_start"][:-1], arrays["episode_start"][1:], strict=True
        ):
            if stop - start >= length and len(found) < config.walks:
                names = ("rgb", "inverse_depth", "pose", "act")
                found.append(
                    [np.array(arrays[n][start : start + length]) for n in names]
                    + [np.array(arrays["intrinsics"])]
                )
    rgb, code, pose, act, intrinsics = (
        torch.from_numpy(np.stack(column)).to(device) for column in zip(*found, strict=True)
    )
    return Walks(
        rgb.permute(0, 1, 4, 2, 3).contiguous(),
        code.int() & 0xFFFF,
        pose.float(),
        act.long(),
        intrinsics.float(),
    )


@torch.no_grad()
def measure(world: World, walks: Walks, config: Config) -> tuple[dict[str, Any], Tensor]:
    """Figures, and the frames dreamed at the true poses (e, horizon, 3, h, w)."""
    h, n = config.history, len(walks.rgb)
    first = walks.frame(0)
    assert first.inverse_depth is not None and first.pose is not None
    noop = torch.zeros(1, dtype=torch.int64)
    scenes = [
        SceneStart(
            first.rgb[e, None],
            noop,
            first.inverse_depth[e, None],
            first.pose[e, None],
            walks.intrinsics[e],
        )
        for e in range(n)
    ]
    state, one_step = world.initial(scenes, list(range(n))), []
    for t in range(1, h):
        if t >= h - ONE_STEP:
            one_step.append(
                psnr(world.step(state.clone(), walks.act[:, t - 1])[1].frame.rgb, walks.rgb[:, t])
            )
        state = world.observe(state, walks.act[:, t - 1], walks.frame(t))
    given, own, frames = state.clone(), state, []
    for t in range(h, h + config.horizon):
        given, transition = world.step(given, walks.act[:, t - 1], pose=walks.pose[:, t])
        frames.append(transition.frame.rgb)
        own, _ = world.step(own, walks.act[:, t - 1])
    undo, sights = torch.tensor(UNDO, device=walks.act.device), []
    for t in range(h + config.horizon - 2, h - 1, -1):
        given, transition = world.step(given, undo[walks.act[:, t]], pose=walks.pose[:, t])
        if t < h + config.horizon - TURN:
            sights.append(psnr(transition.frame.rgb, frames[t - h]))
    dream, truth = torch.stack(frames, 1), walks.rgb[:, h:]
    quarter = config.horizon // 4
    parts = [slice(i * quarter, (i + 1) * quarter) for i in range(4)]
    path = (walks.pose[:, h:, :3, 3] - walks.pose[:, h - 1 : -1, :3, 3]).norm(dim=-1).sum(1)
    assert own.frame.pose is not None
    error = ((own.frame.pose[:, :3, 3] - walks.pose[:, -1, :3, 3]).norm(dim=-1) / path * 100)[
        path > SHORTEST_M
    ]
    return {
        "next_frame_psnr": float(torch.stack(one_step).mean()),
        "psnr_by_quarter": [float(psnr(dream, truth)[:, p].mean()) for p in parts],
        "sharpness_by_quarter": [
            float(sharpness(dream[:, p]).mean() / sharpness(truth[:, p]).mean()) for p in parts
        ],
        "return_psnr": float(torch.stack(sights).mean()) if sights else None,
        "novelty": float(changed_share(dream).mean() / changed_share(truth).mean()),
        "position_error_pct_median": float(error.median()),
        "position_walks": len(error),
    }, dream


def main(config: Config) -> None:
    """Measure all worlds on the same walks."""
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    walks = load(config, device)
    print(f"{len(walks.rgb)} walks")
    results, rows = {}, [walks.rgb[:6, config.history :: 6]]
    for name in config.worlds:
        world = World.from_pretrained(name, device).with_dynamics(num_inference_steps=config.steps)
        results[name], dream = measure(world, walks, config)
        rows.append(dream[:6, ::6])
        print(name, json.dumps(results[name]))
    config.out.mkdir(parents=True, exist_ok=True)
    (config.out / "sharpness.json").write_text(json.dumps(results, indent=2))
    picture = torch.cat(
        [torch.cat([torch.cat(list(row[e]), 2) for row in rows], 1) for e in range(len(rows[0]))], 1
    )
    Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()).save(config.out / "sharpness.png")


if __name__ == "__main__":
    main(tyro.cli(Config))
