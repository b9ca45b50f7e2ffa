"""Gymnasium's vector environments, dreams above all, as Stable-Baselines3's ``VecEnv``: one forward pass steps them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.runtime.extras import missing

try:
    from stable_baselines3.common.vec_env.base_vec_env import VecEnv
except ImportError as error:
    raise missing(
        "Stable-Baselines3 is not installed; `python -m worldsim.agents.actor_critic` trains without it", "agents", error
    ) from error

Array = NDArray[Any]


class SB3VecEnv(VecEnv):
    """``envs``, a vector environment that resets in the same step, in Stable-Baselines3's terms.

    ``terminal_observation`` in an info is the last observation of an episode that ended in this step; the observation returned
    is the next one's first. ``TimeLimit.truncated`` is True where it was cut, not terminated. Infos are the last step's;
    ``reset_infos`` those of the resets. A picture's channels stay last: algorithms transpose them by themselves.
    """

    def __init__(self, envs: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise InvalidInputError(
                f"these environments reset by {mode}: make them with autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP"
            )
        if getattr(envs.unwrapped, "output", "numpy") != "numpy":
            raise InvalidInputError("these environments give tensors: make them with output='numpy'")
        self.envs = envs
        self._waiting: Any = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Array:
        """First observations, (n, ...). Seeds given by ``seed`` count once."""
        options = next((option for option in self._options if option), None)
        if any(option != (options or {}) for option in self._options):
            raise InvalidInputError("the options of a reset are the same for all environments of a batch")
        seeds = list(self._seeds)
        given: Any = seeds if any(seed is not None for seed in seeds) else None
        observations, infos = self.envs.reset(seed=given, options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = [self._row(infos, i) for i in range(self.num_envs)]
        return np.asarray(observations)

    def step_async(self, actions: Array) -> None:
        """Keep the actions for ``step_wait``."""
        self._waiting = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Observations, rewards, dones and infos of the step."""
        observations, rew, term, trunc, batched = self.envs.step(self._waiting)
        done = term | trunc
        infos = []
        for i in range(self.num_envs):
            info = self._row(batched, i)
            if done[i]:
                self.reset_infos[i] = info
                info = self._row(batched["final_info"], i)
                info["terminal_observation"] = np.asarray(batched["final_obs"][i])
            info["TimeLimit.truncated"] = bool(trunc[i] and not term[i])
            infos.append(info)
        return np.asarray(observations), rew.astype(np.float32), done, infos

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the batch, once for each environment asked for."""
        value = self._value(attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the batch; all environments share it."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise InvalidInputError(f"{attr_name} is shared by all environments of a batch: it cannot be set for some of them")
        setattr(self.envs.unwrapped, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """What a method of the batch returns, for each environment asked for: ``memory_of`` and ``fork`` are told its number."""
        method = self._value(method_name)
        chosen = self._get_indices(indices)
        if method_name in ("memory_of", "fork"):
            return [method(i, *method_args, **method_kwargs) for i in chosen]
        result = method(*method_args, **method_kwargs)
        return [result for _ in chosen]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """False: environments of a batch wear no wrappers of their own."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[Array | None]:
        """The newest frames, where the render mode is ``rgb_array``."""
        frames: Any = self.envs.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def _value(self, name: str) -> Any:
        if hasattr(self.envs, name):
            return getattr(self.envs, name)
        return getattr(self.envs.unwrapped, name)

    @staticmethod
    def _row(batched: dict[str, Any], i: int) -> dict[str, Any]:
        """One environment's info out of Gymnasium's batched one."""
        row = {}
        for name, values in batched.items():
            if name.startswith("_") or name in ("final_info", "final_obs"):
                continue
            if f"_{name}" not in batched or batched[f"_{name}"][i]:
                value = values[i]
                row[name] = value.item() if isinstance(value, np.generic) else value
        return row
