"""The pictures of a walk: its newest frames, and small pictures of older ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from worldsim.errors import NotFoundError
from worldsim.sessions.history import History, Moment
from worldsim.sessions.protocol import ActionEntry, PictureFormat
from worldsim.sessions.stored_frames import StoredFrame
from worldsim.sessions.views import picture_bytes
from worldsim.state import Frame

FRAMES = 2000
"""Newest frames that a session keeps, as an environment does."""
KEPT_EVERY = 8
"""Of frames that are older, a small picture of every eighth is kept for the timeline."""


class Album:
    """The frames of one history.

    history: whose moments they belong to.
    root: frames before its first step, the newest of them if they are many.
    first: the newest of them as WebP; None without any.
    """

    def __init__(
        self, history: History, root: Sequence[StoredFrame] = (), first: bytes | None = None
    ) -> None:
        self.history, self.root, self.first = history, tuple(root)[-FRAMES:], first
        self.frames: OrderedDict[Moment, StoredFrame] = OrderedDict()
        self.small: dict[Moment, bytes] = {}

    def thumbnail(self, moment: Moment) -> tuple[int, bytes]:
        """Return a picture of a moment, or of the last one before it that is kept, and its step.

        Raises NotFoundError.
        """
        for found, entries in reversed(self.history.path(moment)):
            for i in range(entries, 0, -1):
                at = Moment(found.number, i)
                frame, small = self.frames.get(at), self.small.get(at)
                if frame is not None:
                    return found.step_at(i), picture_bytes(frame.rgb, PictureFormat.WEBP)
                if small is not None:
                    return found.step_at(i), small
        if self.first is None:
            raise NotFoundError("no picture is kept of that moment")
        return 0, self.first

    def frames_to(self, moment: Moment) -> list[Frame]:
        """Return the frames from the reset to a moment; of a long walk, the newest."""
        return [stored.frame() for stored in self.stored_to(moment)]

    def stored_to(self, moment: Moment) -> list[StoredFrame]:
        """Return what :meth:`frames_to` does, as it is stored, without copies."""
        found = list(self.root)
        for branch, count in self.history.path(moment):
            for i, entry in enumerate(branch.entries[:count]):
                stored = self.frames.get(Moment(branch.number, i + 1))
                if isinstance(entry, ActionEntry):
                    if stored is None:
                        # Older than what is kept: a trajectory has no gaps.
                        found = []
                        continue
                    found.append(stored)
                elif stored is not None and found:
                    found[-1] = stored
        return found[-FRAMES:]

    def store(self, moment: Moment, frame: StoredFrame) -> None:
        """Store the frame of a moment. Of frames that are too many, small pictures stay."""
        replaced = self.frames.get(moment)
        self._grow(frame.bytes - (0 if replaced is None else replaced.bytes))
        self.frames[moment] = frame
        self.frames.move_to_end(moment)
        while len(self.frames) > FRAMES:
            old, dropped = self.frames.popitem(last=False)
            self._grow(-dropped.bytes)
            if old.entries % KEPT_EVERY == 0:
                small = picture_bytes(dropped.rgb, PictureFormat.WEBP)
                self._grow(len(small) - len(self.small.get(old, b"")))
                self.small[old] = small

    def _grow(self, by: int) -> None:
        self.history.frame_bytes += by

    def store_path(self, moment: Moment, frames: Sequence[Frame]) -> None:
        """Store the newest frames of the way to a moment."""
        moments: list[Moment] = []
        for branch, count in self.history.path(moment):
            for i, entry in enumerate(branch.entries[:count]):
                if isinstance(entry, ActionEntry):
                    moments.append(Moment(branch.number, i + 1))
        for at, frame in list(zip(reversed(moments), reversed(frames), strict=False))[::-1]:
            self.store(at, StoredFrame.rows_of(frame, 1)[0])
