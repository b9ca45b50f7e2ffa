"""Picture strips over time: real frames, the dream at the true poses, and its memory views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.evaluation.benchmark_set import TestSet
from worldsim.evaluation.measure import free_run, take_in_history
from worldsim.evaluation.memory_fitting import Fits
from worldsim.evaluation.metrics import psnr
from worldsim.io.pictures import contact_sheet, holes_marked, save_picture
from worldsim.runtime.types import Array
from worldsim.world import World

COLUMNS = 12


def picture(rgb: Tensor) -> Array:
    """(3, h, w) uint8 tensor to (h, w, 3) array."""
    return rgb.permute(1, 2, 0).cpu().numpy()


@torch.no_grad()
def save_strips(world: World, test: TestSet, folder: Path, fits: Fits | None = None) -> None:
    """Save one PNG per walk in ``folder``.

    fits: when the world's memory is fitted.
    """
    history, horizon = test.config.history, test.config.horizon
    state = take_in_history(world, test, lambda: None)
    rollout = free_run(
        world, state, test, world.has_geometry, lambda: None, keep_views=True, fits=fits
    )
    times = sorted({int(t) for t in np.linspace(0, horizon - 1, min(COLUMNS, horizon)).round()})
    future = test.rgb[:, history:]
    scores = psnr(rollout.rgb, future).cpu()
    for e in range(len(test)):
        rows: dict[str, list[Array]] = {
            "real twin": [picture(future[e, t]) for t in times],
            "dream": [picture(rollout.rgb[e, t]) for t in times],
        }
        if rollout.view_rgb is not None and rollout.view_mask is not None:
            views, masks = rollout.view_rgb[e], rollout.view_mask[e].cpu().numpy()
            rows["memory\nview"] = [holes_marked(picture(views[t]), masks[t]) for t in times]
        captions = [
            f"frame {t + 1}\n{scores[e, t]:.1f} dB, {100 * test.covered[e, t]:.0f}% seen"
            for t in times
        ]
        title = [
            f"walk {e} on {test.maps[e]}: frames after {history} true ones, PSNR, share of the "
            f"view seen in these {history}"
        ]
        save_picture(contact_sheet(rows, captions, title=title), folder / f"walk-{e:02d}.png")
