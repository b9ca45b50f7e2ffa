"""The painter of places: a multi-view diffusion network behind the protocol ``Painter``."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.camera import pixel_rays, quantise_depth
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.painting.channels import clean_channels, memory_view_channels, rays_of
from worldsim.painting.checkpoint import CARD, load_painter
from worldsim.painting.graphs import GraphedNetwork
from worldsim.painting.levels import add_noise_to
from worldsim.painting.network import PainterBatch, PainterNetwork
from worldsim.painting.sampling import Away, PaintConfig, frames_of, paint
from worldsim.protocols import PainterIdentity, PainterSpec, PaintInputs
from worldsim.runtime.devices import resolve_device
from worldsim.runtime.files import is_file
from worldsim.runtime.json_config import to_json
from worldsim.runtime.rng import Purpose, normal
from worldsim.runtime.types import Array
from worldsim.state import Frame, checksum, map_tensors
from worldsim.world.files import WORLDS_FOLDER

DEFAULT_PAINTER = "freedoom-painter"
"""Name of the shipped painter."""
NEW_PLACE_STEPS = 12
"""Sampling steps of ``worldsim generate`` and ``worldsim journey`` with the shipped painter. It was
distilled for 8, which dreams that paint ahead use; in 12 its new places are sharper and nearer to
real ones, for half as much time again (docs/experiments/painter.md)."""


def painter_folder(name: str | Path, card: str = CARD) -> Path | None:
    """Return the folder of a shipped painter or of one on disk, None if it holds no ``card``."""
    folders = (Path(name), WORLDS_FOLDER / name)
    return next((folder for folder in folders if is_file(folder / card)), None)


def open_painter(
    name: str | Path = DEFAULT_PAINTER,
    config: PaintConfig | None = None,
    device: torch.device | str | None = None,
) -> NetworkPainter:
    """Load a painter by the name of a shipped one, or from a folder.

    config: sampling settings; by default those that the painter recommends.
    device: by default the GPU if there is one.

    Raises NotFoundError or DamagedFileError.
    """
    folder = painter_folder(name)
    if folder is not None:
        return NetworkPainter.from_pretrained(folder, config, device)
    names = sorted(path.parent.name for path in WORLDS_FOLDER.glob(f"*/{CARD}"))
    shipped = ", ".join(names) or "none"
    raise NotFoundError(
        f"no painter {str(name)!r}: give a folder with a {CARD}, or a shipped painter ({shipped})."
    )


DRAW_STEPS = 2**32
"""Distance between the steps of the random numbers of two samples of a depth."""
FLOOR_METRES, LEAST_DOWN = 41.0 / 32.0, 0.02
"""Height of a picture's camera over its floor, and the slope below the horizon from which its rays
meet it."""
SCORE_LEVEL = 0.3
"""Noise level at which :meth:`NetworkPainter.score` measures the denoising error."""


class NetworkPainter:
    """Paints with a :class:`worldsim.painting.network.PainterNetwork`.

    network: the network.
    spec: size, camera and attributes of its views.
    config: sampling settings.
    away: (2, a) attributes from which new places are guided away, and which of them are given; None
        for none.
    """

    def __init__(
        self,
        network: PainterNetwork,
        spec: PainterSpec,
        config: PaintConfig | None = None,
        away: Tensor | None = None,
    ) -> None:
        self.network = network.requires_grad_(False).eval()
        self._spec, self.config = spec, config or PaintConfig()
        self._away = away
        self._graphs: GraphedNetwork | None = None

    @property
    def spec(self) -> PainterSpec:
        """What the painter paints."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    @property
    def evaluator(self) -> torch.nn.Module:
        """What is called once for each evaluation of the network: the network, or its graphs."""
        return self._graphs or self.network

    @cached_property
    def weights_id(self) -> str:
        """SHA-256 of the weights."""
        return checksum(self.network.state_dict())

    def identify(self) -> PainterIdentity:
        """See :meth:`worldsim.protocols.IdentifiedPainter.identify`."""
        settings = to_json(self.config)
        if self._away is not None:
            settings["away"] = checksum({"away": self._away})
        return PainterIdentity(self.weights_id, settings)

    def to(self, device: torch.device | str) -> NetworkPainter:
        """Move the network to ``device``; returns the painter itself."""
        self.network.to(device)
        return self

    @classmethod
    def from_pretrained(
        cls,
        folder: Path,
        config: PaintConfig | None = None,
        device: torch.device | str | None = None,
    ) -> NetworkPainter:
        """Load a painter from the folder that training wrote.

        config: sampling settings; by default those that ``painter.json`` recommends.
        device: by default the GPU if there is one.

        Raises NotFoundError or DamagedFileError.
        """
        saved = load_painter(folder)
        chosen = saved.sampling() if config is None else config
        return cls(saved.network(), saved.spec(), chosen).to(resolve_device(device))

    def away_from(self, attributes: Array, told: Array) -> NetworkPainter:
        """See :meth:`worldsim.protocols.ContrastPainter.away_from`.

        Raises InvalidInputError for another number of attributes.
        """
        away = torch.stack([torch.as_tensor(x, dtype=torch.float32) for x in (attributes, told)])
        if away.shape != (2, len(self.spec.attributes)):
            raise InvalidInputError(
                f"attributes to paint away from have the shape {tuple(away.shape[1:])}: give one "
                f"for each of the painter's {len(self.spec.attributes)}."
            )
        found = NetworkPainter(self.network, self.spec, self.config, away)
        found._graphs = self._graphs
        return found

    def with_graphs(self) -> NetworkPainter:
        """See :meth:`worldsim.protocols.GraphPainter.with_graphs`."""
        found = NetworkPainter(self.network, self.spec, self.config, self._away)
        if self.device.type == "cuda":
            found._graphs = GraphedNetwork(self.network)
        return found

    def paint(self, inputs: PaintInputs) -> Frame:
        """See :meth:`worldsim.protocols.Painter.paint`."""
        check_inputs(inputs, self.spec)
        at = map_tensors(lambda x: x.to(self.device), inputs)
        return keep_known(self._paint_all(at, self.config.places), at, inputs.pose.shape[1])

    def preview(self, inputs: PaintInputs, steps: int) -> Frame:
        """See :meth:`worldsim.protocols.PreviewPainter.preview`.

        On a GPU all places are painted at once, so that previews are quick.
        """
        check_inputs(inputs, self.spec)
        at = map_tensors(lambda x: x.to(self.device), inputs)
        places = len(at) if self.device.type == "cuda" else self.config.places
        steps = min(steps, self.config.num_inference_steps)
        return self._paint_all(at, places, steps)

    def _paint_all(self, at: PaintInputs, size: int, stop_after: int | None = None) -> Frame:
        """Return painted frames (b * n, ...), ``size`` places at once."""
        b = len(at)
        # Always the same number of places, because networks round differently in other batches.
        parts = []
        for i in range(0, b, size):
            some = _places(at, torch.arange(i, i + size, device=self.device).clamp(max=b - 1))
            # A preview shows roughly what the place will be like; one depth does.
            whole = some if stop_after is not None else self._draw_depth(some)
            parts.append(self._paint(whole, stop_after=stop_after))
        return frames_of(torch.cat(parts)[:b].flatten(0, 1), at.pose.flatten(0, 1))

    def _draw_depth(self, at: PaintInputs) -> PaintInputs:
        """Return places with the depth of their given pictures, the median of several samples.

        Sky below the horizon becomes a floor.
        With one sample, it is drawn jointly with the other views instead.
        """
        samples = self.config.depth_samples
        if samples == 1 or at.given is None or at.colour_only is None:
            return at
        plain = at.given & at.colour_only
        views = at.given.any(0).nonzero().flatten()
        if not bool(plain.any()):
            return at
        alone = _select_views(at, views)
        drawn = []
        for k in range(samples):
            channels = self._paint(replace(alone, step=at.step + k * DRAW_STEPS))
            code = frames_of(channels.flatten(0, 1), alone.pose.flatten(0, 1)).inverse_depth
            assert code is not None
            drawn.append(code)
        middle = self._no_low_sky(torch.stack(drawn).median(0).values, alone.pose.flatten(0, 1))
        middle = middle.unflatten(0, (len(at), -1))
        b, n = plain.shape
        code = at.view.inverse_depth.unflatten(0, (b, n)).clone()
        code[:, views] = torch.where(plain[:, views, None, None], middle, code[:, views])
        view = replace(at.view, inverse_depth=code.flatten(0, 1))
        return replace(at, view=view, colour_only=None)

    def _no_low_sky(self, code: Tensor, pose: Tensor) -> Tensor:
        """Replace sky below the horizon by a floor; code: (m, h, w), pose: (m, 4, 4)."""
        spec = self.spec
        lens = pose.new_tensor(spec.intrinsics).expand(len(pose), 4)
        rays = pixel_rays(lens, spec.height, spec.width)
        down = -(pose[:, 2, :3, None, None].float() * rays).sum(1)
        floor = quantise_depth(FLOOR_METRES / down.clamp(min=LEAST_DOWN))
        return torch.where((code == 0) & (down > LEAST_DOWN), floor.to(code.dtype), code)

    def redraw(self, inputs: PaintInputs, frames: Frame, level: Tensor) -> Frame:
        """See :meth:`worldsim.protocols.RedrawsViews.redraw`."""
        check_inputs(inputs, self.spec)
        assert frames.inverse_depth is not None
        device, (b, n) = self.device, inputs.pose.shape[:2]
        at, level = map_tensors(lambda x: x.to(device), (inputs, level))
        clean = clean_channels(frames.rgb.to(device), frames.inverse_depth.to(device))
        clean = clean.unflatten(0, (b, n))
        size = self.config.places
        chunks = [
            torch.arange(i, i + size, device=device).clamp(max=b - 1) for i in range(0, b, size)
        ]
        parts = [self._paint(_places(at, some), clean[some], level[some]) for some in chunks]
        pose = inputs.pose.flatten(0, 1).to(device)
        return keep_known(frames_of(torch.cat(parts)[:b].flatten(0, 1), pose), at, n)

    @torch.no_grad()
    def score(self, inputs: PaintInputs, frame: Frame) -> Tensor:
        """See :meth:`worldsim.protocols.ScoresViews.score`.

        The views get noise of level :data:`SCORE_LEVEL`, and the network predicts the clean ones.
        The error is the mean square in its scaled channels. The noise depends on nothing, so equal
        views have equal scores.
        """
        check_inputs(inputs, self.spec)
        at, whole = map_tensors(lambda x: x.to(self.device), (inputs, frame))
        assert whole.inverse_depth is not None
        b, n = at.pose.shape[:2]
        clean = clean_channels(whole.rgb, whole.inverse_depth).unflatten(0, (b, n))
        fresh = ~_flags(at.given, b, n, at.pose)
        level = (fresh[..., None] * SCORE_LEVEL).expand(b, n, 2)
        memory, attributes, told = self._conditions(at)
        zero = torch.zeros_like(at.seed)
        noise = normal(zero, zero, Purpose.TEST, clean.shape[1:])
        batch = PainterBatch(
            noisy=add_noise_to(clean, noise, level),
            level=level,
            memory=memory,
            rays=self._rays(at.pose),
            attributes=attributes,
            known=told,
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=clean.is_cuda):
            predicted = self.network(batch)
        return (predicted.float() - clean).square().mean((2, 3, 4)).flatten()

    def _away_of(self, places: int) -> Away | None:
        if self._away is None:
            return None
        attributes, told = self._away.to(self.device)[:, None].expand(-1, places, -1)
        return Away(attributes, told)

    def _rays(self, pose: Tensor) -> Tensor:
        spec = self.spec
        return rays_of(pose, pose.new_tensor(spec.intrinsics), spec.height, spec.width)

    def _conditions(self, at: PaintInputs) -> tuple[Tensor, Tensor, Tensor]:
        """Return memory channels, attributes and flags of the given ones for the network."""
        b, n = at.pose.shape[:2]
        given, a = _flags(at.given, b, n, at.pose), len(self.spec.attributes)
        memory = memory_view_channels(at.view).unflatten(0, (b, n))
        memory = memory * ~given[..., None, None, None]
        attributes = memory.new_zeros(b, a) if at.attributes is None else at.attributes.float()
        told = (
            torch.full_like(attributes, float(at.attributes is not None))
            if at.told is None
            else at.told.float()
        )
        return memory, attributes, told

    def _paint(
        self,
        at: PaintInputs,
        redrawn: Tensor | None = None,
        level: Tensor | None = None,
        stop_after: int | None = None,
    ) -> Tensor:
        """Return channels (b, n, 5, h, w) of a batch of places.

        redrawn: clean channels of the same shape to start from, at noise levels ``level`` (b,).
        stop_after: see :func:`worldsim.painting.sampling.paint`.
        """
        b, n = at.pose.shape[:2]
        given, colour_only = _flags(at.given, b, n, at.pose), _flags(at.colour_only, b, n, at.pose)
        clean = clean_channels(at.view.rgb, at.view.inverse_depth).unflatten(0, (b, n))
        if redrawn is not None:
            clean = torch.where(given[..., None, None, None], clean, redrawn)
        memory, attributes, told = self._conditions(at)
        return paint(
            # Previews have batches of their own, each of which would need a graph for a few steps.
            self.evaluator if stop_after is None else self.network,
            given=clean,
            unknown=torch.stack([~given, ~given | colour_only], -1),
            memory=memory,
            rays=self._rays(at.pose),
            attributes=attributes,
            known=told,
            noise=normal(at.seed, at.step, Purpose.PAINT, clean.shape[1:]),
            config=self.config,
            level=level,
            away=self._away_of(b),
            stop_after=stop_after,
        )


