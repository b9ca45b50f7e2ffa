"""Gymnasium's vector environments as Stable-Baselines3's ``VecEnv``.

A batch of dreams takes one forward pass per step.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInputError
from worldsim.runtime.extras import missing
from worldsim.runtime.types import Array, Env, Info, VectorEnv

try:
    from stable_baselines3.common.env_util import is_wrapped
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices
except ImportError as error:
    raise missing(
        "Stable-Baselines3 is not installed; `python -m worldsim.agents.actor_critic` trains "
        "without it",
        "agents",
        error,
    ) from error


class SB3VecEnv(VecEnv):
    """``envs``, a vector environment that resets in the same step, in Stable-Baselines3's terms.

    Or functions that make single environments, as ``make_vec_env(..., vec_env_cls=SB3VecEnv)``
    gives them: dreams that are all made alike become one batch, with the time limit and the episode
    statistics that their ``TimeLimit`` and ``Monitor`` would give; other environments are stepped
    one by one. To say which batch you mean, and to load its world once only, give a vector
    environment.

    ``terminal_observation`` in an info is the last observation of an episode that ended in this
    step; the observation returned is the next one's first. ``TimeLimit.truncated`` is True where it
    was cut, not terminated. Infos are the last step's; ``reset_infos`` those of the resets. A
    picture's channels stay last: algorithms transpose them by themselves.
    """

    def __init__(self, envs: VectorEnv | Sequence[Callable[[], Env]]) -> None:
        self._singles: list[Env] = []
        self._monitored, action_space = False, None
        if not isinstance(envs, gym.vector.VectorEnv):
            made = _made(envs)
            # The first one's: it may have been seeded.
            action_space = made[0].action_space
            batch = _batch_of(made)
            if batch is None:
                self._singles = made
                batch = gym.vector.SyncVectorEnv(
                    [partial(_itself, env) for env in made], autoreset_mode=AutoresetMode.SAME_STEP
                )
            else:
                self._monitored = is_wrapped(made[0], Monitor)
            envs = batch
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise InvalidInputError(
                f"these environments reset by {mode}: make them with "
                f"autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP"
            )
        if getattr(envs.unwrapped, "output", "numpy") != "numpy":
            raise InvalidInputError(
                "these environments give tensors: make them with output='numpy'"
            )
        self.envs = envs
        self._waiting: Array | None = None
        self._returns, self._lengths, self._began = (
            np.zeros(envs.num_envs),
            np.zeros(envs.num_envs, np.int64),
            time.time(),
        )
        super().__init__(
            envs.num_envs, envs.single_observation_space, action_space or envs.single_action_space
        )

    def reset(self) -> Array:
        """First observations, (n, ...). Seeds given by ``seed`` count once."""
        options = next((option for option in self._options if option), None)
        if any(option != (options or {}) for option in self._options):
            raise InvalidInputError(
                "the options of a reset are the same for all environments of a batch"
            )
        seeds = list(self._seeds)
        given: Any = seeds if any(seed is not None for seed in seeds) else None
        observations, infos = self.envs.reset(seed=given, options=options)
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0.0, 0
        self.reset_infos = [self._row(infos, i) for i in range(self.num_envs)]
        return np.asarray(observations)

    def step_async(self, actions: Array) -> None:
        """Keep the actions for ``step_wait``."""
        self._waiting = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[Info]]:
        """Observations, rewards, dones and infos of the step."""
        observations, rew, term, trunc, batched = self.envs.step(self._waiting)
        done = term | trunc
        self._returns, self._lengths = self._returns + rew, self._lengths + 1
        infos = []
        for i in range(self.num_envs):
            info = self._row(batched, i)
            if done[i]:
                self.reset_infos[i] = info
                info = self._row(batched["final_info"], i)
                info["terminal_observation"] = np.asarray(batched["final_obs"][i])
                if self._monitored:
                    info["episode"] = self._episode(i)
                self._returns[i], self._lengths[i] = 0.0, 0
            info["TimeLimit.truncated"] = bool(trunc[i] and not term[i])
            infos.append(info)
        return np.asarray(observations), rew.astype(np.float32), done, infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each requested environment.

        An attribute of a batch is repeated for each.
        """
        if self._singles:
            return [
                self._singles[i].get_wrapper_attr(attr_name) for i in self._get_indices(indices)
            ]
        value = self._value(attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: object, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each requested environment; of a batch, for all environments."""
        if self._singles:
            for i in self._get_indices(indices):
                self._singles[i].set_wrapper_attr(attr_name, value)
            return
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise InvalidInputError(
                f"{attr_name} is shared by all environments of a batch: it cannot be set for some "
                f"of them"
            )
        setattr(self.envs.unwrapped, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: object,
        indices: VecEnvIndices = None,
        **method_kwargs: object,
    ) -> list[Any]:
        """Call a method of each requested environment; returns the results.

        ``memory_of`` and ``fork`` of a batch receive the environment's number.
        """
        if self._singles:
            envs = [self._singles[i] for i in self._get_indices(indices)]
            return [
                env.get_wrapper_attr(method_name)(*method_args, **method_kwargs) for env in envs
            ]
        method = self._value(method_name)
        chosen = self._get_indices(indices)
        if method_name in ("memory_of", "fork"):
            return [method(i, *method_args, **method_kwargs) for i in chosen]
        result = method(*method_args, **method_kwargs)
        return [result for _ in chosen]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether each requested environment has the wrapper.

        Environments of a batch have no wrappers; this class does the work of a ``Monitor``.
        """
        if self._singles:
            return [is_wrapped(self._singles[i], wrapper_class) for i in self._get_indices(indices)]
        return [self._monitored and wrapper_class is Monitor for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[Array | None]:
        """The newest frames, where the render mode is ``rgb_array``."""
        frames: Any = self.envs.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def _episode(self, i: int) -> Info:
        """Return what a ``Monitor`` reports when an episode ends.

        This is its return, its length and the seconds since the start.
        """
        return {
            "r": round(float(self._returns[i]), 6),
            "l": int(self._lengths[i]),
            "t": round(time.time() - self._began, 6),
        }

    def _value(self, name: str) -> Any:
        if hasattr(self.envs, name):
            return getattr(self.envs, name)
        return getattr(self.envs.unwrapped, name)

    @staticmethod
    def _row(batched: Info, i: int) -> Info:
        """One environment's info out of Gymnasium's batched one."""
        row = {}
        for name, values in batched.items():
            if name.startswith("_") or name in ("final_info", "final_obs"):
                continue
            if f"_{name}" not in batched or batched[f"_{name}"][i]:
                row[name] = SB3VecEnv._row(values, i) if isinstance(values, dict) else values[i]
        return row


def _made(functions: Sequence[Callable[[], Env]]) -> list[Env]:
    if (
        not isinstance(functions, Sequence)
        or not functions
        or not all(callable(function) for function in functions)
    ):
        raise InvalidInputError(
            f"{str(functions)[:80]} is neither a vector environment nor a list of functions that "
            f"make environments"
        )
    return [function() for function in functions]


def _itself(env: Env) -> Env:
    return env


def _batch_of(envs: Sequence[Env]) -> VectorEnv | None:
    """Return one batch in place of dreams that were created alike, None for anything else.

    Warns if wrappers are the reason.
    """
    dreams = [env.unwrapped for env in envs]
    first = dreams[0]
    if not isinstance(first, WorldEnv) or not all(
        isinstance(dream, WorldEnv) and first.is_like(dream) for dream in dreams
    ):
        return None
    limits: set[int | None] = set()
    for env in envs:
        limit = None
        while isinstance(env, gym.Wrapper):
            if isinstance(env, gym.wrappers.TimeLimit):
                limit = (
                    env._max_episode_steps if limit is None else min(limit, env._max_episode_steps)
                )
            elif not isinstance(
                env, (gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker)
            ) and not _only_counts(env):
                warnings.warn(
                    f"these dreams are stepped one by one, since each has a {type(env).__name__}: "
                    f"for one forward pass a step, "
                    "give SB3VecEnv a vector environment (gymnasium.make_vec) and wrap what comes "
                    "of it",
                    stacklevel=3,
                )
                return None
            env = env.env
        limits.add(limit)
    if len(limits) > 1:
        return None
    return first.batch(
        len(envs), max_episode_steps=limits.pop(), autoreset_mode=AutoresetMode.SAME_STEP
    )


def _only_counts(env: Env) -> bool:
    """Whether a wrapper is a ``Monitor`` that writes no file and keeps no infos."""
    return (
        type(env) is Monitor
        and env.results_writer is None
        and not (env.info_keywords or env.reset_keywords)
    )
