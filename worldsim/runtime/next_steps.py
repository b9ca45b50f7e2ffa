"""The last lines of a command: where its result is, and which command to run next."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """The last lines of a command.

    result: where its result is, or how to keep it.
    then: next commands, most useful first.
    """

    result: str
    then: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the lines to print."""
        names = ("next:  ", *[" " * 7] * len(self.then))
        return "\n".join(
            [
                f"result: {self.result}",
                *(f"{name} {line}" for name, line in zip(names, self.then, strict=False)),
            ]
        )


def line(*words: object) -> str:
    """Join words to a command line, with shell quoting."""
    return shlex.join(map(str, words))
