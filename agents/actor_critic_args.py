"""The settings of the actor-critic: see :mod:`worldsim.agents.actor_critic`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from worldsim.errors import InvalidInputError
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.types import VectorEnv
from worldsim.training.checkpoint import read_settings

MAY_CHANGE = ("minutes", "steps", "out", "device", "engine", "threads", "quiet")
"""Settings that may be others when a run goes on."""
DREAMS = {"cuda": 256, "cpu": 8}
"""Dreams stepped together by kind of device, where no number is asked for."""


@old_fields(
    sampling_steps="num_inference_steps", discount="gamma", trace="gae_lambda", clip="clip_coef"
)
@dataclass(frozen=True)
class Args:
    """Settings of :func:`worldsim.agents.actor_critic.train`."""

    world: str
    """Name or folder of the world to dream in; it needs rewards."""
    out: Path
    """Folder of the agent. If it holds the checkpoint of the same run, the run goes on."""
    minutes: float | None = None
    """Stop after so many minutes of training, in all runs together."""
    steps: int = 20_000_000
    """Stop after so many dreamed steps of all environments together."""
    num_envs: int | None = None
    """Dreams stepped together. If not given: 256 on a GPU, 8 on a CPU; a run that goes on keeps its
    own."""
    horizon: int = 200
    """Steps after which a dream is cut, its value estimated: what is far from its start is less
    true, and agents exploit that."""
    scenes: str = "worldsim.scenes.recorded:RecordedScenes"
    """Where dreams start, as environments take it: ``episodes:FOLDER`` starts them at moments of
    the recording in FOLDER."""
    uncertainty_penalty: float = 0.0
    """Reward taken away for each unit of ``info["uncertainty"]``, against the exploitation of what
    the world does not know."""
    uncertainty_limit: float | None = None
    """Dreams are cut where they are more uncertain than this."""
    num_inference_steps: int | None = None
    """Sampling steps a frame; the world's own number, if not given."""
    engine: str = "fast"
    """How dreams are run: ``plain``, ``fast`` or ``compiled``."""
    device: str | None = None
    """Where everything runs; CUDA where there is one."""
    seed: int = 0
    """Seed of dreams, weights and draws."""
    stack: int = 4
    """Newest frames that the agent sees: its only memory."""
    hidden: int = 256
    """Width of the last layer."""
    init_from: str | None = None
    """Saved agent whose weights to start from, such as that of the last round; of the same
    ``stack`` and ``hidden``."""
    greedy: bool = False
    """Whether the saved agent takes its likeliest action instead of drawing one."""
    rollout: int = 32
    """Steps of each environment between updates."""
    epochs: int = 3
    """Times that each update goes through its steps."""
    minibatches: int = 8
    """Parts that it goes through them in."""
    learning_rate: float = 5e-4
    """Of Adam at the beginning; it falls linearly to a tenth."""
    gamma: float = 0.99
    """Discount factor of rewards per step, in [0, 1]."""
    gae_lambda: float = 0.95
    """Lambda of generalised advantage estimation, in [0, 1]."""
    clip_coef: float = 0.2
    """Clipping coefficient of the probability ratio in PPO's surrogate loss."""
    entropy: float = 0.01
    """Weight of the policy's entropy."""

    threads: int | None = None
    """On the command line: threads of the CPU; PyTorch's choice if not given."""
    quiet: bool = False
    """On the command line: show errors and where the agent is saved alone."""

    def __post_init__(self) -> None:
        least = {
            "steps": 1,
            "num_envs": 1,
            "horizon": 1,
            "stack": 1,
            "hidden": 1,
            "rollout": 2,
            "epochs": 1,
            "minibatches": 1,
        }
        for name, bound in least.items():
            if getattr(self, name) is not None and getattr(self, name) < bound:
                raise InvalidInputError(
                    f"Args.{name} = {getattr(self, name)!r}: it must be at least {bound}"
                )
        if self.minutes is not None and self.minutes <= 0:
            raise InvalidInputError(f"Args.minutes = {self.minutes!r}: it must be more than 0")
        if self.num_envs is not None and self.num_envs * self.rollout < self.minibatches:
            raise InvalidInputError(
                f"{self.num_envs} x {self.rollout} steps cannot be cut into {self.minibatches} "
                f"minibatches"
            )

    def settle(self, envs: VectorEnv | None = None) -> Args:
        """Return the same settings with a number of environments.

        It is that of ``envs``, the checkpoint's, or a default for the device.
        """
        if self.num_envs is not None:
            return self
        told = (
            envs.num_envs if envs is not None else read_settings(self.out, "args").get("num_envs")
        )
        if not isinstance(told, int) or isinstance(told, bool):
            told = DREAMS[resolve_device(self.device).type]
        return dataclasses.replace(self, num_envs=told)
