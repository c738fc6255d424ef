"""Security events, their log, and keys that were exposed over plain HTTP."""

import gc
import logging
from datetime import timedelta

import pytest
from flask import Response
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_apikey import APIKeys, ConfigurationError, StorageError, require_api_key
from flask_apikey.core.audit_log import FIELDS, MAX_ADDRESSES, MAX_FAILURES_LOGGED, SUMMARY_PERIOD, AuditEvent, AuditLog
from flask_apikey.core.model import keystring
from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.signals import api_key_exposed

SECURE = "https://localhost"


class Monotonic:
    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def events(caplog):
    """Logged events, as dictionaries of the fields that are set."""
    caplog.set_level(logging.INFO, logger="flask_apikey")

    def events(name=None):
        found = [
            {field: vars(record)[field] for field in FIELDS if vars(record).get(field) is not None}
            for record in caplog.records
            if record.name == "flask_apikey" and hasattr(record, "event")
        ]
        return [event for event in found if name is None or event["event"] == name]

    return events


@pytest.fixture
def scene(make_app, backend, clock):
    def scene(**config):
        app = make_app(**config)
        app.api_keys = APIKeys(app, backend=backend, clock=clock)

        @app.get("/books/<int:book>")
        @require_api_key(scopes=["read"])
        def book(book):
            return "open"

        return app

    return scene


def get(app, key, address="192.0.2.7", **headers):
    return app.test_client(api_key=key).get(
        "/books/7?secret=query",
        base_url=SECURE,
        environ_overrides={"REMOTE_ADDR": address},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


@pytest.fixture
def app(scene):
    return scene()


@pytest.fixture
def issue(app):
    def issue(**attributes):
        with app.app_context():
            return app.api_keys.create(name="ci", owner="team-7", **{"scopes": ["read"], **attributes})

    return issue


def test_success_fields(app, issue, events):
    issued = issue()
    assert get(app, issued.key, X_Request_ID="r-1").status_code == 200
    assert events("authentication") == [
        {
            "event": "authentication",
            "outcome": "success",
            "key_id": issued.record.id,
            "owner": "team-7",
            "address": "192.0.2.7",
            "method": "GET",
            "endpoint": "/books/<int:book>",
            "request_id": "r-1",
            "count": 1,
        }
    ]


def failure(events):
    (event,) = [event for event in events("authentication") if event["outcome"] == "failure"]
    return event


def test_failure_reason(app, issue, events, clock):
    wrong = mint("fak", issue().record.id)
    get(app, wrong)
    assert (failure(events)["reason"], failure(events)["key_id"]) == ("wrong_secret", keystring.parse(wrong).id)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"lifetime": timedelta(seconds=1)}, "expired"),
        ({"allowed_ips": ["10.0.0.0/8"]}, "address_refused"),
        ({"scopes": ["write"]}, "insufficient_scope"),
    ],
)
def test_refusals_of_genuine_keys(app, issue, events, clock, attributes, reason):
    issued = issue(**attributes)
    clock.advance(timedelta(seconds=1))
    get(app, issued.key)
    assert {name: failure(events)[name] for name in ("reason", "key_id", "owner")} == {
        "reason": reason,
        "key_id": issued.record.id,
        "owner": "team-7",
    }


def test_no_event_without_a_key(app, events):
    app.test_client().get("/books/7", base_url=SECURE)
    assert events() == []


def test_changes(app, issue, events):
    issued = issue()
    with app.app_context():
        app.api_keys.update(issued.record.id, name="renamed", scopes=[])
        app.api_keys.roll(issued.record.id)
        app.api_keys.revoke(issued.record.id, reason="left")
    assert [(event["event"], event.get("reason")) for event in events()] == [
        ("key.created", None),
        ("key.updated", "name, scopes"),
        ("key.rolled", None),
        ("key.revoked", "left"),
    ]
    assert {event["key_id"] for event in events()} == {issued.record.id}


