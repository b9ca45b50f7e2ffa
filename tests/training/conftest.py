"""Small recordings to train on. Tests must not write there."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.helpers.recordings import recording
from worldsim.data.dataset import EpisodeDataset, EpisodeWriter


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording(tmp_path_factory.mktemp("recorded") / "rooms")


@pytest.fixture(scope="session")
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
