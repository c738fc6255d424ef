"""Security events, their log, and keys that were exposed over plain HTTP."""

import gc
import logging
from datetime import timedelta
from ipaddress import IPv4Address

import pytest
from flask import Response
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_apikey import APIKeys, ConfigurationError, StorageError, require_api_key
from flask_apikey.core.audit_log import (
    FIELDS,
    MAX_ADDRESSES,
    MAX_FAILURES_LOGGED,
    MAX_LINES,
    MAX_SUMMARIES,
    SUMMARY_PERIOD,
    AuditEvent,
    AuditLog,
)
from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.signals import api_key_exposed
from tests.support.keys import KeyScene


class Scene(KeyScene):
    """An application with one view, whose keys have the scope for it."""

    def __init__(self, app, clock, backend):
        super().__init__(app, clock, backend=backend)

        @app.get("/books/<int:book>")
        @require_api_key(scopes=["read"])
        def book(book):
            return "open"

    def issue(self, name="ci", **attributes):
        return super().issue(name, **{"owner": "team-7", "scopes": ["read"], **attributes})

    def get(self, key, base_url="https://localhost", **headers):
        """Send a request, close its response, and return status and body."""
        with self.app.test_client(api_key=key).get(
            "/books/7?secret=query",
            base_url=base_url,
            environ_overrides={"REMOTE_ADDR": "192.0.2.7"},
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        ) as response:
            return response.status_code, response.get_data()

    def send_in_clear(self, key, **headers):
        return self.get(key, "http://localhost", **({"X_Forwarded_Proto": "http"} | headers))[0]


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
def make_scene(make_app, backend, clock):
    return lambda **config: Scene(make_app(**config), clock, backend)


@pytest.fixture
def scene(make_scene):
    return make_scene()


def test_success_fields(scene, events):
    issued = scene.issue()
    assert scene.get(issued.key, X_Request_ID="r-1")[0] == 200
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


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"lifetime": timedelta(seconds=1)}, "expired"),
        ({"allowed_ips": ["10.0.0.0/8"]}, "address_refused"),
        ({"scopes": ["write"]}, "insufficient_scope"),
    ],
)
def test_refusals_of_genuine_keys(scene, events, clock, attributes, reason):
    issued = scene.issue(**attributes)
    clock.advance(timedelta(seconds=1))
    scene.get(issued.key)
    assert {name: failure(events)[name] for name in ("reason", "key_id", "owner")} == {
        "reason": reason,
        "key_id": issued.record.id,
        "owner": "team-7",
    }


def test_wrong_secret(scene, events):
    issued = scene.issue()
    scene.get(mint("fak", issued.record.id))
    assert (failure(events)["reason"], failure(events)["key_id"]) == ("wrong_secret", issued.record.id)


def test_no_event_without_a_key(scene, events):
    scene.app.test_client().get("/books/7", base_url="https://localhost")
    assert events() == []


def test_changes(make_scene, events, clock):
    scene = make_scene(APIKEY_RECOVERABLE=True)
    issued = scene.issue()
    scene.do("update", issued.record.id, name="renamed", scopes=[])
    scene.do("update", issued.record.id, name="renamed")
    scene.roll(issued)
    scene.do("reveal", issued.record.id)
    scene.do("revoke", issued.record.id, reason="left")
    scene.do("revoke", issued.record.id, reason="left again")
    clock.advance(timedelta(days=1))
    scene.do("prune", ended_before=clock(), dry_run=True)
    scene.do("prune", ended_before=clock())
    assert [(event["event"], event.get("reason")) for event in events()] == [
        ("key.created", None),
        ("key.updated", "name, scopes"),
        ("key.rolled", None),
        ("key.revealed", None),
        ("key.revoked", "left"),
        ("key.pruned", None),
    ]
    assert {event["key_id"] for event in events()} == {issued.record.id}