def test_no_event_without_a_change(app, issue, events):
    issued = issue()
    with app.app_context():
        app.api_keys.revoke(issued.record.id, reason="first")
        app.api_keys.revoke(issued.record.id, reason="second")
        app.api_keys.update(issued.record.id, name=issued.record.name)
    assert [(event["event"], event.get("reason")) for event in events()] == [
        ("key.created", None),
        ("key.revoked", "first"),
    ]


def test_pruned_keys(app, issue, events, clock):
    issued = issue(lifetime=timedelta(days=1))
    clock.advance(timedelta(days=2))
    with app.app_context():
        app.api_keys.prune(ended_before=clock(), dry_run=True)
        assert events("key.pruned") == []
        app.api_keys.prune(ended_before=clock())
    assert [event["key_id"] for event in events("key.pruned")] == [issued.record.id]


def test_revealed_key(scene, events):
    app = scene(APIKEY_RECOVERABLE=True)
    with app.app_context():
        issued = app.api_keys.create(name="ci")
        app.api_keys.reveal(issued.record.id)
    assert [event["key_id"] for event in events("key.revealed")] == [issued.record.id]


def test_storage_failure_is_always_logged_as_an_error(scene, backend, events, caplog):
    app = scene(APIKEY_AUDIT_LOGGING=False)
    backend.failure = StorageError("the database failed: no route")
    assert get(app, mint("fak", new_id())).status_code == 503
    (event,) = events()
    assert (event["event"], event["reason"]) == ("storage", "the database failed: no route")
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
def test_undeclared_proxy_is_logged_once(app, issue, events, header):
    key = issue().key
    for _ in range(2):
        app.test_client(api_key=key).get("/books/7", base_url=SECURE, headers={header: "192.0.2.9"})
    (event,) = events("configuration")
    assert event["reason"].startswith(f"{header} arrives")


def test_undeclared_proxy_without_audit_logging(scene, events):
    app = scene(APIKEY_AUDIT_LOGGING=False)
    with app.app_context():
        key = app.api_keys.create(name="ci", scopes=["read"]).key
    assert get(app, key, X_Forwarded_For="192.0.2.9").status_code == 200
    assert [event["event"] for event in events()] == ["configuration"]


def test_declared_proxy_and_proxy_fix(scene, make_app, events):
    declared = scene(APIKEY_TRUSTED_PROXIES=["127.0.0.1"])
    declared.test_client(api_key="x").get("/books/7", headers={"X-Forwarded-For": "192.0.2.9"})
    fixed = make_app()
    APIKeys(fixed)
    fixed.get("/")(require_api_key(lambda: "open"))
    fixed.wsgi_app = ProxyFix(fixed.wsgi_app)
    fixed.test_client(api_key="x").get("/", headers={"X-Forwarded-For": "192.0.2.9"})
    assert events("configuration") == []


def test_audit_logging_off(scene, events):
    app = scene(APIKEY_AUDIT_LOGGING=False)
    with app.app_context():
        key = app.api_keys.create(name="ci", scopes=["read"]).key
    get(app, key)
    get(app, mint("fak", new_id()))
    assert events() == []


def test_no_secret_is_logged(app, issue, caplog, backend):
    caplog.set_level(logging.DEBUG)
    issued = issue()
    wrong = mint("fak", issued.record.id)
    for key in (issued.key, wrong, issued.key + "x", issued.key[:-1]):
        get(app, key, X_Request_ID=key)
    seal = backend.get(issued.record.id).seal.token
    for record in caplog.records:
        everything = repr(vars(record)) + record.getMessage()
        for secret in (issued.key, wrong):
            assert secret[-30:-6] not in everything
        assert seal not in everything
        assert "secret=query" not in everything


