"""Settings of a session server. Commands read them before FastAPI and torch are imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

from worldsim.errors import InvalidInputError
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Positive, Share

ENGINES = ("plain", "fast", "compiled")


@dataclass(frozen=True)
class SessionsConfig:
    """Settings of :class:`worldsim.sessions.manager.SessionManager`."""

    worlds: tuple[str, ...] = ()
    """Worlds to offer: names of shipped ones, or folders. By default all shipped ones."""
    device: str | None = None
    """Device of the worlds. By default CUDA if it is available, else the CPU."""
    engine: str = "plain"
    """Engine of sessions that do not ask for one: ``plain``, ``fast`` or ``compiled``."""
    bucket: Annotated[int, Ge(1), Le(1024)] | None = None
    """Batch bucket of sessions that do not ask for one: how many sessions are stepped at once. By
    default 1 on a CPU, as in a single environment, and 128 on a GPU. On a CPU, 8 is faster for five
    people and more, and slower for fewer."""
    sessions: Annotated[int, Ge(1), Le(4096)] | None = None
    """Sessions at once. By default 16 on a CPU, 256 on a GPU."""
    idle_minutes: Positive = 30.0
    """Minutes without a request after which a session is closed."""
    history_mb: Annotated[float, Gt(0), Le(100_000)] = 400.0
    """Megabytes of states and frames that one session keeps to rewind."""
    memory: Share = 0.5
    """Share of the device's memory that the states of all sessions may take."""
    state: Path | None = None
    """Folder in which sessions are saved every few seconds, to be resumed after a crash. By default
    none are."""
    save_seconds: Positive = 20.0
    """Seconds from one save of a session to the next, if it has changed."""
    places: Path | None = None
    """Folder with scenes to start from, as ``worldsim generate`` writes them."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.engine not in ENGINES:
            raise InvalidInputError(
                f"{type(self).__name__}.engine = {self.engine!r}: it must be "
                f"{', '.join(ENGINES[:-1])} or {ENGINES[-1]}"
            )
        require_bucket(self.bucket)


def require_bucket(bucket: int | None) -> None:
    """Raise InvalidInputError unless the bucket is one of the library's."""
    if bucket is None:
        return
    from worldsim.world.world import BUCKETS

    if bucket not in BUCKETS:
        raise InvalidInputError(
            f"bucket = {bucket}: it must be one of {', '.join(map(str, BUCKETS))}"
        )
