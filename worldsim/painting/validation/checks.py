"""Measures of painted views and places that tell broken ones from real ones.

Each function returns one number per view, or per place.
:mod:`worldsim.painting.validation.validator` compares the numbers with thresholds that were
measured on real views.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import DEPTH_CODES, DEPTH_NEAR, Camera, code_to_channel, pixel_rays, project
from worldsim.evaluation.metrics import sharpness
from worldsim.memory.slots import Points
from worldsim.memory.splat import POINT
from worldsim.planning.ground import Ground, GroundConfig
from worldsim.state import Frame, MemoryView

LEAST_KNOWN = 0.1
"""Share of a view's pixels that the memory must know before agreement is measured."""
DEPTH_SHARE = 0.15
"""A painted depth agrees with the memory's if it differs by at most this share."""
PASSED_SHARE, PASSED_METRES = 0.8, 0.5
"""A view sees past a point whose distance is less than this share of the view's depth there, minus
these metres."""
STRIDE = 4
"""Stride in pixels, on both axes, of the points that are compared between views."""
NEAREST_SHARE = 0.05
"""Share of the pixels that lie nearer than the reported nearest depth."""
CLIFF_METRES = 0.9
"""A floor that lies this much lower than the walker's counts as missing."""
FLOOR_ROWS = 4
"""Rows at the bottom of a view in which the floor is looked for."""
SPECKLE = 0.1
"""Difference of the depth channel from its neighbours' median that counts as a speckle."""
MARGIN = 0.34
"""Largest margin around a picture within the picture, as a share of the side."""
PERIODS = (4, 6, 8, 10, 12, 16)
"""Periods in pixels of the grids that seams are looked for on."""
TYPICAL_LINES = 7
"""Lines of a grid of 8 pixels in a view of 64."""
STEEP_SHARE = 0.02
"""Share of the steps between neighbouring pixels that count as edges."""
LEAST_LAG = 6
"""Smallest shift in pixels at which a repetition counts."""
ROOM_METRES = 4.0
"""Distance to each side within which walkable ground is counted."""


@dataclass(frozen=True)
class Views:
    """``n`` painted views of one place, with what the memory knew there before.

    frame: the views (n, ...), with depth.
    camera: their cameras.
    known: the memory's views at these cameras, None for an empty memory.
    others: further views (k, ...) of the same surroundings, which are trusted, or None.
    other_camera: the cameras of ``others``.
    """

    frame: Frame
    camera: Camera
    known: MemoryView | None = None
    others: Frame | None = None
    other_camera: Camera | None = None

    def __len__(self) -> int:
        return len(self.frame.rgb)

    @property
    def depth(self) -> Tensor:
        """(n, h, w) float32 metres, ``inf`` for sky."""
        depth = self.frame.depth
        assert depth is not None
        return depth


