"""Executable contracts: tests of implementations of the protocols in :mod:`worldsim.protocols`.

Each ``check_...`` function returns None if the implementation fulfils its contract. Otherwise it
raises :class:`ContractError`, which names the violated condition. Call them in the tests of your
own implementations.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.camera import Camera, code_to_channel, move, quantise_depth, snap_pose
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.memory.splat import MAP_CELLS, hole_view
from worldsim.protocols import (
    Dynamics,
    DynamicsSpec,
    MemoryT,
    Painter,
    PainterSpec,
    PaintInputs,
    Policy,
    Prediction,
    Scene,
    SceneMemory,
    StepInputs,
    fit_scene,
)
from worldsim.runtime.types import Action, Array, Space
from worldsim.state import Frame, MemoryView, SceneStart, flatten, map_tensors, unflatten


class ContractError(WorldsimError, AssertionError):
    """An implementation violates the contract of its protocol."""


@dataclass(frozen=True)
class Recall:
    """Tolerances for rendering an integrated frame at the frame's own camera."""

    depth: float = 0.02
    """Largest relative depth error."""
    colour: int = 0
    """Largest colour difference, in 1/255."""
    source: int = 1
    """Largest difference of the capture distance, as 255 * depth channel."""
    outliers: float = 0.0
    """Share of the rendered pixels that may exceed these tolerances or confuse sky and points."""


def check_memory(
    memory: SceneMemory[MemoryT],
    device: torch.device | str = "cpu",
    size: tuple[int, int] = (16, 24),
    recall: Recall | None = None,
    refine: Callable[[MemoryT], MemoryT] | None = None,
) -> None:
    """Check a scene memory on three small synthetic worlds.

    The memory must fulfil these conditions:

    - Its data is a record of tensors with a leading batch axis, whose shapes and dtypes never
      change (snapshots depend on it).
    - Methods do not change their inputs and are deterministic.
    - Rows of a batch are independent, bit for bit.
    - Views have any requested size and the format of :class:`worldsim.state.MemoryView`.
    - Rendered at its own camera, an integrated frame is reproduced within ``recall`` wherever the
      mask is True.
    - Nothing is rendered in holes, from an empty memory, or behind the camera.

    memory: the memory to check.
    device: where the synthetic frames are placed.
    size: height and width of the frames in pixels.
    recall: tolerances; by default those of :class:`Recall`.
    refine: an operation on the memory's data besides integrating, for example fitting a field with
    a fixed seed. It maps data to new data. All conditions are then checked on refined data.

    Raises ContractError.
    """
    if not isinstance(memory, SceneMemory):
        raise ContractError(
            f"{type(memory).__name__} lacks one of the methods empty, integrate, render, "
            f"surroundings"
        )
    refine, recall = refine or _unrefined, recall or Recall()
    frame, camera, step = _synthetic_frames(device, *size)
    empty = memory.empty(3, device)
    _check_record(empty, empty, 3)
    for nothing in (empty, refine(empty)):
        _check_view(memory.render(nothing, camera), camera)
        _require(not memory.render(nothing, camera).mask.any(), "an empty memory shows something")

    before = map_tensors(torch.clone, (empty, frame, camera, step))
    integrated = memory.integrate(empty, frame, camera, step)
    _require(_equal(before, (empty, frame, camera, step)), "integrate changed its inputs")
    _require(
        _equal(integrated, memory.integrate(empty, frame, camera, step)),
        "two integrations of the same frame differ",
    )
    before_refining = map_tensors(torch.clone, integrated)
    filled = refine(integrated)
    _require(_equal(before_refining, integrated), "refine changed its input")
    _require(_equal(filled, refine(integrated)), "two refinements of the same data differ")
    _check_record(filled, empty, 3)
    before_view = map_tensors(torch.clone, filled)
    view = memory.render(filled, camera)
    around = memory.surroundings(filled, camera.pose)
    unchanged = _equal(before[1:], (frame, camera, step)) and _equal(before_view, filled)
    _require(unchanged, "render or surroundings changed its inputs")
    _require(_equal(view, memory.render(filled, camera)), "two renders of the same memory differ")
    _check_view(view, camera)
    _check_map(around, 3)
    _check_recall(view, frame, recall)

    large = Camera(camera.pose, 2.0 * camera.intrinsics, 2 * camera.height, 2 * camera.width)
    _check_view(memory.render(filled, large), large)
    behind = Camera(_turned_round(camera.pose), camera.intrinsics, camera.height, camera.width)
    _require(
        not memory.render(filled, behind).mask.any(),
        "the memory shows something where no frame has looked",
    )

    again = memory.integrate(filled, _move(frame), camera, step + 1)
    _check_record(again, empty, 3)
    views = (view, memory.render(again, camera), around)
    _check_rows_alone(memory, refine, frame, camera, step, views)


