"""Trains a world from a recording: on one or many GPUs through accelerate, with exact resume.

The recording may still be in progress.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from worldsim.errors import InvalidInputError, OutOfMemoryError
from worldsim.protocols import Painter
from worldsim.runtime.compiling import COMPILING
from worldsim.runtime.files import make_writable_folder, remove_unfinished, storage_errors
from worldsim.runtime.interrupts import Interrupts
from worldsim.runtime.pace import WARM, Clock, Pace, forecast, smaller, steps_that_fit
from worldsim.runtime.progress import SHARE, Progress, say, span
from worldsim.training.config import PRESETS, TrainConfig
from worldsim.training.recordings import list_folders, require_recording
from worldsim.training.trainer import Trainer
from worldsim.world import World

LOG_STEPS = 50
"""Steps between two entries of the history."""
LOGGED = (
    "loss", "mse", "error", "score", "norm", "logit", "accuracy", "penalty", "ratio", "distance",
)  # fmt: skip
"""Ends of the names of the values in an entry."""
LOOK_S, LOOK_STEPS = 1.0, 25
"""Several processes look at the clock together about once a second, at least every so many
steps."""
FEW = 100
"""Steps below which a training with a time limit is told to take smaller ones."""

__all__ = ["PRESETS", "TrainConfig", "Trainer", "require_recording", "run", "train"]


def train(config: TrainConfig, painter: Painter | None = None) -> World:
    """Train a world, or resume; returns it.

    painter: paints ahead of the walks, see :class:`worldsim.training.painted.PaintedConfig`.

    Raises NotFoundError, InvalidInputError, MissingGeometryError, DamagedFileError,
    OutOfMemoryError, StorageError.
    """
    for folder in config.data:
        require_recording(folder)
    if not config.adapter:
        return run(Trainer(config, painter))
    # It imports peft, which other trainings do not need.
    from worldsim.training.adapter import AdapterTrainer

    return run(AdapterTrainer(config, painter))


def run(trainer: Trainer, clock: Clock = time.monotonic) -> World:
    """Train to the end, from the checkpoint if there is one; returns the world.

    The first Ctrl-C or SIGTERM ends the training after the current step, with a checkpoint; the
    second one ends it at once. The time limit is checked after every step.

    clock: returns the time in seconds.
    """
    config, main = trainer.config, trainer.accelerator.is_main_process
    if main:
        remove_unfinished(make_writable_folder(config.out))
    resumed = trainer.resume()
    try:
        pace = Pace(clock)
        if main:
            say(f"reading {list_folders(config.data)}")
        trainer.wait_for_data()
        if main:
            say(f"{trainer.frames:,} frames read in {span(pace.look())}")
        with Interrupts() as interrupts:
            interrupted = _loop(trainer, resumed, interrupts, clock)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"batch size {trainer.batch_size} with {trainer.buffer.capacity} buffered frames does "
            f"not fit the GPU: "
            "lower --batch-size or --buffer-frames"
        ) from error
    trainer.save()
    trainer.accelerator.wait_for_everyone()
    if main:
        after = "interrupted after" if interrupted else "trained"
        again = "; the same command goes on" if interrupted else ""
        say(
            f"{after} {trainer.step} steps; saved in {config.out}: {trainer.result}/ to use, "
            f"checkpoint/ to go on from{again}",
            always=True,
        )
    interrupts.end()
    return trainer.world()


def _loop(trainer: Trainer, resumed: bool, interrupts: Interrupts, clock: Clock) -> bool:
    """Run all steps; returns whether a signal ended them."""
    config, main = trainer.config, trainer.accelerator.is_main_process
    logs = config.out / "tensorboard"
    # A run that was killed logged steps beyond its checkpoint.
    with storage_errors(logs):
        writer = (
            SummaryWriter(str(logs), purge_step=trainer.step + 1 if resumed else None)
            if main
            else None
        )
    with Progress(
        100.0, "train", SHARE, initial=100.0 * trainer.progress, shown=main, clock=clock
    ) as bar:
        interrupted = _steps(trainer, _Watch(trainer, interrupts, clock), bar, writer, clock)
    if writer is not None:
        with storage_errors(logs):
            writer.close()
    return interrupted


def _steps(
    trainer: Trainer, watch: _Watch, bar: Progress, writer: SummaryWriter | None, clock: Clock
) -> bool:
    config, main = trainer.config, trainer.accelerator.is_main_process
    first, logged, logged_step = trainer.step, clock(), trainer.step
    timed, note = Pace(clock), ""
    done, interrupted = trainer.progress >= 1.0, False
    while not (done or interrupted):
        losses = trainer.train_step()
        COMPILING.done()
        since = trainer.step - first
        if main and since <= WARM:
            # Reading a number waits for the device.
            note = f"loss {float(losses['loss'].detach()):.3f}"
            seconds = timed.look()
            if since == 1:
                say(f"first step: {span(seconds)}, {note}")
        done, interrupted = watch.look()
        if main and since == WARM and not (done or interrupted):
            say(expect(trainer, seconds, first == 0))
        if main and (trainer.step % LOG_STEPS == 0 or done):
            values = {k: float(v.detach()) for k, v in losses.items() if k.endswith(LOGGED)}
            if not np.isfinite(values["loss"]):
                raise InvalidInputError(
                    f"the loss is {values['loss']} at step {trainer.step}: lower --learning-rate"
                )
            values["steps_per_s"] = (trainer.step - logged_step) / max(clock() - logged, 1e-9)
            logged, logged_step = clock(), trainer.step
            trainer.history.append(
                {"step": trainer.step, "elapsed": round(trainer.elapsed, 1), **values}
            )
            with storage_errors(config.out / "tensorboard"):
                for name, value in values.items():
                    assert writer is not None
                    writer.add_scalar(name, value, trainer.step)
            note = f"loss {values['loss']:.3f}"
        bar.move_to(100.0 * trainer.progress, f"step {trainer.step:,}, {watch.rate()}, {note}")
        if main and (trainer.step % config.sample_every == 0 or done):
            trainer.sample_picture(losses)
        if trainer.step % config.save_every == 0:
            trainer.save()
        if not interrupted and trainer.step % config.refresh_every == 0:
            trainer.take_in()
    return interrupted


def expect(trainer: Trainer, seconds: float, new: bool) -> str:
    """Print the forecast once a step has been timed: how many steps fit, and what to change.

    seconds: duration of a step.
    new: whether the run has just started, so that its settings can still change.
    """
    config, size = trainer.config, trainer.batch_size
    minutes_left = None if config.minutes is None else config.minutes - trainer.elapsed / 60.0
    # A run that has a time limit has no other.
    steps_left = float("inf") if config.minutes is not None else config.steps - trainer.step
    text = forecast(seconds, f"{size} windows", minutes_left, steps_left)
    if minutes_left is None or not new or (fits := steps_that_fit(seconds, minutes_left)) >= FEW:
        return text
    less = smaller(size, fits, FEW)
    advice = []
    if less < size:
        fits = fits * size // less
        advice.append(f"--batch-size {less} (about {fits:,} steps)")
    if fits < 2 * config.warmup:
        advice.append(f"--warmup {max(1, fits // 10)} instead of {config.warmup}")
    return (
        f"{text}. That is little: stop with Ctrl-C and try "
        f"{' and '.join([*advice, 'more --minutes'])}, with another --out"
    )


class _Watch:
    """The clock and the signals, checked after every step.

    Several processes must stop at the same step: they synchronise about once a second and follow
    the first one's clock.
    """

    def __init__(self, trainer: Trainer, interrupts: Interrupts, clock: Clock) -> None:
        self.trainer, self.interrupts = trainer, interrupts
        self._pace = Pace(clock)
        self._began, self._first = trainer.elapsed, trainer.step
        self._looked, self._next = trainer.step, trainer.step + 1

    def look(self) -> tuple[bool, bool]:
        """Return whether the training is done, and whether a signal ends it here."""
        trainer = self.trainer
        if trainer.world_size == 1:
            trainer.elapsed += self._pace.look()
            return trainer.progress >= 1.0, self.interrupts.came is not None
        if trainer.config.minutes is None and trainer.progress >= 1.0:
            return True, False
        if trainer.step < self._next:
            return False, False
        passed, steps = self._pace.look(), trainer.step - self._looked
        wait = min(LOOK_STEPS, max(1, int(LOOK_S * steps / max(passed, 1e-9))))
        mine = [passed, float(wait)] if trainer.accelerator.is_main_process else [0.0, 0.0]
        told = torch.tensor(
            [*mine, float(self.interrupts.came is not None)],
            dtype=torch.float64,
            device=trainer.device,
        )
        passed, wait_of_first, came = trainer.accelerator.reduce(told, "sum").tolist()
        trainer.elapsed += passed
        self._looked, self._next = trainer.step, trainer.step + round(wait_of_first)
        return trainer.progress >= 1.0, came > 0

    def rate(self) -> str:
        """Return the speed since the beginning of this run."""
        steps, seconds = self._looked_steps(), self.trainer.elapsed - self._began
        if not steps or seconds <= 0:
            return "-"
        return (
            f"{steps / seconds:.1f} steps/s"
            if steps > seconds
            else f"{span(seconds / steps)} a step"
        )

    def _looked_steps(self) -> int:
        return (self.trainer.step if self.trainer.world_size == 1 else self._looked) - self._first
