"""Datasets on disk: what is written is read back; what is damaged is named, and nothing else is
lost."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from worldsim.data.dataset import DatasetInfo, EpisodeDataset, EpisodeWriter, read_shard
from worldsim.data.episode import Episode
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.runtime.json_config import write_sealed

pytestmark = pytest.mark.fast

INFO = DatasetInfo(
    env_id="hand/Made-v0",
    observation_space={"shape": [2, 3, 3], "dtype": "uint8"},
    action_space={"type": "Discrete", "n": 7},
)


def episode(number: int, t: int = 5, geometry: bool = True) -> Episode:
    """Frames filled with 10 * number + i, all else derived from them."""
    i = np.arange(t)
    flags = np.zeros(t, bool)
    ends = flags.copy()
    ends[t - 2] = True
    pose = np.tile(np.eye(4, dtype=np.float32), (t, 1, 1))
    pose[:, 0, 3] = i
    rgb = np.broadcast_to(
        (10 * number + i).astype(np.uint8)[:, None, None, None], (t, 2, 3, 3)
    ).copy()
    return Episode(
        rgb=rgb,
        act=np.where(i < t - 1, number % 7, 0).astype(np.int64),
        rew=np.where(i < t - 1, 0.5 * i, 0).astype(np.float32),
        term=flags,
        trunc=ends,
        inverse_depth=np.full((t, 2, 3), 65535 - number, np.uint16) if geometry else None,
        pose=pose if geometry else None,
        intrinsics=np.array([1.5, 1.5, 1.5, 1.0], np.float32) if geometry else None,
        info={"seed": number, "map": f"room-{number}"},
    )


def written(path: Path, count: int = 5, geometry: bool = True) -> EpisodeDataset:
    """``count`` episodes of 5 frames, two a shard."""
    with EpisodeWriter(path, INFO, frames_per_shard=10) as writer:
        for number in range(count):
            writer.add(episode(number, geometry=geometry))
    return EpisodeDataset(path)


def assert_same(a: Episode, b: Episode) -> None:
    for name in ("rgb", "act", "rew", "term", "trunc", "inverse_depth", "pose", "intrinsics"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        if getattr(a, name) is not None:
            assert getattr(a, name).dtype == getattr(b, name).dtype
    assert a.info == b.info


@pytest.mark.parametrize("geometry", [True, False])
def test_what_is_written_is_read_back(tmp_path: Path, geometry: bool) -> None:
    dataset = written(tmp_path, geometry=geometry)
    assert [(s.file, s.frames, s.episodes) for s in dataset.shards] == [
        ("shard-00000.safetensors", 10, 2),
        ("shard-00001.safetensors", 10, 2),
        ("shard-00002.safetensors", 5, 1),
    ]
    assert (len(dataset), dataset.frames, dataset.info.geometry) == (5, 25, geometry)
    assert dataset.info.intrinsics == ([1.5, 1.5, 1.5, 1.0] if geometry else None)
    for number, got in enumerate(dataset):
        assert_same(got, episode(number, geometry=geometry))
    assert_same(dataset[-1], episode(4, geometry=geometry))
    assert [e.info["seed"] for e in dataset[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        dataset[5]
    assert dataset.verify() == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset.json"] + [
        f"shard-0000{i}.safetensors" for i in range(3)
    ]


def test_a_shard_is_laid_out_as_documented(tmp_path: Path) -> None:
    arrays, episodes = written(tmp_path).load_shard(1)
    assert arrays["episode_start"].tolist() == [0, 5, 10]
    assert arrays["rgb"][:, 0, 0, 0].tolist() == [20, 21, 22, 23, 24, 30, 31, 32, 33, 34]
    assert arrays["act"].tolist() == [2, 2, 2, 2, 0, 3, 3, 3, 3, 0]
    assert arrays["trunc"].tolist() == [False, False, False, True, False] * 2
    assert arrays["inverse_depth"].dtype == np.uint16 and arrays["inverse_depth"][0, 0, 0] == 65533
    assert arrays["pose"].shape == (10, 4, 4) and arrays["intrinsics"].shape == (4,)
    assert [e["map"] for e in episodes] == ["room-2", "room-3"]
    index = json.loads((tmp_path / "dataset.json").read_text())
    assert (index["format"], index["version"], index["env_id"]) == (
        "worldsim-dataset",
        2,
        "hand/Made-v0",
    )


def test_reading_maps_the_file_and_cannot_alter_it(tmp_path: Path) -> None:
    dataset = written(tmp_path)
    rgb = dataset.load_shard(0).arrays["rgb"]
    assert dataset.load_shard(0).arrays["rgb"] is rgb
    assert np.shares_memory(dataset[0].rgb, rgb)
    with pytest.raises(ValueError, match="read-only"):
        rgb[0] = 1


def test_refresh_picks_up_what_was_recorded_since(tmp_path: Path) -> None:
    dataset = written(tmp_path, count=2)
    assert (dataset.refresh(), len(dataset)) == (0, 2)
    with EpisodeWriter(tmp_path, INFO, frames_per_shard=10) as writer:
        for number in range(2, 5):
            writer.add(episode(number))
    assert (len(dataset), dataset.refresh(), len(dataset), dataset.frames) == (2, 2, 5, 25)
    for number, got in enumerate(dataset):
        assert_same(got, episode(number))


def test_refresh_refuses_another_recording(tmp_path: Path) -> None:
    dataset = written(tmp_path, count=2)
    index = json.loads((tmp_path / "dataset.json").read_text())
    index["shards"][0]["sha256"] = "0" * 64
    write_sealed(tmp_path / "dataset.json", index)
    with pytest.raises(DamagedFileError, match="replaced by another recording"):
        dataset.refresh()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:40] = b"x" * 32
    path.write_bytes(bytes(content))


def replace_by_other(path: Path) -> None:
    save_file({"rgb": np.zeros(3)}, path)


def shorten_one_tensor(path: Path) -> None:
    metadata = {"format": "worldsim-episodes", "version": "1", "episodes": "[{}, {}]"}
    save_file({**load_file(path), "act": np.zeros(9, np.int64)}, path, metadata=metadata)


def drop_poses(path: Path) -> None:
    tensors = {k: v for k, v in load_file(path).items() if k != "pose"}
    save_file(
        tensors,
        path,
        metadata={"format": "worldsim-episodes", "version": "1", "episodes": "[{}, {}]"},
    )


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, garble_header, replace_by_other, shorten_one_tensor, drop_poses, Path.unlink],
)
def test_a_damaged_shard_is_named_and_the_others_stay_readable(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    written(tmp_path)
    damage(tmp_path / "shard-00001.safetensors")
    before = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    with pytest.raises(DamagedFileError, match=r"shard-00001\.safetensors.*worldsim record"):
        EpisodeDataset(tmp_path)
    with pytest.warns(UserWarning, match=r"shard-00001\.safetensors"):
        dataset = EpisodeDataset(tmp_path, on_damaged="skip")
    assert (len(dataset), dataset.frames, dataset.readable) == (3, 15, (0, 2))
    assert dataset.damaged == ("shard-00001.safetensors",) == dataset.verify()
    assert [e.info["seed"] for e in dataset] == [0, 1, 4]
    assert {p.name: p.stat().st_size for p in tmp_path.iterdir()} == before


def test_a_changed_byte_is_found_by_verify(tmp_path: Path) -> None:
    dataset = written(tmp_path)
    path = tmp_path / "shard-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=r"not as recorded: shard-00002\.safetensors\."):
        dataset.verify()


def test_newer_versions_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "shard-00000.safetensors"
    save_file(
        load_file(path),
        path,
        metadata={"format": "worldsim-episodes", "version": "2", "episodes": "[{}, {}]"},
    )
    with pytest.raises(DamagedFileError, match=r"shard-00000.* version '2'.*newer worldsim"):
        read_shard(path)
    index = json.loads((tmp_path / "dataset.json").read_text())
    for change, message in (
        ({"version": 7}, r"dataset\.json has version 7.*upgrade worldsim"),
        ({"format": "photos"}, "format 'photos'"),
        ({"extra": 1}, "extra"),
        ({"shards": [{"file": "x"}]}, "frames"),
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(DamagedFileError, match=message):
            EpisodeDataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format": "worlds')
    with pytest.raises(DamagedFileError, match="not valid JSON"):
        EpisodeDataset(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere.*worldsim record"):
        EpisodeDataset(tmp_path / "nowhere")
    with pytest.raises(MissingGeometryError, match="hand/Made-v0.*without memory"):
        written(tmp_path, geometry=False) and EpisodeDataset(tmp_path, require_geometry=True)
    with pytest.raises(InvalidInputError, match="'ignore'"):
        EpisodeDataset(tmp_path, on_damaged="ignore")  # type: ignore[arg-type]


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    written(tmp_path)
    with EpisodeWriter(tmp_path, INFO) as writer:
        with pytest.raises(InvalidInputError, match="episode 5: inverse_depth is nothing"):
            writer.add(episode(5, geometry=False))
        with pytest.raises(InvalidInputError, match="frames are"):
            wide = episode(5, geometry=False)
            writer.add(
                Episode(np.zeros((5, 4, 3, 3), np.uint8), wide.act, wide.rew, wide.term, wide.trunc)
            )
        zoomed = episode(5)
        zoomed.intrinsics[0] = 9  # type: ignore[index]
        with pytest.raises(InvalidInputError, match="intrinsics"):
            writer.add(zoomed)
    other = DatasetInfo("hand/Other-v0", INFO.observation_space, INFO.action_space)
    with pytest.raises(
        InvalidInputError, match="env_id = 'hand/Made-v0', this recording 'hand/Other-v0'"
    ):
        EpisodeWriter(tmp_path, other)
    assert len(EpisodeDataset(tmp_path)) == 5


def read_in_another_process(dataset: EpisodeDataset) -> int:
    return int(dataset[3].rgb[0, 0, 0, 0])


def test_a_dataset_travels_to_other_processes(tmp_path: Path) -> None:
    dataset = written(tmp_path)
    assert dataset[3].rgb[0, 0, 0, 0] == 30
    state = dataset.__getstate__()
    assert state["_open"] == {}
    twin = EpisodeDataset.__new__(EpisodeDataset)
    twin.__dict__.update(state)
    assert_same(twin[3], dataset[3])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(read_in_another_process, (dataset,)) == 30
