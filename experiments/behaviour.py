"""What the shipped worlds do with fixed seeds and actions, as checksums: to compare two commits on
one machine.

    python -m experiments.behaviour --json before.json
    python -m experiments.behaviour --against before.json                # on another commit; exit
    status 1 where anything differs

Each world is stepped alone and in a batch of 8 (plain engine, CPU), saved to a file in the middle,
and resumed from it; shipped agents act in it. Everything that a step gives is part of the checksum,
bit by bit: frames, rewards, ends, infos.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

AGENTS = {"carracing": "carracing", "takecover": "takecover"}
"""The shipped agent of each world that has one."""


@dataclass(frozen=True)
class BehaviourConfig:
    """Play the shipped worlds and take checksums."""

    worlds: tuple[str, ...] = ("freedoom-tiny", "freedoom-small", "carracing", "takecover")
    """Shipped worlds' names, or folders."""
    steps: int = 24
    """Steps of a single environment; batches take a third of them."""
    batch: int = 8
    """Environments of the batch."""
    seed: int = 3
    """Of scenes, dreams and actions."""
    json: Path | None = None
    """Write the checksums to this file."""
    against: Path | None = None
    """Compare with the checksums in this file."""


class Checksum:
    """SHA-256 of nested arrays and numbers, with their names, dtypes and shapes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, value: Any, name: str = "") -> None:
        """Take in a value: a dict, a tuple, an array or a number."""
        if isinstance(value, dict):
            for key in sorted(value):
                self.add(value[key], f"{name}.{key}")
        elif isinstance(value, (tuple, list)):
            for i, one in enumerate(value):
                self.add(one, f"{name}.{i}")
        else:
            array = np.ascontiguousarray(value)
            # Python's numbers became NumPy's in info once: what they are worth counts.
            kind = (
                "f"
                if array.dtype.kind == "f"
                else "i"
                if array.dtype.kind in "iub"
                else array.dtype.str
            )
            array = array.astype({"f": np.float64, "i": np.int64}.get(kind, array.dtype))
            self._hash.update(f"{name} {kind} {array.shape} ".encode() + array.tobytes())

    def digest(self) -> str:
        """Of all so far."""
        return self._hash.hexdigest()[:32]


def behaviour(config: BehaviourConfig) -> dict[str, str]:
    """Checksums by world and way of stepping."""
    found = {}
    for name in config.worlds:
        for what, digest in played(config, name):
            found[f"{name}: {what}"] = digest
            print(f"{name}: {what}: {digest}", flush=True)
    return found


def played(config: BehaviourConfig, name: str) -> Any:
    """Pairs of what was done and its checksum, for one world."""
    from worldsim.envs.world_env import WorldEnv
    from worldsim.envs.world_vector_env import WorldVectorEnv
    from worldsim.shipped.policies import make_policy

    env = WorldEnv(name, device="cpu", engine="plain")
    space = env.action_space
    space.seed(config.seed)
    acts = [space.sample() for _ in range(config.steps)]
    half = config.steps // 2
    total = Checksum()
    total.add(env.reset(seed=config.seed))
    for act in acts[:half]:
        total.add(env.step(act))
    yield "first half", total.digest()
    with tempfile.TemporaryDirectory() as folder:
        path = env.save(Path(folder) / "walk.safetensors")
        later = WorldEnv(env.world, device="cpu")
        later.load(path)
    on, again = Checksum(), Checksum()
    for act in acts[half:]:
        on.add(env.step(act))
        again.add(later.step(act))
    yield "second half", on.digest()
    yield "second half from a file", again.digest()
    envs = WorldVectorEnv(config.batch, env.world)
    together = Checksum()
    together.add(envs.reset(seed=config.seed))
    for i in range(max(1, config.steps // 3)):
        together.add(envs.step(np.stack([acts[(i + k) % len(acts)] for k in range(config.batch)])))
    yield f"batch of {config.batch}", together.digest()
    if name in AGENTS:
        agent = make_policy(AGENTS[name], space)
        agent.reset(config.seed)
        acted = Checksum()
        obs, _ = env.reset(seed=config.seed + 1)
        for _ in range(half):
            act = agent.act(obs)
            obs, *rest = env.step(act)
            acted.add((act, obs, rest[:3]))
        yield "with its agent", acted.digest()


def main(config: BehaviourConfig) -> int:
    """Play, write, compare; returns the exit status."""
    found = behaviour(config)
    if config.json is not None:
        told = {
            "machine": platform.machine(),
            "python": platform.python_version(),
            "checksums": found,
        }
        config.json.write_text(json.dumps(told, indent=1) + "\n")
    if config.against is None:
        return 0
    before = json.loads(config.against.read_text())["checksums"]
    differing = [name for name in before if found.get(name) != before[name]]
    print(
        f"{len(before) - len(differing)} of {len(before)} agree"
        + "".join(f"\ndiffers: {name}" for name in differing)
    )
    return 1 if differing else 0


if __name__ == "__main__":
    import tyro

    sys.exit(main(tyro.cli(BehaviourConfig, description=__doc__)))
