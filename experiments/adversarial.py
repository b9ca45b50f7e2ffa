"""Trains freedoom-tiny against a discriminator, and measures its dreams before and after.

    python experiments/adversarial.py --out out/a --arm weak --data data/walks --minutes 12
    python experiments/adversarial.py --out out/a --parts dreams --worlds freedoom-tiny out/a/world

In order: ``train`` (``worldsim distil --method mcm`` from the world's weights), ``ship`` (8-bit
weights), ``dreams``, ``trips`` and ``painted`` (``painter/painted_dreams.py``). Parts are resumed
where they were interrupted.

``dreams``: 64 walks of test maps, 64 true frames and then 96 dreamed ones with the recorded actions
at the true poses, so that every dreamed frame has a true one. Per quarter of the first 48 frames,
and for frames 49 to 96: PSNR, sharpness over the twin's on all pixels and on those that the memory
knew and did not know, and of the mean of a frame and its warped predecessor, in which noise and
flicker vanish. FD of dreamed frames 25 to 48 and 49 to 96 from true frames of other walks. Next
frames of the last 24 true ones, and seen places, in motion.

``trips``: return trips of ``worldsim evaluate --protocol return-trip``, dream returns alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import Tensor

import worldsim.envs  # noqa: F401
from worldsim.evaluation import return_trips as returns
from worldsim.evaluation.benchmark_set import TestSet, TestSetConfig, record_test_set, stack
from worldsim.evaluation.dreams import NEXT, SPANS, Dreams, dream, join
from worldsim.evaluation.encoder import encode, load_encoder
from worldsim.evaluation.figures import SEEN_FRAME_SHARE
from worldsim.evaluation.frechet import frechet_distance
from worldsim.evaluation.metrics import gradient, moved_frames, psnr
from worldsim.evaluation.trip_recording import TripConfig, Trips, stack_trips
from worldsim.io.pictures import contact_sheet, save_picture
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import is_file, save_tensors
from worldsim.runtime.json_config import read_json, write_json
from worldsim.runtime.types import JsonObject
from worldsim.training.checkpoint import read_checkpoint
from worldsim.training.distil import ADVERSARY
from worldsim.training.sharding import part_of
from worldsim.world import World

Part = Literal["record", "train", "ship", "dreams", "trips", "painted"]
HERE = Path(__file__).parent
ENV = "worldsim/FreedoomReal-v0"
WINDOW = 8
"""Dreamed frames before this one attend to true frames."""
PAINTED = (
    "--painted.every", "2", "--painted.coverage", "0.8", "--painted.ahead", "2", "12",
    "--painted.level", "0.3", "0.6", "--painted.num-inference-steps", "8",
)  # fmt: skip
"""How the memory of training walks is painted."""
ARMS: dict[str, tuple[str, ...]] = {
    "weak": ("--adversarial.weight", "0.3", "--adversarial.most", "1000"),
    "strong": ("--adversarial.weight", "1.0", "--adversarial.most", "1000"),
    "capped": ("--adversarial.weight", "1.0", "--adversarial.most", "1"),
}
"""Options in which the arms differ."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    out: Path
    """Folder of everything."""
    parts: tuple[Part, ...] = ("train", "ship", "dreams", "trips", "painted")
    """What to run; ``record`` records the walks and trips of the tests."""
    arm: str = "weak"
    """Which arm to train."""
    data: Path = Path("data")
    """Recording of train maps; it may be in progress."""
    world: str = "freedoom-tiny"
    """World to start from, and the frozen network of the discriminator."""
    worlds: tuple[str, ...] = ()
    """Worlds to measure; by default ``world`` and the trained one."""
    minutes: float = 12.0
    """Minutes of training, its start included."""
    steps: int | None = None
    """Training steps instead."""
    startup: float = 60.0
    """Seconds of them that the training takes outside its own clock."""
    batch_size: int = 20
    """Windows per step."""
    discriminator_steps: int = 200
    """First steps, in which the discriminator alone learns."""
    buffer_frames: int = 400_000
    """Frames on the device."""
    refresh_every: int = 250
    """Steps between looks for new recordings."""
    own: float = 0.7
    """Share of walks that the student dreams in parts."""
    painted: float = 0.4
    """Share of walks with painted views in their memory."""
    cache: Path | None = None
    """Folder of recorded test walks and trips; by default ``walks`` in ``out``."""
    walks: int = 64
    """Dreamed walks; as many others are recorded to compare with."""
    horizon: int = 96
    """Dreamed frames."""
    trips: int = 16
    """Return trips."""
    lengths: tuple[int, ...] = (32, 125, 250)
    """Their lengths, steps."""
    workers: int = 1
    """Recording processes."""
    batch: int = 64
    """Walks dreamed at once."""
    strips: int = 8
    """Walks of which a strip is saved."""
    seconds: float = float("inf")
    """No further measurement begins after this many seconds."""
    device: str | None = None
    """By default the GPU if there is one."""


