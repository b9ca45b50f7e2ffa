"""Training on a recording in a store, of which shards arrive as they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.training import assert_equal, train_config
from worldsim.data.dataset import ShardInfo
from worldsim.data.record import RecordConfig, record
from worldsim.data.remote import RemoteDataset, open_dataset
from worldsim.training.train import train


def test_the_same_world_as_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard is fetched once, and few of them are on the disk at a time."""
    settings = {"frames": 6 * 40, "frames_per_shard": 40, "episode_steps": 20, "min_travel": 0.0}
    url, folder = "memory://worldsim-train/rooms", tmp_path / "rooms"
    for out in (url, folder):
        record(RecordConfig("worldsim/TinyRoom-v0", out, workers=0, **settings))
    fetched: list[str] = []
    kept: list[int] = []
    download = RemoteDataset._download

    def watched(self: RemoteDataset, entry: ShardInfo) -> None:
        download(self, entry)
        fetched.append(entry.file)
        kept.append(len(list(self.path.glob("*.safetensors"))))

    monkeypatch.setattr(RemoteDataset, "_download", watched)
    far, near = (
        train(train_config(data, tmp_path / name, scenes=0))
        for name, data in (("far", url), ("near", folder))
    )
    assert_equal(far.network.state_dict(), near.network.state_dict())
    assert sorted(set(fetched)) == [shard.file for shard in open_dataset(folder).shards]
    assert len(fetched) <= 7 and max(kept) <= 4
