"""The head that reads frames: values of rewards, classes, units, its part in a world's state."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.worlds import make_tiny_world
from worldsim.errors import InvalidInputError
from worldsim.state import Frame, SceneStart, WorldState
from worldsim.world import World
from worldsim.world.frame_outcome import FrameOutcomeHead, reward_values
from worldsim.world.snapshots import Snapshot, load_snapshot, save_snapshot

E = math.e


def small(**settings: object) -> FrameOutcomeHead:
    defaults = {"height": 32, "width": 32, "actions": 7, "widths": (8, 8), "hidden": 8, "bins": 5}
    return FrameOutcomeHead(**(defaults | settings))  # type: ignore[arg-type]


def random_head(**settings: object) -> FrameOutcomeHead:
    torch.manual_seed(0)
    head = small(**settings)
    torch.nn.init.normal_(head.judge[-1].weight)
    return head


def test_values_of_rewards_by_hand() -> None:
    """Evenly spaced logarithms: 0, 1, 2 and their mirror images."""
    expected = [1 - E * E, 1 - E, 0.0, E - 1, E * E - 1]
    assert reward_values(1 - E * E, E * E - 1, 5).tolist() == pytest.approx(expected)
    assert reward_values(2.0, 2.0, 3).tolist() == pytest.approx([1.98, 2.0, 2.02], abs=1e-3)


def test_classes_by_hand() -> None:
    """Class 0 is the end. 2.5 lies at three quarters of the way from 1 to 3; rewards beyond the
    outermost values belong to these."""
    head = small(bins=3)
    head.bin_values.copy_(torch.tensor([0.0, 1.0, 3.0]))
    rew = torch.tensor([0.0, 2.5, 9.0, -1.0, 2.5])
    term = torch.tensor([False, False, False, False, True])
    classes, shares = head.locate(rew, term)
    assert classes.tolist() == [[1, 2], [2, 3], [2, 3], [1, 2], [0, 0]]
    assert shares.tolist() == [[1.0, 0.0], [0.25, 0.75], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]


def test_outcomes_of_a_distribution_by_hand() -> None:
    """Ends with 0.2; else 0, 1 or 3 with 0.4, 0.2 and 0.2 of 0.8: 1 on average."""
    head = small(bins=3)
    head.bin_values.copy_(torch.tensor([0.0, 1.0, 3.0]))
    head.prior.copy_(torch.tensor([0.2, 0.4, 0.2, 0.2]).log())
    head.end_units.copy_(torch.tensor([-100.0, 5.0]))
    rgb = torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8)
    rewards, logit = head(rgb, torch.zeros(2, 4, dtype=torch.int64))
    assert torch.sigmoid(logit).tolist() == pytest.approx([0.2, 0.2])
    assert rewards.flatten().tolist() == pytest.approx([1.0, -100.0] * 2)


def test_new_units_keep_predictions() -> None:
    """Of a trained head: 3 + 2 x in units of mean 3 and deviation 2 is the same number in others;
    values inside the old range stay where they are."""
    head = random_head()
    rgb = torch.randint(0, 256, (3, 4, 3, 32, 32), dtype=torch.uint8)
    act = torch.randint(0, 7, (3, 4))
    head.set_end_units((3.0, 2.0))
    before = head(rgb, act)
    values, last = head.bin_values.clone(), head.judge[-1]
    head.set_end_units((-90.0, 10.0), [(last.weight, last.bias)])
    after = head(rgb, act)
    assert torch.allclose(before[0], after[0], atol=1e-4) and torch.equal(before[1], after[1])
    head.set_range(-4.0, 0.5, extend=True)
    assert head.bin_values.tolist() == [-4.0, *values[1:].tolist()]


def test_bad_settings() -> None:
    with pytest.raises(InvalidInputError, match="it sees 2 to 9 frames"):
        small(frames=10)


def with_head(**settings: object) -> World:
    world = make_tiny_world(geometry=False, rewards=True)
    head = random_head(**settings)
    return World(world.network, world.config, None, head)


def start(seed: int) -> SceneStart:
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.randint(0, 256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return SceneStart(rgb=rgb, act=torch.tensor([0, 3]))


def run(world: World, state: WorldState, steps: int = 3) -> tuple[WorldState, list[torch.Tensor]]:
    told = []
    for t in range(steps):
        act = (torch.arange(len(state)) + t) % 7
        state, transition = world.step(state, act)
        told += [transition.rew, transition.termination_prob, transition.frame.rgb]
    return state, [x for x in told if x is not None]


@pytest.mark.parametrize("sees_new", [True, False])
def test_the_state_holds_the_last_frames(sees_new: bool) -> None:
    """Frames before the first one repeat it. The head sees the new frame, or those before it."""
    world = with_head(sees_new=sees_new)
    state = world.initial([start(0)], [0])
    first, second = start(0).rgb
    assert state.recent is not None and state.recent.shape[1] == (3 if sees_new else 4)
    assert torch.equal(state.recent[0, -1], second) and torch.equal(state.recent[0, -2], first)
    assert torch.equal(state.recent[0, 0], first)
    heard = []
    world.outcome.register_forward_pre_hook(lambda module, given: heard.append(given))
    following, transition = world.step(state, torch.tensor([5]))
    rgb, act = heard[0]
    newest = transition.frame.rgb if sees_new else second[None]
    assert torch.equal(rgb[:, -1], newest) and act[0].tolist() == [0, 0, 3, 5]
    assert following.recent is not None
    assert torch.equal(following.recent[:, -1], transition.frame.rgb)
    true = torch.full((1, 3, 32, 32), 9, dtype=torch.uint8)
    observed = world.observe(following, torch.tensor([1]), Frame(true))
    assert observed.recent is not None and torch.equal(observed.recent[:, -1], true)


def test_forks_and_batches_agree() -> None:
    """A row's outcomes do not depend on the others, nor on when it was forked."""
    world = with_head()
    many = world.initial([start(i) for i in range(8)], range(8))
    middle, _ = run(world, many)
    _, together = run(world, middle)
    _, forked = run(world, middle.clone())
    assert all(map(torch.equal, together, forked))
    turned = middle.select(torch.arange(7, -1, -1))
    act = torch.full((8,), 2)
    one, other = world.step(middle, act)[1], world.step(turned, act)[1]
    assert torch.equal(one.rew.flip(0), other.rew)
    assert len(set(one.rew.tolist())) == 8


