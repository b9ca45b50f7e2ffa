"""Policies by name: registered names, saved or shipped agents, and ``module:Class``."""

from __future__ import annotations

import contextlib
from pathlib import Path

import gymnasium as gym
import torch

from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.protocols import Policy
from worldsim.runtime.registries import POLICIES
from worldsim.runtime.types import Space
from worldsim.shipped.agent_files import find_agent, load_agent, shipped_agents


def make_policy(
    name: str, action_space: Space, device: torch.device | str = "cpu", trust: bool = False
) -> Policy:
    """Return the policy that a *user* names.

    ``name`` is a registered name, the folder of a saved agent, the name of a shipped one, or
    ``module:Class``. The class is constructed with the action space alone. A ``module:Class`` is
    imported, so do not pass a name that comes from a file.

    device: where the weights of a saved agent go.
    trust: for a saved agent, see :func:`worldsim.shipped.agent_files.load_agent`.

    Raises NotFoundError or InvalidInputError, and the errors of ``load_agent``.
    """
    if not isinstance(name, str) or not isinstance(action_space, gym.Space):
        raise InvalidInputError(
            f"a policy has a name and an action space, got {name!r} and {action_space!r}"
        )
    folder = saved_folder(name)
    policy = (
        _construct(name, action_space)
        if folder is None
        else load_agent(folder, action_space, device, trust)
    )
    if not isinstance(policy, Policy):
        raise InvalidInputError(
            f"{name!r} is no policy: {type(policy).__name__} needs the methods reset(seed) and "
            f"act(obs)."
        )
    return policy


def saved_folder(name: str) -> Path | None:
    """Return the folder of the saved or shipped agent ``name``; None if it is no saved agent."""
    if name not in POLICIES and ":" not in name:
        with contextlib.suppress(NotFoundError):
            return find_agent(name)
    return None


def _construct(name: str, action_space: Space) -> Policy:
    if name not in POLICIES and ":" not in name:
        raise NotFoundError(f"No policy {name!r}: use {_forms()}.")
    try:
        constructor = POLICIES.of_user(name)
    except NotFoundError as error:
        raise NotFoundError(f"No policy {name!r} ({error}): use {_forms()}.") from None
    try:
        return constructor(action_space)
    except TypeError as error:
        raise InvalidInputError(
            f"The policy {name!r} cannot be constructed with the action space {action_space}: "
            f"{error}."
        ) from error


def _forms() -> str:
    shipped = ", ".join(shipped_agents())
    return f"{', '.join(POLICIES)}, 'module:Class', or the folder of a saved agent" + (
        f", or one of {shipped}" if shipped else ""
    )
