"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

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
from worldsim.runtime.types import JsonObject
from worldsim.training.corruption import PerturbConfig
from worldsim.training.loss import LossConfig
from worldsim.training.outcomes import OutcomeConfig
from worldsim.training.painted import PaintedConfig

PRESETS: dict[str, JsonObject] = {
    "debug": {"dim": 32, "depth": 2, "heads": 2, "levels": (8, 8, 16), "window": 4},
    "tiny": {"dim": 256, "depth": 4, "heads": 4, "levels": (32, 48, 96), "window": 8},
    "small": {"dim": 256, "depth": 4, "heads": 4, "levels": (32, 48, 96), "window": 8},
    "task": {"dim": 128, "depth": 5, "heads": 4, "levels": (64, 96), "fold": 2, "window": 8},
    "mini": {"dim": 64, "depth": 2, "heads": 2, "levels": (32,), "fold": 4, "window": 4},
    "large": {"dim": 1024, "depth": 12, "heads": 16, "levels": (256, 512), "fold": 2, "window": 8},
}
"""Network sizes by name; any frame size divisible by the patch (8) trains with each."""


class HeadInput(StrEnum):
    """What the head for rewards and terminations reads."""

    FEATURES = "features"
    """The network's features of a frame (:class:`worldsim.world.heads.OutcomeHead`)."""
    FRAMES = "frames"
    """The last emitted frames and actions (:class:`worldsim.world.frame_outcome.FrameOutcomeHead`),
    with weights, batches and gradient clipping of its own."""


class AdapterLayers(StrEnum):
    """What an adapter changes, beside the inputs of action and camera and the heads."""

    TEMPORAL = "temporal"
    """The temporal layers."""
    PIXELS = "pixels"
    """The temporal layers and the convolutional levels, through which moving pixels pass."""
    ALL = "all"
    """All linear and convolutional layers."""


HEAD_INPUTS = {"mini": HeadInput.FRAMES, "task": HeadInput.FRAMES}
"""What heads read by preset, where nothing is asked for; features for the others."""

BATCH_SIZES = {"cuda": 32, "cpu": 4}
"""Windows a step by kind of device, where none are asked for: on two CPU cores, 32 take 18 s."""
PRECISIONS = {"cuda": "bf16", "cpu": "no"}
"""Mixed precision by kind of device, where none is asked for: on a CPU, a step in bfloat16 took 9
times that in float32."""


