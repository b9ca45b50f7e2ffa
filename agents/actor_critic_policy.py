"""The policy and value network of an actor-critic over the newest frames.

:mod:`worldsim.agents.actor_critic` trains it.
"""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.runtime.types import Action, Batch, Space


class Network(nn.Module):
    """Policy and value of a stack of observations.

    Observations are (n, k * c, h, w) uint8 images or (n, k * d) vectors.
    """

    def __init__(
        self,
        observation_shape: tuple[int, ...],
        stack: int,
        outputs: int,
        hidden: int,
        discrete: bool,
    ) -> None:
        super().__init__()
        self.image = len(observation_shape) == 3
        if self.image:
            widths, layers = (3 * stack, 32, 64, 64, 64), []
            for before, after in itertools.pairwise(widths):
                layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
            # 64x64 frames end in 4x4; others are brought there.
            self.encoder = nn.Sequential(
                *layers,
                nn.AdaptiveAvgPool2d(4),
                nn.Flatten(),
                nn.Linear(64 * 16, hidden),
                nn.ReLU(),
            )
        else:
            inputs = stack * math.prod(observation_shape)
            self.encoder = nn.Sequential(
                nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()
            )
        self.actor, self.critic = nn.Linear(hidden, outputs), nn.Linear(hidden, 1)
        self.log_std = nn.Parameter(torch.full((0 if discrete else outputs,), -0.5))
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.orthogonal_(
                    layer.weight,
                    0.01 if layer is self.actor else 1.0 if layer is self.critic else math.sqrt(2),
                )
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, stacked: Tensor) -> tuple[Tensor, Tensor]:
        """Logits or means (n, actions), and values (n,)."""
        features = self.encoder(stacked.float() / 255.0 - 0.5 if self.image else stacked.float())
        return self.actor(features), self.critic(features)[:, 0]


class ActorCriticPolicy:
    """Chooses actions from the newest ``stack`` observations of each environment.

    action_space: ``Discrete`` or ``Box``.
    observation_shape: (h, w, 3) of uint8 images or (d,) of floats.
    greedy: take the most likely action instead of sampling.
    """

    def __init__(
        self,
        action_space: Space,
        observation_shape: tuple[int, ...] = (64, 64, 3),
        stack: int = 4,
        hidden: int = 256,
        greedy: bool = False,
    ) -> None:
        self.action_space, self.observation_shape = action_space, tuple(observation_shape)
        if len(self.observation_shape) not in (1, 3):
            raise InvalidInputError(
                f"observations of shape {self.observation_shape}: images (h, w, 3) or vectors "
                f"(d,) are needed"
            )
        self.stack, self.greedy = stack, greedy
        self.settings = {
            "observation_shape": self.observation_shape,
            "stack": stack,
            "hidden": hidden,
            "greedy": greedy,
        }
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        if not self.discrete and not (
            isinstance(action_space, gym.spaces.Box) and action_space.is_bounded()
        ):
            raise InvalidInputError(
                f"actions of {action_space} cannot be learned: Discrete or a bounded Box"
            )
        outputs = int(action_space.n) if self.discrete else math.prod(action_space.shape)  # type: ignore[attr-defined, arg-type]
        self.network = Network(self.observation_shape, stack, outputs, hidden, self.discrete)
        self.reset(0)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights."""
        return self.network.state_dict()

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Take the network's weights over."""
        self.network.load_state_dict(weights)

    def to(self, device: torch.device | str) -> ActorCriticPolicy:
        """Move the weights; returns the policy itself."""
        self.network.to(device)
        self.reset(0)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.actor.weight.device

    def reset(self, seed: int | None = None) -> None:
        """Forget all frames and reseed."""
        # Where only shapes are asked for, there is no device to draw on.
        self.generator = torch.Generator("cpu" if self.device.type == "meta" else self.device)
        self.generator.manual_seed(seed) if seed is not None else self.generator.seed()
        self.frames: Tensor | None = None

    def act(self, obs: ArrayLike) -> Action:
        """The action for one observation, as the action space has it."""
        try:
            one = np.asarray(obs)[None]
        except ValueError as error:
            raise InvalidInputError(f"{type(obs).__name__} is no observation ({error})") from None
        action = self.act_batch(one)[0].cpu().numpy()
        return action if not self.discrete else int(action)

    @torch.no_grad()
    def act_batch(self, obs: Batch, begins: Batch | None = None) -> Tensor:
        """Return actions (n, ...) for observations (n, ...) of n environments.

        begins: (n,) bool, True where an episode starts.
        """
        out, _ = self.network(self.look(obs, begins))
        return (
            self.scale_action(out.argmax(-1) if self.discrete else out)
            if self.greedy
            else self.scale_action(self.draw(out))
        )

    def look(self, obs: Batch, begins: Batch | None = None) -> Tensor:
        """Add observations to the stacks and return the stacks.

        The first observation of an episode fills its whole stack.
        """
        try:
            new = torch.as_tensor(obs).to(self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(
                f"{type(obs).__name__} is no array of observations ({error})"
            ) from None
        if self.network.image and new.dtype != torch.uint8:
            raise InvalidInputError(f"observations are {new.dtype}, images are uint8")
        if tuple(new.shape[1:]) != self.observation_shape:
            raise InvalidInputError(
                f"observations of shape {tuple(new.shape[1:])} to an agent that sees "
                f"{self.observation_shape}"
            )
        new = new.permute(0, 3, 1, 2) if self.network.image else new
        filled = new.repeat(1, self.stack, *[1] * (new.dim() - 2))
        if self.frames is None or len(self.frames) != len(new):
            self.frames = filled
        else:
            self.frames = torch.cat([self.frames[:, new.shape[1] :], new], 1)
            if begins is not None:
                fresh = torch.as_tensor(begins).to(self.device).view(-1, *[1] * (new.dim() - 1))
                self.frames = torch.where(fresh, filled, self.frames)
        return self.frames

    def draw(self, out: Tensor) -> Tensor:
        """Sample actions in the network's own terms.

        They are indices (n,), or numbers (n, d) in which [-1, 1] spans the space.
        """
        if self.discrete:
            noise = torch.rand(out.shape, generator=self.generator, device=out.device).clamp_(1e-20)
            return (out - (-noise.log()).log()).argmax(-1)
        return out + self.network.log_std.exp() * torch.randn(
            out.shape, generator=self.generator, device=out.device
        )

    def scale_action(self, act: Tensor) -> Tensor:
        """Such actions as the environment takes them."""
        if self.discrete:
            return act
        space = self.action_space
        assert isinstance(space, gym.spaces.Box)
        low, high = (torch.from_numpy(b).to(act.device) for b in (space.low, space.high))
        inside = low + (act.clamp(-1, 1).view(-1, *low.shape) + 1) / 2 * (high - low)
        return torch.minimum(torch.maximum(inside, low), high)

    def judge(self, out: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability (n,) of actions, and the policy's entropy (n,).

        act: actions in the network's own terms.
        """
        if self.discrete:
            logp = out.log_softmax(-1)
            return logp.gather(-1, act[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
        normal = torch.distributions.Normal(out, self.network.log_std.exp(), validate_args=False)
        return normal.log_prob(act).sum(-1), normal.entropy().sum(-1)
