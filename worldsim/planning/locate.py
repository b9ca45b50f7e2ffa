"""Localises a picture in a point memory: by panoramas from reachable places, then by views."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from numpy.typing import ArrayLike
from torch import Tensor

from worldsim.camera import Camera, snap_pose
from worldsim.errors import InvalidInputError, MissingGeometryError
from worldsim.memory.slots import Points, points_of
from worldsim.memory.splat import POINT, view_of
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.runtime.arguments import whole
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count, NotNegative, Seed, Share
from worldsim.runtime.types import Array
from worldsim.state import WorldState, map_tensors
from worldsim.world import World

AZIMUTHS, ROWS = 96, 24
"""Cells of a panorama: 3.75 degrees each, and slopes of -0.75 to 0.75."""
SLOPE = 0.75
CAP = 64.0
"""What a colour that is far off counts at most, of 255."""
LEAST_CONTRAST = 8.0
"""What a picture is taken to differ from its own mean colour at least, of 255."""
PLACES_AT_ONCE = 16
VIEWS_AT_ONCE = 24


class OutsideMemoryError(InvalidInputError):
    """Nothing in a memory looks like a picture.

    nearest: what comes nearest, in words.
    """

    def __init__(self, nearest: str) -> None:
        self.nearest = nearest
        super().__init__(
            f"the goal's picture is outside of the memory: {nearest}: go on until it has been seen"
        )


@dataclass(frozen=True)
class LocateConfig:
    """Settings of :func:`locate`."""

    spacing: Annotated[float, Ge(0.05), Le(1000.0)] = 0.5
    """Metres between the places that are tried."""
    kept: Annotated[int, Ge(1), Le(1000)] = 24
    """Best places and headings that are looked at more closely."""
    rounds: Annotated[int, Ge(0), Le(1000)] = 5
    """How often each is varied, by two thirds as much each time."""
    draws: Annotated[int, Ge(1), Le(1000)] = 12
    """Variations of each a round."""
    most_points: Count = 40000
    """Of more points than that, every k-th tells."""
    accept: NotNegative = 0.8
    """Share of the picture's contrast (its difference from its own mean colour) by which what is
    found may differ from it."""
    least_coverage: Share = 0.3
    """Share of the view found that the memory must know."""
    apart: NotNegative = 1.5
    """Metres between the places that :func:`candidates` gives."""
    ground: GroundConfig = field(default_factory=GroundConfig)
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_ranges(self)


@torch.no_grad()
def locate(
    world: World, state: WorldState, rgb: ArrayLike, config: LocateConfig | None = None
) -> Tensor:
    """Return the pose (4, 4) float32 camera-to-world whose memory view is closest to the picture.

    Cameras are level and at eye height, as walkers' are.

    state: a batch of one.
    rgb: the picture, (h, w, 3) uint8.

    Raises InvalidInputError if no view is similar, so that the goal is outside the memory, and
    MissingGeometryError without a point memory.
    """
    c = config or LocateConfig()
    return _located(*_search(world, state, rgb, c), c)


@torch.no_grad()
def locate_points(
    points: Points, rgb: Tensor, intrinsics: Tensor, eye: Tensor, config: LocateConfig | None = None
) -> Tensor:
    """Return the pose (4, 4) of a picture in points, without a world; see :func:`locate`.

    points: a batch of one.
    rgb: (3, h, w) uint8.
    intrinsics: (4,) pixels of the picture.
    eye: (3,) a place in the middle of the points at which a camera stood, world metres.
    """
    c = config or LocateConfig()
    known = _telling(points, c)
    return _located(known, rgb.cpu().float(), intrinsics.float().cpu(), eye.cpu().numpy(), c)


def _located(
    known: Points, picture: Tensor, intrinsics: Tensor, eye: Array, c: LocateConfig
) -> Tensor:
    starts = _by_panorama(known, picture, intrinsics, eye, c)
    found, cost = _by_views(known, picture, intrinsics, starts, c)
    best = found[int(cost.argmin())]
    half = _halve(picture)
    accepted = c.accept * _contrast(half)
    off, share = _compare(known, half, intrinsics, best[None])
    if float(off) > accepted or float(share) < c.least_coverage:
        raise OutsideMemoryError(
            f"what comes nearest differs by {float(off):.0f} of 255 (accepted: {accepted:.0f}) "
            f"over {float(share):.0%} of the view (needed: {c.least_coverage:.0%})"
        )
    return _poses(best[None])[0]


@torch.no_grad()
def candidates(
    world: World,
    state: WorldState,
    rgb: ArrayLike,
    count: int = 6,
    config: LocateConfig | None = None,
) -> Tensor:
    """Return up to ``count`` poses (k, 4, 4) for :func:`locate`, the most likely first.

    They are ``config.apart`` metres apart. Places look alike, and the true one may look less like
    the picture than another, so an agent that can move looks at several. There is always at least
    one. Raises as :func:`locate` for invalid pictures and memories.
    """
    c = config or LocateConfig()
    count = whole("count", count, 1)
    known, picture, intrinsics, eye = _search(world, state, rgb, c)
    # Those that are looked at closely are spread out, or they would all lie around the likeliest.
    starts = _by_panorama(known, picture, intrinsics, eye, c, 0.67 * c.apart)
    found, cost = _by_views(known, picture, intrinsics, starts, c)
    return _poses(_spread_out(found[cost.argsort(stable=True)], c.apart, count))


def _search(
    world: World, state: WorldState, rgb: ArrayLike, c: LocateConfig
) -> tuple[Points, Tensor, Tensor, Array]:
    """Return the checked input of the search.

    This is the informative points, the picture (3, h, w), its intrinsics (4,) and the eye (3,).
    """
    n = world.spec
    memory, pose = points_of(world.memory, state.memory), state.frame.pose
    if memory is None or pose is None:
        raise MissingGeometryError(
            "a picture is found in a point memory, and this world has none: use one with geometry"
        )
    try:
        rgb = np.asarray(rgb)
    except ValueError as error:
        raise InvalidInputError(
            f"the picture is no array ({error}): give (h, w, 3) uint8"
        ) from None
    if rgb.shape != (n.height, n.width, 3) or rgb.dtype != np.uint8:
        raise InvalidInputError(
            f"the picture must be uint8 {(n.height, n.width, 3)}, got {rgb.dtype} {rgb.shape}: "
            f"resize it first"
        )
    picture = torch.from_numpy(rgb.copy()).permute(2, 0, 1).float()
    eye = pose[0, :3, 3].cpu().numpy()
    return _telling(memory, c), picture, state.intrinsics[0].float().cpu(), eye


def _telling(points: Points, c: LocateConfig) -> Points:
    """Return the used points on the CPU; of very many, every k-th."""
    used = points.kind[0] != 0
    known = map_tensors(lambda x: x[..., used].cpu(), points)
    step = -(-int(used.sum()) // c.most_points)
    return map_tensors(lambda x: x[..., ::step].contiguous(), known)


def _halve(picture: Tensor) -> Tensor:
    """A picture (3, h, w) at half its size."""
    height, width = (size // 2 for size in picture.shape[1:])
    return F.interpolate(picture[None], (height, width), mode="area")[0]


def _spread_out(rows: Tensor, apart: float, most: int) -> Tensor:
    """Return up to ``most`` of the places (k, 4), at least ``apart`` metres apart.

    The best places come first.
    """
    kept: list[Tensor] = []
    for row in rows:
        if all(float((row[:2] - other[:2]).norm()) >= apart for other in kept):
            kept.append(row)
            if len(kept) == most:
                break
    return torch.stack(kept)


def _poses(rows: Tensor) -> Tensor:
    """Return the snapped poses (k, 4, 4) of level cameras.

    rows: (k, 4), x, y, z metres and heading (radians from east, counter-clockwise).
    """
    pose = torch.zeros(len(rows), 4, 4)
    sine, cosine = rows[:, 3].sin(), rows[:, 3].cos()
    pose[:, 0, 0], pose[:, 1, 0] = sine, -cosine
    pose[:, 2, 1] = -1.0
    pose[:, 0, 2], pose[:, 1, 2] = cosine, sine
    pose[:, :3, 3], pose[:, 3, 3] = rows[:, :3], 1.0
    return snap_pose(pose)


def _by_panorama(
    known: Points,
    picture: Tensor,
    intrinsics: Tensor,
    eye: Array,
    c: LocateConfig,
    apart: float = 0.0,
) -> Tensor:
    """Return the places and headings (k, 4) whose panoramas are closest to the picture.

    They are ``apart`` metres apart.
    """
    position, colour = known.position[0], known.colour[0].float()
    solid = known.kind[0] == POINT
    position, colour = position[:, solid], colour[:, solid]
    ground = Ground.of(position.numpy(), eye, c.ground)
    stride = max(1, round(c.spacing / c.ground.cell))
    standing = np.zeros(ground.height.shape, bool)
    standing[::stride, ::stride] = True
    near_known = (
        F.max_pool2d(torch.from_numpy(ground.known)[None, None].float(), 2 * stride + 1, 1, stride)[
            0, 0
        ].numpy()
        > 0
    )
    cells = np.argwhere(standing & near_known & np.isfinite(ground.height) & ~ground.blocked())
    if not len(cells):
        cells = ground.cells(eye[:2])[None]
    z = ground.height[cells[:, 0], cells[:, 1]] + c.ground.eye
    places = torch.from_numpy(np.column_stack([ground.places(cells), z])).float()
    wanted, columns = _cylinder(picture, intrinsics)
    hole = _contrast(picture)
    found = []
    for some in places.split(PLACES_AT_ONCE):
        panorama, mask = _panoramas(position, colour, some)
        # Every heading is a window of the panorama that has been closed to a ring.
        ring = torch.cat([panorama, panorama[..., :columns]], -1).unfold(-1, columns, 1)[
            ..., :AZIMUTHS, :
        ]
        seen = torch.cat([mask, mask[..., :columns]], -1).unfold(-1, columns, 1)[..., :AZIMUTHS, :]
        off = (ring - wanted[None, :, :, None, :]).abs().clamp(max=CAP).mean(1)
        found.append(torch.where(seen, off, hole).mean((1, 3)))
    cost = torch.cat(found)
    # Of each place the best heading, so that those kept are apart.
    least, turn = cost.min(1)
    order = least.argsort(stable=True)
    # Columns run clockwise, as pictures do, from a heading of half the window to the left.
    heading = -(turn[order].float() + 0.5 * columns) * (2 * np.pi / AZIMUTHS)
    rows = torch.column_stack([places[order], heading])
    return _spread_out(rows, apart, c.kept)


def _cylinder(picture: Tensor, intrinsics: Tensor) -> tuple[Tensor, int]:
    """Project a picture (3, h, w) to a panorama's cells.

    Returns (3, rows, columns) and the number of columns.
    """
    height, width = picture.shape[1:]
    fx, fy, cx, cy = intrinsics.tolist()
    half = np.arctan(min(cx, width - cx) / fx)
    columns = 2 * int(half / (2 * np.pi / AZIMUTHS))
    azimuth = (torch.arange(columns) + 0.5 - 0.5 * columns) * (2 * np.pi / AZIMUTHS)
    slope = (torch.arange(ROWS) + 0.5) * (2 * SLOPE / ROWS) - SLOPE
    u = fx * azimuth.tan() + cx
    v = fy * slope[:, None] / azimuth.cos() + cy
    grid = torch.stack([(2 * u / width - 1).expand(ROWS, -1), 2 * v / height - 1], -1)
    smooth = F.avg_pool2d(picture[None], 3, 1, 1, count_include_pad=False)
    return F.grid_sample(smooth, grid[None], padding_mode="border", align_corners=False)[0], columns


def _panoramas(position: Tensor, colour: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Render points (3, n) all around places (k, 3).

    Returns (k, 3, rows, azimuths) in [0, 255], and a mask of known cells.
    """
    k = len(places)
    x, y, z = (position[i] - places[:, i, None] for i in range(3))
    distance = (x * x + y * y).sqrt()
    column = (
        ((-torch.atan2(y, x)) % (2 * np.pi) * (AZIMUTHS / (2 * np.pi)))
        .long()
        .clamp(max=AZIMUTHS - 1)
    )
    row = torch.floor((-z / distance.clamp(min=0.05) + SLOPE) * (ROWS / (2 * SLOPE)))
    shown = (row >= 0) & (row < ROWS) & (distance > 0.1)
    cell = torch.where(shown, row * AZIMUTHS + column, 0).long()
    packed = (distance.view(torch.int32).long() << 32) | torch.arange(position.shape[1])
    packed = packed.masked_fill(~shown, 2**63 - 1)
    nearest = torch.full((k, ROWS * AZIMUTHS), 2**63 - 1).scatter_reduce_(1, cell, packed, "amin")
    mask = nearest < 2**63 - 1
    slot = (nearest & 0xFFFFFFFF).masked_fill(~mask, 0)
    picture = colour[:, slot].transpose(0, 1) * mask[:, None]
    return picture.reshape(k, 3, ROWS, AZIMUTHS), mask.view(k, ROWS, AZIMUTHS)


