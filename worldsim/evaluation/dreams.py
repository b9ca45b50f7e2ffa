"""How dreams look over their length: detail, steadiness, and distance from true frames.

Walks of the test set are dreamed at the true poses, so every dreamed frame has a true one. Where
detail is lost differs between pixels that the memory knew before the frame was drawn and those that
it did not know, so they are counted apart. Noise and flicker count as detail of a single frame, but
not of the mean of a frame and its warped predecessor.

Axes: ``e`` walks, ``h`` dreamed frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera
from worldsim.errors import MissingGeometryError
from worldsim.evaluation.benchmark_set import TestSet
from worldsim.evaluation.figures import SEEN_FRAME_SHARE, Figures
from worldsim.evaluation.frechet import frechet_with_interval
from worldsim.evaluation.measure import start_walks, warp
from worldsim.evaluation.metrics import gradient, moved_frames, psnr
from worldsim.evaluation.return_trips import changed_share
from worldsim.evaluation.statistics import interval_text, report
from worldsim.runtime.types import JsonMapping, JsonObject
from worldsim.state import Frame, concatenate
from worldsim.world import World

PROTOCOL = "dreams/1"
HORIZON = 96
"""Dreamed frames."""
NEXT = 24
"""Next frames are measured on this many of the last true ones."""
SPANS = {
    "1-12": (0, 12),
    "13-24": (12, 24),
    "25-36": (24, 36),
    "37-48": (36, 48),
    "49-96": (48, 96),
}
"""Parts of the dream by name: first index, and the one after the last."""
DISTANCES = {"25-48": (24, 48), "49-96": (48, 96)}
"""Parts of the dream whose frames are compared with true frames as sets."""
RATIOS = ("sharpness", "sharpness_known", "sharpness_unknown", "sharpness_steady", "warping_error")
"""Dream over real twin."""
Tick = Callable[[], object]


@dataclass(frozen=True)
class Dreams:
    """What is measured of dreamed walks, CPU tensors.

    rgb: (e, h, 3, y, x) uint8, the dreamed frames.
    mine, true: (e, h, 2) sums of the luminance gradient of dreamed and of true frames over inner
        pixels that the memory knew and did not know.
    pixels: (e, h, 2) numbers of these pixels.
    steady: (e, h, 2) mean gradient of the mean of a frame and its warped predecessor, dreamed and
        true.
    error: (e, h, 2) mean absolute difference of both in codes of 255, dreamed and true: the
        temporal warping error.
    next_psnr: (e, n) dB of next frames from the true past at the true pose.
    next_sharpness: (e, n, 2) their mean gradient, dreamed and true.
    """

    rgb: Tensor
    mine: Tensor
    true: Tensor
    pixels: Tensor
    steady: Tensor
    error: Tensor
    next_psnr: Tensor
    next_sharpness: Tensor


def steps_of(history: int, horizon: int) -> int:
    """Return how often :func:`dream` calls its ``tick``."""
    return history - 1 + horizon


@torch.no_grad()
def dream(world: World, test: TestSet, tick: Tick = lambda: None) -> Dreams:
    """Dream the walks of ``test`` at the true poses, on the world's device.

    Raises MissingGeometryError for a world without poses.
    """
    if not world.has_geometry:
        raise MissingGeometryError(
            "this world has no poses, so its frames have no true ones: evaluate it with "
            "--protocol walks"
        )
    history, horizon = test.config.history, test.config.horizon
    state = start_walks(world, test)
    psnrs, sharps = [], []
    for t in range(1, history):
        if t >= history - NEXT:
            frame = world.step(state.clone(), test.act[:, t - 1], pose=test.pose[:, t])[1].frame
            psnrs.append(psnr(frame.rgb, test.rgb[:, t]).cpu())
            sharps.append(_pair(lambda x: gradient(x).mean((1, 2)), frame.rgb, test.rgb[:, t]))
        state = world.observe(state, test.act[:, t - 1], test.frame(t))
        tick()
    names = ("rgb", "mine", "true", "pixels", "steady", "error")
    columns: dict[str, list[Tensor]] = {name: [] for name in names}
    last = true_last = test.frame(history - 1)
    for t in range(history, history + horizon):
        known = world.memory.render(state.memory, test.camera(test.pose[:, t])).mask
        state, transition = world.step(state, test.act[:, t - 1], pose=test.pose[:, t])
        frame, truth = transition.frame, test.frame(t)
        inner = known[:, 1:-1, 1:-1]
        kinds = torch.stack([inner, ~inner], 1).float()
        for name, rgb in (("mine", frame.rgb), ("true", truth.rgb)):
            columns[name].append((gradient(rgb)[:, None] * kinds).sum((2, 3)).cpu())
        columns["pixels"].append(kinds.sum((2, 3)).cpu())
        pairs = [_warped(now, before, test) for now, before in ((frame, last), (truth, true_last))]
        for name, index in (("steady", 0), ("error", 1)):
            columns[name].append(torch.stack([pair[index] for pair in pairs], 1).cpu())
        columns["rgb"].append(frame.rgb.cpu())
        last, true_last = frame, truth
        tick()
    return Dreams(
        **{name: torch.stack(values, 1) for name, values in columns.items()},
        next_psnr=torch.stack(psnrs, 1),
        next_sharpness=torch.stack(sharps, 1),
    )


def _pair(measure: Callable[[Tensor], Tensor], mine: Tensor, true: Tensor) -> Tensor:
    return torch.stack([measure(mine), measure(true)], 1).cpu()


def _warped(now: Frame, before: Frame, test: TestSet) -> tuple[Tensor, Tensor]:
    """Compare a frame with its predecessor, warped to its camera.

    Returns (e,) the mean gradient of the mean of both, and their mean absolute difference.
    """
    assert before.inverse_depth is not None and now.pose is not None and before.pose is not None
    source: Camera = test.camera(before.pose)
    warped = warp(before.rgb, before.inverse_depth, source, test.camera(now.pose)).float()
    rgb = now.rgb.float()
    return gradient((rgb + warped) / 2).mean((1, 2)), (rgb - warped).abs().mean((1, 2, 3))


def join(parts: list[Dreams]) -> Dreams:
    """Join chunks over walks."""
    return concatenate(parts)


def compute(
    dreams: Dreams,
    test: TestSet,
    features: tuple[Tensor, Tensor, Tensor] | None,
    window: int,
    draws: int,
    seed: int,
) -> JsonObject:
    """Return all results with their intervals over walks.

    test: the walks, on the CPU.
    features: (e, h, d) of the dreamed frames, of the walks' true ones and of true ones of other
        walks; None if no encoder fits the frames.
    window: number of frames that attention spans; seen places count beyond it.
    """
    history, horizon = test.config.history, test.config.horizon
    figures = Figures(len(test), draws, seed)

    def ratio(key: str, mine: Tensor, true: Tensor) -> None:
        figures.ratio(key, mine.double().numpy(), true.double().numpy())

    true = test.rgb[:, history:]
    moved = moved_frames(test.pose)
    late = torch.arange(1, horizon + 1) >= window
    seen = moved[:, history - 1 :] & late & (test.covered > SEEN_FRAME_SHARE)
    each = psnr(dreams.rgb, true).double().numpy()
    shown = dreams.next_psnr.shape[1]
    figures.mean(
        "next_frame_psnr",
        dreams.next_psnr.double().numpy(),
        moved[:, history - 1 - shown : history - 1].numpy(),
    )
    ratio("next_frame_sharpness", *dreams.next_sharpness.unbind(-1))
    figures.mean("seen_psnr", each, seen.numpy())
    ratio("novelty", changed_share(dreams.rgb), changed_share(true))
    for name, (start, stop) in SPANS.items():
        if stop > horizon:
            continue
        part = slice(start, stop)
        figures.mean(f"psnr.{name}", each[:, part], np.ones_like(each[:, part], bool))
        mine, twin = dreams.mine[:, part], dreams.true[:, part]
        ratio(f"sharpness.{name}", mine.sum(-1), twin.sum(-1))
        for i, kind in enumerate(("known", "unknown")):
            ratio(f"sharpness_{kind}.{name}", mine[..., i], twin[..., i])
        pixels = dreams.pixels[:, part]
        ratio(f"known_share.{name}", pixels[..., 0], pixels.sum(-1))
        ratio(f"sharpness_steady.{name}", *dreams.steady[:, part].unbind(-1))
        ratio(f"warping_error.{name}", *dreams.error[:, part].unbind(-1))
    results: JsonObject = {**figures.values, "ci95": dict(figures.ci95)}
    results["seen_frames"] = int(seen.sum())
    if features is not None:
        _distances(results, features, horizon)
    return results


def _distances(results: JsonObject, features: tuple[Tensor, Tensor, Tensor], horizon: int) -> None:
    """Add the Fréchet distances of dreamed and of true frames from those of other walks."""
    mine, twin, other = features
    for key, one in (("fd", mine), ("fd_real", twin)):
        results[key] = {}
        for name, (start, stop) in DISTANCES.items():
            if stop > horizon:
                continue
            a, b = (x[:, start:stop].flatten(0, 1) for x in (one, other))
            found = frechet_with_interval(a, b, stop - start)
            results[key][name] = round(found.value, 3)
            results["ci95"][f"{key}.{name}"] = [round(found.low, 3), round(found.high, 3)]


ROWS = (
    ("sharpness over twin's", "sharpness"),
    ("  known pixels", "sharpness_known"),
    ("  unknown pixels", "sharpness_unknown"),
    ("  mean of two frames", "sharpness_steady"),
    ("warping error over twin's", "warping_error"),
    ("known pixels, share", "known_share"),
    ("PSNR, dB", "psnr"),
    ("FD", "fd"),
    ("FD of true frames", "fd_real"),
)
"""Name and key."""


def table(results: JsonMapping) -> str:
    """Return the results as a table, a column per part of the dream."""
    spans = [name for name in SPANS if name in results.get("psnr", {})]
    lines = [f"{'dreamed frames':<27}" + "".join(f"{name:>24}" for name in spans)]
    for name, key in ROWS:
        group = results.get(key)
        if not group:
            continue
        cells = []
        for span in {**dict.fromkeys(spans), **dict.fromkeys(group)}:
            value = group.get(span)
            if value is None:
                continue
            digits = 0 if key.startswith("fd") else 2
            between = interval_text(results["ci95"].get(f"{key}.{span}"), digits)
            where = "" if span in spans and not key.startswith("fd") else f"{span}: "
            cells.append(f"{where}{value:.{digits}f} {between}".rstrip())
        lines.append(f"{name:<27}" + "".join(f"{cell:>24}" for cell in cells))
    for name, key in (
        ("next frame, dB", "next_frame_psnr"),
        ("  sharpness over twin's", "next_frame_sharpness"),
        ("seen places, dB", "seen_psnr"),
        ("novelty over twin's", "novelty"),
    ):
        value = results[key]
        between = interval_text(results["ci95"].get(key))
        lines.append(f"{name:<27}" + ("-" if value is None else f"{value:.2f} {between}"))
    lines.append(
        f"{results['episodes']} walks at the true poses; {results['sampling_steps']} sampling "
        f"steps; {results['seconds']:.0f} s"
    )
    return report(lines, results["episodes"])
