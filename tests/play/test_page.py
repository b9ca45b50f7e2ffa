"""The page in a real browser: what a person does there, and that the pixels are the server's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.helpers.pages import Page, until
from tests.helpers.serving import serving
from worldsim.play.painting import Painting
from worldsim.play.routes import PUBLIC, play_router
from worldsim.world import World

pytestmark = pytest.mark.slow


def rgba(rgb: np.ndarray) -> list[int]:
    """A frame as a canvas holds it."""
    return np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]).ravel().tolist()


def test_keys_move_the_camera(page: Page) -> None:
    """Keys of the world's own actions step the session, and the canvas shows its frame."""
    start = page.pose()
    assert page.pixels() == rgba(page.session.now.rgb)
    page.press("w", "w", Keys.ARROW_LEFT)
    assert page.place() == [0, 3]
    assert page.pose() != start
    assert page.pixels() == rgba(page.session.now.rgb)
    names = [button.text for button in page.browser.find_elements(By.CSS_SELECTOR, "#pad button")]
    assert "W\nforward" in names and len(names) == 6


def test_flip_shows_the_twin(page: Page) -> None:
    """One key flips to the real twin, stepped with the same actions, and back."""
    page.press("w", "a")
    shown = page.find(".view.twin")
    assert not shown.is_displayed()
    page.send("f")
    until(shown.is_displayed)
    assert page.pixels("twin") == rgba(page.session.now.twin.rgb)
    assert not page.find(".view.dream").is_displayed()
    # What the twin shows is not marked as generated.
    assert not page.find("#generated").is_displayed()
    page.send("g")
    until(page.find(".view.dream").is_displayed)
    assert shown.is_displayed() and page.find("#psnr").text.endswith("dB")
    page.send("g")
    until(page.find(".view.diff").is_displayed)
    dream, twin = (np.array(page.pixels(name), int) for name in ("dream", "twin"))
    gap = np.minimum(255, 3 * np.abs(dream - twin)).reshape(-1, 4)[:, :3]
    np.testing.assert_array_equal(np.array(page.pixels("diff")).reshape(-1, 4)[:, :3], gap)


def test_rewind_and_branches(page: Page) -> None:
    """An earlier moment comes back with its pixels; acting there makes a branch, and both stay."""
    seen = {}
    for key in ("w", "a", "w", "w"):
        page.press(key)
        seen[tuple(page.place())] = page.pixels()
    slider = page.find("#moments")
    slider.send_keys(Keys.ARROW_LEFT)
    until(lambda: page.place() == [0, 3])
    slider.send_keys(Keys.ARROW_LEFT)
    until(lambda: page.place() == [0, 2])
    assert page.pixels() == seen[0, 2]
    page.browser.execute_script("document.activeElement.blur()")
    page.press("d", "d")
    assert page.place() == [1, 4]
    other = page.pixels()
    assert other != seen[0, 4]
    labels = [b.get_attribute("aria-label") for b in branches(page)]
    assert labels == ["first walk 4 moments", "branch 1 4 moments"]
    branches(page)[0].click()
    until(lambda: page.place() == [0, 4])
    assert page.pixels() == seen[0, 4]
    branches(page)[1].click()
    until(lambda: page.place() == [1, 4])
    assert page.pixels() == other
    page.js("await worldsim.player.name(1, 'to the right')")
    assert "to the right" in branches(page)[1].text


def branches(page: Page) -> list[Any]:
    return page.browser.find_elements(By.CSS_SELECTOR, "#tree button")


def test_a_crate_appears(page: Page) -> None:
    """A crate is dropped into the memory ahead; the dream shows it, and so do the points."""
    until(lambda: points_of(page) == len(page.session.memory.points()))
    before = page.pixels()
    assert wooden(page.session.memory.points().colour) == 0
    page.send("k")
    until(lambda: page.pixels() != before)
    assert page.pixels() == rgba(page.session.now.rgb)
    count = wooden(page.session.memory.points().colour)
    assert count > 100
    until(lambda: wooden(drawn_colours(page)) == count)


def points_of(page: Page) -> int:
    return int(page.find("#memory3d").get_attribute("data-points") or 0)


def drawn_colours(page: Page) -> np.ndarray:
    """(n, 3) colours of the points that the page draws."""
    listed = page.browser.execute_script("""
        const { colour, size, used } = worldsim.memory.points, all = [];
        for (let i = 0; i < used; i++) {
            if (size[i] > 0) all.push([...colour.slice(3 * i, 3 * i + 3)]);
        }
        return all;
    """)
    return np.array(listed, np.uint8)


def wooden(colour: np.ndarray) -> int:
    """How many colours have a crate's hue, in whatever light."""
    red, green, blue = colour.astype(float).T
    hue = (abs(green / (red + 1e-6) - 104 / 150) < 0.02) & (
        abs(blue / (red + 1e-6) - 58 / 150) < 0.02
    )
    return int((hue & (red > 40)).sum())


def test_an_agent_drives(page: Page) -> None:
    """An agent takes the controls, and any key gives them back."""
    page.find("#driver").send_keys("")
    page.browser.execute_script("document.getElementById('driver').focus()")
    option = "#driver option[value=persistent]"
    until(lambda: page.browser.find_elements(By.CSS_SELECTOR, option))
    page.browser.execute_script(
        "const d = document.getElementById('driver'); d.value = 'persistent';"
        "d.dispatchEvent(new Event('change'))"
    )
    until(lambda: page.place()[1] >= 3)
    page.browser.execute_script("document.activeElement.blur()")
    page.send("w")
    until(lambda: page.browser.execute_script("return worldsim.player.driver") == "")
    assert page.find("#driver").get_attribute("value") == ""


