"""Depth of painted pictures: estimators of relative inverse depth, and their metric alignment.

An estimator such as MiDaS or Depth Anything knows depth only up to a scale and a shift of the
inverse depth. :func:`align_inverse_depth` fits both to the part of the view whose depth is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from worldsim.camera import DEPTH_CODES, DEPTH_NEAR
from worldsim.errors import InvalidInputError
from worldsim.painting.holes import nearest_known
from worldsim.protocols import DepthEstimator
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Number, Positive, Share
from worldsim.runtime.types import Array

METRIC_MODELS = ("depth_pro", "glpn", "prompt_depth_anything", "zoedepth")
"""Model types of transformers whose ``predicted_depth`` is depth in metres."""
ITERATIONS, SETTLED = 30, 1e-6
"""Largest number of iterations of the robust fit, and the relative change of scale and shift below
which it ends."""
FIT_PIXELS = 2048
"""Largest number of pixels that the fit reads. More make it slow and hardly better."""
FINE_PIXELS = 16384
"""Largest number of pixels whose sky and seam are computed one by one. Larger views are sampled."""
CAUCHY = 2.385
"""Residual, in robust standard deviations, at which a pixel's weight is one half: 95% efficiency
for normal errors (Holland and Welsch 1977)."""


@dataclass(frozen=True)
class AlignConfig:
    """How relative inverse depth becomes metric."""

    median_depth_m: Positive = 4.0
    """Median depth of a view of which no depth is known, metres."""
    farthest_m: Positive = 100.0
    """Largest depth of a surface, metres."""
    sky: Share = 0.01
    """Pixels whose relative inverse depth is below this share of the view's 98th percentile are
    sky, infinitely far. 0: nothing is sky."""
    least_overlap: Share = 0.01
    """Smallest share of a view's pixels with known depth that the fit needs."""
    seam: Number = 16
    """Distance in pixels over which the remaining error at the edge of the known part fades out. 0:
    it is not corrected."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.farthest_m <= DEPTH_NEAR:
            raise InvalidInputError(
                f"AlignConfig.farthest_m = {self.farthest_m}: give more than {DEPTH_NEAR} metres."
            )


class PipelineDepth:
    """Estimates depth with a ``depth-estimation`` pipeline of transformers.

    pipeline: called with a PIL picture; returns a mapping whose ``predicted_depth`` is a tensor.
    metric: whether ``predicted_depth`` is depth, which grows with the distance. None asks the
        pipeline's model (``depth_estimation_type`` or ``model_type`` of its config). Without an
        answer, it is taken as relative inverse depth.

    ::

        from transformers import pipeline
        depth = PipelineDepth(pipeline("depth-estimation", model="my-depth-model"))
    """

    def __init__(self, pipeline: Any, metric: bool | None = None) -> None:
        if not callable(pipeline):
            raise InvalidInputError(
                f"{type(pipeline).__name__} cannot be called: give a depth-estimation pipeline, as "
                "transformers.pipeline('depth-estimation', model=...) returns it."
            )
        self.pipeline = pipeline
        self.metric = predicts_metres(pipeline) if metric is None else metric

    def estimate(self, rgb: Tensor) -> Tensor:
        """See :meth:`worldsim.protocols.DepthEstimator.estimate`.

        Pictures are estimated one by one, so they do not depend on one another.
        """
        return torch.stack([self._estimate(picture) for picture in rgb])

    def _estimate(self, rgb: Tensor) -> Tensor:
        """Return (h, w) of one picture (3, h, w)."""
        name = type(self.pipeline).__name__
        found = self.pipeline(Image.fromarray(rgb.permute(1, 2, 0).contiguous().cpu().numpy()))
        if isinstance(found, (list, tuple)) and len(found) == 1:
            found = found[0]
        try:
            predicted = torch.as_tensor(found["predicted_depth"]).detach().float()
        except (KeyError, TypeError, IndexError) as error:
            raise InvalidInputError(
                f"{name} returns {type(found).__name__} without 'predicted_depth': give a "
                "depth-estimation pipeline of transformers."
            ) from error
        predicted = predicted.to(rgb.device).squeeze()
        if predicted.ndim != 2:
            raise InvalidInputError(
                f"{name} returns predicted_depth of shape {tuple(predicted.shape)} for one "
                "picture: (h, w) is needed."
            )
        if predicted.shape != rgb.shape[1:]:
            size = [int(x) for x in rgb.shape[1:]]
            predicted = F.interpolate(predicted[None, None], size, mode="bilinear")[0, 0]
        if self.metric:
            predicted = 1.0 / predicted.clamp(min=DEPTH_NEAR)
        return predicted.clamp(min=0.0)


def predicts_metres(pipeline: Any) -> bool:
    """Return whether the config of the pipeline's model says that it predicts metric depth."""
    config = getattr(getattr(pipeline, "model", None), "config", None)
    return (
        getattr(config, "depth_estimation_type", None) == "metric"
        or getattr(config, "model_type", None) in METRIC_MODELS
    )