class TestExposure:
    @pytest.fixture
    def exposing(self, scene):
        def exposing(**config):
            return scene(APIKEY_ENFORCE_HTTPS=True, APIKEY_TRUSTED_PROXIES=["127.0.0.1"], **config)

        return exposing

    def send_in_clear(self, app, key):
        response = app.test_client(api_key=key).get("/books/7", base_url="http://localhost")
        body = response.get_data()
        response.close()
        return response.status_code, body

    def test_genuine_key(self, exposing, events):
        app = exposing()
        with app.app_context():
            issued = app.api_keys.create(name="ci")
        received = []
        with api_key_exposed.connected_to(lambda _, key: received.append(key.id)):
            assert self.send_in_clear(app, issued.key)[0] == 403
        assert [event["key_id"] for event in events("exposure")] == [issued.record.id]
        assert received == [issued.record.id]
        with app.app_context():
            assert app.api_keys.get(issued.record.id).revoked_at is None

    def test_revocation(self, exposing, events):
        app = exposing(APIKEY_REVOKE_EXPOSED=True)
        with app.app_context():
            issued = app.api_keys.create(name="ci")
        self.send_in_clear(app, issued.key)
        with app.app_context():
            record = app.api_keys.get(issued.record.id)
        assert record.revoked_at is not None
        assert record.revocation_reason == "exposed over plain HTTP"
        assert [event["key_id"] for event in events("key.revoked")] == [issued.record.id]

    def test_replaced_response(self, exposing, events):
        app = exposing()
        app.after_request(lambda answer: Response(answer.get_data(), answer.status_code, answer.headers))
        with app.app_context():
            issued = app.api_keys.create(name="ci")
        assert self.send_in_clear(app, issued.key)[0] == 403
        assert [event["key_id"] for event in events("exposure")] == [issued.record.id]

    @pytest.mark.parametrize("attributes", [{}, {"allowed_ips": ["198.51.100.7"]}])
    def test_only_an_exposed_previous_secret_is_ended(self, exposing, events, attributes):
        app = exposing(APIKEY_REVOKE_EXPOSED=True)
        grace = timedelta(days=1)
        with app.app_context():
            oldest = app.api_keys.create(name="ci", **attributes)
            old, newest = (app.api_keys.roll(oldest.record.id, grace=grace) for _ in range(2))
        self.send_in_clear(app, old.key)
        accepted = [True, False, True]
        with app.app_context():
            verdicts = [app.api_keys.verify(each.key, address="198.51.100.7") for each in (oldest, old, newest)]
        assert [verdict.accepted for verdict in verdicts] == accepted
        assert [event["key_id"] for event in events("exposure")] == [newest.record.id]
        assert [event["reason"] for event in events("key.secrets_ended")] == ["exposed over plain HTTP"]
        assert events("key.revoked") == []
        self.send_in_clear(app, old.key)
        assert len(events("exposure")) == len(events("key.secrets_ended")) == 1

    def test_revocation_despite_a_failing_receiver(self, exposing, caplog):
        app = exposing(APIKEY_REVOKE_EXPOSED=True)
        with app.app_context():
            issued = app.api_keys.create(name="ci")

        def fail(_sender, key):
            raise RuntimeError("no mail")

        with api_key_exposed.connected_to(fail):
            self.send_in_clear(app, issued.key)
        with app.app_context():
            assert app.api_keys.get(issued.record.id).revoked_at is not None
        assert "api-key-exposed" in caplog.text

    def test_failed_revocation(self, exposing, backend, events):
        app = exposing(APIKEY_REVOKE_EXPOSED=True)
        with app.app_context():
            issued = app.api_keys.create(name="ci")

        def fail():
            raise StorageError("the database failed: read-only")

        backend.before_next_update = fail
        assert self.send_in_clear(app, issued.key)[0] == 403
        assert [event["reason"] for event in events("storage")] == ["the database failed: read-only"]

    def test_forged_key(self, exposing, events):
        app = exposing(APIKEY_REVOKE_EXPOSED=True)
        with app.app_context():
            issued = app.api_keys.create(name="ci")
        self.send_in_clear(app, mint("fak", issued.record.id))
        assert events("exposure") == []
        with app.app_context():
            assert app.api_keys.get(issued.record.id).revoked_at is None

    def test_response_is_independent_of_the_key_and_precedes_its_lookup(self, exposing, backend):
        app = exposing()
        with app.app_context():
            issued = app.api_keys.create(name="ci")
        backend.looked_up.clear()
        answers = []
        for key in (issued.key, mint("fak", new_id()), "nonsense"):
            response = app.test_client(api_key=key).get("/books/7", base_url="http://localhost")
            answers.append((response.status_code, response.get_data(), sorted(response.headers)))
            assert backend.looked_up == []
            response.close()
            backend.looked_up.clear()
        assert answers[0] == answers[1] == answers[2]

    def test_storage_failure(self, exposing, backend, events):
        app = exposing()
        backend.failure = StorageError("down")
        assert self.send_in_clear(app, mint("fak", new_id()))[0] == 403
        assert events("exposure") == []

    def test_revocation_requires_trusted_proxies(self, make_app):
        with pytest.raises(ConfigurationError, match="APIKEY_REVOKE_EXPOSED needs APIKEY_TRUSTED_PROXIES"):
            APIKeys(make_app(APIKEY_REVOKE_EXPOSED=True))


