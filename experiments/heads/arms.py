"""Why the heads of a small world learn nothing of a small thing's end: arms on one recording, and
what could be known at all.

Results and what they mean: docs/experiments/heads.md.

    python experiments/heads/arms.py --out runs/heads --work runs/heads/work --gpus 2

records an environment (training and held-out recordings of different seeds), trains a world for
each arm, the separate heads and the reference beside them, evaluates all on the same held-out
episodes and writes ``summary.json``, ``table.txt`` and pictures to ``--out``. Each stage is a
process of its own (``--stage``), so that several share a GPU; what is there already is kept.
"""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from diffusers.training_utils import EMAModel
from figures import Truth, cells, figures, rewarded, table
from frame_heads import BalanceConfig, Balanced, FrameOutcomeHead, Recorded, Seen
from numpy.typing import NDArray
from reference import Reference, Sequences
from torch import Tensor, nn

from worldsim.agents.persistent import PersistentPolicy
from worldsim.data.dataset import EpisodeDataset
from worldsim.evaluation.metrics import psnr
from worldsim.io.pictures import contact_sheet, save_picture
from worldsim.runtime.json_config import read_json, write_json
from worldsim.state import Frame, SceneStart
from worldsim.training.config import HeadInput, TrainConfig
from worldsim.training.loss import Balance, LossConfig
from worldsim.training.outcomes import OutcomeConfig
from worldsim.training.train import run
from worldsim.training.trainer import Trainer
from worldsim.world import World
from worldsim.world.frame_outcome import FrameOutcomeHead as FrameHead

Array = NDArray[Any]


@dataclass(frozen=True)
class Arm:
    """One way to train a world's own heads."""

    balance: Balance = Balance.LEVEL
    pooling: str = "mean"
    longer: int = 1
    """Multiple of the baseline's steps."""
    emphasis: float = 1.0
    """How many times more ends count."""
    seed: int = 0
    reads: HeadInput = HeadInput.FEATURES
    """What the world's own head reads."""
    own: float = 0.0
    """Share of context frames that are the network's own predictions, from a third of the training
    on."""
    motion: float = 0.0
    """How much a pixel's weight grows with the last change there (``LossConfig.motion``)."""


ARMS = {
    "long": Arm(longer=4),
    "long-both": Arm(Balance.CONTEXT, "attention", 4),
    "base": Arm(),
    "both": Arm(Balance.CONTEXT, "attention"),
    "context": Arm(Balance.CONTEXT),
    "attention": Arm(pooling="attention"),
    "emphasis": Arm(emphasis=30.0),
    "emphasis-context": Arm(Balance.CONTEXT, emphasis=30.0),
    "long-context": Arm(Balance.CONTEXT, longer=4),
    "long-attention": Arm(pooling="attention", longer=4),
    "base-1": Arm(seed=1),
    "long-both-1": Arm(Balance.CONTEXT, "attention", 4, seed=1),
    **{
        f"frames-{seed}": Arm(Balance.CONTEXT, seed=seed, reads=HeadInput.FRAMES)
        for seed in range(3)
    },
    **{
        name: Arm(Balance.CONTEXT, reads=HeadInput.FRAMES, own=own, motion=motion)
        for name, own, motion in (("own", 0.3, 0.0), ("motion", 0.0, 0.8), ("own-motion", 0.3, 0.8))
    },
}
HEADS = {
    "after": (True, 0),
    "before": (False, 0),
    "after-bins": (True, 63),
    "before-bins": (False, 63),
}
"""Separate heads: whether the newest frame that one sees is the one that the transition led into,
and bins of the reward."""


