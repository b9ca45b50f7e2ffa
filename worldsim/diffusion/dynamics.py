"""The diffusion network as a world's dynamics, with a ring buffer of cached keys and values.

The context holds the newest frame with its context noise (:meth:`DiffusionDynamics.hold`). The
first denoising pass of the next step also moves it into the cache, so a step costs one forward pass
over two frames, whatever the length of the episode. :meth:`DiffusionDynamics.flush` moves it alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeAlias, TypedDict, cast

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from worldsim.camera import pluecker_rays
from worldsim.diffusion.attention import shift_
from worldsim.diffusion.denoiser import (
    MASK_CHANNEL,
    add_noise,
    channels_to_frame,
    frame_to_channels,
    keep_still,
    last_frames_to_channels,
    view_to_channels,
)
from worldsim.diffusion.network import Condition, SpaceTimeTransformer
from worldsim.diffusion.sampling import sample, schedule
from worldsim.errors import InvalidInputError
from worldsim.protocols import DynamicsSpec, Prediction, StepInputs
from worldsim.runtime.json_config import check_ranges
from worldsim.runtime.old_names import old_fields
from worldsim.runtime.rng import Purpose, normal
from worldsim.runtime.triton import usable
from worldsim.state import Frame, LastFrames, MemoryView

Forward: TypeAlias = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""Runs the network, with the arguments and results of :meth:`SpaceTimeTransformer.forward`."""
MAX_STEPS = 1000
"""Largest number of sampling steps per frame. More make no visible difference."""


