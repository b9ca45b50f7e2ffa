"""Actor-critic trained in imagination by PPO. Measured results: docs/agents_imagination.md.

``python -m worldsim.agents.actor_critic --world DIR --out AGENT --minutes 5`` dreams hundreds of episodes at once, learns from
them and never sees the real twin. On a GPU no tensor leaves it. The same code learns on any ``gymnasium.vector.VectorEnv`` with
next-step autoreset (Gymnasium's default), images or flat vectors, discrete or continuous actions.

Proximal policy optimisation as in Schulman et al. 2017 (arXiv:1707.06347) with generalised advantages (arXiv:1506.02438).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldsim.agent_files import AgentCard, load_agent, save_agent
from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.config import to_json
from worldsim.diffusion.checkpoint import read_checkpoint, write_checkpoint
from worldsim.errors import DamagedFileError, InvalidInputError, WorldsimError
from worldsim.runtime.files import is_file
from worldsim.world import World

MAY_CHANGE = ("minutes", "steps", "out", "device", "engine")


@dataclass(frozen=True)
class Args:
    """Settings of :func:`train`."""

    world: str
    """Name or folder of the world to dream in; it needs rewards."""
    out: Path
    """Folder of the agent. If it holds the checkpoint of the same run, the run goes on."""
    minutes: float | None = None
    """Stop after so many minutes of training, in all runs together."""
    steps: int = 20_000_000
    """Stop after so many dreamed steps of all environments together."""
    num_envs: int = 256
    """Dreams stepped together."""
    horizon: int = 200
    """Steps after which a dream is cut, its value estimated: what is far from its start is less true, and agents exploit that."""
    scenes: str = "worldsim.scenes.recorded:RecordedScenes"
    """Where dreams start, as environments take it, such as ``worldsim.scenes.episodes:EpisodeScenes:FOLDER`` for moments of the
    recording in FOLDER."""
    uncertainty_penalty: float = 0.0
    """Reward taken away for each unit of ``info["uncertainty"]``, against the exploitation of what the world does not know."""
    uncertainty_limit: float | None = None
    """Dreams are cut where they are more uncertain than this."""
    sampling_steps: int | None = None
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
    """Saved agent whose weights to start from, such as that of the last round; of the same ``stack`` and ``hidden``."""
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
    discount: float = 0.99
    """Of rewards a step."""
    trace: float = 0.95
    """Lambda of the generalised advantages."""
    clip: float = 0.2
    """How far from 1 the ratio of probabilities pays."""
    entropy: float = 0.01
    """Weight of the policy's entropy."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "num_envs": 1, "horizon": 1, "stack": 1, "hidden": 1, "rollout": 2, "epochs": 1, "minibatches": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InvalidInputError(f"Args.{name} = {getattr(self, name)!r}: it must be at least {bound}")
        if self.minutes is not None and self.minutes <= 0:
            raise InvalidInputError(f"Args.minutes = {self.minutes!r}: it must be more than 0")
        if self.num_envs * self.rollout < self.minibatches:
            raise InvalidInputError(f"{self.num_envs} x {self.rollout} steps cannot be cut into {self.minibatches} minibatches")