def relative_inverse_depth(estimator: DepthEstimator, rgb: Tensor) -> Tensor:
    """Return the estimate of ``estimator`` for pictures (m, 3, h, w) uint8, checked.

    Raises InvalidInputError for an estimate of another shape or with numbers that are not finite.
    """
    relative = estimator.estimate(rgb)
    wanted, name = (len(rgb), *rgb.shape[2:]), type(estimator).__name__
    if not isinstance(relative, Tensor) or tuple(relative.shape) != wanted:
        found = tuple(relative.shape) if isinstance(relative, Tensor) else type(relative).__name__
        raise InvalidInputError(f"{name}.estimate returns {found}: {wanted} is needed.")
    # NaN and infinity show in the ends of the range, which are found in one pass.
    if relative.numel() and not all(math.isfinite(float(end)) for end in relative.aminmax()):
        raise InvalidInputError(
            f"{name}.estimate returns numbers that are NaN or infinite: load its model in float32."
        )
    return relative.to(rgb.device).float().clamp(min=0.0)


def align_inverse_depth(
    relative: Tensor, known: Tensor, mask: Tensor, config: AlignConfig | None = None
) -> Tensor:
    """Convert relative inverse depths to metric ones, each view by its own scale and shift.

    Scale and shift minimise the error of the inverse depth on the known pixels, by iteratively
    reweighted least squares with Cauchy weights, started from medians. Sky is left out. If the fit
    finds no positive scale, as on a flat wall, only a scale is fitted. A view with too few known
    pixels gets the median depth ``config.median_depth_m``.

    relative: (m, h, w), larger is nearer, not negative.
    known: (m, h, w) inverse depth in 1/m, 0 = infinitely far; read where ``mask`` is True.
    mask: (m, h, w) bool.

    Returns (m, h, w) float32 inverse depth in 1/m: 0 at sky, elsewhere at least
    ``1 / config.farthest_m``.
    """
    config = config or AlignConfig()
    views = zip(relative, known, mask, strict=True)
    return torch.stack([_align(*view, config) for view in views])


