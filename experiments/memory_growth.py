"""How the point memory grows on one way walked to and fro: a part of ``long_walks.py``, which says
how to run it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curves import Panel, draw_panels
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from worldsim.camera import Camera, quantise_depth, snap_pose, unproject
from worldsim.evaluation.benchmark_set import POLICY, TEST_SPLIT
from worldsim.evaluation.trip_recording import UNDO
from worldsim.io.pictures import save_picture
from worldsim.memory import PointMemory
from worldsim.runtime.json_config import to_json
from worldsim.shipped.policies import make_policy
from worldsim.state import Frame, SceneStart, flatten
from worldsim.world import World
from worldsim.world.image_env import make_env

Array = NDArray[Any]

START = 12
"""Frames at the beginning of the way that the dream is given."""
CELL_M, NEAR_M = 0.25, 10.0
"""Space seen is counted in cells of this edge, in which something at most so far away was seen."""


@dataclass(frozen=True)
class GrowthConfig:
    """Settings of the growth; see the ``Config`` of ``long_walks.py``."""

    steps: int
    """Steps with true frames."""
    dream_steps: int
    """Steps with dreamed frames, 0 for none."""
    there: int
    """Steps of the way out."""
    stretch: int
    """Steps a row."""
    seed: int
    """Of the way and its dream."""


def true_frame(obs: Array, info: dict[str, Any], device: Any) -> tuple[Frame, Camera]:
    """What the engine shows, a batch of one."""
    rgb = torch.from_numpy(np.array(obs)).permute(2, 0, 1)[None].contiguous()
    depth, pose = (
        torch.from_numpy(np.array(info[key], np.float32))[None] for key in ("depth", "pose")
    )
    frame = Frame(rgb.to(device), quantise_depth(depth).to(device), snap_pose(pose).to(device))
    assert frame.pose is not None
    return frame, Camera(
        frame.pose,
        torch.from_numpy(np.array(info["intrinsics"], np.float32))[None].to(device),
        *rgb.shape[-2:],
    )


def undone_walk(
    world: World, config: GrowthConfig, steps: int
) -> Iterator[tuple[int, Array, dict[str, Any]]]:
    """True frames of a walk out and back, again and again without a reset: the action that led to
    each, frame and info.

    Walls hold the body up on one way and not on the other, so this comes back near its start, not
    to it.
    """
    env = make_env(world.config.env_id, {**world.config.env_kwargs, "max_episode_steps": steps + 1})
    seed = config.seed
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


def to_and_fro(
    world: World, config: GrowthConfig, steps: int
) -> Iterator[tuple[int, Array, dict[str, Any]]]:
    """The first such way alone, its frames forwards and backwards in turn: the same poses for ever.
    Each with the action."""
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

    def __init__(self, memory: PointMemory, config: GrowthConfig) -> None:
        self.memory, self.config = memory, config
        self.rows: dict[str, list[float]] = {
            "steps": [],
            "points": [],
            "bytes": [],
            "milliseconds": [],
            "cells": [],
        }
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
        row = (
            number,
            points,
            points * slot_bytes(data),
            float(np.mean(self._times)),
            len(self._cells),
        )
        for values, value in zip(self.rows.values(), row, strict=True):
            values.append(value)
        self._times = []

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def slot_bytes(data: Any) -> int:
    """Bytes that a point takes."""
    return sum(x.element_size() * x[..., 0].numel() for x in flatten(data).values()) // len(data)


def remember_true(
    world: World, config: GrowthConfig, way: Iterator[tuple[int, Array, dict[str, Any]]], name: str
) -> Ledger:
    assert isinstance(world.memory, PointMemory)
    ledger, data = Ledger(world.memory, config), world.memory.empty(1, world.device)
    for step, (_, obs, info) in enumerate(tqdm(way, total=config.steps, desc=name)):
        frame, camera = true_frame(obs, info, world.device)
        data = ledger.timed(data, frame, camera, torch.tensor([step], device=world.device))
        ledger.note(step + 1, data, frame, camera)
    return ledger


def remember_dreamed(world: World, config: GrowthConfig) -> Ledger:
    """Dreamed frames at the poses of :func:`to_and_fro`, after its first true ones."""
    assert isinstance(world.memory, PointMemory)
    ledger, given, state = Ledger(world.memory, config), [], None
    way = to_and_fro(world, config, START + config.dream_steps)
    for step, (act, obs, info) in enumerate(
        tqdm(way, total=START + config.dream_steps, desc="dreamed")
    ):
        frame, camera = true_frame(obs, info, world.device)
        if len(given) < START:
            given.append((frame, act))
            continue
        if state is None:
            joined = [
                torch.cat([getattr(f, name) for f, _ in given])
                for name in ("rgb", "inverse_depth", "pose")
            ]
            acts = torch.tensor([a for _, a in given], device=world.device)
            scene = SceneStart(joined[0], acts, joined[1], joined[2], camera.intrinsics[0])
            state = world.initial([scene], [config.seed])
        before = state
        state, transition = world.step(
            state, torch.tensor([act], device=world.device), pose=frame.pose
        )
        # Once more what the step did inside, for its time alone.
        ledger.timed(before.memory, transition.frame, camera, before.step)
        ledger.note(step + 1 - START, state.memory, transition.frame, camera)
    return ledger


def growth(world: World, config: GrowthConfig) -> dict[str, Any]:
    """The three ledgers, each with what its last fifth added."""
    steps = config.steps
    ledgers = {
        "true, to and fro": remember_true(
            world, config, to_and_fro(world, config, steps), "to and fro"
        ),
        "true, undone": remember_true(world, config, undone_walk(world, config, steps), "undone"),
    }
    if config.dream_steps:
        ledgers["dreamed, to and fro"] = remember_dreamed(world, config)
    assert world.config.memory is not None
    rows: dict[str, Any] = {name: dict(ledger.rows) for name, ledger in ledgers.items()}
    for row in rows.values():
        points, cells = np.array(row["points"]), np.array(row["cells"])
        late = -1 - len(points) // 5
        row["last_fifth"] = {
            "points": points[-1] / points[late] - 1.0,
            "cells": cells[-1] / cells[late] - 1.0,
        }
        row["full"] = bool(points[-1] >= world.config.memory.capacity)
    return {"memory": to_json(world.config.memory), "ways": rows}


def growth_table(result: dict[str, Any]) -> str:
    """Rows of the note's table."""
    lines = []
    for name, row in result["ways"].items():
        late, last = (
            row["last_fifth"],
            {key: row[key][-1] for key in ("steps", "points", "bytes", "milliseconds", "cells")},
        )
        cells = [
            f"{last['steps']:,}",
            f"{row['points'][0]:,}",
            f"{last['points']:,}",
            f"{last['bytes'] / 1e6:.2f} MB",
        ]
        cells += [
            f"{row['milliseconds'][0]:.1f} to {last['milliseconds']:.1f} ms",
            f"{100 * late['points']:+.1f}%",
        ]
        cells += [f"{100 * late['cells']:+.1f}%", "yes" if row["full"] else "no"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_growth(result: dict[str, Any], path: Path) -> None:
    """Points, megabytes, time and space seen against steps, a curve a way."""
    ways, panels = result["ways"], []
    for title, key, unit in (
        ("points", "points", 1.0),
        ("MB of points", "bytes", 1e6),
        ("ms to render and integrate", "milliseconds", 1.0),
        (f"space seen, cells of {CELL_M} m", "cells", 1.0),
    ):
        curves = {
            name: [([0.0, *row["steps"]], [np.nan, *np.array(row[key]) / unit])]
            for name, row in ways.items()
        }
        panels.append(Panel(title, curves, tuple(ways), zero=True))
    save_picture(draw_panels(panels, tuple(ways), "steps", columns=2), path)