def command(log: Path, *arguments: str) -> int:
    """Run a Python command; returns its status."""
    with log.open("ab") as file:
        line = [sys.executable, *arguments]
        return subprocess.run(line, stdout=file, stderr=file, check=False).returncode


def run_training(
    out: Path, minutes: float, startup: float, steps: Sequence[str], *arguments: str
) -> None:
    """Run a training of ``worldsim`` in ``out``; once more without compilation if it fails.

    minutes: of the training, its start included. startup: seconds of them outside its own clock.
    steps: options of a length in steps, which takes the place of the minutes; empty for none.
    arguments: the command and its other options.
    """
    if is_file(out / "trained"):
        return
    begun = time.monotonic()
    for again in ((), ("--no-compile",)):
        left = 60.0 * minutes - (time.monotonic() - begun) - startup
        length = steps or ("--minutes", f"{max(left, 1.0) / 60.0:.3f}")
        line = ("-m", "worldsim", *arguments, "--out", str(out / "run"), *length, *again)
        if command(out / "train.log", *line) == 0:
            (out / "trained").touch()
            return
    raise SystemExit(f"training failed: see {out / 'train.log'}")


def train(config: Config) -> None:
    """Train an arm."""
    c = config
    run_training(
        c.out, c.minutes, c.startup,
        () if c.steps is None else ("--training-steps", str(c.steps)),
        "distil", c.world, "--method", "mcm", "--data", str(c.data),
        "--batch-size", str(c.batch_size),
        "--buffer-frames", str(c.buffer_frames), "--memory-capacity", "81920",
        "--loss.regression", "0", "--loss.real", "1", "--loss.own-context", "0",
        "--perturb.own", str(c.own), "--edits", "0.15", "--learning-rate", "5e-5",
        "--warmup", "300", "--decay", "0.3", "--ema", "0.998",
        "--refresh-every", str(c.refresh_every), "--save-every", "200", "--sample-every", "250",
        "--patience", "600", "--adversarial.discriminator-steps", str(c.discriminator_steps),
        "--mirror-actions", "0", "1", "2", "4", "3", "6", "5",
        *PAINTED, "--painted.share", str(c.painted), *ARMS[c.arm],
    )  # fmt: skip


def ship(config: Config) -> None:
    """Write ``world``, as it would be shipped, its 16-bit weights, and the discriminator's."""
    first = World.from_pretrained(config.world, "cpu")
    world = World.from_pretrained(str(config.out / "run" / "world"), "cpu")
    earlier = first.card.get("training", {})
    runs = [*earlier.get("runs", [earlier]), world.card["training"]]
    card = {k: v for k, v in world.card.items() if k not in ("results", "return_trips")}
    card["training"] = {**earlier, "runs": runs}
    card |= {name: first.card[name] for name in ("summary", "licence") if name in first.card}
    made = World(world.network, world.config, first.ego_motion, world.outcome, card)
    made.save_pretrained(config.out / "world", eight_bit=True)
    tensors = {
        f"{name}.{key}": value.to(torch.float16) if value.is_floating_point() else value
        for name, module in world.modules().items()
        for key, value in module.state_dict().items()
    }
    save_tensors(tensors, config.out / "weights16.safetensors")
    found = read_checkpoint(config.out / "run")
    if found is not None:
        save_tensors(part_of(found[2], f"{ADVERSARY}heads."), config.out / "heads.safetensors")


def ratio(mine: Tensor, true: Tensor) -> float | None:
    """Ratio of sums; None for nothing."""
    return round(float(mine.sum() / true.sum()), 4) if float(true.sum()) > 0 else None


