"""What 1,000 GPUs would do, by arithmetic from figures measured on one or two.

    python -m experiments.thousand_gpus            # rewrites the tables of docs/concepts/scale.md

Each row has a formula, its value, and where its factors come from. What is assumed of machines is
in :class:`Assumed`; everything else is read from JSON files in ``experiments/``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.runtime.json_config import read_json

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "concepts" / "scale.md"
GPUS = 1000


@dataclass(frozen=True)
class Assumed:
    """Machines that nobody measured here."""

    gpus_per_host: int = 8
    cores_per_host: int = 128
    network: float = 50e9
    """Bytes/s of a GPU's own network port (400 Gbit/s)."""
    caller: float = 12.5e9
    """Bytes/s into the machine of one program (100 Gbit/s)."""
    disk: float = 1e9
    """Bytes/s of one process that writes a checkpoint."""
    interrupted: float = 54 * 24 * 16384 / 419
    """GPU-hours per unexpected interruption: 419 in 54 days of 16,384 GPUs (Llama 3, 2024,
    arXiv:2407.21783, table 5)."""


Row = tuple[str, str, str, str]
"""What, formula with numbers, value, sources."""


def load(name: str) -> Any:
    return read_json(HERE / name)


def rollouts(assumed: Assumed) -> list[Row]:
    """Dreams: each GPU steps 256 environments."""
    bench, speed = load("freedoom_tiny/bench_h200.json"), load("cluster_speed.json")
    best = next(one for one in bench["results"] if one["batch"] == 256)
    rate, ms, state = best["steps_per_s"], best["ms_per_step"], bench["environment_bytes"]
    answer, arrives = speed["transport"]["bytes_per_step"], speed["transport"]["steps_per_s"]
    snapshots = 256 * state / (64 * 1e-3 * ms)
    return [
        (
            "steps",
            f"{GPUS:,} x {rate:,.0f} steps/s",
            f"{GPUS * rate / 1e6:.1f} million steps/s",
            "`freedoom_tiny/bench_h200.json`: `steps_per_s` at 256",
        ),
        (
            "states on each GPU",
            f"256 x {state / 1e6:.2f} MB",
            f"{256 * state / 1e9:.2f} GB",
            "the same: `environment_bytes`",
        ),
        (
            "observations and infos of all",
            f"{GPUS:,} x {rate:,.0f} x {answer / 1e3:.1f} KB",
            f"{GPUS * rate * answer / 1e9:,.0f} GB/s",
            "`cluster_speed.json`: `transport.bytes_per_step`",
        ),
        (
            "**GPUs that one program can step**, by its network port",
            f"{assumed.caller / 1e9:g} GB/s / ({rate:,.0f} x {answer / 1e3:.1f} KB)",
            f"{assumed.caller / (rate * answer):.0f}",
            "assumed port",
        ),
        (
            "- by what reaches a program on two slow cores",
            f"{arrives:,} / {rate:,.0f} steps/s",
            f"{arrives / rate:.1f}",
            "`cluster_speed.json`: `transport.steps_per_s`",
        ),
        (
            "snapshots of one GPU, every 64 steps (the default)",
            f"256 x {state / 1e6:.2f} MB / (64 x {ms:.2f} ms)",
            f"{snapshots / 1e9:.1f} GB/s",
            "the same",
        ),
        (
            "**GPUs whose snapshots one program can take**",
            f"{assumed.caller / 1e9:g} / {snapshots / 1e9:.1f} GB/s",
            f"{assumed.caller / snapshots:.1f}",
            "assumed port",
        ),
        (
            "repeated after a loss without snapshots, episodes of 500 steps",
            f"at most 500 x {ms:.2f} ms",
            f"{0.5 * ms:.1f} s",
            "`bench_h200.json`: `ms_per_step`",
        ),
        (
            "time between losses",
            f"{assumed.interrupted:,.0f} GPU-hours / {GPUS:,}",
            f"{assumed.interrupted / GPUS:.0f} hours",
            "assumed",
        ),
    ]


