"""Servers that several tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.serving import Serving, serving
from worldsim.world import World


@pytest.fixture(scope="session")
def room(world_folder: Path) -> World:
    """The tiny world with its start scenes."""
    return World.from_pretrained(world_folder, "cpu")


@pytest.fixture(scope="session")
def served(room: World) -> Iterator[Serving]:
    """A server of one world, for tests that leave no mark on others."""
    with serving({"room": room}, sessions=64) as server:
        yield server
