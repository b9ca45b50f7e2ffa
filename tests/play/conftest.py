"""A small world behind the page, and a browser in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.playing.chromium import chromium
from tests.helpers.pages import Page
from tests.helpers.serving import Serving, serving
from worldsim.play.painting import Painting
from worldsim.play.routes import PUBLIC, play_router
from worldsim.world import World


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, world_folder: Path) -> Iterator[Serving]:
    """The page's server, with a tiny world."""
    world = World.from_pretrained(world_folder, device="cpu")
    places = tmp_path_factory.mktemp("play") / "places"
    router = play_router("tiny", Painting(places))
    with serving({"tiny": world}, routers=(router,), public=PUBLIC, places=places) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a screen."""
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def page(server: Serving, browser: Any) -> Page:
    """The page, at the start of a walk beside the real twin."""
    opened = Page(browser, server)
    opened.open()
    return opened
