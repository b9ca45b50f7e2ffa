"""The command line: every command is wired, errors are one line, and help is quick."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import worldsim
from worldsim.app import cli
from worldsim.errors import InvalidInputError, NotFoundError
from worldsim.runtime import progress
from worldsim.training.loss import Balance


@dataclass(frozen=True)
class StubConfig:
    """A command for the tests."""

    count: int = 1
    """How many."""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module behind the command ``stub``; a test replaces its ``work``."""
    module = types.ModuleType("stub_module")
    module.StubConfig = StubConfig  # type: ignore[attr-defined]
    module.work = lambda config: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "stub_module", module)
    monkeypatch.setitem(
        cli.COMMANDS, "stub", cli.Command("stub_module", "StubConfig", "work", "For the tests.")
    )
    return module


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_describes_itself(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: worldsim {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["record", "worldsim/TinyRoom-v0", "--out", "d"], "env_id", "worldsim/TinyRoom-v0"),
        (["train", "--data", "d", "--preset", "tiny", "--out", "o"], "out", Path("o")),
        (
            [
                "distil",
                "freedoom-tiny",
                "--data",
                "d",
                "--out",
                "o",
                "--num-inference-steps",
                "2",
                "--loss.real",
                "0",
            ],
            "num_inference_steps",
            2,
        ),
        (
            ["evaluate", "freedoom-tiny", "--json", "r.json", "--episodes", "4", "--seed", "1"],
            "world",
            "freedoom-tiny",
        ),
        (["demo", "--out", "o"], "out", Path("o")),
        (
            [
                "bench",
                "freedoom-tiny",
                "--json",
                "b.json",
                "--batches",
                "1",
                "8",
                "--memory",
                "off",
            ],
            "batches",
            (1, 8),
        ),
        (["export", "runs/world", "--out", "o", "--no-eight-bit"], "eight_bit", False),
        (["export", "walk.safetensors", "--to", "glb", "--force"], "to", "glb"),
        (
            ["view", "walk.safetensors", "--port", "8081", "--host", "0.0.0.0", "--index", "2"],
            "snapshot",
            Path("walk.safetensors"),
        ),
        (
            ["evaluate-agent", "runs/agent", "--episodes", "100", "--json", "r.json"],
            "episodes",
            100,
        ),
        (
            ["agreement", "runs/world", "--json", "a.json", "--agents", "runs/a", "runs/b"],
            "agents",
            ("runs/a", "runs/b"),
        ),
        (["watch", "runs/agent", "--out", "w.mp4"], "out", Path("w.mp4")),
        (["worlds", "--json", "w.json"], "json", Path("w.json")),
        (
            ["generate", "--attribute", "brick=0.6", "light=0.2", "--images", "a.png", "b.png"],
            "images",
            (Path("a.png"), Path("b.png")),
        ),
    ],
)
def test_documented_arguments_are_taken(arguments: list[str], field: str, value: object):
    config_class, function = cli.COMMANDS[arguments[0]].load()
    config = cli.parse(arguments[0], arguments[1:])
    assert type(config) is config_class
    assert str(getattr(config, field)) == str(value)
    assert callable(function)


def test_evaluate_takes_painters_too(tmp_path: Path):
    (tmp_path / "painter.json").write_text("{}")
    for name in ("freedoom-painter", str(tmp_path)):
        config = cli.parse("evaluate", [name, "--places", "8", "--parts", "new", "time"])
        assert (config.painter, config.places, config.parts) == (name, 8, ("new", "time"))
    assert cli.parse("evaluate", ["--seed", "2", "freedoom-painter"]).painter == "freedoom-painter"
    assert cli.parse("evaluate", ["freedoom-tiny", "--seed", "2"]).world == "freedoom-tiny"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["freedoom-painter", "--protocol", "walks"], "--protocol is an option for worlds"),
        (["freedoom-painter", "--episodes=4"], "freedoom-painter is a painter"),
        (["freedoom-tiny", "--places", "8"], "--places is an option for painters"),
        (["freedom-painter"], "did you mean 'freedoom-painter'?"),
    ],
)
def test_options_of_the_other_kind_are_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_enums_are_given_by_value():
    config = cli.parse("train", ["--data", "d", "--out", "o", "--loss.balance", "level"])
    assert config.loss.balance is Balance.LEVEL


