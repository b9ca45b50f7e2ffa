"""Saved agents: a folder with ``agent.json`` (the card) and, if there are any, weights.

Weights are in ``weights.safetensors``. A card names the policy's class, its constructor's
arguments, the world that it belongs to, the spaces that it fits and its measured results, so that
loading needs nothing else. Shipped agents lie in ``worldsim/agents_shipped/<name>/``. Version 2 of
the card holds the SHA-256 of the weights and a checksum of itself; version 1 is accepted, too.

A card is data: the class is looked up in :data:`worldsim.runtime.registries.POLICIES`, and nothing
else is imported.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import gymnasium as gym
import torch
from annotated_types import Ge
from torch import Tensor

from worldsim.diffusion.quantise import dequantise_weights, quantise_weights, stored_shapes
from worldsim.diffusion.shapes import shapes_only
from worldsim.errors import DamagedFileError, InvalidInputError, NotFoundError
from worldsim.protocols import Policy
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import (
    as_path,
    check_files,
    inside,
    is_file,
    load_tensors,
    present_folder,
    replacing_folder,
    require_finite,
    save_tensors,
    sha256_of,
    tensor_shapes,
)
from worldsim.runtime.json_config import (
    SEAL,
    check_format,
    check_seal,
    from_json,
    read_json,
    to_json,
    write_sealed,
)
from worldsim.runtime.registries import POLICIES
from worldsim.runtime.spaces import describe_space, space_of
from worldsim.runtime.types import Batch, JsonObject, Space

FORMAT, VERSION = "worldsim-agent", 2
CARD, WEIGHTS = "agent.json", "weights.safetensors"
SHIPPED_FOLDER = Path(__file__).parent.parent / "agents_shipped"
LARGEST_SETTING = 65_536
"""Largest number that a card may pass to a policy."""


@dataclass(frozen=True)
class AgentCard:
    """The content of ``agent.json``."""

    world: str = ""
    """The agent's world: a shipped world's name, a folder, or ``hub:owner/name``. Only a shipped
    one, or a folder inside the agent's own, is loaded without an explicit request
    (:func:`worldsim.world.files.find_world_of_file`)."""
    env_id: str = ""
    """Gymnasium id of that world's real twin."""
    real_frames_used: Annotated[int, Ge(0)] | None = None
    """Frames of the real twin that training used; None if unknown."""
    results: JsonObject = field(default_factory=dict)
    """Measured results."""
    training: JsonObject = field(default_factory=dict)
    """Settings of the training."""
    kind: str = ""
    """The policy's class, by its name or entry point in
    :data:`worldsim.runtime.registries.POLICIES`. :func:`save_agent` sets it and the fields
    below."""
    settings: JsonObject = field(default_factory=dict)
    """Constructor arguments of that class other than the action space."""
    action_space: JsonObject = field(default_factory=dict)
    """The action space."""


@runtime_checkable
class Learned(Protocol):
    """A policy with weights."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights by name."""
        ...

    def load_state_dict(self, weights: dict[str, Tensor]) -> object:
        """Load weights; floats may be in half precision."""
        ...


@runtime_checkable
class BatchPolicy(Protocol):
    """A policy that also acts for many environments at once."""

    def reset(self, seed: int | None = None) -> None:
        """Forget the past of all environments and set the seed."""
        ...

    def act_batch(self, obs: Batch, begins: Batch | None = None) -> Batch:
        """Return actions (n, ...) for frames (n, h, w, 3) uint8.

        begins: (n,) bool, True where the frame is the first of an episode.
        """
        ...


def save_agent(
    policy: Policy,
    folder: str | os.PathLike[str],
    card: AgentCard | None = None,
    eight_bit: bool = False,
) -> Path:
    """Write ``policy`` to ``folder``, atomically.

    policy: has ``action_space`` and, if its constructor takes more, ``settings``, a dict of those
        arguments. Its weights, if it has a ``state_dict``, are stored at 16 bits.
    eight_bit: store matrices and filters at 8 bits, as shipped worlds do. Measure such an agent
        again.
    """
    space = getattr(policy, "action_space", None)
    if not isinstance(space, gym.Space):
        raise InvalidInputError(
            f"{type(policy).__name__} has no action_space: an agent's card says what it chooses "
            f"from"
        )
    described, folder = describe_space(space), Path(folder)
    card = dataclasses.replace(
        card or AgentCard(),
        kind=POLICIES.entry_of(type(policy)),
        settings=dict(getattr(policy, "settings", {})),
        action_space=described,
    )
    with replacing_folder(folder) as new:
        (new / WEIGHTS).unlink(missing_ok=True)
        if isinstance(policy, Learned):
            whole = {
                name: value.detach().cpu().contiguous()
                for name, value in policy.state_dict().items()
            }
            weights = (
                quantise_weights(whole)
                if eight_bit
                else {name: _halve(value) for name, value in whole.items()}
            )
            save_tensors(weights, new / WEIGHTS)
        _write_card(new, card)
    return folder


