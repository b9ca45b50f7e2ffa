"""Several comparisons in one table: where worldsim is ahead, and by how much.

    python -m experiments.peers.overview runs/*/summary.json --json experiments/peers/results.json

Seeds of one environment are rows of their own. Differences are worldsim's figure minus DIAMOND's,
with paired 95% intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from experiments.peers.settings import mark
from worldsim.evaluation.statistics import interval_text
from worldsim.runtime.json_config import read_json, write_json
from worldsim.runtime.types import JsonMapping, JsonObject

BEHIND = 0.5
"""dB of PSNR on changing pixels that worldsim may be behind at most."""


@dataclass(frozen=True)
class OverviewConfig:
    """Put comparisons into one table."""

    summaries: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILE")]
    """Files ``summary.json`` of complete comparisons."""
    json: Path | None = None
    """Also write the rows and the verdict to this file."""


def rows_of(summary: JsonMapping) -> list[JsonObject]:
    """Return one row per number of minutes; those without a returns stage are left out."""
    config, results, rows = summary["config"], summary["results"], []
    for minutes in config["minutes"]:
        returns = results.get(f"returns-{mark(minutes)}")
        if returns is None:
            continue
        frames = results[f"frames-{mark(minutes)}"]["worldsim minus diamond"]["changed_8"]
        agreement = returns["agreement"]
        pair = [agreement[side]["pearson"] for side in ("worldsim", "diamond")]
        rows.append(
            {
                "env": config["env"],
                "seed": config["seed"],
                "minutes": minutes,
                "sha256": results["record"]["train"]["sha256"],
                "agreement": pair,
                "agreement_difference": {
                    "mean": None if None in pair else pair[0] - pair[1],
                    "ci95": agreement["worldsim minus diamond"]["ci95"],
                },
                "return": [returns[f"agent of {side}"]["mean"] for side in ("worldsim", "diamond")],
                "return_difference": returns["agent of worldsim minus agent of diamond"],
                "psnr_difference": frames,
            }
        )
    return rows


def verdict(rows: list[JsonObject]) -> JsonObject:
    """Return how many rows worldsim is ahead in, by the means, and by intervals above zero."""

    def ahead(row: JsonObject, name: str, sure: bool) -> bool:
        one: Any = row[f"{name}_difference"]
        low = one["ci95"][0] if sure and one["ci95"] else one["mean"]
        return low is not None and low > 0

    return {
        "rows": len(rows),
        "ahead in agreement and return": sum(
            ahead(r, "agreement", False) and ahead(r, "return", False) for r in rows
        ),
        "the same, by 95% intervals": sum(
            ahead(r, "agreement", True) and ahead(r, "return", True) for r in rows
        ),
        f"more than {BEHIND} dB behind": sum(
            (r["psnr_difference"]["mean"] or 0.0) < -BEHIND for r in rows
        ),
    }


def main(config: OverviewConfig) -> None:
    """Print the table, and write it."""
    rows = [row for path in config.summaries for row in rows_of(read_json(path))]
    for row in rows:
        shown = [f"{row['env']}, seed {row['seed']}, {row['minutes']:g} min"]
        for name in ("agreement", "return", "psnr"):
            one = row[f"{name}_difference"]
            mean = "none" if one["mean"] is None else f"{one['mean']:+.2f}"
            shown.append(f"{name} {mean} {interval_text(one['ci95'])}".strip())
        print("; ".join(shown))
    found = verdict(rows)
    print(found)
    if config.json is not None:
        write_json(config.json, {"rows": rows, "verdict": found})


if __name__ == "__main__":
    main(tyro.cli(OverviewConfig))
