"""Painting of places: rings of cameras, views completed from a scene memory, views in groups.

A painter (:class:`worldsim.protocols.Painter`) completes a few views jointly. The functions here
render what the scene memory knows at the painter's cameras, have it completed, and integrate the
result into the memory as painted points. Views beyond the painter's number are painted in groups:
anchors first, then the views nearest to what is already there, with the nearest painted views given
(CAT3D, Gao et al. 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor

from worldsim.camera import (
    TURN_METRES,
    Camera,
    check_poses,
    motion_to_matrix,
    rotation_angle,
    snap_pose,
)
from worldsim.errors import InvalidInputError
from worldsim.memory.painted import mark_painted
from worldsim.memory.points import PointMemory, PointMemoryConfig
from worldsim.memory.slots import Points
from worldsim.memory.strays import hang_alone, in_free_space
from worldsim.protocols import Painter, PainterSpec, PaintInputs, SceneMemory
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.limits import require_memory_for
from worldsim.runtime.ranges import Capacity, Count, NotNegative, Positive
from worldsim.runtime.types import Array
from worldsim.state import Frame, MemoryView, concatenate, flatten, map_tensors

EYE_HEIGHT = 41.0 / 32.0
"""Height of the camera over the floor in metres: that of Freedoom's player."""
CONTEXT_SHARE = 0.5
"""Share of a group's views that are given ones, in groups after the anchors."""
LEAST_POINTS, MOST_POINTS = 262_144, 2**24
"""Points of a place's memory, if its config does not say how many."""
POINT_BYTES = 23
ROOM_BEHIND = 0.75
"""Metres that must be free behind a camera of the second ring."""


def level_pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, heading: float = 0.0) -> Tensor:
    """Return the pose (4, 4) float32 of a level camera, snapped.

    x, y, z: metres, z up.
    heading: radians counter-clockwise from the x axis.
    """
    sine, cosine = math.sin(heading), math.cos(heading)
    return snap_pose(
        torch.tensor(
            [[sine, 0, cosine, x], [-cosine, 0, sine, y], [0, -1, 0, z], [0, 0, 0, 1]],
            dtype=torch.float64,
        )
    )


def ring(pose: Tensor, headings: int) -> Tensor:
    """Return cameras at one place that look evenly all around.

    pose: (4, 4) camera-to-world of the first camera, world axes with z up. The pitch of all
        cameras is that of the first one, so give a level camera.
    headings: number of cameras. They turn right (clockwise from above) by equal angles.

    Returns (headings, 4, 4) float32, snapped. The first one is ``pose``.
    """
    if headings < 1:
        raise InvalidInputError(f"headings = {headings}: give at least 1.")
    angle = -torch.arange(headings, dtype=torch.float64) * (2.0 * math.pi / headings)
    turn = torch.zeros(headings, 6, dtype=torch.float64)
    turn[:, 5] = angle
    poses = pose.double().cpu().expand(headings, 4, 4).clone()
    poses[:, :3, :3] = motion_to_matrix(turn)[:, :3, :3] @ poses[:, :3, :3]
    return snap_pose(poses).to(pose.device)


def one_camera(cameras: Camera, i: int) -> Camera:
    """Return camera ``i`` of a batch, as a batch of one."""
    return replace(cameras, pose=cameras.pose[i : i + 1], intrinsics=cameras.intrinsics[i : i + 1])


def known_view(memory: SceneMemory, data: Any, camera: Camera) -> MemoryView:
    """Return what one memory shows at each of ``n`` cameras, (n, ...).

    data: the memory's data, a batch of one.
    camera: a batch of ``n``.
    """
    # One by one: a memory that is expanded to n rows is read n times, and rows differ in nothing.
    return concatenate(
        [memory.render(data, one_camera(camera, i)) for i in range(len(camera.pose))]
    )


