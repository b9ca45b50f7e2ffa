r"""Measure journeys: coming back, the area an explorer sees, walls, refused places.

    python experiments/painter/journeys.py --out out/journeys --journeys 8 --places 12 \
        --num-inference-steps 8 --json journeys.json

Results: docs/experiments/journeys.md.

- **Return**: in a dream that starts at the first place, a goal walker walks along the journey for
  ``away`` steps, and the dream then goes back along the same poses. PSNR of the two sights of a
  pose.
- **Explorer**: the frontier explorer walks ``explore`` steps in that dream, and as many on real
  test maps. In both it plans in a memory of what it has seen itself. Area: half-metre cells with
  points of the frames, at most 16 m away. In dreams, cells that the journey's own memory does not
  hold are inventions of the step network; the area is told with and without them.
- **Walls**: borders between known floor and obstacles, in metres per square metre of floor, in the
  journey's memory and in a memory of the real explorer's frames.
- **Refusals**: what the validator refused while the journey was painted.

``--arms`` compares settings (:data:`ARMS`). ``--walls-only`` paints journeys and measures their
walls, without dreams.

Every task runs in a process of its own and leaves a file in ``out/parts``, so the command resumes.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from worldsim.agents.explorer import FrontierExplorer
from worldsim.agents.goal_walker import GoalWalker
from worldsim.app.generate import beside, with_sampling
from worldsim.camera import Camera, quantise_depth, unproject
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError, PaintingError, WorldsimError
from worldsim.evaluation.metrics import scores, sharpness
from worldsim.evaluation.return_trips import changed_share
from worldsim.evaluation.statistics import LEAST_EPISODES, interval, mean_statistic
from worldsim.io.pictures import save_picture
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.painting.journeys.files import travel
from worldsim.painting.journeys.journey import Describe, JourneyConfig, JourneyMaker
from worldsim.painting.journeys.scene import (
    MAP,
    save_trip_scene,
    scene_of,
    starts_of_trip,
    trip_map,
    trip_sheet,
)
from worldsim.painting.journeys.trip import Trip
from worldsim.painting.journeys.words import descriptions_for, reader_of
from worldsim.painting.painter import DEFAULT_PAINTER, NetworkPainter
from worldsim.painting.places.folder import SHEET
from worldsim.painting.pretrained import painter_by_name
from worldsim.painting.training.lookaround import shard_files
from worldsim.painting.training.store import place_attributes
from worldsim.painting.training.views import load_view_sets
from worldsim.painting.validation.validator import Validator, failures, passed
from worldsim.painting.words.attributes import open_prior
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.protocols import Painter, identity_of
from worldsim.runtime.json_config import read_json, to_json, write_json
from worldsim.runtime.workers import Engine, WorkerPool
from worldsim.state import Frame, SceneStart
from worldsim.world import World
from worldsim.world.paint_ahead import PaintAheadConfig, Takes
from worldsim.world.resampling import resample_scene, start_of
from worldsim.world.tracker import Belief
from worldsim.world.twin import make_twin

Array: TypeAlias = NDArray[Any]
Found: TypeAlias = dict[str, Any]
SHIPPED = Path(__file__).with_name("journeys.json")
"""The shipped figures."""
CELL, FARTHEST = 0.5, 16.0
"""Metres: side of a cell of the area seen, and the largest depth that counts."""
GROUND = GroundConfig(cell=0.25, reach=48.0)
"""The map in which walls are measured."""
OPPOSITE = (0, 2, 1, 4, 3, 6, 5)
"""The action that undoes each of the Discrete(7) of walking twins."""
NEVER_LOOKS = 10**9
"""Steps from one look ahead to the next in dreams that never look."""
PER_GOAL = 16
"""Steps after which a walker that has not reached a place goes on to the next."""


@dataclass(frozen=True)
class Arm:
    """Settings that are compared.

    journey: changes of :class:`worldsim.painting.journeys.journey.JourneyConfig`.
    prompt: words of all places; by default the grammar's.
    attribute_guidance_scale: see :class:`worldsim.painting.sampling.PaintConfig`.
    steps: sampling steps; by default those of the command.
    like_tests: whether each place has the attributes of a place of the test maps, drawn with the
        journey's seed, instead of words. New places are measured in the same way.
    """

    journey: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    attribute_guidance_scale: float | None = None
    steps: int | None = None
    like_tests: bool = False


AS_IT_IS: Mapping[str, Any] = {"repaints": 0, "straighten": 0, "finer": False, "neighbours": 0}
STRAIGHT_ON: Mapping[str, Any] = {**AS_IT_IS, "openings": False}
LEAD_ON: Mapping[str, Any] = {**AS_IT_IS, "openings": True}
WAY_OUT: Mapping[str, Any] = {**LEAD_ON, "repaints": 2, "way_out": 1.5}
WIDE: Mapping[str, Any] = {**LEAD_ON, "repaints": 4, "way_out": 8.0}
ARMS: Mapping[str, Arm] = {
    "shipped": Arm(),
    # The next place at the end of a straight free way.
    "straight_on": Arm(STRAIGHT_ON),
    # The next place at a border of the known ground.
    "lead_on": Arm(LEAD_ON),
    # Places without a way out are painted again, up to two times.
    "way_out": Arm(WAY_OUT),
    # Places with less than 8 m of open border are painted again, up to four times.
    "wide": Arm(WIDE),
    # The same, with the words of an open place when it is painted again.
    "open_words": Arm({**WIDE, "open_words": True}),
    # The same, with guidance by these words.
    "open_guided": Arm({**WIDE, "open_words": True}, attribute_guidance_scale=3.0),
    # Words of open places throughout.
    "outside": Arm(WAY_OUT, prompt="wide open ground under the sky"),
    # Painted depth is made locally plane.
    "straight_walls": Arm({**WIDE, "straighten": 2}),
    # Painted pixels replace points that were captured from afar.
    "finer": Arm({**LEAD_ON, "finer": True}),
    # Points without neighbours leave the memory.
    "neighbours": Arm({**LEAD_ON, "neighbours": 2}),
    # Both without locally plane depth, which is shipped.
    "ragged": Arm({"straighten": 0}),
    # As shipped, with other numbers of sampling steps.
    "steps_8": Arm(steps=8),
    "steps_12": Arm(steps=12),
    # Places with the attributes of test maps, on which the real walks are.
    "like_tests": Arm(steps=12, like_tests=True),
    "like_tests_8": Arm(steps=8, like_tests=True),
    # The same, and places with less than 8 m of open border are painted again, up to 2 times.
    "like_tests_wide": Arm({"repaints": 2, "way_out": 8.0}, steps=12, like_tests=True),
    # One scale of depth for all views that are painted at once, and none.
    "one_scale": Arm({"align": "group"}, steps=12),
    "like_tests_one_scale": Arm({"align": "group"}, steps=12, like_tests=True),
    "no_scales": Arm({"align": "none"}, steps=12),
    "like_tests_no_scales": Arm({"align": "none"}, steps=12, like_tests=True),
    # Nothing new may stand on ground that was free before.
    "free_ground": Arm({"free_ground": True}),
    # Places closer together, which add less that is new.
    "near": Arm({"nearest": 3.0, "furthest": 6.0}),
    "near_free": Arm({"nearest": 3.0, "furthest": 6.0, "free_ground": True}),
    # Places that are known in large part are left as they are.
    "covered_free": Arm({"covered": 0.85, "free_ground": True}),
    # Straight on, as the first journeys.
    "straight_free": Arm({"openings": False, "free_ground": True}),
    # Guided by its attributes where the memory shows something.
    "like_tests_guided": Arm(steps=12, like_tests=True, attribute_guidance_scale=2.0),
}


@dataclass(frozen=True)
class Config:
    """Settings."""

    out: Path
    """Folder of journeys, pictures and parts."""
    json: Path | None = None
    """File of the results; by default ``journeys.json`` in the folder."""
    painter: str = DEFAULT_PAINTER
    """Name or folder."""
    world: str = "freedoom-tiny"
    """World of the dreams; its real twin is Freedoom."""
    arms: tuple[str, ...] = ("shipped",)
    """Settings that are compared, of :data:`ARMS`."""
    walls_only: bool = False
    """Paint journeys and measure their walls alone, against the shipped figures of real walks."""
    journeys: int = 8
    """Number of journeys of each arm; 0 measures the real maps alone."""
    places: int = 12
    """Places of a journey."""
    num_inference_steps: int | None = None
    """Sampling steps. By default those that the painter recommends."""
    guidance_scale: float | None = None
    """By default what the painter recommends."""
    tries: int = JourneyConfig.tries
    """Attempts per group of views."""
    accept: float = JourneyConfig.accept
    """Share of a group's views that must pass after the last attempt."""
    validate: bool = True
    """Judge the views."""
    away: int = 48
    """Steps of the way out, and of the way back."""
    explore: int = 200
    """Steps of the explorer."""
    walks: int = 2
    """Real walks on each test map; 0 reads those of ``experiments/painter/journeys.json``."""
    maps: tuple[str, ...] = ("MAP28", "MAP29", "MAP30", "MAP31", "MAP32")
    """Test maps."""
    films: int = 1
    """Journeys whose scene is written, with a film. Others have a sheet and a map."""
    device: str | None = None
    """Of the painter. By default CUDA if it is available."""
    takes: tuple[Takes, ...] = (Takes.NOTHING,)
    """What the memory of dreams takes from dreamed frames. Each is measured; a journey's figures
    outside ``dreams`` are those of the first."""
    world_device: str = "cpu"
    """Of the world: many processes that step one dream each are faster on a CPU."""
    workers: int = 1
    """Processes; 0 works in this one."""
    seed: int = 0
    """Journey ``i`` has seed ``seed + i``; real walks and dreams use it, too."""
    tests: Path | None = None
    """Look-arounds of test maps, for arms like tests."""
    seconds: float = 1e9
    """After this time no journey is extended, and no task that has not begun is run."""
    until: float = 0.0
    """The same as Unix time; set by the command itself."""


