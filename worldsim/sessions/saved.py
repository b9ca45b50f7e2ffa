"""Sessions on disk: what a server saves by itself, so that a crash loses little.

A session is a folder with ``session.json`` (world, settings, branches with all that happened) and
two snapshots that it names: ``root-….safetensors``, where it began, and ``latest-….safetensors``.
Each file is written atomically under a name of its own, the JSON file last: a crash in between
leaves the JSON file with the snapshots that belong to it.
"""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from worldsim.errors import DamagedFileError, NotFoundError, WorldsimError
from worldsim.runtime.arguments import shown
from worldsim.runtime.files import is_file, is_folder, make_writable_folder, write_bytes
from worldsim.runtime.json_config import read_json, write_json
from worldsim.sessions.history import Moment
from worldsim.sessions.protocol import Index, Message, Name, Settings, Text, Walk
from worldsim.world.snapshots import (
    Snapshot,
    load_snapshot,
    read_settings,
    save_snapshot,
    settings_of,
)
from worldsim.world.world import World

Result = TypeVar("Result")
FILE, ROOT, LATEST = "session.json", "root.safetensors", "latest.safetensors"
SnapshotName = Annotated[str, Field(pattern=r"^(root|latest)(-[0-9a-f]{8})?\.safetensors$")]
"""Name of a snapshot in a session's folder; without digits in files of earlier versions."""
ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
"""Ids of sessions, which are names of folders."""
MOST = 50
"""Saved sessions that are kept; the oldest are removed."""


class LatestMoment(Message):
    """The moment of the newest snapshot."""

    branch: Index
    entries: Index
    file: SnapshotName = LATEST


class SavedSession(Message):
    """The content of ``session.json``."""

    v: int = 1
    id: Name
    title: Text = ""
    created_at: float
    saved_at: float
    settings: Settings
    elapsed: Index = 0
    twin: bool = False
    steps: Index = 0
    walk: Walk
    root: SnapshotName = ROOT
    latest: LatestMoment | None = None


class SavedInfo(Message):
    """A session that can be resumed."""

    id: str
    title: str
    world: str
    scene: str
    steps: Annotated[int, Field(ge=0)]
    saved_at: float


@dataclass(frozen=True)
class Opened:
    """A saved session, read from disk."""

    saved: SavedSession
    folder: Path

    def root(self, world: World) -> Snapshot:
        """Return the snapshot where it began. Raises DamagedFileError or InvalidInputError."""
        return load_snapshot(self.folder / self.saved.root, world)

    def latest(self, world: World) -> tuple[Moment, Snapshot] | None:
        """Return a recent moment with its snapshot, None if there is none that can be read."""
        told = self.saved.latest
        if told is None or not is_file(self.folder / told.file):
            return None
        try:
            snapshot = load_snapshot(self.folder / told.file, world)
        except WorldsimError:
            # Damaged, or of another version: the walk is replayed instead.
            return None
        return Moment(told.branch, told.entries), snapshot


