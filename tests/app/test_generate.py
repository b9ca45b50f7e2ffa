"""``worldsim generate``: places from words, attributes and pictures, resume, and bad input."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

import worldsim.app.generate
import worldsim.painting.places.folder
from tests.helpers.painters import make_tiny_painter
from worldsim.app import cli
from worldsim.app.generate import GenerateConfig, generate, place_seed, with_sampling
from worldsim.camera import quantise_depth
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.painting.checkpoint import save_painter
from worldsim.painting.painter import NetworkPainter
from worldsim.painting.places.new_places import PlaceRequest, paint_request, parse_attributes
from worldsim.painting.places.pictures import open_pictures
from worldsim.painting.places.place import PlaceConfig, level_pose, ring
from worldsim.scenes.generated import GeneratedPlace
from worldsim.state import Frame
from worldsim.testing import check_scene
from worldsim.world import World
from worldsim.world.scene_files import check_scene_folder, load_scene


@pytest.fixture(autouse=True)
def short_films(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worldsim.painting.places.folder, "TURN_FRAMES", 4)
    monkeypatch.setattr(worldsim.painting.places.folder, "DOLLY_FRAMES", 2)


@pytest.fixture(scope="module")
def painter() -> NetworkPainter:
    return make_tiny_painter(views=4)


@pytest.fixture(scope="module")
def painter_folder(painter: NetworkPainter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("painters") / "tiny"
    settings = {"attributes": list(painter.spec.attributes), "dim": 32, "depth": 2, "heads": 2,
                "pixel": 8}  # fmt: skip
    weights = painter.network.state_dict()
    save_painter(folder, settings, weights, spec=painter.spec, sampling=painter.config)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    array = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(array).save(path)
    return path


def config(out: Path, **settings: Any) -> GenerateConfig:
    return GenerateConfig(out=out, **{"headings": 4, **settings})


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_place_is_a_scene_folder_that_tells_its_origin(painter: NetworkPainter, tmp_path: Path):
    settings = config(tmp_path / "hall", attribute=("brick=0.8", "light=0.2"), seed=3)
    out = generate(settings, painter)
    described = check_scene_folder(out)
    assert described.generated and len(described.starts) == 4
    origin = described.origin
    assert origin["attributes"] == {"brick": 0.8, "light": 0.2}
    assert (origin["command"], origin["seed"]) == ("generate", place_seed(3, 0))
    assert len(origin["painter_sha256"]) == 64 and origin["sampling"]["num_inference_steps"] == 1
    assert {"sheet.png", "fly.mp4", "scene.ply"} <= set(files(out))


def test_equal_settings_give_equal_bits_and_seeds_differ(painter: NetworkPainter, tmp_path: Path):
    one, other = (
        files(generate(dataclasses.replace(config(tmp_path / "x"), seed=0), painter)),
        files(generate(config(tmp_path / "again" / "x"), painter)),
    )
    assert one == other
    different = files(generate(config(tmp_path / "y" / "x", seed=1), painter))
    assert one["frames.webp"] != different["frames.webp"]


def test_finished_places_are_kept_and_missing_ones_made_anew(
    painter: NetworkPainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = config(tmp_path / "many", count=3, json=tmp_path / "many.json")
    out = generate(settings, painter)
    before = files(out)
    assert {Path(name).parts[0] for name in before} == {"place-1", "place-2", "place-3"}
    shutil.rmtree(out / "place-2")
    generate(settings, painter)
    assert files(out) == before
    told = json.loads((tmp_path / "many.json").read_text())
    assert [place["kept"] for place in told["places"]] == [True, False, True]
    # Killed in the middle of the third.
    shutil.rmtree(out / "place-3")
    real, calls = worldsim.app.generate.save_place, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(worldsim.app.generate, "save_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(settings, painter)
    generate(settings, painter)
    assert files(out) == before
    # Another request does not replace it.
    with pytest.raises(InvalidInputError, match=r"place-1 holds another scene \(prompt\)"):
        generate(dataclasses.replace(settings, prompt="brick"), painter)
    assert files(out) == before


def test_words_are_attributes(painter: NetworkPainter, tmp_path: Path):
    out = generate(config(tmp_path / "a", prompt="brick, dark", headings=1), painter)
    origin = check_scene_folder(out).origin
    assert origin["attributes"]["brick"] > 0 and origin["attributes"]["light"] < 0.5
    with pytest.raises(InvalidInputError, match="brik"):
        generate(config(tmp_path / "b", prompt="a brik hall"), painter)
    assert not (tmp_path / "b").exists()


def test_one_picture_is_the_start(painter: NetworkPainter, tmp_path: Path, photo: Path):
    out = generate(config(tmp_path / "mine", image=photo), painter)
    scene = load_scene(out)
    wanted = open_pictures([photo], painter.spec)
    assert np.array_equal(scene.rgb[0], wanted.rgb[0]) and len(scene.rgb) == 4
    assert check_scene_folder(out).origin["pictures"].keys() == {"photo.png"}


def test_pictures_with_poses(painter: NetworkPainter, tmp_path: Path, photo: Path):
    shutil.copy(photo, tmp_path / "b.png")
    poses = ring(level_pose(z=1.28), 8)[[0, 2]].double()
    # The second one stands a metre further on.
    poses[1, 0, 3] = 1.0
    path = tmp_path / "poses.json"
    names = ("photo.png", "b.png")
    told = {name: pose.tolist() for name, pose in zip(names, poses, strict=True)}
    path.write_text(json.dumps({"convention": "opencv", "poses": told}))
    settings = config(
        tmp_path / "views", images=(photo, tmp_path / "b.png"), poses=path, headings=4
    )
    scene = load_scene(generate(settings, painter))
    assert scene.pose is not None and scene.pose[1, 0, 3] == 1.0
    assert np.array_equal(scene.rgb[0], open_pictures([photo], painter.spec).rgb[0])
    # The same pictures of a narrower camera fill a part of the views.
    path.write_text(
        json.dumps({"convention": "opencv", "poses": told, "intrinsics": [60.0, 60.0, 40.0, 30.0]})
    )
    narrow = dataclasses.replace(settings, out=tmp_path / "narrow")
    assert len(load_scene(generate(narrow, painter)).rgb) >= 4


class Hall:
    """A painter that shows a striped hall from any camera: what it paints fits together."""

    def __init__(self, like: NetworkPainter) -> None:
        self.spec = like.spec

    def paint(self, inputs: Any) -> Frame:
        return hall_frame(inputs.pose.flatten(0, 1), self.spec)


def hall_frame(pose: Any, spec: Any) -> Frame:
    """Frames of a room of 8 by 6 metres whose walls have stripes of different colours."""
    import torch

    from worldsim.camera import Camera, unproject

    n = len(pose)
    camera = Camera(pose, torch.tensor(spec.intrinsics).expand(n, 4), spec.height, spec.width)
    far = unproject(torch.ones(n, spec.height, spec.width), camera) - pose[:, None, None, :3, 3]
    place = pose[:, None, None, :3, 3].expand_as(far)
    half, low, high = torch.tensor([4.0, 3.0]), 0.0, 3.0
    across = (torch.where(far[..., :2] > 0, half, -half) - place[..., :2]) / far[..., :2]
    up = (torch.where(far[..., 2] > 0, high, low) - place[..., 2]) / far[..., 2]
    depth = torch.cat([across, up[..., None]], -1).abs().nan_to_num(1e3).amin(-1)
    point = place + far * depth[..., None]
    wave = torch.stack([point.sum(-1) * 1.3, point[..., 0] * 0.9, point[..., 1] * 1.1], 1)
    rgb = (127.5 + 110.0 * torch.sin(wave)).round().to(torch.uint8)
    return Frame(rgb, quantise_depth(depth), pose)


def test_pictures_without_poses_are_located_or_refused(painter: NetworkPainter, tmp_path: Path):
    import torch

    hall = Hall(painter)
    poses = torch.stack([level_pose(z=1.28), level_pose(0.5, 0.25, 1.28, 0.4)])
    shown = hall_frame(poses, painter.spec).rgb.permute(0, 2, 3, 1).contiguous().numpy()
    paths = []
    for i, picture in enumerate(shown):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(picture).save(paths[-1])
    lens = list(painter.spec.intrinsics)
    request = PlaceRequest(
        pictures=dataclasses.replace(open_pictures(paths, painter.spec, poses_of(paths, lens)),
                                     pose=None),
        config=PlaceConfig(headings=8, capacity=32768),
    )  # fmt: skip
    place = paint_request(hall, request, 0).place
    assert place.frames.pose is not None and len(place.frames.rgb) == 9
    assert float((place.frames.pose[8, :3, 3] - poses[1, :3, 3]).norm()) < 0.75
    noise = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(paths[1])
    with pytest.raises(InvalidInputError, match=r"1\.png: not found.*--poses"):
        paint_request(
            hall, dataclasses.replace(request, pictures=open_pictures(paths, painter.spec)), 0
        )


def poses_of(paths: list[Path], lens: list[float]) -> Path:
    """A file of any poses, to give the pictures the painter's own camera."""
    told = {path.name: level_pose().tolist() for path in paths}
    file = paths[0].with_name("poses.json")
    file.write_text(json.dumps({"convention": "opencv", "poses": told, "intrinsics": lens}))
    return file


