"""Paints places with any inpainting pipeline of diffusers and a depth estimator.

Views are painted one after another, as in Text2Room (Hoellein et al. 2023) and WonderJourney (Yu
et al. 2024): each view shows what is known of it, from the memory and from the views before it, and
the pipeline paints the rest. Depth is estimated in the painted picture and aligned with what is
known.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from worldsim.camera import TURN_METRES, Camera, code_to_channel, rotation_angle
from worldsim.errors import InvalidInputError
from worldsim.memory.gaps import close_gaps
from worldsim.memory.splat import frame_points, hole_view, view_of
from worldsim.painting.depth import (
    AlignConfig,
    PipelineDepth,
    align_inverse_depth,
    code_to_inverse_depth,
    inverse_depth_to_code,
    relative_inverse_depth,
)
from worldsim.painting.holes import fill_holes, inner, over
from worldsim.painting.inpaint import InpaintCall, InpaintConfig
from worldsim.painting.painter import check_inputs, keep_known
from worldsim.protocols import DepthEstimator, PainterIdentity, PainterSpec, PaintInputs, Setting
from worldsim.runtime.json_config import to_json
from worldsim.runtime.rng import Purpose, whole_seeds
from worldsim.state import (
    Frame,
    MemoryView,
    checksum,
    concatenate,
    map_tensors,
    weights_of_parts,
)

PLACE = "{attributes}"
"""Part of a prompt that the words of a place's attributes replace."""
PRESENT = 0.2
"""Smallest value of an attribute that is named in the prompt."""
SCALES: Mapping[str, tuple[str, str]] = {
    "light": ("dark", "bright"),
    "openness": ("narrow", "wide open"),
}
"""Words of attributes that are scales: below one third, and above two thirds."""