@dataclass(frozen=True)
class ArmsConfig:
    """Options of the experiment."""

    out: Path
    """Folder for results: JSON, table, pictures."""
    work: Path
    """Folder for recordings, worlds and logs."""
    stage: Literal["all", "record", "heads", "reference", "world", "report"] = "all"
    """``all`` runs the others, each in processes of its own; ``world`` needs ``--arm``."""
    arm: str = ""
    """Arm that the stage ``world`` trains and evaluates."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Arms that ``all`` trains, in this order."""
    env_id: str = "LunarLander-v3"
    """Gymnasium id; it is recorded as it renders, 64x64."""
    env_kwargs: tuple[str, ...] = ("continuous", "True")
    """Further arguments of ``gymnasium.make``, pairs of name and value."""
    policies: tuple[str, ...] = ("persistent", "random")
    """Who plays the training recordings; the first one plays the held-out one."""
    frames: tuple[int, ...] = (80_000, 40_000)
    """Frames of each training recording."""
    test_frames: int = 20_250
    """Frames of the held-out recording; transitions are fewer by one an episode."""
    episode_steps: int = 256
    """Longest episode, in steps."""
    preset: str = "task"
    """Size of the worlds' network."""
    steps: int = 1275
    """Training steps of the baseline's world, at the trainer's own warm-up and decay."""
    minutes: float | None = None
    """Training time of a world instead of its steps, compilation included."""
    refresh_every: int = 200
    """Training steps between looks for new shards, where recordings are in progress."""
    outcome: OutcomeConfig = field(default_factory=OutcomeConfig)
    """Training of worlds' own heads that read frames."""
    render: bool = True
    """Record what the environment renders, not its observations."""
    batch_size: int = 32
    """Windows a step, of 24 frames."""
    head_steps: int = 6_000
    """Training steps of each separate head."""
    head_batch: int = 256
    """Transitions a step."""
    reference_steps: int = 4_000
    """Training steps of the reference."""
    reference_minutes: float | None = None
    """Training time of the reference instead of its steps."""
    reference_batch: int = 48
    """Windows a step, of 48 frames."""
    head_wait: float = 240.0
    """Seconds that a trained world waits for the separate heads, to judge them on its frames."""
    held_back: float = 0.1
    """Share of the training episodes by which the best weights of separate heads and reference are
    chosen."""
    draws: int = 4
    """Draws of each next frame: figures are of the first one, and of the mean probability of
    all."""
    dreams: int = 64
    """Free-running dreams, for how long episodes are there."""
    gpus: int = 1
    """GPUs to spread jobs over; without a GPU jobs run on the CPU, one at a time."""
    jobs_per_gpu: int = 3
    """Jobs at a time on each GPU."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that record."""
    seed: int = 1
    """Of the training recordings, counted up; the held-out one has this plus 100."""


def main(config: ArmsConfig) -> None:
    """Run a stage, or all of them."""
    for folder in (config.out, config.work / "log", config.work / "results"):
        folder.mkdir(parents=True, exist_ok=True)
    if config.stage == "all":
        run_all(config)
    elif config.stage == "record":
        record_all(config)
    elif config.stage == "heads":
        train_heads(config)
    elif config.stage == "reference":
        train_reference(config)
    elif config.stage == "world":
        train_world(config)
    else:
        report(config)


def run_all(config: ArmsConfig) -> None:
    """Record, then train and evaluate everything, ``jobs_per_gpu`` processes on each GPU at a
    time."""
    began = time.monotonic()
    record_all(config)
    say(began, "recorded")
    waiting = [(name, ["--stage", name]) for name in ("heads", "reference")]
    waiting += [(name, ["--stage", "world", "--arm", name]) for name in config.arms]
    waiting = [job for job in waiting if not (config.work / "results" / f"{job[0]}.json").exists()]
    places = (
        [gpu for _ in range(config.jobs_per_gpu) for gpu in range(config.gpus)]
        if torch.cuda.is_available()
        else [0]
    )
    running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    while waiting or running:
        for place, gpu in enumerate(places):
            if place in running and running[place][1].poll() is not None:
                name, process = running.pop(place)
                say(
                    began,
                    f"{name}: "
                    + (
                        "done"
                        if process.returncode == 0
                        else f"failed, see {config.work / 'log' / name}.log"
                    ),
                )
                report(config)
            if place not in running and waiting:
                name, options = waiting.pop(0)
                environment = {
                    **os.environ,
                    "CUDA_VISIBLE_DEVICES": str(gpu),
                    "OMP_NUM_THREADS": "3",
                }
                with open(config.work / "log" / f"{name}.log", "wb") as log:
                    command = [sys.executable, __file__, *sys.argv[1:], *options]
                    running[place] = (
                        name,
                        subprocess.Popen(
                            command, stdout=log, stderr=subprocess.STDOUT, env=environment
                        ),
                    )
                say(began, f"{name}: started on GPU {gpu}")
        time.sleep(0.5)
    report(config)
    (config.work / "results" / "finished").touch()


