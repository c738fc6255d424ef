"""The tasks of an operator in a browser, by keyboard alone."""

import pytest

from tests.pages.browser.conftest import Keyboard

pytestmark = pytest.mark.slow


def secret(page):
    return page.locator("#new-key").inner_text()


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_find_refused_key_and_roll_it(site, scripts):
    issued = site.do("create", name=f"Invoices for Wren {scripts}", owner="wren", scopes=["reports:read"])
    site.demo.refuse_yesterday(issued.record, "missing_scope", 23)
    page = site.open(java_script_enabled=scripts)
    keyboard = Keyboard(page)
    keyboard.follow("Keys", exact=True)
    keyboard.type("Search", f"for wren {scripts}".lower())
    keyboard.press("Show", exact=True)
    keyboard.follow(issued.record.name)
    keyboard.follow("Yesterday")
    assert page.get_by_role("row", name="missing_scope 23", exact=True).is_visible()
    assert page.get_by_role("row", name="2026-11-29 14:00 GET /reports missing_scope").is_visible()
    keyboard.follow("Replace secret", exact=True)
    keyboard.choose("Grace period", "1 day")
    keyboard.press("Replace secret", exact=True)
    new_key = secret(page)
    assert (site.status(issued.key), site.status(new_key)) == (200, 200)
    keyboard.follow("Go to the page of the key")
    last_use = page.locator("dt", has_text="Previous secret last used").locator("+ dd")
    assert last_use.inner_text() == "2026-11-30 14:20 from 127.0.0.1"
    keyboard.follow("End previous secrets")
    keyboard.press("End previous secrets")
    assert page.get_by_role("status").inner_text() == "The change is stored."
    assert (site.status(issued.key), site.status(new_key)) == (401, 200)


def test_life_of_a_key(site):
    page = site.open("/api-keys/keys/new")
    keyboard = Keyboard(page)
    keyboard.press("Create the key")
    assert page.get_by_role("alert").is_visible()
    keyboard.follow("Name", exact=True)
    page.keyboard.type("ci")
    keyboard.type("Owner", "lark")
    keyboard.press("Create the key")
    key = secret(page)
    assert site.status(key) == 200
    keyboard.follow("Go to the page of the key")
    keyboard.follow("Edit")
    keyboard.type("Name", "nightly")
    keyboard.press("Save")
    assert page.get_by_role("heading", name="nightly").is_visible()
    keyboard.follow("Suspend")
    keyboard.press("Suspend")
    assert site.status(key) == 403
    keyboard.follow("Resume")
    keyboard.press("Resume")
    assert site.status(key) == 200
    keyboard.follow("Owners")
    keyboard.type("Owner", "lark")
    keyboard.choose("Change", "Revoke all keys for good")
    keyboard.press("Preview")
    keyboard.press("Revoke all keys for good")
    assert site.status(key) == 401
    keyboard.follow("Audit")
    assert page.get_by_role("row", name="revoked").first.is_visible()
