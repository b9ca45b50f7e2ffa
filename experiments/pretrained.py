"""Pretrained video models as dynamics: dropped frames, and the overhead of a step.

    worldsim record worldsim/FreedoomReal-v0 --out WALKS --frames 3000 --episode-steps 160 \
        --seed 5 --policy persistent-v1 --reset-options split train
    python experiments/pretrained.py --walks WALKS --json experiments/pretrained.json

No model takes part: chunks are given at once. Dropped frames are those of walks with the policy
``persistent-v1``, with an action that changes at every step, and, with ``--walks``, those of a
recording, whose camera has momentum and is stopped by walls. Overhead is the time of
``PretrainedDynamics.predict`` for a step that emits a frame of its chunk, without the depth
estimator, and that of aligning the frame's depth, which is part of it.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import torch
import tyro

from worldsim.agents.persistent import PersistentPolicy
from worldsim.camera import default_intrinsics, relative_motion, snap_pose
from worldsim.data.dataset import EpisodeDataset
from worldsim.painting.depth import align_inverse_depth, code_to_inverse_depth
from worldsim.pretrained.dynamics import PretrainedDynamics
from worldsim.protocols import StepInputs, VideoInputs, VideoSpec
from worldsim.runtime.json_config import write_json
from worldsim.state import Frame, MemoryView

LEVEL = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Args:
    """What is measured."""

    json: Path = Path("experiments/pretrained.json")
    """File for the figures."""
    walks: Path | None = None
    """Recorded walks with poses. Without them, their figures stay as they are."""
    steps: int = 500
    """Steps per walk."""
    repeats: int = 30
    """Timed steps."""


class Instant:
    """A video model that returns its control at once."""

    def __init__(self, past: int, frames: int) -> None:
        self.spec = VideoSpec(past, frames)

    def check_size(self, height: int, width: int) -> None:
        """Accept every size."""

    def identify(self) -> str:
        """Return a name in place of a checksum."""
        return "instant"

    def generate(self, inputs: VideoInputs) -> torch.Tensor:
        """Return the control."""
        return inputs.control


class Brightness:
    """Takes bright pixels as near, at once."""

    def estimate(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the mean colour."""
        return rgb.float().mean(1) / 255.0 + 0.1


def inputs_of(height: int, width: int, act: int, step: int) -> StepInputs:
    """Return the inputs of a step of a camera that stands still before a noisy, half-known wall."""
    generator = torch.Generator().manual_seed(step)
    rgb = torch.randint(0, 256, (1, 3, height, width), generator=generator, dtype=torch.uint8)
    code = torch.randint(2000, 9000, (1, height, width), generator=generator, dtype=torch.int32)
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[..., : width // 2] = True
    zeros = torch.zeros(1, 2, height, width, dtype=torch.uint8)
    pose = snap_pose(LEVEL[None])
    return StepInputs(
        last=Frame(rgb, code, pose),
        act=torch.tensor([act]),
        motion=torch.zeros(1, 6),
        pose=pose,
        view=MemoryView(rgb, code, mask, zeros, zeros[:, 0]),
        intrinsics=torch.tensor([default_intrinsics(height, width)]),
        seed=torch.tensor([0]),
        step=torch.tensor([step]),
    )


def generated(frames: int, policy: str, steps: int) -> float:
    """Return the generated frames per emitted frame of one walk."""
    dynamics = PretrainedDynamics(Instant(1, frames), Brightness(), 8, 8, actions=7)
    acting = PersistentPolicy(gym.spaces.Discrete(7))
    acting.reset(seed=0)
    context = dynamics.empty(1, "cpu")
    inputs = inputs_of(8, 8, 0, 0)
    for step in range(steps):
        act = step % 7 if policy == "changing" else int(acting.act(None))  # type: ignore[arg-type]
        here = dataclasses.replace(inputs, act=torch.tensor([act]), step=torch.tensor([step]))
        _, context = dynamics.predict(context, here)
    return float(dynamics.generated_per_emitted(context)[0])


def generated_on(dataset: EpisodeDataset, frames: int) -> float:
    """Return the generated frames per emitted frame of recorded walks, at their true cameras."""
    dynamics = PretrainedDynamics(Instant(1, frames), Brightness(), 8, 8, actions=7)
    inputs, generated, emitted = inputs_of(8, 8, 0, 0), 0, 0
    for episode in dataset:
        assert episode.pose is not None
        context = dynamics.empty(1, "cpu")
        pose = snap_pose(torch.from_numpy(episode.pose.copy()))
        for t in range(len(pose) - 1):
            here = dataclasses.replace(
                inputs,
                act=torch.tensor([int(episode.act[t])]),
                motion=relative_motion(pose[t : t + 1], pose[t + 1 : t + 2]),
                pose=pose[t + 1 : t + 2],
                step=torch.tensor([t]),
            )
            _, context = dynamics.predict(context, here)
        generated += int(context.generated)
        emitted += int(context.emitted)
    return generated / emitted


def overhead(height: int, width: int, past: int, frames: int, repeats: int) -> dict[str, float]:
    """Return the median milliseconds of a step that generates nothing, and of its alignment."""
    dynamics = PretrainedDynamics(Instant(past, frames), Brightness(), height, width, actions=7)
    inputs = inputs_of(height, width, 1, 0)
    assert inputs.view is not None
    _, start = dynamics.predict(dynamics.empty(1, "cpu"), inputs)
    whole, aligned, estimated = [], [], []
    relative = dynamics.depth.estimate(inputs.last.rgb)
    # Time of the processor: other processes on the machine hardly change it.
    for _ in range(repeats):
        begun = time.process_time()
        dynamics.predict(start, inputs)
        whole.append(time.process_time() - begun)
        begun = time.process_time()
        dynamics.depth.estimate(inputs.last.rgb)
        estimated.append(time.process_time() - begun)
        begun = time.process_time()
        known = code_to_inverse_depth(inputs.view.inverse_depth)
        align_inverse_depth(relative, known, inputs.view.mask, dynamics.config.align)
        aligned.append(time.process_time() - begun)
    step, alignment, estimate = (1000 * statistics.median(x) for x in (whole, aligned, estimated))
    return {"step_ms": round(step - estimate, 2), "alignment_ms": round(alignment, 2)}


def main(args: Args) -> None:
    """Measure and print a table."""
    torch.set_num_threads(1)
    dropped = {
        str(frames): {
            policy: round(generated(frames, policy, args.steps), 2)
            for policy in ("persistent-v1", "changing")
        }
        for frames in (1, 4, 8, 16, 64)
    }
    sizes = {"64x64": (64, 64, 5, 4), "256x256": (256, 256, 17, 16), "480x832": (480, 832, 17, 64)}
    if args.walks is not None:
        walks = EpisodeDataset(args.walks)
        for frames, row in dropped.items():
            row["freedoom"] = round(generated_on(walks, int(frames)), 2)
    times = {name: overhead(*size, args.repeats) for name, size in sizes.items()}
    write_json(args.json, {"generated_per_emitted": dropped, "overhead": times})
    for frames, row in dropped.items():
        print(f"{frames:>3} frames per chunk: {row}")
    for name, row in times.items():
        print(f"{name}: {row}")


if __name__ == "__main__":
    main(tyro.cli(Args))
