"""Train an ego-motion head alone and measure it on maps that it has not seen:
``python ego_motion.py --help``.

Steps: send a recording through the scene memory and keep each frame's map of surroundings; train on
the maps of the engine that are not held out; measure single steps, and 48 free-running steps on a
memory of true frames as they come, on the held-out ones. With ``--narrow`` the trained wide head is
then brought to a lower rank, fitted to what its layers really see.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from tqdm import tqdm

from worldsim.camera import Camera, move, relative_motion, snap_pose
from worldsim.data.dataset import EpisodeDataset
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.state import Frame
from worldsim.world.heads import (
    HISTORY,
    EgoMotionHead,
    Motions,
    to_camera_axes,
    to_world_axes,
    vary,
)

MIRROR = (0, 1, 2, 4, 3, 6, 5)
PAST = torch.arange(-HISTORY, 0)
TELEPORT_M = 3.0
START, STEPS = 63, 48
SHORTEST_M = 5.0


@dataclass(frozen=True)
class Config:
    """Settings of the experiment."""

    data: Path
    """Recording with geometry."""
    out: Path
    """Folder for the head."""
    minutes: float = 1.0
    """Time of training."""
    batch: int = 2048
    """Moments a step."""
    hidden: int = 512
    """Width of the head's layers."""
    rank: int = 0
    """Rank of the layers while training, 0 for full."""
    narrow: int = 0
    """Rank to bring the trained head to, 0 to leave it."""
    narrow_minutes: float = 0.0
    """Time of training after that."""
    learning_rate: float = 2e-3
    """Peak of AdamW's."""
    held_out: tuple[str, ...] = (
        "freedoom2/MAP05", "freedoom2/MAP12", "freedoom2/MAP20", "freedoom2/MAP25",
        "freedoom1/E1M3", "freedoom1/E2M5", "freedoom1/E3M4", "freedoom1/E4M6",
    )  # fmt: skip
    """Maps to measure on."""
    capacity: int = 65536
    """Points of the memory."""
    together: int = 256
    """Episodes that go through the memory at once."""
    walks: int = 512
    """At most so many free-running walks."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where all this runs."""


