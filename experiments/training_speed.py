"""How fast training is and what of a GPU it uses, on one or more of them:
``python training_speed.py --help``.

The real trainer on a real recording, for some seconds:
``torchrun --nproc_per_node N experiments/training_speed.py --data D``. ``--tables A.json B.json``
prints what runs of 1, 2 and 4 processes have written side by side.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro
from accelerate import PartialState
from accelerate.utils import broadcast, gather
from torch.nn.attention import SDPBackend, sdpa_kernel

from worldsim.data.dataset import EpisodeDataset
from worldsim.errors import InvalidInputError
from worldsim.evaluation import stopwatch
from worldsim.runtime.json_config import read_json, write_json
from worldsim.training.buffer import FrameBuffer
from worldsim.training.corruption import PerturbConfig
from worldsim.training.loss import LossConfig
from worldsim.training.sharding import part_of
from worldsim.training.train import TrainConfig, Trainer, require_recording

COUNTED = 2
"""Windows of the step whose operations are counted; a step's grow with its windows exactly."""
LEAST = 3
"""Steps that are timed at least."""


@dataclass(frozen=True)
class Config:
    """Settings of the measurement."""

    data: Path | None = None
    """The recording; a few shards for each process do, all of it is taken in."""
    presets: tuple[str, ...] = ("tiny",)
    """Sizes of networks, measured one after another."""
    seconds: float = 120.0
    """All of a preset's measurement ends within so many seconds, compilation and taking in the
    recording included."""
    batch_size: int = 32
    """Windows a step on each process."""
    window: int = 24
    """Frames a window."""
    warmup: int = 5
    """Steps before the timed ones; the first compiles."""
    steps: int = 200
    """Timed steps at most."""
    energy: float = 0.7
    """Weight of the energy score, as ``--loss.energy`` of training."""
    own: float = 0.0
    """More than 0: measure also how fast episodes are taken in of which the network dreams
    parts."""
    mirror_actions: tuple[int, ...] | None = None
    """As in training."""
    memory_capacity: int = 32768
    """As in training."""
    buffer_frames: int = 50_000
    """As in training."""
    checkpointing: bool = False
    """As in training."""
    compile: bool = True
    """As in training."""
    mixed_precision: str = "bf16"
    """As in training."""
    peak_tflops: float | None = None
    """What a device multiplies at best in bfloat16 by its data sheet, in TFLOP/s: 989 for an
    H100."""
    kernels: int = 0
    """Tell so many of the kernels that a step spends its time in, longest first."""
    quick: bool = False
    """Small ceilings, to try the script."""
    json: Path | None = None
    """Write the figures to this file, too."""
    tables: tuple[Path, ...] = ()
    """Print the figures of these files side by side; nothing is measured."""


def training(config: Config, preset: str, out: Path) -> TrainConfig:
    """What the trainer is told."""
    assert config.data is not None
    shared = {f.name for f in dataclasses.fields(TrainConfig)} & {
        f.name for f in dataclasses.fields(Config)
    }
    settings = {name: getattr(config, name) for name in shared - {"data", "steps", "warmup"}}
    memory = EpisodeDataset(config.data).info.geometry
    # So many steps that the learning rate stays as it is after its warm-up.
    return TrainConfig(
        config.data,
        out,
        preset=preset,
        steps=10**9,
        memory=memory,
        loss=LossConfig(energy=config.energy),
        perturb=PerturbConfig(own=config.own),
        **settings,
    )


def flop_per_window(trainer: Trainer) -> float:
    """Floating-point operations, forward and backward, of a step on this process for each of its
    windows, none of them twice."""
    small = dataclasses.replace(trainer.config, batch_size=COUNTED)
    model = trainer.accelerator.unwrap_model(trainer.loss_module)
    whole, trainer.config = trainer.config, small
    generator = torch.Generator(trainer.device).manual_seed(0)
    windows, motions = trainer.draw(generator)
    trainer.config = whole
    kept, trainer.network.gradient_checkpointing = trainer.network.gradient_checkpointing, False
    parameters = [p for p in model.parameters() if p.requires_grad]

    def work() -> None:
        with trainer.accelerator.autocast():
            losses = model(windows, motions, trainer.buffer.intrinsics, generator)
        # Not backward(): what processes exchange hangs on the parameters' own gradients.
        torch.autograd.grad(losses["loss"], parameters, allow_unused=True)

    # As matrix products: other kernels of attention compute some of them twice.
    with sdpa_kernel(SDPBackend.MATH):
        flop, _ = stopwatch.compute(work)
    trainer.network.gradient_checkpointing = kept
    return flop / COUNTED


