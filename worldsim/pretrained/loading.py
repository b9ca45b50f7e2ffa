"""Pretrained video models by the name that a user or a world's file gives.

Weights are read from safetensors only, and nothing in a folder or a repository runs code. A file
may name a model on the hub with the commit of its repository, nothing else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import torch

from worldsim.errors import (
    InvalidInputError,
    NotFoundError,
    OutOfMemoryError,
    UntrustedFileError,
)
from worldsim.painting.depth import PipelineDepth
from worldsim.painting.pretrained import (
    INDEX,
    check_pipeline_folder,
    find_depth,
    find_pipeline,
    load_depth,
    read_pipeline,
    require_transformers,
)
from worldsim.pretrained.adapter import ClipConfig
from worldsim.pretrained.dynamics import PretrainedConfig, PretrainedDynamics
from worldsim.protocols import Pixels, VideoModel
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.json_config import check_ranges, from_json, read_json
from worldsim.runtime.ranges import Number
from worldsim.runtime.registries import VIDEO_MODELS
from worldsim.runtime.types import JsonMapping
from worldsim.world.files import HUB, download, split_repository

_COMMIT = re.compile(r"[0-9a-f]{40}")
SPARE = 1.25
"""Free memory that loading requires, over the size of the weights: activations need some, too."""


class Offload(StrEnum):
    """What leaves the GPU while it is not needed."""

    NONE = "none"
    """Nothing."""
    MODEL = "model"
    """All parts but the one that runs (``enable_model_cpu_offload``)."""
    SEQUENTIAL = "sequential"
    """All layers but the one that runs (``enable_sequential_cpu_offload``); slow."""


@dataclass(frozen=True)
class PretrainedSource:
    """A pretrained world: where its models come from, and what it generates."""

    pipeline: str
    """A folder or ``hub:owner/name`` of a video pipeline of diffusers."""
    depth: str
    """A folder or ``hub:owner/name`` of a depth-estimation model of transformers."""
    revision: str = ""
    """Commit of the pipeline's repository, 40 hexadecimal digits."""
    depth_revision: str = ""
    """Commit of the depth estimator's repository."""
    height: Pixels = 480
    """Pixels."""
    width: Pixels = 832
    """Pixels."""
    actions: Number = 7
    """Number of discrete actions; 0 for action vectors."""
    action_dim: Number = 0
    """Size of an action vector; 0 for discrete actions."""
    offload: Offload = Offload.NONE
    """What leaves the GPU while it is not needed."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """Lengths of clips, sampling steps and prompt."""
    chunks: PretrainedConfig = field(default_factory=PretrainedConfig)
    """When chunks are dropped, and how depth becomes metric."""

    def __post_init__(self) -> None:
        check_ranges(self)


class NamedDynamics(PretrainedDynamics):
    """The dynamics of a world's folder, whose ``world.json`` names models on the hub."""

    @classmethod
    def build(cls, config: Any, load: Callable[..., Any]) -> PretrainedDynamics:
        """Build it from the world's config; see :func:`dynamics_of_settings`."""
        return dynamics_of_settings(config.dynamics_settings)


def dynamics_of_settings(settings: JsonMapping) -> PretrainedDynamics:
    """Load the dynamics that a world's file describes; see :class:`PretrainedSource`.

    Raises UntrustedFileError unless models are named on the hub, with commits.
    """
    source = from_json(PretrainedSource, dict(settings), "dynamics_settings")
    for name, revision in (
        (source.pipeline, source.revision),
        (source.depth, source.depth_revision),
    ):
        if not name.startswith(HUB) or not _COMMIT.fullmatch(revision):
            raise UntrustedFileError(
                f"a world's file names the model {name!r} at {revision!r}: a file may only name "
                f"{HUB}owner/name and a commit of 40 hexadecimal digits. Give other models in "
                "Python (worldsim.pretrained.loading.load_dynamics)."
            )
    return load_dynamics(source)


def load_dynamics(
    source: PretrainedSource,
    device: torch.device | str | None = None,
    arguments: Mapping[str, object] | None = None,
) -> PretrainedDynamics:
    """Load a video pipeline and a depth estimator as dynamics.

    device: by default the GPU if there is one. GPUs run pipelines in bfloat16, CPUs in float32.
    arguments: further arguments of the pipeline's call, see
        :class:`worldsim.pretrained.adapter.VideoAdapter`.

    Raises InvalidInputError, NotFoundError, DamagedFileError, OutOfMemoryError,
    MissingDependencyError, or UntrustedFileError for a pipeline that names classes of other
    libraries.
    """
    if not source.pipeline or not source.depth:
        raise InvalidInputError(
            f"pipeline = {source.pipeline!r} and depth = {source.depth!r}: give both, each a "
            f"folder or {HUB}owner/name: a video pipeline of diffusers, and a depth-estimation "
            "model of transformers, which tells how far the generated surfaces are."
        )
    require_transformers()
    there = resolve_device(device)
    folder = find_pipeline(pinned(source.pipeline, source.revision))
    depth_folder = find_depth(pinned(source.depth, source.depth_revision))
    # Before the weights are read: an unknown convention is found by its class alone.
    adapter_of(check_pipeline_folder(folder))
    if there.type == "cuda":
        free, _ = torch.cuda.mem_get_info(there)
        check_free_memory(folder, source.offload, free)
    pipeline = _load(folder, there, source.offload)
    model = model_of(pipeline, source.clip, arguments)
    depth = PipelineDepth(load_depth(depth_folder, there))
    return PretrainedDynamics(
        model,
        depth,
        source.height,
        source.width,
        source.actions,
        source.action_dim,
        source.chunks,
    )


