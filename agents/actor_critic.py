"""Actor-critic trained in imagination by PPO. Measured results: docs/agents_imagination.md.

``python -m worldsim.agents.actor_critic --world DIR --out AGENT --minutes 5`` dreams hundreds of
episodes at once, learns from them and never sees the real twin. On a GPU no tensor leaves it. The
same code learns on any ``gymnasium.vector.VectorEnv`` with next-step autoreset (Gymnasium's
default), images or flat vectors, discrete or continuous actions.

Proximal policy optimisation as in Schulman et al. 2017 (arXiv:1707.06347) with generalised
advantages (arXiv:1506.02438).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from worldsim.runtime.threads import use_threads, wait_passively

if __name__ == "__main__":
    # Before torch loads.
    wait_passively()

import gymnasium as gym
import torch
from torch import Tensor, nn

from worldsim.agents.actor_critic_args import MAY_CHANGE, Args
from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.errors import DamagedFileError, InvalidInputError, WorldsimError
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import is_file
from worldsim.runtime.interrupts import Interrupts
from worldsim.runtime.json_config import to_json
from worldsim.runtime.next_steps import Ending, line
from worldsim.runtime.old_names import with_new_names, with_new_options
from worldsim.runtime.pace import WARM, Clock, Pace, forecast, smaller, steps_that_fit
from worldsim.runtime.progress import SHARE, Progress, say, silence, span
from worldsim.shipped.agent_files import AgentCard, load_agent, save_agent
from worldsim.training.checkpoint import read_checkpoint, write_checkpoint
from worldsim.world import World

__all__ = ["Args", "Learner", "advantages", "make_dreams", "train"]

FEW_UPDATES = 20
"""Updates below which a run with a time limit is told to dream fewer at once."""


def advantages(
    rew: Tensor, term: Tensor, done: Tensor, values: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantages (t, n). rew, term, done: (t, n) of each step; values: (t + 1, n), the
    last one of what follows.

    With next-step autoreset the observation after a step is its true successor even at an episode's
    end, so a cut episode's value is there. The step after an end only resets: its advantage means
    nothing.
    """
    result, carried = torch.zeros_like(rew), torch.zeros_like(rew[0])
    for t in range(len(rew) - 1, -1, -1):
        delta = rew[t] + gamma * values[t + 1] * (~term[t]) - values[t]
        carried = delta + gamma * gae_lambda * carried * (~done[t])
        result[t] = carried
    return result


