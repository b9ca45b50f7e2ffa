"""MPPI over imagined futures.

Measured results: docs/experiments/goal_walks.md (point goals on Freedoom).

Williams et al. 2017, "Information Theoretic MPC for Model-Based Reinforcement Learning": every
candidate counts, by the exponential of its cost. The temperature is relative to the spread of the
costs, so that it suits any objective. For discrete actions, the weights give a table of
probabilities per step.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from worldsim.runtime.threads import wait_passively

if __name__ == "__main__":
    # Before torch loads.
    wait_passively()

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planning.objectives import Objective, Source
from worldsim.planning.planner import (
    Imagination,
    Planner,
    coloured_noise,
    draw_choices,
    plan_in_dream,
)
from worldsim.runtime.cluster_connection import with_cluster_value
from worldsim.runtime.types import Env


@dataclass(frozen=True)
class MppiConfig:
    """Settings of :class:`MppiPolicy`."""

    horizon: int = 12
    """Steps imagined ahead."""
    candidates: int = 128
    """Sequences an iteration."""
    iterations: int = 1
    """How often the distribution is weighted anew before acting."""
    temperature: float = 0.2
    """Of the weights exp(-cost / temperature), in standard deviations of the candidates' costs:
    0.05 takes the best alone."""
    spread: float = 0.5
    """Standard deviation of the noise, as a share of half the range of a continuous action."""
    exponent: float = 2.0
    """Of the noise's spectrum, 1 / f^exponent: 0 is the paper's white noise, 2 lets actions
    last."""
    explore: float = 0.3
    """Share of uniform draws among discrete actions."""
    replan: int = 1
    """Actions taken of a plan before the next one is made."""

    def __post_init__(self) -> None:
        for name in ("horizon", "candidates", "iterations", "replan"):
            if getattr(self, name) < 1:
                raise InvalidInputError(
                    f"MppiConfig.{name} = {getattr(self, name)}: it must be at least 1"
                )
        if self.replan > self.horizon:
            raise InvalidInputError(
                f"MppiConfig.replan = {self.replan}: a plan has but {self.horizon} steps (horizon)"
            )
        for name, low, high in (
            ("temperature", 1e-6, 1e6),
            ("spread", 0.0, 10.0),
            ("exponent", 0.0, 10.0),
            ("explore", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise InvalidInputError(
                    f"MppiConfig.{name} = {getattr(self, name)}: it must be from {low} to {high}"
                )


class MppiPolicy(Planner):
    """Plans from the state of ``source``, acts, and plans again.

    See :class:`worldsim.planning.planner.Planner`.
    """

    def __init__(
        self,
        source: Env | Source | Imagination,
        objective: Objective,
        config: MppiConfig | None = None,
    ) -> None:
        self.config = config or MppiConfig()
        super().__init__(source, objective, self.config.replan)

    @torch.no_grad()
    def plan(self) -> Tensor:
        """Return the weighted mean of the candidates, (t, k).

        For discrete actions, the actions of most weight, (t,).
        """
        c, centre = self.config, self._start()
        for _ in range(c.iterations):
            acts = self._draw(centre)
            cost = self.objective(self.imagination.futures(acts, self.objective.needs)).cpu()
            deviation = float(cost.std(correction=0))
            weight = torch.softmax(-(cost - cost.min()) / max(c.temperature * deviation, 1e-9), 0)
            self.cost = float((weight * cost).sum())
            if self.discrete:
                share = torch.nn.functional.one_hot(acts, centre.shape[-1]).float()
                centre = (weight[:, None, None] * share).sum(0)
            else:
                centre = (weight[:, None, None] * acts).sum(0)
        r = c.replan
        self._centre = torch.cat([centre[r:], centre[-1:].expand(r, -1)])
        return centre.argmax(-1) if self.discrete else centre

    def _start(self) -> Tensor:
        """Probabilities (t, a), or means (t, k), that a plan begins with."""
        if self._centre is not None:
            return self._centre
        if self.discrete:
            n = int(self.action_space.n)  # type: ignore[attr-defined]
            return torch.full((self.config.horizon, n), 1.0 / n)
        assert self._bounds is not None
        return (0.5 * (self._bounds[0] + self._bounds[1])).expand(self.config.horizon, -1)

    def _draw(self, centre: Tensor) -> Tensor:
        c = self.config
        noise = coloured_noise(
            c.candidates, len(centre), centre.shape[1], c.exponent, self._generator
        )
        if self.discrete:
            return draw_choices((1.0 - c.explore) * centre + c.explore / centre.shape[-1], noise)
        assert self._bounds is not None
        low, high = self._bounds
        return torch.minimum(
            torch.maximum(centre + 0.5 * c.spread * (high - low) * noise, low), high
        )


@dataclass(frozen=True)
class Args:
    """Plan with MPPI in a dream, acting in the dream itself."""

    world: str = "freedoom-tiny"
    """Name or folder of the world."""
    goal: tuple[float, float] | None = (3.0, 0.0)
    """Metres ahead and to the left of the start to walk to; None for as much reward as can be
    had."""
    steps: int = 30
    """Steps to act."""
    seed: int = 0
    """Of the scene, the dream and the planner."""
    batch: int | None = None
    """Candidates imagined at once; all of them if not given."""
    cluster: str | None = None
    """Address of a Ray cluster that imagines the batches (``auto``, ``local``, ``host:port``)."""
    planner: MppiConfig = field(default_factory=MppiConfig)
    """The planner's settings."""


def run(args: Args) -> dict[str, float]:
    """Plan and act: see :func:`worldsim.planning.planner.plan_in_dream`."""
    return plan_in_dream(
        args.world,
        args.goal,
        args.steps,
        args.seed,
        lambda imagination, objective: MppiPolicy(imagination, objective, args.planner),
        args.batch,
        args.cluster,
    )


if __name__ == "__main__":
    import sys

    import tyro

    given = with_cluster_value(sys.argv[1:])
    print(json.dumps(run(tyro.cli(Args, args=given, description=__doc__)), indent=2))
