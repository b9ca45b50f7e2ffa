"""Many generated worlds as one batched Gymnasium environment: one forward pass per step."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from worldsim.envs.dream_common import (
    Adapters,
    check_actions,
    check_mask,
    check_uncertainty_limit,
    list_seeds,
    load_world,
)
from worldsim.errors import InvalidInputError
from worldsim.memory.handle import MemoryHandle
from worldsim.protocols import Painter, Scene
from worldsim.runtime.keyboard import rates
from worldsim.runtime.old_names import old_arguments
from worldsim.runtime.options import check_options
from worldsim.runtime.types import Array, Batch, Info
from worldsim.state import WorldState
from worldsim.world import World
from worldsim.world.engine import EngineConfig
from worldsim.world.paint_ahead import PaintAheadConfig
from worldsim.world.rows import check_snapshot, enough_memory, fork_state, report, require_memory
from worldsim.world.snapshots import Snapshot, load_snapshot, save_snapshot
from worldsim.world.starts import DEFAULT_SCENES, Starts
from worldsim.world.world import bucket


class WorldVectorEnv(gym.vector.VectorEnv[Batch, Batch, Batch]):
    """``num_envs`` dreams stepped together, each with its own seed, scene and memory.

    No dream depends on the others.

    num_envs: number of environments. They are computed in batches of ``worldsim.world.BUCKETS``, so
        such numbers are efficient.
    world, render_mode, device, scenes, num_inference_steps, engine, temperature, uncertainty,
        uncertainty_limit, threads, paint, painter, adapters: see
        :class:`worldsim.envs.world_env.WorldEnv`.
    max_episode_steps: steps after which an episode is truncated, None for never.
    autoreset_mode: Gymnasium's. With ``DISABLED``, finished environments are reset by
        ``options={"reset_mask": mask}``; until then they continue.
    output: ``numpy``, or ``torch`` for tensors on the world's device without copies: do not write
        into them.

    ``reset(seed=s)`` gives environment i the seed s + i. Environment i then behaves as a single
    environment with that seed does: bit by bit in batches of the same computed size, up to rounding
    in others. Dreams feed on their own frames, so rounding grows with the steps: of ``takecover``,
    colours were 36 of 255 apart at step 12 and 221 at step 24 (1 environment against 32, on a CPU).
    Compare runs of one batch size only.
    """

    metadata = {
        "render_modes": ["rgb_array"],
        **rates(8.75),
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    @old_arguments(steps="num_inference_steps")
    def __init__(
        self,
        num_envs: int,
        world: str | Path | World | None = None,
        render_mode: str | None = None,
        device: torch.device | str | None = None,
        scenes: str | Path | Scene | None = DEFAULT_SCENES,
        num_inference_steps: int | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        output: str = "numpy",
        engine: str | EngineConfig | None = None,
        temperature: float | None = None,
        uncertainty: bool = False,
        uncertainty_limit: float | None = None,
        threads: int | None = None,
        paint: str | PaintAheadConfig | None = None,
        painter: str | Path | Painter | None = None,
        adapters: Adapters = None,
    ) -> None:
        super().__init__()
        if (
            isinstance(num_envs, bool)
            or not isinstance(num_envs, (int, np.integer))
            or num_envs < 1
        ):
            raise InvalidInputError(
                f"num_envs must be a whole number of at least 1, got {num_envs!r}"
            )
        if render_mode not in (None, "rgb_array"):
            raise InvalidInputError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        if output not in ("numpy", "torch"):
            raise InvalidInputError(f"output must be 'numpy' or 'torch', got {output!r}")
        whole = isinstance(max_episode_steps, (int, np.integer)) and not isinstance(
            max_episode_steps, bool
        )
        if max_episode_steps is not None and not (
            whole and (max_episode_steps >= 1 or max_episode_steps == -1)
        ):
            raise InvalidInputError(
                f"max_episode_steps must be at least 1, or None for no limit, got "
                f"{max_episode_steps!r}"
            )
        self.num_envs, self.render_mode, self.output = int(num_envs), render_mode, output
        self.autoreset_mode = _as_mode(autoreset_mode)
        # Gymnasium's make takes -1 for no limit.
        self.max_episode_steps = None if max_episode_steps == -1 else max_episode_steps
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
        require_memory(self.num_envs, self.world)
        self.memory_bytes = self.world.state_bytes()
        """Bytes of one environment's state, whatever it has seen."""
        self.metadata = {
            **self.metadata,
            **rates(self.world.config.fps),
            "autoreset_mode": self.autoreset_mode,
        }
        self.single_observation_space = copy.deepcopy(self.world.observation_space)
        self.single_action_space = copy.deepcopy(self.world.action_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._starts = Starts(self.world, scenes)
        self._state: WorldState | None = None
        self._elapsed = np.zeros(self.num_envs, np.int64)
        self._uncertainty = torch.zeros(self.num_envs, device=self.world.device)
        self._resetting = np.zeros(self.num_envs, bool)
        self._generators: list[tuple[np.random.Generator, int] | None] = [None] * self.num_envs

    @classmethod
    def from_state(
        cls, world: World, state: WorldState, elapsed: Array, **kwargs: Any
    ) -> WorldVectorEnv:
        """Return an environment that continues from ``state``, one row per environment.

        Autoreset is off unless requested.
        """
        env = cls(len(state), world, **{"autoreset_mode": AutoresetMode.DISABLED, **kwargs})
        with enough_memory(env.num_envs, world):
            env._state = world.pad(state, bucket(len(state)))
        env._elapsed = np.array(elapsed, np.int64)
        return env

    @property
    def state(self) -> WorldState:
        """The worlds as they are, padded to a batch bucket: the first ``num_envs`` rows count.

        Never changed in place, unless the engine runs CUDA graphs.
        """
        if self._state is None:
            raise ResetNeeded("these environments have not been reset: call reset() first")
        return self._state

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random generators of the environments: they draw scenes and dream seeds."""
        return tuple(self._generator(i)[0] for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seeds of :attr:`np_random`."""
        return tuple(self._generator(i)[1] for i in range(self.num_envs))

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Info | None = None,
    ) -> tuple[Batch, Info]:
        """Begin new dreams in all environments, or in those of a mask.

        The mask is ``options["reset_mask"]``, (n,) bool.

        Other options are as for the single environment, the same for every environment.
        """
        options = check_options(options)
        mask = check_mask(options.pop("reset_mask", None), self.num_envs)
        seeds = list_seeds(seed, self.num_envs)
        for i in np.flatnonzero(mask):
            if seeds[i] is not None:
                self._generators[i] = seeding.np_random(seeds[i])
        self._restart(mask, options)
        return self._frames(), self._infos(mask)

    def step(self, actions: Batch) -> tuple[Batch, Batch, Batch, Batch, Info]:
        """Step every environment by one frame.

        Environments that are due for a reset (``NEXT_STEP``) ignore their action.
        """
        state, act, resetting = self.state, self._check(actions), self._resetting
        rew = torch.zeros(self.num_envs, device=self.world.device)
        term = torch.zeros(self.num_envs, dtype=torch.bool, device=self.world.device)
        if not resetting.all():
            with enough_memory(self.num_envs, self.world):
                self._state, transition = self.world.step(state, act)
            rew, term = transition.rew[: self.num_envs], transition.term[: self.num_envs]
            if transition.uncertainty is not None:
                self._uncertainty = transition.uncertainty[: self.num_envs]
            self._elapsed += 1
        if resetting.any():
            self._restart(resetting, {})
            stayed = torch.from_numpy(~resetting).to(rew.device)
            rew, term = rew * stayed, term & stayed
        trunc = (
            np.zeros(self.num_envs, bool)
            if self.max_episode_steps is None
            else self._elapsed >= self.max_episode_steps
        )
        # Reading a tensor makes a GPU wait: only worlds that can terminate, or tell their
        # uncertainty to a limit, are asked.
        if self.uncertainty_limit is not None:
            trunc = trunc | (self._uncertainty > self.uncertainty_limit).cpu().numpy()
        done = trunc | term.cpu().numpy() if self.world.config.has_terminations else trunc
        final: Info = {}
        self._resetting = np.zeros(self.num_envs, bool)
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            self._resetting = done.copy()
        elif self.autoreset_mode is AutoresetMode.SAME_STEP and done.any():
            final = self._final(done)
            self._restart(done, {})
        infos = {**final, **self._infos(np.ones(self.num_envs, bool))}
        return (
            self._frames(),
            self._emit(rew),
            self._emit(term),
            self._emit(torch.from_numpy(trunc)),
            infos,
        )

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Return the newest frames, one (h, w, 3) uint8 array per environment.

        None unless the render mode is ``rgb_array``.
        """
        if self.render_mode != "rgb_array":
            return None
        return tuple(self.state.frame.rgb[: self.num_envs].permute(0, 2, 3, 1).cpu().numpy().copy())

    def snapshot(self) -> Snapshot:
        """All environments, copied: worlds, time limits, pending resets and random generators."""
        return Snapshot(
            state=self.state.clone(),
            elapsed=self._elapsed.copy(),
            resetting=self._resetting.copy(),
            generators=tuple(generator.bit_generator.state for generator in self.np_random),
            weights=self.world.weights_id,
            adapters=self.world.adapters,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Restore a snapshot of this environment, or of one created with the same arguments.

        The snapshot can be used again.
        """
        check_snapshot(snapshot, self.world, self.num_envs)
        self._state = snapshot.state.clone().to(self.world.device)
        self._elapsed, self._resetting = snapshot.elapsed.copy(), snapshot.resetting.copy()
        for generator, state in zip(self.np_random, snapshot.generators, strict=True):
            generator.bit_generator.state = state

    def save(self, path: str | Path) -> Path:
        """Write a snapshot of all environments to a file, atomically.

        See :func:`worldsim.world.snapshots.save_snapshot`.
        """
        return save_snapshot(self.snapshot(), self.world, path)

    def load(self, path: str | Path) -> None:
        """Restore a snapshot from :meth:`save`, in any process.

        The futures are the same bit by bit.
        """
        self.restore(load_snapshot(path, self.world))

    def fork(self, index: int, n: int, randomness: str = "common") -> WorldVectorEnv:
        """Return ``n`` futures of environment ``index``, within its time limit.

        See :meth:`worldsim.envs.world_env.WorldEnv.fork`.
        """
        copies = fork_state(
            self.world,
            self.state,
            self._index("fork", index),
            n,
            randomness,
            self._generator(index)[0],
        )
        return WorldVectorEnv.from_state(
            self.world,
            copies,
            np.full(len(copies), self._elapsed[index]),
            scenes=self._starts.scenes,
            render_mode=self.render_mode,
            max_episode_steps=self.max_episode_steps,
            output=self.output,
            uncertainty_limit=self.uncertainty_limit,
        )

    def memory_of(self, index: int) -> MemoryHandle:
        """Return the current scene memory of environment ``index``.

        See :attr:`worldsim.envs.world_env.WorldEnv.memory`.
        """
        return MemoryHandle.of(
            self.world.memory, self.world.own(self.state), self._index("memory_of", index)
        )

    def _index(self, what: str, index: int) -> int:
        if (
            isinstance(index, bool)
            or not isinstance(index, (int, np.integer))
            or not 0 <= index < self.num_envs
        ):
            raise InvalidInputError(
                f"{what} of environment {index!r}: there are {self.num_envs}, counted from 0"
            )
        return int(index)

    def _restart(self, mask: Array, options: Info) -> None:
        """Put fresh dreams in the environments of ``mask``."""
        index = np.flatnonzero(mask)
        chosen = [self._starts.choose(self._generator(int(i))[0], options) for i in index]
        with enough_memory(self.num_envs, self.world):
            fresh = self.world.initial([scene for scene, _ in chosen], [seed for _, seed in chosen])
            if self._state is None or mask.all():
                self._require_all(mask)
                self._state = self.world.pad(fresh, bucket(self.num_envs))
            else:
                self._state = self.world.put(self._state, torch.from_numpy(index), fresh)
        self._elapsed[mask] = 0
        self._uncertainty = self._uncertainty.masked_fill(
            torch.from_numpy(mask).to(self._uncertainty.device), 0.0
        )
        self._resetting = self._resetting & ~mask

    def _require_all(self, mask: Array) -> None:
        if not mask.all():
            raise ResetNeeded(
                "these environments have not been reset: the first reset cannot have a reset_mask"
            )

    def _generator(self, index: int) -> tuple[np.random.Generator, int]:
        entry = self._generators[index]
        if entry is None:
            entry = self._generators[index] = seeding.np_random()
        return entry

    def _check(self, actions: Batch) -> Tensor:
        """Actions as a tensor on the world's device, padded to the batch bucket."""
        act = check_actions(actions, self.single_action_space, self.num_envs)
        # Copies of the first environment act like it: dynamics may compute equal rows once.
        padding = act[:1].expand(bucket(self.num_envs) - self.num_envs, *act.shape[1:])
        return torch.cat([act, padding]).to(self.world.device)

    def _frames(self) -> Batch:
        return self._emit(self.state.frame.rgb[: self.num_envs].permute(0, 2, 3, 1), copied=True)

    def _emit(self, tensor: Tensor, copied: bool = False) -> Batch:
        """Convert a tensor to the output format.

        copied: NumPy arrays own their memory even if the tensor is a view.
        """
        if self.output == "torch":
            return tensor.to(self.world.device)
        # One number an environment is float64 in Gymnasium's own vector environments.
        array = (
            (tensor.double() if tensor.dim() == 1 and tensor.is_floating_point() else tensor)
            .cpu()
            .numpy()
        )
        return array.copy(order="C") if copied else array

    def _infos(self, mask: Array) -> Info:
        """Gymnasium's batched info: an array a key, zero where ``_key`` is False."""
        infos: Info = {}
        known = torch.from_numpy(mask).to(self.world.device)
        told = report(self.world, self.state, self.num_envs)
        if self.world.tells_uncertainty:
            told["uncertainty"] = self._uncertainty.clone()
        for name, values in told.items():
            if not mask.all():
                values = torch.where(
                    known.reshape(-1, *[1] * (values.dim() - 1)), values, torch.zeros_like(values)
                )
            kept = values if self.output == "torch" else values.cpu().numpy()
            infos[name], infos[f"_{name}"] = kept, self._emit(known.clone(), copied=True)
        return infos

    def _final(self, done: Array) -> Info:
        """What ``SAME_STEP`` reports of episodes that end here: their last observation and info."""
        observations = np.full(self.num_envs, None, dtype=object)
        frames = self._frames()
        for i in np.flatnonzero(done):
            observations[i] = frames[i]
        infos = {"final_obs": observations, "final_info": self._infos(done)}
        return infos | {f"_{name}": done.copy() for name in tuple(infos)}


def _as_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        modes = ", ".join(repr(m.value) for m in AutoresetMode)
        raise InvalidInputError(f"autoreset_mode must be one of {modes}, got {mode!r}") from None