def say(began: float, text: str) -> None:
    """A line with the seconds since the beginning."""
    print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)


# Data.


def record_all(config: ArmsConfig) -> None:
    """The training recordings and the held-out one, all at once; what is there is kept."""
    last = len(config.frames)
    parts = [
        (config.work / "data" / str(i), config.policies[i], frames, config.seed + i)
        for i, frames in enumerate(config.frames)
    ]
    parts.append((config.work / "test", config.policies[0], config.test_frames, config.seed + 100))
    total = sum(frames for _, _, frames, _ in parts)
    # Processes of their own: those that a recording starts read this file's imports again.
    running = []
    for out, policy, frames, seed in parts:
        options = {
            "--out": out, "--policy": policy, "--frames": frames, "--seed": seed,
            "--episode-steps": config.episode_steps, "--frames-per-shard": 1024,
            "--workers": max(1, config.workers * frames // total),
        }  # fmt: skip
        command = [sys.executable, "-m", "worldsim", "record", config.env_id]
        command += ["--render"] if config.render else []
        command += [str(x) for pair in options.items() for x in pair]
        command += ["--size", "64", "64", "--env-kwargs", *config.env_kwargs]
        running.append(subprocess.Popen(command))
    failed = [str(process.args) for process in running if process.wait() != 0]
    if failed:
        raise SystemExit(
            f"{len(failed)} of {last + 1} recordings failed, the first one: {failed[0]}"
        )


def training_data(config: ArmsConfig) -> list[EpisodeDataset]:
    return [EpisodeDataset(config.work / "data" / str(i)) for i in range(len(config.policies))]


@dataclass(frozen=True)
class HeldOut:
    """The held-out episodes: as a whole recording, and which of its frames each one is: (t + 1,)
    int64, first to last."""

    recorded: Recorded
    episodes: list[Tensor]

    @staticmethod
    def of(config: ArmsConfig, device: torch.device) -> HeldOut:
        recorded = Recorded.of([EpisodeDataset(config.work / "test")], device)
        _, lengths = torch.unique(recorded.first, return_counts=True)
        return HeldOut(
            recorded, list(torch.arange(len(recorded.first), device=device).split(lengths.tolist()))
        )

    @property
    def truth(self) -> Truth:
        r = self.recorded
        parts = ([x[e[1:]].cpu().numpy() for e in self.episodes] for x in (r.act, r.rew, r.term))
        return Truth(*parts)

    def by_episode(self, values: Tensor) -> list[Array]:
        """Values of all transitions (m,), in order, as one array an episode."""
        return [v.cpu().numpy() for v in values.split([len(e) - 1 for e in self.episodes])]


def device_of() -> torch.device:
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def action_sizes(dataset: EpisodeDataset) -> dict[str, int]:
    space = dataset.info.action_space
    return {
        "actions": int(space["n"]) if space["type"] == "Discrete" else 0,
        "action_dim": len(space.get("low", ())),
    }


# Separate heads and the reference.


def train_heads(config: ArmsConfig) -> None:
    """Both separate heads and the reference, chosen by training episodes that were held back,
    judged on the held-out recording."""
    device, data = device_of(), training_data(config)
    recorded, held_out = Recorded.of(data, device), HeldOut.of(config, device)
    learned, checked = split(recorded, config.held_back, config.seed)
    sizes = action_sizes(data[0])
    results: dict[str, Any] = {"heads": {}, "history": {}}
    for name, (after, bins) in HEADS.items():
        torch.manual_seed(config.seed)
        head = FrameOutcomeHead(height=64, width=64, bins=bins, **sizes).to(device)
        head.measure(recorded)
        balanced = Balanced(learned, BalanceConfig())

        def losses(
            generator: torch.Generator,
            head: Any = head,
            balanced: Any = balanced,
            after: bool = after,
        ) -> dict[str, Tensor]:
            return balanced.losses(head, config.head_batch, after, generator)  # type: ignore[no-any-return]

        def check(head: Any = head, after: bool = after) -> float:
            return misfit(*judge(head, checked, after)[:2], checked)

        results["history"][name] = learn(head, losses, check, config.head_steps, config.seed)
        head.save_pretrained(config.work / "heads" / name)
        rewards, logit, median = judge(head, held_out.recorded, after)
        results["heads"][f"head, {name}, true frames"] = of_transitions(
            held_out, rewards[:, 0], logit
        )
        if bins:
            results["heads"][f"head, {name}, median"] = of_transitions(held_out, median, logit)
    # Of the last recording alone, whose actions are drawn one by one: those that last tell the same
    # at every lag.
    results["alignment"] = alignment(Recorded.of(data[-1:], "cpu"))
    write_json(config.work / "results" / "heads.json", results)


def train_reference(config: ArmsConfig) -> None:
    """The reference, chosen and judged as the separate heads are."""
    device, data = device_of(), training_data(config)
    recorded, held_out = Recorded.of(data, device), HeldOut.of(config, device)
    learned, checked = split(recorded, config.held_back, config.seed)
    torch.manual_seed(config.seed)
    reference = Reference(64, 64, **action_sizes(data[0])).to(device)
    sequences = Sequences(learned, frames=48, warm=4)

    def losses(generator: torch.Generator) -> dict[str, Tensor]:
        return sequences.losses(reference, config.reference_batch, generator)

    def check() -> float:
        return sum(misfit(*said, checked) for said in judge_episodes(reference, checked).values())

    results: dict[str, Any] = {"heads": {}}
    results["history"] = {
        "reference": learn(
            reference, losses, check, config.reference_steps, config.seed, config.reference_minutes
        )
    }
    for name, (rewards, logit) in judge_episodes(reference, held_out.recorded).items():
        results["heads"][f"reference, {name}"] = of_transitions(held_out, rewards[:, 0], logit)
    write_json(config.work / "results" / "reference.json", results)


def split(recorded: Recorded, share: float, seed: int) -> tuple[Recorded, Recorded]:
    """The transitions of most episodes, and those of the others."""
    starts = torch.unique(recorded.first)
    back = torch.from_numpy(np.random.default_rng(seed).random(len(starts)) < share).to(
        starts.device
    )
    other = back[torch.searchsorted(starts, recorded.first[recorded.judged])]
    return recorded.only(recorded.judged[~other]), recorded.only(recorded.judged[other])


def learn(
    module: nn.Module,
    losses: Callable[[torch.Generator], dict[str, Tensor]],
    check: Callable[[], float],
    steps: int,
    seed: int,
    minutes: float | None = None,
) -> list[dict[str, float]]:
    """Train to the end at a rate that falls as a cosine; leaves the averaged weights that ``check``
    (less is better) liked best.

    minutes: train for so long instead of ``steps`` steps.
    """
    parameters = list(module.parameters())
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05)
    began, done, checks = time.monotonic(), 0.0, 0
    average = EMAModel(parameters, decay=0.998)
    generator = torch.Generator(device).manual_seed(seed)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    least = float("inf")
    for step in range(1, (steps if minutes is None else 1_000_000) + 1):
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * (1.0 + math.cos(math.pi * min(done, 1.0)))
        found = losses(generator)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(found.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        done = step / steps if minutes is None else (time.monotonic() - began) / (60.0 * minutes)
        average.step(parameters)
        if done * 20 >= checks + 1:
            checks += 1
            average.store(parameters)
            average.copy_to(parameters)
            with torch.no_grad():
                misfit = check()
            if misfit < least:
                least, best = (
                    misfit,
                    {k: v.detach().clone() for k, v in module.state_dict().items()},
                )
            average.restore(parameters)
            history.append(
                {"step": step, "check": misfit, **{k: float(v.detach()) for k, v in found.items()}}
            )
            print(history[-1], flush=True)
        if done >= 1.0:
            break
    module.load_state_dict(best)
    return history


@torch.no_grad()
def judge(head: FrameOutcomeHead, recorded: Recorded, after: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards (m, 2), logits (m,) and median rewards of going on (m,) of all judged transitions, in
    order."""
    parts = [
        head.outputs(recorded.look(index, head.config.frames, after))
        for index in recorded.judged.split(2048)
    ]
    out = torch.cat(parts)
    rewards, logit = head.read(out)
    return head.offset + head.scale * rewards, logit, head.median(out)


@torch.no_grad()
def judge_own(head: FrameHead, recorded: Recorded) -> tuple[Tensor, Tensor]:
    """The same of a world's own head that reads frames, which sees the true new frame."""
    parts = []
    for index in recorded.judged.split(2048):
        seen = recorded.look(index, head.config.frames, head.config.sees_new)
        taken = seen.taken.reshape(*seen.taken.shape, *[1] * (seen.act.dim() - 2))
        parts.append(head(seen.rgb, seen.act * taken.to(seen.act.dtype)))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


@torch.no_grad()
def judge_episodes(reference: Reference, recorded: Recorded) -> dict[str, tuple[Tensor, Tensor]]:
    """The same by the reference, which takes each episode in from its beginning."""
    r = recorded
    starts = torch.unique(r.first[r.judged])
    lasts = torch.stack([r.judged[r.first[r.judged] == start].max() for start in starts])
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"after": [], "before": []}
    for start, last in zip(starts.split(32), lasts.split(32), strict=True):
        longest = int((last - start).max())
        index = torch.minimum(
            start[:, None] + torch.arange(longest + 1, device=start.device), last[:, None]
        )
        inside = torch.arange(1, longest + 1, device=start.device) <= (last - start)[:, None]
        for name, (rewards, logit) in zip(
            found, reference(r.rgb[index], r.act[index], r.units[4]), strict=True
        ):
            found[name].append(((r.units[:2] + r.units[2:4] * rewards)[inside], logit[inside]))
    return {
        name: (torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))
        for name, parts in found.items()
    }


