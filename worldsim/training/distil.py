"""Distillation of a world into a student with fewer sampling steps.

The training loop is that of :mod:`worldsim.training.train`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from worldsim.data.dataset import EpisodeDataset
from worldsim.diffusion.denoiser import channels_to_frame
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.errors import InvalidInputError
from worldsim.protocols import Painter
from worldsim.runtime.json_config import check_ranges, to_json
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.ranges import Batch, Capacity, Count, NotNegative, Positive, Rate, Seed, Share
from worldsim.runtime.types import JsonObject
from worldsim.training.adversarial import AdversarialConfig, Adversary
from worldsim.training.config import PRESETS, TrainConfig
from worldsim.training.corruption import PerturbConfig
from worldsim.training.distil_loss import DistilLoss, DistilLossConfig
from worldsim.training.factory import Modules
from worldsim.training.loss import TrainingLoss
from worldsim.training.painted import PaintedConfig
from worldsim.training.recordings import require_recording
from worldsim.training.sharding import part_of, to_save
from worldsim.training.train import run
from worldsim.training.trainer import Trainer
from worldsim.world import World
from worldsim.world.engine import compile_in_place
from worldsim.world.frame_outcome import FrameOutcomeHead
from worldsim.world.heads import EgoMotionHead, OutcomeHead

AGREED = (
    "height",
    "width",
    "channels",
    "view_channels",
    "last_frames",
    "actions",
    "action_dim",
    "window",
    "patch",
)
"""What a student's network has in common with its teacher's: they see the same frames, conditions
and past."""
OF_TEACHER, RANDOM = "teacher", "none"
MATCH, MCM = "match", "mcm"
ADVERSARY = "adversary."
"""Prefix of the names of a checkpoint's tensors of the discriminator."""
Measure: TypeAlias = Callable[[Tensor, Tensor], dict[str, float]]
"""Compares predicted frames with true ones, both (m, 3, h, w) uint8; returns values to log."""


def _own_walks() -> PerturbConfig:
    return PerturbConfig(own=0.5)


