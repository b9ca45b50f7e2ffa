"""The real twin of Freedoom: ViZDoom as a Gymnasium environment with exact depth and pose.

Depth is ray-cast from the map's own geometry (:mod:`worldsim.envs.doom_geometry`). Sprites have the
distance of their object; whatever has moved since the map began (lifts, doors) has the engine's
8-bit depth. ``docs/experiments/doom_depth.md`` holds the calibration and its effect.
"""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import sys
import weakref
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from worldsim.envs.doom_geometry import STEP_HEIGHT, MapGeometry
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.runtime.extras import missing
from worldsim.runtime.keyboard import Keys, keys_to_action, rates
from worldsim.runtime.options import check_options
from worldsim.runtime.scratch import Scratch
from worldsim.runtime.types import Action, Info

if TYPE_CHECKING:
    from vizdoom import DoomGame, GameState

MAPS: tuple[str, ...] = tuple(f"freedoom2/MAP{number:02d}" for number in range(1, 33)) + tuple(
    f"freedoom1/E{episode}M{number}" for episode in range(1, 5) for number in range(1, 10)
)
"""All 68 maps of both Freedooms."""
TEST_MAPS: tuple[str, ...] = tuple(f"freedoom2/MAP{number:02d}" for number in range(28, 33))
"""Maps that nothing is ever trained on."""
TRAIN_MAPS: tuple[str, ...] = tuple(name for name in MAPS if name not in TEST_MAPS)
SPLITS: dict[str, tuple[str, ...]] = {"train": TRAIN_MAPS, "test": TEST_MAPS}

UNITS_PER_METRE = 32.0
TICS_PER_STEP = 4
FPS = 35.0 / TICS_PER_STEP

RENDER_HEIGHT, RENDER_WIDTH = 240, 320
"""What the engine draws, before the crop and the resize. Half of it costs 1 ms less a step, and 2
dB to aliasing at 64x64."""
CROP = 240.0
"""Side of the square crop, in rendered pixels, centred on the optical axis."""
RENDER_FOCAL = 160.0, 192.0
"""fx, fy in rendered pixels: 90 degrees across, and the pixel aspect of 1.2 of the original's
320x200 at 4:3."""
RENDER_CENTRE = 160.5, 120.0
"""Where the optical axis meets the picture, the centre of the first pixel being 0.5, as measured
(the engine's column 160)."""

ACTIONS = ("no-op", "forward", "backward", "turn left", "turn right", "strafe left", "strafe right")

BUFFER_OFFSET, BUFFER_UNIT = 10.9 + 0.5 * 7.159, 7.159
"""The engine's depth buffer at this size: map units = offset + unit * level, up to the level at
which walls saturate."""
BUFFER_LIMIT = 126

EYE_HEIGHT = 41.0
START_TRIES = 1000
SETTLE_TICS = 12
MIN_CLEARANCE = 20.0
"""Distance to the nearest wall, in map units, that a start must have."""
MIN_THING_DISTANCE = 40.0
"""Distance on either axis to the nearest thing, in map units, that a start must have: it may be a
barrel."""
MIN_VIEW = 64.0
"""Median depth of the horizon, in map units, that a start must have: no nose against a wall."""
HORIZON_RAYS = 64
"""Rays across the frame that this median is of."""
MIN_REGION = 200_000.0
"""Smallest walkable region that a start may lie in, in square map units: monster closets are
smaller."""
START_SPREAD = 96.0
"""Starts near a thing of the map lie at most this far from it on each axis, in map units."""

_STILL_LUMPS = {
    # Without this list textures stand still: the engine animates them by the wall clock, and no two
    # runs would agree.
    "ANIMATED": b"\xff",
    # A player who picks nothing up: what has been seen stays where it is, and no sphere inverts the
    # colours. And MAP30's last foe, which the engine does not count among the monsters, throws no
    # cubes with monsters in them.
    "DECORATE": b"actor Walker : DoomPlayer { -PICKUP }\n"
    b"actor StillEye replaces BossEye\n{\nstates\n{\nSpawn:\nTNT1 A -1\nstop\n}\n}\n",
    "KEYCONF": b"clearplayerclasses\naddplayerclass Walker\n",
}


