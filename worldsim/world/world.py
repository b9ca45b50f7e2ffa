"""A world: dynamics, scene memory, heads and card, saved as one folder.

Its methods take a state and return a new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from worldsim.diffusion.dynamics import DiffusionDynamics
from worldsim.diffusion.network import SpaceTimeTransformer
from worldsim.errors import DamagedFileError, InvalidInputError, MissingGeometryError, WorldsimError
from worldsim.memory.none import NoMemory
from worldsim.memory.points import PointMemory
from worldsim.protocols import (
    AdaptedDynamics,
    ContextOfViews,
    Dynamics,
    IdentifiedDynamics,
    NetworkDynamics,
    Painter,
    SceneMemory,
    UncertainDynamics,
)
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import files_in
from worldsim.runtime.json_config import content_sha256, to_json
from worldsim.runtime.old_names import old_names_of, rename_keys, warn_renamed
from worldsim.runtime.registries import DYNAMICS
from worldsim.runtime.types import JsonObject, Space
from worldsim.state import (
    Frame,
    SceneStart,
    Transition,
    WorldState,
    bytes_of,
    checksum,
    concatenate,
)
from worldsim.world.adapters import (
    Adapter,
    change_modules,
    check_scale,
    name_of,
    read_adapter,
    replace_scales,
    require_known,
)
from worldsim.world.config import Termination, WorldConfig
from worldsim.world.engine import PLAIN, EngineConfig, resolve_engine
from worldsim.world.files import (
    PUBLISHED,
    find_world,
    hub_source,
    load_module,
    load_one_of,
    read_card,
    save_world,
    upload,
)
from worldsim.world.frame_outcome import FrameOutcomeHead
from worldsim.world.heads import EgoMotionHead, OutcomeHead
from worldsim.world.kinematics import KinematicMotion
from worldsim.world.paint_ahead import NEVER_AGAIN, PaintAhead, PaintAheadConfig, Takes
from worldsim.world.running import RunningStep
from worldsim.world.start_states import StartStates
from worldsim.world.step import Step

__all__ = ["BUCKETS", "Termination", "World", "WorldConfig", "bucket", "find_world"]

BUCKETS = (1, 8, 32, 64, 128, 256, 512, 1024)
"""Batch sizes of steps. Within one bucket results are bit-exact, whatever the other rows hold."""


OUTCOME_HEADS: tuple[type[OutcomeHead | FrameOutcomeHead], ...] = (OutcomeHead, FrameOutcomeHead)
"""Classes of heads for rewards and terminations, by the name in their files."""
MOTION_HEADS: tuple[type[EgoMotionHead | KinematicMotion], ...] = (
    EgoMotionHead,
    KinematicMotion,
)
"""The same for the camera's motion."""


