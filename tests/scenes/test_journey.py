"""A journey as starts: the scene's contract, and starts in each of its places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.halls import INTRINSICS, SIZE, HallPainter
from tests.helpers.worlds import make_tiny_world
from worldsim.errors import NotFoundError
from worldsim.painting.journeys.journey import JourneyConfig
from worldsim.painting.validation.validator import Validator
from worldsim.protocols import FittingScene, Scene
from worldsim.scenes.journey import Journey
from worldsim.testing import check_scene

SETTINGS = JourneyConfig(headings=6, nearest=3.0, furthest=4.0)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Journey:
    folder = tmp_path_factory.mktemp("journey")
    checks = Validator(names=("nearest", "room"))
    return Journey(HallPainter(), length=2, config=SETTINGS, folder=folder, validator=checks)


def test_fulfils_the_contract(scene: Journey):
    world = make_tiny_world(intrinsics=INTRINSICS)
    assert isinstance(scene, Scene) and isinstance(scene, FittingScene)
    check_scene(scene, world)
    assert scene.fit_to(world).fit_to(world).world is world


def test_each_place_is_a_start_with_the_whole_memory(scene: Journey):
    assert scene.names() == ["place-1", "place-2"]
    first, second = (scene.load(name) for name in scene.names())
    assert first.rgb.shape == (1, 3, SIZE, SIZE) and not bool((first.pose == second.pose).all())
    assert first.intrinsics.tolist() == pytest.approx(INTRINSICS)
    assert first.memory.capacity == second.memory.capacity > 5000
    names = {scene.start(np.random.default_rng(seed)).name for seed in range(8)}
    assert names == {"place-1", "place-2"}
    with pytest.raises(NotFoundError, match="place-1, place-2"):
        scene.load("place-9")


def test_a_journey_kept_in_a_folder_is_not_made_again(scene: Journey):
    assert len(scene.trip) == 2
    painter = HallPainter()
    again = Journey(
        painter,
        length=2,
        config=replace(SETTINGS),
        folder=Path(scene.folder or ""),
        validator=scene.maker.validator,
    )
    assert again.trip.stops == scene.trip.stops and painter.calls == 0
