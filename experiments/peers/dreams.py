"""Both dreams behind one small interface, so that one judge serves both, and DIAMOND's as a
Gymnasium vector environment."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from experiments.peers.diamond import Starts, load, make_env
from experiments.peers.settings import PeersConfig
from worldsim.runtime.types import Space
from worldsim.scenes.episodes import EpisodeScenes
from worldsim.state import SceneStart, WorldState
from worldsim.world import World
from worldsim.world.world import bucket

PAST = 4
"""Frames that DIAMOND's denoiser sees."""
STATE = ("obs_buffer", "act_buffer", "ep_len", "hx_rew_end", "cx_rew_end")
"""What WorldModelEnv keeps of its episodes; rows are the second axis of the last two."""


class Dream(Protocol):
    """A batch of free-running dreams, which continue past predicted ends."""

    device: torch.device

    def begin(self, starts: Sequence[SceneStart], seed: int) -> Tensor:
        """Begin one dream from each start; returns the frames (n, 3, h, w) uint8."""

    def step(self, act: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take actions (n,); returns frames (n, 3, h, w) uint8, rewards (n,), ends (n,) bool."""


class WorldsimDream:
    """A world of worldsim."""

    def __init__(self, world: World) -> None:
        self.world, self.device = world, world.device
        self._state: WorldState | None = None
        self._n = 0

    def begin(self, starts: Sequence[SceneStart], seed: int) -> Tensor:
        """See :class:`Dream`."""
        self._n = len(starts)
        state = self.world.initial(starts, [seed + i for i in range(self._n)])
        self._state = self.world.pad(state, bucket(self._n))
        return self._state.frame.rgb[: self._n]

    @torch.no_grad()
    def step(self, act: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`Dream`."""
        assert self._state is not None
        n = self._n
        padded = torch.cat([act, act[:1].expand(len(self._state.frame.rgb) - n)])
        self._state, found = self.world.step(self._state, padded.to(self.device))
        return found.frame.rgb[:n].clone(), found.rew[:n].clone(), found.term[:n].clone()


class DiamondDream:
    """DIAMOND's WorldModelEnv. Its random numbers are PyTorch's global ones."""

    def __init__(self, config: PeersConfig, agent: Any) -> None:
        self._config, self._agent, self.device = config, agent, agent.device
        self._env: Any = None

    def begin(self, starts: Sequence[SceneStart], seed: int) -> Tensor:
        """See :class:`Dream`."""
        torch.manual_seed(seed)
        parts = [past_of(start) for start in starts]
        obs, act = (torch.stack(x) for x in zip(*parts, strict=True))
        self._env = make_env(
            self._config, self._agent, Starts(len(starts), lambda: (obs, act)), 10**9
        )
        # The judge looks at what follows a predicted end, too.
        self._env.reset_dead = lambda dead: None
        return to_bytes(self._env.reset()[0])

    def step(self, act: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :class:`Dream`."""
        obs, rew, end, _, _ = self._env.step(act.to(self.device))
        return to_bytes(obs), rew, end.bool()


def past_of(start: SceneStart) -> tuple[Tensor, Tensor]:
    """Return a start as DIAMOND takes it: obs (4, 3, h, w) in [-1, 1], act (4,) int64.

    Missing frames are zero, as in its own segments. Its actions lead *from* frames, those of a
    :class:`SceneStart` lead to them; the last one is overwritten by the first step.
    """
    rgb = start.rgb[-PAST:]
    led = start.act[-len(rgb) :][1:].long()
    obs = torch.zeros(PAST, *rgb.shape[1:])
    obs[-len(rgb) :] = rgb.float().div(255).mul(2).sub(1)
    act = torch.zeros(PAST, dtype=torch.int64)
    if len(led):
        act[-len(led) - 1 : -1] = led
    return obs, act


def to_bytes(obs: Tensor) -> Tensor:
    """Return DIAMOND's frames in [-1, 1] as uint8; it has already rounded them to 256 values."""
    return obs.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)


class DiamondVectorEnv(gym.vector.VectorEnv[Tensor, Tensor, Tensor]):
    """WorldModelEnv as a vector environment with next-step autoreset and frames (n, h, w, 3) uint8.

    WorldModelEnv resets within the step that ends an episode. Here that step returns the last
    frame, and the next step returns the first frame of the new episode, without reward, whatever
    the action.

    scenes: where dreams begin; drawn with the seed of the last seeded reset.
    horizon: steps after which a dream is truncated.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    output = "torch"

    def __init__(
        self, config: PeersConfig, agent: Any, scenes: EpisodeScenes, space: Space, num_envs: int,
        horizon: int,
    ) -> None:  # fmt: skip
        self.num_envs, self._scenes = num_envs, scenes
        first = scenes.load(scenes.names()[0]).rgb
        shape = (first.shape[2], first.shape[3], 3)
        self.single_observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.single_action_space = copy.deepcopy(space)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(space, num_envs)
        self._rng = np.random.default_rng(0)
        self._env = make_env(config, agent, Starts(num_envs, self._draw), horizon)
        self._resets = torch.zeros(num_envs, dtype=torch.bool, device=agent.device)

    def _draw(self) -> tuple[Tensor, Tensor]:
        parts = [past_of(self._scenes.start(self._rng)) for _ in range(self.num_envs)]
        obs, act = (torch.stack(x) for x in zip(*parts, strict=True))
        return obs, act

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Begin new dreams in all environments."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
            torch.manual_seed(seed)
        self._resets = torch.zeros_like(self._resets)
        return self._shown(self._env.reset()[0]), {}

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """Step all dreams; those that ended before return their new episode's first frame."""
        resets = self._resets
        before = {name: getattr(self._env, name).clone() for name in STATE}
        obs, rew, end, trunc, info = self._env.step(
            torch.as_tensor(actions).long().to(resets.device)
        )
        end, trunc, shown = end.bool(), trunc.bool(), obs.clone()
        if "final_observation" in info:
            shown[end | trunc] = info["final_observation"]
        for name, old in before.items():
            # Rows that only begin now must not have taken a step.
            rows = (slice(None), resets) if name.endswith("rew_end") else resets
            getattr(self._env, name)[rows] = old[rows]
        shown[resets] = self._env.obs_buffer[resets, -1]
        rew = rew.float() * ~resets
        end, trunc = end & ~resets, trunc & ~resets & ~end
        self._resets = end | trunc
        return self._shown(shown), rew, end, trunc, {}

    @staticmethod
    def _shown(obs: Tensor) -> Tensor:
        return to_bytes(obs).permute(0, 2, 3, 1).contiguous()


def load_diamond(config: PeersConfig, minutes: float, space: Space, device: torch.device) -> Any:
    """Return DIAMOND's agent for an environment of discrete actions."""
    assert isinstance(space, gym.spaces.Discrete)
    return load(config, minutes, int(space.n), device)
