r"""How many terminations a recording needs: a small classifier of the frames before them, trained
on recordings with fewer and fewer.

    python experiments/recordings/events.py --work runs/events \
        --json experiments/recordings/events.json

LunarLander-v3, rendered; needs the extra tasks. Whole episodes are drawn until they hold the number
of terminations. Every classifier sees as many batches, of which a quarter are terminations, with
the logit corrected for it. Weights are those of the step with the lowest log loss on a fifth of the
episodes; the log loss is measured on episodes of another seed.
"""

from __future__ import annotations

import argparse
import copy
import math
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from worldsim.data.dataset import EpisodeDataset
from worldsim.data.record import RecordConfig, record
from worldsim.runtime.json_config import write_json

COUNTS = (7, 20, 50, 100, 200)
SIDE, ACTIONS, SHARE = 32, 4, 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=24_576)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    train, test = (
        steps_of(
            record(
                RecordConfig(
                    "LunarLander-v3",
                    args.work / name,
                    frames=frames,
                    workers=0,
                    seed=seed,
                    policy="random",
                    render=True,
                    size=(64, 64),
                )
            )
        )
        for name, frames, seed in (("train", args.frames, 0), ("test", args.frames // 3, 1))
    )
    ends = torch.cat([end for _, _, end in test])
    rate = float(ends.mean())
    constant = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    rows = []
    for count in COUNTS:
        ratios = []
        for draw in range(args.draws):
            chosen = draw_episodes(train, count, draw)
            model, shift = fit(chosen, args.steps, draw)
            ratios.append(round(log_loss(model, shift, test) / constant, 4))
        steps = sum(len(end) for _, _, end in chosen)
        rows.append({"terminations": count, "steps": steps, "log_loss_over_constant": ratios})
        print(rows[-1], flush=True)
    results = {
        "test_terminations": int(ends.sum()),
        "test_steps": len(ends),
        "rate": round(rate, 5),
        "rows": rows,
    }
    if args.json is not None:
        write_json(args.json, results)


def steps_of(dataset: EpisodeDataset) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of every episode: two frames a step (n, 2, 32, 32) float32, actions one-hot, and ends."""
    found = []
    for episode in dataset:
        grey = [
            cv2.resize(f.mean(-1).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
            for f in np.asarray(episode.rgb)
        ]
        now = torch.from_numpy(np.stack(grey)[:-1]) / 255.0 - 0.5
        before = torch.cat([now[:1], now[:-1]])
        act = nn.functional.one_hot(torch.from_numpy(np.array(episode.act[:-1])), ACTIONS)
        end = torch.from_numpy(np.array(episode.term[:-1])).float()
        found.append((torch.stack([now, now - before], 1), act.float(), end))
    return found


def draw_episodes(episodes: list[Any], count: int, seed: int) -> list[Any]:
    """Whole episodes, drawn until they hold ``count`` terminations."""
    chosen, total = [], 0
    for i in np.random.default_rng(seed).permutation(len(episodes)):
        chosen.append(episodes[i])
        total += int(episodes[i][2].sum())
        if total >= count:
            return chosen
    raise SystemExit(f"{total} terminations in all: record more (--frames)")


class Classifier(nn.Module):
    """Convolutions over two frames and their coordinates, 0.6 MFLOP."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4, 16, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(512 + ACTIONS, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, frames: Tensor, act: Tensor) -> Tensor:
        line = torch.linspace(-1, 1, SIDE)
        place = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(
            len(frames), -1, -1, -1
        )
        return self.head(torch.cat([self.body(torch.cat([frames, place], 1)), act], 1))[:, 0]


def fit(episodes: list[Any], steps: int, seed: int) -> tuple[Classifier, float]:
    """A classifier, and what to subtract from its logit for terminations that are too frequent."""
    torch.manual_seed(seed)
    held = max(1, len(episodes) // 5)
    frames, act, end = (torch.cat(parts) for parts in zip(*episodes[held:], strict=True))
    ends, others = torch.nonzero(end)[:, 0], torch.nonzero(1 - end)[:, 0]
    rate = len(ends) / len(end)
    shift = math.log(SHARE / (1 - SHARE)) - math.log(rate / (1 - rate))
    model, best = Classifier(), (math.inf, {})
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    for step in range(steps):
        pick = torch.cat(
            [ends[torch.randint(len(ends), (16,))], others[torch.randint(len(others), (48,))]]
        )
        loss = nn.functional.binary_cross_entropy_with_logits(
            model(frames[pick], act[pick]), end[pick]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 40 == 39:
            now = log_loss(model, shift, episodes[:held])
            if now < best[0]:
                best = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(best[1])
    return model, shift


@torch.no_grad()
def log_loss(model: Classifier, shift: float, episodes: list[Any]) -> float:
    """Nats per step."""
    total = count = 0.0
    for frames, act, end in episodes:
        logits = model(frames, act) - shift
        total += float(nn.functional.binary_cross_entropy_with_logits(logits, end, reduction="sum"))
        count += len(end)
    return total / count


if __name__ == "__main__":
    main()
