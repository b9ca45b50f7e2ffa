"""What happened in a session: a tree of branches with keyframes to return to.

A branch holds entries: steps, edits and changes of settings. A moment lies on a branch after some
of its entries. Returning to it restores the nearest keyframe before it and replays the rest.
Continuing from a moment that is not the end of its branch begins a new branch there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from worldsim.errors import InvalidInputError
from worldsim.sessions.batcher import Held
from worldsim.sessions.protocol import (
    ActionEntry,
    BranchInfo,
    BranchOfWalk,
    Entry,
    Position,
    Settings,
    Walk,
)
from worldsim.state import bytes_of

MOST_BRANCHES = 4096
"""Branches of one session."""
MOST_ENTRIES = 200_000
"""Entries of one session: six hours at nine steps per second."""


@dataclass(frozen=True)
class Moment:
    """A place in the tree: after ``entries`` entries of ``branch``."""

    branch: int
    entries: int


@dataclass(frozen=True)
class Keyframe:
    """A stored state.

    held: the state, packed.
    settings: of the world at that moment.
    bytes: of the state.
    """

    held: Held
    settings: Settings
    bytes: int


@dataclass
class Branch:
    """One branch.

    parent: the branch that it departs from, None for the first.
    at_entry: number of the parent's entries before it.
    base: steps before its first entry.
    """

    number: int
    parent: int | None
    at_entry: int
    base: int
    name: str = ""
    entries: list[Entry] = field(default_factory=list)
    steps_before: list[int] = field(default_factory=list)
    """Steps of the branch before each entry."""
    steps: int = 0

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        self.entries.append(entry)
        self.steps_before.append(self.steps)
        self.steps += isinstance(entry, ActionEntry)

    def step_at(self, entries: int) -> int:
        """Return the step, counted from the reset, after so many entries."""
        own = self.steps if entries >= len(self.entries) else self.steps_before[entries]
        return self.base + own


class History:
    """The branches of one session, and the present moment.

    limit: most bytes of keyframes and frames. Above it, keyframes are dropped that are close to
        others and far from the present.

    Attributes:
        frame_bytes: bytes of the frames that the session's album keeps.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.frame_bytes = limit, 0
        self.branches = [Branch(0, None, 0, 0)]
        self.now = Moment(0, 0)
        self.keyframes: dict[Moment, Keyframe] = {}
        self._keyframe_bytes = 0
        self.entries = 0

    @property
    def bytes(self) -> int:
        """Bytes of keyframes and frames."""
        return self._keyframe_bytes + self.frame_bytes

    @property
    def position(self) -> Position:
        """The present branch and step."""
        return Position(branch=self.now.branch, step=self.step)

    @property
    def step(self) -> int:
        """Steps from the reset to the present."""
        return self.branches[self.now.branch].step_at(self.now.entries)

    def add(self, entry: Entry) -> None:
        """Append an entry at the present moment; begins a branch if others follow there.

        Raises InvalidInputError if the history is full.
        """
        self.require_room()
        branch = self.branches[self.now.branch]
        if self.now.entries < len(branch.entries):
            branch = self._depart(branch)
        branch.add(entry)
        self.entries += 1
        self.now = Moment(branch.number, len(branch.entries))

    def require_room(self) -> None:
        """Raise InvalidInputError if the history is full."""
        if self.entries >= MOST_ENTRIES:
            raise InvalidInputError(
                f"this session has {MOST_ENTRIES} steps and edits: reset it, or fork it and go on "
                f"there"
            )
        if len(self.branches) >= MOST_BRANCHES:
            raise InvalidInputError(
                f"this session has {MOST_BRANCHES} branches: reset it, or fork it and go on there"
            )

    def _depart(self, parent: Branch) -> Branch:
        at = self.now.entries
        branch = Branch(len(self.branches), parent.number, at, parent.step_at(at))
        self.branches.append(branch)
        return branch

    def moment_of(self, branch: int | None, step: int) -> Moment:
        """Return the moment after ``step`` steps along a branch, with the edits made there.

        Raises InvalidInputError, which tells what there is.
        """
        number = self.now.branch if branch is None else branch
        if not 0 <= number < len(self.branches):
            raise InvalidInputError(
                f"there is no branch {number}: branches are 0 to {len(self.branches) - 1}"
            )
        found = self.branches[number]
        last = found.base + found.steps
        if not 0 <= step <= last:
            raise InvalidInputError(f"branch {number} has steps 0 to {last}, not {step}")
        before: int | None = None
        while step < found.base:
            assert found.parent is not None
            before = found.at_entry
            found = self.branches[found.parent]
        entries = len(found.entries) if before is None else before
        while entries > 0 and found.step_at(entries) > step:
            entries -= 1
        # All entries up to the next step: the edits at that moment, too.
        return Moment(found.number, entries)

    def path(self, moment: Moment) -> list[tuple[Branch, int]]:
        """Return the branches from the first to the moment's, each with how many entries count."""
        path: list[tuple[Branch, int]] = []
        branch, entries = self.branches[moment.branch], moment.entries
        while True:
            path.append((branch, entries))
            if branch.parent is None:
                return path[::-1]
            entries = branch.at_entry
            branch = self.branches[branch.parent]

    def entries_to(self, moment: Moment) -> list[Entry]:
        """Return all entries from the reset to a moment."""
        return [entry for branch, count in self.path(moment) for entry in branch.entries[:count]]

    def nearest(self, moment: Moment) -> tuple[Moment, Keyframe, list[tuple[Moment, Entry]]]:
        """Return the last keyframe at or before a moment, and the entries from there to it.

        Each entry has the moment after it.
        """
        path = self.path(moment)
        best: tuple[int, Moment] | None = None
        for depth, (branch, count) in enumerate(path):
            for entries in range(count, -1, -1):
                if Moment(branch.number, entries) in self.keyframes:
                    best = depth, Moment(branch.number, entries)
                    break
        assert best is not None, "the start is always kept"
        depth, found = best
        rest: list[tuple[Moment, Entry]] = []
        for k, (branch, count) in enumerate(path[depth:]):
            first = found.entries if k == 0 else 0
            rest += [(Moment(branch.number, i + 1), branch.entries[i]) for i in range(first, count)]
        return found, self.keyframes[found], rest

    def keep(self, moment: Moment, held: Held, settings: Settings) -> None:
        """Store the state of a moment, packed, as a keyframe.

        Drops other keyframes if there are too many bytes.
        """
        if moment in self.keyframes:
            return
        size = bytes_of(held.batch)
        self.keyframes[moment] = Keyframe(held, settings, size)
        self._keyframe_bytes += size
        while self.bytes > self.limit and len(self.keyframes) > 2:
            self._thin(moment)

    def _thin(self, newest: Moment) -> None:
        """Drop the keyframe that is the least loss.

        It is the one whose neighbours on its branch are closest, compared with how long ago it is.
        The start and the newest keyframe stay.
        """
        present = self.step
        by_branch: dict[int, list[tuple[int, Moment]]] = {}
        for moment in self.keyframes:
            step = self.branches[moment.branch].step_at(moment.entries)
            by_branch.setdefault(moment.branch, []).append((step, moment))
        worst: tuple[float, Moment] | None = None
        for listed in by_branch.values():
            listed.sort(key=lambda pair: pair[0])
            for i, (step, moment) in enumerate(listed):
                if moment in (Moment(0, 0), newest):
                    continue
                before = listed[i - 1][0] if i else self.branches[moment.branch].base
                after = listed[i + 1][0] if i + 1 < len(listed) else step
                loss = (after - before + 1) / (abs(present - step) + 32.0)
                if worst is None or loss < worst[0]:
                    worst = loss, moment
        assert worst is not None
        self._keyframe_bytes -= self.keyframes.pop(worst[1]).bytes

    def last_step(self, branch: int) -> int:
        """Return the step of a branch's last frame."""
        found = self.branches[branch]
        return found.base + found.steps

    def describe(self) -> Iterator[BranchInfo]:
        """Yield a description of each branch."""
        for branch in self.branches:
            yield BranchInfo(
                branch=branch.number,
                parent=branch.parent,
                at=branch.base,
                steps=branch.base + branch.steps,
                name=branch.name,
            )

    def kept_positions(self) -> list[Position]:
        """Return where the keyframes are."""
        return [
            Position(branch=m.branch, step=self.branches[m.branch].step_at(m.entries))
            for m in self.keyframes
        ]

    def rename(self, branch: int, name: str) -> None:
        """Name a branch. Raises InvalidInputError."""
        if not 0 <= branch < len(self.branches):
            raise InvalidInputError(
                f"there is no branch {branch}: branches are 0 to {len(self.branches) - 1}"
            )
        self.branches[branch].name = name

    def as_walk(self) -> list[BranchOfWalk]:
        """Return all branches with their entries."""
        return [
            BranchOfWalk(
                branch=branch.number,
                parent=branch.parent,
                at_entry=branch.at_entry,
                name=branch.name,
                entries=list(branch.entries),
            )
            for branch in self.branches
        ]

    def load(self, walk: Walk) -> None:
        """Take over the branches of a walk, without keyframes but the start's.

        Raises InvalidInputError for branches that do not fit one another.
        """
        branches: list[Branch] = []
        for i, told in enumerate(walk.branches):
            if told.branch != i or (told.parent is None) != (i == 0):
                raise InvalidInputError(
                    f"branch {told.branch} of a walk: branches are numbered from 0, and only the "
                    f"first has no parent"
                )
            base = 0
            if told.parent is not None:
                if told.parent >= i or told.at_entry > len(branches[told.parent].entries):
                    raise InvalidInputError(f"branch {i} of a walk departs from nowhere")
                base = branches[told.parent].step_at(told.at_entry)
            branch = Branch(i, told.parent, told.at_entry, base, told.name)
            for entry in told.entries:
                branch.add(entry)
            branches.append(branch)
        total = sum(len(branch.entries) for branch in branches)
        if total > MOST_ENTRIES:
            raise InvalidInputError(f"a walk of {total} entries is longer than {MOST_ENTRIES}")
        self.branches = branches or [Branch(0, None, 0, 0)]
        self.entries = total
