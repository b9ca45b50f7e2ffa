"""The radiance field on CUDA, in under 90 seconds: ``python radiance_cuda.py --help``.

The walk through the textured room of ``radiance.py``: how soon a field reaches 23 dB on views that
it has not seen, and what half a minute brings; whether the memory keeps its contract there; and
Nerfacto, where nerfstudio can be imported.
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import dataclass, field
from typing import Any

import torch
import tyro
from torch import Tensor

from worldsim.camera import Camera
from worldsim.envs.tiny_room import textured_room, textured_room_walk
from worldsim.evaluation.metrics import psnr
from worldsim.memory import (
    PointMemory,
    PointMemoryConfig,
    RadianceField,
    RadianceMemory,
    RadianceMemoryConfig,
)
from worldsim.memory.fitting import FitConfig
from worldsim.state import Frame, Trajectory, map_tensors
from worldsim.testing import ContractError, Recall, check_memory

ENOUGH_DB = 23.0


@dataclass(frozen=True)
class Config:
    """Settings of the check."""

    device: str = "cuda"
    """Where to fit and render; ``cpu`` to rehearse."""
    frames: int = 48
    """Frames of the walk; as many held-out views lie between them."""
    iterations: tuple[int, ...] = (5, 10, 25, 50, 100, 200, 400)
    """Lengths of the first fits, ascending; the one that reaches 23 dB tells the time to it."""
    seconds: float = 30.0
    """What the longest fit may take; its length follows from the times of those before."""
    nerfacto_iterations: int = 400
    """Steps of Nerfacto."""
    memory: RadianceMemoryConfig = field(default_factory=RadianceMemoryConfig)
    """The memory measured."""


class Clock:
    """Seconds since it was made, when the device is done."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._wait()
        self._begin = time.perf_counter()

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    @property
    def seconds(self) -> float:
        self._wait()
        return time.perf_counter() - self._begin


def one(record: Any, i: int) -> Any:
    return map_tensors(lambda x: x[i : i + 1], record)


def room(config: Config) -> tuple[tuple[Frame, Camera], tuple[Frame, Camera]]:
    """Frames of the walk and held-out views between them, with their cameras."""
    camera = textured_room_walk(2 * config.frames)
    both = (textured_room(camera), camera)
    seen, held_out = (map_tensors(lambda x, s=s: x[s::2].to(config.device), both) for s in (0, 1))
    return seen, held_out


def decibels(render: Any, held_out: tuple[Frame, Camera]) -> float:
    """Mean PSNR of whole frames, holes black."""
    frames, camera = held_out
    views = [render(one(camera, i)).rgb for i in range(len(frames.rgb))]
    return float(psnr(torch.cat(views), frames.rgb).mean())


def field_rows(
    config: Config, seen: tuple[Frame, Camera], held_out: tuple[Frame, Camera]
) -> list[tuple[str, str]]:
    memory = RadianceMemory(PointMemory(PointMemoryConfig(capacity=131072)), config.memory)
    data = memory.empty(1, config.device)
    for i in range(config.frames):
        data = memory.integrate(
            data, one(seen[0], i), one(seen[1], i), torch.tensor([i], device=config.device)
        )
    rows = [
        (
            "points alone",
            f"{decibels(lambda c: memory.points.render(data.points, c), held_out):.2f} dB",
        )
    ]
    # The first fit on a device pays for loading what it needs.
    memory.fit(data, 1)
    enough = f"not reached in {config.iterations[-1]} iterations"
    for iterations in config.iterations:
        seconds, found, _ = timed_fit(memory, data, iterations, held_out)
        rows.append((f"{iterations} iterations", f"{seconds:.2f} s, {found:.2f} dB"))
        print(rows[-1], flush=True)
        if found >= ENOUGH_DB and enough.startswith("not"):
            enough = f"{seconds:.2f} s ({iterations} iterations)"
    rows.append((f"time to {ENOUGH_DB:.0f} dB", enough))
    longest = max(1, int(0.95 * config.seconds / seconds * config.iterations[-1]))
    seconds, found, fitted = timed_fit(memory, data, longest, held_out)
    rows.append((f"after {seconds:.1f} s", f"{found:.2f} dB ({longest} iterations)"))
    print(rows[-1], flush=True)
    clock = Clock(config.device)
    for i in range(16):
        memory.render(fitted, one(held_out[1], i % config.frames))
    rows.append(("a 64x64 view of the field", f"{1000 * clock.seconds / 16:.1f} ms"))
    a, b = (memory.fit(data, config.iterations[-1]).voxels for _ in range(2))
    other = float((a.colour != b.colour).any(1).float().mean())
    rows.append(("two fits with one seed", f"{100 * other:.2f}% of the voxels differ in colour"))
    return rows