class DiffusersPainter:
    """Paints the views of a place one after another.

    pipeline: an inpainting pipeline of diffusers, or any callable with the arguments ``image``,
        ``mask_image`` and ``generator``; see :class:`worldsim.painting.inpaint.InpaintCall`.
    depth: estimates the depth of painted pictures.
    spec: size and camera of the views, and the names of attributes that the prompt may mention.
    prompt: describes all places. ``{attributes}`` in it stands for the words of a place
        (:func:`words_of`).
    inpaint: settings of the pipeline's call.
    align: how depth becomes metric.
    arguments: further arguments of the pipeline's call, such as ``negative_prompt``.

    Raises InvalidInputError for a pipeline that cannot be called this way, and for a prompt or
    attributes that it would not use.

    ::

        painter = DiffusersPainter(pipeline, depth, spec, prompt="a photo of a quiet library")
    """

    def __init__(
        self,
        pipeline: Any,
        depth: DepthEstimator,
        spec: PainterSpec,
        prompt: str = "",
        inpaint: InpaintConfig | None = None,
        align: AlignConfig | None = None,
        arguments: Mapping[str, object] | None = None,
    ) -> None:
        if not isinstance(depth, DepthEstimator):
            raise InvalidInputError(
                f"{type(depth).__name__} has no method `estimate`: give a DepthEstimator, such as "
                "worldsim.painting.depth.PipelineDepth."
            )
        self.depth, self._spec = depth, spec
        self.call, self.align = InpaintCall(pipeline, inpaint, arguments), align or AlignConfig()
        self.prompt = self._check_prompt(prompt)

    @property
    def spec(self) -> PainterSpec:
        """What the painter paints."""
        return self._spec

    @cached_property
    def weights_id(self) -> str:
        """SHA-256 of the weights of the pipeline and the depth estimator, empty without weights."""
        parts = {**getattr(self.call.pipeline, "components", {})}
        parts["depth"] = getattr(getattr(self.depth, "pipeline", self.depth), "model", None)
        weights = weights_of_parts(parts)
        return checksum(weights) if weights else ""

    def identify(self) -> PainterIdentity:
        """See :meth:`worldsim.protocols.IdentifiedPainter.identify`."""
        scheduler = getattr(self.call.pipeline, "scheduler", None)
        parts: dict[str, Mapping[str, object]] = {
            "inpaint": to_json(self.config),
            "align": to_json(self.align),
            "arguments": self.call.further,
            "scheduler": dict(getattr(scheduler, "config", {})),
        }
        settings: dict[str, Setting] = {
            "pipeline": self.call.name,
            "prompt": self.prompt,
            "depth": type(self.depth).__qualname__,
            "metric": self.depth.metric if isinstance(self.depth, PipelineDepth) else None,
            "scheduler": None if scheduler is None else type(scheduler).__qualname__,
        }
        for part, values in parts.items():
            for name, value in values.items():
                # Private keys hold versions.
                if not name.startswith("_"):
                    settings[f"{part}.{name}"] = _setting(value)
        return PainterIdentity(self.weights_id, settings)

    @property
    def config(self) -> InpaintConfig:
        """Settings of the pipeline's call. Assign others to change them."""
        return self.call.config

    @config.setter
    def config(self, config: InpaintConfig) -> None:
        self.call = InpaintCall(self.call.pipeline, config, self.call.further)

    def with_prompt(self, prompt: str) -> DiffusersPainter:
        """Return the same painter with another prompt."""
        changed = copy.copy(self)
        changed.prompt = self._check_prompt(prompt)
        return changed

    def paint(self, inputs: PaintInputs) -> Frame:
        """See :meth:`worldsim.protocols.Painter.paint`. Frames lie on the device of the inputs."""
        check_inputs(inputs, self.spec)
        places = [self._paint_place(inputs, place) for place in range(len(inputs))]
        return concatenate([frame for place in places for frame in place])

    def _check_prompt(self, prompt: str) -> str:
        """Return ``prompt`` if the pipeline and the attributes fit it."""
        name, attributes = self.call.name, ", ".join(self.spec.attributes)
        if not self.call.takes_prompt and (prompt or attributes):
            raise InvalidInputError(
                f"{name} takes no prompt, so it cannot follow {prompt or attributes!r}: give no "
                "prompt and a PainterSpec without attributes."
            )
        if bool(attributes) != (PLACE in prompt):
            raise InvalidInputError(
                f"the prompt {prompt!r} and the attributes {attributes or '()'} do not fit: with "
                f"attributes, write {PLACE} into the prompt where their words belong; without, "
                "leave it out."
            )
        return prompt

    def _paint_place(self, inputs: PaintInputs, place: int) -> list[Frame]:
        """Return the frames (1, ...) of one place in the order of its views."""
        n = inputs.pose.shape[1]
        views = [view_inputs(inputs, place, view) for view in range(n)]
        prompt = self._prompt_of(views[0])
        seeds = view_seeds(views[0].seed, views[0].step, n)
        painted: dict[int, Frame] = {}
        for view in painting_order(views):
            earlier = [painted[i] for i in sorted(painted)]
            painted[view] = self._paint_view(views[view], earlier, prompt, seeds[view])
        return [painted[view] for view in range(n)]

    def _paint_view(
        self, inputs: PaintInputs, earlier: Sequence[Frame], prompt: str, seed: int
    ) -> Frame:
        """Return the frame (1, ...) of one view; the frames ``earlier`` are whole."""
        view, pose = inputs.view, inputs.pose.flatten(0, 1)
        given = inputs.given is not None and bool(inputs.given)
        colour_only = given and inputs.colour_only is not None and bool(inputs.colour_only)
        if given and not colour_only:
            return Frame(view.rgb, view.inverse_depth, pose)
        before = self._splat(earlier, pose)
        if colour_only:
            known, rgb = before, view.rgb
        else:
            known = close_gaps(over(view, before))
            rgb = self._paint_holes(known, prompt, seed)
        relative = relative_inverse_depth(self.depth, rgb)
        aligned = align_inverse_depth(
            relative, code_to_inverse_depth(known.inverse_depth), known.mask, self.align
        )
        frame = Frame(rgb, inverse_depth_to_code(aligned), pose)
        return keep_known(frame, inputs if colour_only else replace(inputs, view=known), 1)

    def _paint_holes(self, known: MemoryView, prompt: str, seed: int) -> Tensor:
        """Return the picture (1, 3, h, w) of a view with its holes painted."""
        unknown = ~inner(known.mask[0])
        rgb = fill_holes(known.rgb[0], known.mask[0])
        if not bool(unknown.any()):
            return rgb[None]
        return self.call(rgb, unknown, prompt, seed)[None]

    def _splat(self, frames: Sequence[Frame], pose: Tensor) -> MemoryView:
        """Return the frames (1, ...) as seen from ``pose`` (1, 4, 4)."""
        spec = self.spec
        intrinsics = pose.new_tensor(spec.intrinsics)[None].float()
        camera = Camera(pose.float(), intrinsics, spec.height, spec.width)
        if not frames:
            return hole_view(camera)
        points = [_points_of(frame, replace(camera, pose=_pose_of(frame))) for frame in frames]
        position, colour, kind, source = (
            torch.cat(parts, -1) for parts in zip(*points, strict=True)
        )
        return view_of(position, colour, kind, source, camera)

    def _prompt_of(self, inputs: PaintInputs) -> str:
        """Return the prompt of one place."""
        values = None if inputs.attributes is None else inputs.attributes[0].tolist()
        told = None if inputs.told is None else inputs.told[0].tolist()
        words = [] if values is None else words_of(self.spec.attributes, values, told)
        return tidy(self.prompt.replace(PLACE, ", ".join(words)))


