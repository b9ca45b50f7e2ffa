"""Trips out and back in the real twin.

The test policy walks out; for each length, the same actions are undone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.evaluation.benchmark_set import (
    ATTEMPTS,
    POLICY,
    TEST_SPLIT,
    RecordedWalks,
    codes_of,
    join_arrays,
    poses_of,
    require_geometry,
    rgb_of,
)
from worldsim.runtime.types import Array, Info, JsonObject, NamedArrays
from worldsim.runtime.workers import Watched
from worldsim.shipped.policies import make_policy
from worldsim.world.image_env import make_env

UNDO = (0, 2, 1, 4, 3, 6, 5)
"""The action that undoes each of no-op, forward, backward, turn left, turn right, strafe left,
strafe right."""


def check_lengths(lengths: tuple[int, ...]) -> None:
    """Raise InvalidInputError unless these are ascending numbers of steps, from 1."""
    if not lengths or list(lengths) != sorted(set(lengths)) or lengths[0] < 1:
        raise InvalidInputError(f"lengths = {lengths}: give ascending numbers of steps, from 1")


@dataclass(frozen=True)
class TripConfig:
    """The settings that determine every number in a set of trips."""

    env_id: str
    """Gymnasium id of the real twin."""
    env_kwargs: JsonObject
    """Arguments of ``gymnasium.make``."""
    seed: int = 0
    """Trip ``i`` has seed ``seed * 1000003 + i``."""
    start: int = 12
    """Number of true frames at the beginning of a dream, as after a reset."""
    lengths: tuple[int, ...] = (32, 125, 250)
    """Steps out, and as many back, ascending: shorter trips are the beginnings of the longest."""
    undo: tuple[int, ...] = UNDO
    """The action that undoes each discrete action."""

    def __post_init__(self) -> None:
        check_lengths(self.lengths)
        if self.start < 1:
            raise InvalidInputError(f"start = {self.start}: at least one frame")

    def turn(self, length: int) -> int:
        """Return the index of the outward frame at which a trip of ``length`` turns round."""
        return self.start - 1 + length

    def recorder(self) -> TripRecorder:
        """Return the recorder of the trips."""
        return TripRecorder(self)

    @staticmethod
    def episode(arrays: dict[str, Array], name: str) -> Trip:
        """Return a trip from its stored arrays and its map's name."""
        return Trip.from_arrays(arrays, name)


@dataclass(frozen=True)
class Trip:
    """One walk out of t frames, as NumPy arrays, and its ways back.

    ``act[i]`` leads from frame i to frame i + 1.

    rgb: (t, 3, h, w) uint8.
    inverse_depth: (t, h, w) uint16 codes.
    pose: (t, 4, 4) float32 camera-to-world.
    intrinsics: (4,) float32 pixels.
    act: (t - 1,) int64.
    back_rgb, back_pose, back_act: by length n, (n, ...): what ``back_act[j]`` led to.
    """

    rgb: Array
    inverse_depth: Array
    pose: Array
    intrinsics: Array
    act: Array
    back_rgb: dict[int, Array]
    back_pose: dict[int, Array]
    back_act: dict[int, Array]
    map: str = ""

    def arrays(self) -> dict[str, Array]:
        """Return the arrays by name, in a fixed order; names of a way back end in its length."""
        found: dict[str, Array] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, dict):
                found |= {f"{field.name}.{n}": value[n] for n in sorted(value)}
            elif field.name != "map":
                found[field.name] = value
        return found

    @staticmethod
    def from_arrays(arrays: dict[str, Array], name: str) -> Trip:
        """Return the trip of :meth:`arrays`. Raises TypeError if one is missing."""
        values: NamedArrays = {}
        for key, value in arrays.items():
            field, _, length = key.partition(".")
            if length:
                values.setdefault(field, {})[int(length)] = value
            else:
                values[field] = value
        return Trip(**values, map=name)


