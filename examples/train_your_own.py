"""Train a world on an environment of your own: record, train, and compare the dream with it.

    python examples/train_your_own.py [OUT]

Writes the recording, the world and ``compare.png`` into the folder OUT (default
``out/train_your_own``). Takes under two minutes on a CPU. The network is the smallest preset and
sees few steps, so the dream is rough; docs/how_to/train_your_own.md says what a good one takes.
"""

# %% Imports
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

import worldsim  # noqa: F401  registers the environments
from worldsim.data.record import RecordConfig, record
from worldsim.io.pictures import contact_sheet, save_picture
from worldsim.training.train import TrainConfig, train

out = Path(sys.argv[1] if len(sys.argv) > 1 else "out/train_your_own")
SIZE = 16


# %% An environment with images: a paddle moves left and right under a falling ball
class Catch(gym.Env):
    """Reward 1 for catching the ball, -1 for missing it; both end the episode."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = gym.spaces.Discrete(3)  # stay, left, right

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.paddle = int(self.np_random.integers(0, SIZE - 3))
        self.ball, self.row = int(self.np_random.integers(1, SIZE - 2)), 0
        return self.picture(), {}

    def step(self, action):
        move = (0, -2, 2)[action]
        self.paddle = int(np.clip(self.paddle + move, 0, SIZE - 4))
        self.row += 1
        landed = self.row == SIZE - 3
        caught = landed and self.paddle - 1 <= self.ball <= self.paddle + 3
        reward = float(caught) - float(landed and not caught)
        return self.picture(), reward, landed, False, {}

    def picture(self):
        rgb = np.full((SIZE, SIZE, 3), (30, 40, 70), np.uint8)
        rgb[SIZE - 2 :, self.paddle : self.paddle + 4] = (240, 220, 90)
        rgb[self.row : self.row + 2, self.ball : self.ball + 2] = (230, 70, 60)
        return rgb

    def render(self):
        return self.picture()


gym.register("Catch-v0", entry_point=Catch, max_episode_steps=40)

# %% Record some episodes. On the command line: worldsim record mypackage:Catch-v0 --out ...
dataset = record(
    RecordConfig("Catch-v0", out / "recording", frames=4000, workers=0, min_travel=0.0)
)
print(f"{len(dataset)} episodes, {dataset.frames} frames")

# %% Train. `memory=False`: this environment has no poses and no depth
train(
    TrainConfig(
        data=(out / "recording",),
        out=out / "run",
        preset="debug",
        memory=False,
        colour=0.0,
        steps=150,
        batch_size=8,
        window=12,
        warmup=20,
        learning_rate=3e-3,
    )
)

# %% Step the trained world
dream = gym.make("worldsim/Dream-v0", world=out / "run" / "world")
real = gym.make("Catch-v0")
actions = np.random.default_rng(0).integers(0, 3, 12)
truth = [real.reset(seed=5)[0]]
dreamed = [dream.reset(seed=0, options={"frames": {"rgb": truth[0][None]}})[0]]
for action in actions:
    truth.append(real.step(action)[0])
    dreamed.append(dream.step(action)[0])

# %% Is it any good? Compare with the laziest prediction, the first frame again, where things move
moves = (np.array(truth[1:]) != truth[0]).any(axis=-1)
error = np.abs(np.subtract(dreamed[1:], truth[1:], dtype=float))[moves].mean()
lazy = np.abs(np.subtract(truth[1:], [truth[0]], dtype=float))[moves].mean()
print(f"mean colour error of 12 dreamed steps, of 255, in pixels that have changed: {error:.0f}")
print(f"the same of the first frame again: {lazy:.0f}")

shown = [0, 1, 2, 4, 6, 8, 10, 12]
rows = {"real": [truth[t] for t in shown], "dream": [dreamed[t] for t in shown]}
sheet = contact_sheet(rows, [f"step {t}" for t in shown], scale=6)
save_picture(sheet, out / "compare.png")
print(f"Wrote {out / 'compare.png'}")