class Walks:
    """All frames of a recording on a device, with their maps of surroundings."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.memory = PointMemory(PointMemoryConfig(capacity=config.capacity))
        dataset = EpisodeDataset(config.data, require_geometry=True)
        self.intrinsics = torch.from_numpy(np.array(dataset[0].intrinsics)).to(config.device)
        lengths = [len(e) for e in dataset]
        self.start = np.concatenate([[0], np.cumsum(lengths)])
        self.held_out = [e.info.get("map") in config.held_out for e in dataset]

        def joined(name: str) -> Tensor:
            return torch.cat([torch.from_numpy(np.array(getattr(e, name))) for e in dataset]).to(
                config.device
            )

        self.pose, self.act = joined("pose"), joined("act")
        self.code = torch.cat(
            [torch.from_numpy(np.array(e.inverse_depth).view(np.int16)) for e in dataset]
        ).to(config.device)
        self.motion = torch.zeros(len(self.pose), 6, device=config.device)
        self.motion[:-1] = to_world_axes(
            relative_motion(self.pose[:-1], self.pose[1:]), self.pose[:-1]
        )
        self.around = torch.zeros(
            len(self.pose), 2, 48, 48, dtype=torch.uint8, device=config.device
        )
        for first in tqdm(range(0, len(lengths), config.together), desc="remembering"):
            group = list(range(first, min(first + config.together, len(lengths))))
            for _, index, data in self.remembered(group):
                self.around[index] = self.memory.surroundings(data, self.pose[index])

    def remembered(self, group: list[int]):  # type: ignore[no-untyped-def]
        """Yields the time, the frames of all episodes of the group (the last where one is over) and
        the memory with them."""
        start = torch.tensor(self.start[group], device=self.config.device)
        last = torch.tensor(self.start[np.array(group) + 1] - 1, device=self.config.device)
        data = self.memory.empty(len(group), self.config.device)
        size = self.code.shape[1:]
        black = torch.zeros(len(group), 3, *size, dtype=torch.uint8, device=self.config.device)
        intrinsics = self.intrinsics.expand(len(group), 4)
        for t in range(int((last - start).max()) + 1):
            index = torch.minimum(start + t, last)
            camera = Camera(self.pose[index], intrinsics, *size)
            frame = Frame(black, self.code[index].int() & 0xFFFF, camera.pose)
            data = self.memory.integrate(data, frame, camera, torch.full_like(index, t))
            yield t, index, data

    def usable(self, held_out: bool) -> Tensor:
        """Frames with a full past and a next frame that no teleport leads to."""
        chosen = [
            torch.arange(a + HISTORY, b - 1)
            for a, b, held in zip(self.start[:-1], self.start[1:], self.held_out, strict=True)
            if held == held_out
        ]
        index = (
            torch.cat(chosen).to(self.config.device)
            if chosen
            else torch.zeros(0, dtype=torch.int64)
        )
        return index[self.motion[index, :3].norm(dim=1) < TELEPORT_M]

    def moments(self, index: Tensor) -> Motions:
        past = index[:, None] + PAST.to(index.device)
        return Motions(
            self.around[index],
            self.pose[index],
            self.motion[past],
            self.act[past],
            self.act[index],
            self.motion[index],
        )


def inputs(m: Motions) -> tuple[Tensor, ...]:
    return m.around, m.pose, m.motion, m.acts, m.act


def train(head: EgoMotionHead, walks: Walks, minutes: float, rate: float) -> EgoMotionHead:
    """The average of the head's weights over the end of a training with a falling learning rate."""
    config, frames = walks.config, walks.usable(False)
    generator = torch.Generator(config.device).manual_seed(0)
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.02)
    average = torch.optim.swa_utils.AveragedModel(
        head, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998)
    )
    began, step, done = time.monotonic(), 0, 0.0
    while done < 1.0:
        pick = torch.randint(
            len(frames), (config.batch,), generator=generator, device=config.device
        )
        m = vary(walks.moments(frames[pick]), generator, MIRROR)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200) * min(1.0, (1.0 - done) / 0.6)
        predicted, unhindered = head.normalise(*inputs(m))
        target = m.target / head.scale
        loss = F.smooth_l1_loss(predicted, target, beta=0.05) + 0.5 * F.smooth_l1_loss(
            unhindered, target, beta=0.05
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(head)
        step, done = step + 1, (time.monotonic() - began) / (60.0 * minutes)
    print(f"{step} steps")
    return average.module.eval()


@torch.no_grad()
def single_steps(head: EgoMotionHead, walks: Walks) -> str:
    frames = walks.usable(True)[::4]
    if not len(frames):
        return "no frames of held-out maps"
    errors = []
    for part in frames.split(2048):
        m = walks.moments(part)
        errors.append((head(*inputs(m)) - m.target).abs())
    error = torch.cat(errors)
    distance = error[:, :3].norm(dim=1)
    far = (distance > 0.1).float().mean()
    return (
        f"single steps: mean {distance.mean():.4f} m, median {distance.median():.4f} m, over 10 "
        f"cm {far:.3f}"
    )


@torch.no_grad()
def free_running(head: EgoMotionHead, walks: Walks) -> str:
    """48 steps from frame 63 of each held-out walk; the memory holds the true frames as they
    come."""
    config, end = walks.config, START + STEPS
    lengths = np.diff(walks.start)
    chosen = [i for i, held in enumerate(walks.held_out) if held and lengths[i] > end][
        : config.walks
    ]
    errors, paths = [], []
    for first in range(0, len(chosen), config.together):
        group = chosen[first : first + config.together]
        state: tuple[Tensor, Tensor, Tensor] | None = None
        for t, index, data in walks.remembered(group):
            if t == START:
                past = index[:, None] + PAST.to(index.device)
                state = snap_pose(walks.pose[index]), walks.motion[past], walks.act[past]
            if START <= t < end:
                assert state is not None
                pose, motion, acts = state
                act = walks.act[index]
                moved = move(
                    pose,
                    to_camera_axes(
                        head(walks.memory.surroundings(data, pose), pose, motion, acts, act), pose
                    ),
                )
                taken = to_world_axes(relative_motion(pose, moved), pose)
                state = (
                    moved,
                    torch.cat([motion[:, 1:], taken[:, None]], 1),
                    torch.cat([acts[:, 1:], act[:, None]], 1),
                )
            if t == end:
                assert state is not None
                errors.append((state[0][:, :3, 3] - walks.pose[index][:, :3, 3]).norm(dim=1))
                steps = index[:, None] - torch.arange(STEPS, 0, -1, device=index.device)
                paths.append(walks.motion[steps, :3].norm(dim=-1).sum(1))
                break
    if not errors:
        return "no walks of held-out maps are long enough"
    error, path = torch.cat(errors), torch.cat(paths)
    share = 100.0 * error[path >= SHORTEST_M] / path[path >= SHORTEST_M]
    quantiles = " ".join(f"{q:.0%}: {share.quantile(q):.2f}" for q in (0.5, 0.75, 0.9))
    within = float((share < 5).float().mean())
    walks = f"free-running, {len(share)} walks"
    return f"{walks}: error in % of the path {quantiles}; within 5%: {within:.2f}"


@torch.no_grad()
def narrowed(wide: EgoMotionHead, rank: int, samples: list[Motions]) -> EgoMotionHead:
    """A head of lower rank that does the same: of each layer's output on ``samples``, what that
    many directions can say."""
    narrow = EgoMotionHead.from_config({**wide.config, "rank": rank}).to(wide.device)
    layers = {
        name: module for name, module in wide.named_modules() if isinstance(module, nn.Linear)
    }
    layers = {
        name: module
        for name, module in layers.items()
        if isinstance(narrow.get_submodule(name), nn.Sequential)
    }
    moments: dict[str, Tensor] = {}

    def watch(name: str, x: Tensor) -> None:
        x = x.double()
        moments[name] = moments.get(name, torch.zeros((), device=x.device)) + x.T @ x

    hooks = [
        m.register_forward_pre_hook(lambda _, x, name=n: watch(name, x[0]))
        for n, m in layers.items()
    ]
    for m in samples:
        wide(*inputs(m))
    for hook in hooks:
        hook.remove()
    weights = {k: v for k, v in wide.state_dict().items() if k.rsplit(".", 1)[0] not in layers}
    for name, layer in layers.items():
        second = moments[name] / moments[name].diagonal().mean()
        value, vector = torch.linalg.eigh(
            second + 1e-5 * torch.eye(len(second), device=second.device)
        )
        root = vector * value.sqrt() @ vector.T
        u, s, v = torch.linalg.svd(layer.weight.double() @ root, full_matrices=False)
        scale = s[:rank].sqrt()
        weights[f"{name}.0.weight"] = (scale[:, None] * (v[:rank] @ torch.linalg.inv(root))).float()
        weights[f"{name}.1.weight"] = (u[:, :rank] * scale).float()
        weights[f"{name}.1.bias"] = layer.bias
    narrow.load_state_dict(weights)
    return narrow


def main(config: Config) -> None:
    torch.manual_seed(0)
    walks = Walks(config)
    frames = walks.usable(False)
    print(
        f"{len(walks.pose)} frames, {len(frames)} to train on, {len(walks.usable(True))} of "
        f"held-out maps"
    )
    head = EgoMotionHead(hidden=config.hidden, rank=config.rank).to(config.device)
    size = walks.motion[frames].std(0)
    head.scale.copy_(torch.cat([size[:2].mean().expand(2), size[2:]]).clamp(min=1e-2))
    head = train(head, walks, config.minutes, config.learning_rate)
    print(single_steps(head, walks), free_running(head, walks), sep="\n")
    if config.narrow:
        generator = torch.Generator(config.device).manual_seed(1)
        few = [
            walks.moments(frames[torch.randint(len(frames), (512,), device=config.device)])
            for _ in range(24)
        ]
        head = narrowed(head, config.narrow, [vary(m, generator, MIRROR) for m in few])
        print(
            f"at rank {config.narrow}:",
            single_steps(head, walks),
            free_running(head, walks),
            sep="\n",
        )
        if config.narrow_minutes:
            head = train(
                copy.deepcopy(head).train(),
                walks,
                config.narrow_minutes,
                0.3 * config.learning_rate,
            )
            print("trained on:", single_steps(head, walks), free_running(head, walks), sep="\n")
    head.save_pretrained(config.out)


if __name__ == "__main__":
    main(tyro.cli(Config))
