"""``worldsim export`` writes a whole world once, and never over another; and what a snapshot
remembers, as files."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trimesh

import worldsim.world
from tests.helpers.worlds import make_tiny_world
from worldsim.app import cli
from worldsim.app.export import ExportConfig, Form, export
from worldsim.envs.tiny_room import TinyRoom
from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import (
    DamagedFileError,
    InvalidInputError,
    MissingGeometryError,
    NotFoundError,
    StorageError,
)
from worldsim.io.meshes import GLTF_FROM_WORLD
from worldsim.io.nerfstudio import open_capture
from worldsim.io.provenance.sidecar import verify
from worldsim.memory import PointMemory, PointMemoryConfig, RadianceMemory, RadianceMemoryConfig
from worldsim.scenes.capture import CaptureScene
from worldsim.state import Trajectory
from worldsim.world import World
from worldsim.world.snapshots import open_snapshot


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with start scenes, and a World that saves one file which tells how it was called."""
    folder = tmp_path / "trained"
    (folder / "scenes").mkdir(parents=True)
    (folder / "scenes/a.png").write_bytes(b"picture")

    def save(out: Path, eight_bit: bool) -> None:
        (out / "world.json").write_text(f"eight bit: {eight_bit}")

    def load(name: str, device: Any = None) -> SimpleNamespace:
        assert (name, device) == (str(folder), "cpu")
        return SimpleNamespace(folder=folder, save_pretrained=save, weights_id="0" * 64)

    monkeypatch.setattr(worldsim.world.World, "from_pretrained", load)
    return folder


def test_weights_and_start_scenes_are_written(trained: Path, tmp_path: Path):
    out = export(ExportConfig(str(trained), tmp_path / "out"))
    assert (out / "world.json").read_text() == "eight bit: True"
    assert (out / "scenes/a.png").read_bytes() == b"picture"
    assert verify(out / "world.json").state == "valid"


def test_a_world_is_not_overwritten(tmp_path: Path):
    (tmp_path / "world.json").write_text("mine")
    with pytest.raises(InvalidInputError, match=str(tmp_path)):
        export(ExportConfig("any", tmp_path))
    assert (tmp_path / "world.json").read_text() == "mine"