def test_bad_uploads_are_refused(page: Page, tmp_path: Path) -> None:
    """A file that is no snapshot, no walk or no picture is refused in words; the walk stays."""
    page.press("w")
    page.find("#open-start").click()
    page.find("#pick-file").click()
    for name, content in (("a.safetensors", b"not a snapshot"), ("a.walk", b"{}")):
        path = tmp_path / name
        path.write_bytes(content)
        page.find("#upload").send_keys(str(path))
        until(lambda: "is no" in page.find("#start-error").text)
        page.browser.execute_script("document.getElementById('start-error').textContent = ''")
    # A snapshot's header alone, which the page lets through: the server refuses it.
    header = json.dumps({"__metadata__": {"format": "worldsim-snapshot", "name": "tiny"}}).encode()
    (tmp_path / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    page.find("#upload").send_keys(str(tmp_path / "b.safetensors"))
    until(lambda: page.find("#start-error").text)


def test_a_walk_replays_to_the_same_pixels(page: Page) -> None:
    """The link of a walk opens the same pixels in another page, edits and branches included."""
    page.press("w", "a")
    page.send("k")
    until(lambda: page.session.history.entries == 3)
    page.press("w")
    page.js("await worldsim.player.rewind(0, 1)")
    page.press("d")
    shown, place = page.pixels(), page.place()
    page.find("#open-takeaway").click()
    link = until(lambda: page.find("#link").get_attribute("value"))
    assert "#walk=" in link
    page.open(link[link.index("#") :])
    until(lambda: page.place() == place)
    assert page.pixels() == shown
    assert [b.get_attribute("aria-label") for b in branches(page)] == [
        "first walk 3 moments",
        "branch 1 2 moments",
    ]
    branches(page)[0].click()
    until(lambda: page.place() == [0, 3])


def test_a_walk_from_a_snapshot_replays(page: Page, tmp_path: Path) -> None:
    """A snapshot is walked on from; the .walk file holds it, and replays to the same pixels."""
    page.press("w", "a")
    snapshot = tmp_path / "walk.safetensors"
    _, content, _ = page.server.request("GET", f"/sessions/{page.session.id}/snapshot")
    snapshot.write_bytes(content)
    before = page.pixels()
    page.find("#open-start").click()
    page.find("#pick-file").click()
    page.find("#upload").send_keys(str(snapshot))
    until(lambda: page.place() == [0, 0] and not page.find("#start-dialog").is_displayed())
    assert page.pixels() == before
    page.press("d", "w")
    shown = page.pixels()
    text = page.js("""
        const { toFile } = await import('/static/walks.js'), id = worldsim.player.session.info.id;
        const walk = (await worldsim.player.ask({ type: 'walk' })).header.walk;
        const start = await (await fetch(`/play/sessions/${id}/start.safetensors`)).arrayBuffer();
        return (await toFile(walk, start)).text();
    """)
    (tmp_path / "mine.walk").write_text(text)
    page.open()
    page.find("#open-start").click()
    page.find("#pick-file").click()
    page.find("#upload").send_keys(str(tmp_path / "mine.walk"))
    until(lambda: page.place() == [0, 2])
    assert page.pixels() == shown


def test_reload_keeps_the_walk(page: Page) -> None:
    page.press("w", "w")
    shown, key = page.pixels(), page.session.id
    page.browser.refresh()
    page.wait_for_frame()
    assert page.session.id == key and page.place() == [0, 2]
    assert page.pixels() == shown


def test_with_the_keyboard_alone(page: Page) -> None:
    """Every control is reached with Tab, has a name and a visible focus; dialogs close with Esc."""
    names, seen = page.browser.execute_script("""
        const all = [...document.querySelectorAll('button, select, input, [tabindex="0"]')]
            .filter((node) => node.offsetParent !== null && !node.disabled && node.tabIndex >= 0);
        const name = (node) => (node.getAttribute('aria-label') || node.textContent.trim()
            || [...(node.labels || [])].map((label) => label.textContent.trim()).join(''));
        return [all.map(name), all.length];
    """)
    assert all(names), names
    reached = set()
    page.browser.execute_script("document.activeElement.blur()")
    for _ in range(seen + 4):
        page.send(Keys.TAB)
        reached.add(
            page.browser.execute_script(
                "const a = document.activeElement, s = getComputedStyle(a);"
                "const hidden = a !== document.body && s.outlineStyle === 'none';"
                "return a.outerHTML.slice(0, 80) + (hidden ? ' HIDDEN' : '')"
            )
        )
    assert not [one for one in reached if one.endswith("HIDDEN")]
    assert len(reached) >= seen - 1
    page.browser.execute_script("document.activeElement.blur()")
    page.send("?")
    until(page.find("#help-dialog").is_displayed)
    assert "turn left" in page.find("#keys").text
    page.send(Keys.ESCAPE)
    until(lambda: not page.find("#help-dialog").is_displayed())
    page.send(" ")
    until(lambda: page.find("#play").get_attribute("aria-pressed") == "false")
    page.press(".")
    assert page.place() == [0, 1]


def test_a_token_is_asked_for(browser: Any, world_folder: Path, tmp_path: Path) -> None:
    """Where the server wants a token, the page asks for it, and keeps it out of the address."""
    world = World.from_pretrained(world_folder, device="cpu")
    router = play_router("tiny", Painting(tmp_path))
    with serving({"tiny": world}, token="open sesame", routers=(router,), public=PUBLIC) as server:
        page = Page(browser, server)
        browser.get(server.url)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "#token-dialog[open]"))
        page.find("#token").send_keys("open sesame", Keys.ENTER)
        page.wait_for_frame()
        assert "sesame" not in browser.current_url
