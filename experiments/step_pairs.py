"""Compare the speed of a step in two versions of worldsim on one machine.

    python experiments/step_pairs.py --before ../before/.venv/bin/python \\
        --json experiments/step_pairs.json

Each version runs in a process of its own, which makes the environment, warms it up and then waits.
A pair is ``bursts`` bursts of steps by each version, in turns, so that a change of the machine's
clock affects both. The ratio of a pair is the time before over the time after. The lower 95% bound
of the mean ratio comes from a bootstrap over pairs. Exit status 1 if that bound is below 0.97.

The processes need this file and an installed worldsim, no other module of this folder.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEAST_RATIO = 0.97
"""Smallest lower bound that a change may have."""


@dataclass(frozen=True)
class PairsConfig:
    """Compare the speed of a step in two versions."""

    before: Path
    """Python of an environment in which the code before the change is installed."""
    after: Path = Path(sys.executable)
    """Python of one with the code after it."""
    before_path: Path | None = None
    """Folder that is put first on the module path of the code before."""
    after_path: Path | None = None
    """The same for the code after."""
    pairs: int = 9
    """Number of pairs."""
    bursts: int = 10
    """Bursts of each version per pair."""
    steps: int = 20
    """Steps per burst."""
    warmup: int = 100
    """Steps before the first pair."""
    env_id: str = "worldsim/FreedoomDream-v0"
    """Environment to step."""
    engine: str = "plain"
    """``plain``, ``fast`` or ``compiled``."""
    batch: int = 1
    """Environments stepped at once."""
    device: str = "cpu"
    """Device of both versions."""
    threads: int = 2
    """CPU threads."""
    json: Path | None = None
    """Write the figures to this file."""


def serve(settings: dict[str, Any]) -> None:
    """Step the environment as often as each line of the input says; print the seconds."""
    import gymnasium as gym
    import numpy as np
    import torch

    import worldsim  # noqa: F401  # Registers the environments.

    torch.set_num_threads(settings["threads"])
    batch, on_gpu = settings["batch"], settings["device"] != "cpu"
    told = {"engine": settings["engine"], "device": settings["device"]}
    env: Any
    if batch == 1:
        env = gym.make(settings["env_id"], max_episode_steps=10**9, **told)
        actions = env.action_space.n
    else:
        env = gym.make_vec(settings["env_id"], num_envs=batch, **told)
        actions = env.single_action_space.n
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def play(steps: int) -> float:
        begun = time.perf_counter()
        for _ in range(steps):
            env.step(
                int(rng.integers(actions)) if batch == 1 else rng.integers(actions, size=batch)
            )
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - begun

    play(settings["warmup"])
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "reset":
            env.reset(seed=0)
            play(settings["bursts"])
            print("done", flush=True)
        else:
            print(play(int(line)), flush=True)


class Version:
    """A process that steps one version."""

    def __init__(self, python: Path, path: Path | None, config: PairsConfig, folder: Path) -> None:
        import os

        settings = {
            name: getattr(config, name)
            for name in ("env_id", "engine", "batch", "device", "threads", "warmup", "bursts")
        }
        variables = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
        if path is not None:
            variables["PYTHONPATH"] = f"{path.absolute()}:{os.environ.get('PYTHONPATH', '')}"
        # The copy lies in an empty folder, because a checkout's modules would come first.
        script = folder / "step_pairs.py"
        script.write_text(Path(__file__).read_text())
        self.process = subprocess.Popen(
            [str(python.absolute()), str(script), "--serve", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=variables,
        )

    def wait(self) -> str:
        """Return the next line of the process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a version ended with status {self.process.wait()}: see above")
        return line.strip()

    def ask(self, word: str) -> str:
        """Send a line and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.wait()


def lower_bound(ratios: list[float], draws: int = 10_000) -> float:
    """Return the lower end of the 95% interval of the geometric mean."""
    import numpy as np

    logs = np.log(ratios)
    rng = np.random.default_rng(0)
    means = rng.choice(logs, (draws, len(logs))).mean(1)
    return float(np.exp(np.quantile(means, 0.025)))


def measure(config: PairsConfig) -> dict[str, list[float]]:
    """Return the steps per second of each pair, by version."""
    rates: dict[str, list[float]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as folder:
        versions = {
            name: Version(
                getattr(config, name), getattr(config, f"{name}_path"), config, Path(folder)
            )
            for name in rates
        }
        try:
            for version in versions.values():
                while version.wait() != "ready":
                    pass
            for pair in range(config.pairs):
                seconds = dict.fromkeys(rates, 0.0)
                for version in versions.values():
                    version.ask("reset")
                for burst in range(config.bursts):
                    for name in list(rates)[:: 1 if (pair + burst) % 2 else -1]:
                        seconds[name] += float(versions[name].ask(str(config.steps)))
                for name, taken in seconds.items():
                    rates[name].append(config.batch * config.bursts * config.steps / taken)
                print(
                    pair + 1, rates["before"][-1], rates["after"][-1], file=sys.stderr, flush=True
                )
        finally:
            for version in versions.values():
                version.process.kill()
    return rates


def main() -> int:
    """Run the pairs."""
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
        return 0
    import numpy as np
    import tyro

    config = tyro.cli(PairsConfig, description=__doc__)
    rates = measure(config)
    ratios = [b / a for a, b in zip(rates["before"], rates["after"], strict=True)]
    found: dict[str, Any] = {
        "env_id": config.env_id,
        "engine": config.engine,
        "batch": config.batch,
        "device": config.device,
        "threads": config.threads,
        "machine": platform.machine(),
        "steps_per_pair": config.bursts * config.steps,
        "before_steps_per_s": [round(x, 2) for x in rates["before"]],
        "after_steps_per_s": [round(x, 2) for x in rates["after"]],
        "ratio": round(float(np.exp(np.mean(np.log(ratios)))), 4),
        "ratio_lower_95": round(lower_bound(ratios), 4),
    }
    if config.json is not None:
        known = json.loads(config.json.read_text()) if config.json.exists() else {}
        known[f"{config.device} {config.engine} {config.batch}"] = found
        config.json.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return int(found["ratio_lower_95"] < LEAST_RATIO)


if __name__ == "__main__":
    sys.exit(main())
