"""What planners share: the futures that candidate actions lead to, and objectives that say what
each costs.

All candidates of all steps go through one batch: an objective that asks for places alone has them
from the ego-motion head (:func:`worldsim.planning.imagined_motion.imagine_motion`), any other from
the steps of a fork.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera, rotation_angle, snap_pose
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.planning.imagined_motion import Relief, imagine_motion, relief_of
from worldsim.protocols import Policy, remembers
from worldsim.runtime.old_names import old_fields
from worldsim.state import WorldState
from worldsim.world import World

LEAST_COVERAGE = 0.05
"""A goal of whose view the memory knows less than this share is outside of it."""


class Needs(StrEnum):
    """What an objective looks at."""

    MOTION = "motion"
    """Poses alone: nothing is drawn."""
    FRAMES = "frames"
    """Frames, rewards and terminations: every candidate is dreamed."""


@dataclass(frozen=True)
class Futures:
    """What n sequences of t actions lead to; None for what was not asked for, or what there is not.

    pose: (n, t, 4, 4) float32 camera-to-world, metres. rgb: (n, t, 3, h, w) uint8. rew: (n, t)
    float32. alive: (n, t) bool, whether the episode still went on before the step.
    """

    pose: Tensor | None = None
    rgb: Tensor | None = None
    rew: Tensor | None = None
    alive: Tensor | None = None


class Objective(Protocol):
    """What is wanted: lower costs are better."""

    needs: Needs

    def check(self, source: Any) -> None:
        """Raise an error of worldsim's if futures from ``source`` cannot be judged, saying what is
        missing."""
        ...

    def __call__(self, futures: Futures) -> Tensor:
        """(n,) float32 cost of each future."""
        ...


@runtime_checkable
class Reachable(Protocol):
    """An objective that can be fulfilled for good, such as a place to be at."""

    def reached(self, source: Any) -> bool:
        """Whether it is fulfilled where ``source`` stands now."""
        ...


@runtime_checkable
class Dreaming(Protocol):
    """What can be imagined from: a single dream (``env.unwrapped``), or a
    :class:`worldsim.world.tracker.Belief` of a real walk."""

    @property
    def world(self) -> World: ...

    @property
    def state(self) -> WorldState: ...


class Imagination:
    """Futures from where something is now.

    source: an environment with ``fork(n)``, wrapped or not, or anything :class:`Dreaming`. It stays
    where it is. Raises InvalidInputError for one that can neither be forked nor imagined from.
    """

    def __init__(self, source: Any) -> None:
        self.source: Any = source.unwrapped if isinstance(source, gym.Env) else source
        # The iterations of a plan start from one state.
        self._relief: tuple[WorldState, int, Relief | None] | None = None
        if not callable(getattr(self.source, "fork", None)) and not isinstance(
            self.source, Dreaming
        ):
            raise InvalidInputError(
                f"{type(self.source).__name__} cannot fork, so nothing can be planned in it: plan "
                f"in a dream "
                "(worldsim/Dream-v0 has fork), or, to act in a real environment, in a "
                "worldsim.world.tracker.Belief of it"
            )

    def futures(self, acts: Tensor, needs: Needs) -> Futures:
        """What actions (n, t, ...) lead to. Where episodes end, what follows is dreamed on and
        ``alive`` is False."""
        if needs is Needs.MOTION:
            require_dreaming(self.source, "poses to be imagined")
            world, state = self.source.world, self.source.state
            if (
                self._relief is None
                or self._relief[0] is not state
                or self._relief[1] < acts.shape[1]
            ):
                known = relief_of(world, state, acts.shape[1]) if world.has_geometry else None
                self._relief = state, acts.shape[1], known
            return Futures(pose=imagine_motion(world, state, acts, self._relief[2]))
        if callable(getattr(self.source, "fork", None)):
            return _imagine_by_forks(self.source, acts)
        return _imagine_by_steps(self.source, acts)


def require_dreaming(source: Any, what: str) -> None:
    """Raise InvalidInputError unless ``source`` has a world and its state; ``what`` needs them."""
    if not isinstance(source, Dreaming):
        raise InvalidInputError(
            f"{what} need a world and its state, and {type(source).__name__} has none: plan in a "
            f"dream"
        )


def _imagine_by_forks(env: Any, acts: Tensor) -> Futures:
    """All candidates in the steps of one fork."""
    n, t = acts.shape[:2]
    forks, columns = env.fork(n), []
    alive = torch.ones(n, dtype=torch.bool)
    for step in range(t):
        obs, rew, term, _, infos = forks.step(acts[:, step].cpu().numpy())
        rgb = torch.as_tensor(obs).permute(0, 3, 1, 2)
        columns.append((rgb, torch.as_tensor(rew).float(), alive, infos.get("pose")))
        alive = alive & ~torch.as_tensor(term)
    forks.close()
    return _join(columns)


def _imagine_by_steps(source: Dreaming, acts: Tensor) -> Futures:
    n, t = acts.shape[:2]
    world, columns = source.world, []
    state = source.state.select(torch.zeros(n, dtype=torch.int64))
    alive = torch.ones(n, dtype=torch.bool, device=world.device)
    for step in range(t):
        state, transition = world.step(state, acts[:, step].to(world.device, state.act.dtype))
        columns.append((transition.frame.rgb, transition.rew, alive, transition.frame.pose))
        alive = alive & ~transition.term
    return _join(columns)


def _join(columns: list[tuple[Tensor, Tensor, Tensor, Any]]) -> Futures:
    """Frames, rewards, whether alive, and poses of each step as one record."""
    rgb, rew, alive, poses = zip(*columns, strict=True)
    pose = None if poses[0] is None else torch.stack([torch.as_tensor(p) for p in poses], 1)
    return Futures(pose, torch.stack(rgb, 1), torch.stack(rew, 1), torch.stack(alive, 1))


@old_fields(discount="gamma")
@dataclass(frozen=True)
class RewardSum:
    """As much reward as can be had, as the world's reward head foretells it."""

    gamma: float = 1.0
    """Discount factor per step, in [0, 1]."""

    needs = Needs.FRAMES

    def check(self, source: Any) -> None:
        world = getattr(source, "world", None)
        if world is not None and not (world.config.has_rewards or world.config.has_terminations):
            raise InvalidInputError(
                f"the world {world.folder or world.config.env_id!r} has no reward head: its "
                f"recording had no rewards. Give the "
                "planner a goal (PoseGoal, ImageGoal), or train on a recording with rewards"
            )

    def __call__(self, futures: Futures) -> Tensor:
        assert futures.rew is not None and futures.alive is not None
        weight = self.gamma ** torch.arange(futures.rew.shape[1], device=futures.rew.device)
        return -(futures.rew * futures.alive * weight).sum(1)


