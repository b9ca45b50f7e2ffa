"""A head for rewards and terminations that reads emitted frames instead of the network's features.

Features describe a frame as a whole, and they are trained to draw it. Whether an episode ends may
be a matter of a few pixels, which hardly change them. This head reads the pixels, with weights of
its own, so it learns at its own rate and takes nothing from the dynamics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worldsim.diffusion.denoiser import rgb_to_channels
from worldsim.diffusion.module import Module, register_to_config
from worldsim.errors import InvalidInputError
from worldsim.world.heads import HISTORY, change_units, encode_actions

LEAST_CONTRAST = 2.0
"""Smallest contrast, in values of 255, by which pictures are scaled: less is noise."""
END = 0
"""Class of terminations; the classes after it are rewards of transitions that continue."""


class FrameOutcomeHead(Module):
    """Predicts reward and termination of a transition from the last frames and actions.

    A convolutional network over pixels and their coordinates (Liu et al. 2018) returns one
    distribution over 1 + ``bins`` classes: the episode ends, or it continues with a reward of one
    of the values :attr:`bin_values`. They are evenly spaced after a symmetric logarithm, and a
    reward between two of them belongs to both in proportion (two-hot, Hafner et al. 2023). The
    reward of a termination is a number beside it. 25 MFLOP per frame of 64x64 pixels.

    height, width: pixels of a frame.
    frames: number k of frames and actions that it sees, at most 9.
    sees_new: whether the newest frame that it sees is the one that the transition led to. Without,
        it sees the frames before: for recordings whose last frames are synthetic
        (:func:`worldsim.training.buffer.is_synthetic_terminal`), which no dream shows.
    actions, action_dim: see :class:`worldsim.diffusion.network.SpaceTimeTransformer`.
    widths: channels of the convolutions, each of stride 2.
    hidden: width of the two layers after them.
    bins: number of values of the reward.
    standardised: whether pictures are shifted and scaled by the recording's brightness and
        contrast. In pictures that are nearly of one colour, objects are otherwise small numbers.
    """

    @register_to_config
    def __init__(
        self,
        height: int = 64,
        width: int = 64,
        frames: int = 4,
        sees_new: bool = True,
        actions: int = 7,
        action_dim: int = 0,
        widths: tuple[int, ...] = (32, 64, 64, 96),
        hidden: int = 256,
        bins: int = 63,
        standardised: bool = False,
    ) -> None:
        super().__init__()
        if not 2 <= frames <= HISTORY + 1 or bins < 2:
            raise InvalidInputError(
                f"FrameOutcomeHead(frames={frames}, bins={bins}): it sees 2 to {HISTORY + 1} "
                f"frames, and rewards have at least 2 values"
            )
        if standardised:
            # Brightness and contrast in values of 255. Older heads have none.
            self.register_buffer("levels", torch.tensor([127.5, 127.5]))
            self.levels: Tensor
        layers: list[nn.Module] = []
        for a, b in zip((3 * frames + 2, *widths[:-1]), widths, strict=True):
            # The norm removes a frame's overall brightness, so objects have to be located.
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU()]
            height, width = -(-height // 2), -(-width // 2)
        self.look = nn.Sequential(*layers, nn.Flatten())
        last = nn.Linear(hidden, 2 + bins)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        numbers = widths[-1] * height * width + frames * (actions or action_dim)
        self.judge = nn.Sequential(
            nn.Linear(numbers, hidden), nn.SiLU(),
            nn.Linear(hidden, hidden), nn.SiLU(), last,
        )  # fmt: skip
        # Values of the reward, logits of the classes' shares in the recording, and offset and scale
        # of the reward of a termination.
        self.register_buffer("bin_values", torch.linspace(-1.0, 1.0, bins))
        self.register_buffer("prior", torch.zeros(1 + bins))
        self.register_buffer("end_units", torch.tensor([0.0, 1.0]))
        self.bin_values: Tensor
        self.prior: Tensor
        self.end_units: Tensor

    @property
    def past(self) -> int:
        """Number of frames before the new one that it sees."""
        config = self.config
        return int(config.frames) - bool(config.sees_new)

    def classify(self, rgb: Tensor, act: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return the logits of the classes and the reward of a termination, (b, 2 + bins) float32.

        The last column is the reward of a termination in units of ``end_units``.

        rgb: (b, k, 3, h, w) uint8, oldest first. Frames before an episode's first one repeat it.
        act: (b, k, ...), the last action is that of the transition. Actions before an episode's
            first one are 0.
        shift: (b, 2) pixels down and right by which the pictures were moved, or None.
        """
        b, _, _, h, w = rgb.shape
        pictures = rgb_to_channels(rgb)
        if self.config.standardised:
            pictures = (rgb.float() - self.levels[0]) / self.levels[1]
        pictures = pictures.flatten(1, 2)
        features = self.look(torch.cat([pictures, _coordinates(b, h, w, shift, rgb.device)], 1))
        acted = encode_actions(act, self.config.actions)
        out = self.judge(torch.cat([features, acted.flatten(1)], 1)).float()
        return torch.cat([out[:, :-1] + self.prior, out[:, -1:]], 1)

    def forward(self, rgb: Tensor, act: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two rewards in the environment's units, and the termination logit.

        rgb, act: see :meth:`classify`.

        Returns (b, 2), mean rewards if the episode continues and if it ends, and (b,).
        """
        out = self.classify(rgb, act)
        going_on = out[:, END + 1 : -1]
        reward = (going_on.softmax(1) * self.bin_values).sum(1)
        at_end = self.end_units[0] + self.end_units[1] * out[:, -1]
        return torch.stack([reward, at_end], 1), out[:, END] - going_on.logsumexp(1)

    def locate(self, rew: Tensor, term: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two classes of each transition (n, 2) int64 and their shares (n, 2) float32.

        rew: (n,) float32; beyond the outermost values it belongs to these. term: (n,) bool.
        """
        values = self.bin_values
        right = torch.searchsorted(values, rew.contiguous()).clamp(1, len(values) - 1)
        low, high = values[right - 1], values[right]
        above = ((rew - low) / (high - low)).clamp(0.0, 1.0).masked_fill(term, 0.0)
        classes = torch.stack([right, right + 1], 1).masked_fill(term[:, None], END)
        return classes, torch.stack([1.0 - above, above], 1)

    @torch.no_grad()
    def set_levels(self, rgb: Tensor) -> None:
        """Set brightness and contrast of a head that is ``standardised``.

        Brightness is the mean of all values, contrast the standard deviation over the values of a
        frame, mean over frames.

        rgb: (n, 3, h, w) uint8, frames of the recording.
        """
        pictures = rgb.float()
        contrast = pictures.flatten(1).std(1, correction=0).mean().clamp(min=LEAST_CONTRAST)
        self.levels.copy_(torch.stack([pictures.mean(), contrast]))

    @torch.no_grad()
    def set_range(self, low: float, high: float, extend: bool = False) -> None:
        """Set the range of rewards of transitions that continue.

        low, high: least and largest reward.
        extend: keep the values of a trained head; the outermost ones move outwards if need be.
        """
        if extend:
            self.bin_values[0].clamp_(max=low)
            self.bin_values[-1].clamp_(min=high)
        else:
            self.bin_values.copy_(reward_values(low, high, len(self.bin_values)))

    @torch.no_grad()
    def set_end_units(
        self, units: tuple[float, float], layers: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> None:
        """Set the units of rewards of terminations.

        units: mean and standard deviation.
        layers: weight and bias of the last layer, and of copies of it, which are expressed in the
            new units: predictions stay.
        """
        for weight, bias in layers:
            change_units(weight[-1:], bias[-1:], self.end_units, torch.tensor(units).to(bias))
        self.end_units.copy_(torch.tensor(units))


def reward_values(low: float, high: float, count: int) -> Tensor:
    """Return ``count`` rewards from ``low`` to ``high``, (count,) float32.

    They are evenly spaced after the symmetric logarithm sign(r) log(1 + abs(r)). An empty range is
    widened by 1 percent, or by 0.01.
    """
    if high - low < 1e-6:
        margin = 0.01 * max(1.0, abs(low))
        low, high = low - margin, high + margin
    ends = torch.tensor([low, high], dtype=torch.float64)
    first, last = (torch.sign(ends) * torch.log1p(ends.abs())).tolist()
    even = torch.linspace(first, last, count, dtype=torch.float64)
    return (torch.sign(even) * torch.expm1(even.abs())).float()


def _coordinates(
    batch: int, height: int, width: int, shift: Tensor | None, device: torch.device
) -> Tensor:
    """Return each pixel's place in its frame before the shift, (b, 2, h, w), [-1, 1] inside."""
    rows = torch.linspace(-1.0, 1.0, height, device=device)[:, None].expand(height, width)
    columns = torch.linspace(-1.0, 1.0, width, device=device).expand(height, width)
    places = torch.stack([rows, columns]).expand(batch, 2, height, width)
    if shift is None:
        return places
    size = torch.tensor([height - 1.0, width - 1.0], device=device)
    return places - (2.0 * shift / size)[:, :, None, None]
