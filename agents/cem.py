"""CEM and iCEM over imagined futures.

Measured results: docs/experiments/goal_walks.md (point and image goals on Freedoom).

CEM: Rubinstein 1999. iCEM: Pinneri et al. 2020, "Sample-efficient Cross-Entropy Method for
    Real-time Planning": coloured noise, elites kept between iterations and between plans, a shifted
    mean, fewer candidates per iteration, and the mean itself among the last candidates. Discrete
    actions are sampled from a table of probabilities per step, with the same correlated noise.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

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
class CemConfig:
    """Settings of :class:`CemPolicy`; ``CemConfig.plain()`` is CEM without iCEM's additions."""

    horizon: int = 12
    """Steps imagined ahead."""
    candidates: int = 64
    """Sequences of the first iteration."""
    iterations: int = 3
    """How often the distribution is fitted to its elites."""
    elites: int = 8
    """Best sequences that it is fitted to."""
    exponent: float = 2.0
    """Of the noise's spectrum, 1 / f^exponent: 0 draws every step anew, 2 and more lets actions
    last."""
    keep: float = 0.3
    """Share of the elites that stand again in the next iteration, and, shifted, in the next
    plan."""
    decay: float = 1.25
    """Candidates become fewer by this factor an iteration; never fewer than twice the elites."""
    momentum: float = 0.1
    """Share of the old distribution that stays when it is fitted."""
    spread: float = 0.5
    """Standard deviation to begin with, as a share of half the range of a continuous action."""
    replan: int = 1
    """Actions taken of a plan before the next one is made."""

    @classmethod
    def plain(cls, **changes: Any) -> CemConfig:
        """CEM: white noise, nothing kept, as many candidates in every iteration."""
        return cls(**{"exponent": 0.0, "keep": 0.0, "decay": 1.0, **changes})

    def __post_init__(self) -> None:
        for name in ("horizon", "candidates", "iterations", "elites", "replan"):
            if getattr(self, name) < 1:
                raise InvalidInputError(
                    f"CemConfig.{name} = {getattr(self, name)}: it must be at least 1"
                )
        if not self.elites <= self.candidates or not self.replan <= self.horizon:
            raise InvalidInputError(
                f"CemConfig: elites {self.elites} of candidates {self.candidates}, replan "
                f"{self.replan} of horizon "
                f"{self.horizon}: the first of each must not be more than the second"
            )
        for name, low, high in (
            ("keep", 0.0, 1.0),
            ("momentum", 0.0, 0.99),
            ("decay", 1.0, 100.0),
            ("exponent", 0.0, 10.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise InvalidInputError(
                    f"CemConfig.{name} = {getattr(self, name)}: it must be from {low} to {high}"
                )


class CemPolicy(Planner):
    """Plans from the state of ``source``, acts, and plans again.

    See :class:`worldsim.planning.planner.Planner`.
    """

    def __init__(
        self,
        source: Env | Source | Imagination,
        objective: Objective,
        config: CemConfig | None = None,
    ) -> None:
        self.config = config or CemConfig()
        super().__init__(source, objective, self.config.replan)

    def reset(self, seed: int | None = None) -> None:
        """Forget the last plan and set the seed; ``None`` draws one from the operating system."""
        super().reset(seed)
        self._kept: Tensor | None = None

    @torch.no_grad()
    def plan(self) -> Tensor:
        """The cheapest sequence of actions found, (t, ...)."""
        c = self.config
        centre, spread = self._start()
        best, least = None, torch.inf
        pool, pool_cost = self._kept, None
        size = float(c.candidates)
        for iteration in range(c.iterations):
            acts = self._draw(centre, spread, max(round(size), 2 * c.elites))
            fresh = [acts]
            if pool is not None and pool_cost is None:
                fresh.append(pool)
            if iteration == c.iterations - 1 and c.iterations > 1 and c.keep:
                fresh.append(self._middle(centre)[None])
            acts = torch.cat(fresh)
            cost = self.objective(self.imagination.futures(acts, self.objective.needs)).cpu()
            # Elites of the iteration before have been imagined already: common randomness gives
            # them the same future again.
            if pool is not None and pool_cost is not None:
                acts, cost = torch.cat([acts, pool]), torch.cat([cost, pool_cost])
            order = cost.argsort(stable=True)[: c.elites]
            if float(cost[order[0]]) < least:
                best, least = acts[order[0]], float(cost[order[0]])
            centre, spread = self._fit(acts[order], centre, spread)
            kept = round(c.keep * c.elites)
            pool, pool_cost = (acts[order[:kept]], cost[order[:kept]]) if kept else (None, None)
            size /= c.decay
        assert best is not None
        self.cost, self._centre = least, self._shift(centre[None])[0]
        self._kept = None if pool is None else self._shift(pool)
        return best

    def _start(self) -> tuple[Tensor, Tensor]:
        """Return the initial distribution of a plan.

        It is (t, a) probabilities, or mean and deviation (t, k).
        """
        c = self.config
        if self.discrete:
            n = int(self.action_space.n)  # type: ignore[attr-defined]
            uniform = torch.full((c.horizon, n), 1.0 / n)
            # Half of the last plan: what is sure of itself would try nothing else.
            return (
                uniform if self._centre is None else 0.5 * uniform + 0.5 * self._centre
            ), torch.zeros(())
        assert self._bounds is not None
        low, high = self._bounds
        middle = (
            (0.5 * (low + high)).expand(c.horizon, -1) if self._centre is None else self._centre
        )
        return middle, (0.5 * c.spread * (high - low)).expand(c.horizon, -1)

    def _draw(self, centre: Tensor, spread: Tensor, n: int) -> Tensor:
        noise = coloured_noise(
            n, len(centre), centre.shape[1], self.config.exponent, self._generator
        )
        if self.discrete:
            return draw_choices(centre, noise)
        assert self._bounds is not None
        return torch.minimum(
            torch.maximum(centre + spread * noise, self._bounds[0]), self._bounds[1]
        )

    def _middle(self, centre: Tensor) -> Tensor:
        """The distribution's middle as a sequence of actions."""
        return centre.argmax(-1) if self.discrete else centre

    def _fit(self, elites: Tensor, centre: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        m = self.config.momentum
        if self.discrete:
            share = torch.nn.functional.one_hot(elites, centre.shape[-1]).float().mean(0)
            return m * centre + (1 - m) * share, spread
        return m * centre + (1 - m) * elites.mean(0), m * spread + (1 - m) * elites.std(
            0, correction=0
        )

    def _shift(self, rows: Tensor) -> Tensor:
        """Shift sequences (n, t, ...) by the steps acted out before the next plan.

        The last step repeats.
        """
        r = self.config.replan
        return torch.cat([rows[:, r:], rows[:, -1:].expand(-1, r, *rows.shape[2:])], 1)


@dataclass(frozen=True)
class Args:
    """Plan with iCEM in a dream, acting in the dream itself."""

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
    plain: bool = False
    """CEM instead of iCEM."""
    planner: CemConfig = field(default_factory=CemConfig)
    """The planner's settings; ``plain`` overrides those that make it iCEM."""


def run(args: Args) -> dict[str, float]:
    """Plan and act: see :func:`worldsim.planning.planner.plan_in_dream`."""
    config = args.planner
    if args.plain:
        config = dataclasses.replace(config, exponent=0.0, keep=0.0, decay=1.0)
    return plan_in_dream(
        args.world,
        args.goal,
        args.steps,
        args.seed,
        lambda imagination, objective: CemPolicy(imagination, objective, config),
        args.batch,
        args.cluster,
    )


if __name__ == "__main__":
    import sys

    import tyro

    given = with_cluster_value(sys.argv[1:])
    print(json.dumps(run(tyro.cli(Args, args=given, description=__doc__)), indent=2))
