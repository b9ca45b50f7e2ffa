"""A step of a world beside a step of DIAMOND's Atari denoiser, in turns on the same device:
``python speed.py --help``.

Needs a checkout of github.com/eloialonso/diamond, whose modules and settings are imported from
there. Random weights do: speed does not depend on them.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import yaml
from torch import Tensor

from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.evaluation import stopwatch
from worldsim.evaluation.bench import BenchConfig, Start
from worldsim.runtime.json_config import write_json
from worldsim.world import World

SIDE, ACTIONS = 64, 7


@dataclass(frozen=True)
class Config:
    """Settings of the comparison."""

    diamond: Path
    """Checkout of DIAMOND."""
    world: str = "freedoom-tiny"
    """Name or folder of the world; its frames should be 64x64, as DIAMOND's are."""
    json: Path | None = None
    """Write the figures to this file, too."""
    batches: tuple[int, ...] | None = None
    """Environments stepped at once: 1 on a CPU, and 1, 32, 256 on a GPU, if not given."""
    device: str | None = None
    """CUDA where there is one, if not given."""
    threads: int = 2
    """Threads of the CPU."""
    rounds: int = 15
    """So often the two take turns."""
    round_s: float = 1.0
    """Steps of a turn: as many as take about so long, at least 2."""
    walk: int = 36
    """Steps before that, which fill our memory."""
    engine: Literal["plain", "fast", "compiled"] = "plain"
    """How our steps are run."""
    seed: int = 0
    """Of our walk and of their weights."""
    compile: bool = True
    """Try their model compiled as well; the fastest setting is compared."""