class SavedSessions:
    """The saved sessions of a server.

    folder: made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_writable_folder(folder)
        self._roots: dict[str, str] = {}
        self._writing = threading.Lock()

    def save(
        self,
        saved: SavedSession,
        world: World,
        root: tuple[Snapshot, World] | None,
        latest: Snapshot | None,
    ) -> None:
        """Write a session.

        root: its first snapshot and that one's world, if it is not on disk yet.
        latest: a snapshot of ``saved.latest`` in ``world``.
        """
        with self._writing:
            folder = make_writable_folder(self._folder(saved.id))
            first, newest = self._roots.get(saved.id, ROOT), LATEST
            if root is not None:
                first = f"root-{secrets.token_hex(4)}.safetensors"
                save_snapshot(root[0], root[1], folder / first)
            if latest is not None:
                newest = f"latest-{secrets.token_hex(4)}.safetensors"
                save_snapshot(latest, world, folder / newest)
            moment = saved.latest and saved.latest.model_copy(update={"file": newest})
            saved = saved.model_copy(update={"root": first, "latest": moment})
            write_json(folder / FILE, saved.model_dump(mode="json", exclude_none=True))
            self._roots[saved.id] = first
            for path in folder.glob("*.safetensors"):
                if path.name not in (first, newest):
                    path.unlink(missing_ok=True)
            self._prune(saved.id)

    def list(self) -> list[SavedInfo]:
        """Return the sessions that can be resumed, the newest first; damaged ones are left out."""
        found = []
        for path in self.folder.iterdir():
            try:
                saved = self.open(path.name).saved
            except WorldsimError:
                continue
            start = saved.walk.start
            scene = getattr(start, "name", None) or start.kind
            found.append(
                SavedInfo(
                    id=saved.id,
                    title=saved.title,
                    world=saved.walk.world,
                    scene=scene,
                    steps=saved.steps,
                    saved_at=saved.saved_at,
                )
            )
        return sorted(found, key=lambda one: -one.saved_at)

    def open(self, session: str) -> Opened:
        """Read a saved session. Raises NotFoundError or DamagedFileError."""
        folder = self._folder(session)
        if not is_file(folder / FILE):
            raise NotFoundError(f"there is no saved session {shown(session)}")
        try:
            saved = SavedSession.model_validate(read_json(folder / FILE))
        except (ValidationError, RecursionError) as error:
            raise DamagedFileError(
                f"{folder / FILE} is no saved session ({str(error)[:200]}): remove its folder"
            ) from None
        if saved.id != session:
            raise DamagedFileError(f"{folder / FILE} is of session {shown(saved.id)}")
        return Opened(saved, folder)

    def take_over(self, opened: Opened) -> None:
        """Go on saving a session that is resumed; its first snapshot stays."""
        self._roots[opened.saved.id] = opened.saved.root

    def remove(self, session: str) -> None:
        """Remove a saved session, if there is one."""
        folder = self._folder(session)
        if is_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, session: str) -> Path:
        if not ID.fullmatch(session):
            raise NotFoundError(f"there is no saved session {shown(session)}")
        return self.folder / session

    def _prune(self, newest: str) -> None:
        def age(path: Path) -> float:
            file = path / FILE
            return file.stat().st_mtime if file.exists() else time.time()

        folders = [p for p in self.folder.iterdir() if ID.fullmatch(p.name) and p.name != newest]
        for path in sorted(folders, key=age)[: max(0, len(folders) + 1 - MOST)]:
            shutil.rmtree(path, ignore_errors=True)


def snapshot_bytes(snapshot: Snapshot, world: World) -> bytes:
    """Return the bytes of a snapshot's file."""
    with tempfile.TemporaryDirectory() as folder:
        return save_snapshot(snapshot, world, Path(folder) / ROOT).read_bytes()


@dataclass(frozen=True)
class UploadedSnapshot:
    """The bytes of a snapshot's file.

    Its methods raise DamagedFileError or InvalidInputError, without the name of a file.
    """

    content: bytes

    def settings(self, world: World, now: Settings) -> Settings:
        """Return the settings of the session that goes on from it.

        world: the session's world with its own settings.
        now: the session's settings, for what the file does not tell.
        """
        told = self._read(read_settings)
        if told is None:
            return now
        own = settings_of(world)
        changed = {
            name: told.get(name) if told.get(name) != own[name] else None
            for name in ("num_inference_steps", "temperature")
        }
        paint = "ahead" if told.get("painted_ahead") is True else None
        try:
            return Settings.model_validate(
                {**changed, "paint": paint, "uncertainty": now.uncertainty}
            )
        except ValidationError as error:
            raise DamagedFileError(
                f"the settings of the snapshot cannot be read ({str(error)[:200]}): restore it "
                f"from a copy"
            ) from None

    def open(self, world: World) -> Snapshot:
        """Read it, for the world with its settings."""
        return self._read(lambda path: load_snapshot(path, world))

    def _read(self, function: Callable[[Path], Result]) -> Result:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "the snapshot"
            write_bytes(path, self.content)
            try:
                return function(path)
            except WorldsimError as error:
                raise type(error)(str(error).replace(str(path), "the snapshot")) from None
