"""Command lines: options with values that are no good, and commands on objects that were damaged.
Run within the process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import random
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from experiments.fuzzing import formats
from experiments.fuzzing.bases import Bases
from experiments.fuzzing.case import Case, Expect, Usage
from experiments.fuzzing.lines import COMMANDS, Line

TEXTS = (
    "",
    "x",
    "-1",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e99",
    "1.5",
    "None",
    "null",
    "[]",
    "../..",
    "a\0b",
    "\ud83d\ude00",
    "x" * 5000,
    "-",
    "--",
    "os:system",
    "9" * 400,
)
"""Values for any option. What of it is valid depends on the option, so that only the outcome's kind
is judged."""
LONG = (
    "steps",
    "num-inference-steps",
    "episodes",
    "frames",
    "outward",
    "history",
    "horizon",
    "walk",
    "repeats",
    "bootstrap",
    "timed-steps",
    "warmup",
    "training-steps",
    "max-steps",
    "fit-iterations",
    "cold-starts",
    "minutes",
    "lengths",
    "workers",
    "patience",
    "chances",
)
"""Options of which more takes longer: who asks for a million steps gets a million steps."""
WRITERS = ("pipe", "link", "folder", "nowhere")
"""Places to write to that are no regular files: see :func:`_places`."""


OPTIONS_THAT_TAKE_PAIRS = ("size", "env-kwargs", "reset-options", "mirror-actions")


def case_of(rng: random.Random, folder: Path, bases: Bases, seed: int) -> Case:
    """One command line."""
    folder.mkdir()
    line = rng.choice(COMMANDS)
    arguments = line.arguments(bases, folder)
    way = rng.choices(("bad", "object", "text", "place", "form", "whole"), (40, 25, 15, 10, 8, 2))[
        0
    ]
    expect_of_whole = Expect.REFUSE if line.name == "import-minari" else Expect.ACCEPT
    if way == "object" and line.reads:
        kind = rng.choice(sorted(line.reads))
        damaged = formats.case_of(formats.FORMATS[kind], rng, folder / "object", bases, seed)
        arguments = line.reads[kind](bases, folder, folder / "object")
        # A command may not look at everything in a file.
        expect = (
            Expect.ACCEPT
            if damaged.expect is Expect.ACCEPT and line.name != "evaluate"
            else Expect.ANY
        )
        return Case(
            f"{line.name}: {kind} {damaged.mutation}",
            damaged.detail,
            expect,
            lambda: run(arguments, folder),
        )
    if way == "place" and line.writes:
        option, place = rng.choice(line.writes), rng.choice(WRITERS)
        set_option(
            arguments,
            option,
            str(_place(folder, place, Path(option_of(arguments, option) or "x").suffix)),
        )
        return Case(
            f"{line.name}: writes to a {place}",
            f"--{option}",
            Expect.ANY if place == "folder" else Expect.REFUSE,
            lambda: _intact(arguments, folder, place),
        )
    if way == "form":
        return _malformed(line, arguments, rng, folder)
    if way == "whole":
        return Case(
            f"{line.name}: whole",
            " ".join(arguments),
            expect_of_whole,
            lambda: run(arguments, folder),
        )
    if way == "bad" and line.bad:
        option = rng.choice(sorted(line.bad))
        value = rng.choice(line.bad[option])
        set_option(
            arguments,
            option,
            *(value.split() if option in OPTIONS_THAT_TAKE_PAIRS and value.strip() else [value]),
        )
        expect = Expect.ANY if option == "memory" else Expect.REFUSE
        return Case(
            f"{line.name} --{option}", f"{value!r:.60}", expect, lambda: run(arguments, folder)
        )
    option = rng.choice(_options(line.name.split()[0]) or ["json"])
    texts = [t for t in TEXTS if not (option in LONG and t[:1] in "19" and t != "1.5")]
    value = rng.choice(texts)
    set_option(arguments, option, value)
    return Case(
        f"{line.name}: any text",
        f"--{option} {value[:40]!r}",
        Expect.ANY,
        lambda: run(arguments, folder),
    )


def _malformed(line: Line, arguments: list[str], rng: random.Random, folder: Path) -> Case:
    """A line that is no command line."""
    way = rng.choice(
        ("unknown option", "no value", "twice", "extra", "command", "empty", "case", "lost")
    )
    if way == "unknown option":
        arguments += ["--nothing", "1"]
    elif way == "no value":
        arguments = (
            [*arguments, arguments[-2]]
            if len(arguments) > 2 and arguments[-2].startswith("--")
            else [*arguments, "--json"]
        )
    elif way == "twice":
        arguments += arguments[1:2] if not arguments[1].startswith("-") else ["x"]
    elif way == "extra":
        arguments += ["x", "y"]
    elif way == "command":
        arguments[0] = rng.choice(
            ("evalute", "", "--", "-x", "os:system", "a\0b", arguments[0].upper(), "x" * 5000)
        )
    elif way == "empty":
        arguments = [rng.choice(("", " "))]
    elif way == "case":
        arguments = [a.upper() if a.startswith("--") else a for a in arguments] + ["--X"]
    else:
        arguments = [*arguments[:1], "--nothing"]
    return Case(
        f"{line.name}: {way}",
        " ".join(arguments)[:60],
        Expect.REFUSE,
        lambda: run(arguments, folder),
    )


def _place(folder: Path, place: str, suffix: str) -> Path:
    """Something at which nothing may be written."""
    path = folder / f"{place}{suffix}"
    if place == "pipe":
        os.mkfifo(path)
    elif place == "link":
        (folder / "precious").write_bytes(b"precious")
        path.symlink_to(folder / "precious")
    elif place == "folder":
        path.mkdir()
        (path / "precious").write_bytes(b"precious")
    else:
        path = Path("/proc/nothing") / f"x{suffix}"
    return path


def _intact(arguments: list[str], folder: Path, place: str) -> Any:
    """Run, and whatever comes of it, see that nothing was destroyed."""
    try:
        return run(arguments, folder)
    finally:
        left = {
            "pipe": lambda: any(p.is_fifo() for p in folder.iterdir()),
            "link": lambda: (
                (folder / "precious").read_bytes() == b"precious"
                and any(p.is_symlink() for p in folder.iterdir())
            ),
            "folder": lambda: any(p.read_bytes() == b"precious" for p in folder.rglob("precious")),
            "nowhere": lambda: True,
        }[place]()
        if not left:
            raise RuntimeError(f"what was at the {place} is gone")


def option_of(arguments: list[str], option: str) -> str | None:
    name = f"--{option}"
    return arguments[arguments.index(name) + 1] if name in arguments else None


def set_option(arguments: list[str], option: str, *values: str) -> None:
    """Give an option these values, in place of any that it has."""
    name = f"--{option}"
    if name in arguments:
        at = arguments.index(name)
        end = at + 1
        while end < len(arguments) and not arguments[end].startswith("--"):
            end += 1
        del arguments[at:end]
    arguments += [name, *values]


@cache
def _options(command: str) -> list[str]:
    from worldsim.app import cli

    config, _ = cli.COMMANDS[command].load()
    positional = cli.COMMANDS[command].positional
    found = []
    for field in dataclasses.fields(config):
        if field.name != positional and field.name not in ("out", "json", "pictures", "cache"):
            found.append(field.name.replace("_", "-"))
    return found


@contextlib.contextmanager
def without_servers() -> Iterator[None]:
    """The viewer without a network, and quick measurements of the machine."""
    import threading
    import types
    from unittest import mock

    import viser

    from worldsim.app import view
    from worldsim.evaluation import stopwatch

    def server(*_: Any, **__: Any) -> Any:
        made = mock.MagicMock()
        made.get_port.return_value = 8099
        return made

    class Never(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    quick = lambda device: _CEILINGS(device, quick=True)  # noqa: E731
    patches = (
        mock.patch.object(viser, "ViserServer", server),
        mock.patch.object(view, "threading", types.SimpleNamespace(Event=Never)),
        mock.patch.object(stopwatch, "ceilings", quick),
    )
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield


def _CEILINGS(device: Any, quick: bool) -> Any:  # noqa: N802  the function that is replaced
    return _ceilings()(device, quick=quick)


@cache
def _ceilings() -> Any:
    from worldsim.evaluation import stopwatch

    return stopwatch.ceilings


def run(arguments: list[str], folder: Path) -> str:
    """Run a command line here. Raises Usage with what it printed where it ends with status 2."""
    from worldsim.app import cli

    _ceilings()
    out, err = io.StringIO(), io.StringIO()
    os.environ["MINARI_DATASETS_PATH"] = str(folder / "minari")
    servers: Any = (
        without_servers()
        if arguments and arguments[0] in ("view", "bench")
        else contextlib.nullcontext()
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), servers:
        try:
            status: Any = cli.main(arguments)
        except SystemExit as end:
            status = end.code
    if status == 2:
        raise Usage(err.getvalue() or out.getvalue())
    if status != 0:
        raise RuntimeError(f"exit status {status}: {err.getvalue()[-300:]}")
    return out.getvalue()


def clean(folder: Path) -> None:
    """Remove what an input has left, links and pipes included."""
    shutil.rmtree(folder, ignore_errors=True)
