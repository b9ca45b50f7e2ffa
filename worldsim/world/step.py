"""A world's step: move the camera, render the memory, predict the frame, update the memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldsim.camera import Camera, move, relative_motion, snap_pose
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.painted import give_way
from worldsim.memory.points import PointMemory
from worldsim.memory.splat import frame_surroundings
from worldsim.protocols import (
    ContextOfViews,
    Dynamics,
    LooksAhead,
    Prediction,
    SceneMemory,
    StepInputs,
    remembers,
)
from worldsim.runtime.rng import Purpose, uniform
from worldsim.state import Frame, MemoryView, Transition, WorldState
from worldsim.world.config import Termination, WorldConfig
from worldsim.world.frame_outcome import FrameOutcomeHead
from worldsim.world.heads import HISTORY, EgoMotionHead, OutcomeHead, to_camera_axes, to_world_axes
from worldsim.world.kinematics import KinematicMotion
from worldsim.world.paint_ahead import NEVER_AGAIN, Takes, taken_pixels


@dataclass(frozen=True, eq=False)
class Aim:
    """Predicts where an action moves the camera."""

    ego_motion: EgoMotionHead | KinematicMotion

    def __call__(
        self, around: Tensor, pose: Tensor, motion: Tensor, acts: Tensor, act: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predict the next camera pose.

        around: (b, 2, 48, 48) uint8, the map of the surroundings of ``pose``.
        pose: (b, 4, 4) camera-to-world of the current camera.
        motion: (b, 8, 6) past motions in world axes.
        acts: (b, 8, ...) past actions.
        act: (b, ...) the current action.

        Returns the next pose (b, 4, 4), snapped, and the motion to it (b, 6) in the axes of
        ``pose``.
        """
        motion = to_camera_axes(self.ego_motion(around, pose, motion, acts, act), pose)
        following = move(pose, motion)
        return following, relative_motion(pose, following)


