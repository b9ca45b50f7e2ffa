"""What ``worldsim fit`` passes to the other commands: sizes, minutes and settings of each stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worldsim.app.fit.config import FitConfig
from worldsim.app.fit.probe import Probe
from worldsim.data.dataset import DatasetInfo
from worldsim.data.record import RecordConfig
from worldsim.evaluation.agreement import AgreementConfig
from worldsim.evaluation.config import EvaluateConfig
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count, Positive
from worldsim.runtime.types import JsonObject
from worldsim.training.loss import Balance, LossConfig
from worldsim.training.outcomes import OutcomeConfig
from worldsim.training.train import TrainConfig

RECORD, AGENT, EVALUATE = 0.2, 0.2, 0.2
"""Shares of a round's minutes: the most for recording, and what is kept for the agent and for the
evaluation. Training gets the rest, and what recording leaves."""
LEAST_TRAINING = 0.3
"""Smallest share of a round's minutes for training, however long recording took."""
SIDES = {"cuda": 64, "cpu": 32}
"""Pixels of the shorter side of images by kind of device, where no size is asked for."""
SIZES = {"cuda": "task", "cpu": "mini"}
"""Presets by kind of device, where none is asked for."""
MOST_FRAMES = {"cuda": 200_000, "cpu": 20_000}
"""Most frames of a recording by kind of device, where no number is asked for: on two CPU cores,
training sees each of so many about twice in ten minutes."""
LEAST_FRAMES = 1000
DREAMS = {"cuda": 256, "cpu": 32}
"""Dreams that the agent learns in at once."""
EPISODES = {"cuda": 32, "cpu": 8}
"""Episodes of each policy in dream and real twin. Batches of other sizes are padded to these."""
CHANCES = (0.25, 0.5)
"""Shares of random actions of further policies made of the agent."""
POLICIES = 8
"""Policies whose returns are compared, at least."""
TEST_STEPS = 3000
"""Real steps, about, on which each next step is predicted."""
MOSTLY_STILL = 0.5
"""Share of pixels that stay as they are from one frame to the next from which on dreams leave out
small changes."""
KEEP_STILL = 2.0
"""Changes of a pixel, in values of 255, that such dreams leave out: what a small network gets wrong
on a still background in each step."""
SEED_APART = 100_000
"""Distance of the seeds of evaluation from those of recordings."""


@dataclass(frozen=True)
class Plan:
    """What was settled at the beginning, kept for the whole run."""

    preset: str
    """Size of the network."""
    device: str
    """Kind of device: cuda or cpu."""
    render: bool
    """Whether rendered images are used."""
    size: tuple[int, int]
    """Height and width of images in pixels."""
    steps_per_s: Positive
    """Steps per second of the environment in one process."""
    frames: Count
    """Frames of each recording."""
    frames_per_shard: Count
    """Frames of each shard: an interruption loses at most one per process."""
    episode_limit: Count | None = None
    """The environment's own limit of steps."""

    def __post_init__(self) -> None:
        check_ranges(self)


