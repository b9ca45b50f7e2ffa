"""Objectives of planners: what each imagined future costs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldsim.camera import Camera, rotation_angle, snap_pose
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.protocols import remembers
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.types import VectorEnv
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


@runtime_checkable
class Dreaming(Protocol):
    """The start of imagined futures.

    A single dream (``env.unwrapped``), or a :class:`worldsim.world.tracker.Belief` of a real walk.
    """

    @property
    def world(self) -> World: ...

    @property
    def state(self) -> WorldState: ...


@runtime_checkable
class Forking(Protocol):
    """An environment whose futures can be stepped."""

    def fork(self, n: int) -> VectorEnv:
        """Return ``n`` futures from here, stepped together."""
        ...


Source: TypeAlias = Dreaming | Forking
"""What is planned in."""


class Objective(Protocol):
    """What is wanted: lower costs are better."""

    needs: Needs

    def check(self, source: Source) -> None:
        """Raise an error if futures from ``source`` cannot be judged; it says what is missing."""
        ...

    def __call__(self, futures: Futures) -> Tensor:
        """(n,) float32 cost of each future."""
        ...


@runtime_checkable
class Reachable(Protocol):
    """An objective that can be fulfilled for good, such as a place to be at."""

    def reached(self, source: Source) -> bool:
        """Whether it is fulfilled where ``source`` stands now."""
        ...


def require_dreaming(source: object, what: str) -> Dreaming:
    """Return ``source`` if it has a world and its state; ``what`` needs them.

    Raises InvalidInputError.
    """
    if not isinstance(source, Dreaming):
        raise InvalidInputError(
            f"{what} need a world and its state, and {type(source).__name__} has none: plan in a "
            f"dream"
        )
    return source


@old_fields(discount="gamma")
@dataclass(frozen=True)
class RewardSum:
    """As much reward as can be had, as the world's reward head foretells it."""

    gamma: float = 1.0
    """Discount factor per step, in [0, 1]."""

    needs = Needs.FRAMES

    def check(self, source: Source) -> None:
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

    def check(self, source: Source) -> None:
        check_goal_pose(require_dreaming(source, "goals at a pose"), self.pose, self.least_coverage)

    def __call__(self, futures: Futures) -> Tensor:
        assert futures.pose is not None
        goal = self.pose.to(futures.pose)
        distance = (futures.pose[..., :3, 3] - goal[:3, 3]).norm(dim=-1)
        cost = distance[:, -1] + distance.mean(1)
        if self.metres_per_radian:
            cost = cost + self.metres_per_radian * rotation_angle(futures.pose[:, -1], goal)
        return cost

    def reached(self, source: Source) -> bool:
        """Whether the source stands at the goal now."""
        dreaming = require_dreaming(source, "goals at a pose")
        pose = dreaming.state.frame.pose
        assert pose is not None
        there = ground_distance(dreaming, self.pose) <= self.within
        return there and (
            not self.metres_per_radian
            or float(rotation_angle(pose[0], self.pose.to(pose))) <= self.within
        )


@dataclass(frozen=True, eq=False)
class ImageGoal:
    """To see a picture: the least distance of a dreamed frame from it, and that of the last one."""

    rgb: NDArray[np.uint8]
    """(h, w, 3) uint8, of the size of the world's frames."""
    size: int = 16
    """Pixels a side of the cells that are compared, means of their area: so that small shifts count
    little."""

    needs = Needs.FRAMES

    def check(self, source: Source) -> None:
        space = getattr(source, "observation_space", None)
        if space is None:
            world: World | None = getattr(source, "world", None)
            assert world is not None
            space = world.observation_space
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
    """Return the distance from the source to the pose ``goal`` (4, 4) in world x and y, metres."""
    pose = source.state.frame.pose
    assert pose is not None
    return float((pose[0, :2, 3] - goal.to(pose)[:2, 3]).norm())


def picture_distance(a: Tensor, b: Tensor, cap: float = 64.0) -> Tensor:
    """Return the mean difference of colours; larger ones than ``cap`` count as ``cap``.

    a, b: (..., 3, h, w) in [0, 255].

    Returns (...).
    """
    return (a.float() - b.float()).abs().clamp(max=cap).mean((-3, -2, -1))


def check_goal_pose(source: Dreaming, pose: Tensor, least_coverage: float) -> None:
    """Raise an error unless ``pose`` is a camera-to-world pose at which the memory has coverage.

    least_coverage: minimum share of the view that the memory covers.
    """
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
