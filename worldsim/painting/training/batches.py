"""Training batches of the painter: given views, memory views and attributes.

Batches are made on the device from a :class:`worldsim.painting.training.store.ViewStore`. The views
of a set are split into ``n`` views for the network and further views from which the memory is
built. The memory is degraded as memories are in use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import Camera
from worldsim.errors import InvalidInputError
from worldsim.memory.splat import EMPTY, frame_points, view_of
from worldsim.painting.channels import clean_channels, constant, memory_view_channels, rays_of
from worldsim.painting.knots import TRACE
from worldsim.painting.levels import add_noise_to, draw_levels, shift_for, shift_levels
from worldsim.painting.network import PainterBatch
from worldsim.painting.training.store import Drawn, ViewStore
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.ranges import Count, Share
from worldsim.state import MemoryView

VIEW_COUNTS = (1, 2, 3, 4, 6, 8)
"""Numbers of views per set, one for each batch."""
VIEW_SHARES = (0.12, 0.12, 0.12, 0.2, 0.14, 0.3)
"""Probability of each number of views."""
GROWTH = 1.2
"""Factor by which the store grows until the weights of its sets are computed again."""
CLASSES = 5
"""Absence and the quarters of the places that show an attribute."""
BLOCK = 8
"""Side length in pixels of the blocks that are dropped from degraded memories."""


@dataclass(frozen=True)
class BatchConfig:
    """Settings of the painter's training batches."""

    headings: Count = 8
    """Number of views of a set that stand at one place, evenly rotated. They come first in the
    set."""
    sources: Count = 6
    """Largest number of views that a memory is built from, the given ones included."""
    no_memory: Share = 0.15
    """Share of sets whose memory is empty."""
    no_attributes: Share = 0.15
    """Share of sets without attributes, for classifier-free guidance (Ho and Salimans 2022)."""
    some_attributes: Share = 0.5
    """Share of the other sets in which each attribute is given with probability 0.7."""
    few_attributes: Share = 0.0
    """Share of the sets with attributes in which each is given with a probability that is drawn
    uniformly for the set. It comes before ``some_attributes``. Prompts name few attributes."""
    balanced: Share = 0.0
    """Share of the sets that are drawn so that rare values of attributes are as frequent as common
    ones (:func:`balance_weights`)."""
    in_order: Share = 0.5
    """Share of sets whose views are neighbouring headings. The others use any views in any
    order."""
    given: Share = 0.6
    """Share of sets in which some of the views are given clean."""
    picture_only: Share = 0.3
    """Share of those sets whose given views have colour only, so their depth is predicted."""
    own_levels: Share = 0.25
    """Share of sets with one noise level per view (Diffusion Forcing, Chen et al. 2024)."""
    unshifted: Share = 0.0
    """Share of sets whose noise levels are not shifted by the number of views. They train the low
    levels at which a sampler paints textures."""
    near_noise: Share = 0.0
    """Share of sets with one noise level for all views, so near 1 that not even the mean of a
    channel shows. Only there does a sampler need attributes for what every pixel tells, such as
    light: a mean of 4,096 pixels shows through noise of level 0.97 (Lin et al. 2024 find the same
    of images' brightness)."""
    damaged: Share = 0.3
    """Share of sets whose memory has each kind of damage: missing blocks, scaled depth, blur,
    noise."""

    def __post_init__(self) -> None:
        check_ranges(self)


def balance_weights(attributes: Tensor) -> Tensor:
    """Return how often sets are drawn so that rare values are as frequent as common ones, (s,).

    An attribute is drawn, then one of its classes, then a set in it. Classes are absence and the
    four quarters of the places that show the attribute.

    attributes: (s, a) in [0, 1].

    Returns weights with a sum of 1.
    """
    shown = attributes >= TRACE
    marked = attributes.masked_fill(~shown, torch.nan)
    quarters = torch.tensor([0.25, 0.5, 0.75], device=attributes.device)
    edges = torch.nanquantile(marked, quarters, 0)
    kind = torch.where(shown, 1 + (attributes > edges[:, None]).sum(0), 0)
    classes = F.one_hot(kind, CLASSES).float()
    count = classes.sum(0)
    share = (classes / count.clamp(min=1.0)).sum(-1) / (count > 0).sum(-1)
    return share.mean(1)


