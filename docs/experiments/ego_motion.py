"""Train an ego-motion head alone, on a CPU, from a recording: ``python ego_motion.py DATA OUT [STEPS] [WORLD]``.

DATA: a recording with geometry. OUT: folder for the head. With WORLD (a folder), its head is replaced by the new one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from worldsim.camera import Camera, relative_motion
from worldsim.data.dataset import EpisodeDataset
from worldsim.heads import HISTORY, EgoMotionHead, quarter_turns, to_world_axes
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.state import Frame
from worldsim.world import World

MIRROR = torch.tensor([0, 1, 2, 4, 3, 6, 5])
REFLECTION = torch.tensor([-1.0, 1, 1, 1])
REFLECTED_MOTION = torch.tensor([-1.0, 1, 1, 1, -1, -1])
BATCH = 256
PAST = torch.arange(-HISTORY, 0)


def walk_with_memory(dataset: EpisodeDataset) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Maps, poses, actions and motions (world axes) of all frames, and the frames with a full past and a future."""
    memory = PointMemory(PointMemoryConfig(capacity=16384))
    maps, poses, acts, motions, usable = [], [], [], [], []
    offset = 0
    for episode in tqdm(dataset, desc="remembering"):
        pose = torch.from_numpy(np.array(episode.pose))
        code = torch.from_numpy(np.array(episode.inverse_depth).astype(np.int32))
        intrinsics = torch.from_numpy(np.array(episode.intrinsics))[None]
        data = memory.empty(1)
        black = torch.zeros(1, 3, *code.shape[1:], dtype=torch.uint8)
        for t in range(len(pose)):
            camera = Camera(pose[t : t + 1], intrinsics, *code.shape[1:])
            data = memory.integrate(data, Frame(black, code[t : t + 1], camera.pose), camera, torch.full((1,), t))
            maps.append(memory.surroundings(data, camera.pose))
        motion = torch.zeros(len(pose), 6)
        motion[:-1] = to_world_axes(relative_motion(pose[:-1], pose[1:]), pose[:-1])
        # Over three metres a step is a teleport.
        usual = motion[:, :3].norm(dim=1) < 3
        usable += [offset + t for t in range(HISTORY, len(pose) - 1) if usual[t]]
        poses.append(pose)
        acts.append(torch.from_numpy(np.array(episode.act)))
        motions.append(motion)
        offset += len(pose)
    return torch.cat(maps), torch.cat(poses), torch.cat(acts), torch.cat(motions), torch.tensor(usable)


def main(data: Path, out: Path, steps: int = 13_000, world: str | None = None) -> None:
    torch.manual_seed(0)
    maps, poses, acts, motions, usable = walk_with_memory(EpisodeDataset(data, require_geometry=True))
    last = max(len(poses) - 8000, len(poses) * 7 // 8)
    held_out, usable = usable[usable >= last], usable[usable < last]

    def batch(index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        past = index[:, None] + PAST
        return (maps[index], poses[index], motions[past], acts[past], acts[index]), motions[index]

    def augmented(index: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        (around, pose, motion, before, act), target = batch(index)
        if torch.rand(()) < 0.5:
            around, pose = around.flip(-1), REFLECTION[:, None] * pose * REFLECTION
            motion, target = motion * REFLECTED_MOTION, target * REFLECTED_MOTION
            before, act = MIRROR[before], MIRROR[act]
        around, pose, (motion, target) = quarter_turns(around, pose, (motion, target))
        fresh = (torch.rand(len(index)) < 0.1)[:, None] & (PAST < -HISTORY // 2)
        return (around, pose, motion.masked_fill(fresh[..., None], 0.0), before.masked_fill(fresh, 0), act), target

    head = EgoMotionHead()
    size = motions[usable].std(0)
    head.scale.copy_(torch.cat([size[:2].mean().expand(2), size[2:]]).clamp(min=1e-2))
    optimizer = torch.optim.AdamW(head.parameters(), lr=1.5e-3, weight_decay=0.02)
    started = time.monotonic()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * min(1.0, (step + 1) / 100) * min(1.0, 2.0 * (steps - step) / steps)
        inputs, target = augmented(usable[torch.randint(len(usable), (BATCH,))])
        loss = F.smooth_l1_loss(head.normalised(*inputs), target / head.scale, beta=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % max(1, steps // 8) == 0:
            with torch.no_grad():
                inputs, target = batch(held_out)
                error = (head(*inputs) - target)[:, :3].norm(dim=1)
            print(f"{step + 1}: mean {error.mean():.4f} m, median {error.median():.4f} m, {time.monotonic() - started:.0f} s")
    head.save_pretrained(out)
    if world is not None:
        changed = World.from_pretrained(world, device="cpu")
        changed.ego_motion = head
        changed.save_pretrained(world, eight_bit=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4]), *sys.argv[4:5])