@torch.no_grad()
def paint_views(
    painter: Painter,
    memory: SceneMemory,
    data: Any,
    poses: Tensor,
    attributes: Array | Tensor | None,
    seed: int,
    step: int,
    given: Frame | None = None,
    colour_only: Tensor | None = None,
    told: Array | Tensor | None = None,
    held: int = 0,
) -> tuple[Frame, Any]:
    """Complete up to ``painter.spec.views`` views of one place jointly, and integrate them.

    memory: the scene memory. It must not overwrite its data.
    data: its data, a batch of one.
    poses: (n, 4, 4) camera-to-world, metres, z up. They are snapped.
    attributes: (a,) in [0, 1], in the order of ``painter.spec.attributes``, or None.
    seed, step: keys of all random numbers. ``step`` is also the step at which the memory's new
        points were seen.
    given: frames (k, ...) of the first ``k`` cameras, whole and exact. They are integrated as
        observed, not as painted.
    colour_only: (k,) bool, given frames whose depth is drawn by the painter. Frames without depth
        count as such.
    told: (a,) bool, which attributes are given; None stands for all.
    held: number of given frames, the first ones, that the memory holds already. They are not
        integrated again.

    The memory takes only what it did not know before: points that it shows at these cameras are
    neither moved nor recoloured. Painted pixels that hang in the air
    (:mod:`worldsim.memory.strays`) are left out.

    Returns the frames (n, ...) as they are emitted (uint8 colours, 16-bit depth, snapped poses) and
    the memory's new data. Both are on the data's device. Raises InvalidInputError.
    """
    spec, device = painter.spec, _device_of(data)
    check_poses(poses, "poses")
    poses = snap_pose(poses).to(device)
    cameras = spec.cameras(poses)
    known = known_view(memory, data, cameras)
    n, k = len(poses), 0 if given is None else len(given.rgb)
    flags = torch.zeros(1, n, dtype=torch.bool, device=device)
    plain = flags.clone()
    view = known
    if given is not None:
        view = _with_given(known, given, spec)
        flags[0, :k] = True
        plain[0, :k] = (
            True
            if given.inverse_depth is None
            else False
            if colour_only is None
            else colour_only.to(device)
        )
    inputs = PaintInputs(
        view=view,
        pose=poses[None],
        seed=torch.tensor([seed], device=device),
        step=torch.tensor([step], device=device),
        attributes=None if attributes is None else _row(attributes, device).float(),
        told=None if told is None else _row(told, device).bool(),
        given=flags,
        colour_only=plain,
    )
    frames: Frame = map_tensors(lambda x: x.to(device), painter.paint(inputs))
    at = torch.tensor([step], device=device)
    for i in range(held, n):
        frame, camera = frames_at(frames, [i]), one_camera(cameras, i)
        left_out = known.mask[i : i + 1]
        if i >= k:
            left_out = left_out | hang_alone(frame)
            if i:
                before = frames_at(frames, range(i))
                left_out |= in_free_space(frame, camera, before, spec.cameras(poses[:i]))
        seen = memory.integrate(data, frame, camera, at, ~left_out)
        painted = i >= k and isinstance(data, Points) and isinstance(seen, Points)
        data = mark_painted(data, seen) if painted else seen
    return frames, data


def _device_of(data: Any) -> torch.device:
    return next((tensor.device for tensor in flatten(data).values()), torch.device("cpu"))


def _row(values: Array | Tensor, device: torch.device) -> Tensor:
    return torch.as_tensor(values, device=device)[None]


def frames_at(frames: Frame, index: Sequence[int]) -> Frame:
    """Return the frames of a batch at ``index``, in that order."""
    return map_tensors(lambda x: x[list(index)], frames)


