"""Painters by the name that a user gives.

Only users give such names, in a command or in Python: no file names a pipeline. Weights are read
from safetensors only, and nothing in a folder or a repository runs code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from worldsim.camera import default_intrinsics
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError, UntrustedFileError
from worldsim.painting.depth import AlignConfig, PipelineDepth
from worldsim.painting.diffusers_painter import DiffusersPainter
from worldsim.painting.inpaint import InpaintConfig
from worldsim.painting.painter import DEFAULT_PAINTER, open_painter
from worldsim.protocols import Painter, PainterSpec
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.extras import missing
from worldsim.runtime.files import is_file, is_folder
from worldsim.runtime.json_config import read_json
from worldsim.world.files import HUB, download, split_repository

PREFIX = "diffusers:"
"""Prefix of names of a diffusers pipeline with its depth estimator."""
INDEX = "model_index.json"
DEPTH_FILES = ("*.json", "*.safetensors")
"""Files of a depth estimator that are downloaded."""
VARIANTS = (None, "fp16")
"""Variants of a pipeline's weights, in order of preference. Some repositories have safetensors of
the second only."""
CHECK = ": check the name, the disk and the network"
LIBRARIES = ("diffusers", "transformers")
"""Libraries whose classes a pipeline's folder may name."""
PICTURE_SPEC = PainterSpec(512, 512, default_intrinsics(512, 512), views=8)
"""Square views of 512 pixels and 90 degrees."""


def painter_by_name(
    name: str = DEFAULT_PAINTER, device: torch.device | str | None = None
) -> Painter:
    """Load the painter that a user names.

    name: a shipped painter, the folder of one, or ``diffusers:PIPELINE,DEPTH`` for
        :func:`load_diffusers_painter`. A painter of the last kind is a
        :class:`worldsim.protocols.PromptPainter`: give it a text with ``with_prompt``.
    device: by default the GPU if there is one.
    """
    if name.startswith(PREFIX):
        return load_diffusers_painter(name, device=device)
    return open_painter(name, device=device)


def load_diffusers_painter(
    name: str,
    spec: PainterSpec = PICTURE_SPEC,
    prompt: str = "",
    inpaint: InpaintConfig | None = None,
    align: AlignConfig | None = None,
    device: torch.device | str | None = None,
) -> DiffusersPainter:
    """Load a painter from an inpainting pipeline and a depth estimator.

    name: ``diffusers:PIPELINE,DEPTH``. Each is a folder or ``hub:owner/name``, optionally with
        ``@revision``. Only names that start with ``hub:`` cause a request to the hub.
    spec, prompt, inpaint, align: see :class:`worldsim.painting.diffusers_painter.DiffusersPainter`.
    device: by default the GPU if there is one. GPUs run pipelines in bfloat16, CPUs in float32.

    Raises InvalidInputError, NotFoundError, DamagedFileError, MissingDependencyError, or
    UntrustedFileError for a pipeline that names classes of other libraries.
    """
    pipeline, comma, depth = name.removeprefix(PREFIX).rpartition(",")
    if not name.startswith(PREFIX) or not comma or not pipeline or not depth:
        raise InvalidInputError(
            f"painter {name!r}: write {PREFIX}PIPELINE,DEPTH, each a folder or {HUB}owner/name: an "
            "inpainting pipeline of diffusers and a depth-estimation model of transformers."
        )
    require_transformers()
    there = resolve_device(device)
    folders = find_pipeline(pipeline), find_depth(depth)
    loaded = _load_pipeline(folders[0], there)
    estimator = PipelineDepth(load_depth(folders[1], there))
    return DiffusersPainter(loaded, estimator, spec, prompt, inpaint, align)


def check_pipeline_folder(folder: Path) -> type:
    """Check the ``model_index.json`` of a pipeline's folder, and return the pipeline's class.

    diffusers imports the libraries that this file names, so only :data:`LIBRARIES` and diffusers'
    own pipelines may be named. Raises NotFoundError, DamagedFileError or UntrustedFileError.
    """
    import diffusers

    path = folder / INDEX
    if not is_file(path):
        raise NotFoundError(f"{folder} is not a pipeline of diffusers: it has no {INDEX}")
    index = read_json(path)
    if not isinstance(index, dict) or not isinstance(name := index.get("_class_name"), str):
        raise UntrustedFileError(
            f"{path} names no class of diffusers: only pipelines that diffusers itself has are "
            "loaded. Load others yourself and pass them to DiffusersPainter."
        )
    for part, value in index.items():
        library = value[0] if isinstance(value, list) and len(value) == 2 else None
        if part.startswith("_") or library is None:
            continue
        if library not in LIBRARIES and not _is_pipeline_module(library):
            raise UntrustedFileError(
                f"{path} names the library {library!r} for {part!r}: only classes of "
                f"{' and '.join(LIBRARIES)} are loaded."
            )
    if nested := [str(x) for x in folder.rglob(INDEX) if x != path]:
        raise UntrustedFileError(f"{nested[0]} is a pipeline inside a pipeline: it is not loaded.")
    found = getattr(diffusers, name, None)
    if not isinstance(found, type) or not issubclass(found, diffusers.DiffusionPipeline):
        raise DamagedFileError(f"{path} names {name!r}, which is no pipeline of diffusers.")
    return found


