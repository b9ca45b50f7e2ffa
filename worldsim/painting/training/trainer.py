"""What the painter's trainings share: legs, their settings, the optimiser and the checkpoint.

A run consists of legs, each of which resumes the previous one. A leg runs on one device, or on
several with torchrun.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.painting.checkpoint import Saved, has_painter, load_painter, save_painter
from worldsim.painting.network import PainterBatch, PainterNetwork
from worldsim.painting.sampling import PaintConfig
from worldsim.painting.training.batches import VIEW_COUNTS, VIEW_SHARES, BatchConfig, BatchMaker
from worldsim.painting.training.store import FolderReader
from worldsim.protocols import PainterSpec
from worldsim.runtime.files import is_file
from worldsim.runtime.json_config import check_ranges, to_json
from worldsim.runtime.ranges import Count, Positive, Rate, Seed, Share
from worldsim.runtime.types import JsonObject

STATE = "state"
"""Name of the checkpoint's folder."""
STOP = "stop"
"""Name of the file that ends a leg."""
AGREE_EVERY = 10
"""Steps between two readings of the clock, which all processes share."""
COMPILED_SHAPES = 64
"""Most versions of a compiled part: numbers of views, with and without gradients."""


@dataclass(frozen=True, kw_only=True)
class LegConfig:
    """Settings of a leg of any training of the painter."""

    data: Path
    """Folder of look-arounds. Shards that appear during training are used too."""
    out: Path
    """Folder of the checkpoint ``state`` and of ``log.jsonl``. A run in it is resumed."""
    steps: Count = 100_000
    """Optimiser steps in total, earlier legs included."""
    seconds: Positive = 1e9
    """Time limit of this leg in seconds, compilation included."""
    views: Count = 240
    """Views per step and process, a multiple of 24."""
    view_shares: tuple[Share, ...] = VIEW_SHARES
    """Probability of 1, 2, 3, 4, 6 and 8 views per set, one number for each step."""
    learning_rate: Rate = 4e-4
    """Learning rate after the warm-up."""
    warmup: Count = 400
    """Steps of the linear warm-up from 0."""
    warmup_again: Count = 100
    """Warm-up steps of a resumed leg, in which the optimiser's moments are rebuilt."""
    decay: Share = 0.0
    """Share of this leg, at its end, over which the learning rate falls linearly to 0."""
    weight_decay: Share = 0.01
    """Weight decay of AdamW."""
    average: Share = 0.9995
    """Decay of the exponential moving average."""
    max_grad_norm: Positive = 1.0
    """Largest gradient norm."""
    capacity: Count = 150_000
    """Sets that each process keeps on its device. A set takes 0.29 MB at 64x64 and 14 views."""
    save_every_s: Positive = 120.0
    """Seconds between checkpoints. A file ``stop`` in ``out`` writes a checkpoint and ends the
    leg."""
    log_every: Count = 50
    """Steps between log lines."""
    compile: bool = False
    """Whether the network's parts are compiled."""
    seed: Seed = 0
    """Seed of weights and batches."""
    batch: BatchConfig = field(default_factory=BatchConfig)
    """Settings of the batches."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.views % 24:
            raise InvalidInputError(
                f"{type(self).__name__}.views = {self.views}: give a multiple of 24, so that it "
                f"is divisible by all of {VIEW_COUNTS}."
            )
        total = math.fsum(self.view_shares)
        if len(self.view_shares) != len(VIEW_COUNTS) or not math.isclose(total, 1, abs_tol=1e-6):
            raise InvalidInputError(
                f"{type(self).__name__}.view_shares = {self.view_shares}: give "
                f"{len(VIEW_COUNTS)} numbers that add up to 1, one for each of {VIEW_COUNTS} views."
            )


@dataclass(frozen=True)
class Place:
    """The rank and device of this process, and the number of processes."""

    rank: int
    count: int
    device: torch.device


@contextlib.contextmanager
def processes() -> Iterator[Place]:
    """Context that joins torchrun's process group if there are several processes."""
    rank, count = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    if count > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Place(rank, count, device)
    finally:
        if count > 1:
            dist.destroy_process_group()


def resumed(config: LegConfig) -> Saved | None:
    """Return the checkpoint of the run in ``config.out``, or None."""
    folder = config.out / STATE
    return load_painter(folder) if has_painter(folder) else None


