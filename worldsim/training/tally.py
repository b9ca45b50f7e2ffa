"""Statistics of a recording's rewards and terminations, which set the units of the heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.runtime.types import Array
from worldsim.training.buffer import is_synthetic_terminal


@dataclass
class Tally:
    """Statistics of rewards and terminations over all shards of a recording."""

    count: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    squares: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    """Number, sum and sum of squares of the rewards of transitions that went on, and of those that
    ended the episode."""
    low: float = float("inf")
    high: float = float("-inf")
    """Least and largest reward of transitions that continue."""
    synthetic_terminal: bool = False
    """Whether an episode's last frame was made up
    (:func:`worldsim.training.buffer.is_synthetic_terminal`)."""
    synthetic_endings: int = 0
    """Number of terminations whose last frame was made up."""

    @property
    def endings(self) -> int:
        """Number of episodes that terminated, rather than being truncated."""
        return int(self.count[1])

    @property
    def hides_endings(self) -> bool:
        """Whether most terminations have a synthetic last frame.

        A single one may be true: what has come to rest looks as it did in the frame before.
        """
        return 2 * self.synthetic_endings > self.endings

    def add(self, arrays: Mapping[str, Array]) -> None:
        """Add the statistics of a shard."""
        rew, term, trunc, rgb = (
            np.asarray(arrays[name]) for name in ("rew", "term", "trunc", "rgb")
        )
        last = arrays["episode_start"][1:] - 1
        transition = np.ones(len(rew), bool)
        transition[last] = False
        for kind, chosen in enumerate((transition & ~term, transition & term & ~trunc)):
            values = rew[chosen].astype(np.float64)
            self.count[kind] += len(values)
            self.total[kind] += values.sum()
            self.squares[kind] += np.square(values).sum()
            if kind == 0 and len(values):
                self.low = min(self.low, float(values.min()))
                self.high = max(self.high, float(values.max()))
        over = term | trunc
        synthetic = [
            i for i in last if i > 0 and over[i - 1] and is_synthetic_terminal(rgb[i - 1], rgb[i])
        ]
        self.synthetic_terminal = self.synthetic_terminal or len(synthetic) > 0
        self.synthetic_endings += sum(bool(term[i - 1] and not trunc[i - 1]) for i in synthetic)

    def units(self) -> Tensor:
        """Return the units of rewards and terminations, (5,) float32.

        They are means and standard deviations of both kinds of rewards, and the logit of the share
        of endings.
        """
        count = np.maximum(self.count, 1.0)
        mean = self.total / count
        spread = np.sqrt(np.maximum(self.squares / count - mean**2, 0.0))
        if not self.endings:
            mean[1], spread[1] = mean[0], spread[0]
        # Rewards that are all alike still need a unit, small beside them.
        spread = np.maximum(spread, 1e-3 * np.maximum(np.abs(mean), 1.0))
        share = (self.count[1] + 0.5) / (self.count.sum() + 1.0)
        return torch.tensor([*mean, *spread, np.log(share / (1.0 - share))], dtype=torch.float32)
