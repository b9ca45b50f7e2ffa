"""Thousands of damaged and hostile inputs, of nine kinds: what the library does with each of them.

    python -m experiments.fuzz --inputs 3000 --seed 0 --json out/fuzz.json

Every input says what is expected of it: that it is refused, that it changes nothing, or that it
works. A process uses one after the other, watched by this one: 20 s and 4 GiB an input; if it hangs
or dies, another takes its place. Files that name code carry a canary, which tells if that code was
run. Exit status 1 if the requirement is not met (see :func:`failures`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.fuzzing.case import KINDS, Outcome
from experiments.fuzzing.supervisor import Supervisor

MOST_WRONG = 0.01
"""Share of inputs that may be accepted although they are wrong."""
NEVER = (Outcome.RAW, Outcome.HANG, Outcome.CRASH, Outcome.MEMORY, Outcome.CODE, Outcome.REFUSED)


@dataclass(frozen=True)
class FuzzConfig:
    """Damaged and hostile inputs of nine kinds."""

    inputs: int = 3000
    """How many, spread evenly over the kinds."""
    seed: int = 0
    """What all inputs come from: the same seed, the same inputs."""
    kinds: tuple[str, ...] = KINDS
    """Which kinds: files of seven formats, calls of the API, and command lines."""
    json: Path | None = None
    """Write every input with its outcome to this file."""
    seconds: float = 20.0
    """Longest time of an input: more is a hang."""
    gigabytes: float = 4.0
    """GiB that the process and its children may hold during an input."""
    first: int = 0
    """Number of the first input of each kind: to repeat a part."""
    quiet: bool = False
    """Print the table alone."""


def fuzz(config: FuzzConfig) -> dict[str, Any]:
    """Run all inputs; returns the report that ``--json`` writes."""
    root = Path(tempfile.mkdtemp(prefix="worldsim-fuzz-"))
    began = time.monotonic()
    supervisor = None
    results: list[dict[str, Any]] = []
    try:
        _build(root, config.seed)
        # In turns, so that an interrupted run has seen all kinds.
        todo = [
            (config.kinds[i % len(config.kinds)], config.first + i // len(config.kinds))
            for i in range(config.inputs)
        ]
        supervisor = Supervisor(
            root, config.seed, list(config.kinds), config.seconds, int(config.gigabytes * 2**30)
        )
        for number, (kind, index) in enumerate(todo):
            results.append(supervisor.ask(kind, index))
            if not config.quiet and (number + 1) % 25 == 0:
                counts = Counter(str(r["outcome"]) for r in results)
                told = ", ".join(f"{n} {name}" for name, n in counts.most_common())
                print(
                    f"{number + 1}/{len(todo)} in {time.monotonic() - began:.0f} s: {told}",
                    file=sys.stderr,
                    flush=True,
                )
    except KeyboardInterrupt:
        print("interrupted: what follows is of the inputs so far", file=sys.stderr)
    finally:
        if supervisor is not None:
            supervisor.stop()
        shutil.rmtree(root, ignore_errors=True)
    report = {
        "inputs": len(results),
        "seed": config.seed,
        "seconds": round(time.monotonic() - began, 1),
        "slowest_s": max((r["seconds"] for r in results), default=0.0),
        "peak_mb": max((r["peak_mb"] for r in results), default=0),
        "restarts": 0 if supervisor is None else supervisor.restarts,
        "outcomes": {str(o): sum(r["outcome"] == o for r in results) for o in Outcome},
        "results": results,
    }
    report["failures"] = failures(report)
    return report


def failures(report: dict[str, Any]) -> list[str]:
    """What the requirement is missed by, one line each; none if it is met.

    No code run, no crash, no hang, no more than the memory allowed, no raw exception, nothing
    whole refused, and at most 1% accepted although wrong.
    """
    counts = report["outcomes"]
    missed = [f"{counts[outcome]} x {outcome}" for outcome in NEVER if counts[outcome]]
    if counts[Outcome.WRONG] > MOST_WRONG * report["inputs"]:
        missed.append(
            f"{counts[Outcome.WRONG]} x {Outcome.WRONG}, more than {MOST_WRONG:.0%} of "
            f"{report['inputs']}"
        )
    return missed


def table(report: dict[str, Any]) -> str:
    """Outcomes by kind, then everything that was accepted although wrong, with its reason."""
    results = report["results"]
    names = [str(o) for o in Outcome]
    lines = ["".join([f"{'':12}", *(f"{name.split()[0]:>10}" for name in names), f"{'all':>8}"])]
    for kind in dict.fromkeys(r["kind"] for r in results):
        mine = Counter(str(r["outcome"]) for r in results if r["kind"] == kind)
        lines.append(
            "".join(
                [f"{kind:12}", *(f"{mine[name]:>10}" for name in names), f"{sum(mine.values()):>8}"]
            )
        )
    lines.append(
        "".join(
            [
                f"{'all':12}",
                *(f"{report['outcomes'][name]:>10}" for name in names),
                f"{len(results):>8}",
            ]
        )
    )
    for r in results:
        if r["outcome"] == Outcome.WRONG:
            lines.append(
                f"wrong: {r['kind']} {r['index']} {r['mutation']}: {r['detail']}: {r['message']}"
            )
    lines.append(
        f"{report['seconds']:.0f} s, slowest input {report['slowest_s']:.1f} s, at most "
        f"{report['peak_mb']} MiB held"
    )
    lines.append(
        "missed: " + "; ".join(report["failures"])
        if report["failures"]
        else "the requirement is met"
    )
    return "\n".join(lines)


def _build(root: Path, seed: int) -> None:
    code = (
        "import sys; from pathlib import Path; from experiments.fuzzing.bases import build, quiet; "
        "quiet(); build(Path(sys.argv[1]), int(sys.argv[2]))"
    )
    place = Path(__file__).resolve().parents[1]
    made = subprocess.run(
        [sys.executable, "-c", code, str(root), str(seed)],
        cwd=place,
        capture_output=True,
        text=True,
    )
    if made.returncode:
        raise RuntimeError(f"the undamaged objects could not be made:\n{made.stderr[-3000:]}")


def main() -> int:
    import tyro

    config = tyro.cli(FuzzConfig, description=__doc__)
    report = fuzz(config)
    if config.json is not None:
        config.json.parent.mkdir(parents=True, exist_ok=True)
        config.json.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print(table(report))
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