def luminance(rgb: Tensor) -> Tensor:
    """Return the luminance (..., h, w) float32 of (..., 3, h, w) uint8."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=rgb.device)
    return torch.einsum("...chw,c->...hw", rgb.float(), weights)


def _dense(known: MemoryView) -> Tensor:
    """Return (n, h, w) bool, known pixels whose 3x3 neighbourhood is known."""
    return -F.max_pool2d(-known.mask[:, None].float(), 3, 1, 1)[:, 0] > 0


def _agreeing(views: Views, dense: Tensor) -> Tensor:
    """Return (n, h, w) bool, pixels of ``dense`` at which both show the same surface."""
    painted, known = views.frame.inverse_depth, views.known
    assert painted is not None and known is not None
    log = _log_ratio(painted, known.inverse_depth)
    same_sky = (painted == 0) == (known.inverse_depth == 0)
    return dense & same_sky & (log.abs() < DEPTH_SHARE)


def _log_ratio(painted: Tensor, known: Tensor) -> Tensor:
    """Return the logarithm of the ratio of two inverse-depth codes, 0 where one is sky."""
    log = (painted.float().clamp(min=1.0) / known.float().clamp(min=1.0)).log()
    return torch.where((painted > 0) & (known > 0), log, 0.0)


def scale_error(views: Views) -> Tensor:
    """Return by which factor painted depths differ from the memory's, as |log| (n,).

    The median over pixels that both know. A new surface in front of known ones changes single
    pixels, a wrong scale changes all. NaN for views of which the memory knows almost nothing.
    """
    if views.known is None:
        return torch.full((len(views),), torch.nan)
    painted, known = views.frame.inverse_depth, views.known.inverse_depth
    assert painted is not None
    both = _dense(views.known) & (painted > 0) & (known > 0)
    log = _log_ratio(painted, known).masked_fill(~both, torch.nan)
    middle = log.flatten(1).nanmedian(1).values.abs()
    few = both.flatten(1).sum(1) < LEAST_KNOWN * both[0].numel()
    return middle.masked_fill(few, torch.nan)


def colour_conflict(views: Views) -> Tensor:
    """Return the mean difference (n,) of 3x3 means of colours from the memory's, in 1/255.

    Over pixels that both know and whose depths agree. NaN where there are few.
    """
    if views.known is None:
        return torch.full((len(views),), torch.nan)
    same = _agreeing(views, _dense(views.known))
    soft = [F.avg_pool2d(x.float(), 3, 1, 1) for x in (views.frame.rgb, views.known.rgb)]
    gap = (soft[0] - soft[1]).abs().mean(1) * same
    count = same.flatten(1).sum(1).float()
    mean = gap.flatten(1).sum(1) / count.clamp(min=1)
    return mean.masked_fill(count < LEAST_KNOWN * same[0].numel(), torch.nan)


def seen_past(views: Views) -> Tensor:
    """Return the share (n,) of points that lie in space which another view sees as free.

    Counts points of a view that other views see past, and points of other views that it sees past.
    NaN for views that no other view overlaps.
    """
    code, pose, camera = views.frame.inverse_depth, views.camera.pose, views.camera
    assert code is not None
    n = len(views)
    if views.others is not None and views.other_camera is not None:
        assert views.others.inverse_depth is not None
        code = torch.cat([code, views.others.inverse_depth])
        pose = torch.cat([pose, views.other_camera.pose])
    k, h, w = code.shape
    every = Camera(pose, camera.intrinsics[:1].expand(k, 4), h, w)
    depth = DEPTH_CODES * DEPTH_NEAR / code.float()
    near = depth[:, ::STRIDE, ::STRIDE].flatten(1)
    rays = pixel_rays(camera.intrinsics[:1], h, w)[0, :, ::STRIDE, ::STRIDE].flatten(1)
    local = rays * near.nan_to_num(posinf=1.0)[:, None]
    world = pose[:, :3, :3].float() @ local + pose[:, :3, 3:].float()
    p = near.shape[1]
    points = world.transpose(0, 1).flatten(1).T.expand(k, k * p, 3)
    finite = near.isfinite().flatten().expand(k, k * p)
    u, v, z = project(points, torch.zeros(k, k * p, dtype=torch.bool), every)
    inside = finite & (u >= 0) & (u < w) & (v >= 0) & (v < h) & (z > 0.3)
    # The smallest depth of the 3x3 neighbourhood, because edges may be off by one pixel.
    around = -F.max_pool2d(-depth.clamp(max=1e4)[:, None], 3, 1, 1).flatten(1)
    pixel = (v.clamp(0, h - 1).long() * w + u.clamp(0, w - 1).long()).clamp(0, h * w - 1)
    seen = around.gather(1, pixel)
    wrong = inside & (z < PASSED_SHARE * seen - PASSED_METRES)
    # Rows: the view that looks. Columns: the view that a point comes from.
    other = ~torch.eye(k, dtype=torch.bool)
    bad, all_ = (x.view(k, k, p).sum(2).float() * other for x in (wrong, inside))
    bad, all_ = (x[:n].sum(1) + x[:, :n].sum(0) for x in (bad, all_))
    return torch.where(all_ < 8, torch.nan, bad / all_.clamp(min=1))


def nearest(views: Views) -> Tensor:
    """Return the depth in metres (n,) that 5% of a view's pixels fall below."""
    depth = views.depth.clamp(max=1e4).flatten(1)
    return depth.quantile(NEAREST_SHARE, 1)


