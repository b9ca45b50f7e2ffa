"""A small world behind the page, and a browser in front of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.helpers.pages import PATIENCE, Page
from tests.helpers.serving import Serving, serving
from worldsim.play.painting import Painting
from worldsim.play.routes import PUBLIC, play_router
from worldsim.world import World

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --use-gl=angle "
    "--use-angle=swiftshader --enable-unsafe-swiftshader --window-size=1440,900"
)


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
    """Chromium without a screen, closed before other tests count this process's children."""
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in programs.values():
        pytest.fail(f"a browser is needed, found {programs}: python3 .ci/system-libraries browser")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    folder = tmp_path_factory.mktemp("browser")
    for flag in [*FLAGS.split(), f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    driver.set_script_timeout(PATIENCE)
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()


@pytest.fixture
def page(server: Serving, browser: Any) -> Page:
    """The page, at the start of a walk beside the real twin."""
    opened = Page(browser, server)
    opened.open()
    return opened
