"""Counting of requests: labels, last uses and settings."""

import logging
import threading
from datetime import timedelta

import pytest
from flask import abort, session
from werkzeug.exceptions import Forbidden
from werkzeug.routing import Rule

from flask_apikey import APIKeys, ConfigurationError, StorageError, check_api_key, require_api_key
from flask_apikey.core.model.usage import PREVIOUS_SECRET, UsageField, UsageFilter, UsageOutcome
from flask_apikey.core.times import to_microseconds
from flask_apikey.core.usage import recorder as usage_recorder
from flask_apikey.core.usage.labels import EndpointLabels
from tests.support.waiting import in_thread

HTTPS = "https://localhost"
ONE_SECOND = timedelta(seconds=1)


@pytest.fixture
def serve(make_app, clock):
    """Create an application with views and an APIKeys."""

    def serve(**config):
        app = make_app(APIKEY_USAGE_FLUSH_INTERVAL="1h", **config)
        app.testing = False

        @app.route("/books/<int:book>", methods=["GET", "POST", "PURGE"])
        @require_api_key
        def book(book):
            return {}

        @app.get("/scarce")
        @require_api_key(scopes=["scarce:read"])
        def scarce():
            return {}

        @app.get("/optional")
        @require_api_key(optional=True)
        def optional():
            return {}

        @app.get("/missing")
        @require_api_key
        def missing():
            abort(404)

        @app.get("/failing")
        @require_api_key
        def failing():
            raise ZeroDivisionError

        @app.get("/open")
        def open_to_all():
            return {}

        return app, APIKeys(app, clock=clock)

    return serve


def rows(app):
    """Return the counts by endpoint, method, and status or reason."""
    state = app.extensions["apikey"]
    assert state.usage.flush()
    stored = state.backend.usage.rows(after=None, limit=100)
    return {(row.label.endpoint, row.label.method, row.label.status or row.label.reason): row.count for row in stored}


def issue(app, api_keys, **attributes):
    with app.app_context():
        return api_keys.create(name="ci", **attributes)


def send(app, path, key=None, method="GET", address="192.0.2.1", **options):
    headers = {} if key is None else {"X-API-Key": key}
    return app.test_client().open(
        path, method=method, headers=headers, base_url=HTTPS, environ_base={"REMOTE_ADDR": address}, **options
    )


def test_accepted_requests_by_rule_method_and_status(serve):
    app, api_keys = serve()
    key = issue(app, api_keys).key
    for number in range(3):
        assert send(app, f"/books/{number}", key).status_code == 200
    send(app, "/books/1", key, "POST")
    send(app, "/books/1", key, "PURGE")
    send(app, "/missing", key)
    assert send(app, "/failing", key).status_code == 500
    assert rows(app) == {
        ("/books/<int:book>", "GET", "2xx"): 3,
        ("/books/<int:book>", "POST", "2xx"): 1,
        ("/books/<int:book>", "PURGE", "2xx"): 1,
        ("/missing", "GET", "4xx"): 1,
        ("/failing", "GET", "5xx"): 1,
    }


def test_requests_without_key_or_check_are_not_counted(serve):
    app, api_keys = serve()
    key = issue(app, api_keys).key
    for path in ("/open", "/optional", "/books/1"):
        send(app, path)
    send(app, "/open", key)
    assert rows(app) == {}
    send(app, "/optional", key)
    assert rows(app) == {("/optional", "GET", "2xx"): 1}


def test_unmatched_paths_are_one_row(serve):
    app, api_keys = serve(APIKEY_PROTECT_ALL=True)
    key = issue(app, api_keys).key
    for path in ("/a", "/b\r\nforged", "/\u202e", "/%00", "/" + "x" * 100_000):
        send(app, path, key)
    send(app, "/books/1", key, "DELETE")
    send(app, "/nowhere", key, "BREW")
    assert rows(app) == {
        ("(unmatched)", "GET", "4xx"): 5,
        ("(unmatched)", "DELETE", "4xx"): 1,
        ("(unmatched)", "(other)", "4xx"): 1,
    }


def test_invented_methods_are_one_row(serve):
    app, api_keys = serve()
    app.url_map.add(Rule("/any-method", endpoint="missing"))
    key = issue(app, api_keys).key
    for number in range(5):
        send(app, "/any-method", key, f"MADEUP{number}")
    send(app, "/any-method", key, "POST")
    assert rows(app) == {("/any-method", "(other)", "4xx"): 5, ("/any-method", "POST", "4xx"): 1}


