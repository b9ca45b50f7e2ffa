"""What a generated world does over long walks: ``python long_walks.py --help``.

Drift: free-running walks, and real walks of the same policy that say what is usual. Growth: one way walked to and fro, its true
frames, then dreamed ones at the same poses, kept in the point memory. Each writes a JSON file and a picture of its curves.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from curves import Panel, draw_panels
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from worldsim.camera import Camera, code_to_channel, quantise_depth, snap_pose, unproject
from worldsim.config import to_json, write_json
from worldsim.data.play import make_env, make_policy
from worldsim.errors import InvalidInputError
from worldsim.evaluation.returns import NOVELTY_STEPS, changed
from worldsim.evaluation.test_set import ATTEMPTS, POLICY, TEST_SPLIT
from worldsim.evaluation.trips import UNDO
from worldsim.memory import PointMemory
from worldsim.metrics import sharpness
from worldsim.pictures import save_png
from worldsim.scene_files import load_scene, scene_names
from worldsim.state import Frame, SceneStart, WorldState, flatten
from worldsim.world import World

Array = NDArray[Any]
Rows = dict[str, list[Tensor]]

START = 12
"""Frames at the beginning of the growth's way that the dream is given."""
CELL_M, NEAR_M = 0.25, 10.0
"""Space seen is counted in cells of this edge, in which something at most so far away was seen."""


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    out: Path
    """Folder for ``drift.json``, ``drift.png``, ``growth.json`` and ``growth.png``."""
    world: str = "freedoom-tiny"
    """Name or folder of the world; it needs geometry, a point memory and start scenes."""
    steps: int = 1000
    """Steps of each free-running walk, and of each real one; 0 leaves the drift out."""
    walks: int = 8
    """Start scenes, evenly spread over the world's, walked at once; and as many real walks."""
    stretch: int = 50
    """Steps that a point of a curve is the mean of."""
    growth_steps: int = 10000
    """Steps with true frames in one bounded area; 0 leaves the growth out."""
    dream_growth_steps: int = 2000
    """Steps there with dreamed frames; 0 leaves them out."""
    there: int = 100
    """Steps of the growth's way out; its actions undone, as many again, lead back."""
    seed: int = 0
    """Walk ``i`` has seed ``seed * 1000003 + i``, its policy too."""
    threads: int = 1
    """Threads of the CPU."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where the world and the memories are."""

    def __post_init__(self) -> None:
        for name, least in {"walks": 1, "stretch": 1, "there": 1, "steps": 0, "growth_steps": 0, "dream_growth_steps": 0}.items():
            if getattr(self, name) < least:
                raise InvalidInputError(f"{name} = {getattr(self, name)}: it must be at least {least}")
        if 0 < self.steps < self.stretch:
            raise InvalidInputError(f"steps = {self.steps} are no whole stretch of {self.stretch}: take more steps, or 0 for none")

    def walk_seed(self, index: int) -> int:
        return self.seed * 1_000_003 + index


# Drift.


class Watch:
    """The figures of walks as they go on: one value a walk and step of each, by name."""

    def __init__(self) -> None:
        self.rows: Rows = {}
        self._last: deque[Tensor] = deque(maxlen=NOVELTY_STEPS + 1)
        self._start: Tensor | None = None

    def see(self, frame: Frame, **further: Tensor) -> None:
        """Take in a frame (b) with further figures, each (b,)."""
        assert frame.pose is not None and frame.inverse_depth is not None
        position = frame.pose[:, :3, 3]
        self._start = position if self._start is None else self._start
        self._last.append(frame.rgb)
        rgb = frame.rgb.float() / 255.0
        high, low = rgb.amax(1), rgb.amin(1)
        figures = {"sharpness": sharpness(frame.rgb)}
        for i, colour in enumerate(("red", "green", "blue")):
            figures[f"{colour} mean"], figures[f"{colour} deviation"] = rgb[:, i].mean((1, 2)), rgb[:, i].std((1, 2))
        figures["saturation"] = ((high - low) / high.clamp(min=1.0 / 255.0)).mean((1, 2))
        full = len(self._last) > NOVELTY_STEPS
        unknown = torch.full_like(high[:, 0, 0], torch.nan)
        figures["changed in 12 steps"] = changed(torch.stack(list(self._last), 1))[:, -1] if full else unknown
        figures["nearness (depth channel)"] = code_to_channel(frame.inverse_depth).mean((1, 2))
        figures["metres from start"] = (position - self._start).norm(dim=1)
        for name, values in {**figures, **further}.items():
            self.rows.setdefault(name, []).append(values.float().cpu())

    def stretches(self, length: int) -> dict[str, Array]:
        """Means over whole stretches by name, each (walks, stretches); nan where nothing is known."""
        found = {}
        for name, rows in self.rows.items():
            values = torch.stack(rows, 1)
            whole = values.shape[1] // length * length
            found[name] = values[:, :whole].unflatten(1, (-1, length)).nanmean(2).numpy().astype(np.float64)
        return found


