"""A world: dynamics, scene memory, heads and card, one folder on disk. State in, state out."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
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
from worldsim.protocols import ContextOfViews, Dynamics, SceneMemory, UncertainDynamics
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
from worldsim.world.config import Termination, WorldConfig
from worldsim.world.engine import PLAIN, EngineConfig, resolve_engine
from worldsim.world.files import (
    PUBLISHED,
    find_world,
    hub_source,
    load_module,
    read_card,
    save_world,
    upload,
)
from worldsim.world.heads import EgoMotionHead, OutcomeHead
from worldsim.world.running import RunningStep
from worldsim.world.start_states import StartStates
from worldsim.world.step import Step

__all__ = ["BUCKETS", "Termination", "World", "WorldConfig", "bucket", "find_world"]

BUCKETS = (1, 8, 32, 64, 128, 256, 512, 1024)
"""Batch sizes that worlds are stepped at: inside one bucket results are bit-exact whatever the
neighbours do."""


def _box(size: int, config: WorldConfig) -> gym.spaces.Box:
    low = np.array(config.action_low or [-1.0] * size, np.float32)
    high = np.array(config.action_high or [1.0] * size, np.float32)
    return gym.spaces.Box(low, high, dtype=np.float32)


def bucket(batch: int) -> int:
    """Return the smallest batch bucket that holds ``batch``; above the largest, its multiples."""
    for size in BUCKETS:
        if batch <= size:
            return size
    return -(-batch // BUCKETS[-1]) * BUCKETS[-1]


class World:
    """Dynamics + memory + heads + card.

    Load one with :meth:`from_pretrained`. :meth:`initial` and :meth:`step` are functional: they
    take and return a :class:`WorldState`, batched over environments. trust: whether the real twin
    that ``config`` names may be made whatever it is (see :func:`worldsim.world.twin.check_twin`).
    """

    def __init__(
        self,
        dynamics: Dynamics | SpaceTimeTransformer,
        config: WorldConfig,
        ego_motion: EgoMotionHead | None = None,
        outcome: OutcomeHead | None = None,
        card: JsonObject | None = None,
        folder: Path | None = None,
        memory: SceneMemory | None = None,
        engine: EngineConfig = PLAIN,
        trust: bool = False,
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
        self.memory: SceneMemory = memory or (
            PointMemory(config.memory) if config.memory is not None else NoMemory()
        )
        self.observation_space = gym.spaces.Box(0, 255, (spec.height, spec.width, 3), np.uint8)
        self.action_space: Space = (
            gym.spaces.Discrete(spec.actions) if spec.actions else _box(spec.action_dim, config)
        )
        for module in self.modules().values():
            module.eval().requires_grad_(False)
        self._run_by(engine)

    def __getstate__(self) -> dict[str, Any]:
        """Return the parts to pickle or copy, without the running step and cached starts."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("running", "_starts")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._run_by(self.engine)

    @property
    def has_geometry(self) -> bool:
        """Whether frames carry depth and pose."""
        return self.ego_motion is not None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.running.parts.device

    def to(self, device: torch.device | str) -> World:
        """Move the weights; returns the world itself.

        Raises InvalidInputError for a device that is not available. ``meta``, PyTorch's device
        without data, gives shapes alone.
        """
        device = torch.device("meta") if str(device) == "meta" else resolve_device(device)
        for module in self.modules().values():
            module.to(device)
        self._run_by(self.engine)
        return self

    def with_engine(self, engine: str | EngineConfig) -> World:
        """Return the same weights with another engine for steps.

        With CUDA graphs (``fast`` and ``compiled`` on a GPU), :meth:`step` works in place: the
        state that it returns is overwritten by the next step, and cannot be stepped twice.
        ``state.clone()`` keeps one; transitions and their frames are copies. If something is
        missing (CUDA, a compiler), it warns once and runs without it.

        engine: ``plain``, ``fast``, ``compiled`` or a :class:`worldsim.world.engine.EngineConfig`.
        """
        return self._replace(engine=resolve_engine(engine, self.device))

    def _run_by(self, engine: EngineConfig) -> None:
        self.engine = engine
        step = Step.of(self.config, self._dynamics, self.memory, self.ego_motion, self.outcome)
        self.running = RunningStep(step, engine)
        self._starts = StartStates(self.running, self.action_space)

    @property
    def dynamics(self) -> Any:
        """What predicts frames, a :class:`worldsim.protocols.Dynamics`, as the engine runs it."""
        return self.running.parts.dynamics

    @property
    def network(self) -> SpaceTimeTransformer:
        """The network of a world with diffusion dynamics. Raises InvalidInputError for others."""
        module = self._dynamics.module
        if not isinstance(module, SpaceTimeTransformer):
            raise InvalidInputError(
                f"this world's dynamics are {type(self._dynamics).__name__}, which have no network "
                f"of worldsim's: world.spec has the frame size and the actions"
            )
        return module

    def state_bytes(self) -> int:
        """Bytes of one environment's state; its size is fixed."""
        return bytes_of(self.blank(1))

    def step_bytes(self) -> int:
        """Estimated bytes that a step needs per environment.

        This is its state before and after, and a dozen of the finest features.
        """
        features = 0
        if isinstance(self._dynamics.module, SpaceTimeTransformer):
            n = self.network.config
            width = n.levels[0] if n.levels else n.dim
            number = 2 if self.engine.precision == "bfloat16" else 4
            features = 12 * 2 * width * n.height * n.width // n.fold**2 * number
        return 2 * self.state_bytes() + features

    def without_memory(self) -> World:
        """The same weights with the scene memory switched off."""
        return self.with_memory(NoMemory())

    def with_memory(self, memory: SceneMemory) -> World:
        """Return the same weights with another scene memory.

        Its states start empty: the memories of stored start scenes do not fit, unless it has a
        method ``pad`` that takes points, as the radiance field has.
        """
        if not isinstance(memory, SceneMemory):
            raise InvalidInputError(
                f"{memory!r} is no scene memory: it needs empty, integrate, render and surroundings"
            )
        return self._replace(memory=memory)

    def with_dynamics(self, **changes: Any) -> World:
        """Return the same weights with other :class:`DynamicsConfig` values.

        For example ``num_inference_steps=2``; None keeps a value.
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
        """Whether transitions hold the uncertainty of each frame."""
        return bool(getattr(self._dynamics, "uncertainty", False))

    def with_uncertainty(self, wanted: bool = True) -> World:
        """Return the same weights with or without :attr:`worldsim.state.Transition.uncertainty`.

        It is the difference between the frame and another sample of it. The frames stay the same
        bit by bit. A step costs one more denoised frame per inference step. Raises
        InvalidInputError at temperature 0, where all samples are equal, and for dynamics that
        cannot estimate it.
        """
        if wanted == self.tells_uncertainty:
            return self
        if not isinstance(self._dynamics, UncertainDynamics):
            raise InvalidInputError(
                f"{type(self._dynamics).__name__} has no with_uncertainty: its predictions come "
                f"without uncertainty"
            )
        return self._replace(dynamics=self._dynamics.with_uncertainty(wanted))

    def _replace(self, **changes: Any) -> World:
        """A world of the same weights with some constructor arguments replaced."""
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
        }
        return World(**(kept | changes))

    # Stepping.

    @torch.no_grad()
    def initial(self, scenes: Sequence[SceneStart], seeds: Sequence[int] | Tensor) -> WorldState:
        """A batch of fresh worlds, one scene and one seed an environment.

        Raises InvalidInputError for frames of the wrong size or type, MissingGeometryError where
        depth or poses are needed.
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
        state = concatenate(self._starts.states(scenes))
        return dataclasses.replace(state, seed=seed)

    def _seeds(self, seeds: Sequence[int] | Tensor) -> Tensor:
        """Seeds as (n,) int64 on the device. Raises InvalidInputError for what are none."""
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
        """Advance every world by one action.

        act: (b,) int64 or (b, n) float32. pose: (b, 4, 4) to impose the next camera instead of
        predicting it.
        """
        return self.running.step(state, act, pose)

    def put(self, state: WorldState, index: Tensor, other: WorldState) -> WorldState:
        """Return the state with ``other`` in place of the environments ``index`` (int64)."""
        return self.running.put(state, index, other)

    def own(self, state: WorldState) -> WorldState:
        """Return the state as one that later steps do not change.

        It is a copy if the engine steps in place, else the state itself.
        """
        return self.running.own(state)

    def owned(self, state: WorldState) -> WorldState:
        """The old name of :meth:`own`."""
        warn_renamed("World.owned", "own")
        return self.own(state)

    def observe(self, state: WorldState, act: Tensor, frame: Frame) -> WorldState:
        """Advance every world by a *given* frame (true history): context and memory ingest it.

        Nothing is generated.
        """
        return self.running.observe(state, act, frame)

    def edit(self, state: WorldState, memory: Any) -> WorldState:
        """Continue every world with another memory, such as an edited one.

        The context is cleared back to the newest frame, which is shown again: where the memory's
        view of it has changed, it shows the new memory, and regions that the memory no longer
        covers are regenerated. Then the memory ingests the rest of this frame. The walk's past,
        pose and random numbers stay.
        """
        return self.running.edit(state, memory)

    def predict_motion(self, state: WorldState, act: Tensor) -> Tensor:
        """Return the motion (b, 6) that the ego-motion head predicts for ``act``.

        Zeros for a world without geometry.
        """
        return self.running.predict_motion(state, act)

    def pad(self, state: WorldState, size: int) -> WorldState:
        """The state with copies of its first environment appended, up to ``size`` environments."""
        index = torch.arange(size, device=state.seed.device)
        return state.select(torch.where(index < len(state), index, torch.zeros_like(index)))

    @property
    def kept_starts(self) -> int:
        """How many start scenes' states are kept."""
        return self._starts.most

    def blank(self, batch: int) -> WorldState:
        """Return ``batch`` worlds that have seen nothing: the basis of :meth:`initial`.

        All states have its shapes.
        """
        return self.running.parts.blank(batch)

    def check_start(self, scene: SceneStart) -> None:
        """Raise InvalidInputError or MissingGeometryError for a scene that does not fit."""
        self._starts.check(scene)

    def coverage(self, state: WorldState) -> Tensor:
        """Return the share of the newest frame that the memory covered before it, (b,) float32.

        Zeros without memory.
        """
        if isinstance(self._dynamics, ContextOfViews):
            return self._dynamics.coverage(state.context)
        return torch.zeros(len(state), device=self.device)

    # On disk.

    def modules(self) -> dict[str, nn.Module]:
        """The trained parts by the names of their folders."""
        modules: dict[str, nn.Module] = {"outcome": self.outcome}
        if self._dynamics.module is not None:
            modules = {"dynamics": self._dynamics.module, **modules}
        if self.ego_motion is not None:
            modules["ego_motion"] = self.ego_motion
        return modules

    @property
    def weights_id(self) -> str:
        """SHA-256 of all weights and their settings.

        Worlds of one id differ at most in how they are used.
        """
        if not self._weights_id:
            total = hashlib.sha256()
            for part, module in sorted(self.modules().items()):
                settings: JsonObject = module.settings  # type: ignore[assignment]
                total.update(content_sha256(to_json(settings)).encode())
                total.update(f"{part} {checksum(module.state_dict())}".encode())
            self._weights_id = total.hexdigest()
        return self._weights_id

    def save_pretrained(self, folder: str | os.PathLike[str], eight_bit: bool = False) -> Path:
        """Write the world to ``folder``, atomically: ``world.json`` and a sub-folder per module.

        The layout is diffusers'. Other content of the folder, such as ``scenes``, stays. Raises
        StorageError.

        eight_bit: store weights as int8.
        """
        return save_world(folder, self.modules(), self.config, self.card, eight_bit)

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload the world to the Hugging Face hub; returns the commit's address.

        Start scenes go with it if they are regular files inside the world's folder:
        DamagedFileError for links that lead out.
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
        """Load a shipped world by name, a folder, or ``hub:owner/name`` from the Hugging Face hub.

        device: by default CUDA if it is available, else the CPU.
        revision: commit, tag or branch of the hub's repository. The card of a world from the hub
            has ``source``, its repository and commit.
        trust: let its real twin be any environment that its files name, which imports and runs
            their code; loading and stepping a world never does.

        Raises NotFoundError, DamagedFileError, InvalidInputError (device) or OutOfMemoryError.
        """
        folder = find_world(name, revision)
        config, card = read_card(folder / "world.json")
        kind: Any = DYNAMICS.of_file(config.dynamics_name, folder / "world.json", trust)
        dynamics = kind.build(config, lambda cls: load_module(cls, folder / "dynamics"))
        ego = (
            load_module(EgoMotionHead, folder / "ego_motion")
            if (folder / "ego_motion").is_dir()
            else None
        )
        outcome = load_module(OutcomeHead, folder / "outcome")
        source = hub_source(folder)
        # A file cannot say where it came from.
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
