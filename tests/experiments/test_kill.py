"""A short run of ``experiments/kill.py``: kills at random moments, after which nothing is lost,
hangs or is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.kill import KillConfig
from worldsim.errors import InvalidInputError

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "kill.py"


@pytest.mark.slow
def test_a_kill_of_each_kind_loses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom", reason="the real twin needs the extra doom")
    arguments = ["--kills", "2", "--seed", "1", "--kinds", "record", "save", "--frames", "132"]
    arguments += ["--json", str(tmp_path / "kill.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "kill.json").read_text())
    assert found["seed"] == 1 and {
        kind: found["kinds"][kind]["kills"] for kind in ("record", "save")
    } == {"record": 1, "save": 1}
    assert all(
        found["total"][name] == 0
        for name in ("hangs", "failures", "differences", "processes_left", "files_left")
    )
    assert done.stdout.splitlines()[-2].startswith("record")


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(InvalidInputError, match="dream"):
        KillConfig(kinds=("dream",))
