"""Straight surfaces: painted depth without the noise that makes walls ragged.

The inverse depth of a plane is an affine function of the pixel. So each pixel takes the value of
the affine function that fits its neighbourhood best, of those neighbours that seem to lie on the
same surface: the bilateral weights of Tomasi and Manduchi (1998), with local planes instead of
local means. A median then takes single pixels that no plane fits.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import DEPTH_CODES
from worldsim.state import Frame

RADIUS = 4
"""Pixels to each side of the neighbourhood."""
SPREAD = 0.08
"""Standard deviation of the weights by differences of inverse depth, relative to its value."""
COLOUR_SPREAD = 40.0
"""Standard deviation of the weights by differences of colour, of 255."""
LEAST_WEIGHT = 6.0
"""Smallest sum of weights of a fit."""
MEDIAN = 5
"""Side of the square of pixels whose median is taken."""
RIDGE = 1e-3
"""Added to the fit's normal equations, which are singular along thin surfaces."""


def straighten(frame: Frame, keep: Tensor, passes: int) -> Frame:
    """Return painted views whose surfaces are locally plane, without speckles.

    frame: the views (n, ...), with depth.
    keep: (n, h, w) bool, pixels whose depth stays as it is. They count in the fits of others.
    passes: number of passes.
    """
    code = frame.inverse_depth
    assert code is not None
    value = code.float()
    solid = code > 0
    for _ in range(passes):
        value = torch.where(keep | ~solid, value, _pass(value, solid, frame.rgb.float()))
    if passes:
        middle = _median(value)
        value = torch.where(keep | ~solid | (middle == 0), value, middle)
    found = value.round().clamp(1, DEPTH_CODES).int()
    return dataclasses.replace(frame, inverse_depth=torch.where(keep | ~solid, code, found))


def _pass(value: Tensor, solid: Tensor, rgb: Tensor) -> Tensor:
    """Return the fitted inverse depth (n, h, w)."""
    n, h, w = value.shape
    side = 2 * RADIUS + 1
    axis = torch.arange(-RADIUS, RADIUS + 1, device=value.device).float()
    dy, dx = (x.flatten()[None, :, None] for x in torch.meshgrid(axis, axis, indexing="ij"))

    def around(x: Tensor) -> Tensor:
        """(n, c, side * side, h * w) of (n, c, h, w); 0 beyond the border."""
        return F.unfold(x, side, padding=RADIUS).view(n, x.shape[1], side * side, h * w)

    near = around(value[:, None])[:, 0]
    there = around(solid[:, None].float())[:, 0]
    middle = value.view(n, 1, h * w)
    gap = (near - middle) / (SPREAD * middle).clamp(min=1.0)
    colour = (around(rgb) - rgb.view(n, 3, 1, h * w)).square().sum(1) / 3.0
    weight = there * torch.exp(
        -0.5 * (gap.square() + colour / COLOUR_SPREAD**2 + (dx**2 + dy**2) / RADIUS**2)
    )
    # The normal equations of (a, b, c) in a + b dx + c dy, about the middle's value.
    basis = torch.stack([torch.ones_like(dx), dx / RADIUS, dy / RADIUS], -1).expand(1, -1, 1, 3)
    rest = (near - middle) * weight
    matrix = torch.einsum("nkp,akbi,akbj->npij", weight, basis, basis)
    right = torch.einsum("nkp,akbi->npi", rest, basis)
    matrix = matrix + RIDGE * torch.eye(3, device=value.device)
    fit = torch.linalg.solve(matrix, right)[..., 0].view(n, h, w)
    enough = weight.sum(1).view(n, h, w) >= LEAST_WEIGHT
    return torch.where(enough, value + fit, value)


def _median(value: Tensor) -> Tensor:
    """Return the median (n, h, w) of squares of :data:`MEDIAN` pixels a side; sky counts as 0."""
    n, h, w = value.shape
    edge = MEDIAN // 2
    padded = F.pad(value[:, None], (edge,) * 4, mode="replicate")
    return F.unfold(padded, MEDIAN).median(1).values.view(n, h, w)