def check_dynamics(dynamics: Dynamics, device: torch.device | str = "cpu") -> None:
    """Check a dynamics over two steps of three small synthetic environments.

    The dynamics must fulfil these conditions:

    - Its context is a record of tensors with a leading batch axis, whose shapes and dtypes never
      change.
    - ``predict`` and ``observe`` do not change their arguments and are deterministic.
    - Frames have the size, dtype and pose that ``spec`` and the inputs require; features are
      finite.
    - Within one batch size, a row's frame does not depend on the other rows, bit for bit.

    Raises ContractError.
    """
    if not isinstance(dynamics, Dynamics):
        raise ContractError(
            f"{type(dynamics).__name__} lacks one of spec, module, empty, predict, observe"
        )
    spec = dynamics.spec
    inputs = _synthetic_inputs(spec, device)
    empty = dynamics.empty(3, device)
    _check_record(empty, empty, 3)
    before = map_tensors(torch.clone, (empty, inputs))

    first, context = dynamics.predict(empty, inputs)
    _require(_equal(before, (empty, inputs)), "predict changed its arguments")
    _require(_equal((first, context), dynamics.predict(empty, inputs)), "two predictions differ")
    _check_record(context, empty, 3)
    _check_prediction(first, inputs, spec)

    observed = dynamics.observe(empty, inputs, first.frame)
    _require(_equal(before, (empty, inputs)), "observe changed its arguments")
    _check_record(observed, empty, 3)

    following = dataclasses.replace(inputs, last=first.frame, step=inputs.step + 1)
    kept = map_tensors(torch.clone, context)
    second, after = dynamics.predict(context, following)
    _require(_equal(kept, context), "predict changed its context")
    _check_record(after, empty, 3)
    _check_prediction(second, following, spec)

    # Row 0 stays, and the other rows are swapped.
    order = torch.tensor([0, 2, 1], device=inputs.seed.device)
    others = map_tensors(lambda x: x[order], (context, following))
    moved, _ = dynamics.predict(*others)
    row = map_tensors(lambda x: x[:1], (second, moved))
    _require(_equal(row[0], row[1]), "an environment's frame depends on its neighbours")


def check_scene(scene: Scene, world: Any) -> None:
    """Check a scene as a start of ``world``, a :class:`worldsim.world.World`.

    ``start`` must return a :class:`worldsim.state.SceneStart` that the world accepts. Equal random
    generators must give equal starts, and no other random numbers may be used. Raises
    ContractError.
    """
    if not isinstance(scene, Scene):
        raise ContractError(f"{type(scene).__name__} lacks the method start")
    scene = fit_scene(scene, world)
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()
    for seed in range(3):
        first, second = (scene.start(np.random.default_rng(seed)) for _ in range(2))
        _require(
            isinstance(first, SceneStart), f"start returns {type(first).__name__}, not SceneStart"
        )
        _require(
            _equal(first, second) and first.name == second.name,
            "the same random generator gives other starts",
        )
        try:
            world.check_start(first)
        except WorldsimError as error:
            raise ContractError(f"the world does not accept the start: {error}") from error
    same = all(
        np.array_equal(a, b) for a, b in zip(numpy_before, np.random.get_state(), strict=True)
    )
    _require(
        same and torch.equal(torch_before, torch.get_rng_state()),
        "start draws from global random numbers: draw from the generator that it is given",
    )


