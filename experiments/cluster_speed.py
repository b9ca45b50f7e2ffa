"""Recording and dreaming on two Ray nodes of this machine, beside a pool of as many processes.

    python -m experiments.cluster_speed --json experiments/cluster_speed.json

Both sides take turns, and the first one changes from turn to turn. A pair's ratio is the rate of
the cluster over that of the plain processes; reported are medians of pairs and 95% intervals by
bootstrap. The cluster has two nodes with one CPU each, and the plain pool two processes.

- ``record``: ``worldsim record`` of the real engine, from the connection to the last shard
  (``whole``), and from the first shard to the last (``steady``).
- ``dream``: ``RayVectorEnv`` beside two processes with a ``WorldVectorEnv`` each, which the same
  actions reach through pipes. A turn has as many steps as lie between two snapshots, one included.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.cluster_nodes import cpu_seconds, enter_own_network, machine, nodes, rays
from worldsim.data.play import RecordConfig
from worldsim.data.record import record
from worldsim.evaluation.statistics import interval
from worldsim.runtime.files import sha256_of
from worldsim.runtime.json_config import write_json

WORKERS = 2
SIDES = ("plain", "cluster")


@dataclass(frozen=True)
class SpeedConfig:
    """Compare a cluster of two nodes with two plain processes."""

    json: Path
    """Figures are written to this file after every turn."""
    kinds: tuple[str, ...] = ("dream", "record")
    """What is measured: record, dream."""
    pairs: int = 8
    """Turns of each side."""
    env_id: str = "worldsim/FreedoomReal-v0"
    """What is recorded."""
    frames: int = 8192
    """Frames of a recording."""
    frames_per_shard: int = 512
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
        frames = record(settings).frames
        seconds = time.perf_counter() - begun
        seen.append({path.name: sha256_of(path) for path in sorted(out.iterdir())})
        assert seen[-1] == seen[0], "two recordings differ"
        ends = sorted(path.stat().st_mtime for path in out.glob("shard-*"))
        shutil.rmtree(out)
        # The first two shards include the start of their processes.
        steady = frames * (len(ends) - WORKERS) / len(ends) / (ends[-1] - ends[WORKERS - 1])
        return {"whole": frames / seconds, "steady": steady, "seconds": seconds}

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
    newest: dict[str, np.ndarray] = {}
    daemons: list[float] = []

    def turn(side: str, step: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        rng = np.random.default_rng(len(daemons))
        used, begun = cpu_seconds(idle()), time.perf_counter()
        for _ in range(config.steps):
            newest[side] = step(rng.integers(0, 7, num_envs))
        seconds = time.perf_counter() - begun
        if side == "plain":
            daemons.append((cpu_seconds(idle()) - used) / seconds)
        return {"steps_per_s": config.steps * num_envs / seconds}

    def idle() -> list[Any]:
        # All of Ray but the actors, which do nothing in a turn of the plain processes.
        return rays()

    sides = {
        "plain": lambda: turn("plain", plain.step),
        "cluster": lambda: turn("cluster", lambda actions: spread.step(actions)[0]),
    }
    try:
        for found in take_turns(config.pairs, sides):
            yield {
                "environments": num_envs,
                "start_s": {side: round(x, 1) for side, x in started.items()},
                "ray_cpus_while_idle": round(float(np.median(daemons)), 3),
                **found,
            }
    finally:
        spread.close()
        plain.close()


def main(config: SpeedConfig) -> None:
    """Measure all kinds, and write what is known after every pair of turns."""
    found: dict[str, Any] = {
        "config": {name: value for name, value in asdict(config).items() if name != "json"}
    }
    with tempfile.TemporaryDirectory() as folder, nodes((1, 1)) as cluster:
        found["machine"] = machine()
        parts: list[tuple[str, Callable[[], Iterator[dict[str, Any]]]]] = []
        if "dream" in config.kinds:
            parts += [
                (f"dream_{batch}", lambda batch=batch: dreams(config, cluster, batch))
                for batch in config.batches
            ]
        if "record" in config.kinds:
            parts.append(("record", lambda: recordings(config, cluster, Path(folder))))
        for name, part in parts:
            for known in part():
                found[name] = known
                write_json(config.json, found)
                print(name, json.dumps(known), flush=True)


if __name__ == "__main__":
    enter_own_network()
    sys.exit(main(tyro.cli(SpeedConfig, description=__doc__.splitlines()[0])))
