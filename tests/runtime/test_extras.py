"""What is missing is named with what to type."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from worldsim.app import cli
from worldsim.runtime.extras import EXTRAS, how_to_install

ROOT = Path(__file__).parents[2]


def test_extras_are_those_of_the_distribution() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(known)
    assert (
        how_to_install("vizdoom.gymnasium_wrapper").endswith("[doom]'")
        and how_to_install("ale_py") == "pip install ale-py"
    )
    assert (
        how_to_install("minigrid") == "pip install minigrid"
        and how_to_install(None) == "install it first"
    )


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Modules as if they were not installed."""

    def hidden(name: str) -> None:
        for one in [name, *(loaded for loaded in sys.modules if loaded.startswith(f"{name}."))]:
            monkeypatch.setitem(sys.modules, one, None)  # type: ignore[arg-type]

    return hidden


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("vizdoom", ["watch", "takecover", "--world", "takecover"], "doom"),
        ("vizdoom", ["watch", "random", "--world", "freedoom-tiny"], "doom"),
        ("vizdoom", ["demo", "--out", "demo"], "doom"),
        ("vizdoom", ["demo", "--world", "takecover", "--out", "demo"], "doom"),
        ("Box2D", ["watch", "carracing", "--world", "carracing"], "tasks"),
        ("vizdoom", ["record", "VizdoomTakeCover-v1", "--out", "data", "--workers", "0"], "doom"),
    ],
)
def test_commands_name_the_extra(
    missing: str, arguments: list[str], extra: str, hide: Callable[[str], None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Reproduces: without ViZDoom, ``watch`` and ``demo`` of a task said "install it first"."""
    monkeypatch.chdir(tmp_path)
    # Gymnasium's own module is imported anew, and finds no Box2D.
    for loaded in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, loaded)
    hide(missing)
    assert cli.main([*arguments, *(["--device", "cpu"] if arguments[0] != "record" else [])]) == 2
    assert f"[{extra}]'" in capsys.readouterr().err


def test_the_viewer_and_stable_baselines_name_theirs(hide: Callable[[str], None]) -> None:
    import importlib

    from worldsim.errors import MissingDependencyError

    hide("stable_baselines3")
    sys.modules.pop("worldsim.envs.sb3", None)
    with pytest.raises(MissingDependencyError, match=r"\[agents\]"):
        importlib.import_module("worldsim.envs.sb3")
