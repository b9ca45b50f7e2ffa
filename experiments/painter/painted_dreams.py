"""Dreams with and without painting ahead: distance from true frames, sharpness, agreement, speed.

    python experiments/painter/painted_dreams.py --out out/painted --after out/painted/world
    python experiments/painter/painted_dreams.py --out out/arms --arms plain all-often known-often

Records walks of the test set's protocol (64 true frames, then 96). From the history of half of
them, worlds dream 96 frames with the recorded actions, at their own poses by default: at the true
poses, a walker would pass through painted walls. The other half of the walks is what dreamed frames
are compared with. For each world and each arm (:data:`ARMS`; by default without and with painting):

- ``fd``, ``kd``: distance of dreamed frames 49 to 96 from true frames of other walks, in the
  features of the frozen encoder. ``floor`` is that of the true frames of the dreamed walks.
- ``sharpness``: dream over real twin, by quarters of the dream.
- ``splat_psnr``: PSNR of dreamed frames against the memory's view at their camera, before it
  ingests them, on pixels that show painted points. ``observed_psnr``: on the other known pixels.
- ``painted_share``: share of such pixels in all pixels, by quarters; ``known_share``: that of
  pixels that show anything; ``paintings`` of the dreams, ``looks_that_paint`` of all looks.
- ``kinds``: of the second half, pixels that show painted points, other points, gaps between splats
  and holes: their share, and their sharpness over the mean of the real twin's frames.
- ``walked``: metres that the dream's camera moved over those of the real twin's.
- ``painted_fd``, ``painted_sharpness``: of the paintings' views straight on, over all true frames'.

Rows that ``painted_dreams.json`` in the folder already holds are not dreamed again.

With ``--speed WORLD`` it measures steps per second of the arms instead, over those of the first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor

import worldsim.envs  # noqa: F401
from worldsim.evaluation.benchmark_set import TestSet, TestSetConfig, record_test_set, stack
from worldsim.evaluation.encoder import FOLDER, WEIGHTS, encode, load_encoder
from worldsim.evaluation.frechet import (
    frechet_distance,
    frechet_with_interval,
    kernel_with_interval,
)
from worldsim.evaluation.measure import start_walks
from worldsim.evaluation.metrics import gradient, sharpness
from worldsim.evaluation.statistics import interval
from worldsim.io.pictures import contact_sheet, save_picture
from worldsim.memory.gaps import close_mask
from worldsim.memory.points import PointMemory
from worldsim.painting.painter import NetworkPainter, open_painter
from worldsim.protocols import PaintInputs
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import is_file, load_tensors, save_tensors, sha256_of
from worldsim.runtime.json_config import read_json, to_json, write_json
from worldsim.runtime.types import JsonObject
from worldsim.shipped.policies import make_policy
from worldsim.state import Frame, WorldState, map_tensors
from worldsim.training.painted import painted_pixels
from worldsim.world import World
from worldsim.world.paint_ahead import PaintAheadConfig

QUARTERS = 4
STRIP_COLUMNS = 13
TELEPORTED = 3.0
"""Metres that no step reaches."""
KINDS = ("painted", "observed", "gap", "hole")
"""What the memory shows at a pixel before the frame is dreamed."""
LEAST_WALKS = 4
"""Fewer walks have no kernel distance."""


@dataclass(frozen=True)
class Arm:
    """A way to dream."""

    ahead: JsonObject | None = None
    """Changes of ``Config.ahead``; None for dreams that are not painted."""
    oracle: bool = False
    """Whether the memory holds all true frames of the walk before the dream begins. The network
    then never meets a hole that the real walk has not: what is missing is its own blur."""
    dynamics: JsonObject = field(default_factory=dict)
    """Changes of the world's :class:`worldsim.diffusion.dynamics.DynamicsConfig`."""
    steps: int | None = None
    """Sampling steps of the painter; by default ``Config.num_inference_steps``."""


