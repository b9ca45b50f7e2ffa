"""Nerfacto (Tancik et al., "Nerfstudio", 2023) fitted to a trajectory, on machines with CUDA.

It is no :class:`worldsim.protocols.SceneMemory`: no world steps with it. It renders views and
density of a trajectory that is fitted once.

It needs the extra ``nerf`` in an environment of its own (``constraints-nerf.txt``), since
nerfstudio pins old versions of numpy and others. Only this module converts cameras to nerfstudio's
axes (OpenGL: x right, y up, z backward). World axes stay, shifted and scaled so that the scene lies
in the box from -1 to 1.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from worldsim.camera import Camera, code_to_channel, quantise_depth, unproject
from worldsim.runtime.arguments import number, whole
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.extras import missing
from worldsim.runtime.json_config import check_ranges
from worldsim.state import MemoryView, Trajectory

if TYPE_CHECKING:
    from nerfstudio.cameras.cameras import Cameras
    from nerfstudio.models.nerfacto import NerfactoModel

OPENCV_TO_OPENGL = (1.0, -1.0, -1.0)
"""Signs of a camera's x, y and z axes."""


@dataclass(frozen=True)
class NerfactoConfig:
    """How a Nerfacto is made and fitted."""

    iterations: int = 2000
    """Steps of Adam."""
    rays: int = 4096
    """Rays a step."""
    learning_rate: float = 1e-2
    """Adam's, nerfstudio's own for Nerfacto; it falls to a tenth over the fit."""
    depth_weight: float = 0.05
    """Weight of the error of the expected depth, as a share of the true one, beside nerfstudio's
    losses. 0: colours alone."""
    implementation: Literal["auto", "tcnn", "torch"] = "auto"
    """``tcnn`` needs tiny-cuda-nn and CUDA; ``auto`` takes it where it is installed."""
    levels: int = 16
    """Levels of the hash grid."""
    log2_hashmap_size: int = 19
    """Its size."""
    hidden: int = 64
    """Width of its layers."""
    proposal_samples: tuple[int, int] = (256, 96)
    """Samples a ray of the two proposal networks."""
    samples: int = 48
    """Samples a ray of the field."""
    seed: int = 0
    """Of the weights and of the rays drawn; on the CPU the same seed gives the same fit."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, most in {
            "iterations": 10**9,
            "rays": 2**20,
            "levels": 64,
            "hidden": 1024,
            "samples": 4096,
        }.items():
            whole(f"NerfactoConfig.{name}", getattr(self, name), 1, most)
        whole("NerfactoConfig.log2_hashmap_size", self.log2_hashmap_size, 1, 28)
        number("NerfactoConfig.learning_rate", self.learning_rate, 1e-12, 1e3)
        number("NerfactoConfig.depth_weight", self.depth_weight, 0.0, 1e9)


@dataclass(frozen=True)
class Placement:
    """How world metres become nerfstudio's units: (x - centre) * scale. centre: (3,) float32."""

    centre: Tensor
    scale: float


def placement(trajectory: Trajectory) -> Placement:
    """Brings all but 1% of the points seen (and all cameras) into the box from -1 to 1."""
    position = unproject(trajectory.depth, trajectory.cameras)[torch.isfinite(trajectory.depth)]
    cameras = trajectory.pose[:, :3, 3].float()
    if not len(position):
        position = cameras
    # At most about a million values: what torch.quantile takes.
    position = position[:: 1 + len(position) // 1_000_000]
    ends = torch.quantile(position, torch.tensor([0.005, 0.995]), dim=0)
    low, high = torch.minimum(ends[0], cameras.amin(0)), torch.maximum(ends[1], cameras.amax(0))
    return Placement(0.5 * (low + high), 0.95 / max(0.5 * float((high - low).max()), 1e-3))


def nerfstudio_cameras(camera: Camera, place: Placement) -> Cameras:
    """The cameras as nerfstudio's ``Cameras``, on the CPU."""
    cameras_module = _nerfstudio("nerfstudio.cameras.cameras")
    pose = camera.pose[:, :3].float().cpu().clone()
    pose[:, :, :3] *= torch.tensor(OPENCV_TO_OPENGL)
    pose[:, :, 3] = (pose[:, :, 3] - place.centre) * place.scale
    fx, fy, cx, cy = camera.intrinsics.float().cpu()[:, :, None].unbind(1)
    return cameras_module.Cameras(pose, fx, fy, cx, cy, camera.width, camera.height)


class NerfactoField:
    """A fitted Nerfacto: see :meth:`fit` and :meth:`render`."""

    def __init__(self, model: NerfactoModel, place: Placement, losses: list[float]) -> None:
        self.model, self.place, self.losses = model, place, losses

    @classmethod
    def fit(
        cls,
        trajectory: Trajectory,
        config: NerfactoConfig | None = None,
        device: torch.device | str | None = None,
    ) -> NerfactoField:
        """Fit a Nerfacto to all frames of a trajectory.

        device: CUDA where there is one, else the CPU, where a full-size fit takes hours. ``losses``
        holds the loss of every step.
        """
        config = config or NerfactoConfig()
        device = resolve_device(device)
        place = placement(trajectory)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)
            model = _model(config, len(trajectory), place, device)
            losses = _train(model, trajectory, place, config, device)
        return cls(model.eval().requires_grad_(False), place, losses)

    @torch.no_grad()
    def render(self, camera: Camera, chunk: int = 8192) -> MemoryView:
        """Render the field at cameras of any size.

        The mask is where it is opaque: unlike a memory, it fills unseen regions with its own guess.
        Depth is the median along the ray.
        """
        b, h, w = len(camera.pose), camera.height, camera.width
        cameras = nerfstudio_cameras(camera, self.place).to(self.model.device)
        shown = []
        for i in range(b):
            rays = cameras.generate_rays(camera_indices=i).flatten()
            for start in range(0, h * w, chunk):
                part = rays[start : start + chunk]
                found = self.model(part)
                depth = found["depth"] / part.metadata["directions_norm"] / self.place.scale
                shown.append(torch.cat([found["rgb"], found["accumulation"], depth], 1))
        values = torch.cat(shown).view(b, h, w, 5).movedim(-1, 1).to(camera.pose.device)
        mask = values[:, 3] >= 0.5
        rgb = (values[:, :3] * 255.0).round().clamp(0, 255).to(torch.uint8)
        code = quantise_depth(values[:, 4])
        return MemoryView(
            rgb=rgb * mask[:, None],
            inverse_depth=code * mask,
            mask=mask,
            offset=8 * mask[:, None].expand(b, 2, h, w).to(torch.uint8),
            source=(255.0 * code_to_channel(code)).round().to(torch.uint8) * mask,
        )