def farthest(views: Views) -> Tensor:
    """Return the depth in metres (n,) that 95% of a view's pixels fall below, at most 1000."""
    return views.depth.clamp(max=1e3).flatten(1).quantile(1.0 - NEAREST_SHARE, 1)


def floor_missing(views: Views) -> Tensor:
    """Return the share (n,) of the lowest rows that shows no floor within reach of the walker.

    That is a floor much lower than the walker's, or sky. The eye is at
    :attr:`worldsim.planning.ground.GroundConfig.eye` above the floor.
    """
    low = lowest_heights(views)
    return (low < -(GroundConfig().eye + CLIFF_METRES)).float().flatten(1).mean(1)


def lowest_heights(views: Views) -> Tensor:
    """Return the heights (n, rows, w) over the camera of the lowest rows' points, in metres.

    World axes have z up. Sky is at ``-inf``.
    """
    h, w = views.camera.height, views.camera.width
    rays = pixel_rays(views.camera.intrinsics, h, w)[:, :, -FLOOR_ROWS:]
    up = views.camera.pose[:, 2, :3].float()
    depth = views.depth[:, -FLOOR_ROWS:]
    height = (up[:, :, None, None] * rays).sum(1) * depth.clamp(max=1e6)
    return torch.where(depth.isfinite(), height, -torch.inf)


def speckle(views: Views) -> Tensor:
    """Return the share of pixels (n,) whose depth is unlike that of most of their neighbours.

    The depth channel, in [0, 1), differs from the median of the 3x3 pixels by more than
    :data:`SPECKLE`.
    """
    code = views.frame.inverse_depth
    assert code is not None
    channel = F.pad(code_to_channel(code)[:, None], (1,) * 4, mode="replicate")
    around = F.unfold(channel, 3).median(1).values.view_as(code)
    return ((code_to_channel(code) - around).abs() > SPECKLE).float().mean((1, 2))


def rectangle(views: Views) -> Tensor:
    """Return how complete the outline of a picture within the picture is, (n,) in [-1, 1].

    The two weakest sides of the most complete upright rectangle around the middle. A side counts as
    the mean of its steps of colour or depth, in excess of those beside it and relative to a typical
    step.
    """
    code = views.frame.inverse_depth
    assert code is not None
    shown = torch.cat([views.frame.rgb.float(), 255.0 * code_to_channel(code)[:, None]], 1)
    h, w = shown.shape[-2:]
    across = _excess((shown[..., 1:] - shown[..., :-1]).abs().amax(1))
    down = _excess((shown[..., 1:, :] - shown[..., :-1, :]).abs().amax(1).transpose(1, 2))
    columns = F.pad(across.cumsum(1), (0, 0, 1, 0))
    rows = F.pad(down.transpose(1, 2).cumsum(2), (1, 0))
    top, bottom = _margins(h)
    left, right = _margins(w)
    tall, wide = (bottom[None] - top[:, None]).float(), (right[None] - left[:, None]).float()

    def upright(at: Tensor) -> Tensor:
        """(n, top, bottom, at)."""
        lines = columns[:, :, at - 1]
        return (lines[:, bottom][:, None] - lines[:, top][:, :, None]) / tall[..., None]

    def level(at: Tensor) -> Tensor:
        """(n, at, left, right)."""
        lines = rows[:, at - 1]
        return (lines[:, :, right][:, :, None] - lines[:, :, left][:, :, :, None]) / wide

    sides = [upright(left)[..., None], upright(right)[..., None, :]]
    ends = [level(top)[:, :, None], level(bottom)[:, None]]
    # The weaker of the two sides and the weaker of the two ends, or a pair if that is weaker yet.
    weak = torch.minimum(*sides) + torch.minimum(*ends)
    pairs = torch.minimum(sides[0] + sides[1], ends[0] + ends[1])
    return 0.5 * torch.minimum(weak, pairs).flatten(1).amax(1)


def _margins(size: int) -> tuple[Tensor, Tensor]:
    """Return first and last boundaries of a rectangle within ``size`` pixels."""
    most = max(2, int(MARGIN * size))
    first = torch.arange(2, most + 1)
    return first, size - first.flip(0)


