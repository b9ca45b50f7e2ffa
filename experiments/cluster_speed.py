"""Recording and dreaming on two Ray nodes of this machine, beside a pool of as many processes.

    python -m experiments.cluster_speed --json experiments/cluster_speed.json

Both sides take turns, and the first one changes from turn to turn. A pair's ratio is the rate of
the cluster over that of the plain processes; reported are medians of pairs and 95% intervals by
bootstrap. The cluster has two nodes with one CPU each, and the plain pool two processes.

- ``record``: ``worldsim record`` of the real engine, from the connection to the last shard
  (``whole``), and from the first shard to the last (``steady``).
- ``dream``: ``RayVectorEnv`` beside two processes with a ``WorldVectorEnv`` each, which the same
  actions reach through pipes. A turn has as many steps as lie between two snapshots, one included.
- ``transport``: what arrives at the caller if nothing is computed: two processes of Ray answer
  every call with the same step of 256 environments.
- ``tasks``: tasks of a ``ClusterPool`` that do nothing, and ``index``: writing the ``dataset.json``
  of a recording with so many shards, which each finished shard does.

``cpu_s`` is the processor time of all processes of a side in a turn, the cluster's own included.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import operator
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.cluster_nodes import CpuTime, enter_own_network, machine, nodes
from worldsim.data.play import RecordConfig
from worldsim.data.record import record
from worldsim.evaluation.statistics import interval
from worldsim.runtime.files import sha256_of
from worldsim.runtime.json_config import read_json, write_json

WORKERS = 2
SIDES = ("plain", "cluster")


@dataclass(frozen=True)
class SpeedConfig:
    """Compare a cluster of two nodes with two plain processes."""

    json: Path
    """Figures are written to this file after every turn; it keeps those of other kinds."""
    kinds: tuple[str, ...] = ("index", "tasks", "transport", "dream", "record")
    """What is measured: index, tasks, transport, dream, record."""
    pairs: int = 8
    """Turns of each side."""
    env_id: str = "worldsim/FreedoomReal-v0"
    """What is recorded."""
    frames: int = 8000
    """Frames of a recording."""
    frames_per_shard: int = 484
    """Frames of a shard."""
    world: str = "freedoom-tiny"
    """What is dreamed."""
    batches: tuple[int, ...] = (1, 8)
    """Environments of each process."""
    steps: int = 64
    """Steps of a turn, and from one snapshot of a process to the next."""
    engine: str = "fast"
    """Engine of the steps."""


def median_of_ratios(turns: dict[str, list[float]]) -> dict[str, Any]:
    """Return medians of both sides, and of the pairs' ratios with its interval."""
    count = min(map(len, turns.values()))
    ratios = np.array(turns["cluster"][:count]) / np.array(turns["plain"][:count])

    def statistic(counts: np.ndarray) -> np.ndarray:
        return np.array([np.median(np.repeat(ratios, row)) for row in counts])

    return {
        **{side: round(float(np.median(turns[side])), 2) for side in SIDES},
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_interval": interval(statistic, count),
        "turns": {side: [round(x, 2) for x in turns[side]] for side in SIDES},
    }


def take_turns(
    pairs: int, turn: dict[str, Callable[[], dict[str, float]]]
) -> Iterator[dict[str, Any]]:
    """Run both sides in turn; yields after each pair what is known, for each figure of a turn."""
    found: dict[str, dict[str, list[float]]] = {}
    for pair in range(pairs):
        for side in SIDES if pair % 2 else SIDES[::-1]:
            for name, value in turn[side]().items():
                found.setdefault(name, {one: [] for one in SIDES})[side].append(value)
        yield {"pairs": pair + 1, **{name: median_of_ratios(x) for name, x in found.items()}}


def recordings(config: SpeedConfig, cluster: Any, folder: Path) -> Iterator[dict[str, Any]]:
    """Frames per second of whole recordings, and after their first shard."""
    seen: list[dict[str, str]] = []

    def turn(**where: Any) -> dict[str, float]:
        out = folder / "recording"
        settings = RecordConfig(
            config.env_id,
            out,
            config.frames,
            frames_per_shard=config.frames_per_shard,
            episode_steps=120,
            min_travel=0.0,
            reset_options={"split": "train"} if "Freedoom" in config.env_id else {},
            **where,
        )
        begun = time.perf_counter()
        with CpuTime("cluster" in where) as used:
            frames = record(settings).frames
        seconds = time.perf_counter() - begun
        seen.append({path.name: sha256_of(path) for path in sorted(out.iterdir())})
        assert seen[-1] == seen[0], "two recordings differ"
        ends = sorted(path.stat().st_mtime for path in out.glob("shard-*"))
        shutil.rmtree(out)
        # The first two shards include the start of their processes.
        steady = frames * (len(ends) - WORKERS) / len(ends) / (ends[-1] - ends[WORKERS - 1])
        return {
            "whole": frames / seconds,
            "steady": steady,
            "frames_per_cpu_s": frames / used.total,
        }

    sides = {
        "plain": lambda: turn(workers=WORKERS),
        "cluster": lambda: turn(cluster=cluster.address),
    }
    # The first recording fills the system's caches of files.
    sides["plain"]()
    yield from take_turns(config.pairs, sides)


