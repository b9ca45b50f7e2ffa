"""What went wrong with a request: codes, HTTP statuses, WebSocket close codes and exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from worldsim import errors
from worldsim.errors import WorldsimError


class Code(StrEnum):
    """What went wrong with a request."""

    BAD_MESSAGE = "bad_message"
    INVALID_INPUT = "invalid_input"
    UNSUPPORTED_VERSION = "unsupported_version"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN_ORIGIN = "forbidden_origin"
    UNTRUSTED = "untrusted"
    NOT_FOUND = "not_found"
    NOT_RESET = "not_reset"
    BUSY = "busy"
    TOO_LARGE = "too_large"
    MISSING_GEOMETRY = "missing_geometry"
    MISSING_DEPENDENCY = "missing_dependency"
    DAMAGED_FILE = "damaged_file"
    TOO_MANY_SESSIONS = "too_many_sessions"
    OUT_OF_MEMORY = "out_of_memory"
    ENGINE_FAILED = "engine_failed"
    CLOSED = "closed"
    INTERNAL = "internal"


STATUS: Mapping[Code, int] = {
    Code.BAD_MESSAGE: 400,
    Code.INVALID_INPUT: 400,
    Code.UNSUPPORTED_VERSION: 400,
    Code.UNAUTHORIZED: 401,
    Code.FORBIDDEN_ORIGIN: 403,
    Code.UNTRUSTED: 403,
    Code.NOT_FOUND: 404,
    Code.NOT_RESET: 409,
    Code.BUSY: 409,
    Code.CLOSED: 410,
    Code.TOO_LARGE: 413,
    Code.MISSING_GEOMETRY: 422,
    Code.DAMAGED_FILE: 422,
    Code.TOO_MANY_SESSIONS: 429,
    Code.INTERNAL: 500,
    Code.MISSING_DEPENDENCY: 501,
    Code.ENGINE_FAILED: 502,
    Code.OUT_OF_MEMORY: 507,
}
"""HTTP status of each code."""


class CloseCode:
    """WebSocket close codes."""

    BAD_START = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN_ORIGIN = 4403
    NO_SESSION = 4404
    ENDED = 4408
    REPLACED = 4409
    SHUTDOWN = 1012


class SessionError(WorldsimError):
    """A request that a session server refuses, with the code that tells why."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


_CODES: tuple[tuple[type[Exception], Code], ...] = (
    (errors.InvalidInputError, Code.INVALID_INPUT),
    (errors.NotFoundError, Code.NOT_FOUND),
    (errors.DamagedFileError, Code.DAMAGED_FILE),
    (errors.UntrustedFileError, Code.UNTRUSTED),
    (errors.MissingDependencyError, Code.MISSING_DEPENDENCY),
    (errors.MissingGeometryError, Code.MISSING_GEOMETRY),
    (errors.EngineError, Code.ENGINE_FAILED),
    (errors.OutOfMemoryError, Code.OUT_OF_MEMORY),
    (MemoryError, Code.OUT_OF_MEMORY),
)


def code_of(error: BaseException) -> Code:
    """Return the code of an exception; ``internal`` for one that is no input's fault."""
    if isinstance(error, SessionError):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), Code.INTERNAL)


def error_of(code: str, message: str) -> Exception:
    """Return the exception that a code stands for, to be raised by a client."""
    kind = next((kind for kind, own in _CODES if own == code), None)
    if kind is not None:
        return kind(message)
    known = Code(code) if code in set(Code) else Code.INTERNAL
    return SessionError(known, message)