def test_audit_logging_off(make_scene, backend, events, caplog):
    scene = make_scene(APIKEY_AUDIT_LOGGING=False)
    key = scene.issue().key
    scene.get(key)
    scene.get(mint("fak", new_id()))
    assert events() == []
    assert scene.get(key, X_Forwarded_For="192.0.2.9")[0] == 200
    assert [event["event"] for event in events()] == ["configuration"]
    backend.failure = StorageError("the database failed: no route")
    assert scene.get(key)[0] == 503
    assert [event["reason"] for event in events()[1:]] == ["the database failed: no route"]
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
def test_undeclared_proxy_is_logged_once(scene, events, header):
    key = scene.issue().key
    for _ in range(2):
        scene.get(key, **{header: "192.0.2.9"})
    (event,) = events("configuration")
    assert event["reason"].startswith(f"{header} arrives")


def test_declared_proxy_and_proxy_fix(make_scene, events):
    make_scene(APIKEY_TRUSTED_PROXIES=["192.0.2.7"]).get("x", X_Forwarded_For="192.0.2.9")
    fixed = make_scene()
    fixed.app.wsgi_app = ProxyFix(fixed.app.wsgi_app)
    fixed.get("x", X_Forwarded_For="192.0.2.9")
    assert events("configuration") == []


def test_no_secret_is_logged(scene, caplog, backend):
    caplog.set_level(logging.DEBUG)
    issued = scene.issue()
    wrong = mint("fak", issued.record.id)
    for key in (issued.key, wrong, issued.key + "x", issued.key[:-1]):
        scene.get(key, X_Request_ID=key)
    seal = backend.get(issued.record.id).seal.token
    for record in caplog.records:
        everything = repr(vars(record)) + record.getMessage()
        for secret in (issued.key, wrong):
            assert secret[-30:-6] not in everything
        assert seal not in everything
        assert "secret=query" not in everything


