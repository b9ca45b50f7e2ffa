"""A world whose dynamics is a pretrained video model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from worldsim.camera import default_intrinsics
from worldsim.errors import InvalidInputError
from worldsim.memory.slots import PointMemoryConfig
from worldsim.pretrained.dynamics import PretrainedDynamics
from worldsim.pretrained.loading import PretrainedSource, licences_of, load_dynamics
from worldsim.runtime.json_config import to_json
from worldsim.runtime.types import JsonObject
from worldsim.world import World
from worldsim.world.config import WorldConfig
from worldsim.world.heads import EgoMotionHead, OutcomeHead
from worldsim.world.kinematics import KinematicMotion


def pretrained_world(
    source: PretrainedSource,
    motion: KinematicMotion | EgoMotionHead | None = None,
    fov_deg: float = 90.0,
    fps: float = 16.0,
    memory: PointMemoryConfig | None = None,
    device: torch.device | str | None = None,
    arguments: Mapping[str, object] | None = None,
) -> World:
    """Load a pretrained video model as a world.

    motion: where actions move the camera; by default
        :meth:`worldsim.world.kinematics.KinematicMotion.walking`.
    fov_deg: horizontal field of view of the camera, degrees.
    fps: steps per second of the world's time.
    memory: settings of the scene memory.
    device, arguments: see :func:`worldsim.pretrained.loading.load_dynamics`.
    """
    dynamics = load_dynamics(source, device, arguments)
    return world_of(dynamics, motion, fov_deg, fps, memory, source)


def world_of(
    dynamics: PretrainedDynamics,
    motion: KinematicMotion | EgoMotionHead | None = None,
    fov_deg: float = 90.0,
    fps: float = 16.0,
    memory: PointMemoryConfig | None = None,
    source: PretrainedSource | None = None,
) -> World:
    """Return the world of pretrained dynamics, see :func:`pretrained_world`.

    source: where the models come from. Only worlds with one can be saved and loaded again.

    Raises InvalidInputError if motion and dynamics have other actions.
    """
    spec, motion = dynamics.spec, motion or KinematicMotion.walking()
    actions = motion.config.actions, motion.config.action_dim
    if actions != (spec.actions, spec.action_dim):
        raise InvalidInputError(
            f"the motion has {_actions(*actions)}, the dynamics "
            f"{_actions(spec.actions, spec.action_dim)}: give a KinematicMotion of the same "
            "actions (KinematicMotion.of)."
        )
    config = WorldConfig(
        fps=fps,
        intrinsics=default_intrinsics(spec.height, spec.width, fov_deg),
        dynamics_name="pretrained",
        dynamics_settings={} if source is None else to_json(source),
        memory=memory or PointMemoryConfig(),
    )
    # Video models predict neither rewards nor terminations.
    outcome = OutcomeHead(dim=spec.features)
    outcome.load_state_dict({k: torch.zeros_like(v) for k, v in outcome.state_dict().items()})
    return World(dynamics, config, motion, outcome, _card(source))


def _actions(actions: int, action_dim: int) -> str:
    return f"{actions} discrete actions" if actions else f"action vectors of {action_dim}"


def _card(source: PretrainedSource | None) -> JsonObject:
    if source is None:
        return {}
    found: dict[str, Any] = asdict(source)
    kept = ("pipeline", "revision", "depth", "depth_revision")
    return {"models": {name: found[name] for name in kept}, "licence": licences_of(source)}
