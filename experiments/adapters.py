"""Adapters on changed dynamics: how much of full fine-tuning's gain do few clips give?

    python -m experiments.adapters --part record --out /tmp/adapters
    python -m experiments.adapters --part gradients --out /tmp/adapters --json adapters.json
    python -m experiments.adapters --part ideas --out /tmp/adapters
    python -m experiments.adapters --part final --out /tmp/adapters
    python -m experiments.adapters --part report --out /tmp/adapters --json adapters.json

The shipped world of the real twin is adapted to a twin with other dynamics
(experiments/changed_twins.py). ``ideas`` compares layers, ranks and learning rates of adapters, and
trainings of some weights, on validation clips. ``final`` compares the best adapter with the best
training of all weights, on test clips. All start from the same world and take the same steps.
Measured are the next frame from the true past, and frames of a dream that receives the true
actions.
Several processes may share a folder; what is there already is not done again.
"""

from __future__ import annotations

import dataclasses
import gc
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.episode import Episode
from worldsim.data.record import RecordConfig, record
from worldsim.data.starts import scene_at
from worldsim.evaluation.metrics import psnr
from worldsim.evaluation.statistics import interval, mean_statistic
from worldsim.runtime.json_config import read_json, to_json, write_json
from worldsim.state import Frame
from worldsim.training.config import AdapterLayers, TrainConfig
from worldsim.training.loss import LossConfig
from worldsim.training.train import run, train
from worldsim.training.trainer import Trainer
from worldsim.world import World
from worldsim.world.world import bucket


@dataclass(frozen=True)
class Twin:
    """A shipped world and the changed twin that it is adapted to."""

    world: str
    env_id: str
    env_kwargs: dict[str, int | float | bool | str]
    size: tuple[int, int] | None = (64, 64)
    key: str | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    memory: bool = False
    last_frames: int = 4


Scores = dict[str, Any]
"""PSNR by figure, with intervals."""
TASK_LOSS = LossConfig(energy=0.9, detail=0.8, balance="level", outcome_weight=2.0)  # type: ignore[arg-type]
TWINS = {
    "takecover": Twin(
        "takecover",
        "experiments.changed_twins:FastTakeCover-v0",
        {"frame_skip": 4, "max_episode_steps": 525},
        key="screen",
        loss=TASK_LOSS,
    ),
    "carracing": Twin("carracing", "experiments.changed_twins:IcyCarRacing-v0", {}, last_frames=0),
    "freedoom": Twin(
        "freedoom-tiny", "experiments.changed_twins:FastFreedoom-v0", {}, size=None, memory=True
    ),
}


@dataclass(frozen=True)
class Arm:
    """One training."""

    clips: int = 50
    """Clips; 0: all."""
    rank: int = 0
    """Rank of an adapter; 0 trains weights."""
    layers: AdapterLayers = AdapterLayers.TEMPORAL
    """Layers that the adapter changes."""
    rate: float = 1e-4
    """Peak learning rate."""
    ratio: float = 1.0
    """Rate of the second factors over that of the first ones."""
    probe: int = 0
    """Of the steps, those in which all weights are trained first, for ranks and a start."""
    longer: int = 1
    """Factor of the steps."""
    only: str = ""
    """Weights that are trained, a regular expression of their names; empty: all."""


