"""The house rules that a program can check: who imports whom, what is packaged, how long files are,
what is committed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WINGS = ("envs", "agents", "scenes")
PACKAGE_OF = {"worldsim": "worldsim", **{wing: f"worldsim.{wing}" for wing in WINGS}}
SOURCES = sorted(path for folder in PACKAGE_OF for path in (ROOT / folder).rglob("*.py"))
HEAVY = (
    "torch",
    "cv2",
    "diffusers",
    "open3d",
    "vizdoom",
    "nerfstudio",
    "viser",
    "stable_baselines3",
    "tensorboard",
    "tyro",
)


def module_name(path: Path) -> str:
    """The dotted name that a source file is installed under: envs/doom.py is worldsim.envs.doom."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGE_OF[folder], *(part for part in rest if part != "__init__")])


def imported(source: str, package: str) -> set[str]:
    """Every module that ``source`` imports, at any depth; ``from a import b`` counts as a and a.b.

    package: the package that the source lies in, which relative imports start from.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                if node.level
                else ""
            )
            module = ".".join(part for part in (base, node.module) if part)
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def imports_of(path: Path) -> set[str]:
    name = module_name(path)
    return imported(
        path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0]
    )


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def methods(path: Path) -> Iterator[set[str]]:
    """The method names of each class in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            yield {item.name for item in node.body if isinstance(item, ast.FunctionDef)}


def committed() -> list[Path]:
    """The files that git tracks; in a copy without history, all but what tools leave behind."""
    if (ROOT / ".git").exists():
        listing = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]
    caches = {".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__"}
    left_behind = {".venv", ".venv-nerf", ".venv-interop", "build", "dist", "out", "runs", *caches}
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not left_behind & set(path.relative_to(ROOT).parts)
    ]


def test_imported_resolves_every_form():
    source = (
        "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\ndef h():\n    import i"
    )
    expected = {"a.b", "c", "c.d", "w.x", "w.x.e", "w.f", "w.f.g", "i"}
    assert imported(source, "w.x") == expected


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_star_rule(path: Path):
    """A wing imports the core and itself; the core imports no wing; nobody imports a wing by its
    bare name."""
    own = path.relative_to(ROOT).parts[0]
    for name in imports_of(path):
        for wing in WINGS:
            assert not within(name, wing), f"{path}: import worldsim.{wing}, not {name}"
            assert wing == own or not within(name, f"worldsim.{wing}"), f"{path} imports {name}"


def test_memories_do_not_import_one_another():
    files = {module_name(p): p for p in (ROOT / "worldsim/memory").glob("*.py")}
    memories = {
        name
        for name, path in files.items()
        if any({"integrate", "render"} <= m for m in methods(path))
    }
    assert memories
    for name in memories:
        others = imports_of(files[name]) & (memories - {name})
        assert not others, f"{name} imports {others}"


def test_every_package_is_listed():
    """An unlisted sub-package works in an editable install and is missing from the wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {module_name(path.parent / "__init__.py") for path in SOURCES}
    assert sorted(listed) == sorted(folders)
    assert all((path.parent / "__init__.py").exists() for path in SOURCES)


def test_import_is_light():
    code = f"import sys, worldsim; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert loaded == []


@pytest.mark.parametrize("folder", ["agents", "scenes", "worldsim/memory"])
def test_one_file_reads_top_to_bottom(folder: str):
    lengths = {
        path.name: len(path.read_text().splitlines()) for path in (ROOT / folder).glob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > 350} == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_can_run_code_is_loaded(path: Path):
    assert not imports_of(path) & {
        "pickle",
        "dill",
        "cloudpickle",
        "joblib",
        "shelve",
        "torch.load",
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) != "torch.load", f"{path}:{node.lineno}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False, (
                f"{path}:{node.value.lineno}"
            )


def test_committed_files_are_small():
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in committed()}
    assert {name: size for name, size in sizes.items() if size > 9e6} == {}
    assert sum(sizes.values()) < 90e6
