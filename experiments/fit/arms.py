"""Arms of ``worldsim fit``: settings that make a dream of CartPole worth balancing in.

    python experiments/fit/arms.py --arm own --out runs/own --minutes 15 --json own.json

runs ``worldsim fit`` with the arm's settings of training, then lets a script that balances and
random actions play in the dream and in the real twin. Results: docs/experiments/fit.md.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

import worldsim.app.fit.run as fit_run
from worldsim.evaluation.evaluate_agent import EvaluateAgentConfig, evaluate_agent
from worldsim.runtime.json_config import to_json, write_json
from worldsim.runtime.types import JsonObject
from worldsim.training.train import TrainConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

BALANCER = "experiments.fit.balancer:Balancer"


@dataclass(frozen=True)
class Arm:
    """What an arm changes in the training that ``worldsim fit`` plans."""

    loss: dict[str, Any] = field(default_factory=dict)
    """Fields of ``TrainConfig.loss``."""
    training: dict[str, Any] = field(default_factory=dict)
    """Fields of ``TrainConfig``."""


OLD = {"last_frame_sigma": 0.1, "own_context": 0.0, "motion": 0.0}
"""The loss of before."""
ARMS = {
    "now": Arm(),
    "before": Arm(OLD),
    "clear": Arm(OLD | {"last_frame_sigma": 0.02}),
    "own": Arm(OLD | {"own_context": 0.3, "own_context_from": 0.33}),
    "noisier": Arm({"last_frame_sigma": 0.05, "own_context": 0.5, "own_context_from": 0.2}),
    "small-batch": Arm(training={"batch_size": 4}),
}


@dataclass(frozen=True)
class ArmsConfig:
    """Options of the experiment."""

    out: Path
    """Folder of the run."""
    json: Path
    """File of the results."""
    arm: str = "now"
    """Settings of training: a key of ``ARMS``."""
    env_id: str = "CartPole-v1"
    """Environment."""
    minutes: float = 15.0
    """Minutes of ``worldsim fit``."""
    workers: int = 2
    """Processes that play the environment."""
    episodes: int = 32
    """Episodes of balancer and random actions in dream and real twin."""
    max_steps: int = 200
    """Longest episode."""
    seed: int = 0
    """Seed of the run."""


def main(config: ArmsConfig) -> None:
    """Run the arm, measure two policies, and write the results."""
    arm, planned = ARMS[config.arm], fit_run.train_config

    def changed(*given: Any, **named: Any) -> TrainConfig:
        plan = planned(*given, **named)
        return dataclasses.replace(
            plan, loss=dataclasses.replace(plan.loss, **arm.loss), **arm.training
        )

    fit_run.train_config = changed
    fitted = fit_run.fit(
        fit_run.FitConfig(
            config.env_id,
            config.out,
            minutes=config.minutes,
            workers=config.workers,
            seed=config.seed,
        )
    )
    results: JsonObject = {"arm": config.arm, "settings": to_json(arm), "fit": fitted}
    write_json(config.json, results)
    if config.env_id != "CartPole-v1":
        return
    for name in (BALANCER, "random"):
        results[name.rpartition(":")[2]] = evaluate_agent(
            EvaluateAgentConfig(
                name,
                world=str(config.out / "round-1" / "world"),
                episodes=config.episodes,
                max_steps=config.max_steps,
                seed=10_000,
                workers=config.workers,
                batch=config.episodes,
                trust=True,
            )
        )
        write_json(config.json, results)


if __name__ == "__main__":
    main(tyro.cli(ArmsConfig))
