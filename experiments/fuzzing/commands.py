"""Command lines: options with values that are no good, and commands on objects that were damaged.
Run within the process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from experiments.fuzzing import formats
from experiments.fuzzing.bases import ROOM, SIZE, Bases
from experiments.fuzzing.case import Case, Expect, Usage

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
DEVICES = ("tpu9", "cuda:77", "abacus", "meta", "mps", "")
WRITERS = ("pipe", "link", "folder", "nowhere")
"""Places to write to that are no regular files: see :func:`_places`."""


@dataclass(frozen=True)
class Line:
    """A command line that works. arguments: built from the undamaged objects and a folder to write
    to. bad: for options, by name, values that must be refused. writes: the option that names what
    is written. reads: the kinds of objects that are read, each with the way of putting one in."""

    name: str
    arguments: Callable[[Bases, Path], list[str]]
    bad: dict[str, tuple[str, ...]]
    writes: tuple[str, ...] = ()
    reads: dict[str, Callable[[Bases, Path, Path], list[str]]] = dataclasses.field(
        default_factory=dict
    )


def _evaluate(bases: Bases, out: Path, world: Path | None = None) -> list[str]:
    return [
        "evaluate",
        str(world or bases.world),
        "--episodes",
        "1",
        "--history",
        "2",
        "--horizon",
        "1",
        "--workers",
        "0",
        "--bootstrap",
        "2",
        "--device",
        "cpu",
        "--json",
        str(out / "e.json"),
        "--min-seen-frames",
        "0",
    ]


def _demo(bases: Bases, out: Path, world: Path | None = None) -> list[str]:
    return [
        "demo",
        "--world",
        str(world or bases.world),
        "--history",
        "2",
        "--outward",
        "2",
        "--out",
        str(out / "demo"),
        "--device",
        "cpu",
    ]


def _watch(
    bases: Bases, out: Path, agent: Path | None = None, world: Path | None = None
) -> list[str]:
    return [
        "watch",
        str(agent or bases.agent),
        "--world",
        str(world or bases.goal),
        "--steps",
        "2",
        "--scale",
        "1",
        "--out",
        str(out / "w.mp4"),
        "--device",
        "cpu",
    ]


def _evaluate_agent(
    bases: Bases, out: Path, agent: Path | None = None, world: Path | None = None
) -> list[str]:
    return [
        "evaluate-agent",
        str(agent or bases.agent),
        "--world",
        str(world or bases.goal),
        "--episodes",
        "1",
        "--workers",
        "0",
        "--max-steps",
        "2",
        "--batch",
        "1",
        "--bootstrap",
        "5",
        "--engine",
        "plain",
        "--device",
        "cpu",
        "--json",
        str(out / "a.json"),
    ]


def _agreement(
    bases: Bases, out: Path, agent: Path | None = None, world: Path | None = None
) -> list[str]:
    return [
        "agreement",
        str(world or bases.goal),
        "--agents",
        str(agent or bases.agent),
        "--chances",
        "0.5",
        "--episodes",
        "1",
        "--workers",
        "0",
        "--max-steps",
        "2",
        "--batch",
        "1",
        "--bootstrap",
        "5",
        "--engine",
        "plain",
        "--device",
        "cpu",
        "--json",
        str(out / "g.json"),
    ]


def _view(bases: Bases, out: Path, snapshot: Path | None = None) -> list[str]:
    return ["view", str((snapshot or bases.walk) / "walk.safetensors"), "--port", "8099"]


def _export_world(bases: Bases, out: Path, world: Path | None = None) -> list[str]:
    return ["export", str(world or bases.world), "--out", str(out / "copy")]


def _export_ply(bases: Bases, out: Path, snapshot: Path | None = None) -> list[str]:
    return [
        "export",
        str((snapshot or bases.walk) / "walk.safetensors"),
        "--out",
        str(out / "m.ply"),
        "--to",
        "ply",
    ]


def _export_glb(bases: Bases, out: Path, snapshot: Path | None = None) -> list[str]:
    return [
        "export",
        str((snapshot or bases.walk) / "walk.safetensors"),
        "--out",
        str(out / "m.glb"),
        "--voxel",
        "0.3",
    ]


def _export_nerfstudio(bases: Bases, out: Path, snapshot: Path | None = None) -> list[str]:
    return [
        "export",
        str((snapshot or bases.walk) / "walk.safetensors"),
        "--out",
        str(out / "n"),
        "--to",
        "nerfstudio",
    ]


def _train(bases: Bases, out: Path, dataset: Path | None = None) -> list[str]:
    return [
        "train",
        "--data",
        str(dataset or bases.dataset),
        "--out",
        str(out / "run"),
        "--preset",
        "debug",
        "--steps",
        "1",
        "--batch-size",
        "1",
        "--window",
        "12",
        "--warmup",
        "1",
        "--motions",
        "2",
        "--memory-capacity",
        "256",
        "--world-memory-capacity",
        "512",
        "--mixed-precision",
        "no",
        "--patience",
        "0",
        "--scenes",
        "0",
    ]


def _distil(
    bases: Bases, out: Path, dataset: Path | None = None, world: Path | None = None
) -> list[str]:
    return [
        "distil",
        str(world or bases.world),
        "--data",
        str(dataset or bases.dataset),
        "--out",
        str(out / "student"),
        "--training-steps",
        "1",
        "--batch-size",
        "1",
        "--window",
        "12",
        "--warmup",
        "1",
        "--memory-capacity",
        "256",
        "--mixed-precision",
        "no",
        "--patience",
        "0",
    ]


def _record(bases: Bases, out: Path) -> list[str]:
    return [
        "record",
        ROOM,
        "--out",
        str(out / "data"),
        "--frames",
        "8",
        "--workers",
        "0",
        "--episode-steps",
        "4",
        "--min-travel",
        "0",
        "--env-kwargs",
        "size",
        str(SIZE),
    ]


def _bench(bases: Bases, out: Path, world: Path | None = None) -> list[str]:
    return [
        "bench",
        str(world or bases.world),
        "--batches",
        "1",
        "--walk",
        "0",
        "--warmup",
        "1",
        "--repeats",
        "1",
        "--timed-steps",
        "1",
        "--cold-starts",
        "0",
        "--device",
        "cpu",
        "--memory",
        "on",
        "--json",
        str(out / "b.json"),
    ]


NEGATIVE = ("-1", "-5", "x", "1.5", "")
WORLD_READ = {"world": lambda b, o, at: _evaluate(b, o, at)}
COMMANDS = (
    Line(
        "evaluate",
        _evaluate,
        {
            "device": DEVICES,
            "episodes": ("0", *NEGATIVE),
            "history": ("0", "1", *NEGATIVE),
            "horizon": ("0", *NEGATIVE),
            "seed": NEGATIVE,
            "num-inference-steps": ("0", *NEGATIVE),
            "temperature": ("-1", "2", "nan", "x"),
            "batch": ("0", "1000000000000", *NEGATIVE),
            "bootstrap": ("0", *NEGATIVE),
            "workers": NEGATIVE,
            "protocol": ("x", ""),
            "memory": ("x",),
            "lengths": ("0", "-1", "x"),
            "fit-every": ("0", "-1"),
            "min-seen-frames": ("-1", "x"),
        },
        ("json",),
        WORLD_READ,
    ),
    Line(
        "demo",
        _demo,
        {
            "device": DEVICES,
            "seed": NEGATIVE,
            "num-inference-steps": ("0", *NEGATIVE),
            "history": ("0", "1", *NEGATIVE),
            "outward": ("0", "1", *NEGATIVE),
            "world": ("nothing", "owner/name", "/etc"),
        },
        ("out",),
        {"world": lambda b, o, at: _demo(b, o, at)},
    ),
    Line(
        "watch",
        _watch,
        {
            "device": DEVICES,
            "steps": ("0", *NEGATIVE),
            "scale": ("0", "500", "100000", "1000000000000", *NEGATIVE),
            "seed": NEGATIVE,
            "out": ("x.txt", "x", ""),
            "world": ("nothing", "owner/name"),
        },
        ("out",),
        {
            "agent": lambda b, o, at: _watch(b, o, at),
            "world": lambda b, o, at: _watch(b, o, None, at),
        },
    ),
    Line(
        "evaluate-agent",
        _evaluate_agent,
        {
            "device": DEVICES,
            "episodes": ("0", *NEGATIVE),
            "batch": ("0", *NEGATIVE),
            "bootstrap": ("0", *NEGATIVE),
            "seed": NEGATIVE,
            "max-steps": ("0", *NEGATIVE),
            "workers": NEGATIVE,
            "engine": ("x", ""),
            "world": ("nothing",),
        },
        ("json",),
        {
            "agent": lambda b, o, at: _evaluate_agent(b, o, at),
            "world": lambda b, o, at: _evaluate_agent(b, o, None, at),
        },
    ),
    Line(
        "agreement",
        _agreement,
        {
            "device": DEVICES,
            "episodes": ("0", *NEGATIVE),
            "batch": ("0", *NEGATIVE),
            "chances": ("-1", "2", "nan", "x"),
            "agents": ("nothing", "/etc"),
            "seed": NEGATIVE,
            "max-steps": ("0", *NEGATIVE),
            "engine": ("x",),
        },
        ("json",),
        {
            "agent": lambda b, o, at: _agreement(b, o, at),
            "world": lambda b, o, at: _agreement(b, o, None, at),
        },
    ),
    Line(
        "view",
        _view,
        {
            "port": ("0", "70000", "-1", "x", "1e3"),
            "index": ("1", "-1", "99", "x"),
            "host": ("203.0.113.1", "a\0b", "no such host"),
        },
        (),
        {"snapshot": lambda b, o, at: _view(b, o, at)},
    ),
    Line(
        "export",
        _export_world,
        {"to": ("ply", "obj"), "voxel": ("1", "x"), "index": ("1", "x")},
        ("out",),
        {"world": lambda b, o, at: _export_world(b, o, at)},
    ),
    Line(
        "export ply",
        _export_ply,
        {
            "to": ("obj", "glb"),
            "voxel": ("1", "-1"),
            "index": ("1", "-1", "x"),
            "push-to-hub": ("owner/name",),
        },
        ("out",),
        {"snapshot": lambda b, o, at: _export_ply(b, o, at)},
    ),
    Line(
        "export glb",
        _export_glb,
        {
            "voxel": ("0", "-1", "nan", "inf", "1e-6", "1e-300", "x"),
            "to": ("ply",),
            "index": ("1",),
        },
        ("out",),
        {"snapshot": lambda b, o, at: _export_glb(b, o, at)},
    ),
    Line(
        "export nerfstudio",
        _export_nerfstudio,
        {"voxel": ("1",), "to": ("x",), "index": ("7",)},
        ("out",),
        {"snapshot": lambda b, o, at: _export_nerfstudio(b, o, at)},
    ),
    Line(
        "train",
        _train,
        {
            "preset": ("x", ""),
            "steps": ("0", *NEGATIVE),
            "batch-size": ("0", "1000000000000", *NEGATIVE),
            "window": ("0", "2", "1000000000000", *NEGATIVE),
            "learning-rate": ("-1", "nan", "0", "inf", "x"),
            "decay": ("nan", "-1", "2"),
            "ema": ("nan", "-1", "2"),
            "minutes": ("0", "-1", "nan", "x"),
            "attention": ("1", "0", "-1", "1000000000000"),
            "memory-capacity": ("0", "-1", "1000000000000"),
            "world-memory-capacity": ("0", "-1", "1000000000000"),
            "memory-drop": ("-1", "2", "nan"),
            "colour": ("-1", "2", "nan"),
            "edits": ("-1", "2", "nan"),
            "weight-decay": ("nan", "-1"),
            "mixed-precision": ("fp4",),
            "warmup": ("0", "-1"),
            "motions": ("0", "-1"),
            "scenes": ("-1", "x"),
            "seed": ("x", "-1"),
            "patience": ("nan", "x", "-1"),
            "buffer-frames": ("0", "-1", "x"),
            "num-inference-steps": ("0", "-1"),
            "init-from": ("nothing",),
            "data": ("nothing", "/etc"),
            "mirror-actions": ("0", "1 2", "99 1 2 3 4 5 6", "x"),
        },
        ("out",),
        {"dataset": lambda b, o, at: _train(b, o, at)},
    ),
    Line(
        "distil",
        _distil,
        {
            "num-inference-steps": ("0", "-1", "9"),
            "student": ("nothing",),
            "training-steps": ("0", "-1", "x"),
            "batch-size": ("0", "-1"),
            "window": ("0", "2", "-1"),
            "learning-rate": ("-1", "nan", "0"),
            "data": ("nothing",),
        },
        ("out",),
        {
            "dataset": lambda b, o, at: _distil(b, o, at),
            "world": lambda b, o, at: _distil(b, o, None, at),
        },
    ),
    Line(
        "record",
        _record,
        {
            "frames": ("0", *NEGATIVE),
            "episode-steps": ("0", *NEGATIVE),
            "frames-per-shard": ("0", "-1"),
            "workers": NEGATIVE,
            "seed": NEGATIVE,
            "min-travel": ("-1", "nan", "1e9", "x"),
            "fps": ("0", "-1", "nan", "inf", "x"),
            "policy": ("nothing", "os:system", "", "a:b"),
            "size": ("0 0", "-1 2", "3", "x y", "1000000 1000000"),
            "env-kwargs": ("size -1", "nothing 1", "size 1000000000", "size"),
            "reset-options": ("map x", "nothing y", "map"),
            "key": ("image",),
            "episodes-per-map": ("0", "-1"),
        },
        ("out",),
        {},
    ),
    Line("worlds", lambda b, out: ["worlds", "--json", str(out / "w.json")], {}, ("json",), {}),
    Line(
        "bench",
        _bench,
        {
            "device": ("tpu9", "cuda:77", "abacus", "meta", "mps"),
            "threads": ("0", "-1", "99999", "x", "1000000000000"),
            "batches": ("0", "-1", "1000000000000", "x"),
            "walk": NEGATIVE,
            "warmup": ("0", "-1"),
            "repeats": ("0", "-1"),
            "timed-steps": ("0", "-1"),
            "num-inference-steps": ("0", "-1"),
            "engine": ("x",),
            "memory": ("x",),
            "seed": NEGATIVE,
            "cold-starts": ("-1", "x"),
        },
        ("json",),
        {"world": lambda b, o, at: _bench(b, o, at)},
    ),
    Line(
        "export-minari",
        lambda b, out: ["export-minari", str(b.dataset), "--name", "fuzz/data-v0"],
        {"name": ("x", "", "../x-v0", "a b-v0", "/etc/x-v0")},
        (),
        {"dataset": lambda b, o, at: ["export-minari", str(at), "--name", "fuzz/data-v0"]},
    ),
    Line(
        "import-minari",
        lambda b, out: ["import-minari", "nothing/x-v0", "--out", str(out / "d")],
        {"size": ("0 0", "x"), "key": ("x",), "frames-per-shard": ("0",)},
        ("out",),
        {},
    ),
)
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
