"""The state of a training run, and its steps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.remote import open_dataset
from worldsim.data.starts import write_starts
from worldsim.diffusion.dynamics import DynamicsConfig
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, WorldsimError
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.protocols import Painter
from worldsim.runtime.files import is_file, replacing, storage_errors
from worldsim.runtime.json_config import read_json, to_json, write_json
from worldsim.runtime.old_names import with_new_names
from worldsim.runtime.progress import say
from worldsim.runtime.remote import Place
from worldsim.runtime.types import JsonObject
from worldsim.training import carry
from worldsim.training.buffer import FrameBuffer, Windows, augment, bytes_per_frame
from worldsim.training.checkpoint import (
    pack,
    read_checkpoint,
    read_settings,
    unpack,
    write_checkpoint,
)
from worldsim.training.config import (
    BATCH_SIZES,
    HEAD_INPUTS,
    PRECISIONS,
    PRESETS,
    HeadInput,
    TrainConfig,
)
from worldsim.training.corruption import OwnFrames
from worldsim.training.edits import edit_windows
from worldsim.training.factory import Modules, hardware, load_copy, modules_for, world_config
from worldsim.training.loss import TrainingLoss
from worldsim.training.outcomes import Transitions, TransitionSampler, set_prior
from worldsim.training.painted import PaintedViews
from worldsim.training.recordings import (
    all_seen,
    frames_to_hold,
    list_folders,
    recordings_in,
    require_alike,
    require_split,
    warn_of,
)
from worldsim.training.samples import sample_grid
from worldsim.training.sharding import part_of, prepare_sharding, whole
from worldsim.training.tally import Tally
from worldsim.world import World
from worldsim.world.engine import PLAIN, EngineConfig, compile_in_place
from worldsim.world.frame_outcome import FrameOutcomeHead
from worldsim.world.heads import EgoMotionHead, Motions, OutcomeHead, usual_size, vary

PICTURES = 2048
"""Frames whose brightness and contrast a head sees pictures relative to."""
SEEN = ("train_maps", "frames", "recordings")
"""What a world's card tells of recordings, which stay where a run was."""
DEEP = 6
"""Networks of more blocks are compiled by parts."""