class TripRecorder:
    """Records trips in the real twin by number."""

    def __init__(self, config: TripConfig) -> None:
        self.config = config
        steps = config.turn(config.lengths[-1]) + config.lengths[-1]
        # The way back may be longer than the environment's own time limit allows.
        self.env = Watched(
            make_env(config.env_id, {**config.env_kwargs, "max_episode_steps": steps + 1})
        )
        space = self.env.action_space
        if not isinstance(space, gym.spaces.Discrete) or sorted(config.undo) != list(
            range(int(space.n))
        ):
            raise InvalidInputError(
                f"{config.env_id} has actions {space}, and --undo {config.undo} does not name for "
                f"each the one that undoes it: "
                "return trips need discrete actions that can be undone"
            )
        self.policy = make_policy(POLICY, space)

    def record(self, index: int) -> Trip:
        """Return trip ``index``, the same whenever and wherever it is recorded."""
        first = self.config.seed * 1_000_003 + index
        for attempt in range(ATTEMPTS):
            trip = self._trip(first + attempt * 100_000_007)
            if trip is not None:
                return trip
        longest = self.config.lengths[-1]
        raise InvalidInputError(
            f"{self.config.env_id} ended {ATTEMPTS} trips of {longest} steps and back: choose "
            f"shorter ones"
        )

    def _trip(self, seed: int) -> Trip | None:
        """Return a trip, or None if the environment ended it."""
        config = self.config
        out = self._play(seed, None)
        if out is None:
            return None
        frames, act = out
        back_rgb, back_pose, back_act = {}, {}, {}
        for length in config.lengths:
            turn = config.turn(length)
            undone = np.array([config.undo[a] for a in act[turn - length : turn][::-1]], np.int64)
            way = self._play(seed, np.concatenate([act[:turn], undone]))
            if way is None:
                return None
            back = way[0][turn + 1 :]
            back_rgb[length], back_pose[length], back_act[length] = (
                rgb_of(back),
                poses_of(back),
                undone,
            )
        return Trip(
            rgb=rgb_of(frames),
            inverse_depth=codes_of(frames),
            pose=poses_of(frames),
            intrinsics=np.asarray(frames[0][1]["intrinsics"], np.float32),
            act=act,
            back_rgb=back_rgb,
            back_pose=back_pose,
            back_act=back_act,
            map=str(frames[0][1].get("map", "")),
        )

    def _play(self, seed: int, acts: Array | None) -> tuple[list[tuple[Array, Info]], Array] | None:
        """Return the frames and actions of a walk from a start.

        acts: actions to play; by default the policy's, as far as the longest trip goes out.
        """
        obs, info = self.env.reset(seed=seed, options=dict(TEST_SPLIT))
        require_geometry(info, self.config.env_id)
        self.policy.reset(seed)
        start = info
        frames, taken = [(obs, info)], []
        steps = self.config.turn(self.config.lengths[-1]) if acts is None else len(acts)
        for i in range(steps):
            act = self.policy.act(obs) if acts is None else int(acts[i])
            obs, _, term, trunc, info = self.env.step(act)
            if term or trunc:
                return None
            taken.append(act)
            frames.append((obs, {"map": start.get("map", ""), **info}))
        return frames, np.asarray(taken, np.int64)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


@dataclass(frozen=True, kw_only=True)
class Trips(RecordedWalks):
    """The ways out of several trips and, by length n, their ways back; see :class:`Trip`.

    Tensors are (e, n, ...).
    """

    config: TripConfig
    back_rgb: dict[int, Tensor]
    back_pose: dict[int, Tensor]
    back_act: dict[int, Tensor]


def stack_trips(
    trips: Sequence[Trip], config: TripConfig, device: torch.device | str = "cpu"
) -> Trips:
    """Stack trips into one set of tensors."""
    names = ("rgb", "inverse_depth", "pose", "intrinsics", "act")
    plain: NamedArrays = {
        name: join_arrays([getattr(t, name) for t in trips], device) for name in names
    }
    back: NamedArrays = {
        name: {n: join_arrays([getattr(t, name)[n] for t in trips], device) for n in config.lengths}
        for name in ("back_rgb", "back_pose", "back_act")
    }
    seed = (torch.arange(len(trips)) + config.seed * 1_000_003).to(device)
    return Trips(config=config, **plain, **back, seed=seed, maps=tuple(t.map for t in trips))
