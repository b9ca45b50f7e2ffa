"""``worldsim compare``: a dream beside its real twin, from the same true frames.

Both receive the same actions. Writes a video and metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.app.dreaming import dream_on
from worldsim.app.step_pictures import as_picture, step_pictures
from worldsim.errors import InvalidInputError
from worldsim.evaluation.metrics import psnr, sharpness
from worldsim.io.pictures import panels
from worldsim.io.provenance.origin import Origin, hash_actions
from worldsim.io.provenance.publish import publish_film
from worldsim.protocols import Policy
from worldsim.runtime.arguments import shown
from worldsim.runtime.files import make_writable_folder, require_replaceable
from worldsim.runtime.json_config import check_ranges, read_json, write_json
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.progress import follow, say
from worldsim.runtime.ranges import Count, Scale, Seed
from worldsim.runtime.types import Action, Array, Env, JsonObject, Space
from worldsim.shipped.policies import make_policy
from worldsim.state import SceneStart, Transition
from worldsim.world import World
from worldsim.world.twin import HISTORY, frames_of, make_twin

TRIES = 20
"""Episodes of the real twin that are begun until one outlasts the history."""
DIFFERENCE_GAIN = 2
"""What differences of colours are multiplied by, to be seen."""
LOOKED_AT = (1, 8, 24, 48)
"""Steps whose PSNR is reported, beside the last."""


@old_fields(sampling_steps="num_inference_steps")
@dataclass(frozen=True)
class CompareConfig:
    """Film a world and its real twin under the same actions, and compare them."""

    world: str = "freedoom-tiny"
    """Name of a shipped world, a world's folder, or ``hub:owner/name`` of the Hugging Face hub."""
    out: Path = Path("compare.mp4")
    """Path of the video."""
    actions: Path | None = None
    """JSON file with a list of actions to take after the history: integers, or lists of numbers for
    continuous actions. Without it, the policy acts on the frames of the real twin."""
    policy: str = "persistent"
    """Policy of the history and, without ``actions``, of the steps after it: a registered name,
    ``module:Class``, or a saved agent's folder or name."""
    steps: Annotated[int, Ge(1), Le(10_000)] = 96
    """Steps to dream; with ``actions``, at most as many as the file has."""
    history: Annotated[int, Ge(1), Le(10_000)] = HISTORY
    """True frames that the dream receives."""
    seed: Seed = 0
    """Seed of the real twin's episode, the policy and the dream."""
    reset_options: dict[str, str] = field(default_factory=dict)
    """Options of the real twin's reset, such as ``map MAP30``."""
    num_inference_steps: Count | None = None
    """Sampling steps per frame. By default the world's own."""
    scale: Scale = 4
    """Pixels of the video per pixel of the frames."""
    json: Path | None = None
    """Also write the results, step by step, to this file."""
    device: str | None = None
    """Device of the dream. By default CUDA if it is available."""
    trust: bool = False
    """Use the real twin and policy class that files name, whatever they are: this imports and runs
    their code."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.out.suffix != ".mp4":
            raise InvalidInputError(
                f"CompareConfig.out = {str(self.out)!r}: the video's name must end in .mp4"
            )


@dataclass(frozen=True)
class Lesson:
    """An episode of the real twin.

    start: the true frames before.
    acts: n actions.
    rgb: (n, 3, h, w) uint8, what they led to.
    rewards: n rewards.
    terminated: whether the real twin terminated there.
    """

    start: SceneStart
    acts: list[Action]
    rgb: Tensor
    rewards: list[float]
    terminated: bool


def compare(config: CompareConfig, world: World | None = None) -> JsonObject:
    """Play the real twin, dream the same actions, write video and metrics.

    Returns the metrics.

    world: a loaded world, instead of ``config.world``.

    Raises what :func:`worldsim.world.twin.make_twin` raises, and InvalidInputError for actions
    outside the world's action space.
    """
    require_replaceable(config.out)
    world = world or World.from_pretrained(config.world, config.device, trust=config.trust)
    world = world.with_dynamics(num_inference_steps=config.num_inference_steps)
    acts = (
        None
        if config.actions is None
        else read_actions(config.actions, world.action_space)[: config.steps]
    )
    make_writable_folder(config.out.parent)
    lesson = play_twin(config, world, acts)
    height, width = lesson.rgb.shape[-2:]
    count = len(lesson.acts)
    require_memory_for(
        count * 3 * (height * config.scale + 52) * 5 * (width * config.scale + 12),
        f"a video of {count} frames",
    )
    say(f"the dream takes in {len(lesson.start.rgb)} true frames, then dreams {count} steps")
    dreamed, _ = dream_on(world, world.initial([lesson.start], [config.seed]), lesson.acts)
    figures = measure(config, lesson, dreamed)
    origin = Origin(config.world, world.weights_id, config.seed, hash_actions(lesson.acts))
    frames = video_frames(config, lesson, dreamed, figures["psnr_by_step"])
    publish_film(frames, world.config.fps, config.out, origin)
    if config.json is not None:
        write_json(config.json, figures)
    print(explain(config, figures))
    return figures


def read_actions(path: Path, space: Space) -> list[Action]:
    """Read actions from a JSON file and check each against the action space.

    Raises NotFoundError, DamagedFileError or InvalidInputError.
    """
    listed = read_json(path)
    if not isinstance(listed, list) or not listed:
        raise InvalidInputError(
            f"{path} holds {shown(listed)}: a JSON list of actions is needed, such as [1, 1, 3]"
        )
    acts = []
    for i, act in enumerate(listed):
        try:
            made = np.asarray(act, space.dtype) if isinstance(act, list) else act
            known = isinstance(act, list) == bool(space.shape) and space.contains(made)
        except (TypeError, ValueError, OverflowError):
            known = False
        if not known:
            raise InvalidInputError(f"{path}: action {i} is {shown(act)}, which is none of {space}")
        acts.append(made)
    return acts


def play_twin(config: CompareConfig, world: World, acts: Sequence[Action] | None) -> Lesson:
    """Play an episode of the real twin: the history under the policy, then ``acts``.

    By default, the policy continues.
    """
    policy = make_policy(config.policy, world.action_space, trust=config.trust)
    twin = make_twin(world, history=config.history)
    try:
        obs = _after_history(config, twin, policy)
        start, taken, rgb, rewards, terminated = frames_of(twin), [], [], [], False
        for t in follow(
            range(config.steps if acts is None else len(acts)), "playing the real twin"
        ):
            act = policy.act(obs) if acts is None else acts[t]
            obs, reward, terminated, truncated, _ = twin.step(act)
            taken.append(act)
            rgb.append(torch.from_numpy(np.array(obs)))
            rewards.append(float(reward))
            if terminated or truncated:
                break
    finally:
        twin.close()
    return Lesson(
        start, taken, torch.stack(rgb).permute(0, 3, 1, 2).contiguous(), rewards, bool(terminated)
    )


def _after_history(config: CompareConfig, twin: Env, policy: Policy) -> Array:
    """Start an episode that outlasts the history; returns its last observation."""
    for seed in range(config.seed, config.seed + TRIES):
        obs, _ = twin.reset(seed=seed, options=dict(config.reset_options) or None)
        policy.reset(seed)
        for _ in range(config.history - 1):
            obs, _, terminated, truncated, _ = twin.step(policy.act(obs))
            if terminated or truncated:
                break
        else:
            return obs
    raise InvalidInputError(
        f"{TRIES} episodes of {config.policy!r} from seed {config.seed} ended within "
        f"{config.history} frames: "
        "lower --history, or give another --policy or --seed"
    )


def measure(config: CompareConfig, lesson: Lesson, dreamed: Sequence[Transition]) -> JsonObject:
    """Return PSNR of each step for the dream and for a still frame; sharpness, returns, endings."""
    rgb = torch.cat([t.frame.rgb for t in dreamed]).cpu()
    scores, still = psnr(rgb, lesson.rgb), psnr(lesson.start.rgb[-1:].cpu(), lesson.rgb)
    ends = [t for t, one in enumerate(dreamed, 1) if bool(one.term[0])]
    last = len(dreamed)
    return {
        "world": config.world,
        "place": lesson.start.name,
        "seed": config.seed,
        "history_frames": len(lesson.start.rgb),
        "steps": last,
        "psnr": round(float(scores.mean()), 2),
        "psnr_at": {
            str(t): round(float(scores[t - 1]), 2) for t in (*LOOKED_AT, last) if t <= last
        },
        "still_psnr": round(float(still.mean()), 2),
        "sharpness_ratio": round(
            float(sharpness(rgb).mean() / sharpness(lesson.rgb).mean().clamp(min=1e-9)), 3
        ),
        "return_dream": round(sum(float(t.rew[0]) for t in dreamed), 4),
        "return_real": round(sum(lesson.rewards), 4),
        "terminated_dream": ends[0] if ends else None,
        "terminated_real": last if lesson.terminated else None,
        "psnr_by_step": [round(float(x), 2) for x in scores],
        "actions": [np.asarray(act).tolist() for act in lesson.acts],
    }


def video_frames(
    config: CompareConfig, lesson: Lesson, dreamed: Sequence[Transition], scores: Sequence[float]
) -> list[Array]:
    """Return the frames of the video: real, dream, difference, memory view and depth side by side.

    One frame per step; the last one stays.
    """
    frames = []
    for t, transition in enumerate(dreamed):
        real = as_picture(lesson.rgb[t])
        pictures = step_pictures(real, transition)
        dream = pictures["dream"]
        gap = (
            (np.abs(real.astype(np.int16) - dream) * DIFFERENCE_GAIN).clip(0, 255).astype(np.uint8)
        )
        ordered = {
            "real twin": real,
            "dream": dream,
            f"difference x{DIFFERENCE_GAIN}": gap,
        } | pictures
        act = np.array2string(np.asarray(lesson.acts[t]), precision=2, floatmode="fixed")
        frames.append(
            panels(ordered, config.scale, f"step {t + 1}   action {act}   {scores[t]:.1f} dB")
        )
    return [*frames, *[frames[-1]] * 10]


def explain(config: CompareConfig, figures: JsonObject) -> str:
    """Return the results in words."""
    at = ", ".join(f"{value} dB at step {step}" for step, value in figures["psnr_at"].items())
    before = f"{figures['history_frames']} true frames ({figures['place']}, seed {figures['seed']})"
    lines = [
        f"{figures['steps']} steps after {before}: {at}.",
        f"On average {figures['psnr']} dB; a still picture of the start: {figures['still_psnr']} "
        f"dB. "
        f"The dream has {100 * figures['sharpness_ratio']:.0f}% of the real twin's sharpness.",
    ]
    if figures["return_dream"] or figures["return_real"]:
        lines.append(
            f"Return: dream {figures['return_dream']:.2f}, real twin {figures['return_real']:.2f}."
        )
    for who, step in (
        ("dream", figures["terminated_dream"]),
        ("real twin", figures["terminated_real"]),
    ):
        if step is not None:
            lines.append(f"The {who} terminated at step {step}.")
    return "\n".join(lines)