class Clock:
    """Times that all processes agree on."""

    def __init__(self, trainer: Trainer, began: float, seconds: float) -> None:
        self.trainer, self.deadline = trainer, began + seconds

    def left(self) -> float:
        """Seconds to the deadline, by the first process's clock."""
        left = torch.tensor(
            self.deadline - time.monotonic(), dtype=torch.float64, device=self.trainer.device
        )
        return float(broadcast(left))

    def most(self, value: float) -> float:
        """The largest of all processes' values."""
        return float(
            gather(torch.tensor([value], dtype=torch.float64, device=self.trainer.device)).max()
        )

    def seconds(self, work: Callable[[], Any]) -> float:
        """How long all processes take for ``work`` that they begin together."""
        self.trainer.accelerator.wait_for_everyone()
        return self.most(stopwatch.seconds(work, self.trainer.device))


def steps(trainer: Trainer, count: int) -> None:
    """So many optimiser steps."""
    for _ in range(count):
        trainer.train_step()


def dreamed(config: Config, trainer: Trainer, clock: Clock) -> dict[str, Any]:
    """How fast this process's shards go through memory and dream: the second time, when everything
    is compiled, if time allows."""
    dataset, own = trainer.dataset, trainer.own
    shards = [
        s
        for s, shard in enumerate(dataset.shards)
        if str(dataset.path / shard.file) in trainer.taken
    ]
    assert own is not None
    mine = [
        trainer.dataset.load_shard(s)[0] for s in shards if s % trainer.world_size == trainer.rank
    ]
    frames = sum(len(arrays["rgb"]) for arrays in mine)
    buffer = FrameBuffer(
        max(frames, 1),
        config.window,
        trainer.memory,
        trainer.device,
        PerturbConfig(own=1.0),
        trainer.buffer.episodes_at_once,
        trainer.buffer.graphs,
    )
    own.follow(part_of(trainer.averages(), "network."))
    times = []
    for number in range(2):
        for arrays in mine:
            buffer.add(arrays)
        times.append(clock.seconds(partial(buffer.remember, number, own)))
        if clock.left() < 2.0 * times[0]:
            break
    return {"frames": frames, "seconds": times, "frames_per_s": frames / times[-1]}