class TestExposure:
    @pytest.fixture
    def make_scene(self, make_scene):
        return lambda **config: make_scene(APIKEY_ENFORCE_HTTPS=True, APIKEY_TRUSTED_PROXIES=["192.0.2.7"], **config)

    @pytest.fixture
    def revoking(self, make_scene):
        return make_scene(APIKEY_REVOKE_EXPOSED=True)

    def test_genuine_key(self, scene, events):
        # A handler of the application may replace the response.
        scene.app.after_request(lambda answer: Response(answer.get_data(), answer.status_code, answer.headers))
        issued = scene.issue()
        received = []
        with api_key_exposed.connected_to(lambda _, key: received.append(key.id)):
            assert scene.send_in_clear(issued.key) == 403
        assert [event["key_id"] for event in events("exposure")] == received == [issued.record.id]
        assert scene.do("get", issued.record.id).revoked_at is None

    def test_revocation(self, revoking, events, caplog):
        issued = revoking.issue()

        def fail(_sender, key):
            raise RuntimeError("no mail")

        with api_key_exposed.connected_to(fail):
            revoking.send_in_clear(issued.key)
        assert "api-key-exposed" in caplog.text
        record = revoking.do("get", issued.record.id)
        assert record.revoked_at is not None
        assert record.revocation_reason == "exposed over plain HTTP"
        assert [event["key_id"] for event in events("key.revoked")] == [issued.record.id]

    @pytest.mark.parametrize("attributes", [{}, {"allowed_ips": ["198.51.100.7"]}])
    def test_only_an_exposed_previous_secret_is_ended(self, revoking, events, attributes):
        oldest = revoking.issue(**attributes)
        old, newest = (revoking.roll(oldest, grace=timedelta(days=1)) for _ in range(2))
        revoking.send_in_clear(old.key)
        verdicts = [revoking.do("verify", each.key, address="198.51.100.7") for each in (oldest, old, newest)]
        assert [verdict.accepted for verdict in verdicts] == [True, False, True]
        assert [event["key_id"] for event in events("exposure")] == [newest.record.id]
        assert [event["reason"] for event in events("key.secrets_ended")] == ["exposed over plain HTTP"]
        assert events("key.revoked") == []
        revoking.send_in_clear(old.key)
        assert len(events("exposure")) == len(events("key.secrets_ended")) == 1

    def test_failed_revocation(self, revoking, backend, events):
        issued = revoking.issue()

        def fail():
            raise StorageError("the database failed: read-only")

        backend.before_next_update = fail
        assert revoking.send_in_clear(issued.key) == 403
        assert [event["reason"] for event in events("storage")] == ["the database failed: read-only"]

    def test_forged_key(self, revoking, events):
        issued = revoking.issue()
        revoking.send_in_clear(mint("fak", issued.record.id))
        assert events("exposure") == []
        assert revoking.do("get", issued.record.id).revoked_at is None

    def test_response_is_independent_of_the_key_and_precedes_its_lookup(self, scene, backend):
        issued = scene.issue()
        answers = []
        for key in (issued.key, mint("fak", new_id()), "nonsense"):
            backend.looked_up.clear()
            client = scene.app.test_client(api_key=key)
            response = client.get("/books/7", base_url="http://localhost", headers={"X-Forwarded-Proto": "http"})
            answers.append((response.status_code, response.get_data(), sorted(response.headers)))
            assert backend.looked_up == []
            response.close()
        assert answers[0] == answers[1] == answers[2]

    def test_storage_failure(self, scene, backend, events):
        backend.failure = StorageError("down")
        assert scene.send_in_clear(mint("fak", new_id())) == 403
        assert events("exposure") == []

    @pytest.mark.parametrize("proto", ["", "on", "https, http", "https;", '"https"', "unknown"])
    def test_unknown_scheme_is_no_exposure(self, revoking, events, backend, proto):
        issued = revoking.issue()
        backend.looked_up.clear()
        for _ in range(2):
            assert revoking.send_in_clear(issued.key, X_Forwarded_Proto=proto) == 403
        assert events("exposure") == backend.looked_up == []
        assert revoking.do("get", issued.record.id).revoked_at is None
        (fault,) = events("configuration")
        assert "does not say" in fault["reason"]

    def test_contradiction_is_no_exposure(self, revoking, events):
        issued = revoking.issue()
        headers = {"X_Forwarded_Proto": "http", "Forwarded": "for=203.0.113.9;proto=https"}
        assert revoking.send_in_clear(issued.key, **headers) == 403
        assert events("exposure") == []
        (fault,) = events("configuration")
        assert "contradict each other" in fault["reason"]

    def test_waitress_without_declared_proxies(self, make_scene, events):
        scene = make_scene(APIKEY_REVOKE_EXPOSED=True)
        issued = scene.issue()
        client = scene.app.test_client(api_key=issued.key)
        for _ in range(2):
            with client.get("/books/7", environ_base={"SERVER_SOFTWARE": "waitress"}) as response:
                assert response.status_code == 403
        assert events("exposure") == []
        (fault,) = events("configuration")
        assert "waitress removes forwarding headers" in fault["reason"]
        assert "APIKEY_TRUSTED_PROXIES" in fault["reason"]

    def test_tls_that_ended_at_the_edge_is_no_exposure(self, revoking, events):
        assert revoking.send_in_clear(revoking.issue().key, CloudFront_Forwarded_Proto="https") == 403
        assert events("exposure") == []

    def test_websocket_over_tls(self, revoking):
        assert revoking.get(revoking.issue().key, "http://localhost", X_Forwarded_Proto="wss")[0] == 200

    def test_revocation_requires_trusted_proxies(self, make_app):
        with pytest.raises(ConfigurationError, match="APIKEY_REVOKE_EXPOSED needs APIKEY_TRUSTED_PROXIES"):
            APIKeys(make_app(APIKEY_REVOKE_EXPOSED=True))