class PainterTrainer(ABC):
    """The network, average weights and optimiser of a run, and their checkpoint.

    network: the network to train, with the weights to start from.
    saved: checkpoint whose average and step are continued, or None.
    names: attributes of the recording.

    Raises InvalidInputError if the network has other attributes than the recording.
    """

    def __init__(
        self,
        config: LegConfig,
        network: PainterNetwork,
        saved: Saved | None,
        names: tuple[str, ...],
        place: Place,
    ) -> None:
        self.config, self.place = config, place
        known = tuple(network.config.attributes)
        if known != names:
            raise InvalidInputError(
                f"the painter has the attributes {known}, the recording {names}: record with the "
                "same version, or start a new run."
            )
        self.network = network.to(place.device).train()
        self.step = self.begun_at = int(saved.card["step"]) if saved else 0
        self.average = EMAModel(
            self.network.parameters(),
            decay=config.average,
            use_ema_warmup=True,
            power=0.75,
            foreach=place.device.type == "cuda",
        )
        self.average.optimization_step = self.step
        if saved:
            self._restore_average(saved.average)
        fused = place.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            config.learning_rate,
            (0.9, 0.98),
            weight_decay=config.weight_decay,
            fused=fused,
        )
        if config.compile:
            limit = torch._dynamo.config.recompile_limit
            torch._dynamo.config.recompile_limit = max(limit, COMPILED_SHAPES)
            self.network.compile_parts()
        self.model: nn.Module = self.network
        if place.count > 1:
            self.model = nn.parallel.DistributedDataParallel(self.network)

    def _restore_average(self, average: dict[str, Tensor]) -> None:
        for (name, _), shadow in zip(
            self.network.named_parameters(), self.average.shadow_params, strict=True
        ):
            shadow.copy_(average[name])

    @abstractmethod
    def loss(self, maker: BatchMaker, views: int) -> Tensor:
        """Return the loss of a batch of sets of ``views`` views, a scalar with gradients."""

    def card(self) -> JsonObject:
        """Return further entries of the checkpoint's card."""
        return {}

    def report(self) -> JsonObject:
        """Return further entries of a log line, about the steps since the last one."""
        return {}

    @abstractmethod
    def spec(self) -> PainterSpec:
        """Return what the painter paints."""

    def sampling(self) -> PaintConfig | None:
        """Return the sampling settings that the checkpoint recommends."""
        return None

    def predict(self, batch: PainterBatch) -> Tensor:
        """Run the model in mixed precision on a GPU."""
        device = self.place.device
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            predicted: Tensor = self.model(batch)
        return predicted

    def rate(self, done: float) -> float:
        """Return the learning rate at the current step.

        done: share of the leg that is completed, in [0, 1].
        """
        config, here = self.config, self.step - self.begun_at
        warmup = config.warmup_again if self.begun_at else config.warmup
        left = min(1.0, (1.0 - done) / config.decay) if config.decay else 1.0
        return config.learning_rate * min(1.0, (here + 1) / warmup) * max(left, 0.0)

    def learn(self, maker: BatchMaker, views: int, done: float) -> Tensor:
        """Run one optimiser step on sets of ``views`` views; returns the loss.

        done: share of the leg that is completed, in [0, 1].
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(done)
        loss = self.loss(maker, views)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.average.step(self.network.parameters())
        self.step += 1
        return loss.detach()

    def save(self, told: JsonObject) -> None:
        """Write the checkpoint. Only the first process writes.

        told: further entries of the card.
        """
        if self.place.rank:
            return
        names = [name for name, _ in self.network.named_parameters()]
        average = dict(zip(names, self.average.shadow_params, strict=True))
        weights = dict(self.network.named_parameters())
        card = {
            "step": self.step,
            "seed": self.config.seed,
            "training": to_json(self.config),
            **self.card(),
            **told,
        }
        save_painter(
            self.config.out / STATE,
            self.network.settings,
            average,
            weights,
            card,
            spec=self.spec(),
            sampling=self.sampling(),
        )


def run_leg(
    config: LegConfig, build: Callable[[FolderReader, Place], PainterTrainer]
) -> JsonObject:
    """Train one leg and save it; returns its last log line.

    build: makes the trainer, from the reader of the recording and this process's place.
    """
    begun = time.monotonic()
    (config.out / STOP).unlink(missing_ok=True)
    with processes() as place:
        reader = FolderReader(config.data, config.capacity, place.device, place.rank, place.count)
        try:
            trainer = build(reader, place)
            generator = torch.Generator(place.device)
            # Every leg and every process draws different batches.
            generator.manual_seed(config.seed * 1_000_003 + trainer.step * 101 + place.rank)
            maker = BatchMaker(reader.store, config.batch, generator)
            return _run(config, trainer, maker, reader, begun)
        finally:
            reader.close()


def _run(
    config: LegConfig,
    trainer: PainterTrainer,
    maker: BatchMaker,
    reader: FolderReader,
    begun: float,
) -> JsonObject:
    # Equal in all processes, so that they use the same number of views in each step.
    counts = np.random.default_rng([config.seed, trainer.step])
    losses: list[Tensor] = []
    line: JsonObject = {}
    saved, logged = time.monotonic(), time.monotonic()
    left = config.steps - trainer.step
    done = 0.0
    while trainer.step < config.steps:
        if trainer.step % AGREE_EVERY == 0:
            done = max(
                (time.monotonic() - begun) / config.seconds,
                1 - (config.steps - trainer.step) / max(left, 1),
            )
            done = _agree(1.0 if is_file(config.out / STOP) else done, trainer.place)
            if done >= 1.0:
                break
        views = int(counts.choice(VIEW_COUNTS, p=config.view_shares))
        losses.append(trainer.learn(maker, views, done))
        if trainer.step % config.log_every == 0:
            loss = float(torch.stack(losses).mean())
            now = time.monotonic()
            speed = len(losses) / (now - logged)
            sets = reader.store.added * trainer.place.count
            line = {
                "step": trainer.step,
                "loss": round(loss, 5),
                "steps_per_s": round(speed, 2),
                "sets": sets,
                "seconds": round(now - begun, 1),
                **trainer.report(),
            }
            if not np.isfinite(loss):
                raise InvalidInputError(
                    f"the loss is {loss} at step {trainer.step}: lower learning_rate and resume."
                )
            losses, logged = [], now
            _log(config.out, line, trainer.place)
            if now - saved > config.save_every_s:
                trainer.save({"last": line})
                saved = time.monotonic()
    trainer.save({"last": line})
    return line


def _agree(done: float, place: Place) -> float:
    """Return the first process's share of the leg, so that all use the same learning rate."""
    if place.count == 1:
        return done
    first = torch.tensor([done], dtype=torch.float64, device=place.device)
    dist.broadcast(first, 0)
    return float(first)


def _log(out: Path, line: JsonObject, place: Place) -> None:
    if place.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        with open(out / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
