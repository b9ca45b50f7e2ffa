"""The results as a table."""

from __future__ import annotations

from typing import Any

from experiments.peers.settings import mark
from worldsim.evaluation.statistics import interval_text
from worldsim.runtime.types import JsonMapping


def table(summary: JsonMapping) -> str:
    """Return one line per figure, with 95% intervals; figures that do not exist yet are left
    out."""
    config, results = summary["config"], summary["results"]
    lines = [f"{config['env']}: {config['frames']:,} frames asked for, seed {config['seed']}"]
    if "record" in results:
        made = results["record"]["train"]
        lines.append(f"recorded {made['frames']:,} frames, SHA-256 {made['sha256']}")
    if found := results.get(f"diamond-{mark(config['minutes'][-1])}"):
        lines.append(f"DIAMOND: {found['steps']}, {found['seconds']:.0f} s timed")
    for minutes in config["minutes"]:
        name = mark(minutes)
        lines.append(f"-- {name} minutes")
        if found := results.get(f"worldsim-{name}"):
            lines.append(f"worldsim: {found['steps']} steps, {found['seconds']:.0f} s timed")
        if found := results.get(f"frames-{name}"):
            for key in ("changed_8", "whole_8", "changed_1", "whole_1"):
                lines.append(_row(f"PSNR {key}", found, key))
        if found := results.get(f"returns-{name}"):
            for key in ("agreement", "agreement with sums of reward signs"):
                lines += [f"{key}:"] + [
                    f"  {who:<28}{_value(one.get('pearson'))} {_ci(one)}"
                    for who, one in found[key].items()
                ]
            lines += [
                f"real return, {who}: {_value(one['mean'])} {_ci(one)}"
                for who, one in found.items()
                if isinstance(one, dict) and "episodes" in one
            ]
    return "\n".join(lines)


def _row(name: str, found: JsonMapping, key: str) -> str:
    worldsim, diamond = found["worldsim"], found["diamond"]
    apart = found["worldsim minus diamond"][key]
    return (
        f"{name}: worldsim {_value(worldsim[key]['mean'])}, DIAMOND {_value(diamond[key]['mean'])}"
        f", difference {_value(apart['mean'])} {_ci(apart)}, last true frame again "
        f"{_value(worldsim[f'copied_{key}']['mean'])}"
    )


def _value(value: Any) -> str:
    return "none" if value is None else f"{value:.2f}"


def _ci(one: JsonMapping) -> str:
    return interval_text(one["ci95"])
