"""Actor-critic trained in imagination by PPO. Measured results: docs/experiments/task_agents.md.

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
from typing import Any

from worldsim.runtime.threads import use_threads, wait_passively

if __name__ == "__main__":
    # Before torch loads.
    wait_passively()

import gymnasium as gym

from worldsim.agents.actor_critic_args import Args
from worldsim.agents.actor_critic_learner import Learner, advantages
from worldsim.agents.actor_critic_policy import ActorCriticPolicy
from worldsim.errors import WorldsimError
from worldsim.runtime.interrupts import Interrupts
from worldsim.runtime.next_steps import Ending, line
from worldsim.runtime.old_names import with_new_options
from worldsim.runtime.pace import WARM, Clock, Pace, forecast, smaller, steps_that_fit
from worldsim.runtime.progress import SHARE, Progress, say, silence, span
from worldsim.runtime.types import VectorEnv

__all__ = ["Args", "Learner", "advantages", "make_dreams", "train"]

FEW_UPDATES = 20
"""Updates below which a run with a time limit is told to dream fewer at once."""


def make_dreams(args: Args) -> VectorEnv:
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


def train(
    args: Args, envs: VectorEnv | None = None, clock: Clock = time.monotonic
) -> ActorCriticPolicy:
    """Train until the time or the steps are used up; returns the policy, saved in ``args.out``.

    The first Ctrl-C or SIGTERM ends the training after the current step, saved.

    envs: ``num_envs`` environments to train in, such as real twins, instead of dreams of
        ``args.world``.
    clock: returns the time in seconds; read after every step.
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
    """Run rollouts and updates to the end; returns the number of updates.

    A rollout that is incomplete when the time is up is dropped.
    """
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
    """Print the forecast once a step of all dreams has been timed, and what to change."""
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