def near_noise_levels(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> Tensor:
    """Draw levels at which only noise is seen: a third is 1, others have 1 - level in [1e-3, 0.1].

    The logarithm of 1 - level is uniform.
    """
    draw = torch.rand(2, *shape, generator=generator, device=device)
    level = 1.0 - 10.0 ** (-1.0 - 2.0 * draw[0])
    return torch.where(draw[1] < 1 / 3, 1.0, level)


@dataclass(frozen=True)
class Example:
    """A training batch: the network's input and the clean channels (b, n, 5, h, w)."""

    batch: PainterBatch
    clean: Tensor


def source_views(
    rgb: Tensor, code: Tensor, pose: Tensor, keep: Tensor, targets: Tensor, intrinsics: Tensor
) -> MemoryView:
    """Build a memory from source views and render it at other cameras of the same sets.

    rgb: (b, m, 3, h, w) uint8.
    code: (b, m, h, w) int32 inverse-depth codes.
    pose: (b, m, 4, 4) camera-to-world.
    keep: (b, m, h, w) bool, pixels that the memory holds.
    targets: (b, n, 4, 4) camera-to-world of the rendered views.
    intrinsics: (4,) pixels.

    Returns the views (b * n, ...).
    """
    b, m, _, h, w = rgb.shape
    n = targets.shape[1]
    source = Camera(pose.flatten(0, 1), intrinsics.expand(b * m, 4), h, w)
    position, kind = frame_points(code.flatten(0, 1), source)
    kind = torch.where(keep.flatten(0, 1).flatten(1), kind, EMPTY)

    def slots(x: Tensor) -> Tensor:
        """Convert (b * m, ..., h * w) to (b * n, ..., m * h * w)."""
        joined = x.unflatten(0, (b, m)).movedim(1, -2).flatten(-2)
        return joined.repeat_interleave(n, 0)

    camera = Camera(targets.flatten(0, 1), intrinsics.expand(b * n, 4), h, w)
    colour = slots(rgb.flatten(0, 1).flatten(2))
    kinds = slots(kind)
    return view_of(slots(position), colour, kinds, torch.zeros_like(kinds), camera)


def memory_channels(
    rgb: Tensor, code: Tensor, pose: Tensor, keep: Tensor, targets: Tensor, intrinsics: Tensor
) -> Tensor:
    """Return :func:`source_views` as channels (b, n, 5, h, w) float32.

    They are rgb, depth channel and mask; zeros in holes.
    """
    view = source_views(rgb, code, pose, keep, targets, intrinsics)
    return memory_view_channels(view).unflatten(0, targets.shape[:2])


def mirror(drawn: Drawn, flip: Tensor) -> Drawn:
    """Mirror the images and poses of the sets where ``flip`` (b,) bool is True."""
    where = flip[:, None, None, None]
    sign = constant((-1.0, 1.0, 1.0, 1.0), flip.device)
    return Drawn(
        rgb=torch.where(where[..., None], drawn.rgb.flip(-1), drawn.rgb),
        code=torch.where(where, drawn.code.flip(-1), drawn.code),
        pose=torch.where(where, drawn.pose * sign[:, None] * sign, drawn.pose),
        attributes=drawn.attributes,
    )


class BatchMaker:
    """Draws training examples from a store.

    All random numbers come from ``generator``.
    """

    def __init__(self, store: ViewStore, config: BatchConfig, generator: torch.Generator) -> None:
        if store.views - max(VIEW_COUNTS) < config.sources - 1:
            raise InvalidInputError(
                f"sets of {store.views} views leave too few for a memory of {config.sources} "
                f"sources beside {max(VIEW_COUNTS)} painted views: record more displaced views, "
                "or lower sources."
            )
        self.store, self.config, self.generator = store, config, generator
        self._weights: Tensor | None = None

    def make(self, sets: int, views: int) -> Example:
        """Draw an example of ``sets`` sets of ``views`` views."""
        drawn = mirror(self._draw(sets), self._chance(0.5, sets))
        order = self._order(sets)
        rgb, code, pose = (_pick(x, order) for x in (drawn.rgb, drawn.code, drawn.pose))
        clean = clean_channels(rgb[:, :views], code[:, :views])
        level, known = self._levels(sets, views)
        noise = torch.randn(clean.shape, generator=self.generator, device=clean.device)
        memory = self._memory(rgb, code, pose, views, known[:, 0])
        height, width = self.store.height, self.store.width
        batch = PainterBatch(
            noisy=add_noise_to(clean, noise, level),
            level=level,
            memory=memory,
            rays=rays_of(pose[:, :views], self.store.intrinsics, height, width),
            attributes=drawn.attributes,
            known=self._told(sets, drawn.attributes.shape[1]),
        )
        return Example(batch, clean)

    def _draw(self, sets: int) -> Drawn:
        if not self.config.balanced:
            return self.store.draw(sets, self.generator)
        known = self.store.attributes()
        if self._weights is None or len(known) > GROWTH * len(self._weights):
            self._weights = balance_weights(known)
        weights = self._weights
        rare = torch.multinomial(weights, sets, replacement=True, generator=self.generator)
        any_ = torch.floor(self._rand(sets) * len(known)).long().clamp(max=len(known) - 1)
        return self.store.get(torch.where(self._chance(self.config.balanced, sets), rare, any_))

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.store.device)

    def _chance(self, share: float, *shape: int) -> Tensor:
        return self._rand(*shape) < share

    def _order(self, sets: int) -> Tensor:
        """Return an order of the views of each set, (sets, k) int64.

        It is random, or lists the headings from a random one on, followed by the other views.
        """
        k, headings = self.store.views, min(self.config.headings, self.store.views)
        number = torch.arange(k, device=self.store.device)
        start = torch.floor(self._rand(sets, 1) * headings)
        turned = ((number - start) % headings) / headings
        key = self._rand(sets, k)
        in_turn = torch.where(number < headings, turned, 1.0 + key)
        return torch.where(self._chance(self.config.in_order, sets, 1), in_turn, key).argsort(1)

    def _levels(self, sets: int, views: int) -> tuple[Tensor, Tensor]:
        """Draw noise levels and choose the given views.

        Returns levels (sets, views, 2) and (sets, views) bool, the views given with depth.
        """
        config, device = self.config, self.store.device
        count = torch.floor(self._rand(sets) * (views - 1)) + 1
        count = torch.where(self._chance(config.given, sets), count, 0.0) * (views > 1)
        given = torch.arange(views, device=device) < count[:, None]
        picture = self._chance(config.picture_only, sets)
        if views == 1:
            # The same network predicts the depth of a single image.
            given = picture[:, None]
        shape = (sets, views, 2)
        own = draw_levels(shape, self.generator, device)
        both = own[..., :1].expand(shape)
        shared = own[:, :1, :1].expand(shape)
        kind = self._rand(sets)[:, None, None]
        level = torch.where(kind < config.own_levels, both, shared)
        level = torch.where(kind < 0.3 * config.own_levels, own, level)
        noisy = (views - given.sum(1)).clamp(min=1)
        unshifted = self._chance(config.unshifted, sets)
        shift = torch.where(unshifted, 1.0, shift_for(noisy))
        level = shift_levels(level, shift[:, None, None])
        if config.near_noise:
            top = near_noise_levels((sets, 1, 1), self.generator, device).expand(shape)
            level = torch.where(self._chance(config.near_noise, sets, 1, 1), top, level)
        colour = torch.where(given, 0.0, level[..., 0])
        with_depth = given & ~picture[:, None]
        depth = torch.where(with_depth, 0.0, level[..., 1])
        return torch.stack([colour, depth], -1), with_depth

    def _memory(self, rgb: Tensor, code: Tensor, pose: Tensor, views: int, first: Tensor) -> Tensor:
        """Return memory views of the first ``views`` cameras, built from other views of the sets.

        first: (b,) bool, whether the first view is given with depth and may also be a source.
        """
        config, sets = self.config, len(rgb)
        at = [0, *range(views, views + config.sources - 1)]
        sources = [x[:, at] for x in (rgb, code, pose)]
        m, h, w = len(at), self.store.height, self.store.width
        count = torch.floor(self._rand(sets).sqrt() * m) + 1
        count = torch.where(self._chance(config.no_memory, sets), 0.0, count)
        # In random order, so that the first view is used as often as the others.
        rank = self._rand(sets, m).argsort(1).argsort(1)
        use = rank < count[:, None]
        use[:, 0] &= first
        colour, code_, keep = self._damage(*sources[:2])
        keep = keep & use[:, :, None, None]
        assert keep.shape == (sets, m, h, w)
        return memory_channels(
            colour, code_, sources[2], keep, pose[:, :views], self.store.intrinsics
        )

    def _damage(self, rgb: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Degrade source views as memories in use are degraded.

        Blocks are missing, depth is scaled, colours are blurred and noisy.
        """
        sets, m, _, h, w = rgb.shape
        share = self.config.damaged
        lost = self._rand(sets, m, 1, 1) * 0.7 * self._chance(share, sets, 1, 1, 1)
        blocks = self._rand(sets, m, -(-h // BLOCK), -(-w // BLOCK)) >= lost
        keep = blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[..., :h, :w]
        error = 0.04 * torch.randn(sets, m, 1, 1, generator=self.generator, device=rgb.device)
        scaled = (
            (code * (1.0 + error * self._chance(share, sets, 1, 1, 1)))
            .round()
            .int()
            .clamp(0, 65535)
        )
        colour = rgb.float()
        flat = colour.flatten(0, 1)
        soft = F.interpolate(
            F.avg_pool2d(flat, 2), size=(h, w), mode="bilinear", align_corners=False
        )
        blurred = self._chance(share, sets, 1, 1, 1, 1)
        colour = torch.where(blurred, soft.unflatten(0, (sets, m)), colour)
        grain = torch.randn(colour.shape, generator=self.generator, device=rgb.device)
        colour = colour + 12.0 * self._rand(sets, 1, 1, 1, 1) * grain * self._chance(
            share, sets, 1, 1, 1, 1
        )
        return colour.round().clamp(0, 255).to(torch.uint8), scaled, keep

    def _told(self, sets: int, attributes: int) -> Tensor:
        """Return (sets, attributes) float32: 1 where an attribute is given."""
        some = self._chance(self.config.some_attributes, sets, 1)
        told = ~some | self._chance(0.7, sets, attributes)
        if self.config.few_attributes:
            few = self._rand(sets, attributes) < self._rand(sets, 1)
            told = torch.where(self._chance(self.config.few_attributes, sets, 1), few, told)
        return (told & ~self._chance(self.config.no_attributes, sets, 1)).float()


def _pick(x: Tensor, order: Tensor) -> Tensor:
    """Reorder the views of ``x`` (b, k, ...) by ``order`` (b, k)."""
    return x[torch.arange(len(x), device=x.device)[:, None], order]
