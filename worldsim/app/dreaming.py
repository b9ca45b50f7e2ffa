"""Dreams under given actions, step by step, for ``demo`` and ``compare``."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium as gym
import numpy as np
import torch

from worldsim.runtime.progress import follow
from worldsim.runtime.types import Action
from worldsim.state import Transition, WorldState
from worldsim.world import World


def dream_on(
    world: World, state: WorldState, acts: Sequence[Action]
) -> tuple[list[Transition], WorldState]:
    """Return the transitions of the actions from ``state`` (a batch of one), and the final state.

    The world estimates its own poses.
    """
    kind = np.int64 if isinstance(world.action_space, gym.spaces.Discrete) else np.float32
    transitions = []
    for act in follow(acts, "dreaming"):
        state, transition = world.step(
            state, torch.from_numpy(np.asarray(act, kind))[None].to(world.device)
        )
        transitions.append(transition)
    return transitions, state
