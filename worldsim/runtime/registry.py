"""Registries map names to classes: the only way from a file's content to code."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

from worldsim.errors import InvalidInputError, NotFoundError, UntrustedFileError

_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class Registry:
    """Classes of one kind (policies, scenes), each with a short name and an entry point.

    An entry point is ``module:Class``. A file may name registered classes only, in either form: see
    :meth:`of_file`. A user may name any importable class: see :meth:`of_user`.
    """

    def __init__(self, sort: str, verbs: tuple[str, ...], entries: dict[str, str]) -> None:
        """Create a registry.

        sort: kind of its classes, for error messages.
        verbs: methods that its classes have.
        entries: entry points by name.
        """
        self.sort, self.verbs = sort, verbs
        self._entries: dict[str, str | type] = {}
        for name, entry in entries.items():
            self.register(name, entry)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def register(self, name: str, entry: str | type) -> None:
        """Register a class under ``name``, so that files can use it.

        entry: the class itself, or ``module:Class``, which is imported on first use.
        """
        if not isinstance(entry, type) and not _ENTRY.fullmatch(entry):
            raise InvalidInputError(
                f"{self.sort} {name!r} is registered as {entry!r}: give a class, or 'module:Class'"
            )
        self._entries[name] = entry

    def of_file(self, name: object, source: str | Path, trusted: bool = False) -> type:
        """Return the class that the file ``source`` names.

        Raises UntrustedFileError, without importing anything, for a class that is not registered,
        unless ``trusted``.
        """
        entry = self._find(name)
        if entry is not None:
            return self._load(entry, str(name))
        if trusted:
            return self.of_user(name)
        raise UntrustedFileError(
            f"{source} names the {self.sort} {name!r}, which is not registered with worldsim: "
            f"using it would import and run code "
            f"of that name. Registered are {', '.join(self._entries)}. If you trust the file, "
            f"pass --trust (in Python trust=True)"
        )

    def of_user(self, name: object) -> type:
        """Return the class that a user names, in a command or in Python.

        It is a registered name or any ``module:Class``. Raises NotFoundError.
        """
        entry = self._find(name)
        if entry is None:
            if not isinstance(name, str) or not _ENTRY.fullmatch(name):
                raise NotFoundError(
                    f"no {self.sort} {name!r}: give 'module:Class' or one of "
                    f"{', '.join(self._entries)}"
                )
            entry = name
        return self._load(entry, str(name))

    def entry_of(self, cls: type) -> str:
        """Return the name of a class in files: ``module:Class``."""
        return f"{cls.__module__}:{cls.__qualname__}"

    def _find(self, name: object) -> str | type | None:
        if not isinstance(name, str):
            return None
        if name in self._entries:
            return self._entries[name]
        return next(
            (
                e
                for e in self._entries.values()
                if name == (e if isinstance(e, str) else self.entry_of(e))
            ),
            None,
        )

    def _load(self, entry: str | type, name: str) -> type:
        found: object = entry
        if isinstance(entry, str):
            module, _, path = entry.partition(":")
            try:
                found = importlib.import_module(module)
                for part in path.split("."):
                    found = getattr(found, part)
            except (ImportError, AttributeError, ValueError) as error:
                raise NotFoundError(
                    f"no {self.sort} {name!r} ({error}): give 'module:Class' or one of "
                    f"{', '.join(self)}"
                ) from None
        if not isinstance(found, type) or not all(
            callable(getattr(found, verb, None)) for verb in self.verbs
        ):
            raise InvalidInputError(
                f"{name!r} is no {self.sort}: a class with the methods {', '.join(self.verbs)} is "
                f"needed"
            )
        return found