def make_plan(config: FitConfig, found: Probe, device: str, processes: int) -> Plan:
    """Return the plan of a run.

    device: kind of device.
    processes: number of processes that train; each needs shards of its own.
    """
    players = max(1, config.workers)
    affordable = int(found.steps_per_s * players * 60.0 * config.minutes * RECORD)
    frames = config.frames or min(max(affordable, LEAST_FRAMES), MOST_FRAMES[device])
    return Plan(
        preset=config.preset or SIZES[device],
        device=device,
        render=found.render,
        size=found.size,
        steps_per_s=found.steps_per_s,
        frames=frames,
        frames_per_shard=min(max(frames // (4 * max(players, processes)), 256), 8192),
        episode_limit=found.episode_limit,
    )


def round_folder(out: Path, number: int) -> Path:
    """Return the folder of round ``number``, counted from 1."""
    return out / f"round-{number}"


def recording_of(out: Path, number: int) -> Path:
    """Return the folder of a round's recording."""
    return out / "recordings" / f"round-{number}"


def record_config(config: FitConfig, plan: Plan, number: int, agent: Path | None) -> RecordConfig:
    """Return the options of a round's recording.

    agent: plays most of the episodes; None for the usual mix.
    """
    mix = {} if agent is None else {"random": 1.0, "persistent": 1.0, str(agent): 2.0}
    return RecordConfig(
        config.env_id,
        recording_of(config.out, number),
        frames=plan.frames,
        workers=config.workers,
        episode_steps=config.episode_steps,
        frames_per_shard=plan.frames_per_shard,
        policy="mix",
        mix=mix,
        seed=config.seed + number - 1,
        reset_options=config.reset_options,
        env_kwargs=config.env_kwargs,
        size=plan.size,
        key=config.key,
        render=plan.render,
        min_travel=0.0,
        engine_timeout_s=config.engine_timeout_s,
    )


def training_minutes(config: FitConfig, spent_s: float, rewards: bool) -> float:
    """Return the minutes that a round's training gets.

    spent_s: seconds of the round until now.
    rewards: whether an agent is trained afterwards.
    """
    kept = EVALUATE + (AGENT if rewards else 0.0)
    left = config.minutes * (1.0 - kept) - spent_s / 60.0
    return max(left, config.minutes * LEAST_TRAINING)


def train_config(
    config: FitConfig, plan: Plan, number: int, minutes: float, info: DatasetInfo
) -> TrainConfig:
    """Return the options of a round's training.

    info: of the round's recording.
    """
    before = None if number == 1 else str(round_folder(config.out, number - 1) / "world")
    small, pictures = plan.device == "cpu", info.report["pictures"]
    return TrainConfig(
        data=tuple(recording_of(config.out, n) for n in range(1, number + 1)),
        out=round_folder(config.out, number),
        preset=plan.preset,
        minutes=minutes,
        batch_size=8 if small else None,
        window=12 if small else 24,
        learning_rate=2e-3 if small else 6e-4,
        warmup=20 if small else 100,
        memory=info.geometry,
        last_frames=2 if small else 4,
        colour=0.0,
        loss=LossConfig(
            energy=0.0 if small else 0.9,
            pure_noise=0.95 if small else 0.85,
            context_drop=0.05 if small else 0.2,
            context_any=0.05 if small else 0.15,
            # Speeds are read from frames in which things move by a tenth of a pixel.
            last_frame_sigma=0.02 if small else 0.1,
            own_context=0.3 if small else 0.0,
            own_context_from=0.33,
            balance=Balance.CONTEXT,
            detail=0.8,
            motion=0.8 if small else 0.0,
        ),
        keep_still=KEEP_STILL if pictures.get("still", 0.0) >= MOSTLY_STILL else 0.0,
        outcome=OutcomeConfig(transitions=12 if small else 32, standardised=True),
        save_every=50 if small else 500,
        sample_every=1_000_000,
        init_from=before,
        scenes=64,
        seed=config.seed,
        train_split=config.reset_options.get("split", "train"),
    )


def agent_options(config: FitConfig, plan: Plan, number: int) -> JsonObject:
    """Return the options of a round's agent: fields of the actor-critic's ``Args``."""
    folder = round_folder(config.out, number)
    options: JsonObject = {
        "world": str(folder / "world"),
        "out": folder / "agent",
        "minutes": config.minutes * AGENT,
        "num_envs": DREAMS[plan.device],
        "horizon": min(200, plan.episode_limit or 200),
        "seed": config.seed + number - 1,
    }
    if plan.device == "cuda":
        options["scenes"] = f"episodes:{recording_of(config.out, number)}"
    if number > 1:
        options["init_from"] = str(round_folder(config.out, number - 1) / "agent")
    return options


def evaluate_config(
    config: FitConfig, plan: Plan, number: int, report: JsonObject
) -> EvaluateConfig:
    """Return the options of a round's evaluation.

    report: of the recording, whose mean length of episodes says how many are needed.
    """
    folder = round_folder(config.out, number)
    mean = max(1.0, float(report["episode_steps"][1]))
    return EvaluateConfig(
        str(folder / "world"),
        json=folder / "evaluation.json",
        episodes=int(min(64, max(8, TEST_STEPS / mean))),
        seed=config.seed + SEED_APART,
        engine_timeout_s=config.engine_timeout_s,
    )


def agreement_config(
    config: FitConfig, plan: Plan, number: int, step_s: float, report: JsonObject
) -> AgreementConfig:
    """Return the options of a round's comparison of returns.

    step_s: seconds of a dreamed step of all episodes of a policy at once. It limits the length of
        episodes to what fits the round's minutes.
    """
    folder = round_folder(config.out, number)
    limit = plan.episode_limit or 1000
    # Episodes of other policies than the agent are about as long as those of the recording.
    usual = min(1.0, float(report["episode_steps"][1]) / limit)
    whole = 1 + len(CHANCES)
    policies = whole + usual * (POLICIES - whole)
    real_s = EPISODES[plan.device] / (plan.steps_per_s * max(1, config.workers))
    affordable = 60.0 * config.minutes * EVALUATE / 2 / (policies * (step_s + real_s))
    return AgreementConfig(
        world=str(folder / "world"),
        agents=(str(folder / "agent"),),
        chances=CHANCES,
        episodes=EPISODES[plan.device],
        json=folder / "agreement.json",
        max_steps=int(min(limit, max(50, affordable))),
        seed=config.seed + SEED_APART,
        workers=config.workers,
        engine_timeout_s=config.engine_timeout_s,
    )
