"""Training of a head that reads frames: drawing by class is corrected for, by hand and in
effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.recordings import plain
from tests.helpers.training import assert_equal, started, state_of
from tests.helpers.training import train_config as config
from worldsim.errors import InvalidInputError
from worldsim.training.buffer import FrameBuffer
from worldsim.training.config import HEAD_INPUTS, HeadInput
from worldsim.training.outcomes import (
    OutcomeConfig,
    TransitionSampler,
    class_losses,
    class_weights,
    count_classes,
    draw_by_weight,
    sampling_factors,
    set_prior,
    shift_frames,
)
from worldsim.training.train import TrainConfig, Trainer
from worldsim.world import World
from worldsim.world.frame_outcome import FrameOutcomeHead
from worldsim.world.heads import OutcomeHead


def small(bins: int = 3) -> FrameOutcomeHead:
    return FrameOutcomeHead(
        height=16, width=16, frames=3, actions=0, action_dim=1, widths=(8,), hidden=8, bins=bins
    )


def test_sampling_factors_by_hand() -> None:
    """Rewards of shares 0.64 and 0.36 are drawn in proportion to 0.8 and 0.6. One transition in
    five ends: a quarter of the draws, so 1.25 times as many."""
    factors = sampling_factors(torch.tensor([0.0, 64.0, 36.0]), ends=0.25)
    assert factors.tolist() == pytest.approx([1.0, 0.8 / 1.4 / 0.64, 0.6 / 1.4 / 0.36])
    factors = sampling_factors(torch.tensor([20.0, 64.0, 16.0]), ends=0.25)
    assert float(factors[0]) == pytest.approx(1.25)
    drawn = factors * torch.tensor([0.20, 0.64, 0.16])
    assert drawn.tolist() == pytest.approx([0.25, 0.75 * 2 / 3, 0.75 / 3])


def test_the_correction_is_exact() -> None:
    """A head without input that says the recording's shares has no gradient, whichever way classes
    are weighted: its probabilities are the true ones."""
    head = small()
    head.bin_values.copy_(torch.tensor([0.0, 1.0, 3.0]))
    rew = torch.tensor([0.0] * 60 + [1.5] * 30 + [2.8] * 4 + [-50.0] * 6)
    term = torch.tensor([False] * 94 + [True] * 6)
    counts = count_classes(head, rew, term)
    # 1.5 is a quarter of the way from 1 to 3, 2.8 nine tenths.
    assert counts.tolist() == pytest.approx([6.0, 60.0, 0.75 * 30 + 0.1 * 4, 0.25 * 30 + 0.9 * 4])
    factors = sampling_factors(counts, ends=0.25)
    weight = class_weights(head, factors, rew, term)
    assert float(weight.mean()) == pytest.approx(1.0)
    set_prior(head, counts)
    assert head.prior.exp().tolist() == pytest.approx((counts / 100).tolist())
    out = torch.cat([head.prior, torch.zeros(1)]).expand(100, 5).clone().requires_grad_()
    losses = class_losses(head, out, rew, term, factors, weight)
    (losses["termination_loss"] + losses["reward_loss"]).backward()
    assert out.grad is not None
    assert out.grad.sum(0).abs().max() < 1e-6
    other = (out.detach() + torch.tensor([0.1, 0, 0, 0, 0])).requires_grad_()
    class_losses(head, other, rew, term, factors, weight)["termination_loss"].backward()
    assert other.grad is not None and other.grad.sum(0)[0] > 1e-3


def test_draws_follow_the_weights() -> None:
    weight = torch.tensor([0.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    pick = draw_by_weight(weight.cumsum(0), 4000, torch.Generator().manual_seed(0))
    shares = torch.bincount(pick, minlength=4) / 4000
    assert shares[0] == shares[3] == 0 and abs(float(shares[1]) - 0.75) < 0.03


def shard(lengths: tuple[int, ...] = (5, 4), ended: tuple[bool, ...] = (True, False)) -> dict:
    """Frame i is of colour i; the action that leaves it is i, its reward i, too."""
    count, starts = sum(lengths), np.cumsum([0, *lengths])
    number = np.arange(count)
    term, trunc = np.zeros(count, bool), np.zeros(count, bool)
    for stop, over in zip(starts[1:], ended, strict=True):
        (term if over else trunc)[stop - 2] = True
    rgb = np.zeros((count, 16, 16, 3), np.uint8) + number[:, None, None, None].astype(np.uint8)
    rgb[:, 0] = 200
    return {
        "rgb": rgb, "act": number[:, None].astype(np.float32), "rew": number.astype(np.float32),
        "term": term, "trunc": trunc, "episode_start": starts,
    }  # fmt: skip


def test_transitions_of_a_buffer_by_hand() -> None:
    """Transitions lead to every frame but first ones. What lies before an episode, or before the
    moment that is hidden, repeats that frame, without action and reward."""
    buffer = FrameBuffer(64, 3, None, torch.device("cpu"))
    buffer.add(shard())
    index = buffer.transitions()
    assert index.tolist() == [1, 2, 3, 4, 6, 7, 8]
    rew, term = buffer.outcomes(index)
    assert (
        rew.tolist() == [0, 1, 2, 3, 5, 6, 7]
        and term.tolist() == [False] * 3 + [True] + [False] * 3
    )
    seen = buffer.before(torch.tensor([4, 6, 4]), 3, torch.tensor([0, 0, 3]))
    assert seen.rgb[:, :, 0, 5, 5].tolist() == [[2, 3, 4], [5, 5, 6], [3, 3, 4]]
    assert seen.act[..., 0].tolist() == [[1, 2, 3], [0, 0, 5], [0, 0, 3]]
    assert seen.rew[:, -1].tolist() == [3, 5, 3] and seen.term[:, -1].tolist() == [
        True,
        False,
        True,
    ]
    head = small(bins=5)
    head.set_range(0.0, 7.0)
    sampler = TransitionSampler(buffer, head, OutcomeConfig(ends=0.5, forget=0.0))
    sampler.refresh()
    drawn = sampler.sample(2000, torch.Generator().manual_seed(0))
    assert abs(float(drawn.windows.term[:, -1].float().mean()) - 0.5) < 0.05


def test_a_shift_moves_pictures_and_keeps_places() -> None:
    rgb = torch.arange(4.0).view(1, 1, 1, 1, 4).expand(1, 1, 1, 4, 4)
    assert shift_frames(rgb, torch.tensor([[0, 1]]))[0, 0, 0, 0].tolist() == [0, 0, 1, 2]
    assert shift_frames(rgb, torch.tensor([[0, -2]]))[0, 0, 0, 0].tolist() == [2, 3, 3, 3]


def frames_config(data: Path, out: Path, **changed: Any) -> TrainConfig:
    settings = {"head_input": HeadInput.FRAMES, "outcome": OutcomeConfig(transitions=2)}
    return config(data, out, memory=False, **(settings | changed))


def test_a_resumed_training_is_the_same(blind: Path, tmp_path: Path) -> None:
    """Head and network alike, and the world loads with its head."""
    whole = started(frames_config(blind, tmp_path / "whole"))
    for _ in range(3):
        losses = whole.train_step()
    assert {"termination_loss", "reward_loss", "end_reward_loss"} <= losses.keys()
    first = started(frames_config(blind, tmp_path / "parts"))
    first.train_step()
    first.save()
    # The setting is left out: a checkpoint keeps its own.
    second = Trainer(frames_config(blind, tmp_path / "parts", head_input=None))
    assert second.resume()
    second.wait_for_data()
    for _ in range(2):
        second.train_step()
    assert_equal(state_of(whole), state_of(second))
    world = World.from_pretrained(tmp_path / "parts" / "world", "cpu")
    assert isinstance(world.outcome, FrameOutcomeHead) and world.outcome.config.sees_new


def test_network_and_head_take_nothing_from_each_other(blind: Path, tmp_path: Path) -> None:
    """Other draws of transitions change the head; the network's step stays bit for bit."""
    states = []
    for ends in (0.1, 0.6):
        outcome = OutcomeConfig(transitions=2, ends=ends)
        trainer = started(frames_config(blind, tmp_path / str(ends), outcome=outcome))
        # TinyRoom has no terminations: rewards and ends of our own.
        data = trainer.buffer._data
        data["term"][[20, 50]] = True
        data["rew"][20:24] = torch.tensor([1.0, 2.0, 5.0, 8.0])
        trainer.transitions.refresh()  # type: ignore[union-attr]
        trainer.train_step()
        states.append(state_of(trainer))
    one, other = states
    for name in one:
        if name.startswith("model.network."):
            assert torch.equal(one[name], other[name]), name
    heads = [name for name in one if name.startswith("model.outcome.judge")]
    assert any(not torch.equal(one[name], other[name]) for name in heads)