def _setting(value: object) -> Setting:
    """Return a value of a setting as a JSON value: tensors by their SHA-256, others as text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return checksum({"": value}) if isinstance(value, Tensor) else repr(value)


def words_of(
    names: Sequence[str], values: Sequence[float], told: Sequence[bool] | None = None
) -> list[str]:
    """Return the words that describe the attributes of a place.

    Attributes that are scales (:data:`SCALES`) give a word if they are low or high, and come
    first. Others give their name if their value is at least :data:`PRESENT`, the largest first.

    names: of the attributes.
    values: in [0, 1], one per name.
    told: which of them are given; None stands for all.
    """
    given = [True] * len(names) if told is None else told
    known = {name: value for name, value, here in zip(names, values, given, strict=True) if here}
    scales = [
        SCALES[name][int(value > 0.5)]
        for name, value in known.items()
        if name in SCALES and not 1 / 3 <= value <= 2 / 3
    ]
    shares = {name: x for name, x in known.items() if name not in SCALES and x >= PRESENT}
    return scales + [name.replace("_", " ") for name in sorted(shares, key=lambda x: -shares[x])]


def tidy(prompt: str) -> str:
    """Return a prompt without the commas and spaces around words that are missing."""
    return re.sub(r"\s*,(?:\s*,)+", ",", re.sub(r"\s+", " ", prompt)).strip(" ,")


def view_inputs(inputs: PaintInputs, place: int, view: int) -> PaintInputs:
    """Return the inputs of one view of one place, (1, 1, ...)."""
    row = place * inputs.pose.shape[1] + view

    def here(flags: Tensor | None) -> Tensor | None:
        return None if flags is None else flags[place : place + 1, view : view + 1]

    def of_place(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[place : place + 1]

    return PaintInputs(
        view=map_tensors(lambda x: x[row : row + 1], inputs.view),
        pose=inputs.pose[place : place + 1, view : view + 1],
        seed=inputs.seed[place : place + 1],
        step=inputs.step[place : place + 1],
        attributes=of_place(inputs.attributes),
        told=of_place(inputs.told),
        given=here(inputs.given),
        colour_only=here(inputs.colour_only),
    )


def view_seeds(seed: Tensor, step: Tensor, views: int) -> list[int]:
    """Return one seed in [0, 2^63) per view. seed, step: (1,) int64."""
    found: list[int] = whole_seeds(seed, step, Purpose.PAINT, views)[0].tolist()
    return found


def painting_order(views: Sequence[PaintInputs]) -> list[int]:
    """Return the order in which the views of a place are painted.

    Given views come first, those with depth before those without. Without any, the view that the
    memory covers most comes first. Each next one is the nearest to those before it.

    views: (1, 1, ...) each.
    """

    def flag(flags: Tensor | None) -> bool:
        return flags is not None and bool(flags)

    given = [i for i, view in enumerate(views) if flag(view.given)]
    order = sorted(given, key=lambda i: flag(views[i].colour_only))
    if not order:
        order = [max(range(len(views)), key=lambda i: (int(views[i].view.mask.sum()), -i))]
    pose = torch.cat([view.pose.flatten(0, 1) for view in views]).double().cpu()
    apart = (pose[:, None, :3, 3] - pose[None, :, :3, 3]).norm(dim=-1)
    # In centimetres, so that snapped poses at equal distances are equally near.
    distance = (apart + TURN_METRES * rotation_angle(pose[:, None], pose[None])).mul(100).round()
    while len(order) < len(views):
        left = [i for i in range(len(views)) if i not in order]
        order.append(min(left, key=lambda i: (float(distance[i, order].min()), i)))
    return order


def _points_of(frame: Frame, camera: Camera) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return position, colour, kind and source of a frame's pixels, as slots."""
    assert frame.inverse_depth is not None
    position, kind = frame_points(frame.inverse_depth, camera)
    source = (code_to_channel(frame.inverse_depth.flatten(1)) * 255.0).round().to(torch.uint8)
    return position, frame.rgb.flatten(2), kind, source


def _pose_of(frame: Frame) -> Tensor:
    assert frame.pose is not None
    return frame.pose.float()