class Maker:
    """What a process keeps from one task to the next: painter, world and engine."""

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(1)
        self.config = config
        self._painter: Painter | None = None
        self._world: World | None = None
        self._twin: Any = None
        self._tests: Array | None = None

    @property
    def painter(self) -> Painter:
        """The painter with the sampling settings of the experiment."""
        if self._painter is None:
            c = self.config
            loaded = painter_by_name(c.painter, device=c.device)
            self._painter = with_sampling(loaded, c.num_inference_steps, c.guidance_scale)
        return self._painter

    def painter_of(self, arm: Arm) -> Painter:
        """The painter with the settings of an arm."""
        changes = {
            "attribute_guidance_scale": arm.attribute_guidance_scale,
            "num_inference_steps": arm.steps,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        painter = self.painter
        if not changes or not isinstance(painter, NetworkPainter):
            return painter
        return NetworkPainter(painter.network, painter.spec, replace(painter.config, **changes))

    @property
    def test_attributes(self) -> Array:
        """Attributes (s, a) float32 of places of the test maps, by the painter's names."""
        if self._tests is None:
            files = shard_files(self.config.tests) if self.config.tests else []
            if not files:
                raise InvalidInputError(
                    "arms like tests need look-arounds of test maps: give their folder with --tests"
                )
            sets = [load_view_sets(path) for path in files]
            names = self.painter.spec.attributes
            self._tests = np.concatenate(
                [place_attributes(x)[:, [x.names.index(name) for name in names]] for x in sets]
            )
        return self._tests

    @property
    def world(self) -> World:
        """The world of the dreams."""
        if self._world is None:
            self._world = World.from_pretrained(self.config.world, self.config.world_device)
        return self._world

    def dreamer(self, takes: Takes) -> World:
        """The world, whose memory takes of dreamed frames what ``takes`` says.

        It is not painted ahead.
        """
        ahead = PaintAheadConfig(every=NEVER_LOOKS, coverage=0.0, takes=takes)
        return self.world.with_painting(self.painter, ahead)

    @property
    def twin(self) -> Any:
        """The real twin."""
        if self._twin is None:
            self._twin = make_twin(self.world, max_episode_steps=-1)
        return self._twin

    def close(self) -> None:
        """Close the engine."""
        if self._twin is not None:
            self._twin.close()


@dataclass
class OneStart:
    """A scene with one start."""

    scene: SceneStart

    def start(self, rng: np.random.Generator) -> SceneStart:
        """Return the start."""
        return self.scene


# Painting.


def make_trip(maker: Maker, arm: Arm, number: int, folder: Path) -> tuple[Trip, Found]:
    """Make a journey as far as time and the validator allow."""
    config, painter = maker.config, maker.painter_of(arm)
    settings = JourneyConfig(
        length=config.places,
        seed=config.seed + number,
        tries=config.tries,
        accept=config.accept,
        **arm.journey,
    )
    words = descriptions_for(arm.prompt, painter, config.places)
    prior = beside(config.painter, open_prior) or beside(DEFAULT_PAINTER, open_prior)
    reader = reader_of(painter.spec.attributes, prior)
    if arm.like_tests:
        reader = like_tests(maker.test_attributes)
    began, ended = time.monotonic(), ""
    validator = None if config.validate else Validator(names=())
    journey = JourneyMaker(painter, words, reader, settings, validator)
    trip = journey.begin()
    try:
        for longer in travel(journey, arm.prompt or "", folder / "state"):
            trip = longer
            if time.time() > config.until:
                ended = "out of time"
                break
    except PaintingError as error:
        ended = str(error)
    seconds = time.monotonic() - began
    return trip, {
        "seed": settings.seed,
        "places": len(trip),
        "ended": ended,
        "seconds": round(seconds, 1),
        **refusals(trip),
    }


def like_tests(attributes: Array) -> Describe:
    """Return what gives every place the attributes (a,) of a drawn row of ``attributes`` (s, a)."""

    def read(words: str, rng: np.random.Generator) -> tuple[Array, Array]:
        row = attributes[rng.integers(len(attributes))].astype(np.float32)
        return row, np.ones(len(row), bool)

    return read


def refusals(trip: Trip) -> Found:
    """Count what the validator refused while a journey was painted."""
    first = retried = views = refused = places = refused_places = attempts = groups = 0
    wrong: dict[str, int] = {}
    for stop in trip.stops:
        if not stop.painted:
            continue
        cameras = sorted({one.camera for one in stop.log})
        places += len(cameras)
        refused_places += len(cameras) - 1
        before: tuple[int, list[int]] | None = None
        for one in stop.log:
            for name, count in failures(one.verdicts).items():
                wrong[name] = wrong.get(name, 0) + count
            if one.step < 0:
                continue
            views += len(one.views)
            refused += sum(not passed(found) for found in one.verdicts)
            attempts += 1
            again = before is not None and before[0] == one.camera and one.views == before[1]
            if again:
                retried += 1
            else:
                groups += 1
                first += len(one.kept) == len(one.views)
            left = [i for i in one.views if i not in one.kept]
            before = (one.camera, left) if left else None
    return {
        "painted_places": sum(stop.painted for stop in trip.stops),
        "cameras": places,
        "cameras_refused": refused_places,
        "groups": groups,
        "groups_passed_at_once": first,
        "attempts": attempts,
        "views": views,
        "views_refused": refused,
        "checks": dict(sorted(wrong.items(), key=lambda item: -item[1])),
    }


# Measuring.


class Seen:
    """The half-metre cells that frames have shown, as keys."""

    def __init__(self) -> None:
        self.cells: set[int] = set()

    def see(self, info: Found) -> None:
        """Add a frame by its depth and pose."""
        depth = torch.from_numpy(np.array(info["depth"], np.float32))[None]
        pose, lens = (
            torch.from_numpy(np.array(info[name], np.float32))[None]
            for name in ("pose", "intrinsics")
        )
        points = unproject(depth, Camera(pose, lens, *depth.shape[1:]))[0]
        near = (depth[0] <= FARTHEST) & torch.isfinite(depth[0])
        self.cells.update(keys_of(torch.floor(points[near] / CELL).long()))

    @property
    def area(self) -> float:
        """Square metres of surface."""
        return len(self.cells) * CELL**2


def keys_of(index: Tensor) -> list[int]:
    """Return the keys of cells (n, 3) int64."""
    index = index + 2**19
    found: list[int] = (index[:, 0] << 40 | index[:, 1] << 20 | index[:, 2]).tolist()
    return found


def cells_near(points: Points) -> set[int]:
    """Return the cells of a memory's points and all cells beside them."""
    position = points.position[0][:, points.kind[0] == POINT].T
    index = torch.floor(position / CELL).long().unique(dim=0)
    beside = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3)
    return {key for shift in beside for key in keys_of(index + shift)}


