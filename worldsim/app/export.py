"""``worldsim export``: a world as a small folder, or a snapshot's or a scene's memory as files."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.runtime.files import (
    files_in,
    is_file,
    is_folder,
    make_writable_folder,
    replacing,
    require_replaceable,
    sha256_of,
)
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Number

if TYPE_CHECKING:
    from trimesh import Trimesh

    from worldsim.world.snapshots import OpenedSnapshot

Form = Literal["ply", "glb", "nerfstudio"]
SCENE_SUFFIXES = (".json", ".png", ".webp", ".safetensors")
SUFFIXES: dict[str, Form] = {".ply": "ply", ".glb": "glb"}


@dataclass(frozen=True)
class ExportConfig:
    """Export a world to a new folder, or the scene memory and walk of a snapshot to files (--to).

    The folder holds weights, card and start scenes. A generated scene is exported as a snapshot is.
    """

    source: str
    """A snapshot's file, as env.save wrote it, the folder of a scene, as generate and journey write
    it, or a world: a shipped world's name, a folder, or a repository of the Hugging Face hub
    (``hub:owner/name``)."""
    out: Path | None = None
    """Path to write. For a world, a folder without a world. For a snapshot, a file or, for
    nerfstudio, a folder; by default beside the snapshot and named after it."""
    eight_bit: bool = True
    """Worlds: store weights as 8-bit integers with a scale per row, a quarter of the size. Measure
    the effect with evaluate."""
    push_to_hub: str | None = None
    """Worlds: also upload the folder to this repository (owner/name) of the Hugging Face hub."""
    to: Form | None = None
    """Snapshots: ply (the memory's points), glb (a coloured mesh) or nerfstudio (pictures, depth
    and poses of the walk, and the points). By default from the suffix of --out."""
    index: Number = 0
    """Snapshots: index of the environment, if the file holds several."""
    points: bool = False
    """Snapshots, glb: mesh the memory's points even if there is a walk. They include what was seen
    before the walk."""
    voxel: Annotated[float, Ge(0.001), Le(100.0)] | None = None
    """Snapshots, glb: edge of the finest cells in metres. By default derived from a walk's depth
    (0.05 in rooms), or 0.06."""
    force: bool = False
    """Snapshots: replace what is at --out, a file or a nerfstudio dataset."""

    def __post_init__(self) -> None:
        check_ranges(self)


def export(config: ExportConfig) -> Path:
    """Write what ``config`` asks for; returns its path."""
    if is_file(config.source) or _is_scene(config.source):
        return _export_snapshot(config)
    given = {
        "--to": config.to,
        "--index": config.index,
        "--points": config.points,
        "--voxel": config.voxel,
    }
    for option, value in {**given, "--force": config.force}.items():
        if value:
            if not is_folder(config.source) and Path(config.source).suffix:
                raise NotFoundError(
                    f"no snapshot {config.source!r}: give a file that env.save wrote"
                )
            raise InvalidInputError(
                f"{option} is for snapshots, and {config.source!r} is no file: give one that "
                f"env.save wrote"
            )
    return _export_world(config)


def _is_scene(source: str) -> bool:
    return is_file(Path(source) / "scene.json")


def _export_world(config: ExportConfig) -> Path:
    from worldsim.io.provenance.origin import Origin
    from worldsim.io.provenance.publish import publish
    from worldsim.world import World
    from worldsim.world.files import require_repository, upload

    if config.push_to_hub is not None:
        require_repository(config.push_to_hub)
    if config.out is None:
        raise InvalidInputError(
            f"--out is missing: name the folder that the world {config.source!r} shall be written "
            f"to"
        )
    if config.out.is_symlink():
        raise InvalidInputError(f"{config.out} is a symbolic link: name the folder itself")
    if is_file(config.out / "world.json"):
        raise InvalidInputError(
            f"{config.out} already holds a world: choose another folder, or remove it first"
        )
    world = World.from_pretrained(config.source, device="cpu")
    if world.folder is not None and is_folder(world.folder / "scenes"):
        _copy(world.folder, config.out)
    world.save_pretrained(config.out, eight_bit=config.eight_bit)
    publish(config.out / "world.json", Origin(config.source, world.weights_id))
    size = sum(path.stat().st_size for path in files_in(config.out))
    print(f"{config.out}: {size / 1e6:.1f} MB")
    if config.push_to_hub:
        print(upload(config.out, config.push_to_hub))
    return config.out


def _copy(source: Path, target: Path) -> None:
    """Copy a world's start scenes.

    Raises an error for links that lead out of ``source``, since they are not part of the world.
    """
    for path in files_in(source / "scenes", source):
        if path.suffix in SCENE_SUFFIXES:
            with replacing(target / path.relative_to(source)) as copy:
                shutil.copyfile(path, copy)


def _export_snapshot(config: ExportConfig) -> Path:
    from worldsim.io.meshes import save_glb
    from worldsim.io.nerfstudio import save_nerfstudio
    from worldsim.io.provenance.origin import Origin
    from worldsim.io.provenance.publish import publish
    from worldsim.runtime.ply import save_ply
    from worldsim.world.opened import open_memory

    source = Path(config.source)
    stem = source.resolve().name if is_folder(source) else source.stem
    form, out = _form(config), config.out
    if out is None:
        out = (
            source.with_name(f"{stem}-nerfstudio")
            if form == "nerfstudio"
            else source.with_name(f"{stem}.{form}")
        )
    if form != "nerfstudio":
        _check_file(out, config.force)
    # Before anything is computed.
    make_writable_folder(out.parent)
    opened = open_memory(source, config.index)
    file = source / "scene.json" if is_folder(source) else source
    # A snapshot names its world and not the world's hash: the file itself is what is known.
    origin = Origin(opened.world or stem, sha256_of(file))
    if form == "glb":
        mesh = _mesh(config, opened)
        save_glb(mesh, out)
        publish(out, origin)
        print(f"{out}: {len(mesh.faces):,} triangles")
        return out
    points = opened.memory.points()
    if form == "ply":
        save_ply(points.position, points.colour, out)
        publish(out, origin)
        print(f"{out}: {len(points):,} points")
        return out
    if opened.trajectory is None:
        raise InvalidInputError(
            f"{source} keeps no walk, and so has no pictures for a nerfstudio dataset (walks are "
            f"kept by single environments, and "
            "since version 2 of snapshots): export ply or glb, or save it anew"
        )
    save_nerfstudio(opened.trajectory, out, (points.position, points.colour), config.force)
    publish(out / "transforms.json", origin)
    print(f"{out}: {len(opened.trajectory):,} frames, {len(points):,} points")
    return out


def _form(config: ExportConfig) -> Form:
    if not config.eight_bit or config.push_to_hub is not None:
        option = "--push-to-hub" if config.push_to_hub is not None else "--no-eight-bit"
        raise InvalidInputError(
            f"{option} is for worlds, and {config.source} is a file: leave it out, or name a world"
        )
    ending = SUFFIXES.get(config.out.suffix.lower()) if config.out is not None else None
    form = config.to or ending
    if form is None:
        raise InvalidInputError(
            f"say what {config.source} shall be exported to: --to ply, --to glb or --to nerfstudio"
        )
    if ending is not None and ending != form:
        raise InvalidInputError(
            f"--out {config.out} is the name of a {ending} file, and --to is {form}: change one "
            f"of them"
        )
    if form != "glb" and (config.points or config.voxel is not None):
        option = "--points" if config.points else "--voxel"
        raise InvalidInputError(
            f"{option} is for meshes (--to glb), and --to is {form}: leave it out"
        )
    return form


def _check_file(out: Path, force: bool) -> None:
    if is_folder(out):
        raise InvalidInputError(f"--out {out} is a folder: name a file")
    require_replaceable(out)
    if is_file(out) and not force:
        raise InvalidInputError(
            f"{out} exists: choose another name with --out, or replace it with --force"
        )


def _mesh(config: ExportConfig, opened: OpenedSnapshot) -> Trimesh:
    from worldsim.io.meshes import FusionConfig, PoissonConfig, fuse, wrap

    trajectory = opened.trajectory
    if trajectory is not None and not config.points:
        return fuse(
            trajectory, FusionConfig() if config.voxel is None else FusionConfig(voxel=config.voxel)
        )
    points = opened.memory.points()
    places = None if trajectory is None else trajectory.pose[:, :3, 3].numpy()
    settings = PoissonConfig() if config.voxel is None else PoissonConfig(cell=config.voxel)
    return wrap(points.position, points.colour, places, settings)
