"""Optional packages: which extra installs them, and the error that says so."""

from __future__ import annotations

from worldsim.errors import MissingDependencyError

DISTRIBUTION = "worldsim-gym"
"""Name of the distribution in ``pyproject.toml``. The package index has a stranger's package under
the name ``worldsim``."""
EXTRAS = {
    "vizdoom": "doom",
    "Box2D": "tasks",
    "stable_baselines3": "agents",
    "viser": "view",
    "minari": "minari",
    "pyarrow": "lerobot",
    "open3d": "open3d",
    "transformers": "painter",
    "peft": "adapter",
    "fastapi": "play",
    "uvicorn": "play",
    "websockets": "play",
    "ray": "cluster",
    "s3fs": "cluster",
    "c2pa": "provenance",
}
"""By module, the extra of this distribution that installs it."""
PACKAGES = {"ale_py": "ale-py"}
"""By module, the package that installs it, where that has another name."""


def install_hint(extra: str) -> str:
    """Return the command that installs the extra ``extra``, such as ``doom``."""
    return f"in worldsim's source folder, pip install '.[{extra}]'"


def missing(what: str, extra: str, error: BaseException) -> MissingDependencyError:
    """Return the error for a missing optional package.

    what: what needs the package.
    extra: the extra that installs it.
    error: the ImportError.
    """
    return MissingDependencyError(f"{what} ({error}): {install_hint(extra)}")


def how_to_install(module: str | None) -> str:
    """Return the command that installs ``module``, or the package that contains it.

    For None, the text says only that something has to be installed.
    """
    name = (module or "").partition(".")[0]
    if name in EXTRAS:
        return install_hint(EXTRAS[name])
    return f"pip install {PACKAGES.get(name, name)}" if name else "install it first"


def missing_module(error: BaseException | None) -> str | None:
    """Return the module that could not be imported, from an error or its cause."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return None
