"""Points for the user's eyes: each as large as the patch of surface that it represents.

A point that a frame of focal length f captured at depth d covers d / f metres. Drawn at that size,
points that were neighbouring pixels stay neighbours when a picture is larger than the frames were.
Nothing is interpolated: every colour is a stored one, and regions without a patch stay holes. The
dynamics' own views are those of :mod:`worldsim.memory.splat`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import DEPTH_CHANNEL_SCALE, Camera
from worldsim.memory.slots import Points
from worldsim.memory.splat import DIRECTION, EMPTY, NEAR_PLANE, to_camera_axes

MARGIN = 1.25
"""Patches are drawn this much larger: points of several frames lie on no common grid. Where they
overlap, they meet half-way."""
GROWTH = 2.0
"""Seen from nearer than it was captured, a slanted surface's points part faster than they grow;
patches follow, up to this."""
STEEPEST = 8.0
"""Neighbours whose depths differ by more than so many times their distance in the picture are of
different surfaces."""
WINDOW = 3
"""A normal is that of the plane through this many neighbours to each side."""
NOISE = 0.05
"""Share of the depth by which points of one surface may lie off it: what is much further off does
not tell its normal."""
CHUNK = 2**20
"""Pixels that are considered at once, which bounds the memory that drawing takes."""
_SKY = 1e30


@dataclass(frozen=True)
class SurfelView:
    """What points show at a camera. Holes have mask False and zeros elsewhere, but infinite depth.

    rgb: (3, h, w) uint8. depth: (h, w) float32 metres along the optical axis, ``inf`` at sky. mask:
    (h, w) bool. normals: (3, h, w) float32, world axes, of unit length and towards the camera;
    zeros at sky and where no neighbour tells.
    """

    rgb: Tensor
    depth: Tensor
    mask: Tensor
    normals: Tensor


def patch_metres(points: Points, focal: float) -> Tensor:
    """Return the side length of the patch of each point, (b, c) float32 metres.

    focal: of the frames that captured it, pixels.
    """
    # source / 255 = s / (s + d), solved for d; what is stored as 0 is further than any frame's
    # depth.
    source = points.source.float().clamp(min=1.0)
    return DEPTH_CHANNEL_SCALE * (255.0 / source - 1.0) / focal


def draw(
    points: Points, camera: Camera, focal: tuple[float, float], with_normals: bool = True
) -> SurfelView:
    """Draw one memory's points at ``camera``, both batches of one.

    focal: ``fx fy`` of the frames that were integrated.
    with_normals: False leaves normals at zero and depth at that of the points' centres; colours are
        the same, and drawing takes a fraction of the time.
    """
    height, width = camera.height, camera.width
    x, y, z = (row[0] for row in to_camera_axes(points.position, points.kind, camera.pose))
    fx, fy, cx, cy = camera.intrinsics[0].float()
    direction = points.kind[0] == DIRECTION
    # A direction was kept with unit depth in the axes of the camera that saw it: it has that
    # camera's pixels, a metre away.
    patch = torch.where(direction, 1.0 / focal[0], patch_metres(points, focal[0])[0])
    shown = (points.kind[0] != EMPTY) & (z > NEAR_PLANE)
    safe = torch.where(shown, z, 1.0)
    side = MARGIN * patch / safe * (patch * focal[0] / safe).clamp(1.0, GROWTH)
    half = torch.stack([0.5 * side * fx, 0.5 * side * fy * focal[0] / focal[1]]).clamp(min=0.5)
    centre = torch.stack([x / safe * fx + cx, y / safe * fy + cy])
    depth = torch.where(direction, _SKY, z)

    pixels = height * width
    nearest = torch.full((pixels,), torch.inf, device=z.device)
    for slot, pixel in covered_pixels(centre, half, shown, height, width):
        nearest.scatter_reduce_(0, pixel, depth[slot], "amin")
    chosen = torch.full((pixels,), 2**63 - 1, dtype=torch.int64, device=z.device)
    for slot, pixel in covered_pixels(centre, half, shown, height, width):
        # Of the patches of the foremost surface, the one whose middle is nearest: overlaps then
        # meet half-way.
        distance = squared_offset(pixel, slot, centre, width)
        front = depth[slot] <= nearest[pixel] + torch.where(direction, 0.0, patch)[slot]
        chosen.scatter_reduce_(
            0, pixel, torch.where(front, distance << 32 | slot, 2**63 - 1), "amin"
        )
    mask = torch.isfinite(nearest).view(height, width)
    slot = torch.where(mask.flatten(), chosen & 0xFFFFFFFF, 0).view(height, width)

    solid = mask & ~direction[slot]
    if not with_normals:
        return SurfelView(
            rgb=points.colour[0][:, slot] * mask,
            depth=torch.where(solid, z[slot], torch.inf),
            mask=mask,
            normals=torch.zeros(3, height, width, device=z.device),
        )
    place = torch.stack([x, y, z])[:, slot]
    # As far apart as the points of a surface are: nearer neighbours would be one and the same
    # point.
    pitch = (
        int(half[:, slot[solid]].mean().div(0.5 * MARGIN).round().clamp(min=1))
        if bool(solid.any())
        else 1
    )
    normals = _towards(normals_of(place, solid, pitch), camera)
    flat = _on_plane(place, normals, camera, 2.0 * patch[slot])
    return SurfelView(
        rgb=points.colour[0][:, slot] * mask,
        depth=torch.where(solid, flat, torch.inf),
        mask=mask,
        normals=to_world(normals, camera),
    )


def covered_pixels(
    centre: Tensor, half: Tensor, shown: Tensor, height: int, width: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return which pixels' centres lie in which rectangles, in chunks.

    Rectangle and pixel (row * width + column) are each (k,) int64.

    centre, half: (2, n) float, centre and half the side lengths along u and v, pixels.
    shown: (n,) bool, rectangles that count.
    """
    size = torch.tensor([[width], [height]], device=centre.device)
    low = torch.minimum(torch.ceil(centre - half - 0.5).clamp(min=0), size).to(torch.int64)
    high = torch.minimum(torch.ceil(centre + half - 0.5).clamp(min=0), size).to(torch.int64)
    spans = (high - low).clamp(min=0)
    area = torch.where(shown, spans[0] * spans[1], 0)
    rectangles = area.nonzero()[:, 0]
    if not len(rectangles):
        return
    chunk = area[rectangles].cumsum(0) // CHUNK
    for part in torch.split(
        rectangles, torch.unique_consecutive(chunk, return_counts=True)[1].tolist()
    ):
        count = area[part]
        which = torch.repeat_interleave(part, count)
        place = torch.arange(len(which), device=part.device) - torch.repeat_interleave(
            count.cumsum(0) - count, count
        )
        row, column = place // spans[0, which], place % spans[0, which]
        yield which, (low[1, which] + row) * width + low[0, which] + column