def misfit(rewards: Tensor, logit: Tensor, recorded: Recorded) -> float:
    """What the best weights have least of: log loss of ends over that of their share, plus share of
    the rewards' variance missed."""
    rew, term = recorded.rew[recorded.judged], recorded.term[recorded.judged]
    share = term.float().mean().clamp(1e-4, 1 - 1e-4)
    least = -(share * share.log() + (1 - share) * (1 - share).log())
    ended = nn.functional.binary_cross_entropy_with_logits(logit, term.float()) / least
    return float(ended + (rewards[~term, 0] - rew[~term]).square().mean() / rew[~term].var())


def of_transitions(held_out: HeldOut, rew: Tensor, logit: Tensor) -> dict[str, Any]:
    """The figures of all transitions of the held-out recording, whose outcomes are all known."""
    return figures(
        held_out.truth, held_out.by_episode(torch.sigmoid(logit.double())), held_out.by_episode(rew)
    )


def alignment(recorded: Recorded) -> dict[str, float]:
    """Share of the variance of rewards (of going on) that the action explains, by the action's lag:
    its cell, see ``figures``.

    Lag 0 is the action of the same transition; were actions and outcomes shifted against each
    other, another one would win.
    """
    r, found = recorded, {}
    inner = r.judged[(r.judged - r.first[r.judged] > 1) & ~r.term[r.judged]]
    inner = inner[:-1][r.first[inner[1:]] == r.first[inner[:-1]]]
    rew = r.rew[inner].double().cpu().numpy()
    for lag in (-1, 0, 1):
        act = r.act[inner + lag].cpu().numpy()
        cell = act if act.ndim == 1 else cells(act)
        said = np.zeros(len(rew))
        for one in np.unique(cell):
            said[cell == one] = rew[cell == one].mean()
        found[str(lag)] = float(1.0 - (rew - said).var() / rew.var())
    return found