def pinned(name: str, revision: str) -> str:
    """Return ``hub:owner/name@commit`` of a hub name, or a folder's name as it is.

    Raises InvalidInputError for a hub name without a commit, since a branch or a tag may change,
    and for a folder with a revision.
    """
    if not name.startswith(HUB):
        if revision:
            raise InvalidInputError(f"revision {revision!r} needs a hub repository, not {name!r}")
        return name
    repository, at = split_repository(name.removeprefix(HUB), revision or None)
    if at is None or not _COMMIT.fullmatch(at):
        raise InvalidInputError(
            f"{name} at revision {at!r}: give the commit (40 hexadecimal digits; on the hub under "
            "'Files', 'History'), so that the world stays the same when the repository changes."
        )
    return f"{HUB}{repository}@{at}"


def adapter_of(pipeline: Any) -> Any:
    """Return the class of :data:`worldsim.runtime.registries.VIDEO_MODELS` for a pipeline.

    pipeline: a pipeline or its class.

    Raises InvalidInputError for an unknown call convention.
    """
    for name in VIDEO_MODELS:
        kind: Any = VIDEO_MODELS.of_user(name)
        if kind.accepts(pipeline):
            return kind
    title = pipeline.__name__ if isinstance(pipeline, type) else type(pipeline).__name__
    given = ", ".join(x for x in inspect.signature(pipeline.__call__).parameters if x != "self")
    raise InvalidInputError(
        f"no adapter calls {title}, which takes {given}: known conventions are "
        f"{', '.join(VIDEO_MODELS)}. docs/how_to/pretrained.md shows how to write an adapter."
    )


def model_of(
    pipeline: Any,
    clip: ClipConfig | None = None,
    arguments: Mapping[str, object] | None = None,
) -> VideoModel:
    """Return the video model made of a pipeline, by its call convention.

    clip: lengths of clips, sampling steps and prompt.
    arguments: further arguments of the pipeline's call.

    Raises InvalidInputError for an unknown convention.
    """
    model: VideoModel = adapter_of(pipeline)(pipeline, clip, arguments)
    return model


def part_bytes(folder: Path) -> dict[str, int]:
    """Return the bytes of the weights of each part of a pipeline's folder, in 16 bits."""
    sizes: dict[str, int] = {}
    for part in sorted(x for x in folder.iterdir() if x.is_dir()):
        files = [x for x in part.glob("*.safetensors") if not _is_variant_beside_plain(x)]
        if not files:
            continue
        stored = sum(x.stat().st_size for x in files)
        config = part / "config.json"
        kind = read_json(config).get("dtype") if config.is_file() else None
        half = kind in ("bfloat16", "float16") or any(".fp16." in x.name for x in files)
        sizes[part.name] = stored if half else stored // 2
    return sizes


def _is_variant_beside_plain(path: Path) -> bool:
    plain = path.with_name(path.name.replace(".fp16.", "."))
    return plain != path and plain.is_file()


def check_free_memory(folder: Path, offload: Offload, free: int) -> None:
    """Raise OutOfMemoryError if a pipeline does not fit into ``free`` bytes of GPU memory.

    The error says how much is needed and which offload helps. With sequential offload nothing is
    required.
    """
    sizes = part_bytes(folder)
    if not sizes:
        raise NotFoundError(
            f"{folder} has no weights as safetensors beside its {INDEX}: other formats can run "
            "code when they are read. Convert them with save_pretrained(safe_serialization=True)."
        )
    needed = {Offload.NONE: sum(sizes.values()), Offload.MODEL: max(sizes.values())}
    wanted = needed.get(offload, 0) * SPARE
    if wanted <= free:
        return
    largest = max(sizes, key=lambda part: sizes[part])
    ways = [way for way, size in needed.items() if size * SPARE <= free and way != offload]
    hint = f"offload={str(ways[0])!r} fits" if ways else "offload='sequential' needs least"
    raise OutOfMemoryError(
        f"{folder.name} needs about {_gigabytes(wanted)} of GPU memory, and {_gigabytes(free)} are "
        f"free: {hint}. Its largest part is {largest} ({_gigabytes(sizes[largest])})."
    )


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _load(folder: Path, device: torch.device, offload: Offload) -> Any:
    """Load a video pipeline from a checked folder."""
    from diffusers import DiffusionPipeline

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    pipeline = read_pipeline(folder, partial(DiffusionPipeline.from_pretrained, folder), dtype)
    if device.type == "cpu" or offload == Offload.NONE:
        return pipeline.to(device)
    if offload == Offload.MODEL:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    return pipeline


def licences_of(source: PretrainedSource) -> str:
    """Return the licences that the models of a world declare, as a text for its card.

    On the hub, the model card of the pinned commit is read.
    """
    told = []
    for name, revision in (
        (source.pipeline, source.revision),
        (source.depth, source.depth_revision),
    ):
        found = licence_of(_card_folder(name, revision))
        told.append(f"{name.removeprefix(HUB)}: {found or 'no licence declared'}")
    return f"Models: {'; '.join(told)}. Their licences apply to what they generate."


def _card_folder(name: str, revision: str) -> Path:
    """Return a folder with the model card, which may be missing."""
    if not name.startswith(HUB):
        return Path(name)
    repository, at = split_repository(name.removeprefix(HUB), revision or None)
    try:
        return download(repository, at, ["README.md"], "model card")
    except NotFoundError:
        return Path(HUB)  # Where no card lies.


def licence_of(folder: Path) -> str | None:
    """Return the licence that a repository's README.md declares, None if it declares none."""
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    if not path.is_file():
        return None
    try:
        found = ModelCard.load(path).data.to_dict().get("license")
    except (ValueError, OSError):
        return None
    return None if found is None else str(found)
