"""Trains freedoom-tiny on walks as painted dreams are: sharp where the memory shows nothing.

    python experiments/sharper.py --out out/full --arm full --data data --minutes 14

In half of the walks, the memory takes nothing from late frames and holds painted views ahead, and
most late frames are the network's own. The loss is the energy score, and the squared error on
pixels that the memory knows. ``world`` in the folder is the trained world as it would be shipped:
8-bit weights and the ego-motion head of the first world. Measure it with ``adversarial.py --parts
dreams trips`` and ``painter/painted_dreams.py``.

While it trains, ``home`` is written again after each checkpoint: the world as it would be shipped,
its 16-bit weights, and the curve. If the machine is lost, the last ones can be measured.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import tyro
from adversarial import Config as Shipped
from adversarial import run_training, ship

from worldsim.errors import WorldsimError
from worldsim.runtime.files import is_file

ARMS: dict[str, tuple[str, ...]] = {
    "full": ("--loss.energy", "1.0", "--loss.known", "0.5"),
    "most": ("--loss.energy", "0.85", "--loss.known", "0.25"),
}
"""Options in which the arms differ."""
OWN = ("--perturb.own-frames", "4", "512")
"""Walks that the network dreams in parts."""
PAINTED = (
    "--painted.takes", "nothing", "--painted.every", "3", "--painted.coverage", "0.8",
    "--painted.ahead", "2", "12", "--painted.level", "0.1", "0.6", "--painted.invented", "0.25",
    "--painted.since", "0", "48", "--painted.num-inference-steps", "8", "--painted.places", "64",
)  # fmt: skip
"""How walks with painted views pass through the memory."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    out: Path
    """Folder of everything."""
    arm: str = "full"
    """Which arm to train."""
    data: Path = Path("data")
    """Recording of train maps, or a folder of some; others may be added during the training."""
    world: str = "freedoom-tiny"
    """World to start from."""
    preset: str = "tiny"
    """Its preset; ``small`` for ``freedoom-small``."""
    capacity: tuple[int, int] = (65_536, 262_144)
    """Points of the memory in training and in use; freedoom-small has 147,456 and 524,288."""
    minutes: float = 14.0
    """Minutes of training, its start included."""
    steps: int | None = None
    """Training steps instead."""
    startup: float = 90.0
    """Seconds of them that the training takes outside its own clock."""
    batch_size: int = 24
    """Windows per step."""
    buffer_frames: int = 200_000
    """Frames on the device."""
    refresh_every: int = 300
    """Steps between looks for new recordings."""
    save_every: int = 100
    """Steps between checkpoints."""
    home: Path | None = None
    """Folder for what is brought home; by default ``home`` in ``out``."""
    own: float = 1.0
    """Share of walks that the network dreams in parts."""
    painted: float = 0.5
    """Share of walks with painted views in their memory; 0 for frames of another size than the
    painter's."""


def train(config: Config) -> None:
    """Train an arm."""
    c = config
    run_training(
        c.out, c.minutes, c.startup, () if c.steps is None else ("--steps", str(c.steps)),
        "train", "--data", str(c.data), "--preset", c.preset, "--init-from", c.world,
        "--batch-size", str(c.batch_size), "--buffer-frames", str(c.buffer_frames),
        "--memory-capacity", str(c.capacity[0]), "--world-memory-capacity", str(c.capacity[1]),
        "--refresh-every", str(c.refresh_every), "--save-every", str(c.save_every),
        "--sample-every", "600", "--patience", "600", "--scenes", "0", "--edits", "0.15",
        "--mirror-actions", "0", "1", "2", "4", "3", "6", "5", "--learning-rate", "3e-4",
        "--motion-learning-rate", "1e-4", "--warmup", "100", "--decay", "0.5",
        "--ema", "0.998", "--loss.pure-noise", "0.85", *ARMS[c.arm], *OWN,
        "--perturb.own", str(c.own), *(PAINTED if c.painted else ()),
        "--painted.share", str(c.painted),
    )  # fmt: skip


def bring_home(config: Config, home: Path) -> None:
    """Write the world of the last checkpoint, its 16-bit weights and the curve to ``home``."""
    # A checkpoint that is being written cannot be read: the next one will be.
    with suppress(WorldsimError, OSError):
        ship(Shipped(out=config.out, world=config.world))
        home.mkdir(parents=True, exist_ok=True)
        copyfile(config.out / "run" / "history.json", home / "history.json")
        for file in (config.out / "world").rglob("*"):
            if is_file(file) and "scenes" not in file.parts:
                there = home / "world" / file.relative_to(config.out / "world")
                there.parent.mkdir(parents=True, exist_ok=True)
                copyfile(file, there)
        copyfile(config.out / "weights16.safetensors", home / "weights16.safetensors")


@contextmanager
def brought_home(config: Config, seconds: float = 5.0) -> Iterator[None]:
    """Bring each checkpoint home while the body runs, and the last one after it."""
    home, over = config.home or config.out / "home", threading.Event()
    checkpoint = config.out / "run" / "checkpoint" / "checkpoint.json"

    def watch() -> None:
        seen = 0.0
        while not over.wait(seconds):
            with suppress(OSError):
                now = checkpoint.stat().st_mtime
                if now != seen:
                    # The world is written after the checkpoint.
                    over.wait(seconds)
                    bring_home(config, home)
                    seen = now

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        bring_home(config, home)


def main(config: Config) -> None:
    """Train and write the world."""
    config.out.mkdir(parents=True, exist_ok=True)
    with brought_home(config):
        train(config)
    ship(Shipped(out=config.out, world=config.world))


if __name__ == "__main__":
    main(tyro.cli(Config))