def _by_views(
    known: Points, picture: Tensor, intrinsics: Tensor, starts: Tensor, c: LocateConfig
) -> tuple[Tensor, Tensor]:
    """Return the best variation of each of ``starts`` (k, 4), and its difference (k,).

    Compares views of half the picture's size.
    """
    wanted = _halve(picture)
    generator = torch.Generator().manual_seed(c.seed)
    spread = torch.tensor([0.5 * c.spacing, 0.5 * c.spacing, 0.05, 0.1])
    cost = _cost(known, wanted, intrinsics, starts, c)
    for _ in range(c.rounds):
        noise = torch.randn(len(starts), c.draws, 4, generator=generator)
        varied = starts[:, None] + spread * noise
        costs = _cost(known, wanted, intrinsics, varied.flatten(0, 1), c).view(len(starts), -1)
        least, which = costs.min(1)
        better = least < cost
        starts = torch.where(better[:, None], varied[torch.arange(len(starts)), which], starts)
        cost, spread = torch.where(better, least, cost), 0.67 * spread
    return starts, cost


def _cost(
    known: Points, wanted: Tensor, intrinsics: Tensor, rows: Tensor, c: LocateConfig
) -> Tensor:
    """(k,) what views at level cameras (k, 4) differ from a picture (3, h, w), holes included."""
    off, share = _compare(known, wanted, intrinsics, rows)
    contrast = _contrast(wanted)
    # Where too little is known, nothing would fit best.
    return off * share + contrast * (1.0 - share) + contrast * (share < c.least_coverage)


