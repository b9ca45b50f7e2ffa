"""What a journey leaves behind: a scene with one start per place, a sheet, a film and a map."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.io.pictures import contact_sheet, depth_picture, enlarge
from worldsim.io.provenance.publish import publish_picture
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.painting.journeys.trip import Trip
from worldsim.painting.places.folder import origin_of, save_generated
from worldsim.painting.places.place import level_pose
from worldsim.protocols import PainterSpec
from worldsim.runtime.types import Array, JsonMapping
from worldsim.state import Frame, SceneStart, concatenate
from worldsim.world.scene_files import StartFrames

MAP = "map.png"
LEG_FRAMES, TURN_FRAMES = 24, 48
"""Frames of the film from one place to the next, and of the turn at the end."""
MAP_METRES = 0.08
"""Metres per pixel of the map, before it is enlarged."""
MAP_SCALE = 2
MOST_ROWS = 16
"""Places on the largest sheet; of more places, evenly spread ones are shown."""
LETTERS = 20


def scene_of(trip: Trip, spec: PainterSpec, name: str = "journey") -> SceneStart:
    """Return all views of a journey as one scene with its memory.

    Actions are no-ops. The memory's points are older than the first step of an episode.
    """
    frames = frames_of_trip(trip)
    t = len(frames.rgb)
    memory = PointMemory(PointMemoryConfig(capacity=max(1, trip.memory.capacity)))
    kept = memory.trim(trip.memory)
    newest = int(kept.seen.max()) if kept.capacity else 0
    return SceneStart(
        rgb=frames.rgb,
        act=torch.zeros(t, dtype=torch.int64),
        inverse_depth=frames.inverse_depth,
        pose=frames.pose,
        intrinsics=torch.tensor(spec.intrinsics),
        memory=replace(kept, seen=kept.seen - newest - 1 - t),
        name=name,
    )


def frames_of_trip(trip: Trip) -> Frame:
    """Return all views of a journey (places * headings, ...). Raises InvalidInputError for none."""
    if not trip.frames:
        raise InvalidInputError("this journey has no places yet: make at least one.")
    joined: Frame = concatenate(trip.frames)
    return joined


def starts_of_trip(trip: Trip) -> list[StartFrames]:
    """Return the starts of a journey: at each painted place, the view ahead."""
    headings = len(trip.frames[0].rgb)
    return [
        StartFrames(place * headings, 1) for place, stop in enumerate(trip.stops) if stop.painted
    ]


def save_trip_scene(folder: Path, trip: Trip, spec: PainterSpec, told: JsonMapping) -> Path:
    """Write a journey as a generated scene with sheet, film, points and map.

    told: where it comes from, JSON values.

    Raises StorageError.
    """
    frames, lens = frames_of_trip(trip), torch.tensor(spec.intrinsics)
    path = flight_of(trip)
    starts = starts_of_trip(trip)
    save_generated(
        folder, frames, lens, trip.memory, starts, told, sheet=trip_sheet(trip), path=path
    )
    publish_picture(trip_map(trip, spec), folder / MAP, origin_of(told))
    return folder


def trip_sheet(trip: Trip) -> Array:
    """Return a contact sheet (h, w, 3) uint8: one place after the other, colours above depth."""
    shown = np.linspace(0, len(trip) - 1, min(len(trip), MOST_ROWS)).round().astype(int)
    rows: dict[str, Sequence[Array | None]] = {}
    for place in shown.tolist():
        frames, stop = trip.frames[place], trip.stops[place]
        depth = frames.depth
        assert depth is not None
        words = "\n".join(textwrap.wrap(stop.words, 22))
        found = "" if stop.painted else "\nfound as it was"
        rows[f"{place + 1}. {words}{found}"] = list(frames.rgb.permute(0, 2, 3, 1).numpy())
        rows[f"depth {place + 1}"] = [depth_picture(d) for d in depth.numpy()]
    headings = len(trip.frames[0].rgb)
    turns = [f"{round(360 * i / headings)} deg" for i in range(headings)]
    size = trip.frames[0].rgb.shape[-1]
    return contact_sheet(rows, ["ahead", *turns[1:]], max(1, -(-160 // size)))


def flight_of(trip: Trip) -> Tensor:
    """Return cameras (n, 4, 4) of a film along the journey, with a turn at its end."""
    poses = trip.pose.double()
    place = poses[:, :3, 3].numpy()
    ahead = np.arctan2(poses[:, 1, 2].numpy(), poses[:, 0, 2].numpy())
    cameras = []
    for i in range(len(poses) - 1):
        step = place[i + 1] - place[i]
        moved = float(np.hypot(*step[:2])) > 0.1
        way = math.atan2(step[1], step[0]) if moved else float(ahead[i + 1])
        for k in range(LEG_FRAMES):
            share = k / LEG_FRAMES
            # Turn during the first third, then walk.
            turn = min(1.0, share / 0.34)
            walk = max(0.0, (share - 0.2) / 0.8)
            heading = ahead[i] + turn * math.remainder(way - ahead[i], 2.0 * math.pi)
            smooth = walk * walk * (3.0 - 2.0 * walk)
            x, y, z = (place[i] + smooth * step).tolist()
            cameras.append(level_pose(x, y, z, float(heading)))
        ahead[i + 1] = way
    x, y, z = place[-1].tolist()
    turns = [
        level_pose(x, y, z, float(ahead[-1]) - 2.0 * math.pi * k / TURN_FRAMES)
        for k in range(TURN_FRAMES)
    ]
    return torch.stack([*cameras, *turns])


def trip_map(trip: Trip, spec: PainterSpec) -> Array:
    """Return the journey from above (h, w, 3) uint8, north up, with numbered places."""
    pose = trip.pose
    # The highest camera decides what is cut off as ceiling.
    top = pose[int(pose[:, 2, 3].argmax())].clone()
    memory = PointMemory(PointMemoryConfig(capacity=max(1, trip.memory.capacity)))
    lens = torch.tensor(spec.intrinsics)
    handle = MemoryHandle(memory, trip.memory, lens, (spec.height, spec.width), top)
    reach = float((pose[:, :2, 3] - top[:2, 3]).abs().max()) + 15.0
    seen = handle.top_down(resolution=MAP_METRES, reach=reach)
    picture = enlarge(np.where(seen.mask[..., None], seen.rgb, 24).astype(np.uint8), MAP_SCALE)
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(LETTERS)
    at = [tuple(xy) for xy in (seen.pixels(pose[:, :2, 3].numpy()) * MAP_SCALE).tolist()]
    if len(at) > 1:
        draw.line(at, (255, 220, 60), 3)
    for number, (x, y) in enumerate(at, 1):
        draw.ellipse((x - 5, y - 5, x + 5, y + 5), (255, 80, 60))
        draw.text(
            (x + 7, y - LETTERS // 2),
            str(number),
            (255, 255, 255),
            font,
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )
    return np.asarray(image)