class TestRepeatedFailures:
    @pytest.fixture
    def monotonic(self):
        return Monotonic()

    @pytest.fixture
    def log(self, monotonic):
        return AuditLog(monotonic=monotonic)

    def fail(self, log, times, address="192.0.2.7"):
        for _ in range(times):
            log.record(AuditEvent(event="authentication", outcome="failure", reason="unknown", address=address))

    def test_summary(self, log, monotonic, events):
        self.fail(log, MAX_FAILURES_LOGGED + 90)
        assert len(events()) == MAX_FAILURES_LOGGED
        monotonic.seconds += SUMMARY_PERIOD
        self.fail(log, 1)
        summary = events()[MAX_FAILURES_LOGGED]
        assert (summary["reason"], summary["count"], summary["address"]) == ("repeated", 90, "192.0.2.7")
        assert len(events()) == MAX_FAILURES_LOGGED + 2

    def test_separate_counters_per_address(self, log, events):
        self.fail(log, MAX_FAILURES_LOGGED + 1, "192.0.2.1")
        self.fail(log, 1, "192.0.2.2")
        assert len(events()) == MAX_FAILURES_LOGGED + 1

    def test_guesses_do_not_hide_refusals_of_a_genuine_key(self, log, events):
        for number in range(MAX_ADDRESSES):
            self.fail(log, 1, str(number))
        self.fail(log, 2 * MAX_FAILURES_LOGGED)
        for address in ("0", "192.0.2.7"):
            refused = AuditEvent(event="authentication", outcome="failure", reason="address_refused", address=address)
            log.record(refused)
        assert [event["address"] for event in events() if event["reason"] == "address_refused"] == ["0", "192.0.2.7"]

    def test_one_counter_for_all_storage_failures(self, log, events):
        for number in range(2 * MAX_FAILURES_LOGGED):
            log.record(AuditEvent(event="storage", outcome="failure", reason=str(number)))
        assert len(events()) == MAX_FAILURES_LOGGED

    def test_successes_are_not_summarized(self, log, events):
        for _ in range(3 * MAX_FAILURES_LOGGED):
            log.record(AuditEvent(event="authentication"))
        assert len(events()) == 3 * MAX_FAILURES_LOGGED

    def test_bounded_memory_and_log(self, log, events):
        for number in range(MAX_ADDRESSES + 1000):
            self.fail(log, 1, str(number))
        assert len(events()) == MAX_ADDRESSES + MAX_FAILURES_LOGGED

    def test_values_from_requests_are_not_kept(self, log, events):
        sent = "r" * 8_000
        for number in range(20):
            refused = AuditEvent(event="authentication", outcome="failure", address=str(number), request_id=sent)
            log.record(refused)
        del refused
        assert len(events()) == 20
        kept = [each for each in gc.get_objects() if isinstance(each, AuditEvent) and each.request_id == sent]
        assert kept == []


def test_request_id_in_the_log(app, events):
    get(app, "nonsense", X_Request_ID="\x85\x9bforged" + "x" * 500)
    request_id = failure(events)["request_id"]
    assert request_id.startswith("\\u{85}\\u{9b}forged")
    assert len(request_id) == 200
