"""A pretrained video model as an environment, ``worldsim/PretrainedDream-v0``.

::

    env = gym.make(
        "worldsim/PretrainedDream-v0",
        pipeline="hub:Wan-AI/Wan2.1-VACE-1.3B-diffusers", revision="<commit>",
        depth="hub:depth-anything/Depth-Anything-V2-Small-hf", depth_revision="<commit>",
        scenes="picture:photo.png",
    )
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from worldsim.envs.world_env import WorldEnv
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError
from worldsim.pretrained.loading import PretrainedSource
from worldsim.pretrained.worlds import pretrained_world
from worldsim.protocols import Scene
from worldsim.world import World
from worldsim.world.heads import EgoMotionHead
from worldsim.world.kinematics import KinematicMotion


def make_env(
    pipeline: str | World, scenes: str | Path | Scene | None = None, **settings: Any
) -> WorldEnv:
    """Make one environment.

    pipeline: a folder or ``hub:owner/name`` of a video pipeline of diffusers
        (:data:`worldsim.runtime.registries.VIDEO_MODELS` lists the conventions), or a world made by
        :func:`worldsim.pretrained.worlds.pretrained_world`.
    scenes: where resets start, such as ``picture:photo.png``; see
        :class:`worldsim.envs.world_env.WorldEnv`. Required: pretrained models come without scenes.
    settings: arguments of :func:`worldsim.pretrained.worlds.pretrained_world` (``motion``, which
        also says how many actions there are, ``fov_deg``, ``device``, ``arguments``), fields of
        :class:`worldsim.pretrained.loading.PretrainedSource` (``revision``, ``depth``,
        ``depth_revision``, ``height``, ``width``, ``clip``, ``offload``, ...), and arguments of
        :class:`worldsim.envs.world_env.WorldEnv`.

    Raises what :func:`worldsim.pretrained.loading.load_dynamics` raises, and InvalidInputError
    without scenes.
    """
    world, rest = _world(pipeline, scenes, **settings)
    return WorldEnv(world, scenes=scenes, **rest)  # type: ignore[arg-type]


def make_vector_env(
    num_envs: int,
    pipeline: str | World,
    scenes: str | Path | Scene | None = None,
    **settings: Any,
) -> WorldVectorEnv:
    """Make ``num_envs`` environments of one world, see :func:`make_env`.

    Their chunks are generated one after another, equal ones once.
    """
    world, rest = _world(pipeline, scenes, **settings)
    return WorldVectorEnv(num_envs, world, scenes=scenes, **rest)


def _world(
    pipeline: str | World,
    scenes: object,
    motion: KinematicMotion | EgoMotionHead | None = None,
    fov_deg: float = 90.0,
    device: torch.device | str | None = None,
    arguments: Mapping[str, object] | None = None,
    **settings: Any,
) -> tuple[World, dict[str, Any]]:
    """Return the world of the arguments, and those of ``settings`` that are the environment's."""
    if scenes is None:
        raise InvalidInputError(
            "a pretrained model comes without start scenes: give scenes='picture:photo.png', a "
            "folder of scenes, or an object with start(rng)"
        )
    names = {field.name for field in dataclasses.fields(PretrainedSource)}
    own = {name: value for name, value in settings.items() if name in names}
    rest = {name: value for name, value in settings.items() if name not in names}
    if isinstance(pipeline, World):
        if own:
            raise InvalidInputError(f"{', '.join(own)}: a World has its own; leave them out")
        return (pipeline if device is None else pipeline.to(device)), rest
    motion = motion or KinematicMotion.walking()
    actions = {"actions": motion.config.actions, "action_dim": motion.config.action_dim}
    source = PretrainedSource(**{"pipeline": pipeline, "depth": "", **own, **actions})
    return pretrained_world(source, motion, fov_deg, device=device, arguments=arguments), rest
