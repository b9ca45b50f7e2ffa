"""Training a world from a recording: one or many GPUs through accelerate, exact resume, recording alongside if wanted."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from worldsim.diffusion.recordings import require_recording
from worldsim.diffusion.train_config import PRESETS, TrainConfig
from worldsim.diffusion.trainer import Trainer
from worldsim.errors import InvalidInputError, OutOfMemoryError
from worldsim.runtime.files import make_writable_folder, remove_unfinished, storage_errors
from worldsim.runtime.interrupts import Interrupts
from worldsim.world import World

__all__ = ["PRESETS", "TrainConfig", "Trainer", "require_recording", "run", "train"]


def train(config: TrainConfig) -> World:
    """Train (or continue) a world; returns it.

    Raises NotFoundError, InvalidInputError, MissingGeometryError, DamagedFileError, OutOfMemoryError, StorageError.
    """
    for folder in config.data:
        require_recording(folder)
    return run(Trainer(config))


def run(trainer: Trainer) -> World:
    """Train to the end, from the checkpoint if there is one; returns the world.

    The first Ctrl-C or SIGTERM ends the training after the present step, with a checkpoint; the second one at once.
    """
    config = trainer.config
    if trainer.accelerator.is_main_process:
        remove_unfinished(make_writable_folder(config.out))
    resumed = trainer.resume()
    try:
        trainer.wait_for_data()
        with Interrupts() as interrupts:
            _loop(trainer, resumed, interrupts)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"batch size {config.batch_size} with {trainer.buffer.capacity} buffered frames does not fit the GPU: "
            "lower --batch-size or --buffer-frames"
        ) from error
    trainer.save()
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        after = "interrupted after" if interrupts.came is not None else "trained"
        print(f"{after} {trainer.step} steps; saved in {config.out}: world/ to use, checkpoint/ to go on from", file=sys.stderr)
    interrupts.end()
    return trainer.world()


def _loop(trainer: Trainer, resumed: bool, interrupts: Interrupts) -> None:
    config, main = trainer.config, trainer.accelerator.is_main_process
    logs = config.out / "tensorboard"
    # A run that was killed logged steps beyond its checkpoint.
    with storage_errors(logs):
        writer = SummaryWriter(str(logs), purge_step=trainer.step + 1 if resumed else None) if main else None
    bar_format = "{desc} {percentage:5.1f}% {elapsed} {postfix}"
    with tqdm(total=100.0, desc="train", disable=not main, initial=100.0 * trainer.progress, bar_format=bar_format) as bar:
        _steps(trainer, interrupts, bar, writer)
    if writer is not None:
        with storage_errors(logs):
            writer.close()


def _steps(trainer: Trainer, interrupts: Interrupts, bar: Any, writer: SummaryWriter | None) -> None:
    config, main = trainer.config, trainer.accelerator.is_main_process
    before, logged, logged_step = time.monotonic(), time.monotonic(), trainer.step
    done = trainer.progress >= 1.0
    while not done:
        losses = trainer.train_step()
        now = time.monotonic()
        trainer.elapsed, before = trainer.elapsed + now - before, now
        if trainer.step % 25 == 0 and config.minutes is not None:
            # One clock for all processes, or they would stop at different steps.
            trainer.elapsed = float(broadcast(torch.tensor(trainer.elapsed, device=trainer.device)))
        done = trainer.progress >= 1.0 and (config.minutes is None or trainer.step % 25 == 0)
        if main and (trainer.step % 50 == 0 or done):
            values = {k: float(v.detach()) for k, v in losses.items() if k.endswith(("loss", "mse", "error", "score", "norm"))}
            if not np.isfinite(values["loss"]):
                raise InvalidInputError(f"the loss is {values['loss']} at step {trainer.step}: lower --learning-rate")
            values["steps_per_s"] = (trainer.step - logged_step) / max(time.monotonic() - logged, 1e-9)
            logged, logged_step = time.monotonic(), trainer.step
            trainer.history.append({"step": trainer.step, "elapsed": round(trainer.elapsed, 1), **values})
            with storage_errors(config.out / "tensorboard"):
                for name, value in values.items():
                    assert writer is not None
                    writer.add_scalar(name, value, trainer.step)
            bar.n = 100.0 * trainer.progress
            bar.set_postfix_str(json.dumps({"step": trainer.step, **{k: round(v, 4) for k, v in values.items()}}))
        if main and (trainer.step % config.sample_every == 0 or done):
            trainer.sample_picture(losses)
        if trainer.step % config.save_every == 0:
            trainer.save()
        if _interrupted(trainer, interrupts):
            break
        if trainer.step % config.refresh_every == 0:
            trainer.take_in()


def _interrupted(trainer: Trainer, interrupts: Interrupts) -> bool:
    """Whether to end here. Several processes agree on it, or they would stop at different steps."""
    if trainer.world_size == 1:
        return interrupts.came is not None
    if trainer.step % 25 != 0:
        return False
    came = torch.tensor(float(interrupts.came is not None), device=trainer.device)
    return bool(trainer.accelerator.reduce(came, "sum") > 0)
