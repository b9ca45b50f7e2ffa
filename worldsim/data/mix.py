"""The policies of a recording: one, or a mix of which every episode gets one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.protocols import Policy
from worldsim.runtime.files import sha256_of
from worldsim.runtime.types import JsonObject, Space
from worldsim.shipped.policies import make_policy, saved_folder

MIX = "mix"
"""Name of a mix as a policy."""
WEIGHTS = {"random": 1.0, "persistent": 2.0, "sticky": 1.0}
"""Policies of a mix, and their weights, unless others are named."""
GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, modulo 1, are spread more evenly than random numbers, however many are taken."""


class PolicyMix:
    """The policies of a recording by name, and which of them plays an episode.

    A single policy is a mix of one. Which policy plays depends on the seed, the number of the shard
    and that of the episode alone, and episodes are shared out evenly within each shard.

    policy: name of a policy, or :data:`MIX`.
    weights: names and weights of a mix; empty for :data:`WEIGHTS`.
    trust: see :func:`worldsim.shipped.policies.make_policy`.

    Raises InvalidInputError for weights without :data:`MIX` and for weights that sum to 0, and the
    errors of ``make_policy``.
    """

    def __init__(
        self, policy: str, weights: Mapping[str, float], action_space: Space, trust: bool = False
    ) -> None:
        check_mix(policy, weights)
        self.mixed = policy == MIX
        chosen = dict(weights or WEIGHTS) if self.mixed else {policy: 1.0}
        self._sources = [name for name, weight in chosen.items() if weight > 0]
        self.names = [shown_name(name) for name in self._sources]
        if len(set(self.names)) < len(self.names):
            raise InvalidInputError(
                f"two policies of the mix have one name: {', '.join(self.names)}. Rename a folder, "
                f"so that the recording tells which of them played"
            )
        self._policies = [make_policy(name, action_space, trust=trust) for name in self._sources]
        shares = np.array([chosen[name] for name in self._sources])
        self._bounds = np.cumsum(shares / shares.sum())

    def of_episode(self, seed: int, shard: int, number: int) -> tuple[str, Policy]:
        """Return the policy that plays episode ``number`` of a shard, after its name."""
        first = np.random.default_rng([seed, shard]).random()
        place = (first + number * GOLDEN) % 1.0
        index = min(int(np.searchsorted(self._bounds, place, "right")), len(self.names) - 1)
        return self.names[index], self._policies[index]

    def describe(self) -> JsonObject:
        """Return what a resumed recording must have in common: shares, and checksums of agents."""
        found = zip(self.names, map(agent_sha256, self._sources), strict=True)
        sums = {name: total for name, total in found if total is not None}
        if not self.mixed:
            return {} if not sums else {"policy_sha256": sums[self.names[0]]}
        shares = np.diff(self._bounds, prepend=0.0)
        told: JsonObject = {
            "mix": {
                name: round(float(share), 6) for name, share in zip(self.names, shares, strict=True)
            }
        }
        return told | ({"mix_sha256": sums} if sums else {})


def check_mix(policy: str, weights: Mapping[str, float]) -> None:
    """Raise InvalidInputError for weights that name no mix."""
    if weights and policy != MIX:
        raise InvalidInputError(
            f"mix names policies, and the policy is {policy!r}: give --policy {MIX} as well"
        )
    if MIX in weights:
        raise InvalidInputError(f"a mix cannot hold {MIX!r}: name its policies")
    if weights and not sum(weights.values()) > 0:
        raise InvalidInputError(
            f"the weights of the mix are all 0 ({dict(weights)}): one has to be more than 0"
        )


def shown_name(policy: str) -> str:
    """Return the name that a recording stores: of a saved agent, that of its folder."""
    return Path(policy).name if saved_folder(policy) is not None else policy


def agent_sha256(policy: str) -> str | None:
    """Return the SHA-256 of a saved agent's files; None if the policy is no saved agent.

    An agent that was trained further is another policy, and records into another dataset.
    """
    folder = saved_folder(policy)
    if folder is None:
        return None
    total = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        total.update(f"{path.name} {sha256_of(path)}\n".encode())
    return total.hexdigest()
