"""Sharded weights: a run of two processes gives the world that the same run gives with whole
weights, and misfits are refused."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from tests.helpers.launching import run
from tests.helpers.recordings import recording
from tests.helpers.training import train_config as config
from worldsim.errors import InvalidInputError
from worldsim.training.sharding import part_of, prepare_sharding, split_like, whole
from worldsim.training.train import TrainConfig, Trainer

PROGRAM = """
import sys
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from worldsim.app.cli import main
from worldsim.training import trainer

class Sharding(Accelerator):
    # accelerate itself shards on GPUs alone; torch does on CPUs as well.
    distributed_type = DistributedType.FSDP

    def __init__(self, **settings):
        super().__init__(**settings)
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2, auto_wrap_policy="transformer_based_wrap"
        )

    def prepare(self, *parts, **settings):
        prepared = super().prepare(*parts, **settings)
        kinds = sorted({type(p.data).__name__ for p in prepared[0].parameters()})
        print("prepared", *kinds)
        return prepared

if sys.argv.pop(1) == "sharded":
    trainer.Accelerator = Sharding
sys.exit(main(["train", *sys.argv[1:]]))
"""


def trained(how: str, settings: TrainConfig, program: Path) -> dict[str, torch.Tensor]:
    """``worldsim train`` on two processes with weights ``sharded`` or ``whole``; the checkpoint and
    the world's network."""
    arguments = [
        x
        for name in (
            "data",
            "out",
            "preset",
            "steps",
            "batch_size",
            "window",
            "warmup",
            "memory_capacity",
            "mixed_precision",
        )
        for x in (
            f"--{name.replace('_', '-')}",
            str(settings.data[0] if name == "data" else getattr(settings, name)),
        )
    ]
    printed = run(program, how, *arguments, ranks=2)
    assert printed.count("prepared DTensor") == (2 if how == "sharded" else 0)
    world = load_file(settings.out / "world" / "dynamics" / "diffusion_pytorch_model.safetensors")
    saved = load_file(settings.out / "checkpoint" / "state.safetensors")
    return saved | {f"world.{name}": value for name, value in world.items()}


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Mean difference of all numbers; none differs by more than a tenth of what a step changes at
    most.

    Where a gradient is nothing but rounding, Adam makes steps of it.
    """
    differences = torch.cat([(a[k].double() - b[k].double()).abs().flatten() for k in b])
    assert float(differences.max()) < 6e-5
    return float(differences.mean())


@pytest.mark.slow
def test_sharded_weights_are_the_same_weights(tmp_path: Path) -> None:
    """Four steps, whole and sharded: the same checkpoint and world but for rounding; two and two
    sharded ones, the same bits; and two sharded ones go on with whole weights."""
    data, program = recording(tmp_path / "rooms"), tmp_path / "program.py"
    program.write_text(PROGRAM)
    through = config(data, tmp_path / "whole", steps=4)
    expected = trained("whole", through, program)
    sharded = trained("sharded", dataclasses.replace(through, out=tmp_path / "sharded"), program)
    assert len(expected) > 800 and expected.keys() == sharded.keys()
    assert apart(sharded, expected) < 1e-6
    trained("sharded", dataclasses.replace(through, out=tmp_path / "sharded-on", steps=2), program)
    shutil.copytree(tmp_path / "sharded-on", tmp_path / "whole-on")
    for how in ("sharded", "whole"):
        halves = trained(how, dataclasses.replace(through, out=tmp_path / f"{how}-on"), program)
        assert halves.keys() == sharded.keys()
        if how == "sharded":
            assert [k for k in sharded if not torch.equal(sharded[k], halves[k])] == []
        assert apart(halves, expected) < 1e-6


def accelerator(kind: DistributedType, version: int = 2) -> Any:
    plugin = SimpleNamespace(
        fsdp_version=version, mixed_precision_policy="bf16", cpu_ram_efficient_loading=True
    )
    return SimpleNamespace(
        distributed_type=kind, num_processes=2, device=torch.device("cpu"), is_fsdp2=version == 2,
        state=SimpleNamespace(fsdp_plugin=plugin),
    )  # fmt: skip


def test_which_launches_shard() -> None:
    assert not prepare_sharding(accelerator(DistributedType.MULTI_GPU))
    sharding = accelerator(DistributedType.FSDP)
    assert prepare_sharding(sharding) and sharding.state.fsdp_plugin.mixed_precision_policy is None
    with pytest.raises(
        InvalidInputError, match="second version only: launch with --fsdp_version 2"
    ):
        prepare_sharding(accelerator(DistributedType.FSDP, version=1))
    with pytest.raises(
        InvalidInputError, match="DeepSpeed is not supported: .* --use_fsdp --fsdp_version 2"
    ):
        prepare_sharding(accelerator(DistributedType.DEEPSPEED))


def test_nothing_to_shard_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for on a CPU, accelerate would go on with whole weights and say nothing."""
    settings = config(recording(tmp_path / "rooms"), tmp_path / "out")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(
        InvalidInputError,
        match=r"FSDP was asked for, .* over 1 process\(es\) on cpu: use two GPUs or more",
    ):
        Trainer(settings)


def test_whole_tensors_stay_as_they_are() -> None:
    tensor = torch.arange(3.0)
    assert whole(tensor) is tensor and split_like(tensor, torch.zeros(3)) is tensor
    assert part_of({"a.b": tensor, "ab.b": tensor, "a.c.d": tensor}, "a.").keys() == {"b", "c.d"}