ALL, PIXELS = AdapterLayers.ALL, AdapterLayers.PIXELS
IDEAS = {
    "all weights": Arm(),
    "all, rank 4, 6e-3": Arm(rank=4, layers=ALL, rate=6e-3),
    "all weights, 3e-4": Arm(rate=3e-4),
    "all, rank 4, LoRA+": Arm(rank=4, layers=ALL, rate=2e-3, ratio=8.0),
    "fitted, 2e-3": Arm(rank=64, layers=ALL, rate=2e-3, probe=80),
    "fitted, 6e-3": Arm(rank=64, layers=ALL, rate=6e-3, probe=80),
    "pixels, rank 7, 6e-3": Arm(rank=7, layers=PIXELS, rate=6e-3),
    "all, rank 4, 1.2e-2": Arm(rank=4, layers=ALL, rate=1.2e-2),
    "all, rank 4": Arm(rank=4, layers=ALL, rate=2e-3),
    "weights of the blocks": Arm(only=r"network\.blocks\..*"),
    "weights of the pixel levels": Arm(only=r"network\.(stem|encoder|decoder|down|up|out).*"),
    "temporal, rank 16, 6e-3": Arm(rank=16, rate=6e-3),
    "all, rank 4, 6e-3, LoRA+": Arm(rank=4, layers=ALL, rate=6e-3, ratio=4.0),
    "pixels, rank 7, LoRA+": Arm(rank=7, layers=PIXELS, rate=2e-3, ratio=8.0),
    "temporal, rank 16": Arm(rank=16, rate=2e-3),
    "biases, norms and tables": Arm(
        only=r"network\..*(bias|norm\d?\.weight|table|position)", rate=2e-3
    ),
    "pixels, rank 7": Arm(rank=7, layers=PIXELS, rate=2e-3),
    "weights of attention": Arm(only=r"network\.blocks\.\d+\.(spatial|temporal)\..*"),
    "all, rank 4, 6e-3, twice the steps": Arm(rank=4, layers=ALL, rate=6e-3, longer=2),
    "all weights, twice the steps": Arm(longer=2),
}
"""What is compared on clips that are neither trained on nor tested: layers, rates, steps."""
GROUPS = {
    "pixel levels": r"(stem|encoder|decoder|down|up|out)\b.*|out_norm.*",
    "temporal attention": r"blocks\.\d+\.temporal\..*",
    "spatial attention": r"blocks\.\d+\.spatial\..*",
    "perceptrons": r"blocks\.\d+\.mlp\..*",
    "embeddings and modulation": r"(action|level|motion|modulation|rays)\b.*",
}
"""Groups of the network's layers, whose changes by all weights' training are compared."""
AGES = (1, 4, 16)
"""Steps of a dream at which frames are compared."""


@dataclass(frozen=True)
class Args:
    """What is trained and measured."""

    out: Path
    """Folder for recordings and trainings. Processes that share it share the work."""
    part: Literal["record", "gradients", "ideas", "final", "report"] = "ideas"
    """record: record all clips. gradients: find the layers where the loss falls fastest. ideas:
    train every idea, measured on the validation clips. final: train the best adapter and all
    weights, measured on the test clips. report: collect both."""
    json: Path = Path("experiments/adapters.json")
    """File for the figures."""
    twin: str = "takecover"
    """Name in ``TWINS``."""
    ideas: tuple[str, ...] = tuple(IDEAS)
    """Names in ``IDEAS``."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of the final trainings."""
    steps: int = 240
    """Training steps."""
    batch_size: int | None = 16
    """Windows per step."""
    clip: int = 48
    """Steps per clip."""
    many: int = 400
    """Clips of the largest recording."""
    tests: int = 64
    """Test clips."""
    validation: int = 40
    """Validation clips."""
    minutes: float = 60.0
    """Time after which no further training is begun."""
    workers: int = 8
    """Processes that record."""
    compile: bool = False
    """Compile the network in training."""
    engine: str = "plain"
    """Engine of the measured worlds."""
    device: str | None = None
    """By default the GPU if there is one."""


def clips(args: Args, name: str, count: int, seed: int) -> Path:
    """Record ``count`` clips, or resume; recordings of one seed begin with the same clips."""
    twin, out = TWINS[args.twin], args.out / name
    frames = count * (args.clip + 1)
    if (out / "dataset.json").exists() and EpisodeDataset(out).frames >= frames:
        # Several processes may train on one recording, but only one may record.
        return out
    record(
        RecordConfig(
            twin.env_id,
            out,
            frames=frames,
            frames_per_shard=5 * (args.clip + 1),
            episode_steps=args.clip,
            workers=args.workers,
            env_kwargs=twin.env_kwargs,
            size=twin.size,
            key=twin.key,
            min_travel=0.0,
            seed=seed,
        )
    )
    return out


def recorded(args: Args, arm: Arm) -> Path:
    """Return the recording that an arm is trained on."""
    count = arm.clips or args.many
    return clips(args, f"clips-{count}", count, seed=1)