class Theirs:
    """DIAMOND's denoiser with its sampler: the frame, without its model of rewards and ends."""

    def __init__(self, checkout: Path, device: torch.device, seed: int) -> None:
        source = checkout / "src"
        if not (source / "models" / "diffusion").is_dir():
            raise NotFoundError(
                f"{checkout} is no checkout of DIAMOND: it has no src/models/diffusion"
            )
        files = (
            checkout / "config" / "agent" / "default.yaml",
            checkout / "config" / "trainer.yaml",
        )
        agent, trainer = (yaml.safe_load(file.read_text()) for file in files)
        # The denoiser names two types from packages that need much more than it does.
        for name, wanted in (("data", "Batch"), ("utils", "LossAndLogs")):
            module: Any = types.ModuleType(name)
            setattr(module, wanted, Any)
            sys.modules[name] = module
        sys.path.insert(0, str(source))
        diffusion: Any = importlib.import_module("models.diffusion")
        settings = _plain(agent["denoiser"])
        inner = diffusion.InnerModelConfig(
            **{**_plain(settings.pop("inner_model")), "num_actions": ACTIONS}
        )
        sampling = _plain(trainer["world_model_env"]["diffusion_sampler"])
        # "2e-3" is a string in YAML; what is to be evaluated are defaults of the class.
        texts = {name: value for name, value in sampling.items() if isinstance(value, str)}
        sampling = {name: value for name, value in sampling.items() if name not in texts}
        sampling |= {
            name: float(value) for name, value in texts.items() if not value.startswith("$")
        }
        torch.manual_seed(seed)
        self.device, self.frames, self.steps = (
            device,
            inner.num_steps_conditioning,
            int(sampling["num_steps_denoising"]),
        )
        self.denoiser = (
            diffusion.Denoiser(diffusion.DenoiserConfig(inner_model=inner, **settings))
            .to(device)
            .eval()
        )
        self.denoiser.requires_grad_(False)
        self.sampler = diffusion.DiffusionSampler(
            self.denoiser, diffusion.DiffusionSamplerConfig(**sampling)
        )
        self.parameters = sum(p.numel() for p in self.denoiser.parameters())

    def settings(self, compiled: bool) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        """Ways to draw a frame, by name: eager and compiled, without and with bfloat16 autocast.

        On a GPU all of them run under bfloat16 autocast, and one of them with CUDA graphs.
        """

        def plain(obs: Tensor, act: Tensor) -> Tensor:
            return self.sampler.sample(obs, act)[0]

        def bfloat16(draw: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
            def autocast(obs: Tensor, act: Tensor) -> Tensor:
                with torch.autocast(self.device.type, torch.bfloat16):
                    return draw(obs, act)

            return autocast

        ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"eager": plain}
        if compiled:
            ways["compiled"] = torch.compile(plain)
        if self.device.type == "cuda":
            if compiled:
                ways["compiled, CUDA graphs"] = torch.compile(plain, mode="reduce-overhead")
            return {name: bfloat16(draw) for name, draw in ways.items()}
        return ways | {f"{name}, bfloat16": bfloat16(draw) for name, draw in ways.items()}

    def stepper(
        self, batch: int, draw: Callable[[Tensor, Tensor], Tensor]
    ) -> Callable[[int], None]:
        """A function that takes so many steps, each feeding its frame back."""
        obs = torch.zeros(batch, self.frames, 3, SIDE, SIDE, device=self.device)
        acts = torch.randint(ACTIONS, (batch, self.frames), device=self.device)

        def go(count: int) -> None:
            nonlocal obs
            with torch.no_grad():
                for _ in range(count):
                    torch.compiler.cudagraph_mark_step_begin()
                    obs = torch.cat([obs[:, 1:], draw(obs, acts)[:, None].float()], 1)

        return go


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def fastest(
    theirs: Theirs, batch: int, compiled: bool
) -> tuple[str, Callable[[int], None], dict[str, float | str]]:
    """Their quickest way: its name, its stepper, and milliseconds a step of every way that was
    tried, or why it failed."""
    tried: dict[str, float | str] = {}
    best: tuple[float, str, Callable[[int], None]] | None = None
    for name, draw in theirs.settings(compiled).items():
        go = theirs.stepper(batch, draw)
        try:
            go(4)
            took = min(stopwatch.seconds(lambda go=go: go(4), theirs.device) / 4 for _ in range(3))  # type: ignore[misc]
        # A compiler may be missing, or not know an operation: then it is not their best.
        except Exception as error:
            tried[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
            continue
        tried[name] = 1000 * took
        if best is None or took < best[0]:
            best = took, name, go
    if best is None:
        raise InvalidInputError(f"DIAMOND's denoiser does not run here: {tried}")
    return best[1], best[2], tried


def our_stepper(world: World, start: Start, batch: int) -> Callable[[int], None]:
    """A function that takes so many steps of the world, memory and heads included, from the end of
    the walk on."""
    acts, state = start.actions(batch), start.batch(batch)
    at = 0

    def go(count: int) -> None:
        nonlocal state, at
        for _ in range(count):
            # Back to where the walk ended before the memory has grown to another size.
            state = start.batch(batch) if at % len(acts) == 0 else state
            state, _ = world.step(state, acts[at % len(acts)])
            at += 1

    return go


def compare(
    config: Config, world: World, theirs: Theirs, start: Start, batch: int
) -> dict[str, Any]:
    """Both in turns; milliseconds a step of the whole batch."""
    device = world.device
    name, their_go, tried = fastest(theirs, batch, config.compile)
    our_go = our_stepper(world, start, batch)
    our_go(3)
    counts = {}
    for who, go in (("ours", our_go), ("theirs", their_go)):
        counts[who] = max(
            2, int(config.round_s / (stopwatch.seconds(lambda go=go: go(2), device) / 2))
        )  # type: ignore[misc]
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(config.rounds):
        # Who goes first changes, so that neither always finds the machine as the other left it.
        for who, go in (("ours", our_go), ("theirs", their_go))[:: 1 if turn % 2 else -1]:
            times[who].append(
                1000
                * stopwatch.seconds(lambda go=go, n=counts[who]: go(n), device)  # type: ignore[misc]
                / counts[who]
            )
    ours, other = (statistics.median(times[who]) for who in ("ours", "theirs"))
    ratios = sorted(a / b for a, b in zip(times["ours"], times["theirs"], strict=True))
    flop = {
        "ours": stopwatch.compute(
            lambda: start.world.step(start.batch(batch), start.actions(batch)[0])
        )[0],
        "theirs": stopwatch.compute(
            lambda: theirs.stepper(batch, theirs.settings(False)["eager"])(1)
        )[0],
    }
    return {
        "batch": batch,
        "ms_per_step": {"ours": ours, "theirs": other},
        "range": {who: [min(values), max(values)] for who, values in times.items()},
        "ratio": ours / other,
        "ratio_of_turns": {
            "least": ratios[0],
            "median": statistics.median(ratios),
            "most": ratios[-1],
        },
        "gflop_per_step": {who: value / 1e9 for who, value in flop.items()},
        "their_setting": name,
        "their_settings_ms": tried,
        "rounds": config.rounds,
        "steps_of_a_turn": counts,
        "memory_points": start.points(batch),
    }


def main(config: Config) -> None:
    """Compare at every batch; the figures are printed and written as they come."""
    device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    batches = config.batches or ((1, 32, 256) if device.type == "cuda" else (1,))
    with stopwatch.using_threads(config.threads), torch.no_grad():
        theirs = Theirs(config.diamond, device, config.seed)
        world = World.from_pretrained(config.world, device)
        start = Start(
            world, BenchConfig(config.world, batches=batches, walk=config.walk, seed=config.seed)
        )
        world = world.with_engine(config.engine)
        parameters = sum(
            p.numel() for module in world.modules().values() for p in module.parameters()
        )
        report: dict[str, Any] = {
            "device": stopwatch.device_name(device),
            "torch": torch.__version__,
            "threads": config.threads,
            "taken": time.strftime("%Y-%m-%d"),
            "parameters": {"ours": parameters, "theirs": theirs.parameters},
            "engine": config.engine,
            "sampling_steps": {
                "ours": world.config.dynamics.num_inference_steps,
                "theirs": theirs.steps,
            },
            "results": [],
        }
        print(json.dumps({name: value for name, value in report.items() if name != "results"}))
        for batch in batches:
            report["results"].append(compare(config, world, theirs, start, batch))
            print(json.dumps(report["results"][-1]), flush=True)
            if config.json is not None:
                write_json(config.json, report)


if __name__ == "__main__":
    main(tyro.cli(Config))