def timed_fit(
    memory: RadianceMemory, data: RadianceField, iterations: int, held_out: tuple[Frame, Camera]
) -> tuple[float, float, RadianceField]:
    """Seconds, PSNR (dB) of held-out views, and the data with the field."""
    clock = Clock(str(data.fitted.device))
    fitted = memory.fit(data, iterations)
    seconds = clock.seconds
    return seconds, decibels(lambda camera: memory.render(fitted, camera), held_out), fitted


def contract_rows(config: Config) -> list[tuple[str, str]]:
    """Without a field; with one fitted on the CPU, which is the same each time; with one fitted on
    the device."""
    size = (16, 24)
    settings = RadianceMemoryConfig(*size, shape=(64, 64, 48), keyframes=3, fit=FitConfig(rays=512))
    memory = RadianceMemory(
        PointMemory(PointMemoryConfig(capacity=4 * size[0] * size[1])), settings
    )
    recall = Recall(depth=0.1, colour=64, source=16, outliers=0.1)

    def fitted_there(data: RadianceField) -> RadianceField:
        return memory.fit(data, 30, seed=1)

    def fitted_on_cpu(data: RadianceField) -> RadianceField:
        here: Tensor = data.fitted
        return map_tensors(
            lambda x: x.to(here.device),
            memory.fit(map_tensors(lambda x: x.cpu(), data), 30, seed=1),
        )

    rows = []
    for name, refine, allowed in (
        ("contract, no field", None, None),
        ("contract, field fitted on the CPU", fitted_on_cpu, recall),
        ("contract, field fitted here", fitted_there, recall),
    ):
        clock = Clock(config.device)
        try:
            check_memory(memory, config.device, size, recall=allowed, refine=refine)
            said = "kept"
        except ContractError as error:
            said = f"broken: {error}"
        rows.append((name, f"{said} ({clock.seconds:.1f} s)"))
        print(rows[-1], flush=True)
    return rows


def nerfacto_rows(
    config: Config, seen: tuple[Frame, Camera], held_out: tuple[Frame, Camera]
) -> list[tuple[str, str]]:
    if importlib.util.find_spec("nerfstudio") is None:
        return [("Nerfacto", "skipped: nerfstudio is not installed here")]
    from worldsim.memory.nerfacto import NerfactoConfig, NerfactoField

    frames, camera = map_tensors(lambda x: x.cpu(), seen)
    trajectory = Trajectory.of(
        tuple(one(frames, i) for i in range(config.frames)), camera.intrinsics[0]
    )
    clock = Clock(config.device)
    fitted = NerfactoField.fit(
        trajectory,
        NerfactoConfig(iterations=config.nerfacto_iterations, implementation="torch"),
        config.device,
    )
    seconds = clock.seconds
    return [
        (
            f"Nerfacto, {config.nerfacto_iterations} iterations",
            f"{seconds:.1f} s, {decibels(fitted.render, held_out):.2f} dB",
        )
    ]


def main(config: Config) -> None:
    clock = Clock(config.device)
    seen, held_out = room(config)
    rows = (
        field_rows(config, seen, held_out)
        + contract_rows(config)
        + nerfacto_rows(config, seen, held_out)
    )
    name = torch.cuda.get_device_name(config.device) if config.device.startswith("cuda") else "CPU"
    print(f"\n| {name}, torch {torch.__version__} | |\n|---|---|")
    for row in [*rows, ("everything", f"{clock.seconds:.0f} s")]:
        print("| {} | {} |".format(*row))


if __name__ == "__main__":
    main(tyro.cli(Config))
