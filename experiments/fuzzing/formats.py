"""Every file format: how its files are used, which of their values mean something, and inputs that
damage them."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.fuzzing import mutations as m
from experiments.fuzzing.bases import PAYLOAD, ROOM, SIZE, Bases, train_config, write_payload
from experiments.fuzzing.case import Case, Expect, digest

Special = Callable[[Path, random.Random, Bases], tuple[str, Expect]]
Rule = tuple[str, Callable[[Any], bool]]
"""A pattern of dotted places, and which numbers are valid there."""


@dataclass(frozen=True)
class Format:
    """One file format.

    base: the folder of the undamaged object. use: what is done with a folder of it. free: patterns
    of dotted places in JSON documents, ``file:place``, whose values mean nothing to the library.
    optional: those that may be left out or null. rules: which numbers are valid where; without a
    rule, none of those drawn are. special: further mutations of this format alone. unused: patterns
    of names of files that may be left out, and are where they cannot be read. lone: the object is
    one file, which a user may well keep behind a link.
    """

    kind: str
    base: str
    use: Callable[[Path, Bases], Any]
    free: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    unused: tuple[str, ...] = ()
    special: tuple[Special, ...] = ()
    lone: bool = False
    skip: tuple[str, ...] = field(default=("tensorboard", "world/", "samples"))


def case_of(form: Format, rng: random.Random, folder: Path, bases: Bases, seed: int) -> Case:
    """Copy the object to ``folder``, damage it, and say what is expected. ``folder`` does not exist
    yet."""
    shutil.copytree(getattr(bases, form.base), folder)
    write_payload(folder, bases.canary)
    use = lambda: form.use(folder, bases)  # noqa: E731
    whole = whole_digest(form, bases)
    files = [
        p
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.suffix != ".py" and _told(form, folder, p)
    ]
    if rng.random() < 0.02:
        return Case("whole", "nothing was changed", Expect.ACCEPT, use, whole)
    ways: dict[Callable[..., Any], int] = {_bytes: 5, _path: 2}
    if any(p.suffix == ".json" for p in files):
        ways[_document] = 12
    if any(p.suffix == ".safetensors" for p in files):
        ways[_tensors] = 4
    if any(p.suffix in (".png", ".webp") for p in files):
        ways[_picture] = 3
    if form.special:
        ways[_special] = 6
    mutation, detail, expect = m.pick(rng, ways)(form, folder, files, rng, bases, seed)
    return Case(mutation, detail, expect, use, whole)


@cache
def whole_digest(form: Format, bases: Bases) -> str:
    """Digest of what the undamaged object gives."""
    return digest(form.use(getattr(bases, form.base), bases))


def _told(form: Format, folder: Path, path: Path) -> bool:
    name = path.relative_to(folder).as_posix()
    return not any(part in name for part in form.skip) or form.base == "world"


Mutated = tuple[str, str, Expect]


def _bytes(
    form: Format, folder: Path, files: list[Path], rng: random.Random, bases: Bases, seed: int
) -> Mutated:
    way = m.pick(rng, {m.flip: 5, m.cut: 3, m.extend: 1, m.noise: 1})
    path = rng.choice(files)
    expect = Expect.REFUSE if way is m.noise else Expect.SAME
    if any(re.search(pattern, path.name) for pattern in form.unused):
        expect = Expect.ANY
    return way.__name__, way(path, rng), expect


def _path(
    form: Format, folder: Path, files: list[Path], rng: random.Random, bases: Bases, seed: int
) -> Mutated:
    path = rng.choice(files)
    detail = m.swap(path, rng, bases.canary)
    unused = any(re.search(pattern, path.name) for pattern in form.unused)
    # Points beside a capture are for other programs: nothing here opens them.
    out = "link out" in detail and not form.lone and path.suffix != ".ply"
    return "path", detail, Expect.REFUSE if out else Expect.ANY if unused else Expect.SAME


def _picture(
    form: Format, folder: Path, files: list[Path], rng: random.Random, bases: Bases, seed: int
) -> Mutated:
    path = rng.choice([p for p in files if p.suffix in (".png", ".webp")])
    detail = m.other_picture(path, rng, bases.canary)
    what = detail.split(" is ")[-1]
    # The same pixels in another of the usual formats may be read.
    alike = what in ("gif", "bmp", "tiff", "alpha", "grey")
    expect = Expect.SAME if alike else Expect.REFUSE
    # A capture is whoever's pictures: a grey one is one, and depth may be finer than colours.
    if form.kind == "capture" and (alike or (what == "other size" and "depth" in str(path.parent))):
        expect = Expect.ANY
    return "picture", detail, expect


def _tensors(
    form: Format, folder: Path, files: list[Path], rng: random.Random, bases: Bases, seed: int
) -> Mutated:
    path = rng.choice([p for p in files if p.suffix == ".safetensors"])
    if rng.random() < 0.3:
        return "poison", m.poison(path, rng), Expect.SAME
    return "tensors", m.change_tensors(path, rng), Expect.SAME


def _special(
    form: Format, folder: Path, files: list[Path], rng: random.Random, bases: Bases, seed: int
) -> Mutated:
    way = rng.choice(form.special)
    detail, expect = way(folder, rng, bases)
    return way.__name__.strip("_"), detail, expect


def _document(
    form: Format, folder: Path, files: list[Path], rng: random.Random, bases: Bases, seed: int
) -> Mutated:
    """One value of a JSON document changed."""
    path = rng.choice([p for p in files if p.suffix == ".json"])
    document = m.read(path)
    places = list(m.leaves(document))
    name = path.relative_to(folder).as_posix()
    place, value = rng.choice(places)
    where = f"{name}:{m.dotted(place)}"
    free = any(re.search(pattern, where) for pattern in form.free)
    optional = free or value is None or any(re.search(pattern, where) for pattern in form.optional)
    refuse = Expect.ANY if free else Expect.REFUSE
    way = rng.choice(
        (
            "drop",
            "type",
            "null",
            "number",
            "number",
            "size",
            "extra",
            "deep",
            "digits",
            "string",
            "string",
            "near",
            "version",
        )
    )
    if way == "version":
        place, value = next(
            ((p, v) for p, v in places if p[-1] in ("version", "format")), (place, value)
        )
        new: Any = rng.choice(
            (
                -1,
                0,
                99,
                10**30,
                "1",
                1.5,
                True,
                None,
                "worldsim",
                [1],
                "worldsim-nothing",
                float("nan"),
            )
        )
        if place[-1] not in ("version", "format") or new == value:
            way = "type"
        else:
            m.write(path, m.put(document, place, new))
            return "version", f"{name}:{m.dotted(place)} = {new!r}", Expect.REFUSE
    if way == "drop":
        m.write(path, m.drop(document, place))
        return way, where, Expect.ANY if optional or isinstance(place[-1], int) else refuse
    if way == "null":
        m.write(path, m.put(document, place, None))
        return way, where, Expect.ANY if optional else refuse
    if way in ("number", "size"):
        numbers = [
            (p, v) for p, v in places if isinstance(v, (int, float)) and not isinstance(v, bool)
        ]
        if numbers:
            place, value = rng.choice(numbers)
            where = f"{name}:{m.dotted(place)}"
            new = rng.choice(m.NUMBERS if way == "number" else m.SIZES)
            m.write(path, m.put(document, place, new))
            return way, f"{where} = {new!r:.40}", _number_expectation(form, where, new)
    if way == "string":
        strings = [(p, v) for p, v in places if isinstance(v, str)]
        if strings:
            place, value = rng.choice(strings)
            where = f"{name}:{m.dotted(place)}"
            new = rng.choice(m.CODE + m.PATHS + ("owner/name", f"{PAYLOAD}:Y-v0"))
            m.write(path, m.put(document, place, new))
            free = any(re.search(pattern, where) for pattern in form.free)
            return "code or path", f"{where} = {new!r:.60}", Expect.ANY if free else Expect.REFUSE
    if way == "extra":
        dicts = [(p, v) for p, v in [((), document), *places] if isinstance(v, dict)]
        if dicts:
            place, value = rng.choice(dicts)
            key = rng.choice(("extra", "__class__", "", "self", "$ref"))
            where = f"{name}:{m.dotted((*place, key))}"
            m.write(path, m.put(document, (*place, key), rng.choice((1, "x", None, {"a": 1}))))
            return way, where, Expect.ANY
    if way == "deep":
        m.write_deep(path, document, place)
        return way, where, refuse
    if way == "digits":
        path.write_text(json.dumps(m.put(document, place, "@@")).replace('"@@"', "9" * 5000))
        return way, where, refuse
    if way == "near" and not isinstance(value, (dict, list)) and value is not None:
        new = (
            (not value)
            if isinstance(value, bool)
            else value + "x"
            if isinstance(value, str)
            else value + 1
        )
        m.write(path, m.put(document, place, new))
        return way, f"{where} = {new!r:.60}", Expect.ANY
    new = m.other_type(value, rng, seed)
    m.write(path, m.put(document, place, new))
    return "type", f"{where} = {new!r:.60}", Expect.ANY if free else Expect.REFUSE


def _number_expectation(form: Format, where: str, new: Any) -> Expect:
    if any(re.search(pattern, where) for pattern in form.free):
        return Expect.ANY
    for pattern, valid in form.rules:
        if re.search(pattern, where):
            return (
                Expect.ANY
                if isinstance(new, (int, float)) and math.isfinite(_float(new)) and valid(new)
                else Expect.REFUSE
            )
    return Expect.REFUSE


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


# Using each format.


@cache
def the_world(bases: Bases, name: str = "world") -> Any:
    from worldsim.world import World

    return World.from_pretrained(getattr(bases, name), "cpu")


def use_world(folder: Path, bases: Bases) -> Any:
    from worldsim.envs.world_env import WorldEnv
    from worldsim.runtime.json_config import to_json
    from worldsim.world import World
    from worldsim.world.twin import make_twin

    world = World.from_pretrained(folder, "cpu")
    env = WorldEnv(world)
    starts = [env.reset(seed=0, options={"scene": name}) for name in ("room-6-1", "room-7-1")]
    stepped = env.step(1)
    make_twin(world).close()
    return to_json(world.config), starts, stepped


def use_scene(folder: Path, bases: Bases) -> Any:
    from worldsim.world.scene_files import load_scene

    scene = load_scene(folder / "room-6-1")
    state = the_world(bases).initial([scene], [0])
    return scene, state.frame


def use_snapshot(folder: Path, bases: Bases) -> Any:
    from worldsim.envs.world_env import WorldEnv
    from worldsim.world.snapshots import load_snapshot, open_snapshot

    path = folder / "walk.safetensors"
    opened = open_snapshot(path)
    points, trajectory = opened.memory.points(), opened.trajectory
    world = the_world(bases)
    snapshot = load_snapshot(path, world)
    env = WorldEnv(world)
    env.restore(snapshot)
    stepped = env.step(1)
    again = env.reset()
    return (
        points,
        trajectory,
        opened.world,
        opened.env_id,
        snapshot.elapsed,
        snapshot.generators,
        stepped,
        again,
    )


def use_dataset(folder: Path, bases: Bases) -> Any:
    from worldsim.data.dataset import EpisodeDataset

    dataset = EpisodeDataset(folder)
    episodes = [
        [
            getattr(e, n)
            for n in (
                "rgb",
                "act",
                "rew",
                "term",
                "trunc",
                "inverse_depth",
                "pose",
                "intrinsics",
                "info",
            )
        ]
        for e in dataset
    ]
    # The documented way of finding what memory maps do not look at.
    dataset.verify()
    return dataset.info, len(dataset), dataset.frames, episodes


def use_agent(folder: Path, bases: Bases) -> Any:
    import gymnasium as gym

    from worldsim.shipped.agent_files import load_agent, read_card

    card = read_card(folder)
    policy: Any = load_agent(folder, gym.spaces.Discrete(7))
    policy.reset(0)
    act = policy.act(np.full((SIZE, SIZE, 3), 90, np.uint8))
    return card.kind, int(act), policy.state_dict()


def use_capture(folder: Path, bases: Bases) -> Any:
    from worldsim.io.nerfstudio import open_capture
    from worldsim.io.rgbd import trajectory_of
    from worldsim.scenes.capture import CaptureScene

    frames = open_capture(folder)
    pictures = [frame.read() for frame in frames]
    trajectory, known = trajectory_of(frames)
    start = CaptureScene(folder, world=the_world(bases)).start(np.random.default_rng(0))
    return pictures, trajectory, known, dataclasses.replace(start, name="")


@cache
def _trainer(bases: Bases) -> Any:
    from worldsim.training.trainer import Trainer

    return Trainer(train_config(bases.dataset, bases.run))


def use_checkpoint(folder: Path, bases: Bases) -> Any:
    trainer = _trainer(bases)
    trainer.config = dataclasses.replace(trainer.config, out=folder)
    trainer.history, trainer.step, trainer.elapsed = [], 0, 0.0
    resumed = trainer.resume()
    from worldsim.training.checkpoint import pack

    weights = pack(trainer.loss_module, trainer.ema, trainer.optimizer)
    return resumed, trainer.step, trainer.elapsed, trainer.progress, trainer.history, weights


# Mutations of single formats. Each returns what was done and what is expected.


def _saved(function: Callable[[], Any]) -> None:
    """Write something wrong through the library, whose own checksums then fit. That it refuses to
    is as good."""
    from worldsim.errors import WorldsimError

    try:
        function()
    except WorldsimError as error:
        raise Refused(str(error)) from error


class Refused(Exception):
    """The library refused to write what is wrong."""


def _world_saved_wrong(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """Weights that are not finite, or settings out of range, saved by the library itself."""
    import torch

    from experiments.fuzzing.bases import tiny_world

    world = tiny_world()
    what = rng.choice(("nan weight", "inf weight", "fps", "env_id", "env_kwargs", "intrinsics"))
    if "weight" in what:
        module = rng.choice(list(world.modules().values()))
        with torch.no_grad():
            rng.choice([p for p in module.parameters() if p.numel()]).view(-1)[0] = float(
                what.split()[0]
            )
    elif what == "fps":
        world.config = dataclasses.replace(
            world.config, fps=rng.choice((-1.0, 0.0, math.nan, math.inf))
        )
    elif what == "env_id":
        world.config = dataclasses.replace(
            world.config, env_id=rng.choice((f"{PAYLOAD}:Y-v0", "os:system", "nothing-v0"))
        )
    elif what == "env_kwargs":
        bad = rng.choice(
            (
                {"size": "os:system"},
                {"render_mode": f"{PAYLOAD}:Y"},
                {"nothing": 1},
                {"size": -3},
                {"size": 10**9},
            )
        )
        world.config = dataclasses.replace(world.config, env_kwargs=bad)
    else:
        world.config = dataclasses.replace(
            world.config, intrinsics=rng.choice(((math.nan,) * 4, (-16.0, 16.0, 16.0, 16.0)))
        )
    _saved(lambda: world.save_pretrained(folder))
    return what, Expect.REFUSE


def _dream_as_twin(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """A world whose real twin is itself a dream, whose scenes name code."""
    path = folder / "world.json"
    document = m.read(path)
    document["config"]["env_id"] = rng.choice(("worldsim/Dream-v0", "worldsim/FreedoomDream-v0"))
    scenes = rng.choice(
        ("os:system:touch CANARY", f"{PAYLOAD}:Y", f"{PAYLOAD}:Y:{folder}", "subprocess:run")
    )
    document["config"]["env_kwargs"] = {"world": str(folder), "scenes": scenes}
    m.write(path, document)
    return f"scenes {scenes!r}", Expect.REFUSE


def _doom_as_twin(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """A world whose real twin is an engine that is given a file to run."""
    path = folder / "world.json"
    document = m.read(path)
    document["config"]["env_id"] = rng.choice(
        ("vizdoom.gymnasium_wrapper:VizdoomBasic-v1", "VizdoomBasic-v1", ROOM)
    )
    document["config"]["env_kwargs"] = {
        "scenario_config_file": rng.choice((str(folder / "evil.cfg"), "/dev/zero", "../x.cfg"))
    }
    (folder / "evil.cfg").write_text(
        f"doom_scenario_path = {folder}/evil.wad\ngame_args += +exec {folder}/evil.txt\n"
    )
    m.write(path, document)
    return f"{document['config']['env_id']} with {document['config']['env_kwargs']}", Expect.REFUSE


def _same_as(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """A module that claims to be another world's."""
    path = folder / rng.choice(("dynamics", "outcome", "ego_motion")) / "config.json"
    document = m.read(path)
    document["_same_as"] = rng.choice(
        (
            "../../..",
            str(folder),
            "/etc",
            3,
            ["freedoom-tiny"],
            "nothing",
            "freedoom-tiny",
            "takecover",
        )
    )
    m.write(path, document)
    return f"{path.parent.name} is that of {document['_same_as']!r}", Expect.REFUSE


