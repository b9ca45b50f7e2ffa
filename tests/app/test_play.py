"""The command that serves the page."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.helpers.ports import free_port
from worldsim.app import cli
from worldsim.app.play import PlayConfig, make_server
from worldsim.errors import InvalidInputError, MissingDependencyError, NotFoundError


def config(tmp_path: Path, **changes: object) -> PlayConfig:
    settings = {
        "port": free_port(),
        "state": tmp_path / "sessions",
        "places": tmp_path / "places",
        "device": "cpu",
    }
    return PlayConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_the_address_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server, address = make_server(config(tmp_path))
    assert address == f"http://127.0.0.1:{server.config.port}"
    printed = capsys.readouterr().out
    assert address in printed and "token" not in printed


def test_other_computers_need_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_server(config(tmp_path, host="0.0.0.0"))
    assert "token: " in capsys.readouterr().out


def test_a_world_in_a_folder(tmp_path: Path, world_folder: Path) -> None:
    server, _ = make_server(config(tmp_path, world=str(world_folder)))
    manager = server.config.app.state.manager  # type: ignore[union-attr]
    assert {world_folder.name, "freedoom-tiny", "carracing"} <= set(manager.catalogue.names)
    with pytest.raises(NotFoundError, match="nowhere"):
        make_server(config(tmp_path, world="nowhere"))


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidInputError, match="--port"):
            make_server(config(tmp_path, port=taken.getsockname()[1]))


def test_without_fastapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[play\]'"):
        make_server(config(tmp_path))


@pytest.mark.parametrize("changes", [{"port": 0}, {"engine": "warp"}])
def test_settings_out_of_range(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(changes))):
        config(tmp_path, **changes)


def test_the_command_line() -> None:
    parsed = cli.parse("play", ["--no-browser", "--port", "8123", "--world", "carracing"])
    assert not parsed.browser and parsed.port == 8123 and parsed.world == "carracing"