def explore(
    env: Any, world: World, steps: int, seed: int, options: Found | None = None
) -> tuple[Seen, list[Frame], float]:
    """Let the frontier explorer walk; returns the cells seen, the frames and the metres walked.

    It plans in a memory of its own, which receives the frames of ``env``.
    """
    obs, info = env.reset(seed=seed, options=options or {})
    belief, seen = Belief(world), Seen()
    belief.start(obs, info, seed)
    seen.see(info)
    policy = FrontierExplorer(belief)
    policy.reset(seed)
    frames = [frame_of(obs, info)]
    for _ in range(steps):
        act = policy.act(obs)
        obs, _, terminated, truncated, info = env.step(act)
        seen.see(info)
        frames.append(frame_of(obs, info))
        belief.see(act, obs, info)
        if terminated or truncated:
            break
    place = torch.stack([frame.pose[0, :2, 3] for frame in frames if frame.pose is not None])
    return seen, frames, float((place[1:] - place[:-1]).norm(dim=1).sum())


def frame_of(obs: Array, info: Found) -> Frame:
    """Return an observation as a frame (1, ...)."""
    rgb = torch.from_numpy(np.array(obs)).permute(2, 0, 1)[None].contiguous()
    depth = torch.from_numpy(np.array(info["depth"], np.float32))[None]
    return Frame(rgb, quantise_depth(depth), torch.from_numpy(np.array(info["pose"]))[None])