@old_fields(sampling_steps="num_inference_steps", objective="loss")
@dataclass(frozen=True)
class TrainConfig:
    """Options of ``worldsim train``."""

    data: tuple[str | Path, ...]
    """Folders of recordings of one environment, or folders that contain such, for example the
    rounds of several policies; or URLs of either, such as ``s3://bucket/folder``. Recordings may be
    in progress: new shards and new recordings are added during training."""
    out: Path
    """Folder for checkpoints, logs, sample pictures and, in ``world/``, the trained world."""
    preset: str = "tiny"
    """Size of the network: mini, tiny, small, large, task or debug."""
    attention: Batch | None = None
    """Number of frames that attention spans, the current one included; by default the preset's.
    Events further back, such as the time of the last pick-up, need a larger number. ``window`` must
    be at least three times as long. With ``init_from`` it is that network's."""
    pooling: str = "mean"
    """How a frame's tokens become the features that heads read: mean, or attention (a learned
    query). With ``init_from`` it is that network's."""
    head_input: HeadInput | None = None
    """What the head for rewards and terminations reads: features or frames. By default frames for
    the preset task, unless the recording's terminal frames are synthetic, and features for others;
    a resumed run keeps its own, and with ``init_from`` it is that world's."""
    outcome: OutcomeConfig = field(default_factory=OutcomeConfig)
    """Training of a head that reads frames."""
    num_inference_steps: Batch = 1
    """Sampling steps per frame of the trained world."""
    steps: Count = 20_000
    """Training steps in all."""
    minutes: Positive | None = None
    """Stop after this many minutes instead (of this run's wall time, learning-rate decay
    included)."""
    batch_size: Batch | None = None
    """Windows per step on each process. By default 32 on a GPU and 4 on a CPU; a resumed run keeps
    its own."""
    window: Batch = 24
    """Frames per window: at least three times the attention window, so that training matches
    inference with a cache."""
    motions: Batch = 64
    """Moments per window for the ego-motion head. It is small and sees no frames, so many are
    cheap."""
    learning_rate: Rate = 6e-4
    """Peak learning rate of AdamW."""
    motion_learning_rate: Rate = 1e-3
    """Peak learning rate of the ego-motion head."""
    warmup: Count = 300
    """Steps of linear warm-up."""
    decay: Share = 0.35
    """Last fraction of the training, in which the learning rate falls linearly to zero. For a run
    in several parts (``carry_megabytes``): 0 in all but the last one."""
    weight_decay: Share = 0.01
    """AdamW's weight decay."""
    ema: Share = 0.999
    """Decay of the exponential moving average that is saved as the world."""
    memory: bool = True
    """Train with the scene memory (needs poses and depth)."""
    last_frames: Number = 4
    """Without the memory: number of previous frames that the network sees as pixels, beside what
    attention carries of them. Convolutions then follow moving objects, and static content need not
    pass through tokens. 0 for none. With ``init_from`` it is that network's."""
    keep_still: Annotated[float, Ge(0), Le(255)] = 0.0
    """Without the memory: largest change of a pixel from the previous frame, in values of 255, that
    the trained world leaves out, so that small errors of a still background do not add up. For
    environments whose pixels mostly stay as they are. 0 for none."""
    memory_capacity: Capacity = 32768
    """Points per environment while training views are rendered."""
    world_memory_capacity: Capacity = 131_072
    """Points per environment in the trained world. Walks in it are longer than episodes, and
    evicted points are lost."""
    memory_drop: Share = 0.15
    """Share of windows without any memory."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Noise levels, dropouts and weights."""
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    """Corruption of the memory's input."""
    painted: PaintedConfig = field(default_factory=PaintedConfig)
    """Painted views in the memory of training walks. Needs the memory."""
    mirror_actions: tuple[int, ...] | None = None
    """For mirror augmentation, the mirror image of each discrete action (Freedoom: 0 1 2 4 3 6 5).
    None turns it off."""
    colour: Share = 0.5
    """Share of windows whose colours are scaled and permuted."""
    edits: Share = 0.0
    """Share of windows with an edit: a box that the memory shows and the past does not, or the
    reverse. Trains the world to follow edits of its memory. Needs the memory."""
    buffer_frames: Count | None = None
    """Maximum number of frames on each process's device (about 60 KB each at 64x64); the oldest
    shards are evicted. By default what half of a GPU's free memory holds, but at most twice the
    frames of complete recordings; a million on a CPU. Set it if the run has to resume exactly on
    another GPU."""
    refresh_every: Count = 200
    """Steps between checks for new shards."""
    save_every: Count = 1000
    """Steps between checkpoints."""
    sample_every: Count = 2000
    """Steps between sample pictures."""
    carry_megabytes: Positive | None = None
    """With each checkpoint, also write the folder ``carry``, in parts of at most this size: weights
    and their averages in 16 bits. Copied into an empty output folder on another machine, it is what
    the run goes on from, without the optimiser's moments. None for no such folder."""
    carry_warmup: Count = 100
    """Steps in which the learning rate rises again after a run was carried over, while the
    optimiser's moments are rebuilt."""
    init_from: str | None = None
    """World whose weights to start from. If its frame size differs, the positions of tokens are
    interpolated."""
    adapter: Number = 0
    """Rank of an adapter (LoRA) of the world ``init_from``, such as 16: only this is trained, and
    written to ``adapter/``. 0 trains all weights. Needs the extra ``adapter``."""
    adapter_layers: AdapterLayers = AdapterLayers.TEMPORAL
    """Layers that an adapter changes: temporal, pixels (the convolutional levels, too), or all."""
    adapter_probe: Number = 0
    """Steps in which a copy of all weights is trained first, at a twentieth of the learning rate.
    The adapter starts from what that changed most, with ranks of at most ``adapter`` where they
    hold most of the change, within 5% of the parameters. 0: the same rank in all layers, and a
    start from the world as it is."""
    adapter_rate_ratio: Positive = 1.0
    """Learning rate of an adapter's second factors, which start at zero, over that of the first
    ones (LoRA+, Hayou et al. 2024). With AdamW, peft's ``lora_alpha`` would do the same."""
    compile: bool = True
    """On a GPU, compile the network, and pass episodes through the memory with a compiled copy in
    bfloat16 and CUDA graphs."""
    checkpointing: bool = False
    """Recompute the transformer's blocks in the backward pass instead of keeping their activations:
    more arithmetic, much less memory, for large networks and batches."""
    mixed_precision: str | None = None
    """bf16 or no. By default bf16 on a GPU and no on a CPU; a resumed run keeps its own."""
    seed: Seed = 0
    """Seed of all random numbers."""
    patience: NotNegative = 5.0
    """Seconds to wait for the first windows of a recording in progress."""
    scenes: Number = 16
    """Number of start scenes to write beside the world if it has none: first frames of recorded
    episodes. 0 for none."""
    train_split: str = "train"
    """If the recording names splits, use only shards whose episodes are all of this one."""

    def __post_init__(self) -> None:
        if isinstance(self.data, (str, Path)):
            object.__setattr__(self, "data", (self.data,))
        if not self.data:
            raise InvalidInputError("TrainConfig.data is empty: name the folder of a recording")
        check_ranges(self)
        if self.edits > 0 and not self.memory:
            raise InvalidInputError(
                f"TrainConfig.edits = {self.edits!r}: a share in [0, 1], 0 without the memory"
            )
        if self.loss.known > 0 and not self.memory:
            raise InvalidInputError(
                f"TrainConfig.loss.known = {self.loss.known!r}: only a memory knows pixels; give "
                f"0 without it"
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
