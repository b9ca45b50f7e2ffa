"""The failure log of ``worldsim watch --failures``: the worst paired moments, on one page.

The agent plays the real twin. At every ``horizon``-th step the world receives the twin's last true
frames and dreams the next steps under the same actions, so each dreamed moment has a true one.
"""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from PIL import Image

from worldsim.app import pages
from worldsim.evaluation.metrics import psnr
from worldsim.io.pictures import enlarge
from worldsim.io.provenance.origin import Origin, hash_actions
from worldsim.io.provenance.publish import publish
from worldsim.protocols import Policy
from worldsim.runtime.progress import follow
from worldsim.runtime.types import Action, Array, Env
from worldsim.state import SceneStart
from worldsim.world import World
from worldsim.world.twin import HISTORY, frames_of, make_twin

BATCH = 16
"""Windows that are dreamed at once."""
SHOWN = 5
"""Frames of a moment's strip: the last one is the moment itself."""
REWARD_APART = 0.05
"""Rewards that differ by less are the same, as a share of the largest reward's size."""
GAIN = 2
"""What differences of colours are multiplied by, to be seen."""
KINDS = {
    "picture": "Pictures furthest apart",
    "reward": "Rewards furthest apart",
    "end": "Ends that disagree",
}
STYLE = """
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.7rem; margin: 0 0 8px; } h2 { font-size: 1.2rem; margin: 36px 0 12px; }
h3 { font-size: 1rem; margin: 0 0 8px; } p { margin: 0 0 12px; max-width: 76ch; }
.soft { color: var(--soft); font-size: .92rem; }
.moments { display: grid; gap: 18px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); }
.moment { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; min-width: 0; }
.moment table { border-collapse: collapse; width: 100%; table-layout: fixed; }
.moment th { width: 82px; text-align: left; font-weight: 500; color: var(--soft);
  font-size: .85rem; }
.moment thead th { text-align: center; width: auto; padding-bottom: 3px; }
.moment thead th:first-child { width: 82px; }
.moment td { padding: 0 3px 3px 0; } .moment img { width: 100%; display: block;
  image-rendering: pixelated; border-radius: 3px; }
.moment td:last-child img { outline: 2px solid #c2571a; outline-offset: -2px; }
.facts { margin: 10px 0 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Window:
    """Steps of the real twin that are dreamed from the true frames before them.

    episode, seed: which episode, and its seed. first: number of steps before the window.
    start: the true frames before. acts, rewards: n of each. rgb: (n, h, w, 3) uint8.
    terminated: whether the twin terminated at the last step.
    """

    episode: int
    seed: int
    first: int
    start: SceneStart
    acts: list[Action]
    rgb: list[Array]
    rewards: list[float]
    terminated: bool


@dataclass(frozen=True)
class Dreamed:
    """A window's dream: frames (n, h, w, 3) uint8, rewards, and the step (from 1) of its end."""

    rgb: Array
    rewards: list[float]
    ended: int | None


@dataclass(frozen=True)
class Moment:
    """One step of a window: how far dream and twin are apart there.

    index: of the step in the window, from 0. kind: a key of :data:`KINDS`. badness: larger is
    worse, within one kind.
    """

    window: Window
    dream: Dreamed
    index: int
    kind: str
    badness: float
    psnr: float


def play_windows(
    world: World,
    policy: Policy,
    seeds: Sequence[int],
    steps: int,
    horizon: int,
    actions: Sequence[Action] | None = None,
) -> list[Window]:
    """Play one episode per seed in the real twin, cut into windows of ``horizon`` steps.

    actions: taken after the first true frames instead of the policy's.
    """
    twin = make_twin(world, history=HISTORY)
    windows = []
    try:
        for episode in follow(range(len(seeds)), "playing the real twin", "episode"):
            windows += _play(twin, policy, episode, seeds[episode], steps, horizon, actions)
    finally:
        twin.close()
    return windows


