"""What planners share: imagining the futures of candidate actions, and acting a plan out.

All candidates of all steps go through one batch. An objective
(:mod:`worldsim.planning.objectives`) that asks for places alone has them
from the ego-motion head (:func:`worldsim.planning.imagined_motion.imagine_motion`), any other from
the steps of a fork.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planning.imagined_motion import Relief, imagine_motion, relief_of
from worldsim.planning.objectives import (
    Dreaming,
    Forking,
    Futures,
    Needs,
    Objective,
    PoseGoal,
    Reachable,
    RewardSum,
    Source,
    require_dreaming,
)
from worldsim.protocols import Policy
from worldsim.runtime.arguments import whole
from worldsim.runtime.chunks import Chunks, Here
from worldsim.runtime.types import Action, Array, Env, Space
from worldsim.state import WorldState, concatenate
from worldsim.world import World
from worldsim.world.spread import spread_world

Column: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor | Array | None]
"""Frames, rewards, whether alive, and poses of one step."""


class Imagination:
    """Futures from where something is now.

    source: an environment with ``fork(n)``, wrapped or not, or anything :class:`Dreaming`. It stays
        where it is.
    batch: candidates imagined at once; None imagines all in one batch. Costs depend on the batch
        size up to rounding, and not on where a batch is imagined.
    chunks: where batches are imagined, such as :func:`worldsim.world.spread.spread_world` of the
        source's world; None imagines them in this process, one after another.

    Raises InvalidInputError for a source that can neither be forked nor imagined from.
    """

    def __init__(
        self,
        source: Env | Source,
        batch: int | None = None,
        chunks: Chunks | None = None,
    ) -> None:
        self._batch = None if batch is None else whole("batch", batch, 1, 65_536)
        self._chunks = chunks
        # The iterations of a plan start from one state.
        self._relief: tuple[WorldState, int, Relief | None] | None = None
        unwrapped: object = source.unwrapped if isinstance(source, gym.Env) else source
        if not isinstance(unwrapped, (Forking, Dreaming)):
            raise InvalidInputError(
                f"{type(unwrapped).__name__} cannot fork, so nothing can be planned in it: plan "
                f"in a dream "
                "(worldsim/Dream-v0 has fork), or, to act in a real environment, in a "
                "worldsim.world.tracker.Belief of it"
            )
        self.source: Source = unwrapped
        if batch is not None or chunks is not None:
            require_dreaming(unwrapped, "candidates in batches")

    def futures(self, acts: Tensor, needs: Needs) -> Futures:
        """Return the futures of actions (n, t, ...).

        After the end of an episode, frames continue and ``alive`` is False.
        """
        if needs is Needs.MOTION:
            source = require_dreaming(self.source, "poses to be imagined")
            given = source.state, self._relief_for(source, acts.shape[1])
            return self._in_batches(source, _imagine_motion, acts, given)
        if self._batch is None and self._chunks is None and isinstance(self.source, Forking):
            return _imagine_by_forks(self.source, acts)
        source = require_dreaming(self.source, "futures")
        return self._in_batches(source, _imagine_by_steps, acts, (source.state,))

    def _relief_for(self, source: Dreaming, steps: int) -> Relief | None:
        """Return the surroundings of the source, drawn for at least so many steps."""
        state = source.state
        if self._relief is None or self._relief[0] is not state or self._relief[1] < steps:
            known = relief_of(source.world, state, steps) if source.world.has_geometry else None
            self._relief = state, steps, known
        return self._relief[2]

    def _in_batches(
        self,
        source: Dreaming,
        imagine: Callable[..., Futures],
        acts: Tensor,
        given: tuple[object, ...],
    ) -> Futures:
        """Return ``imagine(world, *given, acts)`` of all batches of the candidates."""
        chunks = self._chunks or Here(source.world)
        parts = [(some,) for some in acts.split(self._batch or len(acts))]
        return concatenate(chunks.map(imagine, parts, shared=given))


def _imagine_by_forks(env: Forking, acts: Tensor) -> Futures:
    """All candidates in the steps of one fork."""
    n, t = acts.shape[:2]
    forks, columns = env.fork(n), list[Column]()
    alive = torch.ones(n, dtype=torch.bool)
    for step in range(t):
        obs, rew, term, _, infos = forks.step(acts[:, step].cpu().numpy())
        rgb = torch.as_tensor(obs).permute(0, 3, 1, 2)
        columns.append((rgb, torch.as_tensor(rew).float(), alive, infos.get("pose")))
        alive = alive & ~torch.as_tensor(term)
    forks.close()
    return _join(columns)


def _imagine_motion(
    world: World,
    state: WorldState,
    relief: Relief | None,
    acts: Tensor,
    tick: Callable[..., object],
) -> Futures:
    known = None if relief is None else relief.to(world.device)
    return Futures(pose=imagine_motion(world, _on_device(world, state), acts, known))


@torch.no_grad()
def _imagine_by_steps(
    world: World, state: WorldState, acts: Tensor, tick: Callable[..., object]
) -> Futures:
    n, t = acts.shape[:2]
    columns = list[Column]()
    state = _on_device(world, state).select(torch.zeros(n, dtype=torch.int64))
    alive = torch.ones(n, dtype=torch.bool, device=world.device)
    for step in range(t):
        state, transition = world.step(state, acts[:, step].to(world.device, state.act.dtype))
        columns.append((transition.frame.rgb, transition.rew, alive, transition.frame.pose))
        alive = alive & ~transition.term
    return _join(columns)


def _on_device(world: World, state: WorldState) -> WorldState:
    """Return a state where its world is; states come from other machines on the CPU."""
    return state if state.seed.device == world.device else state.to(world.device)


def _join(columns: list[Column]) -> Futures:
    """Frames, rewards, whether alive, and poses of each step as one record."""
    rgb, rew, alive, poses = zip(*columns, strict=True)
    pose = None if poses[0] is None else torch.stack([torch.as_tensor(p) for p in poses], 1)
    return Futures(pose, torch.stack(rgb, 1), torch.stack(rew, 1), torch.stack(alive, 1))


def action_bounds(space: Space) -> tuple[Tensor, Tensor]:
    """Return the bounds (k,) float32 of continuous actions.

    Raises InvalidInputError for spaces that planners cannot handle.
    """
    if (
        isinstance(space, gym.spaces.Box)
        and len(space.shape) == 1
        and bool(np.isfinite([space.low, space.high]).all())
    ):
        return torch.from_numpy(space.low.astype(np.float32)), torch.from_numpy(
            space.high.astype(np.float32)
        )
    raise InvalidInputError(
        f"planners take Discrete actions from 0, or a bounded Box of one axis, not {space}"
    )


def coloured_noise(
    n: int, steps: int, width: int, exponent: float, generator: torch.Generator
) -> Tensor:
    """Return normal numbers (n, steps, width) with a spectrum of 1 / f^exponent; 0 is white.

    Timmer and König 1995, as in iCEM (Pinneri et al. 2020): actions then last, and candidates
    travel further.
    """
    # Twice as long as needed: such noise repeats itself, and its end would resemble its beginning.
    length = 2 * steps
    frequency = torch.fft.rfftfreq(length)
    frequency[0] = frequency[1]
    scale = frequency ** (-0.5 * exponent)
    # What the inverse transform takes as real carries the variance of both parts.
    real = torch.zeros(len(scale), dtype=torch.bool)
    real[[0, -1]] = True
    drawn = [torch.randn(n, width, len(scale), generator=generator) * scale for _ in range(2)]
    spectrum = torch.complex(
        torch.where(real, drawn[0] * 2**0.5, drawn[0]), drawn[1].masked_fill(real, 0.0)
    )
    variance = 2.0 * (torch.where(real, 1.0, 2.0) * scale.square()).sum()
    noise = torch.fft.irfft(spectrum, n=length) * (length / variance.sqrt())
    return noise[..., :steps].transpose(1, 2).contiguous()


def draw_choices(probability: Tensor, noise: Tensor) -> Tensor:
    """Return choices (n, t) int64 of the probabilities (t, a).

    noise: (n, t, a) standard normal; correlated noise gives correlated choices.
    """
    uniform = torch.special.ndtr(noise.double()).clamp(1e-12, 1.0 - 1e-12)
    return (probability.double().clamp(min=1e-12).log() - (-uniform.log()).log()).argmax(-1)


def as_action(act: Tensor, space: Space) -> Action:
    """One planned action (...) as the environment takes it."""
    return (
        np.int64(act)
        if isinstance(space, gym.spaces.Discrete)
        else act.cpu().numpy().astype(np.float32)
    )


def action_space_of(source: Source) -> Space:
    """The action space of what is planned in."""
    space: Space | None = getattr(source, "action_space", None)
    if space is None:
        return require_dreaming(source, "plans without an action space").world.action_space
    return space


class Planner:
    """Base class of planners: a :class:`worldsim.protocols.Policy` that acts out a plan.

    source: where to plan: a dream, wrapped or not, or a :class:`worldsim.world.tracker.Belief` of a
        walk in the real twin. It must follow the actions taken. An :class:`Imagination` of one
        tells where the candidates are imagined.
    objective: what to maximise.
    replan: number of actions of a plan before the next one.

    Raises InvalidInputError for a source that cannot fork, and for an objective that cannot be
    judged there.
    """

    def __init__(
        self, source: Env | Source | Imagination, objective: Objective, replan: int = 1
    ) -> None:
        self.objective, self._replan = objective, replan
        self.imagination = source if isinstance(source, Imagination) else Imagination(source)
        self.action_space = action_space_of(self.imagination.source)
        self.discrete = (
            isinstance(self.action_space, gym.spaces.Discrete) and self.action_space.start == 0
        )
        self._bounds = None if self.discrete else action_bounds(self.action_space)
        objective.check(self.imagination.source)
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Forget the last plan and set the seed; ``None`` draws one from the operating system."""
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)
        self._queue: list[Tensor] = []
        self._centre: Tensor | None = None
        self.cost = float("nan")
        """Cost of the newest plan."""

    @property
    def arrived(self) -> bool:
        """Whether the objective has been reached, so that :meth:`act` need not be called again."""
        return isinstance(self.objective, Reachable) and self.objective.reached(
            self.imagination.source
        )

    def act(self, obs: object) -> Action:
        """The next action; ``obs`` is not looked at, the source knows where it is."""
        if not self._queue:
            self._queue = list(self.plan()[: self._replan])
        return as_action(self._queue.pop(0), self.action_space)

    def plan(self) -> Tensor:
        """Actions to take next, (t, ...)."""
        raise NotImplementedError