@old_fields(steps="num_inference_steps", objective="loss")
@dataclass(frozen=True)
class DistilConfig:
    """Options of ``worldsim distil``."""

    world: str
    """The teacher: name of a shipped world, a world's folder, or ``hub:owner/name`` of the Hugging
    Face hub."""
    data: Path
    """Folder of a recording of the teacher's real twin. It may be in progress."""
    out: Path
    """Folder for checkpoints, logs, sample pictures and, in ``world/``, the student."""
    method: Literal["match", "mcm"] = "match"
    """``match``: the losses of ``loss``. ``mcm``: with them, a discriminator on features of the
    teacher judges the student's frames, as in the motion consistency model (Zhai et al. 2024). Use
    it with ``--loss.regression 0 --loss.real 1 --loss.own-context 0``."""
    num_inference_steps: Batch = 1
    """Sampling steps per frame of the student; fewer than ``--loss.teacher-steps``."""
    student: str = OF_TEACHER
    """What the student starts from: ``teacher`` for the teacher's weights, ``none`` for random ones
    of ``--preset``, or a world."""
    preset: str = "tiny"
    """Size of a student that starts from random weights: tiny, small, large or debug."""
    training_steps: Count = 6_000
    """Training steps in all."""
    minutes: Positive | None = None
    """Stop after this many minutes instead (of this run's wall time, learning-rate decay
    included)."""
    batch_size: Batch | None = None
    """Windows per step on each process. By default 32 on a GPU and 4 on a CPU; a resumed run keeps
    its own."""
    window: Batch = 24
    """Frames per window: at least three times the attention window."""
    learning_rate: Rate = 2e-4
    """Peak learning rate of AdamW: a third of training's, as the student starts near its goal."""
    warmup: Count = 200
    """Steps of linear warm-up."""
    decay: Share = 0.5
    """Last fraction of the training, in which the learning rate falls linearly to zero."""
    weight_decay: Share = 0.01
    """AdamW's weight decay."""
    ema: Share = 0.999
    """Decay of the moving average that is saved as the student, generates its own walks and is the
    target of consistency."""
    memory_capacity: Capacity = 32768
    """Points per environment while training views are rendered."""
    memory_drop: Share = 0.15
    """Share of windows without any memory."""
    loss: DistilLossConfig = field(default_factory=DistilLossConfig)
    """The losses."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    """The discriminator of ``--method mcm``."""
    perturb: PerturbConfig = field(default_factory=_own_walks)
    """Corruption of the memory's input. ``own``: share of the episodes of which the student
    generates parts."""
    painted: PaintedConfig = field(default_factory=PaintedConfig)
    """Painted views in the memory of training walks. Needs the memory."""
    mirror_actions: tuple[int, ...] | None = None
    """For mirror augmentation, the mirror image of each discrete action (Freedoom: 0 1 2 4 3 6 5).
    None turns it off."""
    colour: Share = 0.5
    """Share of windows whose colours are scaled and permuted."""
    edits: Share = 0.0
    """Share of windows with an edit of the memory, see :class:`TrainConfig`. Needs the memory."""
    buffer_frames: Count | None = None
    """Maximum number of frames on each process's device. By default what half of a GPU's free
    memory holds."""
    refresh_every: Count = 200
    """Steps between checks for new shards."""
    save_every: Count = 1000
    """Steps between checkpoints."""
    sample_every: Count = 2000
    """Steps between sample pictures."""
    compile: bool = True
    """On a GPU, compile the networks, and pass episodes through the memory with a compiled copy in
    bfloat16 and CUDA graphs."""
    checkpointing: bool = False
    """Recompute the transformer's blocks in the backward pass instead of keeping their
    activations."""
    mixed_precision: str | None = None
    """bf16 or no. By default bf16 on a GPU and no on a CPU; a resumed run keeps its own."""
    seed: Seed = 0
    """Seed of all random numbers."""
    patience: NotNegative = 5.0
    """Seconds to wait for the first windows of a recording in progress."""
    train_split: str = "train"
    """If the recording names splits, use only shards whose episodes are all of this one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.loss.regression > 0 and self.num_inference_steps >= self.loss.teacher_steps:
            raise InvalidInputError(
                f"a student of {self.num_inference_steps} sampling steps has nothing to learn "
                f"from a teacher "
                f"that takes "
                f"{self.loss.teacher_steps}: lower --num-inference-steps or raise "
                f"--loss.teacher-steps"
            )
        if self.preset not in PRESETS:
            raise InvalidInputError(
                f"unknown preset {self.preset!r}: choose one of {', '.join(PRESETS)}"
            )
        self.training(memory=True)

    def training(self, memory: bool) -> TrainConfig:
        """Return the same settings as a :class:`TrainConfig`.

        memory: whether the teacher's world has a memory.
        """
        shared = {f.name for f in dataclasses.fields(TrainConfig)} - {
            "steps",
            "num_inference_steps",
            "loss",
            "init_from",
            "memory",
        }
        values = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name in shared
        }
        start = {OF_TEACHER: self.world, RANDOM: None}.get(self.student, self.student)
        return TrainConfig(steps=self.training_steps, memory=memory, init_from=start, **values)


