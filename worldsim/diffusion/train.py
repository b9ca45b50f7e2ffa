"""Training a world from a recording: one or many GPUs through accelerate, exact resume, recording alongside if wanted."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from diffusers.training_utils import EMAModel
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from worldsim.config import from_json, read_json, to_json, write_json
from worldsim.data.dataset import EpisodeDataset
from worldsim.data.starts import write_starts
from worldsim.diffusion.buffer import FrameBuffer, Windows, augment, bytes_per_frame
from worldsim.diffusion.dynamics import DynamicsConfig
from worldsim.diffusion.edits import edit_windows
from worldsim.diffusion.network import VIEW_CHANNELS, SpaceTimeTransformer
from worldsim.diffusion.objective import Objective, ObjectiveConfig
from worldsim.diffusion.perturb import OwnFrames, PerturbConfig
from worldsim.diffusion.sharding import part_of, parted, prepare_sharding, to_save, whole
from worldsim.diffusion.tally import Tally
from worldsim.engine import PLAIN, Compiled, EngineConfig
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError, OutOfMemoryError
from worldsim.heads import EgoMotionHead, Motions, OutcomeHead, vary
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.pixels import PixelsConfig
from worldsim.world import Termination, World, WorldConfig

DEEP = 6
"""Networks of more blocks are compiled by parts."""

PRESETS: dict[str, dict[str, Any]] = {
    "debug": {"dim": 32, "depth": 2, "heads": 2, "levels": (8, 8, 16), "window": 4},
    "tiny": {"dim": 256, "depth": 4, "heads": 4, "levels": (32, 48, 96), "window": 8},
    "small": {"dim": 256, "depth": 4, "heads": 4, "levels": (32, 48, 96), "window": 8},
    "task": {"dim": 128, "depth": 5, "heads": 4, "levels": (48, 64, 96), "window": 8},
    "large": {"dim": 1024, "depth": 12, "heads": 16, "levels": (128, 256, 512), "window": 8},
}
"""Network sizes by name; any frame size divisible by the patch (8) trains with each."""


@dataclass(frozen=True)
class TrainConfig:
    """Options of ``worldsim train``."""

    data: tuple[Path, ...]
    """Folders of recordings of one environment, such as the rounds of several policies. They may still be growing: new shards are
    picked up while training."""
    out: Path
    """Folder for checkpoints, logs, sample pictures and, in ``world/``, the trained world."""
    preset: str = "tiny"
    """Size of the network: tiny, small, large, task or debug."""
    steps: int = 20_000
    """Training steps in all."""
    minutes: float | None = None
    """Stop after this many minutes instead (of this run's wall time, learning-rate decay included)."""
    batch_size: int = 32
    """Windows a step on each process."""
    window: int = 24
    """Frames a window: at least three times the attention window, so that a cache at use equals training."""
    motions: int = 64
    """Moments a window that the ego-motion head learns from: it is small and sees no pictures, so many are cheap."""
    learning_rate: float = 6e-4
    """Peak learning rate of AdamW."""
    motion_learning_rate: float = 1e-3
    """The same for the ego-motion head."""
    warmup: int = 300
    """Steps of linear warm-up."""
    decay: float = 0.35
    """Last share of the training in which the learning rate falls linearly to zero."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    ema: float = 0.999
    """Decay of the exponential moving average that is saved as the world."""
    memory: bool = True
    """Train with the scene memory (needs poses and depth)."""
    memory_capacity: int = 32768
    """Points an environment while training views are rendered."""
    world_memory_capacity: int = 131_072
    """Points an environment in the trained world: walks in it are longer than episodes, and what is evicted is forgotten."""
    memory_drop: float = 0.15
    """Share of windows that see no memory."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Noise levels, dropouts and weights."""
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    """How the memory's sources are degraded."""
    mirror_actions: tuple[int, ...] | None = None
    """For mirror augmentation: each discrete action's mirror image, for Freedoom 0 1 2 4 3 6 5; None switches it off."""
    colour: float = 0.5
    """Share of windows whose colours are scaled and permuted."""
    edits: float = 0.0
    """Share of windows in which the memory shows a box that the past does not, or the past one that the memory does not: the world
    then believes edits of its memory. Needs the memory."""
    buffer_frames: int | None = None
    """At most so many frames are kept on each process's device (about 60 KB each at 64x64); the oldest shards make room. Not
    given: what half of a GPU's free memory holds, without a GPU a million. A run that shall resume exactly on another GPU
    needs a number."""
    refresh_every: int = 200
    """Steps between looks for new shards."""
    save_every: int = 1000
    """Steps between checkpoints."""
    sample_every: int = 2000
    """Steps between sample pictures."""
    init_from: str | None = None
    """World whose weights to start from; one of another frame size has its tokens' positions interpolated."""
    compile: bool = True
    """Where there is a GPU, compile the network, and take episodes in with a compiled copy in bfloat16 and CUDA graphs."""
    checkpointing: bool = False
    """Compute the transformer's blocks once more in the backward pass instead of keeping their activations: more arithmetic,
    a fraction of the memory, for large networks and batches."""
    mixed_precision: str = "bf16"
    """bf16 or no."""
    seed: int = 0
    """Seed of everything random."""
    patience: float = 5.0
    """Seconds to wait for the first windows where the recording is still going on."""
    scenes: int = 16
    """Start scenes that are written beside the world if it has none: first frames of recorded episodes. 0 for none."""
    train_split: str = "train"
    """Only shards whose episodes are all of this split are used, where the recording names splits."""

    def __post_init__(self) -> None:
        if isinstance(self.data, (str, Path)):
            object.__setattr__(self, "data", (Path(self.data),))
        if not self.data:
            raise InvalidInputError("TrainConfig.data is empty: name the folder of a recording")
        for name in ("steps", "batch_size", "motions", "warmup", "save_every", "sample_every", "refresh_every"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"TrainConfig.{name} = {getattr(self, name)!r}: it must be at least 1")
        if self.minutes is not None and self.minutes <= 0:
            raise InvalidInputError(f"TrainConfig.minutes = {self.minutes!r}: it must be more than 0")
        if not 0.0 <= self.edits <= 1.0 or (self.edits > 0 and not self.memory):
            raise InvalidInputError(f"TrainConfig.edits = {self.edits!r}: a share in [0, 1], 0 without the memory")
        if self.mixed_precision not in ("bf16", "no"):
            raise InvalidInputError(f"TrainConfig.mixed_precision = {self.mixed_precision!r}: choose bf16 or no")


class Trainer:
    """The state of one training run; :func:`run` drives it.

    Another objective is another subclass: see :mod:`worldsim.diffusion.distil`.
    """

    may_change = frozenset({"steps", "minutes", "save_every", "sample_every", "data", "out", "compile", "checkpointing"})
    """Settings that may be others when a run goes on."""
    dynamics = DynamicsConfig()
    """How the world that is trained is sampled."""

    def __init__(self, config: TrainConfig) -> None:
        if config.preset not in PRESETS:
            raise InvalidInputError(f"unknown preset {config.preset!r}: choose one of {', '.join(PRESETS)}")
        self.config = config
        self.datasets = [EpisodeDataset(folder) for folder in config.data]
        self.dataset = self.datasets[0]
        require_alike(self.datasets)
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=not torch.cuda.is_available())
        self.device = self.accelerator.device
        self.sharded = prepare_sharding(self.accelerator)
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        set_seed(config.seed)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        info = self.dataset.info
        if config.memory and not info.geometry:
            raise MissingGeometryError(f"{named(config.data)} has no poses and depth, which the memory needs: pass --no-memory")
        self.memory = PointMemory(PointMemoryConfig(capacity=config.memory_capacity)) if config.memory else None
        self.earlier_maps: set[str] = set()
        network, ego, outcome = self._modules()
        if network.config.window * 3 > config.window:
            least = 3 * network.config.window
            raise InvalidInputError(f"window {config.window} is too short: at least {least}, three attention windows")
        self.network, self.ego, self.outcome = network, ego, outcome
        on_gpu = self.device.type == "cuda"
        network.to(self.device)
        if config.checkpointing:
            network.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
        # Frozen weights of a fixed number of walks: real bfloat16 and compiled code of their own.
        engine = EngineConfig("bfloat16", compile="default") if self._compiles else PLAIN
        self.own = OwnFrames(network, engine, self.dynamics) if config.perturb.own > 0 else None
        self.buffer = FrameBuffer(
            self._buffer_frames(), config.window, self.memory, self.device, config.perturb,
            episodes_at_once=256 if on_gpu else 8, graphs=self._compiles,
        )  # fmt: skip
        objective = self._objective(network, ego, outcome)
        self.learns_motion = objective.ego_motion is not None
        rest = [p for name, p in objective.named_parameters() if not name.startswith("ego_motion.")]
        groups: list[dict[str, Any]] = [{"params": rest, "peak": config.learning_rate}]
        if objective.ego_motion is not None:
            groups.append({"params": list(objective.ego_motion.parameters()), "peak": config.motion_learning_rate})
        optimizer = torch.optim.AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=on_gpu
        )
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.ema = EMAModel(self._parameters(), decay=config.ema, use_ema_warmup=False, foreach=on_gpu and not self.sharded)
        self.ema.to(self.device)
        self.step, self.elapsed = 0, 0.0
        self.taken: set[str] = set()
        self.history: list[dict[str, float]] = []
        self.has_rewards = False
        self.tally = Tally()
        self.maps: set[str] = set()
        self.frames = 0

    def _objective(self, network: SpaceTimeTransformer, ego: EgoMotionHead | None, outcome: OutcomeHead) -> Objective:
        """What is minimised, its network compiled where that is wanted."""
        if self._compiles:
            # What is sharded is gathered block by block, which compiled code must not reach across. Blocks of a deep network share
            # their code: that is compiled once for all of them, where a network in one piece would take minutes.
            parts: Iterable[torch.nn.Module] = (network,)
            if self.sharded:
                parts = network.blocks
            elif len(network.blocks) > DEEP:
                parts = (*network.blocks, *network.encoder, *network.decoder)
            for one in parts:
                compile_in_place(one, self.device)
        return Objective(network, ego, outcome, self.config.objective)

    @property
    def _compiles(self) -> bool:
        return self.device.type == "cuda" and self.config.compile

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint remembers, and the world's card tells, of how it was made."""
        settings: dict[str, Any] = to_json(self.config)
        return settings

    def _buffer_frames(self) -> int:
        if self.config.buffer_frames is not None:
            return self.config.buffer_frames
        if self.device.type != "cuda":
            return 1_000_000
        free, _ = torch.cuda.mem_get_info(self.device)
        height, width = self.dataset.info.observation_space["shape"][:2]
        own = self.config.perturb.own > 0
        return free // 2 // bytes_per_frame(height, width, self.dataset.info.geometry, self.memory is not None, own)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.accelerator.unwrap_model(self.objective).parameters()]

    def _modules(self) -> tuple[SpaceTimeTransformer, EgoMotionHead | None, OutcomeHead]:
        info, c = self.dataset.info, self.config
        height, width = info.observation_space["shape"][:2]
        space = info.action_space
        actions = int(space["n"]) if space["type"] == "Discrete" else 0
        if not actions and np.ndim(space["low"]) != 1:
            shape = np.shape(space["low"])
            raise InvalidInputError(f"{named(c.data)}: actions of shape {shape} cannot be trained, record flat ones (n,)")
        if c.mirror_actions is not None and sorted(c.mirror_actions) != list(range(actions)):
            raise InvalidInputError(
                f"--mirror-actions {c.mirror_actions} must name each of the recording's {actions} discrete actions once"
            )
        action_dim = 0 if actions else len(space["low"])
        channels = 4 if info.geometry else 3
        if c.init_from is not None:
            world = World.from_pretrained(c.init_from, device="cpu")
            self.earlier_maps = set(world.card.get("train_maps", ()))
            n = world.network.config
            found, wanted = (n.actions, n.action_dim, n.channels), (actions, action_dim, channels)
            if found != wanted:
                raise InvalidInputError(
                    f"--init-from {c.init_from}: its (actions, action_dim, channels) are {found}, the recording's {wanted}"
                )
            if c.memory and not n.view_channels:
                raise InvalidInputError(f"--init-from {c.init_from}: its network sees no scene memory, pass --no-memory")
            network = world.network if (n.height, n.width) == (height, width) else world.network.resized(height, width)
            for module in (network, world.ego_motion, world.outcome):
                if module is not None:
                    module.requires_grad_(True).train()
            return network, world.ego_motion, world.outcome
        network = SpaceTimeTransformer(
            height=height, width=width, channels=channels, view_channels=VIEW_CHANNELS if c.memory else 0,
            actions=actions, action_dim=action_dim, **PRESETS[c.preset],
        )  # fmt: skip
        ego = EgoMotionHead(actions=actions, action_dim=action_dim) if info.geometry else None
        return network, ego, OutcomeHead(dim=network.config.dim, on_end=True)

    # Data.

    def take_in(self) -> None:
        """Load the shards that are new: every ``world_size``-th by number is this process's, however late each appears.

        All are looked at: whichever process writes the world's card knows of all maps, rewards and terminations.
        """
        for dataset in self.datasets:
            dataset.refresh()
            for index, shard in enumerate(dataset.shards):
                file = str(dataset.path / shard.file)
                if file in self.taken:
                    continue
                arrays, episodes = dataset.load_shard(index)
                self._require_split(episodes)
                if int("".join(filter(str.isdigit, shard.file))) % self.world_size == self.rank:
                    self.buffer.add(arrays)
                self.maps.update(str(e["map"]) for e in episodes if e.get("map"))
                self.has_rewards |= bool(np.any(arrays["rew"]))
                self.tally.add(arrays)
                self.frames += shard.frames
                self.taken.add(file)
        self.buffer.remember(self.config.seed * 1_000_003 + len(self.taken) * self.world_size + self.rank, self._dreamer())

    def _dreamer(self) -> OwnFrames | None:
        """Who dreams what the memory sees: the averaged network, once it has learned something."""
        if self.own is None or (self.step == 0 and self.config.init_from is None):
            return None
        self.own.follow(part_of(self.averages(), "network."))
        return self.own

    def _require_split(self, episodes: list[dict[str, Any]]) -> None:
        split = self.config.train_split
        wrong = {str(e["split"]) for e in episodes if e.get("split", split) != split}
        if wrong:
            raise InvalidInputError(
                f"{named(self.config.data)} holds episodes of the split {', '.join(wrong)}: training takes only {split!r}, "
                f"record it with --reset-options split {split}"
            )

    def wait_for_data(self) -> None:
        """Until every process has a window to train on; gives up when nothing new was recorded for a while."""
        deadline = time.monotonic() + self.config.patience
        while True:
            self.take_in()
            ready = torch.tensor(float(len(self.buffer) > 0), device=self.device)
            if bool(self.accelerator.reduce(ready, "sum") == self.world_size):
                break
            if time.monotonic() > deadline:
                raise InvalidInputError(
                    f"{named(self.config.data)} has no window of {self.config.window} frames for each of {self.world_size} "
                    "processes: record more"
                )
            time.sleep(1.0)
        if self.step == 0 and self.config.init_from is None:
            self._measure_outcomes()
            if self.learns_motion:
                self._measure_motion()

    def _measure_outcomes(self) -> None:
        """Units of the recording's rewards and its share of endings, for the heads; the first process's figures hold for all."""
        head = self.outcome
        if not head.config.on_end:
            return
        measured = broadcast(self.tally.units().to(self.device))
        head.offset.copy_(measured[:2])
        head.scale.copy_(measured[2:4])
        head.prior.copy_(measured[4])

    def _measure_motion(self) -> None:
        """Usual size of motions, for the ego-motion head's scale; the first process's figures hold for all."""
        assert self.ego is not None
        generator = torch.Generator(self.device).manual_seed(self.config.seed)
        target = self.buffer.sample_motions(4096, generator).target
        far = target[:, :3].norm(dim=1)
        # Without the few longest, teleports among them.
        size = target[far <= far.quantile(0.995)].std(0)
        # The horizontal axes are alike; what hardly moves must not be blown up.
        size = torch.cat([size[:2].mean().expand(2), size[2:]]).clamp(min=1e-2)
        self.ego.scale.copy_(broadcast(size))

    # Steps.

    def train_step(self) -> dict[str, Tensor]:
        """One optimiser step. All randomness is keyed by seed, process and step, so that a resumed run is the same run."""
        c = self.config
        generator = torch.Generator(self.device).manual_seed((c.seed * 1009 + self.rank) * 1_000_003 + self.step)
        windows, motions = self.draw(generator)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate()
        with self.accelerator.autocast():
            losses = self.objective(windows, motions, self.buffer.intrinsics, generator, self.progress)
        self.accelerator.backward(losses["loss"])
        norms = [self.accelerator.clip_grad_norm_(group["params"], 1.0) for group in self.optimizer.param_groups]
        losses["gradient_norm"] = whole(norms[0])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self._parameters())
        self.step += 1
        losses["windows"] = windows  # type: ignore[assignment]
        return losses

    def draw(self, generator: torch.Generator) -> tuple[Windows, Motions | None]:
        """A step's windows, augmented and edited, and the moments that the ego-motion head learns from, if there is one."""
        c = self.config
        windows = self.buffer.sample(c.batch_size, generator, c.memory_drop)
        windows = augment(windows, generator, c.mirror_actions, c.colour)
        if c.edits > 0:
            assert self.buffer.intrinsics is not None
            windows = edit_windows(windows, self.buffer.intrinsics, generator, c.edits)
        motions = None
        if self.learns_motion:
            motions = vary(self.buffer.sample_motions(c.batch_size * c.motions, generator), generator, c.mirror_actions)
        return windows, motions

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup)
        return warm * min(1.0, (1.0 - self.progress) / max(self.config.decay, 1e-9))

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        if self.config.minutes is not None:
            return min(1.0, self.elapsed / (60.0 * self.config.minutes))
        return min(1.0, self.step / self.config.steps)

    # Results.

    def averages(self) -> dict[str, Tensor]:
        """The trained modules' averaged weights and their buffers, whole, by name: ``network.*``, ``outcome.*``, ``ego_motion.*``.

        Where weights are sharded, all processes must ask.
        """
        model = self.accelerator.unwrap_model(self.objective)
        names = [name for name, _ in model.named_parameters()]
        averaged = {name: whole(value.detach()) for name, value in zip(names, self.ema.shadow_params, strict=True)}
        return averaged | {name: value for name, value in model.state_dict().items() if name not in averaged}

    def world(self, measured: dict[str, Any] | None = None) -> World:
        """The world with the averaged weights, as a copy on the CPU. Where weights are sharded, all processes must ask."""
        weights = self.averages()
        network = _copied(self.network, part_of(weights, "network."))
        outcome = _copied(self.outcome, part_of(weights, "outcome."))
        ego = None if self.ego is None else _copied(self.ego, part_of(weights, "ego_motion.") or self.ego.state_dict())
        info = self.dataset.info
        box = info.action_space if info.action_space["type"] == "Box" else None
        config = WorldConfig(
            env_id=info.env_id, env_kwargs=dict(info.env_kwargs), fps=info.fps or 8.75,
            has_rewards=self.has_rewards, has_terminations=self.tally.endings > 0, termination=Termination.SAMPLE,
            pixels=None if info.pixels is None else from_json(PixelsConfig, info.pixels, "pixels"),
            dynamics=dataclasses.replace(self.dynamics, first_features=self.tally.made_up),
            intrinsics=tuple(info.intrinsics) if info.intrinsics is not None else None,  # type: ignore[arg-type]
            action_low=tuple(box["low"]) if box is not None else None,
            action_high=tuple(box["high"]) if box is not None else None,
            memory=PointMemoryConfig(capacity=self.config.world_memory_capacity) if self.memory is not None else None,
        )  # fmt: skip
        card = {
            "trained_on": info.env_id,
            "train_maps": sorted(self.maps | self.earlier_maps),
            "frames": self.frames,
            "recordings": [{"policy": d.info.policy, "seed": d.info.seed, "frames": d.frames} for d in self.datasets],
            "training": {
                "steps": self.step, "minutes": round(self.elapsed / 60, 2),
                "windows_a_step": self.config.batch_size * self.world_size,
                "hardware": _hardware(self.device, self.world_size), "config": self._settings(),
            },
            **(measured or {}),
        }  # fmt: skip
        return World(network, config, ego, outcome, card)

    def save(self) -> None:
        """A checkpoint (replaced whole) and the world so far, written by the first process; all must ask for it."""
        main = self.accelerator.is_main_process
        if not main and not self.sharded:
            return
        model = self.accelerator.unwrap_model(self.objective)
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"ema.{i}": p for i, p in enumerate(self.ema.shadow_params)}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        tensors, world = to_save(tensors), self.world()
        if not main:
            return
        out = self.config.out
        fresh, kept = out / ".checkpoint.new", out / "checkpoint"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(tensors, fresh / "state.safetensors")
        meta = {
            "format": "worldsim-checkpoint", "version": 1, "step": self.step, "elapsed": self.elapsed,
            "ema_step": self.ema.optimization_step, "world_size": self.world_size, "config": self._settings(),
        }  # fmt: skip
        write_json(fresh / "checkpoint.json", meta)
        old = out / ".checkpoint.old"
        if kept.exists():
            # Only then: where a kill left the old one alone, it goes when the new one is in its place.
            shutil.rmtree(old, ignore_errors=True)
            os.replace(kept, old)
        os.replace(fresh, kept)
        shutil.rmtree(old, ignore_errors=True)
        world.save_pretrained(out / "world")
        if self.config.scenes and not (out / "world" / "scenes").exists():
            write_starts(self.datasets, self.config.scenes, out / "world" / "scenes")
        write_json(out / "history.json", self.history)

    def resume(self) -> bool:
        """Continue from the checkpoint in the output folder, if there is one."""
        out = self.config.out
        folder = next((f for f in (out / "checkpoint", out / ".checkpoint.old") if (f / "checkpoint.json").is_file()), None)
        if folder is None:
            return False
        meta = read_json(folder / "checkpoint.json")
        if not isinstance(meta, dict) or meta.get("format") != "worldsim-checkpoint":
            raise DamagedFileError(f"{folder / 'checkpoint.json'} is no checkpoint's: delete {folder} to start afresh")
        try:
            tensors = load_file(folder / "state.safetensors")
        except (SafetensorError, OSError) as error:
            raise DamagedFileError(
                f"{folder / 'state.safetensors'} cannot be read ({error}): delete {folder} to start afresh"
            ) from error
        try:
            self._check_resumable(meta)
            self._restore(meta, tensors)
        except torch.cuda.OutOfMemoryError:
            raise
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise DamagedFileError(
                f"{folder} is damaged or was made from another kind of recording ({error}): delete it to start afresh, "
                "or use another --out"
            ) from error
        if (out / "history.json").is_file():
            self.history = [h for h in read_json(out / "history.json") if h["step"] <= self.step]
        return True

    def _restore(self, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        model = self.accelerator.unwrap_model(self.objective)
        held, weights = model.state_dict(), part_of(tensors, "model.")
        model.load_state_dict({k: parted(v, held[k]) if k in held else v for k, v in weights.items()})
        for i, parameter in enumerate(self.ema.shadow_params):
            parameter.data.copy_(parted(tensors[f"ema.{i}"], parameter))
        self.ema.optimization_step = meta["ema_step"]
        state = self.optimizer.state_dict()
        state["state"] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, value in part_of(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            like = parameters[int(index)]
            state["state"].setdefault(int(index), {})[key] = parted(value, like) if value.shape == like.shape else value
        self.optimizer.load_state_dict(state)
        self.step, self.elapsed = meta["step"], meta["elapsed"]

    def _check_resumable(self, meta: dict[str, Any]) -> None:
        now = self._settings()
        changed = [k for k, v in meta["config"].items() if k not in self.may_change and now.get(k) != v]
        if changed:
            raise InvalidInputError(
                f"the checkpoint in {self.config.out} was made with other values of {', '.join(changed)}: "
                "use them again or another --out"
            )

    def sample_picture(self, losses: dict[str, Any]) -> None:
        """A PNG of a few windows: true frames, memory views, predictions at the targets' noise levels."""
        windows: Windows = losses["windows"]
        rows = []
        for i in range(min(4, len(windows.rgb))):
            rows.append(windows.rgb[i])
            if windows.view is not None:
                rows.append(((windows.view[i, :, :3] + 1.0) * 127.5 * windows.view[i, :, 4:5]).clamp(0, 255).to(torch.uint8))
            rows.append(((losses["prediction"][i, :, :3].float() + 1.0) * 127.5).clamp(0, 255).to(torch.uint8))
        grid = torch.stack([torch.cat(list(r), 2) for r in rows])
        image = torch.cat(list(grid), 1).permute(1, 2, 0).cpu().numpy()
        (self.config.out / "samples").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(self.config.out / "samples" / f"step-{self.step:06d}.png")


def compile_in_place(module: torch.nn.Module, device: torch.device) -> None:
    """Have the module run through inductor, as its own ``compile`` does; where that fails, it says so once and runs as it is.

    A few fixed shapes each: one piece of code for all of them, a dreaming copy's among them, would be slower.
    """
    module._compiled_call_impl = Compiled(module._call_impl, "default", device, constant=False)


def _copied(module: Any, weights: dict[str, Tensor]) -> Any:
    """The module's twin on the CPU: same class and config, with these weights."""
    twin = type(module).from_config(module.settings)
    twin.load_state_dict({k: v.detach().cpu() for k, v in weights.items()})
    return twin


def _hardware(device: torch.device, count: int) -> str:
    return f"{count} x {torch.cuda.get_device_name(device)}" if device.type == "cuda" else f"{count} CPU process(es)"


def train(config: TrainConfig) -> World:
    """Train (or continue) a world; returns it.

    Raises NotFoundError, InvalidInputError, MissingGeometryError, DamagedFileError, OutOfMemoryError.
    """
    for folder in config.data:
        require_recording(folder)
    return run(Trainer(config))


def named(folders: Sequence[Path]) -> str:
    """Folders as error messages name them."""
    return ", ".join(map(str, folders))


def require_alike(datasets: Sequence[EpisodeDataset]) -> None:
    """Raise InvalidInputError, naming the first difference, unless all are recordings of one environment made one way."""
    first = datasets[0]
    for other in datasets[1:]:
        for name in ("env_id", "env_kwargs", "observation_space", "action_space", "pixels", "geometry", "intrinsics"):
            mine, its = getattr(first.info, name), getattr(other.info, name)
            if mine != its:
                raise InvalidInputError(
                    f"{first.path} and {other.path} cannot be trained on together: {name} is {mine!r} in one, {its!r} in the other"
                )


def require_recording(data: Path) -> None:
    """Raise NotFoundError if nothing was recorded there."""
    if not (data / "dataset.json").is_file():
        raise NotFoundError(f"{data} has no dataset.json: record it with `worldsim record ENV_ID --out {data}`")


def run(trainer: Trainer) -> World:
    """Train to the end, from the checkpoint if there is one; returns the world."""
    config = trainer.config
    config.out.mkdir(parents=True, exist_ok=True)
    resumed = trainer.resume()
    try:
        trainer.wait_for_data()
        _loop(trainer, resumed)
    except torch.cuda.OutOfMemoryError as error:
        raise OutOfMemoryError(
            f"batch size {config.batch_size} with {trainer.buffer.capacity} buffered frames does not fit the GPU: "
            "lower --batch-size or --buffer-frames"
        ) from error
    trainer.save()
    trainer.accelerator.wait_for_everyone()
    return trainer.world()


def _loop(trainer: Trainer, resumed: bool) -> None:
    config, main = trainer.config, trainer.accelerator.is_main_process
    writer = SummaryWriter(str(config.out / "tensorboard")) if main else None
    bar_format = "{desc} {percentage:5.1f}% {elapsed} {postfix}"
    bar = tqdm(total=100.0, desc="train", disable=not main, initial=100.0 * trainer.progress, bar_format=bar_format)
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
            for name, value in values.items():
                assert writer is not None
                writer.add_scalar(name, value, trainer.step)
            bar.n = 100.0 * trainer.progress
            bar.set_postfix_str(json.dumps({"step": trainer.step, **{k: round(v, 4) for k, v in values.items()}}))
        if main and (trainer.step % config.sample_every == 0 or done):
            trainer.sample_picture(losses)
        if trainer.step % config.save_every == 0:
            trainer.save()
        if trainer.step % config.refresh_every == 0:
            trainer.take_in()
    bar.close()
    if writer is not None:
        writer.close()
