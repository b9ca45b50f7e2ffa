"""Action-conditioned video diffusion as the dynamics of Gymnasium environments, with 3D memory.

Importing this package only registers its environments: torch and other heavy packages load on first
use.

``worldsim.envs``, ``worldsim.agents`` and ``worldsim.scenes`` lie in the folders ``envs``,
``agents`` and ``scenes`` at the top of the repository, not in ``worldsim``.
"""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium

__version__ = "0.2.0"

__all__ = ["World", "__version__", "connect"]

# Public names that live in a module too heavy to import here.
_LAZY = {"World": "worldsim.world", "connect": "worldsim.sessions.client"}

gymnasium.register(
    "worldsim/FreedoomReal-v0", entry_point="worldsim.envs.doom:FreedoomReal", max_episode_steps=500
)
gymnasium.register(
    "worldsim/FreedoomDream-v0",
    entry_point="worldsim.envs.world_env:WorldEnv",
    vector_entry_point="worldsim.envs.world_vector_env:WorldVectorEnv",
    max_episode_steps=500,
    kwargs={"world": "freedoom-tiny"},
)
gymnasium.register(
    "worldsim/Dream-v0",
    entry_point="worldsim.envs.world_env:WorldEnv",
    vector_entry_point="worldsim.envs.world_vector_env:WorldVectorEnv",
    max_episode_steps=500,
)
gymnasium.register(
    "worldsim/PretrainedDream-v0",
    entry_point="worldsim.envs.pretrained:make_env",
    vector_entry_point="worldsim.envs.pretrained:make_vector_env",
    max_episode_steps=500,
)
gymnasium.register(
    "worldsim/TinyRoom-v0", entry_point="worldsim.envs.tiny_room:TinyRoom", max_episode_steps=200
)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
