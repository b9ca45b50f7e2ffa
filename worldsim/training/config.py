"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.ranges import (
    Batch,
    Capacity,
    Count,
    NotNegative,
    Number,
    Positive,
    Rate,
    Seed,
    Share,
)
from worldsim.training.corruption import PerturbConfig
from worldsim.training.loss import LossConfig

PRESETS: dict[str, dict[str, Any]] = {
    "debug": {"dim": 32, "depth": 2, "heads": 2, "levels": (8, 8, 16), "window": 4},
    "tiny": {"dim": 256, "depth": 4, "heads": 4, "levels": (32, 48, 96), "window": 8},
    "small": {"dim": 256, "depth": 4, "heads": 4, "levels": (32, 48, 96), "window": 8},
    "task": {"dim": 128, "depth": 5, "heads": 4, "levels": (64, 96), "fold": 2, "window": 8},
    "large": {"dim": 1024, "depth": 12, "heads": 16, "levels": (256, 512), "fold": 2, "window": 8},
}
"""Network sizes by name; any frame size divisible by the patch (8) trains with each."""

BATCH_SIZES = {"cuda": 32, "cpu": 4}
"""Windows a step by kind of device, where none are asked for: on two CPU cores, 32 take 18 s."""
PRECISIONS = {"cuda": "bf16", "cpu": "no"}
"""Mixed precision by kind of device, where none is asked for: on a CPU, a step in bfloat16 took 9
times that in float32."""


@old_fields(sampling_steps="num_inference_steps", objective="loss")
@dataclass(frozen=True)
class TrainConfig:
    """Options of ``worldsim train``."""

    data: tuple[Path, ...]
    """Folders of recordings of one environment, or folders that hold some, such as the rounds of
    several policies. They may still be growing: new shards, and new recordings in a folder that
    holds some, are picked up while training."""
    out: Path
    """Folder for checkpoints, logs, sample pictures and, in ``world/``, the trained world."""
    preset: str = "tiny"
    """Size of the network: tiny, small, large, task or debug."""
    attention: Batch | None = None
    """Frames that attention spans, the present one included; the preset's number if not given. What
    has to be remembered for longer, such as when something was last taken, needs more; ``window``
    must be three times as long. With ``init_from`` it is that network's."""
    pooling: str = "mean"
    """How a frame's tokens become the features that heads read: mean, or attention (a learned
    query). With ``init_from`` it is that network's."""
    num_inference_steps: Batch = 1
    """Sampling steps a frame of the trained world."""
    steps: Count = 20_000
    """Training steps in all."""
    minutes: Positive | None = None
    """Stop after this many minutes instead (of this run's wall time, learning-rate decay
    included)."""
    batch_size: Batch | None = None
    """Windows a step on each process. If not given: 32 on a GPU, 4 on a CPU; a run that goes on
    keeps its own."""
    window: Batch = 24
    """Frames a window: at least three times the attention window, so that a cache at use equals
    training."""
    motions: Batch = 64
    """Moments a window that the ego-motion head learns from: it is small and sees no pictures, so
    many are cheap."""
    learning_rate: Rate = 6e-4
    """Peak learning rate of AdamW."""
    motion_learning_rate: Rate = 1e-3
    """The same for the ego-motion head."""
    warmup: Count = 300
    """Steps of linear warm-up."""
    decay: Share = 0.35
    """Last share of the training in which the learning rate falls linearly to zero."""
    weight_decay: Share = 0.01
    """AdamW's weight decay."""
    ema: Share = 0.999
    """Decay of the exponential moving average that is saved as the world."""
    memory: bool = True
    """Train with the scene memory (needs poses and depth)."""
    last_frames: Number = 4
    """Without the memory: newest frames that the network sees pixel by pixel, beside what attention
    carries of them. What moves is followed by convolutions then, and what stays need not pass
    through tokens. 0 for none. With ``init_from`` it is that network's."""
    memory_capacity: Capacity = 32768
    """Points an environment while training views are rendered."""
    world_memory_capacity: Capacity = 131_072
    """Points an environment in the trained world: walks in it are longer than episodes, and what is
    evicted is forgotten."""
    memory_drop: Share = 0.15
    """Share of windows that see no memory."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Noise levels, dropouts and weights."""
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    """How the memory's sources are degraded."""
    mirror_actions: tuple[int, ...] | None = None
    """For mirror augmentation: each discrete action's mirror image, for Freedoom 0 1 2 4 3 6 5;
    None switches it off."""
    colour: Share = 0.5
    """Share of windows whose colours are scaled and permuted."""
    edits: Share = 0.0
    """Share of windows in which the memory shows a box that the past does not, or the past one that
    the memory does not: the world then believes edits of its memory. Needs the memory."""
    buffer_frames: Count | None = None
    """At most so many frames are kept on each process's device (about 60 KB each at 64x64); the
    oldest shards make room. Not given: what half of a GPU's free memory holds, without a GPU a
    million. A run that shall resume exactly on another GPU needs a number."""
    refresh_every: Count = 200
    """Steps between looks for new shards."""
    save_every: Count = 1000
    """Steps between checkpoints."""
    sample_every: Count = 2000
    """Steps between sample pictures."""
    init_from: str | None = None
    """World whose weights to start from; one of another frame size has its tokens' positions
    interpolated."""
    compile: bool = True
    """Where there is a GPU, compile the network, and take episodes in with a compiled copy in
    bfloat16 and CUDA graphs."""
    checkpointing: bool = False
    """Compute the transformer's blocks once more in the backward pass instead of keeping their
    activations: more arithmetic, a fraction of the memory, for large networks and batches."""
    mixed_precision: str | None = None
    """bf16 or no. If not given: bf16 on a GPU, no on a CPU; a run that goes on keeps its own."""
    seed: Seed = 0
    """Seed of everything random."""
    patience: NotNegative = 5.0
    """Seconds to wait for the first windows where the recording is still going on."""
    scenes: Number = 16
    """Start scenes that are written beside the world if it has none: first frames of recorded
    episodes. 0 for none."""
    train_split: str = "train"
    """Only shards whose episodes are all of this split are used, where the recording names
    splits."""

    def __post_init__(self) -> None:
        if isinstance(self.data, (str, Path)):
            object.__setattr__(self, "data", (Path(self.data),))
        if not self.data:
            raise InvalidInputError("TrainConfig.data is empty: name the folder of a recording")
        check_ranges(self)
        if self.edits > 0 and not self.memory:
            raise InvalidInputError(
                f"TrainConfig.edits = {self.edits!r}: a share in [0, 1], 0 without the memory"
            )
        if self.attention is not None and self.attention < 2:
            raise InvalidInputError(
                f"TrainConfig.attention = {self.attention!r}: at least 2 frames, or leave it to "
                f"the preset"
            )
        if self.mixed_precision not in (None, "bf16", "no"):
            raise InvalidInputError(
                f"TrainConfig.mixed_precision = {self.mixed_precision!r}: choose bf16 or no"
            )