class TestRepeatedFailures:
    @pytest.fixture
    def now(self):
        """The time of the log in seconds, in a list."""
        return [0.0]

    @pytest.fixture
    def log(self, now):
        return AuditLog(monotonic=lambda: now[0])

    def fail(self, log, times, address="192.0.2.7"):
        for _ in range(times):
            log.record(AuditEvent(event="authentication", outcome="failure", reason="unknown", address=address))

    def test_summary(self, log, now, events):
        self.fail(log, MAX_FAILURES_LOGGED + 90)
        assert len(events()) == MAX_FAILURES_LOGGED
        now[0] += SUMMARY_PERIOD
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

    def test_report_mode_has_counters_of_its_own(self, log, events):
        """Requests without a key must not hide others, nor those of report mode the refusals."""
        for event in ("would_refuse", "authentication"):
            for reason in ("missing", "revoked"):
                for _ in range(MAX_FAILURES_LOGGED + 1):
                    log.record(AuditEvent(event=event, outcome="failure", reason=reason, address="192.0.2.7"))
        assert len(events()) == 4 * MAX_FAILURES_LOGGED

    def test_one_counter_for_all_storage_failures(self, log, events):
        for number in range(2 * MAX_FAILURES_LOGGED):
            log.record(AuditEvent(event="storage", outcome="failure", reason=str(number)))
        assert len(events()) == MAX_FAILURES_LOGGED

    def test_successes_are_not_summarized(self, log, events):
        for _ in range(3 * MAX_FAILURES_LOGGED):
            log.record(AuditEvent(event="authentication"))
        assert len(events()) == 3 * MAX_FAILURES_LOGGED

    def test_bounded_lines(self, log, now, events):
        for number in range(MAX_ADDRESSES + 1000):
            self.fail(log, 1, str(IPv4Address(number)))
        assert len(events()) == MAX_LINES
        now[0] += SUMMARY_PERIOD
        self.fail(log, 1)
        summaries = events()[MAX_LINES:-1]
        assert len(summaries) == MAX_SUMMARIES + 1
        assert {event["reason"] for event in summaries} == {"repeated"}
        assert "address" not in summaries[-1]
        assert sum(event["count"] for event in summaries) == MAX_ADDRESSES + 1000 - MAX_LINES

    def test_bounded_memory(self, log):
        for number in range(MAX_ADDRESSES + 1000):
            self.fail(log, 1, str(IPv4Address(number)))
        assert len(log._repeated._tallies) == MAX_ADDRESSES + 1

    def test_addresses_with_most_failures_are_summarized(self, log, now, events):
        for number in range(100):
            self.fail(log, 20, str(IPv4Address(number)))
        self.fail(log, 500, "192.0.2.7")
        now[0] += SUMMARY_PERIOD
        self.fail(log, 1)
        assert [(event["address"], event["count"]) for event in events()[MAX_LINES:][:1]] == [("192.0.2.7", 500)]

    def test_each_reason_has_its_lines(self, log, events):
        for number in range(MAX_LINES + 10):
            self.fail(log, 1, str(IPv4Address(number)))
        for reason in ("wrong_secret", "revoked"):
            log.record(AuditEvent(event="authentication", outcome="failure", reason=reason, address="192.0.2.7"))
        assert [event["reason"] for event in events()[MAX_LINES:]] == ["wrong_secret", "revoked"]

    def test_addresses_of_one_64(self, log, now, events):
        for number in range(MAX_FAILURES_LOGGED + 5):
            self.fail(log, 1, f"2001:db8::{number:x}")
        assert len(events()) == MAX_FAILURES_LOGGED
        now[0] += SUMMARY_PERIOD
        self.fail(log, 1)
        summary = events()[MAX_FAILURES_LOGGED]
        assert (summary["reason"], summary["address"], summary["count"]) == ("repeated", "2001:db8::/64", 5)

    def test_values_from_requests_are_not_kept(self, log, events):
        sent = "r" * 8_000
        for number in range(20):
            refused = AuditEvent(event="authentication", outcome="failure", address=str(number), request_id=sent)
            log.record(refused)
        del refused
        assert len(events()) == 20
        kept = [each for each in gc.get_objects() if type(each) is AuditEvent and each.request_id == sent]
        assert kept == []


def test_request_id_in_the_log(scene, events):
    scene.get("nonsense", X_Request_ID="\x85\x9bforged" + "x" * 500)
    request_id = failure(events)["request_id"]
    assert request_id.startswith("\\u{85}\\u{9b}forged")
    assert len(request_id) == 200