def look_of(frames: Sequence[Frame]) -> Found:
    """Return sharpness and novelty of consecutive frames, summed and counted."""
    rgb = torch.cat([frame.rgb for frame in frames])
    sharp, novel = sharpness(rgb), changed_share(rgb[None])
    return {
        "sharpness": float(sharp.sum()),
        "frames": len(rgb),
        "novelty": float(novel.sum()),
        "pairs": novel.numel(),
    }


def walls_of(points: Points, pose: Tensor) -> Found:
    """Return metres of wall and square metres of floor around a camera's way."""
    position = points.position[0][:, points.kind[0] == POINT].cpu().numpy()
    ground = Ground.of(position, pose[:3, 3].double().cpu().numpy(), GROUND)
    # Floors that were seen from 10 m away have gaps between their points.
    square = np.ones((2 * round(1.0 / GROUND.cell) + 1,) * 2, np.uint8)
    known = cv2.erode(cv2.dilate(ground.known.astype(np.uint8), square), square) > 0
    floor = known & np.isfinite(ground.height) & ~ground.obstacle
    edges = sum(
        int((a & b).sum())
        for a, b in (
            (floor[1:], ground.obstacle[:-1]),
            (floor[:-1], ground.obstacle[1:]),
            (floor[:, 1:], ground.obstacle[:, :-1]),
            (floor[:, :-1], ground.obstacle[:, 1:]),
        )
    )
    return {"wall_m": edges * GROUND.cell, "floor_m2": float(floor.sum()) * GROUND.cell**2}


