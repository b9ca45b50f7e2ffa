"""``worldsim demo``: a scripted walk that leaves a place and returns, in a dream and in reality."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import torch
from annotated_types import Ge, Le

from worldsim.app.dreaming import dream_on
from worldsim.app.step_pictures import as_picture, step_pictures
from worldsim.camera import TURN_METRES, nearest_pose, quantise_depth, rotation_angle
from worldsim.errors import InvalidInputError, MissingDependencyError, MissingGeometryError
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.evaluation.trip_recording import UNDO
from worldsim.io.pictures import contact_sheet, depth_picture, panels
from worldsim.io.provenance.origin import Origin, hash_actions
from worldsim.io.provenance.publish import publish, publish_film, publish_picture
from worldsim.memory.handle import MemoryHandle
from worldsim.memory.slots import points_of
from worldsim.memory.splat import POINT
from worldsim.runtime.files import make_writable_folder, require_replaceable
from worldsim.runtime.json_config import check_ranges, write_json
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.progress import follow
from worldsim.runtime.ranges import Count, Seed
from worldsim.runtime.types import Array, Env, Info, JsonObject
from worldsim.state import SceneStart, Transition, WorldState
from worldsim.world import World
from worldsim.world.image_env import make_env
from worldsim.world.twin import twin_of

FORWARD, TURN_LEFT, TURN_RIGHT = 1, 3, 4
CLEAR_METRES = 1.8
"""The scripted walker turns where less than this is free ahead."""
PAUSE = 3
"""Steps of standing still at the turning point, so that the way back does not begin with the
momentum of the way out."""
STARTS = 40
"""Starts that are tried in the real twin for a walk that gets somewhere and comes back."""
FAR_METRES, TURNED_DEGREES, BACK_METRES, BACK_DEGREES = 4.0, 40.0, 0.5, 12.0
"""A good walk goes at least so far and turns at least so much on its way out, and ends so near to
where it began."""
BRIGHT = 42.0
"""Mean brightness that a good walk's pictures have, of 255: in the dark there is nothing to look
at."""
SAME_PLACE = 0.5
"""Two poses count as the same place up to this distance, metres and radians times 2 m together."""
COLUMNS = 12
FILES = ("rollout.png", "rollout.mp4", "memory.ply", "metrics.json")


@old_fields(steps="num_inference_steps")
@dataclass(frozen=True)
class DemoConfig:
    """Walk through a generated world and back, beside its real twin."""

    out: Path = Path("out/demo")
    """Folder for rollout.mp4, rollout.png, memory.ply and metrics.json."""
    world: str = "freedoom-tiny"
    """Name of a shipped world, a world's folder, or ``hub:owner/name`` of the Hugging Face hub."""
    seed: Seed = 1
    """Seed of the start and of the dream."""
    num_inference_steps: Count | None = None
    """Sampling steps per frame. By default the world's own."""
    history: Annotated[int, Ge(2), Le(100_000)] = 48
    """True frames that the dream receives: a look around and a few steps."""
    outward: Annotated[int, Ge(2), Le(100_000)] = 24
    """Steps away from there, followed by as many back."""
    device: str | None = None
    """Device of the world. By default CUDA if it is available."""
    trust: bool = False
    """Use the real twin that the world's files name, whatever it is: this imports and runs its
    code."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Walk:
    """A walk in the real twin.

    rgb: (t, 3, h, w) uint8.
    depth: (t, h, w) metres.
    pose: (t, 4, 4) camera-to-world.
    act: (t - 1,) int64.
    """

    rgb: torch.Tensor
    depth: torch.Tensor
    pose: torch.Tensor
    intrinsics: torch.Tensor
    act: torch.Tensor
    map: str


@dataclass(frozen=True)
class DreamedWalk:
    """The dreamed frames after the history, and the final state.

    seconds: time that the steps took.
    """

    transitions: list[Transition]
    state: WorldState
    seconds: float

    @property
    def rgb(self) -> torch.Tensor:
        """(n, 3, h, w) uint8."""
        return torch.cat([t.frame.rgb for t in self.transitions]).cpu()

    @property
    def pose(self) -> torch.Tensor | None:
        """(n, 4, 4), or None for a world without geometry."""
        poses = [t.frame.pose for t in self.transitions if t.frame.pose is not None]
        return torch.cat(poses).cpu() if poses else None


def demo(config: DemoConfig, world: World | None = None) -> JsonObject:
    """Play the walk, dream it, write and print the results; returns the metrics.

    world: a loaded world, instead of ``config.world``.
    """
    for name in FILES:
        require_replaceable(config.out / name)
    world = world or World.from_pretrained(config.world, config.device, trust=config.trust)
    world = world.with_dynamics(num_inference_steps=config.num_inference_steps)
    walk = choose_walk(config, world)
    # Before the dream, which takes the time.
    make_writable_folder(config.out)
    dream = dream_along(config, world, walk)
    metrics = measure(config, world, walk, dream)
    origin = Origin(config.world, world.weights_id, config.seed, hash_actions(walk.act.tolist()))
    publish_picture(sheet(config, walk, dream), config.out / "rollout.png", origin)
    film = video_frames(config, walk, dream)
    publish_film(film, world.config.fps, config.out / "rollout.mp4", origin)
    if points_of(world.memory, dream.state.memory) is not None:
        MemoryHandle.of(world.memory, dream.state).to_ply(config.out / "memory.ply")
        publish(config.out / "memory.ply", origin)
    write_json(config.out / "metrics.json", metrics)
    print(explain(config, metrics))
    return metrics


def choose_walk(config: DemoConfig, world: World) -> Walk:
    """Return the first good walk among a few starts in the real twin, else the best one.

    The dream does not influence the choice.
    """
    env = real_twin(world)
    best, best_fault = None, float("inf")
    try:
        for i in follow(range(STARTS), "looking for a walk in the real twin", "start"):
            walk = play(config, env, config.seed * STARTS + i)
            fault = _fault(config, walk) if walk is not None else float("inf")
            if walk is not None and fault < best_fault:
                best, best_fault = walk, fault
            if best_fault == 0.0:
                break
    finally:
        env.close()
    if best is None:
        raise InvalidInputError(
            f"{world.config.env_id} ended all of {STARTS} walks early: choose a smaller history "
            f"or outward"
        )
    return best


def real_twin(world: World) -> Env:
    """The environment that the world was trained on."""
    env_id, env_kwargs = twin_of(world)
    try:
        env = make_env(env_id, env_kwargs)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"the demo shows the dream beside its real twin, which cannot run here: {error}"
        ) from error
    if env.action_space != gym.spaces.Discrete(len(UNDO)):
        env.close()
        raise InvalidInputError(
            f"the demo's walk is for Discrete(7), {env_id} has {env.action_space}: use worldsim "
            f"evaluate"
        )
    return env


def play(config: DemoConfig, env: Env, seed: int) -> Walk | None:
    """Look around, walk to the history's end, walk out and come back.

    Returns None if the environment ends the walk.
    """
    obs, info = env.reset(seed=seed, options={"split": "test"})
    if "pose" not in info or "depth" not in info:
        raise MissingGeometryError(
            "the demo's walk is steered by true depth and pose, which this real twin does not give"
        )
    walker = _Walker()
    seen, acts = [(obs, info)], []
    outward: list[int] = []
    for t in range(config.history - 1 + 2 * config.outward + PAUSE):
        ahead = t - (config.history - 1)
        if ahead < config.outward:
            act = walker.act(info)
            if ahead >= 0:
                outward.append(act)
        elif ahead < config.outward + PAUSE:
            act = 0
        else:
            act = UNDO[outward.pop()]
        obs, _, term, trunc, info = env.step(act)
        if term or trunc:
            return None
        acts.append(act)
        seen.append((obs, info))
    return Walk(
        rgb=torch.from_numpy(np.stack([o for o, _ in seen])).permute(0, 3, 1, 2).contiguous(),
        depth=torch.from_numpy(np.stack([i["depth"] for _, i in seen])),
        pose=torch.from_numpy(np.stack([i["pose"] for _, i in seen])),
        intrinsics=torch.from_numpy(np.asarray(seen[0][1]["intrinsics"], np.float32)),
        act=torch.tensor(acts),
        map=str(seen[0][1].get("map", "")),
    )


class _Walker:
    """Turns once around, then walks where there is room."""

    def __init__(self) -> None:
        self._turned = 0.0
        self._last: Array | None = None
        self._turning: int | None = None

    def act(self, info: Info) -> int:
        pose = info["pose"]
        if self._last is not None:
            self._turned += float(
                rotation_angle(torch.from_numpy(self._last), torch.from_numpy(pose))
            )
        self._last = pose
        if self._turned < 2 * np.pi:
            return TURN_LEFT
        return self._steer(info["depth"])

    def _steer(self, depth: Array) -> int:
        """Walk forward while there is room; else turn to the roomier side until there is."""
        height, width = depth.shape
        band = np.minimum(depth[height // 3 : 2 * height // 3], 50.0)
        if band[:, 3 * width // 8 : 5 * width // 8].min() > CLEAR_METRES * (
            1.5 if self._turning else 1.0
        ):
            self._turning = None
            return FORWARD
        if self._turning is None:
            left, right = band[:, : width // 3].mean(), band[:, -(width // 3) :].mean()
            self._turning = TURN_LEFT if left > right else TURN_RIGHT
        return self._turning


def _fault(config: DemoConfig, walk: Walk) -> float:
    """Return how far a walk is from a good one; 0 is good."""
    start, turn = config.history - 1, config.history - 1 + config.outward
    far = float((walk.pose[start:, :3, 3] - walk.pose[start, :3, 3]).norm(dim=-1).max())
    bend = float(torch.rad2deg(rotation_angle(walk.pose[start], walk.pose[start:turn]).max()))
    back = float((walk.pose[-1, :3, 3] - walk.pose[start, :3, 3]).norm())
    askew = float(torch.rad2deg(rotation_angle(walk.pose[start], walk.pose[-1])))
    wanted = (FAR_METRES - far) / FAR_METRES, (TURNED_DEGREES - bend) / TURNED_DEGREES
    spoilt = (back - BACK_METRES) / BACK_METRES, (askew - BACK_DEGREES) / BACK_DEGREES
    dark = (BRIGHT - float(walk.rgb.float().mean())) / BRIGHT
    return sum(max(0.0, x) for x in (*wanted, *spoilt, dark))


def dream_along(config: DemoConfig, world: World, walk: Walk) -> DreamedWalk:
    """Ingest the history's true frames, then dream under the same actions.

    The world estimates its own poses.
    """
    n = config.history
    before = torch.cat([torch.zeros(1, dtype=torch.int64), walk.act])
    scene = SceneStart(
        rgb=walk.rgb[:n],
        act=before[:n],
        inverse_depth=quantise_depth(walk.depth[:n]),
        pose=walk.pose[:n],
        intrinsics=walk.intrinsics,
    )
    state = world.initial([scene], [config.seed])
    began = time.perf_counter()
    transitions, state = dream_on(world, state, walk.act[n - 1 :].tolist())
    # Reading a number back waits for the device.
    transitions[-1].frame.rgb.sum().item()
    return DreamedWalk(transitions, state, time.perf_counter() - began)


def measure(config: DemoConfig, world: World, walk: Walk, dream: DreamedWalk) -> JsonObject:
    """Return the metrics of this walk."""
    real, rgb, pose = walk.rgb[config.history :], dream.rgb, walk.pose[config.history :]
    scores = psnr(rgb, real)
    total = len(rgb)
    metrics: JsonObject = {
        "world": config.world,
        "map": walk.map,
        "seed": config.seed,
        "history_frames": config.history,
        "dreamed_frames": total,
        "sampling_steps": world.config.dynamics.num_inference_steps,
        "psnr": round(float(scores.mean()), 2),
        "psnr_at": {
            str(t): round(float(scores[t - 1]), 2) for t in (1, 8, 24, 48, total) if t <= total
        },
        "standing_still_psnr": round(float(psnr(walk.rgb[config.history - 1], real).mean()), 2),
        "sharpness_ratio": round(float(sharpness(rgb).mean() / sharpness(real).mean()), 3),
        "memory_coverage": round(
            float(torch.cat([t.coverage for t in dream.transitions]).mean()), 3
        ),
        "steps_per_second": round(total / dream.seconds, 2),
        "path_m": round(float((pose[1:, :3, 3] - pose[:-1, :3, 3]).norm(dim=-1).sum()), 2),
        "return_psnr_real": _return_psnr(config, real, pose),
    }
    if dream.pose is not None:
        metrics["return_psnr_dream"] = _return_psnr(config, rgb, dream.pose)
        metrics["position_error_m"] = round(
            float((dream.pose[-1, :3, 3] - pose[-1, :3, 3]).norm()), 3
        )
        metrics["heading_error_deg"] = round(
            float(torch.rad2deg(rotation_angle(dream.pose[-1], pose[-1]))), 2
        )
    points = points_of(world.memory, dream.state.memory)
    if points is not None:
        metrics["memory_points"] = int((points.kind[0] == POINT).sum())
    return metrics


def _return_psnr(config: DemoConfig, rgb: torch.Tensor, pose: torch.Tensor) -> float | None:
    """Return the PSNR of frames on the way back to those on the way out of nearest pose.

    None if no pose is near.
    """
    turn = config.outward
    out, back = slice(0, turn), slice(turn + PAUSE, None)
    index = nearest_pose(pose[back], pose[out])
    near = pose[out][index]
    distance = (near[:, :3, 3] - pose[back][:, :3, 3]).norm(dim=-1) + TURN_METRES * rotation_angle(
        near, pose[back]
    )
    kept = distance < SAME_PLACE
    return (
        round(float(psnr(rgb[out][index], rgb[back])[kept].mean()), 2) if bool(kept.any()) else None
    )


def _rows(walk: Walk, history: int, transition: Transition, t: int) -> dict[str, Array]:
    return step_pictures(as_picture(walk.rgb[history + t]), transition)


def _stage(config: DemoConfig, t: int) -> str:
    if t < config.outward:
        return f"out {t + 1}"
    return "turn" if t < config.outward + PAUSE else f"back {t + 1 - config.outward - PAUSE}"


def sheet(config: DemoConfig, walk: Walk, dream: DreamedWalk) -> Array:
    """Return the contact sheet, time from left to right.

    Its rows are real twin, dream, memory view and depth.
    """
    total = len(dream.transitions)
    half = max(2, COLUMNS // 2)
    out = np.linspace(0, config.outward - 1, half).round()
    # Mirrored, so that the two halves of the sheet show the same places.
    back = total - 1 - out[::-1]
    times = sorted({int(t) for t in (*out, *back)})
    scores = psnr(dream.rgb, walk.rgb[config.history :])
    shown = [_rows(walk, config.history, dream.transitions[t], t) for t in times]
    rows: dict[str, Sequence[Array | None]] = {
        name.replace(" ", "\n"): [s[name] for s in shown] for name in shown[0]
    }
    captions = [f"{_stage(config, t)}: {scores[t]:.1f} dB" for t in times]
    title = [
        f"{config.world} on {walk.map}, a map it was not trained on. After {config.history} true "
        f"frames, all are dreamed: out, and the same way back"
    ]
    return contact_sheet(rows, captions, title=title)


def video_frames(config: DemoConfig, walk: Walk, dream: DreamedWalk) -> list[Array]:
    """Return the frames of the video: the history, then real twin and dream side by side."""
    empty = np.full((*walk.rgb.shape[2:], 3), 40, np.uint8)
    names = list(_rows(walk, config.history, dream.transitions[0], 0))
    frames = []
    for t in range(config.history):
        real = as_picture(walk.rgb[t])
        shown = {
            "real twin": real,
            "dream": real,
            "memory view": empty,
            "dreamed depth": depth_picture(walk.depth[t].numpy()),
        }
        caption = f"true history {t + 1} of {config.history}: given to the dream"
        frames.append(panels({name: shown[name] for name in names}, caption=caption))
    for t, transition in enumerate(dream.transitions):
        caption = f"{_stage(config, t)}: dreamed, no true frame any more"
        frames.append(panels(_rows(walk, config.history, transition, t), caption=caption))
    return frames


def explain(config: DemoConfig, metrics: JsonObject) -> str:
    """Return the metrics in words."""
    at = metrics["psnr_at"]
    last = str(metrics["dreamed_frames"])
    lines = [
        f"On {metrics['map']}, the dream was given {metrics['history_frames']} true frames and "
        f"dreamed {last} more on its own: "
        f"{metrics['path_m']} m, out and back.",
        f"Beside the real twin under the same actions: {at['1']} dB at the first dreamed frame, "
        f"{at[last]} dB at the last, "
        f"{metrics['psnr']} dB on average (a still picture of the start: "
        f"{metrics['standing_still_psnr']} dB).",
        f"Its pictures have {100 * metrics['sharpness_ratio']:.0f}% of the real ones' sharpness; "
        f"the memory knew {100 * metrics['memory_coverage']:.0f}% of each view before it was "
        f"dreamed.",
    ]
    if metrics.get("return_psnr_dream") is not None and metrics["return_psnr_real"] is not None:
        lines.append(
            f"Coming back to a place, the dream agrees with its own first sight of it by "
            f"{metrics['return_psnr_dream']} dB "
            f"(the real twin, whose two poses differ as much: {metrics['return_psnr_real']} dB)."
        )
    if "position_error_m" in metrics:
        off = f"{metrics['position_error_m']} m and {metrics['heading_error_deg']} degrees"
        lines.append(f"Where it believes to stand at the end is {off} off.")
    lines.append(f"{metrics['steps_per_second']:.1f} steps/s, everything included.")
    files = [
        "rollout.mp4",
        "rollout.png",
        *(["memory.ply"] if "memory_points" in metrics else []),
        "metrics.json",
    ]
    lines.append(f"Files: {', '.join(files)}.")
    return "\n".join(lines)