def recording(assumed: Assumed) -> list[Row]:
    """Recordings: each core plays one engine."""
    speed = load("cluster_speed.json")
    each = speed["record"]["steady"]["cluster"] / 2
    cores = GPUS // assumed.gpus_per_host * assumed.cores_per_host
    # 64x64 pixels of three bytes, and depth in two.
    frame = 64 * 64 * (3 + 2)
    shard = 8192 * frame
    total = 1e9
    shards, arriving = total / 8192, cores * each / 8192
    entry = 1e-4 * speed["index"]["ms_of_10000"]
    return [
        (
            "frames",
            f"{cores:,} cores x {each:,.0f} frames/s",
            f"{cores * each / 1e6:.1f} million frames/s",
            "`cluster_speed.json`: `record.steady.cluster` of two cores",
        ),
        (
            "into storage",
            f"{cores * each / 1e6:.1f} million x {frame / 1e3:.2f} KB",
            f"{cores * each * frame / 1e9:.0f} GB/s",
            "64 x 64 x (3 + 2) bytes a frame",
        ),
        (
            "10^9 frames",
            f"10^9 x {frame / 1e3:.2f} KB",
            f"{total * frame / 1e12:.1f} TB in {shards:,.0f} shards of {shard / 1e6:.0f} MB",
            "`--frames-per-shard` 8192",
        ),
        (
            "their time, if nothing else limits",
            f"10^9 / {cores * each / 1e6:.1f} million",
            f"{total / (cores * each) / 60:.0f} minutes",
            "",
        ),
        (
            "shards that end",
            f"{cores * each / 1e6:.1f} million / 8192",
            f"{arriving:.0f} a second",
            "",
        ),
        (
            "**shards after which the index is written more slowly than they end**",
            f"1 s / ({arriving:.0f} x {entry:.3f} ms)",
            f"{1e3 / (arriving * entry):,.0f}",
            "`cluster_speed.json`: `index.ms_of_10000` / 10,000",
        ),
    ]


def training(assumed: Assumed) -> list[Row]:
    """Training of the preset ``large``, with weights sharded over all GPUs (FSDP)."""
    one = load("training_speed/large_1_h100.json")["results"][0]
    two = load("training_speed/large_2_h100.json")["results"][0]
    parameters, ms = two["parameters"], two["ms_per_step"]
    each = two["windows_per_s"] / 2
    moved = 3 * 4 * parameters
    exposed = moved / assumed.network
    frame, frames = 64 * 64 * 5, 24 * each
    whole = 16 * parameters
    save = whole / assumed.disk
    between = 3600 * assumed.interrupted / GPUS
    interval = math.sqrt(2 * save * between)
    again = one["first_step_s"] + one["taking_in_s"]
    return [
        (
            "windows, without losses by communication",
            f"{GPUS:,} x {each:.1f} windows/s",
            f"{GPUS * each:,.0f} windows/s",
            "`training_speed/large_2_h100.json`: `windows_per_s` / 2",
        ),
        (
            "arithmetic",
            f"{GPUS:,} x {two['model_flop_per_s_of_a_device'] / 1e12:.0f} TFLOP/s",
            f"{GPUS * two['model_flop_per_s_of_a_device'] / 1e18:.2f} EFLOP/s",
            "the same: `model_flop_per_s_of_a_device`",
        ),
        (
            "weights and gradients through each GPU's port, a step",
            f"3 x 4 bytes x {parameters / 1e6:.0f} million",
            f"{moved / 1e9:.2f} GB",
            "the same: `parameters`; two gathers and one reduction in float32",
        ),
        (
            "their time beside the step's",
            f"{moved / 1e9:.2f} GB / {assumed.network / 1e9:g} GB/s; {ms:.0f} ms",
            f"{1e3 * exposed:.0f} ms: {100 * exposed / (1e-3 * ms):.0f}%",
            "assumed port; the same: `ms_per_step`",
        ),
        (
            "- over ports of 100 Gbit/s",
            f"{moved / 1e9:.2f} GB / 12.5 GB/s",
            f"{1e3 * moved / 12.5e9:.0f} ms: {100 * moved / 12.5e9 / (1e-3 * ms):.0f}%",
            "",
        ),
        (
            "memory of weights, gradients, Adam and average, whole",
            f"20 bytes x {parameters / 1e6:.0f} million",
            f"{20 * parameters / 1e9:.1f} GB of 80",
            "float32",
        ),
        (
            "**parameters from which sharding is needed**, half of 80 GB left for activations",
            "40 GB / 20 bytes",
            "2 thousand million",
            "",
        ),
        (
            "**windows in one step**",
            f"{GPUS:,} x {two['batch_size']}",
            f"{GPUS * two['batch_size']:,}",
            "the same: `batch_size`",
        ),
        (
            "read from storage, if no window is drawn twice",
            f"{GPUS:,} x {frames:,.0f} frames/s x {frame / 1e3:.2f} KB",
            f"{GPUS * frames * frame / 1e9:.1f} GB/s",
            "24 frames a window",
        ),
        (
            "least recording: one shard for each process",
            f"{GPUS:,} x 8,192 frames",
            f"{GPUS * 8192 / 1e6:.1f} million frames, {GPUS * 8192 * frame / 1e9:.0f} GB",
            "",
        ),
        (
            "a checkpoint, which one process writes",
            f"16 bytes x {parameters / 1e6:.0f} million / {assumed.disk / 1e9:g} GB/s",
            f"{save:.1f} s",
            "weights, average and Adam in float32; assumed disk",
        ),
        (
            "best time between checkpoints (Young 1974)",
            f"sqrt(2 x {save:.1f} s x {between / 3600:.0f} h)",
            f"{interval / 60:.0f} minutes",
            "",
        ),
        (
            "lost to checkpoints, repetition and restarts",
            f"{save:.1f}/{interval:.0f} + ({interval:.0f}/2 + {again:.0f}) s "
            f"/ {between / 3600:.0f} h",
            f"{100 * (save / interval + (interval / 2 + again) / between):.1f}%",
            "`large_1_h100.json`: `first_step_s`, `taking_in_s`",
        ),
    ]


