"""The table of the protocol ``twin``."""

from __future__ import annotations

from worldsim.evaluation.statistics import interval_text, report
from worldsim.evaluation.twin.ranks import FAR
from worldsim.evaluation.twin.trajectories import TRAJECTORIES
from worldsim.runtime.types import JsonMapping

ROWS = (
    ("input kept, dB", "input_kept"),
    ("generated kept, dB", "generated_kept"),
    ("self-consistent, dB", "self_consistent"),
    ("mirrored, dB", "mirrored"),
)
KINDS = (("", ""), ("  memory off", "_no_memory"), ("  nearest frame", "_retrieval"))
"""Name and key of each kind of memory; the last input frame and the real twin come after them."""


def table(results: JsonMapping) -> str:
    """Return the results as a table."""
    if "outcome_distance" in results:
        return _outcome_table(results)
    lines = [f"{'':<22}" + "".join(f"{name:>20}" for name in TRAJECTORIES)]
    for title, key in ROWS:
        for name, kind in (*KINDS, ("  last input frame", "_stand"), ("  real twin", "_twin")):
            if key + kind in results:
                cells = [_cell(results, key + kind, one) for one in TRAJECTORIES]
                lines.append(f"{name or title:<22}" + "".join(f"{cell:>20}" for cell in cells))
    gated = results["gated_share"]
    for title, key in (("pixels gated, input", "input"), ("  generated", "generated")):
        lines.append(f"{title:<22}" + "".join(f"{gated[one][key]:>20.2f}" for one in TRAJECTORIES))
    for title, key in (
        ("long dream, dB", "drift_psnr"),
        ("  last true frame", "drift_psnr_stand"),
        ("  sharpness", "drift_sharpness"),
        ("  colour, codes", "drift_colour"),
    ):
        lines.append(
            f"{title:<22}"
            + "  ".join(f"{span}: {_cell(results, key, span)}" for span in results[key])
        )
    scores = results["action_score"]
    lines.append(
        "action score          "
        + "  ".join(f"{name}: {_cell(results, 'action_score', name)}" for name in scores)
    )
    success = results["success"]
    lines.append(
        f"{len(results['policies'])} policies: rank agreement {results['rank_agreement']} "
        f"{results['rank_agreement_ci95']}; {success['dream']:.0%} of episodes get "
        f"{FAR:g} m away in the dream, {success['twin']:.0%} in the twin, the same ones in "
        f"{results['success_agrees']:.0%}"
    )
    lines.append(
        f"{results['episodes']} walks per trajectory at the true poses; "
        f"{results['sampling_steps']} sampling steps; {results['seconds']:.0f} s"
    )
    return report(lines, results["episodes"])


def _outcome_table(results: JsonMapping) -> str:
    lines = [f"{'steps':>8}{'dream - twin':>16}{'twin - twin':>16}{'by chance':>12}{'spread':>12}"]
    for step, value in results["outcome_distance"].items():
        halves, chance = results["outcome_distance_of_twins"][step], results["outcome_p"][step]
        lines.append(
            f"{step:>8}{value:>16.3f}{halves:>16.3f}{chance:>12.3f}"
            f"{results['outcome_spread'][step]:>12.4f}"
        )
    lines.append(
        "energy distance of random futures, in units of the twins' spread; share of random "
        "divisions as far apart"
    )
    return report(lines, results["episodes"])


def _cell(results: JsonMapping, key: str, name: str) -> str:
    value = results[key].get(name)
    if value is None:
        return "-"
    between = interval_text(results["ci95"].get(f"{key}.{name}"), 1)
    return f"{value:.2f} {between}".rstrip()
