"""Sets of views: their files, and depths that disagree."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.camera import quantise_depth
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.painting.training.views import (
    ViewSets,
    disagreement,
    join,
    load_view_sets,
    save_view_sets,
)


def some_sets(count: int = 3, views: int = 9, size: int = 16, seed: int = 0) -> ViewSets:
    """Random pictures of a wall two metres ahead, cameras a little apart."""
    rng = np.random.default_rng(seed)
    pose = np.tile(np.eye(4, dtype=np.float32), (count, views, 1, 1))
    pose[:, :, 0, 3] = rng.uniform(-0.5, 0.5, (count, views))
    depth = torch.full((count, views, size, size), 2.0)
    return ViewSets(
        rgb=rng.integers(0, 256, (count, views, size, size, 3), dtype=np.uint8),
        inverse_depth=quantise_depth(depth).numpy().astype(np.uint16),
        pose=pose,
        intrinsics=np.array([size / 2, size / 2, size / 2, size / 2], np.float32),
        attributes=rng.uniform(0, 1, (count, views, 2)).astype(np.float32),
        names=("brick", "sky"),
        maps=tuple(f"MAP{i}" for i in range(count)),
    )


def test_sets_come_back_from_their_file(tmp_path: Path):
    sets = some_sets()
    save_view_sets(sets, tmp_path / "views-00000.safetensors")
    loaded = load_view_sets(tmp_path / "views-00000.safetensors")
    for field in dataclasses.fields(sets):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(sets, field.name))
    assert len(join([sets, loaded])) == 6


def test_bad_sets_are_named(tmp_path: Path):
    sets = some_sets()
    with pytest.raises(InvalidInputError, match="inverse_depth"):
        dataclasses.replace(sets, inverse_depth=sets.inverse_depth[:1])
    with pytest.raises(InvalidInputError, match="maps"):
        dataclasses.replace(sets, maps=())
    with pytest.raises(InvalidInputError, match="0 parts"):
        join([])
    (tmp_path / "views.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DamagedFileError):
        load_view_sets(tmp_path / "views.safetensors")


def test_a_still_wall_agrees_and_a_door_does_not():
    sets = some_sets(2)
    code = torch.from_numpy(sets.inverse_depth.astype(np.int32))
    # In the second set a door opens between the views: some see 6 m deep.
    code[1, 5:] = quantise_depth(torch.tensor(6.0))
    found = disagreement(code, torch.from_numpy(sets.pose), torch.from_numpy(sets.intrinsics))
    assert found[0] == 0.0
    assert found[1] > 0.1


def test_what_is_hidden_does_not_disagree():
    sets = some_sets(1)
    code = torch.from_numpy(sets.inverse_depth.astype(np.int32))
    # Something stands before one camera: its view ends nearer than what the others know.
    code[0, 0] = quantise_depth(torch.tensor(1.95))
    found = disagreement(code, torch.from_numpy(sets.pose), torch.from_numpy(sets.intrinsics))
    assert found[0] == 0.0
