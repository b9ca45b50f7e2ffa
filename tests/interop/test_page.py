"""Every block of code in docs/other_libraries.md runs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "other_libraries.md").read_text()
NEEDS = {
    "RecordVideo": "moviepy",
    "utils.play": "pygame",
    "stable_baselines3": "stable_baselines3",
    "torchrl": "torchrl",
    "ray": "ray",
    # RLlib comes with Ray, and does not start without it.
    "rllib": "pandas",
    "tianshou": "tianshou",
    "skrl": "skrl",
    "minari": "minari",
}
"""What a block needs, by a word in it."""


def blocks() -> list[object]:
    """The blocks under each heading, those together that are under one."""
    found = []
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
            found.append(pytest.param(code, id=f"{title} {number}"))
    return found


def test_all_libraries_have_a_block() -> None:
    assert PAGE.count("```python") == len(blocks()) >= 12
    named = re.findall(r"^\| \[([^\]]+)\]", PAGE, re.MULTILINE)
    assert named == re.findall(r"^## (.*)$", PAGE.replace("## A loop", "## a loop"), re.MULTILINE)


@pytest.mark.parametrize("code", blocks())
@pytest.mark.filterwarnings("ignore")
def test_block_runs(
    code: str, threaded: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for word, package in NEEDS.items():
        needed = re.search(rf"\b{re.escape(word)}\b", code)
        if needed and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make test-interop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    if "play(" in code:
        monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
        import pygame

        # The window is closed as soon as it is open.
        pygame.display.init()
        pygame.event.post(pygame.event.Event(pygame.QUIT))
    if any(word in code for word in ("async", "ray.init", "ShmemVectorEnv")):
        # With processes of their own, which they fork: not one after another from here.
        threaded(code)
    else:
        exec(compile(code, "docs/other_libraries.md", "exec"), {"__name__": "the_page"})