def _write_card(folder: Path, card: AgentCard) -> None:
    files = {WEIGHTS: sha256_of(folder / WEIGHTS)} if is_file(folder / WEIGHTS) else {}
    write_sealed(
        folder / CARD, {"format": FORMAT, "version": VERSION, **to_json(card), "sha256": files}
    )


def load_agent(
    name: str | os.PathLike[str],
    action_space: Space | None = None,
    device: torch.device | str = "cpu",
    trust: bool = False,
) -> Policy:
    """Load the policy in a folder, or a shipped one by name.

    action_space: action space of the environment to act in. InvalidInputError if it differs from
        the agent's.
    device: where its weights go, if it has any.
    trust: let its card name any class, whose module is then imported.

    Raises NotFoundError, DamagedFileError, or UntrustedFileError for a class that is not
    registered.
    """
    folder = find_agent(name)
    card = read_card(folder)
    space = space_of(card.action_space)
    if action_space is not None and action_space != space:
        raise InvalidInputError(
            f"agent {name} chooses from {space}, the environment wants {action_space}: they "
            f"belong to different worlds"
        )
    constructor = POLICIES.of_file(card.kind, folder / CARD, trust)
    path = folder / WEIGHTS
    if callable(getattr(constructor, "load_state_dict", None)):
        if not is_file(path):
            raise NotFoundError(f"{path} is missing: copy the agent again")
        _check_claims(constructor, space, card, folder)
    policy = _made(constructor, space, card, folder)
    if isinstance(policy, Learned):
        try:
            policy.load_state_dict(dequantise_weights(load_tensors(path)))
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise DamagedFileError(
                f"{path} is damaged or does not fit its card ({error}): copy it again"
            ) from error
        require_finite(policy.state_dict(), path)
        if hasattr(policy, "to"):
            policy.to(resolve_device(device))
    if not isinstance(policy, Policy):
        raise DamagedFileError(
            f"{folder / CARD}: {card.kind!r} is no policy: it needs reset(seed) and act(obs)"
        )
    return policy


def _check_claims(constructor: type, space: Space, card: AgentCard, folder: Path) -> None:
    """Raise DamagedFileError unless the stored weights have the shapes that the settings imply.

    Allocates no memory for the weights.
    """
    try:
        with shapes_only():
            claimed = {
                k: tuple(v.shape)
                for k, v in _made(constructor, space, card, folder).state_dict().items()
            }
    except DamagedFileError as error:
        if isinstance(error.__cause__, (RuntimeError, NotImplementedError)):
            # A class that cannot be made without memory behind it: its settings are bounded all the
            # same.
            return
        raise
    stored = tensor_shapes(folder / WEIGHTS)
    if claimed != stored_shapes(stored):
        raise DamagedFileError(
            f"{folder / WEIGHTS} is damaged or does not fit its card: its shapes are others; copy "
            f"it again"
        )


def _made(constructor: type, space: Space, card: AgentCard, folder: Path) -> Any:
    for name, value in card.settings.items():
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if (
            any(isinstance(n, (int, float)) and not abs(n) <= LARGEST_SETTING for n in numbers)
            or len(numbers) > 64
        ):
            raise DamagedFileError(
                f"{folder / CARD}: {name} is {value!r}, numbers are at most {LARGEST_SETTING}: "
                f"copy it again"
            )
    try:
        return constructor(space, **card.settings)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        IndexError,
        OverflowError,
        ZeroDivisionError,
    ) as error:
        raise DamagedFileError(
            f"{folder / CARD}: {card.kind} cannot be made with {card.settings} ({error})"
        ) from error


def find_agent(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a saved agent, from a path or a shipped agent's name.

    Raises NotFoundError.
    """
    for folder in (present_folder(as_path(name)), SHIPPED_FOLDER / as_path(name)):
        if is_file(folder / CARD):
            return folder
    shipped = ", ".join(shipped_agents()) or "none"
    raise NotFoundError(
        f"no agent {str(name)!r}: give a folder with an {CARD}, or one of the shipped agents: "
        f"{shipped}"
    )


def shipped_agents() -> list[str]:
    """Return the names of the shipped agents."""
    return sorted(path.parent.name for path in SHIPPED_FOLDER.glob(f"*/{CARD}"))


def read_card(name: str | os.PathLike[str]) -> AgentCard:
    """Read the card of a saved agent. Raises NotFoundError or DamagedFileError."""
    path = find_agent(name) / CARD
    values = read_json(inside(path.parent, CARD))
    version = check_format(path, values, FORMAT, VERSION)
    try:
        card = from_json(
            AgentCard,
            {k: v for k, v in values.items() if k not in ("format", "version", "sha256", SEAL)},
        )
    except InvalidInputError as error:
        raise DamagedFileError(f"{path} is damaged ({error}): copy the agent again") from error
    check_seal(path, values, required=version >= 2)
    check_files(path, values.get("sha256", {}))
    return card


def update_card(name: str | os.PathLike[str], **changes: Any) -> AgentCard:
    """Change values in an agent's card, such as ``results``."""
    folder = find_agent(name)
    card = dataclasses.replace(read_card(folder), **changes)
    _write_card(folder, card)
    return card


def _halve(value: Tensor) -> Tensor:
    return value.half() if value.dtype == torch.float32 else value
