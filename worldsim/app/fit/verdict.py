"""Judges a world by fixed limits, in plain words: to look at, to plan in, to learn in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from worldsim.app.fit.config import FitConfig
from worldsim.app.fit.plan import round_folder
from worldsim.runtime.next_steps import line
from worldsim.runtime.types import JsonObject

LEAST_GAIN = 1.0
"""Decibels by which next frames have to beat the last frame again where something changes, and
dreams a still picture."""
END_RATIO = 0.7
"""Log loss of terminations, relative to that of a predictor that knows only how frequent they are,
up to which ends count as predicted."""
REWARD_RATIO = 0.6
"""Error of rewards on steps that continue, relative to that of the best constant (per action), up
to which dense rewards count as predicted."""
REWARD_F1 = 0.7
"""F1 score of unusual rewards, within two steps, from which on rare rewards count as predicted."""
AGREEMENT = 0.85
"""Pearson's correlation of the policies' returns in dream and real twin from which on the dream
ranks policies as the real twin does."""
LEAST_EVENTS = 5
"""Ends, or unusual rewards, below which an evaluation says nothing of them."""
SHIFTED = {
    -2: "visible, two frames late",
    -1: "visible, one frame late",
    0: "visible",
    1: "visible, one frame early",
    2: "visible, two frames early",
}
"""How a recording's action lag (:mod:`worldsim.data.action_lag`) reads."""
FAR = "8"
"""Dreamed steps after which a dream is compared with a still picture."""


class Use(StrEnum):
    """What a world may be good enough for."""

    LOOK = "look at"
    PLAN = "plan in"
    LEARN = "learn in"


@dataclass(frozen=True)
class Figures:
    """What was measured in a round, as the commands' JSON has it.

    recording: the report of its recording.
    evaluation: of ``worldsim evaluate``.
    agreement: of ``worldsim agreement``; None without an agent.
    same_actions: of ``worldsim compare``.
    history: of the training.
    """

    recording: JsonObject
    evaluation: JsonObject
    agreement: JsonObject | None
    same_actions: JsonObject
    history: list[JsonObject]


@dataclass(frozen=True)
class Check:
    """One figure against its limit."""

    name: str
    """What is judged."""
    value: str
    """What was measured, in words."""
    limit: str
    """What is needed."""
    passed: bool | None
    """None where it could not be measured, or where there is nothing to measure."""
    uses: tuple[Use, ...]
    """What needs it."""
    remedy: str = ""
    """What to do if it fails, or cannot be measured."""


@dataclass(frozen=True)
class Step:
    """A next step: why, and a command that can be typed as it stands."""

    why: str
    command: str


@dataclass(frozen=True)
class Verdict:
    """The judgement of a world."""

    headline: str
    good: dict[str, bool]
    """By use, such as ``plan in``."""
    reasons: dict[str, str]
    """By use, a sentence."""
    checks: tuple[Check, ...]
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    """Of the recording."""

    def text(self) -> str:
        """Return the verdict as lines to print."""
        lines = [self.headline]
        lines += [f"  to {use}: {'yes' if self.good[use] else 'no'}. {self.reasons[use]}"
                  for use in self.good]  # fmt: skip
        marks = {True: "yes", False: "NO", None: "-"}
        width = max(len(check.name) for check in self.checks)
        lines += [
            f"  {check.name:<{width}}  {marks[check.passed]:<4}{check.value} "
            f"(needed: {check.limit})"
            for check in self.checks
        ]
        lines += [f"warning: {one}" for one in self.warnings]
        for step in self.steps:
            lines += [f"{step.why}:", f"  {step.command}"]
        return "\n".join(lines)


def judge(config: FitConfig, number: int, figures: Figures) -> Verdict:
    """Judge the world of round ``number``."""
    checks = [
        check
        for make in (next_frames, dreams, actions, ends, rewards, ranking, agent)
        for check in [make(figures)]
        if check is not None
    ]
    good, reasons = {}, {}
    for use in Use:
        good[use.value], reasons[use.value] = _judge_use(use, checks, figures)
    return Verdict(
        headline(good),
        good,
        reasons,
        tuple(checks),
        tuple(next_steps(config, number, checks, good, figures)),
        tuple(str(one) for one in figures.recording.get("warnings", ())),
    )