# Worlds.


def train_world(config: ArmsConfig) -> None:
    """One arm: train its world, then judge its heads, and the separate ones on its frames, on the
    held-out recording."""
    if config.arm not in ARMS:
        raise SystemExit(f"--arm {config.arm!r}: choose one of {', '.join(ARMS)}")
    arm, device = ARMS[config.arm], device_of()
    steps = config.steps * arm.longer
    objective = LossConfig(
        balance=arm.balance, pure_noise=0.5, energy=0.9, detail=0.8, outcome_weight=2.0,
        end_emphasis=arm.emphasis, own_context=arm.own, own_context_from=0.33, motion=arm.motion,
    )  # fmt: skip
    trainer = Trainer(
        TrainConfig(
            data=(config.work / "data",), out=config.work / "worlds" / config.arm, seed=arm.seed,
            preset=config.preset, pooling=arm.pooling, memory=False, colour=0.0,
            loss=objective, head_input=arm.reads, outcome=config.outcome,
            minutes=config.minutes, refresh_every=config.refresh_every, steps=steps,
            warmup=max(1, min(300, steps // 4)), batch_size=config.batch_size,
            buffer_frames=int(1.2 * sum(config.frames)) + 4096,
            save_every=steps, sample_every=steps, scenes=0,
        )
    )  # fmt: skip
    began = time.monotonic()
    world = run(trainer).to(device)
    trained = time.monotonic() - began
    history, steps = trainer.history, trainer.step
    del trainer
    # Small enough to be kept: some megabytes.
    world.save_pretrained(config.out / "worlds" / config.arm, eight_bit=True)
    held_out = HeldOut.of(config, device)
    began = time.monotonic()
    # They are trained beside the first worlds.
    weights = {
        name: config.work / "heads" / name / "diffusion_pytorch_model.safetensors" for name in HEADS
    }
    while (
        device.type == "cuda"
        and not all(path.exists() for path in weights.values())
        and time.monotonic() - began < config.head_wait
    ):
        time.sleep(2)
    found = [name for name, path in weights.items() if path.exists()]
    heads = {
        name: FrameOutcomeHead.from_pretrained(config.work / "heads" / name).to(device).eval()
        for name in found
    }
    forced = force(world, held_out, heads, config)
    results: dict[str, Any] = {
        "arm": dataclasses.asdict(arm), "steps": steps, "train_seconds": trained,
        "history": history, "heads": {},
        **{name: value for name, value in forced.items() if isinstance(value, float)},
    }  # fmt: skip
    truth = held_out.truth
    for name in ["network", *(f"{head}, dreamed frame" for head in heads if HEADS[head][0])]:
        ending, rew = (forced[f"{name} {what}"] for what in ("ending", "reward"))
        results["heads"][name] = figures(truth, [e[:, 0] for e in ending], [r[:, 0] for r in rew])
        results["heads"][name]["rewarded"] = rewarded(truth, [r[:, 0] for r in rew])
        mean = figures(truth, [e.mean(1) for e in ending], [r.mean(1) for r in rew])
        results["heads"][f"{name}, mean of {config.draws}"] = mean
    if isinstance(world.outcome, FrameHead):
        rewards, logit = judge_own(world.outcome, held_out.recorded)
        results["heads"]["own, true frames"] = of_transitions(held_out, rewards[:, 0], logit)
    write_json(config.work / "results" / f"{config.arm}-steps.json", results)
    results["episode_steps"] = dream(world, held_out, heads, config)
    save_picture(strips(forced, held_out), config.out / f"ends-{config.arm}.png")
    write_json(config.work / "results" / f"{config.arm}.json", results)


@torch.no_grad()
def force(
    world: World, held_out: HeldOut, heads: dict[str, FrameOutcomeHead], config: ArmsConfig
) -> dict[str, Any]:
    """Each next step of each held-out episode from its true past, drawn ``draws`` times.

    By name: of the network's heads and of separate ones that see the dreamed frame, ``... ending``
    and ``... reward`` (of going on), each a list of (t, draws) an episode; ``rgb``: first draws,
    (t, 3, h, w) an episode, of the first few; PSNRs, mean over all.
    """
    r, episodes = held_out.recorded, held_out.episodes
    first = torch.stack([e[0] for e in episodes])
    last = torch.stack([e[-1] for e in episodes])
    state = world.initial(
        [SceneStart(rgb=r.rgb[i : i + 1].cpu(), act=r.act[:1].cpu()) for i in first.tolist()],
        range(len(first)),
    )
    afters = [name for name in heads if HEADS[name][0]]
    found: dict[str, list[Tensor]] = {}
    with Overheard(world) as heard:
        for t in range(int((last - first).max())):
            now = torch.minimum(first + t, last - 1)
            act, truth = r.act[now + 1], r.rgb[now + 1]
            said: dict[str, list[Tensor]] = {}
            for draw in range(config.draws):
                seeded = dataclasses.replace(state, seed=state.seed + 1_000_003 * draw)
                _, transition = world.step(seeded, act)
                dreamed = transition.frame.rgb
                outcomes = {"network": heard.last()}
                for name in afters:
                    seen = r.look(now + 1, heads[name].config.frames, after=True)
                    rgb = torch.cat([seen.rgb[:, :-1], dreamed[:, None]], 1)
                    outcomes[f"{name}, dreamed frame"] = heads[name](
                        dataclasses.replace(seen, rgb=rgb)
                    )
                for name, (rewards, logit) in outcomes.items():
                    said.setdefault(f"{name} ending", []).append(torch.sigmoid(logit.double()))
                    said.setdefault(f"{name} reward", []).append(rewards[:, 0])
                if draw == 0:
                    error = (dreamed.int() - truth.int()).square().double().mean((1, 2, 3))
                    copied = (r.rgb[now].int() - truth.int()).square().double().mean((1, 2, 3))
                    for name, value in (
                        ("next_frame_psnr", psnr(dreamed, truth)), ("next_frame_mse", error),
                        ("copy_last_psnr", psnr(r.rgb[now], truth)), ("copy_last_mse", copied),
                    ):  # fmt: skip
                        found.setdefault(name, []).append(value.cpu())
                    found.setdefault("rgb", []).append(dreamed[:3].cpu())
            for name, draws in said.items():
                found.setdefault(name, []).append(torch.stack(draws, 1).cpu())
            state = world.observe(state, act, Frame(truth))
    lengths = (last - first).tolist()
    stacked = {name: torch.stack(values) for name, values in found.items()}
    results: dict[str, Any] = {
        name: [values[:n, i].numpy() for i, n in enumerate(lengths[: values.shape[1]])]
        for name, values in stacked.items()
    }
    for name in ("next_frame_psnr", "copy_last_psnr", "next_frame_mse", "copy_last_mse"):
        results[name] = float(np.concatenate(results[name]).mean())
    # Most frames are so alike that single ones reach the cap of 40 dB: the error of all together
    # tells them apart.
    for name in ("next_frame", "copy_last"):
        results[f"{name}_psnr_pooled"] = float(10.0 * np.log10(255.0**2 / results[f"{name}_mse"]))
    return results


class Overheard:
    """What a world's own heads say, step by step."""

    def __init__(self, world: World) -> None:
        self.said: list[Any] = []
        self.handle = world.outcome.register_forward_hook(
            lambda module, given, said: self.said.append(said)
        )

    def last(self) -> tuple[Tensor, Tensor]:
        """Rewards of going on and of ending (b, 2), and the termination's logit (b,), of the last
        step."""
        said, self.said = self.said[-1], []
        return said  # type: ignore[no-any-return]

    def __enter__(self) -> Overheard:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.handle.remove()


@torch.no_grad()
def dream(
    world: World, held_out: HeldOut, heads: dict[str, FrameOutcomeHead], config: ArmsConfig
) -> dict[str, float]:
    """Mean steps of an episode, cut at ``episode_steps``: of held-out ones, and as each head has it
    in free-running dreams.

    Dreams begin with true first frames and go on past every end: a head's expected steps are the
    sum of the probabilities, by what it said until then, of having come so far.
    """
    r, device = held_out.recorded, world.device
    starts = [e[0] for e in held_out.episodes[: config.dreams]]
    state = world.initial(
        [SceneStart(rgb=r.rgb[i : i + 1].cpu(), act=r.act[:1].cpu()) for i in starts],
        range(len(starts)),
    )
    policies = [PersistentPolicy(world.action_space) for _ in starts]
    for i, policy in enumerate(policies):
        policy.reset(10_000 + i)
    most = max((head.config.frames for head in heads.values()), default=4)
    frames, acts = [r.rgb[torch.stack(starts)]], [torch.zeros_like(r.act[torch.stack(starts)])]
    alive = {
        name: torch.ones(len(starts), dtype=torch.float64, device=device)
        for name in ("network", *heads)
    }
    steps = {name: torch.zeros(len(starts), dtype=torch.float64, device=device) for name in alive}
    with Overheard(world) as heard:
        for _ in range(config.episode_steps):
            act = (
                torch.from_numpy(np.stack([policy.act(None) for policy in policies]))
                .to(r.act)
                .reshape(acts[0].shape)
            )
            state, transition = world.step(state, act)
            frames, acts = [*frames, transition.frame.rgb][-most - 1 :], [*acts, act][-most - 1 :]
            logits = {"network": heard.last()[1]}
            for name, head in heads.items():
                logits[name] = head(recent(frames, acts, head.config.frames, HEADS[name][0]))[1]
            for name, logit in logits.items():
                steps[name] += alive[name]
                alive[name] = alive[name] * torch.sigmoid(-logit.double())
    real = float(np.mean([len(e) - 1 for e in held_out.episodes]))
    return {"real": real, **{name: float(value.mean()) for name, value in steps.items()}}


def recent(frames: list[Tensor], acts: list[Tensor], count: int, after: bool) -> Seen:
    """What a head sees after a step, from the newest frames of an episode and the actions into them
    (b, ...), oldest first.

    The oldest one of ``frames`` is an episode's first, which no action led to, unless there are
    more than ``count`` of them.
    """
    whole = len(frames) > count
    shown = frames if after else frames[:-1]
    shown, led = shown[-count:], acts[-count:] if whole else acts[1:][-count:]

    def fill(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
        missing = count - len(parts)
        present = torch.tensor([False] * missing + [True] * len(parts), device=parts[0].device)
        return torch.stack([parts[0]] * missing + parts, 1), present.expand(len(parts[0]), count)

    (rgb, present), (act, taken) = fill(shown), fill(led)
    return Seen(rgb, present, act, taken)


def strips(forced: dict[str, Any], held_out: HeldOut, steps: int = 8) -> Array:
    """The last steps of the first few episodes: true frames, and the one-step dreams with the
    network's probability of an end."""
    sheets = []
    for i, rgb in enumerate(forced["rgb"]):
        frames = held_out.recorded.rgb[held_out.episodes[i]].cpu().permute(0, 2, 3, 1).numpy()
        said = forced["network ending"][i][-steps:, 0]
        other = forced.get("after, dreamed frame ending")
        extra = [
            "" if other is None else f"\n{p:.3f}"
            for p in (said if other is None else other[i][-steps:, 0])
        ]
        rows = {
            "true": list(frames[-steps:]),
            "dream": [np.ascontiguousarray(x.transpose(1, 2, 0)) for x in rgb[-steps:]],
        }
        title = [
            f"episode {i}, its last {steps} steps: probability of an end by the network's head"
            + (", by the separate one" if other else "")
        ]
        sheets.append(
            contact_sheet(rows, [f"{p:.3f}{e}" for p, e in zip(said, extra, strict=True)], 2, title)
        )
    width = max(sheet.shape[1] for sheet in sheets)
    return np.concatenate([np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0))) for s in sheets])