def seams(views: Views) -> Tensor:
    """Return how much steps of colour lie on a regular grid, (n,): about 0 for none.

    A step between two neighbouring pixels counts if it exceeds the two steps before it and the two
    behind it, however small it is, so seams in dark and in flat parts of a view count as others do.
    The value is by how much the share of such steps on the lines of a grid exceeds their share on
    the other lines, times the root of the number of lines over 7, which is that of a grid of 8
    pixels. The best period of :data:`PERIODS` and the best offset count, and the weaker of rows and
    columns.
    """
    rgb = views.frame.rgb.float()
    across, down = (_peaks((x[..., 1:] - x[..., :-1]).abs().amax(1)) for x in (rgb, rgb.mT))
    best = torch.full((len(views),), -1.0, device=rgb.device)
    for period in PERIODS:
        weaker = torch.minimum(_best_comb(across, period), _best_comb(down, period))
        best = torch.maximum(best, weaker)
    return best


def _peaks(step: Tensor) -> Tensor:
    """Return the share (n, lines) of steps (n, k, lines) that exceed those of four lines around."""
    near = F.pad(step, (2, 2))
    around = torch.stack([near[..., :-4], near[..., 1:-3], near[..., 3:-1], near[..., 4:]])
    return (step > around.amax(0)).float().mean(1)


def _excess(step: Tensor) -> Tensor:
    """Return by how much steps (n, k, lines) exceed those of the lines beside them, in [-1, 1]."""
    soft = step / (step + 4.0 + step.mean((1, 2), keepdim=True))
    near = F.pad(soft, (2, 2), mode="replicate")
    around = near[..., :-4] + near[..., 1:-3] + near[..., 3:-1] + near[..., 4:]
    return soft - 0.25 * around


def _best_comb(line: Tensor, period: int) -> Tensor:
    """Return by how much the best lines (n, lines) that are ``period`` apart exceed the others."""
    total, count = line.sum(1), line.shape[1]
    found = []
    for offset in range(period):
        chosen = line[:, offset::period]
        n = chosen.shape[1]
        others = (total - chosen.sum(1)) / (count - n)
        # Few lines vary more by chance.
        found.append((chosen.mean(1) - others) * (n / TYPICAL_LINES) ** 0.5)
    return torch.stack(found).amax(0)


def blur_ratio(views: Views) -> Tensor:
    """Return the share of sharpness (n,) that further blurring removes; low for blurred views.

    After Crete et al. 2007, "The blur effect".
    """
    rgb = views.frame.rgb
    kernel = torch.tensor([0.25, 0.5, 0.25])
    weight = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(rgb.float(), (1, 1, 1, 1), mode="replicate"), weight, groups=3)
    before, after = (_gradient(luminance_of(x)) for x in (rgb.float(), soft))
    return 1.0 - after / before.clamp(min=1e-3)


def luminance_of(rgb: Tensor) -> Tensor:
    """Return the luminance (n, h, w) of float colours (n, 3, h, w)."""
    return 0.299 * rgb[:, 0] + 0.587 * rgb[:, 1] + 0.114 * rgb[:, 2]


def _gradient(grey: Tensor) -> Tensor:
    across = (grey[:, :, 1:] - grey[:, :, :-1]).abs().mean((1, 2))
    return across + (grey[:, 1:] - grey[:, :-1]).abs().mean((1, 2))


def sharp(views: Views) -> Tensor:
    """Return the mean magnitude of the Sobel gradient (n,), see ``metrics.sharpness``."""
    return sharpness(views.frame.rgb)


def noise(views: Views) -> Tensor:
    """Return the level of grain (n,): the lower quartile of local fine detail, in 1/255.

    Real views have regions without detail; noise is everywhere.
    """
    return _lower_quartile(_detail(luminance(views.frame.rgb)))


