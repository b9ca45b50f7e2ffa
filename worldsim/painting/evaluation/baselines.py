"""What stands beside the painter: ``cv2.inpaint`` of a splat, and a world that turns round."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from worldsim.painting.channels import unscale
from worldsim.painting.evaluation.places import HEADINGS, Places, as_bytes, partial_memory
from worldsim.state import SceneStart
from worldsim.world import World

RADIUS = 3
"""Radius in pixels from which OpenCV fills a pixel."""
TURN_STEPS = 3
"""Steps of the world from one heading to the next: 15 degrees each, about as in its training."""
TURN_LEFT, ACTIONS = 3, 7
"""Number of the action that turns left, of how many."""


def inpaint(memory: Tensor) -> Tensor:
    """Fill the holes of memory views (m, 5, h, w) with ``cv2.inpaint`` (Telea 2004).

    Returns (m, 3, h, w) uint8 on the CPU.
    """
    rgb = as_bytes(unscale(memory[:, :3])).permute(0, 2, 3, 1).cpu().numpy()
    holes = (memory[:, 4] == 0).to(torch.uint8).cpu().numpy()
    filled = [
        cv2.inpaint(np.ascontiguousarray(p), h, RADIUS, cv2.INPAINT_TELEA)
        for p, h in zip(rgb, holes, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2)


def inpaint_around(places: Places) -> Tensor:
    """Splat the first heading of each place into the others and inpaint their holes.

    Returns all headings, (s * 8, 3, h, w) uint8. The first one is the true view.
    """
    filled = inpaint(partial_memory(places, [0]).flatten(0, 1)).unflatten(0, (-1, HEADINGS))
    filled = filled.to(places.rgb.device).contiguous()
    filled[:, 0] = places.rgb[:, 0]
    return filled.flatten(0, 1)


def fits(world: World, places: Places) -> bool:
    """Return whether a world can turn round at ``places``: same camera and actions, and poses."""
    spec, size = world.spec, tuple(places.rgb.shape[-2:])
    return world.has_geometry and (spec.height, spec.width) == size and spec.actions == ACTIONS


@torch.no_grad()
def turn_round(
    world: World,
    places: Places,
    seed: int = 0,
    batch: int = 32,
    progress: Callable[[int], object] = lambda steps: None,
) -> Tensor:
    """Dream a turn on the spot from the first heading of each place, at the true poses.

    world: a world that :func:`fits`.
    progress: called with the number of steps made.

    Returns all headings, (s * 8, 3, h, w) uint8. The first one is the true view.
    """
    found = []
    for start in range(0, len(places), batch):
        at = places.part(slice(start, start + batch)).to("cpu")
        noop = torch.zeros(1, dtype=torch.int64)
        scenes = [
            SceneStart(at.rgb[i, :1], noop, at.code[i, :1], at.pose[i, :1], at.intrinsics)
            for i in range(len(at))
        ]
        state = world.initial(scenes, [seed + start + i for i in range(len(at))])
        at = at.to(world.device)
        act = torch.full((len(at),), TURN_LEFT, dtype=torch.int64, device=world.device)
        views = [at.rgb[:, 0]]
        for step in range(1, TURN_STEPS * (HEADINGS - 1) + 1):
            pose = turned(at.pose[:, 0], step * 2 * np.pi / (HEADINGS * TURN_STEPS))
            if step % TURN_STEPS == 0:
                pose = at.pose[:, step // TURN_STEPS]
            state, transition = world.step(state, act, pose)
            if step % TURN_STEPS == 0:
                views.append(transition.frame.rgb)
            progress(len(at))
        found.append(torch.stack(views, 1).flatten(0, 1))
    return torch.cat(found).to(places.rgb.device)


def turned(pose: Tensor, angle: float) -> Tensor:
    """Rotate cameras (b, 4, 4) about their own place, counter-clockwise seen from above.

    angle: radians. World axes have z up.
    """
    c, s = float(np.cos(angle)), float(np.sin(angle))
    rotation = pose.new_tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    found = pose.clone()
    found[:, :3, :3] = rotation @ pose[:, :3, :3]
    return found
