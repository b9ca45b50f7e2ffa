"""The objective: what a target may know, that a batch can be learnt, and the losses by hand."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from tests.helpers.training import SIZE, WINDOW, B, T, windows
from worldsim.diffusion.network import SpaceTimeTransformer, band_mask, stream_mask
from worldsim.errors import InvalidInputError
from worldsim.training.buffer import Windows
from worldsim.training.loss import (
    NEAR_LEVEL,
    Balance,
    LossConfig,
    TrainingLoss,
    detail_weights,
    energy_score,
    errors_by_sigma,
    known_loss,
    motion_weights,
    sees_last,
)
from worldsim.world.heads import HISTORY, EgoMotionHead, Motions, OutcomeHead

pytestmark = pytest.mark.fast

INTRINSICS = torch.tensor([8.0, 8.0, 8.0, 8.0])


def made(
    geometry: bool = True, action_dim: int = 0, alive: bool = True, **config: Any
) -> TrainingLoss:
    """The debug sizes at 16x16. alive: random where layers start at zero, so that everything has an
    effect."""
    torch.manual_seed(0)
    actions, channels = (0 if action_dim else 7), (4 if geometry else 3)
    network = SpaceTimeTransformer(
        height=SIZE,
        width=SIZE,
        channels=channels,
        view_channels=8 if geometry else 0,
        actions=actions,
        action_dim=action_dim,
        dim=32,
        depth=2,
        heads=2,
        levels=(8, 8, 16),
        window=WINDOW,
    )
    if alive:
        with torch.no_grad():
            for weight in network.parameters():
                if not weight.any():
                    weight.normal_(0.0, 0.1)
    ego = EgoMotionHead(actions=actions, action_dim=action_dim, hidden=32) if geometry else None
    return TrainingLoss(network, ego, OutcomeHead(dim=32, hidden=8), LossConfig(**config))


def moments(action_dim: int = 0) -> Motions:
    generator = torch.Generator().manual_seed(1)

    def acts(*shape: int) -> torch.Tensor:
        if action_dim:
            return torch.randn(*shape, action_dim, generator=generator)
        return torch.randint(0, 7, shape, generator=generator)

    return Motions(
        around=torch.randint(0, 256, (B, 2, 48, 48), generator=generator).to(torch.uint8),
        pose=torch.eye(4).repeat(B, 1, 1),
        motion=0.1 * torch.randn(B, HISTORY, 6, generator=generator),
        acts=acts(B, HISTORY),
        act=acts(B),
        target=0.1 * torch.randn(B, 6, generator=generator),
    )


def losses_of(
    objective: TrainingLoss, batch: Windows, progress: float = 0.0, seed: int = 1
) -> dict[str, torch.Tensor]:
    geometry = batch.inverse_depth is not None
    motions = moments(batch.act.shape[2] if batch.act.dim() == 3 else 0) if geometry else None
    return objective(
        batch,
        motions,
        INTRINSICS if geometry else None,
        torch.Generator().manual_seed(seed),
        progress,
    )


def test_masks_by_hand() -> None:
    """Three frames, window 2. Rows: context 0-2, then target 0-2; columns alike."""
    assert stream_mask(3, 2).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 1, 0, 0, 0, 1],
    ]
    assert band_mask(4, 2).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]
    assert torch.equal(stream_mask(5, 3)[:5, :5], band_mask(5, 3))


def test_mask_of_two_target_streams_by_hand() -> None:
    """Two frames, window 2: the targets see the context before them and themselves, never one
    another."""
    assert stream_mask(2, 2, targets=2).int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0, 1],
    ]


def test_energy_score_by_hand() -> None:
    """Plain images lie in the coarsest band alone: a distance of a in each of three colours is a
    times the root of 3."""
    plain = torch.ones(1, 1, 3, 16, 16)
    one = float(energy_score(0.5 * plain, 0.5 * plain, 0 * plain))
    # Each of the four scales adds half of the root's rounding at zero, or nothing.
    assert one == pytest.approx(0.5 * math.sqrt(3.0) + 3 * 0.0005, abs=1e-3)
    assert float(energy_score(0.5 * plain, -0.5 * plain, 0 * plain)) == pytest.approx(0.0, abs=3e-3)


def test_energy_score_of_squares_tells_how_pixels_go_together() -> None:
    """Truth: images of one colour each. Samples whose pixels have those colours, but each its own,
    score worse than such images."""
    generator = torch.Generator().manual_seed(0)

    def plain() -> torch.Tensor:
        return torch.randn(1, 256, 3, 1, 1, generator=generator).expand(1, 256, 3, 16, 16)

    truth, together = plain(), energy_score(plain(), plain(), plain())
    blocks = (
        torch.randn(2, 1, 256, 3, 2, 2, generator=generator)
        .repeat_interleave(8, -1)
        .repeat_interleave(8, -2)
    )
    assert float(together.mean()) < 0.95 * float(energy_score(blocks[0], blocks[1], truth).mean())


def test_what_a_dream_remembers_is_not_charged() -> None:
    """The memory shows black where white was: left out where the memory was dreamed, by majority,
    and only there."""
    batch = dataclasses.replace(
        windows(), rgb=torch.full((B, T, 3, SIZE, SIZE), 255, dtype=torch.uint8)
    )
    view = torch.zeros(B, T, 8, SIZE, SIZE)
    view[:, :, :3, :, :8] = -1.0
    view[:, :, :3, :, 8:] = 1.0
    view[:, :, 3] = batch.x[:, :, 3]
    # A single black point beyond the border, and a hole before it.
    view[:, :, :3, 3, 13] = -1.0
    view[:, :, 4] = 1.0
    view[:, :, :, 8, 2] = 0.0
    dreamed = torch.zeros(B, T, dtype=torch.bool)
    dreamed[0] = True
    batch = dataclasses.replace(batch, view=view, dreamed=dreamed)
    guess = torch.zeros(B, T, 4, SIZE, SIZE)
    (forgiven,) = made()._forgiven([guess], batch.x, batch)
    assert torch.equal(forgiven[0, :, :, :, :8], batch.x[0, :, :, :, :8])
    assert torch.equal(forgiven[0, :, :, :, 8:], guess[0, :, :, :, 8:]) and torch.equal(
        forgiven[1], guess[1]
    )
    assert made(forgive_dreamed=False)._forgiven([guess], batch.x, batch)[0] is guess


def test_energy_score_is_least_for_samples() -> None:
    """On noise, it prefers noise of the same strength to its mean, to half and to double of it."""
    generator = torch.Generator().manual_seed(0)
    truth, one, other = torch.randn(3, 1, 64, 3, 16, 16, generator=generator)
    score = {s: float(energy_score(s * one, s * other, truth).mean()) for s in (0.0, 0.5, 1.0, 2.0)}
    assert min(score, key=lambda s: score[s]) == 1.0


def test_with_energy_noise_alone_is_scored() -> None:
    """At level 1 the loss is the score's, elsewhere the error's; and it can be learnt from."""
    noisy = losses_of(made(pure_noise=1.0, energy=1.0), windows())
    assert float(noisy["rgb_loss"].detach()) == pytest.approx(
        2.0 * math.log(float(noisy["energy_score"]) + 1e-2), abs=0.05
    )
    clear = made(pure_noise=0.0, energy=1.0)
    losses = losses_of(clear, windows())
    assert math.isnan(float(losses["energy_score"])) and torch.isfinite(losses["loss"])
    losses["loss"].backward()
    with pytest.raises(InvalidInputError, match="energy = 1.5"):
        LossConfig(energy=1.5)


def test_hidden_context_by_hand() -> None:
    """A reset before frame 2, window 4: frames 0 and 1 are seen by themselves alone."""
    mask = made()._mask(3, torch.tensor([2, 0]))
    assert mask.shape == (2, 6, 6)
    assert mask[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert torch.equal(mask[1], stream_mask(3, WINDOW))


@pytest.mark.parametrize(("own_context", "energy"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.5)])
def test_a_prediction_knows_nothing_of_its_future(own_context: float, energy: float) -> None:
    """Another frame j changes the prediction at j (its own noised target), and of others only those
    after j."""
    config = {"own_context": own_context, "own_context_from": 0.0, "energy": energy}
    objective = made(pure_noise=0.0, context_drop=0.0, **config).eval()
    batch = windows()
    with torch.no_grad():
        before = losses_of(objective, batch)["prediction"]
        for j in (0, 5, T - 1):
            rgb = batch.rgb.clone()
            rgb[:, j] = 255 - rgb[:, j]
            after = losses_of(objective, dataclasses.replace(batch, rgb=rgb))["prediction"]
            moved = (after - before).abs().amax((0, 2, 3, 4))
            assert float(moved[:j].max() if j else 0.0) < 1e-5
            assert float(moved[j]) > 1e-3
            # A context of own predictions knows frame j only from the prediction after it.
            assert bool((moved[j + 1 + int(own_context) : j + WINDOW] > 1e-4).all())


def test_at_pure_noise_a_frame_does_not_know_itself() -> None:
    """Level 1 everywhere, as one-step sampling has it: the prediction at j is what the past and the
    condition say."""
    objective = made(pure_noise=1.0, context_drop=0.0).eval()
    batch = windows()
    rgb = batch.rgb.clone()
    rgb[:, 5] = 255 - rgb[:, 5]
    with torch.no_grad():
        before = losses_of(objective, batch)["prediction"]
        after = losses_of(objective, dataclasses.replace(batch, rgb=rgb))["prediction"]
    moved = (after - before).abs().amax((0, 2, 3, 4))
    assert float(moved[:6].max()) < 1e-5 and float(moved[6]) > 1e-4


@pytest.mark.parametrize("geometry", [True, False])
def test_a_batch_can_be_learnt(geometry: bool) -> None:
    """The debug network on one batch and one draw of noise: every part of the loss falls."""
    objective, batch = made(geometry, alive=False), windows(geometry)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        losses = losses_of(objective, batch)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append({k: float(v.detach()) for k, v in losses.items() if k.endswith("loss")})
    heads = {"depth_loss", "motion_loss", "unhindered_loss"} if geometry else set()
    parts = {"rgb_loss", "reward_loss", "termination_loss"} | heads
    assert set(history[0]) == {*parts, "loss"}
    assert history[0]["loss"] == pytest.approx(sum(history[0][k] for k in parts), abs=1e-5)
    falling = ["loss", "rgb_loss", "termination_loss"] + (
        ["depth_loss", "motion_loss"] if geometry else []
    )
    for name in falling:
        assert history[-1][name] < history[0][name] - 0.01, name
    assert all(math.isfinite(v) for h in history for v in h.values())


def test_continuous_actions() -> None:
    losses = losses_of(made(action_dim=2), windows(action_dim=2))
    assert math.isfinite(float(losses["loss"].detach()))
    losses["loss"].backward()


def test_denoising_losses_by_hand() -> None:
    """Colour off by 0.1 in half of the frames and by 0.2 in the others: mean of log(0.01 + 0.001)
    and log(0.04 + 0.001)."""
    objective = made(depth_weight=0.5)
    x = torch.zeros(1, 2, 4, 2, 2)
    prediction = x.clone()
    prediction[:, 0, :3], prediction[:, 1, :3] = 0.1, -0.2
    prediction[:, :, 3] = 0.3
    losses = objective._denoising([prediction], x, torch.ones(1, 2))
    assert float(losses["rgb_loss"]) == pytest.approx(
        0.5 * (math.log(0.011) + math.log(0.041)), abs=1e-4
    )
    assert float(losses["rgb_mse"]) == pytest.approx(0.025, abs=1e-6)
    assert float(losses["depth_loss"]) == pytest.approx(0.5 * math.log(0.301), abs=1e-4)
    assert float(losses["depth_error"]) == pytest.approx(0.3, abs=1e-6)


def test_pixels_near_the_last_change_count_more() -> None:
    """A pixel changes from frame 0 to 1: of frame 2, the 9x9 pixels around it count most.

    Nothing changes from frame 1 to 2, so of frame 3 all pixels count alike.
    """
    x = torch.zeros(1, 4, 3, 16, 16)
    x[:, 1:, :, 5, 5] = 1.0
    x[:, :, :, 15, ::2] = 1.0
    weights = motion_weights(x, 0.8)
    assert weights.shape == (1, 4, 16, 16)
    torch.testing.assert_close(weights.mean((2, 3)), torch.ones(1, 4))
    assert (weights[:, [0, 1, 3]] == 1.0).all()
    near = torch.zeros(16, 16, dtype=torch.bool)
    near[1:10, 1:10] = True
    # 0.2, and 0.8 spread over 81 of 256 pixels, but for the floor of a thousandth.
    assert weights[0, 2][near].unique().item() == pytest.approx(0.2 + 0.8 * 256 / 81, rel=0.01)
    assert weights[0, 2][~near].unique().item() == pytest.approx(0.2, rel=0.02)
    assert detail_weights(x, 0.8)[0, 3, 15, 15] > 1.0


def test_weights_of_detail_and_motion_are_averaged() -> None:
    x = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1.0, 1.0)
    assert made()._pixel_weights(x) is None
    both = made(detail=0.8, motion=0.5)._pixel_weights(x)
    assert both is not None
    torch.testing.assert_close(both, (detail_weights(x, 0.8) + motion_weights(x, 0.5)) / 2.0)


def test_known_pixels_are_charged_by_hand() -> None:
    """Known pixels are off by 0.1, holes and wrong points by 0.5. A frame that nothing is known of
    does not count."""
    batch = windows()
    view = torch.zeros(B, T, 8, SIZE, SIZE)
    view[:, 1:, :3] = batch.x[:, 1:, :3] + 0.14
    view[:, 1:, :3, :, 8:] += 0.02
    view[:, 1:, 4, :, :12] = 1.0
    batch = dataclasses.replace(batch, view=view)
    off = torch.full_like(batch.x, 0.5)
    off[..., :8] = 0.1
    found = known_loss([batch.x + off, batch.x - off], batch.x, batch, 0.5, 0.15)
    assert float(found["known_loss"]) == pytest.approx(0.5 * math.log(0.011), abs=1e-3)
    assert float(found["known_mse"]) == pytest.approx(0.01, abs=1e-5)
    # All known pixels: a third of them is off by 0.5.
    found = known_loss([batch.x + off], batch.x, batch, 1.0)
    assert float(found["known_mse"]) == pytest.approx(0.09, abs=1e-5)
    assert "known_loss" in losses_of(made(known=0.5), batch)
    assert "known_loss" not in losses_of(made(), batch)


def test_errors_of_a_noise_level_by_hand() -> None:
    """Frames near in level share, those at level 1 are a kind of their own, what is not counted is
    not looked at."""
    level = torch.tensor([[0.2, 0.2 + NEAR_LEVEL, 1.0], [1.0, 0.999, 0.2]])
    errors = torch.tensor([[1.0, 2.0, 10.0], [30.0, 5.0, 100.0]])
    counted = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    found = errors_by_sigma(errors[None], level, counted)[0]
    e = math.exp(-1.0)
    first, second = (1.0 + 2.0 * e) / (1.0 + e), (2.0 + 1.0 * e) / (1.0 + e)
    assert found.flatten().tolist() == pytest.approx(
        [first, second, 20.0, 20.0, 5.0, first], rel=1e-4
    )
    # In bfloat16 as in full precision, as accelerate's autocast has it.
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(errors_by_sigma(errors[None], level, counted)[0], found)


@pytest.mark.parametrize(("balance", "best"), [(Balance.LEVEL, 0.25), (Balance.FRAME, 0.0)])
def test_what_happens_seldom_counts_as_often_as_it_happens(balance: Balance, best: float) -> None:
    """Of four frames alike one is bright: the best single guess is the mean, by level; by frame the
    bright one hardly counts."""
    objective = made(geometry=False, balance=balance)
    x = torch.zeros(1, 4, 3, 8, 8)
    x[0, 2] = 1.0
    guess = torch.tensor(0.3, requires_grad=True)
    optimizer = torch.optim.Adam([guess], lr=0.01)
    for _ in range(300):
        losses = objective._denoising([guess.expand_as(x)], x, torch.full((1, 4), 0.5))
        optimizer.zero_grad()
        losses["rgb_loss"].backward()
        optimizer.step()
    assert float(guess.detach()) == pytest.approx(best, abs=0.02)


def test_motion_loss_by_hand() -> None:
    """A head that says zero, motions of one in the axes' units: smooth L1 with beta 0.05 is 1 -
    0.025."""
    objective, motions = made(), dataclasses.replace(moments(), target=torch.full((B, 6), 0.1))
    ego = objective.ego_motion
    assert ego is not None
    with torch.no_grad():
        for weight in (*ego.correction[-1].parameters(), *ego.unhindered[-1].parameters()):
            weight.zero_()
        ego.scale.fill_(0.1)
    losses = objective._motions(motions)
    assert float(losses["motion_loss"].detach()) == pytest.approx(0.975, abs=1e-5)
    assert float(losses["unhindered_loss"].detach()) == pytest.approx(0.4875, abs=1e-5)
    # A teleport is no motion: it counts for nothing.
    motions.target[0] = 3.0
    assert float(objective._motions(motions)["motion_loss"].detach()) == pytest.approx(
        0.975 * (B - 1) / B, abs=1e-5
    )


def test_own_context_begins_late() -> None:
    """Before its share of the training is done, the option changes nothing; afterwards it does."""
    batch = windows()
    plain, own = made().eval(), made(own_context=1.0, own_context_from=0.6).eval()
    with torch.no_grad():
        for progress, same in ((0.0, True), (0.59, True), (0.6, False)):
            a, b = (losses_of(o, batch, progress)["prediction"] for o in (plain, own))
            assert torch.equal(a, b) == same


def test_the_same_generator_gives_the_same_losses() -> None:
    objective, batch = made().eval(), windows()
    with torch.no_grad():
        first, second, other = (
            float(losses_of(objective, batch, seed=s)["loss"]) for s in (1, 1, 2)
        )
    assert first == second != other


def ended(objective: TrainingLoss, **masks: torch.Tensor) -> Windows:
    """The windows whose last frame ends the episode, with these masks."""
    batch = windows(geometry=False)
    term = torch.zeros_like(batch.term)
    term[:, -1] = True
    return dataclasses.replace(batch, term=term, **masks)


def test_a_made_up_frame_is_never_drawn_nor_shown() -> None:
    """Black or white, it changes neither a loss nor a gradient: what is learned of it is that the
    episode ends there."""
    objective = made(geometry=False, energy=0.5)
    batch = ended(objective)
    last = torch.zeros(batch.rgb.shape[:2], dtype=torch.bool)
    last[:, -1] = True
    batch = dataclasses.replace(batch, synthetic_terminal=last)
    found = []
    for colour in (0, 255):
        rgb = batch.rgb.clone()
        rgb[:, -1] = colour
        objective.zero_grad()
        losses = losses_of(objective, dataclasses.replace(batch, rgb=rgb))
        losses["loss"].backward()
        gradients = [p.grad.clone() for p in objective.parameters() if p.grad is not None]
        found.append(
            ({k: v for k, v in losses.items() if k.endswith(("loss", "mse", "score"))}, gradients)
        )
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], msg=name)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b)
    # Were it an ordinary frame, its picture would count.
    plain = [
        dataclasses.replace(
            batch,
            synthetic_terminal=None,
            rgb=torch.where(last[:, :, None, None, None], c, batch.rgb).to(torch.uint8),
        )
        for c in (0, 255)
    ]
    a, b = (losses_of(objective, p)["rgb_loss"] for p in plain)
    assert float((a - b).abs().detach()) > 1e-3


def test_outcome_losses_by_hand() -> None:
    """Two frames that count, one of them the end. The zero-initialised head says the mean reward of
    each kind and its prior."""
    objective = TrainingLoss(
        made(geometry=False).network,
        None,
        OutcomeHead(dim=32, on_end=True),
        LossConfig(outcome_weight=2.0),
    )
    head = objective.outcome
    head.offset.copy_(torch.tensor([4.0, -96.0]))
    head.scale.copy_(torch.tensor([0.5, 10.0]))
    head.prior.fill_(-3.0)
    rewards, logit = head(torch.randn(5, 32))
    assert torch.equal(rewards, torch.tensor([[4.0, -96.0]] * 5)) and torch.equal(
        logit, torch.full((5,), -3.0)
    )
    batch = windows(geometry=False)
    b, t = batch.rew.shape
    rew, term = torch.full((b, t), 100.0), torch.zeros(b, t, dtype=torch.bool)
    padding = torch.ones(b, t, dtype=torch.bool)
    padding[0, :3] = False
    rew[0, 1], rew[0, 2], term[0, 2] = 5.0, -76.0, True
    batch = dataclasses.replace(batch, rew=rew, term=term, padding=padding)
    losses = objective._outcomes(torch.randn(b, t, 32), batch, torch.rand(b, t))
    # Off by 2 units of 0.5 and by 2 units of 10; half of the squares, on average.
    assert float(losses["reward_loss"].detach()) == pytest.approx(2.0 * (2.0 + 2.0) / 2)
    p = 1 / (1 + math.exp(3.0))
    assert float(losses["termination_loss"].detach()) == pytest.approx(
        2.0 * -(math.log(1 - p) + math.log(p)) / 2, rel=1e-5
    )


def test_made_up_ends_keep_their_true_share() -> None:
    """Asked at pure noise alone, where other frames are in half of the cases: an end counts half,
    and the share of ends is true."""
    objective = TrainingLoss(
        made(geometry=False).network, None, OutcomeHead(dim=32, on_end=True), LossConfig()
    )
    batch = windows(geometry=False)
    b, t = batch.rew.shape
    synthetic_terminal, term = (torch.zeros(b, t, dtype=torch.bool) for _ in range(2))
    synthetic_terminal[:, -1] = term[:, -1] = True
    batch = dataclasses.replace(batch, term=term, synthetic_terminal=synthetic_terminal)
    # Of the others, every second is at pure noise.
    level = torch.full((b, t), 0.3)
    level[:, 1:-1:2] = level[:, -1] = 1.0
    pure = len(range(1, t - 1, 2))
    bias = objective.outcome.mlp[-1].bias
    objective._outcomes(torch.randn(b, t, 32), batch, level, share=0.5)[
        "termination_loss"
    ].backward()
    # At a logit of 0: half of each other frame's weight less half of an end's, over all weights.
    assert float(bias.grad[2]) == pytest.approx((0.5 * pure - 0.5 * 0.5) / (pure + 0.5), rel=1e-5)


def test_frames_that_see_the_one_before_by_hand() -> None:
    """The first frame of a window sees none; of a reset before frame 2, frame 2 is the first
    again."""
    assert sees_last(4, torch.tensor([0, 2])).tolist() == [
        [False, True, True, True],
        [False, False, False, True],
    ]


def test_level_errors_of_groups_by_hand() -> None:
    """Four frames at noise level 1, two of each group: each has its own group's mean, 1.5 and 30,
    and not 15.75 of all."""
    errors, level = torch.tensor([[1.0, 2.0, 20.0, 40.0]]), torch.ones(1, 4)
    group = torch.tensor([[True, True, False, False]])
    assert errors_by_sigma(errors, level, torch.ones(1, 4), group)[0].tolist() == pytest.approx(
        [1.5, 1.5, 30.0, 30.0]
    )
    assert errors_by_sigma(errors, level, torch.ones(1, 4))[0].tolist() == pytest.approx(
        [15.75] * 4
    )
    # What does not count is in no average.
    assert errors_by_sigma(errors, level, torch.tensor([[1.0, 0.0, 1.0, 1.0]]), group)[
        0
    ].tolist() == pytest.approx([1, 1, 30, 30])


def test_balance_by_context_lets_frames_that_see_the_past_count() -> None:
    """The gradient on frames that see the one before is many times larger where those that do not
    are averaged apart."""

    def slope(balance: Balance) -> float:
        x, follows = torch.zeros(1, 4, 3, SIZE, SIZE), torch.tensor([[False, True, True, True]])
        guess = torch.full_like(x, 0.01)
        guess[:, 0] = 1.0
        guess.requires_grad_(True)
        losses = made(geometry=False, balance=balance)._denoising(
            [guess], x, torch.ones(1, 4), follows=follows
        )
        losses["rgb_loss"].backward()
        assert guess.grad is not None
        return float(guess.grad[:, 1:].abs().sum())

    assert slope(Balance.CONTEXT) > 50 * slope(Balance.LEVEL)


def test_ends_that_count_more_leave_the_probability_true() -> None:
    """One transition in a hundred ends, and counts 30 times: at the true logit the slope is zero,
    and the mean weight is 1."""
    head = OutcomeHead(dim=32, hidden=8, on_end=True)
    head.prior.fill_(math.log(0.01 / 0.99))
    objective = made(geometry=False, end_emphasis=30.0, outcome_weight=1.0)
    objective.outcome = head
    batch = dataclasses.replace(
        windows(geometry=False), rew=torch.zeros(1, 101), term=torch.arange(101)[None] == 50
    )
    batch = dataclasses.replace(batch, rgb=torch.zeros(1, 101, 3, SIZE, SIZE, dtype=torch.uint8))
    features, level = torch.zeros(1, 101, 32), torch.ones(1, 101)
    loss = objective._outcomes(features, batch, level)["termination_loss"]
    loss.backward()
    assert head.mlp[-1].bias.grad is not None
    assert float(head.mlp[-1].bias.grad[2]) == pytest.approx(0.0, abs=1e-6)
    shifted = 30 * 0.01 / 0.99
    expected = (-30 * math.log(shifted / (1 + shifted)) + 99 * math.log(1 + shifted)) / (
        100 * (1 + 29 * 0.01)
    )
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InvalidInputError, match="end_emphasis = 0.5"):
        LossConfig(end_emphasis=0.5)
