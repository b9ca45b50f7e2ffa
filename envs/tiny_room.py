"""A small RGB-D environment with exact geometry, for tests and first experiments.

It needs only NumPy: no engine, no GPU. Like every real twin it has ``Discrete(7)`` actions with the
same meanings, and ``pose``, ``depth`` and ``intrinsics`` in ``info``. Depth and pose are analytic,
so they can serve as ground truth.
"""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

import worldsim.runtime.forks  # noqa: F401  rooms compute with torch, too
from worldsim.camera import Camera, pixel_rays, quantise_depth, snap_pose
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.runtime.actions import cast_box_action
from worldsim.runtime.arguments import whole
from worldsim.runtime.keyboard import Keys, keys_to_action, rates
from worldsim.runtime.options import check_options
from worldsim.runtime.types import Action, Array, Info, Space
from worldsim.state import Frame, Trajectory

LARGEST_SIDE = 4096
"""Most pixels a side of a room's frames."""
FORWARD_METRES = 0.3
"""How far an unhindered step forward, backward or sideways goes, in metres."""
TURN_RADIANS = 0.2
"""How far a turn goes in one step, in radians."""
BODY_RADIUS = 0.4
"""The camera never comes nearer than this to a wall or the pillar, in metres."""
EYE_HEIGHT = 1.3
"""Height of the camera over the floor, in metres."""
TILE_METRES = 0.75
"""Edge of the coloured tiles on every surface, in metres."""

# Per action: metres forward, metres to the left, radians counter-clockwise, as shares of the
# constants above.
DISCRETE_MOVES = np.array(
    [(0, 0, 0), (1, 0, 0), (-1, 0, 0), (0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0)], np.float64
)


