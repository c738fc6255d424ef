#!/usr/bin/env python3
"""Take the screenshots of docs/guides/pages.rst, from pages with made-up keys and usage.

    python3 scripts/screenshots.py [DIRECTORY]

It needs Chromium and the packages of the `test` extra. Pictures differ in key ids only.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

from chromium import find_chromium
from demo_pages import Demo, serving
from flask_apikey.core.model.sealing import generate_fernet_key

DOCS_STATIC = Path(__file__).resolve().parent.parent / "docs" / "_static"
DESK, PHONE = (1100, 860), (390, 780)


class Shot(NamedTuple):
    """A screenshot.

    Attributes:
        name: Name of the file, without its suffix.
        path: Path of the page.
        scheme: Colour scheme of the browser.
        size: Width and height of the window.
    """

    name: str
    path: str
    scheme: Literal["light", "dark"] = "light"
    size: tuple[int, int] = DESK


SHOTS = (
    Shot("operator-overview-light", "/api-keys/"),
    Shot("operator-key-dark", "/api-keys/keys/{key_id}", "dark"),
    Shot("operator-keys-phone", "/api-keys/keys", size=PHONE),
    Shot("portal-keys-light", "/my-api-keys/", size=(1100, 520)),
    Shot("portal-key-phone", "/my-api-keys/{key_id}", size=PHONE),
)


def take(browser: Browser, url: str, key_id: str, shot: Shot, directory: Path) -> None:
    """Open a page and store its picture."""
    width, height = shot.size
    page: Page = browser.new_page(
        color_scheme=shot.scheme, viewport={"width": width, "height": height}, reduced_motion="reduce"
    )
    page.goto(url + shot.path.format(key_id=key_id))
    page.screenshot(path=directory / f"{shot.name}.png")
    page.close()


def main() -> int:
    """Parse the command line and take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=DOCS_STATIC)
    directory: Path = parser.parse_args().directory
    chromium = find_chromium()
    if chromium is None:
        print("screenshots.py: Chromium is not installed: apt-get install chromium", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        demo = Demo(Path(scratch), generate_fernet_key())
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        key_id = demo.rolled_key()
        with serving(demo.app) as url:
            for shot in SHOTS:
                take(browser, url, key_id, shot, directory)
        browser.close()
        with demo.app.app_context():
            demo.api_keys.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
