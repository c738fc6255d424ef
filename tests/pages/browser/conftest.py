"""Chromium with Playwright, and a served application with the pages.

Playwright runs an event loop in the thread of the tests, so the browser lives no longer than this package needs it.
"""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from chromium import find_chromium
from demo_pages import Demo, serving

CHROMIUM = os.environ.get("FLASK_APIKEY_TEST_CHROMIUM", "")


@pytest.fixture(scope="package")
def browser():
    found = find_chromium() if CHROMIUM in {"", "1"} else shutil.which(CHROMIUM)
    if found is None and CHROMIUM:
        pytest.fail("FLASK_APIKEY_TEST_CHROMIUM is set, but there is no Chromium")
    if found is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Site:
    """The demo application while it is served, in a browser.

    Attributes:
        demo: The application.
        url: Its URL.
    """

    def __init__(self, demo, url, browser):
        self.demo, self.url = demo, url
        self._browser = browser
        self._contexts = []

    def open(self, path="/api-keys/", **options):
        context = self._browser.new_context(base_url=self.url, **options)
        context.set_default_timeout(10_000)
        self._contexts.append(context)
        page = context.new_page()
        page.goto(path)
        return page

    def close(self):
        while self._contexts:
            self._contexts.pop().close()

    def do(self, method, *arguments, **options):
        with self.demo.app.app_context():
            return getattr(self.demo.api_keys, method)(*arguments, **options)

    def status(self, key):
        return self.demo.app.test_client().get("/reports", headers={"X-API-Key": key}).status_code


@pytest.fixture(scope="package")
def served(browser, fernet_key, tmp_path_factory):
    demo = Demo(tmp_path_factory.mktemp("demo"), fernet_key)
    with serving(demo.app) as url:
        yield Site(demo, url, browser)
    with demo.app.app_context():
        demo.api_keys.close()


@pytest.fixture
def site(served):
    yield served
    served.close()


class Keyboard:
    """A person who uses a page by the keyboard alone."""

    def __init__(self, page):
        self.page = page

    def reach(self, locator):
        """Press Tab until an element has the focus."""
        locator.wait_for()
        for _ in range(120):
            if locator.evaluate("element => element === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{locator} cannot be reached by the keyboard")

    def follow(self, name, **options):
        self._press(self.page.get_by_role("link", name=name, **options).first, "Enter")

    def press(self, name, **options):
        self._press(self.page.get_by_role("button", name=name, **options).first, "Enter")

    def type(self, label, text):
        field = self.page.get_by_label(label, exact=False).first
        self.reach(field)
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def choose(self, label, option):
        field = self.page.get_by_label(label, exact=False).first
        self.reach(field)
        self.page.keyboard.type(option)
        assert field.evaluate("element => element.selectedOptions[0].label") == option

    def _press(self, locator, key):
        self.reach(locator)
        with self.page.expect_navigation():
            self.page.keyboard.press(key)
