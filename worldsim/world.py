"""A world: dynamics, scene memory, heads and card, one folder on disk. State in, state out."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldsim.camera import Camera, relative_motion, rotation_vector_to_matrix, snap_pose
from worldsim.config import from_json, read_json, to_json, write_json
from worldsim.diffusion.denoiser import channels_to_frame
from worldsim.diffusion.dynamics import Context, DiffusionDynamics, DynamicsConfig
from worldsim.diffusion.network import Condition, SpaceTimeTransformer
from worldsim.diffusion.quantise import dequantise_weights, quantise_weights
from worldsim.engine import (
    PLAIN,
    Compiled,
    EngineConfig,
    GraphedStep,
    compiled_between,
    compiled_passes,
    engine_named,
    prepared,
    tell_once,
)
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, NotFoundError
from worldsim.heads import HISTORY, EgoMotionHead, OutcomeHead, to_camera_axes, to_world_axes
from worldsim.memory.none import NoMemory
from worldsim.memory.points import PointMemory, PointMemoryConfig, in_place, with_passes
from worldsim.memory.splat import frame_surroundings
from worldsim.parts import Aim, Dream, condition_of
from worldsim.pixels import PixelsConfig
from worldsim.protocols import SceneMemory
from worldsim.random import Purpose, normal, uniform
from worldsim.state import (
    Frame,
    MemoryView,
    SceneStart,
    Transition,
    WorldState,
    bytes_of,
    checksum,
    concatenate,
    flatten,
    map_tensors,
)

FORMAT_VERSION = 1
BUCKETS = (1, 8, 32, 64, 128, 256, 512, 1024)
"""Batch sizes that worlds are stepped at: inside one bucket results are bit-exact whatever the neighbours do."""
PLAIN_WEIGHTS, PACKED_WEIGHTS = "diffusion_pytorch_model.safetensors", "int8.safetensors"
WORLDS_FOLDER = Path(__file__).parent / "worlds"
KEPT_STARTS = 64
"""Start scenes whose state is kept at least, so that the next reset to one of them is a copy."""
STARTS_SHARE = 0.04
"""Share of the device's memory that kept states may take beyond that: agents learn from hundreds of starts."""


class Termination(StrEnum):
    """How the termination head's probability ends an episode."""

    SAMPLE = "sample"
    """By a draw, from the environment's own random numbers: what ends episodes may be hidden, such as a player's health."""
    THRESHOLD = "threshold"
    """Where it is more than one half. Worlds made before there was a choice do so."""


@dataclass(frozen=True)
class WorldConfig:
    """What a world is made of, written to ``world.json``."""

    env_id: str = ""
    """Gymnasium id of the real twin."""
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments with which the real twin was recorded."""
    fps: float = 8.75
    """Steps a second of the real twin."""
    has_rewards: bool = False
    """Whether the recording had rewards other than zero: only then the reward head speaks."""
    has_terminations: bool = False
    """Whether the recording had terminations: only then the termination head speaks."""
    intrinsics: tuple[float, float, float, float] | None = None
    """``fx fy cx cy`` in pixels, None for a world without geometry."""
    action_low: tuple[float, ...] | None = None
    """Lower bounds of continuous actions, None for -1."""
    action_high: tuple[float, ...] | None = None
    """Upper bounds of continuous actions, None for 1."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    memory: PointMemoryConfig | None = field(default_factory=PointMemoryConfig)
    """The scene memory, None for a world without geometry."""
    pixels: PixelsConfig | None = field(default=None, repr=False)
    """How the real twin's images became observations (:func:`worldsim.pixels.make_pixels`), None if it observes such images."""
    termination: Termination = field(default=Termination.THRESHOLD, repr=False)
    """``sample`` or ``threshold``."""


