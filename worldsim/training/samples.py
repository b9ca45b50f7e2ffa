"""Pictures of a training run's predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.runtime.types import Array
from worldsim.training.buffer import Windows


def sample_grid(windows: Windows, prediction: Tensor) -> Array:
    """Return a picture of a few windows, a row each: true frames, memory views and predictions.

    prediction: (b, t, c, h, w) in [-1, 1].

    Returns (rows h, t w, 3) uint8.
    """
    rows = []
    for i in range(min(4, len(windows.rgb))):
        rows.append(windows.rgb[i])
        if windows.view is not None:
            rows.append(
                ((windows.view[i, :, :3] + 1.0) * 127.5 * windows.view[i, :, 4:5])
                .clamp(0, 255)
                .to(torch.uint8)
            )
        rows.append(((prediction[i, :, :3].float() + 1.0) * 127.5).clamp(0, 255).to(torch.uint8))
    grid = torch.stack([torch.cat(list(r), 2) for r in rows])
    return torch.cat(list(grid), 1).permute(1, 2, 0).cpu().numpy()