def walk_out(env: WorldEnv, trip: Trip, steps: int, seed: int) -> tuple[list[Frame], list[int]]:
    """Walk along a journey's places; returns the frames, the first included, and the actions."""
    obs, _ = env.reset(seed=seed)
    frames, acts = [cpu(env.state.frame)], list[int]()
    for place in [*range(1, len(trip)), *reversed(range(len(trip) - 1))]:
        walker = GoalWalker(env, trip.pose[place].to(env.world.device))
        walker.reset(seed + place)
        for _ in range(PER_GOAL):
            if len(acts) == steps or walker.arrived:
                break
            act = int(walker.act(obs))
            obs, _, terminated, truncated, _ = env.step(act)
            acts.append(act)
            frames.append(cpu(env.state.frame))
            if terminated or truncated:
                return frames, acts
    return frames, acts


def cpu(frame: Frame) -> Frame:
    """Return a copy of a frame on the CPU."""
    assert frame.pose is not None
    code = None if frame.inverse_depth is None else frame.inverse_depth.cpu().clone()
    return Frame(frame.rgb.cpu().clone(), code, frame.pose.cpu().clone())


@torch.no_grad()
def come_back(env: WorldEnv, trip: Trip, config: Config, seed: int) -> tuple[Found, list[Frame]]:
    """Walk out and back; returns the scores and the frames of both ways."""
    out, acts = walk_out(env, trip, config.away, seed)
    world, state, back = env.world, env.state, list[Frame]()
    for k in reversed(range(len(acts))):
        act = torch.tensor([OPPOSITE[acts[k]]], device=world.device)
        pose = out[k].pose
        assert pose is not None
        state, _ = world.step(state, act, pose=pose.to(world.device))
        back.append(cpu(state.frame))
    # The first frame was given, so the last step back does not count; nor do frames that the
    # network's own window still holds.
    psnr = [
        float(scores(back[i].rgb, out[len(acts) - 1 - i].rgb)[0, 0])
        for i in range(min(world.spec.window - 1, len(acts)), len(acts) - 1)
    ]
    place = torch.cat([frame.pose[:, :2, 3] for frame in out if frame.pose is not None])
    return {
        "steps": len(acts),
        "psnr": [round(x, 3) for x in psnr],
        "metres": round(float((place[1:] - place[:-1]).norm(dim=1).sum()), 2),
        "farthest": round(float((place - place[0]).norm(dim=1).max()), 2),
        "out": look_of(out[1:]),
        "both": look_of([*out[1:], *back]),
    }, [*out, *back]


