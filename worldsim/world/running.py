"""A world's step under an engine: number format, compilation and CUDA graphs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.diffusion.cpu_layers import for_inductor
from worldsim.protocols import EngineMemory, NetworkDynamics, SceneMemory
from worldsim.runtime.compiling import COMPILING
from worldsim.state import Frame, Transition, WorldState
from worldsim.world.edit import edit_memory
from worldsim.world.engine import (
    Compiled,
    EngineConfig,
    GraphedStep,
    compiled_between,
    compiled_passes,
    prepare_network,
    tell_once,
)
from worldsim.world.paint_ahead import Look
from worldsim.world.step import Aim, Predict, Step


class RunningStep:
    """A world's step run by an engine. It holds no states.

    With CUDA graphs it works in place: see :meth:`worldsim.world.World.with_engine`.

    plain: the step as its parts compute it.
    engine: how it is run.
    """

    def __init__(self, plain: Step, engine: EngineConfig) -> None:
        self.graphed: GraphedStep | None = None
        network = None
        if isinstance(plain.dynamics, NetworkDynamics):
            network = prepare_network(plain.dynamics.network, engine)
            plain = _with_network(plain, network)
        self.inner = _compile(plain, network, engine) if engine.compile else plain
        dynamics = self.inner.dynamics
        self._casting = dynamics if isinstance(dynamics, NetworkDynamics) else None
        if engine.graph and plain.device.type == "cuda":
            self.graphed = GraphedStep(_own_states(plain, network, engine))
        elif engine.graph:
            tell_once(f"CUDA graphs need CUDA: on {plain.device} steps run without")

    @torch.no_grad()
    def step(
        self, state: WorldState, act: Tensor, pose: Tensor | None = None
    ) -> tuple[WorldState, Transition]:
        """Advance all worlds by one action, see :meth:`worldsim.world.World.step`."""
        # The previous step has compiled everything that it needs.
        COMPILING.done()
        state = self._cast(state)
        if self.graphed is None:
            return self.inner(state, act, pose)
        if pose is None:
            return self.graphed(state, act)
        return self.inner(self.graphed.own(state), act, pose)

    def put(self, state: WorldState, index: Tensor, other: WorldState) -> WorldState:
        """Replace some environments, see :meth:`worldsim.world.World.put`."""
        if self.graphed is None:
            return state.put(index, other)
        return self.graphed.put(state, index, other)

    def take(self, state: WorldState, look: Look) -> WorldState:
        """Return the states after a look ahead, see :meth:`worldsim.world.World.look`."""
        return look.apply(state) if self.graphed is None else self.graphed.take(state, look)

    def own(self, state: WorldState) -> WorldState:
        """Return a state that later steps do not change, see :meth:`worldsim.world.World.own`."""
        return state if self.graphed is None else self.graphed.own(state)

    @torch.no_grad()
    def observe(self, state: WorldState, act: Tensor, frame: Frame) -> WorldState:
        """Advance all worlds by a given frame, see :meth:`worldsim.world.World.observe`."""
        return self.inner.observe(self.own(self._cast(state)), act, frame)

    @torch.no_grad()
    def edit(self, state: WorldState, memory: Any) -> WorldState:
        """Replace the memory, see :meth:`worldsim.world.World.edit`."""
        return edit_memory(self.inner, self.own(state), memory)

    @torch.no_grad()
    def predict_motion(self, state: WorldState, act: Tensor) -> Tensor:
        """Predict the motion, see :meth:`worldsim.world.World.predict_motion`."""
        return self.inner.predict_motion(state, act)

    def _cast(self, state: WorldState) -> WorldState:
        """Return the state with its context in this engine's dtype.

        The state may come from another engine.
        """
        if self._casting is None:
            return state
        context = self._casting.cast_context(state.context)
        if context is state.context:
            return state
        return dataclasses.replace(state, context=context)


def _with_network(
    step: Step,
    network: nn.Module,
    forward: Compiled[..., tuple[Tensor, Tensor, Tensor]] | None = None,
    in_place: bool = False,
) -> Step:
    """Return the step with dynamics that run ``network``."""
    assert isinstance(step.dynamics, NetworkDynamics)
    dynamics = step.dynamics.with_network(network, forward, in_place)
    return dataclasses.replace(step, dynamics=dynamics, predict=Predict(dynamics, step.outcome))


def _is_one_piece(step: Step, engine: EngineConfig) -> bool:
    """Return whether everything between the memory's passes is compiled together.

    Its many small operations cost as much as the network.
    """
    dynamics = step.dynamics
    return (
        engine.whole and isinstance(dynamics, NetworkDynamics) and dynamics.num_inference_steps == 1
    )


def _compile(step: Step, network: nn.Module | None, engine: EngineConfig) -> Step:
    """Return the step with compiled parts. Parts that inductor cannot compile run uncompiled."""
    mode, device = engine.compile, step.device
    if network is None:
        tell_once(f"{type(step.dynamics).__name__} has no network to compile: it runs uncompiled")
        return step
    if device.type == "cuda":
        return _with_network(step, network, Compiled(network.forward, mode, device))
    # Variants of the layers that inductor compiles to faster code.
    fast = for_inductor(network)
    if not _is_one_piece(step, engine):
        forward = Compiled(fast.forward, mode, device, instead=network.forward)
        return _with_network(step, network, forward)
    together = _compile_between(step, fast, mode)
    return dataclasses.replace(together, memory=_with_passes(step.memory, mode, device))


def _own_states(step: Step, network: nn.Module | None, engine: EngineConfig) -> Step:
    """Return the step for a caller that owns its states: memory and cache are changed in place."""
    mode, device = engine.compile, step.device
    one_piece = bool(mode) and network is not None and _is_one_piece(step, engine)
    between = compiled_between(mode, device) if one_piece else None
    memory = step.memory
    if isinstance(memory, EngineMemory):
        step = dataclasses.replace(step, memory=memory.in_place_with(between))
    if network is None:
        return step
    forward = Compiled(network.forward, mode, device) if mode else None
    owning = _with_network(step, network, forward, in_place=True)
    if not one_piece:
        return owning
    # If inductor fails to compile all of it, only the network is compiled.
    return _compile_between(owning, network, mode, in_place=True)


def _compile_between(step: Step, network: nn.Module, mode: str, in_place: bool = False) -> Step:
    """Return the step with everything between the memory's passes compiled together.

    network: runs in the compiled prediction. What inductor cannot compile runs as in ``step``.
    """
    ego, device = step.ego_motion, step.device
    predict = Predict(_with_network(step, network, in_place=in_place).dynamics, step.outcome)
    aim = None if ego is None else Compiled(Aim(ego).__call__, mode, device)
    together = Compiled(predict.__call__, mode, device, instead=step.predict)
    return dataclasses.replace(step, aim=aim, predict=together)


def _with_passes(memory: SceneMemory, mode: str, device: torch.device) -> SceneMemory:
    if not isinstance(memory, EngineMemory):
        return memory
    return memory.with_passes(compiled_passes(mode, device))
