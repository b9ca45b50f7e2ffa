"""The failure log: the right moments, on a page that needs nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.app.failures import Dreamed, Window, worst_moments
from worldsim.app.watch import WatchConfig, watch
from worldsim.errors import InvalidInputError
from worldsim.io.provenance.sidecar import verify
from worldsim.state import SceneStart
from worldsim.world import World


def window(first: int, rewards: list[float], terminated: bool = False) -> Window:
    frames = [np.zeros((8, 8, 3), np.uint8) for _ in rewards]
    start = SceneStart(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1).long())
    return Window(0, 0, first, start, [1] * len(rewards), frames, rewards, terminated)


def dream(brightness: list[int], rewards: list[float], ended: int | None = None) -> Dreamed:
    frames = np.stack([np.full((8, 8, 3), b, np.uint8) for b in brightness])
    return Dreamed(frames, rewards, ended)


def test_the_worst_moments_come_first() -> None:
    windows = [window(0, [0, 0, 0]), window(3, [0, 1, 0]), window(6, [0, 0, 0], True)]
    dreams = [
        dream([0, 9, 1], [0, 0, 0]),
        dream([1, 2, 30], [0, 0, 0]),
        dream([1, 1, 1], [0, 0, 0], None),
    ]
    found = worst_moments(windows, dreams, 2)
    assert [(m.window.first, m.index) for m in found["picture"]] == [(3, 2), (0, 1)]
    assert [(m.window.first, m.index) for m in found["reward"]] == [(3, 1)]
    assert [(m.window.first, m.index) for m in found["end"]] == [(6, 2)]
    assert found["picture"][0].psnr == pytest.approx(20 * np.log10(255 / 30), abs=0.01)


def test_nothing_is_compared_after_an_end() -> None:
    found = worst_moments([window(0, [0, 0, 5])], [dream([9, 30, 99], [0, 0, 0], 2)], 3)
    assert found["picture"][0].index == 1 and not found["reward"]
    assert found["end"][0].index == 1


def test_a_page(tiny_world: World, tmp_path: Path) -> None:
    page = tmp_path / "failures.html"
    config = WatchConfig("random", failures=page, steps=12, horizon=4, episodes=2, moments=3)
    assert watch(config, tiny_world) == page
    text = page.read_text()
    assert text.count("<section") >= 3 and "Pictures furthest apart" in text
    assert "http" not in text and "<script" not in text
    assert verify(page).state == "valid" and verify(page).claim["actions_sha256"]


def test_a_walk(tiny_world: World, tmp_path: Path) -> None:
    actions, page = tmp_path / "<acts>.json", tmp_path / "failures.html"
    actions.write_text(json.dumps([1, 1, 3, 1]))
    watch(WatchConfig("random", failures=page, actions=actions), tiny_world)
    assert "played 4 steps" in page.read_text() and "<acts>" not in page.read_text()


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"\.html"):
        WatchConfig("random", failures=tmp_path / "page.mp4")
    with pytest.raises(InvalidInputError, match="--failures"):
        WatchConfig("random", actions=tmp_path / "acts.json")


def test_no_windows() -> None:
    assert worst_moments([], [], 3) == {"picture": [], "reward": [], "end": []}
