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
from worldsim.app import cli, endings
from worldsim.data.dataset import EpisodeDataset
from worldsim.runtime.progress import say
from worldsim.world import World

GIVEN = {
    "record": ["worldsim/TinyRoom-v0", "--out", "data/my walks"],
    "import-minari": ["my/walks-v0", "--out", "data/walks"],
    "import-videos": ["films", "--out", "data/walks"],
    "import-lerobot": ["lerobot/pusht", "--out", "data/walks"],
    "report": ["data/my walks"],
    "export-minari": ["data/walks", "--name", "my/walks-v0"],
    "train": ["--data", "data/walks", "--out", "runs/first"],
    "fit": ["worldsim/TinyRoom-v0", "--out", "runs/my room"],
    "distil": ["runs/first/world", "--data", "data/walks", "--out", "runs/second"],
    "evaluate": ["runs/first/world"],
    "evaluate-agent": ["runs/agent", "--world", "runs/first/world"],
    "agreement": ["runs/first/world"],
    "watch": ["runs/agent"],
    "provenance": ["watch.mp4"],
    "bench": ["freedoom-tiny", "--json", "b.json"],
    "demo": [],
    "compare": ["carracing"],
    "export": ["walk.safetensors", "--to", "glb"],
    "generate": ["--count", "3", "--out", "out/my places"],
    "journey": ["--out", "out/my trip"],
    "view": ["walk.safetensors"],
    "play": [],
    "serve": ["--worlds", "freedoom-tiny"],
    "worlds": [],
    "words": [],
}

SMALL = (
    f"--frames 40 --episode-steps 20 --min-travel 0 --workers 0 --env-kwargs size {SIZE}".split()
)


def test_every_command_has_an_ending() -> None:
    """Reproduces: commands ended without a word of where their result is and what comes next."""
    assert set(cli.COMMANDS) == set(GIVEN)
    assert all(command.ending is not endings.after_any for command in cli.COMMANDS.values())


def test_a_command_needs_no_ending_of_its_own() -> None:
    plain = cli.Command("module", "Config", "function", "A summary.")
    assert plain.ending(cli.parse("demo", []), None).text() == "result: out/demo"
    assert plain.ending(cli.parse("worlds", []), None).text() == "result: printed above"


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
        "import-videos": dataset,
        "import-lerobot": dataset,
        "train": goal,
        "distil": world,
        "export": Path("walk.glb"),
        "generate": Path("out/my places"),
        "journey": Path("out/my trip"),
    }


@pytest.mark.parametrize("name", list(GIVEN))
def test_what_comes_next_can_be_typed(
    name: str, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = cli.parse(name, GIVEN[name])
    capsys.readouterr()
    say(cli.COMMANDS[name].ending(config, results.get(name)).text())
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
    (train,) = endings.after_record(config, results["record"]).then
    assert train == "worldsim train --data 'data/my walks' --out 'runs/my walks'"
    blind = dataclasses.replace(results["record"].info, geometry=False)
    (train,) = endings.after_record(config, type("Blind", (), {"info": blind})).then
    assert train.endswith(" --no-memory")
    config = cli.parse("train", GIVEN["train"])
    ending = endings.after_train(config, results["train"])
    assert ending.result == "runs/first/world"
    assert [shlex.split(one)[1:3] for one in ending.then] == [
        ["evaluate", "runs/first/world"],
        ["evaluate-agent", "random"],
        ["-m", "worldsim.agents.actor_critic"],
        ["demo", "--world"],
    ]
    ending = endings.after_train(config, results["distil"])
    assert [shlex.split(one)[1] for one in ending.then] == ["evaluate", "demo"]


def test_a_recording_ends_with_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["record", "worldsim/TinyRoom-v0", "--out", str(tmp_path / "room"), *SMALL]) == 0
    )
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == "" and any(line.startswith("recording: 42 of 42 frames, ") for line in lines)
    assert any(line.startswith("42 frames, 2 episodes of 20 to 20 steps") for line in lines)
    assert lines[-2:] == [
        f"result: {tmp_path / 'room'}",
        f"next:   worldsim train --data {tmp_path / 'room'} --out runs/room",
    ]