NEAR: JsonObject = {"every": 1, "distance": 1.0, "coverage": 0.95}
"""A look in every step at the camera one metre ahead, which is about the next one."""
GAPS: JsonObject = NEAR | {"coverage": 0.9, "gaps": 0.0, "turn": 35.0}
"""As ``NEAR``, and gaps between splats count as holes."""
ARMS: dict[str, Arm] = {
    "plain": Arm(),
    "plain-cool": Arm(dynamics={"temperature": 0.75}),
    "oracle": Arm(oracle=True),
    # Nothing is covered less than not at all, so nothing is painted.
    "oracle-nothing": Arm({"takes": "nothing", "coverage": 0.0}, oracle=True),
    "painted": Arm({}),
    **{
        takes + name: Arm({"takes": takes, **changes})
        for takes in ("all", "known", "nothing")
        for name, changes in (
            ("", {}),
            ("-often", {"coverage": 0.8, "every": 2}),
            ("-always", {"coverage": 0.95, "every": 1}),
            ("-near", {"coverage": 0.8, "every": 2, "distance": 1.5}),
            ("-here", {"coverage": 0.8, "every": 2, "distance": 0.0}),
            ("-straight", {"coverage": 0.8, "every": 2, "views": 1}),
            ("-seldom", {"coverage": 0.8, "every": 8}),
            ("-near-always", NEAR),
            ("-near-straight", NEAR | {"views": 1}),
        )
    },
    # What a painting costs.
    "pair": Arm({"views": 2}),
    "painted-4": Arm({}, steps=4),
    "straight": Arm({"views": 1}),
    "straight-4": Arm({"views": 1}, steps=4),
    # One view: fewer steps, fewer looks, more of the side.
    "straight-12": Arm({"views": 1}, steps=12),
    "straight-6": Arm({"views": 1}, steps=6),
    "straight-third-12": Arm({"views": 1, "every": 3}, steps=12),
    "straight-fourth-12": Arm({"views": 1, "every": 4}, steps=12),
    "straight-third": Arm({"views": 1, "every": 3}),
    "straight-fourth": Arm({"views": 1, "every": 4}),
    "straight-far-12": Arm({"views": 1, "every": 4, "distance": 5.0}, steps=12),
    "straight-always-12": Arm({"views": 1, "every": 1, "coverage": 0.95}, steps=12),
    "painted-12": Arm({}, steps=12),
    "idle-straight": Arm({"views": 1, "coverage": 0.0}),
    "idle": Arm({"coverage": 0.0}),
    "needy": Arm({"whole": False}),
    "needy-4": Arm({"whole": False}, steps=4),
    "needy-always": Arm({"whole": False, "coverage": 0.95, "every": 1}),
    "always-12": Arm({"coverage": 0.95, "every": 1}, steps=12),
    # Gaps between splats count as holes: close walls are painted again from near.
    "gaps": Arm(GAPS),
    "gaps-needy": Arm(GAPS | {"whole": False}),
    "gaps-straight": Arm(GAPS | {"views": 1}),
    "gaps-straight-12": Arm(GAPS | {"views": 1}, steps=12),
    "gaps-wide": Arm(GAPS | {"distance": 3.0, "whole": False}),
    "nothing-two-steps": Arm({"takes": "nothing"}, dynamics={"num_inference_steps": 2}),
    "nothing-near-12": Arm({"takes": "nothing"} | NEAR, steps=12),
    "nothing-near-4": Arm({"takes": "nothing"} | NEAR, steps=4),
    "nothing-cool": Arm({"takes": "nothing"}, dynamics={"temperature": 0.75}),
}
"""Arms by name. ``painted`` has the settings of ``Config.ahead`` as they are."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    out: Path
    """Folder of ``painted_dreams.json`` and strips."""
    before: str = "freedoom-tiny"
    """World as it was: name or folder."""
    after: str | None = None
    """World that was trained with painted memories. Its ego-motion head is that of ``before``."""
    walks: int = 64
    """Dreamed walks of test maps; as many others are recorded to compare with."""
    horizon: int = 96
    """Dreamed frames, a multiple of 8; the second half counts for the distances."""
    dreamed: int | None = None
    """Dreamed frames if they are fewer than the recorded ones, also a multiple of 8."""
    poses: Literal["own", "given"] = "own"
    """Cameras of the dreams: the world's own, or the true ones."""
    painter: str = "freedoom-painter"
    """Name or folder."""
    num_inference_steps: int | None = 8
    """The painter's sampling steps; its own setting if None."""
    places: int = 32
    """Places painted at once."""
    ahead: PaintAheadConfig = field(default_factory=PaintAheadConfig)
    """Where and how often dreams are painted ahead."""
    arms: tuple[str, ...] = ("plain", "painted")
    """Names of ``ARMS``, in this order."""
    temperature: float | None = None
    """Of the worlds' noise; by default their own."""
    batch: int = 64
    """Walks dreamed at once."""
    strips: int = 8
    """Walks of which a strip is saved."""
    workers: int = 1
    """Recording processes."""
    cache: Path | None = None
    """Folder of recorded walks; by default ``walks`` in ``out``."""
    record_only: bool = False
    """Record the walks and stop."""
    seconds: float = float("inf")
    """No further dream begins after this many seconds."""
    device: str | None = None
    """By default the GPU if there is one."""
    speed: str | None = None
    """World whose steps per second are measured instead."""
    speed_steps: int = 128
    """Steps of the walk that is timed."""
    engine: str | None = None
    """Engine of the timed walk."""


