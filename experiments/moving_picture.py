"""Write the README's moving picture, a dream beside its real twin under the same actions: ``python
experiments/moving_picture.py --help``.

The world receives the true frames of a look around. From there on it receives actions alone: it
looks around once more, then walks on to where it has not been.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image

from worldsim.app.demo import FORWARD, TURN_LEFT, DemoConfig, Walk, dream_along, real_twin
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
    seed: int = 77
    """Of the start, on a map that the world was not trained on, and of the dream."""
    history: int = 48
    """True frames of the look around that the dream receives; the last 8 are shown."""
    turn: int = 29
    """Dreamed steps of turning left: about once around."""
    ahead: int = 8
    """Dreamed steps forward after that, to where the dream has not been."""
    scale: int = 2
    """Pixels of the picture per pixel of a frame, along each axis."""
    fps: float = 8.0
    """Frames per second."""
    quality: int = 85
    """Of the WebP; lowered in steps of 5 until the file is small enough."""
    largest: int = 600_000
    """Bytes of the file."""


def play(config: Config, world: World, acts: list[int]) -> Walk:
    """What the real twin shows under the actions."""
    twin = real_twin(world)
    seen = [twin.reset(seed=config.seed, options={"split": "test"})]
    for act in acts:
        obs, _, terminated, truncated, info = twin.step(act)
        if terminated or truncated:
            raise InvalidInputError(f"seed {config.seed} ends early: take another seed")
        seen.append((obs, info))
    twin.close()
    rgb = np.stack([obs for obs, _ in seen]).transpose(0, 3, 1, 2)
    depth, pose = (np.stack([info[name] for _, info in seen]) for name in ("depth", "pose"))
    return Walk(
        torch.from_numpy(np.ascontiguousarray(rgb)),
        torch.from_numpy(depth),
        torch.from_numpy(pose),
        torch.from_numpy(np.asarray(seen[0][1]["intrinsics"], np.float32)),
        torch.tensor(acts),
        str(seen[0][1].get("map", "")),
    )


def pictures(config: Config) -> list[NDArray[np.uint8]]:
    """The frames of the picture, (h, w, 3) each."""
    world = World.from_pretrained(config.world, "cpu")
    stages = [("looking around", TURN_LEFT)] * config.turn
    stages += [("walking on", FORWARD)] * config.ahead
    acts = [TURN_LEFT] * (config.history - 1) + [act for _, act in stages]
    walk = play(config, world, acts)
    demo = DemoConfig(world=config.world, seed=config.seed, history=config.history)
    dream, real = dream_along(demo, world, walk).rgb, walk.rgb[config.history :]
    print(f"{walk.map}: {psnr(dream, real).mean():.2f} dB, brightness {real.float().mean():.0f}")
    frames = []
    for rgb in walk.rgb[config.history - 8 : config.history]:
        true = as_picture(rgb)
        frames.append(panels({"dream": true, "real": true}, config.scale, "true frames, for both"))
    for t, (stage, _) in enumerate(stages):
        shown = {"dream": as_picture(dream[t]), "real": as_picture(real[t])}
        frames.append(panels(shown, config.scale, f"from actions alone, step {t + 1}: {stage}"))
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
