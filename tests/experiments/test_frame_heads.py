"""The separate head: alignment of what it sees, balanced batches whose answers stay true, two-hot
rewards."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from experiments.heads.frame_heads import (
    BalanceConfig,
    Balanced,
    FrameOutcomeHead,
    Recorded,
    Seen,
    outcome_losses,
    shift_frames,
    two_hot,
)
from worldsim.data.dataset import DatasetInfo, EpisodeDataset, write_index, write_shard
from worldsim.data.episode import Episode
from worldsim.errors import InvalidInputError


def episode(first: int, steps: int, ended: bool) -> Episode:
    """Frame i shows the number first + i; the action that leaves it is 10 more, its reward a
    10th."""
    number = first + np.arange(steps + 1)
    on = np.arange(steps + 1) < steps
    last = np.arange(steps + 1) == steps - 1
    return Episode(
        rgb=np.broadcast_to(number[:, None, None, None], (steps + 1, 16, 16, 3)).astype(np.uint8),
        act=np.where(on, number + 10, 0)[:, None].astype(np.float32),
        rew=np.where(on, number / 10, 0).astype(np.float32),
        term=last & ended,
        trunc=last & (not ended),
    )


def recorded(folder: Path, *episodes: Episode) -> Recorded:
    info = DatasetInfo(
        env_id="Test-v0",
        observation_space={"shape": [16, 16, 3], "dtype": "uint8"},
        action_space={"type": "Box", "low": [0.0], "high": [100.0]},
    )
    write_index(folder, info, [write_shard(folder, 0, episodes)])
    return Recorded.of([EpisodeDataset(folder)], "cpu")


@pytest.fixture
def two(tmp_path: Path) -> Recorded:
    """Frames 1 to 4, ended by itself, and 51 to 53, cut off."""
    return recorded(tmp_path, episode(1, 3, True), episode(51, 2, False))


def test_outcomes_belong_to_the_frame_they_lead_to(two: Recorded) -> None:
    assert two.rgb[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 51, 52, 53]
    assert two.act[:, 0].tolist() == [0, 11, 12, 13, 0, 61, 62]
    assert two.rew.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0, 5.1, 5.2])
    assert two.term.tolist() == [False, False, False, True, False, False, False]
    assert two.first.tolist() == [0, 0, 0, 0, 4, 4, 4] and two.judged.tolist() == [1, 2, 3, 5, 6]


def test_what_is_seen_by_hand(two: Recorded) -> None:
    """Of the end, which leads into frame 4 by action 13, and of the second episode's first step."""
    after = two.look(torch.tensor([3, 5]), 3, after=True)
    assert after.rgb[:, :, 0, 0, 0].tolist() == [[2, 3, 4], [51, 51, 52]]
    assert after.present.tolist() == [[True, True, True], [False, True, True]]
    assert (after.act[..., 0] * after.taken).tolist() == [[11, 12, 13], [0, 0, 61]]
    before = two.look(torch.tensor([3, 5]), 3, after=False)
    assert before.rgb[:, :, 0, 0, 0].tolist() == [[1, 2, 3], [51, 51, 51]]
    assert before.present.tolist() == [[True, True, True], [False, False, True]]
    assert torch.equal(before.act, after.act) and torch.equal(before.taken, after.taken)


def test_frames_that_are_missing_do_not_matter(two: Recorded) -> None:
    """A head is told nothing of what fills up the time before an episode."""
    head = FrameOutcomeHead(frames=3, height=16, width=16, actions=0, action_dim=1, hidden=16)
    nn.init.normal_(head.judge[-1].weight)
    seen = two.look(torch.tensor([5]), 3, after=True)
    filled = torch.where(seen.present[:, :, None, None, None], seen.rgb, 200)
    acted = torch.where(seen.taken[..., None], seen.act, 7.0)
    other = Seen(filled.to(torch.uint8), seen.present, acted, seen.taken)
    assert torch.equal(head.outputs(seen), head.outputs(other))
    assert not torch.equal(head.outputs(seen), head.outputs(two.look(torch.tensor([6]), 3, True)))