def _with_given(view: MemoryView, given: Frame, spec: PainterSpec) -> MemoryView:
    """Return ``view`` (n, ...) with its first rows replaced by the given frames."""
    k, device = len(given.rgb), view.mask.device
    if given.rgb.shape != (k, 3, spec.height, spec.width) or k > len(view.mask):
        raise InvalidInputError(
            f"given frames have the shape {tuple(given.rgb.shape)}: give up to {len(view.mask)} "
            f"frames of {spec.height}x{spec.width} pixels, as the painter paints."
        )
    rgb, code, mask = view.rgb.clone(), view.inverse_depth.clone(), view.mask.clone()
    rgb[:k], mask[:k] = given.rgb.to(device), True
    code[:k] = 0 if given.inverse_depth is None else given.inverse_depth.to(device)
    return replace(view, rgb=rgb, inverse_depth=code, mask=mask)


@dataclass(frozen=True)
class Group:
    """Views that are painted jointly.

    given: indices of views that are given, the most important one first.
    painted: indices of views that are painted.
    """

    given: tuple[int, ...]
    painted: tuple[int, ...]


def distances(poses: Tensor) -> Tensor:
    """Return the distances (n, n) between cameras: metres, and radians times 2 m."""
    place = poses[:, :3, 3].double()
    apart = (place[:, None] - place[None]).norm(dim=-1)
    return apart + TURN_METRES * rotation_angle(poses[:, None].double(), poses[None].double())


def plan_groups(
    poses: Tensor,
    given: int,
    views: int,
    draw_given: bool = False,
    together: int | None = None,
) -> list[Group]:
    """Return the order in which views of one place are painted.

    poses: (n, 4, 4), the given views first.
    given: number of given views.
    views: largest number of views that are painted at once.
    draw_given: whether something of the given views (their depth) is drawn, so that all of them
        must be in the first group.
    together: largest number of views that are painted at once beside given ones, with as many given
        ones as fit. By default all views are one group if they fit, and otherwise half of a group
        is given (``CONTEXT_SHARE``).

    Without given views, the first group holds the anchors: views far from one another, so that they
    define the place. Given views are anchors themselves. Each later group holds the view nearest to
    what is there, its nearest neighbours, and as given views the nearest of what is there.
    """
    n = len(poses)
    if draw_given and given > views:
        raise InvalidInputError(
            f"{given} pictures are given and the painter paints {views} views at once: give at "
            f"most {views}."
        )
    if n <= views and (together is None or not given or draw_given):
        return [Group(tuple(range(given)), tuple(range(given, n)))]
    # Millimetres, so that rounding does not decide between headings of a ring.
    apart = distances(poses.cpu()).round(decimals=3)
    done, left = list(range(given)), list(range(given, n))
    groups: list[Group] = []

    def take(index: int, into: list[int]) -> None:
        left.remove(index)
        into.append(index)

    if not given or draw_given:
        anchors: list[int] = []
        while left and given + len(anchors) < views:
            there = done + anchors
            far = [float(apart[i, there].min()) if there else -i for i in left]
            take(left[far.index(max(far))], anchors)
        groups.append(Group(tuple(done), tuple(anchors)))
        done += anchors
    while left:
        context = min(len(done), int(CONTEXT_SHARE * views))
        most = views - context if together is None else min(together, views - context)
        near = [float(apart[i, done].min()) for i in left]
        first = left[near.index(min(near))]
        some: list[int] = []
        take(first, some)
        while left and len(some) < most:
            beside = [float(apart[i, first]) for i in left]
            take(left[beside.index(min(beside))], some)
        if together is not None:
            context = views - len(some)
        # The nearest view of each, then the next nearest ones.
        order = sorted(done, key=lambda i: float(apart[i, some].min()))
        groups.append(Group(tuple(order[:context]), tuple(some)))
        done += some
    return groups


