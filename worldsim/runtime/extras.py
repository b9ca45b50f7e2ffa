"""How to install what is optional, for error messages."""

from __future__ import annotations

EXTRAS = {
    "vizdoom": "doom",
    "Box2D": "tasks",
    "stable_baselines3": "agents",
    "viser": "view",
    "minari": "minari",
    "open3d": "open3d",
}
"""By module, the extra of this distribution that brings it."""
PACKAGES = {"ale_py": "ale-py"}
"""By module, the package that it comes with, where that has another name."""


def how_to_install(module: str | None) -> str:
    """What to type where ``module``, or one inside it, cannot be imported; None where nobody knows which one is missing."""
    name = (module or "").partition(".")[0]
    if name in EXTRAS:
        return f"pip install 'worldsim[{EXTRAS[name]}]'"
    return f"pip install {PACKAGES.get(name, name)}" if name else "install it first"


def missing_module(error: BaseException | None) -> str | None:
    """The module that could not be imported, by an error or by what caused it."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return None
