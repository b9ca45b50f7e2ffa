"""Two processes that step a dream each, on the same cores at the same time: how long a step takes,
by how threads wait.

    python experiments/threads.py --json experiments/threads.json

Pairs of processes take turns: OpenMP's own way of waiting (threads spin) and the passive one that
worldsim's commands set (``OMP_WAIT_POLICY=PASSIVE``, ``KMP_BLOCKTIME=0``), each with PyTorch's
number of threads and with one thread; and one process alone. What is reported are the medians of
all steps of all rounds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from worldsim.runtime.json_config import write_json
from worldsim.runtime.threads import WAITING

STEPPING = """
import json, os, sys, time
import torch
from worldsim.world.scene_files import load_scene, scene_names
from worldsim.world import World

world = World.from_pretrained(sys.argv[1], "cpu").with_engine(sys.argv[2])
scenes = world.folder / "scenes"
state = world.initial([load_scene(scenes / scene_names(scenes)[0])], [0])
act = torch.tensor([1])
for _ in range(3):
    state, _ = world.step(state, act)
print("ready", flush=True)
sys.stdin.readline()
times, began = [], time.perf_counter()
while time.perf_counter() - began < float(sys.argv[3]):
    before = time.perf_counter()
    state, _ = world.step(state, act)
    times.append(time.perf_counter() - before)
found = {"times": times, "threads": torch.get_num_threads(), "cpu_s": sum(os.times()[:2])}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Config:
    """What is measured."""

    json: Path = Path("experiments/threads.json")
    """Where the figures go."""
    world: str = "freedoom-tiny"
    """The world that is stepped."""
    engine: str = "fast"
    """How."""
    rounds: int = 3
    """So often each kind of pair takes its turn."""
    seconds: float = 6.0
    """Of stepping, in each turn."""


def environment(passive: bool, threads: int | None) -> dict[str, str]:
    """The environment of a process. threads: None for PyTorch's choice."""
    own = {k: v for k, v in os.environ.items() if k not in (*WAITING, "OMP_NUM_THREADS")}
    return (
        own
        | (WAITING if passive else {})
        | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    )


def together(
    config: Config, count: int, passive: bool, threads: int | None
) -> list[dict[str, Any]]:
    """``count`` processes that begin to step at the same time; what each reports."""
    arguments = [sys.executable, "-c", STEPPING, config.world, config.engine, str(config.seconds)]
    started = [
        subprocess.Popen(
            arguments,
            env=environment(passive, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in started]


def measure(config: Config) -> dict[str, Any]:
    """The figures, kind by kind."""
    kinds = [
        (1, False, None),
        (1, True, None),
        (2, False, None),
        (2, True, None),
        (2, False, 1),
        (2, True, 1),
    ]
    found: dict[tuple[int, bool, int | None], list[dict[str, Any]]] = {kind: [] for kind in kinds}
    loads = []
    for _ in range(config.rounds):
        for kind in kinds:
            loads.append(round(os.getloadavg()[0], 2))
            found[kind] += together(config, *kind)
    rows = []
    for (count, passive, threads), reports in found.items():
        times = [1000 * t for report in reports for t in report["times"]]
        rows.append(
            {
                "processes": count,
                "waiting": "passive" if passive else "OpenMP's own",
                "threads": reports[0]["threads"],
                "asked_for": threads,
                "steps": len(times),
                "median_ms": round(statistics.median(times), 1),
                "slowest_ms": round(max(times), 1),
                "steps_per_s_each": round(len(times) / len(reports) / config.seconds, 2),
            }
        )
    return {
        "world": config.world,
        "engine": config.engine,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "rounds": config.rounds,
        "seconds": config.seconds,
        "load_average_before_each": loads,
        "rows": rows,
    }


if __name__ == "__main__":
    config = tyro.cli(Config, description=__doc__)
    results = measure(config)
    write_json(config.json, results)
    print(json.dumps(results["rows"], indent=1))