def test_a_command_gets_its_config(stub: types.ModuleType):
    seen = []
    stub.work = seen.append  # type: ignore[attr-defined]
    assert cli.main(["stub", "--count", "3"]) == 0
    assert seen == [StubConfig(3)]


def test_every_command_can_be_quiet(stub: types.ModuleType, capsys: pytest.CaptureFixture[str]):
    """Reproduces: nothing silenced the bars. Results stay, and the setting ends with the
    command."""

    def work(config: StubConfig) -> None:
        progress.say("a hint")
        with progress.Progress(1, "working") as bar:
            bar.update()
        print("a result")

    stub.work = work  # type: ignore[attr-defined]
    assert cli.main(["stub", "--quiet"]) == 0
    assert capsys.readouterr() == ("a result\n", "")
    assert cli.main(["stub"]) == 0
    out, err = capsys.readouterr()
    ending = "result: printed above"
    assert out == "a result\n"
    assert err.splitlines() == ["a hint", "working: 1 of 1 step, 0.0 s", ending]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_takes_quiet_and_threads(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        cli.main([name, "--help"])
    assert {"--quiet", "--threads"} <= set(capsys.readouterr().out.split())


def test_threads_are_those_asked_for(stub: types.ModuleType):
    before, seen = torch.get_num_threads(), []
    stub.work = lambda config: seen.append(torch.get_num_threads())  # type: ignore[attr-defined]
    try:
        assert cli.main(["stub", "--threads", "2"]) == 0
    finally:
        torch.set_num_threads(before)
    assert seen == [2]


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_threads_wait_passively_in_commands(own: dict[str, str]):
    """Reproduces: two processes on two cores slow each other 10 to 300 times, since OpenMP's
    threads spin while they wait.

    The user's own settings win, and all is set before torch loads.
    """
    code = """if True:
    import os, sys
    from worldsim.app import cli
    seen = []
    class Watch:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                seen.append((os.environ.get("OMP_WAIT_POLICY"), os.environ.get("KMP_BLOCKTIME")))
    sys.meta_path.insert(0, Watch())
    cli.main(["bench", "no-such-world"])
    print(seen[0])
    """
    environment = {
        k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    } | own
    found = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert found.stdout.strip() == str((own.get("OMP_WAIT_POLICY", "PASSIVE"), "0"))


@pytest.mark.parametrize(
    "error", [InvalidInputError("count is 3:\n choose 2"), NotFoundError("count is 3: choose 2")]
)
def test_an_error_is_one_line(
    stub: types.ModuleType, capsys: pytest.CaptureFixture[str], error: Exception
):
    def work(config: StubConfig) -> None:
        raise error

    stub.work = work  # type: ignore[attr-defined]
    assert cli.main(["stub"]) == 2
    assert capsys.readouterr().err == "error: count is 3: choose 2\n"


def test_an_interrupt_is_130(stub: types.ModuleType, capsys: pytest.CaptureFixture[str]):
    def work(config: StubConfig) -> None:
        raise KeyboardInterrupt

    stub.work = work  # type: ignore[attr-defined]
    assert cli.main(["stub"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error(
    stub: types.ModuleType, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stop:
        cli.main(["stub", "--cuont", "3"])
    assert stop.value.code == 2
    assert "--cuont" in capsys.readouterr().err


def test_an_unknown_command_is_named_and_corrected(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["evalute"]) == 2
    error = capsys.readouterr().err
    assert "'evalute'" in error and "did you mean 'evaluate'?" in error and error.count("\n") == 1


def test_help_lists_all_commands(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(cli.COMMANDS)
    assert cli.main([]) == 2


def test_version(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"worldsim {worldsim.__version__}\n"


def test_help_needs_neither_torch_nor_tyro():
    code = (
        "import sys; from worldsim.app import cli; cli.main(['--help']); print('torch' in "
        "sys.modules, 'tyro' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert printed.splitlines()[-1] == "False False"


def test_the_command_and_the_module_are_the_same_program():
    command = subprocess.run(
        [Path(sys.executable).parent / "worldsim", "worlds"], capture_output=True, text=True
    )
    module = subprocess.run(
        [sys.executable, "-m", "worldsim", "worlds"], capture_output=True, text=True
    )
    assert (
        (command.returncode, command.stdout)
        == (module.returncode, module.stdout)
        == (0, module.stdout)
    )