def mean_known(values: Any, axis: int | None = None) -> Array:
    """Mean without nan; nan where there is nothing else."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis) / known.sum(axis)


def not_finite(state: WorldState) -> dict[str, int]:
    """How many values of each tensor of a state are nan or infinite, where there are any."""
    bad = {name: int((~torch.isfinite(x)).sum()) for name, x in flatten(state).items() if x.is_floating_point()}
    return {name: count for name, count in bad.items() if count}


def starts(world: World, count: int) -> list[SceneStart]:
    if world.folder is None:
        raise InvalidInputError("the world has no folder, so no start scenes")
    names = scene_names(world.folder / "scenes")
    if count > len(names):
        raise InvalidInputError(f"walks = {count}: the world has {len(names)} start scenes")
    return [load_scene(world.folder / "scenes" / names[i * len(names) // count]) for i in range(count)]


def dream_walks(world: World, config: Config) -> tuple[dict[str, Array], dict[str, Any]]:
    """Stretches of the free-running walks; and whatever is wrong with their states."""
    scenes = starts(world, config.walks)
    seeds = [config.walk_seed(i) for i in range(config.walks)]
    policies = [make_policy(POLICY, world.action_space) for _ in seeds]
    for policy, seed in zip(policies, seeds, strict=True):
        policy.reset(seed)
    state, watch, wrong = world.initial(scenes, seeds), Watch(), {}
    heard: list[tuple[Tensor, Tensor]] = []
    # The step keeps quiet about rewards and terminations that were never recorded; the head itself does not.
    handle = world.outcome.register_forward_hook(lambda module, given, said: heard.append(said))
    for step in tqdm(range(config.steps), desc="dreaming"):
        act = torch.tensor(np.array([policy.act(None) for policy in policies]), device=world.device)
        state, transition = world.step(state, act)
        (reward, logit), used = heard.pop(), world.memory.statistics(state.memory)["used"]
        further = {"memory coverage": transition.coverage, "memory used": used, "reward head": reward, "termination logit": logit}
        watch.see(transition.frame, **further)
        bad = not_finite(state) | {k: 1 for k, v in further.items() if not bool(torch.isfinite(v).all())}
        if bad and not wrong:
            wrong = {"first_step": step, "values": bad}
    handle.remove()
    return watch.stretches(config.stretch), {"scenes": [s.name for s in scenes], "not_finite": wrong}


def real_walks(world: World, config: Config) -> tuple[dict[str, Array], dict[str, Any]]:
    """The same of real walks, their frames taken into a memory of the world's kind; and the maps that they were in."""
    env = make_env(world.config.env_id, {**world.config.env_kwargs, "max_episode_steps": config.steps + 1})
    policy, found, maps = make_policy(POLICY, env.action_space), [], []
    for i in tqdm(range(config.walks), desc="walking"):
        for attempt in range(ATTEMPTS):
            watch, name = real_walk(world, env, policy, config, config.walk_seed(i) + attempt * 100_000_007)
            if watch is not None:
                break
        else:
            raise InvalidInputError(f"the engine ended {ATTEMPTS} walks of {config.steps} steps: choose shorter ones")
        found.append(watch.stretches(config.stretch))
        maps.append(name)
    env.close()
    return {name: np.concatenate([f[name] for f in found]) for name in found[0]}, {"maps": maps}