def _box(size: int, config: WorldConfig) -> gym.spaces.Box:
    low = np.array(config.action_low or [-1.0] * size, np.float32)
    high = np.array(config.action_high or [1.0] * size, np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


def bucket(batch: int) -> int:
    """Return the smallest bucket that holds ``batch`` environments.

    Above the largest bucket it is a multiple of that.
    """
    for size in BUCKETS:
        if batch <= size:
            return size
    return -(-batch // BUCKETS[-1]) * BUCKETS[-1]


class World:
    """Dynamics, scene memory, heads and card.

    Load one with :meth:`from_pretrained`. :meth:`initial` and :meth:`step` are functional: they
    take and return a :class:`WorldState`, batched over environments.

    dynamics: predicts frames. A :class:`SpaceTimeTransformer` is wrapped in
    :class:`worldsim.diffusion.dynamics.DiffusionDynamics`.
    config: see :class:`WorldConfig`.
    ego_motion: predicts camera motions; None for a world without geometry.
    outcome: predicts rewards and terminations, from the dynamics' features or from emitted frames.
    By default an untrained head on features.
    card: description, training data and results.
    folder: the folder that the world was loaded from.
    memory: the scene memory; by default that of ``config``.
    engine: how steps are run.
    trust: whether the real twin named in ``config`` may be any environment (see
    :func:`worldsim.world.twin.check_twin`).
    painting: paints ahead of the camera; see :meth:`with_painting`.
    adapters: change the weights that steps are run with; see :meth:`load_adapter`.

    Raises InvalidInputError for an object that is not a dynamics, and MissingGeometryError if
    ``config`` has a memory but geometry is missing.
    """

    def __init__(
        self,
        dynamics: Dynamics | SpaceTimeTransformer,
        config: WorldConfig,
        ego_motion: EgoMotionHead | KinematicMotion | None = None,
        outcome: OutcomeHead | FrameOutcomeHead | None = None,
        card: JsonObject | None = None,
        folder: Path | None = None,
        memory: SceneMemory | None = None,
        engine: EngineConfig = PLAIN,
        trust: bool = False,
        painting: tuple[Painter, PaintAheadConfig] | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        if isinstance(dynamics, SpaceTimeTransformer):
            dynamics = DiffusionDynamics(dynamics, config.dynamics)
        if not isinstance(dynamics, Dynamics):
            raise InvalidInputError(
                f"{type(dynamics).__name__} is no dynamics: it needs spec, module, empty, predict "
                f"and observe (worldsim.protocols.Dynamics)"
            )
        self.spec = spec = dynamics.spec
        if config.memory is not None and (
            not spec.depth or ego_motion is None or config.intrinsics is None
        ):
            raise MissingGeometryError(
                "a scene memory needs depth, poses and intrinsics: train on a recording with "
                "geometry, or set memory to None"
            )
        self._dynamics, self.ego_motion, self.config = dynamics, ego_motion, config
        self.outcome = outcome or OutcomeHead(dim=spec.features)
        self.card, self.folder = card or {}, folder
        self.trusted = trust
        self._weights_id = ""
        self._adapters = tuple(adapters)
        self.memory: SceneMemory = memory or (
            PointMemory(config.memory) if config.memory is not None else NoMemory()
        )
        self.observation_space = gym.spaces.Box(0, 255, (spec.height, spec.width, 3), np.uint8)
        self.action_space: Space = (
            gym.spaces.Discrete(spec.actions) if spec.actions else _box(spec.action_dim, config)
        )
        for module in self.modules().values():
            module.eval().requires_grad_(False)
        self.painting = (
            None if painting is None else PaintAhead(painting[0], self.memory, painting[1])
        )
        self._run_by(engine)

    def __getstate__(self) -> dict[str, object]:
        """Return the parts of the world for pickling or copying.

        The running step and the cached starts are rebuilt afterwards.
        """
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("running", "_starts")
        }

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._run_by(self.engine)

    @property
    def has_geometry(self) -> bool:
        """Whether frames carry depth and pose."""
        return self.ego_motion is not None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.running.inner.device

    def to(self, device: torch.device | str) -> World:
        """Move the weights to ``device``; returns the world itself.

        On ``meta``, PyTorch's device without data, shapes can be inspected. Raises
        InvalidInputError for a missing device.
        """
        device = torch.device("meta") if str(device) == "meta" else resolve_device(device)
        for module in self.modules().values():
            module.to(device)
        self._run_by(self.engine)
        return self

    def with_engine(self, engine: str | EngineConfig) -> World:
        """Return a world of the same weights whose steps are run by another engine.

        engine: ``plain``, ``fast``, ``compiled`` or a :class:`worldsim.world.engine.EngineConfig`.

        With CUDA graphs (``fast`` and ``compiled`` on a GPU) :meth:`step` works in place: the next
        step overwrites the state, and a state cannot be stepped from twice. Keep ``state.clone()``
        to do so. Transitions and their frames are copies. If CUDA or a compiler is missing, a
        warning is issued once and steps run without it.
        """
        return self._replace(engine=resolve_engine(engine, self.device))

    def _run_by(self, engine: EngineConfig) -> None:
        self.engine = engine
        takes = Takes.ALL if self.painting is None else self.painting.config.takes
        if self.painting is not None:
            self.painting.use_graphs(engine.graph)
        dynamics, ego_motion, outcome = self._adapted()
        step = Step.of(self.config, dynamics, self.memory, ego_motion, outcome, takes)
        self.running = RunningStep(step, engine)
        self._starts = StartStates(self.running, self.action_space)

    @property
    def dynamics(self) -> Any:
        """The :class:`worldsim.protocols.Dynamics` that predicts frames, as the engine runs it."""
        return self.running.inner.dynamics

    @property
    def network(self) -> SpaceTimeTransformer:
        """The network of a world with diffusion dynamics.

        Raises InvalidInputError for other dynamics.
        """
        module = self._dynamics.module
        if not isinstance(module, SpaceTimeTransformer):
            raise InvalidInputError(
                f"this world's dynamics are {type(self._dynamics).__name__}, which have no network "
                f"of worldsim's: world.spec has the frame size and the actions"
            )
        return module

    @property
    def trained_motion(self) -> EgoMotionHead | None:
        """The ego-motion head; None for a world without geometry.

        Raises InvalidInputError for a world whose motion is a fixed rule, which cannot be trained.
        """
        if isinstance(self.ego_motion, KinematicMotion):
            raise InvalidInputError(
                "this world's camera moves by a fixed rule (KinematicMotion), which cannot be "
                "trained: start from a world with an ego-motion head"
            )
        return self.ego_motion

    def state_bytes(self) -> int:
        """Return the bytes of one environment's state.

        Memory, context and history have a fixed size.
        """
        return bytes_of(self.blank(1))

    def step_bytes(self) -> int:
        """Return an estimate of the bytes that a step takes per environment.

        It counts the states before and after, and twelve feature maps of the finest level.
        """
        features = 0
        if isinstance(self._dynamics.module, SpaceTimeTransformer):
            n = self.network.config
            width = n.levels[0] if n.levels else n.dim
            number = 2 if self.engine.precision == "bfloat16" else 4
            features = 12 * 2 * width * n.height * n.width // n.fold**2 * number
        return 2 * self.state_bytes() + features

    def without_memory(self) -> World:
        """Return a world of the same weights without scene memory."""
        return self.with_memory(NoMemory())

    def with_memory(self, memory: SceneMemory) -> World:
        """Return a world of the same weights with another scene memory.

        Its states start empty. Memories of stored start scenes are used only if the new memory has
        a method ``pad`` that accepts points, like the radiance field. Raises InvalidInputError for
        an object that is not a scene memory.
        """
        if not isinstance(memory, SceneMemory):
            raise InvalidInputError(
                f"{memory!r} is no scene memory: it needs empty, integrate, render and surroundings"
            )
        return self._replace(memory=memory)

    def with_painting(
        self, painter: Painter | None, config: PaintAheadConfig | None = None
    ) -> World:
        """Return a world of the same weights whose dreams are painted ahead.

        Every few steps, the memory's views at a camera ahead are rendered. Where they show too
        little, ``painter`` completes them and the memory integrates what it invented. Frames that
        observe painted points replace them. The setting is part of the states that
        :meth:`initial` returns. States of a world without painting are stepped without it.

        painter: completes views; None turns painting off.
        config: where and how often.

        Raises MissingGeometryError for a world without point memory.
        """
        if painter is None:
            return self._replace(painting=None)
        if not isinstance(painter, Painter):
            raise InvalidInputError(f"{painter!r} is no painter: it needs spec and paint.")
        return self._replace(painting=(painter, config or PaintAheadConfig()))

    def with_dynamics(self, **changes: Any) -> World:
        """Return a world of the same weights with other :class:`DynamicsConfig` values.

        For example ``num_inference_steps=2``. None keeps a value. Raises InvalidInputError for
        unknown names and for dynamics other than diffusion.
        """
        changes = rename_keys(changes, old_names_of(self.config.dynamics), "with_dynamics: ")
        known = [f.name for f in dataclasses.fields(self.config.dynamics)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise InvalidInputError(
                f"the dynamics have no {', '.join(unknown)}: they have {', '.join(known)}"
            )
        changes = {name: value for name, value in changes.items() if value is not None}
        if not changes:
            return self
        if not isinstance(self._dynamics, DiffusionDynamics):
            raise InvalidInputError(
                f"{type(self._dynamics).__name__} takes no {', '.join(changes)}: only diffusion "
                f"dynamics do"
            )
        settings = dataclasses.replace(self.config.dynamics, **changes)
        return self._replace(
            config=dataclasses.replace(self.config, dynamics=settings),
            dynamics=self._dynamics.with_config(settings),
        )

    @property
    def tells_uncertainty(self) -> bool:
        """Whether transitions include the uncertainty of each frame."""
        dynamics = self._dynamics
        return isinstance(dynamics, UncertainDynamics) and dynamics.uncertainty

    def with_uncertainty(self, wanted: bool = True) -> World:
        """Return a world of the same weights with uncertainties on or off.

        :attr:`worldsim.state.Transition.uncertainty` is the difference between the emitted frame
        and a second sample of it. Frames stay the same bit for bit. A step costs one more denoised
        frame per inference step.

        Raises InvalidInputError at temperature 0, where all samples are equal, and for dynamics
        without uncertainty.
        """
        if wanted == self.tells_uncertainty:
            return self
        if not isinstance(self._dynamics, UncertainDynamics):
            raise InvalidInputError(
                f"{type(self._dynamics).__name__} has no with_uncertainty: its predictions come "
                f"without uncertainty"
            )
        return self._replace(dynamics=self._dynamics.with_uncertainty(wanted))

    # Adapters.

    @property
    def adapters(self) -> dict[str, float]:
        """Scales of the loaded adapters, by name; 0 for those that are turned off."""
        return {one.name: one.scale for one in self._adapters}

    def load_adapter(
        self, path: str | os.PathLike[str], name: str = "", scale: float = 1.0
    ) -> World:
        """Load an adapter that ``worldsim train --adapter`` wrote; returns the world itself.

        Its change of the weights is added to those of other adapters. The world's own weights stay
        as they are; steps are run with changed copies and cost the same. States keep what they have
        seen.

        path: the adapter's folder, or that of its training.
        name: for :meth:`set_adapters`; by default the folder's name.
        scale: factor of its effect.

        Raises NotFoundError, DamagedFileError, or InvalidInputError for an adapter that does not
        fit this world, and for a name that is taken.
        """
        if isinstance(self._dynamics, AdaptedDynamics):
            key = self._dynamics.load_adapter(path)
            adapter = Adapter(name_of(path, name), check_scale(scale), {}, 1.0, key)
        else:
            adapter = read_adapter(path, self.modules(), name, scale)
        if adapter.name in self.adapters:
            raise InvalidInputError(
                f"an adapter {adapter.name!r} is loaded already: give another name, or delete it "
                f"first (delete_adapters)"
            )
        return self._adapt((*self._adapters, adapter))

    def with_adapters(
        self,
        adapters: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Mapping[Any, float],
    ) -> World:
        """Return a world of the same weights with further adapters.

        adapters: a folder, folders, or scales by folder; see :meth:`load_adapter`.
        """
        one = isinstance(adapters, (str, os.PathLike))
        folders: Iterable[Any] = [adapters] if one else adapters  # type: ignore[assignment]
        world = self._replace()
        for folder in folders:
            scale = adapters[folder] if isinstance(adapters, Mapping) else 1.0
            world.load_adapter(folder, scale=scale)
        return world

    def set_adapters(
        self, names: str | Iterable[str], scales: float | Iterable[float] = 1.0
    ) -> World:
        """Set which loaded adapters are used, and their scales; returns the world itself.

        Those that are not named are turned off. Raises InvalidInputError for an unknown name.
        """
        return self._adapt(replace_scales(self._adapters, names, scales))

    def delete_adapters(self, names: str | Iterable[str]) -> World:
        """Unload adapters; returns the world itself. Raises InvalidInputError for unknown names."""
        gone = [names] if isinstance(names, str) else list(names)
        require_known(self.adapters, gone)
        return self._adapt(tuple(one for one in self._adapters if one.name not in gone))

    def fuse_adapters(self) -> World:
        """Return a world whose own weights include the adapters, for example to save it.

        Raises InvalidInputError for a pretrained video model, whose weights stay its own.
        """
        if isinstance(self._dynamics, AdaptedDynamics) and self._adapters:
            raise InvalidInputError(
                "the adapters of a video model cannot be fused: load them beside it each time"
            )
        dynamics, ego_motion, outcome = self._adapted()
        return self._replace(dynamics=dynamics, ego_motion=ego_motion, outcome=outcome, adapters=())

    def _adapted(self) -> tuple[Dynamics, Any, Any]:
        """Return dynamics, ego-motion and outcome head with the adapters' weights."""
        changed = change_modules(self.modules(), self._adapters)
        dynamics = self._dynamics
        if isinstance(dynamics, AdaptedDynamics):
            dynamics = dynamics.with_adapters({x.sha256: x.scale for x in self._adapters})
        elif "dynamics" in changed:
            assert isinstance(dynamics, NetworkDynamics)
            dynamics = dynamics.with_network(changed["dynamics"])
        ego_motion = changed.get("ego_motion", self.ego_motion)
        return dynamics, ego_motion, changed.get("outcome", self.outcome)

    def _adapt(self, adapters: tuple[Adapter, ...]) -> World:
        self._adapters, self._weights_id = adapters, ""
        self._run_by(self.engine)
        return self

    def _replace(self, **changes: Any) -> World:
        """Return a world of the same weights with some constructor arguments replaced."""
        kept: dict[str, Any] = {
            "dynamics": self._dynamics,
            "config": self.config,
            "ego_motion": self.ego_motion,
            "outcome": self.outcome,
            "card": self.card,
            "folder": self.folder,
            "memory": self.memory,
            "engine": self.engine,
            "trust": self.trusted,
            "painting": self.painting and (self.painting.painter, self.painting.config),
            "adapters": self._adapters,
        }
        return World(**(kept | changes))

    # Stepping.

    @torch.no_grad()
    def initial(self, scenes: Sequence[SceneStart], seeds: Sequence[int] | Tensor) -> WorldState:
        """Return initial states, one scene and one seed per environment.

        Raises InvalidInputError for frames of the wrong size or dtype, and MissingGeometryError if
        depth or poses are missing.
        """
        if not isinstance(scenes, Sequence) or not all(
            isinstance(scene, SceneStart) for scene in scenes
        ):
            raise InvalidInputError(f"scenes are {str(scenes)[:80]}: SceneStart objects are needed")
        seed = self._seeds(seeds)
        if len(scenes) != len(seed) or not len(scenes):
            raise InvalidInputError(
                f"one seed a scene is needed, got {len(scenes)} scenes and {len(seed)} seeds"
            )
        state = dataclasses.replace(concatenate(self._starts.states(scenes)), seed=seed)
        return state if self.painting is None else self.painting.begin(state)

    def _seeds(self, seeds: Sequence[int] | Tensor) -> Tensor:
        """Convert seeds to (n,) int64 on the device. Raises InvalidInputError for invalid seeds."""
        try:
            given = seeds.cpu().numpy() if isinstance(seeds, Tensor) else np.asarray(seeds)
            if given.ndim != 1 or given.dtype.kind not in "iu" or given.min() < 0:
                raise ValueError("whole numbers of at least 0 are needed")
            return torch.as_tensor(given.astype(np.int64), device=self.device)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidInputError(f"seeds are {seeds!r}: {error}") from None

    def step(
        self, state: WorldState, act: Tensor, pose: Tensor | None = None
    ) -> tuple[WorldState, Transition]:
        """Advance all worlds by one action; returns the new state and the transition.

        act: (b,) int64 or (b, n) float32.
        pose: (b, 4, 4) camera-to-world, imposes the next camera. By default the ego-motion head
        predicts it.
        """
        return self.running.step(self.look(state), act, pose)

    @torch.no_grad()
    def look(self, state: WorldState) -> WorldState:
        """Return the states after they have looked ahead, where it is due; :meth:`step` does so.

        See :meth:`with_painting`.
        """
        look = None if self.painting is None else self.painting.look(state)
        return state if look is None else self.running.take(state, look)

    def put(self, state: WorldState, index: Tensor, other: WorldState) -> WorldState:
        """Return the state with the environments ``index`` (int64) replaced by those of ``other``.

        The other environments do not change.
        """
        return self.running.put(state, index, other)

    def own(self, state: WorldState) -> WorldState:
        """Return a state that later steps do not change.

        It is a copy if the engine steps in place, else the state itself.
        """
        return self.running.own(state)

    def owned(self, state: WorldState) -> WorldState:
        """Return a state that later steps do not change; the old name of :meth:`own`."""
        warn_renamed("World.owned", "own")
        return self.own(state)

    def observe(self, state: WorldState, act: Tensor, frame: Frame) -> WorldState:
        """Advance all worlds by a given frame instead of a predicted one.

        Context and memory ingest the frame; nothing is predicted.

        act: (b,) int64 or (b, n) float32, the action before the frame.
        frame: the observed frame, with inverse depth and pose for a world with geometry.
        """
        return self.running.observe(state, act, frame)

    def edit(self, state: WorldState, memory: Any) -> WorldState:
        """Return the state with another memory, such as an edited one.

        The context is reduced to the newest frame. Where the memory's view of that frame has
        changed, the frame takes the new memory's colours and depth; regions that the memory no
        longer covers are regenerated. The memory then integrates the other pixels of the frame.
        Past motions, the pose and the random numbers do not change.

        memory: data of this world's memory, batched over environments.

        Raises MissingGeometryError for a world without scene memory.
        """
        return self.running.edit(state, memory)

    def predict_motion(self, state: WorldState, act: Tensor) -> Tensor:
        """Return the motion (b, 6) that the ego-motion head predicts for ``act``.

        It is in metres and radians, in the axes of the current camera; zeros for a world without
        geometry.
        """
        return self.running.predict_motion(state, act)

    def pad(self, state: WorldState, size: int) -> WorldState:
        """Return the state padded to ``size`` environments with copies of its first one.

        Copies are not painted ahead.
        """
        index = torch.arange(size, device=state.seed.device)
        own = index < len(state)
        padded = state.select(torch.where(own, index, torch.zeros_like(index)))
        if padded.looked is None:
            return padded
        return dataclasses.replace(padded, looked=padded.looked.masked_fill(~own, NEVER_AGAIN))

    @property
    def kept_starts(self) -> int:
        """Largest number of start scenes whose states are cached."""
        return self._starts.most

    def blank(self, batch: int) -> WorldState:
        """Return the states of ``batch`` worlds without any frame.

        :meth:`initial` starts from them. They have the shapes of every state.
        """
        state = self.running.inner.blank(batch)
        return state if self.painting is None else self.painting.begin(state)

    def check_start(self, scene: SceneStart) -> None:
        """Raise InvalidInputError or MissingGeometryError unless the world can start from a scene.

        The error names the problem.
        """
        self._starts.check(scene)

    def coverage(self, state: WorldState) -> Tensor:
        """Return the share of the newest frame that the memory covered before that frame.

        Returns (b,) float32 in [0, 1], zeros without memory.
        """
        if state.coverage is not None:
            return state.coverage
        if isinstance(self._dynamics, ContextOfViews):
            return self._dynamics.coverage(state.context)
        return torch.zeros(len(state), device=self.device)

    # On disk.

    def modules(self) -> dict[str, nn.Module]:
        """Return the trained parts by folder name."""
        modules: dict[str, nn.Module] = {"outcome": self.outcome}
        if self._dynamics.module is not None:
            modules = {"dynamics": self._dynamics.module, **modules}
        if self.ego_motion is not None:
            modules["ego_motion"] = self.ego_motion
        return modules

    @property
    def weights_id(self) -> str:
        """SHA-256 of all weights and the settings of their modules.

        Worlds with equal ids differ at most in how the weights are used.
        """
        if not self._weights_id:
            total = hashlib.sha256()
            for part, module in sorted(self.modules().items()):
                settings: JsonObject = module.settings  # type: ignore[assignment]
                total.update(content_sha256(to_json(settings)).encode())
                total.update(f"{part} {checksum(module.state_dict())}".encode())
            if isinstance(self._dynamics, IdentifiedDynamics):
                total.update(f"dynamics {self._dynamics.identify()}".encode())
            for mark in self.adapter_marks():
                total.update(mark.encode())
            self._weights_id = total.hexdigest()
        return self._weights_id

    def adapter_marks(self) -> list[str]:
        """Return what tells the used adapters apart: checksums and scales, in a fixed order."""
        return sorted(f"adapter {one.sha256} {one.scale}" for one in self._adapters if one.scale)

    def save_pretrained(self, folder: str | os.PathLike[str], eight_bit: bool = False) -> Path:
        """Write the world to ``folder`` atomically: ``world.json`` and one sub-folder per module.

        The folder has diffusers' layout. It is written to a temporary place and renamed, so an
        interrupted save leaves the old world. Other contents of the folder, such as ``scenes``, are
        kept.

        eight_bit: whether weights are stored as int8.

        Raises StorageError.
        """
        return save_world(folder, self.modules(), self.config, self.card, eight_bit)

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload the world to the Hugging Face hub; returns the commit's address.

        Start scenes inside the world's folder are uploaded too. Raises DamagedFileError for links
        to files outside the folder.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            if self.folder is not None and (self.folder / "scenes").is_dir():
                for path in files_in(self.folder / "scenes", self.folder):
                    if path.suffix not in PUBLISHED:
                        continue
                    target = Path(folder) / path.relative_to(self.folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
            return upload(Path(folder), repo_id, private)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        device: torch.device | str | None = None,
        revision: str | None = None,
        trust: bool = False,
    ) -> World:
        """Load a shipped world, a folder or a repository of the Hugging Face hub.

        name: the name of a shipped world, a folder, or ``hub:owner/name``.
        device: by default CUDA if available, else the CPU.
        revision: commit, tag or branch of the hub repository. The card of a world from the hub has
        its repository and commit as ``source``.
        trust: whether the real twin may be any environment that the files name. Making it imports
        and runs code of their choice; loading and stepping a world never does.

        Raises NotFoundError, DamagedFileError, InvalidInputError (device) or OutOfMemoryError.
        """
        folder = find_world(name, revision)
        config, card = read_card(folder / "world.json")
        kind: Any = DYNAMICS.of_file(config.dynamics_name, folder / "world.json", trust)
        dynamics = kind.build(config, lambda cls: load_module(cls, folder / "dynamics"))
        ego = (
            load_one_of(MOTION_HEADS, folder / "ego_motion")
            if (folder / "ego_motion").is_dir()
            else None
        )
        outcome = load_one_of(OUTCOME_HEADS, folder / "outcome")
        source = hub_source(folder)
        # The card's own ``source`` is untrusted.
        card = {k: v for k, v in card.items() if k != "source"} | (
            {} if source is None else {"source": source}
        )
        try:
            world = cls(dynamics, config, ego, outcome, card, folder, trust=trust)
        except (RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, WorldsimError):
                raise
            raise DamagedFileError(
                f"{folder}: its parts do not fit one another ({error}): copy the world again"
            ) from error
        return world.to(resolve_device(device))
