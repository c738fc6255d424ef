#!/usr/bin/env python3
"""Record the terminal reports and page screenshots of docs/guides/usage.rst from a run of the example application.

    python3 scripts/record_usage.py [DIRECTORY]

The example is served locally and called over HTTP by several clients, each with its
own key, for 30 simulated days: only its clock is moved. Screenshots need Chromium.
Clients use a random generator with a fixed seed, so recordings differ in key ids only.
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
    """Request handler without an access log."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


@dataclass
class Client:
    """A simulated client of the example.

    Attributes:
        key: The presented key.
        address: The address of the client.
        per_hour: Average number of requests in a working hour.
        hours: Working hours.
        weekends: Fraction of requests on Saturdays and Sundays.
        writes: Fraction of requests that add a book.
    """

    key: str
    address: str
    per_hour: float
    hours: range
    weekends: float = 0.3
    writes: float = 0.0

    def requests(self, moment: datetime, generator: random.Random) -> Iterator[tuple[str, str, str | None]]:
        """Yield method, path and body of the requests of one hour."""
        if moment.hour not in self.hours:
            return
        average = self.per_hour * (self.weekends if moment.weekday() >= SATURDAY else 1)
        for _ in range(round(average * generator.uniform(0.5, 1.5))):
            if generator.random() < self.writes:
                title = f"Volume {generator.randrange(1000)}"
                yield "POST", "/books", json.dumps({"title": title, "author": "Anonymous"})
            elif generator.random() < 0.6:  # noqa: PLR2004  # an arbitrary share
                yield "GET", f"/books/{generator.randrange(1, 5)}", None
            else:
                yield "GET", "/books", None


def main() -> None:
    """Record into a directory."""
    parser = argparse.ArgumentParser(description="Record the terminal reports and screenshots of the guide to usage.")
    parser.add_argument("directory", type=Path, nargs="?", default=DOCS_STATIC)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as instance:
        app = recorded_example(Path(instance))
        reports = "\n".join(f"$ flask apikey {' '.join(command)}\n{printed(app, *command)}" for command in COMMANDS)
        (directory / "usage-terminal.txt").write_text(reports, encoding="utf-8")
        page = Path(instance, "usage.html")
        page.write_text(printed(app, "usage", "--html", "-"), encoding="utf-8")
        chromium = find_chromium()
        if chromium is None:
            print("Chromium is not installed: no screenshots were taken", file=sys.stderr)
            return
        with browsing(chromium) as browser:
            for scheme in ("light", "dark"):
                browser.open(page.as_uri(), width=PAGE_WIDTH, scheme=scheme)
                (directory / f"usage-page-{scheme}.png").write_bytes(browser.screenshot())


def recorded_example(instance: Path) -> Flask:
    """Run the simulation and return the example application."""
    sys.path.insert(0, str(CHECKOUT))
    clock = FrozenClock(BEGIN)
    api_keys = APIKeys(clock=clock)
    with patch("example_app.api_keys", api_keys):
        from example_app import create_app  # noqa: PLC0415  # importable since the line above
        from example_app.catalogue import READ, WRITE, create_catalogue  # noqa: PLC0415  # likewise

        app = create_app(
            {
                "APIKEY_FERNET_KEY": generate_fernet_key(),
                "APIKEY_ENFORCE_HTTPS": False,
                "APIKEY_AUDIT_LOGGING": False,
                "SQLALCHEMY_DATABASE_URI": f"sqlite:///{instance / 'catalogue.db'}",
            }
        )
    generator = random.Random(7)  # noqa: S311  # not used for secrets
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
            # Its scope does not allow adding a book.
            Client(key("partner feed", READ, 37), "127.0.0.16", 3, range(10, 12), weekends=0, writes=0.2),
            Client(forged(storefront), "127.0.0.99", 0.7, range(3, 4), weekends=1),
        ]
        key("staging", WRITE, 365)
    with served(app) as port:
        while clock() < END:
            for client in clients:
                for method, path, body in client.requests(clock(), generator):
                    send(port, client, method, path, body)
            clock.advance(timedelta(hours=1))
    app.extensions["apikey"].close()
    return app


def forged(key: str) -> str:
    """Return a key with the same id and another secret."""
    body = f"{key.rpartition('_')[0]}_{'0' * 43}"
    return body + checksum(body)


@contextmanager
def served(app: Flask) -> Iterator[int]:
    """Serve the application and yield the port."""
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
    """Send a request and ignore the response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, source_address=(client.address, 0), timeout=30)
    try:
        headers = {"Authorization": f"Api-Key {client.key}", "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        connection.getresponse().read()
    finally:
        connection.close()


def printed(app: Flask, *command: str) -> str:
    """Return the output of a command in a terminal of 80 columns."""
    result = app.test_cli_runner(env={"COLUMNS": "80"}).invoke(apikey, list(command), catch_exceptions=False)
    if result.exit_code:
        raise SystemExit(result.output)
    return result.stdout


if __name__ == "__main__":
    main()
