"""Simulate session servers: 10,000 sessions on many GPUs, from figures measured on one.

    pip install simpy
    python -m experiments.cluster_sessions --json experiments/cluster_sessions.json \
        --picture docs/images/cluster_sessions.webp

The times of :mod:`experiments.cluster_server` are those in ``sessions_gpu_*.json``. Two numbers are
fitted, on 1 and on 64 sessions; 128 sessions of both engines are then predicted and compared with
what was measured. Nothing is fitted on these.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.cluster_server import Costs, Load, simulate
from worldsim.runtime.json_config import read_json, write_json

HERE = Path(__file__).parent
TARGET_S = 0.1
"""Wanted: the 99th percentile of the latency."""
HOST = 8
"""Servers that are lost together: those of one host with eight GPUs."""
SHARE, OVERLAP = "threads share the interpreter", "threads do not disturb each other"
MODES = {SHARE: False, OVERLAP: True}
FLEETS = {
    SHARE: (32, 36, 40, 44, 48, 50, 52, 54, 56, 60),
    OVERLAP: (22, 24, 26, 28, 30, 32, 36, 40),
}
"""Sizes of the fleets that are simulated."""


# From measured figures.


def part_of(name: str, part: str) -> dict[str, Any]:
    """Return a part of ``sessions_gpu_NAME.json``."""
    found: dict[str, Any] = read_json(HERE / f"sessions_gpu_{name}.json")["parts"][part]
    return found


def costs_of(engine: str) -> Costs:
    """Return the costs of an engine; what is fitted comes from 1 and 64 sessions of ``fast``."""
    one = part_of(engine, "one")
    many = [part_of(engine, "several")]
    if engine == "fast":
        many.insert(0, part_of("fast_64", "several"))
    loop = [(x["stepped_together"], 1e-3 * x["loop_cpu_ms"]) for x in (one, *many)]
    # The forward of a single session has a bucket of its own.
    forward = tuple((x["stepped_together"], 1e-3 * x["forward_ms"]) for x in many)
    return Costs(
        forward=forward,
        loop=tuple((rows, rows * seconds) for rows, seconds in loop),
        bucket=many[-1]["bucket"],
        waits=fit_waits(),
        spread=fit_spread(engine),
    )


def fit_waits() -> float:
    """Return the time of a cycle of 64 sessions that neither CPU nor forward explains, by step."""
    part = part_of("fast_64", "several")
    cycle = part["clients"] / part["steps_per_s"]
    return (cycle - 1e-3 * part["forward_ms"]) / part["clients"] - 1e-3 * part["loop_cpu_ms"]


def fit_spread(engine: str) -> float:
    """Return the sigma with which one session's p95 and p99 are so far above its median."""
    ms = part_of(engine, "one")["latency_ms"]
    return float(
        np.mean([math.log(ms[q] / ms["p50"]) / z for q, z in (("p95", 1.645), ("p99", 2.326))])
    )