class Counted:
    """A painter that counts the places and views it paints and keeps the places' first views."""

    def __init__(self, painter: NetworkPainter) -> None:
        self.painter, self.spec = painter, painter.spec
        self.count = self.views = 0
        self.first: list[Tensor] = []

    def paint(self, inputs: PaintInputs) -> Frame:
        """See :class:`worldsim.protocols.Painter`."""
        self.count += len(inputs)
        self.views += inputs.pose.shape[0] * inputs.pose.shape[1]
        frames = self.painter.paint(inputs)
        self.first.append(frames.rgb[:: inputs.pose.shape[1]].cpu())
        return frames

    def with_graphs(self) -> Counted:
        """See :class:`worldsim.protocols.GraphPainter`. The count is that of this painter."""
        self.painter = self.painter.with_graphs()
        return self


def painter_of(config: Config, places: int, steps: int | None) -> Counted:
    """The painter without guidance; its own sampling steps if None are given."""
    painter = open_painter(config.painter, device=config.device)
    changes: dict[str, float] = {"guidance_scale": 1.0, "memory_guidance_scale": 1.0}
    if steps is not None:
        changes["num_inference_steps"] = steps
    painter.config = replace(painter.config, places=places, **changes)  # type: ignore[arg-type]
    return Counted(painter)


def recorded(config: Config) -> TestSet:
    """Walks of test maps, on the CPU: the dreamed ones, then those to compare with."""
    settings = TestSetConfig("worldsim/FreedoomReal-v0", {}, horizon=config.horizon)
    cache = config.cache or config.out / "walks"
    episodes = record_test_set(settings, range(2 * config.walks), config.workers, cache)
    test = stack(episodes, settings)
    if config.dreamed is None:
        return test
    stop = settings.history + config.dreamed
    return replace(
        test,
        config=replace(settings, horizon=config.dreamed),
        **{name: getattr(test, name)[:, :stop] for name in ("rgb", "inverse_depth", "pose")},
    )


