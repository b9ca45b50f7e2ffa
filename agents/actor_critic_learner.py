"""The learner of the actor-critic: rollouts, generalised advantages, PPO updates, checkpoints.

:mod:`worldsim.agents.actor_critic` drives it, and names the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gymnasium as gym
import torch
from torch import Tensor, nn

from worldsim.agents.actor_critic_args import MAY_CHANGE, Args
from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.errors import DamagedFileError, InvalidInputError
from worldsim.protocols import Policy
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import is_file
from worldsim.runtime.json_config import to_json
from worldsim.runtime.old_names import with_new_names
from worldsim.runtime.types import Batch, JsonObject, VectorEnv
from worldsim.shipped.agent_files import AgentCard, load_agent, save_agent
from worldsim.training.checkpoint import read_checkpoint, write_checkpoint
from worldsim.world import World


def advantages(
    rew: Tensor, term: Tensor, done: Tensor, values: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Return generalised advantages (t, n).

    With next-step autoreset, the observation after a step is its true successor even at an
    episode's end, so the value of a truncated episode is available. The step after an end only
    resets; its advantage is meaningless.

    rew, term, done: (t, n) of each step.
    values: (t + 1, n), including the value after the last step.
    """
    result, carried = torch.zeros_like(rew), torch.zeros_like(rew[0])
    for t in range(len(rew) - 1, -1, -1):
        delta = rew[t] + gamma * values[t + 1] * (~term[t]) - values[t]
        carried = delta + gamma * gae_lambda * carried * (~done[t])
        result[t] = carried
    return result


