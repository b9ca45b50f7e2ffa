"""Contact sheets of an evaluation: the first places, none selected, and the failures among all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera, dequantise_depth
from worldsim.io.pictures import contact_sheet, depth_picture, save_picture
from worldsim.painting.channels import unscale
from worldsim.painting.evaluation import completion
from worldsim.painting.evaluation.paintings import Known, Painted, inputs_of
from worldsim.painting.evaluation.places import HEADINGS, Places, as_bytes, partial_memory
from worldsim.painting.evaluation.yardstick import Yardstick
from worldsim.painting.validation.checks import Views
from worldsim.painting.validation.validator import Validator, failures
from worldsim.protocols import Painter
from worldsim.runtime.progress import Progress
from worldsim.runtime.types import Array, JsonObject
from worldsim.state import Frame

SHEET = 16
"""Places on a contact sheet."""
COLUMNS = 8
"""Views in a row of the sheet of failures."""
OUTLIER_ROWS = 2
"""Rows of the views that lie farthest from the real ones."""
RIDGE = 1e-3
"""Share of the mean variance that is added to each variance, for few places."""


def sheet(rgb: Tensor, code: Tensor, path: Path) -> None:
    """Write rows of headings with their depth below.

    rgb: (s, n, 3, h, w) uint8.
    code: (s, n, h, w) int32.
    """
    rows = []
    for pictures, codes in zip(rgb.cpu(), code.cpu(), strict=True):
        rows.append(np.concatenate([p.permute(1, 2, 0).numpy() for p in pictures], 1))
        rows.append(np.concatenate([depth_picture(d.numpy()) for d in dequantise_depth(codes)], 1))
    save_picture(np.concatenate(rows, 0).repeat(2, 0).repeat(2, 1), path)


def shown(memory: Tensor) -> Tensor:
    """Return the colours (s, n, 3, h, w) uint8 of memory channels (s, n, 5, h, w), holes black."""
    return as_bytes(unscale(memory[:, :, :3])) * (memory[:, :, 4:] > 0)


def save_sheets(painted: dict[str, Painted], places: Places, folder: Path) -> None:
    """Write ``real.png``, ``memory.png``, and one sheet for each entry of ``painted``.

    Each shows the first 16 places.
    """
    at = places.part(slice(0, SHEET))
    sheet(at.rgb[:, :HEADINGS], at.code[:, :HEADINGS], folder / "real.png")
    if completion.GROUP in painted:
        memory = shown(partial_memory(at, completion.sources_of(at)))
        sheet(memory, at.code[:, :HEADINGS], folder / "memory.png")
    for name, views in painted.items():
        sheet(views.rgb[:SHEET, :HEADINGS], views.code[:SHEET, :HEADINGS], folder / f"{name}.png")


def outlier_scores(features: Tensor, real: Tensor) -> Tensor:
    """Return the squared Mahalanobis distance of features (m, d) from the real ones (r, d), (m,).

    The variances get a small share of their mean, so that few real views suffice.
    """
    a, b = features.double(), real.double()
    covariance = torch.cov(b.T)
    covariance = covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance))
    gap = a - b.mean(0)
    return (gap * torch.linalg.solve(covariance, gap.T).T).sum(1)


def judge(painter: Painter, painted: Painted, places: Places) -> list[list[list[str]]]:
    """Return the names of the checks that each view of each new place fails."""
    validator = Validator.for_painter(painter)
    found = []
    with Progress(len(places), "judging", "place") as bar:
        for i in range(len(places)):
            at = places.part(slice(i, i + 1)).to("cpu")
            pose = at.pose[0, :HEADINGS]
            rgb, code = (x[i, :HEADINGS].cpu() for x in (painted.rgb, painted.code))
            frame = Frame(rgb, code, pose)
            h, w = frame.rgb.shape[-2:]
            camera = Camera(pose, at.intrinsics.expand(len(pose), 4), h, w)
            known = Known(attributes=True)
            inputs = inputs_of(at, range(HEADINGS), known, torch.tensor([i]))
            verdicts = validator.views(Views(frame, camera), inputs)
            found.append([list(failures([view])) for view in verdicts])
            bar.update()
    return found


def save_failures(
    painter: Painter, yardstick: Yardstick, painted: Painted, places: Places, path: Path
) -> JsonObject:
    """Write a sheet of the views of new places that the validator refuses, and of outliers.

    A row for each check shows the first views that fail it. The last rows show the views whose
    features lie farthest from the real ones (:func:`outlier_scores`).

    Returns how many views were judged and refused, and by which checks.
    """
    rgb = painted.rgb[:, :HEADINGS].flatten(0, 1)
    names = [view for place in judge(painter, painted, places) for view in place]
    by_check: Counter[str] = Counter(name for view in names for name in view)
    rows: dict[str, list[Array | None]] = {}
    for check, count in by_check.most_common():
        failed = [i for i, view in enumerate(names) if check in view][:COLUMNS]
        rows[f"{check}\n{count}"] = _row(rgb, failed)
    scores = outlier_scores(yardstick.features(rgb), yardstick.features(places.headings))
    order = scores.argsort(descending=True).tolist()
    for row in range(OUTLIER_ROWS):
        worst = order[row * COLUMNS : (row + 1) * COLUMNS]
        rows[f"outliers\n{row * COLUMNS + 1} on"] = _row(rgb, worst)
    save_picture(contact_sheet(rows, [str(i + 1) for i in range(COLUMNS)], 2), path)
    refused = sum(bool(view) for view in names)
    return {
        "views": len(names),
        "refused": refused,
        "share": round(refused / max(1, len(names)), 4),
        "by_check": dict(by_check.most_common()),
    }


def _row(rgb: Tensor, index: list[int]) -> list[Array | None]:
    """Return views as pictures, filled up to a row with None."""
    found: list[Array | None] = [rgb[i].permute(1, 2, 0).cpu().numpy() for i in index]
    return found + [None] * (COLUMNS - len(found))