class Trainer:
    """The state of a training run; :func:`run` drives it.

    config: the settings.
    painter: paints ahead of the walks, where ``config.painted`` asks for that.

    A subclass trains another loss: see :mod:`worldsim.training.distil`.
    """

    may_change = frozenset(
        {
            "steps",
            "minutes",
            "save_every",
            "sample_every",
            "data",
            "out",
            "compile",
            "checkpointing",
            "decay",
            "carry_megabytes",
            "carry_warmup",
        }
    )
    """Settings that may be others when a run goes on."""
    may_change_carried = frozenset({"buffer_frames", "refresh_every", "patience", "scenes"})
    """Further ones that may be others when it goes on from what was carried over."""
    _settings_class: type = TrainConfig
    dynamics = DynamicsConfig()
    """How the world that is trained is sampled."""
    result = "world"
    """Folder of what is trained, beside the checkpoint."""

    def __init__(self, config: TrainConfig, painter: Painter | None = None) -> None:
        if config.preset not in PRESETS:
            raise InvalidInputError(
                f"unknown preset {config.preset!r}: choose one of {', '.join(PRESETS)}"
            )
        self.config = config
        self.datasets: list[EpisodeDataset] = []
        self.warned: set[Place] = set()
        self._find_recordings()
        self.dataset = self.datasets[0]
        self._settle()
        config = self.config
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision, cpu=not torch.cuda.is_available()
        )
        self.device = self.accelerator.device
        self.sharded = prepare_sharding(self.accelerator)
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        set_seed(config.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        info = self.dataset.info
        if config.memory and not info.geometry:
            raise MissingGeometryError(
                f"{list_folders(config.data)} has no poses and depth, which the memory needs: pass "
                f"--no-memory"
            )
        self.memory = (
            PointMemory(PointMemoryConfig(capacity=config.memory_capacity))
            if config.memory
            else None
        )
        self.earlier: JsonObject = {}
        network, ego, outcome = self._modules()
        if network.config.window * 3 > config.window:
            least = 3 * network.config.window
            raise InvalidInputError(
                f"window {config.window} is too short: at least {least}, three attention windows"
            )
        self.network, self.ego, self.outcome = network, ego, outcome
        on_gpu = self.device.type == "cuda"
        network.to(self.device)
        if config.checkpointing:
            network.enable_gradient_checkpointing(
                partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
            )
        # Frozen weights of a fixed number of walks: real bfloat16 and compiled code of their own.
        engine = EngineConfig("bfloat16", compile="default") if self._compiles else PLAIN
        self.own = OwnFrames(network, engine, self.dynamics) if config.perturb.own > 0 else None
        self.buffer = FrameBuffer(
            self._buffer_frames(), config.window, self.memory, self.device, config.perturb,
            episodes_at_once=256 if on_gpu else 8, graphs=self._compiles,
            painted=self._painted(painter),
        )  # fmt: skip
        self.transitions = (
            TransitionSampler(self.buffer, outcome.to(self.device), config.outcome)
            if isinstance(outcome, FrameOutcomeHead)
            else None
        )
        loss_module = self._loss_module(network, ego, outcome)
        self.learns_motion = loss_module.ego_motion is not None
        optimizer = torch.optim.AdamW(
            self._parameter_groups(loss_module),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
            fused=on_gpu,
        )
        self.loss_module, self.optimizer = self.accelerator.prepare(loss_module, optimizer)
        self.ema = EMAModel(
            self._parameters(),
            decay=config.ema,
            use_ema_warmup=False,
            foreach=on_gpu and not self.sharded,
        )
        self.ema.to(self.device)
        self.step, self.elapsed = 0, 0.0
        self.carried: list[int] = []
        """Steps at which the run was carried over to another machine."""
        self.taken: set[str] = set()
        self.history: list[dict[str, float]] = []
        self.has_rewards = False
        self.tally = Tally()
        self.units_measured = False
        self.maps: set[str] = set()
        self.frames = 0

    def _settle(self) -> None:
        """Set precision and batch size.

        They are the requested ones, else the checkpoint's, else defaults for the device.
        """
        config, kind = self.config, "cuda" if torch.cuda.is_available() else "cpu"
        told = read_settings(config.out)
        precision, size = told.get("mixed_precision"), told.get("batch_size")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            size = BATCH_SIZES[kind]
        self.batch_size: int = config.batch_size or size
        self._use(
            mixed_precision=config.mixed_precision
            or (precision if precision in ("bf16", "no") else PRECISIONS[kind]),
            batch_size=self.batch_size,
        )

    def _use(self, **used: Any) -> None:
        """Write down the settings in use, for the checkpoint and the world's card."""
        self.config = dataclasses.replace(self.config, **used)

    def _painted(self, painter: Painter | None) -> PaintedViews | None:
        """Return what paints ahead of the walks; None if nothing does.

        Raises InvalidInputError without a painter, and MissingGeometryError without the memory.
        """
        config = self.config.painted
        if not config.share:
            return None
        if painter is None:
            raise InvalidInputError(
                f"--painted.share {config.share} needs a painter: use the commands worldsim train "
                f"and worldsim distil, or pass train(config, painter)"
            )
        return PaintedViews(painter, self.memory, config)

    def _loss_module(
        self,
        network: SpaceTimeTransformer,
        ego: EgoMotionHead | None,
        outcome: OutcomeHead | FrameOutcomeHead,
    ) -> TrainingLoss:
        """Return the loss, its network compiled if requested."""
        if self._compiles:
            # What is sharded is gathered block by block, which compiled code must not reach across.
            # Blocks of a deep network share their code: that is compiled once for all of them,
            # where a network in one piece would take minutes.
            parts: Iterable[torch.nn.Module] = (network,)
            if self.sharded:
                parts = network.blocks
            elif len(network.blocks) > DEEP:
                parts = (*network.blocks, *network.encoder, *network.decoder)
            for one in parts:
                compile_in_place(one, self.device)
        return TrainingLoss(network, ego, outcome, self.config.loss, self.config.outcome)

    def _parameter_groups(self, loss: TrainingLoss) -> list[dict[str, Any]]:
        """Return the optimiser's groups: ``params``, and ``peak``, their highest learning rate.

        Each group's gradient is clipped apart: heads with weights of their own take nothing from
        the network, nor it from them.
        """
        config = self.config
        apart = ("ego_motion.", "outcome.") if self.transitions else ("ego_motion.",)
        rest = [p for name, p in loss.named_parameters() if not name.startswith(apart)]
        groups: list[dict[str, Any]] = [{"params": rest, "peak": config.learning_rate}]
        if self.transitions is not None:
            outcome = list(self.outcome.parameters())
            groups.append({"params": outcome, "peak": config.outcome.learning_rate})
        if loss.ego_motion is not None:
            motion = list(loss.ego_motion.parameters())
            groups.append({"params": motion, "peak": config.motion_learning_rate})
        return groups

    @property
    def _compiles(self) -> bool:
        return self.device.type == "cuda" and self.config.compile

    def _settings(self) -> JsonObject:
        """Return the settings that the checkpoint stores and the world's card states."""
        settings: JsonObject = to_json(self.config)
        return settings

    def _buffer_frames(self) -> int:
        if self.config.buffer_frames is not None:
            return self.config.buffer_frames
        if self.device.type != "cuda":
            return 1_000_000
        free, _ = torch.cuda.mem_get_info(self.device)
        height, width = self.dataset.info.observation_space["shape"][:2]
        own = self.config.perturb.own > 0
        frame = bytes_per_frame(
            height, width, self.dataset.info.geometry, self.memory is not None, own
        )
        return frames_to_hold(self.datasets, free // 2 // frame)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.accelerator.unwrap_model(self.loss_module).parameters()]

    def _modules(self) -> Modules:
        """Return the modules to train.

        Raises InvalidInputError if recording and settings do not agree.
        """
        info, start = self.dataset.info, self.config.init_from
        world = None if start is None else World.from_pretrained(start, device="cpu")
        if world is not None:
            self.earlier = world.card
        asked, told = self.config.head_input, read_settings(self.config.out)
        if asked is None and world is None and told:
            # Checkpoints of before the setting have heads on features.
            found = told.get("head_input")
            asked = HeadInput(found) if found in list(HeadInput) else HeadInput.FEATURES
            self._use(head_input=asked)
        usual = HEAD_INPUTS.get(self.config.preset, HeadInput.FEATURES)
        may_read_frames = HeadInput.FRAMES in (asked, usual) and asked is not HeadInput.FEATURES
        synthetic = may_read_frames and self._synthetic_terminals()
        if asked is None and world is None:
            # Synthetic frames are hidden from it, and features remember longer.
            self._use(head_input=HeadInput.FEATURES if synthetic else usual)
        return modules_for(info, self.config, world, synthetic)

    def _synthetic_terminals(self) -> bool:
        """Return whether terminal frames are synthetic, by the first shard of each recording.

        Waits for the first shard of recordings in progress.
        """
        deadline, tally = time.monotonic() + self.config.patience, Tally()
        while not any(len(one) for one in self.datasets) and time.monotonic() < deadline:
            time.sleep(0.2)
            for dataset in self.datasets:
                dataset.refresh()
        for dataset in self.datasets:
            if dataset.readable:
                tally.add(dataset.load_shard(dataset.readable[0])[0])
        return tally.hides_endings

    # Data.

    def _find_recordings(self) -> None:
        """Add recordings that are new."""
        known = {dataset.place for dataset in self.datasets}
        places = [
            one
            for place in self.config.data
            for one in recordings_in(place) or [place]
            if one not in known
        ]
        self.datasets += [open_dataset(place) for place in places]
        require_alike(self.datasets)

    def take_in(self) -> None:
        """Load new shards; each process takes every ``world_size``-th shard by number.

        All processes read the info of all shards, so that whichever writes the world's card knows
        all maps, rewards and terminations.
        """
        self._find_recordings()
        for dataset in self.datasets:
            dataset.refresh()
            for index, shard in enumerate(dataset.shards):
                file = dataset.where(shard)
                if file in self.taken:
                    continue
                arrays, episodes = dataset.load_shard(index)
                require_split(episodes, self.config.train_split, self.config.data)
                if int("".join(filter(str.isdigit, shard.file))) % self.world_size == self.rank:
                    self.buffer.add(arrays)
                self.maps.update(str(e["map"]) for e in episodes if e.get("map"))
                self.has_rewards |= bool(np.any(arrays["rew"]))
                self.tally.add(arrays)
                self.frames += shard.frames
                self.taken.add(file)
            if (
                len(dataset)
                and dataset.place not in self.warned
                and self.accelerator.is_main_process
            ):
                self.warned.add(dataset.place)
                warn_of(dataset)
        seed = self.config.seed * 1_000_003 + len(self.taken) * self.world_size + self.rank
        self._measure_outcomes()
        painted = self.buffer.painted
        before = 0 if painted is None else painted.count
        # Later ones come in the middle of the training, whose own progress is shown.
        self.buffer.remember(
            seed, self._dreamer(), shown=self.step == 0 and self.accelerator.is_main_process
        )
        if painted is not None and painted.count > before and self.accelerator.is_main_process:
            say(
                f"{painted.count - before:,} views painted ahead of new walks, painted points on "
                f"{painted.shown_share():.0%} of the pixels of painted walks so far"
            )

    def _dreamer(self) -> OwnFrames | None:
        """Return the averaged network that generates frames for the memory, once it has learned."""
        if self.own is None or (self.step == 0 and self.config.init_from is None):
            return None
        self.own.follow(part_of(self.averages(), "network."))
        return self.own

    def wait_for_data(self) -> None:
        """Wait until every process has a window to train on.

        Raises an error if nothing new is recorded for a while.
        """
        deadline = time.monotonic() + self.config.patience
        while True:
            self.take_in()
            ready = torch.tensor(float(len(self.buffer) > 0), device=self.device)
            if bool(self.accelerator.reduce(ready, "sum") == self.world_size):
                break
            if time.monotonic() > deadline:
                raise InvalidInputError(
                    f"{list_folders(self.config.data)} has no window of {self.config.window} "
                    f"frames for "
                    f"each of {self.world_size} "
                    "processes: record more"
                )
            time.sleep(1.0)
        if self.step == 0 and self.config.init_from is None and self.learns_motion:
            self._measure_motion()

    def _measure_outcomes(self) -> None:
        """Measure rewards and terminations of all shards, for the heads' units.

        The first process's values apply to all. Where units change, as new shards may change them,
        the head's predictions stay.
        """
        head, tally = self.outcome, self.tally
        range_ = (tally.low, tally.high) if tally.count[0] else (0.0, 0.0)
        told = torch.tensor([*range_, float(tally.count.sum()), *tally.units()])
        low, high, count, *units = broadcast(told.to(self.device)).tolist()
        if not count:
            return
        trained = self.units_measured or self.step > 0 or self.config.init_from is not None
        self.units_measured = True
        if isinstance(head, FrameOutcomeHead):
            assert self.transitions is not None
            if tally.hides_endings and head.config.sees_new and tally.endings >= 8:
                raise InvalidInputError(
                    f"{list_folders(self.config.data)}: the frames at the ends of episodes are not "
                    f"real, and the first shard did not show it: start again in a new --out, or "
                    f"pass --head-input features"
                )
            head.set_end_units((units[1], units[3]), self._last_layers() if trained else ())
            head.set_range(low, high, trained)
            if len(self.buffer):
                self.transitions.refresh()
            if not trained and head.config.standardised:
                if len(self.buffer):
                    head.set_levels(self.buffer.some_frames(PICTURES))
                head.levels.copy_(broadcast(head.levels))
            if not trained:
                set_prior(head, broadcast(self.transitions.counts))
        elif head.config.on_end:
            head.set_units(units, self._last_layers() if trained else ())

    def _last_layers(self) -> list[tuple[Tensor, Tensor]]:
        """Return weight and bias of the outcome head's last layer, and their averages."""
        if self.sharded:
            return []
        names = [n for n, _ in self.accelerator.unwrap_model(self.loss_module).named_parameters()]
        bias = max(i for i, name in enumerate(names) if name.startswith("outcome."))
        held = self._parameters()
        return [(x[bias - 1], x[bias]) for x in (held, self.ema.shadow_params)]

    def _measure_motion(self) -> None:
        """Measure the scale of motions, for the ego-motion head.

        The first process's values apply to all.
        """
        assert self.ego is not None
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        target = self.buffer.sample_motions(4096, generator).target
        self.ego.scale.copy_(broadcast(usual_size(target)))

    # Steps.

    def train_step(self) -> dict[str, Tensor]:
        """Run one optimiser step.

        All randomness depends on seed, process and step, so a resumed run is the same run.
        """
        c = self.config
        generator = torch.Generator(self.device).manual_seed(
            (c.seed * 1009 + self.rank) * 1_000_003 + self.step
        )
        windows, motions = self.draw(generator)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate()
        transitions = self.draw_transitions(generator)
        with self.accelerator.autocast():
            losses = self.loss_module(
                windows, motions, self.buffer.intrinsics, generator, self.progress, transitions
            )
        self._update(losses)
        self.step += 1
        losses["windows"] = windows
        return losses

    def _update(self, losses: dict[str, Tensor]) -> None:
        """Change the weights and their averages by the gradient of ``loss``."""
        self.accelerator.backward(losses["loss"])
        norms = [
            self.accelerator.clip_grad_norm_(group["params"], 1.0)
            for group in self.optimizer.param_groups
        ]
        losses["gradient_norm"] = whole(norms[0])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self._parameters())

    def draw(self, generator: torch.Generator) -> tuple[Windows, Motions | None]:
        """Sample the windows of a step, augmented and edited, and the ego-motion moments."""
        c = self.config
        windows = self.buffer.sample(self.batch_size, generator, c.memory_drop)
        windows = augment(windows, generator, c.mirror_actions, c.colour)
        if c.edits > 0:
            assert self.buffer.intrinsics is not None
            windows = edit_windows(windows, self.buffer.intrinsics, generator, c.edits)
        motions = None
        if self.learns_motion:
            motions = vary(
                self.buffer.sample_motions(self.batch_size * c.motions, generator),
                generator,
                c.mirror_actions,
            )
        return windows, motions

    def draw_transitions(self, generator: torch.Generator) -> Transitions | None:
        """Draw recorded transitions for a head that reads frames; None for other heads."""
        c = self.config
        if self.transitions is None:
            return None
        drawn = self.transitions.sample(c.outcome.transitions * self.batch_size, generator)
        windows = augment(drawn.windows, generator, c.mirror_actions, c.colour)
        return dataclasses.replace(drawn, windows=windows)

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup)
        if self.carried:
            warm = min(warm, (self.step + 1 - self.carried[-1]) / self.config.carry_warmup)
        return warm * min(1.0, (1.0 - self.progress) / max(self.config.decay, 1e-9))

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, in [0, 1]."""
        if self.config.minutes is not None:
            return min(1.0, self.elapsed / (60.0 * self.config.minutes))
        return min(1.0, self.step / self.config.steps)

    # Results.

    def averages(self) -> dict[str, Tensor]:
        """Return the averaged weights and buffers of the trained modules by name, gathered.

        Names start with ``network.``, ``outcome.`` or ``ego_motion.``. Where weights are sharded,
        all processes must call it.
        """
        model = self.accelerator.unwrap_model(self.loss_module)
        names = [name for name, _ in model.named_parameters()]
        averaged = {
            name: whole(value.detach())
            for name, value in zip(names, self.ema.shadow_params, strict=True)
        }
        return averaged | {
            name: value for name, value in model.state_dict().items() if name not in averaged
        }

    def world(self, measured: JsonObject | None = None) -> World:
        """Return the world with the averaged weights, as a copy on the CPU.

        Where weights are sharded, all processes must call it.
        """
        weights = self.averages()
        network = load_copy(self.network, part_of(weights, "network."))
        outcome = load_copy(self.outcome, part_of(weights, "outcome."))
        ego = (
            None
            if self.ego is None
            else load_copy(self.ego, part_of(weights, "ego_motion.") or self.ego.state_dict())
        )
        info = self.dataset.info
        config = world_config(info, self.config, self.dynamics, self.has_rewards, self.tally)
        recordings, frames = all_seen(self.earlier, self.datasets, self.frames)
        card = {
            "trained_on": info.env_id,
            "train_maps": sorted(self.maps.union(self.earlier.get("train_maps", ()))),
            "frames": frames,
            "recordings": recordings,
            "training": {
                "steps": self.step, "minutes": round(self.elapsed / 60, 2),
                "windows_a_step": self.batch_size * self.world_size,
                "hardware": hardware(self.device, self.world_size), "config": self._settings(),
            },
            **(measured or {}),
        }  # fmt: skip
        return World(network, config, ego, outcome, card)

    def save(self) -> None:
        """Write a checkpoint, atomically, and the current world.

        The first process writes; all must call it. Raises StorageError if the disk is full or
        read-only; the last checkpoint then stays.
        """
        main = self.accelerator.is_main_process
        if not main and not self.sharded:
            return
        model = self.accelerator.unwrap_model(self.loss_module)
        tensors, world = pack(model, self.ema, self.optimizer) | self._more_state(), self.world()
        size = self.config.carry_megabytes
        carried = None if size is None else carry.pack(model, self.ema)
        if not main:
            return
        out = self.config.out
        meta = {
            "step": self.step,
            "elapsed": self.elapsed,
            "ema_step": self.ema.optimization_step,
            "world_size": self.world_size,
            "config": self._settings(),
            "history": self.history,
            "carried": self.carried,
        }
        # A copy to look at; what is resumed has its own.
        with storage_errors(out / "history.json"):
            write_json(out / "history.json", self.history)
        write_checkpoint(out, tensors, meta)
        if size is not None and carried is not None:
            seen = {name: world.card[name] for name in SEEN}
            carry.write_carry(out, carried, {**meta, "seen": seen}, size)
        self._write_world(world)

    def _write_world(self, world: World) -> None:
        """Write the current world beside the checkpoint."""
        out = self.config.out / "world"
        with storage_errors(out):
            world.save_pretrained(out)
        if self.config.scenes and not (out / "scenes").exists():
            write_starts(self.datasets, self.config.scenes, out / "scenes")

    def resume(self) -> bool:
        """Continue from the checkpoint in the output folder, or from what was carried there.

        Returns False if there is neither.
        """
        out, model = self.config.out, self.accelerator.unwrap_model(self.loss_module)
        found = read_checkpoint(out)
        stored = found or self._read_carried()
        if stored is None:
            return False
        folder, meta, tensors = stored
        try:
            self._check_resumable(meta, frozenset() if found else self.may_change_carried)
            if found:
                unpack(tensors, model, self.ema, self.optimizer)
                self._load_more_state(tensors)
            else:
                carry.unpack(tensors, model, self.ema)
                self.earlier = {**self.earlier, **meta["seen"]}
            self.ema.optimization_step = meta["ema_step"]
            self.step, self.elapsed = meta["step"], meta["elapsed"]
            self.carried = [*meta.get("carried", ()), *([] if found else [self.step])]
            # Checkpoints of version 1 had it in a file of its own.
            history = meta["history"] if "history" in meta else _told(out / "history.json")
            self.history = [h for h in history if h["step"] <= self.step]
        except torch.cuda.OutOfMemoryError:
            raise
        except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, WorldsimError):
                raise
            raise DamagedFileError(
                f"{folder} is damaged or was made from another kind of recording ({error}): "
                f"delete it to start afresh, "
                "or use another --out"
            ) from error
        return True

    def _read_carried(self) -> tuple[Path, JsonObject, dict[str, Tensor]] | None:
        """Return what was carried to the output folder; None if nothing was."""
        return carry.read_carry(self.config.out)

    def _more_state(self) -> dict[str, Tensor]:
        """Return further tensors of the checkpoint, by name, on the CPU."""
        return {}

    def _load_more_state(self, tensors: dict[str, Tensor]) -> None:
        """Load what :meth:`_more_state` returned from all tensors of a checkpoint."""

    def _check_resumable(self, meta: JsonObject, others: frozenset[str] = frozenset()) -> None:
        """Raise InvalidInputError if settings changed that may not, apart from ``others``."""
        now, then = self._settings(), with_new_names(self._settings_class, meta["config"])
        if "last_frames" in now and not self.config.memory:
            # Networks of before the setting looked at none.
            then.setdefault("last_frames", 0)
        changed = [
            k
            for k, v in then.items()
            if k not in self.may_change | others and not _agree(v, now.get(k))
        ]
        if changed:
            raise InvalidInputError(
                f"the checkpoint in {self.config.out} was made with other values of "
                f"{', '.join(changed)}: "
                "use them again or another --out"
            )

    def sample_picture(self, losses: Mapping[str, Any]) -> None:
        """Write a PNG of a few windows: true frames, memory views, predictions.

        Predictions are at the targets' noise levels.
        """
        with replacing(self.config.out / "samples" / f"step-{self.step:06d}.png") as temporary:
            Image.fromarray(sample_grid(losses["windows"], losses["prediction"])).save(temporary)


def _told(path: Path) -> list[dict[str, float]]:
    return read_json(path) if is_file(path) else []


def _agree(then: object, now: object) -> bool:
    """Return whether settings are unchanged.

    Settings that are new since count as unchanged if they have no effect.
    """
    if isinstance(then, dict) and isinstance(now, dict):
        return all(_agree(value, now.get(name)) for name, value in then.items())
    return bool(then == now)
