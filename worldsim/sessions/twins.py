"""The real twin of a session: stepped along with the same actions, rewound by replay.

Each twin runs in a thread of its own, so that it costs the session no time beside a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from worldsim.errors import EngineError, InvalidInputError, WorldsimError
from worldsim.runtime.types import Action, Array, Env, Info
from worldsim.sessions.agents import installed_policy
from worldsim.sessions.protocol import TwinStartAt
from worldsim.state import SceneStart
from worldsim.world.twin import frames_of, make_twin
from worldsim.world.world import World

Result = TypeVar("Result")
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


class Twin:
    """The real twin of one session.

    world: the world that imitates it.
    start: how its episode begins.
    seed: seed of that episode.

    The methods return futures. Their errors are those of
    :func:`worldsim.world.twin.make_twin`, and EngineError.
    """

    def __init__(self, world: World, start: TwinStartAt, seed: int) -> None:
        self.world, self.start, self.seed = world, start, seed
        self._env: Env | None = None
        self._before: list[Action] = []
        self._frame: TwinFrame | None = None
        self._thread = ThreadPoolExecutor(1, "worldsim-twin")

    def begin(self) -> Future[SceneStart]:
        """Walk the history; the future tells the frames that the dream receives."""
        return self._thread.submit(self._guarded, self._begin)

    def step(self, action: Action) -> Future[TwinFrame]:
        """Take one step; after the end of the episode, the last frame stays."""
        return self._thread.submit(self._guarded, lambda: self._step(action))

    def replay(self, actions: Sequence[Action]) -> Future[TwinFrame]:
        """Begin again and take all of these steps."""
        return self._thread.submit(self._guarded, lambda: self._replay(actions))

    def fork(self, actions: Sequence[Action]) -> Twin:
        """Return another twin, which stands where this one is after these steps.

        An engine cannot be copied, so it walks the whole way when :meth:`replay` is called.
        """
        other = Twin(self.world, self.start, self.seed)
        other._before = [*self._before, *actions]
        return other

    def close(self) -> None:
        """End the twin's engine."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    @property
    def frame(self) -> TwinFrame | None:
        """The newest frame."""
        return self._frame

    def _guarded(self, function: Callable[[], Result]) -> Result:
        try:
            return function()
        except (RuntimeError, OSError) as error:
            if isinstance(error, WorldsimError):
                raise
            raise EngineError(f"the real twin failed: {error}") from error

    def _begin(self) -> SceneStart:
        # The history of the walk before, whose actions a replay repeats.
        env = self._make()
        policy = installed_policy(self.start.policy, env.action_space)
        for seed in range(self.seed, self.seed + TRIES):
            obs, info = env.reset(seed=seed, options=dict(self.start.options) or None)
            policy.reset(seed)
            actions: list[Action] = []
            ended = False
            while len(actions) < self.start.history - 1 and not ended:
                actions.append(policy.act(obs))
                obs, _, terminated, truncated, info = env.step(actions[-1])
                ended = bool(terminated or truncated)
            if not ended:
                self.seed, self._before = seed, actions
                self._frame = _frame_of(obs, info, 0.0, False, False)
                return frames_of(env)
        raise InvalidInputError(
            f"{TRIES} episodes of the twin from seed {self.seed} end within "
            f"{self.start.history} steps of {self.start.policy!r}: give a shorter history, another "
            f"policy or another seed"
        )

    def _make(self) -> Env:
        if self._env is None:
            self._env = make_twin(self.world, self.start.history, max_episode_steps=LONGEST_EPISODE)
        return self._env

    def _step(self, action: Action) -> TwinFrame:
        assert self._env is not None and self._frame is not None
        if not self._frame.ended:
            obs, reward, terminated, truncated, info = self._env.step(action)
            self._frame = _frame_of(obs, info, float(reward), bool(terminated), bool(truncated))
        return self._frame

    def _replay(self, actions: Sequence[Action]) -> TwinFrame:
        env = self._make()
        obs, info = env.reset(seed=self.seed, options=dict(self.start.options) or None)
        self._frame = _frame_of(obs, info, 0.0, False, False)
        for action in (*self._before, *actions):
            self._step(action)
        return self._frame

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()


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
