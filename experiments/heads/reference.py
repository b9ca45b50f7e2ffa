"""What can be known of rewards and ends at all: a CNN and a GRU, supervised on true frames, with
none of a world model's limits.

Two questions to one network: what was the outcome of a transition whose new frame is seen
(``after``), and what will it be before that frame is drawn (``before``). The second bounds every
head on a world's features; the first every head on emitted frames.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from frame_heads import Recorded, outcome_losses, shift_frames
from torch import Tensor, nn

from worldsim.diffusion.denoiser import rgb_to_channels
from worldsim.errors import InvalidInputError

Outcome = tuple[Tensor, Tensor]
"""Rewards of going on and of ending (..., 2), in units, and the termination's logit (...)."""


STACK = 4
"""Frames that the convolutions see at once, as the separate heads do: speeds are differences of few
pixels."""


class Reference(nn.Module):
    """Convolutions of every frame, a recurrent state over all of an episode, two small perceptrons.

    actions, action_dim: as of :class:`frame_heads.FrameOutcomeHead`. height,
    width: multiples of 16.
    """

    def __init__(
        self, height: int, width: int, actions: int, action_dim: int, hidden: int = 256
    ) -> None:
        super().__init__()
        self.actions, self.size = actions, actions or action_dim
        widths = (3 * STACK + 2, 48, 96, 128, 128)
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            layers += [
                nn.Conv2d(a, b, 5 if i == 0 else 3, stride=2, padding=2 if i == 0 else 1),
                nn.GroupNorm(8, b),
                nn.SiLU(),
            ]
        self.look = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(128 * (height // 16) * (width // 16), hidden),
            nn.SiLU(),
        )
        self.gru = nn.GRU(hidden + self.size, hidden, batch_first=True)
        self.after = self._judge(2 * hidden + self.size, hidden)
        self.before = self._judge(2 * hidden + self.size, hidden)

    @staticmethod
    def _judge(inputs: int, hidden: int) -> nn.Sequential:
        last = nn.Linear(hidden, 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), last)

    def forward(
        self, rgb: Tensor, act: Tensor, prior: Tensor, shift: Tensor | None = None
    ) -> tuple[Outcome, Outcome]:
        """Outcomes of the transitions into frames 1 to t - 1: ``after`` and ``before``, each of
        leading shape (b, t - 1).

        rgb: (b, t, 3, h, w) uint8. act: (b, t, ...) of the transitions into the frames. prior: ()
        logit of the share of ends. shift: (b, 2) pixels by which pictures were moved, as of
        :class:`frame_heads.FrameOutcomeHead`.
        """
        b, t, _, h, w = rgb.shape
        rows = torch.linspace(-1.0, 1.0, h, device=rgb.device)[:, None].expand(h, w)
        columns = torch.linspace(-1.0, 1.0, w, device=rgb.device)[None].expand(h, w)
        where = torch.stack([rows, columns]).expand(b, 2, h, w)
        if shift is not None:
            where = (
                where
                - (2.0 * shift / torch.tensor([h - 1.0, w - 1.0], device=shift.device))[
                    :, :, None, None
                ]
            )
        pictures = rgb_to_channels(rgb)
        earlier = [
            torch.cat([torch.zeros_like(pictures[:, :n]), pictures[:, : t - n]], 1)
            for n in range(1, min(STACK, t))
        ]
        stacked = torch.cat([pictures, *earlier], 2).flatten(0, 1)
        places = where[:, None].expand(b, t, 2, h, w).flatten(0, 1)
        look = self.look(torch.cat([stacked, places], 1)).unflatten(0, (b, t))
        if self.actions:
            act = act[..., None] == torch.arange(self.size, device=act.device)
        act = act.to(look.dtype)
        state, _ = self.gru(torch.cat([look, act], -1))

        def judged(judge: nn.Module, *given: Tensor) -> Outcome:
            out = judge(torch.cat(given, -1)).float()
            return out[..., :2], out[..., 2] + prior

        after = judged(self.after, state[:, 1:], look[:, 1:], act[:, 1:])
        # Before the frame is there: the state and the frame that the action left, and the action.
        return after, judged(self.before, state[:, :-1], look[:, :-1], act[:, 1:])


@dataclass
class Sequences:
    """Windows of episodes, in which every transition of a recording counts equally often.

    frames: of a window. warm: transitions before the first one that counts, where a window begins
    inside an episode: the state has seen too little until then. emphasis: of ends, as
    ``LossConfig.end_emphasis``. shift: pixels that windows are moved by, at most.
    """

    recorded: Recorded
    frames: int
    warm: int
    emphasis: float = 30.0
    shift: int = 2

    def __post_init__(self) -> None:
        r, reach = self.recorded, self.frames - self.warm - 1
        if reach < 1:
            raise InvalidInputError(
                f"windows of {self.frames} frames leave nothing to count after {self.warm}: "
                "make them longer"
            )
        # A window's last frame that counts may lie past its episode's end, or ends would count less
        # often than all else.
        starts = torch.unique(r.first[r.judged])
        lasts = torch.stack([r.judged[r.first[r.judged] == start].max() for start in starts])
        over = (lasts[:, None] + torch.arange(1, reach, device=lasts.device)).flatten()
        self.stop = torch.cat([r.judged, over])
        self.start = torch.cat([r.first[r.judged], starts.repeat_interleave(reach - 1)])
        self.last = torch.cat(
            [
                lasts[torch.searchsorted(starts, r.first[r.judged])],
                lasts.repeat_interleave(reach - 1),
            ]
        )

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(b, t) int64 frames, the last one repeated past an end, and (b, t - 1) bool, which
        transitions into them count."""
        device = self.stop.device
        pick = torch.randint(len(self.stop), (batch,), generator=generator, device=device)
        stop, start, last = (
            self.stop[pick][:, None],
            self.start[pick][:, None],
            self.last[pick][:, None],
        )
        index = torch.maximum(stop - self.frames + 1, start) + torch.arange(
            self.frames, device=device
        )
        counted = (
            (index <= torch.minimum(stop, last))
            & (index > stop - (self.frames - self.warm - 1))
            & (index > start)
        )
        return torch.minimum(index, last), counted[:, 1:]

    def losses(
        self, reference: Reference, batch: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The losses of ``batch`` windows, by question."""
        r = self.recorded
        index, counted = self.draw(batch, generator)
        shift = torch.randint(
            -self.shift, self.shift + 1, (batch, 2), generator=generator, device=index.device
        )
        after, before = reference(
            shift_frames(r.rgb[index], shift), r.act[index], r.units[4], shift
        )
        rew = ((r.rew[index][:, 1:, None] - r.units[:2]) / r.units[2:4]).flatten(0, 1)
        term, weight = r.term[index][:, 1:].flatten(), counted.float().flatten()
        ends = torch.where(term, self.emphasis, 1.0) / (
            1.0 + (self.emphasis - 1.0) * torch.sigmoid(r.units[4])
        )
        losses: dict[str, Tensor] = {}
        for name, (rewards, logit) in {"after": after, "before": before}.items():
            rewards, logit = rewards.flatten(0, 1), logit.flatten() + math.log(self.emphasis)
            found = {
                "reward": outcome_losses(rewards, logit, rew, term, weight)["reward_loss"],
                "termination": outcome_losses(rewards, logit, rew, term, weight * ends)[
                    "termination_loss"
                ],
            }
            losses |= {
                f"{name}_{key}_loss": value / weight.mean().clamp(min=1e-6)
                for key, value in found.items()
            }
        return losses
