"""Command lines that work, and values of their options that must be refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.fuzzing.bases import ROOM, SIZE, Bases

DEVICES = ("tpu9", "cuda:77", "abacus", "meta", "mps", "")


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


def words(command: str, *given: object, **options: object) -> list[str]:
    """A command line: the command, what it takes by position, and its options."""
    pairs = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items())
    return [command, *map(str, given), *(word for pair in pairs for word in pair)]


def _evaluate(bases: Bases, out: Path, world: Path | None = None) -> list[str]:
    return words(
        "evaluate", world or bases.world, episodes=1, history=2, horizon=1, workers=0, bootstrap=2,
        device="cpu", json=out / "e.json", min_seen_frames=0,
    )  # fmt: skip


def _demo(bases: Bases, out: Path, world: Path | None = None) -> list[str]:
    return words(
        "demo", world=world or bases.world, history=2, outward=2, out=out / "demo", device="cpu"
    )


def _watch(
    bases: Bases, out: Path, agent: Path | None = None, world: Path | None = None
) -> list[str]:
    return words(
        "watch", agent or bases.agent, world=world or bases.goal, steps=2, scale=1,
        out=out / "w.mp4", device="cpu",
    )  # fmt: skip


AGENTS: dict[str, object] = {
    "episodes": 1, "workers": 0, "max_steps": 2, "batch": 1, "bootstrap": 5, "engine": "plain",
    "device": "cpu",
}  # fmt: skip
"""Options of both commands that play agents."""


def _evaluate_agent(
    bases: Bases, out: Path, agent: Path | None = None, world: Path | None = None
) -> list[str]:
    return words(
        "evaluate-agent", agent or bases.agent, world=world or bases.goal, **AGENTS,
        json=out / "a.json",
    )  # fmt: skip


def _agreement(
    bases: Bases, out: Path, agent: Path | None = None, world: Path | None = None
) -> list[str]:
    return words(
        "agreement", world or bases.goal, agents=agent or bases.agent, chances=0.5, **AGENTS,
        json=out / "g.json",
    )  # fmt: skip


def _walk(bases: Bases, snapshot: Path | None) -> Path:
    return (snapshot or bases.walk) / "walk.safetensors"


def _view(bases: Bases, out: Path, snapshot: Path | None = None) -> list[str]:
    return words("view", _walk(bases, snapshot), port=8099)


def _export_world(bases: Bases, out: Path, world: Path | None = None) -> list[str]:
    return words("export", world or bases.world, out=out / "copy")


def _export_ply(bases: Bases, out: Path, snapshot: Path | None = None) -> list[str]:
    return words("export", _walk(bases, snapshot), out=out / "m.ply", to="ply")


def _export_glb(bases: Bases, out: Path, snapshot: Path | None = None) -> list[str]:
    return words("export", _walk(bases, snapshot), out=out / "m.glb", voxel=0.3)


def _export_nerfstudio(bases: Bases, out: Path, snapshot: Path | None = None) -> list[str]:
    return words("export", _walk(bases, snapshot), out=out / "n", to="nerfstudio")


def _train(bases: Bases, out: Path, dataset: Path | None = None) -> list[str]:
    return words(
        "train", data=dataset or bases.dataset, out=out / "run", preset="debug", steps=1,
        batch_size=1, window=12, warmup=1, motions=2, memory_capacity=256,
        world_memory_capacity=512, mixed_precision="no", patience=0, scenes=0,
    )  # fmt: skip


def _distil(
    bases: Bases, out: Path, dataset: Path | None = None, world: Path | None = None
) -> list[str]:
    return words(
        "distil", world or bases.world, data=dataset or bases.dataset, out=out / "student",
        training_steps=1, batch_size=1, window=12, warmup=1, memory_capacity=256,
        mixed_precision="no", patience=0,
    )  # fmt: skip


def _record(bases: Bases, out: Path) -> list[str]:
    settings = words(
        "record", ROOM, out=out / "data", frames=8, workers=0, episode_steps=4, min_travel=0
    )
    return [*settings, "--env-kwargs", "size", str(SIZE)]


def _bench(bases: Bases, out: Path, world: Path | None = None) -> list[str]:
    return words(
        "bench", world or bases.world, batches=1, walk=0, warmup=1, repeats=1, timed_steps=1,
        cold_starts=0, device="cpu", memory="on", json=out / "b.json",
    )  # fmt: skip


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
