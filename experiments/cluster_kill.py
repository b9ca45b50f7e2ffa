"""Nodes and processes of a Ray cluster are killed at random moments: is anything lost or replaced?

    python -m experiments.cluster_kill --kills 20 --json experiments/cluster_kill.json

Half of the kills (SIGKILL) hit ``worldsim record --cluster``, half a ``RayVectorEnv``. A recording
must have the bytes of one that nobody disturbed and that no cluster made. Every step of every
environment must be that of a ``WorldVectorEnv`` in this process. A killed node is replaced by a new
one. The cluster's head is never killed: with it, Ray ends the cluster.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro

from experiments.cluster_nodes import STORE_BYTES, enter_own_network, machine, nodes
from experiments.kill import kill, same_files
from worldsim.runtime.json_config import write_json

REAL = "worldsim/FreedoomReal-v0"
KILLS_A_RUN = 3
"""A task is begun four times at most, so the fourth kill of the same one ends the command."""
ENDS_IN_S = 20.0
"""Seconds in which the processes of a finished job must have ended."""


@dataclass(frozen=True)
class ClusterKillConfig:
    """Kill nodes and processes of a cluster at random moments; compare with undisturbed results."""

    json: Path
    """Figures are written to this file after every run."""
    kills: int = 20
    """Kills in all; half of them during recordings, half during rollouts."""
    seed: int = 0
    """Moments and victims are drawn from it."""
    frames: int = 792
    """Frames of a recording, in shards of 66."""
    steps: int = 24
    """Steps of a rollout of four environments."""
    limit_s: float = 300.0
    """Seconds after which a run counts as hung."""


@dataclass
class Tally:
    """What the kills of one kind led to."""

    kills: int = 0
    victims: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    """Results that were compared."""
    differences: int = 0
    """Runs with a wrong, missing or repeated shard, or a wrong observation."""
    failures: int = 0
    """Runs that ended with an error or not at all."""
    left: int = 0
    """Processes and unfinished files that were there after a run."""
    losses_seen: int = 0
    """Losses that ``RayVectorEnv.losses`` counted."""
    compared: int = 0
    """Shards or steps that were compared."""
    longest_s: float = 0.0
    """Longest run."""
    undisturbed_s: float = 0.0
    """A run in which nobody was killed."""


class Victims:
    """The cluster's processes, and a second node that can be killed.

    cluster: ``ray.cluster_utils.Cluster``, whose head stays.
    """

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self._node = self._add()

    def _add(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)

    def kill(self, kind: str, rng: np.random.Generator) -> bool:
        """Kill one process of a kind, or the node; whether there was one."""
        if kind == "node":
            self._cluster.remove_node(self._node, allow_graceful=False)
            self._node = self._add()
            return True
        found = processes(kind)
        return bool(found) and kill(found[int(rng.integers(len(found)))])


def processes(kind: str) -> list[psutil.Process]:
    """Return the processes of one kind below this one.

    kind: ``worker`` (a process of Ray that runs a task), ``player`` (the process that it starts for
        the engine), ``engine``, or ``actor`` (a process of Ray that holds dreams).
    """
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
            is_kind = {
                "worker": command.startswith("ray::_play"),
                "player": "spawn_main" in command,
                "engine": process.name() == "vizdoom",
                "actor": command.startswith("ray::Batches"),
            }[kind]
            if is_kind:
                found.append(process)
    return found


def wait_until(end: Callable[[], bool], seconds: float) -> bool:
    """Wait until ``end()``, for at most so long; returns whether it came."""
    deadline = time.monotonic() + seconds
    while not (over := end()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return over


def kill_recordings(
    config: ClusterKillConfig, cluster: Any, folder: Path, tally: Tally, kills: int
) -> None:
    """Record with kills until there were so many; each run is compared with a plain recording."""
    rng, victims = np.random.default_rng([config.seed, 0]), Victims(cluster)
    log = folder / "log.txt"

    def start(out: Path, *where: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "worldsim", "record", REAL, "--out", out]
        command += ["--frames", config.frames, "--frames-per-shard", 66, "--episode-steps", 32]
        command += ["--min-travel", 0, "--reset-options", "split", "train", *where]
        with open(log, "ab") as file:
            return subprocess.Popen(list(map(str, command)), stdout=file, stderr=file)

    def finish(process: subprocess.Popen[bytes]) -> bool:
        try:
            return process.wait(config.limit_s) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            return False

    reference, out = folder / "reference", folder / "recording"
    on_cluster = ("--cluster", cluster.address)
    if not finish(start(reference, "--workers", 1)):
        raise RuntimeError(log.read_text()[-2000:])
    begun = time.monotonic()
    if not finish(start(out, *on_cluster)) or not same_files(reference, out):
        raise RuntimeError(f"differs before anything was killed: {log.read_text()[-2000:]}")
    tally.undisturbed_s = span = round(time.monotonic() - begun, 1)
    while tally.kills < kills:
        shutil.rmtree(out)
        begun, inside = time.monotonic(), 0
        process = start(out, *on_cluster)
        while process.poll() is None and inside < KILLS_A_RUN and tally.kills < kills:
            wait_until(lambda p=process: p.poll() is not None, rng.uniform(0.0, span / 2))
            kind = str(rng.choice(["node", "worker", "player", "engine"], p=[0.4, 0.3, 0.2, 0.1]))
            # A node is killed where it may be at work, too.
            busy = kind != "node" or processes("worker")
            if process.poll() is not None or not busy or not victims.kill(kind, rng):
                continue
            inside, tally.kills = inside + 1, tally.kills + 1
            tally.victims[kind] = tally.victims.get(kind, 0) + 1
        fine = finish(process)
        tally.failures += not fine
        tally.longest_s = max(tally.longest_s, round(time.monotonic() - begun, 1))
        if not fine:
            print(log.read_text()[-1500:], file=sys.stderr)
        tally.runs += 1
        tally.differences += not (fine and same_files(reference, out))
        tally.compared += len(list(out.glob("shard-*")))
        wait_until(lambda: not processes("player") + processes("engine"), ENDS_IN_S)
        tally.left += len(processes("player") + processes("engine"))
        tally.left += sum(path.name.startswith(".") for path in out.iterdir())
        print("record", json.dumps(asdict(tally)), flush=True)


def digest(values: Any) -> str:
    """Return a checksum of nested arrays."""
    sha = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                sha.update(key.encode())
                add(value[key])
        elif isinstance(value, (tuple, list)) or getattr(value, "dtype", None) is np.dtype(object):
            for one in value:
                add(one)
        else:
            array = np.asarray(value)
            sha.update(f"{array.dtype}{array.shape}".encode())
            sha.update(array.tobytes())

    add(values)
    return sha.hexdigest()


def kill_rollouts(
    config: ClusterKillConfig, cluster: Any, folder: Path, tally: Tally, kills: int
) -> None:
    """Dream with kills until there were so many; each step is compared with that of one process."""
    import torch

    from worldsim.envs.ray_vector import RayVectorEnv
    from worldsim.envs.world_vector_env import WorldVectorEnv

    torch.set_num_threads(1)
    rng, victims = np.random.default_rng([config.seed, 1]), Victims(cluster)
    settings: dict[str, Any] = {"world": "freedoom-tiny", "device": "cpu", "engine": "fast"}
    settings |= {"threads": 1, "max_episode_steps": 10}
    actions = np.random.default_rng(config.seed).integers(0, 7, (config.steps, 4))

    def roll(env: Any) -> list[str]:
        return [digest(env.reset(seed=1)), *(digest(env.step(one)) for one in actions)]

    # Both compute batches of 8 rows, so that results are equal bit by bit.
    expected = roll(WorldVectorEnv(4, **settings))
    env = RayVectorEnv(4, 2, cluster.address, snapshot_every=8, **settings)
    begun = time.monotonic()
    if roll(env) != expected:
        raise RuntimeError("the steps differ before anything was killed")
    tally.undisturbed_s = span = round(time.monotonic() - begun, 1)
    pool = ThreadPoolExecutor(1)
    while tally.kills < kills:
        before, inside, begun = env.losses, 0, time.monotonic()
        rolling = pool.submit(roll, env)
        # Ray adds nodes in the main thread only.
        while not rolling.done() and inside < KILLS_A_RUN and tally.kills < kills:
            wait_until(rolling.done, rng.uniform(0.0, span / 2))
            kind = str(rng.choice(["node", "actor"]))
            if not rolling.done() and victims.kill(kind, rng):
                inside, tally.kills = inside + 1, tally.kills + 1
                tally.victims[kind] = tally.victims.get(kind, 0) + 1
        try:
            found = rolling.result(config.limit_s)
        except Exception as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            tally.failures += 1
            found = []
        tally.losses_seen += env.losses - before
        tally.longest_s = max(tally.longest_s, round(time.monotonic() - begun, 1))
        tally.runs += 1
        tally.differences += found != expected
        tally.compared += len(found)
        print("dream", json.dumps(asdict(tally)), flush=True)
    env.close()
    wait_until(lambda: not processes("actor"), ENDS_IN_S)
    tally.left += len(processes("actor"))


def main(config: ClusterKillConfig) -> int:
    """Kill, compare, report; returns 0 if nothing was wrong, lost or left behind."""
    kinds = {"record": kill_recordings, "dream": kill_rollouts}
    tallies = {kind: Tally() for kind in kinds}
    shares = {"record": config.kills - config.kills // 2, "dream": config.kills // 2}
    for kind, function in kinds.items():
        with tempfile.TemporaryDirectory(prefix="worldsim-kill-") as folder:
            os.environ["TMPDIR"] = tempfile.tempdir = folder
            with nodes((1,)) as cluster:
                if shares[kind]:
                    function(config, cluster, Path(folder), tallies[kind], shares[kind])
                found = {
                    "config": {k: v for k, v in asdict(config).items() if k != "json"},
                    "machine": machine(),
                    "kinds": {name: asdict(one) for name, one in tallies.items()},
                }
                write_json(config.json, found)
        os.environ["TMPDIR"] = tempfile.tempdir = "/tmp"
    print(json.dumps(found["kinds"]))
    return int(any(one.differences + one.failures + one.left for one in tallies.values()))


if __name__ == "__main__":
    enter_own_network()
    sys.exit(main(tyro.cli(ClusterKillConfig, description=__doc__.splitlines()[0])))
