"""Settings, painted points, the mouse and rewards on the page, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.support.select import Select

from tests.helpers.pages import Page, until
from tests.helpers.painters import make_tiny_painter
from tests.helpers.serving import serving
from worldsim.camera import Camera
from worldsim.play.painting import Painting
from worldsim.play.routes import PUBLIC, play_router
from worldsim.sessions.views import painted_mask
from worldsim.world import World

pytestmark = pytest.mark.slow


def chosen(page: Page) -> list[str]:
    return [page.find(f"#live-{name}").get_attribute("value") for name in ("steps", "temperature")]


def test_settings_change_while_one_walks(page: Page) -> None:
    """They are part of the walk: a rewind shows the former ones, and the branch has its pixels."""
    page.find("#sampling > summary").click()
    page.press("w")
    Select(page.find("#live-temperature")).select_by_visible_text("0.5")
    until(lambda: page.session.settings.temperature == 0.5)
    Select(page.find("#live-steps")).select_by_visible_text("2")
    until(lambda: page.session.settings.num_inference_steps == 2)
    page.press("w", "w")
    shown = page.pixels()
    page.js("await worldsim.player.rewind(0, 0)")
    until(lambda: chosen(page) == ["", ""])
    page.js("await worldsim.player.rewind(0, 3)")
    assert page.pixels() == shown
    until(lambda: chosen(page) == ["2", "0.5"])
    # At temperature 0 there is nothing to be uncertain of: it is refused in words.
    Select(page.find("#live-temperature")).select_by_visible_text("0")
    until(lambda: page.session.settings.temperature == 0)
    page.find("#live-uncertainty").click()
    until(lambda: "temperature" in page.find("#toasts").text)
    until(lambda: not page.find("#live-uncertainty").is_selected())


def test_uncertainty_is_told(page: Page) -> None:
    row = page.find("[data-has=uncertainty]")
    assert not row.is_displayed()
    page.find("#sampling > summary").click()
    page.find("#live-uncertainty").click()
    until(row.is_displayed)
    page.press("w")
    told = page.session.now.uncertainty
    assert told is not None and told > 0
    until(lambda: page.find("#uncertainty").text == f"{told:.3f}")


def test_painted_ahead_and_tinted(browser: Any, tmp_path: Path) -> None:
    """What a painter invented is tinted on request, where the server says that it is seen."""
    world = World.from_pretrained("freedoom-tiny", device="cpu")
    router = play_router("freedoom-tiny", Painting(tmp_path / "places"))
    more = {"painter": make_tiny_painter(), "routers": (router,), "public": PUBLIC}
    with serving({"freedoom-tiny": world}, **more) as server:
        page = Page(browser, server)
        page.open()
        page.js("worldsim.starts.scene = 'MAP30-3'; await worldsim.starts.begin()")
        page.find("#sampling > summary").click()
        page.find("#live-paint").click()
        until(lambda: page.session.settings.paint == "ahead")

        def painted() -> np.ndarray:
            page.press("a")
            state = page.session.state
            camera = Camera(state.frame.pose, state.intrinsics, 64, 64)
            return painted_mask(page.session.world, state.memory, camera) > 0

        mask = next(mask for _ in range(12) if (mask := painted()).any())
        page.find("#tint").click()
        seen = page.session.now.rgb.astype(float)
        tinted = 0.55 * seen + 0.45 * np.array([243, 120, 220])
        expected = np.where(mask[..., None], tinted, seen)

        def apart(wanted: np.ndarray) -> float:
            canvas = np.array(page.pixels(), float).reshape(64, 64, 4)[..., :3]
            return float(np.abs(canvas - wanted).max())

        until(lambda: apart(expected) <= 0.51)
        page.find("#tint").click()
        until(lambda: apart(seen) == 0)


def test_the_mouse_turns_the_camera(page: Page) -> None:
    """With the pointer locked, moving it to the right turns right, and Esc frees it."""
    page.find("#mouse-look").click()
    locked = "return document.pointerLockElement !== null"
    until(lambda: page.browser.execute_script(locked))
    until(lambda: "Esc" in page.find("#mouse-look").text)
    # A browser without a screen reports other movements of its own while it locks the pointer.
    move = "document.dispatchEvent(new MouseEvent('mousemove', { movementX: arguments[0] }))"
    names = page.browser.execute_script("return worldsim.player.world.actions.names")
    for pixels, name in ((30, "turn right"), (-30, "turn left")):
        before = page.place()
        page.browser.execute_script(move, pixels)
        until(lambda before=before: page.place() != before)
        assert names[page.session.now.action] == name
    page.browser.execute_script("document.exitPointerLock()")
    until(lambda: not page.browser.execute_script(locked))


def test_reward_and_chance_of_the_end(browser: Any, tmp_path: Path) -> None:
    """A world with rewards and an end shows both."""
    world = World.from_pretrained("takecover", device="cpu")
    router = play_router("takecover", Painting(tmp_path / "places"))
    with serving({"takecover": world}, routers=(router,), public=PUBLIC) as server:
        page = Page(browser, server)
        page.open()
        # Time goes on by itself here.
        until(lambda: page.place()[1] >= 2)
        page.find("#play").click()
        until(lambda: page.browser.execute_script("return worldsim.player.settled"))
        for name in ("rewards", "terminations"):
            assert page.find(f"[data-has={name}]").is_displayed()
        now = page.session.now
        told = page.find("#termination").text
        assert told == f"{int(100 * now.termination_prob + 0.5)}%"
        total = page.browser.execute_script(
            "return worldsim.player.pathOf(0).reduce((sum, one) => sum + (one?.reward ?? 0), 0)"
        )
        assert page.find("#reward").text == f"{total:.2f}" and total > 0