def _play(
    twin: Env,
    policy: Policy,
    episode: int,
    seed: int,
    steps: int,
    horizon: int,
    actions: Sequence[Action] | None,
) -> list[Window]:
    obs, _ = twin.reset(seed=seed)
    policy.reset(seed)
    windows: list[Window] = []
    limit = steps if actions is None else min(steps, len(actions))
    terminated = truncated = False
    while not (terminated or truncated) and sum(len(w.acts) for w in windows) < limit:
        first = sum(len(w.acts) for w in windows)
        start = frames_of(twin)
        acts: list[Action] = []
        rgb: list[Array] = []
        rewards: list[float] = []
        while len(acts) < min(horizon, limit - first) and not (terminated or truncated):
            act = policy.act(obs) if actions is None else actions[first + len(acts)]
            obs, reward, terminated, truncated, _ = twin.step(act)
            acts.append(act)
            rgb.append(np.array(obs))
            rewards.append(float(reward))
        windows.append(Window(episode, seed, first, start, acts, rgb, rewards, bool(terminated)))
    return windows


@torch.no_grad()
def dream_windows(world: World, windows: Sequence[Window]) -> list[Dreamed]:
    """Dream every window under the twin's actions, :data:`BATCH` at a time."""
    kind = np.int64 if isinstance(world.action_space, gym.spaces.Discrete) else np.float32
    made: list[Dreamed] = []
    for begin in follow(range(0, len(windows), BATCH), "dreaming the same actions", "batch"):
        some = windows[begin : begin + BATCH]
        state = world.initial([w.start for w in some], [w.seed + w.first for w in some])
        longest = max(len(w.acts) for w in some)
        rgb, rewards, ends = [], [], []
        for t in range(longest):
            act = np.stack([np.asarray(w.acts[min(t, len(w.acts) - 1)], kind) for w in some])
            state, transition = world.step(state, torch.from_numpy(act).to(world.device))
            rgb.append(transition.frame.rgb.permute(0, 2, 3, 1).cpu().numpy())
            rewards.append(transition.rew.cpu().numpy())
            ends.append(transition.term.cpu().numpy())
        for i, window in enumerate(some):
            n = len(window.acts)
            ended = next((t + 1 for t in range(n) if ends[t][i]), None)
            frames = np.stack([rgb[t][i] for t in range(n)])
            made.append(Dreamed(frames, [float(rewards[t][i]) for t in range(n)], ended))
    return made


def worst_moments(
    windows: Sequence[Window], dreams: Sequence[Dreamed], count: int
) -> dict[str, list[Moment]]:
    """Return at most ``count`` moments of each kind, worst first, at most one per window."""
    size = max((abs(r) for w in windows for r in w.rewards), default=0.0)
    found: dict[str, list[Moment]] = {kind: [] for kind in KINDS}
    for window, dream in zip(windows, dreams, strict=True):
        real = torch.from_numpy(np.stack(window.rgb)).permute(0, 3, 1, 2)
        scores = psnr(torch.from_numpy(dream.rgb).permute(0, 3, 1, 2), real).tolist()
        # After either has ended, there is nothing to compare.
        n = len(scores) if dream.ended is None else dream.ended
        worst = min(range(n), key=lambda t: scores[t])
        found["picture"].append(
            Moment(window, dream, worst, "picture", -scores[worst], scores[worst])
        )
        gaps = [abs(a - b) for a, b in zip(window.rewards[:n], dream.rewards[:n], strict=True)]
        at = max(range(n), key=lambda t: gaps[t])
        if gaps[at] > REWARD_APART * size and gaps[at] > 1e-6:
            found["reward"].append(Moment(window, dream, at, "reward", gaps[at], scores[at]))
        true_end = len(window.acts) if window.terminated else None
        if dream.ended != true_end:
            at = min(x for x in (dream.ended, true_end) if x is not None) - 1
            apart = abs((dream.ended or len(scores)) - (true_end or len(scores))) + 1.0
            found["end"].append(Moment(window, dream, at, "end", apart, scores[at]))
    return {
        kind: sorted(moments, key=lambda m: m.badness, reverse=True)[:count]
        for kind, moments in found.items()
    }


