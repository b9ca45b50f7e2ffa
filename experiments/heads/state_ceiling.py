"""How well LunarLander's rewards are known from the lander's position and angle with noise.

A perceptron sees the last positions, in pixels of a 64x64 frame, the angles and the actions, as a
head that reads frames would if it measured them that precisely. Results: docs/experiments/heads.md.

    python experiments/heads/state_ceiling.py --noise 0.1 --frames 4 --steps 1500
"""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import nn

from worldsim.agents.persistent import PersistentPolicy

ANGLE = 0.25
"""Noise of the angle in radians, per pixel of noise of the position."""


@dataclass(frozen=True)
class CeilingConfig:
    """Options."""

    noise: float = 0.1
    """Standard deviation of the position in pixels; each frame's is drawn once."""
    frames: int = 4
    """Frames and actions that are seen."""
    after: bool = True
    """Whether the newest frame is the one that the transition led to."""
    steps: int = 1500
    """Training steps of 512 transitions."""
    recorded: int = 60_000
    """Frames, the last 15% of them held out."""


def record(count: int) -> tuple[np.ndarray, ...]:
    """Positions and angle (n, 3), actions into each frame (n, 2), rewards, ends, first frames."""
    env = gym.make("LunarLander-v3", continuous=True).unwrapped
    policy, episode = PersistentPolicy(env.action_space), 0
    rows: list[tuple[object, ...]] = []

    def state() -> tuple[float, float, float]:
        at = env.lander.position
        return at.x / 20.0 * 64, at.y / (400 / 30) * 64, env.lander.angle

    while len(rows) < count:
        env.reset(seed=episode)
        policy.reset(episode)
        episode += 1
        rows.append((state(), (0.0, 0.0), 0.0, False, True))
        for _ in range(256):
            act = policy.act(None)
            _, rew, ended, _, _ = env.step(act)
            rows.append((state(), act, rew, ended, False))
            if ended:
                break
    columns = list(zip(*rows, strict=True))
    kinds = (np.float32, np.float32, np.float32, bool, bool)
    return tuple(np.array(x, kind) for x, kind in zip(columns, kinds, strict=True))


def main(config: CeilingConfig) -> None:
    """Record, train, print the errors relative to those of the best constant."""
    torch.manual_seed(0)
    states, acts, rew, ended, first = record(config.recorded)
    k, noise = config.frames, config.noise
    start = np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))
    spread = np.array([noise, noise, noise * ANGLE], np.float32)
    seen = states + np.random.default_rng(0).normal(size=states.shape).astype(np.float32) * spread
    index = np.flatnonzero(~first & ~ended)
    begin = start[index][:, None]
    led = index[:, None] + np.arange(1 - k, 1)
    shown = led if config.after else led - 1
    places, present = seen[np.maximum(shown, begin)], shown >= begin
    act = acts[np.maximum(led, begin)] * (led > begin)[..., None]
    # The main engine runs from 0 on, the others from half of the range on.
    act = np.concatenate([act, np.clip(act, 0, 1) * 0.5, (np.abs(act) > 0.5) * act], -1)
    motions = np.diff(places, axis=1) * np.array([4, 4, 10])
    flat = (places[:, -1] / 32, *(x.reshape(len(index), -1) for x in (motions, act)), present)
    inputs = torch.from_numpy(np.concatenate(flat, 1).astype(np.float32))
    target = torch.from_numpy((rew[index] - rew[index].mean()) / rew[index].std())
    learned = torch.from_numpy(start[index] < len(first) * 0.85)
    x, y = inputs[learned], target[learned]
    model = nn.Sequential(
        nn.Linear(x.shape[1], 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    for _ in range(config.steps):
        pick = torch.randint(len(x), (512,))
        loss = nn.functional.smooth_l1_loss(model(x[pick])[:, 0], y[pick], beta=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        error, true = model(inputs[~learned])[:, 0] - target[~learned], target[~learned]
    absolute = float(error.abs().mean() / (true - true.median()).abs().mean())
    squared = float(error.square().mean() / true.var())
    print(f"{config}: absolute {absolute:.3f}, squared {squared:.3f}")


if __name__ == "__main__":
    main(tyro.cli(CeilingConfig))