def figures(dreams: Dreams, test: TestSet, features: dict[str, Tensor]) -> JsonObject:
    """All figures of a world's dreams.

    test: on the CPU.
    features: (e, t, d) of ``dreamed`` frames and of ``other`` true ones.
    """
    history = test.config.history
    true = test.rgb[:, history:]
    moved = moved_frames(test.pose)
    late = torch.arange(1, test.config.horizon + 1) >= WINDOW
    seen = moved[:, history - 1 :] & late & (test.covered > SEEN_FRAME_SHARE)
    of_dreams = psnr(dreams.rgb, true)
    next_moved = moved[:, history - 1 - NEXT : history - 1]
    found: JsonObject = {
        "next_frame_psnr": round(float(dreams.next_psnr[next_moved].mean()), 3),
        "next_frame_sharpness": ratio(*dreams.next_sharpness.unbind(-1)),
        "seen_psnr": round(float(of_dreams[seen].mean()), 3) if seen.any() else None,
        "novelty": ratio(returns.changed_share(dreams.rgb), returns.changed_share(true)),
        "spans": {},
    }
    for name, (start, stop) in SPANS.items():
        part = slice(start, stop)
        if test.config.horizon < stop:
            continue
        mine, twin, pixels = (x[:, part] for x in (dreams.mine, dreams.true, dreams.pixels))
        found["spans"][name] = {
            "psnr": round(float(of_dreams[:, part].mean()), 3),
            "sharpness": ratio(mine, twin),
            "known": ratio(mine[..., 0], twin[..., 0]),
            "unknown": ratio(mine[..., 1], twin[..., 1]),
            "known_share": ratio(pixels[..., 0], pixels),
            "steady": ratio(dreams.steady[:, part, 0], dreams.steady[:, part, 1]),
            "warping_error": ratio(*dreams.error[:, part].unbind(-1)),
        }
    for name, (start, stop) in (("25-48", (24, 48)), ("49-96", (48, 96))):
        if test.config.horizon >= stop:
            a, b = (features[k][:, start:stop].flatten(0, 1) for k in ("dreamed", "other"))
            found[f"fd_{name}"] = round(frechet_distance(a, b), 2)
    return found


class Measurement:
    """The worlds of one run on the same walks; results are kept after each."""

    def __init__(self, config: Config) -> None:
        self.config, self.begun = config, time.monotonic()
        self.device = resolve_device(config.device)
        self.cache = config.cache or config.out / "walks"
        self.file = config.out / "adversarial.json"
        self.told: JsonObject = read_json(self.file) if is_file(self.file) else {}
        self.worlds = config.worlds or (config.world, str(config.out / "world"))

    def left(self) -> bool:
        """Whether there is time for another measurement."""
        return time.monotonic() - self.begun < self.config.seconds

    def record(self) -> None:
        """Record walks and trips, so that the measurements need not wait for them."""
        self.recorded_walks()
        if self.config.trips:
            self.recorded_trips()

    def recorded_walks(self) -> TestSet:
        """The dreamed walks, then those to compare with, on the CPU."""
        c, settings = self.config, TestSetConfig(ENV, {}, horizon=self.config.horizon)
        return stack(record_test_set(settings, range(2 * c.walks), c.workers, self.cache), settings)

    def recorded_trips(self) -> Trips:
        """The trips, on the device."""
        c, settings = self.config, TripConfig(ENV, {}, lengths=self.config.lengths)
        found = record_test_set(settings, range(c.trips), c.workers, self.cache)
        return stack_trips(found, settings, self.device)

    def dreams(self) -> None:
        """Measure dreams of each world, and save strips."""
        c = self.config
        walks = self.recorded_walks()
        test = walks.part(0, c.walks, "cpu")
        encoder = load_encoder(device=self.device)

        def features(rgb: Tensor) -> Tensor:
            return encode(encoder, rgb.flatten(0, 1)).cpu().unflatten(0, rgb.shape[:2])

        history = test.config.history
        other = features(walks.rgb[c.walks :, history:])
        rows: dict[str, Tensor] = {"real twin": test.rgb[:, history:]}
        results = self.told.setdefault("dreams", {})
        own = features(test.rgb[:, history:])
        results["floor"] = {
            f"fd_{a + 1}-{b}": round(
                frechet_distance(own[:, a:b].flatten(0, 1), other[:, a:b].flatten(0, 1)), 2
            )
            for a, b in ((24, 48), (48, 96))
            if c.horizon >= b
        }
        for name in self.worlds:
            if not self.left():
                break
            world = World.from_pretrained(name, self.device)
            parts = [
                dream(world, walks.part(i, min(i + c.batch, c.walks), self.device))
                for i in range(0, c.walks, c.batch)
            ]
            dreams = join(parts)
            rows[name[-24:]] = dreams.rgb
            results[name] = figures(dreams, test, {"dreamed": features(dreams.rgb), "other": other})
            write_json(self.file, self.told)
            print(name, json.dumps(results[name]), flush=True)
        times = [0, 2, 5, 8, 11, 17, 23, 29, 35, 47, 59, 71, 83, 95]
        times = [t for t in times if t < c.horizon]
        for e in range(min(c.strips, c.walks)):
            pictures = {
                k: [x[e, t].permute(1, 2, 0).numpy() for t in times] for k, x in rows.items()
            }
            title = [f"walk {e} on {test.maps[e]}, true poses"]
            sheet = contact_sheet(pictures, [f"frame {t + 1}" for t in times], title=title)
            save_picture(sheet, c.out / "strips" / f"dream-{e:02d}.png")

    @torch.no_grad()
    def trips(self) -> None:
        """Measure dream returns of each world."""
        trips = self.recorded_trips()
        results = self.told.setdefault("trips", {})
        for name in self.worlds:
            if name in results or not self.left():
                continue
            world = World.from_pretrained(name, self.device)
            out, poses, states = returns._dreamed_way_out(world, trips, lambda: None)
            found: JsonObject = {}
            for length, state in states.items():
                back = returns._follow(
                    world, state, trips.back_act[length], poses[:, :length].flip(1),
                    lambda: None, None,
                )  # fmt: skip
                both = torch.cat([out[:, :length], back], 1)
                truth = torch.cat(
                    [trips.rgb[:, trips.config.start : trips.config.turn(length) + 1],
                     trips.back_rgb[length]], 1,
                )  # fmt: skip
                agreed = psnr(back[:, :-1], out[:, : length - 1].flip(1))
                found[str(length)] = {
                    "dream_return": round(float(agreed[:, WINDOW - 1 :].mean()), 3),
                    "sharpness": ratio(gradient(both).mean((2, 3)), gradient(truth).mean((2, 3))),
                    "novelty": ratio(
                        returns.changed_share(out[:, :length]),
                        returns.changed_share(truth[:, :length]),
                    ),
                }
            results[name] = found
            write_json(self.file, self.told)
            print(name, json.dumps(found), flush=True)

    def painted(self) -> None:
        """Measure dreams at their own poses with and without painting ahead."""
        c, folder = self.config, self.config.out / "painted"
        if not is_file(folder / "painted_dreams.json"):
            command(
                c.out / "painted.log", str(HERE / "painter" / "painted_dreams.py"),
                "--out", str(folder), "--before", c.world, "--after", str(c.out / "world"),
                "--walks", str(c.walks), "--horizon", str(c.horizon), "--cache", str(self.cache),
                "--seconds", str(max(1.0, c.seconds - (time.monotonic() - self.begun))),
                "--strips", str(c.strips),
            )  # fmt: skip
        if is_file(folder / "painted_dreams.json"):
            self.told["painted"] = read_json(folder / "painted_dreams.json")


