"""The table of a painter's figures."""

from __future__ import annotations

from collections.abc import Mapping

from worldsim.evaluation.statistics import interval_text, report
from worldsim.runtime.types import JsonMapping

ROWS = (
    ("new places, FD", "new.fd", "", "floor {new.floor_fd}"),
    ("  in floors", "new.floors", "at most 1.5", "pairs of headings {new.floors_pairs}"),
    ("  over cv2.inpaint", "new.over_inpaint", "at most 0.33", "its FD {new.inpaint_fd}"),
    ("  over a world turning", "new.over_world", "at most 0.33", "its FD {new.world_fd}"),
    ("  KD", "new.kd", "", "floor {new.floor_kd}"),
    ("  headings agree, dB", "new.overlap_psnr", "at least 24", "real {new.real_overlap_psnr}"),
    ("  sharpness over real", "new.sharpness_ratio", "at least 0.85", ""),
    ("completion, FD", "completion.fd", "", "cv2.inpaint {completion.inpaint_fd}"),
    ("  PSNR, dB", "completion.psnr", "", "cv2.inpaint {completion.inpaint_psnr}"),
    (
        "  sharpness over real",
        "completion.sharpness_ratio",
        "",
        "cv2.inpaint {completion.inpaint_sharpness_ratio}",
    ),
    (
        "memorisation",
        "memorisation.ratio",
        "at least 0.9",
        "5% quantile {memorisation.ratio_p05}; {memorisation.train_frames} train frames",
    ),
    (
        "3 to 8 views, gain, dB",
        "joint.overlap_gain",
        "at least 3",
        "jointly {joint.joint_overlap_psnr}, one by one {joint.single_overlap_psnr}",
    ),
    ("  gain in PSNR, dB", "joint.psnr_gain", "at least 0", "one by one {joint.single_psnr}"),
    (
        "  gain in sharpness",
        "joint.sharpness_gain",
        "at least 0",
        "one by one {joint.single_sharpness_ratio}",
    ),
    ("depth, AbsRel", "depth.abs_rel", "", "sky right {depth.sky_accuracy}"),
    (
        "  over the best guess",
        "depth.ratio",
        "at most 0.5",
        "median map {depth.abs_rel_median_map}, floor plane {depth.abs_rel_floor_plane}",
    ),
    ("seconds per new place", "time.seconds_per_place", "", "8 headings, alone, on {device}"),
)
"""Name, key, what a good painter reaches, and what to compare with."""


def table(results: JsonMapping) -> str:
    """Return the figures as a table: value, 95% interval over places, target, comparison."""
    flat = _Flat({key: _short(value) for key, value in _flatten(results).items()})
    lines = [f"{'':<26}{'value':>9}  {'95% interval':<20}{'required':<14}compare with"]
    for name, key, required, note in ROWS:
        group = key.partition(".")[0]
        if group not in results:
            continue
        between = interval_text(results["ci95"].get(key))
        text = f"{name:<26}{flat[key]:>9}  {between:<20}{required:<14}{_fill(note, flat)}"
        lines.append(text.rstrip())
    lines.append(
        f"{results['places']} places of {len(results['maps'])} maps; "
        f"{results['sampling'].get('num_inference_steps', '?')} sampling steps; "
        f"{results['seconds']:.0f} s"
    )
    return report(lines, results["places"])


class _Flat(dict[str, str]):
    """Texts by dotted key; a dash for what was not measured."""

    def __missing__(self, key: str) -> str:
        return "-"


def _fill(note: str, flat: _Flat) -> str:
    for key in [part.partition("}")[0] for part in note.split("{")[1:]]:
        note = note.replace("{" + key + "}", flat[key])
    return note


def _flatten(results: JsonMapping, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in results.items():
        if isinstance(value, Mapping) and key != "ci95":
            found |= _flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _short(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}"
    return str(value)
