"""Poses of many action sequences without drawing frames: the ego-motion head on a memory map.

A step of a world spends nearly all of its time on drawing. If an objective needs positions alone,
the ego-motion head walks the candidates, and only the required frames are drawn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.slots import points_of
from worldsim.memory.splat import MAP_CELL, MAP_CELLS, POINT, frame_points
from worldsim.protocols import remembers
from worldsim.state import WorldState, map_tensors
from worldsim.world import World
from worldsim.world.heads import to_world_axes
from worldsim.world.step import Aim

FINE = 2
"""Cells of the drawn map along the side of a cell of a map of surroundings: maps are then up to 2
cm off."""
LEVEL = 0.1
"""Metres of height that share a drawn map."""
FASTEST = 1.25
"""Metres of a step that the drawn map has room for; beyond its edge nothing is known."""
MOST_SIDE = 4096


class Relief:
    """The surroundings of all places near a centre, drawn once per height.

    Maps of surroundings are cut out of it.

    position: (3, n) float32 points, world metres.
    centre: (3,) world metres.
    reach: metres to each side.
    body: see :class:`worldsim.memory.points.PointMemoryConfig`.
    """

    def __init__(self, position: Tensor, centre: Tensor, reach: float, body: float) -> None:
        self.step, self.body = MAP_CELL / FINE, body
        self.side = min(MOST_SIDE, 2 * math.ceil(reach / self.step) + 2)
        self.low = centre[:2].float() - 0.5 * self.side * self.step
        cell = torch.floor((position[:2] - self.low[:, None]) / self.step).to(torch.int64)
        # A border stays empty: places beyond the edge find nothing there.
        near = ((cell >= 1) & (cell < self.side - 1)).all(0)
        self.cell, self.z = (cell[1] * self.side + cell[0])[near], position[2, near]
        self._drawn: dict[int, Tensor] = {}

    def to(self, device: torch.device) -> Relief:
        """Move it to a device; returns itself."""
        for name in ("low", "cell", "z"):
            setattr(self, name, getattr(self, name).to(device))
        self._drawn = {level: drawn.to(device) for level, drawn in self._drawn.items()}
        return self

    def around(self, pose: Tensor) -> Tensor:
        """Return maps of the surroundings of poses (b, 4, 4), (b, 2, 48, 48) uint8.

        As :meth:`worldsim.protocols.SceneMemory.surroundings`, with errors of up to 2 cm in
        position and 5 cm in height.
        """
        level = torch.round(pose[:, 2, 3] / LEVEL).to(torch.int64)
        found, which = torch.unique(level, return_inverse=True)
        maps = torch.stack([self._map(int(one)) for one in found])
        offset = (torch.arange(MAP_CELLS, device=pose.device) - MAP_CELLS // 2) * FINE
        corner = torch.round((pose[:, :2, 3].float() - self.low) / self.step).to(torch.int64)
        column = (corner[:, 0, None] + offset).clamp(0, self.side - 1)
        row = (corner[:, 1, None] + offset.flip(0)).clamp(0, self.side - 1)
        return (
            maps[which[:, None, None], :, row[:, :, None], column[:, None, :]]
            .permute(0, 3, 1, 2)
            .contiguous()
        )

    def _map(self, level: int) -> Tensor:
        """Return the map of one height, (2, side, side) uint8, rows from south to north.

        Each cell includes its neighbours.
        """
        if level not in self._drawn:
            z = self.z - level * LEVEL
            stands = torch.where(z.abs() <= self.body, 255, 0)
            depth = ((-z - self.body) * 100.0).clamp(0.0, 254.0)
            floor = torch.where(
                (z < -self.body) & (z > -self.body - 2.5), 255 - depth.to(torch.int64), 0
            )
            drawn = torch.zeros(2, self.side**2, dtype=torch.int32, device=z.device)
            drawn = drawn.scatter_reduce_(
                1, self.cell.expand(2, -1), torch.stack([stands, floor]).to(torch.int32), "amax"
            )
            square = drawn.to(torch.uint8).view(2, self.side, self.side)
            # Each cell takes in its next ones to the east and north: together they are a cell of a
            # map of surroundings.
            for axis in (1, 2):
                square = torch.stack([square.roll(-k, axis) for k in range(FINE)]).amax(0)
            self._drawn[level] = square
        return self._drawn[level]


def relief_of(world: World, state: WorldState, steps: int) -> Relief | None:
    """Return the surroundings of all places within ``steps`` steps.

    None for memories that cannot draw them at once.
    """
    assert state.frame.pose is not None and state.frame.inverse_depth is not None
    centre, reach = state.frame.pose[0, :3, 3], steps * FASTEST + MAP_CELL * MAP_CELLS
    points = points_of(world.memory, state.memory)
    if points is not None:
        config = getattr(world.memory, "config", None)
        chosen = points.kind[0] == POINT
        return Relief(points.position[0][:, chosen], centre, reach, getattr(config, "body_m", 0.5))
    if not remembers(world.memory):
        n = world.spec
        camera = Camera(state.frame.pose, state.intrinsics, n.height, n.width)
        position, kind = frame_points(state.frame.inverse_depth, camera)
        return Relief(position[0][:, kind[0] == POINT], centre, reach, 0.5)
    return None


@torch.no_grad()
def imagine_motion(
    world: World, state: WorldState, acts: Tensor, relief: Relief | None = None
) -> Tensor:
    """The poses that sequences of actions lead to from one state.

    state: a batch of one. acts: (n, t) int64 or (n, t, k) float32. relief: :func:`relief_of` this
    state, where it is at hand. Returns (n, t, 4, 4) float32 camera-to-world, metres, snapped as
    frames' poses are. The memory stays as it is: what would be seen on the way is not drawn, and so
    not walked into. Raises MissingGeometryError for a world without geometry.
    """
    if world.running.inner.ego_motion is None or state.frame.pose is None:
        raise MissingGeometryError(
            "this world was trained without geometry: it has no poses to imagine, step it instead"
        )
    if len(state) != 1 or acts.dim() < 2:
        raise InvalidInputError(
            f"imagine_motion takes one state and acts of shape (n, t, ...), got {len(state)} "
            f"states and {tuple(acts.shape)}: "
            "state.select(...) picks one"
        )
    n, t = acts.shape[:2]
    acts = acts.to(world.device, state.act.dtype)
    pose = state.frame.pose.expand(n, 4, 4)
    motion, past = state.motion.expand(n, -1, -1), state.act.expand(n, *state.act.shape[1:])
    relief = relief or relief_of(world, state, t)
    memory = (
        None
        if relief is not None
        else map_tensors(lambda x: x.expand(n, *x.shape[1:]), state.memory)
    )
    aim, poses = Aim(world.running.inner.ego_motion), []
    for step in range(t):
        around = (
            relief.around(pose) if relief is not None else world.memory.surroundings(memory, pose)
        )
        following, moved = aim(around, pose, motion, past, acts[:, step])
        motion = torch.cat([motion[:, 1:], to_world_axes(moved, pose)[:, None]], 1)
        past = torch.cat([past[:, 1:], acts[:, step, None]], 1)
        pose = following
        poses.append(pose)
    return torch.stack(poses, 1)
