"""What runs in a twin's own process: the real engine, stepped and replayed on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Action, Array, Env, Info, JsonMapping, NamedArrays
from worldsim.runtime.workers import Engine, Watched
from worldsim.sessions.agents import installed_policy
from worldsim.state import SceneStart
from worldsim.world.twin import TwinRecipe, frames_of, make_from_recipe

TRIES = 20
"""Seeds that are tried for a walk that outlasts the history."""
LONGEST_EPISODE = 1_000_000
"""Steps of an episode: a session has no time limit."""


@dataclass(frozen=True)
class TwinFrame:
    """What the twin shows after a step.

    rgb: (h, w, 3) uint8. depth: (h, w) float32 metres and pose: (4, 4) camera-to-world, or None.
    """

    rgb: Array
    depth: Array | None
    pose: Array | None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


@dataclass(frozen=True)
class TwinMaker:
    """Makes a twin in any process.

    recipe: of the environment.
    history: number of frames that it keeps.
    """

    recipe: TwinRecipe
    history: int

    def __call__(self) -> RunningTwin:
        """Make it."""
        env = make_from_recipe(self.recipe, self.history, max_episode_steps=LONGEST_EPISODE)
        return RunningTwin(Watched(env))


class RunningTwin:
    """An environment, and where it stands: after so many steps of which walk."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.walk, self.steps = -1, 0
        self.frame: TwinFrame | None = None

    def reset(self, walk: int, seed: int, options: JsonMapping) -> TwinFrame:
        """Begin an episode, which is called ``walk`` from then on."""
        self.walk = -1
        obs, info = self.env.reset(seed=seed, options=dict(options) or None)
        self.walk, self.steps = walk, 0
        self.frame = _frame_of(obs, info, 0.0, False, False)
        return self.frame

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def step(self, action: Action) -> TwinFrame:
        """Take a step; after the end of the episode, the last frame stays."""
        assert self.frame is not None
        if not self.frame.ended:
            obs, reward, terminated, truncated, info = self.env.step(action)
            self.frame = _frame_of(obs, info, float(reward), bool(terminated), bool(truncated))
        self.steps += 1
        return self.frame


@dataclass(frozen=True)
class Beginning:
    """The history of a walk.

    frames: its frames, as arrays, since tensors would be sent through shared memory.
    name: name of the start.
    seed: seed of the episode.
    actions: all actions since the reset.
    newest: the last frame.
    """

    frames: NamedArrays
    name: str
    seed: int
    actions: list[Action]
    newest: TwinFrame

    @property
    def start(self) -> SceneStart:
        """The frames as a start of dreams."""
        given = {k: torch.from_numpy(x) for k, x in self.frames.items()}
        return SceneStart(**given, name=self.name)


def begin_walk(
    engine: Engine[RunningTwin],
    walk: int,
    seed: int,
    options: JsonMapping,
    policy_name: str,
    history: int,
) -> Beginning:
    """Walk ``history`` frames with a policy, from the first seed whose episode is long enough.

    Raises InvalidInputError if none of :data:`TRIES` seeds from ``seed`` on is.
    """

    def begin(twin: RunningTwin) -> Beginning:
        policy = installed_policy(policy_name, twin.env.action_space)
        for tried in range(seed, seed + TRIES):
            newest = twin.reset(walk, tried, options)
            policy.reset(tried)
            actions: list[Action] = []
            while len(actions) < history - 1 and not newest.ended:
                actions.append(policy.act(newest.rgb))
                newest = twin.step(actions[-1])
            if not newest.ended:
                scene = frames_of(twin.env)
                kept = ("rgb", "act", "inverse_depth", "pose", "intrinsics")
                given = {name: getattr(scene, name) for name in kept}
                frames = {name: x.numpy() for name, x in given.items() if x is not None}
                return Beginning(frames, scene.name, tried, actions, newest)
        raise InvalidInputError(
            f"{TRIES} episodes of the twin from seed {seed} end within {history} steps of "
            f"{policy_name!r}: give a shorter history, another policy or another seed"
        )

    return engine.play(begin)


def replay_walk(
    engine: Engine[RunningTwin],
    walk: int,
    seed: int,
    options: JsonMapping,
    actions: Sequence[Action],
) -> TwinFrame:
    """Begin an episode and take these steps."""

    def replay(twin: RunningTwin) -> TwinFrame:
        newest = twin.reset(walk, seed, options)
        for action in actions:
            newest = twin.step(action)
        return newest

    return engine.play(replay)


def step_walk(
    engine: Engine[RunningTwin], walk: int, steps: int, action: Action
) -> TwinFrame | None:
    """Take one step after ``steps`` steps of a walk.

    Returns None if the engine does not stand there, as after a crash; then it must be replayed.
    """

    def step(twin: RunningTwin) -> TwinFrame | None:
        return twin.step(action) if (twin.walk, twin.steps) == (walk, steps) else None

    return engine.play(step)


def _frame_of(
    obs: Array, info: Info, reward: float, terminated: bool, truncated: bool
) -> TwinFrame:
    depth, pose = info.get("depth"), info.get("pose")
    return TwinFrame(
        rgb=np.array(obs),
        depth=None if depth is None else np.array(depth, np.float32),
        pose=None if pose is None else np.array(pose, np.float32),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
    )
