"""Recordings to Minari and back, and real Minari datasets as recordings: bit for bit."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from worldsim.data.episode import Episode
from worldsim.data.minari import (
    ExportMinariConfig,
    ImportMinariConfig,
    export_minari,
    import_minari,
)
from worldsim.data.record import RecordConfig, record
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.runtime.json_config import from_json
from worldsim.world.image_env import PixelsConfig, make_pixels

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
EpisodeBuffer = importlib.import_module("minari.data_collector").EpisodeBuffer
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def same(a: Episode, b: Episode) -> None:
    for name in ("rgb", "act", "rew", "term", "trunc", "inverse_depth", "pose", "intrinsics"):
        mine, other = getattr(a, name), getattr(b, name)
        assert (mine is None) == (other is None), name
        if mine is not None:
            assert mine.dtype == other.dtype, name
            np.testing.assert_array_equal(mine, other, err_msg=name)


def test_a_recording_comes_back_as_it_was(tmp_path: Path) -> None:
    """With geometry, in several shards."""
    config = RecordConfig(
        "worldsim/TinyRoom-v0",
        tmp_path / "data",
        frames=90,
        frames_per_shard=30,
        episode_steps=14,
        min_travel=0.0,
        workers=0,
        env_kwargs={"size": 16},
        seed=5,
    )
    before = record(config)
    exported = export_minari(ExportMinariConfig(tmp_path / "data", "worldsim/room-v0"))
    assert exported.total_episodes == len(before) == 6 and exported.total_steps == 6 * 14
    assert exported.action_space == gym.spaces.Discrete(7) and exported.observation_space.shape == (
        16,
        16,
        3,
    )
    after = import_minari(ImportMinariConfig("worldsim/room-v0", tmp_path / "back"))
    assert len(after) == len(before)
    for a, b in zip(before, after, strict=True):
        same(a, b)
    assert dataclasses.replace(after.info, versions=before.info.versions) == before.info
    with pytest.raises(
        InvalidInputError, match="Minari refuses 'worldsim/room-v0'.*use another name"
    ):
        export_minari(ExportMinariConfig(tmp_path / "data", "worldsim/room-v0"))
    with pytest.raises(InvalidInputError, match="Minari refuses 'no version'"):
        export_minari(ExportMinariConfig(tmp_path / "data", "no version"))
    with pytest.raises(InvalidInputError, match="holds a recording already"):
        import_minari(ImportMinariConfig("worldsim/room-v0", tmp_path / "back"))
    with pytest.raises(
        NotFoundError, match="no Minari dataset 'nothing/here-v0'.*worldsim/room-v0"
    ):
        import_minari(ImportMinariConfig("nothing/here-v0", tmp_path / "other"))


def test_ends_of_vizdoom_come_back(tmp_path: Path) -> None:
    """Deaths, cut episodes and rewards of the engine."""
    pytest.importorskip("vizdoom")
    config = RecordConfig(
        "VizdoomTakeCover-v1",
        tmp_path / "data",
        frames=120,
        workers=0,
        size=(16, 16),
        episode_steps=60,
        policy="random",
        env_kwargs={"frame_skip": 4, "max_episode_steps": 60},
    )
    before = record(config)
    assert any(e.term.any() for e in before) or any(e.trunc.any() for e in before)
    export_minari(ExportMinariConfig(tmp_path / "data", "doom/take-cover-v0"))
    after = import_minari(ImportMinariConfig("doom/take-cover-v0", tmp_path / "back"))
    for a, b in zip(before, after, strict=True):
        same(a, b)
    assert (
        after.info.pixels == before.info.pixels and after.info.env_kwargs == before.info.env_kwargs
    )
    # As if it had been recorded smaller.
    small = import_minari(ImportMinariConfig("doom/take-cover-v0", tmp_path / "small", size=(8, 8)))
    assert small[0].rgb.shape[1:] == (8, 8, 3) and small.info.pixels == {
        "size": [8, 8],
        "key": "screen",
        "render": False,
    }


def test_a_dataset_that_minari_made(tmp_path: Path) -> None:
    """Continuous actions and an environment's specification: made without worldsim, imported,
    exported and the same again."""
    pytest.importorskip("Box2D")
    env, buffers = gym.make("CarRacing-v3", max_episode_steps=8), []
    for seed in range(2):
        frames, acts, rews, terms, truncs = [env.reset(seed=seed)[0]], [], [], [], []
        env.action_space.seed(seed)
        while not truncs or not truncs[-1]:
            acts.append(env.action_space.sample())
            obs, rew, term, trunc, _ = env.step(acts[-1])
            frames.append(obs), rews.append(rew), terms.append(term), truncs.append(trunc)
        buffers.append(
            EpisodeBuffer(
                observations=np.stack(frames),
                actions=np.stack(acts),
                rewards=rews,
                terminations=terms,
                truncations=truncs,
            )
        )
    made = minari.create_dataset_from_buffers(
        "cars/random-v0", buffers, env=env, algorithm_name="random", jpeg_encoding=False
    )
    dataset = import_minari(ImportMinariConfig("cars/random-v0", tmp_path / "cars", size=(64, 64)))
    for data, episode in zip(made.iterate_episodes(), dataset, strict=True):
        assert episode.rgb.shape == (9, 64, 64, 3) and episode.trunc.tolist() == [False] * 7 + [
            True,
            False,
        ]
        np.testing.assert_array_equal(episode.act[:-1], data.actions)
        np.testing.assert_array_equal(episode.rew[:-1], data.rewards.astype(np.float32))
    info = dataset.info
    assert (info.env_id, info.policy, info.env_kwargs) == (
        "CarRacing-v3",
        "random",
        {"max_episode_steps": 8},
    )
    twin = make_pixels(info.env_id, info.env_kwargs, from_json(PixelsConfig, info.pixels))  # type: ignore[arg-type]
    np.testing.assert_array_equal(twin.reset(seed=1)[0], dataset[1].rgb[0])
    whole = import_minari(ImportMinariConfig("cars/random-v0", tmp_path / "whole"))
    np.testing.assert_array_equal(whole[0].rgb, buffers[0].observations)
    export_minari(ExportMinariConfig(tmp_path / "cars", "cars/small-v0"))
    for a, b in zip(
        dataset, import_minari(ImportMinariConfig("cars/small-v0", tmp_path / "again")), strict=True
    ):
        same(a, b)


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    env = gym.make("CartPole-v1")
    buffer = EpisodeBuffer(
        observations=np.zeros((3, 4), np.float32),
        actions=np.zeros(2, np.int64),
        rewards=[1.0, 1.0],
        terminations=[False, True],
        truncations=[False, False],
    )
    minari.create_dataset_from_buffers("cart/pole-v0", [buffer], env=env)
    with pytest.raises(
        InvalidInputError, match=r"observes Box.*images, Box uint8 of \(h, w, 3\), are needed"
    ):
        import_minari(ImportMinariConfig("cart/pole-v0", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_data_of_other_files_is_not_imported(tmp_path: Path) -> None:
    """HDF5 can have a dataset's bytes, or a link's target, in any file of the disk."""
    h5py = importlib.import_module("h5py")
    config = RecordConfig(
        "worldsim/TinyRoom-v0",
        tmp_path / "data",
        frames=20,
        episode_steps=9,
        min_travel=0.0,
        workers=0,
        env_kwargs={"size": 8},
    )
    record(config)
    exported = export_minari(ExportMinariConfig(tmp_path / "data", "worldsim/room-v0"))
    (path,) = Path(exported.storage.data_path).glob("*.hdf5")
    del exported
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 10 * 8 * 8 * 3)
    with h5py.File(path, "a") as file:
        episode = file["episode_0"]
        shape, kept = episode["observations"].shape, episode["observations"][:]
        del episode["observations"]
        size = int(np.prod(shape))
        episode.create_dataset("observations", shape, np.uint8, external=[(str(secret), 0, size)])
    with pytest.raises(DamagedFileError, match="only the file's own data is imported"):
        import_minari(ImportMinariConfig("worldsim/room-v0", tmp_path / "back"))
    with h5py.File(path, "a") as file:
        del file["episode_0"]["observations"]
        file["episode_0"]["observations"] = h5py.ExternalLink(str(secret), "/x")
    with pytest.raises(DamagedFileError, match="only the file's own data is imported"):
        import_minari(ImportMinariConfig("worldsim/room-v0", tmp_path / "back"))
    with h5py.File(path, "a") as file:
        del file["episode_0"]["observations"]
        file["episode_0"].create_dataset("observations", data=kept)
    assert len(import_minari(ImportMinariConfig("worldsim/room-v0", tmp_path / "back"))) == 2
