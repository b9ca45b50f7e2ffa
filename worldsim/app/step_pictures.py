"""Pictures of one dreamed step: real frame, dream, memory view, dreamed depth."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from worldsim.io.pictures import depth_picture, holes_marked
from worldsim.runtime.types import Array
from worldsim.state import Transition


def as_picture(rgb: Tensor) -> Array:
    """(3, h, w) uint8 to (h, w, 3) uint8."""
    return np.ascontiguousarray(rgb.permute(1, 2, 0).cpu().numpy())


def step_pictures(real: Array, transition: Transition) -> dict[str, Array]:
    """Return pictures (h, w, 3) uint8 by name; memory view and depth only if the world has them.

    transition: a batch of one.
    """
    pictures = {"real twin": real, "dream": as_picture(transition.frame.rgb[0])}
    if transition.view is not None:
        pictures["memory view"] = holes_marked(
            as_picture(transition.view.rgb[0]), transition.view.mask[0].cpu().numpy()
        )
    if transition.frame.depth is not None:
        pictures["dreamed depth"] = depth_picture(transition.frame.depth[0].cpu().numpy())
    return pictures
