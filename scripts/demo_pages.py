"""An application with the pages and made-up keys and usage, for screenshots and browser tests."""

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from flask_apikey import APIKey, APIKeys, require_api_key
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.usage.last_use import current_secret
from flask_apikey.pages import operator_blueprint, portal_blueprint
from flask_apikey.testing import FrozenClock

NOW = datetime(2026, 11, 30, 14, 20, tzinfo=timezone.utc)
OPERATOR, CUSTOMER = "alice", "brightline"
PLANS = {"free": {"rate": "60/minute", "quota": "10000/month", "per": "owner"}, "pro": {"rate": "600/minute"}}
_DAYS, _AGE = 30, 43


class Demo:
    """The application.

    Attributes:
        app: The Flask application.
        api_keys: Its extension.
        refused_name: Name of the key that was refused yesterday.
    """

    def __init__(self, directory: Path, fernet_key: str) -> None:
        self.app = Flask("demo")
        self.app.config.update(
            APIKEY_FERNET_KEY=fernet_key,
            APIKEY_STORAGE_URI=f"sqlite:///{directory / 'keys.db'}",
            APIKEY_ENFORCE_HTTPS=False,
            APIKEY_MIN_FAILURE_TIME=0,
            APIKEY_PLANS=PLANS,
            SECRET_KEY=secrets.token_hex(),
        )
        clock = FrozenClock(NOW - timedelta(days=_AGE))
        self.api_keys = APIKeys(self.app, clock=clock)
        self.app.register_blueprint(operator_blueprint(self.api_keys, authorize=lambda: OPERATOR))
        self.app.register_blueprint(
            portal_blueprint(
                self.api_keys, owner=lambda: CUSTOMER, scopes=["reports:read", "orders:read"], max_keys=50, plan="free"
            )
        )

        @self.app.get("/reports")
        @require_api_key
        def reports() -> dict[str, list[str]]:
            return {"reports": []}

        self._batches = count(1)
        self.refused_name = "Nightly ledger export"
        with self.app.app_context():
            self.api_keys.init_storage()
            self._fill()
        clock.set(NOW)

    def rolled_key(self) -> str:
        """Roll the key that was refused, in the name of the operator, and return its id."""
        with self.app.app_context(), self.api_keys.acting_as(OPERATOR):
            (record,) = self.api_keys.list(search=self.refused_name)
            self.api_keys.roll(record.id, grace="1d", reason="asked for by the customer")
            return record.id

    def refuse_yesterday(self, record: APIKey, reason: str, number: int) -> None:
        """Store refused requests with a key."""
        hour = int((NOW - timedelta(days=1)).timestamp()) // 3600
        label = UsageLabel(record.id, hour, "/reports", "GET", "", reason, record.owner or "", 1)
        self._store([UsageRow(label, number)])

    def _store(self, rows: list[UsageRow], last_uses: Sequence[LastUse] = ()) -> None:
        storage = self.app.extensions["apikey"].backend.usage
        storage.add(UsageBatch("demo", next(self._batches), rows, last_uses, NOW))

    def _fill(self) -> None:
        owners = ("brightline", "harbour-freight", "oakmoor-clinic")
        keys = [
            (self.refused_name, "brightline", ["reports:read"], 340, "address_refused"),
            ("Checkout service", "brightline", ["orders:read", "orders:write"], 2150, ""),
            ("Track and trace", "harbour-freight", ["shipments:read"], 1290, "rate_limited"),
            ("Booking widget", "oakmoor-clinic", ["slots:read"], 870, ""),
            *((f"{owner} staging", owner, ["reports:read"], 12, "") for owner in owners),
        ]
        for number, (name, owner, scopes, requests, refusal) in enumerate(keys):
            record = self.api_keys.create(name=name, owner=owner, scopes=scopes, plan="free", lifetime="52d").record
            rows = []
            for day in range(_DAYS):
                hour = int((NOW - timedelta(days=day, hours=3)).timestamp()) // 3600
                amount = requests + (day * 37 + number * 11) % 97 * requests // 300
                for endpoint, share in (("/reports", 3), ("/orders/<int:order_id>", 1)):
                    label = UsageLabel(record.id, hour, endpoint, "GET", "2xx", "", owner, 1)
                    rows.append(UsageRow(label, amount * share // 4))
                if refusal and day in {1, 2, 6}:
                    label = UsageLabel(record.id, hour, "/reports", "GET", "", refusal, owner, 1)
                    rows.append(UsageRow(label, 17 + day))
            last_use = LastUse(record.id, current_secret(record), NOW - timedelta(minutes=7), "203.0.113.7")
            self._store(rows, [last_use])


class _QuietHandler(WSGIRequestHandler):
    """Handler that logs no requests."""

    def log_request(self, *_details: object) -> None:
        """Log nothing."""


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Serve an application on 127.0.0.1, and yield its URL."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