def validate(seconds: float) -> list[dict[str, Any]]:
    """Compare simulated with measured figures; what was fitted on is named."""
    rows = []
    for engine, name in (("fast", "fast_64"), ("fast", "fast"), ("plain", "plain")):
        measured = part_of(name, "several")
        for overlap in (True, False):
            found = simulate(
                costs_of(engine), Load(fps=None), measured["clients"], 1, seconds, overlap
            )
            rows.append(
                {
                    "engine": engine,
                    "clients": measured["clients"],
                    "overlap": overlap,
                    "fitted_on": name == "fast_64",
                    "steps_per_s": compare(found["steps_per_s"], measured["steps_per_s"]),
                    **{
                        q: compare(found["latency_ms"][q], measured["latency_ms"][q])
                        for q in ("p50", "p95", "p99")
                    },
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def compare(simulated: float, measured: float) -> dict[str, float]:
    return {
        "simulated": simulated,
        "measured": measured,
        "error": round(simulated / measured - 1.0, 3),
    }


# The question.


@dataclass(frozen=True)
class SimulationConfig:
    """How many GPUs keep the 99th percentile of so many sessions below 100 ms?"""

    json: Path
    """Figures are written to this file."""
    picture: Path | None = None
    """Curves are drawn into this file."""
    sessions: int = 10_000
    """Sessions at once."""
    seconds: float = 20.0
    """Simulated time of one run; servers are lost after half of it."""
    parts: tuple[str, ...] = ("validation", "one_server", *MODES)
    """What is simulated: the check, one server, and a fleet for each way in which threads run.
    The file keeps its other parts."""


LOADS = {
    "always walks": Load(),
    "walks 6 s, rests 2 s": Load(walks_s=6.0, rests_s=2.0),
    "steps at once": Load(fps=None),
}


def sweep(costs: Costs, load: Load, overlap: bool, seconds: float) -> dict[str, Any]:
    """Simulate one server with more and more sessions, until it misses the target by far."""
    rows: list[dict[str, Any]] = []
    for sessions in range(32, 641, 16):
        rows.append(simulate(costs, load, sessions, 1, seconds, overlap))
        if rows[-1]["latency_ms"]["p99"] > 1.6e3 * TARGET_S:
            break
    fine = [x["sessions"] for x in rows if x["latency_ms"]["p99"] <= 1e3 * TARGET_S]
    return {"most_sessions": max(fine, default=0), "rows": rows}


def smallest(rows: Sequence[dict[str, Any]], figure: str) -> int | None:
    """Return the fewest servers from which on all larger fleets meet the target."""
    found = None
    for row in sorted(rows, key=lambda one: -one["servers"]):
        if row[figure]["p99"] > 1e3 * TARGET_S:
            break
        found = row["servers"]
    return found


def main(config: SimulationConfig) -> None:
    """Validate, simulate one server, then the fleet; write and draw what was found."""
    costs = costs_of("fast")
    found: dict[str, Any] = read_json(config.json) if config.json.exists() else {"fleet": {}}
    found |= {
        "config": {k: v for k, v in asdict(config).items() if k in ("sessions", "seconds")},
        "loads": {name: asdict(load) for name, load in LOADS.items()},
        "costs": {name: asdict(costs_of(name)) for name in ("fast", "plain")},
    }
    if "validation" in config.parts:
        found["validation"] = validate(config.seconds)
    if "one_server" in config.parts:
        found["one_server"] = {
            mode: {
                name: sweep(costs, load, overlap, config.seconds) for name, load in LOADS.items()
            }
            for mode, overlap in MODES.items()
        }
    for mode in MODES:
        rows: list[dict[str, Any]] = []
        for servers in FLEETS[mode] if mode in config.parts else ():
            rows.append(
                simulate(costs, Load(), config.sessions, servers, config.seconds, MODES[mode], HOST)
            )
            print(mode, json.dumps(rows[-1]), flush=True)
            found["fleet"][mode] = {
                "servers_needed": {
                    "nothing is lost": smallest(rows, "latency_ms"),
                    f"{HOST} are lost": smallest(rows, "once_resumed_ms"),
                },
                "rows": rows,
            }
            write_json(config.json, found)
    if config.picture is not None:
        draw(read_json(config.json), config.picture)


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the 99th percentile over sessions of one server, and over servers of the fleet."""
    from PIL import Image

    from experiments.curves import Panel, draw_panels

    kinds = list(MODES)
    most = 2.0e3 * TARGET_S

    def curve(rows: Sequence[dict[str, Any]], x: str, figure: str) -> tuple[list[float], ...]:
        values = [row[figure]["p99"] for row in rows]
        return [row[x] for row in rows], [v if v <= most else math.nan for v in values]

    one = {
        mode: [curve(found["one_server"][mode]["always walks"]["rows"], "sessions", "latency_ms")]
        for mode in kinds
    }
    panels = [
        Panel("p99 in ms over the sessions of one GPU", one, kinds, (0.0, 100.0), kinds[1], True)
    ]
    for title, figure in (
        ("p99 in ms over the GPUs for 10,000 sessions", "latency_ms"),
        ("the same after 8 of the GPUs are lost", "once_resumed_ms"),
    ):
        curves = {m: [curve(found["fleet"][m]["rows"], "servers", figure)] for m in kinds}
        panels.append(Panel(title, curves, kinds, (0.0, 100.0), kinds[1], True))
    picture = draw_panels(panels, kinds, "")
    Image.fromarray(picture).save(path, quality=90)


if __name__ == "__main__":
    main(tyro.cli(SimulationConfig, description=__doc__.splitlines()[0]))