# Results.


def report(config: ArmsConfig) -> None:
    """Everything that is there by now: ``summary.json`` and ``table.txt``."""
    results = dict(found(config))
    rows: dict[str, dict[str, Any]] = {}
    lines = [
        f"{'world':<18}{'steps':>7}{'minutes':>9}{'PSNR':>8}{'pooled':>8}{'copy':>8}{'pooled':>8}"
        "   steps an episode"
    ]
    for name, result in results.items():
        alone = name in ("heads", "reference")
        rows |= {
            (head if alone else f"{name}: {head}"): values
            for head, values in result["heads"].items()
        }
        if not alone:
            lengths = ", ".join(f"{k} {v:.1f}" for k, v in result["episode_steps"].items())
            lines.append(
                f"{name:<18}{result['steps']:>7}{result['train_seconds'] / 60:>9.1f}"
                + "".join(
                    f"{result[key]:>8.2f}"
                    for what in ("next_frame", "copy_last")
                    for key in (f"{what}_psnr", f"{what}_psnr_pooled")
                )
                + f"   {lengths}"
            )
    if not rows:
        return
    text = table(rows) + "\n\n" + "\n".join(lines)
    (config.out / "table.txt").write_text(text + "\n")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    write_json(
        config.out / "summary.json",
        {"config": config, "hardware": f"{config.gpus} x {device}", "results": results},
    )
    if config.stage == "report":
        print(text, flush=True)


def found(config: ArmsConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in ("heads", "reference", *config.arms):
        path = config.work / "results" / f"{name}.json"
        if path.exists():
            yield name, read_json(path)


if __name__ == "__main__":
    main(tyro.cli(ArmsConfig))
