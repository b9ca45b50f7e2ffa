"""Executable contracts of the seams: run them in the tests of every implementation, yours included.

Each ``check_...`` returns None if the implementation keeps its promises and raises :class:`ContractError`, naming the
broken one, if it does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldsim.camera import Camera, code_to_channel, quantise_depth, snap_pose
from worldsim.errors import WorldsimError
from worldsim.memory.splat import MAP_CELLS
from worldsim.protocols import SceneMemory
from worldsim.state import Frame, MemoryView, flatten, map_tensors


class ContractError(WorldsimError, AssertionError):
    """An implementation breaks a promise of its seam."""


def check_memory(memory: SceneMemory, device: Any = "cpu", size: tuple[int, int] = (16, 24), depth_tolerance: float = 0.02) -> None:
    """Check a scene memory on three small synthetic worlds of ``size`` (height, width).

    It must keep its inputs as they are, do the same thing twice alike, treat each environment as if it were alone (bit
    by bit), give views as :class:`worldsim.state.MemoryView` documents them, show an integrated frame again at its own
    camera wherever the mask says that it knows (depth within the share ``depth_tolerance``, colours exactly), and invent
    nothing: not in holes, not in an empty memory, not behind the camera's back.
    """
    if not isinstance(memory, SceneMemory):
        raise ContractError(f"{type(memory).__name__} lacks one of the methods empty, integrate, render, surroundings")
    frame, camera, step = _synthetic_frames(device, *size)
    empty = memory.empty(3, device)
    _check_view(memory.render(empty, camera), camera)
    _require(not memory.render(empty, camera).mask.any(), "an empty memory shows something")

    before = map_tensors(torch.clone, (empty, frame, camera, step))
    filled = memory.integrate(empty, frame, camera, step)
    view = memory.render(filled, camera)
    around = memory.surroundings(filled, camera.pose)
    _require(_equal(before, (empty, frame, camera, step)), "integrate, render or surroundings changed its inputs")
    _require(_equal(view, memory.render(filled, camera)), "two renders of the same memory differ")
    _require(_equal(filled, memory.integrate(empty, frame, camera, step)), "two integrations of the same frame differ")
    _check_view(view, camera)
    _check_map(around, 3)
    _check_recall(view, frame, depth_tolerance)

    behind = Camera(_turned_round(camera.pose), camera.intrinsics, camera.height, camera.width)
    _require(not memory.render(filled, behind).mask.any(), "the memory shows something where no frame has looked")

    again = memory.integrate(filled, _moved(frame), camera, step + 1)
    views = (view, memory.render(again, camera), around)
    _check_rows_alone(memory, frame, camera, step, views)


def _check_view(view: MemoryView, camera: Camera) -> None:
    b, h, w = len(camera.pose), camera.height, camera.width
    expected = {
        "rgb": (view.rgb, (b, 3, h, w), torch.uint8),
        "inverse_depth": (view.inverse_depth, (b, h, w), torch.int32),
        "mask": (view.mask, (b, h, w), torch.bool),
        "offset": (view.offset, (b, 2, h, w), torch.uint8),
        "source": (view.source, (b, h, w), torch.uint8),
    }
    for name, (tensor, shape, dtype) in expected.items():
        found = f"{tensor.dtype} {tuple(tensor.shape)}"
        _require(tuple(tensor.shape) == shape and tensor.dtype == dtype, f"view.{name} is {found}, not {dtype} {shape}")
        hole = ~view.mask if tensor.ndim == 3 else ~view.mask[:, None].expand_as(tensor)
        _require(not (tensor.to(torch.int32)[hole] != 0).any(), f"view.{name} invents something in holes")
    _require(not (view.offset > 15).any(), "view.offset exceeds 15")
    in_range = (view.inverse_depth >= 0) & (view.inverse_depth <= 65535)
    _require(bool(in_range.all()), "view.inverse_depth leaves [0, 65535]")


def _check_map(around: Tensor, batch: int) -> None:
    shape = (batch, 2, MAP_CELLS, MAP_CELLS)
    found = f"{around.dtype} {tuple(around.shape)}"
    _require(around.shape == shape and around.dtype == torch.uint8, f"surroundings is {found}, not uint8 {shape}")


def _check_recall(view: MemoryView, frame: Frame, tolerance: float) -> None:
    assert frame.inverse_depth is not None
    mask = view.mask
    same = (view.rgb == frame.rgb).all(1)
    _require(bool(same[mask].all()), f"{int((~same & mask).sum())} of {int(mask.sum())} pixels shown again have other colours")
    sky = frame.inverse_depth == 0
    _require(bool((sky == (view.inverse_depth == 0))[mask].all()), "sky and points are confused when a frame is shown again")
    expected = frame.inverse_depth.float()
    error = ((view.inverse_depth.float() - expected).abs() / expected.clamp(min=1.0))[mask]
    wrong = int((error > tolerance).sum())
    _require(wrong == 0, f"{wrong} of {int(mask.sum())} depths shown again are off by more than {tolerance:.1%}")
    channel = 255.0 * code_to_channel(frame.inverse_depth)
    _require(bool(((view.source.float() - channel).abs() <= 1.0)[mask].all()), "view.source is not the distance of capture")


def _check_rows_alone(memory: SceneMemory, frame: Frame, camera: Camera, step: Tensor, together: tuple[Any, ...]) -> None:
    """Repeat the story for each environment alone, and compare bit by bit."""
    for i in range(len(step)):
        own_frame, own_step, own = map_tensors(lambda x, i=i: x[i : i + 1].clone(), (frame, step, together))
        own_camera = Camera(camera.pose[i : i + 1], camera.intrinsics[i : i + 1], camera.height, camera.width)
        data = memory.integrate(memory.empty(1, step.device), own_frame, own_camera, own_step)
        later = memory.integrate(data, _moved(own_frame), own_camera, own_step + 1)
        alone = (memory.render(data, own_camera), memory.render(later, own_camera), memory.surroundings(data, own_camera.pose))
        _require(_equal(own, alone), f"environment {i} of 3 comes out differently when it is alone")


def _synthetic_frames(device: Any, height: int, width: int) -> tuple[Frame, Camera, Tensor]:
    """Three frames of wavy walls with sky above, each its own, and three cameras anywhere."""
    generator = torch.Generator().manual_seed(0)
    u = torch.linspace(0, 6, width)[None, None, :]
    v = torch.linspace(0, 3, height)[None, :, None]
    depth = 3.0 + torch.sin(u + torch.arange(3.0)[:, None, None]) + 0.3 * torch.cos(v)
    depth[:, : height // 4, width // 2 :] = torch.inf
    rgb = torch.randint(0, 256, (3, 3, height, width), generator=generator, dtype=torch.uint8)
    pose = torch.eye(4).repeat(3, 1, 1)
    angle = torch.tensor([0.0, 1.0, -2.5])
    pose[:, 0, 0] = pose[:, 2, 2] = angle.cos()
    pose[:, 0, 2], pose[:, 2, 0] = angle.sin(), -angle.sin()
    pose[:, :3, 3] = torch.tensor([[0.0, 0.0, 0.0], [5.0, -1.0, 2.0], [-100.0, 40.0, 7.0]])
    pose = snap_pose(pose)
    focal = 0.5 * width
    intrinsics = torch.tensor([focal, focal, 0.5 * width, 0.5 * height]).repeat(3, 1)
    step = torch.tensor([0, 3, 11])
    frame = Frame(rgb.to(device), quantise_depth(depth).to(device), pose.to(device))
    return frame, Camera(pose.to(device), intrinsics.to(device), height, width), step.to(device)


def _moved(frame: Frame) -> Frame:
    """The same view with something new in the middle, half as far away."""
    assert frame.inverse_depth is not None
    code, rgb = frame.inverse_depth.clone(), frame.rgb.clone()
    h, w = code.shape[1:]
    rows, columns = slice(h // 3, 2 * h // 3), slice(w // 3, 2 * w // 3)
    code[:, rows, columns] *= 2
    rgb[:, :, rows, columns] = 255 - rgb[:, :, rows, columns]
    return Frame(rgb, code, frame.pose)


def _turned_round(pose: Tensor) -> Tensor:
    """Half a turn about the camera's own down axis."""
    return pose * torch.tensor([-1.0, 1.0, -1.0, 1.0], device=pose.device)


def _equal(a: Any, b: Any) -> bool:
    left, right = flatten(a), flatten(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise ContractError(complaint)