def test_failing_session_is_counted_once(serve):
    app, api_keys = serve(SECRET_KEY="for sessions", PROPAGATE_EXCEPTIONS=False)

    @app.get("/session")
    @require_api_key
    def unserializable():
        session["value"] = object()
        return {}

    assert send(app, "/session", issue(app, api_keys).key).status_code == 500
    assert sum(rows(app).values()) == 1


def test_refusals_by_reason(serve, clock):
    app, api_keys = serve()
    good = issue(app, api_keys)
    revoked, expired = issue(app, api_keys), issue(app, api_keys)
    limited = issue(app, api_keys, allowed_ips=["198.51.100.7"])
    with app.app_context():
        api_keys.revoke(revoked.record.id)
        api_keys.update(expired.record.id, expires_at=clock())
        rolled = api_keys.roll(good.record.id)
    for issued in (revoked, expired, limited, good):
        assert send(app, "/books/1", issued.key).status_code in {401, 403}
    send(app, "/scarce", rolled.key)
    send(app, "/books/1", "fak_nonsense")
    unknown = rolled.key.replace(good.record.id, "Z" * 16)
    send(app, "/books/1", unknown)
    assert rows(app) == {
        ("/books/<int:book>", "GET", "revoked"): 1,
        ("/books/<int:book>", "GET", "expired"): 1,
        ("/books/<int:book>", "GET", "address_refused"): 1,
        ("/books/<int:book>", "GET", "wrong_secret"): 1,
        ("/scarce", "GET", "insufficient_scope"): 1,
    }
    backend = app.extensions["apikey"].backend
    assert backend.usage.sum(UsageField.KEY, UsageFilter()) == {}
    assert sum(backend.usage.sum(UsageField.KEY, UsageFilter(outcome=UsageOutcome.REFUSED)).values()) == 5


def test_caught_scope_error_counts_as_accepted(serve):
    app, api_keys = serve()

    def scarce_part():
        check_api_key(scopes=["scarce:read"])
        return "scarce"

    @app.get("/parts")
    @require_api_key
    def parts():
        try:
            return scarce_part()
        except Forbidden:
            return "the rest"

    @app.get("/whole")
    @require_api_key
    def whole():
        return scarce_part()

    key = issue(app, api_keys, lifetime=timedelta(days=1)).key
    answer = send(app, "/parts", key)
    assert (answer.text, "Sunset" in answer.headers) == ("the rest", True)
    assert send(app, "/whole", key).json["code"] == "insufficient_scope"
    assert rows(app) == {("/parts", "GET", "2xx"): 1, ("/whole", "GET", "insufficient_scope"): 1}


def test_refusal_with_changed_status(serve):
    app, api_keys = serve()
    app.register_error_handler(Forbidden, lambda exc: ("nothing here", 200))
    assert send(app, "/scarce", issue(app, api_keys).key).status_code == 200
    assert rows(app) == {("/scarce", "GET", "insufficient_scope"): 1}


def test_ignored_routes(serve):
    app, api_keys = serve(APIKEY_IGNORED_ROUTES=["/missing", "/books/*"])
    key = issue(app, api_keys).key
    assert send(app, "/books/1", key).status_code == 200
    assert send(app, "/books/1").status_code == 401
    send(app, "/missing", key)
    send(app, "/scarce", key)
    assert rows(app) == {("/scarce", "GET", "insufficient_scope"): 1}


def test_ignored_routes_without_a_rule(serve, caplog):
    app, _ = serve(APIKEY_IGNORED_ROUTES=["/health", "/books/*", "/later", "/books/"])
    app.add_url_rule("/later", "later", lambda: "")
    for _ in range(2):
        send(app, "/books/1")
    told = [record.getMessage() for record in caplog.records if "APIKEY_IGNORED_ROUTES" in record.getMessage()]
    assert [message.partition(" and has no effect")[0] for message in told] == [
        f"APIKEY_IGNORED_ROUTES: '{entry}' matches no URL rule" for entry in ("/health", "/books/")
    ]


def test_endpoint_is_cut_within_a_character():
    assert EndpointLabels()["/" + "🔑" * 400] == "/" + "🔑" * 299


