"""The tasks of a customer in a browser, by keyboard alone."""

import pytest

from tests.pages.browser.conftest import Keyboard

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_create_copy_roll_and_revoke(site, scripts):
    page = site.open("/my-api-keys/", java_script_enabled=scripts)
    keyboard = Keyboard(page)
    keyboard.follow("New key", exact=True)
    keyboard.type("Name", f"Till {scripts}")
    keyboard.reach(page.get_by_label("orders:read"))
    page.keyboard.press("Space")
    keyboard.press("Create the key")
    key = page.locator("#new-key").inner_text()
    assert site.status(key) == 200
    if scripts:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        keyboard.reach(page.get_by_role("button", name="Copy"))
        page.keyboard.press("Enter")
        page.get_by_text("Copied.").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == key
    keyboard.follow("Go to the page of the key")
    assert page.get_by_text("orders:read").is_visible()
    assert page.get_by_text("of 10000 left").is_visible()
    keyboard.follow("Replace secret", exact=True)
    keyboard.choose("Grace period", "1 hour")
    keyboard.press("Replace secret", exact=True)
    rolled = page.locator("#new-key").inner_text()
    assert (site.status(key), site.status(rolled)) == (200, 200)
    keyboard.follow("Go to the page of the key")
    keyboard.follow("End previous secrets")
    keyboard.press("End previous secrets")
    assert (site.status(key), site.status(rolled)) == (401, 200)
    keyboard.follow("Revoke")
    keyboard.type("Reason", "the till is closed")
    keyboard.press("Revoke")
    assert page.locator("dd .status").inner_text() == "revoked"
    assert site.status(rolled) == 401