@dataclass(frozen=True, eq=False)
class PoseGoal:
    """To be at a place: the mean and the last distance of the imagined way from it, metres."""

    pose: Tensor
    """(4, 4) camera-to-world of the goal, in the axes of the source's poses."""
    metres_per_radian: float = 0.0
    """What a difference in heading counts; 0 asks for the place alone."""
    least_coverage: float = LEAST_COVERAGE
    """Share of the goal's view that the memory must know; 0 for goals in places not seen yet."""
    within: float = 0.5
    """Metres from the goal, on the ground, at which it has been reached; with
    ``metres_per_radian``, so many radians, too."""

    needs = Needs.MOTION

    def check(self, source: Any) -> None:
        require_dreaming(source, "goals at a pose")
        check_goal_pose(source, self.pose, self.least_coverage)

    def __call__(self, futures: Futures) -> Tensor:
        assert futures.pose is not None
        goal = self.pose.to(futures.pose)
        distance = (futures.pose[..., :3, 3] - goal[:3, 3]).norm(dim=-1)
        cost = distance[:, -1] + distance.mean(1)
        if self.metres_per_radian:
            cost = cost + self.metres_per_radian * rotation_angle(futures.pose[:, -1], goal)
        return cost

    def reached(self, source: Dreaming) -> bool:
        """Whether the source stands at the goal now."""
        pose = source.state.frame.pose
        assert pose is not None
        there = ground_distance(source, self.pose) <= self.within
        return there and (
            not self.metres_per_radian
            or float(rotation_angle(pose[0], self.pose.to(pose))) <= self.within
        )


@dataclass(frozen=True, eq=False)
class ImageGoal:
    """To see a picture: the least distance of a dreamed frame from it, and that of the last one."""

    rgb: np.ndarray[Any, np.dtype[np.uint8]]
    """(h, w, 3) uint8, of the size of the world's frames."""
    size: int = 16
    """Pixels a side of the cells that are compared, means of their area: so that small shifts count
    little."""

    needs = Needs.FRAMES

    def check(self, source: Any) -> None:
        space = getattr(source, "observation_space", None) or source.world.observation_space
        if (
            not isinstance(self.rgb, np.ndarray)
            or self.rgb.shape != space.shape
            or self.rgb.dtype != np.uint8
        ):
            found = (
                f"{getattr(self.rgb, 'dtype', type(self.rgb).__name__)} "
                f"{getattr(self.rgb, 'shape', '')}"
            )
            raise InvalidInputError(
                f"the goal's picture must be uint8 {space.shape}, got {found}: resize or convert "
                f"it first"
            )

    def __call__(self, futures: Futures) -> Tensor:
        assert futures.rgb is not None
        n, t = futures.rgb.shape[:2]
        goal = torch.from_numpy(self.rgb).to(futures.rgb.device).permute(2, 0, 1)[None].float()
        seen = F.adaptive_avg_pool2d(futures.rgb.flatten(0, 1).float(), self.size)
        distance = picture_distance(seen, F.adaptive_avg_pool2d(goal, self.size)).view(n, t)
        return distance.min(1).values + distance[:, -1]


def ground_distance(source: Dreaming, goal: Tensor) -> float:
    """Metres on the ground, world x and y, from where the source stands to the pose ``goal`` (4,
    4)."""
    pose = source.state.frame.pose
    assert pose is not None
    return float((pose[0, :2, 3] - goal.to(pose)[:2, 3]).norm())


