"""What a server offers: shipped worlds are described without their weights; variants are shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldsim.errors import NotFoundError
from worldsim.sessions.agents import installed_policy
from worldsim.sessions.catalogue import Catalogue, VariantKey
from worldsim.sessions.protocol import Settings
from worldsim.world import World
from worldsim.world.files import shipped_worlds


def test_shipped_worlds_are_described_without_loading_them() -> None:
    catalogue = Catalogue(device="cpu")
    worlds = {world.name: world for world in catalogue.describe()}
    assert sorted(worlds) == shipped_worlds() and catalogue.loaded == []
    assert not any(world.error for world in worlds.values())
    tiny, car, cover = worlds["freedoom-tiny"], worlds["carracing"], worlds["takecover"]
    assert (tiny.height, tiny.width, tiny.fps, tiny.memory) == (64, 64, 8.75, True)
    assert tiny.actions is not None and tiny.actions.names[3] == "turn left"
    assert len(tiny.scenes) == 32 and tiny.results["next_frame_psnr"] > 25
    assert car.actions is not None and car.actions.kind == "box"
    assert car.actions.names == ["steering", "gas", "brake"] and car.rest == [0.0, 0.0, 0.0]
    assert {"keys": ["a", "w"], "action": [-1.0, 1.0, 0.0]} in [k.model_dump() for k in car.keys]
    assert cover.rewards and cover.terminations and not cover.memory
    assert cover.actions is not None and cover.actions.names[2] == "move left"


def test_what_is_described_is_what_is_loaded(world_folder: Path) -> None:
    name = world_folder.name
    catalogue = Catalogue([str(world_folder)], "cpu")
    before = catalogue.describe_one(name)
    world = catalogue.world(name)
    after = catalogue.describe_one(name)
    assert before.weights_id is None and after.weights_id == world.weights_id
    same = {"weights_id": None}
    assert before.model_copy(update=same) == after.model_copy(update=same)
    picture = catalogue.scene_picture(name, "room-6-1")
    assert picture.shape == (32, 32, 3) and picture.dtype == np.uint8
    for wrong in ("room-9", "../scenes/room-6-1", ""):
        with pytest.raises(NotFoundError, match="no start scene"):
            catalogue.scene_picture(name, wrong)
    with pytest.raises(NotFoundError, match=f"it has {name}"):
        catalogue.world("freedoom-tiny")


def test_damaged_worlds_say_so(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "world.json").write_text("{}")
    assert Catalogue([str(tmp_path / "broken")], "cpu").describe_one("broken").error


def test_equal_settings_share_a_world(room: World) -> None:
    catalogue = Catalogue(worlds={"room": room})
    plain = catalogue.variant(VariantKey("room", "plain", Settings()))
    assert plain is room
    cold = VariantKey("room", "plain", Settings(temperature=0.5))
    made = catalogue.variant(cold)
    assert made is not room and catalogue.variant(cold) is made
    assert made.weights_id == room.weights_id
    assert catalogue.variant(
        VariantKey("room", "plain", Settings(uncertainty=True))
    ).tells_uncertainty


@pytest.mark.parametrize("name", ["os:system", "worldsim.agents.random:RandomPolicy", ".", "/tmp"])
def test_clients_name_no_code_and_no_files(name: str, room: World) -> None:
    with pytest.raises(NotFoundError, match="no agent"):
        installed_policy(name, room.action_space)


def test_places(room: World, scenes_folder: Path) -> None:
    catalogue = Catalogue(worlds={"room": room}, places=scenes_folder)
    scene, _ = catalogue.place("room", "room-6-1").choose(np.random.default_rng(0), None)
    assert scene.rgb.shape[1:] == (3, 32, 32)
    for wrong in ("room-99", "..", "room-6-1/.."):
        with pytest.raises(NotFoundError, match="no place"):
            catalogue.place("room", wrong)
