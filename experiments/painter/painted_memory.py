"""Trains freedoom-tiny to trust painted memories, and measures it before and after.

    python experiments/painter/painted_memory.py --out out/painted --minutes 13 --workers 14

In order: ``record`` (train maps, and the test walks, beside the training), ``train`` (from
freedoom-tiny's weights, as its last run was, with painted views in 40% of the walks), ``ship``
(8-bit weights with the ego-motion head of the first world, and 16-bit weights), ``evaluate``
(``worldsim evaluate`` of both worlds) and ``dreams`` (``painted_dreams.py``). Give ``--parts`` to
run some of them; each resumes where it was interrupted. Logs lie in the folder, results in
``painted_memory.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from worldsim.runtime.files import is_file, save_tensors
from worldsim.runtime.json_config import read_json, write_json
from worldsim.runtime.types import JsonObject
from worldsim.world import World

Part = Literal["record", "train", "ship", "evaluate", "dreams"]
HERE = Path(__file__).parent
STARTUP_S = 45.0
"""Seconds that the training takes outside its own clock."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    out: Path
    """Folder of everything."""
    parts: tuple[Part, ...] = ("record", "train", "ship", "evaluate", "dreams")
    """What to run."""
    world: str = "freedoom-tiny"
    """World to start from."""
    minutes: float = 13.0
    """Minutes of training, its start included."""
    steps: int | None = None
    """Training steps instead."""
    frames: int = 360_000
    """Frames to record."""
    shard: int = 4096
    """Frames per shard."""
    episode_steps: int = 160
    """Steps of a recorded walk."""
    workers: int = 1
    """Recording processes."""
    walk_workers: int = 1
    """Processes that record the test walks."""
    seed: int = 71
    """Seed of the recording."""
    batch_size: int = 32
    """Windows per step."""
    buffer_frames: int = 520_000
    """Frames on the device."""
    memory_capacity: int = 81_920
    """Points per walk in training: painted views add to those that a walk sees."""
    learning_rate: float = 2e-4
    """Peak learning rate: a third of that of the earlier runs."""
    refresh_every: int = 200
    """Steps between looks for new recordings."""
    painter: str = "freedoom-painter"
    """Painter of the walks and of the dreams."""
    share: float = 0.4
    """Share of painted walks."""
    every: int = 2
    """Frames from one look ahead to the next."""
    painter_steps: int = 8
    """The painter's sampling steps."""
    places: int = 32
    """Places painted at once."""
    episodes: int = 32
    """Walks of ``worldsim evaluate``."""
    walks: int = 64
    """Dreamed walks."""
    horizon: int = 96
    """Dreamed frames."""
    dreams_seconds: float = 240.0
    """No further dream begins after this many seconds."""


