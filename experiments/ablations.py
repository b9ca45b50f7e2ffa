"""What parts of the design are worth: one training each without them, at equal minutes or steps.

    worldsim record worldsim/FreedoomReal-v0 --out data --frames 200000 --episode-steps 160 \\
        --reset-options split train
    python experiments/ablations.py --data data --out out/ablations --minutes 3
    python experiments/ablations.py --data data --out out/ablations --minutes None --steps 700

All arms start from random weights, with the same seed, data and settings:

- ``base``: the preset ``tiny`` as it is.
- ``no-temporal``: temporal attention stays switched off (VDM asks what it adds).
- ``random-start``: temporal layers start at random instead of as the identity (Make-A-Video).
- ``clean-context``: context frames are not noised (Stable Video Diffusion, LVDM).
- ``pose-vector``: no camera rays; the motion enters as a vector of six numbers (CameraCtrl).
- ``rays-only``: rays alone.
- ``no-memory``: the network never sees the memory.

Each world is measured by ``worldsim evaluate --protocol dreams``, with 95% intervals over walks,
and by its **pose obedience**: for each of the first dreamed frames, the view of the real twin that
it agrees with best is searched around the camera that was asked for. The turn and the distance to
that view say how far the dream is from what it was told. Views of the twin are its true frames,
warped by their true depth. An arm that ``ablations.json`` in the folder holds is not run again.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

import worldsim.envs  # noqa: F401
from worldsim.camera import move
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.evaluation.benchmark_set import TestSet, TestSetConfig, record_test_set, stack
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.measure import start_walks, warp
from worldsim.evaluation.metrics import psnr
from worldsim.evaluation.statistics import interval, mean_statistic
from worldsim.runtime.files import is_file
from worldsim.runtime.json_config import read_json, write_json
from worldsim.runtime.types import JsonObject
from worldsim.state import Frame
from worldsim.training.config import TrainConfig
from worldsim.training.factory import Modules
from worldsim.training.loss import LossConfig
from worldsim.training.train import Trainer, run
from worldsim.world import World
from worldsim.world.twin import twin_of

ARMS = (
    "base",
    "no-temporal",
    "random-start",
    "clean-context",
    "pose-vector",
    "rays-only",
    "no-memory",
)
YAWS = tuple(range(-10, 11))
"""Degrees of the views that are compared with a dreamed frame."""
METRES = tuple(0.25 * i for i in range(-6, 7))
"""Distances along the optical axis of these views."""
STEPS = 16
"""Dreamed frames whose pose is searched."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    data: Path
    """Recording of train maps."""
    out: Path
    """Folder of everything."""
    arms: tuple[str, ...] = ARMS
    """Which arms, in this order."""
    minutes: float | None = 3.0
    """Minutes of each training, without reading and its start."""
    steps: int = 20_000
    """Training steps, without ``minutes``."""
    batch_size: int | None = None
    """Windows per step."""
    walks: int = 32
    """Test walks; the distances need as many others."""
    history: int = 64
    """True frames before each dream."""
    horizon: int = 96
    """Dreamed frames."""
    workers: int = 1
    """Recording processes."""
    bootstrap: int = 2000
    """Resamples for the intervals."""
    seed: int = 0
    """Of the trainings and the test walks."""