def measure(config: Config, preset: str) -> dict[str, Any]:
    """One preset's figures, the same on all processes."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(training(config, preset, Path(folder)))
    clock, device, count = Clock(trainer, began, config.seconds), trainer.device, trainer.world_size
    peak = stopwatch.PeakMemory(device)
    trainer.wait_for_data()
    taken_in = clock.most(time.monotonic() - began)
    first = clock.seconds(partial(steps, trainer, 1))
    one, warm = 0.0, 0
    while warm < config.warmup and clock.left() > 0:
        one, warm = clock.seconds(partial(steps, trainer, 1)), warm + 1
    _require_time(config, preset, clock, taken_in, first, one)
    memory = peak.read()
    # What else there is to measure takes a few steps' time and some products of large matrices.
    dream = dreamed(config, trainer, clock) if trainer.own is not None else None
    flop = flop_per_window(trainer) * config.batch_size
    ceilings = stopwatch.ceilings(device, quick=config.quick)
    timed = min(config.steps, int(0.9 * clock.left() / one))
    _require_time(config, preset, clock, taken_in, first, one)
    sections = stopwatch.Sections(device)
    trainer.draw = sections.within("data", trainer.draw)  # type: ignore[method-assign]
    trainer.train_step = sections.within("step", trainer.train_step)  # type: ignore[method-assign]
    elapsed = clock.seconds(partial(steps, trainer, timed))
    parts = sections.total()
    memory = int(clock.most(max(memory, peak.read())))
    windows, rate = timed * config.batch_size * count / elapsed, flop * timed / elapsed
    bf16 = ceilings["bfloat16_flop_per_s"]
    result: dict[str, Any] = {
        "preset": preset,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "processes": count,
        "device": stopwatch.device_name(device),
        "torch": torch.__version__,
        "frame": list(trainer.dataset.info.observation_space["shape"][:2]),
        "batch_size": config.batch_size,
        "window": config.window,
        "compile": trainer._compiles,
        "checkpointing": config.checkpointing,
        "timed_steps": timed,
        "ms_per_step": 1e3 * elapsed / timed,
        "windows_per_s": windows,
        "frames_per_s": windows * config.window,
        "model_flop_per_step": flop * count,
        "model_flop_per_s_of_a_device": rate,
        "bfloat16_flop_per_s_of_a_device": bf16,
        "utilisation_of_measured": rate / bf16,
        "utilisation_of_nominal": None
        if config.peak_tflops is None
        else rate / (config.peak_tflops * 1e12),
        "peak_tflops": config.peak_tflops,
        "data_share": parts["data"] / parts["step"],
        "peak_memory_bytes": memory,
        "taking_in_s": taken_in,
        "first_step_s": first,
    }
    if dream is not None:
        result["dreamed"] = dream
    if config.kernels:
        # After everything that is timed: profiling takes time itself.
        result["kernels"] = stopwatch.longest(partial(steps, trainer, 1), device, config.kernels)
    return result


def _require_time(
    config: Config, preset: str, clock: Clock, taken_in: float, first: float, one: float
) -> None:
    if 0.9 * clock.left() < LEAST * one or one == 0.0:
        raise InvalidInputError(
            f"{preset}: {config.seconds:g} s are too few: {taken_in:.0f} s to take the recording "
            f"in, {first:.0f} s for the "
            f"first step, {one:.2f} s for each further one: give more --seconds, a smaller "
            f"recording or smaller batches"
        )


def table(paths: tuple[Path, ...]) -> str:
    """The figures of several files, a row a preset and number of processes; efficiency is against
    one process's windows/s."""
    rows = [row for path in paths for row in read_json(path)["results"]]
    alone = {row["preset"]: row["windows_per_s"] for row in rows if row["processes"] == 1}
    lines = [
        "| preset | processes | windows/s | frames/s | ms/step | FLOP/step | of measured | of "
        "nominal | data | GiB | scaling |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["preset"], row["processes"])):
        one, nominal = alone.get(row["preset"]), row["utilisation_of_nominal"]
        scaling = "" if one is None else f"{row['windows_per_s'] / (row['processes'] * one):.2f}"
        lines.append(
            f"| {row['preset']} | {row['processes']} | {row['windows_per_s']:.1f} | "
            f"{row['frames_per_s']:.0f} "
            f"| {row['ms_per_step']:.1f} | {row['model_flop_per_step']:.2e} | "
            f"{row['utilisation_of_measured']:.3f} "
            f"| {'' if nominal is None else f'{nominal:.3f}'} | {row['data_share']:.3f} "
            f"| {row['peak_memory_bytes'] / 2**30:.1f} | {scaling} |"
        )
    return "\n".join(lines)


def main(config: Config) -> None:
    """Measure every preset, or print the table; the first process prints and writes the figures as
    they come."""
    if config.tables:
        print(table(config.tables))
        return
    if config.data is None:
        raise InvalidInputError(
            "give --data RECORDING to measure, or --tables FILE FILE ... to compare"
        )
    require_recording(config.data)
    report: dict[str, Any] = {"taken": time.strftime("%Y-%m-%d"), "results": []}
    for preset in config.presets:
        result = measure(config, preset)
        report["results"].append(result)
        # What the last preset held.
        gc.collect()
        torch.cuda.empty_cache()
        if PartialState().is_main_process:
            print(json.dumps(result), flush=True)
            if config.json is not None:
                write_json(config.json, report)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(tyro.cli(Config))
