"""Step a shipped world, save the moment, and look at several futures from it.

    python examples/step_and_fork.py [OUT]

Writes ``futures.png`` and ``moment.safetensors`` into the folder OUT (default
``out/step_and_fork``). Takes under half a minute on a CPU.
"""

# %% Imports
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

import worldsim  # noqa: F401  registers the environments
from worldsim.io.pictures import contact_sheet, save_picture

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/step_and_fork")
out.mkdir(parents=True, exist_ok=True)
FORWARD, LEFT, RIGHT = 1, 3, 4

# %% A dream is a Gymnasium environment
env = gym.make("worldsim/FreedoomDream-v0")
obs, info = env.reset(seed=0, options={"scene": "MAP28-5"})
print("observation:", obs.shape, obs.dtype, "| actions:", env.action_space)
print("info:", {key: np.shape(value) for key, value in info.items()})

for action in [LEFT] * 3 + [FORWARD] * 3:
    obs, reward, terminated, truncated, info = env.step(action)
print(f"The memory knew {info['memory_coverage']:.0%} of the newest frame before it was dreamed.")

# %% A snapshot holds the whole world: going back to it repeats the future exactly
dream = env.unwrapped
moment = dream.snapshot()
first = [env.step(action)[0] for action in (RIGHT, RIGHT, FORWARD)]
dream.restore(moment)
again = [env.step(action)[0] for action in (RIGHT, RIGHT, FORWARD)]
print("The same future again, bit for bit:", np.array_equal(first, again))

# %% The same on disk, for another process
dream.restore(moment)
path = dream.save(out / "moment.safetensors")
print(f"Saved {path} ({path.stat().st_size / 1e6:.1f} MB)")

# %% A fork is a batch of copies that start from this moment
ways = {
    "forward": [FORWARD] * 8,
    "left, forward": [LEFT] * 4 + [FORWARD] * 4,
    "right, forward": [RIGHT] * 4 + [FORWARD] * 4,
    "turn right": [RIGHT] * 8,
}
forks = dream.fork(len(ways))
frames = []
for actions in zip(*ways.values(), strict=True):
    obs, rewards, terminated, truncated, infos = forks.step(np.array(actions))
    frames.append(obs)

# %% Forks that draw their own noise show what the world is unsure of
apart = dream.fork(4, randomness="independent")
for _ in range(8):
    obs, rewards, terminated, truncated, infos = apart.step(np.full(4, FORWARD))
spread = obs.astype(float).std(axis=0).mean()
print(f"Eight steps forward, four draws: colours differ by {spread:.1f} of 255 between the draws.")

# %% Look at the futures
shown = [1, 3, 5, 7]
rows = {name: [frames[t][i] for t in shown] for i, name in enumerate(ways)}
sheet = contact_sheet(rows, [f"step {t + 1}" for t in shown], scale=2)
save_picture(sheet, out / "futures.png")
print(f"Wrote {out / 'futures.png'}")
