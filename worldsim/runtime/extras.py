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
    "open3d": "open3d",
}
"""By module, the extra of this distribution that installs it."""
PACKAGES = {"ale_py": "ale-py"}
"""By module, the package that installs it, where that has another name."""


def install_hint(extra: str) -> str:
    """The command that installs the extra ``extra``, such as ``doom``."""
    return f"in worldsim's source folder, pip install '.[{extra}]'"


def missing(what: str, extra: str, error: BaseException) -> MissingDependencyError:
    """The error to raise where ``what`` needs a package that could not be imported (``error``) and
    ``extra`` installs."""
    return MissingDependencyError(f"{what} ({error}): {install_hint(extra)}")


def how_to_install(module: str | None) -> str:
    """The command to run where ``module``, or one inside it, cannot be imported; for None, that
    something is to be installed."""
    name = (module or "").partition(".")[0]
    if name in EXTRAS:
        return install_hint(EXTRAS[name])
    return f"pip install {PACKAGES.get(name, name)}" if name else "install it first"


def missing_module(error: BaseException | None) -> str | None:
    """The module that could not be imported, by an error or by what caused it."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return None
