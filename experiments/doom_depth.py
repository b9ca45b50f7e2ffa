"""What exact depth is worth: real frames of Freedoom splatted into one another, PSNR on the pixels
they cover.

    python experiments/doom_depth.py --json doom_depth.json

Walks of the real twin on the test maps. Two measurements for each source of depth: frame t splatted
into frame t + 3, and the last 16 frames together into the next. One pixel a point, nearest point
wins; PSNR per frame on uint8, capped at 40 dB, then averaged.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import worldsim  # noqa: F401 - registers the environments
from worldsim.envs import doom

Floats = NDArray[np.float64]
POLICY = (0.03, 0.45, 0.06, 0.18, 0.18, 0.05, 0.05)
"""persistent-v1: the chance of each action, which is then held for 2 to 9 steps."""


def record_walk(env: gym.Env[Any, Any], seed: int, steps: int) -> dict[str, NDArray[Any]]:
    """One walk: rgb, exact depth, the depth of the engine's 8-bit buffer, poses."""
    rng = np.random.default_rng(seed)
    obs, info = env.reset(seed=seed)
    frames: dict[str, list[Any]] = {"rgb": [], "exact": [], "buffer": [], "pose": []}
    action, left = 0, 0
    for _ in range(steps):
        twin = env.unwrapped
        pick = np.ix_(twin._pixel_row, twin._pixel_column)  # type: ignore[attr-defined]
        level = twin._game.get_state().depth_buffer[pick]  # type: ignore[attr-defined]
        frames["rgb"].append(obs)
        frames["exact"].append(info["depth"])
        frames["buffer"].append(
            (doom.BUFFER_OFFSET + doom.BUFFER_UNIT * level) / doom.UNITS_PER_METRE
        )
        frames["pose"].append(info["pose"])
        if left == 0:
            action, left = int(rng.choice(7, p=POLICY)), int(rng.integers(2, 10))
        left -= 1
        obs, _, _, truncated, info = env.step(action)
        if truncated:
            break
    return {key: np.stack(value) for key, value in frames.items()}


def splat(
    walk: dict[str, NDArray[Any]], depth: str, sources: list[int], target: int, camera: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Frames ``sources`` seen from frame ``target``: colours (h, w, 3) and where there are any."""
    h, w = walk["rgb"].shape[1:3]
    fx, fy, cx, cy = camera
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)
    inverse = np.linalg.inv(walk["pose"][target].astype(np.float64))
    picture, nearest = np.zeros((h * w, 3)), np.full(h * w, np.inf)
    for source in sources:
        motion = inverse @ walk["pose"][source].astype(np.float64)
        z = walk[depth][source].astype(np.float64)
        far = ~np.isfinite(z)
        point = (
            ray * np.where(far, 1.0, z)[..., None] @ motion[:3, :3].T
            + np.where(far, 0.0, 1.0)[..., None] * motion[:3, 3]
        )
        ahead = point[..., 2] > 0.05
        safe = np.where(ahead, point[..., 2], 1.0)
        column, row = (
            np.floor(fx * point[..., 0] / safe + cx),
            np.floor(fy * point[..., 1] / safe + cy),
        )
        good = ahead & (column >= 0) & (column < w) & (row >= 0) & (row < h)
        index = (row[good] * w + column[good]).astype(np.int64)
        distance = np.where(far[good], 1e6, point[..., 2][good])
        order = np.argsort(-distance, kind="stable")  # written far to near, so the nearest stays
        index, distance, colour = index[order], distance[order], walk["rgb"][source][good][order]
        front, shade = np.full(h * w, np.inf), np.zeros((h * w, 3))
        front[index], shade[index] = distance, colour
        closer = front <= nearest
        closer &= np.isfinite(front)
        nearest[closer], picture[closer] = front[closer], shade[closer]
    return picture.reshape(h, w, 3), np.isfinite(nearest).reshape(h, w)


def psnr(a: Floats, b: Floats) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit values, capped at 40."""
    return float(min(40.0, 10 * np.log10(255.0**2 / max(float(np.mean((a - b) ** 2)), 1e-9))))


def measure(walks: list[dict[str, NDArray[Any]]], camera: Floats) -> dict[str, Any]:
    """Mean PSNR and coverage of both measurements, for both sources of depth, on the same
    frames."""
    result: dict[str, Any] = {}
    for name, history, ahead in (("one_frame_3_ahead", 1, 3), ("16_frames_1_ahead", 16, 1)):
        rows: dict[str, list[float]] = {
            "exact": [],
            "buffer": [],
            "exact_coverage": [],
            "buffer_coverage": [],
            "copy": [],
        }
        for walk in walks:
            for target in range(history + ahead, len(walk["rgb"]), 5):
                sources = list(range(target - ahead - history + 1, target - ahead + 1))
                if np.abs(walk["pose"][target] - walk["pose"][sources[-1]]).max() < 0.01:
                    continue
                true = walk["rgb"][target].astype(np.float64)
                seen = {
                    kind: splat(walk, kind, sources, target, camera) for kind in ("exact", "buffer")
                }
                if min(mask.mean() for _, mask in seen.values()) < 0.1:
                    continue
                for kind, (picture, mask) in seen.items():
                    rows[kind].append(psnr(picture[mask], true[mask]))
                    rows[f"{kind}_coverage"].append(float(mask.mean()))
                rows["copy"].append(psnr(walk["rgb"][sources[-1]].astype(np.float64), true))
        result[name] = {
            "pairs": len(rows["exact"]),
            **{key: round(float(np.mean(value)), 3) for key, value in rows.items()},
        }
    return result


def main() -> None:
    """Record, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walks", type=int, default=16)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    env = gym.make("worldsim/FreedoomReal-v0")
    start, before = time.perf_counter(), sum(os.times()[:4])
    walks = [record_walk(env, seed, args.steps) for seed in range(args.walks)]
    seconds = time.perf_counter() - start
    env.close()  # so that the engine's time is counted
    frames = sum(len(walk["rgb"]) for walk in walks)
    cpu = sum(os.times()[:4]) - before
    report = measure(walks, doom.intrinsics(64, 64).astype(np.float64))
    report |= {
        "frames": frames,
        "wall_ms_a_frame": round(1e3 * seconds / frames, 2),
        "cpu_ms_a_frame": round(1e3 * cpu / frames, 2),
    }
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
