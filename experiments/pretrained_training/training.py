"""What the trainings share: a clock that sets the learning rate, averaged weights, files."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldsim.runtime.files import replacing

WARM_UP_STEPS = 200
SAVE_SECONDS = 45.0
AVERAGE = 0.999
"""Share of the averaged weights that a step keeps."""
GRADIENT_NORM = 1.0


@dataclass
class Training:
    """Trains one model for a number of seconds or steps, and saves what it reaches.

    model: a module, or several in a ModuleList.
    folder: for ``weights.safetensors`` (averaged, 16 bits) and ``curve.json``. Training resumes
        from averaged weights and elapsed seconds that are there.
    seconds: time limit of this model. The learning rate falls to 0 along a cosine until then.
    steps: number of steps after which it ends in any case, for rehearsals.
    """

    model: nn.Module
    folder: Path
    seconds: float
    learning_rate: float
    steps: int | None = None
    weight_decay: float = 0.01
    curve: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.elapsed, self.step = 0.0, 0
        curve = self.folder / "curve.json"
        if curve.is_file() and (self.folder / "weights.safetensors").is_file():
            load_weights(self.model, self.folder)
            self.curve = json.loads(curve.read_text())
            self.elapsed, self.step = self.curve[-1]["seconds"], int(self.curve[-1]["step"])
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=self.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=self.weight_decay,
            fused=self.parameters[0].is_cuda,
        )

    def run(self) -> Iterator[int]:
        """Yield the number of each step until time is over; then save the averaged weights."""
        begun, saved = time.perf_counter() - self.elapsed, time.perf_counter()
        while True:
            self.elapsed = time.perf_counter() - begun
            if self.elapsed >= self.seconds or (self.steps is not None and self.step >= self.steps):
                break
            done = self.elapsed / self.seconds
            if self.steps is not None:
                done = max(done, self.step / self.steps)
            warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
            rate = self.learning_rate * warm * (0.01 + 0.99 * math.cos(done * math.pi / 2) ** 2)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            yield self.step
            self.step += 1
            if time.perf_counter() - saved > SAVE_SECONDS:
                self.save()
                saved = time.perf_counter()
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)
        self.save()

    def update(self, loss: Tensor) -> None:
        """Take one step of the optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, GRADIENT_NORM)
        self.optimizer.step()
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1.0 - keep)

    def log(self, **values: float | Tensor) -> None:
        """Add a row to the curve and print it."""
        row = {"step": float(self.step), "seconds": round(self.elapsed, 1)}
        row |= {
            name: round(float(torch.as_tensor(value).detach()), 5) for name, value in values.items()
        }
        self.curve.append(row)
        print(self.folder.name, row, flush=True)

    def save(self) -> None:
        """Write the averaged weights in 16 bits, and the curve."""
        names = [name for name, p in self.model.named_parameters() if p.requires_grad]
        save_weights(dict(zip(names, self.average, strict=True)), self.folder)
        if not self.curve:
            self.log()
        with replacing(self.folder / "curve.json") as path:
            path.write_text(json.dumps(self.curve))


def save_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write parameters in 16 bits to ``weights.safetensors`` in a folder, which may be new."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: x.detach().to(torch.float16).cpu().contiguous() for name, x in weights.items()}
    with replacing(folder / "weights.safetensors") as path:
        save_file(tensors, path)


def load_weights(model: nn.Module, folder: Path) -> None:
    """Load ``weights.safetensors`` of a folder into a model, in the model's precision."""
    found = load_file(folder / "weights.safetensors")
    missing, unknown = model.load_state_dict(found, strict=False)
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    if unknown or wanted & set(missing):
        raise ValueError(f"{folder}: other weights than the model's: {unknown or missing}")


def autocast(device: torch.device) -> torch.autocast:
    """Return bfloat16 autocast on a GPU, none on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