@dataclass(frozen=True)
class Dreams:
    """Dreamed walks, CPU tensors.

    rgb: (e, t, 3, h, w) uint8.
    position: (e, t, 3), of the cameras, metres.
    squared: (e, t, 2), sums of squared colour differences from the memory's view, over pixels that
        show painted points and over other known ones.
    pixels: (e, t, 2), their numbers, times 3.
    edges: (e, t, 4), sums of the gradient of :func:`sharpness`, over pixels that show painted
        points, other known pixels, gaps between splats, and holes.
    places: (e, t, 4), the numbers of these pixels.
    """

    rgb: Tensor
    position: Tensor
    squared: Tensor
    pixels: Tensor
    edges: Tensor
    places: Tensor

    @staticmethod
    def join(parts: Sequence[Dreams]) -> Dreams:
        """Join walks that were dreamed in parts."""
        return map_tensors(lambda *x: torch.cat(x), parts[0], *parts[1:])


def all_seen(world: World, test: TestSet, state: WorldState) -> WorldState:
    """Return the states with all frames of the walks in the memory, the last ones first."""
    memory, data = world.memory, state.memory
    for t in reversed(range(test.rgb.shape[1])):
        frame = test.frame(t)
        assert frame.pose is not None
        data = memory.integrate(data, frame, test.camera(frame.pose), state.step)
    return replace(state, memory=data)


@torch.no_grad()
def after_history(world: World, test: TestSet) -> WorldState:
    """The states of a world that is not painted after the walks' true frames."""
    state = start_walks(world, test)
    for t in range(1, test.config.history):
        state = world.observe(state, test.act[:, t - 1], test.frame(t))
    return state


@torch.no_grad()
def dream(world: World, test: TestSet, state: WorldState, given: bool) -> Dreams:
    """Dream the walks of ``test``, on the world's device.

    state: after their true frames, as a state of ``world``.
    given: at the true poses.
    """
    memory = world.memory
    assert isinstance(memory, PointMemory)
    history = test.config.history
    found: list[Dreams] = []
    for t in range(history, history + test.config.horizon):
        state = world.look(state)
        before = state.memory
        pose = test.pose[:, t] if given else None
        state, transition = world.step(state, test.act[:, t - 1], pose=pose)
        frame = transition.frame
        assert frame.pose is not None
        camera = test.camera(frame.pose)
        view = memory.render(before, camera)
        painted = view.mask & painted_pixels(memory, before, camera)
        apart = (frame.rgb.float() - view.rgb.float()).square().sum(1)
        kinds = torch.stack([painted, view.mask & ~painted], 1).float()
        squared = (apart[:, None] * kinds).sum((2, 3))
        closed = close_mask(view.mask)
        all_kinds = torch.cat([kinds, torch.stack([closed & ~view.mask, ~closed], 1).float()], 1)
        inner = all_kinds[:, :, 1:-1, 1:-1]
        edges = (gradient(frame.rgb)[:, None] * inner).sum((2, 3))
        pixels, places = 3 * kinds.sum((2, 3)), inner.sum((2, 3))
        now = Dreams(frame.rgb, frame.pose[:, :3, 3], squared, pixels, edges, places)
        found.append(map_tensors(lambda x: x.cpu(), now))
    return map_tensors(lambda *x: torch.stack(x, 1), found[0], *found[1:])


def rounded(value: float, low_high: Sequence[float] | None = None) -> list[float | None]:
    """A value with its interval, as the report shows it."""
    return [round(value, 4), *((None, None) if low_high is None else low_high)]


def psnr_of(squared: Tensor, pixels: Tensor) -> list[float | None]:
    """PSNR of the pooled squared error of walks (e, t), with an interval over walks."""
    s, n = (x.double().sum(1).numpy() for x in (squared, pixels))
    if not n.sum():
        return [None, None, None]

    def statistic(counts: np.ndarray) -> np.ndarray:
        return 10.0 * np.log10(255.0**2 * (counts @ n) / (counts @ s))

    value = float(statistic(np.ones((1, len(s))))[0])
    return rounded(value, interval(statistic, len(s)))


