"""A new user's first hour with a stopwatch: the README's commands one after another, in a checkout
that ``make setup`` made.

    python -m experiments.first_hour --json experiments/first_hour.json

For each command: seconds until it says anything, the longest time in which it says nothing, seconds
in all, the exit status, its last lines, which should say where the result is and what comes next.
"""

from __future__ import annotations

import json
import os
import platform
import selectors
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST_S = 1200.0
"""Seconds after which a command is killed."""
README = """
import gymnasium as gym, worldsim
env = gym.make("worldsim/FreedoomDream-v0", render_mode="rgb_array")
obs, info = env.reset(seed=0)
print("first frame, mean", obs.mean())
for _ in range(20):
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
snapshot = env.unwrapped.snapshot()
env.unwrapped.restore(snapshot)
futures = env.unwrapped.fork(8)
env.unwrapped.save("walk.safetensors")
print("20 steps, memory knew", float(info["memory_coverage"]))
"""
ASYNC = """
import gymnasium as gym, worldsim
if __name__ == "__main__":
    envs = gym.make_vec("worldsim/FreedoomDream-v0", num_envs=2, vectorization_mode="async")
    envs.reset(seed=0)
    print(envs.step(envs.action_space.sample())[0].shape)
    envs.close()
"""


@dataclass(frozen=True)
class FirstHourConfig:
    """Run the README's commands as a new user would."""

    minutes: float = 4.0
    """Of training."""
    frames: int = 8000
    """To record."""
    json: Path | None = None
    """Write what was measured to this file, anew after each command."""


def commands(config: FirstHourConfig) -> dict[str, list[str]]:
    """The command lines by name, in order."""
    sim = [sys.executable, "-m", "worldsim"]
    return {
        "worldsim worlds": [*sim, "worlds"],
        "worldsim demo": [*sim, "demo", "--out", "demo"],
        "README's Python": [sys.executable, "-c", README],
        "async vector environment": [sys.executable, "-c", ASYNC],
        "worldsim compare": [*sim, "compare", "freedoom-tiny", "--out", "compare.mp4"],
        "worldsim export": [*sim, "export", "walk.safetensors", "--to", "glb"],
        "worldsim record": [
            *sim,
            "record",
            "worldsim/FreedoomReal-v0",
            "--out",
            "data/walks",
            "--frames",
            str(config.frames),
            "--reset-options",
            "split",
            "train",
        ],
        f"worldsim train --minutes {config.minutes:g}": [
            *sim,
            "train",
            "--data",
            "data/walks",
            "--out",
            "runs/first",
            "--preset",
            "tiny",
            "--minutes",
            str(config.minutes),
            "--mirror-actions",
            "0",
            "1",
            "2",
            "4",
            "3",
            "6",
            "5",
        ],
        "worldsim evaluate runs/first (a mistake)": [*sim, "evaluate", "runs/first"],
        "worldsim compare runs/first/world": [
            *sim,
            "compare",
            "runs/first/world",
            "--steps",
            "24",
            "--out",
            "mine.mp4",
        ],
    }


def timed(command: list[str], folder: Path) -> dict[str, Any]:
    """Run one command in ``folder``; what was measured. Its output is looked at as it comes, as a
    user does."""
    began = last = time.monotonic()
    first, silence, output = None, 0.0, b""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while time.monotonic() - began < LONGEST_S:
            if not selector.select(1.0):
                continue
            part = os.read(process.stdout.fileno(), 65536)
            now = time.monotonic()
            silence, last = max(silence, now - last), now
            if not part:
                break
            first, output = now - began if first is None else first, output + part
        else:
            process.kill()
    status = process.wait()
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return {
        "seconds": round(time.monotonic() - began, 1),
        "first_output_s": None if first is None else round(first, 1),
        "longest_silence_s": round(silence, 1),
        "lines": len(lines),
        "status": status,
        "ends_with": [line.replace(str(folder), ".")[:200] for line in lines[-5:]],
    }


def main(config: FirstHourConfig) -> None:
    """Run all of them; print a table."""
    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "commands": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(config).items():
            found["load"] = os.getloadavg()[0]
            found["commands"][name] = timed(command, Path(folder)) | {
                "load": round(os.getloadavg()[0], 1)
            }
            print(f"{name}: {json.dumps(found['commands'][name], indent=1)}", flush=True)
            if config.json is not None:
                config.json.write_text(json.dumps(found, indent=1) + "\n")
    print(
        f"\n{'command':<42}{'seconds':>9}{'first output':>14}{'longest silence':>17}{'status':>8}"
    )
    for name, one in found["commands"].items():
        print(
            f"{name:<42}{one['seconds']:>9}{one['first_output_s'] or '-':>14}"
            f"{one['longest_silence_s']:>17}{one['status']:>8}"
        )


if __name__ == "__main__":
    import tyro

    main(tyro.cli(FirstHourConfig, description=__doc__))
