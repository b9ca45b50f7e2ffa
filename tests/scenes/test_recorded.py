"""Recorded scenes: drawing, names, and what is missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from worldsim.errors import NotFoundError
from worldsim.scenes.recorded import RecordedScenes
from worldsim.testing import ContractError, check_scene
from worldsim.world import World
from worldsim.world.files import find_world


def test_names_and_draws(scenes_folder: Path, tiny_world: World) -> None:
    scenes = RecordedScenes(scenes_folder)
    check_scene(scenes, tiny_world)
    assert scenes.names() == [f"room-{room}-{i}" for room in (6, 7) for i in (1, 2, 3)]
    drawn = [scenes.start(np.random.default_rng(seed)).name for seed in range(40)]
    assert set(drawn) == set(scenes.names())
    assert drawn == [scenes.start(np.random.default_rng(seed)).name for seed in range(40)]
    assert scenes.load("room-7-2").name == "room-7-2"


def test_missing(scenes_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"MAP30-9.*room-6-1, room-6-2"):
        RecordedScenes(scenes_folder).load("MAP30-9")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError, match="no start scenes"):
            RecordedScenes(folder).start(np.random.default_rng(0))


@pytest.mark.parametrize("name", ["freedoom-tiny", "freedoom-small"])
def test_shipped_starts_can_be_seen(name: str) -> None:
    """Reproduces: reset with seed 0 was nearly black; a quarter of the starts were."""
    scenes = RecordedScenes(find_world(name) / "scenes")
    assert all(float(scenes.load(one).rgb[-1].float().mean()) > 33.0 for one in scenes.names())


def test_the_contract_names_what_is_broken(scenes_folder: Path, tiny_world: World) -> None:
    scenes = RecordedScenes(scenes_folder)

    class Restless:
        def start(self, rng: np.random.Generator) -> object:
            return scenes.load(str(np.random.choice(scenes.names())))

    class Blind:
        def start(self, rng: np.random.Generator) -> object:
            return dataclasses.replace(scenes.start(rng), pose=None)

    with pytest.raises(ContractError, match=r"global random numbers|gives other starts"):
        check_scene(Restless(), tiny_world)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="does not accept the start"):
        check_scene(Blind(), tiny_world)  # type: ignore[arg-type]
