"""The errors that worldsim raises for bad input.

Every message names the culprit, the value received and the next step.
"""


class WorldsimError(Exception):
    """Base class of all errors that worldsim raises on purpose."""


class InvalidInputError(WorldsimError, ValueError):
    """An argument has an invalid value, shape or type."""


class NotFoundError(WorldsimError, FileNotFoundError):
    """A named map, environment, world, dataset or file does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DamagedFileError(WorldsimError):
    """A file is truncated, altered, or of a version that cannot be read."""


class UntrustedFileError(WorldsimError, PermissionError):
    """A file names code that only the user may request.

    This is a module, a class, or an environment that is not registered.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StorageError(WorldsimError, OSError):
    """The disk is full or read-only, or the destination is not a regular file.

    Old files are intact.
    """

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingDependencyError(WorldsimError, ImportError):
    """A required optional package or system library is not installed."""


class MissingGeometryError(WorldsimError):
    """The data has no poses or depth, which the scene memory needs."""


class EngineError(WorldsimError, RuntimeError):
    """An environment's engine failed at every attempt: it crashed, was killed or did not answer."""


class PaintingError(WorldsimError, RuntimeError):
    """A painter's views of a place were refused at every attempt, or no way leads to a next place.

    What was painted before is kept.
    """


class OutOfMemoryError(WorldsimError, MemoryError):
    """The requested batch does not fit on the device."""