def picture_distance(a: Tensor, b: Tensor, cap: float = 64.0) -> Tensor:
    """Mean difference of colours, those beyond ``cap`` counted as ``cap``. (..., 3, h, w) in [0,
    255] twice to (...)."""
    return (a.float() - b.float()).abs().clamp(max=cap).mean((-3, -2, -1))


def check_goal_pose(source: Dreaming, pose: Any, least_coverage: float) -> None:
    """Raise unless ``pose`` is a camera-to-world matrix at which the memory knows at least such a
    share of the view."""
    world = source.world
    if not world.has_geometry:
        raise MissingGeometryError(
            "this world was trained without geometry: it knows no poses, give an ImageGoal instead"
        )
    if not isinstance(pose, Tensor) or pose.shape != (4, 4) or not bool(torch.isfinite(pose).all()):
        raise InvalidInputError(
            f"a goal's pose must be a finite (4, 4) camera-to-world tensor, got {pose!r}"
        )
    if least_coverage <= 0 or not remembers(world.memory):
        return
    n = world.spec
    camera = Camera(
        snap_pose(pose.to(world.device))[None], source.state.intrinsics[:1], n.height, n.width
    )
    coverage = float(world.memory.render(source.state.memory, camera).coverage[0])
    if coverage < least_coverage:
        x, y, z = pose[:3, 3].tolist()
        raise InvalidInputError(
            f"the goal at ({x:.1f}, {y:.1f}, {z:.1f}) m is outside of the memory, which knows "
            f"{coverage:.0%} of its view "
            f"(needed: {least_coverage:.0%}): go on until it has been seen, or pass "
            f"least_coverage=0"
        )


def action_bounds(space: gym.Space[Any]) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (k,) float32 of continuous actions. InvalidInputError for spaces that
    planners cannot handle."""
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
    """Standard normal numbers (n, steps, width) whose spectrum along the steps falls as 1 /
    f^exponent; 0 is white.

    Timmer and König 1995, as in iCEM (Pinneri et al. 2020): actions then last, and candidates get
    somewhere.
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
    """Choices (n, t) int64 of the probabilities (t, a), by standard normal noise (n, t, a): lasting
    noise, lasting choices."""
    uniform = torch.special.ndtr(noise.double()).clamp(1e-12, 1.0 - 1e-12)
    return (probability.double().clamp(min=1e-12).log() - (-uniform.log()).log()).argmax(-1)


def as_action(act: Tensor, space: gym.Space[Any]) -> Any:
    """One planned action (...) as the environment takes it."""
    return (
        np.int64(act)
        if isinstance(space, gym.spaces.Discrete)
        else act.cpu().numpy().astype(np.float32)
    )


def action_space_of(source: Any) -> gym.Space[Any]:
    """The action space of what is planned in."""
    space = getattr(source, "action_space", None)
    return source.world.action_space if space is None else space


class Planner:
    """What planners share: where they plan, what they want, and acting a plan out. A
    :class:`worldsim.protocols.Policy`.

    source: what is planned in: a dream, wrapped or not, or a :class:`worldsim.world.tracker.Belief`
    of a walk in the real twin; it must follow the actions taken. objective: what is wanted. replan:
    actions taken of a plan before the next one is made. Raises InvalidInputError for what cannot
    fork and for an objective that cannot be judged there.
    """

    def __init__(self, source: Any, objective: Objective, replan: int = 1) -> None:
        self.objective, self._replan = objective, replan
        self.imagination = Imagination(source)
        self.action_space = action_space_of(self.imagination.source)
        self.discrete = (
            isinstance(self.action_space, gym.spaces.Discrete) and self.action_space.start == 0
        )
        self._bounds = None if self.discrete else action_bounds(self.action_space)
        objective.check(self.imagination.source)
        self.reset(0)

    def reset(self, seed: int | None = None) -> None:
        """Forget the last plan and reseed. ``None`` draws a fresh seed from the operating
        system."""
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
        """Whether the objective has been reached, where that can be: time to stop calling
        :meth:`act`."""
        return isinstance(self.objective, Reachable) and self.objective.reached(
            self.imagination.source
        )

    def act(self, obs: Any) -> Any:
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
    policy_of: Callable[[Any, Objective], Policy],
) -> dict[str, float]:
    """Plan in a dream and act there, until the goal is reached: the return, the steps taken and,
    for a goal, the metres left.

    world: name or folder. goal: metres ahead and to the left of the start; None for as much reward
    as can be had. policy_of: makes the policy for an environment and an objective.
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
    policy = policy_of(env, objective)
    policy.reset(seed)
    found = {"return": 0.0, "steps": 0.0}
    for _ in range(steps):
        obs, rew, term, trunc, info = env.step(policy.act(obs))
        found = {"return": found["return"] + float(rew), "steps": found["steps"] + 1.0}
        if term or trunc or (isinstance(policy, Planner) and policy.arrived):
            break
    env.close()
    if goal is not None:
        found["metres_left"] = float((torch.as_tensor(info["pose"])[:3, 3] - aim[:3, 3]).norm())
    return found
