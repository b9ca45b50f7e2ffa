"""Chromium without a screen, for the tests as well."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from experiments.playing.servers import PATIENCE
from worldsim.errors import MissingDependencyError

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --use-gl=angle "
    "--use-angle=swiftshader --enable-unsafe-swiftshader"
)


@contextlib.contextmanager
def chromium(folder: Path, width: int = 1440, height: int = 900) -> Iterator[Any]:
    """Run a browser until the context ends.

    folder: for what it stores.
    width, height: of the window, its bars included, in pixels.

    Raises MissingDependencyError without the browser or its driver.
    """
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in programs.values():
        raise MissingDependencyError(
            f"a browser is needed, found {programs}: python3 .ci/system-libraries browser"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs["chromium"])
    for flag in [*FLAGS.split(), f"--window-size={width},{height}", f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    driver.set_script_timeout(PATIENCE)
    driver.set_page_load_timeout(PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()