def write_failures(
    path: Path,
    agent: str,
    name: str,
    world: World,
    windows: Sequence[Window],
    count: int,
    seed: int,
) -> dict[str, list[Moment]]:
    """Dream the windows, write the page, and return its moments."""
    dreams = dream_windows(world, windows)
    moments = worst_moments(windows, dreams, count)
    origin = Origin(
        name, world.weights_id, seed, hash_actions(act for w in windows for act in w.acts)
    )
    title = f"Where {name} fails under {agent}"
    pages.write_page(path, title, STYLE, _body(title, agent, windows, moments))
    publish(path, origin)
    return moments


def _body(
    title: str,
    agent: str,
    windows: Sequence[Window],
    moments: dict[str, list[Moment]],
) -> str:
    steps = sum(len(w.acts) for w in windows)
    episodes = len({w.episode for w in windows})
    horizon = max((len(w.acts) for w in windows), default=0)
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(agent)} played {steps:,} steps of the real twin in {episodes} "
        f"episode{'s' if episodes != 1 else ''}. Every {horizon} steps the world received the true "
        "frames and dreamed the next ones under the same actions. Below are the moments at which "
        "dream and twin were furthest apart.</p>",
        '<p class="soft">The orange frame is the moment; those before lead up to it. Differences '
        f"of colours are shown {GAIN} times as strong. Dreamed frames are generated.</p>",
    ]
    for kind, heading in KINDS.items():
        parts.append(f"<h2>{heading}</h2>")
        if not moments[kind]:
            parts.append('<p class="soft">None in these steps.</p>')
            continue
        shown = "".join(_moment(one) for one in moments[kind])
        parts.append(f'<div class="moments">{shown}</div>')
    return "".join(parts)


def _moment(moment: Moment) -> str:
    window, dream, at = moment.window, moment.dream, moment.index
    shown = range(max(0, at + 1 - SHOWN), at + 1)
    rows: dict[str, list[str]] = {"real twin": [], "dream": [], "difference": []}
    for t in shown:
        real, made = np.asarray(window.rgb[t]), dream.rgb[t]
        gap = np.abs(real.astype(np.int16) - made) * GAIN
        what = f"step {window.first + t + 1}"
        rows["real twin"].append(_image(real, f"real twin, {what}"))
        # Unmarked: these small frames are here to be compared, to the last detail.
        rows["dream"].append(_image(made, f"dream, {what}"))
        rows["difference"].append(_image(gap.clip(0, 255).astype(np.uint8), f"difference, {what}"))
    empty = "<td></td>" * (SHOWN - len(shown))
    head = "".join(f'<th scope="col">{window.first + t + 1}</th>' for t in shown)
    head = "<th></th>" * (SHOWN - len(shown)) + head
    body = "".join(
        f'<tr><th scope="row">{name}</th>{empty}{"".join(f"<td>{one}</td>" for one in pictures)}'
        "</tr>"
        for name, pictures in rows.items()
    )
    facts = [
        f"{moment.psnr:.1f} dB",
        f"{at + 1} step{'s' if at else ''} after true frames",
        f"reward: dream {dream.rewards[at]:.2f}, twin {window.rewards[at]:.2f}",
    ]
    if moment.kind == "end":
        real_end = f"step {window.first + len(window.acts)}" if window.terminated else "not here"
        own = "not here" if dream.ended is None else f"step {window.first + dream.ended}"
        facts.append(f"end: dream {own}, twin {real_end}")
    return (
        f'<section class="moment"><h3>Episode {window.episode + 1} (seed {window.seed}), step '
        f"{window.first + at + 1}</h3><table><thead><tr><th></th>{head}</tr></thead>"
        f'<tbody>{body}</tbody></table><p class="facts">{" · ".join(facts)}</p></section>'
    )


def _image(picture: Array, text: str) -> str:
    file = io.BytesIO()
    scale = max(1, 96 // picture.shape[0])
    Image.fromarray(enlarge(picture, scale)).save(file, "WEBP", lossless=True)
    return pages.image(file.getvalue(), "webp", text)