def table(told: JsonObject) -> str:
    """The figures that decide, a line a world."""
    lines = []
    for name, d in told.get("dreams", {}).items():
        if name == "floor":
            continue
        spans = d["spans"].values()
        cells = [f"{name[-20:]:20s} next {d['next_frame_psnr']:.2f} dB seen {d['seen_psnr']}"]
        for key in ("sharpness", "known", "unknown", "steady"):
            cells.append(f"{key} " + " ".join(f"{s[key] or 0:.2f}" for s in spans))
        cells.append("FD " + " ".join(str(d.get(f"fd_{k}")) for k in ("25-48", "49-96")))
        for length, trip in told.get("trips", {}).get(name, {}).items():
            cells.append(f"N={length} {trip['dream_return']:.1f} dB nov {trip['novelty']}")
        lines.append(" | ".join(cells))
    return "\n".join(lines)


def main(config: Config) -> None:
    """Run the parts."""
    config.out.mkdir(parents=True, exist_ok=True)
    measurement = None
    seconds: JsonObject = {}
    for part in config.parts:
        since = time.monotonic()
        if part in ("train", "ship"):
            {"train": train, "ship": ship}[part](config)
        else:
            measurement = measurement or Measurement(config)
            getattr(measurement, part)()
        seconds[part] = round(time.monotonic() - since, 1)
        print(f"{part}: {seconds[part]} s", flush=True)
    if measurement is not None:
        told = measurement.told
        told["seconds"] = told.get("seconds", {}) | seconds
        if is_file(config.out / "run" / "history.json"):
            told["history"] = read_json(config.out / "run" / "history.json")
        write_json(measurement.file, told)
        print(table(told))


if __name__ == "__main__":
    main(tyro.cli(Config))
