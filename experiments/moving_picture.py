"""Write the README's moving picture: a walk out and back in a world and in its real twin, side by
side: ``python experiments/moving_picture.py --help``.

The walk is that of ``worldsim demo``. The pictures of the true history, a look around, come first,
marked as such; from there on the dream receives actions alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from worldsim.app.demo import DemoConfig, dream_along, play, real_twin
from worldsim.app.step_pictures import as_picture
from worldsim.errors import InvalidInputError
from worldsim.evaluation.metrics import psnr
from worldsim.io.pictures import panels
from worldsim.world import World


@dataclass(frozen=True)
class Config:
    """Settings of the picture."""

    out: Path = Path("docs/images/dream.webp")
    """The animated WebP."""
    world: str = "freedoom-small"
    """Name or folder of the world."""
    seed: int = 36
    """Of the start, on a map that the world was not trained on, and of the dream."""
    history: int = 48
    """True frames that the dream receives."""
    outward: int = 30
    """Steps away from there; as many lead back."""
    shown_history: int = 8
    """True frames that are shown before the dream."""
    scale: int = 3
    """Pixels of the picture per pixel of a frame, along each axis."""
    fps: float = 8.0
    """Frames per second."""
    quality: int = 80
    """Of the WebP; lowered in steps of 5 until the file is small enough."""
    largest: int = 600_000
    """Bytes of the file."""


def pictures(config: Config) -> list[NDArray[np.uint8]]:
    """The frames of the picture, (h, w, 3) each."""
    world = World.from_pretrained(config.world, "cpu")
    demo = DemoConfig(
        world=config.world, seed=config.seed, history=config.history, outward=config.outward
    )
    twin = real_twin(world)
    walk = play(demo, twin, config.seed)
    twin.close()
    if walk is None:
        raise InvalidInputError(f"the walk of seed {config.seed} ends early: take another seed")
    dream = dream_along(demo, world, walk).rgb
    real = walk.rgb[config.history :]
    print(f"{walk.map}: {psnr(dream, real).mean():.2f} dB, brightness {real.float().mean():.0f}")
    frames = []
    for t in range(config.history - config.shown_history, config.history):
        true = as_picture(walk.rgb[t])
        caption = "true frames, given to both"
        frames.append(panels({"dream": true, "real": true}, config.scale, caption))
    for t in range(len(dream)):
        way = "out" if t < config.outward else "back"
        caption = f"dreamed from actions alone: step {t + 1}, {way}"
        shown = {"dream": as_picture(dream[t]), "real": as_picture(real[t])}
        frames.append(panels(shown, config.scale, caption))
    return frames


def encode(frames: list[NDArray[np.uint8]], fps: float, quality: int) -> bytes:
    """An animated WebP that begins anew after a second on its last frame."""
    images = [Image.fromarray(frame) for frame in frames]
    durations = [round(1000 / fps)] * (len(images) - 1) + [1000]
    file = io.BytesIO()
    images[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=durations,
        loop=0,
        quality=quality,
        method=6,
    )
    return file.getvalue()


def main(config: Config) -> None:
    frames = pictures(config)
    for quality in range(config.quality, 0, -5):
        data = encode(frames, config.fps, quality)
        if len(data) <= config.largest:
            config.out.write_bytes(data)
            print(f"{config.out}: {len(data):,} bytes, quality {quality}, {len(frames)} frames")
            return
    raise InvalidInputError(f"{len(frames)} frames do not fit into {config.largest:,} bytes")


if __name__ == "__main__":
    main(tyro.cli(Config))