@dataclass(frozen=True, eq=False)
class Predict:
    """Predicts the next frame, its reward and its termination."""

    dynamics: Dynamics
    outcome: OutcomeHead | FrameOutcomeHead

    def __call__(
        self, context: Any, inputs: StepInputs, acts: Tensor, recent: Tensor | None
    ) -> tuple[Prediction, Tensor, Tensor, Any]:
        """Predict the next frame with its rewards and termination.

        acts: (b, 8, ...) past actions, oldest first.
        recent: see :class:`worldsim.state.WorldState`.

        Returns the prediction, the rewards (b, 2) if the episode continues and if it ends, the
        termination logit (b,), and the context that includes the frame.
        """
        prediction, context = self.dynamics.predict(context, inputs)
        if isinstance(self.outcome, FrameOutcomeHead):
            assert recent is not None
            k = self.outcome.config.frames
            seen = torch.cat([recent, prediction.frame.rgb[:, None]], 1)[:, :k]
            acted = torch.cat([acts, inputs.act[:, None].to(acts.dtype)], 1)[:, -k:]
            rewards, logit = self.outcome(seen, acted)
        else:
            rewards, logit = self.outcome(prediction.features)
        return prediction, rewards, logit, context


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a world: state in, state out.

    An engine replaces ``memory``, ``aim`` and ``predict`` by faster versions
    (:mod:`worldsim.world.running`) that compute the same.
    """

    config: WorldConfig
    dynamics: Dynamics
    memory: SceneMemory
    ego_motion: EgoMotionHead | KinematicMotion | None
    outcome: OutcomeHead | FrameOutcomeHead
    aim: Callable[..., tuple[Tensor, Tensor]] | None
    predict: Callable[..., tuple[Prediction, Tensor, Tensor, Any]]
    takes: Takes = Takes.ALL
    """What memories of painted dreams take from dreamed frames."""

    @classmethod
    def of(
        cls,
        config: WorldConfig,
        dynamics: Dynamics,
        memory: SceneMemory,
        ego_motion: EgoMotionHead | KinematicMotion | None,
        outcome: OutcomeHead | FrameOutcomeHead,
        takes: Takes = Takes.ALL,
    ) -> Step:
        """Build the step from its parts, without an engine.

        ego_motion: None without geometry.
        """
        aim = None if ego_motion is None else Aim(ego_motion)
        predict = Predict(dynamics, outcome)
        return cls(config, dynamics, memory, ego_motion, outcome, aim, predict, takes)

    def __call__(
        self, state: WorldState, act: Tensor, pose: Tensor | None = None
    ) -> tuple[WorldState, Transition]:
        """Return the state after one action and the transition.

        See :meth:`worldsim.world.World.step`.
        """
        # The five parts of docs/concepts/index.md: ``inputs`` predicts the camera's motion (1) and
        # renders the memory there (2); ``predict`` draws the frame (3), with its rewards and its
        # end (4); ``advance`` integrates the frame into the memory (5).
        inputs = self.inputs(state, act, pose)
        prediction, rewards, logit, context = self.predict(
            state.context, inputs, state.act, state.recent
        )
        term = self.draw_terminations(logit, state)
        nothing = torch.zeros_like(logit)
        transition = Transition(
            frame=prediction.frame,
            rew=torch.where(term, rewards[:, 1], rewards[:, 0])
            if self.config.has_rewards
            else nothing,
            term=term,
            coverage=self.coverage(inputs),
            view=inputs.view,
            termination_prob=torch.sigmoid(logit) if self.config.has_terminations else nothing,
            uncertainty=prediction.uncertainty,
        )
        return self.advance(state, inputs, prediction.frame, context), transition

    def inputs(self, state: WorldState, act: Tensor, pose: Tensor | None = None) -> StepInputs:
        """Return the inputs of the next prediction: the next camera and the memory's view there.

        act: (b,) int64 or (b, n) float32.
        pose: (b, 4, 4) imposes the next camera. By default the ego-motion head predicts it.
        """
        last, view, look = state.frame, None, None
        if last.pose is None:
            pose, motion = None, torch.zeros(len(state), 6, device=state.seed.device)
        else:
            if pose is None:
                assert self.aim is not None
                around = self.surroundings(state)
                pose, motion = self.aim(around, last.pose, state.motion, state.act, act)
            else:
                pose = snap_pose(pose)
                motion = relative_motion(last.pose, pose)
            view = self.look(state, pose)
            if isinstance(self.dynamics, LooksAhead):
                look = partial(self.look, state)
        return StepInputs(
            last=last,
            act=act,
            motion=motion,
            pose=pose,
            view=view,
            intrinsics=state.intrinsics,
            seed=state.seed,
            step=state.step,
            look=look,
        )

    def look(self, state: WorldState, pose: Tensor) -> MemoryView:
        """Render the memory at the cameras ``pose`` (b, 4, 4)."""
        return self.memory.render(state.memory, self.camera(pose, state.intrinsics))

    def advance(
        self,
        state: WorldState,
        inputs: StepInputs,
        frame: Frame,
        context: Any,
        observed: bool = False,
    ) -> WorldState:
        """Return the state after ``frame``.

        Context, memory and heads receive the emitted frame only.

        observed: whether it is a true frame. The memory takes all of it, and painted points give
            way to it.
        """
        memory, motion = state.memory, inputs.motion
        if frame.pose is not None:
            assert state.frame.pose is not None
            motion = to_world_axes(motion, state.frame.pose)
            camera = self.camera(frame.pose, state.intrinsics)
            known = None
            if observed and isinstance(self.memory, PointMemory):
                memory = give_way(self.memory, memory, frame, camera)
            elif not observed and state.looked is not None and inputs.view is not None:
                plain = (state.looked == NEVER_AGAIN)[:, None, None]
                known = taken_pixels(self.takes, inputs.view) | plain
            # A frame of which nothing is taken leaves the memory as it is. A GPU would have to wait
            # to find out.
            if known is None or known.device.type != "cpu" or bool(known.any()):
                memory = self.memory.integrate(memory, frame, camera, state.step, known)
        act = inputs.act[:, None].to(state.act.dtype)
        return dataclasses.replace(
            state,
            frame=frame,
            context=context,
            memory=memory,
            motion=torch.cat([state.motion[:, 1:], motion[:, None]], 1),
            act=torch.cat([state.act[:, 1:], act], 1),
            step=state.step + 1,
            coverage=None if state.coverage is None else self.coverage(inputs),
            recent=None
            if state.recent is None
            else torch.cat([state.recent[:, 1:], frame.rgb[:, None]], 1),
        )

    def observe(self, state: WorldState, act: Tensor, frame: Frame) -> WorldState:
        """Return the state after a given frame, see :meth:`worldsim.world.World.observe`."""
        frame = self.check_frame(frame)
        inputs = self.inputs(state, act, frame.pose)
        frame = dataclasses.replace(frame, pose=inputs.pose)
        context = self.dynamics.observe(state.context, inputs, frame)
        return self.advance(state, inputs, frame, context, observed=True)

    def predict_motion(self, state: WorldState, act: Tensor) -> Tensor:
        """Predict the camera's motion, see :meth:`worldsim.world.World.predict_motion`."""
        pose = state.frame.pose
        if self.ego_motion is None or pose is None:
            return torch.zeros(len(state), 6, device=state.seed.device)
        around = self.surroundings(state)
        return to_camera_axes(self.ego_motion(around, pose, state.motion, state.act, act), pose)

    def coverage(self, inputs: StepInputs) -> Tensor:
        """Return the share of the next frame that the memory covers, (b,) float32 in [0, 1]."""
        if inputs.view is None:
            return torch.zeros(len(inputs), device=inputs.seed.device)
        return inputs.view.coverage

    def draw_terminations(self, logit: Tensor, state: WorldState) -> Tensor:
        """Return which worlds terminate, (b,) bool.

        logit: (b,), of the termination probability.
        """
        if not self.config.has_terminations:
            return torch.zeros_like(logit, dtype=torch.bool)
        if self.config.termination == Termination.THRESHOLD:
            return logit > 0
        return uniform(state.seed, state.step, Purpose.HEADS, (1,))[:, 0] < torch.sigmoid(logit)

    def surroundings(self, state: WorldState) -> Tensor:
        """Return the map that the ego-motion head receives, (b, 2, 48, 48) uint8.

        It comes from the memory, or from the newest frame for a world without memory.
        """
        assert state.frame.pose is not None
        if remembers(self.memory):
            return self.memory.surroundings(state.memory, state.frame.pose)
        camera = self.camera(state.frame.pose, state.intrinsics)
        return frame_surroundings(state.frame, camera)

    @property
    def has_geometry(self) -> bool:
        """Whether frames carry depth and pose."""
        return self.ego_motion is not None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.outcome.parameters()).device

    def camera(self, pose: Tensor, intrinsics: Tensor) -> Camera:
        """Return the camera of a frame at ``pose``."""
        return Camera(pose, intrinsics, self.dynamics.spec.height, self.dynamics.spec.width)

    def render(self, state: WorldState, memory: Any) -> MemoryView:
        """Render ``memory`` at the newest frame's camera."""
        assert state.frame.pose is not None
        return self.memory.render(memory, self.camera(state.frame.pose, state.intrinsics))

    def blank(self, batch: int) -> WorldState:
        """Return empty states, see :meth:`worldsim.world.World.blank`."""
        spec, device = self.dynamics.spec, self.device
        kind = torch.int64 if spec.actions else torch.float32
        act = (batch, HISTORY) if spec.actions else (batch, HISTORY, spec.action_dim)
        pixels = (batch, spec.height, spec.width)
        frame = Frame(torch.zeros(batch, 3, *pixels[1:], dtype=torch.uint8, device=device))
        if self.has_geometry:
            frame = Frame(
                frame.rgb,
                inverse_depth=torch.zeros(pixels, dtype=torch.int32, device=device),
                pose=torch.eye(4, device=device).repeat(batch, 1, 1),
            )
        intrinsics = self.config.intrinsics or (1.0, 1.0, 0.0, 0.0)
        keeps_views = isinstance(self.dynamics, ContextOfViews)
        recent = None
        if isinstance(self.outcome, FrameOutcomeHead):
            recent = frame.rgb[:, None].repeat(1, self.outcome.past, 1, 1, 1)
        return WorldState(
            frame=frame,
            context=self.dynamics.empty(batch, device),
            memory=self.memory.empty(batch, device),
            motion=torch.zeros(batch, HISTORY, 6, device=device),
            act=torch.zeros(act, dtype=kind, device=device),
            intrinsics=torch.tensor(intrinsics, device=device).repeat(batch, 1),
            seed=torch.zeros(batch, dtype=torch.int64, device=device),
            step=torch.zeros(batch, dtype=torch.int64, device=device),
            coverage=None if keeps_views else torch.zeros(batch, device=device),
            recent=recent,
        )

    def check_frame(self, frame: Frame) -> Frame:
        """Return the frame with a snapped pose.

        Raises InvalidInputError or MissingGeometryError for a frame that does not fit this world.
        """
        size = (3, self.dynamics.spec.height, self.dynamics.spec.width)
        if frame.rgb.dtype != torch.uint8 or frame.rgb.shape[1:] != size:
            raise InvalidInputError(
                f"frames must be uint8 of shape (b, {size[0]}, {size[1]}, {size[2]}), got "
                f"{frame.rgb.dtype} {tuple(frame.rgb.shape)}: resize or convert them first"
            )
        if not self.has_geometry:
            return Frame(frame.rgb)
        if frame.inverse_depth is None or frame.pose is None:
            raise MissingGeometryError(
                "this world has a scene memory: its frames need inverse_depth and pose, got None"
            )
        return dataclasses.replace(frame, pose=snap_pose(frame.pose))
