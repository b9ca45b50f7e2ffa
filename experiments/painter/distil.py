"""Distil a painter into a student of few steps. Results: docs/experiments/painter_distil.md.

    python experiments/painter/distil.py --painter runs/painter/state --data /tmp/train \\
        --out out/student --seconds 1020 --compile

On several devices: ``torchrun --nproc-per-node 2 experiments/painter/distil.py ...``.
"""

from __future__ import annotations

import torch
import tyro

from worldsim.painting.training.distil import PainterDistilConfig, distil

if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    print(distil(tyro.cli(PainterDistilConfig, description=__doc__)))