class DistilTrainer(Trainer):
    """A training run whose loss has a teacher.

    The ego-motion head is the teacher's and is not trained. With the method ``mcm``, each step also
    trains the discriminator.

    measure: compares predictions with true frames at every ``sample_every`` steps, for the log.
    """

    _settings_class = DistilConfig
    may_change = (Trainer.may_change | {"training_steps", "world"}) - {"num_inference_steps"}

    def __init__(
        self,
        config: DistilConfig,
        painter: Painter | None = None,
        measure: Measure | None = None,
    ) -> None:
        self.distil, self.measure = config, measure
        self.measured: dict[str, float] = {}
        self.teacher = World.from_pretrained(config.world, device="cpu")
        check_recording(config, self.teacher.network)
        self.teacher_weights = weights_of(self.teacher)
        self.dynamics = dataclasses.replace(
            self.teacher.config.dynamics, num_inference_steps=config.num_inference_steps
        )
        memory = self.teacher.config.memory is not None
        super().__init__(config.training(memory=memory), painter)
        if self.sharded:
            raise InvalidInputError(
                "FSDP is not supported for distilling, whose average takes part in every step: "
                "launch without"
            )

    def _modules(self) -> Modules:
        c, teacher = self.distil, self.teacher
        if c.student == RANDOM:
            n = teacher.network.config
            size = PRESETS[c.preset] | {"window": n.window}
            shared = {name: n[name] for name in AGREED if name not in size and name != "patch"}
            network = SpaceTimeTransformer(**shared, **size)
            # A head that reads frames needs nothing of the network: it is kept.
            outcome: OutcomeHead | FrameOutcomeHead = teacher.outcome
            if isinstance(outcome, OutcomeHead):
                outcome = OutcomeHead(dim=network.config.dim, on_end=outcome.config.on_end)
        else:
            # Loaded anew for the teacher's own weights: the student's change.
            world = World.from_pretrained(
                c.world if c.student == OF_TEACHER else c.student, device="cpu"
            )
            network, outcome = world.network, world.outcome
        check_student(c, network, teacher.network)
        for module in (network, outcome):
            module.requires_grad_(True).train()
        return network, teacher.trained_motion, outcome

    def _loss_module(
        self,
        network: SpaceTimeTransformer,
        ego: EgoMotionHead | None,
        outcome: OutcomeHead | FrameOutcomeHead,
    ) -> TrainingLoss:
        c = self.distil
        teacher = self.teacher.network.to(self.device)
        self.adversary = None
        if c.method == MCM:
            teacher.eval().requires_grad_(False)
            self.adversary = Adversary(teacher, c.adversarial, self.device)
        self.pupil = DistilLoss(
            network, teacher, outcome, c.loss, c.num_inference_steps, self.dynamics.shift,
            self.adversary,
        )  # fmt: skip
        if self._compiles:
            parts: list[torch.nn.Module] = [network, teacher, self.pupil.averaged]
            if self.adversary is not None:
                parts.append(self.adversary.levels)
            for one in parts:
                compile_in_place(one, self.device)
        return self.pupil

    def _settings(self) -> JsonObject:
        settings: JsonObject = to_json(self.distil)
        return settings | {"teacher_sha256": self.teacher_weights}

    def _use(self, **used: Any) -> None:
        super()._use(**used)
        self.distil = dataclasses.replace(self.distil, **used)

    def train_step(self) -> dict[str, Tensor]:
        """Run one optimiser step.

        The averaged student in its loss is part of the checkpoint, so a resumed run is the same
        run.
        """
        self.pupil.follow(self.ema.shadow_params)
        losses = super().train_step()
        if self.measure is not None and self.step % self.distil.sample_every == 0:
            windows: Any = losses["windows"]
            predicted, true = (
                channels_to_frame(x[:, :, :3].flatten(0, 1).float(), None).rgb
                for x in (losses["prediction"], windows.x)
            )
            self.measured = self.measure(predicted, true)
        return losses | {k: torch.tensor(v) for k, v in self.measured.items()}

    def _update(self, losses: dict[str, Tensor]) -> None:
        """Train the discriminator, and the student unless the discriminator learns alone."""
        if self.adversary is None:
            super()._update(losses)
            return
        self.adversary.update(losses.pop("discriminator"), self.world_size)
        if self.step >= self.distil.adversarial.discriminator_steps:
            super()._update(losses)
        else:
            # The student's activations, which nothing will use, are not kept until the next step.
            losses |= {name: value.detach() for name, value in losses.items()}

    def _more_state(self) -> dict[str, Tensor]:
        if self.adversary is None:
            return {}
        return to_save({f"{ADVERSARY}{k}": v for k, v in self.adversary.state().items()})

    def _load_more_state(self, tensors: dict[str, Tensor]) -> None:
        if self.adversary is not None:
            self.adversary.load(part_of(tensors, ADVERSARY))

    def _read_carried(self) -> None:
        """Return None: a distillation is not carried, which has more state than its weights."""

    def _check_resumable(self, meta: JsonObject, others: frozenset[str] = frozenset()) -> None:
        # Checkpoints of before the setting had no discriminator.
        meta = meta | {"config": {"method": MATCH} | meta["config"]}
        super()._check_resumable(meta, others)

    def world(self, measured: JsonObject | None = None) -> World:
        """Return the student with averaged weights, as a copy on the CPU.

        Its memory and the settings of its heads are the teacher's.
        """
        world, teacher, c = super().world(measured), self.teacher, self.distil
        config = dataclasses.replace(
            world.config,
            dynamics=self.dynamics,
            memory=teacher.config.memory,
            termination=teacher.config.termination,
        )
        card = world.card | {
            # What the teacher knows, the student knows through it.
            "train_maps": sorted(
                set(world.card["train_maps"]) | set(teacher.card.get("train_maps", ()))
            ),
            "distilled": {
                "teacher": c.world,
                "teacher_sha256": self.teacher_weights,
                "student": c.student,
                "steps": c.num_inference_steps,
                "method": _method(c),
            },
        }
        return World(world.network, config, world.ego_motion, world.outcome, card)