def squared_offset(pixel: Tensor, slot: Tensor, centre: Tensor, width: int) -> Tensor:
    """Return the squared distance of pixels' centres from the centres of rectangles: (k,) int64.

    It is the bits of a float, in the same order.
    """
    u, v = pixel % width + 0.5 - centre[0, slot], pixel // width + 0.5 - centre[1, slot]
    return (u.square() + v.square()).view(torch.int32).to(torch.int64)


def normals_of(place: Tensor, known: Tensor, pitch: int) -> Tensor:
    """Return normals in camera axes from neighbours in the picture, (3, h, w) float32.

    They point towards the camera; zeros without enough neighbours.

    place: (3, h, w) position of each pixel, camera axes, metres.
    known: (h, w) bool.
    pitch: pixels between neighbouring points.
    """
    height, width = known.shape
    rows, columns = (
        torch.arange(pitch // 2, max(n, pitch // 2 + 1), pitch, device=known.device)
        for n in (height, width)
    )
    rows, columns = rows.clamp(max=height - 1), columns.clamp(max=width - 1)
    planes = _planes(place[:, rows][:, :, columns], known[rows][:, columns])
    # Every pixel takes, of the nine planes fitted around it, the one that its own point lies on
    # best.
    row = (torch.arange(height, device=known.device) // pitch).clamp(max=len(rows) - 1)[:, None]
    column = (torch.arange(width, device=known.device) // pitch).clamp(max=len(columns) - 1)
    best = torch.full_like(place[0], torch.inf)
    found = torch.zeros_like(place)
    for down in (0, -1, 1):
        for right in (0, -1, 1):
            plane = planes[
                :, (row + down).clamp(0, len(rows) - 1), (column + right).clamp(0, len(columns) - 1)
            ]
            # The plane is p . X = 1; a small charge for those next door, so that equals stay at
            # home.
            off = ((plane * place).sum(0) - 1.0).abs() + 0.1 * NOISE * (down != 0 or right != 0)
            closer = (plane != 0).any(0) & (off < best)
            best, found = torch.where(closer, off, best), torch.where(closer, plane, found)
    # p points away from the camera, which is at the origin on the near side of every plane.
    length = found.norm(dim=0)
    return torch.where(known & (length > 0), -found / length.clamp(min=1e-20), 0.0)


def _planes(place: Tensor, known: Tensor) -> Tensor:
    """Return the plane p . X = 1 through each place (3, h, w) and its neighbours, (3, h, w).

    Zeros where they span none. In a picture, a plane's inverse depth is linear: 1 / z = p . (x / z,
    y / z, 1). By least squares, three times, with weights that fall with the distance from the
    previous plane.
    """
    side = 2 * WINDOW + 1
    inverse = torch.where(known, 1.0 / place[2].clamp(min=NEAR_PLANE), 0.0)
    ray = torch.stack([place[0] * inverse, place[1] * inverse, known.float()])

    def around(values: Tensor) -> Tensor:
        padded = F.pad(values[None], (WINDOW,) * 4)
        return F.unfold(padded, side).view(len(values), side * side, *known.shape)

    rays, others = around(ray), around(inverse[None])[0]
    apart = (rays - ray[:, None])[:2].norm(dim=0)
    # 1 / z changes by slope times the distance in the picture; the noise comes on top.
    gate = STEEPEST * apart * torch.maximum(inverse, others) + 2.0 * NOISE * inverse
    base = ((others - inverse).abs() <= gate) * rays[2] * known

    def trust_weights(off: Tensor, scale: float) -> Tensor:
        return base / (1.0 + (off / (scale * inverse).clamp(min=1e-12)).square()).square()

    # To begin with, what is about as far away: so an edge's two sides do not start from a plane
    # across it.
    weight = trust_weights(others - inverse, 3.0 * NOISE)
    plane = torch.zeros_like(place)
    for _ in range(3):
        normal = torch.einsum("nhw,inhw,jnhw->hwij", weight, rays, rays)
        aim = torch.einsum("nhw,inhw,nhw->hwi", weight, rays, others)
        spans = torch.linalg.det(normal) > 1e-9 * weight.sum(0) ** 3 * apart.amax(0) ** 4
        eye = torch.eye(3, device=place.device)
        solved = torch.linalg.solve(torch.where(spans[..., None, None], normal, eye), aim)
        plane = torch.where(spans, solved.permute(2, 0, 1), 0.0)
        weight = trust_weights((plane[:, None] * rays).sum(0) - others, NOISE)
    return plane


def _slope(normals: Tensor, camera: Camera) -> Tensor:
    """(h, w) product of each pixel's normal with its ray (x, y, 1)."""
    fx, fy, cx, cy = camera.intrinsics[0].float()
    u = (torch.arange(camera.width, device=normals.device) + 0.5 - cx) / fx
    v = (torch.arange(camera.height, device=normals.device)[:, None] + 0.5 - cy) / fy
    return normals[0] * u + normals[1] * v + normals[2]


def _towards(normals: Tensor, camera: Camera) -> Tensor:
    """Turn normals towards the camera at every pixel.

    At a grazing angle, a patch may face it at its centre alone.
    """
    return torch.where(_slope(normals, camera) > 0, -normals, normals)


def _on_plane(place: Tensor, normals: Tensor, camera: Camera, limit: Tensor) -> Tensor:
    """Return the depth of each pixel on the plane through its point, (h, w) metres.

    It is the point's own where the plane is further off.
    """
    slope = _slope(normals, camera)
    depth = (normals * place).sum(0) / torch.where(slope.abs() > 1e-6, slope, torch.inf)
    near = ((depth - place[2]).abs() <= limit) & (depth > NEAR_PLANE)
    return torch.where(near, depth, place[2])


def to_world(normals: Tensor, camera: Camera) -> Tensor:
    """Vectors (3, h, w) in the axes of a camera (a batch of one) to those of the world."""
    return torch.einsum("ij,jhw->ihw", camera.pose[0, :3, :3].float(), normals)
