#!/usr/bin/env python3
"""Records what docs/usage.rst shows: the terminal report and the page, from a real run of the example application.

    python3 scripts/record_usage.py [DIRECTORY]

The example is served on this machine and called over HTTP by several clients, each
with its own key, for 30 days that pass as fast as it answers: only its clock is
moved. Where Chromium is installed the page is photographed too. The clients throw
dice with a fixed seed, so that the same is recorded each time, but for the ids of
the keys.
"""

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from unittest.mock import patch

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from chromium import browsing, find_chromium
from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.model.keystring import checksum
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.testing import FrozenClock

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS_STATIC = CHECKOUT / "docs" / "_static"

BEGIN = datetime(2026, 3, 2, 0, 30, tzinfo=timezone.utc)
END = datetime(2026, 3, 31, 17, 30, tzinfo=timezone.utc)
SATURDAY = 5
COMMANDS = (
    ("usage",),
    ("usage", "--since", "2026-03-23", "--by", "day"),
    ("usage", "--by", "status"),
)
PAGE_WIDTH = 1100


class QuietHandler(WSGIRequestHandler):
    """Writes no line for a request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """See ``WSGIRequestHandler.log_request``."""


@dataclass
class Client:
    """Somebody who calls the example.

    Attributes:
        key: What they present.
        address: Where they call from.
        per_hour: About how many requests they make in an hour of work.
        hours: When they work.
        weekends: Which part of it they make on a Saturday or Sunday.
        writes: Which part of it adds a book.
    """

    key: str
    address: str
    per_hour: float
    hours: range
    weekends: float = 0.3
    writes: float = 0.0

    def requests(self, moment: datetime, dice: random.Random) -> Iterator[tuple[str, str, str | None]]:
        """Method, path and body of what they ask for in an hour."""
        if moment.hour not in self.hours:
            return
        busy = self.per_hour * (self.weekends if moment.weekday() >= SATURDAY else 1)
        for _ in range(round(busy * dice.uniform(0.5, 1.5))):
            if dice.random() < self.writes:
                yield "POST", "/books", json.dumps({"title": f"Volume {dice.randrange(1000)}", "author": "Anonymous"})
            elif dice.random() < 0.6:  # noqa: PLR2004  # it is made up
                yield "GET", f"/books/{dice.randrange(1, 5)}", None
            else:
                yield "GET", "/books", None


def main() -> None:
    """Record everything into a directory."""
    parser = argparse.ArgumentParser(description="Record what docs/usage.rst shows.")
    parser.add_argument("directory", type=Path, nargs="?", default=DOCS_STATIC)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        app = recorded_example(Path(scratch))
        shown = "\n".join(f"$ flask apikey {' '.join(command)}\n{printed(app, *command)}" for command in COMMANDS)
        (directory / "usage-terminal.txt").write_text(shown, encoding="utf-8")
        page = Path(scratch, "usage.html")
        page.write_text(printed(app, "usage", "--html", "-"), encoding="utf-8")
        chromium = find_chromium()
        if chromium is None:
            print("Chromium is not installed: the page was not photographed", file=sys.stderr)
            return
        with browsing(chromium) as browser:
            for scheme in ("light", "dark"):
                browser.open(page.as_uri(), width=PAGE_WIDTH, scheme=scheme)
                (directory / f"usage-page-{scheme}.png").write_bytes(browser.screenshot())


def recorded_example(instance: Path) -> Flask:
    """The example application at the end."""
    sys.path.insert(0, str(CHECKOUT))
    clock = FrozenClock(BEGIN)
    api_keys = APIKeys(clock=clock)
    with patch("example_app.api_keys", api_keys):
        from example_app import create_app  # noqa: PLC0415  # it is found above only
        from example_app.catalogue import READ, WRITE, create_catalogue  # noqa: PLC0415  # likewise

        app = create_app(
            {
                "APIKEY_FERNET_KEY": generate_fernet_key(),
                "APIKEY_ENFORCE_HTTPS": False,
                "APIKEY_AUDIT_LOGGING": False,
                "SQLALCHEMY_DATABASE_URI": f"sqlite:///{instance / 'catalogue.db'}",
            }
        )
    dice = random.Random(7)  # noqa: S311  # nothing secret comes of it
    with app.app_context():
        create_catalogue()
        api_keys.init_storage()

        def key(name: str, scope: str, days: int) -> str:
            return api_keys.create(name=name, owner="books", scopes=[scope], lifetime=timedelta(days=days)).key

        importer = key("old importer", READ, 21)
        storefront = key("storefront", READ, 365)
        clients = [
            Client(storefront, "127.0.0.11", 2.4, range(7, 22), weekends=0.5),
            Client(key("mobile app", READ, 365), "127.0.0.12", 2, range(8, 20), weekends=0.8),
            Client(key("nightly export", READ, 41), "127.0.0.13", 9, range(2, 3), weekends=1),
            Client(importer, "127.0.0.14", 2, range(6, 7)),
            Client(key("librarian", "*", 365), "127.0.0.15", 2, range(9, 12), weekends=0, writes=0.5),
            # Its scope does not allow to add a book.
            Client(key("partner feed", READ, 37), "127.0.0.16", 3, range(10, 12), weekends=0, writes=0.2),
            Client(forged(storefront), "127.0.0.99", 0.7, range(3, 4), weekends=1),
        ]
        key("staging", WRITE, 365)
    with served(app) as port:
        while clock() < END:
            for client in clients:
                for method, path, body in client.requests(clock(), dice):
                    send(port, client, method, path, body)
            clock.advance(timedelta(hours=1))
    app.extensions["apikey"].close()
    return app


def forged(key: str) -> str:
    """A key with the same id and another secret."""
    body = f"{key.rpartition('_')[0]}_{'0' * 43}"
    return body + checksum(body)


@contextmanager
def served(app: Flask) -> Iterator[int]:
    """The port on which the application answers."""
    server = make_server("127.0.0.1", 0, app, threaded=False, request_handler=QuietHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(port: int, client: Client, method: str, path: str, body: str | None) -> None:
    """Make one request, whatever the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, source_address=(client.address, 0), timeout=30)
    try:
        headers = {"Authorization": f"Api-Key {client.key}", "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        connection.getresponse().read()
    finally:
        connection.close()


def printed(app: Flask, *command: str) -> str:
    """What a command prints in a terminal of 80 columns."""
    result = app.test_cli_runner(env={"COLUMNS": "80"}).invoke(apikey, list(command), catch_exceptions=False)
    if result.exit_code:
        raise SystemExit(result.output)
    return result.stdout


if __name__ == "__main__":
    main()
