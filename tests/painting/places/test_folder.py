"""Generated scenes on disk: what is written, and environments, viewer and exports that read it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

import worldsim
import worldsim.painting.places.folder
from tests.helpers.painters import INTRINSICS, make_tiny_painter
from tests.helpers.worlds import make_tiny_world
from worldsim.app.export import ExportConfig, export
from worldsim.camera import Camera
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.memory.points import PointMemory
from worldsim.memory.splat import DIRECTION, EMPTY, POINT
from worldsim.painting.places.folder import (
    CLOUD,
    FLIGHT,
    SHEET,
    finished,
    save_generated,
    sheet_of,
)
from worldsim.painting.places.place import Place, PlaceConfig, paint_place
from worldsim.scenes.recorded import RecordedScenes
from worldsim.testing import check_scene
from worldsim.world import World
from worldsim.world.opened import open_memory
from worldsim.world.resampling import nearest_points, resample_scene
from worldsim.world.scene_files import (
    SCENE,
    StartFrames,
    check_scene_folder,
    load_scene,
    save_scene,
)

TOLD = {"command": "generate", "prompt": "a hall", "seed": 3}


@pytest.fixture(scope="module")
def place() -> Place:
    return paint_place(make_tiny_painter(), 3, config=PlaceConfig(headings=4, capacity=16384))


@pytest.fixture(autouse=True, scope="module")
def short_films() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worldsim.painting.places.folder, "TURN_FRAMES", 4)
        patch.setattr(worldsim.painting.places.folder, "DOLLY_FRAMES", 2)
        yield


@pytest.fixture(scope="module")
def folder(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with two starts. Tests must not write there."""
    return save_generated(
        tmp_path_factory.mktemp("generated") / "hall",
        place.frames,
        place.intrinsics,
        place.data,
        [StartFrames(0), StartFrames(2)],
        TOLD,
    )


def test_the_folder_is_a_scene_that_says_that_it_is_generated(folder: Path, place: Place):
    described = check_scene_folder(folder)
    assert described.version == 4 and described.generated
    assert described.origin == {**TOLD, "worldsim": worldsim.__version__}
    assert described.starts == [StartFrames(0), StartFrames(2)]
    scene = load_scene(folder)
    assert scene.name == "hall" and torch.equal(scene.rgb, place.frames.rgb)
    assert place.frames.inverse_depth is not None and scene.inverse_depth is not None
    assert torch.equal(scene.inverse_depth, place.frames.inverse_depth)
    assert scene.memory.kind.shape[1] == int((place.data.kind != EMPTY).sum())
    assert int(scene.memory.seen.max()) == -5, "before the first step of a start of four frames"


def test_pictures_for_people_stand_beside_it(folder: Path):
    with Image.open(folder / SHEET) as sheet:
        assert sheet.width >= 4 * 192 and sheet.height >= 2 * 192
    assert (folder / FLIGHT).stat().st_size > 1000
    assert (folder / CLOUD).read_bytes().startswith(b"ply")


def test_every_start_has_the_whole_memory(folder: Path):
    scenes = RecordedScenes(folder)
    assert scenes.names() == ["hall-1", "hall-2"]
    second = scenes.load("hall-2")
    assert torch.equal(second.rgb, load_scene(folder).rgb[2:3])
    assert torch.equal(second.memory.kind, load_scene(folder).memory.kind)
    drawn = {scenes.start(np.random.default_rng(seed)).name for seed in range(20)}
    assert drawn == {"hall-1", "hall-2"}
    with pytest.raises(NotFoundError, match="hall-1, hall-2"):
        scenes.load("hall-3")


def test_a_folder_of_places_is_a_folder_of_scenes(folder: Path, tmp_path: Path):
    for name in ("place-1", "place-2"):
        shutil.copytree(folder, tmp_path / name)
    scenes = RecordedScenes(tmp_path)
    assert scenes.names() == ["place-1", "place-2"]
    assert scenes.load("place-2").name == "hall-1"
    assert scenes.start(np.random.default_rng(0)).name in ("hall-1", "hall-2")


def test_the_scene_contract_holds(folder: Path):
    check_scene(RecordedScenes(folder), World.from_pretrained("freedoom-tiny", device="cpu"))


def test_a_dream_starts_in_it(folder: Path):
    env = gym.make("worldsim/FreedoomDream-v0", scenes=str(folder))
    env.reset(seed=0, options={"scene": "hall-2"})
    obs, *_ = env.step(1)
    assert obs.shape == (64, 64, 3)
    env.close()


def test_a_camera_that_sees_much_more_is_refused(folder: Path, tiny_world: World):
    # The world sees 90 degrees, the painter 74.
    with pytest.raises(InvalidInputError, match=r"hall shows 1\.60 times less"):
        resample_scene(load_scene(folder), tiny_world)


