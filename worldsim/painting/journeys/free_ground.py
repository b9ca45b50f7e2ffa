"""Ground that was free before a place was painted, on which nothing new may stand.

Each place of a journey is painted with obstacles of its own, some of them where earlier views show
free floor: in the gaps between its points, or behind pixels that a view does not tell apart. So
walls add up from place to place.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera, dequantise_depth, unproject
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.runtime.types import Array
from worldsim.state import Frame

GROUND = GroundConfig(cell=0.25, reach=48.0)
GAP = 1.0
"""Metres: gaps of up to twice this between the points of a floor are floor."""
LOW, HIGH = 0.4, 2.4
"""Metres over the ground between which nothing new may be."""


@dataclass(frozen=True, eq=False)
class FreeGround:
    """The free floor of a memory.

    height: (nx, ny) float32, world metres; NaN where the ground is not known to be free.
    low: (2,) float64, world x, y of the lower corner of cell (0, 0).
    """

    height: Array
    low: Array

    @staticmethod
    def of(data: Points, pose: Tensor) -> FreeGround:
        """Return the free floor around a camera's pose (4, 4), of a memory of one environment."""
        position = data.position[0][:, data.kind[0] == POINT].cpu().numpy()
        ground = Ground.of(position, pose[:3, 3].double().cpu().numpy(), GROUND)
        square = np.ones((2 * round(GAP / GROUND.cell) + 1,) * 2, np.uint8)
        known = cv2.erode(cv2.dilate(ground.known.astype(np.uint8), square), square) > 0
        free = known & ~ground.obstacle
        return FreeGround(np.where(free, ground.height, np.nan).astype(np.float32), ground.low)

    def carries(self, frame: Frame, camera: Camera) -> Tensor:
        """Return the pixels of a view whose points stand on free ground, (n, h, w) bool."""
        code = frame.inverse_depth
        assert code is not None
        points = unproject(dequantise_depth(code), camera)
        low = torch.from_numpy(self.low).to(points)
        index = torch.floor((points[..., :2] - low) / GROUND.cell).nan_to_num(-1.0, -1.0, -1.0)
        height = torch.from_numpy(self.height).to(points)
        size = torch.tensor(height.shape, device=points.device)
        inside = (code > 0) & ((index >= 0) & (index < size)).all(-1)
        cell = index.clamp(min=0).minimum(size - 1).long()
        over = points[..., 2] - height[cell[..., 0], cell[..., 1]]
        # NaN, where the ground is not known to be free, is in no interval.
        return inside & (over > LOW) & (over < HIGH)