def _train(
    model: NerfactoModel,
    trajectory: Trajectory,
    place: Placement,
    config: NerfactoConfig,
    device: torch.device,
) -> list[float]:
    callbacks_module = _nerfstudio("nerfstudio.engine.callbacks")
    where = callbacks_module.TrainingCallbackLocation
    attributes = callbacks_module.TrainingCallbackAttributes(
        optimizers=None, grad_scaler=None, pipeline=None, trainer=None
    )
    callbacks = model.get_training_callbacks(attributes)
    parameters = [p for group in model.get_param_groups().values() for p in group]
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate, eps=1e-15)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1.0 / config.iterations))
    cameras = nerfstudio_cameras(trajectory.cameras, place).to(device)
    rgb, depth = trajectory.rgb.to(device), trajectory.depth.to(device)
    t, _, h, w = rgb.shape
    generator = torch.Generator().manual_seed(config.seed)
    model.train()
    losses = []
    for step in range(config.iterations):
        pixel = torch.randint(t * h * w, (config.rays,), generator=generator).to(device)
        frame, row, column = pixel // (h * w), pixel // w % h, pixel % w
        rays = cameras.generate_rays(frame[:, None], torch.stack([row, column], 1) + 0.5)
        batch = {"image": rgb[frame, :, row, column].float() / 255.0, "indices": frame}
        for callback in callbacks:
            callback.run_callback_at_location(step, where.BEFORE_TRAIN_ITERATION)
        outputs = model(rays)
        losses_by_name = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
        total = sum(losses_by_name.values())
        if config.depth_weight:
            truth = (
                depth[frame, row, column][:, None] * rays.metadata["directions_norm"] * place.scale
            )
            finite = torch.isfinite(truth)
            wrong = (outputs["expected_depth"] - truth).abs() / truth.clamp(min=1e-3)
            total = total + config.depth_weight * wrong.masked_fill(~finite, 0.0).mean()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        schedule.step()
        for callback in callbacks:
            callback.run_callback_at_location(step, where.AFTER_TRAIN_ITERATION)
        losses.append(float(total.detach()))
    return losses


def _model(
    config: NerfactoConfig, frames: int, place: Placement, device: torch.device
) -> NerfactoModel:
    nerfacto = _nerfstudio("nerfstudio.models.nerfacto")
    boxes = _nerfstudio("nerfstudio.data.scene_box")
    optimizers = _nerfstudio("nerfstudio.cameras.camera_optimizers")
    implementation = config.implementation
    if implementation == "auto":
        implementation = (
            "tcnn" if device.type == "cuda" and importlib.util.find_spec("tinycudann") else "torch"
        )
    settings = nerfacto.NerfactoModelConfig(
        near_plane=0.05 * place.scale,
        num_levels=config.levels,
        log2_hashmap_size=config.log2_hashmap_size,
        hidden_dim=config.hidden,
        hidden_dim_color=config.hidden,
        num_proposal_samples_per_ray=config.proposal_samples,
        num_nerf_samples_per_ray=config.samples,
        # Poses are exact, and one camera took every frame.
        camera_optimizer=optimizers.CameraOptimizerConfig(mode="off"),
        use_appearance_embedding=False,
        implementation=implementation,
    )
    box = boxes.SceneBox(torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]))
    with _without_lpips():
        return settings.setup(scene_box=box, num_train_data=frames).to(device)


@contextlib.contextmanager
def _without_lpips() -> Iterator[None]:
    """Context in which Nerfacto does not create its LPIPS metric.

    That metric needs torchvision and downloads weights; nothing here uses it.
    """
    module: Any = _nerfstudio("torchmetrics.image.lpip")
    original = module.LearnedPerceptualImagePatchSimilarity
    module.LearnedPerceptualImagePatchSimilarity = lambda **_: None
    try:
        yield
    finally:
        module.LearnedPerceptualImagePatchSimilarity = original


def _nerfstudio(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        what = (
            "Nerfacto needs nerfstudio, in an environment of its own; "
            "worldsim.memory.RadianceMemory needs no more than torch"
        )
        raise missing(what, "nerf", error) from error