class TinyRoom(gym.Env[Array, Action]):
    """A box room with tiled walls and one square pillar, seen in the first person.

    size: frame size in pixels, one number or (height, width); 90 degrees of horizontal view.
    rooms: number of different rooms, ``room-0`` upwards; the last quarter is the test split.
    continuous: ``Box(-1, 1, (2,))`` actions, (forward, turn left), instead of ``Discrete(7)``.
    goal: touching the pillar gives a reward of 1 and terminates; otherwise the reward is 0 and
        nothing terminates.

    World axes: x east, y north, z up, metres. ``info`` of reset and step: ``pose`` (4, 4) float32
    camera-to-world in OpenCV axes, ``depth`` (h, w) float32 metres along the optical axis,
    ``intrinsics`` (4,) float32 pixels, ``map``. Options of reset: ``{"map": "room-2"}`` or
    ``{"split": "train" | "test"}``; without them, any room is drawn.
    """

    metadata = {"render_modes": ["rgb_array"], **rates(10.0)}

    def __init__(
        self,
        size: int | tuple[int, int] = 64,
        rooms: int = 8,
        continuous: bool = False,
        goal: bool = False,
        render_mode: str | None = None,
    ) -> None:
        sides = (size, size) if isinstance(size, int) else size
        if not isinstance(sides, (tuple, list)) or len(sides) != 2:
            raise InvalidInputError(
                f"TinyRoom size {size!r}: give a number of pixels, or height and width."
            )
        height, width = (whole("TinyRoom size", side, 1, LARGEST_SIDE, "pixels") for side in sides)
        rooms = whole("TinyRoom rooms", rooms, 1, 10_000)
        self.height, self.width, self.rooms, self.goal = height, width, rooms, goal
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space: Space = (
            gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
            if continuous
            else gym.spaces.Discrete(len(DISCRETE_MOVES))
        )
        focal = 0.5 * width
        self.intrinsics = np.array([focal, focal, 0.5 * width, 0.5 * height], np.float32)
        u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        # Rays with z = 1 in the camera's frame, so that distances along them are depths.
        self._right = ((u - 0.5 * width) / focal).ravel()
        self._down = ((v - 0.5 * height) / focal).ravel()
        self._position, self._yaw = np.zeros(2), 0.0
        self._rgb = np.zeros((height, width, 3), np.uint8)
        self._enter(0)

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Array, Info]:
        """Begin an episode; see the class for the options."""
        super().reset(seed=seed)
        self._enter(self._choose_room(options))
        while True:
            self._position = self.np_random.uniform(BODY_RADIUS, self._extent[:2] - BODY_RADIUS)
            if np.abs(self._position - self._pillar).max() > self._pillar_half + BODY_RADIUS:
                break
        self._yaw = float(self.np_random.uniform(-np.pi, np.pi))
        return self._look()

    def step(self, action: Action) -> tuple[Array, float, bool, bool, Info]:
        """Move, then render a frame; never truncates."""
        if isinstance(self.action_space, gym.spaces.Box):
            action = cast_box_action(action, self.action_space)
            forward, left, turn = float(action[0]), 0.0, float(action[1])
        elif self.action_space.contains(action):
            forward, left, turn = DISCRETE_MOVES[int(action)]
        else:
            raise InvalidInputError(f"Action {action!r} is outside {self.action_space}.")
        self._yaw = float(np.mod(self._yaw + turn * TURN_RADIANS + np.pi, 2 * np.pi) - np.pi)
        ahead = np.array([np.cos(self._yaw), np.sin(self._yaw)])
        aside = np.array([-ahead[1], ahead[0]])
        touched = self._move(FORWARD_METRES * (forward * ahead + left * aside))
        observation, info = self._look()
        reached = self.goal and touched
        return observation, float(reached), reached, False, info

    def render(self) -> Array | None:
        """Return the newest frame, (h, w, 3) uint8; None unless the mode is ``rgb_array``."""
        return self._rgb.copy() if self.render_mode == "rgb_array" else None

    def get_keys_to_action(self) -> Keys:
        """Return the keys for ``gymnasium.utils.play``.

        See :func:`worldsim.runtime.keyboard.keys_to_action`.
        """
        return keys_to_action(self.action_space, "worldsim/TinyRoom-v0")

    def _choose_room(self, given: Info | None) -> int:
        options = check_options(given)
        unknown = sorted(map(str, options.keys() - {"map", "split"}))
        if unknown:
            raise InvalidInputError(
                f"TinyRoom knows no reset option {', '.join(unknown)}; it knows 'map' and 'split'."
            )
        names = [f"room-{i}" for i in range(self.rooms)]
        if "map" in options:
            if options["map"] not in names:
                raise NotFoundError(
                    f"TinyRoom has no map {options['map']!r}; it has {', '.join(names)}."
                )
            return names.index(options["map"])
        first_test = self.rooms - max(1, self.rooms // 4)
        ranges = {
            "train": (0, max(1, first_test)),
            "test": (first_test, self.rooms),
            None: (0, self.rooms),
        }
        split = options.get("split")
        if not isinstance(split, str | None) or split not in ranges:
            raise NotFoundError(f"TinyRoom has no split {split!r}; it has 'train' and 'test'.")
        return int(self.np_random.integers(*ranges[split]))

    def _enter(self, room: int) -> None:
        """Build a room from its number: its extent, its pillar and seven tiled surfaces."""
        rng = np.random.default_rng([room, 7])
        self._room = room
        self._extent = np.array([rng.uniform(7, 11), rng.uniform(7, 11), rng.uniform(2.6, 3.4)])
        self._pillar_half = 0.5
        self._pillar = self._extent[:2] * rng.uniform(0.35, 0.65, 2)
        base = rng.uniform(40, 215, (7, 1, 1, 3))
        tiles = base + rng.uniform(-40, 40, (7, 16, 16, 3))
        self._texture = np.clip(tiles, 0, 255).astype(np.uint8).reshape(-1, 3)

    def _move(self, offset: Array) -> bool:
        """Slide along walls and pillar. True if the pillar was touched."""
        position = np.clip(self._position + offset, BODY_RADIUS, self._extent[:2] - BODY_RADIUS)
        away = position - self._pillar
        keep = self._pillar_half + BODY_RADIUS
        touched = bool(np.abs(away).max() < keep)
        if touched:
            axis = int(np.abs(away).argmax())
            position[axis] = self._pillar[axis] + np.copysign(keep, away[axis])
        self._position = position
        return touched

    def _pose(self) -> Array:
        cosine, sine = np.cos(self._yaw), np.sin(self._yaw)
        pose = np.eye(4, dtype=np.float32)
        pose[:3, 0] = sine, -cosine, 0.0
        pose[:3, 1] = 0.0, 0.0, -1.0
        pose[:3, 2] = cosine, sine, 0.0
        pose[:3, 3] = *self._position, EYE_HEIGHT
        return pose

    def _look(self) -> tuple[Array, Info]:
        """Cast one ray per pixel to the room's box, and to the pillar's if that comes first."""
        cosine, sine = np.cos(self._yaw), np.sin(self._yaw)
        origin = np.array([*self._position, EYE_HEIGHT])
        ray = np.stack([cosine + sine * self._right, sine - cosine * self._right, -self._down])
        ray = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
        positive = ray > 0
        # Room: the first of the three faces that the ray runs towards.
        exits = (np.where(positive, self._extent[:, None], 0.0) - origin[:, None]) / ray
        axis = exits.argmin(0)
        depth = exits.min(0)
        # Pillar: from floor to ceiling, so only its four sides count.
        near = self._pillar - self._pillar_half * np.where(positive[:2].T, 1, -1)
        far = self._pillar + self._pillar_half * np.where(positive[:2].T, 1, -1)
        enter, leave = (near.T - origin[:2, None]) / ray[:2], (far.T - origin[:2, None]) / ray[:2]
        entry = enter.max(0)
        struck = (entry > 0) & (entry < leave.min(0)) & (entry < depth)
        depth = np.where(struck, entry, depth)
        axis = np.where(struck, enter.argmax(0), axis)
        surface = np.where(struck, 6, 2 * axis + np.take_along_axis(positive, axis[None], 0)[0])
        tile = np.floor((origin[:, None] + ray * depth) / TILE_METRES).astype(np.int64) & 15
        u, v = np.where(axis == 0, tile[1], tile[0]), np.where(axis == 2, tile[1], tile[2])
        shape = (self.height, self.width)
        self._rgb = self._texture[(surface * 16 + u) * 16 + v].reshape(*shape, 3)
        info = {
            "pose": self._pose(),
            "depth": depth.astype(np.float32).reshape(shape),
            "intrinsics": self.intrinsics.copy(),
            "map": f"room-{self._room}",
        }
        return self._rgb.copy(), info


ROOM_EXTENT = (8.0, 6.0, 3.0)
"""Edges of the textured room, metres."""
_ROOM_BOXES = (
    (5.4, 0.3, 0.0, 6.3, 1.2, 1.0),
    (3.9, 2.5, 0.0, 4.4, 3.0, 3.0),
    (6.6, 4.6, 0.0, 7.6, 5.6, 0.7),
)
_SKYLIGHT = (2.0, 3.4, 4.0, 5.4)


def textured_room(camera: Camera) -> Frame:
    """Render a furnished room of brick, planks, tiles and waves, with sky through its ceiling.

    Ray traced in float64, with four rays per pixel for the colour and one through its centre for
    the depth, so it can serve as ground truth. The room spans :data:`ROOM_EXTENT` from the world's
    origin, z up; cameras must be inside.
    """
    b, h, w = len(camera.pose), camera.height, camera.width
    rotation, origin = camera.pose[:, :3, :3].double(), camera.pose[:, None, :3, 3].double()

    def cast(du: float, dv: float) -> tuple[Tensor, Tensor]:
        shift = torch.tensor([0.0, 0.0, du, dv])
        rays = pixel_rays(camera.intrinsics.float().cpu() - shift, h, w).double().flatten(2)
        return _trace_room(origin, (rotation @ rays).transpose(1, 2))

    depth = cast(0.0, 0.0)[0].view(b, h, w)
    rgb = torch.stack([cast(du, dv)[1] for du in (-0.25, 0.25) for dv in (-0.25, 0.25)]).mean(0)
    rgb = (rgb * 255.0).round().clamp(0, 255).to(torch.uint8).transpose(1, 2).view(b, 3, h, w)
    return Frame(rgb, quantise_depth(depth.float()), camera.pose)


def textured_room_walk(count: int, size: int = 64) -> Camera:
    """Return ``count`` cameras on one round through the textured room.

    They are at eye height and look left and right of the way.
    """
    share = torch.arange(count, dtype=torch.float64) / count
    turn = 2 * math.pi * share
    x, y = 4.2 + 2.4 * torch.cos(turn), 2.7 + 1.3 * torch.sin(turn)
    yaw = turn + 0.5 * math.pi + 0.9 * torch.sin(5 * turn)
    pitch = 0.15 * torch.sin(7 * turn)
    ahead = torch.stack([yaw.cos() * pitch.cos(), yaw.sin() * pitch.cos(), pitch.sin()], -1)
    right = torch.stack([yaw.sin(), -yaw.cos(), torch.zeros_like(yaw)], -1)
    pose = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    pose[:, :3, :3] = torch.stack([right, torch.linalg.cross(ahead, right), ahead], -1)
    pose[:, :3, 3] = torch.stack([x, y, 1.5 + 0.2 * torch.sin(3 * turn)], -1)
    return Camera(snap_pose(pose), torch.tensor([0.5 * size] * 4).repeat(count, 1), size, size)


def _trace_room(origin: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Depth (b, n) and colour (b, n, 3) in [0, 1] of rays (b, n, 3) from origins (b, 1, 3)."""
    ray = torch.where(ray.abs() < 1e-9, 1e-9, ray)
    extent = torch.tensor(ROOM_EXTENT, dtype=torch.float64)
    exits = (torch.where(ray > 0, extent, 0.0) - origin) / ray
    depth, axis = exits.min(-1)
    surface = 2 * axis + (ray > 0).gather(-1, axis[..., None])[..., 0]
    for number, box in enumerate(_ROOM_BOXES):
        low, high = (
            torch.tensor(box[:3], dtype=torch.float64),
            torch.tensor(box[3:], dtype=torch.float64),
        )
        first, second = (low - origin) / ray, (high - origin) / ray
        enter, face = torch.minimum(first, second).max(-1)
        struck = (enter > 0) & (enter < torch.maximum(first, second).amin(-1)) & (enter < depth)
        depth, axis = torch.where(struck, enter, depth), torch.where(struck, face, axis)
        surface = torch.where(struck, 6 + number, surface)
    place = origin + depth[..., None] * ray
    x0, y0, x1, y1 = _SKYLIGHT
    sky = (
        (surface == 5)
        & (place[..., 0] > x0)
        & (place[..., 0] < x1)
        & (place[..., 1] > y0)
        & (place[..., 1] < y1)
    )
    u = torch.where(axis == 0, place[..., 1], place[..., 0])
    v = torch.where(axis == 2, place[..., 1], place[..., 2])
    up = (ray[..., 2] / ray.norm(dim=-1)).clamp(0, 1)[..., None]
    blue = torch.tensor([0.75, 0.85, 0.95], dtype=torch.float64) - up * torch.tensor(
        [0.5, 0.35, 0.1], dtype=torch.float64
    )
    return depth.masked_fill(sky, torch.inf), torch.where(
        sky[..., None], blue, _room_texture(surface, u, v)
    )


def _room_texture(surface: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Colours (..., 3) in [0, 1] at surface coordinates in metres."""
    base = torch.tensor(
        [
            [0.65, 0.3, 0.25],
            [0.3, 0.45, 0.6],
            [0.6, 0.55, 0.3],
            [0.35, 0.55, 0.35],
            [0.55, 0.4, 0.28],
            [0.8, 0.78, 0.72],
            [0.7, 0.5, 0.2],
            [0.5, 0.5, 0.55],
            [0.5, 0.2, 0.4],
        ],
        dtype=torch.float64,
    )[surface]
    row = torch.floor(v / 0.3)
    column = torch.floor((u + 0.3 * (row % 2)) / 0.6)
    joint = ((v / 0.3) % 1 < 0.12) | (((u + 0.3 * (row % 2)) / 0.6) % 1 < 0.06)
    # A hash of the brick's number in [0, 1): every brick, plank or tile gets a shade of its own.
    shade = (torch.sin(12.9898 * row + 78.233 * column + 3.7 * surface) * 43758.5453) % 1
    bricks = torch.where(joint, 0.35, 0.7 + 0.6 * shade)
    waves = (
        1.0 + 0.25 * torch.sin(7.0 * u + 2.0 * torch.sin(3.0 * v)) + 0.2 * torch.sin(11.0 * v + 1.3)
    )
    tiles = torch.where((torch.floor(u / 0.5) + torch.floor(v / 0.5)) % 2 == 0, 1.25, 0.65)
    kind = surface % 3
    factor = torch.where(kind == 0, bricks, torch.where(kind == 1, waves, tiles))
    return (base * factor[..., None]).clamp(0.0, 1.0)


def walk_in_room(
    steps: int = 80, size: int = 64, seed: int = 0, room: str = "room-2"
) -> tuple[TinyRoom, Trajectory]:
    """Return a room of exactly known geometry and a random walk in it.

    steps: number of frames.
    size: side length of frames, pixels.
    room: the map's name, see :class:`TinyRoom`.
    """
    room_env, rng, act = TinyRoom(size=size), np.random.default_rng(seed), 0
    obs, info = room_env.reset(seed=seed, options={"map": room})
    rgb, depth, pose = [obs], [info["depth"]], [info["pose"]]
    for step in range(steps - 1):
        act = int(rng.choice([1, 1, 1, 2, 3, 3, 4, 4, 5, 6])) if step % 4 == 0 else act
        obs, _, _, _, info = room_env.step(act)
        rgb.append(obs)
        depth.append(info["depth"])
        pose.append(info["pose"])
    trajectory = Trajectory(
        rgb=torch.from_numpy(np.stack(rgb)).permute(0, 3, 1, 2).contiguous(),
        inverse_depth=quantise_depth(torch.from_numpy(np.stack(depth))),
        pose=torch.from_numpy(np.stack(pose)),
        intrinsics=torch.from_numpy(info["intrinsics"]),
    )
    return room_env, trajectory
