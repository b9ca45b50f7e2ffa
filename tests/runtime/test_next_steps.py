"""What commands end with: where the result is, and a command that comes next, which can be typed as
it stands."""

from __future__ import annotations

import dataclasses
import importlib
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.worlds import SIZE
from worldsim.app import cli
from worldsim.data.dataset import EpisodeDataset
from worldsim.runtime import next_steps
from worldsim.world import World

GIVEN = {
    "record": ["worldsim/TinyRoom-v0", "--out", "data/my walks"],
    "import-minari": ["my/walks-v0", "--out", "data/walks"],
    "export-minari": ["data/walks", "--name", "my/walks-v0"],
    "train": ["--data", "data/walks", "--out", "runs/first"],
    "distil": ["runs/first/world", "--data", "data/walks", "--out", "runs/second"],
    "evaluate": ["runs/first/world"],
    "evaluate-agent": ["runs/agent", "--world", "runs/first/world"],
    "agreement": ["runs/first/world"],
    "watch": ["runs/agent"],
    "bench": ["freedoom-tiny", "--json", "b.json"],
    "demo": [],
    "compare": ["carracing"],
    "export": ["walk.safetensors", "--to", "glb"],
    "generate": ["--count", "3", "--out", "out/my places"],
    "view": ["walk.safetensors"],
    "worlds": [],
}

SMALL = (
    f"--frames 40 --episode-steps 20 --min-travel 0 --workers 0 --env-kwargs size {SIZE}".split()
)


def test_every_command_has_an_ending() -> None:
    """Reproduces: commands ended without a word of where their result is and what comes next."""
    assert set(next_steps.ENDINGS) == set(cli.COMMANDS) == set(GIVEN)


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, world_folder: Path, goal_folder: Path
) -> dict[str, Any]:
    """What functions return: a recording, worlds, files."""
    out = tmp_path_factory.mktemp("recorded") / "room"
    assert cli.main(["record", "worldsim/TinyRoom-v0", "--out", str(out), *SMALL]) == 0
    dataset = EpisodeDataset(out)
    goal, world = (
        World.from_pretrained(goal_folder, "cpu"),
        World.from_pretrained(world_folder, "cpu"),
    )
    return {
        "record": dataset,
        "import-minari": dataset,
        "train": goal,
        "distil": world,
        "export": Path("walk.glb"),
        "generate": Path("out/my places"),
    }


@pytest.mark.parametrize("name", list(GIVEN))
def test_what_comes_next_can_be_typed(
    name: str, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = cli.parse(name, GIVEN[name])
    capsys.readouterr()
    next_steps.tell(name, config, results.get(name))
    out, err = capsys.readouterr()
    first, *others = err.splitlines()
    assert (
        out == "" and first.startswith("result: ") and others and others[0].startswith("next:   ")
    )
    for other in others:
        program, *words = shlex.split(other.removeprefix("next:"))
        if program == "python":
            assert words[0] == "-m" and importlib.util.find_spec(words[1]) is not None
            continue
        assert program == "worldsim"
        cli.parse(words[0], words[1:])


def test_what_comes_next_depends_on_the_result(results: dict[str, Any]) -> None:
    """No memory without geometry; agents where there are rewards; the demo where its walk is
    possible. Spaces are quoted."""
    config = cli.parse("record", GIVEN["record"])
    (train,) = next_steps.ENDINGS["record"](config, results["record"]).then
    assert train == "worldsim train --data 'data/my walks' --out 'runs/my walks'"
    blind = dataclasses.replace(results["record"].info, geometry=False)
    (train,) = next_steps.ENDINGS["record"](config, type("Blind", (), {"info": blind})).then
    assert train.endswith(" --no-memory")
    config = cli.parse("train", GIVEN["train"])
    ending = next_steps.ENDINGS["train"](config, results["train"])
    assert ending.result == "runs/first/world"
    assert [shlex.split(one)[1:3] for one in ending.then] == [
        ["evaluate", "runs/first/world"],
        ["evaluate-agent", "random"],
        ["-m", "worldsim.agents.actor_critic"],
        ["demo", "--world"],
    ]
    ending = next_steps.ENDINGS["train"](config, results["distil"])
    assert [shlex.split(one)[1] for one in ending.then] == ["evaluate", "demo"]


def test_a_recording_ends_with_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["record", "worldsim/TinyRoom-v0", "--out", str(tmp_path / "room"), *SMALL]) == 0
    )
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-3].startswith("recording: 42 of 42 frames, ")
    assert err.splitlines()[-2:] == [
        f"result: {tmp_path / 'room'}",
        f"next:   worldsim train --data {tmp_path / 'room'} --out runs/room",
    ]
