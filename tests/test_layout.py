"""The house rules that a program can check: who imports whom, what is packaged, how long files are,
what is committed."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

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
    "fastapi",
    "websockets",
)

FLOORS = (
    ("errors",),
    ("runtime",),
    ("camera",),
    ("state",),
    ("protocols",),
    ("diffusion",),
    ("memory",),
    ("io", "testing"),
    ("shipped",),
    ("world",),
    ("planning",),
    ("data",),
    ("training",),
    ("evaluation",),
    ("painting",),
    ("pretrained",),
    ("sessions",),
    ("play",),
    ("envs",),
    ("agents",),
    ("scenes",),
    ("app",),
    ("__main__",),
)
"""Rooms from the ground up; what stands on one floor does not import its neighbours."""
MOST_ANY = 300
"""Lines of the package in which the type ``Any`` may stand."""
LATER = {"painting", "play", "sessions", "pretrained"}
"""Rooms of capabilities that came after the layout of 0.2."""


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


@functools.cache
def imports_of(path: Path) -> set[str]:
    name = module_name(path)
    return imported(
        path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0]
    )


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imported_modules() -> dict[str, set[str]]:
    """The project's own modules that each of them imports, at the top or inside functions."""
    known = {module_name(path): path for path in SOURCES}
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        own = {n for n in imports_of(path) if within(n, "worldsim")}
        # ``from a import b``: the module a.b where there is one, else a.
        own = {
            n for n in own if not any(other != n and within(other, n) for other in own & set(known))
        }
        modules = {n if n in known else n.rpartition(".")[0] for n in own}
        found[name] = modules & set(known) - {name}
    return found


def in_circles(arrows: dict[str, set[str]]) -> set[str]:
    """Nodes on a circle, or between two circles."""
    left = set(arrows)
    while True:
        free = {n for n in left if not arrows[n] & left}
        free |= {n for n in left if not any(n in arrows[other] for other in left)}
        if not free:
            return left
        left -= free


def room_of(module: str) -> str:
    """The entry of ``worldsim/`` in which a module lies, or the wing."""
    return module.split(".")[1] if "." in module else module


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
    found: list[Path] = []
    for folder, names, files in os.walk(ROOT):
        names[:] = set(names) - left_behind
        found += [Path(folder, file) for file in files]
    return found


def test_imported_resolves_every_form():
    source = (
        "import a.b\nfrom c import d\nfrom . import e\nfrom ..f import g\ndef h():\n    import i"
    )
    expected = {"a.b", "c", "c.d", "w.x", "w.x.e", "w.f", "w.f.g", "i"}
    assert imported(source, "w.x") == expected


def test_star_rule():
    """A wing imports the core and itself; the core imports no wing; wings have no bare names."""
    for path in SOURCES:
        own = path.relative_to(ROOT).parts[0]
        for name in imports_of(path):
            for wing in WINGS:
                assert not within(name, wing), f"{path}: import worldsim.{wing}, not {name}"
                assert wing == own or not within(name, f"worldsim.{wing}"), f"{path}: {name}"


def test_in_circles():
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": set()}) == set()
    assert in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}


def test_no_circle_among_files():
    assert in_circles(imported_modules()) == set()


def test_imports_point_downwards():
    """From a room to rooms on lower floors, which also rules out circles among rooms."""
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    up = []
    for module, found in imported_modules().items():
        here = room_of(module)
        for other in found:
            there = room_of(other)
            # ``import worldsim`` registers the environments and leads to nothing else.
            if (
                there not in (here, "worldsim")
                and here != "worldsim"
                and floor[there] >= floor[here]
            ):
                up.append(f"{module} imports {other}")
    assert up == []


def test_the_package_is_easy_to_enter():
    """At most 18 entries beside the package's own files and rooms of later capabilities."""
    beside = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    entries = {path.name for path in (ROOT / "worldsim").iterdir()} - beside
    assert len(entries - LATER) <= 18 and len(entries) <= 22, sorted(entries)


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


def test_tests_mirror_the_tree():
    """A folder of tests has the name of what it tests; no test file imports another one."""
    others = {"docs", "experiments", "examples", "helpers", "interop"}
    tests = ROOT / "tests"
    rooms = {path.name for path in (ROOT / "worldsim").iterdir()} | set(WINGS) | others
    assert {path.parent.name for path in tests.glob("*/*.py")} <= rooms
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in tests.rglob("*.py")}
    tested = {n for n in files if n.rpartition(".")[2].startswith(("test_", "conftest"))}
    for path in tests.rglob("*.py"):
        assert not imported(path.read_text(), "tests") & tested, f"{path}: share it in helpers"


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


def lines_with_any(source: str) -> set[int]:
    """The numbers of the lines with an annotation, or another expression, of ``Any``."""
    return {
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Name) and node.id == "Any")
        or (isinstance(node, ast.Attribute) and node.attr == "Any")
    }


def test_lines_with_any():
    source = "from typing import Any\nx: dict[Any, Any]  # Any\ny: typing.Any\nz: list[int]"
    assert lines_with_any(source) == {2, 3}


def test_any_stands_only_where_a_library_forces_it():
    counts = {
        str(path.relative_to(ROOT)): len(lines_with_any(path.read_text())) for path in SOURCES
    }
    assert sum(counts.values()) <= MOST_ANY, sorted(counts.items(), key=lambda row: -row[1])[:10]


def test_nothing_that_can_run_code_is_loaded():
    forbidden = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "torch.load"}
    for path in SOURCES:
        assert not imports_of(path) & forbidden, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) != "torch.load", f"{path}:{node.lineno}"
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                value = node.value
                assert isinstance(value, ast.Constant) and value.value is False, path


def test_committed_files_are_small():
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in committed()}
    # A painter's weights are stored in parts (worldsim.painting.checkpoint.PART_BYTES).
    painter = "worldsim/worlds/freedoom-painter/"
    large = {n: size for n, size in sizes.items() if size > 9e6 and not n.startswith(painter)}
    assert large == {}
    assert sum(size for n, size in sizes.items() if n.startswith(painter)) < 24e6
    assert sum(sizes.values()) < 90e6
