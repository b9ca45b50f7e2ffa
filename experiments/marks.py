"""How well the invisible mark outlives JPEG, noise, H.264, enlarging, trimming and cropping.

    python -m experiments.marks record --clips out/marks      # 1,000 clips of 16 frames, once
    python -m experiments.marks measure --clips out/marks --json experiments/marks.json
    python -m experiments.marks ideas --clips out/marks --json experiments/marks.json

Clips are real frames and dreams of shipped worlds. Every clip carries a payload of its own.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from worldsim.io.provenance import mark
from worldsim.io.provenance.mark import DEFAULT, Settings
from worldsim.runtime.json_config import read_json, write_json
from worldsim.state import SceneStart

FRAMES = 16
WANTED = {
    "takecover": (230, 32),
    "freedoom-tiny": (470, 64),
    "carracing": (96, 32),
    "freedoom-small": (60, 16),
}
"""By world, how many clips of real and of dreamed frames."""
KEPT, CROP = 12, 5
"""Frames that are left of a trimmed clip; most pixels that are cut from a cropped one's sides."""


def record(folder: Path) -> None:
    """Write clips (n, 16, h, w, 3) uint8 as one file per world and kind."""
    from worldsim.evaluation.episodes import Task, dream_episodes, play_real
    from worldsim.evaluation.policy_batch import PolicySpec
    from worldsim.world import World
    from worldsim.world.twin import make_twin

    folder.mkdir(parents=True, exist_ok=True)
    spec = PolicySpec("persistent")
    starts: dict[str, list[SceneStart]] = {name: [] for name in WANTED}
    for name, (real, _) in WANTED.items():
        twin = make_twin(World.from_pretrained(name, device="cpu"))
        clips: list[np.ndarray] = []
        for seed in range(400):
            played = play_real(twin, Task(spec, seed), 79, keep=True)
            starts[name].append(played.start)
            clips += _cut(played.frames)
            if len(clips) >= real:
                break
        twin.close()
        _keep(folder / f"{name}-real.npy", clips[:real])
    # Dreams take the time.
    for name, (_, dreamed) in WANTED.items():
        world = World.from_pretrained(name, device="cpu")
        clips = []
        for first in range(0, 640, 8):
            some = [starts[name][(first + i) % len(starts[name])] for i in range(8)]
            seeds = list(range(first, first + 8))
            for played in dream_episodes(world, spec, some, seeds, 32, batch=8, keep=True):
                clips += _cut(played.frames[1:])
            _keep(folder / f"{name}-dream.npy", clips[:dreamed])
            if len(clips) >= dreamed:
                break


def _keep(path: Path, clips: list[np.ndarray]) -> None:
    if clips:
        np.save(path, np.stack(clips))
        print(path.name, len(clips), flush=True)


def _cut(frames: np.ndarray) -> list[np.ndarray]:
    return [frames[i : i + FRAMES] for i in range(0, len(frames) - FRAMES + 1, FRAMES)]


def jpeg(clip: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    made = []
    for frame in clip:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=75)
        made.append(np.array(Image.open(file).convert("RGB")))
    return made