def _scene_saved_wrong(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    import torch

    from worldsim.world.scene_files import load_scene, save_scene

    scene = load_scene(bases.world / "scenes" / "room-6-1")
    act, pose = scene.act.clone(), scene.pose.clone()
    what, changes = rng.choice(
        (
            ("action 99", {"act": torch.full_like(act, 99)}),
            ("action -1", {"act": torch.full_like(act, -1)}),
            ("nan pose", {"pose": torch.full_like(pose, math.nan)}),
            (
                "inf place",
                {"pose": pose + torch.tensor([[0, 0, 0, math.inf]] * 3 + [[0, 0, 0, 0]])},
            ),
            ("skewed pose", {"pose": pose * torch.tensor([2.0, 1, 1, 1])}),
            ("mirrored pose", {"pose": pose * torch.tensor([-1.0, 1, 1, 1])}),
            ("last row of pose", {"pose": pose + torch.eye(4)[3:]}),
            ("far away", {"pose": pose + torch.tensor([[0, 0, 0, 1e30]] * 3 + [[0, 0, 0, 0]])}),
            ("negative intrinsics", {"intrinsics": torch.tensor([-16.0, 16, 16, 16])}),
            ("nan intrinsics", {"intrinsics": torch.full((4,), math.nan)}),
            ("fewer actions", {"act": act[:-1]}),
            ("fewer poses", {"pose": pose[:-1]}),
            ("small frames", {"rgb": scene.rgb[..., :16, :16]}),
        )
    )
    _saved(lambda: save_scene(dataclasses.replace(scene, **changes), folder / "room-6-1"))
    return what, Expect.REFUSE


def _scene_with_points(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """A memory in a scene whose points are none."""
    import torch

    from worldsim.memory.points import PointMemory, PointMemoryConfig
    from worldsim.world.scene_files import load_scene, save_scene

    scene = load_scene(bases.world / "scenes" / "room-6-1")
    points = PointMemory(PointMemoryConfig(capacity=rng.choice((4, 64)))).empty(1)
    points = dataclasses.replace(points, kind=torch.ones_like(points.kind))
    what, changes = rng.choice(
        (
            ("nan places", {"position": torch.full_like(points.position, math.nan)}),
            ("inf places", {"position": torch.full_like(points.position, math.inf)}),
            ("kind 7", {"kind": torch.full_like(points.kind, 7)}),
            ("fewer colours", {"colour": points.colour[..., :-1]}),
            ("float colours", {"colour": points.colour.float()}),
            (
                "two batches",
                {
                    name: torch.cat([getattr(points, name)] * 2)
                    for name in ("position", "colour", "kind", "source", "seen", "confidence")
                },
            ),
        )
    )
    _saved(
        lambda: save_scene(
            dataclasses.replace(scene, memory=dataclasses.replace(points, **changes)),
            folder / "room-6-1",
        )
    )
    return what, Expect.REFUSE


def _scene_names(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """Files outside of the scene, by their right checksum."""
    import hashlib

    path = folder / "room-6-1" / "scene.json"
    document = m.read(path)
    outside = folder.parent / "outside.webp"
    outside.write_bytes((folder / "room-6-1" / "frames.webp").read_bytes())
    name = rng.choice(
        ("../../outside.webp", str(outside), "../room-7-1/frames.webp", "x/../frames.webp")
    )
    target = folder / "room-6-1" / name
    content = target.read_bytes() if target.is_file() else b""
    document["sha256"][name] = hashlib.sha256(content).hexdigest()
    m.write(path, document)
    return f"names {name!r}", Expect.REFUSE


def _snapshot(bases: Bases) -> Any:
    from worldsim.world.snapshots import load_snapshot

    return load_snapshot(bases.walk / "walk.safetensors", the_world(bases))


def _snapshot_saved_wrong(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    import torch

    from worldsim.world.snapshots import save_snapshot

    shot = _snapshot(bases)
    state = shot.state
    pose = state.frame.pose

    def framed(**changes: Any) -> Any:
        return dataclasses.replace(state, frame=dataclasses.replace(state.frame, **changes))

    def remembered(**changes: Any) -> Any:
        return dataclasses.replace(state, memory=dataclasses.replace(state.memory, **changes))

    def attended(**changes: Any) -> Any:
        return dataclasses.replace(state, context=dataclasses.replace(state.context, **changes))

    generator = copy.deepcopy(shot.generators[0])
    numbers = dict(generator["state"])
    what, changes = rng.choice(
        (
            ("nan pose", {"state": framed(pose=torch.full_like(pose, math.nan))}),
            ("skewed pose", {"state": framed(pose=pose * 3)}),
            ("depth code -5", {"state": framed(inverse_depth=state.frame.inverse_depth * 0 - 5)}),
            (
                "depth code 10^6",
                {"state": framed(inverse_depth=state.frame.inverse_depth * 0 + 10**6)},
            ),
            ("nan points", {"state": remembered(position=state.memory.position * math.nan)}),
            ("kind 9", {"state": remembered(kind=state.memory.kind * 0 + 9)}),
            ("nan context", {"state": attended(cache=state.context.cache * math.nan)}),
            ("inf context", {"state": attended(x=state.context.x * math.inf)}),
            ("nan motion", {"state": dataclasses.replace(state, motion=state.motion * math.nan)}),
            ("action 99", {"state": dataclasses.replace(state, act=state.act * 0 + 99)}),
            ("action -1", {"state": dataclasses.replace(state, act=state.act * 0 - 1)}),
            (
                "negative intrinsics",
                {"state": dataclasses.replace(state, intrinsics=-state.intrinsics)},
            ),
            (
                "nan intrinsics",
                {"state": dataclasses.replace(state, intrinsics=state.intrinsics * math.nan)},
            ),
            ("elapsed -7", {"elapsed": np.array([-7])}),
            ("elapsed of two", {"elapsed": np.array([1, 2])}),
            ("no generator", {"generators": ()}),
            ("two generators", {"generators": (generator, generator)}),
            (
                "generator of another kind",
                {"generators": ({**generator, "bit_generator": "MT19937"},)},
            ),
            (
                "generator names code",
                {"generators": ({**generator, "bit_generator": f"{PAYLOAD}:Y"},)},
            ),
            (
                "generator's number is text",
                {"generators": ({**generator, "state": {**numbers, "state": "x"}},)},
            ),
            (
                "generator's number is negative",
                {"generators": ({**generator, "state": {**numbers, "inc": -1}},)},
            ),
            (
                "generator's number is too large",
                {"generators": ({**generator, "state": {**numbers, "state": 2**200}},)},
            ),
            (
                "generator's number is not odd",
                {"generators": ({**generator, "state": {**numbers, "inc": numbers["inc"] ^ 1}},)},
            ),
            ("generator is a list", {"generators": ([1, 2],)}),
            ("resetting of two", {"resetting": np.array([True, False])}),
        )
    )
    _saved(
        lambda: save_snapshot(
            dataclasses.replace(shot, **changes), the_world(bases), folder / "walk.safetensors"
        )
    )
    return what, Expect.REFUSE


def _snapshot_header(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """One of the strings in the header, changed without telling the checksum."""
    path = folder / "walk.safetensors"
    header, content = m.read_tensors(path)
    told = header["__metadata__"]
    key = rng.choice(sorted(told))
    if key == "generators" and rng.random() < 0.7:
        document = json.loads(told[key])
        document[0]["state"]["state"] ^= 1 << rng.randrange(64)
        new = json.dumps(document)
    else:
        new = rng.choice(
            (
                "",
                "x",
                "null",
                "[]",
                "{}",
                "-1",
                "99",
                "1" * 5000,
                "[" * 100_000,
                '{"kind": "os:system"}',
                '{"kind": "points", "config": 3}',
                '{"kind": "points", "config": {"capacity": 1000000000000}}',
                '{"kind": "points", "config": {"capacity": -4}}',
                f'{{"kind": "{PAYLOAD}:Y"}}',
                "<script>alert(1)</script>",
                "../../etc",
                "owner/name",
                f"{PAYLOAD}:Y",
                "a" * 64,
            )
        )
    told[key] = new
    m.write_tensors(path, header, content)
    return f"header {key} = {new[:60]!r}", Expect.SAME


def _snapshot_of_a_stranger(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """A whole snapshot of another world of the same shapes."""
    shutil.copy(bases.stranger / "walk.safetensors", folder / "walk.safetensors")
    if rng.random() < 0.5:
        # With this world's fingerprint, which anybody can read in a file.
        path = folder / "walk.safetensors"
        mine, _ = m.read_tensors(bases.walk / "walk.safetensors")
        header, content = m.read_tensors(path)
        header["__metadata__"]["world"] = mine["__metadata__"]["world"]
        m.write_tensors(path, header, content)
        return "of another world, with this world's fingerprint", Expect.REFUSE
    return "of another world", Expect.REFUSE


def _dataset_written_wrong(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """A shard that holds wrong values, with its right checksum in the index."""
    from worldsim.data.dataset import sha256_of

    path = folder / "shard-00000.safetensors"
    header, content = m.read_tensors(path)
    data = bytearray(content)

    def place(name: str) -> int:
        return int(header[name]["data_offsets"][0])

    def put(name: str, form: str, value: Any, index: int = 0) -> None:
        struct.pack_into(form, data, place(name) + index * struct.calcsize(form), value)

    what = rng.choice(
        (
            "nan pose",
            "inf pose",
            "skewed pose",
            "nan reward",
            "inf reward",
            "action 99",
            "action -1",
            "action at the end",
            "end in the middle",
            "negative intrinsics",
            "nan intrinsics",
            "episode start",
            "episode start descending",
            "term 7",
            "episodes text",
            "episodes deep",
            "episodes of other length",
            "episode is a number",
        )
    )
    if what == "nan pose":
        put("pose", "<f", math.nan, 3)
    elif what == "inf pose":
        put("pose", "<f", math.inf, 7)
    elif what == "skewed pose":
        put("pose", "<f", 5.0, 0)
    elif what == "nan reward":
        put("rew", "<f", math.nan)
    elif what == "inf reward":
        put("rew", "<f", -math.inf)
    elif what == "action 99":
        put("act", "<q", 99)
    elif what == "action -1":
        put("act", "<q", -1)
    elif what == "action at the end":
        put("act", "<q", 1, 47)
    elif what == "end in the middle":
        put("term", "<B", 1, 2)
    elif what == "negative intrinsics":
        put("intrinsics", "<f", -16.0)
    elif what == "nan intrinsics":
        put("intrinsics", "<f", math.nan, 2)
    elif what == "episode start":
        put("episode_start", "<q", rng.choice((-1, 3, 10**9)), 1)
    elif what == "episode start descending":
        put("episode_start", "<q", 0, 1)
    elif what == "term 7":
        put("term", "<B", 7)
    else:
        told = header["__metadata__"]
        told["episodes"] = {
            "episodes text": "x",
            "episodes deep": "[" * 100_000,
            "episodes of other length": "[{}]",
        }.get(what, json.dumps([3] * len(json.loads(told["episodes"]))))
    m.write_tensors(path, header, bytes(data))
    index = m.read(folder / "dataset.json")
    index["shards"][0]["sha256"] = sha256_of(path)
    m.write(folder / "dataset.json", index)
    return what, Expect.REFUSE


def _shard_names(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """Shards outside of the folder, or one twice."""
    path = folder / "dataset.json"
    document = m.read(path)
    outside = folder.parent / "shard-00000.safetensors"
    shutil.copy(folder / "shard-00000.safetensors", outside)
    name = rng.choice(
        ("../shard-00000.safetensors", str(outside), "twice", "nowhere.safetensors", "dataset.json")
    )
    if name == "twice":
        document["shards"].append(document["shards"][0])
    else:
        document["shards"][0]["file"] = name
    m.write(path, document)
    return f"shard {name!r}", Expect.REFUSE


def _agent_names_code(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    path = folder / "agent.json"
    document = m.read(path)
    document["kind"] = rng.choice(
        (
            *m.CODE,
            "worldsim.agents.random:RandomPolicy.__init__",
            "worldsim.app.cli:main",
            "worldsim.agents.explorer:Explorer",
            "subprocess:Popen",
            "code:InteractiveInterpreter",
            "worldsim.agents.persistent:os",
            "gymnasium:make",
            "builtins:eval",
        )
    )
    if rng.random() < 0.3:
        document["settings"] = rng.choice(
            ({}, {"args": "touch CANARY"}, {"shell": True}, {"world": f"{PAYLOAD}:Y"})
        )
    m.write(path, document)
    return f"kind {document['kind']!r}, settings {document['settings']}", Expect.SAME


def _agent_saved_wrong(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    import gymnasium as gym
    import torch

    from worldsim.agents.actor_critic_policy import ActorCriticPolicy
    from worldsim.shipped.agent_files import AgentCard, save_agent

    what = rng.choice(("nan weight", "inf weight", "other actions", "continuous"))
    space: Any = gym.spaces.Discrete(7)
    if what == "other actions":
        space = gym.spaces.Discrete(5)
    elif what == "continuous":
        space = gym.spaces.Box(-1.0, 1.0, (7,), np.float32)
    policy = ActorCriticPolicy(space, (SIZE, SIZE, 3), stack=1, hidden=8)
    if "weight" in what:
        with torch.no_grad():
            rng.choice([p for p in policy.network.parameters() if p.numel()]).view(-1)[0] = float(
                what.split()[0]
            )
    _saved(lambda: save_agent(policy, folder, AgentCard(env_id=ROOM)))
    return what, Expect.REFUSE


def _agent_of_huge_size(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    path = folder / "agent.json"
    document = m.read(path)
    key = rng.choice(("hidden", "stack", "observation_shape", "n"))
    if key == "n":
        document["action_space"]["n"] = rng.choice(m.SIZES)
    else:
        document["settings"][key] = (
            [rng.choice(m.SIZES)] * 3 if key == "observation_shape" else rng.choice(m.SIZES)
        )
    m.write(path, document)
    return f"{key} is huge", Expect.REFUSE


def _capture_paths(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """Pictures outside of the folder that would fit, and things that are none."""
    path = folder / "transforms.json"
    document = m.read(path)
    key = rng.choice(("file_path", "depth_file_path"))
    source = folder / document["frames"][1][key]
    outside = folder.parent / "outside.png"
    shutil.copy(source, outside)
    (folder / "link.png").symlink_to(outside)
    (folder / "linked").symlink_to(folder.parent)
    (folder / "zero.png").symlink_to("/dev/zero")
    name = rng.choice(
        (
            "../outside.png",
            str(outside),
            "link.png",
            "linked/outside.png",
            "zero.png",
            "/dev/zero",
            "images/../../outside.png",
            "transforms.json",
            "images",
            "",
            "nothing.png",
        )
    )
    document["frames"][1][key] = name
    m.write(path, document)
    return f"{key} {name!r}", Expect.REFUSE


def _capture_numbers(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """Cameras that cannot be, beside what the schema would notice."""
    path = folder / "transforms.json"
    document = m.read(path)
    frame = document["frames"][rng.randrange(len(document["frames"]))]
    what = rng.choice(
        (
            "mirrored",
            "zeros",
            "identity times 2",
            "last row",
            "far away",
            "no frames",
            "frames of nothing",
            "empty matrix",
            "ragged matrix",
            "text matrix",
            "huge w",
            "negative fl",
            "camera_angle",
            "tiny fl",
            "huge scale",
            "fish",
            "distorted",
            "10^5 frames missing",
        )
    )
    identity = np.eye(4).tolist()
    if what == "mirrored":
        frame["transform_matrix"] = np.diag([-1.0, 1, 1, 1]).tolist()
    elif what == "zeros":
        frame["transform_matrix"] = np.zeros((4, 4)).tolist()
    elif what == "identity times 2":
        frame["transform_matrix"] = (2 * np.eye(4)).tolist()
    elif what == "last row":
        frame["transform_matrix"] = [*identity[:3], [1, 2, 3, 4]]
    elif what == "far away":
        frame["transform_matrix"] = (np.eye(4) + np.eye(4, k=3) * 1e30).tolist()
    elif what == "no frames":
        document["frames"] = []
    elif what == "frames of nothing":
        document["frames"] = [{}]
    elif what == "empty matrix":
        frame["transform_matrix"] = []
    elif what == "ragged matrix":
        frame["transform_matrix"] = [[1], [2, 3]]
    elif what == "text matrix":
        frame["transform_matrix"] = [["a"] * 4] * 4
    elif what == "huge w":
        document["w"] = document["h"] = rng.choice(m.SIZES)
    elif what == "negative fl":
        document["fl_x"] = -16.0
    elif what == "camera_angle":
        document.pop("fl_x")
        document["camera_angle_x"] = rng.choice((0.0, -1.0, math.pi, 1e9, math.nan))
    elif what == "tiny fl":
        document["fl_x"] = rng.choice((1e-300, 5e-324))
    elif what == "huge scale":
        document[rng.choice(("depth_unit_scale_factor", "applied_scale"))] = rng.choice(
            (1e300, 1e-300, 0.0, -1.0, math.inf)
        )
    elif what == "fish":
        document["camera_model"] = rng.choice(("OPENCV_FISHEYE", 3, None, ["PINHOLE"]))
    elif what == "distorted":
        document[rng.choice(("k1", "p2"))] = rng.choice((0.1, "x", None, math.nan))
    else:
        document["frames"] = [{**frame, "file_path": f"images/{i}.png"} for i in range(100_000)]
    m.write(path, document)
    return what, Expect.REFUSE


def _capture_depth(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """Depth as NumPy's files."""
    import io
    import pickle  # noqa: TID251  the attack, never loaded here

    path = folder / "transforms.json"
    document = m.read(path)
    document["frames"][1]["depth_file_path"] = "depth.npy"
    m.write(path, document)
    depth = np.full((SIZE, SIZE), 2000, np.uint16)
    what = rng.choice(
        (
            "pickle",
            "huge shape",
            "negative shape",
            "cut",
            "text",
            "complex",
            "three axes",
            "wide",
            "good",
            "bytes",
            "nan",
            "code in header",
        )
    )
    buffer = io.BytesIO()
    if what == "pickle":

        class Attack:
            def __reduce__(self) -> Any:
                return open, (str(bases.canary), "w")

        buffer.write(b"\x93NUMPY\x01\x00")
        header = b"{'descr': '|O', 'fortran_order': False, 'shape': (32, 32), }".ljust(117) + b"\n"
        buffer.write(struct.pack("<H", len(header)) + header + pickle.dumps(Attack()))
    elif what in ("huge shape", "negative shape", "code in header"):
        shape = {"huge shape": "(1000000, 1000000)", "negative shape": "(-32, -32)"}.get(
            what, f"open({str(bases.canary)!r}, 'w')"
        )
        header = (
            f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117)
            + b"\n"
        )
        buffer.write(
            b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + depth.tobytes()
        )
    elif what == "cut":
        np.save(buffer, depth)
        buffer.truncate(rng.randrange(5, 2000))
    else:
        other = {
            "text": np.array([["a"] * SIZE] * SIZE),
            "complex": depth.astype(np.complex64),
            "three axes": depth[None],
            "wide": np.zeros((8, 3000), np.uint16),
            "good": depth,
            "bytes": depth.astype(np.uint8),
            "nan": np.full((SIZE, SIZE), np.nan, np.float32),
        }[what]
        np.save(buffer, other, allow_pickle=False)
    (folder / "depth.npy").write_bytes(buffer.getvalue())
    return f"npy: {what}", Expect.ANY if what in ("good", "nan") else Expect.REFUSE


def _checkpoint_tensors(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    path = folder / "checkpoint" / "state.safetensors"
    header, content = m.read_tensors(path)
    what = rng.choice(
        (
            "nan weight",
            "no optimiser",
            "optimiser of another parameter",
            "optimiser of no parameter",
            "no average",
            "step",
        )
    )
    if what == "nan weight":
        return m.poison(
            path, rng, [n for n in m.names_of(header) if n.startswith(("model.", "ema."))]
        ), Expect.REFUSE
    names = [
        n
        for n in m.names_of(header)
        if n.startswith("optimizer." if "optim" in what or what == "step" else "ema.")
    ]
    name = rng.choice(names)
    if what in ("no optimiser", "no average"):
        for other in names if what == "no optimiser" else [name]:
            header["dropped." + other] = header.pop(other)
    elif what == "optimiser of another parameter":
        header[f"optimizer.{rng.choice((10**9, -1, 'x'))}.exp_avg"] = header.pop(name)
    elif what == "optimiser of no parameter":
        header["optimizer.0"] = header.pop(name)
    else:
        header[name.rsplit(".", 1)[0] + ".nothing"] = header.pop(name)
    m.write_tensors(path, header, content)
    return f"{what}: {name}", Expect.REFUSE


def _history(folder: Path, rng: random.Random, bases: Bases) -> tuple[str, Expect]:
    """The curve beside a checkpoint, which loggers may be writing: whatever it holds, it is refused
    or left out."""
    new = rng.choice(
        (
            "[1]",
            "{}",
            "[{}]",
            '[{"step": "x"}]',
            "null",
            "3",
            '[{"step": NaN}]',
            '"text"',
            "[[[",
            '[{"step": 1e400}]',
        )
    )
    (folder / "history.json").write_text(new)
    return f"history is {new}", Expect.ANY


def _positive(x: Any) -> bool:
    return 0 < x < 1e5


def _share(x: Any) -> bool:
    return 0 <= x <= 1


def _bounded(x: Any) -> bool:
    return abs(x) < 1e6


WORLD = Format(
    "world",
    "world",
    use_world,
    free=(r"world\.json:card", r"_class_name|_diffusers_version", r"scene\.json:name"),
    optional=(
        r"world\.json:(config|card)",
        r"config\.json:(?!dim|height|width)",
        r"scene\.json:(pose|intrinsics|name)",
    ),
    rules=(
        (r"config\.fps", lambda x: 0 < x <= 1e5),
        (r"dynamics\.num_inference_steps", lambda x: 1 <= x <= 1000 and x == int(x)),
        (r"context_sigma|temperature", _share),
        (r"shift", _positive),
        (r"capacity", lambda x: 1 <= x < 10**8 and x == int(x)),
        (r"tolerance|body_m", lambda x: 0 <= x < 1e9),
        (r"replace_ratio", lambda x: x >= 1),
        (r"intrinsics\.[01]$", _positive),
        (r"intrinsics\.[23]$", _bounded),
        (r"scene\.json:pose\.\d+\.(3|7|11)$", _bounded),
        (r"act\.values", lambda x: 0 <= x < 7 and x == int(x)),
        (r"world\.json:config\.env_kwargs\.goal", lambda x: x in (0, 1)),
    ),
    special=(_world_saved_wrong, _dream_as_twin, _doom_as_twin, _same_as),
)
SCENE = Format(
    "scene",
    "world/scenes",
    use_scene,
    free=(r":name",),
    optional=(r":(pose|intrinsics|name)$",),
    rules=(
        (r"intrinsics\.[01]$", _positive),
        (r"intrinsics\.[23]$", _bounded),
        (r":pose\.\d+\.(3|7|11)$", _bounded),
        (r"act\.values", lambda x: 0 <= x < 7 and x == int(x)),
    ),
    special=(_scene_saved_wrong, _scene_with_points, _scene_names),
    skip=("room-7-1",),
)
SNAPSHOT = Format(
    "snapshot",
    "walk",
    use_snapshot,
    special=(_snapshot_saved_wrong, _snapshot_header, _snapshot_of_a_stranger),
    lone=True,
)
DATASET = Format(
    "dataset",
    "dataset",
    use_dataset,
    free=(r":(env_id|env_kwargs|reset_options|policy|seed|versions|recording)",),
    optional=(
        r":(geometry|intrinsics|fps|env_kwargs|pixels|reset_options|policy|seed|versions|recording)",
    ),
    rules=((r":fps", lambda x: 0 < x <= 1e5),),
    special=(_dataset_written_wrong, _shard_names),
)
AGENT = Format(
    "agent",
    "agent",
    use_agent,
    free=(r":(results|training|world|env_id)",),
    optional=(r":(results|training|world|env_id|real_frames_used|settings)",),
    rules=(
        (r"real_frames_used", lambda x: x >= 0 and x == int(x)),
        (r"settings\.greedy", lambda x: x in (0, 1)),
    ),
    special=(_agent_names_code, _agent_saved_wrong, _agent_of_huge_size),
)
CAPTURE = Format(
    "capture",
    "capture",
    use_capture,
    free=(r":ply_file_path",),
    optional=(
        r":(cx|cy|fl_y|camera_model|depth_unit_scale_factor|zero_depth_is_sky|ply_file_path)",
    ),
    rules=(
        (r":fl_[xy]$", lambda x: 0.01 < x < 1e6),
        (r":c[xy]$", _bounded),
        (r"scale", lambda x: 1e-6 < x < 1e3),
        (r"transform_matrix\.[012]\.3$", _bounded),
    ),
    unused=(r"\.ply$",),
    special=(_capture_paths, _capture_numbers, _capture_depth),
)
CHECKPOINT = Format(
    "checkpoint",
    "run",
    use_checkpoint,
    free=(
        r"history\.json:",
        r"config\.(steps|minutes|save_every|sample_every|data|out|compile|checkpointing)",
    ),
    optional=(r"history\.json", r"checkpoint\.json:(config\.|world_size)"),
    rules=(
        (r"elapsed", lambda x: 0 <= x < 1e12),
        (r":(step|ema_step)$", lambda x: 0 <= x < 10**12 and x == int(x)),
        (r"world_size", lambda x: x > 0),
    ),
    unused=(r"history\.json$",),
    special=(_checkpoint_tensors, _history),
)
FORMATS = {
    form.kind: form for form in (WORLD, SCENE, SNAPSHOT, DATASET, AGENT, CAPTURE, CHECKPOINT)
}