@old_fields(steps="num_inference_steps", context_level="context_sigma")
@dataclass(frozen=True)
class DynamicsConfig:
    """How frames are sampled from the trained network."""

    num_inference_steps: Annotated[int, Ge(1), Le(MAX_STEPS)] = 1
    """Sampling steps per frame."""
    context_sigma: Annotated[float, Ge(0), Le(1)] = 0.05
    """Noise level in [0, 1] of past frames in the context; the network receives it. It prevents
    drift."""
    shift: Annotated[float, Gt(0), Le(1000)] = 1.0
    """Time shift of the flow-matching schedule. Values over 1 spend more steps at high noise."""
    temperature: Annotated[float, Ge(0), Le(1)] = field(default=1.0, repr=False)
    """Standard deviation, in [0, 1], of the initial noise. 1 samples with the sharpness and
    diversity of the training data. Smaller values move samples towards the mean prediction, which
    lowers the error and blurs the frames."""

    first_features: bool = field(default=False, repr=False)
    """Whether heads receive the features of the first denoising pass, at pure noise, instead of the
    last. It is needed where the recorded environment returns a synthetic last frame (black, for
    instance), because generated frames then do not show that an episode ended."""

    keep_still: Annotated[float, Ge(0), Le(255)] = field(default=0.0, repr=False)
    """Largest change of a pixel from the previous frame, in values of 255, that counts as an error
    of the network: the pixel keeps its colour. For environments whose pixels mostly stay as they
    are, and networks that see the previous frames (``last_frames``); others ignore it. 0 turns it
    off."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Context:
    """The context of :class:`DiffusionDynamics`.

    P = window - 1 is the number of cached frames, L of layers, n of tokens, d of features.

    cache: (b, L, 2, P, n, d) keys (before rotation) and values, oldest first.
    valid: (b, P) bool, which cached frames exist.
    x: (b, c, h, w) the newest frame with its context noise, not yet in the cache.
    present: (b,) bool, whether there is a newest frame.
    condition: the condition of that frame, never changed (one frame: f = 1).
    """

    cache: Tensor
    valid: Tensor
    x: Tensor
    present: Tensor
    condition: Condition


class Sampled(TypedDict, total=False):
    """What the passes of one sampled frame leave for the next ones."""

    features: Tensor
    context: Context


class DiffusionDynamics:
    """A :class:`worldsim.protocols.Dynamics` that samples frames with a diffusion network.

    network: the :class:`SpaceTimeTransformer`.
    config: how frames are sampled.
    forward: runs the network where frames are denoised, for example a compiled function. By default
    it is the network itself.
    in_place: whether the cache is shifted in place on a GPU with Triton. Set it only if the caller
    owns its contexts.
    uncertainty: whether each prediction compares two samples. It costs one more denoised frame per
    inference step.
    """

    def __init__(
        self,
        network: SpaceTimeTransformer,
        config: DynamicsConfig | None = None,
        forward: Forward | None = None,
        in_place: bool = False,
        uncertainty: bool = False,
    ) -> None:
        self.network, self.in_place, self.uncertainty = network, in_place, uncertainty
        self.config = config or DynamicsConfig()
        self._forward = forward or network
        self._sigmas = schedule(self.config.num_inference_steps, self.config.shift)
        n = network.config
        self.spec = DynamicsSpec(
            height=n.height,
            width=n.width,
            actions=n.actions,
            action_dim=n.action_dim,
            depth=n.channels == 4,
            uses_memory=bool(n.view_channels) and not n.last_frames,
            window=n.window,
            features=n.dim,
        )

    @classmethod
    def build(
        cls, config: Any, load: Callable[[type[SpaceTimeTransformer]], SpaceTimeTransformer]
    ) -> DiffusionDynamics:
        """Build the dynamics of a world's folder.

        config: the folder's :class:`worldsim.world.config.WorldConfig`.
        load: reads the folder's network.
        """
        return cls(load(SpaceTimeTransformer), config.dynamics)

    @property
    def module(self) -> SpaceTimeTransformer:
        """The network."""
        return self.network

    @property
    def num_inference_steps(self) -> int:
        """Forward passes of the network per frame."""
        return self.config.num_inference_steps

    def with_network(
        self, network: nn.Module, forward: Forward | None = None, in_place: bool = False
    ) -> DiffusionDynamics:
        """Return the same dynamics with a copy of the network.

        See :class:`worldsim.protocols.NetworkDynamics`.
        """
        copied = cast(SpaceTimeTransformer, network)
        return DiffusionDynamics(copied, self.config, forward, in_place, self.uncertainty)

    def with_config(self, config: DynamicsConfig) -> DiffusionDynamics:
        """Return the same network with other sampling settings."""
        return DiffusionDynamics(self.network, config, uncertainty=self.uncertainty)

    def with_uncertainty(self, wanted: bool) -> DiffusionDynamics:
        """Return the same dynamics with uncertainties on or off.

        Raises InvalidInputError at temperature 0, where all samples of a frame are equal.
        """
        if wanted and self.config.temperature == 0.0:
            raise InvalidInputError(
                "at temperature 0 all samples of a frame are equal: uncertainty needs a "
                "temperature above 0"
            )
        return DiffusionDynamics(self.network, self.config, uncertainty=wanted)

    def predict(self, context: Context, inputs: StepInputs) -> tuple[Prediction, Context]:
        """Sample the next frame and hold it in the context."""
        condition = self.condition_on(context, inputs)
        x, features, context = self.sample(context, condition, self._noise(inputs, inputs.purpose))
        uncertainty = None
        if self.uncertainty:
            other = self.redraw(context, condition, self._noise(inputs, Purpose.UNCERTAINTY))
            uncertainty = colour_difference(x, other)
        if self.config.keep_still and self.network.config.last_frames:
            x = keep_still(x, condition.view[:, 0], self.config.keep_still)
        frame = channels_to_frame(x, inputs.pose)
        context = self.hold(context, frame, condition, self._noise(inputs, Purpose.CONTEXT))
        return Prediction(frame, features.float(), uncertainty), context

    def observe(self, context: Context, inputs: StepInputs, frame: Frame) -> Context:
        """Hold a given frame in the context instead of a sampled one."""
        condition = self.condition_on(context, inputs)
        noise = self._noise(inputs, Purpose.CONTEXT)
        return self.hold(self.flush(context), frame, condition, noise)

    def coverage(self, context: Context) -> Tensor:
        """Return the share of the newest frame that the memory covered before that frame.

        Returns (b,) float32 in [0, 1], zeros for a network without memory input.
        """
        view = context.condition.view[:, -1]
        if not self.spec.uses_memory:
            return torch.zeros(len(view), device=view.device)
        return view[:, MASK_CHANNEL].mean((1, 2))

    def acts(self, context: Context) -> Tensor:
        """Return the actions in the context's condition."""
        return context.condition.act

    def _noise(self, inputs: StepInputs, purpose: Purpose) -> Tensor:
        n = self.network.config
        return normal(inputs.seed, inputs.step, purpose, (n.channels, n.height, n.width))

    def condition_on(self, context: Context, inputs: StepInputs) -> Condition:
        """Return the condition of the next frame.

        It holds the memory's view, or the last frames for a network that is conditioned on those.
        """
        view: MemoryView | LastFrames | None = inputs.view
        if self.network.config.last_frames:
            view = last_frames(inputs.last, context)
        return self.condition(inputs.act, inputs.motion, view, inputs.intrinsics)

    def condition(
        self,
        act: Tensor,
        motion: Tensor,
        view: MemoryView | LastFrames | Tensor | None,
        intrinsics: Tensor,
    ) -> Condition:
        """Return the condition of one frame.

        act: (b, ...).
        motion: (b, 6), see :class:`worldsim.protocols.StepInputs`.
        view: the view that the network is conditioned on, or its channels (b, v, h, w). None for a
        network without memory and last frames.
        intrinsics: (b, 4) pixels.
        """
        n = self.network.config
        if isinstance(view, Tensor):
            channels = view
        elif isinstance(view, LastFrames):
            channels = last_frames_to_channels(view, n.channels)
        elif view is not None and n.view_channels:
            channels = view_to_channels(view)
        else:
            shape = (len(act), max(n.view_channels, 1), n.height, n.width)
            channels = torch.zeros(shape, device=act.device)
        rays = pluecker_rays(motion, intrinsics, n.height, n.width, self.network.patch)
        return Condition(
            act=act[:, None], motion=motion[:, None], rays=rays[:, None], view=channels[:, None]
        )

    def empty(self, batch: int, device: torch.device | str) -> Context:
        """Return a context without frames, for ``batch`` environments."""
        n = self.network.config
        dtype = next(self.network.parameters()).dtype
        shape = (batch, n.depth, 2, n.window - 1, self.network.tokens, n.dim)
        act = (
            torch.zeros(batch, 1, dtype=torch.long)
            if n.actions
            else torch.zeros(batch, 1, n.action_dim)
        )
        grid = (n.height // self.network.patch, n.width // self.network.patch)
        return Context(
            cache=torch.zeros(shape, device=device, dtype=dtype),
            valid=torch.zeros(batch, n.window - 1, dtype=torch.bool, device=device),
            x=torch.zeros(batch, n.channels, n.height, n.width, device=device),
            present=torch.zeros(batch, dtype=torch.bool, device=device),
            condition=Condition(
                act=act.to(device),
                motion=torch.zeros(batch, 1, 6, device=device),
                rays=torch.zeros(batch, 1, 6, *grid, device=device),
                view=torch.zeros(
                    batch, 1, max(n.view_channels, 1), n.height, n.width, device=device
                ),
            ),
        )

    def cast_context(self, context: Context) -> Context:
        """Return the context in the network's dtype; the same object if it already has it."""
        dtype = next(self.network.parameters()).dtype
        return (
            context
            if context.cache.dtype == dtype
            else dataclasses.replace(context, cache=context.cache.to(dtype))
        )

    def hold(self, context: Context, frame: Frame, condition: Condition, noise: Tensor) -> Context:
        """Return a context whose newest frame is ``frame``.

        The frame enters the cache with the next prediction.
        """
        clean = frame_to_channels(
            frame.rgb, frame.inverse_depth if self.network.config.channels == 4 else None
        )
        sigma = torch.full((len(clean),), self.config.context_sigma, device=clean.device)
        present = torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        return dataclasses.replace(
            context, x=add_noise(clean, noise, sigma), present=present, condition=condition
        )

    def sample(
        self, context: Context, condition: Condition, noise: Tensor
    ) -> tuple[Tensor, Tensor, Context]:
        """Sample the next frame.

        noise: (b, c, h, w) standard normal. Equal arguments give equal frames.

        Returns the frame's channels (b, c, h, w) in [-1, 1], its features (b, d) for heads, and the
        context with the pending frame in its cache.
        """
        sampled: Sampled = {}

        def denoise(x: Tensor, sigma: float) -> Tensor:
            if "context" in sampled:
                clean, features, _ = self._denoise(sampled["context"], condition, x, sigma)
                if not self.config.first_features:
                    sampled["features"] = features
            else:
                # The first pass also moves the pending frame into the cache.
                clean, sampled["features"], sampled["context"] = self._flush_and_denoise(
                    context, condition, x, sigma
                )
            return clean

        x = sample(denoise, self._scale(noise), self._sigmas)
        return x, sampled["features"], sampled["context"]

    def redraw(self, context: Context, condition: Condition, noise: Tensor) -> Tensor:
        """Sample the frame of :meth:`sample` again, with other noise.

        context: the context that :meth:`sample` returned.

        Returns channels (b, c, h, w) in [-1, 1].
        """
        return sample(
            lambda x, sigma: self._denoise(context, condition, x, sigma)[0],
            self._scale(noise),
            self._sigmas,
        )

    def _scale(self, noise: Tensor) -> Tensor:
        # Not multiplied by 1, to avoid rounding.
        return noise if self.config.temperature == 1.0 else self.config.temperature * noise

    def flush(self, context: Context) -> Context:
        """Return the context with its pending frame moved into the cache, without a prediction."""
        length = context.valid.shape[1]
        b, device = len(context.x), context.x.device
        mask = torch.cat([context.valid, torch.ones(b, 1, dtype=torch.bool, device=device)], 1)[
            :, None
        ]
        sigma = torch.full((b, 1), self.config.context_sigma, device=device)
        time = torch.arange(length + 1, device=device)
        _, _, new = self.network(
            context.x[:, None], sigma, context.condition, mask, time, past=context.cache, outputs=0
        )
        return self._shift(context, new)

    def _flush_and_denoise(
        self, context: Context, condition: Condition, x: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor, Context]:
        b, length = context.valid.shape
        device = x.device
        # Filled on the device: copying them from the host would make a GPU wait.
        sigmas = torch.cat(
            [
                torch.full((b, 1), value, device=device)
                for value in (self.config.context_sigma, sigma)
            ],
            1,
        )
        both = context.condition.then(condition)
        always = torch.ones(b, 1, dtype=torch.bool, device=device)
        pending = torch.cat([context.valid, always, ~always], 1)
        # The oldest cached frame is one window away from the new one, so it is masked.
        target = torch.cat([~always, context.valid[:, 1:], context.present[:, None], always], 1)
        mask = torch.stack([pending, target], 1)
        time = torch.arange(length + 2, device=device)
        out, features, new = self._forward(
            torch.stack([context.x, x], 1), sigmas, both, mask, time, past=context.cache, outputs=1
        )
        return out[:, 0], features[:, 0], self._shift(context, new[:, :, :, :1])

    def _denoise(
        self, context: Context, condition: Condition, x: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor, Context]:
        b, length = context.valid.shape
        always = torch.ones(b, 1, dtype=torch.bool, device=x.device)
        mask = torch.cat([context.valid, always], 1)[:, None]
        sigmas = torch.full((b, 1), sigma, device=x.device)
        time = torch.arange(length + 1, device=x.device)
        out, features, _ = self._forward(
            x[:, None], sigmas, condition, mask, time, past=context.cache, outputs=1
        )
        return out[:, 0], features[:, 0], context

    def _shift(self, context: Context, new: Tensor) -> Context:
        if self.in_place and usable(new):
            cache = context.cache
            shift_(cache, new)
        else:
            cache = torch.cat([context.cache[:, :, :, 1:], new.to(context.cache.dtype)], 3)
        valid = torch.cat([context.valid[:, 1:], context.present[:, None]], 1)
        return dataclasses.replace(
            context, cache=cache, valid=valid, present=torch.zeros_like(context.present)
        )


def last_frames(frame: Frame, context: Context) -> LastFrames:
    """Return the next input of a network that is conditioned on the last frames.

    frame: the newest frame.
    context: the context of the previous step.
    """
    return LastFrames(frame, context.present, context.condition.view[:, -1])


def colour_difference(one: Tensor, other: Tensor) -> Tensor:
    """Return the root mean square difference of two frames' colours.

    one, other: (b, c, h, w) channels in [-1, 1].

    Returns (b,) float32 in [0, 1].
    """
    colours = (x[:, :3].float().clamp(-1.0, 1.0) for x in (one, other))
    return (next(colours) - next(colours)).square().mean((1, 2, 3)).sqrt() * 0.5