def _wad(lumps: dict[str, bytes]) -> bytes:
    """A patch WAD file that holds these lumps."""
    body, directory = b"", b""
    for name, data in lumps.items():
        directory += struct.pack("<ii8s", 12 + len(body), len(data), name.encode())
        body += data
    return struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(body)) + body + directory


def _import_vizdoom() -> ModuleType:
    try:
        import vizdoom
    except ImportError as error:
        raise missing(
            "worldsim/FreedoomReal-v0 needs the package vizdoom", "doom", error
        ) from error
    return vizdoom


def engine_folder() -> Path:
    """Return the folder of the installed engine and its games."""
    file = _import_vizdoom().__file__
    assert file is not None
    return Path(file).parent


def intrinsics(height: int, width: int) -> NDArray[np.float32]:
    """Return ``fx fy cx cy`` in pixels for frames of this size, (4,) float32."""
    fx, fy = RENDER_FOCAL
    return np.array([fx * width / CROP, fy * height / CROP, width / 2, height / 2], np.float32)


def area_taps(
    start: float, stop: float, source: int, target: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the weights that average a row of ``source`` pixels to ``target`` equal cells.

    start, stop: the part of the row to average.

    Returns the pixels that each cell takes, (taps, target) int64, and their weights, (taps, target)
    float32, which sum to one.
    """
    size = (stop - start) / target
    first = start + size * np.arange(target)
    pixel = np.floor(first).astype(np.int64) + np.arange(int(np.ceil(size)) + 1)[:, None]
    overlap = np.minimum(first + size, pixel + 1) - np.maximum(first, pixel)
    return np.clip(pixel, 0, source - 1), (np.maximum(overlap, 0.0) / size).astype(np.float32)


def area_resize(
    picture: NDArray[np.uint8],
    rows: tuple[NDArray[np.int64], NDArray[np.float32]],
    columns: tuple[NDArray[np.int64], NDArray[np.float32]],
) -> NDArray[np.uint8]:
    """Average a picture (H, W, 3) to (h, w, 3) uint8 with the taps of its rows and columns.

    Sums run in a fixed order: a matrix product would round differently between machines.
    """
    row_pixels, row_weights = rows
    low = picture[row_pixels[0]] * row_weights[0, :, None, None]
    for pixel, weight in zip(row_pixels[1:], row_weights[1:], strict=True):
        low += picture[pixel] * weight[:, None, None]
    turned = np.ascontiguousarray(low.transpose(1, 0, 2))
    column_pixels, column_weights = columns
    small = turned[column_pixels[0]] * column_weights[0, :, None, None]
    for pixel, weight in zip(column_pixels[1:], column_weights[1:], strict=True):
        small += turned[pixel] * weight[:, None, None]
    result: NDArray[np.uint8] = np.rint(small.transpose(1, 0, 2)).astype(np.uint8)
    return result


def resolve_map(name: object) -> str:
    """Return the full name of a map.

    ``MAP30`` is ``freedoom2/MAP30``, ``E1M1`` is ``freedoom1/E1M1``.
    """
    if isinstance(name, str):
        wanted = (
            name
            if "/" in name
            else f"{'freedoom1' if name.upper().startswith('E') else 'freedoom2'}/{name}"
        )
        game, _, level = wanted.partition("/")
        wanted = f"{game.lower()}/{level.upper()}"
        if wanted in MAPS:
            return wanted
    raise NotFoundError(
        f"There is no map {name!r}. Maps: freedoom2/MAP01 to freedoom2/MAP32, freedoom1/E1M1 to "
        f"freedoom1/E4M9."
    )


@lru_cache(maxsize=8)
def _geometry(name: str) -> MapGeometry:
    game, level = name.split("/")
    return MapGeometry.load(engine_folder() / f"{game}.wad", level)


def _stop(games: dict[str, DoomGame]) -> None:
    while games:
        games.popitem()[1].close()


def _shut_down(games: dict[str, DoomGame], scratch: Scratch) -> None:
    """The engine first: it writes its settings as it goes."""
    _stop(games)
    scratch.close()


def _write_launcher(folder: Path, engine: Path) -> Path:
    """Write a script that runs the engine in ``folder``, where it creates a folder of its own.

    If the system supports it, the engine ends with this process, however that ends.
    """
    bound = shutil.which("setpriv")
    before = (
        f"{shlex.quote(bound)} --pdeathsig KILL -- " if bound and sys.platform == "linux" else ""
    )
    script = folder / "engine"
    script.write_text(
        f"#!/bin/sh\ncd {shlex.quote(str(folder))} && exec {before}{shlex.quote(str(engine))} "
        f'"$@"\n'
    )
    script.chmod(0o755)
    return script


def camera_pose(x: float, y: float, z: float, angle: float) -> NDArray[np.float32]:
    """Return the camera-to-world pose (4, 4) float32 in metres, OpenCV axes.

    x, y, z: map units.
    angle: radians, counter-clockwise from east.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    pose = np.eye(4)
    pose[:3, 0] = sin, -cos, 0.0
    pose[:3, 1] = 0.0, 0.0, -1.0
    pose[:3, 2] = cos, sin, 0.0
    pose[:3, 3] = np.array([x, y, z]) / UNITS_PER_METRE
    return pose.astype(np.float32)


class FreedoomReal(gym.Env[NDArray[np.uint8], np.int64]):
    """Walks through the maps of Freedoom: no monsters, no reward, no end but the time limit.

    Observation: ``Box(0, 255, (height, width, 3), uint8)``. Action: ``Discrete(7)``, see
    :data:`ACTIONS`, held for four tics. ``info``: "pose" (4, 4) float32 camera-to-world in metres,
    "depth" (height, width) float32 metres along the optical axis (inf = sky), "intrinsics" (4,)
    float32 pixels, "map" such as ``freedoom2/MAP30``. ``reset(options=...)``: ``{"map": "MAP30"}``
    or ``{"split": "train"}``; without either, a map of the test split.

    An episode is a function of seed, options and actions alone. Where the level itself ends (a
    walk-over exit), the last frame is given once more and ``truncated`` is True.

    height, width: size of the frames in pixels. All sizes show the same: the field of view does not
    depend on them, and neither do the starts. Pixels are square where width is 1.2 times height.
    render_mode: None or "rgb_array".
    """

    metadata = {"render_modes": ["rgb_array"], **rates(FPS)}

    def __init__(self, height: int = 64, width: int = 64, render_mode: str | None = None) -> None:
        for name, value in (("height", height), ("width", width)):
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, np.integer))
                or not 8 <= value <= int(CROP)
            ):
                raise InvalidInputError(
                    f"{name} is {value!r}; give a whole number of pixels from 8 to {int(CROP)}."
                )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InvalidInputError(f"render_mode is {render_mode!r}; give None or 'rgb_array'.")
        self._vizdoom = _import_vizdoom()
        self.render_mode = render_mode
        self.height, self.width = int(height), int(width)
        self.observation_space = gym.spaces.Box(0, 255, (self.height, self.width, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(len(ACTIONS))
        self._intrinsics = intrinsics(self.height, self.width)
        fx, fy, cx, cy = self._intrinsics.astype(np.float64)
        self._right = (np.arange(self.width) + 0.5 - cx) / fx
        # Starts are chosen by these rays whatever the frames' size: a seed then gives the same walk
        # at every size.
        fx, _, cx, _ = intrinsics(HORIZON_RAYS, HORIZON_RAYS).astype(np.float64)
        self._horizon = (np.arange(HORIZON_RAYS) + 0.5 - cx) / fx
        self._up = (cy - np.arange(self.height) - 0.5) / fy
        left, top = RENDER_CENTRE[0] - CROP / 2, RENDER_CENTRE[1] - CROP / 2
        self._columns = area_taps(left, left + CROP, RENDER_WIDTH, self.width)
        self._rows = area_taps(top, top + CROP, RENDER_HEIGHT, self.height)
        self._pixel_column = np.floor(
            left + (np.arange(self.width) + 0.5) * CROP / self.width
        ).astype(np.int64)
        self._pixel_row = np.floor(
            top + (np.arange(self.height) + 0.5) * CROP / self.height
        ).astype(np.int64)
        self._games: dict[str, DoomGame] = {}
        self._map = ""
        self._observation: NDArray[np.uint8] | None = None
        self._info: Info = {}
        self._scratch = Scratch()
        self._finalizer = weakref.finalize(self, _shut_down, self._games, self._scratch)

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[NDArray[np.uint8], Info]:
        """Start somewhere new; see the class for ``options``."""
        choices = _maps_of(options)
        super().reset(seed=seed)
        self._map = choices[int(self.np_random.integers(len(choices)))]
        self._start_level(int(self.np_random.integers(2**31)))
        self._go_to_start()
        self._look()
        return self._emit()

    def step(self, action: Action) -> tuple[NDArray[np.uint8], float, bool, bool, Info]:
        """Hold ``action`` for four tics."""
        if not self.action_space.contains(action):
            raise InvalidInputError(
                f"The action is {action!r}; give a whole number from 0 to {len(ACTIONS) - 1} "
                f"({', '.join(ACTIONS)})."
            )
        if self._observation is None:
            raise InvalidInputError("step was called before reset; call env.reset() first.")
        ended = self._is_finished()
        if not ended:
            self._press(int(action))
            ended = self._is_finished()
        if not ended:
            self._look()
        observation, info = self._emit()
        return observation, 0.0, False, ended, info

    def render(self) -> NDArray[np.uint8] | None:
        """The present frame, (height, width, 3) uint8, if the render mode is "rgb_array"."""
        return (
            None
            if self.render_mode is None or self._observation is None
            else self._observation.copy()
        )

    def get_keys_to_action(self) -> Keys:
        """Return the keys for ``gymnasium.utils.play``.

        See :func:`worldsim.runtime.keyboard.keys_to_action`.
        """
        return keys_to_action(self.action_space, "worldsim/FreedoomReal-v0")

    def close(self) -> None:
        """Stop the engine and remove its files."""
        _shut_down(self._games, self._scratch)
        self._observation = None

    @property
    def _game(self) -> DoomGame:
        return next(iter(self._games.values()))

    def _emit(self) -> tuple[NDArray[np.uint8], Info]:
        assert self._observation is not None
        return self._observation.copy(), {
            key: value.copy() if isinstance(value, np.ndarray) else value
            for key, value in self._info.items()
        }

    def _is_finished(self) -> bool:
        return bool(self._game.is_episode_finished())

    def _press(self, action: int, tics: int = TICS_PER_STEP, turn: float = 0.0) -> None:
        buttons = [0.0] * len(ACTIONS)
        buttons[-1] = (
            turn  # the no-op has no button, so the list has room for the turn in degrees, clockwise
        )
        if action:
            buttons[action - 1] = 1.0
        self._game.make_action(buttons, tics)

    def _launch(self, game_name: str) -> None:
        """Start the engine with one of the two Freedooms, unless it runs already."""
        if game_name in self._games:
            return
        _stop(self._games)
        viz = self._vizdoom
        folder = self._scratch.open()
        still = folder / "still.wad"
        still.write_bytes(_wad(_STILL_LUMPS))
        game = viz.DoomGame()
        game.set_doom_game_path(str(engine_folder() / f"{game_name}.wad"))
        game.set_doom_scenario_path(str(still))
        game.set_doom_config_path(str(folder / "engine.ini"))
        if os.name == "posix":
            game.set_vizdoom_path(str(_write_launcher(folder, engine_folder() / "vizdoom")))
        game.set_screen_resolution(viz.ScreenResolution.RES_320X240)
        game.set_screen_format(viz.ScreenFormat.RGB24)
        game.set_depth_buffer_enabled(True)
        game.set_labels_buffer_enabled(True)
        game.set_window_visible(False)
        game.set_sound_enabled(False)
        hidden = (
            "hud minimal_hud weapon crosshair decals particles effects_sprites messages corpses "
            "screen_flashes"
        )
        for name in hidden.split():
            getattr(game, f"set_render_{name}")(False)
        game.set_mode(viz.Mode.PLAYER)
        game.set_episode_timeout(0)
        button, variable = viz.Button, viz.GameVariable
        game.set_available_buttons(
            [
                button.MOVE_FORWARD,
                button.MOVE_BACKWARD,
                button.TURN_LEFT,
                button.TURN_RIGHT,
                button.MOVE_LEFT,
                button.MOVE_RIGHT,
                button.TURN_LEFT_RIGHT_DELTA,
            ]
        )
        game.set_available_game_variables(
            [
                variable.CAMERA_POSITION_X,
                variable.CAMERA_POSITION_Y,
                variable.CAMERA_POSITION_Z,
                variable.CAMERA_ANGLE,
            ]
        )
        game.add_game_args(
            "-nomonsters +sv_cheats 1 +movebob 0 +stillbob 0 +telezoom 0 +cl_showsecretmessage 0"
        )
        game.set_doom_map(self._map.split("/")[1])
        game.init()
        self._games[game_name] = game

    def _start_level(self, seed: int) -> None:
        game_name, level = self._map.split("/")
        self._launch(game_name)
        self._game.set_doom_map(level)
        self._game.set_seed(seed)

    def _go_to_start(self) -> None:
        """Begin the level at a random valid place and heading, and let the player come to rest."""
        geometry = _geometry(self._map)
        for _ in range(START_TRIES):
            self._game.new_episode()
            self._game.send_game_command(
                "god"
            )  # a still world should not kill: slime and crushers do no harm
            x, y, angle = self._draw_start(geometry)
            self._game.send_game_command(f"warp {x} {y}")
            self._press(0, 2)
            if self._is_finished():
                continue
            turn = (angle - np.rad2deg(self._camera()[3]) + 180.0) % 360.0 - 180.0
            self._press(0, 1, turn=-turn)
            self._press(0, SETTLE_TICS)
            if not self._is_finished() and self._stands_at(geometry, x, y):
                return
        raise InvalidInputError(
            f"No valid start was found in map {self._map} in {START_TRIES} draws."
        )

    def _stands_at(self, geometry: MapGeometry, x: int, y: int) -> bool:
        """Whether the player arrived, on its feet."""
        at_x, at_y, at_z, _ = self._camera()
        height = at_z - EYE_HEIGHT - geometry.floor[geometry.sector_at(x, y)]
        return abs(at_x - x) < 1 and abs(at_y - y) < 1 and -1 < height < STEP_HEIGHT + 1

    def _draw_start(self, geometry: MapGeometry) -> tuple[int, int, float]:
        """Return a place in whole map units and a heading in degrees.

        Half of the places are near things of the map, half are anywhere.
        """
        low, high = geometry.vertices.min(1), geometry.vertices.max(1)
        for _ in range(START_TRIES):
            if self.np_random.random() < 0.5:
                thing = geometry.things[int(self.np_random.integers(len(geometry.things)))]
                place = np.array([thing["x"], thing["y"]]) + self.np_random.uniform(
                    -START_SPREAD, START_SPREAD, 2
                )
            else:
                place = self.np_random.uniform(low, high)
            x, y = (int(value) for value in np.rint(place))
            angle = float(self.np_random.integers(256)) * 360.0 / 256.0
            if self._is_good_start(geometry, x, y, angle):
                return x, y, angle
        raise InvalidInputError(
            f"Map {self._map} has no place to start from that a player fits in."
        )

    def _is_good_start(self, geometry: MapGeometry, x: int, y: int, angle: float) -> bool:
        sector = geometry.sector_at(x, y)
        if sector < 0:
            return False
        region = geometry.region_of_sector[sector]
        if region < 0 or geometry.region_area[region] < min(
            MIN_REGION, float(geometry.region_area.max())
        ):
            return False
        things = geometry.things
        if (
            np.min(np.maximum(np.abs(things["x"] - float(x)), np.abs(things["y"] - float(y))))
            < MIN_THING_DISTANCE
        ):
            return False
        if geometry.clearance(x, y) < MIN_CLEARANCE:
            return False
        horizon = geometry.cast(
            x,
            y,
            geometry.floor[sector] + EYE_HEIGHT,
            np.deg2rad(angle),
            self._horizon,
            np.array([1e-6]),
        )
        return bool(np.median(horizon) >= MIN_VIEW)

    def _camera(self, state: GameState | None = None) -> tuple[float, float, float, float]:
        """Return the eye in map units and the heading in radians, as the engine draws with.

        The engine has 8,192 headings.
        """
        variables = (self._game.get_state() if state is None else state).game_variables
        assert variables is not None
        x, y, z, angle = variables
        heading = np.floor(angle * (8192 / 360.0) + 1e-3) * (2 * np.pi / 8192)
        return float(x), float(y), float(z), float(heading)

    def _look(self) -> None:
        """Take the engine's present picture as observation and info."""
        state = self._game.get_state()
        self._observation = area_resize(state.screen_buffer, self._rows, self._columns)
        x, y, z, heading = self._camera(state)
        self._info = {
            "pose": camera_pose(x, y, z, heading),
            "depth": self._depth(state, x, y, z, heading),
            "intrinsics": self._intrinsics,
            "map": self._map,
        }

    def _depth(
        self, state: GameState, x: float, y: float, z: float, heading: float
    ) -> NDArray[np.float32]:
        """Return the depth of the current frame, (height, width) float32 metres.

        It combines geometry, moved parts and sprites.
        """
        geometry = _geometry(self._map)
        depth = geometry.cast(x, y, z, heading, self._right, self._up)
        hung = geometry.cast_hung(x, y, heading, self._right)
        pick = np.ix_(self._pixel_row, self._pixel_column)
        shown, level, objects = state.labels_buffer, state.depth_buffer, state.labels
        # The engine was launched with these buffers.
        assert shown is not None and level is not None and objects is not None
        labels = shown[pick]
        sprite = np.zeros(256)
        for label in objects:
            ahead = (label.object_position_x - x) * np.cos(heading) + (
                label.object_position_y - y
            ) * np.sin(heading)
            sprite[label.value] = max(ahead, 1.0)
        depth = fuse_buffer(depth, hung, level[pick], sprite[labels])
        return (depth / UNITS_PER_METRE).astype(np.float32)


def fuse_buffer(
    depth: NDArray[np.float64],
    hung: NDArray[np.float64],
    level: NDArray[np.uint8],
    sprite: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Add to the map's depth what the map does not hold: sprites, grates, moved lifts and doors.

    depth: (h, w) of floors, ceilings and walls, map units.
    hung: (k, w) distances of pictures hung in each column, nearest first.
    level: (h, w) the engine's depth buffer.
    sprite: (h, w) distance of the sprite at each pixel, 0 where there is none.
    """
    seen = BUFFER_OFFSET + BUFFER_UNIT * level.astype(np.float64)
    tolerance = np.maximum(32.0, 0.15 * seen)
    differs = (np.abs(seen - depth) > tolerance) & (sprite == 0) & (depth > BUFFER_OFFSET)
    differs &= (level < BUFFER_LIMIT) | (depth < 0.75 * seen)
    if differs.sum() >= 9:
        # Where the buffer shows a hung picture, its line tells the exact distance.
        for distance in hung:
            on_line = differs & (np.abs(seen - distance) < np.maximum(12.0, 0.05 * seen))
            depth = np.where(on_line, distance, depth)
            differs &= ~on_line
        # Single pixels along edges differ by a rounding of the engine's; only patches of 3x3 are
        # things that moved.
        inner = differs[1:-1] & differs[:-2] & differs[2:]
        inner = inner[:, 1:-1] & inner[:, :-2] & inner[:, 2:]
        moved = np.zeros_like(differs)
        for row in range(3):
            for column in range(3):
                moved[row : row + inner.shape[0], column : column + inner.shape[1]] |= inner
        depth = np.where(moved, seen, depth)
    return np.where(sprite > 0, sprite, depth)


def _maps_of(options: Info | None) -> tuple[str, ...]:
    """The maps that a reset draws from."""
    options = check_options(options)
    unknown = sorted(set(map(str, options)) - {"map", "split"})
    if unknown:
        raise InvalidInputError(
            f"Unknown reset option {', '.join(map(repr, unknown))}; options are 'map' and 'split'."
        )
    if len(options) == 2:
        raise InvalidInputError("Give either the reset option 'map' or 'split', not both.")
    if "map" in options:
        return (resolve_map(options["map"]),)
    split = options.get("split", "test")
    if split not in SPLITS:
        raise InvalidInputError(
            f"Unknown split {split!r}; splits are {', '.join(map(repr, SPLITS))}."
        )
    return SPLITS[split]