@pytest.mark.parametrize("reads", list(HeadInput))
def test_units_follow_new_shards(blind: Path, tmp_path: Path, reads: HeadInput) -> None:
    """New rewards change the units of a trained head, and neither its predictions nor those of its
    average."""
    trainer = started(frames_config(blind, tmp_path / reads, head_input=reads))
    trainer.train_step()
    head = trainer.outcome
    with torch.no_grad():
        head.get_parameter(last_bias(head)).fill_(0.3)
    before = predictions(trainer)
    trainer.tally.add(plain(8, 6, ended=True))
    trainer._measure_outcomes()
    units = trainer.tally.units()
    if isinstance(head, OutcomeHead):
        assert torch.equal(head.scale, units[2:4]) and torch.equal(head.prior, units[4])
    else:
        assert torch.equal(head.end_units, units[[1, 3]])
        assert float(head.bin_values[-1]) == pytest.approx(trainer.tally.high)
    for one, now in zip(before, predictions(trainer), strict=True):
        assert torch.allclose(one, now, atol=1e-4)


def test_what_heads_read_by_default(
    blind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames for presets of the table, unless terminal frames are synthetic; features for others.
    What a world's head reads stays with ``init_from``, unless something else is asked for."""
    settings = frames_config(blind, tmp_path / "a", head_input=None)
    assert isinstance(Trainer(settings).outcome, OutcomeHead)
    monkeypatch.setitem(HEAD_INPUTS, "debug", HeadInput.FRAMES)
    first = Trainer(settings)
    assert isinstance(first.outcome, FrameOutcomeHead)
    assert first.config.head_input is HeadInput.FRAMES
    folder = first.world().save_pretrained(tmp_path / "world")
    init: dict[str, Any] = {"init_from": str(folder), "head_input": None}
    again = Trainer(frames_config(blind, tmp_path / "b", **init))
    assert isinstance(again.outcome, FrameOutcomeHead)
    init["head_input"] = HeadInput.FEATURES
    other = Trainer(frames_config(blind, tmp_path / "c", **init))
    assert isinstance(other.outcome, OutcomeHead)
    monkeypatch.setattr(Trainer, "_synthetic_terminals", lambda self: True)
    assert isinstance(Trainer(settings).outcome, OutcomeHead)
    asked = Trainer(frames_config(blind, tmp_path / "d")).outcome
    assert isinstance(asked, FrameOutcomeHead) and not asked.config.sees_new
    with pytest.raises(InvalidInputError, match="the head reads frames"):
        Trainer(frames_config(blind, tmp_path / "e", pooling="attention"))


def last_bias(head: OutcomeHead | FrameOutcomeHead) -> str:
    return [name for name, _ in head.named_parameters()][-1]


def predictions(trainer: Trainer) -> list[torch.Tensor]:
    """Reward of an end and logit of it, by the trained weights and their average."""
    world = trainer.world()
    told = []
    for head in (trainer.outcome, world.outcome):
        with torch.no_grad():
            if isinstance(head, OutcomeHead):
                rewards, logit = head(torch.ones(1, head.config.dim))
            else:
                n = head.config
                rgb = torch.full((1, n.frames, 3, n.height, n.width), 90, dtype=torch.uint8)
                rewards, logit = head(rgb, torch.zeros(1, n.frames, dtype=torch.int64))
        told += [rewards[:, 1], logit]
    return told
