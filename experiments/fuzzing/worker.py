"""A process that uses one input after the other, as its parent asks, and tells what happened.

Run as ``python -m experiments.fuzzing.worker BASES SEED``. Requests are lines of JSON on stdin,
answers on the file descriptor that stdout was: what inputs print goes nowhere.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from experiments.fuzzing.bases import PAYLOAD, Bases, quiet, write_payload
from experiments.fuzzing.case import Case, Outcome, Verdict, run


def case_of(kind: str, index: int, seed: int, folder: Path, bases: Bases) -> Case:
    """Input ``index`` of a kind: the same for the same seed, whatever ran before."""
    from experiments.fuzzing import calls, commands, formats

    rng = random.Random(f"{seed} {kind} {index}")
    if kind == "calls":
        return calls.case_of(rng, folder, bases, seed)
    if kind == "command":
        return commands.case_of(rng, folder, bases, seed)
    return formats.case_of(formats.FORMATS[kind], rng, folder, bases, seed)


def answer(request: dict[str, Any], bases: Bases, seed: int, tell: Any) -> dict[str, Any]:
    """Make an input, use it, judge it."""
    from experiments.fuzzing.formats import Refused
    from worldsim.errors import WorldsimError

    kind, index = request["kind"], request["index"]
    folder = bases.root / "inputs" / f"{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    bases.canary.unlink(missing_ok=True)
    began = time.monotonic()
    case = None
    try:
        case = case_of(kind, index, seed, folder, bases)
        tell({"began": {"mutation": case.mutation, "detail": case.detail, "expect": case.expect}})
        began = time.monotonic()
        verdict = run(case)
    except (Refused, WorldsimError) as error:
        verdict = Verdict(Outcome.CLEAR, f"refused to make or to write it: {error}")
    except Exception as error:
        # Writing something wrong through the library, or through this harness, failed.
        import traceback

        verdict = Verdict(
            Outcome.RAW,
            f"while it was made: {type(error).__name__}: {error}"[:400],
            traceback.format_exc()[-1500:],
        )
    if bases.canary.exists():
        verdict = Verdict(Outcome.CODE, "code that the input names was run", verdict.trace)
        bases.canary.unlink()
    sys.modules.pop(PAYLOAD, None)
    told = (
        {"mutation": case.mutation, "detail": case.detail, "expect": case.expect}
        if case
        else {"mutation": "?", "detail": "", "expect": ""}
    )
    return {
        **told,
        "outcome": verdict.outcome,
        "message": verdict.message,
        "trace": verdict.trace,
        "seconds": round(time.monotonic() - began, 3),
    }


def main() -> None:
    quiet()
    channel = os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_WRONLY)
    if os.environ.get("FUZZ_LOUD") is None:
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    root, seed = Path(sys.argv[1]), int(sys.argv[2])
    bases = Bases(root)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    import torch

    torch.set_num_threads(1)
    import worldsim  # noqa: F401
    from worldsim.world import World  # noqa: F401

    # Where names of modules would be found, if something looked them up.
    place = root / "cwd"
    place.mkdir(exist_ok=True)
    write_payload(place, bases.canary)
    os.chdir(place)
    # Asked for where an input hangs: see the supervisor.
    faulthandler.register(signal.SIGUSR1, open(root / "stack.txt", "w"))  # noqa: SIM115
    sys.path.insert(0, "")

    def tell(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message, default=str) + "\n")
        channel.flush()

    tell({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        if request.get("prepare"):
            prepare(request["prepare"], bases)
            tell({"prepared": True})
            continue
        tell({"result": answer(request, bases, seed, tell)})


def prepare(kinds: list[str], bases: Bases) -> None:
    """What undamaged objects give, beforehand, so that no input's time has it."""
    from experiments.fuzzing import formats

    for kind in kinds:
        if kind in formats.FORMATS:
            formats.whole_digest(formats.FORMATS[kind], bases)


if __name__ == "__main__":
    main()