def ratio_of(mine: Tensor, twin: Tensor) -> list[float | None]:
    """Mean of ``mine`` over that of ``twin``, both (e, t), with an interval over walks."""
    a, b = (x.double().mean(1).numpy() for x in (mine, twin))

    def statistic(counts: np.ndarray) -> np.ndarray:
        return (counts @ a) / (counts @ b)

    return rounded(float(a.mean() / b.mean()), interval(statistic, len(a)))


def measure(
    dreams: Dreams, true: Tensor, position: Tensor, features: dict[str, Tensor]
) -> JsonObject:
    """The figures of one row.

    true, position: (e, t, 3, h, w) and (e, t, 3), the real twin's frames of the same walks.
    features: ``dreamed`` and ``other``, of the second half of the horizon.
    """
    half = true.shape[1] // 2
    found: JsonObject = {}
    for kind, distance in (("fd", frechet_with_interval), ("kd", kernel_with_interval)):
        if kind == "kd" and len(true) < LEAST_WALKS:
            continue
        d = distance(features["dreamed"], features["other"], half)
        found[kind] = [round(v, 5) for v in (d.value, d.low, d.high)]
    mine, twin = sharpness(dreams.rgb), sharpness(true)
    found["sharpness"] = [
        ratio_of(a, b)
        for a, b in zip(mine.chunk(QUARTERS, 1), twin.chunk(QUARTERS, 1), strict=True)
    ]
    found["sharpness_second_half"] = ratio_of(mine[:, half:], twin[:, half:])
    size = 3.0 * true.shape[-1] * true.shape[-2]
    for i, name in enumerate(("splat_psnr", "observed_psnr")):
        s, n = dreams.squared[:, :, i], dreams.pixels[:, :, i]
        found[name] = {"all": psnr_of(s, n), "second_half": psnr_of(s[:, half:], n[:, half:])}
    shares = dreams.pixels.double() / size
    for name, share in (("painted_share", shares[..., 0]), ("known_share", shares.sum(2))):
        found[name] = [round(float(part.mean()), 4) for part in share.chunk(QUARTERS, 1)]
    usual = float(sharpness(true[:, half:]).mean())
    edges, places = (x[:, half:].double().sum((0, 1)) for x in (dreams.edges, dreams.places))
    found["kinds"] = {
        name: {
            "share": round(float(n / places.sum()), 4),
            "sharpness": round(float(g / n) / usual, 4) if n else None,
        }
        for name, g, n in zip(KINDS, edges, places, strict=True)
    }
    found["walked"] = ratio_of(metres(dreams.position), metres(position))
    return found


def metres(position: Tensor) -> Tensor:
    """Distances (e, t - 1) between neighbouring positions (e, t, 3); 0 where one teleports."""
    steps = position.diff(dim=1).norm(dim=2)
    return steps.masked_fill(steps > TELEPORTED, 0.0)


def strip_of(rgb: Tensor, count: int) -> Tensor:
    """A few frames of the first walks; rgb: (e, t, 3, h, w)."""
    times = np.linspace(0, rgb.shape[1] - 1, min(STRIP_COLUMNS, rgb.shape[1])).round().astype(int)
    return rgb[:count, times].contiguous()


def strips(rows: dict[str, Tensor], test: TestSet, folder: Path) -> None:
    """Save one picture per walk: the real twin, then every dream.

    rows: frames (e, columns, 3, h, w) uint8 by caption, from :func:`strip_of`.
    """
    e, columns = next(iter(rows.values())).shape[:2]
    times = np.linspace(0, test.config.horizon - 1, columns).round().astype(int)
    for walk in range(e):
        pictures = {
            name: [x[walk, i].permute(1, 2, 0).numpy() for i in range(columns)]
            for name, x in rows.items()
        }
        title = [f"walk {walk} on {test.maps[walk]}: frames after {test.config.history} true ones"]
        sheet = contact_sheet(pictures, [f"frame {t + 1}" for t in times], title=title)
        save_picture(sheet, folder / f"walk-{walk:02d}.png")


