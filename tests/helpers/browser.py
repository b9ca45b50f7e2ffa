"""Chromium without a screen, for tests."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PATIENCE = 300.0
"""Seconds until something that must come is given up: a machine may be busy."""
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --use-gl=angle "
    "--use-angle=swiftshader --enable-unsafe-swiftshader"
)


@contextlib.contextmanager
def chromium(folder: Path, width: int = 1440, height: int = 900) -> Iterator[Any]:
    """Run a browser until the context ends, so that no later test counts its processes.

    folder: for what it stores.
    """
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in programs.values():
        pytest.fail(f"a browser is needed, found {programs}: python3 .ci/system-libraries browser")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for flag in [*FLAGS.split(), f"--window-size={width},{height}", f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(programs["chromedriver"]))
    driver.set_script_timeout(PATIENCE)
    driver.set_page_load_timeout(PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()