def noise(clip: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    noisy = np.asarray(clip) + rng.normal(0, 5, np.shape(clip))
    return list(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def h264(clip: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.height, stream.width = np.shape(clip)[1:3]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "23", "threads": "1"}
        for frame in clip:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def enlarged(clip: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return [cv2.resize(f, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) for f in clip]


def enlarged_h264(clip: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return h264(np.asarray(clip).repeat(4, 1).repeat(4, 2), rng)


def trimmed(clip: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    first = int(rng.integers(0, FRAMES - KEPT + 1))
    return list(clip[first : first + KEPT])


def cropped(clip: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    top, left = (int(n) for n in rng.integers(0, CROP + 1, 2))
    return [frame[top:, left:] for frame in clip]


def same(clip: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    return list(clip)


Attack = Callable[[np.ndarray, np.random.Generator], list[np.ndarray]]
ATTACKS: dict[str, Attack] = {
    "none": same,
    "jpeg_75": jpeg,
    "noise_5": noise,
    "h264_crf_23": h264,
    "enlarged_4": enlarged,
    "enlarged_4_h264_crf_23": enlarged_h264,
    "trimmed_12_of_16": trimmed,
    "cropped_0_to_5_pixels": cropped,
}
SLOW, EVERY = ("enlarged_4_h264_crf_23", "cropped_0_to_5_pixels"), 5
"""Attacks that are tried on every fifth clip of a file alone."""
IDEAS = {
    "as shipped": DEFAULT,
    "no prediction": Settings(predict=False),
    "no clipping": Settings(clip=1e6),
    "no prediction, no clipping": Settings(predict=False, clip=1e6),
    "three lowest bands": Settings(bands=((0, 1), (1, 0), (1, 1))),
    "twelve bands": Settings(
        bands=(
            *((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2)),
            *((2, 1), (2, 2), (0, 3), (3, 0), (1, 3), (3, 1)),
        )
    ),
    "key held for 4 frames": Settings(hold=4, predict=False),
    "no refinement": Settings(refine=1),
}


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255.0**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def right_bits(found: int, payload: int) -> float:
    return 1.0 - (found ^ payload).bit_count() / mark.BITS


Clip = tuple[str, int, np.ndarray]
"""Name of the file, number in it, and frames (16, h, w, 3) uint8."""


def load(folder: Path, count: int | None = None) -> list[Clip]:
    """Return all clips, or ``count`` of them, evenly spread over all files."""
    clips: list[Clip] = []
    for path in sorted(folder.glob("*.npy")):
        clips += [(path.stem, i, clip) for i, clip in enumerate(np.load(path))]
    if count is None:
        return clips
    chosen = np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int)
    return [clips[i] for i in chosen]


def measure_clip(clip: Clip, settings: Settings, attacks: dict[str, Attack]) -> dict[str, Any]:
    """Return bits, scores and detections of one clip, marked under each attack and unmarked."""
    name, index, frames = clip
    rng = np.random.default_rng([index, *name.encode()])
    payload = int(rng.integers(0, 2**32))
    marked = np.stack(mark.embed_film(frames, payload, settings))
    row: dict[str, Any] = {"clip": f"{name}/{index}", "psnr": psnr(marked, frames)}
    for title, attack in attacks.items():
        if title in SLOW and index % EVERY:
            continue
        attacked = attack(marked, rng)
        crop = CROP if attack is cropped else 0
        read = mark.read_film(attacked, crop, settings)
        row[title] = {
            "bits": right_bits(read.payload, payload),
            "score": read.score,
            "blind": read.found,
            "known": None if crop else mark.score_of(attacked, payload, settings)[1],
        }
    empty = mark.read_film(list(frames), 0, settings)
    score, found = mark.score_of(list(frames), payload, settings)
    row["unmarked"] = {
        "bits": right_bits(empty.payload, payload),
        "score": score,
        "blind": empty.found,
        "known": found,
    }
    return row


def summarise(rows: list[dict[str, Any]], attacks: dict[str, Attack]) -> dict[str, Any]:
    """Return the table of an experiment."""

    def column(title: str, name: str) -> np.ndarray:
        return np.array([row[title][name] for row in rows if title in row])

    kinds: dict[str, int] = {}
    for row in rows:
        kind = row["clip"].split("/")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    quality = np.array([row["psnr"] for row in rows])
    return {
        "clips": len(rows),
        "clips_by_kind": kinds,
        "psnr_mean": round(float(quality.mean()), 3),
        "psnr_worst": round(float(quality.min()), 3),
        "attacks": {
            title: {
                "clips": len(column(title, "bits")),
                "bits_mean": round(float(column(title, "bits").mean()), 5),
                "bits_worst": round(float(column(title, "bits").min()), 5),
                "clips_with_wrong_bits": int((column(title, "bits") < 1).sum()),
                "found_blind": round(float(column(title, "blind").mean()), 5),
                "found_known": None
                if attacks[title] is cropped
                else round(float(column(title, "known").mean()), 5),
                "score_mean": round(float(column(title, "score").mean()), 2),
                "score_worst": round(float(column(title, "score").min()), 2),
            }
            for title in attacks
        },
        "unmarked": {
            "bits_mean": round(float(column("unmarked", "bits").mean()), 5),
            "found_blind": int(column("unmarked", "blind").sum()),
            "found_known": int(column("unmarked", "known").sum()),
            "score_largest": round(float(column("unmarked", "score").max()), 2),
            "threshold_known": round(mark.threshold(mark.PERIOD), 3),
            "threshold_blind": round(mark.threshold(mark.PERIOD, 2.0**mark.BITS), 3),
        },
    }


def measure(
    clips: list[Clip], settings: Settings, attacks: dict[str, Attack], kept: Path | None = None
) -> dict[str, Any]:
    """Return the table of ``clips``.

    kept: file of rows, one JSON object a line, from which an interrupted measurement resumes.
    """
    rows: dict[str, dict[str, Any]] = {}
    if kept is not None and kept.exists():
        rows = {row["clip"]: row for row in map(json.loads, kept.read_text().splitlines())}
    # In mixed order, so that an interrupted measurement has clips of all kinds.
    for i in np.random.default_rng(0).permutation(len(clips)).tolist():
        clip = clips[i]
        key = f"{clip[0]}/{clip[1]}"
        if key not in rows:
            rows[key] = measure_clip(clip, settings, attacks)
            if kept is not None:
                with open(kept, "a") as file:
                    file.write(json.dumps(rows[key]) + "\n")
    return summarise([rows[f"{name}/{i}"] for name, i, _ in clips], attacks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("record", "measure", "ideas"))
    parser.add_argument("--clips", type=Path, default=Path("out/marks"))
    parser.add_argument("--count", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if args.command == "record":
        record(args.clips)
        return
    told: dict[str, Any] = {}
    if args.json and args.json.exists():
        told = read_json(args.json)
    if args.command == "ideas":
        clips = load(args.clips, args.count or 200)
        few = {k: ATTACKS[k] for k in ("h264_crf_23", "trimmed_12_of_16")}
        told["ideas"] = {}
        for name, settings in IDEAS.items():
            told["ideas"][name] = measure(clips, settings, few)
            print(name, json.dumps(told["ideas"][name]["attacks"]), flush=True)
    else:
        clips = load(args.clips, args.count)
        told |= measure(clips, DEFAULT, ATTACKS, args.clips / "rows.jsonl")
        print(json.dumps(told, indent=1))
    if args.json:
        write_json(args.json, told)


if __name__ == "__main__":
    main()
