"""Optional packages: which extra installs them, and the error that says so."""

from __future__ import annotations

from worldsim.errors import MissingDependencyError

DISTRIBUTION = "worldsim-gym"
"""Name of the distribution in ``pyproject.toml``. The package index has a stranger's package under the name ``worldsim``."""


def install_hint(extra: str) -> str:
    """The command that installs the extra ``extra``, such as ``doom``."""
    return f"pip install '.[{extra}]' in a checkout of worldsim, or its wheel with [{extra}] behind the file's name"


def missing(what: str, extra: str, error: BaseException) -> MissingDependencyError:
    """The error to raise where ``what`` needs a package that could not be imported (``error``) and ``extra`` installs."""
    return MissingDependencyError(f"{what} ({error}): {install_hint(extra)}")
