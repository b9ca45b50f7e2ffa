"""The project's files agree with each other: versions, workflows, hooks, the changelog's tables."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import worldsim

pytestmark = pytest.mark.fast
ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def load(path: Path) -> dict[Any, Any]:
    found = yaml.safe_load(path.read_text())
    assert isinstance(found, dict)
    return found


def make_targets() -> set[str]:
    """The targets of the Makefile that are not files."""
    (line,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return set(line.split())


def commands() -> Iterator[str]:
    """What the workflows and the hooks run."""
    for path in WORKFLOWS:
        for job in load(path)["jobs"].values():
            yield from (step["run"] for step in job["steps"] if "run" in step)
    for repo in load(ROOT / ".pre-commit-config.yaml")["repos"]:
        assert repo["repo"] == "local", "hooks of other repositories need the network"
        yield from (hook["entry"] for hook in repo["hooks"])


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert project["version"] == worldsim.__version__
    assert newest[1] == worldsim.__version__
    assert load(ROOT / "CITATION.cff")["version"] == worldsim.__version__


def test_workflows_and_hooks_only_call_make():
    assert len(WORKFLOWS) >= 3
    called = {re.fullmatch(r"(?:sudo )?make ([\w-]+)", command) for command in commands()}
    assert None not in called
    targets = {found[1] for found in called if found}
    assert {"test", "lint", "types", "test-fast", "docs", "dist"} <= targets
    assert targets - make_targets() == set()


def test_every_supported_python_is_tested():
    job = load(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_changelog_names_modules_that_exist():
    rows = re.findall(
        r"^\| `(worldsim\.[\w.]+)` \| `worldsim\.([\w.]+)` \|$",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) > 60
    for old, new in rows:
        path = new.replace(".", "/")
        assert (ROOT / f"worldsim/{path}.py").exists() or path.startswith("envs/"), (old, new)
