"""The figures of the walks' protocol: from scores of frames to keys with intervals, and a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from worldsim.camera import rotation_angle
from worldsim.evaluation.statistics import (
    interval,
    interval_text,
    mean_statistic,
    pooled_mean,
    quantile_statistic,
    report,
)
from worldsim.runtime.types import Array, JsonMapping, JsonObject, NamedArrays

SEEN_FRAME_SHARE = 0.8
"""A frame is seen if more than this share of its pixels is."""
MIN_PATH_METRES = 5.0
"""Walks with a shorter path say nothing of position errors in per cent."""
HORIZONS = (1, 8, 24, 48)
REDUCED = "at_64x64"
"""Key of the figures of frames that were reduced to 64x64."""


class Figures:
    """Collects values and intervals by key; undefined ones become None."""

    def __init__(self, episodes: int, draws: int, seed: int) -> None:
        self.episodes, self.draws, self.seed = episodes, draws, seed
        self.values: JsonObject = {}
        self.ci95: dict[str, list[float] | None] = {}

    def add(self, key: str, value: float, statistic: Callable[[Array], Array]) -> None:
        """Add a result and its statistic over resampled walks.

        The key ``psnr_at.8`` becomes ``{"psnr_at": {"8": ...}}``.
        """
        self.ci95[key] = interval(statistic, self.episodes, self.draws, self.seed)
        group, _, name = key.partition(".")
        target = self.values.setdefault(group, {}) if name else self.values
        target[name or group] = None if math.isnan(value) else round(value, 4)

    def mean(self, key: str, values: Array | None, chosen: Array) -> None:
        """Add the mean over the chosen entries.

        values, chosen: (e, ...).
        """
        kept = [] if values is None else [v[c] for v, c in zip(values, chosen, strict=True)]
        if not kept:
            kept = [np.zeros(0)] * self.episodes
        self.add(key, pooled_mean(kept), mean_statistic(kept))

    def ratio(self, key: str, above: Array, below: Array) -> None:
        """Add the ratio of two sums over all walks; None where the lower one is 0.

        above, below: (e, ...).
        """
        upper, lower = (x.reshape(len(x), -1).sum(1, dtype=np.float64) for x in (above, below))

        def statistic(counts: Array) -> Array:
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray((counts @ upper) / (counts @ lower))

        whole = float(statistic(np.ones((1, len(upper))))[0])
        self.add(key, whole if np.isfinite(whole) else float("nan"), statistic)

    def quantile(self, key: str, values: Array, q: float) -> None:
        """Add a quantile of one value per walk, NaN where a walk has none."""
        statistic = quantile_statistic(values, q)
        self.add(key, float(statistic(np.ones((1, len(values)), np.int64))[0]), statistic)


def compute(
    measured: NamedArrays,
    moved: Array,
    covered: Array,
    pose: Array,
    window: int,
    draws: int,
    seed: int,
) -> JsonObject:
    """Return all results of the protocol.

    measured: arrays of :class:`worldsim.evaluation.measure.Measured`.
    moved: (e, h) bool.
    covered: (e, h) share of pixels that the history has seen.
    pose: (e, h + 1, 4, 4) true poses from the last history frame on.
    window: number of frames that attention spans.
    """
    figures = Figures(len(moved), draws, seed)
    seen = _picture_figures(figures, measured, moved, covered, window)
    figures.values["seen_frames"] = int(seen.sum())
    figures.mean(
        "action_accuracy", measured["fork_right"].astype(np.float64), measured["fork_counts"]
    )
    figures.values["action_dreams"] = int(measured["fork_counts"].sum())
    _pose_figures(figures, measured["own_pose"], pose, covered)
    figures.values["moved_frames"] = int(moved.sum())
    return {**figures.values, "ci95": figures.ci95}


def compute_reduced(
    measured: NamedArrays, moved: Array, covered: Array, window: int, draws: int, seed: int
) -> JsonObject:
    """Return the PSNRs of :func:`compute`, with the same arguments, for frames reduced to 64x64."""
    figures = Figures(len(moved), draws, seed)
    _picture_figures(figures, measured, moved, covered, window)
    return {**figures.values, "ci95": figures.ci95}


def _picture_figures(
    figures: Figures, measured: NamedArrays, moved: Array, covered: Array, window: int
) -> Array:
    """Add all PSNRs; returns which frames show seen places, (e, h) bool."""
    horizon = moved.shape[1]
    # From here on no true frame is left in the attention window: generated frame i (from 1) attends
    # to window - 1 before it.
    late = np.broadcast_to(np.arange(1, horizon + 1) >= window, moved.shape)
    seen, unseen = (
        moved & late & (covered > SEEN_FRAME_SHARE),
        moved & late & (covered <= SEEN_FRAME_SHARE),
    )
    for key, name in (
        ("next_frame_psnr", "next"),
        ("copy_last_psnr", "copy"),
        ("warp_last_psnr", "warp"),
    ):
        figures.mean(key, measured[name], moved)
    for key, name in (
        ("seen_psnr", "given"), ("seen_nearest_psnr", "nearest"), ("seen_splat_psnr", "splat"),
        ("seen_psnr_no_memory", "no_memory"), ("seen_copy_last_psnr", "stand"),
    ):  # fmt: skip
        figures.mean(key, measured[name], seen)
    figures.mean("unseen_psnr", measured["given"], unseen)
    for group, name in (
        ("psnr_at", "given"),
        ("free_running_psnr_at", "own"),
        ("psnr_at_no_memory", "no_memory"),
    ):
        for at in HORIZONS:
            if at <= horizon:
                figures.mean(
                    f"{group}.{at}",
                    None if measured[name] is None else measured[name][:, at - 1],
                    moved[:, at - 1],
                )
    figures.mean("action_gap_psnr", measured["next"] - measured["other"], moved)
    _gaps(figures, measured, moved, seen)
    return seen


def _pose_figures(figures: Figures, own: Array | None, pose: Array, covered: Array) -> None:
    """Add pose errors at the last frame.

    First over long walks that mostly cross seen places, then over all long walks.
    """
    path = np.linalg.norm(np.diff(pose[:, :, :3, 3].astype(np.float64), axis=1), axis=-1).sum(1)
    long = path >= MIN_PATH_METRES
    eligible = long & ((covered > SEEN_FRAME_SHARE).mean(1) >= SEEN_FRAME_SHARE)
    figures.values["position_episodes"] = int(eligible.sum())
    figures.values["position_episodes_all"] = int(long.sum())
    nothing = np.full(len(pose), np.nan)
    position, heading = nothing, nothing
    if own is not None:
        distance = np.linalg.norm(
            own[:, -1, :3, 3].astype(np.float64) - pose[:, -1, :3, 3], axis=-1
        )
        position = 100.0 * distance / np.maximum(path, 1e-9)
        heading = np.rad2deg(
            rotation_angle(torch.from_numpy(own[:, -1]), torch.from_numpy(pose[:, -1]))
            .numpy()
            .astype(np.float64)
        )
    for suffix, chosen in (("", eligible), ("_all", long)):
        kept_position, kept_heading = (np.where(chosen, x, np.nan) for x in (position, heading))
        figures.quantile(f"position_error_pct{suffix}", kept_position, 0.5)
        figures.quantile(f"position_error_pct{suffix}_p90", kept_position, 0.9)
        figures.quantile(f"heading_error_deg{suffix}", kept_heading, 0.5)


def _gaps(figures: Figures, measured: NamedArrays, moved: Array, seen: Array) -> None:
    """Add differences of scores on the same frames.

    Their intervals are paired, so they are narrower than those of the scores.
    """

    def gap(key: str, minuend: str, subtrahends: Sequence[str], chosen: Array) -> None:
        names = [minuend, *subtrahends]
        if any(measured[name] is None for name in names):
            figures.mean(f"gaps.{key}", None, chosen)
            return
        kept = {name: [v[c] for v, c in zip(measured[name], chosen, strict=True)] for name in names}
        statistics = {name: mean_statistic(values) for name, values in kept.items()}

        def statistic(counts: Array) -> Array:
            best = np.max([statistics[name](counts) for name in subtrahends], 0)
            return np.asarray(statistics[minuend](counts) - best)

        value = pooled_mean(kept[minuend]) - max(pooled_mean(kept[name]) for name in subtrahends)
        figures.add(f"gaps.{key}", value, statistic)

    gap("next_minus_copy", "next", ["copy"], moved)
    gap("next_minus_warp", "next", ["warp"], moved)
    gap("seen_minus_best_baseline", "given", ["nearest", "splat"], seen)
    gap("seen_minus_no_memory", "given", ["no_memory"], seen)


TABLE = (
    (
        "next frame",
        "next_frame_psnr",
        "dB",
        "copy last {copy_last_psnr}, warp last {warp_last_psnr}",
    ),
    ("  over copying", "gaps.next_minus_copy", "dB", ""),
    ("  over warping", "gaps.next_minus_warp", "dB", ""),
    (
        "seen places",
        "seen_psnr",
        "dB",
        "nearest frame {seen_nearest_psnr}, splat {seen_splat_psnr}, still {seen_copy_last_psnr}",
    ),
    (
        "  over the best of these",
        "gaps.seen_minus_best_baseline",
        "dB",
        "the better of nearest frame and splat",
    ),
    ("  memory off", "seen_psnr_no_memory", "dB", ""),
    ("  what memory brings", "gaps.seen_minus_no_memory", "dB", ""),
    ("unseen places", "unseen_psnr", "dB", ""),
    *((f"poses given, frame {at}", f"psnr_at.{at}", "dB", "") for at in HORIZONS),
    *((f"free-running, frame {at}", f"free_running_psnr_at.{at}", "dB", "") for at in HORIZONS),
    ("action gap", "action_gap_psnr", "dB", ""),
    ("action accuracy", "action_accuracy", "", "{action_dreams} dreams"),
    (
        "position error, median",
        "position_error_pct",
        "%",
        "{position_episodes} walks of 5 m through seen places",
    ),
    ("position error, 90th", "position_error_pct_p90", "%", ""),
    ("heading error, median", "heading_error_deg", "deg", ""),
    (
        "position error, all walks",
        "position_error_pct_all",
        "%",
        "{position_episodes_all} walks of 5 m",
    ),
    ("heading error, all walks", "heading_error_deg_all", "deg", ""),
)
"""Name, key, unit and what to compare with."""


def table(results: JsonMapping) -> str:
    """Return the results as a table: value, 95% interval, baselines on the same frames."""
    lines = [f"{'':<27}{'value':>9}  {'95% interval':<20}baselines on the same frames"]
    shown = {key: _short(value) for key, value in results.items()}
    for name, key, unit, note in TABLE:
        group, _, member = key.partition(".")
        value = results.get(group)
        value = value.get(member) if member and isinstance(value, Mapping) else value
        if isinstance(value, Mapping):
            continue
        text = _short(value)
        between = between_of(results["ci95"].get(key), unit)
        lines.append(f"{name:<27}{text:>9}  {between:<20}{note.format_map(shown)}".rstrip())
    lines += _reduced_lines(results)
    lines.append(
        f"{results['episodes']} walks, {results['moved_frames']} frames in motion, "
        f"{results['seen_frames']} of seen places; "
        f"{results['sampling_steps']} sampling steps; {results['seconds']:.0f} s"
    )
    return report(lines, results["episodes"])


def between_of(interval: list[float] | None, unit: str) -> str:
    """Return an interval for a table; empty if there is none."""
    return "" if interval is None else f"{interval_text(interval)} {unit}"


def _reduced_lines(results: JsonMapping) -> list[str]:
    """Return the main results once more, of frames reduced to 64x64."""
    reduced = results.get(REDUCED)
    if reduced is None:
        return []
    shown = {key: _short(value) for key, value in reduced.items()}
    lines = ["reduced to 64x64:"]
    for name, key, unit, note in TABLE:
        if key in ("next_frame_psnr", "seen_psnr", "seen_psnr_no_memory", "unseen_psnr"):
            between = between_of(reduced["ci95"][key], unit)
            lines.append(
                f"{'  ' + name.strip():<27}{shown[key]:>9}  "
                f"{between:<20}{note.format_map(shown)}".rstrip()
            )
    return lines


def _short(value: object) -> str:
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
