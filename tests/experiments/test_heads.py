"""The experiment on heads: figures by hand, windows that count every transition equally, what a
head sees in a dream."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.heads.frame_heads import Recorded

FOLDER = Path(__file__).parents[2] / "experiments" / "heads"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment's files import one another by name, as scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("arms", "figures", "frame_heads", "reference"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def recorded(lengths: list[int]) -> Recorded:
    """Episodes of so many frames, each of one pixel that shows its number; all end by
    themselves."""
    starts = np.cumsum([0, *lengths])
    n = int(starts[-1])
    first = torch.from_numpy(np.repeat(starts[:-1], lengths))
    frame = torch.arange(n)
    last = torch.zeros(n, dtype=torch.bool)
    last[torch.from_numpy(starts[1:] - 1)] = True
    return Recorded(
        rgb=frame.to(torch.uint8)[:, None, None, None].expand(n, 3, 16, 16),
        act=frame[:, None].float(),
        rew=frame.float(),
        term=last,
        first=first,
        judged=frame[frame > first],
        units=torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]),
    )


def test_figures_by_hand() -> None:
    """Four transitions, one an end; said 0.5 of the end and 0.1 of the others; rewards 1 off
    each."""
    from figures import Truth, figures

    truth = Truth(
        act=[np.array([0, 1]), np.array([0, 1])],
        rew=[np.array([0.0, 4.0]), np.array([2.0, -9.0])],
        ended=[np.array([False, False]), np.array([False, True])],
    )
    found = figures(
        truth,
        [np.array([0.1, 0.1]), np.array([0.1, 0.5])],
        [np.array([1.0, 3.0]), np.array([3.0, 0.0])],
        50,
    )
    assert found["ending_log_loss"] == pytest.approx(-(3 * np.log(0.9) + np.log(0.5)) / 4)
    assert found["ending_log_loss_of_share"] == pytest.approx(
        -(3 * np.log(0.75) + np.log(0.25)) / 4
    )
    assert found["mean_ending"] == pytest.approx(0.2) and found["share"] == 0.25
    # Rewards of going on are 0, 4 and 2: the median 2 is 4/3 off; by action, 1 twice and 4: 2/3.
    assert found["reward_error"] == 1.0
    assert found["reward_error_ratio"] == pytest.approx(
        {"constant": 0.75, "constant per action": 1.5}
    )
    assert found["reward_squared_error_ratio"]["constant"] == pytest.approx(1.0 / (8 / 3))
    rows = [(row["steps"], row["said"], row["happened"]) for row in found["reliability"]]
    assert rows == [(3, pytest.approx(0.1), 0.0), (1, 0.5, 1.0)]


def test_who_sees_continuous_actions_alone() -> None:
    """Rewards linear in the action: nothing is left over; cells are a quarter of each range."""
    from figures import Truth, cells, constants

    act = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    truth = Truth([act], [act @ np.array([2.0, -1.0]) + 0.5], [np.zeros(200, bool)])
    absolute, squared = constants(truth)["linear in action"]
    assert absolute[0].max() < 1e-6 and squared[0].max() < 1e-12
    assert cells(np.array([[-1.0, -1.0], [1.0, 1.0], [0.1, -0.4]])).tolist() == [0, 15, 2 + 4 * 1]


def test_windows_count_every_transition_equally() -> None:
    """All windows of episodes of 2, 9 and 30 frames, once each: every transition counts as
    often."""
    from reference import Sequences

    r = recorded([2, 9, 30])
    sequences = Sequences(r, frames=8, warm=2)
    counts = torch.zeros(len(r.first))
    for pick in range(len(sequences.stop)):
        one = Sequences(r, frames=8, warm=2)
        one.stop, one.start, one.last = (
            x[pick : pick + 1] for x in (sequences.stop, sequences.start, sequences.last)
        )
        index, counted = one.draw(1, torch.Generator())
        assert (r.first[index] == r.first[index[0, 0]]).all()
        counts[index[0, 1:][counted[0]]] += 1
    assert counts[r.judged].tolist() == [5.0] * len(r.judged) and counts.sum() == 5 * len(r.judged)


def test_the_reference_does_not_look_ahead() -> None:
    """Before: a transition's own new frame changes nothing. After: it does, and later ones do
    not."""
    from reference import Reference

    torch.manual_seed(0)
    reference = Reference(16, 16, actions=0, action_dim=1, hidden=16)
    for judge in (reference.after, reference.before):
        torch.nn.init.normal_(judge[-1].weight)
    rgb = torch.randint(0, 256, (1, 6, 3, 16, 16), dtype=torch.uint8)
    act, prior = torch.randn(1, 6, 1), torch.zeros(())
    other = rgb.clone()
    other[:, 4] = 255 - other[:, 4]
    (_, after), (_, before) = reference(rgb, act, prior)
    (_, after2), (_, before2) = reference(other, act, prior)
    # Column i is the transition into frame i + 1.
    assert torch.equal(before[:, :4], before2[:, :4]) and not torch.equal(
        before[:, 4], before2[:, 4]
    )
    assert torch.equal(after[:, :3], after2[:, :3]) and not torch.equal(after[:, 3], after2[:, 3])


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5, 9])
def test_a_dream_shows_what_a_recording_does(after: bool, steps: int) -> None:
    """The same frames and actions as ``Recorded.look`` says of the same moment."""
    from arms import recent

    r = recorded([12])
    kept: Any = slice(max(0, steps - 4), steps + 1)
    frames, acts = (
        [r.rgb[i : i + 1] for i in range(12)][kept],
        [r.act[i : i + 1] for i in range(12)][kept],
    )
    found, wanted = recent(frames, acts, 4, after), r.look(torch.tensor([steps]), 4, after)
    assert torch.equal(found.present, wanted.present) and torch.equal(found.taken, wanted.taken)
    shown = found.present[0]
    assert torch.equal(found.rgb[0][shown], wanted.rgb[0][shown])
    assert torch.equal(found.act[0][found.taken[0]], wanted.act[0][wanted.taken[0]])


def test_rewarded_steps_by_hand() -> None:
    """Rewards at 3, 10 and 20. Steps 4 and 5 say so in a row, whose top is one step off; 13 is
    three steps off; 20 is right, and 18 is a second answer to the same reward."""
    from figures import Truth, rewarded

    true, said = np.zeros(30), np.zeros(30)
    true[[3, 10, 20]] = 1.0
    said[[4, 5, 13, 18, 20]] = [0.9, 0.6, 0.7, 0.8, 0.55]
    truth = Truth([np.zeros(30)], [true], [np.zeros(30, bool)])
    found = rewarded(truth, [said])
    assert (found["said"], found["happened"], found["hits"]) == (4, 3, 2)
    assert found["precision"] == 0.5 and found["recall"] == 2 / 3
    assert found["f1"] == 4 / 7 and found["sum_said"] == pytest.approx(3.55)
    assert rewarded(truth, [np.zeros(30)])["precision"] is None