def journey_task(maker: Maker, arm: str, number: int) -> Found:
    """Make and measure one journey."""
    config = maker.config
    folder = config.out / arm / f"journey-{number:03d}"
    trip, found = make_trip(maker, ARMS[arm], number, folder)
    found["arm"] = arm
    if not len(trip):
        return found
    print(f"journey {number}: {len(trip)} places in {found['seconds']} s", flush=True)
    began = time.monotonic()
    spec = maker.painter.spec
    if number < config.films:
        save_trip_scene(folder, trip, spec, {"command": "experiment", "seed": found["seed"]})
    else:
        save_picture(trip_sheet(trip), folder / SHEET)
        save_picture(trip_map(trip, spec), folder / MAP)
    found["walls"] = walls_of(trip.memory, trip.pose[0])
    found["memory_area_m2"] = area_of(trip.memory)
    place = trip.pose[:, :2, 3]
    found["farthest_m"] = round(float((place - place[0]).norm(dim=1).max()), 2)
    if config.walls_only:
        return found
    found["dreams"] = {
        str(takes): dream_task(maker, trip, takes, int(found["seed"]), folder)
        for takes in config.takes
    }
    found["seconds_measured"] = round(time.monotonic() - began, 1)
    return found | found["dreams"][str(config.takes[0])]


def dream_task(maker: Maker, trip: Trip, takes: Takes, seed: int, folder: Path) -> Found:
    """Measure dreams in a journey."""
    config, world, first = maker.config, maker.dreamer(takes), starts_of_trip(trip)[0]
    scene = resample_scene(scene_of(trip, maker.painter.spec), world)
    start = start_of(scene, first.first, first.count, world)
    env = WorldEnv(world, scenes=OneStart(start))
    found: Found = {}
    if len(trip) > 1:
        found["return"], frames = come_back(env, trip, config, seed)
        save_picture(strip(frames), folder / f"return-{takes}.png")
    if config.explore:
        seen, frames, metres = explore(env, world, config.explore, seed)
        held = cells_near(trip.memory)
        found["explorer"] = {
            "area_m2": seen.area,
            "painted_area_m2": len(seen.cells & held) * CELL**2,
            "memory_area_m2": area_of(trip.memory),
            "steps": len(frames) - 1,
            "metres": round(metres, 2),
            **look_of(frames[1:]),
        }
        save_picture(strip(frames), folder / f"explorer-{takes}.png")
    return found


def area_of(points: Points) -> float:
    """Return the square metres of a memory's half-metre cells."""
    position = points.position[0][:, points.kind[0] == POINT].T
    return len(torch.floor(position / CELL).long().unique(dim=0)) * CELL**2


def real_task(maker: Maker, name: str, number: int) -> Found:
    """Let the explorer walk on a real test map, and measure what its frames show."""
    config, world = maker.config, maker.world
    seed = config.seed + number
    seen, frames, metres = explore(maker.twin, world, config.explore, seed, {"map": name})
    memory = PointMemory(PointMemoryConfig(capacity=2**19))
    data, lens = memory.empty(1), torch.tensor(world.config.intrinsics)[None]
    for step, frame in enumerate(frames):
        assert frame.pose is not None
        camera = Camera(frame.pose, lens, *frame.rgb.shape[-2:])
        data = memory.integrate(data, frame, camera, torch.tensor([step]))
    first = frames[0].pose
    assert first is not None
    return {
        "map": name,
        "seed": seed,
        "explorer": {
            "area_m2": seen.area,
            "steps": len(frames) - 1,
            "metres": round(metres, 2),
            **look_of(frames[1:]),
        },
        "walls": walls_of(data, first[0]),
    }