def check_inputs(inputs: PaintInputs, spec: PainterSpec) -> None:
    """Raise InvalidInputError unless ``inputs`` fit a painter with this ``spec``."""
    if inputs.pose.ndim != 4 or inputs.pose.shape[2:] != (4, 4):
        raise InvalidInputError(
            f"PaintInputs.pose has shape {tuple(inputs.pose.shape)}: give (b, n, 4, 4)."
        )
    b, n = inputs.pose.shape[:2]
    if not 1 <= n <= spec.views:
        raise InvalidInputError(
            f"{n} views of a place cannot be painted at once: give 1 to {spec.views}, and paint "
            "further ones in a second call with these as given views."
        )
    m, a = b * n, len(spec.attributes)
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "view.rgb": (inputs.view.rgb, (m, 3, spec.height, spec.width)),
        "view.inverse_depth": (inputs.view.inverse_depth, (m, spec.height, spec.width)),
        "view.mask": (inputs.view.mask, (m, spec.height, spec.width)),
        "seed": (inputs.seed, (b,)),
        "step": (inputs.step, (b,)),
        "attributes": (inputs.attributes, (b, a)),
        "told": (inputs.told, (b, a)),
        "given": (inputs.given, (b, n)),
        "colour_only": (inputs.colour_only, (b, n)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InvalidInputError(
                f"PaintInputs.{name} has shape {tuple(tensor.shape)}: give {shape} for {b} places "
                f"of {n} views of a painter of {spec.height}x{spec.width} pixels and {a} "
                "attributes."
            )
    if not bool(torch.isfinite(inputs.pose).all()):
        raise InvalidInputError("PaintInputs.pose holds numbers that are NaN or infinite.")
    if inputs.attributes is not None and not bool(
        ((inputs.attributes >= 0) & (inputs.attributes <= 1)).all()
    ):
        raise InvalidInputError("PaintInputs.attributes must lie in [0, 1].")


def keep_known(painted: Frame, inputs: PaintInputs, views: int) -> Frame:
    """Return ``painted`` frames (b * n, ...) with the known pixels of ``inputs``.

    Given views are returned as they are. In other views the known colour fades into the painted one
    over three pixels along holes, and depth changes in the middle of that edge. Isolated splats
    are not kept, because they are coarser than the painting.
    """
    view, b = inputs.view, len(inputs)
    assert painted.inverse_depth is not None
    given = _flags(inputs.given, b, views, inputs.pose).flatten()[:, None, None]
    colour_only = _flags(inputs.colour_only, b, views, inputs.pose).flatten()[:, None, None]
    dense = -F.max_pool2d(-view.mask[:, None].float(), 3, 1, 1)
    weight = F.avg_pool2d(dense, 3, 1, 1, count_include_pad=False)[:, 0]
    weight = torch.where(given, torch.ones_like(weight), weight)
    rgb = torch.lerp(painted.rgb.float(), view.rgb.float(), weight[:, None])
    code = torch.where(
        (weight > 0.5) & ~(given & colour_only), view.inverse_depth, painted.inverse_depth
    )
    return replace(painted, rgb=rgb.round().clamp(0, 255).to(torch.uint8), inverse_depth=code)


def _flags(flags: Tensor | None, b: int, n: int, like: Tensor) -> Tensor:
    """Return ``flags`` (b, n), all False for None."""
    if flags is None:
        return torch.zeros(b, n, dtype=torch.bool, device=like.device)
    return flags


def _select_views(inputs: PaintInputs, index: Tensor) -> PaintInputs:
    """Return the views at ``index`` (int64) of all places."""
    n = inputs.pose.shape[1]
    view = map_tensors(lambda x: x.unflatten(0, (-1, n))[:, index].flatten(0, 1), inputs.view)
    flags = (inputs.given, inputs.colour_only)
    given, colour_only = (None if x is None else x[:, index] for x in flags)
    return replace(
        inputs, view=view, pose=inputs.pose[:, index], given=given, colour_only=colour_only
    )


def _places(inputs: PaintInputs, index: Tensor) -> PaintInputs:
    """Return the places at ``index`` (int64, repeats allowed)."""
    n = inputs.pose.shape[1]
    view = map_tensors(lambda x: x.unflatten(0, (-1, n))[index].flatten(0, 1), inputs.view)
    rest = map_tensors(lambda x: x[index], replace(inputs, view=None))  # type: ignore[arg-type]
    return replace(rest, view=view)
