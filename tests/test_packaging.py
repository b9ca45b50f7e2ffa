"""The wheel holds everything that the repository's layout promises."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from worldsim.runtime.extras import DISTRIBUTION

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {
    "worldsim": "worldsim",
    "envs": "worldsim/envs",
    "agents": "worldsim/agents",
    "scenes": "worldsim/scenes",
}
DATA = {".json", ".safetensors", ".png", ".webp", ".html", ".css", ".js", ".svg"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy: a build folder left in the repository would add stale modules to
    the next wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(copy),
    ]
    subprocess.run(command, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_wheel_holds_all_modules_worlds_and_agents(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {
        f"{inside}/{path.relative_to(ROOT / at)}"
        for at, inside in FOLDERS.items()
        for path in (ROOT / at).rglob("*.py")
    }
    folders = ("worlds", "agents_shipped", "evaluation/frechet_encoder", "play/static")
    shipped = [
        path for at in folders for path in (ROOT / "worldsim" / at).rglob("*") if path.is_file()
    ]
    shipped += (ROOT / "worldsim" / "painting" / "validation").glob("*.json")
    assert {path.suffix for path in shipped} <= DATA, (
        "package-data in pyproject.toml does not name such files"
    )
    expected = modules | {str(path.relative_to(ROOT)) for path in shipped} | {"worldsim/py.typed"}
    assert expected - names == set()
    assert {name for name in names - expected if ".dist-info/" not in name} == set()


def test_nothing_tells_to_install_a_strangers_package() -> None:
    """Reproduces: ``pip install 'worldsim[doom]'`` in errors and docs, a name that belongs to
    others on the package index."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION != "worldsim"
    extras = set(project["optional-dependencies"])
    sources = [
        p for at in (*FOLDERS, "docs") for p in (ROOT / at).rglob("*") if p.suffix in (".py", ".md")
    ]
    for path in [*sources, *ROOT.glob("*.md")]:
        text = path.read_text()
        named = re.findall(r"pip install (?:-\S+ )?['\"]?([\w.-]*)(?:\[([\w,]+)\])?", text)
        for what, wanted in named:
            assert what != "worldsim" and set(filter(None, wanted.split(","))) <= extras, path
        assert set(re.findall(r"missing\([^()]*?, \"(\w+)\", error\)", text)) <= extras, path


@pytest.mark.slow
def test_wheel_carries_licence_and_command(wheel: Path):
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    metadata = archive.read(f"{info}/METADATA").decode()
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert '\nRequires-Dist: vizdoom>=1.3; extra == "doom"\n' in metadata
    entry_points = archive.read(f"{info}/entry_points.txt").decode().split()
    assert entry_points == ["[console_scripts]", "worldsim", "=", "worldsim.app.cli:main"]
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= set(archive.namelist())


@pytest.mark.slow
def test_wings_import_from_the_installed_wheel(wheel: Path, tmp_path: Path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import worldsim.envs, worldsim.agents, worldsim.scenes as s; print(s.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.strip()
    assert found == str(tmp_path / "worldsim/scenes/__init__.py")
