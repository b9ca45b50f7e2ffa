"""Recordings of small rooms: data sets on disk, and shards in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldsim.camera import quantise_depth
from worldsim.data.record import RecordConfig, record
from worldsim.envs.tiny_room import TinyRoom

DATASET_SIZE = 32


def recording(out: Path, split: str = "train", **env: Any) -> Path:
    """Two shards of two 32-frame episodes each."""
    settings: dict[str, Any] = {"size": DATASET_SIZE, **env}
    record(
        RecordConfig(
            "worldsim/TinyRoom-v0",
            out,
            frames=128,
            frames_per_shard=64,
            episode_steps=31,
            min_travel=0.0,
            workers=0,
            env_kwargs=settings,
            reset_options={"split": split},
        )
    )
    return out


SIZE = 16
Shard = dict[str, np.ndarray]


def plain(*lengths: int, first: int = 0, ended: bool = False) -> Shard:
    """Episodes without geometry; frame k of the recording is filled with k, its action is k + 1,
    its reward k / 2.

    ended: they end by themselves, else they are cut off. One pixel of each frame is black, so that
    none is of one colour.
    """
    k = np.arange(first, first + sum(lengths))
    start = np.cumsum([0, *lengths])
    last = np.isin(np.arange(len(k)), start[1:] - 1)
    over = np.isin(np.arange(len(k)), start[1:] - 2)
    rgb = np.broadcast_to(k.astype(np.uint8)[:, None, None, None], (len(k), 2, 2, 3)).copy()
    rgb[:, 1, 1] = 255
    return {
        "rgb": rgb,
        "act": np.where(last, 0, k + 1),
        "rew": np.where(last, 0, k / 2).astype(np.float32),
        "term": over & ended,
        "trunc": over & (not ended),
        "episode_start": start,
    }


def room(*lengths: int) -> Shard:
    """Walks through a small room, one episode a length."""
    env, rng = TinyRoom(size=SIZE), np.random.default_rng(0)
    frames: dict[str, list[Any]] = {k: [] for k in ("rgb", "act", "pose", "depth")}
    for number, length in enumerate(lengths):
        rgb, info = env.reset(seed=number, options={"map": f"room-{number}"})
        for i in range(length):
            act = int(rng.integers(7)) if i < length - 1 else 0
            for name, value in (
                ("rgb", rgb),
                ("act", act),
                ("pose", info["pose"]),
                ("depth", info["depth"]),
            ):
                frames[name].append(value)
            if i < length - 1:
                rgb, _, _, _, info = env.step(act)
    count = sum(lengths)
    return {
        "rgb": np.stack(frames["rgb"]),
        "act": np.array(frames["act"]),
        "rew": np.zeros(count, np.float32),
        "term": np.zeros(count, bool),
        "trunc": np.zeros(count, bool),
        "episode_start": np.cumsum([0, *lengths]),
        "pose": np.stack(frames["pose"]),
        "inverse_depth": quantise_depth(torch.from_numpy(np.stack(frames["depth"])))
        .numpy()
        .astype(np.uint16),
        "intrinsics": env.intrinsics,
    }