def switch_off(*layers: nn.Module) -> None:
    """Set all weights to zero for good."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)


def change(network: SpaceTimeTransformer, arm: str) -> None:
    """Change a new network as an arm asks for."""
    for block in network.blocks:
        if arm == "no-temporal":
            switch_off(block.temporal.out)
        elif arm == "random-start":
            nn.init.xavier_uniform_(block.temporal.out.weight)
    if arm == "pose-vector":
        switch_off(network.rays)
    elif arm == "rays-only":
        switch_off(network.motion)


class AblationTrainer(Trainer):
    """A training whose network lacks something."""

    arm = "base"

    def _modules(self) -> Modules:
        network, ego, outcome = super()._modules()
        change(network, self.arm)
        return network, ego, outcome


def train(config: Config, arm: str) -> World:
    """Train an arm, or load what was trained."""
    c, out = config, config.out / arm
    if is_file(out / "trained"):
        return World.from_pretrained(out / "world")
    clean = arm == "clean-context"
    settings = TrainConfig(
        (c.data,), out, minutes=c.minutes, steps=c.steps, batch_size=c.batch_size, seed=c.seed,
        mirror_actions=(0, 1, 2, 4, 3, 6, 5), memory_drop=1.0 if arm == "no-memory" else 0.15,
        loss=LossConfig(context_sigma=0.0, context_any=0.0) if clean else LossConfig(), scenes=0,
    )  # fmt: skip

    class Arm(AblationTrainer):
        pass

    Arm.arm = arm
    if clean:
        Arm.dynamics = dataclasses.replace(Trainer.dynamics, context_sigma=0.0)
    world = run(Arm(settings))
    (out / "trained").touch()
    return world


@torch.no_grad()
def pose_errors(world: World, test: TestSet) -> tuple[Tensor, Tensor]:
    """Return how far the best matching true views are from the cameras asked for.

    Returns degrees and metres, (e, steps) each, on the CPU.
    """
    state = start_walks(world, test)
    history = test.config.history
    for t in range(1, history):
        state = world.observe(state, test.act[:, t - 1], test.frame(t))
    turns, distances = [], []
    for t in range(history, history + min(STEPS, test.config.horizon)):
        pose = test.pose[:, t]
        state, transition = world.step(state, test.act[:, t - 1], pose=pose)
        agreement = partial(_agreement, test, test.frame(t), transition.frame)
        zero = torch.zeros(len(pose), device=pose.device)
        best, other = zero, zero
        # One after the other, twice: the best turn depends on the distance.
        for _ in range(2):
            best = _best([agreement(zero + yaw, other) for yaw in _ordered(YAWS)], YAWS)
            other = _best([agreement(best, zero + metres) for metres in _ordered(METRES)], METRES)
        turns.append(best.abs().cpu())
        distances.append(other.abs().cpu())
    return torch.stack(turns, 1), torch.stack(distances, 1)


def _agreement(test: TestSet, truth: Frame, made: Frame, yaw: Tensor, metres: Tensor) -> Tensor:
    """Return the PSNR (e,) of dreamed frames with the twin's views, turned and moved.

    yaw, metres: (e,) degrees, and metres along the optical axis.
    """
    assert truth.pose is not None and truth.inverse_depth is not None
    motion = truth.pose.new_zeros(len(yaw), 6)
    motion[:, 4], motion[:, 2] = yaw * math.pi / 180.0, metres
    there = test.camera(move(truth.pose, motion))
    return psnr(warp(truth.rgb, truth.inverse_depth, test.camera(truth.pose), there), made.rgb)


def _ordered(values: tuple[float, ...]) -> list[float]:
    return sorted(values, key=abs)


def _best(found: list[Tensor], values: tuple[float, ...]) -> Tensor:
    """Return for each walk the value of greatest agreement, the smallest one of several.

    found: (e,) for each of the values, the smallest one first.
    """
    each = torch.tensor(_ordered(values), device=found[0].device)
    return each[torch.stack(found).argmax(0)]


def obedience(config: Config, world: World) -> JsonObject:
    """Return the mean errors of the pose with their intervals over walks."""
    settings = TestSetConfig(*twin_of(world), config.seed, config.history, config.horizon)
    cache = config.out / "walks"
    test = stack(
        record_test_set(settings, range(config.walks), config.workers, cache), settings
    ).part(0, config.walks, world.device)
    found: JsonObject = {}
    for name, errors in zip(("turn_deg", "metres"), pose_errors(world, test), strict=True):
        each = list(errors.double().numpy())
        found[name] = [
            round(float(np.mean(each)), 3),
            *(interval(mean_statistic(each), len(each), config.bootstrap) or (None, None)),
        ]
    return found


def measure(config: Config, arm: str, world: World) -> JsonObject:
    """Return all figures of an arm."""
    if arm == "no-memory":
        world = world.without_memory()
    found = evaluate(
        EvaluateConfig(
            arm, protocol="dreams", episodes=config.walks, history=config.history,
            horizon=config.horizon, workers=config.workers, cache=config.out / "walks",
            seed=config.seed, bootstrap=config.bootstrap,
        ),
        world,
    )  # fmt: skip
    return {"dreams": found, "pose": obedience(config, world)}


def row(arm: str, found: JsonObject) -> str:
    """Return a line of the table."""
    dreams, pose = found["dreams"], found["pose"]

    def cell(key: str) -> str:
        group, _, part = key.partition(".")
        value = dreams.get(group)
        if isinstance(value, dict):
            value = value.get(part)  # FD needs more walks than a toy run has.
        ci = dreams["ci95"].get(key)
        between = "" if ci is None else f" [{ci[0]:.2f}, {ci[1]:.2f}]"
        return "-" if value is None else f"{value:.2f}{between}"

    keys = ("next_frame_psnr", "psnr.1-12", "psnr.37-48", "sharpness.37-48", "fd.25-48")
    cells = [arm, *map(cell, keys)]
    for name in ("turn_deg", "metres"):
        value, low, high = pose[name]
        cells.append(f"{value:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]"))
    return "| " + " | ".join(cells) + " |"


def main(config: Config) -> None:
    """Train and measure the arms; write figures and a table."""
    config.out.mkdir(parents=True, exist_ok=True)
    file = config.out / "ablations.json"
    told: JsonObject = read_json(file) if is_file(file) else {}
    for arm in config.arms:
        if arm in told:
            continue
        world = train(config, arm)
        told[arm] = measure(config, arm, world)
        told[arm]["training"] = world.card["training"]
        write_json(file, told)
        print(json.dumps(told[arm]["pose"]), flush=True)
    print("| arm | next frame, dB | frames 1-12 | 37-48 | sharpness 37-48 | FD | turn | metres |")
    for arm, found in told.items():
        print(row(arm, found))


if __name__ == "__main__":
    main(tyro.cli(Config))