def check_painter(painter: Painter, device: torch.device | str = "cpu", colour: int = 0) -> None:
    """Check a painter on synthetic views.

    The painter must fulfil these conditions:

    - It returns whole frames with depth, at the cameras that it received, and does not change its
      inputs.
    - Equal inputs give equal frames; another seed and another step give other ones.
    - Places of a batch do not depend on one another, within ``colour``.
    - Given views keep their colour, and their depth unless only their colour is given.
    - Known pixels that are at least three pixels from any hole keep their colour within 1/255 and
      their depth.
    - Views of another size, too many views, and attributes that it does not have raise
      InvalidInputError.

    painter: the painter to check.
    device: where the synthetic views are placed.
    colour: largest difference between a place painted alone and in a batch, in 1/255.
    """
    spec = painter.spec
    n = min(2, spec.views)
    inputs = _paint_inputs(spec, 2, n, device)
    before = map_tensors(torch.clone, inputs)
    frame = painter.paint(inputs)
    _require(_equal(inputs, before), "paint changes its inputs")
    size = (2 * n, spec.height, spec.width)
    _require(
        frame.rgb.dtype == torch.uint8 and frame.rgb.shape == (2 * n, 3, *size[1:]),
        f"paint returns rgb {frame.rgb.dtype} {tuple(frame.rgb.shape)}, not uint8 {size} with 3 "
        "channels",
    )
    code = frame.inverse_depth
    _require(
        code is not None and code.dtype == torch.int32 and code.shape == size,
        "paint returns no inverse depth (b * n, h, w) int32",
    )
    assert code is not None
    _require(bool(((code >= 0) & (code <= 65535)).all()), "painted inverse depths leave [0, 65535]")
    _require(
        frame.pose is not None and torch.equal(frame.pose.cpu(), inputs.pose.flatten(0, 1).cpu()),
        "painted frames do not have the poses that were asked for",
    )
    _require(_equal(frame, painter.paint(inputs)), "equal inputs give different frames")
    for name in ("seed", "step"):
        other = dataclasses.replace(inputs, **{name: getattr(inputs, name) + 1})
        _require(
            not torch.equal(painter.paint(other).rgb, frame.rgb), f"another {name} changes nothing"
        )
    alone = painter.paint(_paint_inputs(spec, 1, n, device))
    difference = (alone.rgb.int() - frame.rgb[:n].int()).abs().max()
    _require(int(difference) <= colour, f"a place alone differs by {int(difference)} of 255")
    _check_known(painter, inputs)
    for wrong in (
        dataclasses.replace(inputs, view=hole_view(_paint_cameras(spec, 2 * n, device, 4))),
        _paint_inputs(spec, 1, spec.views + 1, device),
        dataclasses.replace(inputs, attributes=torch.zeros(2, len(spec.attributes) + 1)),
    ):
        try:
            painter.paint(wrong)
        except InvalidInputError:
            continue
        raise ContractError("paint accepts views or attributes that do not fit its spec")


