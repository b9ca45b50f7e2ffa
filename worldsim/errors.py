"""The family of errors that worldsim raises for bad input.

Every message names what is wrong, the value received and the next step.
"""


class WorldsimError(Exception):
    """Base of every error that worldsim raises on purpose."""


class InvalidInputError(WorldsimError, ValueError):
    """An argument has a value, shape or type that cannot be used."""


class NotFoundError(WorldsimError, FileNotFoundError):
    """A named map, environment, world, dataset or file does not exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DamagedFileError(WorldsimError):
    """A file on disk is truncated, altered or of a version that cannot be read."""


class UntrustedFileError(WorldsimError, PermissionError):
    """A file names code (a module, a class, an environment that is not registered) that only the
    user may ask for."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class StorageError(WorldsimError, OSError):
    """The disk is full or read-only, or the place to write to is not a regular file. Old files are
    intact."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingDependencyError(WorldsimError, ImportError):
    """An optional package or system library is needed and not installed."""


class MissingGeometryError(WorldsimError):
    """Poses or depth are needed (by the scene memory) and the data has none."""


class EngineError(WorldsimError, RuntimeError):
    """An environment's engine broke down (crashed, was killed, did not answer) each time that the
    same was tried."""


class OutOfMemoryError(WorldsimError, MemoryError):
    """The requested batch does not fit on the device."""
