"""What of a run is done: ``fit.json`` in its folder, by which the same command resumes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

from worldsim.app.fit.config import MAY_CHANGE, FitConfig
from worldsim.app.fit.plan import Plan
from worldsim.errors import DamagedFileError, InvalidInputError, WorldsimError
from worldsim.runtime.files import is_file, make_writable_folder
from worldsim.runtime.json_config import from_json, read_json, to_json, write_json
from worldsim.runtime.types import JsonObject

FILE = "fit.json"
FORMAT = 1
LOOK_S = 0.5
"""Seconds between looks at the file of another process."""


class ProgressFile:
    """The file, and what it holds. One process writes it, others wait for what it says.

    out: folder of the run.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / FILE
        self.values: JsonObject = {}

    def open(self, config: FitConfig) -> None:
        """Read the file, or begin a new one.

        Raises InvalidInputError if it is of a run with other options, DamagedFileError if it cannot
        be read, and StorageError.
        """
        now = to_json(config)
        kept = {f.name: now[f.name] for f in fields(config) if f.name not in MAY_CHANGE}
        if not is_file(self.path):
            make_writable_folder(self.path.parent)
            self.values = {"format": FORMAT, "config": kept, "plan": None, "stages": {}}
            self.save()
            return
        self.read()
        then = self.values["config"]
        changed = [name for name in kept if then.get(name) != kept[name]]
        if changed:
            raise InvalidInputError(
                f"{self.path.parent} holds a run with other values of {', '.join(changed)}: use "
                f"them again, or another --out"
            )

    def read(self) -> None:
        """Read the file. Raises DamagedFileError."""
        values = read_json(self.path)
        if (
            not isinstance(values, dict)
            or values.get("format") != FORMAT
            or not isinstance(values.get("config"), dict)
            or not isinstance(values.get("stages"), dict)
            or not all(isinstance(one, dict) for one in values["stages"].values())
        ):
            raise DamagedFileError(
                f"{self.path} does not say what is done: delete it to go through all stages again, "
                f"which keep what is whole"
            )
        self.values = values

    def save(self) -> None:
        """Write the file, atomically."""
        write_json(self.path, self.values)

    @property
    def plan(self) -> Plan | None:
        """The plan; None before it is made."""
        found = self.values["plan"]
        return None if found is None else from_json(Plan, found, f"{self.path}: plan")

    def set_plan(self, plan: Plan) -> None:
        """Keep the plan."""
        self.values["plan"] = to_json(plan)
        self.save()

    def done(self, stage: str) -> bool:
        """Return whether a stage is finished."""
        return bool(self.stage(stage).get("done", False))

    def stage(self, name: str) -> JsonObject:
        """Return what is kept of a stage: ``seconds``, ``done``, and results."""
        found: JsonObject = self.values["stages"].get(name, {})
        return found

    def keep(self, stage: str, **results: object) -> None:
        """Keep results of a stage."""
        self.values["stages"].setdefault(stage, {}).update(results)
        self.save()

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Context of a stage: its seconds are kept, and that it is done unless it raises."""
        began, before = time.monotonic(), float(self.stage(stage).get("seconds", 0.0))
        done = False
        try:
            yield
            done = True
        finally:
            # On a full disk this raises, too, and the first error says more.
            with contextlib.suppress(*() if done else (WorldsimError,)):
                self.keep(stage, seconds=round(before + time.monotonic() - began, 1), done=done)

    def spent(self, number: int) -> float:
        """Return the seconds of a round until now, those of interrupted attempts included."""
        end = f"-{number}"
        return sum(
            float(one.get("seconds", 0.0))
            for name, one in self.values["stages"].items()
            if name.endswith(end)
        )

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Read the file until ``ready`` is true: another process writes it."""
        while True:
            with contextlib.suppress(DamagedFileError, FileNotFoundError):
                self.read()
                if ready():
                    return
            time.sleep(LOOK_S)
