"""Calls of the Python API with arguments that are no good: types, ranges, shapes, sizes, names and
paths."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from experiments.fuzzing import mutations as m
from experiments.fuzzing.bases import ROOM, SIZE, Bases
from experiments.fuzzing.case import Case, Expect

Valid = Callable[[Any], bool]


@dataclass(frozen=True)
class Argument:
    """One argument that is varied. valid: which values are taken; bad: values that are tried beside
    the general ones."""

    name: str
    valid: Valid
    bad: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Call:
    """A function of the API. made: calls it with the varied argument, by name."""

    name: str
    made: Callable[[Bases, Path, dict[str, Any]], Any]
    arguments: tuple[Argument, ...]


class Odd:
    """An object that nobody expects."""

    def __repr__(self) -> str:
        return "<Odd>"


GENERAL: tuple[Any, ...] = (
    *m.NUMBERS,
    *m.SIZES,
    0,
    1,
    True,
    None,
    "",
    "3",
    "x" * 300,
    b"abc",
    [],
    [1],
    (),
    (1, 2, 3),
    {},
    {"a": 1},
    Odd(),
    2.5,
    1 + 2j,
    np.nan,
    np.float32(1.5),
    np.int64(-3),
    np.zeros(3),
    np.array([]),
    np.full((2, 2), np.nan),
    set(),
    lambda: 0,
    int,
    "os:system",
)


def real(x: Any) -> bool:
    return (
        isinstance(x, (int, float, np.integer, np.floating))
        and not isinstance(x, bool)
        and abs(x) < 1e300
        and math.isfinite(x)
    )


def whole(low: float, high: float, none: bool = False) -> Valid:
    """Whole numbers in a range; True and 2.0 may pass for 1 and 2."""
    return lambda x: (
        (none and x is None)
        or (
            isinstance(x, (int, np.integer, float, np.floating, bool))
            and real(float(_small(x)))
            and float(_small(x)).is_integer()
            and low <= x <= high
        )
    )


def number(low: float, high: float, none: bool = False) -> Valid:
    return lambda x: (
        (none and x is None)
        or (real(x) and low <= x <= high)
        or (isinstance(x, bool) and low <= x <= high)
    )


def one_of(*values: Any) -> Valid:
    def valid(x: Any) -> bool:
        return any(x is v or (isinstance(x, str) and x == v) for v in values)

    return valid


def never(x: Any) -> bool:
    return False


def _small(x: Any) -> Any:
    """Integers that no float holds are out of range anyway."""
    return x if not isinstance(x, int) or abs(x) < 2**200 else 2**200


def case_of(rng: random.Random, folder: Path, bases: Bases, seed: int) -> Case:
    """One call with one argument varied."""
    folder.mkdir()
    call = rng.choice(CALLS)
    argument = rng.choice(call.arguments)
    if rng.random() < 0.02:
        return Case("whole", call.name, Expect.ACCEPT, lambda: call.made(bases, folder, {}))
    pool: tuple[Any, ...] = argument.bad if argument.bad and rng.random() < 0.6 else GENERAL
    value = rng.choice(pool) if rng.random() < 0.9 else rng.choice(m.values(seed))
    try:
        expect = Expect.ANY if argument.valid(value) else Expect.REFUSE
    except (TypeError, ValueError, OverflowError):
        expect = Expect.REFUSE
    return Case(
        call.name,
        f"{argument.name} = {value!r:.80}",
        expect,
        lambda: call.made(bases, folder, {argument.name: value}),
    )


# What calls are made on: made once a process, put back where a call changes it.


@cache
def _env(bases: Bases) -> Any:
    from worldsim.envs.world_env import WorldEnv

    return WorldEnv(bases.world, device="cpu", render_mode="rgb_array")


@cache
def _envs(bases: Bases) -> Any:
    from worldsim.envs.world_vector_env import WorldVectorEnv

    return WorldVectorEnv(2, _env(bases).world)


def env(bases: Bases) -> Any:
    made = _env(bases)
    made.reset(seed=0)
    return made


def envs(bases: Bases) -> Any:
    made = _envs(bases)
    made.reset(seed=0)
    return made


@cache
def walked(bases: Bases) -> Any:
    from worldsim.world.snapshots import open_snapshot

    return open_snapshot(bases.walk / "walk.safetensors")


def _frames(bases: Bases, changes: dict[str, Any]) -> dict[str, Any]:
    from worldsim.world.scene_files import load_scene

    scene = load_scene(bases.world / "scenes" / "room-6-1")
    from worldsim.camera import dequantise_depth

    arrays = {
        "rgb": scene.rgb.permute(0, 2, 3, 1).numpy(),
        "act": scene.act.numpy(),
        "depth": dequantise_depth(scene.inverse_depth).numpy(),
        "pose": scene.pose.numpy(),
        "intrinsics": scene.intrinsics.numpy(),
    }
    return arrays | changes


def _world_env(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.envs.world_env import WorldEnv

    made = WorldEnv(**{"world": bases.world, "device": "cpu", **given})
    made.reset(seed=0)
    return made.step(1)[1:3]


def _vector_env(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.envs.world_vector_env import WorldVectorEnv

    made = WorldVectorEnv(**{"num_envs": 2, "world": _env(bases).world, **given})
    made.reset(seed=0)
    return made.step(np.ones(made.num_envs, np.int64))[1:3]


def _gym_make(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    import gymnasium as gym

    import worldsim  # noqa: F401

    made = gym.make("worldsim/Dream-v0", **{"world": str(bases.world), "device": "cpu", **given})
    made.reset(seed=0)
    return made.step(1)[1:3]


def _state_after(bases: Bases) -> tuple[Any, Any]:
    made = env(bases)
    return made.world, made.state


def _initial(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.world.scene_files import load_scene

    arguments = {"scenes": [load_scene(bases.world / "scenes" / "room-6-1")], "seeds": [0], **given}
    return _env(bases).world.initial(arguments["scenes"], arguments["seeds"])


def _dynamics(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    world, state = _state_after(bases)
    import torch

    return world.with_dynamics(**given).step(state, torch.tensor([1]))[1].rew


def _memory_config(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.memory.points import PointMemory, PointMemoryConfig

    return PointMemory(PointMemoryConfig(**{"capacity": 64, **given})).empty(1).kind.sum()


def _radiance(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.memory.points import PointMemory, PointMemoryConfig
    from worldsim.memory.radiance import RadianceMemory, RadianceMemoryConfig

    config = RadianceMemoryConfig(
        **{"height": 32, "width": 32, "shape": (8, 8, 8), "keyframes": 2, **given}
    )
    return RadianceMemory(PointMemory(PointMemoryConfig(capacity=64)), config).empty(1).fitted


def _fit_config(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.memory.fitting import FitConfig

    return FitConfig(**given)


def _ground(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.planning.ground import Ground, GroundConfig

    memory = walked(bases).memory
    return Ground.of(
        memory.points().position.T,
        memory.pose[:3, 3].numpy(),
        GroundConfig(**{"reach": 4.0, **given}),
    ).known.sum()


def _fuse(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.io.meshes import FusionConfig, fuse

    return len(
        fuse(
            walked(bases).trajectory,
            FusionConfig(**{"refine": 1, "sightings": 1, "smallest": 1, **given}),
        ).faces
    )


def _wrap(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.io.meshes import PoissonConfig, wrap

    points = walked(bases).memory.points()
    arguments = {"position": points.position, "colour": points.colour} | {
        k: v for k, v in given.items() if k in ("position", "colour")
    }
    rest = {k: v for k, v in given.items() if k not in arguments}
    return len(
        wrap(
            arguments["position"],
            arguments["colour"],
            None,
            PoissonConfig(**{"cell": 0.3, "smallest": 1, **rest}),
        ).faces
    )


def _save_points(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.runtime.ply import save_ply

    points = walked(bases).memory.points()
    arguments = {
        "position": points.position,
        "colour": points.colour,
        "path": folder / "a.ply",
        **given,
    }
    return save_ply(arguments["position"], arguments["colour"], arguments["path"])


def _save_trajectory(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.io.nerfstudio import save_nerfstudio

    arguments = {"trajectory": walked(bases).trajectory, "folder": folder / "capture", **given}
    return save_nerfstudio(arguments["trajectory"], arguments["folder"])


def _open_capture(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.io.nerfstudio import open_capture

    return next(frame.read() for frame in open_capture(**{"path": bases.capture, **given}))


def _captured(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.io.rgbd import captured_frames, trajectory_of

    arrays = _frames(bases, {})
    arguments = {name: arrays[name] for name in ("rgb", "depth", "pose", "intrinsics")} | given
    return trajectory_of(captured_frames(**arguments))[1].sum()


def _trajectory_of(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.io.rgbd import captured_frames, trajectory_of

    arrays = _frames(bases, {})
    frames = captured_frames(arrays["rgb"], arrays["depth"], arrays["pose"], arrays["intrinsics"])
    return trajectory_of(frames, **given)[1].sum()


def _dataset(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.data.dataset import EpisodeDataset

    index = given.pop("index", 0)
    return EpisodeDataset(**{"path": bases.dataset, **given})[index]


def _policy(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    import gymnasium as gym

    from worldsim.shipped.policies import make_policy

    arguments = {"name": "random", "space": gym.spaces.Discrete(7), **given}
    return make_policy(arguments["name"], arguments["space"])


def _agent(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.shipped.agent_files import load_agent

    policy = load_agent(**{"name": bases.agent, **given})
    return policy.act(np.zeros((SIZE, SIZE, 3), np.uint8))


def _act(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    return _loaded_agent(bases).act(**{"obs": np.zeros((SIZE, SIZE, 3), np.uint8), **given})


@cache
def _loaded_agent(bases: Bases) -> Any:
    from worldsim.shipped.agent_files import load_agent

    policy = load_agent(bases.agent)
    policy.reset(0)
    return policy


def _from_pretrained(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.world import World

    return World.from_pretrained(**{"name": bases.world, "device": "cpu", **given}).config


def _room(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    import gymnasium as gym

    import worldsim  # noqa: F401
    from worldsim.world.image_env import make_env

    made: gym.Env[Any, Any] = make_env(ROOM, {"size": SIZE, **given})
    return made.reset(seed=0)[0]


def _room_reset(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.envs.tiny_room import TinyRoom

    return TinyRoom(SIZE).reset(seed=0, **given)[0]


def _pixels(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.world.image_env import PixelsConfig, make_pixels

    return make_pixels(ROOM, {"size": SIZE}, PixelsConfig(**given)).reset(seed=0)[0]


def _picture(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.io.pictures import save_picture

    arguments = {"picture": np.zeros((4, 4, 3), np.uint8), "path": folder / "a.png", **given}
    return save_picture(arguments["picture"], arguments["path"])


def _video(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.io.video import write_video

    arguments = {
        "frames": [np.zeros((16, 16, 3), np.uint8)] * 3,
        "fps": 10.0,
        "path": folder / "a.mp4",
        **given,
    }
    return write_video(arguments["frames"], arguments["fps"], arguments["path"])


def _json(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.runtime.json_config import write_json

    arguments = {"path": folder / "a.json", "values": {"a": 1}, **given}
    return write_json(arguments["path"], arguments["values"])


def _locate(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    from worldsim.planning.locate import LocateConfig, candidates

    made = env(bases)
    settings = {"kept": 2, "rounds": 1, "draws": 2, "spacing": 2.0}
    names = {k: v for k, v in given.items() if k not in ("rgb", "count")}
    config = LocateConfig(**{**settings, **names})
    return candidates(
        made.world, made.state, given.get("rgb", made.render()), given.get("count", 1), config
    )


def _save(bases: Bases, folder: Path, given: dict[str, Any]) -> Any:
    return env(bases).save(given.get("path", folder / "a.safetensors"))


def _paths(bases: Bases) -> tuple[Any, ...]:
    return (3, None, b"\0", "a\0b", "x" * 5000, "/proc/nothing/x", "/sys/x", Odd(), [], 2.5)


MATRICES: tuple[Any, ...] = (
    np.eye(3),
    np.eye(4) * 2,
    np.full((4, 4), np.nan),
    np.zeros((4, 4)),
    np.diag([-1.0, 1, 1, 1]),
    "pose",
    np.eye(4, dtype=complex),
    np.eye(4) + np.eye(4, k=3) * 1e30,
    [[1]],
    np.eye(4)[None],
)
PICTURES: tuple[Any, ...] = (
    np.zeros((3, 3, 3), np.uint8),
    np.zeros((1, SIZE, SIZE, 3), np.float32),
    np.zeros((0, SIZE, SIZE, 3), np.uint8),
    "rgb",
    np.zeros((2, SIZE, SIZE, 4), np.uint8),
    np.zeros((SIZE, SIZE, 3), np.uint8),
    np.zeros((2, 16, 16, 3), np.uint8),
)
NAMES = (
    "nothing",
    "owner/name",
    "../world",
    "/etc",
    "a\0b",
    "x" * 5000,
    "no/such/thing",
    "os:system",
    "fuzz:nothing",
    ".",
    "~",
)
DEVICES = ("tpu9", "cuda:77", "abacus", "meta", "cpu:3", "", "cuda", "mps", "xla")
device = Argument("device", one_of("cpu", None), DEVICES)
path_out = Argument(
    "path",
    lambda x: isinstance(x, (str, bytes, Path)) and len(x) > 0,
    ("", "a\0b", "x" * 5000, "/proc/nothing/x", "/sys/x.bin", ".", "/"),
)
ENV_ARGUMENTS = (
    Argument("world", never, NAMES),
    device,
    Argument("num_inference_steps", whole(1, 1000, none=True), (0, -1, 10**9)),
    Argument("engine", one_of(None, "plain", "fast", "compiled"), ("quick", 3, "PLAIN")),
    Argument("temperature", number(0, 1, none=True), (-0.1, 1.1)),
    Argument("render_mode", one_of(None, "rgb_array"), ("human", 3)),
    Argument("uncertainty_limit", number(1e-300, 1e300, none=True), (0, -1.0)),
    Argument("scenes", one_of(None), (*NAMES, "os:system:touch X")),
)


def _first(given: dict[str, Any]) -> Any:
    return next(iter(given.values()))


CALLS = (
    Call(
        "env.step",
        lambda b, f, g: env(b).step(g.get("action", 1))[1:3],
        (Argument("action", whole(0, 6), (99, -1, 7, np.int64(7), np.array([1]), np.array(2))),),
    ),
    Call(
        "env.reset",
        lambda b, f, g: env(b).reset(**g)[0],
        (
            Argument("seed", whole(0, 10**400, none=True), (-1, -5)),
            Argument(
                "options",
                lambda x: x is None or x == {},
                (
                    {"scene": "nothing"},
                    {"scene": 3},
                    {"scene": None},
                    {"nothing": 1},
                    {"scene": "../../x"},
                    {"frames": None},
                    {"frames": 3},
                    {"frames": {}},
                    {"scene": ["room-6-1"]},
                    {"frames": {"rgb": None}},
                    {"frames": {"rgb": 3}},
                ),
            ),
        ),
    ),
    Call(
        "env.reset frames",
        lambda b, f, g: env(b).reset(options={"frames": _frames(b, g)})[0],
        (
            Argument("rgb", never, PICTURES),
            Argument(
                "act",
                never,
                (np.full(4, 99), np.full(4, -1), np.zeros(3, np.int64), np.full(4, 0.5)),
            ),
            Argument(
                "depth",
                never,
                (
                    np.full((4, SIZE, SIZE), -1.0),
                    np.full((4, SIZE, SIZE), np.nan),
                    np.ones((4, 2, 2)),
                    np.ones((4, SIZE, SIZE), int),
                ),
            ),
            Argument(
                "pose",
                never,
                (
                    np.full((4, 4, 4), np.nan),
                    np.zeros((4, 4, 4)),
                    np.eye(4),
                    np.stack([np.eye(4) * 2] * 4),
                    np.stack([MATRICES[7]] * 4),
                    np.stack([np.diag([-1.0, 1, 1, 1])] * 4),
                ),
            ),
            Argument(
                "intrinsics",
                lambda x: x is None,
                (np.full(4, np.nan), -np.ones(4), np.ones(3), np.full(4, 1e30), np.full(4, 1e-30)),
            ),
        ),
    ),
    Call(
        "env.restore",
        lambda b, f, g: env(b).restore(g.get("snapshot", env(b).snapshot())),
        (Argument("snapshot", never),),
    ),
    Call(
        "env.load",
        lambda b, f, g: env(b).load(g.get("path", b.walk / "walk.safetensors")),
        (Argument("path", never, (*NAMES, "/dev/zero", "/etc/passwd")),),
    ),
    Call("env.save", _save, (path_out,)),
    Call(
        "env.fork",
        lambda b, f, g: len(env(b).fork(**{"n": 2, **g}).state),
        (
            Argument("n", whole(1, 2000), (0, -1, 10**9, 10**12)),
            Argument("randomness", one_of("common", "independent"), ("both",)),
        ),
    ),
    Call(
        "env.edit",
        lambda b, f, g: env(b).edit(g.get("memory", env(b).memory))[0],
        (Argument("memory", never),),
    ),
    Call(
        "WorldEnv",
        _world_env,
        (*ENV_ARGUMENTS, Argument("trajectory", whole(0, 10**9), (-1, 2.5, True))),
    ),
    Call(
        "WorldVectorEnv",
        _vector_env,
        (
            *ENV_ARGUMENTS,
            Argument("num_envs", whole(1, 64), (0, -1, 10**9, 10**6, 10**12)),
            Argument("max_episode_steps", whole(1, 10**18, none=True), (0, -2)),
            Argument("autoreset_mode", one_of("NextStep", "SameStep", "Disabled"), ("never", 3)),
            Argument("output", one_of("numpy", "torch"), ("list",)),
        ),
    ),
    Call(
        "gymnasium.make",
        _gym_make,
        (
            Argument("world", never, NAMES),
            device,
            Argument("num_inference_steps", whole(1, 1000, none=True), (0,)),
        ),
    ),
    Call(
        "envs.step",
        lambda b, f, g: envs(b).step(g.get("actions", np.ones(2, np.int64)))[1:3],
        (
            Argument(
                "actions",
                never,
                (
                    np.array([99, 0]),
                    np.array([-1, 0]),
                    np.zeros(3, int),
                    np.zeros((2, 2), int),
                    np.array([0.5, 1]),
                    np.array(["a", "b"]),
                    1,
                ),
            ),
        ),
    ),
    Call(
        "envs.reset",
        lambda b, f, g: envs(b).reset(**g)[0],
        (
            Argument(
                "seed", whole(0, 10**400, none=True), ([1], [1, 2, 3], [-1, 2], "ab", [0.5, 1])
            ),
            Argument(
                "options",
                lambda x: x is None or x == {},
                (
                    {"reset_mask": np.zeros(2, bool)},
                    {"reset_mask": np.ones(3, bool)},
                    {"reset_mask": [True, False]},
                    {"reset_mask": "x"},
                    {"nothing": 1},
                ),
            ),
        ),
    ),
    Call(
        "envs.fork",
        lambda b, f, g: len(envs(b).fork(**{"index": 0, "n": 2, **g}).state),
        (
            Argument("index", whole(0, 1), (2, -1)),
            Argument("n", whole(1, 2000), (0, 10**9)),
        ),
    ),
    Call(
        "envs.memory_of",
        lambda b, f, g: envs(b).memory_of(g.get("index", 0)).step,
        (Argument("index", whole(0, 1), (2, -1)),),
    ),
    Call(
        "memory.render",
        lambda b, f, g: walked(b).memory.render(**g).mask.sum(),
        (
            Argument(
                "size",
                lambda x: (
                    x is None
                    or (
                        isinstance(x, (tuple, list))
                        and len(x) == 2
                        and all(whole(1, 2048)(n) for n in x)
                    )
                ),
                ((0, 0), (-1, 5), (8192, 8192), (10**9, 10**9), (3,), "ab", (math.nan, 2)),
            ),
            Argument("pose", lambda x: x is None, MATRICES),
            Argument(
                "intrinsics",
                lambda x: x is None,
                (np.full(4, np.nan), -np.ones(4), np.ones(3), [1e-30] * 4, [1e30] * 4, "abcd"),
            ),
        ),
    ),
    Call(
        "memory.top_down",
        lambda b, f, g: walked(b).memory.top_down(**g).mask.sum(),
        (
            Argument("resolution", number(0.002, 1e3), (0, -1, 1e-9, 1e-300, 1e30)),
            Argument("above", number(-1e3, 1e300), (-1e9, math.nan)),
            Argument("below", lambda x: x == math.inf or number(-1e3, 1e300)(x), (-1e9, math.nan)),
            Argument("reach", number(0.01, 1e9, none=True), (0, -1, math.nan)),
            Argument("gap", number(0, 50), (-1, 1e6, 1e300, math.nan, math.inf)),
        ),
    ),
    Call(
        "memory.occupancy",
        lambda b, f, g: walked(b).memory.occupancy(**g).occupied.sum(),
        (
            Argument("voxel", number(0.02, 1e3), (0, -1, 1e-9, 1e-300, 1e30, 1e-3)),
            Argument("reach", number(0.01, 1e9, none=True), (0, -1, math.nan)),
            Argument("confidence", whole(0, 255), (-1, 256, 10**9)),
            Argument("trajectory", lambda x: x is None),
        ),
    ),
    Call(
        "memory.remove",
        lambda b, f, g: walked(b).memory.remove(**{"box": ((-1, -1, -1), (1, 1, 1)), **g}).step,
        (
            Argument(
                "box",
                never,
                (
                    ((1, 1, 1), (0, 0, 0)),
                    ((0, 0), (1, 1)),
                    ((math.nan,) * 3, (1, 1, 1)),
                    3,
                    "ab",
                    ((0, 0, 0),),
                    ([1, 2, "x"], [1, 2, 3]),
                ),
            ),
            Argument("pose", lambda x: x is None, MATRICES),
        ),
    ),
    Call(
        "memory.recolour",
        lambda b, f, g: (
            walked(b)
            .memory.recolour(**{"box": ((-1, -1, -1), (1, 1, 1)), "colour": (1, 2, 3), **g})
            .step
        ),
        (
            Argument(
                "colour",
                lambda x: (
                    isinstance(x, (tuple, list, np.ndarray))
                    and len(x) == 3
                    and all(0 <= c <= 255 for c in x)
                ),
                ((1, 2), (256, 0, 0), (-1, 0, 0), "red", ("a", "b", "c"), (math.nan,) * 3),
            ),
        ),
    ),
    Call(
        "memory.paste",
        lambda b, f, g: (
            walked(b)
            .memory.paste(
                **{"shape": (np.zeros((2, 3)), np.zeros((2, 3), np.uint8)), "pose": np.eye(4), **g}
            )
            .step
        ),
        (
            Argument(
                "shape",
                never,
                (
                    (np.zeros((2, 3)),),
                    (np.full((2, 3), np.nan), np.zeros((2, 3), np.uint8)),
                    (np.zeros((2, 3)), np.zeros((3, 3), np.uint8)),
                    (np.zeros((2, 2)), np.zeros((2, 3), np.uint8)),
                    "/etc/passwd",
                    "nothing.glb",
                    (np.zeros((2, 3)), np.full((2, 3), 300)),
                ),
            ),
            Argument("pose", never, MATRICES),
            Argument("distance", number(1e-3, 1e3), (0, -1, math.nan, math.inf)),
        ),
    ),
    Call(
        "memory.to_ply",
        lambda b, f, g: walked(b).memory.to_ply(g.get("path", f / "a.ply")),
        (path_out,),
    ),
    Call("World.from_pretrained", _from_pretrained, (Argument("name", never, NAMES), device)),
    Call(
        "world.initial",
        _initial,
        (
            Argument("scenes", never, ([], [3], [None])),
            Argument("seeds", never, ([], [1, 2], ["x"], [-1.5], [2**70], [None])),
        ),
    ),
    Call(
        "world.with_dynamics",
        _dynamics,
        (
            Argument("num_inference_steps", whole(1, 1000, none=True), (0, -1, 10**9)),
            Argument("temperature", number(0, 1, none=True), (-0.5, 2, math.nan)),
            Argument("context_sigma", number(0, 1, none=True), (-0.5, 2, math.nan)),
            Argument("shift", number(1e-6, 1e5, none=True), (0, -1, math.nan)),
        ),
    ),
    Call(
        "world.with_engine",
        lambda b, f, g: env(b).world.with_engine(g.get("engine", "plain")).engine,
        (Argument("engine", one_of("plain", "fast"), ("quick", "PLAIN")),),
    ),
    Call(
        "world.with_memory",
        lambda b, f, g: env(b).world.with_memory(g.get("memory", env(b).world.memory)).memory,
        (Argument("memory", lambda x: x is None),),
    ),
    Call(
        "PointMemory",
        _memory_config,
        (
            Argument("capacity", whole(1, 10**7), (0, -1, 10**9, 10**12)),
            Argument("tolerance_m", number(0, 1e9), (-1, math.nan)),
            Argument("colour_tolerance", whole(0, 255, none=True), (-1, 256)),
            Argument("replace_ratio", number(1, 1e9), (0, -1, math.nan)),
            Argument("tolerance_share", number(0, 1e9), (-1, math.nan)),
            Argument("body_m", number(0, 1e9), (-1, math.nan)),
        ),
    ),
    Call(
        "RadianceMemory",
        _radiance,
        (
            Argument(
                "shape",
                lambda x: (
                    isinstance(x, (tuple, list))
                    and len(x) == 3
                    and all(whole(4, 256)(n) for n in x)
                ),
                ((3, 3, 3), (10**4,) * 3, (8, 8), (10**9,) * 3, (4.5, 8, 8), "abc"),
            ),
            Argument("keyframes", whole(1, 5000), (0, -1, 10**9)),
            Argument("height", whole(1, 4096), (0, 10**9)),
            Argument("longest_m", number(1e-3, 1e6), (0, -1, math.nan, math.inf)),
            Argument("apart_m", number(0, 1e6), (-1, math.nan)),
            Argument("apart_deg", number(0, 1e6), (-1, math.nan)),
        ),
    ),
    Call(
        "FitConfig",
        _fit_config,
        (
            Argument("rays", whole(1, 10**6), (0, -1)),
            Argument("free_samples", whole(1, 10**4), (0,)),
            Argument("density_rate", number(1e-9, 1e3), (0, -1, math.nan)),
            Argument("colour_rate", number(1e-9, 1e3), (-1, math.nan)),
            Argument("variation", number(0, 1e6), (-1, math.nan)),
            Argument("surface_voxels", number(1e-6, 1e4), (0, -1, math.nan)),
        ),
    ),
    Call(
        "Ground",
        _ground,
        (
            Argument("cell", number(0.02, 0.5), (0, -1, math.nan, 1e-6)),
            Argument("reach", number(1, 100), (0, -1, math.nan, 1e9, math.inf)),
            Argument("climb", number(0.01, 1.5), (0, -1, 2, math.nan)),
            Argument("eye", number(-100, 100), (math.nan, math.inf)),
            Argument("radius", number(0, 10), (-1, math.nan, 1e9)),
            Argument("head", number(0.81, 10), (0, math.nan)),
        ),
    ),
    Call(
        "locate",
        _locate,
        (
            Argument("rgb", never, PICTURES[:5]),
            Argument("count", whole(1, 10**9), (0, -1)),
            Argument("spacing", number(0.1, 100), (0, -1, math.nan, 1e-9)),
            Argument("kept", whole(1, 1000), (0, -1)),
            Argument("rounds", whole(0, 100), (-1,)),
            Argument("draws", whole(1, 1000), (0, -1)),
            Argument("most_points", whole(1, 10**9), (0, -1)),
            Argument("accept", number(0, 1e6), (-1, math.nan)),
            Argument("apart", number(0, 1e6), (-1, math.nan)),
        ),
    ),
    Call(
        "fuse",
        _fuse,
        (
            Argument(
                "voxel", number(0.03, 10, none=True), (0, -1, 1e-6, 1e-300, math.nan, math.inf)
            ),
            Argument("truncation", number(1, 100), (0, -1, math.nan, 1e30)),
            Argument("far", number(0.1, 1e4, none=True), (0, -1, math.nan)),
            Argument("refine", whole(1, 8), (0, -1, 10**6)),
            Argument("sightings", whole(1, 1000), (0, -1)),
            Argument("smallest", whole(0, 10**9), (-1, math.nan)),
        ),
    ),
    Call(
        "wrap",
        _wrap,
        (
            Argument("cell", number(0.02, 10), (0, -1, 1e-6, 1e-300, math.nan, math.inf)),
            Argument("neighbours", whole(1, 200), (0, -1, 10**9)),
            Argument("outlier", number(0.01, 1e6), (0, -1, math.nan)),
            Argument(
                "position", never, (np.zeros((5, 2)), np.full((5, 3), np.nan), np.zeros((0, 3)))
            ),
            Argument("sparsest", number(1e-3, 1e6), (0, -1, math.nan)),
            Argument("reach", number(0, 1e6), (-1, math.nan)),
            Argument("colour", never, (np.zeros((1, 3), np.uint8), np.zeros(5))),
        ),
    ),
    Call(
        "save_ply",
        _save_points,
        (
            path_out,
            Argument("position", never, (np.zeros((5, 2)), np.full((5, 3), np.nan))),
            Argument("colour", never, (np.zeros((1, 3), np.uint8),)),
        ),
    ),
    Call(
        "save_nerfstudio",
        _save_trajectory,
        (Argument("folder", path_out.valid, path_out.bad), Argument("trajectory", never)),
    ),
    Call(
        "open_capture",
        _open_capture,
        (
            Argument("path", never, (*NAMES, "/dev/zero", "/etc/passwd")),
            Argument("depth_scale", number(1e-6, 1e3, none=True), (0, -1, math.nan, 1e300)),
            Argument(
                "pose_scale", number(1e-6, 1e3, none=True), (0, -1, math.nan, math.inf, 1e300)
            ),
            Argument("up", one_of("z", "y", "-y"), ("x", 3, ["z"])),
            Argument("zero_is_sky", lambda x: x is None or isinstance(x, bool), (3, "yes")),
        ),
    ),
    Call(
        "captured_frames",
        _captured,
        (
            Argument("rgb", never, PICTURES),
            Argument("depth", never, (np.ones((4, 2, 2)), np.full((4, SIZE, SIZE), "a"))),
            Argument(
                "pose",
                never,
                (
                    np.full((4, 4, 4), np.nan),
                    np.zeros((4, 4, 4)),
                    np.eye(4),
                    np.stack([MATRICES[7]] * 4),
                ),
            ),
            Argument(
                "intrinsics",
                never,
                (np.full(4, np.nan), -np.ones(4), np.ones(3), np.full(4, 1e300)),
            ),
        ),
    ),
    Call(
        "trajectory_of",
        _trajectory_of,
        (
            Argument("height", whole(1, 1024, none=True), (0, -1, 10**9)),
            Argument("width", whole(1, 1024, none=True), (0, -1, 10**9)),
            Argument(
                "intrinsics",
                lambda x: x is None,
                (np.full(4, np.nan), -np.ones(4), np.zeros(4), (1, 2), "abcd"),
            ),
        ),
    ),
    Call(
        "EpisodeDataset",
        _dataset,
        (
            Argument("path", never, NAMES),
            Argument("on_damaged", one_of("raise", "skip"), ("ignore",)),
            Argument("index", whole(-4, 3), (99, -99, "x", 1.5, None)),
        ),
    ),
    Call(
        "make_policy",
        _policy,
        (
            Argument(
                "name",
                never,
                (*NAMES, "worldsim.errors:WorldsimError", "worldsim.agents.random:nothing"),
            ),
            Argument("space", never),
        ),
    ),
    Call(
        "load_agent",
        _agent,
        (Argument("name", never, NAMES), Argument("action_space", lambda x: x is None), device),
    ),
    Call(
        "agent.act",
        _act,
        (
            Argument(
                "obs",
                never,
                (
                    *PICTURES[:3],
                    np.zeros((SIZE, SIZE, 3), np.float64),
                    np.zeros((SIZE, SIZE), np.uint8),
                ),
            ),
        ),
    ),
    Call(
        "make_env",
        _room,
        (
            Argument(
                "size",
                lambda x: (
                    whole(1, 2048)(x)
                    or (
                        isinstance(x, (tuple, list))
                        and len(x) == 2
                        and all(whole(1, 2048)(n) for n in x)
                    )
                ),
                (0, -1, 10**9, (0, 3), (3,), "os:system"),
            ),
            Argument("rooms", whole(1, 10**9), (0, -1)),
            Argument("render_mode", one_of(None, "rgb_array"), ("human",)),
        ),
    ),
    Call(
        "TinyRoom.reset",
        _room_reset,
        (
            Argument(
                "options",
                lambda x: x is None or x == {},
                ({"map": "x"}, {"map": 3}, {"split": "dev"}, {"nothing": 1}, {"map": ["room-1"]}),
            ),
        ),
    ),
    Call(
        "make_pixels",
        _pixels,
        (
            Argument(
                "size",
                lambda x: (
                    x is None
                    or (
                        isinstance(x, (tuple, list))
                        and len(x) == 2
                        and all(whole(1, 2048)(n) for n in x)
                    )
                ),
                ((0, 0), (3,), (-1, 2), (10**6, 10**6), "ab", (1.5, 2.5)),
            ),
            Argument("key", lambda x: x is None, ("image",)),
            Argument("render", lambda x: x in (True, False, None, 0, 1), (3, "yes")),
        ),
    ),
    Call(
        "save_picture",
        _picture,
        (
            Argument("path", path_out.valid, path_out.bad),
            Argument(
                "picture",
                never,
                (
                    np.zeros((4, 4, 3)),
                    np.zeros(3, np.uint8),
                    np.zeros((0, 4, 3), np.uint8),
                    np.zeros((4, 4, 7), np.uint8),
                ),
            ),
        ),
    ),
    Call(
        "write_video",
        _video,
        (
            Argument("fps", number(1e-3, 1e4), (0, -1, math.nan, math.inf, 1e30)),
            Argument(
                "frames",
                never,
                (
                    [],
                    [np.zeros((15, 15, 3), np.uint8)],
                    [np.zeros((4, 4), np.uint8)],
                    [np.zeros((16, 16, 3))],
                ),
            ),
            path_out,
        ),
    ),
    Call(
        "write_json",
        _json,
        (
            path_out,
            Argument(
                "values",
                lambda x: True,
                (Odd(), {1, 2}, lambda: 0, np.zeros(3), {"a": Odd()}, b"x", 1 + 2j),
            ),
        ),
    ),
)
