"""New places for the page: painted in a thread, with their views shown while they get clearer."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from PIL import Image
from torch import Tensor

from worldsim.errors import InvalidInputError, NotFoundError, WorldsimError
from worldsim.painting.painter import DEFAULT_PAINTER, NetworkPainter
from worldsim.painting.places.folder import save_generated
from worldsim.painting.places.new_places import (
    NewPlace,
    PlaceRequest,
    conditions_of,
    paint_request,
    preview_passes,
)
from worldsim.painting.places.pictures import open_pictures
from worldsim.painting.places.place import PlaceConfig
from worldsim.painting.pretrained import painter_by_name
from worldsim.painting.sampling import frames_of
from worldsim.painting.words.attributes import AttributePrior, open_prior
from worldsim.painting.words.prompt import parse_prompt
from worldsim.painting.words.recogniser import AttributeRecogniser, open_recogniser
from worldsim.protocols import Painter, PromptPainter, identity_of
from worldsim.runtime.files import make_folder
from worldsim.runtime.json_config import check_ranges
from worldsim.world.scene_files import StartFrames

KEPT_JOBS = 8
"""Finished jobs that can still be asked for."""


@dataclass(frozen=True)
class PaintingConfig:
    """How the page's new places are painted."""

    painter: str = DEFAULT_PAINTER
    """Painter: a shipped one's name, a folder, or ``diffusers:PIPELINE,DEPTH``."""
    num_inference_steps: Annotated[int, Ge(1), Le(1000)] | None = None
    """Sampling steps of places that do not ask for a number. By default those that the painter
    recommends."""
    device: str | None = None
    """Device of the painter. By default CUDA if it is available."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class Job:
    """One place that is being painted, or was.

    share: of the work that is done, in [0, 1].
    views: WebP pictures of the views, as clear as they are.
    version: grows whenever the views change.
    folder: name of the place's folder once it is finished.
    """

    key: str
    share: float = 0.0
    message: str = "The painter is loaded."
    views: list[bytes] = field(default_factory=list)
    version: int = 0
    folder: str = ""
    error: str = ""
    cancelled: bool = False

    @property
    def running(self) -> bool:
        """Whether the painter is at it."""
        return not self.folder and not self.error


class _CancelledError(Exception):
    """The visitor has closed the dialog or begun another place."""


class Painting:
    """Paints one place at a time into ``folder``.

    folder: each place becomes a folder in it.
    config: painter and settings.
    painter: a loaded painter, instead of that of ``config``.
    """

    def __init__(
        self, folder: Path, config: PaintingConfig | None = None, painter: Painter | None = None
    ) -> None:
        self.folder, self.config = folder, config or PaintingConfig()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._painter = painter
        self._prior: AttributePrior | None = None
        self._recogniser: AttributeRecogniser | None = None

    def start(self) -> Job:
        """Return a new job. Raises InvalidInputError while another one is running."""
        with self._lock:
            if any(job.running for job in self._jobs.values()):
                raise InvalidInputError(
                    "a place is being painted already: wait for it, or cancel it."
                )
            for key in list(self._jobs)[: -KEPT_JOBS + 1]:
                del self._jobs[key]
            job = Job(secrets.token_urlsafe(8))
            self._jobs[job.key] = job
            return job

    def job(self, key: str) -> Job:
        """Return a job. Raises NotFoundError."""
        try:
            return self._jobs[key]
        except KeyError:
            raise NotFoundError(f"there is no painting {key!r}: begin a new one.") from None

    def paint(
        self, job: Job, prompt: str, seed: int, picture: Path | None, steps: int | None = None
    ) -> None:
        """Paint the place of a job. What goes wrong is told by the job.

        picture: a file that shows the place, or None.
        steps: sampling steps; by default those of the config.
        """
        try:
            job.folder = self._paint(job, prompt, seed, picture, steps)
            job.share = 1.0
        except _CancelledError:
            job.error = "The painting was cancelled."
        except WorldsimError as error:
            text = str(error) if picture is None else str(error).replace(str(picture), "the file")
            job.error = " ".join(text.split())
        except Exception as error:
            job.error = f"The painter failed ({type(error).__name__}: {error})."
            raise

    def _paint(
        self, job: Job, prompt: str, seed: int, picture: Path | None, steps: int | None
    ) -> str:
        painter = _with_steps(self._load(), steps or self.config.num_inference_steps)
        notice = ""
        if prompt.strip() and not isinstance(painter, PromptPainter):
            notice = parse_prompt(prompt, painter.spec.attributes).notice or ""
        pictures = None if picture is None else open_pictures((picture,), painter.spec)
        request = PlaceRequest(
            prompt=prompt,
            pictures=pictures,
            config=PlaceConfig(),
            prior=self._prior,
            recogniser=self._recogniser,
        )
        # Words that are not understood are told before anything is painted.
        conditions_of(request, painter, np.random.default_rng(0))
        job.message = " ".join(["The views get clearer.", notice]).strip()
        with _Watched(painter, job, preview_passes(painter, request)):
            made = paint_request(painter, request, seed)
        job.message = "The place is written."
        _show(job, made.place.frames.rgb)
        return self._save(made, prompt, seed, painter)

    def _load(self) -> Painter:
        if self._painter is None:
            self._painter = painter_by_name(self.config.painter, device=self.config.device)
            # Both are optional parts of a painter's folder.
            with contextlib.suppress(NotFoundError):
                self._prior = open_prior(self.config.painter)
            with contextlib.suppress(NotFoundError):
                self._recogniser = open_recogniser(self.config.painter)
        return self._painter

    def _save(self, made: NewPlace, prompt: str, seed: int, painter: Painter) -> str:
        make_folder(self.folder)
        words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "place"
        names = (f"{words}-{i}" for i in itertools.count(1))
        name = next(name for name in names if not (self.folder / name).exists())
        told = {
            "command": "play",
            "prompt": prompt,
            "painter_sha256": identity_of(painter).weights,
            "seed": seed,
            **made.told(),
        }
        place = made.place
        starts = [StartFrames(i) for i in range(len(place.frames.rgb))]
        save_generated(self.folder / name, place.frames, place.intrinsics, place.data, starts, told)
        return name


def _with_steps(painter: Painter, steps: int | None) -> Painter:
    """Return the painter with another number of sampling steps, if it has such a setting."""
    if steps is None or not isinstance(painter, NetworkPainter):
        return painter
    config = replace(painter.config, num_inference_steps=steps)
    return NetworkPainter(painter.network, painter.spec, config)


class _Watched:
    """Context in which a job shows what the painter's network predicts.

    Only a :class:`NetworkPainter` can be watched; with another one, the job shows the result alone.

    previews: runs of the network for candidates, which come first.
    """

    def __init__(self, painter: Painter, job: Job, previews: int) -> None:
        self.painter, self.job, self.previews = painter, job, previews
        self._remove: Callable[[], None] = lambda: None

    def __enter__(self) -> _Watched:
        if not isinstance(self.painter, NetworkPainter):
            return self
        settings, runs = self.painter.config, itertools.count(1)
        guided = settings.guidance_scale != 1.0
        passes = self.previews + settings.num_inference_steps * (2 if guided else 1)

        def after(_: torch.nn.Module, __: object, predicted: Tensor) -> None:
            run = next(runs)
            if self.job.cancelled:
                raise _CancelledError
            self.job.share = min(0.97, 0.97 * run / passes)
            # Every second pass of a guided painter is without the words.
            if not guided or run % 2:
                # Of places side by side, the first one.
                flat = predicted[:1].flatten(0, 1).float()
                poses = torch.eye(4, device=flat.device).expand(len(flat), 4, 4)
                _show(self.job, frames_of(flat, poses).rgb)

        self._remove = self.painter.network.register_forward_hook(after).remove
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()


def _show(job: Job, rgb: Tensor) -> None:
    """Show frames (n, 3, h, w) uint8 as a job's views."""
    views = []
    for picture in rgb.permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "WEBP", quality=90)
        views.append(file.getvalue())
    job.views, job.version = views, job.version + 1