def colour_noise(views: Views) -> Tensor:
    """Return the level of coloured grain (n,), in 1/255.

    As :func:`noise`, of the differences between red, green and blue; at each pixel the smallest of
    the three counts. The fine detail of a texture has one or two hues, so one of the differences
    has little; noise of the channels is independent.
    """
    red, green, blue = views.frame.rgb.float().unbind(1)
    pairs = ((red, green), (blue, green), (red, blue))
    detail = torch.stack([_detail((x - y) / 2**0.5) for x, y in pairs])
    return _lower_quartile(detail.amin(0))


def edges(views: Views) -> Tensor:
    """Return how steep a view's edges are, (n,): the steepest 2% of the steps over the mean step.

    Real views have few steep edges between calm surfaces. In fog, where a dream or a painting has
    lost the place, all steps are alike: normally distributed ones give 2.9.
    """
    grey = luminance(views.frame.rgb)
    across, down = grey[:, :, 1:] - grey[:, :, :-1], grey[:, 1:] - grey[:, :-1]
    step = torch.cat([across.flatten(1), down.flatten(1)], 1).abs()
    return step.quantile(1.0 - STEEP_SHARE, 1) / step.mean(1).clamp(min=0.1)


def _detail(x: Tensor) -> Tensor:
    """Return the magnitude of the fine detail of pictures (n, h, w)."""
    kernel = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6.0
    return F.conv2d(x[:, None], kernel.to(x.device)[None, None]).abs()


def _lower_quartile(detail: Tensor) -> Tensor:
    """Return the lower quartile (n,) of the means over 6x6 pixels of detail (n, 1, h, w)."""
    return F.avg_pool2d(detail, 6, 3).flatten(1).quantile(0.25, 1)


def contrast(views: Views) -> Tensor:
    """Return the standard deviation of the luminance (n,), in 1/255."""
    return luminance(views.frame.rgb).flatten(1).std(1)


def repetition(views: Views) -> Tensor:
    """Return the largest autocorrelation (n,) of fine detail at shifts of 6 pixels and more."""
    grey = luminance(views.frame.rgb)
    h, w = grey.shape[1:]
    fine = grey - F.avg_pool2d(F.pad(grey[:, None], (2,) * 4, mode="replicate"), 5, 1)[:, 0]
    # Bounded, so that one bright spot does not decide.
    fine = fine.clamp(-30.0, 30.0)
    size = (2 * h, 2 * w)

    def correlate(a: Tensor, b: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(a, size).conj() * torch.fft.rfft2(b, size), size)

    one = torch.ones_like(fine)
    product = correlate(fine, fine)
    here, there = correlate(fine.square(), one), correlate(one, fine.square())
    overlap = correlate(one, one)
    ratio = product / (0.5 * (here + there)).clamp(min=1e-3)
    dy = torch.fft.fftfreq(size[0], 1.0 / size[0]).abs()
    dx = torch.fft.fftfreq(size[1], 1.0 / size[1]).abs()
    far = torch.maximum(dy[:, None], dx[None]) >= LEAST_LAG
    # Shifts at which little detail overlaps say nothing.
    enough = (overlap >= 0.25 * h * w) & (
        0.5 * (here + there) >= 0.15 * fine.square().sum((1, 2))[:, None, None]
    )
    return torch.where(far & enough, ratio, -1.0).flatten(1).amax(1)


def room(points: Points, pose: Tensor) -> float:
    """Return the area in square metres that a walker at ``pose`` (4, 4) can reach and knows.

    Within :data:`ROOM_METRES` to each side.
    """
    ground = ground_at(points, pose, ROOM_METRES)
    here = np.array([ground.cells(pose[:2, 3].double().numpy())])
    way = ground.field(here, outward=True)
    reached = np.isfinite(way) & ground.known & ~ground.blocked()
    return float(reached.sum()) * ground.config.cell**2


def ground_at(points: Points, pose: Tensor, reach: float) -> Ground:
    """Return the ground of a point memory around the camera ``pose`` (4, 4)."""
    position = points.position[0][:, points.kind[0] == POINT].double().cpu().numpy()
    eye = pose[:3, 3].double().cpu().numpy()
    near = (np.abs(position[:2] - eye[:2, None]) <= reach + 1.0).all(0)
    return Ground.of(position[:, near], eye, GroundConfig(reach=reach))
