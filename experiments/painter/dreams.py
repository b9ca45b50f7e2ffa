"""How far a world's dreamed frames lie from true ones, by the frozen encoder.

    python experiments/painter/dreams.py --out out/dreams --world freedoom-tiny --walks 64

Records walks of the test set's protocol (64 true frames, then 48), dreams the 48 at true poses and
writes both to ``frames.safetensors``; with ``--encoder`` it measures frames 25 to 48. Dreams of one
half of the walks are compared with true frames of the other half; true frames of the first half in
their place give the floor.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from worldsim.evaluation.benchmark_set import TestSetConfig, record_test_set, stack
from worldsim.evaluation.encoder import WEIGHTS, encode, load_encoder
from worldsim.evaluation.frechet import frechet_with_interval, kernel_with_interval
from worldsim.runtime.files import is_file, load_tensors, save_tensors, sha256_of
from worldsim.runtime.json_config import write_json
from worldsim.state import SceneStart
from worldsim.world import World

FROM = 24
"""First dreamed frame that counts."""


@dataclass(frozen=True)
class Config:
    """Settings."""

    out: Path
    """Folder of ``frames.safetensors`` and ``dreams.json``."""
    world: str = "freedoom-tiny"
    """Name or folder."""
    walks: int = 64
    """Walks of test maps, an even number."""
    workers: int = 1
    """Recording processes."""
    encoder: Path | None = None
    """Folder of the frozen encoder."""


@torch.no_grad()
def dream(config: Config) -> dict[str, torch.Tensor]:
    """True and dreamed frames of walks, (e, 48, 3, h, w) uint8."""
    settings = TestSetConfig("worldsim/FreedoomReal-v0", {})
    cache = config.out / "walks"
    walks = stack(record_test_set(settings, range(config.walks), config.workers, cache), settings)
    world = World.from_pretrained(config.world, "cpu")
    history = walks.config.history
    first = walks.frame(0)
    assert first.inverse_depth is not None and first.pose is not None
    noop = torch.zeros(1, dtype=torch.int64)
    scenes = [
        SceneStart(
            first.rgb[e, None], noop, first.inverse_depth[e, None], first.pose[e, None], lens
        )
        for e, lens in enumerate(walks.intrinsics)
    ]
    state, frames = world.initial(scenes, list(range(len(walks)))), []
    for t in range(1, history):
        state = world.observe(state, walks.act[:, t - 1], walks.frame(t))
    for t in range(history, history + walks.config.horizon):
        state, transition = world.step(state, walks.act[:, t - 1], pose=walks.pose[:, t])
        frames.append(transition.frame.rgb)
    return {
        "dreamed": torch.stack(frames, 1),
        "true": walks.rgb[:, history:].contiguous(),
    }


def main(config: Config) -> None:
    """Dream, and measure if there is an encoder."""
    path = config.out / "frames.safetensors"
    frames = load_tensors(path) if is_file(path) else dream(config)
    save_tensors(frames, path)
    if config.encoder is None:
        return
    encoder = load_encoder(config.encoder)
    count = frames["true"].shape[1] - FROM
    half = len(frames["true"]) // 2 * count
    seen = {name: encode(encoder, x[:, FROM:].flatten(0, 1)) for name, x in frames.items()}
    found: dict[str, object] = {
        "world": config.world,
        "walks": len(frames["true"]),
        "frames": [FROM + 1, FROM + count],
        "encoder": sha256_of(config.encoder / WEIGHTS),
    }
    for name, x in seen.items():
        for kind, distance in (("fd", frechet_with_interval), ("kd", kernel_with_interval)):
            d = distance(x[:half], seen["true"][half:], count)
            found[f"{kind}_{name}"] = [round(v, 5) for v in (d.value, d.low, d.high)]
    write_json(config.out / "dreams.json", found)
    print(json.dumps(found))


if __name__ == "__main__":
    main(tyro.cli(Config))