class PlainProcesses:
    """Two processes with a batch of dreams each; stepped as a ``VectorEnv`` is, through pipes."""

    def __init__(self, num_envs: int, settings: dict[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(WORKERS):
            here, there = context.Pipe()
            process = context.Process(
                target=_serve, args=(there, num_envs // WORKERS, settings), daemon=True
            )
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def reset(self, seed: int) -> np.ndarray:
        each = self._num_envs = [pipe.send(("count", None)) or pipe.recv() for pipe in self._pipes]
        seeds = np.split(seed + np.arange(sum(each)), np.cumsum(each)[:-1])
        return self._ask("reset", [list(map(int, own)) for own in seeds])

    def step(self, actions: np.ndarray) -> np.ndarray:
        return self._ask("step", np.split(actions, np.cumsum(self._num_envs)[:-1]))

    def _ask(self, method: str, given: list[Any]) -> np.ndarray:
        for pipe, one in zip(self._pipes, given, strict=True):
            pipe.send((method, one))
        return np.concatenate([pipe.recv()[0] for pipe in self._pipes])

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join()


def _serve(pipe: Connection, num_envs: int, settings: dict[str, Any]) -> None:
    """What a plain process does: answer with all that reset and step return."""
    from worldsim.envs.world_vector_env import WorldVectorEnv

    env = WorldVectorEnv(num_envs, **settings)
    with contextlib.suppress(EOFError):
        while True:
            method, given = pipe.recv()
            if method == "count":
                pipe.send(num_envs)
            elif method == "reset":
                pipe.send(env.reset(seed=given))
            else:
                pipe.send(env.step(given))


def dreams(config: SpeedConfig, cluster: Any, batch: int) -> Iterator[dict[str, Any]]:
    """Environment steps per second with ``batch`` environments in each process."""
    from worldsim.envs.ray_vector import RayVectorEnv

    settings = {"world": config.world, "device": "cpu", "engine": config.engine, "threads": 1}
    num_envs = WORKERS * batch
    begun = time.perf_counter()
    spread = RayVectorEnv(
        num_envs, WORKERS, cluster.address, snapshot_every=config.steps, **settings
    )
    first, _ = spread.reset(seed=0)
    started = {"cluster": time.perf_counter() - begun}
    begun = time.perf_counter()
    plain = PlainProcesses(num_envs, settings)
    other = plain.reset(0)
    started["plain"] = time.perf_counter() - begun
    assert np.array_equal(first, other), "the first frames differ"
    turns = 0

    def turn(step: Callable[[np.ndarray], object], ray: bool) -> dict[str, float]:
        nonlocal turns
        turns += 1
        rng, begun = np.random.default_rng(turns), time.perf_counter()
        with CpuTime(ray) as used:
            for _ in range(config.steps):
                step(rng.integers(0, 7, num_envs))
        seconds, steps = time.perf_counter() - begun, config.steps * num_envs
        return {"steps_per_s": steps / seconds, "steps_per_cpu_s": steps / used.total}

    sides = {
        "plain": lambda: turn(plain.step, ray=False),
        "cluster": lambda: turn(spread.step, ray=True),
    }
    try:
        for found in take_turns(config.pairs, sides):
            yield {
                "environments": num_envs,
                "start_s": {side: round(x, 1) for side, x in started.items()},
                **found,
            }
    finally:
        spread.close()
        plain.close()


class Echo:
    """Answers with the same step of ``rows`` environments whatever it is asked."""

    def __init__(self, rows: int, settings: dict[str, Any]) -> None:
        from worldsim.envs.world_vector_env import WorldVectorEnv

        env = WorldVectorEnv(1, **settings)
        env.reset(seed=0)
        self._answer = repeat(env.step(np.array([1])), rows)

    def step(self, actions: np.ndarray) -> Any:
        return self._answer


def repeat(values: Any, rows: int) -> Any:
    """Return nested arrays of one environment for so many of them."""
    if isinstance(values, dict):
        return {name: repeat(value, rows) for name, value in values.items()}
    if isinstance(values, tuple):
        return tuple(repeat(value, rows) for value in values)
    return np.repeat(values, rows, 0)


def size_of(values: Any) -> int:
    """Return the bytes of nested arrays."""
    if isinstance(values, dict):
        return sum(map(size_of, values.values()))
    return sum(map(size_of, values)) if isinstance(values, tuple) else int(values.nbytes)


def transport(config: SpeedConfig, cluster: Any, rows: int = 256) -> Iterator[dict[str, Any]]:
    """Environment steps per second that reach the caller if they cost nothing."""
    from worldsim.envs.ray_vector import join_infos
    from worldsim.runtime.cluster import connected

    settings = {"world": config.world, "device": "cpu", "engine": config.engine, "threads": 1}
    with connected(cluster.address) as ray:
        actors = [ray.remote(num_cpus=1)(Echo).remote(rows, settings) for _ in range(WORKERS)]
        actions, rates = np.zeros(rows, int), []

        def step() -> tuple[np.ndarray, Any]:
            results = ray.get([actor.step.remote(actions) for actor in actors])
            frames = np.concatenate([result[0] for result in results])
            return frames, join_infos([result[-1] for result in results], [rows] * WORKERS)

        bytes_per_step = size_of(ray.get(actors[0].step.remote(actions))) / rows
        for _ in range(config.pairs):
            begun = time.perf_counter()
            for _ in range(50):
                step()
            rates.append(50 * rows * WORKERS / (time.perf_counter() - begun))
            rate = float(np.median(rates))
            yield {
                "rows": rows,
                "bytes_per_step": round(bytes_per_step, 1),
                "steps_per_s": round(rate),
                "megabytes_per_s": round(1e-6 * rate * bytes_per_step, 1),
                "turns": [round(x) for x in rates],
            }


def tasks(cluster: Any) -> Iterator[dict[str, Any]]:
    """Milliseconds per task, after the first ones, of so many tasks."""
    from worldsim.runtime.cluster import ClusterPool

    found: dict[str, Any] = {}
    with ClusterPool(cluster.address, io.BytesIO) as pool:
        list(pool.run(operator.is_, [(i,) for i in range(100)]))
        for count in (1000, 10_000):
            begun, done = 0.0, 0
            for _ in pool.run(operator.is_, [(i,) for i in range(count)]):
                done += 1
                begun = begun or time.perf_counter()
                if time.perf_counter() - begun > 20.0:
                    break
            found[f"ms_each_of_{count}"] = round(1e3 * (time.perf_counter() - begun) / done, 2)
            yield found


def index(folder: Path) -> Iterator[dict[str, Any]]:
    """Milliseconds of writing the index of so many shards."""
    from worldsim.data.remote import get_index, put_index

    small = RecordConfig("worldsim/TinyRoom-v0", folder / "small", 100, workers=0, min_travel=0.0)
    info, (shard,) = get_index(record(small).path)
    found: dict[str, Any] = {}
    for count in (1000, 10_000):
        many = [replace(shard, file=f"shard-{i:05d}.safetensors") for i in range(count)]
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            put_index(folder / "small", info, many)
            times.append(time.perf_counter() - begun)
        found[f"ms_of_{count}"] = round(1e3 * float(np.median(times)), 1)
    yield found


def main(config: SpeedConfig) -> None:
    """Measure all kinds, and write what is known after every pair of turns."""
    found: dict[str, Any] = read_json(config.json) if config.json.exists() else {}
    with tempfile.TemporaryDirectory() as folder, nodes((1, 1)) as cluster:
        found["machine"] = machine()
        parts: list[tuple[str, Callable[[], Iterator[dict[str, Any]]]]] = []
        if "index" in config.kinds:
            parts.append(("index", lambda: index(Path(folder))))
        if "tasks" in config.kinds:
            parts.append(("tasks", lambda: tasks(cluster)))
        if "transport" in config.kinds:
            parts.append(("transport", lambda: transport(config, cluster)))
        if "dream" in config.kinds:
            parts += [
                (f"dream_{batch}", lambda batch=batch: dreams(config, cluster, batch))
                for batch in config.batches
            ]
        if "record" in config.kinds:
            parts.append(("record", lambda: recordings(config, cluster, Path(folder))))
        for name, part in parts:
            for known in part():
                found[name] = known | {"load_average": round(os.getloadavg()[0], 1)}
                write_json(config.json, found)
                print(name, json.dumps(known), flush=True)


if __name__ == "__main__":
    enter_own_network()
    sys.exit(main(tyro.cli(SpeedConfig, description=__doc__.splitlines()[0])))
