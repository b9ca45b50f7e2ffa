"""Creates the modules to train, new or from a world, and the settings of the resulting world."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from worldsim.data.dataset import DatasetInfo
from worldsim.diffusion.dynamics import DynamicsConfig
from worldsim.diffusion.module import Module
from worldsim.diffusion.network import VIEW_CHANNELS, SpaceTimeTransformer
from worldsim.errors import InvalidInputError
from worldsim.memory.points import PointMemoryConfig
from worldsim.runtime.json_config import from_json
from worldsim.training.config import PRESETS, HeadInput, TrainConfig
from worldsim.training.recordings import list_folders
from worldsim.training.tally import Tally
from worldsim.world import World
from worldsim.world.config import Termination, WorldConfig
from worldsim.world.frame_outcome import FrameOutcomeHead
from worldsim.world.heads import EgoMotionHead, OutcomeHead
from worldsim.world.image_env import PixelsConfig

Trained = TypeVar("Trained", bound=Module)

Modules = tuple[SpaceTimeTransformer, EgoMotionHead | None, OutcomeHead | FrameOutcomeHead]


def modules_for(
    info: DatasetInfo, c: TrainConfig, world: World | None, synthetic_terminal: bool = False
) -> Modules:
    """Return network and heads for a recording.

    They come from ``world`` (``c.init_from``); without one, new ones have the preset's size.

    synthetic_terminal: whether the recording's terminal frames are synthetic
        (:func:`worldsim.training.buffer.is_synthetic_terminal`).

    Raises InvalidInputError if the recording, the settings and the world do not fit each other.
    """
    height, width = info.observation_space["shape"][:2]
    space = info.action_space
    actions = int(space["n"]) if space["type"] == "Discrete" else 0
    if not actions and np.ndim(space["low"]) != 1:
        shape = np.shape(space["low"])
        raise InvalidInputError(
            f"{list_folders(c.data)}: actions of shape {shape} cannot be trained, record flat "
            f"ones (n,)"
        )
    if c.mirror_actions is not None and sorted(c.mirror_actions) != list(range(actions)):
        raise InvalidInputError(
            f"--mirror-actions {c.mirror_actions} must name each of the recording's {actions} "
            f"discrete actions once"
        )
    action_dim = 0 if actions else len(space["low"])
    channels = 4 if info.geometry else 3
    if world is not None:
        n = world.network.config
        found, wanted = (n.actions, n.action_dim, n.channels), (actions, action_dim, channels)
        if found != wanted:
            raise InvalidInputError(
                f"--init-from {c.init_from}: its (actions, action_dim, channels) are {found}, the "
                f"recording's {wanted}"
            )
        if c.memory and (n.last_frames or not n.view_channels):
            raise InvalidInputError(
                f"--init-from {c.init_from}: its network sees no scene memory, pass --no-memory"
            )
        network = (
            world.network
            if (n.height, n.width) == (height, width)
            else world.network.resize(height, width)
        )
        outcome, ego = world.outcome, world.trained_motion
        reads = HeadInput.FRAMES if isinstance(outcome, FrameOutcomeHead) else HeadInput.FEATURES
        # Convolutions of another frame size end in other places.
        if c.head_input not in (None, reads) or (
            isinstance(outcome, FrameOutcomeHead) and network is not world.network
        ):
            outcome = _outcome_head(
                c.head_input or reads, network, synthetic_terminal, c.outcome.standardised
            )
        for module in (network, ego, outcome):
            if module is not None:
                module.requires_grad_(True).train()
        return network, ego, outcome
    last = 0 if c.memory else c.last_frames
    size = PRESETS[c.preset] | ({} if c.attention is None else {"window": c.attention})
    network = SpaceTimeTransformer(
        height=height,
        width=width,
        channels=channels,
        view_channels=VIEW_CHANNELS if c.memory else last * (channels + 1),
        actions=actions,
        action_dim=action_dim,
        last_frames=last,
        pooling=c.pooling,
        **size,
    )
    ego = EgoMotionHead(actions=actions, action_dim=action_dim) if info.geometry else None
    reads = c.head_input or HeadInput.FEATURES
    return network, ego, _outcome_head(reads, network, synthetic_terminal, c.outcome.standardised)


def _outcome_head(
    reads: HeadInput, network: SpaceTimeTransformer, synthetic_terminal: bool, standardised: bool
) -> OutcomeHead | FrameOutcomeHead:
    n = network.config
    if reads is HeadInput.FEATURES:
        return OutcomeHead(dim=n.dim, on_end=True)
    if n.pooling != "mean":
        raise InvalidInputError(
            f"pooling {n.pooling!r} makes features for heads, and the head reads frames: pass "
            f"--pooling mean or --head-input features"
        )
    return FrameOutcomeHead(
        height=n.height,
        width=n.width,
        sees_new=not synthetic_terminal,
        actions=n.actions,
        action_dim=n.action_dim,
        standardised=standardised,
    )


def world_config(
    info: DatasetInfo, c: TrainConfig, dynamics: DynamicsConfig, has_rewards: bool, tally: Tally
) -> WorldConfig:
    """Return the settings of the world in training.

    has_rewards, tally: of the recording so far.
    """
    box = info.action_space if info.action_space["type"] == "Box" else None
    return WorldConfig(
        env_id=info.env_id,
        env_kwargs=dict(info.env_kwargs),
        fps=info.fps or 8.75,
        has_rewards=has_rewards,
        has_terminations=tally.endings > 0,
        termination=Termination.SAMPLE,
        pixels=None if info.pixels is None else from_json(PixelsConfig, info.pixels, "pixels"),
        dynamics=dataclasses.replace(
            dynamics,
            first_features=tally.synthetic_terminal,
            num_inference_steps=c.num_inference_steps,
            keep_still=c.keep_still,
        ),
        intrinsics=tuple(info.intrinsics) if info.intrinsics is not None else None,  # type: ignore[arg-type]
        action_low=tuple(box["low"]) if box is not None else None,
        action_high=tuple(box["high"]) if box is not None else None,
        memory=PointMemoryConfig(capacity=c.world_memory_capacity) if c.memory else None,
    )


def load_copy(module: Trained, weights: dict[str, Tensor]) -> Trained:
    """Return a copy of the module on the CPU: same class and config, with these weights."""
    twin = type(module).of_settings(module.settings)
    twin.load_state_dict({k: v.detach().cpu() for k, v in weights.items()})
    return twin


def hardware(device: torch.device, count: int) -> str:
    """Return the hardware that training runs on, for the card."""
    return (
        f"{count} x {torch.cuda.get_device_name(device)}"
        if device.type == "cuda"
        else f"{count} CPU process(es)"
    )