def strip(frames: Sequence[Frame], count: int = 16) -> Array:
    """Return evenly spread frames in two rows, enlarged three times."""
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    pictures = [frames[i].rgb[0].permute(1, 2, 0).numpy() for i in chosen]
    half = count // 2
    rows = [np.concatenate(pictures[i : i + half], 1) for i in (0, half)]
    grid: Array = np.concatenate(rows, 0)
    return grid.repeat(3, 0).repeat(3, 1)


def part_task(maker: Maker, kind: str, name: str, number: int) -> Found:
    """Do one task and write its part; a part that is there is read instead."""
    kept = "walls" if maker.config.walls_only else "parts"
    path = maker.config.out / kept / f"{kind}-{name}-{number:03d}.json"
    if path.is_file():
        return read_json(path)
    if time.time() > maker.config.until:
        return {}
    task = journey_task if kind == "journey" else real_task
    found = task(maker, name, number)
    if found.get("ended") != "out of time":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    return found


# Results.


def of_means(above: Sequence[float], below: Sequence[float]) -> tuple[Array, Array]:
    """Return sums and counts, one per episode."""
    return np.array(above, np.float64), np.array(below, np.float64)


def ratio(mine: tuple[Array, Array], real: tuple[Array, Array], draws: int = 2000) -> Found:
    """Return the ratio of two ratios of sums, with an interval over both sets of episodes."""

    def drawn(values: tuple[Array, Array], seed: int) -> Array:
        n = len(values[0])
        counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), draws)
        return np.asarray((counts @ values[0]) / (counts @ values[1]))

    if not len(mine[0]) or not len(real[0]) or not (mine[1].sum() and real[1].sum()):
        return {}
    value = (mine[0].sum() / mine[1].sum()) / (real[0].sum() / real[1].sum())
    found: Found = {"value": round(float(value), 4), "ci95": None}
    if min(len(mine[0]), len(real[0])) >= LEAST_EPISODES:
        low, high = np.quantile(drawn(mine, 0) / drawn(real, 1), [0.025, 0.975])
        found["ci95"] = [round(float(low), 4), round(float(high), 4)]
    return found


def mean(values: Sequence[Sequence[float]]) -> Found:
    """Return the mean over all values of all episodes with its interval over episodes."""
    arrays = [np.array(v, np.float64) for v in values if len(v)]
    if not arrays:
        return {}
    value = float(np.concatenate(arrays).mean())
    return {
        "value": round(value, 4),
        "ci95": interval(mean_statistic(arrays), len(arrays)),
    }


def pooled(rows: Sequence[Found], path: str, above: str, below: str) -> tuple[Array, Array]:
    """Return two values of each row's record at ``path``."""
    records = [row for row in (_at(row, path) for row in rows) if row]
    return of_means([row[above] for row in records], [row[below] for row in records])


def _at(row: Found, path: str) -> Found:
    for key in path.split("."):
        row = row.get(key, {})
    return row


def per_episode(rows: Sequence[Found], path: str, name: str) -> tuple[Array, Array]:
    """Return a value of each row's record at ``path``, counted once each."""
    found = [_at(row, path)[name] for row in rows if _at(row, path)]
    return of_means(found, [1.0] * len(found))


def pooled_places(journeys: Sequence[Found]) -> tuple[Array, Array]:
    """Return painted places and all places of each journey."""
    return of_means(
        [row["painted_places"] for row in journeys], [row["places"] for row in journeys]
    )