def _box(size: int, config: WorldConfig) -> gym.spaces.Box:
    low = np.array(config.action_low or [-1.0] * size, np.float32)
    high = np.array(config.action_high or [1.0] * size, np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


def total_memory(device: torch.device) -> int:
    """Bytes of memory of a device, used or not."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bucket(batch: int) -> int:
    """The smallest batch bucket that holds ``batch`` environments; above the largest, multiples of it."""
    for size in BUCKETS:
        if batch <= size:
            return size
    return -(-batch // BUCKETS[-1]) * BUCKETS[-1]


class World:
    """Dynamics + memory + heads + card.

    Load one with :meth:`from_pretrained`. :meth:`initial` and :meth:`step` are functional: they take and return a
    :class:`WorldState`, batched over environments.
    """

    def __init__(
        self,
        network: SpaceTimeTransformer,
        config: WorldConfig,
        ego_motion: EgoMotionHead | None = None,
        outcome: OutcomeHead | None = None,
        card: dict[str, Any] | None = None,
        folder: Path | None = None,
        memory: SceneMemory | None = None,
        engine: EngineConfig = PLAIN,
        uncertainty: bool = False,
    ) -> None:
        n = network.config
        if config.memory is not None and (n.channels != 4 or ego_motion is None or config.intrinsics is None):
            raise MissingGeometryError(
                "a scene memory needs depth, poses and intrinsics: train on a recording with geometry, or set memory to None"
            )
        self.network, self.ego_motion, self.config, self.folder = network, ego_motion, config, folder
        self.outcome = outcome or OutcomeHead(dim=n.dim)
        self.card = card or {}
        self.tells_uncertainty = uncertainty
        self.memory: SceneMemory = memory or (PointMemory(config.memory) if config.memory is not None else NoMemory())
        self.observation_space = gym.spaces.Box(0, 255, (n.height, n.width, 3), np.uint8)
        self.action_space: gym.Space[Any] = gym.spaces.Discrete(n.actions) if n.actions else _box(n.action_dim, config)
        self._starts: dict[tuple[str, str] | None, WorldState] = {}
        self._known: dict[int, tuple[weakref.ref[SceneStart], tuple[str, str]]] = {}
        for module in self.modules().values():
            module.eval().requires_grad_(False)
        self._run_by(engine)

    @property
    def has_geometry(self) -> bool:
        """Whether frames carry depth and pose."""
        return self.ego_motion is not None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> World:
        """Move the weights; returns the world itself."""
        for module in self.modules().values():
            module.to(device)
        self._starts.clear()
        self.__dict__.pop("kept_starts", None)
        self._run_by(self.engine)
        return self

    def with_engine(self, engine: str | EngineConfig) -> World:
        """The same weights with steps run otherwise: ``plain``, ``fast``, ``compiled`` or a :class:`worldsim.engine.EngineConfig`.

        With CUDA graphs (``fast`` and ``compiled`` on a GPU) :meth:`step` works in place: the state that it returns is
        overwritten when it is stepped from, and cannot be stepped from twice. ``state.clone()`` keeps one; transitions, and the
        frames in them, are copies anyway. Where something is missing (CUDA, a compiler) it says so once and does without.
        """
        return self._but(engine=engine_named(engine, self.device))

    def _run_by(self, engine: EngineConfig) -> None:
        self.engine = engine
        run: Any = prepared(self.network, engine)
        cuda = self.device.type == "cuda"
        # Everything between the memory's passes: its many small operations cost as much as the network.
        whole = bool(engine.compile) and engine.whole and self.config.dynamics.steps == 1
        forward = Compiled(run.forward, engine.compile, self.device) if engine.compile and (cuda or not whole) else None
        self.dynamics = DiffusionDynamics(run, self.config.dynamics, forward)
        self._aim: Callable[..., tuple[Tensor, Tensor]] = Aim(self.ego_motion)  # type: ignore[arg-type]
        self._dream: Callable[..., Any] = Dream(self.dynamics, self.outcome, self.tells_uncertainty)
        self._keeper = self.memory
        if whole and not cuda:
            self._aim, self._dream = (Compiled(part.__call__, engine.compile, self.device) for part in (self._aim, self._dream))
            self._keeper = with_passes(self.memory, compiled_passes(engine.compile, self.device))
        self._graphed: GraphedStep | None = None
        if engine.graph and cuda:
            self._graphed = GraphedStep(self._owning_step(run, forward, whole))
        elif engine.graph:
            tell_once(f"CUDA graphs need CUDA: on {self.device} steps run without")

    def _owning_step(self, run: SpaceTimeTransformer, forward: Compiled | None, whole: bool) -> Callable[..., Any]:
        """A step for one who owns its states: memory and cache are changed in place."""
        dynamics = DiffusionDynamics(run, self.config.dynamics, forward, in_place=True)
        mode, dream = self.engine.compile, Dream(dynamics, self.outcome, self.tells_uncertainty)
        if not whole:
            return partial(self._step, keeper=in_place(self.memory), dream=dream)
        alone = dataclasses.replace(dream, dynamics=DiffusionDynamics(run, self.config.dynamics, in_place=True))
        return partial(
            self._step,
            keeper=in_place(self.memory, compiled_between(mode, self.device)),
            aim=Compiled(Aim(self.ego_motion).__call__, mode, self.device),  # type: ignore[arg-type]
            # Where inductor fails at the whole, the network is compiled alone.
            dream=Compiled(alone.__call__, mode, self.device, instead=dream),
        )

    def state_bytes(self) -> int:
        """Bytes of one environment's state, whatever it has seen: memory, context and history have a fixed size."""
        return bytes_of(self.blank(1))

    def step_bytes(self) -> int:
        """Bytes that a step takes an environment, estimated: its state before and after, and a dozen of the finest features."""
        n = self.network.config
        width = n.levels[0] if n.levels else n.dim
        features = 12 * 2 * width * n.height * n.width * (2 if self.engine.precision == "bfloat16" else 4)
        return 2 * self.state_bytes() + features

    def without_memory(self) -> World:
        """The same weights with the scene memory switched off."""
        return self.with_memory(NoMemory())

    def with_memory(self, memory: SceneMemory) -> World:
        """The same weights with another scene memory. Its states start empty: stored start scenes' memories do not fit it,
        unless it has a method ``pad`` that takes points, as the radiance field has.
        """
        return self._but(memory=memory)

    def with_dynamics(self, **changes: Any) -> World:
        """The same weights with other :class:`DynamicsConfig` values, for instance ``steps=2``; None leaves a value as it is."""
        changes = {name: value for name, value in changes.items() if value is not None}
        if not changes:
            return self
        return self._but(config=dataclasses.replace(self.config, dynamics=dataclasses.replace(self.config.dynamics, **changes)))

    def with_uncertainty(self, told: bool = True) -> World:
        """The same weights, whose transitions tell how uncertain each frame is: by how far another draw of it differs.

        The frames stay the same bit by bit; a step costs one denoised frame a sampling step more. Raises InvalidInputError at
        temperature 0, where all draws are one.
        """
        if told and self.config.dynamics.temperature == 0.0:
            raise InvalidInputError("at temperature 0 all draws of a frame are one: uncertainty needs a temperature above 0")
        return self if told == self.tells_uncertainty else self._but(uncertainty=told)

    def _but(self, **changes: Any) -> World:
        """A world of the same weights, with some of ``config``, ``memory``, ``engine`` and ``uncertainty`` others."""
        kept: dict[str, Any] = {"config": self.config, "memory": self.memory, "engine": self.engine}
        kept["uncertainty"] = self.tells_uncertainty
        rest: dict[str, Any] = {"ego_motion": self.ego_motion, "outcome": self.outcome, "card": self.card, "folder": self.folder}
        return World(self.network, **(kept | rest | changes))

    # Stepping.

    @torch.no_grad()
    def initial(self, scenes: Sequence[SceneStart], seeds: Sequence[int] | Tensor) -> WorldState:
        """A batch of fresh worlds, one scene and one seed an environment.

        Raises InvalidInputError for frames of the wrong size or type, MissingGeometryError where depth or poses are needed.
        """
        if len(scenes) != len(seeds) or not len(scenes):
            raise InvalidInputError(f"one seed a scene is needed, got {len(scenes)} scenes and {len(seeds)} seeds")
        started = {id(scene): self._started(scene) for scene in {id(s): s for s in scenes}.values()}
        state = concatenate([started[id(scene)] for scene in scenes])
        seed = torch.as_tensor(seeds, dtype=torch.int64, device=self.device)
        return dataclasses.replace(state, seed=seed)

    @torch.no_grad()
    def step(self, state: WorldState, act: Tensor, pose: Tensor | None = None) -> tuple[WorldState, Transition]:
        """Advance every world by one action.

        act: (b,) int64 or (b, n) float32. pose: (b, 4, 4) to impose the next camera instead of predicting it.
        """
        state = self._fitted(state)
        if self._graphed is None:
            return self._step(state, act, pose)
        return self._graphed(state, act) if pose is None else self._step(self._graphed.owned(state), act, pose)

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
        keeper = keeper or self._keeper
        pose, motion, view = self._look(state, act, pose, aim, keeper)
        frame, rewards, logit, context, uncertainty = (dream or self._dream)(
            state.context, act, motion, view, state.intrinsics, state.seed, state.step, pose
        )
        term = self._ended(logit, state)
        reward = torch.where(term, rewards[:, 1], rewards[:, 0]) if self.config.has_rewards else torch.zeros_like(logit)
        coverage = view.coverage if view is not None else torch.zeros_like(reward)
        state = self._take_in(state, act, motion, frame, context, keeper)
        ending = torch.sigmoid(logit) if self.config.has_terminations else torch.zeros_like(logit)
        return state, Transition(frame, reward, term, coverage, view, ending, uncertainty)

    def _ended(self, logit: Tensor, state: WorldState) -> Tensor:
        """Which worlds terminate, (b,) bool, from the termination's logit (b,)."""
        if not self.config.has_terminations:
            return torch.zeros_like(logit, dtype=torch.bool)
        if self.config.termination == Termination.THRESHOLD:
            return logit > 0
        return uniform(state.seed, state.step, Purpose.HEADS, (1,))[:, 0] < torch.sigmoid(logit)

    def _fitted(self, state: WorldState) -> WorldState:
        """The state with its cache in the engine's number format: it may come from another engine."""
        context = self.dynamics.fitted(state.context)
        return state if context is state.context else dataclasses.replace(state, context=context)

    def put(self, state: WorldState, index: Tensor, other: WorldState) -> WorldState:
        """The state with the environments ``index`` (int64) replaced by those of ``other``; the rest goes on as it was."""
        return state.put(index, other) if self._graphed is None else self._graphed.put(state, index, other)

    def owned(self, state: WorldState) -> WorldState:
        """The state as one that later steps leave as it is: a copy if the engine steps in place, else the state itself."""
        return state if self._graphed is None else self._graphed.owned(state)

    @torch.no_grad()
    def observe(self, state: WorldState, act: Tensor, frame: Frame) -> WorldState:
        """Advance every world by a *given* frame (true history): context and memory take it in, nothing is generated."""
        frame = self._checked(frame)
        state = self.owned(self._fitted(state))
        pose, motion, view = self._look(state, act, frame.pose)
        frame = dataclasses.replace(frame, pose=pose)
        condition = self._condition(act, motion, view, state.intrinsics)
        n = self.network.config
        noise = normal(state.seed, state.step, Purpose.CONTEXT, (n.channels, n.height, n.width))
        context = self.dynamics.commit(self.dynamics.advance(state.context), frame, condition, noise)
        return self._take_in(state, act, motion, frame, context, self._keeper)

    @torch.no_grad()
    def edit(self, state: WorldState, memory: Any) -> WorldState:
        """Every world with another memory, such as an edited one: what it shows is what the dream goes on from.

        The context is cleared back to the newest frame. That frame is shown again: where the memory's view of it has changed,
        it takes over what the new memory shows there, and what nothing is known of any more is dreamed anew. Then the memory
        takes the rest of this frame in. The past of the walk, its pose and its random numbers stay.
        """
        if not self.has_geometry or isinstance(self.memory, NoMemory):
            raise MissingGeometryError("this world has no scene memory that could be edited")
        state = self.owned(state)
        frame, n = state.frame, self.network.config
        assert frame.pose is not None and frame.inverse_depth is not None
        camera = self._camera(frame.pose, state.intrinsics)
        before, after = self.memory.render(state.memory, camera), self.memory.render(memory, camera)
        condition = self._condition(state.act[:, -1], self._last_motion(state), after, state.intrinsics)
        empty = self.dynamics.empty(len(state), self.device)
        shape = (n.channels, n.height, n.width)
        prediction, _ = self.dynamics.predict(empty, condition, normal(state.seed, state.step, Purpose.EDIT, shape))
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
        # What was dreamed in place of what went lies around its outline: the next steps tell what is there.
        memory = self.memory.integrate(memory, frame, camera, state.step, ~unknown)
        return dataclasses.replace(state, frame=frame, context=context, memory=memory)

    def _last_motion(self, state: WorldState) -> Tensor:
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
        """Motion (b, 6) that the ego-motion head expects of ``act``, zeros for a world without geometry."""
        if self.ego_motion is None:
            return torch.zeros(len(state), 6, device=state.seed.device)
        assert state.frame.pose is not None
        pose = state.frame.pose
        return to_camera_axes(self.ego_motion(self._around(state), pose, state.motion, state.act, act), pose)

    def _around(self, state: WorldState) -> Tensor:
        """The map of surroundings that the ego-motion head looks at."""
        assert state.frame.pose is not None
        if isinstance(self.memory, NoMemory):
            return frame_surroundings(state.frame, self._camera(state.frame.pose, state.intrinsics))
        return self._keeper.surroundings(state.memory, state.frame.pose)

    def pad(self, state: WorldState, size: int) -> WorldState:
        """The state with copies of its first environment appended, up to ``size`` environments."""
        index = torch.arange(size, device=state.seed.device)
        return state.select(torch.where(index < len(state), index, torch.zeros_like(index)))

    def _look(
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
            pose, motion = (aim or self._aim)(self._around(state), state.frame.pose, state.motion, state.act, act)
        else:
            pose = snap_pose(pose)
            motion = relative_motion(state.frame.pose, pose)
        view = (keeper or self._keeper).render(state.memory, self._camera(pose, state.intrinsics))
        return pose, motion, view

    def _take_in(
        self, state: WorldState, act: Tensor, motion: Tensor, frame: Frame, context: Context, keeper: SceneMemory
    ) -> WorldState:
        """What is fed back is what is emitted: context, memory and heads see the emitted frame only."""
        memory = state.memory
        if frame.pose is not None:
            assert state.frame.pose is not None
            motion = to_world_axes(motion, state.frame.pose)
            memory = keeper.integrate(memory, frame, self._camera(frame.pose, state.intrinsics), state.step)
        return dataclasses.replace(
            state,
            frame=frame,
            context=context,
            memory=memory,
            motion=torch.cat([state.motion[:, 1:], motion[:, None]], 1),
            act=torch.cat([state.act[:, 1:], act[:, None].to(state.act.dtype)], 1),
            step=state.step + 1,
        )

    def _condition(self, act: Tensor, motion: Tensor, view: MemoryView | None, intrinsics: Tensor) -> Condition:
        return condition_of(self.dynamics, act, motion, view, intrinsics)

    def _camera(self, pose: Tensor, intrinsics: Tensor) -> Camera:
        return Camera(pose, intrinsics, self.network.config.height, self.network.config.width)

    def _started(self, scene: SceneStart) -> WorldState:
        """A batch of one that has taken in the scene's frames. Named scenes are kept: a reset then is a copy.

        The frames' context noise is keyed by seed 0, not by the environment's seed, so that the state is the same for all.
        """
        self.check_start(scene)
        key = self._key_of(scene)
        if key in self._starts:
            return self._starts[key]
        scene = map_tensors(lambda x: x.to(self.device), scene)
        frames = [
            self._checked(map_tensors(lambda x, t=t: x[t, None], Frame(scene.rgb, scene.inverse_depth, scene.pose)))
            for t in range(len(scene.rgb))
        ]
        state = self.blank(1)
        if scene.intrinsics is not None:
            state = dataclasses.replace(state, intrinsics=scene.intrinsics.float().reshape(1, 4))
        if scene.memory is not None and not isinstance(self.memory, NoMemory):
            pad = getattr(self.memory, "pad", None)
            state = dataclasses.replace(state, memory=pad(scene.memory) if pad else scene.memory)
        # Start frames count up to step 0, so the first generated frame's randomness is that of step 0.
        state = dataclasses.replace(state, frame=frames[0], step=state.step - len(frames))
        acts = scene.act[:, None].to(state.act.dtype)
        for frame, act in zip(frames, acts, strict=True):
            state = self.observe(state, act, frame)
        if key is not None:
            while len(self._starts) >= self.kept_starts:
                del self._starts[next(iter(self._starts))]
            self._starts[key] = state
        return state

    def _key_of(self, scene: SceneStart) -> tuple[str, str] | None:
        """Name and content of a named scene: frames of the same name may be other frames. Told once an object."""
        if not scene.name:
            return None
        if not self._is_known(scene):
            if len(self._known) >= 4 * self.kept_starts:
                self._known.clear()
            self._known[id(scene)] = weakref.ref(scene), (scene.name, checksum(flatten(scene)))
        return self._known[id(scene)][1]

    def _is_known(self, scene: SceneStart) -> bool:
        entry = self._known.get(id(scene))
        return entry is not None and entry[0]() is scene

    @cached_property
    def kept_starts(self) -> int:
        """How many start scenes' states are kept."""
        return max(KEPT_STARTS, int(STARTS_SHARE * total_memory(self.device)) // self.state_bytes())

    def blank(self, batch: int) -> WorldState:
        """``batch`` worlds that have seen nothing: what :meth:`initial` builds upon, and the shape of every state."""
        n, device = self.network.config, self.device
        act = torch.zeros(batch, HISTORY, dtype=torch.int64) if n.actions else torch.zeros(batch, HISTORY, n.action_dim)
        geometry = self.has_geometry
        return WorldState(
            frame=Frame(
                rgb=torch.zeros(batch, 3, n.height, n.width, dtype=torch.uint8, device=device),
                inverse_depth=torch.zeros(batch, n.height, n.width, dtype=torch.int32, device=device) if geometry else None,
                pose=torch.eye(4, device=device).repeat(batch, 1, 1) if geometry else None,
            ),
            context=self.dynamics.empty(batch, device),
            memory=self.memory.empty(batch, device),
            motion=torch.zeros(batch, HISTORY, 6, device=device),
            act=act.to(device),
            intrinsics=torch.tensor(self.config.intrinsics or (1.0, 1.0, 0.0, 0.0), device=device).repeat(batch, 1),
            seed=torch.zeros(batch, dtype=torch.int64, device=device),
            step=torch.zeros(batch, dtype=torch.int64, device=device),
        )

    def check_start(self, scene: SceneStart) -> None:
        """Raise InvalidInputError (or MissingGeometryError) unless this world can start from ``scene``, saying what is wrong."""
        if self._is_known(scene):
            return
        n, t, who = self.network.config, len(scene.rgb), f"start {scene.name or 'frames'}"
        _require(who, "rgb", scene.rgb, (torch.uint8,), (t, 3, n.height, n.width))
        kinds = (torch.int64, torch.int32) if n.actions else (torch.float32, torch.float64)
        _require(who, "act", scene.act, kinds, (t,) if n.actions else (t, n.action_dim))
        if n.actions and not bool(((scene.act >= 0) & (scene.act < n.actions)).all()):
            raise InvalidInputError(f"{who}: act {scene.act.tolist()} leaves {self.action_space}")
        if not self.has_geometry:
            return
        if scene.inverse_depth is None or scene.pose is None:
            raise MissingGeometryError(f"{who}: this world has a scene memory, so every frame needs depth and pose")
        _require(who, "inverse_depth", scene.inverse_depth, (torch.int32,), (t, n.height, n.width))
        _require(who, "pose", scene.pose, (torch.float32,), (t, 4, 4))
        rotation = scene.pose[:, :3, :3]
        if not torch.allclose(rotation.transpose(1, 2) @ rotation, torch.eye(3, device=rotation.device), atol=1e-3):
            raise InvalidInputError(f"{who}: pose holds a rotation that is not orthonormal; camera-to-world matrices are needed")
        if scene.intrinsics is not None:
            _require(who, "intrinsics", scene.intrinsics, (torch.float32, torch.float64), (4,))
            if not bool((scene.intrinsics[:2] > 0).all()):
                raise InvalidInputError(f"{who}: intrinsics fx and fy must be positive pixels, got {scene.intrinsics.tolist()}")

    def coverage(self, state: WorldState) -> Tensor:
        """(b,) float32 share of the newest frame that the memory knew before it was there; zeros without memory."""
        view = state.context.condition.view[:, -1]
        return view[:, 4].mean((1, 2)) if self.network.config.view_channels else torch.zeros(len(state), device=view.device)

    def _checked(self, frame: Frame) -> Frame:
        n = self.network.config
        if frame.rgb.dtype != torch.uint8 or frame.rgb.shape[1:] != (3, n.height, n.width):
            raise InvalidInputError(
                f"frames must be uint8 of shape (b, 3, {n.height}, {n.width}), got {frame.rgb.dtype} {tuple(frame.rgb.shape)}: "
                "resize or convert them first"
            )
        if not self.has_geometry:
            return Frame(frame.rgb)
        if frame.inverse_depth is None or frame.pose is None:
            raise MissingGeometryError("this world has a scene memory: its frames need inverse_depth and pose, got None")
        return dataclasses.replace(frame, pose=snap_pose(frame.pose))

    # On disk.

    def modules(self) -> dict[str, nn.Module]:
        """The trained parts by the names of their folders."""
        modules: dict[str, nn.Module] = {"dynamics": self.network, "outcome": self.outcome}
        if self.ego_motion is not None:
            modules["ego_motion"] = self.ego_motion
        return modules

    def save_pretrained(self, folder: str | os.PathLike[str], eight_bit: bool = False) -> Path:
        """Write the world to ``folder``: ``world.json`` and a sub-folder a module (diffusers' layout; int8 if asked).

        Every file is written beside its place and renamed, ``world.json`` last, so an interrupted save is no world.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "world.json").unlink(missing_ok=True)
        for name, module in self.modules().items():
            (folder / name).mkdir(exist_ok=True)
            write_json(folder / name / "config.json", {"_class_name": type(module).__name__, **module.settings})  # type: ignore[dict-item]
            weights = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
            target, stale = folder / name / PACKED_WEIGHTS, folder / name / PLAIN_WEIGHTS
            if not eight_bit:
                target, stale = stale, target
            half = getattr(module, "half_precision", ())
            _save_atomically(quantise_weights(weights, half) if eight_bit else weights, target)
            stale.unlink(missing_ok=True)
        write_json(
            folder / "world.json",
            {"format": "worldsim-world", "version": FORMAT_VERSION, "config": to_json(self.config), "card": self.card},
        )
        return folder

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload the world to the Hugging Face hub; returns the commit's address."""
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            if self.folder is not None and (self.folder / "scenes").is_dir():
                import shutil

                shutil.copytree(self.folder / "scenes", Path(folder) / "scenes")
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder))

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], device: torch.device | str | None = None) -> World:
        """Load a shipped world (by name), a folder, or a repository of the Hugging Face hub (``owner/name``).

        device: CUDA where there is one, else the CPU. Raises NotFoundError or DamagedFileError.
        """
        folder = find_world(name)
        config, card = _read_card(folder / "world.json")
        network = _load_module(SpaceTimeTransformer, folder / "dynamics")
        ego = _load_module(EgoMotionHead, folder / "ego_motion") if (folder / "ego_motion").is_dir() else None
        outcome = _load_module(OutcomeHead, folder / "outcome")
        world = cls(network, config, ego, outcome, card, folder)
        return world.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _require(who: str, name: str, tensor: Tensor, types: tuple[torch.dtype, ...], shape: tuple[int, ...]) -> None:
    if tensor.dtype not in types or tuple(tensor.shape) != shape or 0 in shape:
        wanted = str(types[0]).removeprefix("torch.")
        raise InvalidInputError(f"{who}: {name} must be {wanted} of shape {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InvalidInputError(f"{who}: {name} holds values that are not finite")


def find_world(name: str | os.PathLike[str]) -> Path:
    """The folder of a world: a shipped one's name, a path, or a hub repository (downloaded)."""
    shipped = WORLDS_FOLDER / str(name)
    for folder in (Path(name), shipped):
        if (folder / "world.json").is_file():
            return folder
    if Path(name).exists():
        raise NotFoundError(f"{str(name)!r} is not a world: it has no world.json")
    text = str(name)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(text, allow_patterns=["*.json", "*.safetensors", "*.png"]))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            raise NotFoundError(f"no world {text!r} here or on the hub ({type(error).__name__}): {_shipped()}") from error
    raise NotFoundError(f"no world {text!r}: give a folder with a world.json, or {_shipped()}")


