"""The tree of branches: moments, departures and which keyframes stay."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from worldsim.errors import InvalidInputError
from worldsim.sessions.album import Album
from worldsim.sessions.batcher import Held
from worldsim.sessions.history import History, Moment
from worldsim.sessions.protocol import (
    ActionEntry,
    BranchOfWalk,
    Crate,
    EditEntry,
    Position,
    Settings,
    Walk,
)
from worldsim.sessions.stored_frames import StoredFrame
from worldsim.state import Frame, WorldState

pytestmark = pytest.mark.fast


def state(size: int = 100) -> Held:
    """A state of 8 + size bytes."""
    one = torch.zeros(1, dtype=torch.int64)
    empty = torch.zeros(0)
    rgb = torch.zeros(size, dtype=torch.uint8)
    return Held(WorldState(Frame(rgb), (), (), empty, empty, empty, one, torch.zeros(0)))


def walked(steps: int) -> History:
    history = History(10**9)
    history.keep(history.now, state(), Settings())
    for i in range(steps):
        history.add(ActionEntry(a=i))
    return history


def test_one_branch() -> None:
    history = walked(5)
    assert history.position == Position(branch=0, step=5)
    assert history.moment_of(None, 3) == Moment(0, 3)
    for wrong in (6, -1):
        with pytest.raises(InvalidInputError, match="steps 0 to 5"):
            history.moment_of(0, wrong)
    with pytest.raises(InvalidInputError, match="no branch 1"):
        history.moment_of(1, 0)


def test_departures_make_a_tree() -> None:
    """0: a0 a1 a2 a3 a4; 1 departs after 2: b; 2 departs from 1 after 3: c."""
    history = walked(5)
    history.now = history.moment_of(0, 2)
    history.add(ActionEntry(a=10))
    history.add(ActionEntry(a=11))
    assert history.position == Position(branch=1, step=4)
    history.now = history.moment_of(1, 3)
    history.add(ActionEntry(a=20))
    told = [(b.branch, b.parent, b.at, b.steps) for b in history.describe()]
    assert told == [(0, None, 0, 5), (1, 0, 2, 4), (2, 1, 3, 4)]
    path = [e.a for e in history.entries_to(history.now) if isinstance(e, ActionEntry)]
    assert path == [0, 1, 10, 20]
    # A step before its departure lies on the parent.
    assert history.moment_of(2, 1) == Moment(0, 1)
    assert history.moment_of(2, 3) == Moment(2, 0)
    assert history.entries_to(Moment(2, 0)) == history.entries_to(Moment(1, 1))
    # At the end of a branch, it goes on.
    history.now = history.moment_of(0, 5)
    history.add(ActionEntry(a=5))
    assert history.position == Position(branch=0, step=6)


def test_edits_belong_to_their_step() -> None:
    history = walked(2)
    history.add(EditEntry(edit=Crate()))
    history.add(ActionEntry(a=2))
    assert history.moment_of(0, 2) == Moment(0, 3)
    assert history.moment_of(0, 3) == Moment(0, 4)
    assert history.step == 3


def test_nearest_keyframe_and_the_rest() -> None:
    history = walked(5)
    history.keep(Moment(0, 2), state(), Settings(temperature=0.5))
    history.now = history.moment_of(0, 4)
    history.add(ActionEntry(a=10))
    found, keyframe, rest = history.nearest(history.now)
    assert found == Moment(0, 2) and keyframe.settings.temperature == 0.5
    assert [moment for moment, _ in rest] == [Moment(0, 3), Moment(0, 4), Moment(1, 1)]
    assert [entry.a for _, entry in rest] == [2, 3, 10]  # type: ignore[union-attr]
    assert history.nearest(Moment(0, 1))[0] == Moment(0, 0)


def test_keyframes_stay_below_their_limit() -> None:
    """The start, the newest, and others that lie denser towards the present."""
    history = History(20 * 108)
    history.keep(history.now, state(), Settings())
    for i in range(32 * 100):
        history.add(ActionEntry(a=0))
        if (i + 1) % 32 == 0:
            history.keep(history.now, state(), Settings())
    steps = sorted(position.step for position in history.kept_positions())
    assert len(steps) == 20 and history.bytes == 20 * 108
    assert steps[0] == 0 and steps[-1] == 3200 and steps[-2] == 3168
    gaps = [b - a for a, b in itertools.pairwise(steps)]
    assert sum(gaps[:5]) > 3 * sum(gaps[-5:])
    assert max(gaps) < 1200


def test_frames_take_room_from_keyframes() -> None:
    """Of 1,080 bytes, three frames of 4 x 4 pixels (48 + 32 + 64 bytes) leave six keyframes."""
    history = History(10 * 108)
    album = Album(history)
    arrays = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16), np.eye(4, dtype=np.float32)
    for i in range(10):
        history.keep(history.now, state(), Settings())
        history.add(ActionEntry(a=0))
        # The third and the later ones replace one another.
        album.store(Moment(0, min(i + 1, 3)), StoredFrame(*arrays))
    history.keep(history.now, state(), Settings())
    assert history.frame_bytes == 3 * 144
    assert len(history.keyframes) == 6 and history.bytes == 3 * 144 + 6 * 108
    assert album.stored_to(Moment(0, 2)) == list(album.frames.values())[:2]


def test_walks_can_be_loaded_again() -> None:
    history = walked(3)
    history.now = history.moment_of(0, 1)
    history.add(EditEntry(edit=Crate(size=1.5)))
    history.add(ActionEntry(a=9))
    history.rename(1, "with a crate")
    walk = Walk(world="w", branches=history.as_walk())
    again = History(10**9)
    again.load(Walk.model_validate_json(walk.model_dump_json()))
    assert again.as_walk() == history.as_walk()
    assert list(again.describe()) == list(history.describe())


@pytest.mark.parametrize(
    "branches",
    [
        [BranchOfWalk(branch=1)],
        [BranchOfWalk(branch=0, parent=0)],
        [BranchOfWalk(branch=0), BranchOfWalk(branch=1)],
        [BranchOfWalk(branch=0), BranchOfWalk(branch=1, parent=1)],
        [BranchOfWalk(branch=0), BranchOfWalk(branch=1, parent=0, at_entry=1)],
    ],
)
def test_impossible_walks(branches: list[BranchOfWalk]) -> None:
    with pytest.raises(InvalidInputError, match="branch"):
        History(10).load(Walk(world="w", branches=branches))
