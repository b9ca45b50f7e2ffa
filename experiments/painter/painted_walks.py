"""How much of the memory of painted training walks is painted, and what it looks like.

    python experiments/painter/painted_walks.py --data out/painted/data --out out/walks

Passes the first episodes of a recording through the memory as training does
(:mod:`worldsim.training.painted`), all of them painted. ``painted_walks.json`` has the share of the
pixels that show anything and that show painted points, by eighths of a walk. ``walks.png`` shows
true frames and the memory's views before them; in the third row, painted pixels alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro

from worldsim.app.training import open_painter_of
from worldsim.data.dataset import EpisodeDataset
from worldsim.io.pictures import contact_sheet, save_picture
from worldsim.memory.points import PointMemory
from worldsim.memory.slots import PointMemoryConfig
from worldsim.runtime.json_config import to_json, write_json
from worldsim.training.buffer import FrameBuffer
from worldsim.training.corruption import PerturbConfig
from worldsim.training.painted import PaintedConfig, PaintedViews
from worldsim.training.rollout import unpack_invented, unpack_view

COLUMNS = 13
PARTS = 8


@dataclass(frozen=True)
class Config:
    """Settings."""

    data: Path
    """A recording with geometry."""
    out: Path
    """Folder of the results."""
    episodes: int = 4
    """Walks."""
    memory_capacity: int = 81_920
    """Points per walk."""
    painted: PaintedConfig = field(default_factory=lambda: PaintedConfig(share=1.0))
    """How they are painted."""


def main(config: Config) -> None:
    """Measure, write and print the shares."""
    arrays, _ = EpisodeDataset(config.data).load_shard(0)
    ends = np.asarray(arrays["episode_start"])[: config.episodes + 1]
    shard = {
        name: ends if name == "episode_start" else values if name == "intrinsics" else
        values[: ends[-1]]
        for name, values in arrays.items()
    }  # fmt: skip
    lengths = np.diff(ends)
    memory = PointMemory(PointMemoryConfig(capacity=config.memory_capacity))
    painter = open_painter_of(config.painted)
    assert painter is not None
    views = PaintedViews(painter, memory, config.painted)
    clean = replace(PerturbConfig(), own=0.0)
    buffer = FrameBuffer(
        int(ends[-1]), 12, memory, torch.device("cpu"), clean, config.episodes, painted=views
    )
    buffer.add(shard)
    buffer.remember(0, shown=True)
    packed = buffer._data["view"][: int(ends[-1])]
    view, painted = unpack_view(packed), unpack_invented(packed)
    at = np.concatenate([np.arange(n) * PARTS // n for n in lengths])
    shares = {
        name: [
            round(float(mask[torch.from_numpy(at == k)].float().mean()), 4) for k in range(PARTS)
        ]
        for name, mask in (("known", view.mask), ("painted", painted))
    }
    told = {
        "episodes": config.episodes, "frames": int(ends[-1]), "views": views.count, **shares,
        "painted_of_all": round(float(painted.float().mean()), 4),
        "settings": to_json(config.painted),
    }  # fmt: skip
    rows = {}
    for e in range(config.episodes):
        times = ends[e] + np.linspace(0, lengths[e] - 1, COLUMNS).round().astype(int)
        rgb = buffer._data["rgb"][times], view.rgb[times], view.rgb[times] * painted[times, None]
        for name, frames in zip(("true", "memory", "painted"), rgb, strict=True):
            rows[f"{e} {name}"] = [frame.permute(1, 2, 0).numpy() for frame in frames]
    write_json(config.out / "painted_walks.json", told)
    print(json.dumps(told), flush=True)
    columns = [f"{k} of {COLUMNS - 1}" for k in range(COLUMNS)]
    save_picture(contact_sheet(rows, columns), config.out / "walks.png")


if __name__ == "__main__":
    main(tyro.cli(Config))