def real_walk(world: World, env: Any, policy: Any, config: Config, seed: int) -> tuple[Watch | None, str]:
    """A walk, or None if the engine ended it."""
    memory, watch = world.memory, Watch()
    data = memory.empty(1, world.device)
    obs, info = env.reset(seed=seed, options=dict(TEST_SPLIT))
    name = str(info["map"])
    policy.reset(seed)
    for step in range(config.steps + 1):
        frame, camera = true_frame(obs, info, world.device)
        if step:
            coverage, used = memory.coverage(data, camera), memory.statistics(data)["used"]
            watch.see(frame, **{"memory coverage": coverage, "memory used": used})
        data = memory.integrate(data, frame, camera, torch.tensor([step], device=world.device))
        if step < config.steps:
            obs, _, term, trunc, info = env.step(policy.act(obs))
            if term or trunc:
                return None, name
    return watch, name


def true_frame(obs: Array, info: dict[str, Any], device: Any) -> tuple[Frame, Camera]:
    """What the engine shows, a batch of one."""
    rgb = torch.from_numpy(np.array(obs)).permute(2, 0, 1)[None].contiguous()
    depth, pose = (torch.from_numpy(np.array(info[key], np.float32))[None] for key in ("depth", "pose"))
    frame = Frame(rgb.to(device), quantise_depth(depth).to(device), snap_pose(pose).to(device))
    assert frame.pose is not None
    return frame, Camera(frame.pose, torch.from_numpy(np.array(info["intrinsics"], np.float32))[None].to(device), *rgb.shape[-2:])