def _judge_use(use: Use, checks: Sequence[Check], figures: Figures) -> tuple[bool, str]:
    """Return whether a world is good enough for a use, and why."""
    asked = [check for check in checks if use in check.uses]
    if use is Use.LEARN and figures.agreement is None:
        return False, "There are no rewards, so there is nothing to learn by."
    failed = [check.name for check in asked if check.passed is False]
    unknown = [check.name for check in asked if check.passed is None]
    if failed:
        return False, f"Not enough: {', '.join(failed)}."
    if not any(check.passed for check in asked):
        return False, f"Not measured: {', '.join(unknown)}."
    known = [check.name for check in asked if check.passed]
    rest = f" Not measured: {', '.join(unknown)}." if unknown else ""
    return True, f"Good enough: {', '.join(known)}.{rest}"


def headline(good: dict[str, bool]) -> str:
    """Return the verdict in one sentence."""
    uses = [use for use, fine in good.items() if fine]
    others = [use for use, fine in good.items() if not fine]
    if not uses:
        return "This world is not good enough yet, not even to look at."
    to = [f"to {use}" for use in uses]
    text = f"This world is good enough {_listed(to, 'and')}"
    return (
        f"{text}, not {_listed([f'to {use}' for use in others], 'or')}." if others else f"{text}."
    )