def advantages(rew: Tensor, term: Tensor, done: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """Generalised advantages (t, n). rew, term, done: (t, n) of each step; values: (t + 1, n), the last one of what follows.

    With next-step autoreset the observation after a step is its true successor even at an episode's end, so a cut episode's
    value is there. The step after an end only resets: its advantage means nothing.
    """
    result, carried = torch.zeros_like(rew), torch.zeros_like(rew[0])
    for t in range(len(rew) - 1, -1, -1):
        delta = rew[t] + discount * values[t + 1] * (~term[t]) - values[t]
        carried = delta + discount * trace * carried * (~done[t])
        result[t] = carried
    return result


class Learner:
    """One training run: environments, policy, optimiser, counters. :func:`train` drives it."""

    def __init__(self, args: Args, envs: Any) -> None:
        self.args, self.envs = args, envs
        if envs.metadata.get("autoreset_mode") is not gym.vector.AutoresetMode.NEXT_STEP:
            raise InvalidInputError(f"the environments reset by {envs.metadata.get('autoreset_mode')}: NEXT_STEP is needed")
        world = getattr(envs.unwrapped, "world", None)
        self.world = world if isinstance(world, World) else None
        if self.world is not None and not self.world.config.has_rewards:
            raise InvalidInputError(f"world {args.world} has no reward head: train it on a recording with rewards")
        torch.manual_seed(args.seed)
        shape = tuple(envs.single_observation_space.shape)
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = self.world.device if self.world is not None else torch.device(device)
        self.policy = ActorCriticPolicy(envs.single_action_space, shape, args.stack, args.hidden, args.greedy).to(self.device)
        self.policy.reset(args.seed)
        if args.init_from is not None:
            self._take_over(load_agent(args.init_from, envs.single_action_space))
        self.optimizer = torch.optim.Adam(self.policy.network.parameters(), lr=args.learning_rate, eps=1e-5)
        self.taken, self.elapsed = 0, 0.0
        self.history: list[dict[str, Any]] = []
        self.episode_return: float | None = None
        self.returns = torch.zeros(args.num_envs, device=self.device)
        self.discounted = torch.zeros(args.num_envs, device=self.device)
        # Count, mean and mean square of discounted returns: rewards are divided by their spread.
        self.spread = torch.tensor([1e-4, 0.0, 1e-4], device=self.device, dtype=torch.float64)
        self.obs: Any = None
        self.done = torch.zeros(args.num_envs, dtype=torch.bool, device=self.device)
        self.begins = ~self.done

    def _take_over(self, other: Any) -> None:
        """Begin with another actor-critic's weights."""
        same = ("observation_shape", "stack", "hidden")
        wanted = {name: self.policy.settings[name] for name in same}
        found = {name: getattr(other, "settings", {}).get(name) for name in same}
        if not isinstance(other, ActorCriticPolicy) or found != wanted:
            raise InvalidInputError(f"--init-from {self.args.init_from}: its {found} ({type(other).__name__}) are not {wanted}")
        self.policy.load_state_dict({name: weights.float() for name, weights in other.state_dict().items()})

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        by_time = 0.0 if self.args.minutes is None else self.elapsed / (60 * self.args.minutes)
        return min(1.0, max(by_time, self.taken / self.args.steps))

    def rollout(self) -> dict[str, Tensor]:
        """``args.rollout`` steps of all environments. ``valid`` is False where a step only reset."""
        if self.obs is None:
            self.obs, _ = self.envs.reset(seed=self.args.seed + self.taken)
        kept: dict[str, list[Tensor]] = {k: [] for k in ("seen", "act", "logp", "rew", "term", "done", "valid", "values")}
        ended, total = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for _ in range(self.args.rollout):
            with torch.no_grad():
                seen = self.policy.look(self.obs, self.begins)
                out, value = self.policy.network(seen)
                act = self.policy.draw(out)
                logp, _ = self.policy.judge(out, act)
            scaled = self.policy.scaled(act)
            dreamed = getattr(self.envs.unwrapped, "output", "numpy") == "torch"
            self.obs, rew, term, trunc, info = self.envs.step(scaled if dreamed else scaled.cpu().numpy())
            rew, term, trunc = (torch.as_tensor(x).to(self.device) for x in (rew, term, trunc))
            rew = rew.float()
            valid, self.begins = ~self.done, self.done
            self.done = (term | trunc) & valid
            self.returns += rew
            ended, total = ended + self.done.sum(), total + (self.returns * self.done).sum()
            self.returns = self.returns * (~self.done)
            if self.args.uncertainty_penalty and "uncertainty" in info:
                rew = rew - self.args.uncertainty_penalty * torch.as_tensor(info["uncertainty"]).to(self.device) * valid
            steps = (seen, act, logp, self._normalised(rew, valid), term, self.done, valid, value)
            for name, tensor in zip(kept, steps, strict=True):
                kept[name].append(tensor)
        batch = {name: torch.stack(tensors) for name, tensors in kept.items() if name != "values"}
        # A look ahead must not enter the stacks twice.
        frames = self.policy.frames
        with torch.no_grad():
            _, last = self.policy.network(self.policy.look(self.obs, self.begins))
        self.policy.frames = frames
        values = torch.stack([*kept["values"], last])
        args = self.args
        batch["advantage"] = advantages(batch["rew"], batch["term"], batch["done"], values, args.discount, args.trace)
        batch["target"] = batch["advantage"] + values[:-1]
        self.taken += args.rollout * args.num_envs
        self.episode_return = float(total / ended) if float(ended) else None
        return batch

    def _normalised(self, rew: Tensor, valid: Tensor) -> Tensor:
        """Rewards over the spread of discounted returns so far, so that values are about 1 whatever the task."""
        self.discounted = self.discounted * self.args.discount + rew
        new = torch.stack([valid.sum(), (self.discounted * valid).sum(), (self.discounted**2 * valid).sum()])
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
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                out, value = network(flat["seen"][part])
            logp, entropy = self.policy.judge(out.float(), flat["act"][part])
            gain = flat["advantage"][part]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            ratio = (logp - flat["logp"][part]).exp()
            actor = -torch.minimum(ratio * gain, ratio.clamp(1 - args.clip, 1 + args.clip) * gain).mean()
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
        tensors = {f"network.{k}": v for k, v in self.policy.state_dict().items()} | {"spread": self.spread}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        meta = {"taken": self.taken, "elapsed": self.elapsed, "args": to_json(args), "history": self.history}
        write_checkpoint(args.out, {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, meta)
        training = {"args": to_json(args), "steps": self.taken, "seconds": round(self.elapsed, 1), "history": self.history[-1:]}
        frames = None if self.world is None else self.world.card.get("frames")
        save_agent(self.policy, args.out, AgentCard(args.world, config.env_id if config else "", frames, training=training))

    def resume(self) -> bool:
        """Go on from the checkpoint in ``args.out``, if there is one. Dreams begin anew."""
        found = read_checkpoint(self.args.out)
        if found is None:
            if is_file(self.args.out / "checkpoint.json"):
                raise InvalidInputError(f"{self.args.out} holds a run of an older worldsim, which cannot go on: use another --out")
            return False
        path, meta, tensors = found
        try:
            changed = [k for k, v in to_json(self.args).items() if k not in MAY_CHANGE and meta["args"].get(k) != v]
            if changed:
                raise InvalidInputError(f"{path} is of a run with other {', '.join(changed)}: use another --out")
            tensors = {name: value.to(self.device) for name, value in tensors.items()}
            self.policy.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("network.")})
            state: dict[int, dict[str, Tensor]] = {}
            for name in (name for name in tensors if name.startswith("optimizer.")):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = tensors[name].cpu() if key == "step" else tensors[name]
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
            self.spread, self.taken, self.elapsed = tensors["spread"], int(meta["taken"]), float(meta["elapsed"])
            self.history = list(meta["history"])
        except InvalidInputError:
            raise
        except Exception as error:
            raise DamagedFileError(f"{path} does not fit this run ({error}): delete it to start afresh") from error
        self.policy.reset(self.args.seed + self.taken)
        return True