def test_snapshots_and_files(tmp_path: Path) -> None:
    """A dream continues bit for bit in a world that was saved and loaded, plain and at 8 bits."""
    world = with_head()
    folder = world.save_pretrained(tmp_path / "world")
    first, loaded = World.from_pretrained(folder, "cpu"), World.from_pretrained(folder, "cpu")
    assert isinstance(loaded.outcome, FrameOutcomeHead)
    assert loaded.weights_id == world.weights_id
    state, _ = run(world, world.initial([start(0)], [0]))
    generator = np.random.default_rng(0).bit_generator.state
    snapshot = Snapshot(state, np.zeros(1, np.int64), np.zeros(1, bool), (generator,))
    path = save_snapshot(snapshot, first, tmp_path / "snapshot")
    restored = load_snapshot(path, loaded).state
    assert restored.recent is not None
    for one, other in zip(run(world, state)[1], run(loaded, restored)[1], strict=True):
        assert torch.equal(one, other)
    packed = World.from_pretrained(world.save_pretrained(tmp_path / "small", eight_bit=True), "cpu")
    assert isinstance(packed.outcome, FrameOutcomeHead)


def test_levels_by_hand() -> None:
    """Half of the values 100 and half 110: brightness 105, contrast 5. The head sees -1 and 1."""
    head = random_head(standardised=True)
    rgb = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    rgb[..., 16:] = 110
    head.set_levels(rgb)
    assert head.levels.tolist() == [105.0, 5.0]
    head.set_levels(rgb[..., :16])
    assert head.levels.tolist() == [100.0, 2.0]
    plain = random_head()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if k != "levels"})
    head.set_levels(torch.tensor([0, 255], dtype=torch.uint8).expand(1, 3, 32, 16, 2).flatten(3))
    frames, act = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8), torch.zeros(2, 4)
    # With brightness and contrast of 127.5, it sees what a plain head sees.
    for ours, theirs in zip(head(frames, act.long()), plain(frames, act.long()), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
