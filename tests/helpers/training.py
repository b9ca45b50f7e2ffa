"""Settings, networks and batches that tests of training share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.training.buffer import Windows
from worldsim.training.corruption import PerturbConfig
from worldsim.training.distil import DistilConfig
from worldsim.training.distil_loss import (
    DistilLossConfig,
)
from worldsim.training.train import PRESETS, TrainConfig, Trainer

CPU = torch.device("cpu")
CLEAN = PerturbConfig(sparse=0.0, blurred=0.0, depth_noise=0.0)
B, T, SIZE, WINDOW = 2, 12, 16, 4


def network(seed: int, **changes: object) -> SpaceTimeTransformer:
    """The debug sizes; random where layers start at zero, so that everything has an effect."""
    torch.manual_seed(seed)
    made = SpaceTimeTransformer(**({"height": SIZE, "width": SIZE} | PRESETS["debug"] | changes))  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in made.parameters():
            if not weight.any():
                weight.normal_(0.0, 0.05)
    return made


def windows(geometry: bool = True, action_dim: int = 0) -> Windows:
    generator = torch.Generator().manual_seed(0)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, (B, T, *shape), generator=generator)

    act = torch.randn(B, T, action_dim, generator=generator) if action_dim else integers(7)
    return Windows(
        rgb=integers(256, 3, SIZE, SIZE).to(torch.uint8),
        inverse_depth=integers(65536, SIZE, SIZE).to(torch.int32) if geometry else None,
        act=act,
        rew=torch.zeros(B, T),
        term=torch.zeros(B, T, dtype=torch.bool),
        motion=0.1 * torch.randn(B, T, 6, generator=generator)
        if geometry
        else torch.zeros(B, T, 6),
        view=torch.randn(B, T, 8, SIZE, SIZE, generator=generator) if geometry else None,
    )


def train_config(data: Path, out: Path, **changes: Any) -> TrainConfig:
    """A few steps of the debug network."""
    settings: dict[str, Any] = dict(
        preset="debug",
        steps=3,
        batch_size=2,
        window=12,
        warmup=2,
        memory_capacity=1024,
        world_memory_capacity=2048,
        mixed_precision="no",
        compile=False,
        patience=0.0,
    )
    return TrainConfig(data, out, **(settings | changes))


def started(settings: TrainConfig) -> Trainer:
    trainer = Trainer(settings)
    trainer.wait_for_data()
    return trainer


def distil_config(
    world: Path, data: Path, out: Path, losses: dict[str, Any] | None = None, **changes: Any
) -> DistilConfig:
    settings: dict[str, Any] = dict(
        training_steps=3,
        batch_size=2,
        window=12,
        warmup=2,
        memory_capacity=1024,
        mixed_precision="no",
        compile=False,
        patience=0.0,
        loss=DistilLossConfig(**({"teacher_steps": 3} | (losses or {}))),
    )
    return DistilConfig(str(world), data, out, **(settings | changes))


def state_of(trainer: Any) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint must bring back."""
    state = {f"model.{k}": v.clone() for k, v in trainer.loss_module.state_dict().items()}
    state |= {f"ema.{i}": v.clone() for i, v in enumerate(trainer.ema.shadow_params)}
    for i, values in trainer.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{i}.{k}": torch.as_tensor(v).clone() for k, v in values.items()}
    return state


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys() and len(a) > 10
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
