"""Folders of generated scenes: frames, memory, starts and where they come from, with pictures.

A folder is a scene (:mod:`worldsim.world.scene_files`) of version 4 with pictures for people beside
it: ``sheet.png`` (all views, colours above depth), ``fly.mp4`` (a turn and a walk of a few steps
through the memory) and ``scene.ply`` (the memory's points).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim import __version__
from worldsim.camera import Camera, dequantise_depth, motion_to_matrix, snap_pose
from worldsim.errors import InvalidInputError
from worldsim.io.pictures import contact_sheet, depth_picture, enlarge
from worldsim.io.provenance.origin import Origin
from worldsim.io.provenance.publish import publish, publish_film, publish_picture
from worldsim.memory.points import PointMemory, PointMemoryConfig, Points
from worldsim.memory.splat import EMPTY, POINT
from worldsim.memory.surfels import draw
from worldsim.painting.places.place import ring
from worldsim.runtime.files import as_path, is_file, replacing_folder
from worldsim.runtime.ply import save_ply
from worldsim.runtime.types import Array, JsonMapping
from worldsim.state import Frame, SceneStart, map_tensors
from worldsim.world.scene_files import (
    SCENE,
    StartFrames,
    check_scene_folder,
    check_starts,
    write_scene,
)

SHEET, FLIGHT, CLOUD = "sheet.png", "fly.mp4", "scene.ply"
COLUMNS = 8
"""Views in a row of the contact sheet."""
MOST_ROWS = 16
"""Rows of views of the largest sheet; of more views, evenly spread ones are shown."""
SHEET_PIXELS = 192
"""Smallest width of a view in the contact sheet."""
FLY_PIXELS, FLY_SCALE = 128, 2
"""Smallest height at which the film is drawn, and how many times it is enlarged: drawing four times
as many pixels takes longer than painting on a GPU."""
FLY_FPS = 16.0
TURN_FRAMES, DOLLY_FRAMES = 64, 32
"""Frames of a full turn, and of the way ahead and back."""
DOLLY_SHARE, DOLLY_METRES = 0.4, 2.5
"""The camera moves ahead by this share of the free depth, at most by these metres."""


def save_generated(
    folder: str | os.PathLike[str],
    frames: Frame,
    intrinsics: Tensor,
    points: Points,
    starts: Sequence[StartFrames],
    told: JsonMapping,
    name: str = "",
    sheet: Array | None = None,
    path: Tensor | None = None,
) -> Path:
    """Write a generated scene, with pictures, to ``folder`` atomically.

    frames: (t, ...) all views with depth and pose.
    intrinsics: (4,) pixels.
    points: the memory of the whole scene, a batch of one.
    starts: which of the frames begin an episode.
    told: where the scene comes from (words, seeds, the painter), JSON values. The version of
        worldsim is added.
    name: of the scene; by default the folder's.
    sheet: contact sheet (h, w, 3) uint8; by default :func:`sheet_of`.
    path: (n, 4, 4) cameras of the film; by default those of :func:`flight`.

    Raises StorageError or InvalidInputError.
    """
    folder = as_path(folder)
    if frames.inverse_depth is None or frames.pose is None:
        raise InvalidInputError("a generated scene needs frames with depth and pose.")
    t = len(frames.rgb)
    check_starts(starts, t)
    if not starts:
        raise InvalidInputError("a generated scene needs at least one start.")
    frames = map_tensors(lambda x: x.cpu(), frames)
    kept = _before_start(map_tensors(lambda x: x.cpu(), points), t)
    scene = SceneStart(
        rgb=frames.rgb,
        act=torch.zeros(t, dtype=torch.int64),
        inverse_depth=frames.inverse_depth,
        pose=frames.pose,
        intrinsics=intrinsics.float().cpu(),
        memory=kept,
        name=name or folder.resolve().name,
    )
    origin = {**told, "worldsim": __version__}
    lens = intrinsics.float().cpu()
    film = render_flight(
        kept, flight(frames, starts) if path is None else path, lens, frames.rgb.shape[-2:]
    )
    solid = kept.kind[0] == POINT
    position, colour = (x[0][:, solid].T.numpy() for x in (kept.position, kept.colour))
    with replacing_folder(folder) as new:
        write_scene(scene, new, starts, origin)
        come = origin_of(told)
        publish(new / SCENE, come)
        publish_picture(sheet_of(frames) if sheet is None else sheet, new / SHEET, come)
        publish_film(film, FLY_FPS, new / FLIGHT, come)
        save_ply(position, colour, new / CLOUD)
        publish(new / CLOUD, come)
    return folder


def origin_of(told: JsonMapping) -> Origin:
    """Return where a painted scene comes from: the painter, its weights and the seed."""
    painter, config = str(told.get("painter") or "painter"), told.get("config")
    # A journey tells its painter by the weights alone, and its seed among its settings.
    seed = told.get("seed", config.get("seed") if isinstance(config, dict) else None)
    weights = str(told.get("painter_sha256") or painter)
    name = "painter" if weights == painter else painter
    return Origin(name, weights, seed if isinstance(seed, int) else None)


def _before_start(points: Points, frames: int) -> Points:
    """Return the used slots alone, last seen before the first step of an episode."""
    memory = PointMemory(PointMemoryConfig(capacity=max(1, points.capacity)))
    kept = memory.trim(points)
    if not kept.capacity:
        return kept
    newest = kept.seen[kept.kind != EMPTY].max()
    return replace(kept, seen=kept.seen - newest - 1 - frames)


def finished(folder: str | os.PathLike[str], told: JsonMapping) -> bool:
    """Return whether ``folder`` holds a finished scene that was made as ``told`` says.

    Raises InvalidInputError if it holds another scene, and DamagedFileError for a damaged one.
    """
    folder = as_path(folder)
    if not is_file(folder / SCENE):
        return False
    found = check_scene_folder(folder)
    differs = [key for key, value in told.items() if found.origin.get(key) != value]
    if not found.generated or differs:
        what = ", ".join(differs) or "it was recorded"
        raise InvalidInputError(
            f"{folder} holds another scene ({what}): choose another folder with --out, or remove "
            f"this one"
        )
    return True


def sheet_of(frames: Frame, title: Sequence[str] = (), names: Sequence[str] = ()) -> Array:
    """Return a contact sheet (h, w, 3) uint8 of views: colours above depth, in rows of eight.

    names: captions of the views; by default their numbers.
    """
    t = len(frames.rgb)
    shown = np.linspace(0, t - 1, min(t, MOST_ROWS * COLUMNS)).round().astype(int).tolist()
    rgb = frames.rgb.permute(0, 2, 3, 1).cpu().numpy()
    assert frames.inverse_depth is not None
    depth = dequantise_depth(frames.inverse_depth).cpu().numpy()
    captions = [names[i] if names else str(i + 1) for i in shown]
    width = min(COLUMNS, len(shown))
    rows: dict[str, list[Array | None]] = {}
    for first in range(0, len(shown), width):
        some = shown[first : first + width]
        empty: list[Array | None] = [None] * (width - len(some))
        mark = f"\n{captions[first]}-" if len(shown) > width else ""
        rows[f"colour{mark}"] = [*(rgb[i] for i in some), *empty]
        rows[f"depth{mark}"] = [*(depth_picture(depth[i]) for i in some), *empty]
    heads = captions[:width] if len(shown) == width else [""] * width
    scale = max(1, -(-SHEET_PIXELS // frames.rgb.shape[-1]))
    return contact_sheet(rows, heads, scale, title)


def flight(frames: Frame, starts: Sequence[StartFrames]) -> Tensor:
    """Return the cameras of a film: at the first start a turn, then a way ahead and back.

    Returns (n, 4, 4) float32.
    """
    assert frames.pose is not None and frames.depth is not None
    at = starts[0].first
    pose, depth = frames.pose[at].cpu(), frames.depth[at].cpu()
    h, w = depth.shape
    middle = depth[h * 3 // 8 : h * 5 // 8 + 1, w * 3 // 8 : w * 5 // 8 + 1]
    free = float(middle.clamp(max=100.0).median())
    reach = min(DOLLY_METRES, DOLLY_SHARE * free)
    share = 0.5 - 0.5 * torch.cos(
        torch.arange(DOLLY_FRAMES, dtype=torch.float64) * (2.0 * math.pi / DOLLY_FRAMES)
    )
    motion = torch.zeros(DOLLY_FRAMES, 6, dtype=torch.float64)
    motion[:, 2] = reach * share
    dolly = snap_pose(pose.double() @ motion_to_matrix(motion))
    return torch.cat([ring(pose, TURN_FRAMES), dolly])


def render_flight(
    points: Points, path: Tensor, intrinsics: Tensor, size: Sequence[int]
) -> list[Array]:
    """Render a memory, a batch of one, at each camera of ``path`` (n, 4, 4).

    intrinsics, size: those of its frames, (4,) pixels and (height, width). The pictures are larger.

    Returns pictures (h, w, 3) uint8 of even size. Holes are black.
    """
    height, width = size
    scale = max(1, -(-FLY_PIXELS // height))
    large = (height * scale // 2 * 2, width * scale // 2 * 2)
    lens = intrinsics * torch.tensor([large[1] / width, large[0] / height] * 2)
    focal = float(intrinsics[0]), float(intrinsics[1])
    pictures = []
    for pose in path.cpu().float():
        view = draw(points, Camera(pose[None], lens[None], *large), focal, with_normals=False)
        picture = view.rgb.permute(1, 2, 0).contiguous().numpy()
        pictures.append(enlarge(picture, FLY_SCALE) if scale > 1 else picture)
    return pictures
