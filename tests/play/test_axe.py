"""Names, roles, focus order and contrast of the page, checked by axe-core, which npm brings."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.helpers.pages import Page, until

pytestmark = pytest.mark.slow

AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script, from npm's registry."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("npm")
    if npm is None:
        pytest.skip("axe-core comes from npm, which is not installed")
    packed = subprocess.run(
        [npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    if packed.returncode:
        pytest.skip(f"npm cannot fetch {AXE}: {packed.stderr[-200:]}")
    with tarfile.open(folder / packed.stdout.strip().splitlines()[-1]) as archive:
        archive.extract("package/axe.min.js", folder, filter="data")
    return Path(folder / "package/axe.min.js").read_text()


def violations(page: Page, axe: str) -> list[str]:
    page.browser.execute_script(axe)
    found = page.js("return (await axe.run()).violations")
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_page_and_its_dialogs(page: Page, axe: str, theme: str) -> None:
    page.press("w")
    page.js("await worldsim.player.rewind(0, 0)")
    page.press("d")
    page.browser.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    found = violations(page, axe)
    for opener, dialog in (
        ("#open-start", "#start-dialog"),
        ("#open-takeaway", "#takeaway-dialog"),
        ("#open-help", "#help-dialog"),
    ):
        page.find(opener).click()
        until(page.find(dialog).is_displayed)
        found += violations(page, axe)
        page.send(Keys.ESCAPE)
        until(lambda dialog=dialog: not page.find(dialog).is_displayed())
    assert not found, "\n".join(found)