def shipped_worlds() -> list[str]:
    """Names of the worlds that come with worldsim."""
    return sorted(p.parent.name for p in WORLDS_FOLDER.glob("*/world.json"))


def _shipped() -> str:
    return f"one of the shipped worlds: {', '.join(shipped_worlds()) or 'none'}"


def _save_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, temporary)
    # safetensors makes files that only their owner can read.
    temporary.chmod(0o644)
    os.replace(temporary, path)


def _read_card(path: Path) -> tuple[WorldConfig, dict[str, Any]]:
    meta = read_json(path)
    if not isinstance(meta, dict) or meta.get("format") != "worldsim-world":
        raise DamagedFileError(f"{path} is not a world's card: its format is not 'worldsim-world'")
    version = meta.get("version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DamagedFileError(f"{path} has version {version!r}; this worldsim reads up to {FORMAT_VERSION}: upgrade worldsim")
    try:
        return from_json(WorldConfig, meta.get("config")), meta.get("card", {})  # type: ignore[arg-type]
    except InvalidInputError as error:
        raise DamagedFileError(f"{path} is damaged ({error}): copy the world again") from error


def _load_module(kind: Any, folder: Path) -> Any:
    """A module from its folder: diffusers' layout, or int8 weights beside the same config."""
    packed, plain = folder / PACKED_WEIGHTS, folder / PLAIN_WEIGHTS
    path = packed if packed.is_file() else plain
    if not path.is_file():
        raise NotFoundError(f"{folder} has no weights ({packed.name} or {plain.name}): copy the world again")
    config = read_json(folder / "config.json")
    try:
        module = kind.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DamagedFileError(f"{folder / 'config.json'} is damaged ({error}): copy the world again") from error
    try:
        weights = load_file(path)
        module.load_state_dict(dequantise_weights(weights) if path == packed else weights)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise DamagedFileError(f"{path} is damaged or does not fit its config.json ({error}): copy the world again") from error
    return module
