"""Train a leg of the painter.

    python experiments/painter/train.py --data /tmp/train --out out/painter

On several devices: ``torchrun --nproc-per-node 2 experiments/painter/train.py ...``.
"""

from __future__ import annotations

import torch
import tyro

from worldsim.painting.training.train import PainterTrainConfig, train

if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    print(train(tyro.cli(PainterTrainConfig)))
