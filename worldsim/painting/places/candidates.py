"""Candidates of a new place: which seed shows most of what the words ask for?

A painter previews a place from several seeds in a few steps, a recogniser says what each preview
shows, and the seed that shows most is painted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.memory.points import PointMemory
from worldsim.painting.places.place import known_view
from worldsim.painting.words.recogniser import AttributeRecogniser
from worldsim.protocols import Painter, PaintInputs, PreviewPainter
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count
from worldsim.runtime.rng import child_seed
from worldsim.runtime.types import Array
from worldsim.state import concatenate

MOST_CANDIDATES = 64
LEAST_PROBABILITY = 1e-4
"""Probabilities of the recogniser are clamped to this, so that one attribute cannot decide alone.
"""


@dataclass(frozen=True)
class CandidateConfig:
    """How many candidates of a place are previewed."""

    candidates: Annotated[int, Ge(1), Le(MOST_CANDIDATES)] = 2
    """Seeds that are previewed; 1 paints the first one at once. More than two hardly show more of
    the words (docs/experiments/words.md)."""
    steps: Count = 3
    """Sampling steps of a preview."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Candidate:
    """A seed, and the probabilities by attribute that its preview shows what the words ask for."""

    seed: int
    shows: Mapping[str, float]

    @property
    def agreement(self) -> float:
        """Geometric mean of the probabilities; 1 if nothing is asked for."""
        p = np.clip(list(self.shows.values()), LEAST_PROBABILITY, 1.0)
        return float(np.exp(np.log(p).mean())) if len(p) else 1.0


def candidate_seed(seed: int, i: int) -> int:
    """Return the seed of candidate ``i``. The first one has the place's own."""
    return child_seed(seed, i) if i else seed


def preview_candidates(
    painter: PreviewPainter,
    recogniser: AttributeRecogniser,
    wanted: Mapping[str, float],
    memory: PointMemory,
    poses: Tensor,
    attributes: Array,
    told: Array,
    seed: int,
    config: CandidateConfig,
) -> list[Candidate]:
    """Preview a new place from several seeds; returns them in order.

    wanted: amounts of attributes that the words ask for.
    memory: the scene memory, of which nothing is known yet.
    poses: (n, 4, 4) the first cameras that are painted, as many as the painter paints at once.
    attributes, told: (a,), see :class:`worldsim.protocols.PaintInputs`.
    """
    assert isinstance(painter, Painter)
    seeds = [candidate_seed(seed, i) for i in range(config.candidates)]
    k, n = len(seeds), len(poses)
    view = known_view(memory, memory.empty(1), painter.spec.cameras(poses))
    inputs = PaintInputs(
        view=concatenate([view] * k),
        pose=poses.expand(k, -1, -1, -1),
        seed=torch.tensor(seeds),
        step=torch.zeros(k, dtype=torch.int64),
        attributes=torch.as_tensor(attributes).float().expand(k, -1),
        told=torch.as_tensor(told).bool().expand(k, -1),
    )
    rgb = painter.preview(inputs, config.steps).rgb.unflatten(0, (k, n))
    return [
        Candidate(seed, recogniser.look(views, wanted))
        for seed, views in zip(seeds, rgb, strict=True)
    ]


def best_of(candidates: list[Candidate]) -> Candidate:
    """Return the candidate that shows most; of equal ones the first."""
    return max(candidates, key=lambda candidate: candidate.agreement)
