"""Files of a walk that can be taken away. Each says in its metadata that it was generated."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldsim import __version__
from worldsim.errors import InvalidInputError
from worldsim.io.pictures import enlarge
from worldsim.io.provenance.origin import Origin
from worldsim.io.provenance.publish import publish_film, publish_picture
from worldsim.runtime.ply import save_ply
from worldsim.runtime.types import Array
from worldsim.state import Trajectory

SHOWN_PIXELS = 512
"""Smallest height of pictures and videos; small frames are enlarged to it without interpolation."""


@dataclass(frozen=True)
class Walk:
    """What a session holds at one moment, copied, so that files are written beside its steps.

    frames: (t, h, w, 3) uint8, oldest first.
    points: positions (n, 3) float32 metres and colours (n, 3) uint8; None without a memory.
    trajectory: frames with depth and pose; None for worlds without geometry.
    fps: frames per second of the world's time.
    world, weights: name and SHA-256 of the world.
    seed: the seed of the walk.
    """

    frames: Array
    points: tuple[Array, Array] | None
    trajectory: Trajectory | None
    fps: float
    world: str
    weights: str
    seed: int

    @property
    def origin(self) -> Origin:
        """What sidecars and marks state."""
        return Origin(self.world, self.weights, self.seed)

    @property
    def metadata(self) -> dict[str, str]:
        """Texts by name for the metadata of files."""
        told = {
            "generated": True,
            "world": self.world,
            "weights_sha256": self.weights,
            "seed": self.seed,
            "worldsim": __version__,
        }
        return {"title": f"worldsim {self.world}", "comment": json.dumps(told)}


def picture(walk: Walk, path: Path) -> None:
    """Write the newest frame as PNG."""
    publish_picture(_enlarge(walk.frames[-1]), path, walk.origin, walk.metadata, sidecar=False)


def video(walk: Walk, path: Path) -> None:
    """Write all frames as MP4."""
    frames = [_enlarge(frame) for frame in walk.frames]
    publish_film(frames, walk.fps, path, walk.origin, walk.metadata, sidecar=False)


def cloud(walk: Walk, path: Path) -> None:
    """Write the memory's points as PLY."""
    position, colour = _points(walk)
    save_ply(position, colour, path, walk.metadata)


def mesh(walk: Walk, path: Path) -> None:
    """Write the depth of the walk, fused, as GLB; the memory's points meshed without a walk."""
    from worldsim.io.meshes import FusionConfig, PoissonConfig, fuse, save_glb, wrap

    if walk.trajectory is not None:
        made = fuse(walk.trajectory, FusionConfig())
    else:
        position, colour = _points(walk)
        made = wrap(position, colour, None, PoissonConfig())
    save_glb(made, path, walk.metadata)


def dataset(walk: Walk, path: Path) -> None:
    """Write pictures, depth, poses and points as a nerfstudio dataset in a ZIP file."""
    from worldsim.io.nerfstudio import save_nerfstudio

    if walk.trajectory is None:
        raise InvalidInputError("this world has no geometry: a nerfstudio dataset needs poses.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_nerfstudio(walk.trajectory, Path(scratch) / "dataset", _points(walk))
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
            packed.writestr("dataset/generated.json", walk.metadata["comment"])
            for file in sorted(folder.rglob("*")):
                if file.is_file():
                    packed.write(file, Path("dataset") / file.relative_to(folder))


@dataclass(frozen=True)
class Export:
    """One kind of file: who writes it, and its media type."""

    write: Callable[[Walk, Path], None]
    media_type: str


EXPORTS: Mapping[str, Export] = {
    "frame.png": Export(picture, "image/png"),
    "walk.mp4": Export(video, "video/mp4"),
    "memory.ply": Export(cloud, "application/octet-stream"),
    "memory.glb": Export(mesh, "model/gltf-binary"),
    "nerfstudio.zip": Export(dataset, "application/zip"),
}
"""By the name under which the page asks."""


def export(walk: Walk, name: str) -> bytes:
    """Return the content of the file ``name`` of :data:`EXPORTS`.

    Its sidecar is made where it is saved: the page asks for it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        EXPORTS[name].write(walk, path)
        return path.read_bytes()


def _points(walk: Walk) -> tuple[Array, Array]:
    if walk.points is None:
        raise InvalidInputError("this world has no scene memory, and so no points.")
    return walk.points


def _enlarge(frame: Array) -> Array:
    larger = enlarge(frame, max(1, -(-SHOWN_PIXELS // frame.shape[0])))
    # Video codecs need even sizes.
    return np.ascontiguousarray(larger[: larger.shape[0] // 2 * 2, : larger.shape[1] // 2 * 2])
