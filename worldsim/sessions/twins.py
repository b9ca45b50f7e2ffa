"""The real twin of a session: stepped along with the same actions, rewound by replay.

Each twin has a process of its own. Engines crash now and then, and may take their process with
them: the server and other sessions go on, and the twin is made again and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from worldsim.errors import EngineError, WorldsimError
from worldsim.runtime.types import Action
from worldsim.runtime.workers import Worker
from worldsim.sessions.protocol import TwinStartAt
from worldsim.sessions.spare_twin import SpareTwin
from worldsim.sessions.twin_process import (
    RunningTwin,
    TwinFrame,
    TwinMaker,
    begin_walk,
    replay_walk,
    step_walk,
)
from worldsim.state import SceneStart
from worldsim.world.twin import recipe_of
from worldsim.world.world import World

__all__ = ["Twin", "TwinFrame"]

Result = TypeVar("Result")


class Twin:
    """The real twin of one session.

    world: the world that imitates it.
    start: how its episode begins.
    seed: seed of that episode.
    spare: a process that may be ready.

    The methods return futures. Their errors are those of
    :func:`worldsim.world.twin.make_twin`, and EngineError.
    """

    def __init__(
        self, world: World, start: TwinStartAt, seed: int, spare: SpareTwin | None = None
    ) -> None:
        self.world, self.start, self.seed = world, start, seed
        self._spare = spare
        self._actions: list[Action] = []
        """All actions since the episode's reset; the first ones are those of the history."""
        self._before = 0
        """Number of actions of the history."""
        self._walk = 0
        """Number of the present walk: each replay begins another."""
        self._frame: TwinFrame | None = None
        self._worker: Worker[RunningTwin] | None = None
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
        other._actions = [*self._actions[: self._before], *actions]
        other._before = len(other._actions)
        return other

    def close(self) -> None:
        """End the twin's engine."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    @property
    def frame(self) -> TwinFrame | None:
        """The newest frame."""
        return self._frame

    @property
    def process_id(self) -> int | None:
        """The process in which the engine runs; None if there is none."""
        return None if self._worker is None else self._worker.process_id

    def _guarded(self, function: Callable[[], Result]) -> Result:
        try:
            return function()
        except (RuntimeError, OSError) as error:
            if isinstance(error, WorldsimError):
                raise
            raise EngineError(f"the real twin failed: {error}") from error

    def _running(self) -> Worker[RunningTwin]:
        if self._worker is None:
            make = TwinMaker(recipe_of(self.world), self.start.history)
            worker = None if self._spare is None else self._spare.take()
            if worker is None:
                worker = Worker(make)
            else:
                worker.play_with(make)
            self._worker = worker
        return self._worker

    def _begin(self) -> SceneStart:
        start = self.start
        found = self._running().call(
            begin_walk, self._walk, self.seed, start.options, start.policy, start.history
        )
        self.seed, self._actions, self._frame = found.seed, found.actions, found.newest
        self._before = len(self._actions)
        return found.start

    def _step(self, action: Action) -> TwinFrame:
        frame = self._running().call(step_walk, self._walk, len(self._actions), action)
        self._actions.append(action)
        if frame is None:
            frame = self._go_over()
        self._frame = frame
        return frame

    def _replay(self, actions: Sequence[Action]) -> TwinFrame:
        self._actions[self._before :] = actions
        self._frame = self._go_over()
        return self._frame

    def _go_over(self) -> TwinFrame:
        """Let the engine take all steps from the reset on."""
        self._walk += 1
        return self._running().call(
            replay_walk, self._walk, self.seed, self.start.options, list(self._actions)
        )

    def _close(self) -> None:
        if self._worker is not None:
            self._worker.close()
