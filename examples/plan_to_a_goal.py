"""Plan a way to a place in a dream, walk it, and draw it on the memory's map.

    python examples/plan_to_a_goal.py [OUT]

Writes ``way.png`` and ``frames.png`` into the folder OUT (default ``out/plan_to_a_goal``). Takes
under a minute on a CPU.
"""

# %% Imports
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import worldsim  # noqa: F401  registers the environments
from worldsim.agents.cem import CemConfig, CemPolicy
from worldsim.io.pictures import contact_sheet, enlarge, save_picture
from worldsim.planning.objectives import PoseGoal

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/plan_to_a_goal")
out.mkdir(parents=True, exist_ok=True)

# %% Look around first: the planner knows only what the memory holds
env = gym.make("worldsim/FreedoomDream-v0")
obs, info = env.reset(seed=0, options={"scene": "MAP30-2"})
for action in [3] * 4 + [4] * 8 + [3] * 4:  # four turns left, eight right, four left again
    obs, reward, terminated, truncated, info = env.step(action)

# %% The goal: a pose three metres ahead and one to the right
goal = torch.as_tensor(info["pose"]).clone()  # camera-to-world; columns are right, down, forward
goal[:3, 3] += 3.0 * goal[:3, 2] + 1.0 * goal[:3, 0]
print("from", np.round(info["pose"][:2, 3], 2), "to", np.round(goal[:2, 3].numpy(), 2), "metres")

# %% iCEM imagines 40 sequences of 8 actions, twice, and takes the first action of the best one
policy = CemPolicy(env, PoseGoal(goal), CemConfig(horizon=8, candidates=40, iterations=2))
policy.reset(seed=0)
frames, path = [obs], [info["pose"][:3, 3]]
for step in range(30):
    action = policy.act(obs)
    obs, reward, terminated, truncated, info = env.step(action)
    frames.append(obs)
    path.append(info["pose"][:3, 3])
    left = float(np.linalg.norm(path[-1][:2] - goal[:2, 3].numpy()))
    print(f"step {step + 1:2}: action {int(action)}, {left:.2f} m to go")
    if policy.arrived:  # within PoseGoal.within, 0.5 m
        break
print("arrived" if policy.arrived else "not arrived")

# %% Draw the way on the memory's map: red is the way, green the goal
plan = env.unwrapped.memory.top_down(resolution=0.05, reach=5.0)
chart = enlarge(plan.rgb, 3)


def mark(position: np.ndarray, colour: tuple[int, int, int], half: int) -> None:
    """A square of the map around a position in metres."""
    column, row = (int(3 * n) for n in plan.pixels(torch.as_tensor(position[:2])))
    chart[max(0, row - half) : row + half, max(0, column - half) : column + half] = colour


for position in path:
    mark(position, (230, 60, 50), 4)
mark(goal[:3, 3].numpy(), (60, 220, 90), 7)
save_picture(chart, out / "way.png")
shown = np.linspace(0, len(frames) - 1, 5).astype(int)
sheet = contact_sheet({"dream": [frames[i] for i in shown]}, [f"step {i}" for i in shown])
save_picture(sheet, out / "frames.png")
print(f"Wrote {out / 'way.png'} and {out / 'frames.png'}")