def summary(journeys: Sequence[Found], real: Sequence[Found]) -> Found:
    """Return all figures."""
    found: Found = {
        "journeys": len(journeys),
        "real_walks": len(real),
        "return_psnr": mean([_at(row, "return").get("psnr", []) for row in journeys]),
    }
    for name, mine in (("return", "return.both"), ("explorer", "explorer")):
        found[f"{name}_sharpness"] = ratio(
            pooled(journeys, mine, "sharpness", "frames"),
            pooled(real, "explorer", "sharpness", "frames"),
        )
    for name, mine in (("return", "return.out"), ("explorer", "explorer")):
        found[f"{name}_novelty"] = ratio(
            pooled(journeys, mine, "novelty", "pairs"),
            pooled(real, "explorer", "novelty", "pairs"),
        )
    areas = per_episode(real, "explorer", "area_m2")
    for name in ("painted_area_m2", "area_m2", "memory_area_m2"):
        found[f"explorer_{name[:-3]}"] = ratio(per_episode(journeys, "explorer", name), areas)
    found["wall_length"] = ratio(
        pooled(journeys, "walls", "wall_m", "floor_m2"), pooled(real, "walls", "wall_m", "floor_m2")
    )
    for name, above, below in (
        ("views_refused", "views_refused", "views"),
        ("places_refused", "cameras_refused", "cameras"),
        ("groups_passed_at_once", "groups_passed_at_once", "groups"),
        ("attempts_per_group", "attempts", "groups"),
        ("seconds_per_place", "seconds", "places"),
    ):
        a, b = of_means([row[above] for row in journeys], [row[below] for row in journeys])
        if len(a):
            of = interval(lambda counts, a=a, b=b: (counts @ a) / (counts @ b), len(a))
            found[name] = {"value": round(float(a.sum() / b.sum()), 4), "ci95": of}
    a, b = pooled_places(journeys)
    if len(a):
        found["painted_share"] = round(float(a.sum() / b.sum()), 4)
    found["complete"] = sum(not row["ended"] for row in journeys)
    checks: dict[str, int] = {}
    for row in journeys:
        for name, count in row["checks"].items():
            checks[name] = checks.get(name, 0) + count
    found["checks"] = dict(sorted(checks.items(), key=lambda item: -item[1]))
    for name, rows, path in (
        ("dream", journeys, "explorer"),
        ("real", real, "explorer"),
        ("return", journeys, "return"),
    ):
        a, b = pooled(rows, path, "metres", "steps")
        if len(a):
            found[f"metres_per_step_{name}"] = round(float(a.sum() / b.sum()), 3)
    return found


def main(config: Config, report: Callable[[str], None] = print) -> Found:
    """Do all tasks; the results are written after each of them."""
    began = time.time()
    config = replace(config, until=began + config.seconds)
    path = config.json or config.out / "journeys.json"
    config.out.mkdir(parents=True, exist_ok=True)
    tasks = [("journey", arm, i) for i in range(config.journeys) for arm in config.arms]
    known: list[Found] = []
    if config.walls_only or not config.walks:
        known = read_json(SHIPPED)["real"]
    else:
        tasks += [("real", name, i) for i in range(config.walks) for name in config.maps]
    rows: dict[int, Found] = {}
    result: Found = {}
    identity = identity_of(Maker(replace(config, device="cpu")).painter)
    with WorkerPool(config.workers, _Make(config), timeout_s=900.0) as pool:
        for index, row in pool.run(_run, tasks):
            if not row or not row.get("places", 1):
                continue
            rows[index] = row
            real = known or [rows[i] for i in sorted(rows) if tasks[i][0] == "real"]
            mine = {
                arm: [rows[i] for i in sorted(rows) if tasks[i][:2] == ("journey", arm)]
                for arm in config.arms
            }
            result = {
                "config": to_json(asdict(config)),
                "painter_sha256": identity.weights,
                "sampling": identity.settings,
                "seconds": round(time.time() - began, 1),
                "arms": {arm: to_json(asdict(ARMS[arm])) for arm in config.arms},
                "summary": {
                    name: summary(found, real)
                    for arm, rows_of_arm in mine.items()
                    for name, found in by_takes(arm, rows_of_arm).items()
                },
                "journeys": mine,
                "real": real,
            }
            write_json(path, result)
            report(f"{time.time() - began:.0f} s: {' '.join(map(str, tasks[index]))} is done")
    report(json.dumps(result.get("summary", {}), indent=1))
    return result


def by_takes(arm: str, journeys: Sequence[Found]) -> dict[str, list[Found]]:
    """Return the rows of an arm by its name, and by what dreams took if there is more than one."""
    kinds = next((list(row["dreams"]) for row in journeys if "dreams" in row), [])
    found = {arm: list(journeys)}
    for takes in kinds[1:]:
        found[f"{arm}, {takes}"] = [
            {**row, **row.get("dreams", {}).get(takes, {})} for row in journeys
        ]
    return found


@dataclass(frozen=True)
class _Make:
    """Makes what a process keeps; it can be sent to one."""

    config: Config

    def __call__(self) -> Maker:
        return Maker(self.config)


def _run(engine: Engine[Maker], kind: str, name: str, number: int) -> Found:
    try:
        return engine.play(lambda maker: part_task(maker, kind, name, number))
    except WorldsimError:
        # The others go on.
        traceback.print_exc()
        return {}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
