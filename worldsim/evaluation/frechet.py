"""Fréchet and kernel distances between sets of pictures, in the features of a frozen encoder.

FD: Heusel et al. 2017, "GANs trained by a two time-scale update rule". KD: Binkowski et al. 2018,
    "Demystifying MMD GANs". Both compare (n, d) features. Fewer samples give a larger FD, so
    compare equal counts only, and compare to a floor measured between real sets of the same size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

BLOCKS = 20
"""Parts of the samples whose kernel distances give the interval of their mean."""
DRAWS = 100
"""Bootstrap draws of the Fréchet distance."""


@dataclass(frozen=True)
class Distance:
    """A distance with its 95% interval."""

    value: float
    low: float
    high: float


def _check(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, x in (("first", a), ("second", b)):
        if x.ndim != 2 or len(x) < 2 or not bool(torch.isfinite(x).all()):
            raise InvalidInputError(
                f"the {name} features have shape {tuple(x.shape)} or numbers that are not finite: "
                "give (n, d) finite features with n of 2 or more."
            )
    if a.shape[1] != b.shape[1]:
        raise InvalidInputError(
            f"features of {a.shape[1]} and {b.shape[1]} dimensions do not compare: use one encoder."
        )
    return a.double(), b.double()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of features (n, d) and (m, d).

    Means and unbiased covariances, float64. Raises InvalidInputError.
    """
    a, b = _check(a, b)
    cov_a, cov_b = torch.atleast_2d(torch.cov(a.T)), torch.atleast_2d(torch.cov(b.T))
    value, vector = torch.linalg.eigh(cov_a)
    root = vector * value.clamp(min=0).sqrt() @ vector.T
    # C_a C_b and root C_b root have the same eigenvalues, and the latter is symmetric.
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    shift = (a.mean(0) - b.mean(0)).square().sum()
    return max(0.0, float(shift + cov_a.trace() + cov_b.trace() - 2 * cross))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Return the unbiased squared MMD of features (n, d) and (m, d), kernel (x y / d + 1)^3.

    It may be slightly negative if the sets agree. Raises InvalidInputError.
    """
    a, b = _check(a, b)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1.0) ** 3

    def within(x: Tensor) -> Tensor:
        k = kernel(x, x)
        return (k.sum() - k.diagonal().sum()) / (len(x) * (len(x) - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def frechet_with_interval(a: Tensor, b: Tensor, groups: int = 1, seed: int = 0) -> Distance:
    """Return FD with a 95% interval by bootstrap over groups.

    A resampled set's FD is too large, as it repeats samples, so the interval is the estimate less
    the deviations (basic bootstrap), at least 0.

    groups: number of consecutive features that belong together (the views of one place).
    """
    estimate = frechet_distance(a, b)
    draw = _group_draws(groups, np.random.default_rng(seed))
    values = np.array([frechet_distance(draw(a), draw(b)) for _ in range(DRAWS)])
    low, high = np.quantile(values - values.mean(), [0.025, 0.975])
    return Distance(estimate, max(0.0, estimate - high), estimate - low)


def kernel_with_interval(a: Tensor, b: Tensor, groups: int = 1, seed: int = 0) -> Distance:
    """Return KD as the mean over equal blocks of both sets, with a 95% interval from their spread.

    groups: number of consecutive features that stay together.

    Raises InvalidInputError for too few features.
    """
    count = min(len(a), len(b)) // groups
    blocks = min(BLOCKS, count // 2)
    if blocks < 2:
        raise InvalidInputError(
            f"{len(a)} and {len(b)} features in groups of {groups} are too few for an interval."
        )
    rng = np.random.default_rng(seed)
    parts = [_blocks(x, groups, blocks, rng) for x in (a, b)]
    values = np.array([kernel_distance(x, y) for x, y in zip(*parts, strict=True)])
    half = 1.96 * values.std(ddof=1) / np.sqrt(blocks)
    mean = float(values.mean())
    return Distance(mean, float(mean - half), float(mean + half))


def _group_draws(groups: int, rng: np.random.Generator) -> Callable[[Tensor], Tensor]:
    def draw(x: Tensor) -> Tensor:
        whole = x[: len(x) // groups * groups].unflatten(0, (-1, groups))
        index = torch.from_numpy(rng.integers(len(whole), size=len(whole))).to(x.device)
        return whole[index].flatten(0, 1)

    return draw


def _blocks(x: Tensor, groups: int, blocks: int, rng: np.random.Generator) -> list[Tensor]:
    whole = x[: len(x) // groups * groups].unflatten(0, (-1, groups))
    order = torch.from_numpy(rng.permutation(len(whole))).to(x.device)
    size = len(whole) // blocks
    return [whole[order[i * size : (i + 1) * size]].flatten(0, 1) for i in range(blocks)]