def _contrast(picture: Tensor) -> float:
    """Return the mean difference of a picture (3, h, w) from its mean colour, of 255.

    This is the cost of knowing nothing about it.
    """
    return max(
        LEAST_CONTRAST,
        float((picture - picture.mean((1, 2), keepdim=True)).abs().clamp(max=CAP).mean()),
    )


def _compare(
    known: Points, wanted: Tensor, intrinsics: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean difference of level cameras' views (k, 4) from a picture (3, h, w).

    Returns (k,) differences over the pixels that the points cover, and (k,) shares of these pixels.
    """
    found, height, width = [], *wanted.shape[1:]
    for some in rows.split(VIEWS_AT_ONCE):
        camera = Camera(_poses(some), (0.5 * intrinsics).expand(len(some), 4), height, width)
        many = _repeat(known, len(some))
        view = view_of(many.position, many.colour, many.kind, many.source, camera)
        off = ((view.rgb.float() - wanted).abs().clamp(max=CAP).mean(1) * view.mask).sum((1, 2))
        found.append(torch.stack([off / view.mask.sum((1, 2)).clamp(min=1), view.coverage], 1))
    joined = torch.cat(found)
    return joined[:, 0], joined[:, 1]


def _repeat(known: Points, count: int) -> Points:
    """The same memory ``count`` times, sharing storage."""
    return map_tensors(lambda x: x.expand(count, *x.shape[1:]), known)
