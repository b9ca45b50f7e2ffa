"""``worldsim bench``: steps per second of a world, where the time goes, and the device's limits."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.errors import (
    InvalidInputError,
    MissingGeometryError,
    NotFoundError,
    OutOfMemoryError,
    WorldsimError,
)
from worldsim.evaluation import stopwatch
from worldsim.protocols import CountsPoints, remembers
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import make_writable_folder, require_replaceable
from worldsim.runtime.json_config import check_ranges, to_json, write_json
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.ranges import Count, Number, Threads
from worldsim.runtime.types import JsonObject
from worldsim.shipped.policies import make_policy
from worldsim.state import WorldState, bytes_of
from worldsim.world import World
from worldsim.world.engine import free_memory
from worldsim.world.scene_files import load_scene, scene_names
from worldsim.world.world import BUCKETS

BATCHES = (1, 8, 32, 256, 1024)
LONGEST_STEP_S = 5.0
"""Where no batches are asked for, those are left out whose step would take longer than this."""
REPEAT_S = 2.0
"""A repeat has fewer steps than asked for where these would take longer than this."""
POOL = {"cpu": 8, "cuda": 32}
"""So many environments walk; larger batches are copies of them with seeds of their own."""
SPARE = 0.9
"""A batch may take at most this share of the memory that is there."""
COLD_START = """
import json, sys, time
began = time.perf_counter()
import worldsim
imported = time.perf_counter()
import gymnasium
env = gymnasium.make("worldsim/FreedoomDream-v0", world=sys.argv[1], device=sys.argv[2])
env.reset(seed=0)
reset = time.perf_counter()
env.step(env.action_space.sample())
print(json.dumps([imported - began, reset - imported, time.perf_counter() - reset]))
"""


@old_fields(steps="num_inference_steps")
@dataclass(frozen=True)
class BenchConfig:
    """Measure how fast a world steps."""

    world: str = "freedoom-tiny"
    """Name of a shipped world, a world's folder, or ``hub:owner/name`` of the Hugging Face hub."""
    json: Path | None = None
    """Write the results to this file, updated after every batch."""
    batches: tuple[int, ...] | None = None
    """Batch sizes. By default 1, 8, 32, 256 and 1024, as long as they fit in memory and a step
    takes at most 5 s."""
    memory: Literal["both", "on", "off"] = "both"
    """With the scene memory, without it, or both."""
    device: str | None = None
    """Device of the world, such as ``cpu`` or ``cuda:1``. By default CUDA if it is available."""
    threads: Threads | None = None
    """CPU threads. By default PyTorch's choice."""
    num_inference_steps: Count | None = None
    """Sampling steps per frame. By default the world's own."""
    engine: Literal["plain", "fast", "compiled"] = "plain"
    """How steps are run: see :meth:`worldsim.world.World.with_engine`."""
    seed: Annotated[int, Ge(0), Le(10**12)] = 0
    """Seed of the walk and the dreams."""
    walk: Number = 36
    """Steps of the policy ``persistent-v1`` from the start scenes before measurements, so that the
    memory is filled as in use."""
    warmup: Count = 3
    """Warm-up steps before measurements."""
    repeats: Count = 5
    """How often the same steps are timed; the median is reported."""
    timed_steps: Count = 16
    """Steps per repeat; fewer if they would take more than 2 s."""
    cold_starts: Annotated[int, Ge(0), Le(1000)] = 3
    """Fresh processes to time import, reset and first step; 0 for none."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.batches is not None and (not self.batches or min(self.batches) < 1):
            raise InvalidInputError(
                f"batches = {self.batches}: name at least one, each of at least 1 environment"
            )


def bench(config: BenchConfig) -> JsonObject:
    """Measure, print a table, and write results to ``config.json`` as they come; returns them.

    Raises NotFoundError for an unknown world, InvalidInputError for a device that is not available,
    MissingGeometryError for a memory in a world that has none, OutOfMemoryError for a batch that
    does not fit.
    """
    device = _device(config.device)
    if config.json is not None:
        require_replaceable(config.json)
        make_writable_folder(config.json.parent)
    with stopwatch.using_threads(config.threads) as threads, torch.no_grad():
        world = World.from_pretrained(config.world, device)
        world = world.with_dynamics(num_inference_steps=config.num_inference_steps)
        worlds = _with_and_without(world.with_engine(config.engine), config.memory)
        report: JsonObject = {
            "world": str(config.world),
            "device": stopwatch.device_name(device),
            "device_type": device.type,
            "torch": torch.__version__,
            "threads": threads,
            "sampling_steps": world.config.dynamics.num_inference_steps,
            "engine": config.engine,
            "parameters": sum(
                p.numel() for module in world.modules().values() for p in module.parameters()
            ),
            "settings": to_json(config),
            "results": [],
            "left_out": [],
        }

        def save() -> None:
            if config.json is not None:
                write_json(config.json, report)

        start = Start(world, config)
        need = start.bytes_needed(world)
        if config.batches is not None:
            _check_fits(max(config.batches), need, device)
        report["environment_bytes"] = bytes_of(start.batch(1))
        report["ceilings"] = stopwatch.ceilings(device)
        save()
        if config.cold_starts:
            report["cold_start"] = cold_start(world, device, threads, config.cold_starts)
            save()
        print("\n".join(_head(report)), flush=True)
        for on, one in worlds.items():
            last: JsonObject | None = None
            for batch in config.batches or BATCHES:
                reason = None if config.batches else _left_out(batch, last, need, device)
                if reason is None:
                    last = measure(one, start, batch, config, report["ceilings"])
                    report["results"].append({"batch": batch, "memory": on, **last})
                    print(_row(report["results"][-1]), flush=True)
                else:
                    report["left_out"].append({"batch": batch, "memory": on, "reason": reason})
                    print(f"{batch:>6}{'on' if on else 'off':>5}  left out: {reason}", flush=True)
                save()
    return report


def _device(name: str | None) -> torch.device:
    device = resolve_device(name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _with_and_without(world: World, memory: str) -> dict[bool, World]:
    kept = remembers(world.memory)
    if memory == "on" and not kept:
        raise MissingGeometryError("this world has no scene memory: leave out --memory")
    worlds = {True: world} if kept and memory != "off" else {}
    return worlds | ({False: world.without_memory() if kept else world} if memory != "on" else {})


class Start:
    """The states at which steps are timed, at the end of a walk, and the actions that follow."""

    def __init__(self, world: World, config: BenchConfig) -> None:
        folder = None if world.folder is None else world.folder / "scenes"
        names = scene_names(folder) if folder is not None else []
        if folder is None or not names:
            raise NotFoundError(
                f"{config.world} has no start scenes for the walk to start from: copy the world "
                f"again, with scenes"
            )
        largest = max(config.batches or BATCHES)
        drawn_bytes = (
            16 * (config.walk + max(config.timed_steps, config.warmup)) * min(largest, BATCHES[-1])
        )
        require_memory_for(
            drawn_bytes, f"the actions of {config.walk} steps of a walk and of those that are timed"
        )
        size = min(POOL[world.device.type], largest)
        scenes = [
            load_scene(folder / names[i * len(names) // size % len(names)]) for i in range(size)
        ]
        self.seed, self.world = config.seed, world
        self._policies = [
            make_policy("persistent", world.action_space) for _ in range(min(largest, BATCHES[-1]))
        ]
        for i, policy in enumerate(self._policies):
            policy.reset(config.seed * 1_000_003 + i)
        # Drawn beforehand: choosing actions is no part of a step.
        count = config.walk + max(config.timed_steps, config.warmup)
        nothing = np.zeros(world.observation_space.shape, np.uint8)
        drawn = np.array([[policy.act(nothing) for policy in self._policies] for _ in range(count)])
        kind = torch.int64 if world.spec.actions else torch.float32
        acts = torch.as_tensor(drawn, dtype=kind, device=world.device)
        state = world.initial(scenes, range(size))
        for act in acts[: config.walk]:
            state, _ = world.step(state, act[:size])
        self.state, self.acts = state, acts[config.walk :]

    def batch(self, size: int, memory: bool = True) -> WorldState:
        """Return ``size`` environments with different seeds, with or without their memory."""
        index = torch.arange(size, device=self.world.device)
        state = self.state if memory else dataclasses.replace(self.state, memory=())
        return dataclasses.replace(
            state.select(index % len(self.state)), seed=index + self.seed * 1_000_003
        )

    def actions(self, size: int) -> Tensor:
        """Return the next actions of the policies (n, size, ...)."""
        index = torch.arange(size, device=self.world.device) % self.acts.shape[1]
        return self.acts.index_select(1, index)

    def points(self, size: int) -> float | None:
        """Return the number of memory slots in use, a mean over the batch; None without slots."""
        memory = self.world.memory
        if not isinstance(memory, CountsPoints):
            return None
        count = memory.count(self.state.memory)
        return float(count[torch.arange(size) % len(self.state)].float().mean())

    def bytes_needed(self, world: World) -> int:
        """Return the bytes that one more environment in a batch needs for state and step.

        Measured on this batch; at least twice the size of its state.
        """
        size = len(self.state)
        before = torch.cuda.memory_allocated(world.device) if world.device.type == "cuda" else 0
        peak = stopwatch.PeakMemory(world.device)
        world.step(self.batch(size), self.actions(size)[0])
        stopwatch.wait(world.device)
        return max((peak.read() - before) // size, 2 * bytes_of(self.state) // size)


def _fitting(need: int, device: torch.device) -> int:
    return int(SPARE * free_memory(device)) // need


def _check_fits(batch: int, need: int, device: torch.device) -> None:
    fits = _fitting(need, device)
    if batch > fits:
        usual = max((b for b in BUCKETS if b <= fits), default=0)
        raise OutOfMemoryError(
            f"a batch of {batch} does not fit in the memory of {device}: an environment needs "
            f"about {need / 1e6:.1f} MB, so about "
            f"{fits} fit: " + (f"try --batches {usual}" if usual else "free memory")
        )


def _left_out(batch: int, last: JsonObject | None, need: int, device: torch.device) -> str | None:
    """Return why a batch that was not requested is skipped.

    last: the result before it.
    """
    fits = _fitting(need, device)
    if batch > fits:
        return f"about {fits} environments fit in the memory of {device}"
    if last is not None:
        predicted = batch / last["batch_size"] * last["ms_per_step"] / 1000
        if predicted > LONGEST_STEP_S:
            return f"a step would take about {predicted:.0f} s; ask for it by --batches {batch}"
    return None


def measure(
    world: World, start: Start, batch: int, config: BenchConfig, ceilings: dict[str, float]
) -> JsonObject:
    """Return the results of one batch."""
    device, memory = world.device, remembers(world.memory)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    acts, peak = start.actions(batch), stopwatch.PeakMemory(device)
    try:
        warm = min(_warm_up(world, start.batch(batch, memory), acts[: config.warmup]))
        steps = max(1, min(config.timed_steps, int(REPEAT_S / warm)))
        times = []
        for _ in range(config.repeats):
            held = [start.batch(batch, memory)]
            times.append(
                stopwatch.seconds(partial(_steps, world, held, acts[:steps]), device) / steps
            )
        most_held = peak.read()
        # A graph is one piece: its parts are watched outside of it.
        apart = (
            world.with_engine(dataclasses.replace(world.engine, graph=False))
            if world.engine.graph
            else world
        )
        _warm_up(apart, start.batch(batch, memory), acts[: config.warmup])
        share = stopwatch.shares(apart, start.batch(batch, memory), acts[:steps])
        state = start.batch(batch, memory)
        operations, precision = stopwatch.compute(lambda: apart.step(state, acts[0]))
    except torch.OutOfMemoryError as error:
        fits = max((b for b in BUCKETS if b < batch), default=0)
        raise OutOfMemoryError(
            f"a batch of {batch} does not fit in the memory of {device}: try --batches {fits}"
        ) from error
    median, least, most = stopwatch.spread(times)
    moved = stopwatch.step_bytes(world, state)
    return {
        "batch_size": batch,
        "steps_per_s": batch / median,
        "ms_per_step": 1000 * median,
        "ms_per_step_range": [1000 * least, 1000 * most],
        "repeats": len(times),
        "timed_steps": steps,
        "share": share,
        "memory_points": start.points(batch) if memory else 0,
        "gflop_per_step": operations / 1e9,
        "precision": precision,
        "megabytes_per_step": moved / 1e6,
        "flop_fraction": operations / median / ceilings[f"{precision}_flop_per_s"],
        "bandwidth_fraction": moved / median / ceilings["copy_bytes_per_s"],
        "peak_memory_bytes": most_held,
    }


def _warm_up(world: World, state: WorldState, acts: Tensor) -> list[float]:
    """Return the seconds of each step."""
    times = []
    for act in acts:
        began = time.perf_counter()
        state, _ = world.step(state, act)
        stopwatch.wait(world.device)
        times.append(time.perf_counter() - began)
    return times


def _steps(world: World, held: list[WorldState], acts: Tensor) -> None:
    """Step from the state in ``held``, which is removed from it.

    As in use, nothing keeps the states before the last.
    """
    state = held.pop()
    for act in acts:
        state, _ = world.step(state, act)


def cold_start(world: World, device: torch.device, threads: int, count: int) -> JsonObject:
    """Return medians over ``count`` fresh processes, in seconds.

    They are of ``import worldsim``, of make and reset, and of the first step.
    """
    # -P: no module is imported from the present folder, which may be the world's.
    folder = "" if world.folder is None else str(world.folder.absolute())
    arguments = [sys.executable, "-P", "-c", COLD_START, folder, str(device)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    found = []
    for _ in range(count):
        process = subprocess.run(arguments, capture_output=True, text=True, env=environment)
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise WorldsimError(
                f"a fresh process could not step the world ({last}): leave this out by "
                f"--cold-starts 0"
            )
        found.append(json.loads(process.stdout.splitlines()[-1]))
    imported, reset, step = (statistics.median(column) for column in zip(*found, strict=True))
    return {
        "import_s": imported,
        "make_and_reset_s": reset,
        "first_step_s": step,
        "processes": count,
    }


def _head(report: JsonObject) -> list[str]:
    rates, cold = report["ceilings"], report.get("cold_start")
    products = ", ".join(
        f"{rates[f'{kind}_flop_per_s'] / 1e9:.0f} GFLOP/s {kind}"
        for kind in ("float32", "bfloat16")
    )
    size = (
        f"{report['parameters'] / 1e6:.1f}M parameters, {report['environment_bytes'] / 1e6:.1f} "
        f"MB an environment"
    )
    lines = [
        f"{report['world']}: {size}, sampling steps {report['sampling_steps']}",
        f"{report['device']}, torch {report['torch']}, {report['threads']} threads",
        f"measured here: {products}, copies {rates['copy_bytes_per_s'] / 1e9:.1f} GB/s",
    ]
    if cold:
        parts = f"{cold['import_s']:.2f} s import, {cold['make_and_reset_s']:.2f} s make and reset"
        lines.append(f"cold start: {parts}, {cold['first_step_s']:.2f} s first step")
    names = "".join(
        f"{name:>10}" for name in ("render", "denoise", "heads", "integrate", "overhead")
    )
    columns = f"{'frames/s':>11}{'ms/step':>10}{'fastest':>10}{'slowest':>10}{names}"
    return [
        *lines,
        "",
        f"{'batch':>6}{'mem':>5}{columns}{'GFLOP':>9}{'of peak':>9}{'of copy':>9}{'peak MB':>9}",
    ]


def _row(result: JsonObject) -> str:
    share = "".join(
        f"{100 * result['share'][part]:>9.1f}%" for part in (*stopwatch.PARTS, "overhead")
    )
    least, most = result["ms_per_step_range"]
    times = (
        f"{result['steps_per_s']:>11.1f}{result['ms_per_step']:>10.2f}{least:>10.2f}{most:>10.2f}"
    )
    fractions = f"{100 * result['flop_fraction']:>8.1f}%{100 * result['bandwidth_fraction']:>8.1f}%"
    memory = f"{result['batch']:>6}{'on' if result['memory'] else 'off':>5}"
    peak = f"{result['peak_memory_bytes'] / 1e6:>9.0f}"
    return f"{memory}{times}{share}{result['gflop_per_step']:>9.2f}{fractions}{peak}"
