"""Six scripted ways out and back in the real twin, each after the same walk of a policy.

The way back undoes the actions of the way out in reverse order, so the camera sees the same places
again, mirrored in time, except where a wall stopped it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worldsim.errors import InvalidInputError
from worldsim.evaluation.benchmark_set import (
    ATTEMPTS,
    POLICY,
    TEST_SPLIT,
    RecordedWalks,
    StoredArrays,
    codes_of,
    join_arrays,
    poses_of,
    require_geometry,
    rgb_of,
)
from worldsim.runtime.keyboard import action_names
from worldsim.runtime.types import Array, JsonObject, NamedArrays, Space
from worldsim.runtime.workers import Watched
from worldsim.shipped.policies import make_policy
from worldsim.world.image_env import make_env

FORWARD, BACKWARD = "forward", "backward"
LEFT, RIGHT = "turn left", "turn right"
STRAFE_LEFT, STRAFE_RIGHT = "strafe left", "strafe right"
UNDONE = {
    FORWARD: BACKWARD,
    BACKWARD: FORWARD,
    LEFT: RIGHT,
    RIGHT: LEFT,
    STRAFE_LEFT: STRAFE_RIGHT,
    STRAFE_RIGHT: STRAFE_LEFT,
}
"""The move that undoes each move, by the names of :data:`worldsim.runtime.keyboard.NAMES`."""
TRAJECTORIES: dict[str, tuple[str, ...]] = {
    "forward-back": (FORWARD,) * 24,
    "lateral": (STRAFE_LEFT,) * 24,
    "yaw": (LEFT,) * 13,
    "arc": (FORWARD, FORWARD, LEFT) * 8,
    "orbit": (STRAFE_LEFT, RIGHT) * 12,
    "peek": (STRAFE_LEFT,) * 6 + (LEFT,) * 7,
}
"""The moves of each way out. A turn of Freedoom's walker is 14 degrees and a move some 0.6 m, so
``yaw`` turns by half a circle, ``orbit`` walks half round a point 2.5 m away, and ``peek`` steps
aside and looks behind."""


@dataclass(frozen=True)
class TrajectoryConfig:
    """The settings that determine every number in a set of trajectories."""

    env_id: str
    """Gymnasium id of the real twin."""
    env_kwargs: JsonObject
    """Arguments of ``gymnasium.make``."""
    seed: int = 0
    """Walk ``i`` has seed ``seed * 1000003 + i``; all six trajectories begin after it."""
    history: int = 32
    """True frames that a dream receives."""

    def __post_init__(self) -> None:
        if self.history < 2:
            raise InvalidInputError(f"history = {self.history}: at least two frames")

    def recorder(self) -> TrajectoryRecorder:
        """Return the recorder of the trajectories."""
        return TrajectoryRecorder(self)

    @staticmethod
    def episode(arrays: dict[str, Array], name: str) -> Trajectory:
        """Return a trajectory from its stored arrays and its map's name."""
        return Trajectory(**arrays, map=name)

    @staticmethod
    def name(index: int) -> str:
        """Return the name of trajectory ``index``: the six take turns."""
        return list(TRAJECTORIES)[index % len(TRAJECTORIES)]


@dataclass(frozen=True)
class Trajectory(StoredArrays):
    """One trajectory of t frames, as NumPy arrays; ``act[i]`` leads from frame i to frame i + 1.

    The first ``history`` frames are a policy's walk, then come n steps out and n back.

    rgb: (t, 3, h, w) uint8.
    inverse_depth: (t, h, w) uint16 codes.
    pose: (t, 4, 4) float32 camera-to-world.
    intrinsics: (4,) float32 pixels.
    act: (t - 1,) int64.
    """

    rgb: Array
    inverse_depth: Array
    pose: Array
    intrinsics: Array
    act: Array
    map: str = ""


def moves_of(space: Space, env_id: str) -> dict[str, int]:
    """Return the action of each move.

    Raises InvalidInputError for an environment whose actions do not move and turn a camera.
    """
    names = action_names(space, env_id)
    missing = [move for move in UNDONE if move not in names]
    if missing:
        raise InvalidInputError(
            f"{env_id} has no actions named {', '.join(missing)}: --protocol twin walks scripted "
            f"trajectories. Name the actions in worldsim.runtime.keyboard.NAMES, or use another "
            f"protocol"
        )
    return {move: names.index(move) for move in UNDONE}


class TrajectoryRecorder:
    """Records trajectories in the real twin by number."""

    def __init__(self, config: TrajectoryConfig) -> None:
        self.config = config
        longest = max(len(moves) for moves in TRAJECTORIES.values())
        limit = config.history + 2 * longest + 1
        self.env = Watched(
            make_env(config.env_id, {**config.env_kwargs, "max_episode_steps": limit})
        )
        self.moves = moves_of(self.env.action_space, config.env_id)
        self.policy = make_policy(POLICY, self.env.action_space)

    def record(self, index: int) -> Trajectory:
        """Return trajectory ``index``, the same whenever and wherever it is recorded."""
        out = TRAJECTORIES[self.config.name(index)]
        script = [self.moves[move] for move in (*out, *(UNDONE[move] for move in out[::-1]))]
        first = self.config.seed * 1_000_003 + index // len(TRAJECTORIES)
        for attempt in range(ATTEMPTS):
            walked = self._walk(first + attempt * 100_000_007, script)
            if walked is not None:
                return walked
        raise InvalidInputError(
            f"{self.config.env_id} ended {ATTEMPTS} trajectories of {len(script)} steps: choose a "
            f"shorter history"
        )

    def _walk(self, seed: int, script: Sequence[int]) -> Trajectory | None:
        """Return a trajectory, or None if the environment ended it."""
        obs, info = self.env.reset(seed=seed, options=dict(TEST_SPLIT))
        require_geometry(info, self.config.env_id)
        self.policy.reset(seed)
        name, frames, acts = str(info.get("map", "")), [(obs, info)], []
        for i in range(self.config.history - 1 + len(script)):
            walking = i < self.config.history - 1
            act = self.policy.act(obs) if walking else script[i - self.config.history + 1]
            obs, _, terminated, truncated, info = self.env.step(act)
            if terminated or truncated:
                return None
            frames.append((obs, info))
            acts.append(act)
        return Trajectory(
            rgb=rgb_of(frames),
            inverse_depth=codes_of(frames),
            pose=poses_of(frames),
            intrinsics=np.asarray(frames[0][1]["intrinsics"], np.float32),
            act=np.asarray(acts, np.int64),
            map=name,
        )

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


@dataclass(frozen=True, kw_only=True)
class Trajectories(RecordedWalks):
    """Several trajectories of one name."""

    config: TrajectoryConfig
    name: str

    @property
    def out(self) -> int:
        """Steps of the way out."""
        return len(TRAJECTORIES[self.name])

    @property
    def turn(self) -> int:
        """Index of the frame at which the way turns round."""
        return self.config.history - 1 + self.out


def stack(
    recorded: Sequence[Trajectory],
    numbers: Sequence[int],
    config: TrajectoryConfig,
    name: str,
    device: torch.device | str = "cpu",
) -> Trajectories:
    """Stack trajectories of one name.

    numbers: number of each trajectory; the dreams' seeds.
    """
    arrays: NamedArrays = {
        key: join_arrays([getattr(one, key) for one in recorded], device)
        for key in recorded[0].arrays()
    }
    seed = torch.tensor(numbers, dtype=torch.int64) + config.seed * 1_000_003
    return Trajectories(
        **arrays,
        seed=seed.to(device),
        maps=tuple(one.map for one in recorded),
        config=config,
        name=name,
    )