def _is_pipeline_module(library: object) -> bool:
    """Return whether ``library`` is a module of diffusers' pipelines, such as stable_diffusion."""
    from diffusers import pipelines

    module = getattr(pipelines, library, None) if isinstance(library, str) else None
    return isinstance(module, ModuleType) and module.__name__.startswith("diffusers.pipelines.")


def find_pipeline(name: str) -> Path:
    """Return the folder of a pipeline, downloaded if ``name`` says so."""
    if not name.startswith(HUB):
        if not is_folder(name):
            raise NotFoundError(f"no pipeline {name!r}: give a folder or {HUB}owner/name.")
        return Path(name)
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, revision = split_repository(name.removeprefix(HUB), None)
    first = download(repository, revision, [INDEX], "pipeline", CHECK)
    check_pipeline_folder(first)
    errors: list[Exception] = []
    for variant in VARIANTS:
        # diffusers chooses the files. The folder's name is the commit that was checked.
        settings: dict[str, Any] = {"revision": first.name, "variant": variant}
        try:
            found = DiffusionPipeline.download(
                repository, use_safetensors=True, trust_remote_code=False, **settings
            )
            return Path(found)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            errors.append(error)
    raise NotFoundError(
        f"the pipeline {repository!r} cannot be downloaded ({type(errors[0]).__name__}: "
        f"{errors[0]}){CHECK}; its weights must be safetensors."
    ) from errors[0]


def _load_pipeline(folder: Path, device: torch.device) -> Any:
    """Load an inpainting pipeline, or the inpainting pipeline of the same parts."""
    import diffusers

    found: Any = check_pipeline_folder(folder)
    paints = "mask_image" in inspect.signature(found.__call__).parameters
    loader: Any = diffusers.DiffusionPipeline if paints else diffusers.AutoPipelineForInpainting
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return read_pipeline(
        folder,
        lambda **settings: loader.from_pretrained(folder, **settings).to(device, dtype),
        dtype,
        " as an inpainting pipeline",
    )


def read_pipeline(
    folder: Path, load: Callable[..., Any], dtype: torch.dtype, kind: str = ""
) -> Any:
    """Read a pipeline from a checked folder, in the first variant of its weights that is there.

    load: reads it, with the arguments of diffusers' ``from_pretrained``.
    kind: what it is read as, for the error.

    Raises DamagedFileError.
    """
    settings = {"dtype": dtype, "use_safetensors": True, "local_files_only": True}
    errors: list[Exception] = []
    for variant in VARIANTS:
        try:
            pipeline = load(variant=variant, **settings)
            pipeline.set_progress_bar_config(disable=True)
            return pipeline
        except LOADING_ERRORS as error:
            errors.append(error)
    raise DamagedFileError(
        f"{folder} cannot be loaded{kind} ({type(errors[0]).__name__}: {errors[0]}): its parts "
        f"must be those of its {INDEX}, with weights as safetensors."
    ) from errors[0]


def find_depth(name: str) -> Path:
    """Return the folder of a depth estimator, downloaded if ``name`` says so."""
    if name.startswith(HUB):
        repository, revision = split_repository(name.removeprefix(HUB), None)
        return download(repository, revision, DEPTH_FILES, "depth estimator", CHECK)
    if not is_file(Path(name) / "config.json"):
        raise NotFoundError(
            f"no depth estimator {name!r}: give a folder with a config.json or {HUB}owner/name."
        )
    return Path(name)


def load_depth(folder: Path, device: torch.device) -> Any:
    """Load a depth-estimation pipeline of transformers in float32."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation, pipeline

    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model = AutoModelForDepthEstimation.from_pretrained(
            folder, use_safetensors=True, **settings
        )
        processor = AutoImageProcessor.from_pretrained(folder, **settings)
        return pipeline("depth-estimation", model=model, image_processor=processor, device=device)
    except LOADING_ERRORS as error:
        raise DamagedFileError(
            f"{folder} cannot be loaded for depth estimation ({type(error).__name__}: {error}): a "
            "config.json, weights as safetensors and a preprocessor_config.json are needed."
        ) from error


def require_transformers() -> None:
    """Raise MissingDependencyError unless transformers is installed."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise missing("a painter of diffusers needs transformers", "painter", error) from error


LOADING_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
)
"""Errors of loading from a folder with missing or wrong files."""
