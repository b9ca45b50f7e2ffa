"""A generated world as a single Gymnasium environment."""

from __future__ import annotations

import copy
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray
from torch import Tensor

from worldsim.envs.dream_common import Adapters, check_uncertainty_limit, load_world
from worldsim.envs.world_vector_env import WorldVectorEnv
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.handle import MemoryHandle
from worldsim.protocols import Painter, Scene
from worldsim.runtime.actions import cast_box_action
from worldsim.runtime.keyboard import Keys, keys_to_action, rates
from worldsim.runtime.old_names import old_arguments, old_attribute
from worldsim.runtime.types import Action, Env, Info
from worldsim.state import Frame, Trajectory, WorldState
from worldsim.world import World
from worldsim.world.engine import EngineConfig
from worldsim.world.paint_ahead import PaintAheadConfig
from worldsim.world.rows import (
    check_memory,
    check_snapshot,
    enough_memory,
    fork_state,
    report,
    require_memory,
)
from worldsim.world.snapshots import Snapshot, load_snapshot, save_snapshot
from worldsim.world.starts import DEFAULT_SCENES, Starts


class WorldEnv(gym.Env[NDArray[np.uint8], Action]):
    """A generated environment: a world draws every frame, and its scene memory keeps what was seen.

    world: a shipped world's name, a folder, a Hugging Face repository, or a
        :class:`worldsim.world.World`.
    render_mode: ``rgb_array`` or None.
    device: by default CUDA if it is available, else the CPU.
    num_inference_steps: sampling steps per frame; by default the world's own.
    scenes: where resets start: a folder of scenes; a registered name and a folder, such as
        ``captures:FOLDER`` (:data:`worldsim.runtime.registries.SCENES`); ``module:Class`` of a
        class that takes the world's ``scenes`` folder, or ``module:Class:FOLDER`` for another
        folder; or an object with ``start(rng)``.
    engine: how steps are run, ``plain``, ``fast`` or ``compiled``: see
        :meth:`worldsim.world.World.with_engine`.
    temperature: of the noise that frames are drawn from, in [0, 1]; by default the world's own (see
        :class:`worldsim.diffusion.dynamics.DynamicsConfig`).
    threads: CPU threads of the whole process; by default PyTorch's choice. Beside other work on the
        same cores, 1 may be fastest.
    paint: ``ahead`` or a :class:`worldsim.world.paint_ahead.PaintAheadConfig`: a painter invents
        what lies ahead where the memory knows too little (:mod:`worldsim.world.paint_ahead`). By
        default nothing is painted.
    painter: a shipped painter's name, a folder, or a :class:`worldsim.protocols.Painter`; by
        default the shipped one.
    adapters: folders of adapters of the world's weights, or their scales by folder
        (:meth:`worldsim.world.World.load_adapter`). By default none.
    trajectory: maximum number of frames that :attr:`trajectory` keeps, 0 for none.
    uncertainty: whether ``info["uncertainty"]`` holds the difference to a second sample of the same
        frame: the root mean square over its colours in [0, 1], 0 at a reset. A step then costs one
        more denoised frame.
    uncertainty_limit: episodes are truncated where ``info["uncertainty"]`` exceeds it.

    Spaces are those of the real twin. Options of ``reset``: ``{"scene": "MAP30-2"}``, or
    ``{"frames": ...}`` with a :class:`worldsim.state.SceneStart`, a dict of arrays or a real
    environment (see :func:`worldsim.world.starts.as_scene`); without options, a random scene.
    ``info`` of reset and step: ``pose`` (4, 4) camera-to-world, ``depth`` (h, w) metres and
    ``intrinsics`` (4,) pixels for a world with geometry; ``memory_coverage`` (float32), the share
    of the frame that the memory covered before the step; ``generated``, True (bool, without axes).
    Every value has a dtype; keys, dtypes and shapes never change.

    ``metadata["render_fps"]`` is an integer, as Gymnasium's tools require;
    ``metadata["steps_per_second"]`` is the exact rate of the world's time.

    Wrappers do not forward attributes outside Gymnasium's API. Behind ``gymnasium.make``, call
    ``env.unwrapped.snapshot()`` or ``env.get_wrapper_attr("snapshot")()``; likewise for
    ``restore``, ``fork``, ``edit``, ``save``, ``load``, ``memory``, ``trajectory``.

    It can be pickled and copied deeply, weights included; the copy continues exactly as this one
    would.

    The seed of the reset determines scene and dream. A time limit is that of ``gymnasium.make``: it
    counts the steps taken, restored or not.
    """

    metadata = {"render_modes": ["rgb_array"], **rates(8.75)}

    @old_arguments(steps="num_inference_steps", journey="trajectory")
    def __init__(
        self,
        world: str | Path | World | None = None,
        render_mode: str | None = None,
        device: torch.device | str | None = None,
        scenes: str | Path | Scene = DEFAULT_SCENES,
        num_inference_steps: int | None = None,
        trajectory: int = 2000,
        engine: str | EngineConfig | None = None,
        temperature: float | None = None,
        uncertainty: bool = False,
        uncertainty_limit: float | None = None,
        threads: int | None = None,
        paint: str | PaintAheadConfig | None = None,
        painter: str | Path | Painter | None = None,
        adapters: Adapters = None,
    ) -> None:
        if (
            isinstance(trajectory, bool)
            or not isinstance(trajectory, (int, np.integer))
            or trajectory < 0
        ):
            raise InvalidInputError(
                f"trajectory must be a whole number of frames to keep, 0 for none, got "
                f"{trajectory!r}"
            )
        if render_mode not in (None, "rgb_array"):
            raise InvalidInputError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        check_uncertainty_limit(uncertainty_limit)
        self.uncertainty_limit = uncertainty_limit
        self.world = load_world(
            world,
            device,
            num_inference_steps,
            engine,
            temperature,
            uncertainty or uncertainty_limit is not None,
            threads,
            paint,
            painter,
            adapters,
        )
        require_memory(1, self.world)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, **rates(self.world.config.fps)}
        # Copies: environments that share a world must not share the randomness of
        # action_space.sample().
        self.observation_space = copy.deepcopy(self.world.observation_space)
        self.action_space = copy.deepcopy(self.world.action_space)
        self._starts = Starts(self.world, scenes)
        self._state: WorldState | None = None
        self._elapsed = 0
        self._uncertainty = 0.0
        self._walk: deque[Frame] = deque(maxlen=int(trajectory) if self.world.has_geometry else 0)

    @property
    def state(self) -> WorldState:
        """The current state, a batch of one.

        It is never changed in place, unless the engine runs CUDA graphs.
        """
        if self._state is None:
            raise ResetNeeded("this environment has not been reset: call reset() first")
        return self._state

    @property
    def memory(self) -> MemoryHandle:
        """The current scene memory, to render, map, edit and write to a file.

        Raises MissingGeometryError if there is none.
        """
        return MemoryHandle.of(self.world.memory, self.world.own(self.state))

    journey = old_attribute("WorldEnv.journey", "trajectory")

    @property
    def trajectory(self) -> Trajectory:
        """The frames of the walk since the last reset, including its start.

        Of a long walk, only the newest are kept.

        Raises MissingGeometryError for a world without geometry, and InvalidInputError if none are
        kept.
        """
        state = self.state
        if not self.world.has_geometry:
            raise MissingGeometryError(
                "this world has no geometry: a trajectory needs frames with depth and pose"
            )
        if not self._walk:
            raise InvalidInputError(
                "this environment keeps no trajectory: make it with trajectory=2000, or as many "
                "frames "
                "as wanted"
            )
        return Trajectory.of(self._walk, state.intrinsics[0])

    def reset(
        self, *, seed: int | None = None, options: Info | None = None
    ) -> tuple[NDArray[np.uint8], Info]:
        """Begin a new dream; see the class for ``options``."""
        super().reset(seed=seed)
        scene, dream_seed = self._starts.choose(self.np_random, options)
        with enough_memory(1, self.world):
            self._state = self.world.initial([scene], [dream_seed])
        self._elapsed, self._uncertainty = 0, 0.0
        self._walk.clear()
        if scene.inverse_depth is not None and scene.pose is not None:
            self._walk.extend(Trajectory.start_frames(scene.rgb, scene.inverse_depth, scene.pose))
        return self._frame(), self._info()

    def start_from(self, real: Env, seed: int | None = None) -> tuple[NDArray[np.uint8], Info]:
        """Begin a new dream where a real environment stands.

        As :meth:`reset`, but without time limit and wrappers. In an environment from
        ``gymnasium.make``, ``env.reset(seed=seed, options={"frames": real})`` does the same.

        real: an environment of the same spaces with a :class:`worldsim.world.twin.FrameHistory`
            among its wrappers, as :func:`worldsim.world.twin.make_twin` returns it, in the middle
            of an episode. It does not change.
        seed: seed of the dream.
        """
        return self.reset(seed=seed, options={"frames": real})

    def step(self, action: Action) -> tuple[NDArray[np.uint8], float, bool, bool, Info]:
        """Dream one frame further."""
        state = self.state
        with enough_memory(1, self.world):
            self._state, transition = self.world.step(state, self._check(action))
        self._elapsed += 1
        self._walk.append(self._state.frame)
        self._uncertainty = 0.0 if transition.uncertainty is None else float(transition.uncertainty)
        trunc = self.uncertainty_limit is not None and self._uncertainty > self.uncertainty_limit
        return self._frame(), float(transition.rew), bool(transition.term), trunc, self._info()

    def render(self) -> NDArray[np.uint8] | None:
        """The newest frame, (h, w, 3) uint8, if the render mode is ``rgb_array``."""
        return self._frame() if self.render_mode == "rgb_array" else None

    def get_keys_to_action(self) -> Keys:
        """Return the keys for ``gymnasium.utils.play``.

        See :func:`worldsim.runtime.keyboard.keys_to_action`, which raises InvalidInputError.
        """
        return keys_to_action(self.action_space, self.world.config.env_id)

    def snapshot(self) -> Snapshot:
        """Return a copy of the environment's state.

        It holds the dynamics' context, the scene memory, the heads' history and the random state.
        """
        return Snapshot(
            state=self.state.clone(),
            elapsed=np.array([self._elapsed]),
            resetting=np.zeros(1, bool),
            generators=(self.np_random.bit_generator.state,),
            weights=self.world.weights_id,
            adapters=self.world.adapters,
            frames=tuple(self._walk),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Restore a snapshot of this environment, or of one created with the same arguments.

        The snapshot can be used again.
        """
        check_snapshot(snapshot, self.world, 1)
        self._state = snapshot.state.clone().to(self.world.device)
        self._elapsed = int(snapshot.elapsed[0])
        self._walk.clear()
        self._walk.extend(snapshot.frames or (self._state.frame,))
        self.np_random.bit_generator.state = snapshot.generators[0]

    def edit(self, memory: Any) -> tuple[NDArray[np.uint8], Info]:
        """Continue with an edited memory; returns the new frame and info.

        See :meth:`worldsim.world.World.edit`.

        memory: a handle, as :attr:`memory` and its methods return it, or a memory's data (a batch
            of one).
        """
        self._state = self.world.edit(self.state, check_memory(self.world, self.state, memory))
        if self._walk:
            self._walk[-1] = self._state.frame
        return self._frame(), self._info()

    def save(self, path: str | Path) -> Path:
        """Write a snapshot to a file, atomically.

        See :func:`worldsim.world.snapshots.save_snapshot`.
        """
        return save_snapshot(self.snapshot(), self.world, path)

    def load(self, path: str | Path) -> None:
        """Restore a snapshot from :meth:`save`, in any process.

        The future is the same bit by bit.
        """
        self.restore(load_snapshot(path, self.world))

    def fork(self, n: int, randomness: str = "common") -> WorldVectorEnv:
        """Return ``n`` futures from here, stepped together; this environment does not change.

        No future resets by itself.

        randomness: ``common``, where the same actions give the same futures bit by bit, or
            ``independent``.
        """
        copies = fork_state(self.world, self.state, 0, n, randomness, self.np_random)
        elapsed = np.full(len(copies), self._elapsed)
        return WorldVectorEnv.from_state(
            self.world,
            copies,
            elapsed,
            scenes=self._starts.scenes,
            render_mode=self.render_mode,
            uncertainty_limit=self.uncertainty_limit,
        )

    def is_like(self, other: WorldEnv) -> bool:
        """Return whether both were created with the same arguments.

        With the same seed and actions, both then have the same dream.
        """
        mine, its = self.world, other.world
        same = mine is its or (
            (
                mine.weights_id,
                mine.folder,
                mine.config,
                mine.engine,
                mine.device,
                mine.tells_uncertainty,
                mine.painting and mine.painting.identity,
            )
            == (
                its.weights_id,
                its.folder,
                its.config,
                its.engine,
                its.device,
                its.tells_uncertainty,
                its.painting and its.painting.identity,
            )
            and type(mine.memory) is type(its.memory)
        )
        arguments = (self._starts.given, self.render_mode, self.uncertainty_limit)
        return same and arguments == (
            other._starts.given,
            other.render_mode,
            other.uncertainty_limit,
        )

    def batch(self, n: int, **kwargs: Any) -> WorldVectorEnv:
        """``n`` environments made as this one was, stepped together; not reset yet.

        kwargs: what :class:`worldsim.envs.world_vector_env.WorldVectorEnv` takes besides.
        """
        mine = {
            "scenes": self._starts.scenes,
            "render_mode": self.render_mode,
            "uncertainty_limit": self.uncertainty_limit,
        }
        return WorldVectorEnv(n, self.world, **{**mine, **kwargs})

    def _check(self, action: Action) -> Tensor:
        if isinstance(self.action_space, gym.spaces.Box):
            return torch.from_numpy(cast_box_action(action, self.action_space)).to(
                self.world.device
            )[None]
        if not self.action_space.contains(action):
            raise InvalidInputError(f"action {action!r} is outside {self.action_space}")
        return torch.as_tensor(np.asarray(action), dtype=torch.int64, device=self.world.device)[
            None
        ]

    def _frame(self) -> NDArray[np.uint8]:
        return self.state.frame.rgb[0].permute(1, 2, 0).cpu().numpy().copy()

    def _info(self) -> Info:
        info = {
            name: value[0].cpu().numpy()
            for name, value in report(self.world, self.state, 1).items()
        }
        told = (
            {"uncertainty": np.float32(self._uncertainty)} if self.world.tells_uncertainty else {}
        )
        # NumPy's numbers, not Python's: what collects infos reads each one's dtype. True is an
        # array without axes: of numpy.bool_, Gymnasium's own vector environments would make an
        # array of objects.
        return {
            name: value[()] if value.ndim == 0 and value.dtype != np.bool_ else value
            for name, value in info.items()
        } | told
