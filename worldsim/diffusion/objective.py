"""What is minimised: denoising of every frame of a window given its past, plus the heads' regressions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.camera import pluecker_rays
from worldsim.diffusion.buffer import Windows
from worldsim.diffusion.denoiser import add_noise
from worldsim.diffusion.network import Condition, SpaceTimeTransformer, two_stream_mask
from worldsim.heads import EgoMotionHead, Motions, OutcomeHead
from worldsim.state import map_tensors

TELEPORT = 20.0
"""Motions of more than this many times the usual one are left out of the ego-motion loss."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """Noise levels, dropouts and weights of the training objective."""

    pure_noise: float = 0.5
    """Share of target frames at noise level 1, where one-step sampling lives; the rest is uniform in [0, 1]."""
    context_level: float = 0.15
    """Context frames get noise levels uniform in [0, this]..."""
    context_any: float = 0.15
    """...except this share of them, uniform in [0, 1]."""
    context_drop: float = 0.2
    """Share of windows in which the frames before a random moment are hidden, as after a reset."""
    own_context: float = 0.0
    """Share of context frames that are the model's own predictions (against drift); costs a second forward."""
    own_context_from: float = 0.6
    """Share of the training after which ``own_context`` begins: first learn, then learn from one's own mistakes."""
    depth_weight: float = 0.5
    """Weight of the depth channel's loss beside colour's."""


class Objective(nn.Module):
    """The trained modules and their loss. Call it with windows and random numbers drawn outside."""

    def __init__(
        self, network: SpaceTimeTransformer, ego_motion: EgoMotionHead | None, outcome: OutcomeHead, config: ObjectiveConfig
    ) -> None:
        super().__init__()
        self.network, self.outcome, self.config = network, outcome, config
        self.ego_motion = ego_motion

    def forward(
        self,
        windows: Windows,
        motions: Motions | None,
        intrinsics: Tensor | None,
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """Losses by name, ``loss`` being their sum, and ``prediction`` (b, t, c, h, w) at the targets' noise levels.

        motions: for the ego-motion head, where there is one.
        progress: share of the training that is done, in [0, 1].
        """
        c = self.config
        x = windows.x
        b, t = x.shape[:2]
        device = x.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator, device=device)

        level = torch.where(uniform(b, t) < c.pure_noise, torch.ones(b, t, device=device), uniform(b, t))
        context_level = torch.where(uniform(b, t) < c.context_any, uniform(b, t), c.context_level * uniform(b, t))
        hidden_before = (uniform(b) * t).long() * (uniform(b) < c.context_drop)
        noise = torch.randn(2, *x.shape, generator=generator, device=device)
        mask = self._mask(t, hidden_before)
        condition = self._condition(windows, intrinsics)
        time = torch.arange(t, device=device).repeat(2)
        target = add_noise(x, noise[1], level)
        source = x
        if c.own_context > 0 and progress >= c.own_context_from:
            # Not under no_grad: the compiled network would be compiled once more for it.
            both = torch.cat([add_noise(x, noise[0], context_level), noise[1]], 1)
            own, _, _ = self.network(both, torch.cat([context_level, torch.ones_like(level)], 1), condition, mask, time, outputs=t)
            source = torch.where((uniform(b, t) < c.own_context)[:, :, None, None, None], own.detach().float(), x)
        both = torch.cat([add_noise(source, noise[0], context_level), target], 1)
        prediction, features, _ = self.network(both, torch.cat([context_level, level], 1), condition, mask, time, outputs=t)
        losses = self._denoising(prediction.float(), x)
        losses.update(self._outcomes(features, windows))
        if self.ego_motion is not None and motions is not None:
            losses.update(self._motions(motions))
        losses["loss"] = torch.stack([v for k, v in losses.items() if k.endswith("_loss")]).sum()
        losses["prediction"] = prediction.detach()
        return losses

    def _mask(self, t: int, hidden_before: Tensor) -> Tensor:
        """(b, 2t, 2t): the two-stream mask, without the context frames before each window's moment of reset."""
        device = hidden_before.device
        mask = two_stream_mask(t, self.network.config.window, device)[None]
        frame = torch.arange(t, device=device)
        hidden = frame[None, :] < hidden_before[:, None]
        hidden = torch.cat([hidden, torch.zeros_like(hidden)], 1)
        itself = torch.eye(2 * t, dtype=torch.bool, device=device)[None]
        return (mask & ~hidden[:, None, :]) | itself

    def _condition(self, windows: Windows, intrinsics: Tensor | None) -> Condition:
        """The windows' conditions, twice: for the context stream and for the target stream."""
        n = self.network.config
        b, t = windows.rgb.shape[:2]
        flat = windows.motion.flatten(0, 1)
        k = intrinsics if intrinsics is not None else torch.tensor([1.0, 1.0, 0.0, 0.0], device=flat.device)
        rays = pluecker_rays(flat, k.expand(b * t, 4), n.height, n.width, self.network.patch).unflatten(0, (b, t))
        view = windows.view
        if view is None:
            view = torch.zeros(b, t, max(n.view_channels, 1), n.height, n.width, device=flat.device)
        one = Condition(act=windows.act, motion=windows.motion, rays=rays, view=view)
        return map_tensors(lambda x: torch.cat([x, x], 1), one)

    def _denoising(self, prediction: Tensor, x: Tensor) -> dict[str, Tensor]:
        """Logarithms of each frame's error: every frame and noise level counts by ratio, as PSNR does."""
        colour = (prediction[:, :, :3] - x[:, :, :3]).square().mean((2, 3, 4))
        losses = {"rgb_loss": torch.log(colour + 1e-3).mean(), "rgb_mse": colour.mean().detach()}
        if x.shape[2] > 3:
            # Absolute error: its median keeps depth edges sharp, where a mean would float in mid-air.
            depth = (prediction[:, :, 3] - x[:, :, 3]).abs().mean((2, 3))
            losses["depth_loss"] = self.config.depth_weight * torch.log(depth + 1e-3).mean()
            losses["depth_error"] = depth.mean().detach()
        return losses

    def _outcomes(self, features: Tensor, windows: Windows) -> dict[str, Tensor]:
        reward, logit = (o.float() for o in self.outcome(features.float()))
        return {
            "reward_loss": F.smooth_l1_loss(reward[:, 1:], windows.rew[:, 1:].float()),
            "termination_loss": F.binary_cross_entropy_with_logits(logit[:, 1:], windows.term[:, 1:].float()),
        }

    def _motions(self, motions: Motions) -> dict[str, Tensor]:
        """Ego-motion, with and without what is in the way."""
        assert self.ego_motion is not None
        m, scale = motions, self.ego_motion.scale
        # In full precision: a turn is predicted to a few ten-thousandths of a radian.
        with torch.autocast(m.pose.device.type, enabled=False):
            predicted, unhindered = self.ego_motion.normalised(m.around, m.pose, m.motion, m.acts, m.act)
        # Beyond what any walk does in a step lie teleports: nothing to learn from.
        usual = (m.target.abs() < TELEPORT * scale).all(-1, keepdim=True)

        def loss(prediction: Tensor) -> Tensor:
            # The median of what happens, not its mean: beside a corner one either passes or stops.
            return (F.smooth_l1_loss(prediction, m.target / scale, beta=0.05, reduction="none") * usual).mean()

        return {"motion_loss": loss(predicted), "unhindered_loss": 0.5 * loss(unhindered)}