def test_views_without_overlap_are_refused(painter: NetworkPainter, tmp_path: Path, photo: Path):
    shutil.copy(photo, tmp_path / "b.png")
    told = {"photo.png": level_pose().tolist(), "b.png": level_pose(x=5000.0).tolist()}
    path = tmp_path / "poses.json"
    path.write_text(json.dumps({"convention": "opencv", "poses": told}))
    settings = config(tmp_path / "v", images=(photo, tmp_path / "b.png"), poses=path)
    with pytest.raises(InvalidInputError, match=r"photo\.png shows nothing"):
        generate(settings, painter)
    five = [tmp_path / f"{i}.png" for i in range(5)]
    for one in five:
        shutil.copy(photo, one)
    with pytest.raises(InvalidInputError, match="5 pictures are given and the painter takes 1 to"):
        generate(config(tmp_path / "w", images=tuple(five)), painter)


def test_bad_attributes_are_named():
    names = ("brick", "water")
    assert parse_attributes(["brick=0.5"], names) == {"brick": 0.5}
    for given, message in (
        (["brik=0.5"], "did you mean 'brick'"),
        (["brick"], "NAME=VALUE"),
        (["brick=much"], "NAME=VALUE"),
        (["brick=1.5"], "from 0 to 1"),
        (["brick=0.5", "brick=0.6"], "given twice"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            parse_attributes(given, names)


def test_bad_settings_are_named(painter: NetworkPainter, tmp_path: Path, photo: Path):
    with pytest.raises(InvalidInputError, match="either image or images"):
        config(tmp_path, image=photo, images=(photo,))
    with pytest.raises(InvalidInputError, match="one image needs no pose"):
        config(tmp_path, image=photo, poses=photo)
    with pytest.raises(NotFoundError, match="no-such-painter"):
        generate(config(tmp_path, painter="no-such-painter"))
    assert with_sampling(painter, None, None) is painter
    changed = with_sampling(painter, 3, 2.0)
    assert isinstance(changed, NetworkPainter) and changed.config.num_inference_steps == 3
    with pytest.raises(InvalidInputError, match="Hall has no setting num_inference_steps"):
        with_sampling(Hall(painter), 3, None)


def test_the_command(painter_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out, report = tmp_path / "hall", tmp_path / "hall.json"
    arguments = ["generate", "--painter", str(painter_folder), "--headings", "4", "--attribute",
                 "brick=0.9", "--num-inference-steps", "2", "--guidance-scale", "2",
                 "--out", str(out), "--json", str(report)]  # fmt: skip
    assert cli.main(arguments) == 0
    told = capsys.readouterr()
    assert f"{out}: 1 new" in told.out and f"result: {out}, a folder" in told.err
    assert f"worldsim view {out}" in told.err and "painting: 100.0%" in told.err
    assert json.loads(report.read_text())["places"][0]["folder"] == str(out)
    assert check_scene_folder(out).origin["sampling"]["num_inference_steps"] == 2
    assert cli.main(arguments) == 0
    assert "0 new, 1 were there already" in capsys.readouterr().out
    assert cli.main([*arguments[:-4], "--attribute", "brik=1"]) == 2
    assert "did you mean 'brick'" in capsys.readouterr().err


def test_every_reset_can_paint_a_new_place(painter: NetworkPainter):
    world = World.from_pretrained("freedoom-tiny", device="cpu")
    place = GeneratedPlace(painter, attributes={"brick": 1.0}, config=PlaceConfig(headings=2))
    check_scene(place, world)
    env = gym.make("worldsim/FreedoomDream-v0", world=world, scenes=place)
    first, _ = env.reset(seed=0)
    second, _ = env.reset()
    again, _ = env.reset(seed=0)
    assert np.array_equal(first, again) and not np.array_equal(first, second)
    env.step(1)
    with pytest.raises(InvalidInputError, match="no attribute 'brik'"):
        GeneratedPlace(painter, attributes={"brik": 1.0})