def worlds_of(config: Config, device: torch.device) -> dict[str, World]:
    """The worlds by label."""
    worlds = {"before": World.from_pretrained(config.before, device)}
    if config.after is not None:
        after, head = World.from_pretrained(config.after, device), worlds["before"].ego_motion
        settings = replace(after.config, memory=worlds["before"].config.memory)
        worlds["after"] = World(after.network, settings, head, after.outcome, after.card)
    return {
        label: world.with_dynamics(temperature=config.temperature)
        for label, world in worlds.items()
    }


def compare(config: Config) -> JsonObject:
    """Dream with every world, with and without painting, and measure."""
    begun = time.monotonic()
    device = resolve_device(config.device)
    test = recorded(config)
    if config.record_only:
        return {"walks": len(test)}
    history, half = test.config.history, test.config.horizon // 2
    true = test.rgb[: config.walks, history:]
    encoder = load_encoder(FOLDER).to(device)

    def features(rgb: Tensor) -> Tensor:
        parts = rgb.flatten(0, 1).split(1024)
        return torch.cat([encode(encoder, part.to(device)).cpu() for part in parts])

    other = features(test.rgb[config.walks :, history + half :])
    floor = frechet_with_interval(features(true[:, half:]), other, half)
    file = config.out / "painted_dreams.json"
    found: JsonObject = {
        "before": config.before, "after": config.after, "walks": config.walks,
        "poses": config.poses, "frames": [half + 1, 2 * half],
        "painter": config.painter, "painter_steps": config.num_inference_steps,
        "temperature": config.temperature, "maps": sorted(set(test.maps)), "device": str(device),
        "encoder": sha256_of(FOLDER / WEIGHTS),
        "floor": [round(v, 5) for v in (floor.value, floor.low, floor.high)],
        "rows": read_json(file)["rows"] if is_file(file) else {},
    }  # fmt: skip
    pictures = {"real twin": strip_of(true, config.strips)}
    for label, world in worlds_of(config, device).items():
        walks: list[tuple[TestSet, WorldState]] = []
        for arm in config.arms:
            name = f"{label}, {arm}"
            kept = config.out / "strips" / f"{label}-{arm}.safetensors"
            if name not in found["rows"] and time.monotonic() - begun < config.seconds:
                if not walks:
                    for i in range(0, config.walks, config.batch):
                        part = test.part(i, min(i + config.batch, config.walks), device)
                        walks.append((part, after_history(world, part)))
                row, dreams = _row(config, world, ARMS[arm], walks, features, true, other)
                found["rows"][name] = row
                save_tensors({"rgb": strip_of(dreams.rgb, config.strips)}, kept)
                write_json(file, found)
                print(name, json.dumps(row), flush=True)
            if is_file(kept):
                pictures[name.replace(", ", "\n")] = load_tensors(kept)["rgb"]
    strips(pictures, test, config.out / "strips")
    return found


