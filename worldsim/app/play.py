"""``worldsim play``: opens a page on which a person walks through a generated world."""

from __future__ import annotations

import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from worldsim.errors import InvalidInputError
from worldsim.painting.painter import DEFAULT_PAINTER
from worldsim.runtime.arguments import whole
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count


@dataclass(frozen=True)
class PlayConfig:
    """Walk through a generated world in the browser."""

    world: str = "freedoom-tiny"
    """World that the page begins with: a shipped world's name, or a folder."""
    host: str = "127.0.0.1"
    """Address to serve at. Another one than this computer's own needs a token, which is printed."""
    port: int = 8000
    """Port to serve at."""
    browser: bool = True
    """Open the page in the browser."""
    engine: str = "fast"
    """How steps are run: plain, fast or compiled."""
    places: Path = Path("out/places")
    """Folder of generated places; new ones are painted into it."""
    painter: str = DEFAULT_PAINTER
    """Painter of new places."""
    painter_steps: Count | None = None
    """Sampling steps of new places. By default those that the painter recommends."""
    device: str | None = None
    """Device of worlds and painter. By default CUDA if it is available."""
    fresh: bool = False
    """Begin a new walk, even where the browser remembers one."""

    def __post_init__(self) -> None:
        check_ranges(self)
        whole("port", self.port, 1, 65535)
        if self.engine not in ("plain", "fast", "compiled"):
            raise InvalidInputError(
                f"PlayConfig.engine = {self.engine!r}: give plain, fast or compiled"
            )