def test_endpoint_limits(serve):
    app, api_keys = serve(APIKEY_MAX_ENDPOINTS_PER_KEY=1, APIKEY_MAX_ENDPOINT_LENGTH=8)
    key = issue(app, api_keys).key
    for path in ("/books/1", "/optional", "/missing", "/books/2"):
        send(app, path, key)
    assert rows(app) == {("/books/…", "GET", "2xx"): 2, ("(other)", "GET", "2xx"): 1, ("(other)", "GET", "4xx"): 1}


def test_last_use_of_current_and_previous_secret(serve, clock):
    app, api_keys = serve()
    issued = issue(app, api_keys)
    first_moment = clock()
    send(app, "/books/1", issued.key, address="192.0.2.1")
    app.extensions["apikey"].usage.flush()
    clock.advance(ONE_SECOND)
    with app.app_context():
        rolled = api_keys.roll(issued.record.id, grace=timedelta(hours=2))
    send(app, "/books/1", rolled.key, address="2001:db8::1")
    clock.advance(ONE_SECOND)
    send(app, "/books/1", issued.key, address="192.0.2.2")
    rows(app)
    uses = app.extensions["apikey"].backend.usage.last_uses([issued.record.id])
    assert {(use.secret, use.at, use.address) for use in uses} == {
        (to_microseconds(issued.record.created_at), first_moment, "192.0.2.1"),
        (to_microseconds(rolled.record.rolled_at), first_moment + ONE_SECOND, "2001:db8::1"),
        (PREVIOUS_SECRET, first_moment + 2 * ONE_SECOND, "192.0.2.2"),
    }


def test_usage_off(serve):
    app, api_keys = serve(APIKEY_USAGE="off")
    key = issue(app, api_keys).key
    assert send(app, "/books/1", key).status_code == 200
    state = app.extensions["apikey"]
    assert state.usage is None
    assert list(state.backend.usage.rows(after=None, limit=1)) == []


def test_usage_sync(serve):
    app, api_keys = serve(APIKEY_USAGE="sync")
    key = issue(app, api_keys).key
    send(app, "/books/1", key)
    (row,) = app.extensions["apikey"].backend.usage.rows(after=None, limit=2)
    assert row.count == 1


def test_storage_failure_does_not_change_response(serve, monkeypatch, caplog):
    app, api_keys = serve(APIKEY_USAGE="sync")
    key = issue(app, api_keys).key
    backend = app.extensions["apikey"].backend

    def fail(batch):
        raise StorageError("the disk is full")

    with monkeypatch.context() as outage, caplog.at_level(logging.ERROR, "flask_apikey"):
        outage.setattr(backend.usage, "add", fail)
        assert send(app, "/books/1", key).status_code == 200
    assert "event=storage" in caplog.text
    assert "1 rows of usage wait in memory until the storage takes them: the disk is full" in caplog.text
    assert key not in caplog.text
    send(app, "/books/1", key)
    assert rows(app) == {("/books/<int:book>", "GET", "2xx"): 2}


def test_hanging_storage_does_not_delay_requests(serve, monkeypatch):
    app, api_keys = serve()
    key = issue(app, api_keys).key
    state = app.extensions["apikey"]
    add_usage, is_called, may_return = state.backend.usage.add, threading.Event(), threading.Event()

    def hang(batch):
        is_called.set()
        assert may_return.wait(30)
        add_usage(batch)

    def get():
        assert send(app, "/books/1", key, buffered=True).status_code == 200

    monkeypatch.setattr(state.backend.usage, "add", hang)
    get()
    with in_thread(state.usage.flush):
        assert is_called.wait(30)
        monkeypatch.setattr(usage_recorder.time, "monotonic", lambda: float("inf"))
        for _ in range(3):
            with in_thread(get):
                pass
        monkeypatch.undo()
        may_return.set()
    assert rows(app) == {("/books/<int:book>", "GET", "2xx"): 4}


def test_backend_without_usage(make_app, backend):
    app = make_app()

    @app.get("/")
    @require_api_key
    def index():
        return {}

    api_keys = APIKeys(app, backend=backend)
    key = issue(app, api_keys).key
    assert send(app, "/", key).status_code == 200
    with pytest.raises(ConfigurationError, match="APIKEY_USAGE is 'sync', but WatchedBackend keeps no usage"):
        APIKeys(make_app(APIKEY_USAGE="sync"), backend=backend)