def test_at_the_start_it_says_the_recordings_share(two: Recorded) -> None:
    head = FrameOutcomeHead(height=16, width=16, actions=0, action_dim=1)
    head.measure(two)
    rewards, logit = head(two.look(two.judged, 4, after=False))
    # (1 + 1/2) / (5 + 1) of the transitions, as Tally counts; means of those that go on and that
    # end.
    assert torch.sigmoid(logit).tolist() == pytest.approx([0.25] * 5)
    assert rewards[0].tolist() == pytest.approx([(0.1 + 0.2 + 5.1 + 5.2) / 4, 0.3])


def test_operations_of_a_frame() -> None:
    """At most 30 MFLOP, a multiply-add as two, at the size that worlds of preset ``task`` have."""
    head, count = FrameOutcomeHead(actions=0, action_dim=2), 0

    def counted(module: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
        nonlocal count
        weight = module.weight
        places = out[0, 0].numel() if weight.ndim == 4 else 1
        count += 2 * weight.numel() * places

    for module in head.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(counted)
    head(
        Seen(
            torch.zeros(1, 4, 3, 64, 64, dtype=torch.uint8),
            torch.ones(1, 4, dtype=torch.bool),
            torch.zeros(1, 4, 2),
            torch.ones(1, 4, dtype=torch.bool),
        )
    )
    assert 20e6 < count < 30e6


def test_balanced_batches_by_hand(tmp_path: Path) -> None:
    """One end in ten transitions; a quarter of a batch ends: odds 1/3 instead of 1/9."""
    r = recorded(tmp_path, episode(1, 10, True))
    balanced = Balanced(r, BalanceConfig(ends=0.25, rare=0.25, shift=0))
    assert balanced.log_odds == pytest.approx(math.log((1 / 3) / (1 / 9)))
    # Nothing is rare among these rewards: all that goes on counts as it comes.
    assert balanced.shares == [0.25, 0.0, 0.75] and balanced.weights == [1.0, 0.0, 1.0]
    index, weight = balanced.draw(8, torch.Generator().manual_seed(0))
    assert r.term[index].tolist() == [True] * 2 + [False] * 6 and weight.tolist() == [1.0] * 8


def test_rare_rewards_weigh_less(two: Recorded) -> None:
    """Of 100 rewards one is far off. A quarter of the batch, it counts a hundredth: 0.01 / 0.25."""
    rew = torch.zeros(101)
    rew[100] = 1.0
    units = torch.tensor([0.01, 0.0, float(rew[1:].std()), 1.0, -9.0])
    none = torch.zeros(101, dtype=torch.bool)
    r = Recorded(
        two.rgb, two.act, rew, none, torch.zeros(101, dtype=torch.long), torch.arange(1, 101), units
    )
    balanced = Balanced(r, BalanceConfig(ends=0.25, rare=0.25))
    assert balanced.shares == [0.0, 0.25, 0.75] and balanced.log_odds == 0.0
    assert balanced.weights[1:] == pytest.approx([0.01 / 0.25, 0.99 / 0.75])
    with pytest.raises(InvalidInputError, match="must leave some for the rest"):
        BalanceConfig(ends=0.5, rare=0.5)


def test_the_head_of_a_balanced_batch_says_the_true_probability() -> None:
    """Ends are 1% of transitions, half of a batch: the best logit for that batch is the 1%'s
    own."""
    share, drawn = 0.01, 0.5
    log_odds = math.log(drawn / (1 - drawn)) - math.log(share / (1 - share))
    term = torch.tensor([True, False])
    logit = torch.tensor(math.log(share / (1 - share)), requires_grad=True)
    loss = outcome_losses(
        torch.zeros(2, 2), (logit + log_odds).expand(2), torch.zeros(2, 2), term, torch.ones(2)
    )
    loss["termination_loss"].backward()
    assert float(logit.grad) == pytest.approx(0.0, abs=1e-6)
    assert float(loss["termination_loss"].detach()) == pytest.approx(math.log(2.0))


def test_losses_by_hand() -> None:
    """Half the squared error of the reward of what happened: going on 2 off, ending 3 off, weight
    2."""
    rewards, rew = torch.tensor([[2.0, 9.0], [9.0, 3.0]]), torch.zeros(2, 2)
    term, weight = torch.tensor([False, True]), torch.tensor([1.0, 2.0])
    losses = outcome_losses(rewards, torch.zeros(2), rew, term, weight)
    assert float(losses["reward_loss"]) == pytest.approx((2.0 + 2 * 4.5) / 2)
    assert float(losses["termination_loss"]) == pytest.approx(3 * math.log(2.0) / 2)


def test_two_hot_by_hand() -> None:
    values = torch.tensor([-1.0, 0.0, 4.0])
    shares = two_hot(torch.tensor([-0.25, 1.0, 9.0]), values)
    assert shares.tolist() == [[0.25, 0.75, 0.0], [0.0, 0.75, 0.25], [0.0, 0.0, 1.0]]
    assert (shares @ values).tolist() == [-0.25, 1.0, 4.0]


def test_mean_and_median_of_bins() -> None:
    """A third each at -1, 0 and 4: mean 1, median 0; units offset 2 and scale 4."""
    head = FrameOutcomeHead(height=16, width=16, bins=3)
    head.bin_values.copy_(torch.tensor([-1.0, 0.0, 4.0]))
    head.offset.copy_(torch.tensor([2.0, 0.0]))
    head.scale.copy_(torch.tensor([4.0, 1.0]))
    out = torch.zeros(1, 6)
    rewards, _ = head.read(out)
    assert rewards[0].tolist() == pytest.approx([(1.0 - 2.0) / 4.0, 0.0])
    assert head.median(out).tolist() == pytest.approx([0.0])
    # Of shares 1/2, 1/4, 1/4, half lies below a third of the way from -1 to 0.
    out[0, 3:] = torch.tensor([0.5, 0.25, 0.25]).log()
    assert head.median(out).tolist() == pytest.approx([-1.0 + (0.5 - 0.25) / (0.625 - 0.25)])


def test_pictures_move_with_their_coordinates() -> None:
    """One pixel down and two to the left; edges are repeated."""
    rgb = torch.arange(12).reshape(1, 1, 1, 3, 4)
    moved = shift_frames(rgb, torch.tensor([[1, -2]]))
    assert moved[0, 0, 0].tolist() == [[2, 3, 3, 3], [2, 3, 3, 3], [6, 7, 7, 7]]
    assert torch.equal(shift_frames(rgb, torch.zeros(1, 2, dtype=torch.long)), rgb)


def test_it_learns_where_something_small_ends(tmp_path: Path) -> None:
    """A pixel falls by one row a step; at the lowest row but three the episode ends."""
    fallen = episode(0, 12, True)
    rgb = np.zeros_like(fallen.rgb)
    rgb[np.arange(13), np.arange(13), 8] = 255
    r = recorded(tmp_path, *[dataclasses.replace(fallen, rgb=rgb)] * 4)
    torch.manual_seed(0)
    head = FrameOutcomeHead(2, 16, 16, actions=0, action_dim=1, widths=(8, 16), hidden=32)
    head.measure(r)
    balanced = Balanced(r, BalanceConfig(shift=0))
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        loss = balanced.losses(head, 32, False, generator)
        optimizer.zero_grad()
        (loss["termination_loss"] + loss["reward_loss"]).backward()
        optimizer.step()
    with torch.no_grad():
        rewards, logit = head(r.look(r.judged, 2, after=False))
    ended, share = r.term[r.judged], torch.sigmoid(logit)
    assert float(share[ended].min()) > 0.5 > float(share[~ended].max())
    assert float((rewards[~ended, 0] - r.rew[r.judged][~ended]).abs().mean()) < 0.1


def test_saved_and_loaded(tmp_path: Path) -> None:
    head = FrameOutcomeHead(height=16, width=16, actions=0, action_dim=1, bins=5)
    head.prior.fill_(-3.0)
    head.save_pretrained(tmp_path)
    again = FrameOutcomeHead.from_pretrained(tmp_path)
    assert float(again.prior) == -3.0 and again.settings["bins"] == 5