def _row(
    config: Config,
    world: World,
    arm: Arm,
    walks: Sequence[tuple[TestSet, WorldState]],
    features: Callable[[Tensor], Tensor],
    true: Tensor,
    other: Tensor,
) -> tuple[JsonObject, Dreams]:
    """Dream the walks of one arm; returns its figures and the dreams.

    walks: in parts, with their states after the true frames.
    true, other: the walks' true frames, and the features of other walks'.
    """
    since, parts = time.monotonic(), []
    ahead = None if arm.ahead is None else replace(config.ahead, **arm.ahead)
    steps = arm.steps or config.num_inference_steps
    painter = None if ahead is None else painter_of(config, config.places, steps)
    used = world.with_painting(painter, ahead).with_dynamics(**arm.dynamics)
    for part, after in walks:
        state = all_seen(world, part, after) if arm.oracle else after
        if used.painting is not None:
            state = used.painting.begin(state)
        parts.append(dream(used, part, state, config.poses == "given"))
    dreams, half = Dreams.join(parts), true.shape[1] // 2
    position = torch.cat([part.pose[:, part.config.history :, :3, 3].cpu() for part, _ in walks])
    seen = {"dreamed": features(dreams.rgb[:, half:]), "other": other}
    row: JsonObject = {"ahead": to_json(ahead), "paintings": 0}
    if arm.steps is not None:
        row["painter_steps"] = arm.steps
    if painter is not None and ahead is not None and painter.count:
        row["paintings"], row["views"] = painter.count, painter.views
        looks = len(true) * -(-true.shape[1] // ahead.every)
        row["looks_that_paint"] = round(painter.count / looks, 4)
        first = torch.cat(painter.first)[:, None]
        row["painted_sharpness"] = round(float(sharpness(first).mean() / sharpness(true).mean()), 4)
        if len(first) > 1:
            row["painted_fd"] = round(frechet_distance(features(first), other), 4)
    row |= measure(dreams, true, position, seen)
    row["seconds"] = round(time.monotonic() - since, 1)
    return row, dreams


def speed(config: Config) -> JsonObject:
    """Steps per second of one environment with each arm, and over those of the first one."""
    device = resolve_device(config.device)
    found: JsonObject = {
        "world": config.speed, "steps": config.speed_steps, "painter": config.painter,
        "painter_steps": config.num_inference_steps, "device": str(device),
        "threads": torch.get_num_threads(), "engine": config.engine, "rows": {},
    }  # fmt: skip
    for name in config.arms:
        arm = ARMS[name]
        ahead = None if arm.ahead is None else replace(config.ahead, **arm.ahead)
        steps = arm.steps or config.num_inference_steps
        painter = None if ahead is None else painter_of(config, 1, steps)
        env = gym.make(
            "worldsim/FreedoomDream-v0", world=config.speed, device=device, engine=config.engine,
            paint=ahead, painter=painter, max_episode_steps=10**6,
        )  # fmt: skip
        row = _timed(config, env, painter)
        env.close()
        found["rows"][name] = {"ahead": to_json(ahead), **row}
        first = found["rows"][config.arms[0]]
        for share, rate in (("share", "steps_per_s"), ("cpu_share", "steps_per_cpu_s")):
            found["rows"][name][share] = round(row[rate] / first[rate], 4)
        print(name, json.dumps(found["rows"][name]), flush=True)
        write_json(config.out / f"speed_{device.type}.json", found)
    return found


def _timed(config: Config, env: gym.Env, painter: Counted | None) -> JsonObject:
    """Time a walk after a short one, in which everything warms up."""
    policy = make_policy("persistent-v1", env.action_space)
    for steps in (9, config.speed_steps):
        env.reset(seed=0)
        policy.reset(0)
        if painter:
            painter.count = painter.views = 0
        each, busy = [], time.process_time()
        for _ in range(steps):
            since = time.perf_counter()
            env.step(policy.act(None))
            each.append(time.perf_counter() - since)
        busy = time.process_time() - busy
    return {
        "steps_per_s": round(len(each) / sum(each), 3),
        # Other work on the machine changes this less.
        "steps_per_cpu_s": round(len(each) / busy, 3),
        "median_ms": round(1000 * float(np.median(each)), 2),
        "slowest_ms": round(1000 * max(each), 2),
        "paintings": painter.count if painter else 0,
        "views": painter.views if painter else 0,
    }


def main(config: Config) -> None:
    """Measure, write the figures and print them."""
    config.out.mkdir(parents=True, exist_ok=True)
    print(json.dumps(speed(config) if config.speed else compare(config)))


if __name__ == "__main__":
    main(tyro.cli(Config))