class Learner:
    """One training run: environments, policy, optimiser, counters.

    :func:`worldsim.agents.actor_critic.train` drives it.
    """

    def __init__(self, args: Args, envs: VectorEnv) -> None:
        self.args, self.envs, self.n = args.settle(envs), envs, int(envs.num_envs)
        if envs.metadata.get("autoreset_mode") is not gym.vector.AutoresetMode.NEXT_STEP:
            raise InvalidInputError(
                f"the environments reset by {envs.metadata.get('autoreset_mode')}: NEXT_STEP is "
                f"needed"
            )
        world = getattr(envs.unwrapped, "world", None)
        self.world = world if isinstance(world, World) else None
        if self.world is not None and not self.world.config.has_rewards:
            raise InvalidInputError(
                f"world {args.world} has no reward head: train it on a recording with rewards"
            )
        torch.manual_seed(args.seed)
        shape = tuple(envs.single_observation_space.shape or ())
        self.device = self.world.device if self.world is not None else resolve_device(args.device)
        self.policy = ActorCriticPolicy(
            envs.single_action_space, shape, args.stack, args.hidden, args.greedy
        ).to(self.device)
        self.policy.reset(args.seed)
        if args.init_from is not None:
            self._take_over(load_agent(args.init_from, envs.single_action_space))
        self.optimizer = torch.optim.Adam(
            self.policy.network.parameters(), lr=args.learning_rate, eps=1e-5
        )
        self.taken, self.elapsed = 0, 0.0
        self.history: list[JsonObject] = []
        self.episode_return: float | None = None
        self.returns = torch.zeros(self.n, device=self.device)
        self.discounted = torch.zeros(self.n, device=self.device)
        # Count, mean and mean square of discounted returns: rewards are divided by their spread.
        self.spread = torch.tensor([1e-4, 0.0, 1e-4], device=self.device, dtype=torch.float64)
        self.obs: Batch | None = None
        self.done = torch.zeros(self.n, dtype=torch.bool, device=self.device)
        self.begins = ~self.done

    def _take_over(self, other: Policy) -> None:
        """Begin with another actor-critic's weights."""
        same = ("observation_shape", "stack", "hidden")
        wanted = {name: self.policy.settings[name] for name in same}
        found = {name: getattr(other, "settings", {}).get(name) for name in same}
        if not isinstance(other, ActorCriticPolicy) or found != wanted:
            raise InvalidInputError(
                f"--init-from {self.args.init_from}: its {found} ({type(other).__name__}) are not "
                f"{wanted}"
            )
        self.policy.load_state_dict(
            {name: weights.float() for name, weights in other.state_dict().items()}
        )

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        by_time = 0.0 if self.args.minutes is None else self.elapsed / (60 * self.args.minutes)
        return min(1.0, max(by_time, self.taken / self.args.steps))

    def rollout(self, stop: Callable[[], bool] = lambda: False) -> dict[str, Tensor] | None:
        """Run ``args.rollout`` steps of all environments; None if ``stop`` ended it.

        ``stop`` is called after each step. ``valid`` is False where a step only reset.
        """
        if self.obs is None:
            self.obs, _ = self.envs.reset(seed=self.args.seed + self.taken)
        kept: dict[str, list[Tensor]] = {
            k: [] for k in ("seen", "act", "logp", "rew", "term", "done", "valid", "values")
        }
        ended, total = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for _ in range(self.args.rollout):
            with torch.no_grad():
                seen = self.policy.look(self.obs, self.begins)
                out, value = self.policy.network(seen)
                act = self.policy.draw(out)
                logp, _ = self.policy.judge(out, act)
            scaled = self.policy.scale_action(act)
            dreamed = getattr(self.envs.unwrapped, "output", "numpy") == "torch"
            self.obs, rew, term, trunc, info = self.envs.step(
                scaled if dreamed else scaled.cpu().numpy()
            )
            rew, term, trunc = (torch.as_tensor(x).to(self.device) for x in (rew, term, trunc))
            rew = rew.float()
            valid, self.begins = ~self.done, self.done
            self.done = (term | trunc) & valid
            self.returns += rew
            ended, total = ended + self.done.sum(), total + (self.returns * self.done).sum()
            self.returns = self.returns * (~self.done)
            if self.args.uncertainty_penalty and "uncertainty" in info:
                rew = (
                    rew
                    - self.args.uncertainty_penalty
                    * torch.as_tensor(info["uncertainty"]).to(self.device)
                    * valid
                )
            steps = (seen, act, logp, self._normalise(rew, valid), term, self.done, valid, value)
            for name, tensor in zip(kept, steps, strict=True):
                kept[name].append(tensor)
            if stop():
                return None
        batch = {name: torch.stack(tensors) for name, tensors in kept.items() if name != "values"}
        # A look ahead must not enter the stacks twice.
        frames = self.policy.frames
        with torch.no_grad():
            _, last = self.policy.network(self.policy.look(self.obs, self.begins))
        self.policy.frames = frames
        values = torch.stack([*kept["values"], last])
        args = self.args
        batch["advantage"] = advantages(
            batch["rew"], batch["term"], batch["done"], values, args.gamma, args.gae_lambda
        )
        batch["target"] = batch["advantage"] + values[:-1]
        self.taken += args.rollout * self.n
        self.episode_return = float(total / ended) if float(ended) else None
        return batch

    def _normalise(self, rew: Tensor, valid: Tensor) -> Tensor:
        """Divide rewards by the spread of discounted returns so far, so that values are about 1."""
        self.discounted = self.discounted * self.args.gamma + rew
        new = torch.stack(
            [valid.sum(), (self.discounted * valid).sum(), (self.discounted**2 * valid).sum()]
        )
        self.spread = self.spread + new
        mean, square = self.spread[1] / self.spread[0], self.spread[2] / self.spread[0]
        self.discounted = self.discounted * (valid & ~self.done)
        return (rew / (square - mean**2).clamp(min=1e-8).sqrt()).float()

    def update(self, batch: dict[str, Tensor]) -> None:
        """Some epochs of clipped policy gradients on the steps of a rollout."""
        args, network = self.args, self.policy.network
        valid = batch["valid"].flatten()
        flat = {name: tensor.flatten(0, 1)[valid] for name, tensor in batch.items()}
        for group in self.optimizer.param_groups:
            group["lr"] = args.learning_rate * (1 - 0.9 * self.progress)
        for part in self._parts(len(flat["act"])):
            with torch.autocast(
                self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"
            ):
                out, value = network(flat["seen"][part])
            logp, entropy = self.policy.judge(out.float(), flat["act"][part])
            gain = flat["advantage"][part]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            ratio = (logp - flat["logp"][part]).exp()
            actor = -torch.minimum(
                ratio * gain, ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef) * gain
            ).mean()
            critic = 0.5 * (value.float() - flat["target"][part]).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            (actor + 0.5 * critic - args.entropy * entropy.mean()).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            self.optimizer.step()

    def _parts(self, size: int) -> Iterator[Tensor]:
        for _ in range(self.args.epochs):
            order = torch.randperm(size, generator=self.policy.generator, device=self.device)
            yield from (part for part in order.chunk(self.args.minibatches) if len(part) > 1)

    def save(self) -> None:
        """The agent, and beside it the checkpoint from which a run goes on."""
        args, config = self.args, getattr(self.world, "config", None)
        tensors = {f"network.{k}": v for k, v in self.policy.state_dict().items()} | {
            "spread": self.spread
        }
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        meta = {
            "taken": self.taken,
            "elapsed": self.elapsed,
            "args": to_json(args),
            "history": self.history,
        }
        write_checkpoint(
            args.out, {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, meta
        )
        training = {
            "args": to_json(args),
            "steps": self.taken,
            "seconds": round(self.elapsed, 1),
            "history": self.history[-1:],
        }
        frames = None if self.world is None else self.world.card.get("frames")
        save_agent(
            self.policy,
            args.out,
            AgentCard(args.world, config.env_id if config else "", frames, training=training),
        )

    def resume(self) -> bool:
        """Go on from the checkpoint in ``args.out``, if there is one. Dreams begin anew."""
        found = read_checkpoint(self.args.out)
        if found is None:
            if is_file(self.args.out / "checkpoint.json"):
                raise InvalidInputError(
                    f"{self.args.out} holds a run of an older worldsim, which cannot go on: use "
                    f"another --out"
                )
            return False
        path, meta, tensors = found
        try:
            then = with_new_names(Args, meta["args"])
            changed = [
                k for k, v in to_json(self.args).items() if k not in MAY_CHANGE and then.get(k) != v
            ]
            if changed:
                raise InvalidInputError(
                    f"{path} is of a run with other {', '.join(changed)}: use another --out"
                )
            tensors = {name: value.to(self.device) for name, value in tensors.items()}
            self.policy.load_state_dict(
                {k[8:]: v for k, v in tensors.items() if k.startswith("network.")}
            )
            state: dict[int, dict[str, Tensor]] = {}
            for name in (name for name in tensors if name.startswith("optimizer.")):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = (
                    tensors[name].cpu() if key == "step" else tensors[name]
                )
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self.spread, self.taken, self.elapsed = (
                tensors["spread"],
                int(meta["taken"]),
                float(meta["elapsed"]),
            )
            self.history = list(meta["history"])
        except InvalidInputError:
            raise
        except Exception as error:
            raise DamagedFileError(
                f"{path} does not fit this run ({error}): delete it to start afresh"
            ) from error
        self.policy.reset(self.args.seed + self.taken)
        return True
