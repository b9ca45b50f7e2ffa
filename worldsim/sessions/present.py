"""Where a session is: its world, state and newest frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from worldsim.runtime.types import Array
from worldsim.sessions.batcher import Held, Outcome
from worldsim.sessions.protocol import ActionValue, Settings
from worldsim.sessions.stored_frames import StoredFrame
from worldsim.sessions.twins import TwinFrame
from worldsim.state import MemoryView, WorldState
from worldsim.world.rows import report
from worldsim.world.world import World


def arithmetic_of(world: World) -> str:
    """Return what the rounding of a world's steps depends on, beside engine and device."""
    precision = world.engine.precision
    if world.device.type != "cpu":
        return precision
    threads = torch.get_num_threads()
    return f"{precision}, {threads} thread{'s' if threads > 1 else ''}"


@dataclass(frozen=True)
class Present:
    """Where a session is.

    world, settings: what steps it.
    held: its state.
    frame: the newest frame.
    info: as an environment's ``info``.
    view: what the memory showed before the last step; None after a reset or an edit.
    twin: the real twin's frame.
    """

    world: World
    settings: Settings
    held: Held
    frame: StoredFrame
    info: Mapping[str, Array]
    view: tuple[MemoryView, int] | None = None
    twin: TwinFrame | None = None
    reward: float = 0.0
    terminated: bool = False
    termination_prob: float | None = None
    uncertainty: float | None = None
    action: ActionValue | None = None
    agent: str | None = None
    queued_ms: float = 0.0
    step_ms: float = 0.0
    twin_ms: float = 0.0
    batch: int = 0

    @property
    def rgb(self) -> Array:
        """The newest frame, (h, w, 3) uint8."""
        return self.frame.rgb

    @property
    def state(self) -> WorldState:
        """The state, a batch of one; do not write into its tensors."""
        return self.held.get(self.world)


@torch.no_grad()
def present_at(world: World, settings: Settings, held: Held) -> Present:
    """Return the present of a state that no step has led to."""
    state = held.get(world)
    return Present(
        world=world,
        settings=settings,
        held=held,
        frame=StoredFrame.rows_of(state.frame, 1)[0],
        info={name: value[0].cpu().numpy() for name, value in report(world, state, 1).items()},
        uncertainty=0.0 if world.tells_uncertainty else None,
    )


def present_after(
    world: World, settings: Settings, outcome: Outcome, action: ActionValue, agent: str | None
) -> Present:
    """Return the present after a step."""
    return Present(
        world=world,
        settings=settings,
        held=outcome.held,
        frame=outcome.frame,
        info=outcome.info,
        view=outcome.view,
        reward=outcome.reward,
        terminated=outcome.terminated,
        termination_prob=outcome.termination_prob,
        uncertainty=outcome.uncertainty,
        action=action,
        agent=agent,
        queued_ms=outcome.queued_ms,
        step_ms=outcome.step_ms,
        batch=outcome.batch,
    )


def fit_state(now: Present, world: World) -> Held:
    """Return the state for a world of the same weights with other settings."""
    state = now.state
    if (world.painting is None) != (state.looked is None):
        if world.painting is None:
            state = dataclasses.replace(state, looked=None)
        else:
            state = world.painting.begin(state)
        return Held(state)
    return now.held