def _listed(words: Sequence[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


def next_frames(figures: Figures) -> Check:
    """Judge next frames: they have to beat the last frame again, where something changes."""
    found = figures.evaluation
    keys = ("changed_psnr", "changed_copy_psnr", "changed_gain")
    what = "on pixels that change"
    if "changed_gain" not in found:
        # Walks with geometry.
        keys, what = ("next_frame_psnr", "copy_last_psnr", "gaps.next_minus_copy"), "on all pixels"
    ours, copy = (found[key] for key in keys[:2])
    gain = found["ci95"].get(keys[2])
    limit = f"{LEAST_GAIN:g} dB more than the last frame again"
    if ours is None:
        return Check("next frames", "no pixel changes", limit, None, (Use.LOOK, Use.PLAN),
                     "actions change no pixel: look at the film")  # fmt: skip
    value = f"{ours:.1f} dB {what}, the last frame again {copy:.1f} dB"
    # With few episodes there is no interval.
    passed = ours - copy >= LEAST_GAIN and (gain is None or gain[0] > 0)
    return Check("next frames", value, limit, passed, (Use.LOOK, Use.PLAN), "train longer")


def dreams(figures: Figures) -> Check | None:
    """Judge dreams of a few steps: they have to beat a still picture of their start."""
    found = figures.evaluation
    ours, still = found.get("changed_psnr_at"), found.get("changed_first_frame_psnr_at")
    if ours is None or still is None:
        return None
    limit = f"{LEAST_GAIN:g} dB more than the first frame again"
    if FAR not in ours:
        value = f"no episode has {FAR} steps"
        return Check(f"dreams of {FAR} steps", value, limit, None, (Use.LOOK, Use.PLAN))
    value = f"{ours[FAR]:.1f} dB on pixels that changed, the first frame again {still[FAR]:.1f} dB"
    passed = ours[FAR] - still[FAR] >= LEAST_GAIN
    name = f"dreams of {FAR} steps"
    return Check(name, value, limit, passed, (Use.LOOK, Use.PLAN), "train longer")


def actions(figures: Figures) -> Check:
    """Judge whether actions have a visible effect in the recording.

    The recording's check is linear: it overlooks effects whose direction depends on the state, such
    as those of a joint that turns all the way round. An agent that is better than chance in the
    real twin shows that there is an effect.
    """
    lag = figures.recording["action_lag"]
    limit = "they explain a part of what changes"
    if not lag.get("gains"):
        value = "the recording is too small to tell"
        return Check("effect of actions", value, limit, None, (Use.PLAN,), "record more frames")
    shift = lag.get("shift")
    seen, value = shift is not None, SHIFTED.get(shift, "none is visible")
    learned = agent(figures)
    if not seen and learned is not None and learned.passed:
        value, seen = "the agent is better than chance; none that a linear model sees", True
    remedy = "look at the film; larger images show smaller things"
    return Check("effect of actions", value, limit, seen, (Use.PLAN,), remedy)


def ends(figures: Figures) -> Check | None:
    """Judge terminations: their log loss relative to that of their frequency."""
    found = figures.evaluation
    if "ending_log_loss" not in found:
        return None
    steps = found["real_steps_mean"] * found["episodes"]
    count = round(found["real_ending_share"] * steps)
    limit = f"at most {END_RATIO} of the log loss of their frequency"
    uses = (Use.PLAN,)
    if count < LEAST_EVENTS:
        recorded = figures.recording["terminations"]["count"]
        value = f"{count} in {steps:,.0f} real steps, {recorded:,} recorded"
        return Check("ends of episodes", value, limit, None, uses, "record what ends episodes")
    ratio = found["ending_log_loss"] / found["ending_log_loss_of_share"]
    value = f"{ratio:.2f} of the log loss of their frequency, {count} ends"
    return Check("ends of episodes", value, limit, ratio <= END_RATIO, uses, "record more ends")


def rewards(figures: Figures) -> Check | None:
    """Judge rewards: unusual ones by F1, dense ones by their error relative to a constant's."""
    found = figures.evaluation
    if "reward_error_of_constant" not in found or figures.agreement is None:
        return None
    uses, name = (Use.PLAN,), "rewards"
    if found["reward_f1"] is not None:
        limit = f"F1 of at least {REWARD_F1} within 2 steps"
        if found["reward_events"] < LEAST_EVENTS:
            value = f"{found['reward_events']} unusual ones in the evaluation"
            return Check(name, value, limit, None, uses, "record what is rewarded")
        value = f"F1 {found['reward_f1']:.2f}, {found['reward_events']} unusual ones"
        passed = found["reward_f1"] >= REWARD_F1
        return Check(name, value, limit, passed, uses, "record more of what is rewarded")
    constant = found["reward_error_of_constant"]
    limit = f"at most {REWARD_RATIO} of the error of a constant"
    if not constant:
        value = f"every step pays the same; error {found['reward_error_continuing']:.3g}"
        return Check(name, value, limit, None, uses)
    ratio = found["reward_error_continuing"] / constant
    value = f"{ratio:.2f} of the error of the best constant"
    return Check(name, value, limit, ratio <= REWARD_RATIO, uses, "train longer")


def ranking(figures: Figures) -> Check | None:
    """Judge whether the dream ranks policies as the real twin does."""
    found = figures.agreement
    if found is None:
        return None
    limit = f"a correlation of returns of at least {AGREEMENT}"
    # A planner, too, compares returns.
    name, uses, pearson = "ranking of policies", (Use.PLAN, Use.LEARN), found["pearson"]
    if pearson is None:
        real = {row["real_return_mean"] for row in found["policies"]}
        where = "the real twin" if len(real) == 1 else "the dream"
        value = f"all policies have the same return in {where}"
        passed = None if len(real) == 1 else False
        return Check(name, value, limit, passed, uses, "record what is rewarded")
    value = f"{pearson:.2f} over {len(found['policies'])} policies"
    return Check(name, value, limit, pearson >= AGREEMENT, uses, "let the agent record")


def agent(figures: Figures) -> Check | None:
    """Judge whether the agent that learned in the dream is better in the real twin.

    Its 95% interval has to lie above the mean of the better one of random and persistent.
    """
    found = figures.agreement
    if found is None:
        return None
    rows = {row["name"]: row for row in found["policies"]}
    learned = found["policies"][0]
    best = max(
        (rows[name] for name in ("random", "persistent")), key=lambda row: row["real_return_mean"]
    )
    limit = "more than random and persistent, by its interval"
    mean, low = learned["real_return_mean"], learned["real_return_ci95"]
    value = (
        f"{mean:.4g} in the real twin, {best['name']} {best['real_return_mean']:.4g}; "
        f"{learned['dream_return_mean']:.4g} in the dream"
    )
    passed = low is not None and low[0] > best["real_return_mean"]
    return Check("the agent's return", value, limit, passed, (Use.LEARN,), "let the agent record")


def next_steps(
    config: FitConfig,
    number: int,
    checks: Sequence[Check],
    good: dict[str, bool],
    figures: Figures,
) -> list[Step]:
    """Return what to do next: first what is missing, then what the world is ready for."""
    again: Callable[..., str] = lambda *more: _same_command(config, *more)  # noqa: E731
    failed = {check.name: check for check in checks if check.passed is False}
    missing = {check.name for check in checks if check.passed is None and check.remedy}
    world = round_folder(config.out, number) / "world"
    longer = again("--minutes", f"{3 * config.minutes:g}", "--out", f"{config.out}-longer")
    steps = []
    if "effect of actions" in failed:
        size = config.size or (64, 64)
        larger = (f"{2 * size[0]}", f"{2 * size[1]}")
        steps.append(
            Step(
                "Actions have no visible effect. Look at the film; if what moves is too small to "
                "see, use larger images",
                again("--size", *larger, "--out", f"{config.out}-larger"),
            )
        )
    if {"next frames", "dreams of 8 steps"} & set(failed):
        steps.append(
            Step("The pictures are not predicted yet: record and train three times longer", longer)
        )
    if {"ranking of policies", "the agent's return"} & set(failed):
        steps.append(
            Step(
                "The dream misleads the agent where the recording did not show it what happens: "
                "let the agent record, and train on",
                again("--rounds", str(number + 1), "--out", config.out),
            )
        )
    rare = {"ends of episodes", "rewards"} & (set(failed) | missing)
    if rare:
        steps.append(
            Step(
                f"Not predicted, or too rare to tell: {_listed(sorted(rare), 'and')}. More "
                "recording by an agent that meets them, and longer training, help",
                again("--rounds", str(number + 1), "--out", config.out)
                if figures.agreement is not None
                else longer,
            )
        )
    if good[Use.LEARN]:
        agent_out = f"{config.out}-agent"
        steps.append(
            Step(
                "Learn longer in this dream, then measure the agent",
                line(
                    "python", "-m", "worldsim.agents.actor_critic", "--world", world,
                    "--out", agent_out, "--minutes", "30",
                ),
            )
        )  # fmt: skip
    if good[Use.PLAN]:
        steps.append(
            Step(
                "Plan in it: docs/how_to/plan.md has planners. How fast it steps says how many "
                "futures fit",
                line("worldsim", "bench", world, "--json", config.out / "bench.json"),
            )
        )
    if not steps:
        steps.append(Step("Measure it in detail", line("worldsim", "evaluate", world)))
    # One command may be the answer to two questions.
    return list({step.command: step for step in reversed(steps)}.values())[::-1]


def _same_command(config: FitConfig, *more: object) -> str:
    """Return the command of this run with other options at its end."""
    words: list[object] = ["worldsim", "fit", config.env_id]
    words += ["--minutes", f"{config.minutes:g}"] if "--minutes" not in more else []
    if config.size is not None and "--size" not in more:
        words += ["--size", *config.size]
    if config.preset is not None:
        words += ["--preset", config.preset]
    words += ["--key", config.key] if config.key is not None else []
    words += ["--render"] if config.render else []
    for name, values in (
        ("--env-kwargs", config.env_kwargs),
        ("--reset-options", config.reset_options),
    ):
        if values:
            words += [name, *(word for pair in values.items() for word in pair)]
    words += ["--frames", config.frames] if config.frames is not None else []
    words += ["--episode-steps", config.episode_steps] if config.episode_steps != 256 else []
    words += ["--seed", config.seed] if config.seed else []
    return line(*words, *more)