def plan_in_dream(
    world: str,
    goal: tuple[float, float] | None,
    steps: int,
    seed: int,
    policy_of: Callable[[Imagination, Objective], Policy],
    batch: int | None = None,
    cluster: str | None = None,
) -> dict[str, float]:
    """Plan and act in a dream until the goal is reached.

    world: name or folder.
    goal: metres ahead and to the left of the start; None to maximise the reward.
    policy_of: creates the policy for what imagines futures, and an objective.
    batch: candidates imagined at once; by default all.
    cluster: address of a Ray cluster whose machines imagine the batches; None imagines here.

    Returns the return, the number of steps and, for a goal, the remaining metres.
    """
    env = gym.make("worldsim/Dream-v0", world=world)
    obs, info = env.reset(seed=seed)
    objective: Objective = RewardSum()
    if goal is not None:
        if "pose" not in info:
            raise InvalidInputError(
                f"the world {world!r} has no poses: give no goal, to plan for reward"
            )
        aim = torch.as_tensor(info["pose"]).clone()
        aim[:3, 3] += goal[0] * aim[:3, 2] - goal[1] * aim[:3, 0]
        # A point straight ahead may lie in a place that has not been seen.
        objective = PoseGoal(aim, least_coverage=0.0)
    source: Any = env.unwrapped
    found = {"return": 0.0, "steps": 0.0}
    with spread_world(source.world, cluster) as chunks:
        policy = policy_of(Imagination(env, batch, chunks if cluster else None), objective)
        policy.reset(seed)
        for _ in range(steps):
            obs, rew, term, trunc, info = env.step(policy.act(obs))
            found = {"return": found["return"] + float(rew), "steps": found["steps"] + 1.0}
            if term or trunc or (isinstance(policy, Planner) and policy.arrived):
                break
    env.close()
    if goal is not None:
        found["metres_left"] = float((torch.as_tensor(info["pose"])[:3, 3] - aim[:3, 3]).norm())
    return found
