"""Small recordings to train on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from worldsim.data.dataset import EpisodeDataset, EpisodeWriter
from worldsim.data.record import RecordConfig, record

SIZE = 32


def recording(out: Path, split: str = "train", **env: Any) -> Path:
    """Two shards of two 32-frame episodes each."""
    settings: dict[str, Any] = {"size": SIZE, **env}
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


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording(tmp_path_factory.mktemp("recorded") / "rooms")


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory, rooms: Path) -> Path:
    """The same recording without depth and poses."""
    out = tmp_path_factory.mktemp("recorded") / "blind"
    dataset = EpisodeDataset(rooms)
    with EpisodeWriter(
        out, dataclasses.replace(dataset.info, geometry=False, intrinsics=None)
    ) as writer:
        for episode in dataset:
            writer.add(dataclasses.replace(episode, inverse_depth=None, pose=None, intrinsics=None))
    return out