def make_dreams(args: Args) -> Any:
    """The dreams to learn in, by registration string."""
    limits: dict[str, Any] = {} if args.uncertainty_limit is None else {"uncertainty_limit": args.uncertainty_limit}
    limits |= {"uncertainty": True} if args.uncertainty_penalty else {}
    return gym.make_vec(
        "worldsim/Dream-v0", num_envs=args.num_envs, vectorization_mode="vector_entry_point", world=args.world, output="torch",
        max_episode_steps=args.horizon, scenes=args.scenes, steps=args.sampling_steps, engine=args.engine, device=args.device,
        **limits,
    )  # fmt: skip


def train(args: Args, envs: Any = None) -> ActorCriticPolicy:
    """Learn until time or steps are used up; returns the policy, which is then in ``args.out``, too.

    envs: other environments than dreams of ``args.world``, such as real twins, ``num_envs`` of them.
    """
    made = make_dreams(args) if envs is None else envs
    try:
        learner = Learner(args, made)
        learner.resume()
        saved = learner.elapsed
        shape = "{desc} {percentage:5.1f}% {elapsed} {postfix}"
        with tqdm(total=100.0, desc="actor-critic", bar_format=shape, disable=None) as bar:
            while learner.progress < 1.0:
                began = time.monotonic()
                learner.update(learner.rollout())
                learner.elapsed += time.monotonic() - began
                learner.history.append({"steps": learner.taken, "return": learner.episode_return})
                bar.n = 100.0 * learner.progress
                shown = "" if learner.episode_return is None else f", return {learner.episode_return:.2f}"
                bar.set_postfix_str(f"{learner.taken} steps{shown}")
                if learner.elapsed - saved > 60:
                    saved = learner.elapsed
                    learner.save()
        learner.save()
    finally:
        if envs is None:
            made.close()
    return learner.policy


if __name__ == "__main__":
    import tyro

    try:
        train(tyro.cli(Args))
    except WorldsimError as error:
        sys.exit(f"error: {error}")