def settings(args: Args, name: str, arm: Arm, seed: int) -> TrainConfig:
    """Return the settings of a training."""
    twin, steps = TWINS[args.twin], args.steps * arm.longer
    return TrainConfig(
        recorded(args, arm),
        args.out / "trained" / f"{re.sub(r'[^0-9a-zA-Z]+', '-', name)}-{seed}",
        init_from=twin.world,
        adapter=arm.rank,
        adapter_layers=arm.layers,
        adapter_rate_ratio=arm.ratio,
        adapter_probe=arm.probe,
        steps=steps - arm.probe,
        batch_size=args.batch_size,
        learning_rate=arm.rate,
        motion_learning_rate=arm.rate,
        warmup=max(1, steps // 8),
        decay=0.5,
        ema=0.98,
        memory=twin.memory,
        last_frames=twin.last_frames,
        loss=twin.loss,
        colour=0.0,
        save_every=10**6,
        sample_every=10**6,
        scenes=0,
        compile=args.compile,
        seed=seed,
    )


def fit(args: Args, name: str, arm: Arm, seed: int) -> World:
    """Train one arm; returns its world on the CPU."""
    config = settings(args, name, arm, seed)
    if not arm.only:
        return train(config)
    trainer = Trainer(config)
    for part, parameter in trainer.loss_module.named_parameters():
        parameter.requires_grad_(bool(re.fullmatch(arm.only, part)))
    return run(trainer)


def frame_of(episodes: Sequence[Episode], t: int, device: torch.device) -> Frame:
    """Return the true frames at step t."""
    rgb = torch.from_numpy(np.stack([e.rgb[t] for e in episodes])).permute(0, 3, 1, 2)
    if not episodes[0].has_geometry:
        return Frame(rgb.contiguous().to(device))
    depth = torch.from_numpy(np.stack([e.inverse_depth[t].astype(np.int32) for e in episodes]))
    pose = torch.from_numpy(np.stack([e.pose[t] for e in episodes]).astype(np.float32))
    return Frame(rgb.contiguous().to(device), depth.to(device), pose.to(device))


@torch.no_grad()
def measure(world: World, episodes: Sequence[Episode]) -> Scores:
    """Return the PSNR of next frames and of dreams at their ages, with intervals over clips."""
    count = len(episodes)
    scenes = [scene_at(e, 0, 1) for e in episodes]
    device, least = world.device, min(map(len, episodes))

    def padded(x: torch.Tensor, rows: int) -> torch.Tensor:
        return torch.cat([x, x[:1].expand(rows - len(x), *x.shape[1:])])

    true = world.pad(world.initial(scenes, list(range(count))), bucket(count))
    dream, rows = true, len(true)
    found: dict[str, list[np.ndarray]] = {"next_frame_psnr": [], "copy_last_psnr": []}
    for t in range(least - 1):
        act = padded(torch.from_numpy(np.stack([e.act[t] for e in episodes])).to(device), rows)
        before, after = frame_of(episodes, t, device), frame_of(episodes, t + 1, device)
        _, told = world.step(world.own(true), act)
        found["next_frame_psnr"].append(psnr(told.frame.rgb[:count], after.rgb).cpu().numpy())
        found["copy_last_psnr"].append(psnr(before.rgb, after.rgb).cpu().numpy())
        if after.pose is not None:
            missed = (told.frame.pose[:count, :3, 3] - after.pose[:, :3, 3]).norm(dim=1)
            found.setdefault("position_error_m", []).append(missed.cpu().numpy())
        fields = (after.rgb, after.inverse_depth, after.pose)
        seen = Frame(*(None if x is None else padded(x, rows) for x in fields))
        true = world.observe(true, act, seen)
        dream, shown = world.step(dream, act)
        if t + 1 in AGES:
            value = psnr(shown.frame.rgb[:count], after.rgb).cpu().numpy()
            found[f"dream_psnr_{t + 1}"] = [value]
    results: Scores = {}
    for name, values in found.items():
        each = list(np.stack(values, 1))
        results[name] = round(float(np.mean(each)), 3)
        # Too few clips have no interval.
        if (found_interval := interval(mean_statistic(each), count, 1000, 0)) is not None:
            results[f"{name}_ci95"] = [round(value, 3) for value in found_interval]
    return results


def rank_shares(matrices: Sequence[torch.Tensor]) -> dict[str, float]:
    """Return the share of the squares of matrices that matrices of rank 4 and of 16 hold."""
    values = [torch.linalg.svdvals(x.flatten(1)).square() for x in matrices if x.ndim > 1]
    total = float(sum(x.sum() for x in values))
    return {f"rank_{n}": float(sum(x[:n].sum() for x in values)) / total for n in (4, 16)}


def changes(before: World, after: World) -> dict[str, dict[str, float]]:
    """Return what training changed, by group of layers.

    relative: norm of the change over the norm of the weights. share: of the squared change of all
    groups. rank_4, rank_16: share of the squared change of matrices that their best approximations
    of that rank hold. parameters: number.
    """
    pairs = {
        name: (value.double(), after.network.get_parameter(name).cpu().double())
        for name, value in before.network.named_parameters()
    }
    whole = sum(float((b - a).square().sum()) for a, b in pairs.values())
    found = {}
    for group, pattern in GROUPS.items():
        chosen = [pair for name, pair in pairs.items() if re.fullmatch(pattern, name)]
        changed = sum(float((b - a).square().sum()) for a, b in chosen)
        found[group] = {
            "relative": (changed / sum(float(a.square().sum()) for a, _ in chosen)) ** 0.5,
            "share": changed / whole,
            **rank_shares([b - a for a, b in chosen]),
            "parameters": sum(a.numel() for a, _ in chosen),
        }
    return found


def gradients(args: Args, batches: int = 8) -> dict[str, dict[str, float]]:
    """Return where the loss of the changed twin falls fastest, by group of layers.

    Gradients of all weights on two halves of the clips' windows; their product has no noise in the
    mean. share: of the product of all weights. per_parameter: the same over the group's share of
    the parameters. rank_4, rank_16: share of the squared gradient that matrices of that rank hold.
    """
    trainer = Trainer(settings(args, "gradients", Arm(), 0))
    trainer.wait_for_data()
    halves: list[dict[str, torch.Tensor]] = []
    for half in range(2):
        trainer.network.zero_grad(set_to_none=True)
        for batch in range(batches):
            generator = torch.Generator(trainer.device).manual_seed(1000 * half + batch)
            windows, motions = trainer.draw(generator)
            transitions = trainer.draw_transitions(generator)
            intrinsics = trainer.buffer.intrinsics
            losses = trainer.loss_module(windows, motions, intrinsics, generator, 0.0, transitions)
            losses["loss"].backward()
        named = trainer.network.named_parameters()
        halves.append({n: p.grad.double() for n, p in named if p.grad is not None})
    first, second = halves
    product = {name: float((x * second[name]).sum()) for name, x in first.items()}
    count = sum(x.numel() for x in first.values())
    found = {}
    for group, pattern in GROUPS.items():
        names = [name for name in first if re.fullmatch(pattern, name)]
        share = sum(product[name] for name in names) / sum(product.values())
        size = sum(first[name].numel() for name in names)
        found[group] = {
            "parameters": size,
            "share": share,
            "per_parameter": share / (size / count),
            **rank_shares([first[name] + second[name] for name in names]),
        }
    return found


def gain_shares(base: Scores, whole: Scores, part: Scores) -> dict[str, float]:
    """Return the share of all weights' gain that a training has, by figure."""
    return {
        figure: round((part[figure] - base[figure]) / (whole[figure] - base[figure]), 3)
        for figure in ("next_frame_psnr", f"dream_psnr_{AGES[-1]}")
        if whole[figure] > base[figure]
    }


class Work:
    """Trainings and their results in a folder, shared among processes."""

    def __init__(self, args: Args, part: str) -> None:
        self.args, self.begun = args, time.monotonic()
        self.folder = args.out / part
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def clips(self, name: str, count: int, seed: int) -> list[Episode]:
        """Return clips to measure on. Those that ended early are left out."""
        found = list(EpisodeDataset(clips(self.args, name, count, seed)))[:count]
        return [episode for episode in found if len(episode) > self.args.clip]

    @cached_property
    def sets(self) -> dict[str, list[Episode]]:
        """Return validation and test clips."""
        return {
            "validation": self.clips("validation", self.args.validation, 2000),
            "tests": self.clips("tests", self.args.tests, 1000),
        }

    def score(self, name: str, world: World, sets: Sequence[str], **more: object) -> None:
        """Measure a world and write its scores."""
        world = world.to(self.device).with_engine(self.args.engine)
        row = {one: measure(world, self.sets[one]) for one in sets}
        told = {one: (x["next_frame_psnr"], x["dream_psnr_16"]) for one, x in row.items()}
        print(name, told, more.get("seconds"), flush=True)
        write_json(self.folder / f"{name}.json", {**more, **row})
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def claim(self, name: str) -> bool:
        """Return whether this process does this training: no other one does, and time is left."""
        if time.monotonic() - self.begun > 60.0 * self.args.minutes:
            return False
        try:
            (self.folder / f"{name}.claimed").mkdir()
        except FileExistsError:
            return False
        return True

    def train(self, name: str, arm: Arm, seed: int, sets: Sequence[str]) -> None:
        """Train one arm and measure it, unless another process does."""
        if not self.claim(name):
            return
        begun = time.monotonic()
        try:
            world = fit(self.args, name, arm, seed)
            more: dict[str, object] = {"arm": to_json(arm), "seed": seed}
            if name == "all weights":
                base = World.from_pretrained(TWINS[self.args.twin].world, device="cpu")
                more["changes"] = changes(base, world)
            self.score(name, world, sets, **more, seconds=round(time.monotonic() - begun, 1))
        except Exception as error:
            # The other trainings go on.
            print(f"{name}: {type(error).__name__}: {error}", flush=True)

    def results(self) -> dict[str, Any]:
        """Return all results by name."""
        return {path.stem: read_json(path) for path in sorted(self.folder.glob("*.json"))}


def best_idea(ideas: Mapping[str, Any], adapts: bool) -> tuple[str, Arm]:
    """Return the adapter, or the training of all weights, that predicts validation clips best.

    Only trainings of as many steps are compared.
    """
    scores = {
        name: row["validation"]["next_frame_psnr"]
        for name, row in ideas.items()
        if name in IDEAS
        and bool(IDEAS[name].rank) is adapts
        and IDEAS[name].longer == 1
        and not IDEAS[name].only
    }
    name = max(scores, key=lambda one: scores[one])
    return name, IDEAS[name]


def ideas(args: Args) -> None:
    """Train and measure the ideas."""
    work = Work(args, "ideas")
    if work.claim("base"):
        base = World.from_pretrained(TWINS[args.twin].world, device="cpu")
        parameters = sum(p.numel() for m in base.modules().values() for p in m.parameters())
        work.score("base", base, ("validation",), parameters=parameters)
    for name in args.ideas:
        work.train(name, IDEAS[name], 0, ("validation",))


def final(args: Args) -> None:
    """Train the best adapter and all weights, and measure them on the test clips."""
    tried = Work(args, "ideas").results()
    (name, best), (whole_name, whole) = (best_idea(tried, adapts) for adapts in (True, False))
    print(f"best: {name}; {whole_name}", flush=True)
    work = Work(args, "final")
    if work.claim("base"):
        base = World.from_pretrained(TWINS[args.twin].world, device="cpu")
        work.score("base", base, ("tests",), best=name, best_of_all_weights=whole_name)
    arms = {
        "adapter, 50 clips": best,
        "all weights, 50 clips": whole,
        "adapter, 5 clips": dataclasses.replace(best, clips=5),
        "all weights, 5 clips": dataclasses.replace(whole, clips=5),
        "all weights, many clips": dataclasses.replace(whole, clips=0),
    }
    for arms_of_size in (list(arms)[:2], list(arms)[2:]):
        for seed in args.seeds:
            for arm in arms_of_size:
                work.train(f"{arm}, seed {seed}", arms[arm], seed, ("tests",))


def report(args: Args) -> None:
    """Write what was measured."""
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    used = {
        "steps": args.steps, "clip": args.clip, "many": args.many, "batch_size": args.batch_size,
        "tests": args.tests, "validation": args.validation, "hardware": hardware,
    }  # fmt: skip
    found: dict[str, Any] = {"settings": used}
    for part in ("ideas", "final"):
        found[part] = Work(args, part).results()
    tried = found["ideas"]
    if {"base", "all weights"} <= set(tried):
        base, whole = (tried[x]["validation"] for x in ("base", "all weights"))
        for name, row in tried.items():
            row["shares"] = gain_shares(base, whole, row["validation"])
            print(name, row["validation"]["next_frame_psnr"], row["shares"])
    held = read_json(args.json) if args.json.exists() else {}
    write_json(args.json, {**held, args.twin: {**held.get(args.twin, {}), **found}})


def main(args: Args) -> None:
    """Run one part."""
    if args.part == "record":
        clips(args, "tests", args.tests, seed=1000)
        clips(args, "validation", args.validation, seed=2000)
        for count in sorted({50, 5, args.many}):
            clips(args, f"clips-{count}", count, seed=1)
    elif args.part == "gradients":
        held = read_json(args.json) if args.json.exists() else {}
        held.setdefault(args.twin, {})["gradients"] = gradients(args)
        write_json(args.json, held)
        for group, row in held[args.twin]["gradients"].items():
            print(group, row)
    else:
        {"ideas": ideas, "final": final, "report": report}[args.part](args)


if __name__ == "__main__":
    main(tyro.cli(Args, config=(tyro.conf.EnumChoicesFromValues,)))