def check_recording(config: DistilConfig, network: SpaceTimeTransformer) -> None:
    """Raise InvalidInputError unless the teacher fits the recording's frames and actions."""
    info, n, mirror = EpisodeDataset(config.data).info, network.config, config.mirror_actions
    space = info.action_space
    actions = int(space["n"]) if space["type"] == "Discrete" else 0
    recorded = {
        "height": info.observation_space["shape"][0],
        "width": info.observation_space["shape"][1],
        "channels": 4 if info.geometry else 3,
        "actions": actions,
        "action_dim": 0 if actions else len(space["low"]),
    }
    wrong = [
        f"{key} {n[key]} and not {value}" for key, value in recorded.items() if n[key] != value
    ]
    if wrong:
        raise InvalidInputError(
            f"teacher {config.world} does not fit the recording {config.data}: it takes "
            f"{', '.join(wrong)}; "
            "record its real twin, as its card names it"
        )
    if mirror is not None and sorted(mirror) != list(range(actions)):
        raise InvalidInputError(
            f"--mirror-actions {mirror} must name each of the recording's {actions} discrete "
            f"actions once"
        )


def check_student(
    config: DistilConfig, student: SpaceTimeTransformer, teacher: SpaceTimeTransformer
) -> None:
    """Raise InvalidInputError unless teacher and student have the same inputs."""
    ours, theirs = (dict(n.config) | {"patch": n.patch} for n in (student, teacher))
    wrong = [
        f"{name} {ours[name]} and not {theirs[name]}"
        for name in AGREED
        if ours[name] != theirs[name]
    ]
    if wrong:
        raise InvalidInputError(
            f"student {config.student} does not fit teacher {config.world}: it has "
            f"{', '.join(wrong)}; "
            f"start from the teacher's weights (--student {OF_TEACHER}) or from none (--student "
            f"{RANDOM} --preset ...)"
        )


def weights_of(world: World) -> dict[str, str]:
    """Return the SHA-256 of each file of weights in a world's folder, by path."""
    folder = world.folder
    assert folder is not None
    files = sorted(folder.glob("*/*.safetensors"))
    parts = [f for f in files if f.parent.name in world.modules()]
    return {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in parts
    }


def _method(config: DistilConfig) -> JsonObject:
    """Return the losses in use, by name."""
    c = config.loss
    method: JsonObject = {
        name: getattr(c, name)
        for name in ("regression", "consistency", "real")
        if getattr(c, name) > 0
    }
    if c.regression > 0:
        method["teacher_steps"] = c.teacher_steps
    if c.consistency > 0:
        method["consistency_levels"] = c.consistency_sigmas
    if c.motion_pixels > 1:
        method["motion_pixels"] = c.motion_pixels
    if config.method == MCM:
        method["adversarial"] = to_json(config.adversarial)
    return method | {"own_context": c.own_context, "own_walks": config.perturb.own}


def distil(
    config: DistilConfig, painter: Painter | None = None, measure: Measure | None = None
) -> World:
    """Distil a student, or resume; returns it.

    painter: paints ahead of the walks, see :class:`worldsim.training.painted.PaintedConfig`.
    measure: see :class:`DistilTrainer`.

    Raises NotFoundError, InvalidInputError, MissingGeometryError, DamagedFileError,
    OutOfMemoryError, StorageError.
    """
    require_recording(config.data)
    return run(DistilTrainer(config, painter, measure))