def sessions(assumed: Assumed) -> list[Row]:
    """People who walk, 8.75 frames a second."""
    found = load("cluster_sessions.json")
    one = load("sessions_gpu_steady_128.json")["parts"]["steady"]
    forwards = one["steps_per_s"] / one["stepped_together"]
    rows: list[Row] = []
    for rule, part in found["one_server"].items():
        most = part["always walks"]["most_sessions"]["with_margin"]
        rows.append(
            (
                f"sessions, if a forward waits {'as it does' if rule == 'as it is' else '4 ms'}",
                f"{GPUS:,} x {most}",
                f"{GPUS * most:,}",
                f"`cluster_sessions.json`: `one_server`, `{rule}`, `with_margin`",
            )
        )
    frame = 64 * 64 * 3
    return [
        *rows,
        (
            "a session's frames, not compressed",
            f"8.75 x {frame / 1e3:.1f} KB x 8",
            f"{8.75 * frame * 8 / 1e6:.2f} Mbit/s",
            "64 x 64 x 3 bytes",
        ),
        (
            "**share of time in which the thread of the GPU computes**, 128 sessions",
            f"{one['steps_per_s']:,.0f}/s / {one['stepped_together']:.0f} "
            f"x {one['forward_ms']:.1f} ms",
            f"{100 * forwards * 1e-3 * one['forward_ms']:.0f}%",
            "`sessions_gpu_steady_128.json`: `steps_per_s`, `stepped_together`, `forward_ms`",
        ),
    ]


PARTS = {
    "rollouts": rollouts,
    "recording": recording,
    "training": training,
    "sessions": sessions,
}


def table(rows: list[Row]) -> str:
    lines = ["| what | formula | value | from |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def rewrite(text: str) -> str:
    """Return the page with its tables computed anew."""
    for name, rows in PARTS.items():
        pattern = rf"(<!-- arithmetic: {name} -->\n).*?(<!-- end -->)"
        new = table(rows(Assumed()))
        text = re.sub(pattern, lambda m, new=new: f"{m[1]}\n{new}\n\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    PAGE.write_text(rewrite(PAGE.read_text()))