def paint_many(
    painter: Painter,
    memory: SceneMemory,
    data: Any,
    poses: Tensor,
    attributes: Array | Tensor | None,
    seed: int,
    step: int,
    given: Frame | None = None,
    colour_only: Tensor | None = None,
    told: Array | Tensor | None = None,
    held: int = 0,
    together: int | None = None,
) -> tuple[Frame, Any, int]:
    """Complete any number of views of one place, in groups if need be.

    Arguments are those of :func:`paint_views` and :func:`plan_groups`. Groups have the steps
    ``step``, ``step + 1`` and so on.

    Returns the frames (n, ...) in the order of ``poses``, the memory's new data and the next step.
    """
    k = 0 if given is None else len(given.rgb)
    plain = _colour_only(given, colour_only)
    groups = plan_groups(poses, k, painter.spec.views, bool(plain.any()), together)
    found: dict[int, Frame] = {}
    if given is not None and not bool(plain.any()):
        whole = replace(given, pose=snap_pose(poses[:k]))
        found = {i: frames_at(whole, [i]) for i in range(k)}
        for i in range(held, k):
            data = _observe(memory, data, found[i], painter.spec, step)
    for number, group in enumerate(groups):
        first = number == 0 and bool(plain.any())
        if not group.painted and not first:
            continue
        index = [*group.given, *group.painted]
        context = given if first else _joined(found, group.given)
        frames, data = paint_views(
            painter,
            memory,
            data,
            poses[index],
            attributes,
            seed,
            step + number,
            context,
            plain if first else None,
            told,
            held=held if first else len(group.given),
        )
        for row, i in enumerate(index):
            # Given views keep their first frames.
            found.setdefault(i, frames_at(frames, [row]))
    order = tuple(range(len(poses)))
    joined = _joined(found, order)
    assert joined is not None
    return joined, data, step + len(groups)


def _observe(memory: SceneMemory, data: Any, frame: Frame, spec: PainterSpec, step: int) -> Any:
    """Integrate a frame (1, ...) where the memory knows nothing yet."""
    assert frame.pose is not None
    device = _device_of(data)
    frame = map_tensors(lambda x: x.to(device), frame)
    camera = spec.cameras(frame.pose)  # type: ignore[arg-type]
    fresh = ~memory.render(data, camera).mask
    return memory.integrate(data, frame, camera, torch.tensor([step], device=device), fresh)


def _colour_only(given: Frame | None, colour_only: Tensor | None) -> Tensor:
    k = 0 if given is None else len(given.rgb)
    if given is not None and given.inverse_depth is None:
        return torch.ones(k, dtype=torch.bool)
    return torch.zeros(k, dtype=torch.bool) if colour_only is None else colour_only.cpu()


def _joined(found: dict[int, Frame], index: tuple[int, ...]) -> Frame | None:
    """Return the found frames at ``index`` as a batch, None for no index."""
    return concatenate([found[i] for i in index]) if index else None


