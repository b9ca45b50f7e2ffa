"""One input: what is done to the library, what is expected of it, and the verdict on what
happened."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from torch import Tensor

KINDS = (
    "world",
    "scene",
    "snapshot",
    "dataset",
    "agent",
    "capture",
    "checkpoint",
    "calls",
    "command",
)


class Expect(StrEnum):
    """What a correct library does with an input."""

    REFUSE = "refuse"
    """It raises a clear error: the input has no meaning, or would change what a file says without a
    trace."""
    SAME = "same"
    """It raises a clear error, or its result is the one of the undamaged object."""
    ANY = "any"
    """It raises a clear error or takes the value: another value is as good as the old one, such as
    a note in a card."""
    ACCEPT = "accept"
    """It works: the input is whole. Such inputs show that the library does not simply refuse
    everything."""


class Outcome(StrEnum):
    """What happened."""

    CLEAR = "clear error"
    HARMLESS = "harmless"
    WRONG = "accepted although wrong"
    REFUSED = "refused although whole"
    RAW = "raw exception"
    HANG = "hang"
    CRASH = "crash"
    MEMORY = "memory blow-up"
    CODE = "code execution"


@dataclass(frozen=True)
class Case:
    """One input.

    mutation: the way of damaging, a name that many inputs share. detail: what exactly was done.
    use: uses the input; its result is compared by :func:`digest`. whole: digest of the undamaged
    object's result, None where there is none.
    """

    mutation: str
    detail: str
    expect: Expect
    use: Callable[[], Any]
    whole: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The outcome of one input. message: the error, or the reason why it counts as accepted
    although wrong."""

    outcome: Outcome
    message: str = ""
    trace: str = ""


class Usage(Exception):
    """A command line ended with exit status 2; the argument is what it printed to stderr."""


def run(case: Case) -> Verdict:
    """Use the input and judge what happened."""
    from gymnasium.error import Error as GymnasiumError

    from worldsim.errors import WorldsimError

    # Gymnasium's contract asks for its own errors (no reset before a step, bad seeds), Python's for
    # IndexError from sequences.
    clear = (WorldsimError, GymnasiumError, IndexError, Usage)
    try:
        result = case.use()
    except clear as error:
        raised = _raised_outside(error)
        if not str(error).strip() or (isinstance(error, IndexError) and raised):
            return Verdict(Outcome.RAW, f"{type(error).__name__}: {error}"[:500], _tail())
        if case.expect is Expect.ACCEPT:
            return Verdict(Outcome.REFUSED, f"{type(error).__name__}: {error}"[:500], _tail())
        return Verdict(Outcome.CLEAR, f"{type(error).__name__}: {error}"[:300])
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Verdict(Outcome.RAW, f"{type(error).__name__}: {error}"[:500], _tail())
    if case.expect is Expect.REFUSE:
        return Verdict(Outcome.WRONG, "it was accepted and has no valid meaning")
    if case.expect is Expect.SAME and digest(result) != case.whole:
        return Verdict(
            Outcome.WRONG, "it was accepted and its result differs from the undamaged one"
        )
    return Verdict(Outcome.HARMLESS)


def _raised_outside(error: BaseException) -> bool:
    """Whether an error was raised by another package than worldsim: an IndexError of NumPy's is an
    accident."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or not str(trace.tb_frame.f_globals.get("__name__", "")).startswith(
        "worldsim"
    )


def _tail(lines: int = 6) -> str:
    return "\n".join(traceback.format_exc().strip().splitlines()[-2 * lines :])[-1500:]


def digest(value: Any) -> str:
    """SHA-256 of a result: tensors, arrays, dataclasses, containers and plain values, by
    content."""
    total = hashlib.sha256()
    _feed(total, value)
    return total.hexdigest()


def _feed(total: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        total.update(f"{value.dtype}{value.shape}".encode())
        total.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            total.update(f"{key}=".encode())
            _feed(total, value[key])
    elif isinstance(value, (list, tuple)):
        total.update(f"{len(value)}[".encode())
        for one in value:
            _feed(total, one)
    elif hasattr(value, "__dataclass_fields__"):
        _feed(total, {name: getattr(value, name) for name in value.__dataclass_fields__})
    else:
        total.update(repr(value).encode())