def test_an_unknown_world_is_named_and_writes_nothing(tmp_path: Path):
    with pytest.raises(NotFoundError, match="'no-such-world'"):
        export(ExportConfig("no-such-world", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def snapshot(
    tiny_world: World,
    room_walk: tuple[TinyRoom, Trajectory],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A dream that has begun in the room: sixty true frames are its memory, twenty its walk."""
    env = WorldEnv(tiny_world, scenes=CaptureScene(room_walk[1], last=20))
    env.reset(seed=0)
    return env.save(tmp_path_factory.mktemp("snapshots") / "walk.safetensors")


def run(*arguments: object) -> int:
    return cli.main(["export", *map(str, arguments)])


def off_the_walls(room: TinyRoom, position: Any) -> Any:
    to_wall = np.minimum(np.abs(position), np.abs(position - room._extent)).min(1)
    return np.minimum(
        to_wall, np.abs(np.abs(position[:, :2] - room._pillar).max(1) - room._pillar_half)
    )


def test_points(snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(snapshot, "--to", "ply", "--out", tmp_path / "points.ply") == 0
    cloud: Any = trimesh.load(tmp_path / "points.ply")
    points = open_snapshot(snapshot).memory.points()
    np.testing.assert_array_equal(cloud.vertices, points.position)
    np.testing.assert_array_equal(np.asarray(cloud.colors)[:, :3], points.colour)
    assert f"points.ply: {len(points):,} points" in capsys.readouterr().out


@pytest.mark.parametrize("more", [(), ("--points",), ("--voxel", "0.1")])
def test_mesh(
    snapshot: Path, room_walk: tuple[TinyRoom, Trajectory], tmp_path: Path, more: tuple[str, ...]
):
    assert run(snapshot, "--out", tmp_path / "room.glb", *more) == 0
    mesh: Any = trimesh.load(tmp_path / "room.glb", force="mesh")
    position = trimesh.transform_points(mesh.vertices, GLTF_FROM_WORLD.T)
    assert len(position) > 2000
    # Frames of 32x32: a pixel is up to half a metre wide.
    assert (off_the_walls(room_walk[0], position) < 0.1).mean() > 0.85


def test_dataset(snapshot: Path, room_walk: tuple[TinyRoom, Trajectory]):
    assert run(snapshot, "--to", "nerfstudio") == 0
    folder = snapshot.parent / "walk-nerfstudio"
    frames = open_capture(folder)
    assert len(frames) == 20 and frames[0].height == 32
    np.testing.assert_allclose(frames[-1].pose, room_walk[1].pose[-1], atol=2e-4)
    assert run(snapshot, "--to", "nerfstudio") == 2
    assert run(snapshot, "--to", "nerfstudio", "--force") == 0


@pytest.mark.parametrize("form", ["ply", "glb", "nerfstudio"])
def test_a_snapshot_with_a_radiance_field(
    tiny_world: World, room_walk: tuple[TinyRoom, Trajectory], tmp_path: Path, form: Form
):
    """Its points are exported as those of a point memory are."""
    memory = RadianceMemory(
        PointMemory(PointMemoryConfig(capacity=8192)),
        RadianceMemoryConfig(32, 32, (16, 16, 8), keyframes=4),
    )
    env = WorldEnv(tiny_world.with_memory(memory), scenes=CaptureScene(room_walk[1], last=20))
    env.reset(seed=0)
    path = env.save(tmp_path / "field.safetensors")
    points = open_snapshot(path).memory.points()
    assert len(points) > 2000
    out = export(ExportConfig(str(path), to=form, points=form == "glb"))
    if form == "nerfstudio":
        assert len(open_capture(out)) == 20
    elif form == "ply":
        cloud: Any = trimesh.load(out)
        np.testing.assert_array_equal(cloud.vertices, points.position)
    else:
        mesh: Any = trimesh.load(out, force="mesh")
        assert len(mesh.faces) > 2000


def test_files_are_named_after_the_snapshot_and_not_overwritten(
    snapshot: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(snapshot, "--to", "ply") == 0 and snapshot.with_suffix(".ply").is_file()
    assert run(snapshot, "--to", "ply") == 2
    assert "exists" in capsys.readouterr().err
    assert run(snapshot, "--to", "ply", "--force") == 0
    assert run(snapshot, "--to", "ply", "--out", snapshot.parent) == 2


def test_one_of_several_environments(
    tiny_world: World, room_walk: tuple[TinyRoom, Trajectory], tmp_path: Path
):
    env = WorldVectorEnv(2, tiny_world, scenes=CaptureScene(room_walk[1]))
    env.reset(seed=0)
    path = env.save(tmp_path / "two.safetensors")
    export(ExportConfig(str(path), tmp_path / "one.ply", index=1))
    with pytest.raises(InvalidInputError, match="2 environments"):
        export(ExportConfig(str(path), tmp_path / "none.ply", index=2))
    with pytest.raises(InvalidInputError, match="keeps no walk"):
        export(ExportConfig(str(path), to="nerfstudio"))
    # Without a walk, the mesh is made of points.
    assert export(ExportConfig(str(path), tmp_path / "points.glb")).is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--to ply, --to glb or --to nerfstudio"),
        (("--out", "room.obj"), "--to ply"),
        (("--to", "ply", "--out", "room.glb"), "name of a glb file"),
        (("--to", "ply", "--no-eight-bit"), "--no-eight-bit is for worlds"),
        (("--to", "ply", "--push-to-hub", "me/mine"), "--push-to-hub is for worlds"),
        (("--to", "ply", "--voxel", "0.1"), "--voxel is for meshes"),
        (("--to", "nerfstudio", "--points"), "--points is for meshes"),
    ],
)
def test_options_that_do_not_fit_a_snapshot(
    snapshot: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
):
    assert run(snapshot, *arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("freedoom-tiny", "--to", "ply"), "--to is for snapshots"),
        (("freedoom-tiny", "--out", "o", "--index", "1"), "--index is for snapshots"),
        (("freedoom-tiny", "--out", "o", "--force"), "--force is for snapshots"),
        (("gone.safetensors", "--to", "ply"), "no snapshot 'gone.safetensors'"),
        (("freedoom-tiny",), "--out is missing"),
    ],
)
def test_options_that_do_not_fit_a_world(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
):
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_form_is_a_usage_error(snapshot: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        run(snapshot, "--to", "obj")
    assert stop.value.code == 2 and "obj" in capsys.readouterr().err


def test_files_that_are_no_snapshots(tmp_path: Path, snapshot: Path):
    (tmp_path / "text.safetensors").write_text("nothing of the kind")
    (tmp_path / "half.safetensors").write_bytes(snapshot.read_bytes()[:5000])
    for name in ("text", "half"):
        with pytest.raises(DamagedFileError, match=name):
            export(ExportConfig(str(tmp_path / f"{name}.safetensors"), to="ply"))
    flat = WorldEnv(make_tiny_world(geometry=False), scenes=None)
    flat.reset(seed=0, options={"frames": {"rgb": np.zeros((1, 32, 32, 3), np.uint8)}})
    path = flat.save(tmp_path / "flat.safetensors")
    with pytest.raises(MissingGeometryError, match="without scene memory"):
        export(ExportConfig(str(path), to="ply"))


def test_links_of_a_world_are_not_followed_out_of_it(trained: Path, tmp_path: Path) -> None:
    """A world from somebody else could have had any file of this computer copied into what is then
    shared."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    (trained / "scenes/b.png").symlink_to(secret)
    with pytest.raises(DamagedFileError, match=r"b\.png is a link that leads out"):
        export(ExportConfig(str(trained), tmp_path / "out"))
    assert not [
        path
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and path.read_bytes() == b"secret"
    ]


def test_what_scenes_are_made_of_is_copied_alone(trained: Path, tmp_path: Path) -> None:
    (trained / "scenes/run.py").write_text("print()")
    out = export(ExportConfig(str(trained), tmp_path / "out"))
    assert not (out / "scenes/run.py").exists() and (out / "scenes/a.png").is_file()


def test_nothing_is_written_through_a_link(snapshot: Path, trained: Path, tmp_path: Path) -> None:
    precious, pipe = tmp_path / "precious", tmp_path / "pipe.ply"
    precious.write_text("precious")
    (tmp_path / "m.ply").symlink_to(precious)
    os.mkfifo(pipe)
    for out in (tmp_path / "m.ply", pipe):
        with pytest.raises(StorageError, match="would be destroyed"):
            export(ExportConfig(str(snapshot), out, force=True))
    assert (
        precious.read_text() == "precious" and pipe.is_fifo() and (tmp_path / "m.ply").is_symlink()
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidInputError, match="symbolic link"):
        export(ExportConfig(str(trained), tmp_path / "linked"))
    with pytest.raises(StorageError, match="/proc/nothing"):
        export(ExportConfig(str(snapshot), Path("/proc/nothing/m.ply")))


@pytest.mark.parametrize("voxel", [0.0, -1.0, 1e-6, float("nan"), 1e9])
def test_voxels_that_are_none(voxel: float) -> None:
    with pytest.raises(InvalidInputError, match="ExportConfig.voxel"):
        ExportConfig("walk.safetensors", Path("m.glb"), voxel=voxel)