@dataclass(frozen=True)
class PlaceConfig:
    """Cameras and memory of a new place."""

    headings: Annotated[int, Ge(1), Le(64)] = 8
    """Views all around. With a field of view of 74 degrees, neighbours of 8 overlap by 29
    degrees."""
    ahead: NotNegative = 0.0
    """Metres. If above 0, a second ring of cameras stands that far ahead in each direction where
    there is room, and shows what the first ring does not see."""
    eye: Positive = EYE_HEIGHT
    """Height of the camera over the ground at height 0, metres."""
    views_at_once: Count = 2
    """Views that are painted jointly beside several given pictures, in pairs by default: nearest to
    the pictures first, and earlier ones are given to later ones. PSNR is 0.33 dB higher than with
    five views at once, which take 0.4 times the time (docs/experiments/painter.md)."""
    capacity: Capacity | None = None
    """Points of the place's memory. By default one for each pixel of all views, at least
    262,144."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def memory(self, spec: PainterSpec) -> PointMemory:
        """Return the memory of a place, for a painter with this ``spec``.

        Raises OutOfMemoryError if it does not fit.
        """
        views = max(self.headings, spec.views) * (2 if self.ahead > 0 else 1)
        pixels = views * spec.height * spec.width
        capacity = self.capacity or min(MOST_POINTS, max(LEAST_POINTS, pixels))
        require_memory_for(2 * POINT_BYTES * capacity, f"a memory of {capacity:,} points")
        return PointMemory(PointMemoryConfig(capacity=capacity))


@dataclass(frozen=True)
class Place:
    """A painted place.

    frames: (n, ...) its views; the first is the start.
    memory: the kind of memory, and its ``data``, a batch of one.
    intrinsics: (4,) ``fx fy cx cy`` of the views in pixels.
    step: the next unused step of its random numbers.
    """

    frames: Frame
    memory: PointMemory
    data: Points
    intrinsics: Tensor
    step: int


@torch.no_grad()
def paint_place(
    painter: Painter,
    seed: int,
    attributes: Array | Tensor | None = None,
    told: Array | Tensor | None = None,
    config: PlaceConfig | None = None,
    given: Frame | None = None,
    known: Points | None = None,
    cameras: Tensor | None = None,
) -> Place:
    """Paint a place all around.

    seed: key of all random numbers.
    attributes, told: see :func:`paint_views`.
    given: frames (k, ...) with poses that show the place, such as pictures. Without depth, it is
        drawn. The first one is the start, and the ring stands where it stands. Without given
        frames, the camera stands at the origin and looks along the x axis.
    known: points that the place's memory holds already, those of the given frames among them.
    cameras: (m, 4, 4) further cameras to paint. Without given frames, the first one is the start.

    Equal arguments give equal places, bit by bit, on one device.
    """
    config = config or PlaceConfig()
    memory = config.memory(painter.spec)
    data = memory.empty(1) if known is None else memory.pad(known)
    if given is not None and given.pose is None:
        raise InvalidInputError("given frames have no poses: give one camera pose per frame.")
    own = [] if given is None or given.pose is None else [snap_pose(given.pose)]
    if cameras is not None:
        own.append(snap_pose(cameras))
    if own:
        # The ring's cameras where no other one looks.
        there = torch.cat(own)
        around = ring(_levelled(there[0]), config.headings)
        both = distances(torch.cat([there, around]))[: len(there), len(there) :]
        free = both.amin(0) > 0.5 * TURN_METRES * 2.0 * math.pi / config.headings
        poses = torch.cat([there, around[free]])
    else:
        poses = ring(level_pose(z=config.eye), config.headings)
    held = 0 if known is None or given is None else len(given.rgb)
    together = config.views_at_once
    frames, data, step = paint_many(
        painter, memory, data, poses, attributes, seed, 0, given, None, told, held, together
    )
    if config.ahead > 0:
        further = _ahead(frames, config.ahead, painter.spec)
        if len(further):
            everything = torch.cat([poses, further])
            frames, data, step = paint_many(
                painter,
                memory,
                data,
                everything,
                attributes,
                seed,
                step,
                frames,
                told=told,
                held=len(poses),
            )
    return Place(frames, memory, data, torch.tensor(painter.spec.intrinsics), step)


def _levelled(pose: Tensor) -> Tensor:
    """Return the level camera at the place of ``pose`` that looks the same way."""
    x, y, z = (float(v) for v in pose[:3, 3])
    ahead = pose[:3, 2].double()
    heading = math.atan2(float(ahead[1]), float(ahead[0]))
    return level_pose(x, y, z, heading)


def _ahead(frames: Frame, metres: float, spec: PainterSpec) -> Tensor:
    """Return cameras ``metres`` ahead of those of ``frames``, where their depth leaves room."""
    depth = frames.depth
    assert depth is not None and frames.pose is not None
    h, w = spec.height, spec.width
    middle = depth[:, h // 2 - h // 8 : h // 2 + h // 8 + 1, w // 2 - w // 8 : w // 2 + w // 8 + 1]
    near = middle.flatten(1).sort(1).values
    room = near[:, near.shape[1] // 10] > metres + ROOM_BEHIND
    moved = frames.pose.double().clone()
    moved[:, :3, 3] += metres * moved[:, :3, 2]
    return snap_pose(moved[room])
