"""A world's step: state in, state out, and how an engine runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldsim.camera import Camera, relative_motion, rotation_vector_to_matrix, snap_pose
from worldsim.diffusion.cpu_layers import for_inductor
from worldsim.diffusion.denoiser import channels_to_frame
from worldsim.diffusion.dynamics import Context, DiffusionDynamics
from worldsim.diffusion.network import Condition, SpaceTimeTransformer
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.none import NoMemory
from worldsim.memory.points import in_place, with_passes
from worldsim.memory.splat import frame_surroundings
from worldsim.protocols import SceneMemory
from worldsim.runtime.compiling import COMPILING
from worldsim.runtime.rng import Purpose, normal, uniform
from worldsim.state import Frame, LastFrames, MemoryView, Transition, WorldState
from worldsim.world.config import Termination, WorldConfig
from worldsim.world.engine import (
    Compiled,
    EngineConfig,
    GraphedStep,
    compiled_between,
    compiled_passes,
    prepare_network,
    tell_once,
)
from worldsim.world.heads import HISTORY, EgoMotionHead, OutcomeHead, to_camera_axes, to_world_axes
from worldsim.world.parts import Aim, PredictFrame, condition_of, frames_before


class Stepper:
    """What :class:`worldsim.world.World` does with states, by its parts and an engine. It holds
    none itself.

    uncertainty: whether transitions tell how uncertain each frame is.
    """

    def __init__(
        self,
        network: SpaceTimeTransformer,
        ego_motion: EgoMotionHead | None,
        outcome: OutcomeHead,
        memory: SceneMemory,
        config: WorldConfig,
        engine: EngineConfig,
        uncertainty: bool,
    ) -> None:
        self.network, self.ego_motion, self.outcome, self.memory = (
            network,
            ego_motion,
            outcome,
            memory,
        )
        self.config, self.engine, self.uncertainty = config, engine, uncertainty
        run: Any = prepare_network(self.network, engine)
        cuda = self.device.type == "cuda"
        # What inductor makes faster code of; where there is no inductor, the network as it is.
        given: Any = for_inductor(run) if engine.compile and not cuda else run
        # Everything between the memory's passes: its many small operations cost as much as the
        # network.
        whole = (
            bool(engine.compile) and engine.whole and self.config.dynamics.num_inference_steps == 1
        )
        forward: Compiled | None = None
        if engine.compile and (cuda or not whole):
            forward = Compiled(given.forward, engine.compile, self.device, instead=run.forward)
        self.dynamics = DiffusionDynamics(run, self.config.dynamics, forward)
        self.aim: Callable[..., tuple[Tensor, Tensor]] = Aim(self.ego_motion)  # type: ignore[arg-type]
        self.dream: Callable[..., Any] = PredictFrame(self.dynamics, self.outcome, self.uncertainty)
        self.keeper = self.memory
        if whole and not cuda:
            self.aim = Compiled(self.aim.__call__, engine.compile, self.device)
            dream = PredictFrame(
                DiffusionDynamics(given, self.config.dynamics), self.outcome, self.uncertainty
            )
            self.dream = Compiled(dream.__call__, engine.compile, self.device, instead=self.dream)
            self.keeper = with_passes(self.memory, compiled_passes(engine.compile, self.device))
        self.graphed: GraphedStep | None = None
        if engine.graph and cuda:
            self.graphed = GraphedStep(self._owning_step(run, forward, whole))
        elif engine.graph:
            tell_once(f"CUDA graphs need CUDA: on {self.device} steps run without")

    @property
    def has_geometry(self) -> bool:
        """Whether frames carry depth and pose."""
        return self.ego_motion is not None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def _owning_step(
        self, run: SpaceTimeTransformer, forward: Compiled | None, whole: bool
    ) -> Callable[..., Any]:
        """A step for one who owns its states: memory and cache are changed in place."""
        dynamics = DiffusionDynamics(run, self.config.dynamics, forward, in_place=True)
        mode, dream = self.engine.compile, PredictFrame(dynamics, self.outcome, self.uncertainty)
        if not whole:
            return partial(self._step, keeper=in_place(self.memory), dream=dream)
        alone = dataclasses.replace(
            dream, dynamics=DiffusionDynamics(run, self.config.dynamics, in_place=True)
        )
        return partial(
            self._step,
            keeper=in_place(self.memory, compiled_between(mode, self.device)),
            aim=Compiled(Aim(self.ego_motion).__call__, mode, self.device),  # type: ignore[arg-type]
            # Where inductor fails at the whole, the network is compiled alone.
            dream=Compiled(alone.__call__, mode, self.device, instead=dream),
        )

    @torch.no_grad()
    def step(
        self, state: WorldState, act: Tensor, pose: Tensor | None = None
    ) -> tuple[WorldState, Transition]:
        """See :meth:`worldsim.world.World.step`."""
        # What the step before compiled is all that it needed.
        COMPILING.done()
        state = self._cast_context(state)
        if self.graphed is None:
            return self._step(state, act, pose)
        return (
            self.graphed(state, act)
            if pose is None
            else self._step(self.graphed.own(state), act, pose)
        )

    def _step(
        self,
        state: WorldState,
        act: Tensor,
        pose: Tensor | None = None,
        keeper: SceneMemory | None = None,
        aim: Callable[..., Any] | None = None,
        dream: Callable[..., Any] | None = None,
    ) -> tuple[WorldState, Transition]:
        """:meth:`step`, into a memory and with parts that may work in place."""
        keeper = keeper or self.keeper
        pose, motion, view = self.look(state, act, pose, aim, keeper)
        frame, rewards, logit, context, uncertainty = (dream or self.dream)(
            state.context,
            act,
            motion,
            self.shown(state, view),
            state.intrinsics,
            state.seed,
            state.step,
            pose,
        )
        term = self.draw_terminations(logit, state)
        reward = (
            torch.where(term, rewards[:, 1], rewards[:, 0])
            if self.config.has_rewards
            else torch.zeros_like(logit)
        )
        coverage = view.coverage if view is not None else torch.zeros_like(reward)
        state = self._take_in(state, act, motion, frame, context, keeper)
        termination_prob = (
            torch.sigmoid(logit) if self.config.has_terminations else torch.zeros_like(logit)
        )
        return state, Transition(frame, reward, term, coverage, view, termination_prob, uncertainty)

    def draw_terminations(self, logit: Tensor, state: WorldState) -> Tensor:
        """Which worlds terminate, (b,) bool, from the termination's logit (b,)."""
        if not self.config.has_terminations:
            return torch.zeros_like(logit, dtype=torch.bool)
        if self.config.termination == Termination.THRESHOLD:
            return logit > 0
        return uniform(state.seed, state.step, Purpose.HEADS, (1,))[:, 0] < torch.sigmoid(logit)

    def _cast_context(self, state: WorldState) -> WorldState:
        """The state with its cache in the engine's number format: it may come from another
        engine."""
        context = self.dynamics.cast_context(state.context)
        return state if context is state.context else dataclasses.replace(state, context=context)

    def put(self, state: WorldState, index: Tensor, other: WorldState) -> WorldState:
        """See :meth:`worldsim.world.World.put`."""
        return (
            state.put(index, other)
            if self.graphed is None
            else self.graphed.put(state, index, other)
        )

    def own(self, state: WorldState) -> WorldState:
        """See :meth:`worldsim.world.World.own`."""
        return state if self.graphed is None else self.graphed.own(state)

    @torch.no_grad()
    def observe(self, state: WorldState, act: Tensor, frame: Frame) -> WorldState:
        """See :meth:`worldsim.world.World.observe`."""
        frame = self.check_frame(frame)
        state = self.own(self._cast_context(state))
        pose, motion, view = self.look(state, act, frame.pose)
        frame = dataclasses.replace(frame, pose=pose)
        condition = self.condition(act, motion, self.shown(state, view), state.intrinsics)
        n = self.network.config
        noise = normal(state.seed, state.step, Purpose.CONTEXT, (n.channels, n.height, n.width))
        context = self.dynamics.commit(
            self.dynamics.advance(state.context), frame, condition, noise
        )
        return self._take_in(state, act, motion, frame, context, self.keeper)

    @torch.no_grad()
    def edit(self, state: WorldState, memory: Any) -> WorldState:
        """See :meth:`worldsim.world.World.edit`."""
        if (
            not self.has_geometry
            or isinstance(self.memory, NoMemory)
            or self.network.config.last_frames
        ):
            raise MissingGeometryError("this world has no scene memory that could be edited")
        state = self.own(state)
        frame, n = state.frame, self.network.config
        assert frame.pose is not None and frame.inverse_depth is not None
        camera = self.camera(frame.pose, state.intrinsics)
        before, after = self.memory.render(state.memory, camera), self.memory.render(memory, camera)
        condition = self.condition(
            state.act[:, -1], self.last_motion(state), after, state.intrinsics
        )
        empty = self.dynamics.empty(len(state), self.device)
        shape = (n.channels, n.height, n.width)
        prediction, _ = self.dynamics.predict(
            empty, condition, normal(state.seed, state.step, Purpose.EDIT, shape)
        )
        dreamed = channels_to_frame(prediction.x, frame.pose)
        assert dreamed.inverse_depth is not None
        changed = (before.mask != after.mask) | (before.inverse_depth != after.inverse_depth)
        changed = changed | (before.rgb != after.rgb).any(1)
        shown, unknown = changed & after.mask, changed & ~after.mask

        def again(old: Tensor, known: Tensor, new: Tensor) -> Tensor:
            over, under = (shown, unknown) if old.ndim == 3 else (shown[:, None], unknown[:, None])
            return torch.where(over, known, torch.where(under, new, old))

        frame = dataclasses.replace(
            frame,
            rgb=again(frame.rgb, after.rgb, dreamed.rgb),
            inverse_depth=again(frame.inverse_depth, after.inverse_depth, dreamed.inverse_depth),
        )
        noise = normal(state.seed, state.step, Purpose.CONTEXT, shape)
        context = self.dynamics.commit(empty, frame, condition, noise)
        # What was dreamed in place of what went lies around its outline: the next steps tell what
        # is there.
        memory = self.memory.integrate(memory, frame, camera, state.step, ~unknown)
        return dataclasses.replace(state, frame=frame, context=context, memory=memory)

    def last_motion(self, state: WorldState) -> Tensor:
        """The newest motion in the axes of the camera that it started from, (b, 6)."""
        assert state.frame.pose is not None
        motion = state.motion[:, -1]
        turn = rotation_vector_to_matrix(motion[:, 3:])
        start = torch.eye(4, device=motion.device).repeat(len(motion), 1, 1)
        # In world axes rotations multiply from the left, so the turn is undone on that side.
        start[:, :3, :3] = turn.transpose(1, 2) @ state.frame.pose[:, :3, :3]
        return to_camera_axes(motion, start)

    @torch.no_grad()
    def predict_motion(self, state: WorldState, act: Tensor) -> Tensor:
        """See :meth:`worldsim.world.World.predict_motion`."""
        if self.ego_motion is None:
            return torch.zeros(len(state), 6, device=state.seed.device)
        assert state.frame.pose is not None
        pose = state.frame.pose
        return to_camera_axes(
            self.ego_motion(self.around(state), pose, state.motion, state.act, act), pose
        )

    def around(self, state: WorldState) -> Tensor:
        """The map of surroundings that the ego-motion head looks at."""
        assert state.frame.pose is not None
        if isinstance(self.memory, NoMemory):
            return frame_surroundings(state.frame, self.camera(state.frame.pose, state.intrinsics))
        return self.keeper.surroundings(state.memory, state.frame.pose)

    def look(
        self,
        state: WorldState,
        act: Tensor,
        pose: Tensor | None,
        aim: Callable[..., Any] | None = None,
        keeper: SceneMemory | None = None,
    ) -> tuple[Tensor | None, Tensor, MemoryView | None]:
        """The next camera's pose, the motion to it and what the memory shows there."""
        if not self.has_geometry:
            return None, torch.zeros(len(state), 6, device=state.seed.device), None
        assert state.frame.pose is not None
        if pose is None:
            pose, motion = (aim or self.aim)(
                self.around(state), state.frame.pose, state.motion, state.act, act
            )
        else:
            pose = snap_pose(pose)
            motion = relative_motion(state.frame.pose, pose)
        view = (keeper or self.keeper).render(state.memory, self.camera(pose, state.intrinsics))
        return pose, motion, view

    def shown(self, state: WorldState, view: MemoryView | None) -> MemoryView | LastFrames | None:
        """What the network looks at: the memory's view, or the frames before."""
        return (
            frames_before(state.frame, state.context) if self.network.config.last_frames else view
        )

    def _take_in(
        self,
        state: WorldState,
        act: Tensor,
        motion: Tensor,
        frame: Frame,
        context: Context,
        keeper: SceneMemory,
    ) -> WorldState:
        """What is fed back is what is emitted: context, memory and heads see the emitted frame
        only."""
        memory = state.memory
        if frame.pose is not None:
            assert state.frame.pose is not None
            motion = to_world_axes(motion, state.frame.pose)
            memory = keeper.integrate(
                memory, frame, self.camera(frame.pose, state.intrinsics), state.step
            )
        return dataclasses.replace(
            state,
            frame=frame,
            context=context,
            memory=memory,
            motion=torch.cat([state.motion[:, 1:], motion[:, None]], 1),
            act=torch.cat([state.act[:, 1:], act[:, None].to(state.act.dtype)], 1),
            step=state.step + 1,
        )

    def condition(
        self, act: Tensor, motion: Tensor, view: MemoryView | LastFrames | None, intrinsics: Tensor
    ) -> Condition:
        return condition_of(self.dynamics, act, motion, view, intrinsics)

    def camera(self, pose: Tensor, intrinsics: Tensor) -> Camera:
        return Camera(pose, intrinsics, self.network.config.height, self.network.config.width)

    def blank(self, batch: int) -> WorldState:
        """See :meth:`worldsim.world.World.blank`."""
        n, device = self.network.config, self.device
        act = (
            torch.zeros(batch, HISTORY, dtype=torch.int64)
            if n.actions
            else torch.zeros(batch, HISTORY, n.action_dim)
        )
        geometry = self.has_geometry
        return WorldState(
            frame=Frame(
                rgb=torch.zeros(batch, 3, n.height, n.width, dtype=torch.uint8, device=device),
                inverse_depth=torch.zeros(
                    batch, n.height, n.width, dtype=torch.int32, device=device
                )
                if geometry
                else None,
                pose=torch.eye(4, device=device).repeat(batch, 1, 1) if geometry else None,
            ),
            context=self.dynamics.empty(batch, device),
            memory=self.memory.empty(batch, device),
            motion=torch.zeros(batch, HISTORY, 6, device=device),
            act=act.to(device),
            intrinsics=torch.tensor(
                self.config.intrinsics or (1.0, 1.0, 0.0, 0.0), device=device
            ).repeat(batch, 1),
            seed=torch.zeros(batch, dtype=torch.int64, device=device),
            step=torch.zeros(batch, dtype=torch.int64, device=device),
        )

    def check_frame(self, frame: Frame) -> Frame:
        n = self.network.config
        if frame.rgb.dtype != torch.uint8 or frame.rgb.shape[1:] != (3, n.height, n.width):
            raise InvalidInputError(
                f"frames must be uint8 of shape (b, 3, {n.height}, {n.width}), got "
                f"{frame.rgb.dtype} {tuple(frame.rgb.shape)}: "
                "resize or convert them first"
            )
        if not self.has_geometry:
            return Frame(frame.rgb)
        if frame.inverse_depth is None or frame.pose is None:
            raise MissingGeometryError(
                "this world has a scene memory: its frames need inverse_depth and pose, got None"
            )
        return dataclasses.replace(frame, pose=snap_pose(frame.pose))
