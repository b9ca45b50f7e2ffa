"""Look-arounds: the recorder with a made-up surveyor, and the real engine in its maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from worldsim.errors import InvalidInputError
from worldsim.painting.training.lookaround import (
    LookAround,
    LookAroundConfig,
    load_folder,
    play_shard,
    record_look_arounds,
    shard_files,
    shard_path,
)


class Wall:
    """A surveyor before a wall; at a third of its places, one view's depth is of elsewhere."""

    names = ("brick",)

    def __init__(self, height: int, width: int) -> None:
        self.size = height, width
        self.intrinsics = np.array([width / 2, height / 2, width / 2, height / 2], np.float32)

    def begin(self, split: str, rng: np.random.Generator) -> str:
        return f"{split}-{rng.integers(100)}"

    def look_around(
        self, headings: int, displaced: int, reach: tuple[float, float], rng: np.random.Generator
    ) -> LookAround | None:
        k = headings + displaced
        depth = np.full((k, *self.size), 2.0, np.float32)
        if rng.random() < 1 / 3:
            depth[0] = 8.0
        pose = np.tile(np.eye(4, dtype=np.float32), (k, 1, 1))
        rgb = rng.integers(0, 256, (k, *self.size, 3), dtype=np.uint8)
        return LookAround(rgb, depth, pose, np.ones((k, 1), np.float32))

    def close(self) -> None:
        pass


def config_at(out: Path, **changes: object) -> LookAroundConfig:
    config = LookAroundConfig(
        out=out,
        sets=6,
        sets_per_shard=4,
        surveyor=f"{__name__}:Wall",
        height=8,
        width=8,
        workers=0,
        seed=3,
    )
    return dataclasses.replace(config, **changes)


def test_shards_depend_on_their_number_alone_and_disagreeing_sets_are_left_out(tmp_path: Path):
    config = config_at(tmp_path)
    first, left_out = play_shard(Wall(8, 8), config, 1)
    again, _ = play_shard(Wall(8, 8), config, 1)
    assert len(first) == 4 and left_out == 2
    np.testing.assert_array_equal(first.rgb, again.rgb)
    assert len(set(first.maps)) == 1 and first.names == ("brick",)


def test_a_recording_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "worldsim.painting.training.lookaround._make",
        lambda config: Wall(config.height, config.width),
    )
    config = config_at(tmp_path)
    assert record_look_arounds(config)["kept"] == 8
    before = shard_path(tmp_path, 1).read_bytes()
    shard_path(tmp_path, 1).unlink()
    assert record_look_arounds(config)["kept"] == 4
    assert shard_path(tmp_path, 1).read_bytes() == before
    assert [len(sets) for sets in load_folder(tmp_path)] == [4, 4]
    assert len(shard_files(tmp_path)) == 2


def test_a_place_where_nothing_agrees_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("worldsim.painting.training.lookaround.MAX_DROPPED", 5)
    monkeypatch.setattr(Wall, "look_around", lambda *_: None)
    with pytest.raises(InvalidInputError, match="5 look-arounds in a row"):
        play_shard(Wall(8, 8), config_at(tmp_path), 0)


def test_reach_is_checked(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="nearest"):
        config_at(tmp_path, nearest=7.0)


def test_the_real_engine_looks_around(tmp_path: Path):
    pytest.importorskip("vizdoom")
    from worldsim.envs.doom import TRAIN_MAPS
    from worldsim.envs.doom_survey import DoomSurveyor

    config = LookAroundConfig(out=tmp_path, sets_per_shard=3, height=32, width=32, seed=1)
    surveyor = DoomSurveyor(32, 32)
    try:
        sets, _ = play_shard(surveyor, config, 0)
    finally:
        surveyor.close()
    assert sets.rgb.shape == (3, 14, 32, 32, 3)
    assert set(sets.maps) <= set(TRAIN_MAPS)
    position, forward = sets.pose[:, :, :3, 3], sets.pose[:, :, :3, 2]
    # The headings share one place and are 45 degrees apart; the others stand within reach of it.
    np.testing.assert_allclose(position[:, :8], position[:, :1].repeat(8, 1), atol=0.05)
    cosine = (forward[:, :7] * forward[:, 1:8]).sum(-1)
    np.testing.assert_allclose(cosine, np.sqrt(0.5), atol=0.01)
    away = np.linalg.norm((position[:, 8:] - position[:, :1])[..., :2], axis=-1)
    assert (away > 0).all() and (away <= config.furthest + 0.1).all()
    assert ((sets.attributes >= 0) & (sets.attributes <= 1)).all()
    walls = sets.attributes[..., :12].sum(-1)
    assert (walls <= 1.0 + 1e-6).all() and walls.max() > 0.3
    sky = (sets.inverse_depth == 0).mean((2, 3))
    np.testing.assert_allclose(sets.attributes[..., sets.names.index("sky")], sky, atol=1e-3)