class Run:
    """The commands of the experiment."""

    def __init__(self, config: Config) -> None:
        self.config, self.out = config, config.out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.beside: list[subprocess.Popen[bytes]] = []
        self.begun = time.monotonic()
        # Parts that were run before are told, too.
        file = self.out / "painted_memory.json"
        self.told: JsonObject = read_json(file) if is_file(file) else {"seconds": {}}

    def command(self, name: str, *arguments: str, beside: bool = False) -> int:
        """Run a Python command with a log ``NAME.log``; returns its status, 0 if it runs beside."""
        log = (self.out / f"{name}.log").open("ab")
        line = [sys.executable, *arguments]
        if beside:
            self.beside.append(subprocess.Popen(line, cwd=self.out, stdout=log, stderr=log))
            return 0
        return subprocess.run(line, cwd=self.out, stdout=log, stderr=log, check=False).returncode

    def worldsim(self, name: str, *arguments: str, beside: bool = False) -> int:
        """Run a command of ``worldsim``."""
        return self.command(name, "-m", "worldsim", *arguments, beside=beside)

    def record(self) -> None:
        """Start to record; it goes on beside the training."""
        c = self.config
        self.worldsim(
            "record", "record", "worldsim/FreedoomReal-v0", "--out", "data",
            "--frames", str(c.frames), "--workers", str(c.workers),
            "--frames-per-shard", str(c.shard), "--episode-steps", str(c.episode_steps),
            "--seed", str(c.seed), "--reset-options", "split", "train", beside=True,
        )  # fmt: skip
        self.dreams("walks", "--record-only", beside=True)
        # The training begins with the first shard.
        while not is_file(self.out / "data" / "dataset.json"):
            if self.beside[0].poll() is not None:
                raise SystemExit(f"recording failed: see {self.out / 'record.log'}")
            time.sleep(1.0)

    def train(self) -> None:
        """Train; once more without compilation if it fails."""
        c = self.config
        for again in (False, True):
            left = 60.0 * c.minutes - (time.monotonic() - self.begun) - STARTUP_S
            length = ("--minutes", f"{max(left, 1.0) / 60.0:.3f}")
            if c.steps is not None:
                length = ("--steps", str(c.steps))
            status = self.worldsim(
                "train", "train", "--data", "data", "--out", "run", "--preset", "tiny", *length,
                "--init-from", c.world, "--batch-size", str(c.batch_size),
                "--buffer-frames", str(c.buffer_frames),
                "--memory-capacity", str(c.memory_capacity), "--world-memory-capacity", "262144",
                "--refresh-every", str(c.refresh_every), "--save-every", "400",
                "--sample-every", "1000", "--patience", "600",
                "--mirror-actions", "0", "1", "2", "4", "3", "6", "5", "--decay", "0.5",
                "--learning-rate", str(c.learning_rate), "--motion-learning-rate", "1e-4",
                "--perturb.own", "0.7", "--loss.energy", "0.7", "--loss.pure-noise", "0.7",
                "--edits", "0.15", "--scenes", "0", "--painted.share", str(c.share),
                "--painted.painter", c.painter, "--painted.every", str(c.every),
                "--painted.num-inference-steps", str(c.painter_steps),
                "--painted.places", str(c.places), *(("--no-compile",) if again else ()),
            )  # fmt: skip
            if status == 0:
                return
        raise SystemExit(f"training failed: see {self.out / 'train.log'}")

    def ship(self) -> None:
        """Write ``world``, as it would be shipped, and ``weights16.safetensors``."""
        first = World.from_pretrained(self.config.world, "cpu")
        world = World.from_pretrained(str(self.out / "run" / "world"), "cpu")
        earlier = first.card.get("training", {})
        runs = [*earlier.get("runs", [earlier]), world.card["training"]]
        card = {k: v for k, v in world.card.items() if k not in ("results", "return_trips")}
        card["training"] = {**earlier, "runs": runs}
        for name in ("summary", "licence"):
            if name in first.card:
                card[name] = first.card[name]
        # Heads that learn beside dreaming networks distrust walls.
        made = World(world.network, world.config, first.ego_motion, world.outcome, card)
        made.save_pretrained(self.out / "world", eight_bit=True)
        tensors = {
            f"{name}.{key}": value.to(torch.float16) if value.is_floating_point() else value
            for name, module in world.modules().items()
            for key, value in module.state_dict().items()
        }
        save_tensors(tensors, self.out / "weights16.safetensors")

    def evaluate(self) -> None:
        """Measure both worlds by the protocol."""
        for name, world in (("after", "world"), ("before", self.config.world)):
            self.worldsim(
                "evaluate", "evaluate", world, "--episodes", str(self.config.episodes),
                "--json", f"evaluation_{name}.json", "--cache", "evaluated",
            )  # fmt: skip

    def dreams(self, name: str = "dreams", *more: str, beside: bool = False) -> None:
        """Measure dreams with and without painting."""
        c = self.config
        self.command(
            name, str(HERE / "painted_dreams.py"), "--out", "dreams", "--before", c.world,
            "--after", "world", "--walks", str(c.walks), "--horizon", str(c.horizon),
            "--painter", c.painter, "--num-inference-steps", str(c.painter_steps),
            "--places", str(c.places), "--workers", str(c.walk_workers), "--cache", "walks",
            "--seconds", str(c.dreams_seconds), *more, beside=beside,
        )  # fmt: skip

    def run(self) -> JsonObject:
        """Run the parts in order; returns the results."""
        for part in self.config.parts:
            since = time.monotonic()
            getattr(self, part)()
            self.told["seconds"][part] = round(time.monotonic() - since, 1)
            print(f"{part}: {self.told['seconds'][part]} s", flush=True)
        for process in self.beside:
            process.wait()
        files = {
            "history": "run/history.json",
            "evaluation_before": "evaluation_before.json",
            "evaluation_after": "evaluation_after.json",
            "dreams": "dreams/painted_dreams.json",
        }
        for name, file in files.items():
            if is_file(self.out / file):
                self.told[name] = read_json(self.out / file)
        write_json(self.out / "painted_memory.json", self.told)
        return self.told


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    told = Run(tyro.cli(Config)).run()
    print(json.dumps({k: v for k, v in told.items() if k != "history"})[:2000])