class Learner:
    """One training run: environments, policy, optimiser, counters. :func:`train` drives it."""

    def __init__(self, args: Args, envs: Any) -> None:
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
        shape = tuple(envs.single_observation_space.shape)
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
        self.history: list[dict[str, Any]] = []
        self.episode_return: float | None = None
        self.returns = torch.zeros(self.n, device=self.device)
        self.discounted = torch.zeros(self.n, device=self.device)
        # Count, mean and mean square of discounted returns: rewards are divided by their spread.
        self.spread = torch.tensor([1e-4, 0.0, 1e-4], device=self.device, dtype=torch.float64)
        self.obs: Any = None
        self.done = torch.zeros(self.n, dtype=torch.bool, device=self.device)
        self.begins = ~self.done

    def _take_over(self, other: Any) -> None:
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
        """``args.rollout`` steps of all environments; None if ``stop``, which is asked after each,
        ended it. ``valid`` is False where a step only reset.
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
        """Rewards over the spread of discounted returns so far, so that values are about 1 whatever
        the task."""
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
            (actor + 0.5 * critic - args.entropy * entropy.mean()).backward()  # type: ignore[no-untyped-call]
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


def make_dreams(args: Args) -> Any:
    """The dreams to learn in, by registration string."""
    args = args.settle()
    assert args.num_envs is not None
    limits: dict[str, Any] = (
        {} if args.uncertainty_limit is None else {"uncertainty_limit": args.uncertainty_limit}
    )
    limits |= {"uncertainty": True} if args.uncertainty_penalty else {}
    return gym.make_vec(
        "worldsim/Dream-v0",
        num_envs=args.num_envs,
        vectorization_mode="vector_entry_point",
        world=args.world,
        output="torch",
        max_episode_steps=args.horizon,
        scenes=args.scenes,
        num_inference_steps=args.num_inference_steps,
        engine=args.engine,
        device=args.device,
        **limits,
    )


def train(args: Args, envs: Any = None, clock: Clock = time.monotonic) -> ActorCriticPolicy:
    """Learn until time or steps are used up; returns the policy, which is then in ``args.out``,
    too.

    envs: other environments than dreams of ``args.world``, such as real twins, ``num_envs`` of
    them. The first Ctrl-C or SIGTERM ends it after the present step, saved. clock: seconds; looked
    at after every step.
    """
    args = args.settle(envs)
    made = make_dreams(args) if envs is None else envs
    try:
        learner = Learner(args, made)
        learner.resume()
        with Interrupts() as interrupts:
            updates = _learn(learner, interrupts, clock)
        learner.save()
    finally:
        if envs is None:
            made.close()
    after = "trained" if interrupts.came is None else "interrupted after"
    none = (
        "" if updates or learner.history else " Not one update was reached: its actions are random."
    )
    say(
        f"{after} {learner.taken:,} dreamed steps; saved in {args.out}: the same command goes "
        f"on.{none}",
        always=True,
    )
    interrupts.end()
    return learner.policy


def _learn(learner: Learner, interrupts: Interrupts, clock: Clock) -> int:
    """Rollouts and updates to the end; returns how many updates. What a rollout has dreamed when
    time is up is dropped."""
    saved, began = learner.elapsed, learner.progress
    pace, stepped, updates = Pace(clock), 0, 0

    def stop() -> bool:
        nonlocal stepped
        if stepped < WARM:
            # Reading a number waits for the device.
            learner.spread.sum().item()
        seconds, stepped = pace.look(), stepped + 1
        learner.elapsed += seconds
        if stepped == WARM and learner.progress < 1.0:
            say(expect(learner, seconds))
        shown = "" if learner.episode_return is None else f", return {learner.episode_return:.2f}"
        bar.move_to(100.0 * learner.progress, f"{learner.taken:,} steps{shown}")
        return learner.progress >= 1.0 or interrupts.came is not None

    with Progress(100.0, "actor-critic", SHARE, initial=100.0 * began, clock=clock) as bar:
        while learner.progress < 1.0 and interrupts.came is None:
            batch = learner.rollout(stop)
            if batch is None:
                break
            learner.update(batch)
            learner.elapsed, updates = learner.elapsed + pace.look(), updates + 1
            learner.history.append({"steps": learner.taken, "return": learner.episode_return})
            if learner.elapsed - saved > 60:
                saved = learner.elapsed
                learner.save()
    return updates


def expect(learner: Learner, seconds: float) -> str:
    """What to say once a step of all dreams has been timed, and what to change where few updates
    fit."""
    args, size = learner.args, learner.n
    left = None if args.minutes is None else args.minutes - learner.elapsed / 60.0
    text = forecast(seconds, f"{size} dreams", left, (args.steps - learner.taken) / size)
    text += (
        f"; the first update comes after {args.rollout}, in {span(seconds * (args.rollout - WARM))}"
    )
    if (
        left is None
        or (fits := steps_that_fit(seconds, left)) >= FEW_UPDATES * args.rollout
        or learner.history
    ):
        return text
    less = max(
        smaller(size, fits, FEW_UPDATES * args.rollout), -(-args.minibatches // args.rollout)
    )
    advice = [f"--num-envs {less}", "more --minutes"] if less < size else ["more --minutes"]
    return (
        f"{text}. That is little: stop with Ctrl-C and try {' and '.join(advice)}, with another "
        f"--out"
    )


if __name__ == "__main__":
    import tyro

    try:
        args = tyro.cli(Args, args=with_new_options(Args, sys.argv[1:]))
        use_threads(args.threads)
        with silence(args.quiet):
            train(args)
            say(
                Ending(
                    str(args.out),
                    (
                        line("worldsim", "evaluate-agent", args.out),
                        line("worldsim", "watch", args.out),
                    ),
                ).text()
            )
    except WorldsimError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