def _align(relative: Tensor, known: Tensor, mask: Tensor, config: AlignConfig) -> Tensor:
    """Align one view (h, w).

    Everything but the last three passes reads every k-th pixel of every k-th row, at most
    :data:`FINE_PIXELS` of them: scale, shift and seam vary slowly.
    """
    whole = relative.detach().float().cpu().numpy()
    k = max(1, math.ceil(math.sqrt(whole.size / FINE_PIXELS)))
    x = whole[k // 2 :: k, k // 2 :: k].astype(np.float64)
    y = known[k // 2 :: k, k // 2 :: k].detach().double().cpu().numpy()
    horizon = config.sky * np.percentile(x, 98)
    sky = x < horizon
    used = mask[k // 2 :: k, k // 2 :: k].cpu().numpy() & ~sky & (y > 0)
    if used.mean() >= config.least_overlap and used.any():
        scale, shift = fit_scale_and_shift(_thin(x[used]), _thin(y[used]))
    else:
        middle = float(np.median(x[~sky])) if bool((~sky).any()) else 0.0
        # Without any contrast, the whole view lies at the median depth.
        scale, shift = (1.0 / middle, 0.0) if middle > 0 else (0.0, 1.0)
        scale, shift = scale / config.median_depth_m, shift / config.median_depth_m
        used = np.zeros_like(used)
    aligned = whole * np.float32(scale)
    aligned += np.float32(shift)
    if config.seam and used.any():
        seam = _fading(np.where(used, y - (scale * x + shift), 0.0), used, config.seam, k)
        if k > 1:
            seam = cv2.resize(seam, whole.shape[::-1], interpolation=cv2.INTER_LINEAR)
        aligned += seam
    np.clip(aligned, 1.0 / config.farthest_m, 1.0 / DEPTH_NEAR, out=aligned)
    aligned[whole < horizon] = 0.0
    return torch.from_numpy(aligned).to(relative.device)


def _thin(values: Array) -> Array:
    """Return at most :data:`FIT_PIXELS` of the values (n,), evenly spaced."""
    if len(values) <= FIT_PIXELS:
        return values
    return values[np.linspace(0, len(values) - 1, FIT_PIXELS).astype(np.int64)]


def fit_scale_and_shift(x: Array, y: Array) -> tuple[float, float]:
    """Return scale and shift with ``y = scale * x + shift``, robust to a minority of outliers.

    x, y: (n,) relative and metric inverse depths, all y positive.

    The scale is not negative. Where ``x`` and ``y`` do not rise together, the shift is 0.
    """
    middle, spread = np.median(x), np.median(np.abs(x - np.median(x)))
    scale = np.median(np.abs(y - np.median(y))) / max(spread, 1e-12)
    shift = np.median(y) - scale * middle
    for _ in range(ITERATIONS):
        residual = y - (scale * x + shift)
        deviation = 1.4826 * np.median(np.abs(residual)) + 1e-9
        weight = 1.0 / (1.0 + np.square(residual / (CAUCHY * deviation)))
        weight /= weight.sum()
        mean_x, mean_y = weight @ x, weight @ y
        variance = weight @ np.square(x - mean_x)
        if variance <= 1e-10 * max(mean_x * mean_x, 1e-12):
            scale = 0.0
            break
        before = scale, shift
        scale = weight @ ((x - mean_x) * (y - mean_y)) / variance
        shift = mean_y - scale * mean_x
        if abs(before[0] - scale) <= SETTLED * abs(scale) and abs(before[1] - shift) <= (
            SETTLED * abs(shift)
        ):
            break
    if scale > 0:
        return float(scale), float(shift)
    if middle > 0:
        return float(np.median(y / np.maximum(x, 1e-12))), 0.0
    return 0.0, float(np.median(y))


def _fading(residual: Array, used: Array, reach: int, step: int) -> Array:
    """Return the residual (h, w) of the known pixels, continued beyond them and fading out.

    step: distance of neighbouring values in pixels of the picture.

    Returns float32.
    """
    window = (7, 7) if step == 1 else (3, 3)
    counts = cv2.blur(used.astype(np.float64), window)
    smooth = cv2.blur(residual, window) / np.maximum(counts, 1e-9)
    distance, nearest = nearest_known(used)
    faded = smooth.reshape(-1)[nearest] * np.exp(-step * distance / reach)
    return faded.astype(np.float32)


def inverse_depth_to_code(inverse: Tensor) -> Tensor:
    """Convert inverse depth in 1/m to int32 codes (:func:`worldsim.camera.quantise_depth`)."""
    return torch.round(inverse * (DEPTH_CODES * DEPTH_NEAR)).clamp(0, DEPTH_CODES).to(torch.int32)


def code_to_inverse_depth(code: Tensor) -> Tensor:
    """Convert codes to inverse depth in 1/m, float32; code 0 is 0."""
    return code.float() * (1.0 / (DEPTH_CODES * DEPTH_NEAR))