def test_a_world_of_the_same_camera_gets_the_frames_as_they_are(folder: Path):
    world = make_tiny_world(intrinsics=INTRINSICS)
    scene = load_scene(folder)
    same = resample_scene(scene, world)
    assert same.rgb is scene.rgb and same.memory is scene.memory


def test_resampled_frames_bring_their_own_memory(folder: Path):
    scene, world = load_scene(folder), World.from_pretrained("freedoom-small", device="cpu")
    start = RecordedScenes(folder).fit_to(world).load("hall-1")
    assert start.rgb.shape == (1, 3, 96, 128) and start.memory.capacity > scene.memory.capacity
    assert start.pose is not None and start.intrinsics is not None
    memory: PointMemory = world.memory
    camera = Camera(start.pose, start.intrinsics[None], 96, 128)
    assert float(memory.render(memory.pad(start.memory), camera).coverage[0]) > 0.25
    state = world.initial([start], [0])
    assert state.frame.rgb.shape == (1, 3, 96, 128)


def test_of_too_many_points_the_nearest_are_kept(place: Place):
    points = place.memory.trim(place.data)
    count = points.capacity // 2
    few = nearest_points(points, torch.zeros(3), count)
    assert few.capacity == count
    solid = [p.position[0][:, p.kind[0] == POINT].norm(dim=0) for p in (few, points)]
    near = solid[1].sort().values[: len(solid[0])]
    torch.testing.assert_close(solid[0].sort().values, near)
    assert int((few.kind == DIRECTION).sum()) > 0


def test_exports_and_the_viewer_read_it(folder: Path, tmp_path: Path):
    opened = open_memory(folder)
    assert opened.trajectory is not None and len(opened.trajectory) == 4
    assert len(opened.memory.points()) > 100 and opened.world == "hall"
    out = export(ExportConfig(str(folder), tmp_path / "points.ply"))
    assert out.read_bytes().startswith(b"ply")
    out = export(ExportConfig(str(folder), tmp_path / "set", to="nerfstudio"))
    assert (out / "transforms.json").exists()
    assert export(ExportConfig(str(folder), to="ply")) == folder.with_name("hall.ply")
    with pytest.raises(InvalidInputError, match="one scene"):
        open_memory(folder, 1)


def test_recorded_scenes_open_too(scenes_folder: Path):
    opened = open_memory(scenes_folder / "room-6-1")
    assert len(opened.memory.points()) > 100
    with pytest.raises(InvalidInputError, match="folder of 6 scenes.*room-6-1"):
        open_memory(scenes_folder)


def test_finished_scenes_are_recognised(folder: Path, tmp_path: Path, scenes_folder: Path):
    assert finished(folder, TOLD) and not finished(tmp_path / "none", TOLD)
    with pytest.raises(InvalidInputError, match=r"another scene \(seed\)"):
        finished(folder, {**TOLD, "seed": 4})
    with pytest.raises(InvalidInputError, match="recorded"):
        finished(scenes_folder / "room-6-1", {})


def test_damage_is_named(folder: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    values = json.loads((copy / SCENE).read_text())
    (copy / SCENE).write_text(json.dumps({**values, "starts": [{"first": 9, "count": 1}]}))
    with pytest.raises(DamagedFileError, match="checksum"):
        RecordedScenes(copy).names()
    (copy / "points.safetensors").unlink()
    (copy / SCENE).write_text(json.dumps(values))
    with pytest.raises(NotFoundError, match="points.safetensors"):
        RecordedScenes(copy).start(np.random.default_rng(0))


def test_starts_beyond_the_frames_are_refused(place: Place, tmp_path: Path):
    with pytest.raises(InvalidInputError, match="3 to 4"):
        save_generated(
            tmp_path, place.frames, place.intrinsics, place.data, [StartFrames(3, 2)], {}
        )


def test_recorded_scenes_are_written_as_before(folder: Path, tmp_path: Path):
    save_scene(load_scene(folder), tmp_path / "plain")
    values = json.loads((tmp_path / "plain" / SCENE).read_text())
    assert values["version"] == 3 and not {"generated", "origin", "starts"} & values.keys()


def test_a_sheet_of_many_views_has_rows(place: Place):
    many = type(place.frames)(
        place.frames.rgb.repeat(5, 1, 1, 1),
        place.frames.inverse_depth.repeat(5, 1, 1),  # type: ignore[union-attr]
        place.frames.pose.repeat(5, 1, 1),  # type: ignore[union-attr]
    )
    sheet = sheet_of(many, ["twenty views"])
    assert sheet.shape[0] > 6 * 192 and sheet.shape[1] > 8 * 192