def drift(world: World, config: Config) -> dict[str, Any]:
    """All figures with their bands, and how many of the dream's stretches lie inside."""
    dream, told = dream_walks(world, config)
    real, where = real_walks(world, config)
    figures: dict[str, Any] = {}
    for name, values in dream.items():
        figures[name] = entry = {"dream": values.tolist()}
        if name in real:
            low, high = np.nanpercentile(real[name], (5, 95))
            entry |= {"band": [low, high], "real": real[name].tolist()}
            within = np.where(np.isfinite(values), (values >= low) & (values <= high), np.nan)
            entry["inside"] = mean_known(within, 0).tolist()
    ends = [(i + 1) * config.stretch for i in range(config.steps // config.stretch)]
    return {"config": to_json(config), **told, **where, "steps": ends, "figures": figures}


def drift_table(result: dict[str, Any]) -> str:
    """Rows of the note's table: means over walks, and the share of their stretches in the band, of both ends of the walks."""
    part = max(1, len(result["steps"]) // 5)
    lines = []
    for name, entry in result["figures"].items():
        dream = np.array(entry["dream"])
        cells = [f"{mean_known(dream[:, s]):.3f}" for s in (slice(part), slice(-part, None))]
        if "band" in entry:
            cells += ["{:.3f} to {:.3f}".format(*entry["band"])]
            cells += [f"{100 * mean_known(entry['inside'][s]):.0f}%" for s in (slice(part), slice(-part, None))]
        lines.append(f"| {name} | {' | '.join(cells + ['', '', ''][: 5 - len(cells)])} |")
    return "\n".join(lines)


# Growth.


def undone_walk(world: World, config: Config, steps: int) -> Iterator[tuple[int, Array, dict[str, Any]]]:
    """True frames of a walk out and back, again and again without a reset: the action that led to each, frame and info.

    Walls hold the body up on one way and not on the other, so this comes back near its start, not to it.
    """
    env = make_env(world.config.env_id, {**world.config.env_kwargs, "max_episode_steps": steps + 1})
    seed = config.walk_seed(0)
    obs, info = env.reset(seed=seed, options=dict(TEST_SPLIT))
    policy = make_policy(POLICY, env.action_space)
    policy.reset(seed)
    out = [int(policy.act(None)) for _ in range(config.there)]
    acts = out + [UNDO[a] for a in reversed(out)]
    act = 0
    for step in range(steps):
        yield act, obs, info
        act = acts[step % len(acts)]
        obs, _, term, trunc, info = env.step(act)
        if term or trunc:
            break
    env.close()


def to_and_fro(world: World, config: Config, steps: int) -> Iterator[tuple[int, Array, dict[str, Any]]]:
    """The first such way alone, its frames forwards and backwards in turn: the same poses for ever. Each with the action."""
    way = list(undone_walk(world, config, 2 * config.there + 1))
    last = len(way) - 1
    for step in range(steps):
        there, place = (step // last) % 2 == 0, step % last
        act, obs, info = way[place if there else last - place]
        if not there:
            # The action that led from here on is undone.
            act = UNDO[way[last - place + 1][0]] if place else way[last][0]
        elif place == 0 and step:
            act = UNDO[way[1][0]]
        yield act, obs, info


class Ledger:
    """Size, time and space seen, a row every ``stretch`` steps."""

    def __init__(self, memory: PointMemory, config: Config) -> None:
        self.memory, self.config = memory, config
        self.rows: dict[str, list[float]] = {"steps": [], "points": [], "bytes": [], "milliseconds": [], "cells": []}
        self._cells: set[int] = set()
        self._times: list[float] = []

    def timed(self, data: Any, frame: Frame, camera: Camera, step: Tensor) -> Any:
        """``data`` with the frame, by way of a look at it as a world has one each step."""
        begin = self._now()
        self.memory.render(data, camera)
        data = self.memory.integrate(data, frame, camera, step)
        self._times.append(1000.0 * (self._now() - begin))
        return data

    def note(self, number: int, data: Any, frame: Frame, camera: Camera) -> None:
        """After step ``number``, counted from 1."""
        assert frame.depth is not None
        place = unproject(frame.depth, camera)[(frame.depth <= NEAR_M)]
        cell = torch.floor(place / CELL_M).to(torch.int64) + 2**20
        self._cells.update(((cell[:, 0] << 42) | (cell[:, 1] << 21) | cell[:, 2]).unique().tolist())
        if number % self.config.stretch:
            return
        points = int(self.memory.count(data))
        row = (number, points, points * slot_bytes(data), float(np.mean(self._times)), len(self._cells))
        for values, value in zip(self.rows.values(), row, strict=True):
            values.append(value)
        self._times = []

    def _now(self) -> float:
        if self.config.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()


def slot_bytes(data: Any) -> int:
    """Bytes that a point takes."""
    return sum(x.element_size() * x[..., 0].numel() for x in flatten(data).values()) // len(data)


def remember_true(world: World, config: Config, way: Iterator[tuple[int, Array, dict[str, Any]]], name: str) -> Ledger:
    assert isinstance(world.memory, PointMemory)
    ledger, data = Ledger(world.memory, config), world.memory.empty(1, world.device)
    for step, (_, obs, info) in enumerate(tqdm(way, total=config.growth_steps, desc=name)):
        frame, camera = true_frame(obs, info, world.device)
        data = ledger.timed(data, frame, camera, torch.tensor([step], device=world.device))
        ledger.note(step + 1, data, frame, camera)
    return ledger


def remember_dreamed(world: World, config: Config) -> Ledger:
    """Dreamed frames at the poses of :func:`to_and_fro`, after its first true ones."""
    assert isinstance(world.memory, PointMemory)
    ledger, given, state = Ledger(world.memory, config), [], None
    way = to_and_fro(world, config, START + config.dream_growth_steps)
    for step, (act, obs, info) in enumerate(tqdm(way, total=START + config.dream_growth_steps, desc="dreamed")):
        frame, camera = true_frame(obs, info, world.device)
        if len(given) < START:
            given.append((frame, act))
            continue
        if state is None:
            joined = [torch.cat([getattr(f, name) for f, _ in given]) for name in ("rgb", "inverse_depth", "pose")]
            acts = torch.tensor([a for _, a in given], device=world.device)
            scene = SceneStart(joined[0], acts, joined[1], joined[2], camera.intrinsics[0])
            state = world.initial([scene], [config.walk_seed(0)])
        before = state
        state, transition = world.step(state, torch.tensor([act], device=world.device), pose=frame.pose)
        # Once more what the step did inside, for its time alone.
        ledger.timed(before.memory, transition.frame, camera, before.step)
        ledger.note(step + 1 - START, state.memory, transition.frame, camera)
    return ledger


def growth(world: World, config: Config) -> dict[str, Any]:
    """The three ledgers, each with what its last fifth added."""
    steps = config.growth_steps
    ledgers = {
        "true, to and fro": remember_true(world, config, to_and_fro(world, config, steps), "to and fro"),
        "true, undone": remember_true(world, config, undone_walk(world, config, steps), "undone"),
    }
    if config.dream_growth_steps:
        ledgers["dreamed, to and fro"] = remember_dreamed(world, config)
    assert world.config.memory is not None
    rows: dict[str, Any] = {name: dict(ledger.rows) for name, ledger in ledgers.items()}
    for row in rows.values():
        points, cells = np.array(row["points"]), np.array(row["cells"])
        late = -1 - len(points) // 5
        row["last_fifth"] = {"points": points[-1] / points[late] - 1.0, "cells": cells[-1] / cells[late] - 1.0}
        row["full"] = bool(points[-1] >= world.config.memory.capacity)
    return {"config": to_json(config), "memory": to_json(world.config.memory), "ways": rows}


def growth_table(result: dict[str, Any]) -> str:
    """Rows of the note's table."""
    lines = []
    for name, row in result["ways"].items():
        late, last = row["last_fifth"], {key: row[key][-1] for key in ("steps", "points", "bytes", "milliseconds", "cells")}
        cells = [f"{last['steps']:,}", f"{row['points'][0]:,}", f"{last['points']:,}", f"{last['bytes'] / 1e6:.2f} MB"]
        cells += [f"{row['milliseconds'][0]:.1f} to {last['milliseconds']:.1f} ms", f"{100 * late['points']:+.1f}%"]
        cells += [f"{100 * late['cells']:+.1f}%", "yes" if row["full"] else "no"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


# Pictures, and all of it.


def draw_drift(result: dict[str, Any], path: Path) -> None:
    """A panel a figure: each dreamed walk thin, their mean bold, the real walks' mean, and the real band shaded."""
    x, panels = result["steps"], []
    for name, entry in result["figures"].items():
        curves = {"each dream": [(x, y) for y in entry["dream"]], "mean of dreams": [(x, mean_known(entry["dream"], 0))]}
        band = None
        if "band" in entry:
            curves["mean of real walks"], band = [(x, mean_known(entry["real"], 0))], tuple(entry["band"])
        panels.append(Panel(name, curves, ("mean of dreams", "mean of real walks"), band, "mean of real walks"))
    save_png(draw_panels(panels, ("mean of dreams", "mean of real walks", "each dream"), "steps"), path)


def draw_growth(result: dict[str, Any], path: Path) -> None:
    """Points, megabytes, time and space seen against steps, a curve a way."""
    ways, panels = result["ways"], []
    for title, key, unit in (
        ("points", "points", 1.0),
        ("MB of points", "bytes", 1e6),
        ("ms to render and integrate", "milliseconds", 1.0),
        (f"space seen, cells of {CELL_M} m", "cells", 1.0),
    ):
        curves = {name: [([0.0, *row["steps"]], [np.nan, *np.array(row[key]) / unit])] for name, row in ways.items()}
        panels.append(Panel(title, curves, tuple(ways), zero=True))
    save_png(draw_panels(panels, tuple(ways), "steps", columns=2), path)


def main(config: Config) -> None:
    torch.set_num_threads(config.threads)
    world = World.from_pretrained(config.world, config.device)
    if not isinstance(world.memory, PointMemory):
        raise InvalidInputError(f"{config.world} has no point memory, so there is nothing to measure here")
    if config.steps:
        result = drift(world, config)
        write_json(config.out / "drift.json", result)
        draw_drift(result, config.out / "drift.png")
        print(drift_table(result))
        print("not finite:", result["not_finite"] or "nothing")
    if config.growth_steps:
        result = growth(world, config)
        write_json(config.out / "growth.json", result)
        draw_growth(result, config.out / "growth.png")
        print(growth_table(result))


if __name__ == "__main__":
    main(tyro.cli(Config))