def _check_known(painter: Painter, inputs: PaintInputs) -> None:
    """Check that given views and known pixels are kept."""
    spec, b, n = painter.spec, len(inputs), inputs.pose.shape[1]
    view, device = inputs.view, inputs.pose.device
    rows = torch.linspace(40, 200, spec.height, device=device).to(torch.uint8)
    shown = dataclasses.replace(
        view,
        rgb=rows[:, None].expand_as(view.rgb).clone(),
        inverse_depth=torch.full_like(view.inverse_depth, int(quantise_depth(torch.tensor(3.0)))),
    )
    half = torch.zeros_like(view.mask)
    half[..., : spec.width // 2] = True
    partly = painter.paint(dataclasses.replace(inputs, view=dataclasses.replace(shown, mask=half)))
    inner = (slice(None), slice(3, -3), slice(3, spec.width // 2 - 3))
    colours = [x[:, :, inner[1], inner[2]].int() for x in (partly.rgb, shown.rgb)]
    _require(
        int((colours[0] - colours[1]).abs().max()) <= 1, "known pixels do not keep their colour"
    )
    assert partly.inverse_depth is not None
    _require(
        torch.equal(partly.inverse_depth[inner], shown.inverse_depth[inner]),
        "known pixels do not keep their depth",
    )
    whole = dataclasses.replace(shown, mask=torch.ones_like(view.mask))
    given = torch.zeros(b, n, dtype=torch.bool, device=device)
    given[:, 0] = True
    for colour_only in (None, given):
        kept = painter.paint(
            dataclasses.replace(inputs, view=whole, given=given, colour_only=colour_only)
        )
        assert kept.inverse_depth is not None
        _require(torch.equal(kept.rgb[::n], whole.rgb[::n]), "given views change their colour")
        if colour_only is None:
            _require(
                torch.equal(kept.inverse_depth[::n], whole.inverse_depth[::n]),
                "given views change their depth",
            )


def _paint_cameras(
    spec: PainterSpec, count: int, device: torch.device | str, smaller: int = 0
) -> Camera:
    """Return level cameras that stand at one place and turn by 45 degrees from one to the next."""
    level = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    turn = torch.zeros(count, 6)
    turn[:, 4] = torch.arange(count) * (np.pi / 4)
    pose = snap_pose(move(level.expand(count, 4, 4), turn)).to(device)
    whole = spec.cameras(pose)
    return Camera(pose, whole.intrinsics, spec.height - smaller, spec.width - smaller)


def _paint_inputs(
    spec: PainterSpec, places: int, views: int, device: torch.device | str
) -> PaintInputs:
    """Return views of which nothing is known."""
    camera = _paint_cameras(spec, views, device)
    camera = dataclasses.replace(
        camera,
        pose=camera.pose.repeat(places, 1, 1),
        intrinsics=camera.intrinsics.repeat(places, 1),
    )
    return PaintInputs(
        view=hole_view(camera),
        pose=camera.pose.unflatten(0, (places, views)),
        seed=torch.arange(places, device=device),
        step=torch.zeros(places, dtype=torch.int64, device=device),
    )


def check_policy(policy: Policy, action_space: Space, observations: Sequence[Array]) -> None:
    """Check a policy on a fixed sequence of observations.

    Actions must be in ``action_space``, depend only on the seed and on the observations since
    ``reset``, and belong to the caller. Observations must not be changed. ``reset`` must clear all
    state and accept None as a seed.

    observations: at least 2.

    Raises ContractError.
    """
    if not isinstance(policy, Policy):
        raise ContractError(f"{type(policy).__name__} lacks one of the methods reset, act")
    _require(
        len(observations) >= 2,
        f"check_policy needs at least 2 observations, got {len(observations)}",
    )

    def played(seed: int | None, spoil: bool = False) -> list[Action]:
        policy.reset(seed)
        acts: list[Action] = []
        for observation in observations:
            before = copy.deepcopy(observation)
            act = policy.act(observation)
            _require(_alike(before, observation), "act changed its observation")
            _require(
                action_space.contains(act), f"act gave {act!r}, which is not in {action_space}"
            )
            acts.append(copy.deepcopy(act))
            if spoil and isinstance(act, np.ndarray):
                act[...] = 0
        return acts

    first = played(7)
    _require(_alike(first, played(7)), "the same seed and observations give other actions")
    played(8)
    _require(_alike(first, played(7)), "reset does not clear the state of the previous episode")
    _require(
        _alike(first, played(7, spoil=True)),
        "changing a returned action changes later ones",
    )
    policy.reset(7)
    for observation in observations[: len(observations) // 2]:
        policy.act(observation)
    _require(_alike(first, played(7)), "reset does not clear the state of an interrupted episode")
    played(None)


def _unrefined(data: MemoryT) -> MemoryT:
    return data


def _alike(a: object, b: object) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_alike(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(np.asarray(a), np.asarray(b))


def _synthetic_inputs(spec: DynamicsSpec, device: torch.device | str) -> StepInputs:
    """Return inputs of three different environments, with geometry if the dynamics has it."""
    frame, camera, step = _synthetic_frames(device, spec.height, spec.width)
    act = torch.arange(3, device=device)
    act = act % spec.actions if spec.actions else torch.rand(3, spec.action_dim, device=device)
    motion = torch.zeros(3, 6, device=device)
    motion[:, 2] = 0.1
    pose = snap_pose(move(camera.pose, motion))
    seen = dataclasses.replace(camera, pose=pose)
    return StepInputs(
        last=frame if spec.depth else Frame(frame.rgb),
        act=act,
        motion=motion if spec.depth else torch.zeros_like(motion),
        pose=pose if spec.depth else None,
        view=hole_view(seen) if spec.depth else None,
        intrinsics=camera.intrinsics,
        seed=torch.tensor([5, 6, 7], device=device),
        step=step,
    )


def _check_prediction(prediction: Prediction, inputs: StepInputs, spec: DynamicsSpec) -> None:
    frame, b = prediction.frame, len(inputs)
    expected: dict[str, tuple[Tensor, tuple[int, ...], torch.dtype]] = {
        "frame.rgb": (frame.rgb, (b, 3, spec.height, spec.width), torch.uint8)
    }
    if spec.depth:
        _require(frame.inverse_depth is not None, "frame.inverse_depth is None")
        assert frame.inverse_depth is not None
        size = (b, spec.height, spec.width)
        expected["frame.inverse_depth"] = (frame.inverse_depth, size, torch.int32)
        _require(
            frame.pose is not None and inputs.pose is not None and _equal(frame.pose, inputs.pose),
            "frame.pose is not the pose of the inputs",
        )
    expected["features"] = (prediction.features, (b, spec.features), torch.float32)
    for name, (tensor, shape, dtype) in expected.items():
        found = f"{tensor.dtype} {tuple(tensor.shape)}"
        _require(
            tuple(tensor.shape) == shape and tensor.dtype == dtype,
            f"{name} is {found}, not {dtype} {shape}",
        )
    _require(bool(torch.isfinite(prediction.features).all()), "features are not finite")


def _check_record(data: object, empty: object, batch: int) -> None:
    found, expected = flatten(data), flatten(empty)
    _require(found.keys() == expected.keys(), "memory data changes its structure")
    for name, tensor in found.items():
        _require(
            len(tensor) == batch,
            f"memory data: {name} is {tuple(tensor.shape)}, it lacks the batch axis of {batch}",
        )
        same = tensor.shape == expected[name].shape and tensor.dtype == expected[name].dtype
        _require(
            same,
            f"memory data: {name} changes from {expected[name].dtype} "
            f"{tuple(expected[name].shape)}",
        )
        _require(not tensor.requires_grad, f"memory data: {name} requires gradients")
    _require(_equal(unflatten(data, found), data), "memory data cannot be rebuilt from its tensors")


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
        _require(
            tuple(tensor.shape) == shape and tensor.dtype == dtype,
            f"view.{name} is {found}, not {dtype} {shape}",
        )
        hole = ~view.mask if tensor.ndim == 3 else ~view.mask[:, None].expand_as(tensor)
        _require(
            not (tensor.to(torch.int32)[hole] != 0).any(), f"view.{name} invents something in holes"
        )
    _require(not (view.offset > 15).any(), "view.offset exceeds 15")
    in_range = (view.inverse_depth >= 0) & (view.inverse_depth <= 65535)
    _require(bool(in_range.all()), "view.inverse_depth leaves [0, 65535]")


def _check_map(around: Tensor, batch: int) -> None:
    shape = (batch, 2, MAP_CELLS, MAP_CELLS)
    found = f"{around.dtype} {tuple(around.shape)}"
    _require(
        around.shape == shape and around.dtype == torch.uint8,
        f"surroundings is {found}, not uint8 {shape}",
    )


def _check_recall(view: MemoryView, frame: Frame, recall: Recall) -> None:
    assert frame.inverse_depth is not None
    mask = view.mask
    allowed = int(recall.outliers * int(mask.sum()))

    def demand(holds: Tensor, complaint: str) -> None:
        wrong = int((~holds & mask).sum())
        _require(wrong <= allowed, f"{wrong} of {int(mask.sum())} pixels shown again {complaint}")

    colour = (view.rgb.int() - frame.rgb.int()).abs().amax(1)
    demand(colour <= recall.colour, f"have other colours (by more than {recall.colour})")
    sky = frame.inverse_depth == 0
    demand(sky == (view.inverse_depth == 0), "confuse sky and points")
    expected = frame.inverse_depth.float()
    error = (view.inverse_depth.float() - expected).abs() / expected.clamp(min=1.0)
    demand(error <= recall.depth, f"have depths off by more than {recall.depth:.1%}")
    channel = 255.0 * code_to_channel(frame.inverse_depth)
    demand(
        (view.source.float() - channel).abs() <= recall.source,
        "have a view.source that is not the distance of capture",
    )


def _check_rows_alone(
    memory: SceneMemory[MemoryT],
    refine: Callable[[MemoryT], MemoryT],
    frame: Frame,
    camera: Camera,
    step: Tensor,
    together: tuple[MemoryView, MemoryView, Tensor],
) -> None:
    """Repeat the steps for each environment alone and compare the results bit for bit."""
    for i in range(len(step)):
        own_frame, own_step, own = map_tensors(
            lambda x, i=i: x[i : i + 1].clone(), (frame, step, together)
        )
        own_camera = Camera(
            camera.pose[i : i + 1], camera.intrinsics[i : i + 1], camera.height, camera.width
        )
        data = refine(
            memory.integrate(memory.empty(1, step.device), own_frame, own_camera, own_step)
        )
        later = memory.integrate(data, _move(own_frame), own_camera, own_step + 1)
        alone = (
            memory.render(data, own_camera),
            memory.render(later, own_camera),
            memory.surroundings(data, own_camera.pose),
        )
        _require(_equal(own, alone), f"environment {i} of 3 comes out differently when it is alone")


def _synthetic_frames(
    device: torch.device | str, height: int, width: int
) -> tuple[Frame, Camera, Tensor]:
    """Return three different frames of wavy walls below a sky, with three distant cameras."""
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


def _move(frame: Frame) -> Frame:
    """Return the same view with a new object in the middle, at half the distance."""
    assert frame.inverse_depth is not None
    code, rgb = frame.inverse_depth.clone(), frame.rgb.clone()
    h, w = code.shape[1:]
    rows, columns = slice(h // 3, 2 * h // 3), slice(w // 3, 2 * w // 3)
    code[:, rows, columns] *= 2
    rgb[:, :, rows, columns] = 255 - rgb[:, :, rows, columns]
    return Frame(rgb, code, frame.pose)


def _turned_round(pose: Tensor) -> Tensor:
    """Return the pose rotated by half a turn about the camera's down axis."""
    return pose * torch.tensor([-1.0, 1.0, -1.0, 1.0], device=pose.device)


def _equal(a: object, b: object) -> bool:
    left, right = flatten(a), flatten(b)
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise ContractError(complaint)
