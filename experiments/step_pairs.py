"""Does a change slow down a step? ``worldsim bench`` of two versions, in turns.

    python -m experiments.step_pairs --before ../before/.venv/bin/python \\
        --json experiments/step_pairs.json

Each pair runs both versions, in changing order, on the same device. The ratio is the steps per
second after over those before; its lower 95% bound comes from a bootstrap over pairs. Exit status 1
where that bound is below 0.97.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LEAST_RATIO = 0.97
"""Lower bound that a change may have."""


@dataclass(frozen=True)
class PairsConfig:
    """Compare the speed of a step in two versions."""

    before: Path
    """Python of an environment in which the code before the change is installed."""
    after: Path = Path(sys.executable)
    """Python of one with the code after it."""
    pairs: int = 9
    """Runs of each."""
    world: str = "freedoom-tiny"
    """Shipped world."""
    engine: str = "plain"
    """``plain``, ``fast`` or ``compiled``."""
    batches: tuple[int, ...] = (1,)
    """Environments stepped at once."""
    device: str = "cpu"
    """Where both run."""
    threads: int = 2
    """CPU threads."""
    json: Path | None = None
    """Write the figures to this file."""


def measure(config: PairsConfig, python: Path) -> list[float]:
    """Steps per second at each batch size, from a new process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.json"
        command = [
            *(python.absolute(), "-m", "worldsim", "bench", config.world, "--json", out),
            *("--batches", *config.batches, "--memory", "on", "--cold-starts", 0, "--quiet"),
            *("--engine", config.engine, "--device", config.device, "--threads", config.threads),
        ]
        # Not in a checkout, whose own modules would come first.
        words = [str(word) for word in command]
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return [float(one["steps_per_s"]) for one in json.loads(out.read_text())["results"]]


def lower_bound(ratios: list[float], draws: int = 10_000) -> float:
    """Lower end of the 95% interval of the mean logarithm, as a ratio."""
    logs = np.log(ratios)
    rng = np.random.default_rng(0)
    means = rng.choice(logs, (draws, len(logs))).mean(1)
    return float(np.exp(np.quantile(means, 0.025)))


def main() -> int:
    """Run the pairs."""
    import tyro

    config = tyro.cli(PairsConfig, description=__doc__)
    rates: dict[str, list[list[float]]] = {"before": [], "after": []}
    for pair in range(config.pairs):
        for name in ("before", "after")[:: 1 if pair % 2 else -1]:
            rates[name].append(measure(config, getattr(config, name)))
        print(pair + 1, rates["before"][-1], rates["after"][-1], file=sys.stderr, flush=True)
    found: dict[str, Any] = {
        "world": config.world,
        "engine": config.engine,
        "device": config.device,
        "threads": config.threads,
        "machine": platform.machine(),
        "batches": {},
    }
    for i, batch in enumerate(config.batches):
        before, after = ([one[i] for one in rates[name]] for name in ("before", "after"))
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        found["batches"][str(batch)] = {
            "before_steps_per_s": [round(x, 2) for x in before],
            "after_steps_per_s": [round(x, 2) for x in after],
            "ratio": round(float(np.exp(np.mean(np.log(ratios)))), 4),
            "ratio_lower_95": round(lower_bound(ratios), 4),
        }
    if config.json is not None:
        config.json.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["batches"], indent=1))
    return int(any(b["ratio_lower_95"] < LEAST_RATIO for b in found["batches"].values()))


if __name__ == "__main__":
    sys.exit(main())
