"""Policies by name, optionally mixed with random actions, acting in many episodes at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.protocols import Policy
from worldsim.runtime.types import Action, Array, Space
from worldsim.shipped.agent_files import BatchPolicy
from worldsim.shipped.policies import make_policy


@dataclass(frozen=True)
class PolicySpec:
    """A policy that other processes can create."""

    agent: str = "random"
    """A saved agent's folder, a shipped agent's name, ``random``, ``persistent``, or
    ``module:Class``."""
    chance: float = 0.0
    """Share of steps at which an action is drawn uniformly instead."""
    always: int | tuple[float, ...] | None = None
    """One action for ever, instead of a policy."""
    trust: bool = False
    """Of a saved agent: see :func:`worldsim.shipped.agent_files.load_agent`."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.chance <= 1.0:
            raise InvalidInputError(f"PolicySpec.chance = {self.chance!r}: a share in [0, 1]")

    @property
    def name(self) -> str:
        """Name of the policy in reports."""
        name = self.agent if self.always is None else f"always {self.always}"
        return f"{name} with {self.chance:g} chance" if self.chance else name

    def build(self, space: Space, device: torch.device | str = "cpu") -> Policy:
        """Return the policy for an action space, without the random actions.

        Raises NotFoundError or InvalidInputError.
        """
        if self.always is not None:
            return Always(space, self.always)
        return make_policy(self.agent, space, device, self.trust)


class Always:
    """A policy that repeats one action."""

    def __init__(self, action_space: Space, action: int | tuple[float, ...]) -> None:
        self.action = np.asarray(action, action_space.dtype)
        if not action_space.contains(self.action if self.action.ndim else int(self.action)):
            raise InvalidInputError(f"action {action!r} is outside {action_space}")

    def reset(self, seed: int | None = None) -> None:
        """Do nothing: the policy has no state."""

    def act(self, obs: object) -> Action:
        """Return the action."""
        return self.action.copy() if self.action.ndim else int(self.action)


class Crowd:
    """One policy in ``len(seeds)`` episodes at once.

    A batched policy has one instance, any other has one per episode. An episode's random numbers
    come from its own seed; those of a batched policy come from the first seed.
    """

    def __init__(
        self,
        spec: PolicySpec,
        space: Space,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.spec, self.space, self.began = spec, space, False
        first = spec.build(space, device)
        self.whole: BatchPolicy | None = first if isinstance(first, BatchPolicy) else None
        self.policies = (
            [first, *(spec.build(space, device) for _ in seeds[1:])]
            if self.whole is None
            else [first]
        )
        for policy, seed in zip(self.policies, seeds, strict=False):
            policy.reset(int(seed))
        self.spaces, self.rngs = [], [np.random.default_rng([int(seed), 1]) for seed in seeds]
        for seed in seeds:
            self.spaces.append(copy.deepcopy(space))
            self.spaces[-1].seed(int(seed))

    def act(self, frames: Tensor) -> Array:
        """Return actions (n, ...) for the episodes' frames (n, h, w, 3) uint8.

        The first call starts all episodes.
        """
        if self.whole is not None:
            begins = np.full(len(frames), not self.began)
            acts = self.whole.act_batch(frames, begins)
            acts = acts.cpu().numpy() if isinstance(acts, Tensor) else np.asarray(acts)
        else:
            shown = frames.cpu().numpy()
            acts = np.stack(
                [
                    np.asarray(policy.act(frame))
                    for policy, frame in zip(self.policies, shown, strict=True)
                ]
            )
        self.began = True
        for i, (rng, space) in enumerate(zip(self.rngs, self.spaces, strict=True)):
            if self.spec.chance and rng.random() < self.spec.chance:
                acts[i] = space.sample()
        return np.asarray(
            acts, np.int64 if isinstance(self.space, gym.spaces.Discrete) else np.float32
        )
