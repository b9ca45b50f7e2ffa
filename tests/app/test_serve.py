"""``worldsim serve``: who may connect, and what it prints."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import pytest

from tests.helpers.ports import free_port
from worldsim.app.serve import ServeConfig, make_server
from worldsim.errors import InvalidInputError
from worldsim.runtime.hosts import is_own


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("me", False)],
)
def test_addresses_of_this_computer(host: str, own: bool) -> None:
    assert is_own(host) is own


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_token_for_other_computers(
    host: str, world_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ServeConfig(worlds=(str(world_folder),), host=host, port=free_port(), device="cpu")
    server = make_server(config)
    app = server.config.app
    printed = capsys.readouterr().out
    assert f"http://{host}:{config.port}" in printed
    found = re.search(r"token: ([\w-]{20,})\n", printed)
    token = app.state.config.token  # type: ignore[union-attr]
    assert (found is None) == (host == "127.0.0.1")
    assert token == ("" if found is None else found.group(1))
    asyncio.run(app.state.manager.shut_down())  # type: ignore[union-attr]


def test_bad_settings(world_folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="port"):
        ServeConfig(port=0)
    with pytest.raises(InvalidInputError, match="memory"):
        ServeConfig(memory=1.5)
    worlds = (str(world_folder),)
    with pytest.raises(InvalidInputError, match="bucket = 5"):
        make_server(ServeConfig(worlds=worlds, port=free_port(), bucket=5))
    with pytest.raises(InvalidInputError, match="engine"):
        make_server(ServeConfig(worlds=worlds, port=free_port(), engine="warp"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidInputError, match="--port"):
            make_server(ServeConfig(worlds=worlds, port=taken.getsockname()[1]))
