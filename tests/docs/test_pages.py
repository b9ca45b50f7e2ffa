"""The code of the documentation's pages runs; its links lead somewhere; the site loads nothing from
elsewhere.

All Python blocks of a page run one after another in one namespace, in a folder of its own, as a
reader would paste them. A block that needs a GPU, minutes, or packages that are not installed has
the line ``<!-- sketch -->`` before it.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from worldsim.app import cli
from worldsim.memory import registry as memories
from worldsim.runtime import registries
from worldsim.runtime.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"(<!-- (?:sketch|quoted) -->\n)?^```python\n(.*?)^```", re.M | re.S)
ELSEWHERE = {
    "other_libraries.md": "tests/interop/test_page.py",
    "what_the_world_remembers.md": "tests/docs/test_tutorial.py",
}
"""Pages whose blocks another test runs."""
PAGES = {path.relative_to(DOCS).as_posix(): path.read_text() for path in sorted(DOCS.rglob("*.md"))}


def blocks(page: str) -> list[str]:
    """The blocks of a page that run."""
    return [code for mark, code in BLOCK.findall(PAGES[page]) if not mark]


RUNNING = [page for page in PAGES if page not in ELSEWHERE and blocks(page)]


@pytest.fixture
def folder(
    tmp_path: Path, goal_folder: Path, monkeypatch: pytest.MonkeyPatch, request: Any
) -> Path:
    """A working folder that has what pages take for granted: a world that was trained."""
    shutil.copytree(goal_folder, tmp_path / "runs/mine/world")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNING)
@pytest.mark.filterwarnings("error:.*:DeprecationWarning")
def test_page_runs(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a page registers is gone after it. Dataclasses look for the module of their class.
    for registry in vars(registries).values():
        if isinstance(registry, Registry):
            monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.setattr(memories, "KINDS", dict(memories.KINDS))
    module = ModuleType("the_page")
    monkeypatch.setitem(sys.modules, "the_page", module)
    for code in blocks(page):
        exec(compile(code, page, "exec"), vars(module))


def test_the_dynamics_of_the_page_is_the_one_that_is_tested() -> None:
    tested = (ROOT / "tests/world/warp_last_frame.py").read_text()
    assert tested[tested.index("from __future__") :].strip() in PAGES["how_to/write_a_dynamics.md"]


def test_most_code_runs() -> None:
    """A sketch is an exception."""
    marks = [mark for page in PAGES for mark, _ in BLOCK.findall(PAGES[page])]
    assert len(RUNNING) >= 20
    assert sum("sketch" in mark for mark in marks) <= 12
    assert all((ROOT / test).exists() for test in ELSEWHERE.values())


@pytest.mark.parametrize("page", PAGES)
def test_sketches_are_python(page: str) -> None:
    for _, code in BLOCK.findall(PAGES[page]):
        ast.parse(code)


def command_lines(page: str) -> list[str]:
    """The commands of worldsim in a page's blocks without a language, comments left out."""
    fenced = re.findall(r"^```\n(.*?)^```", PAGES[page], re.M | re.S)
    lines = [
        line.split(" # ")[0].strip()
        for block in fenced
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [
        line
        for line in lines
        if line.startswith("worldsim ") and not re.search(r"--help|\.\.\.|COMMAND", line)
    ]


def test_printed_commands_are_commands() -> None:
    """Their options exist and their values are allowed. What they read may be the reader's own."""
    guides = [page for page in PAGES if not page.startswith("experiments/")]
    found = [(page, line) for page in guides for line in command_lines(page)]
    assert len(found) > 25
    for page, line in found:
        name, *rest = shlex.split(line)[1:]
        try:
            cli.parse(name, rest)
        except SystemExit:
            pytest.fail(f"{page}: {line}")


@pytest.mark.parametrize("page", PAGES)
def test_page_is_plain(page: str) -> None:
    """One title, and no fences that the blocks above would miss."""
    text = PAGES[page]
    assert text.startswith("# ")
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# ", outside, re.MULTILINE)) == 1
    assert "~~~" not in text


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [page for page in PAGES if page not in navigation] == []


def test_guides_show_code_in_the_first_screen() -> None:
    for page, text in PAGES.items():
        if page.startswith("how_to/") and page != "how_to/index.md":
            assert "```" in "\n".join(text.splitlines()[:14]), page


def test_the_theme_loads_nothing_from_other_hosts() -> None:
    settings = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in settings
    assert not re.search(r"https?://", re.sub(r"^repo_url:.*$", "", settings, flags=re.MULTILINE))
