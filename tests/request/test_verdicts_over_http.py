"""Every verdict as a client of a running server sees it, with what is written to the audit log beside it."""

import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus

import pytest
from cryptography.fernet import Fernet

from flask_apikey.core.model.keystring import mint, new_id
from tests.support.serving import Server, Site

GUNICORN = ("gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "1", "--graceful-timeout", "5", "audited:app")

AUDITED = """
from logging.config import dictConfig

dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "flask_apikey.logs.JSONFormatter"}},
        "handlers": {"audit": {"class": "logging.FileHandler", "filename": "audit.log", "formatter": "json"}},
        "loggers": {"flask_apikey": {"level": "INFO", "handlers": ["audit"]}},
    }
)

from example_app import create_app

app = create_app()
"""

OWNER = "team-7"
OVER_HTTPS = {"X-Forwarded-Proto": "https"}
OVER_HTTP = {"X-Forwarded-Proto": "http"}

CHALLENGE = "Api-Key"


@dataclass(frozen=True)
class Service:
    """The example behind a server that takes this machine for its proxy.

    Attributes:
        site: The example.
        server: Its server.
        keys: A key string of every kind.
        addresses: Which caller made a request.
    """

    site: Site
    server: Server
    keys: dict[str, str] = field(repr=False)
    addresses: dict[str, str] = field(default_factory=dict)

    @property
    def database(self):
        return self.site.directory / "keys.db"

    @property
    def log(self):
        return (self.site.directory / "audit.log").read_text(encoding="utf-8")

    def ask(self, request_id, presented, *, transport=OVER_HTTPS, method="GET"):
        """Send a key, in the name of a caller of its own: many failures of one would be summarised."""
        address = self.addresses.setdefault(request_id, f"192.0.2.{len(self.addresses)}")
        headers = {**transport, "X-Forwarded-For": address, "X-Request-ID": request_id}
        if presented is not None:
            headers["Authorization"] = f"Api-Key {self.keys[presented]}"
        return self.server.request(method, "/books", headers=headers)

    def logged(self, request_id):
        """The events of a request, without what all of them have."""
        # One worker answers one request after the other: what follows an answer is over when the next one is there.
        self.ask("afterwards", None)
        lines = [json.loads(line) for line in self.log.splitlines()]
        events = [line for line in lines if line.get("request_id") == request_id]
        for event in events:
            assert event.pop("logger") == "flask_apikey"
            assert event.pop("address") == self.addresses[event.pop("request_id")]
            assert datetime.fromisoformat(event.pop("time")).utcoffset() == timedelta(0)
            assert event.pop("message").startswith(f"event={event['event']} outcome={event['outcome']} ")
        return events

    def assert_no_secret_was_written(self):
        for key in self.keys.values():
            assert key.rpartition("_")[2] not in self.log + self.server.output


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    directory = tmp_path_factory.mktemp("verdicts")
    environment = {
        "FLASK_APIKEY_FERNET_KEY": Fernet.generate_key().decode(),
        "FLASK_APIKEY_STORAGE_URI": f"sqlite:///{directory / 'keys.db'}",
        "FLASK_APIKEY_TRUSTED_PROXIES": '["127.0.0.1"]',
    }
    site = Site(directory, environment)
    stranger = Site(
        tmp_path_factory.mktemp("stranger"), {**environment, "FLASK_APIKEY_FERNET_KEY": Fernet.generate_key().decode()}
    )
    # Or newer versions of gunicorn would put a socket into the home directory of whoever runs the tests.
    (directory / "gunicorn.conf.py").write_text("control_socket_disable = True\n")
    (directory / "audited.py").write_text(AUDITED)
    site.flask("catalogue", "init")
    site.flask("apikey", "init")

    def create(site, *options):
        return site.apikey("create", "ci", "--owner", OWNER, *options)

    active = create(site, "--scope", "catalogue:read")
    revoked = create(site, "--scope", "catalogue:read")
    site.flask("apikey", "revoke", revoked["id"], "--yes")
    expired = create(site, "--scope", "catalogue:read")
    site.flask("apikey", "update", expired["id"], "--expires", "2020-01-01", "--yes")
    keys = {
        "active": active["key"],
        "revoked": revoked["key"],
        "expired": expired["key"],
        "elsewhere": create(site, "--scope", "catalogue:read", "--allow-ip", "198.51.100.0/24")["key"],
        "without scope": create(site)["key"],
        "sealed by another": create(stranger, "--scope", "catalogue:read")["key"],
        "malformed": "fak_no_key_at_all",
        "mistyped": active["key"][:-1] + ("1" if active["key"][-1] == "0" else "0"),
        "unknown": mint("fak", new_id()),
        "wrong secret": mint("fak", active["id"]),
    }
    with site.serving(*GUNICORN) as server:
        yield Service(site, server, keys)


def key_id(service, presented):
    return service.keys[presented].split("_")[-2]


def failure(reason, *, key_id=None, owner=None, **changed):
    event = {
        "level": "WARNING",
        "event": "authentication",
        "outcome": "failure",
        "reason": reason,
        "key_id": key_id,
        "owner": owner,
        "method": "GET",
        "endpoint": "/books",
        "count": 1,
        **changed,
    }
    return {name: value for name, value in event.items() if value is not None}


def assert_refused(answer, status, code):
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    challenge = CHALLENGE if code == "missing_key" else f"{CHALLENGE} error={code}"
    assert answer.headers.get_all("WWW-Authenticate") == ([challenge] if status == 401 else None)
    assert answer.headers["Retry-After"] == ("5" if status == 503 else None)
    extra = {"missing_scopes"} if code == "insufficient_scope" else set()
    assert set(answer.body) == {"type", "title", "status", "code", "detail"} | extra
    assert (answer.body["type"], answer.body["status"], answer.body["code"]) == ("about:blank", status, code)
    assert answer.body["title"] == HTTPStatus(answer.status).phrase


def test_a_genuine_key_is_accepted_and_logged(service):
    answer = service.ask("accepted", "active")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert len(answer.body) == 3
    accepted = failure(None, key_id=key_id(service, "active"), owner=OWNER, level="INFO", outcome="success")
    assert service.logged("accepted") == [accepted]
    service.assert_no_secret_was_written()


def test_no_key_is_answered_with_a_bare_challenge_and_not_logged(service):
    assert_refused(service.ask("no key", None), 401, "missing_key")
    assert service.logged("no key") == []


@pytest.mark.parametrize(
    ("presented", "status", "code", "reason", "names_the_id", "names_the_owner"),
    [
        ("malformed", 401, "invalid_key", "malformed", False, False),
        ("mistyped", 401, "invalid_key", "malformed", False, False),
        ("unknown", 401, "invalid_key", "unknown", True, False),
        ("wrong secret", 401, "invalid_key", "wrong_secret", True, False),
        ("revoked", 401, "key_revoked", "revoked", True, True),
        ("expired", 401, "key_expired", "expired", True, True),
        ("elsewhere", 403, "address_not_allowed", "address_refused", True, True),
        ("without scope", 403, "insufficient_scope", "insufficient_scope", True, True),
    ],
)
def test_a_refusal_says_no_more_than_its_caller_has_proven_and_the_log_says_why(
    service, presented, status, code, reason, names_the_id, names_the_owner
):
    answer = service.ask(presented, presented)
    assert_refused(answer, status, code)
    if code == "insufficient_scope":
        assert answer.body["missing_scopes"] == ["catalogue:read"]
    named = key_id(service, presented) if names_the_id else None
    owner = OWNER if names_the_owner else None
    assert service.logged(presented) == [failure(reason, key_id=named, owner=owner)]
    service.assert_no_secret_was_written()


def test_malformed_unknown_and_wrong_keys_get_the_same_answer(service):
    answers = [service.ask("alike", presented) for presented in ("malformed", "mistyped", "unknown", "wrong secret")]
    for answer in answers:
        del answer.headers["Date"]
    assert len({(answer.status, str(answer.headers), json.dumps(answer.body)) for answer in answers}) == 1


@pytest.mark.parametrize("presented", [None, "malformed", "unknown", "wrong secret", "revoked"])
def test_plain_http_is_refused_whatever_is_presented(service, presented):
    request_id = f"plain HTTP, {presented}"
    assert_refused(service.ask(request_id, presented, transport=OVER_HTTP), 403, "https_required")
    events = service.logged(request_id)
    assert events[0] == failure("insecure_transport")
    service.assert_no_secret_was_written()


def test_a_genuine_key_over_plain_http_gets_the_same_answer_and_is_logged_as_exposed(service):
    genuine, unknown = (service.ask(each, each, transport=OVER_HTTP) for each in ("active", "unknown"))
    assert_refused(genuine, 403, "https_required")
    assert genuine.body == unknown.body
    exposed = failure(None, key_id=key_id(service, "active"), owner=OWNER, event="exposure")
    assert service.logged("active") == [failure("insecure_transport"), exposed]
    service.assert_no_secret_was_written()


@contextmanager
def without_table(database):
    with closing(sqlite3.connect(database)) as connection:
        ((table,),) = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%keys'"
        ).fetchall()
        connection.execute(f"ALTER TABLE {table} RENAME TO gone")
        try:
            yield
        finally:
            connection.execute(f"ALTER TABLE gone RENAME TO {table}")


@pytest.mark.parametrize("presented", ["active", "unknown", "wrong secret", "revoked"])
def test_nobody_passes_while_the_storage_is_down_and_the_log_says_what_failed(service, presented):
    request_id = f"storage down, {presented}"
    with without_table(service.database):
        answer = service.ask(request_id, presented)
    assert_refused(answer, 503, "unavailable")
    (event,) = service.logged(request_id)
    assert "tables do not exist" in event["reason"]
    assert event == failure(event["reason"], key_id=key_id(service, presented), event="storage", level="ERROR")
    assert service.ask("storage back", "active").status == 200
    service.assert_no_secret_was_written()


def test_a_row_sealed_under_another_fernet_key_is_unavailable(service):
    assert_refused(service.ask("sealed by another", "sealed by another"), 503, "unavailable")
    (event,) = service.logged("sealed by another")
    assert "APIKEY_FERNET_KEY_FALLBACKS" in event["reason"]
    assert event == failure(
        event["reason"], key_id=key_id(service, "sealed by another"), event="storage", level="ERROR"
    )
    service.assert_no_secret_was_written()
