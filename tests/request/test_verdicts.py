"""Verdicts and their answers over HTTP."""

import logging
from dataclasses import dataclass
from datetime import timedelta

import pytest
from werkzeug.exceptions import HTTPException

from flask_apikey import APIKeys, StorageError, current_api_key, problems, require_api_key
from flask_apikey.core.keys.authenticator import Verdict, decide, require_scopes
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model import keystring
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.testing.samples import NOW, stored_key
from tests.support.keys import KeyScene, Lifecycle

PLAIN = "http://localhost"
SECURE = "https://localhost"


class Scene(KeyScene):
    """An application with one protected view, on a watched storage."""

    def __init__(self, app, backend, clock):
        super().__init__(app, clock, backend=backend)
        self.reached = 0

        @app.get("/")
        @require_api_key(scopes=["read"])
        def view():
            self.reached += 1
            return current_api_key.name

    def issue(self, name="ci", **attributes):
        return super().issue(name, **{"scopes": ["read"], **attributes})

    def revoke(self, issued):
        self.do("revoke", issued.record.id)

    def suspend(self, issued):
        self.do("suspend", issued.record.id)

    def get(self, key=None, *, base_url=PLAIN, address="127.0.0.1", **headers):
        if key is not None:
            headers["X-API-Key"] = key
        return self.app.test_client().get(
            "/", base_url=base_url, headers=headers, environ_overrides={"REMOTE_ADDR": address}
        )


@pytest.fixture
def scene(app, backend, clock):
    return Scene(app, backend, clock)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(
    ("attributes", "verdict"),
    [
        ({}, Verdict.ACCEPTED),
        ({"allowed_ips": ("192.0.2.7/32",)}, Verdict.ADDRESS_REFUSED),
        ({"scopes": frozenset()}, Verdict.INSUFFICIENT_SCOPE),
        ({"revoked_at": NOW}, Verdict.REVOKED),
        ({"expires_at": NOW}, Verdict.EXPIRED),
        ({"suspended_at": NOW}, Verdict.SUSPENDED),
        ({"suspended_at": NOW, "allowed_ips": ("192.0.2.7/32",), "scopes": frozenset()}, Verdict.SUSPENDED),
    ],
)
def test_position_of_the_presented_secret(attributes, verdict, position):
    ends_at = NOW + timedelta(days=1)
    record = stored_key(
        **{"scopes": frozenset({"read"}), "previous_secrets_expire_at": (ends_at,), **attributes}
    ).record
    decision = require_scopes(decide(record, position, None, NOW), frozenset({"read"}))
    assert (decision.verdict, decision.position) == (verdict, position)


def another_secret(issued):
    return keystring.mint(issued.record.prefix, issued.record.id)


def no_key(scene):
    return scene.get()


def another_scheme(scene):
    return scene.get(Authorization="Basic dXNlcjpwYXNz")


def malformed(scene):
    return scene.get("nonsense")


def empty(scene):
    return scene.get("")


def conflicting(scene):
    key = scene.issue().key
    return scene.get(key, Authorization=f"Api-Key {key}")


def unknown(scene):
    return scene.get(keystring.mint("fak", keystring.new_id()))


def wrong_secret(scene):
    return scene.get(another_secret(scene.issue()))


def wrong_secret_of_a_revoked_key(scene):
    issued = scene.issue()
    scene.revoke(issued)
    return scene.get(another_secret(issued))


def wrong_secret_of_an_expired_key(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1))
    scene.clock.advance(timedelta(seconds=1))
    return scene.get(another_secret(issued))


def wrong_secret_of_a_suspended_key(scene):
    issued = scene.issue()
    scene.suspend(issued)
    return scene.get(another_secret(issued))


def wrong_secret_from_a_refused_address(scene):
    return scene.get(another_secret(scene.issue(denied_ips=["127.0.0.1"])))


def revoked(scene):
    issued = scene.issue()
    scene.revoke(issued)
    return scene.get(issued.key)


def revoked_and_expired(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1), denied_ips=["127.0.0.1"], scopes=[])
    scene.clock.advance(timedelta(seconds=2))
    scene.revoke(issued)
    return scene.get(issued.key)


def expired(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1), denied_ips=["127.0.0.1"], scopes=[])
    scene.clock.advance(timedelta(seconds=1))
    return scene.get(issued.key)


def suspended(scene):
    issued = scene.issue(denied_ips=["127.0.0.1"], scopes=[])
    scene.suspend(issued)
    return scene.get(issued.key)


def suspended_and_revoked(scene):
    issued = scene.issue()
    scene.suspend(issued)
    scene.revoke(issued)
    return scene.get(issued.key)


def suspended_and_expired(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1))
    scene.suspend(issued)
    scene.clock.advance(timedelta(seconds=1))
    return scene.get(issued.key)


def address_denied(scene):
    return scene.get(scene.issue(denied_ips=["127.0.0.0/8"], scopes=[]).key)


def address_not_in_the_list(scene):
    return scene.get(scene.issue(allowed_ips=["10.0.0.0/8", "::1"]).key)


def plain_http(scene):
    scene.app.config["TESTING"] = False
    return scene.get(scene.issue().key)


def scope_missing(scene):
    return scene.get(scene.issue(scopes=["write"]).key)


def other_environment(scene):
    ring = scene.app.extensions["apikey"].ring
    lifecycle = Lifecycle(scene.backend, ring, IssuePolicy(prefix="acme_test"), scene.clock)
    return scene.get(lifecycle.create(name="ci", scopes=["*"]).key)


def storage_down(scene):
    key = scene.issue().key
    scene.backend.failure = StorageError("the database failed: connection refused")
    return scene.get(key)


@dataclass
class Row:
    attempt: object
    status: int
    code: str
    challenge: str | None = None


TABLE = [
    Row(no_key, 401, "missing_key", "Api-Key"),
    Row(another_scheme, 401, "missing_key", "Api-Key"),
    Row(malformed, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(empty, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(conflicting, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(unknown, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret_of_a_revoked_key, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret_of_an_expired_key, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret_of_a_suspended_key, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(wrong_secret_from_a_refused_address, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(revoked, 401, "key_revoked", "Api-Key error=key_revoked"),
    Row(revoked_and_expired, 401, "key_revoked", "Api-Key error=key_revoked"),
    Row(expired, 401, "key_expired", "Api-Key error=key_expired"),
    Row(suspended, 403, "key_suspended"),
    Row(suspended_and_revoked, 401, "key_revoked", "Api-Key error=key_revoked"),
    Row(suspended_and_expired, 401, "key_expired", "Api-Key error=key_expired"),
    Row(address_denied, 403, "address_not_allowed"),
    Row(address_not_in_the_list, 403, "address_not_allowed"),
    Row(plain_http, 403, "https_required"),
    Row(scope_missing, 403, "insufficient_scope", "Api-Key error=insufficient_scope, scope=read"),
    Row(other_environment, 401, "invalid_key", "Api-Key error=invalid_key"),
    Row(storage_down, 503, "unavailable"),
]


@pytest.fixture(params=TABLE, ids=lambda row: row.attempt.__name__)
def row(request):
    return request.param


def test_refusal(scene, row):
    response = row.attempt(scene)
    assert response.status_code == row.status
    assert response.content_type == "application/problem+json"
    assert response.headers.getlist("Cache-Control") == ["no-store"]
    assert response.headers.getlist("WWW-Authenticate") == ([] if row.challenge is None else [row.challenge])
    assert response.headers.get("Retry-After") == ("5" if row.status == 503 else None)
    body = response.json
    assert (body["type"], body["status"], body["code"]) == ("about:blank", row.status, row.code)
    assert body["title"]
    assert body["detail"]
    assert body.get("missing_scopes") == (["read"] if row.code == "insufficient_scope" else None)
    assert scene.reached == 0


@pytest.mark.parametrize("by_status", [False, True], ids=["by class", "by status"])
def test_error_handler(scene, row, by_status):
    @scene.app.errorhandler(row.status if by_status else problems.APIKeyProblem)
    def handle(error):
        assert isinstance(error, HTTPException)
        return {"own": error.problem}, error.code

    response = row.attempt(scene)
    assert (response.status_code, response.json) == (row.status, {"own": row.code})
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers.get("WWW-Authenticate") == row.challenge


def test_no_secret_in_answer_or_log(scene, row, caplog, monkeypatch):
    minted = []
    mint = keystring.mint
    monkeypatch.setattr(keystring, "mint", lambda *parts: minted.append(mint(*parts)) or minted[-1])
    with caplog.at_level(logging.DEBUG):
        response = row.attempt(scene)
    shown = caplog.text + response.text + str(response.headers)
    for key in minted:
        secret = key.rpartition("_")[2]
        assert secret not in shown
        assert secret[:12] not in shown


def test_same_answer_without_the_secret(scene):
    answers = {
        (response.status, response.data, str(response.headers))
        for response in (
            malformed(scene),
            unknown(scene),
            wrong_secret(scene),
            wrong_secret_of_a_revoked_key(scene),
            wrong_secret_from_a_refused_address(scene),
            wrong_secret_of_an_expired_key(scene),
            other_environment(scene),
            wrong_secret_of_a_suspended_key(scene),
        )
    }
    assert len(answers) == 1


def test_problem_for_every_refusal():
    assert set(problems._PROBLEMS) == set(Verdict) - {Verdict.ACCEPTED}


def test_accepted_key(scene):
    response = scene.get(scene.issue(name="ci").key)
    assert response.status_code == 200
    assert response.text == "ci"
    assert response.headers["Cache-Control"] == "no-store"
    assert "WWW-Authenticate" not in response.headers


@pytest.mark.parametrize("header", ["Api-Key {}", "api-key {}", "Bearer {}", "bearer {}"])
def test_key_in_authorization(scene, header):
    assert scene.get(Authorization=header.format(scene.issue().key)).status_code == 200


def test_cache_control_of_the_view(scene):
    @scene.app.get("/cached")
    @require_api_key
    def cached():
        return "reached", {"Cache-Control": "private, max-age=60"}

    key = scene.issue().key
    response = scene.app.test_client().get("/cached", headers={"X-API-Key": key})
    assert response.headers.getlist("Cache-Control") == ["private, max-age=60"]


def test_vary_of_cacheable_answers(scene):
    @scene.app.get("/cached")
    @require_api_key(optional=True)
    def cached():
        return "reached", {"Cache-Control": "public, max-age=60", "Vary": "Accept, authorization"}

    for headers in ({"X-API-Key": scene.issue().key}, {}):
        response = scene.app.test_client().get("/cached", headers=headers)
        assert {name.lower() for name in response.vary} == {"accept", "authorization", "x-api-key"}


def test_no_store_of_the_view(scene):
    @scene.app.get("/fresh")
    @require_api_key
    def fresh():
        return "reached", {"Cache-Control": "no-store"}

    response = scene.app.test_client().get("/fresh", headers={"X-API-Key": scene.issue().key})
    assert response.headers.getlist("Cache-Control") == ["no-store"]
    assert "Vary" not in response.headers
    assert "Vary" not in scene.get().headers


def test_no_store_for_a_failing_view(scene):
    scene.app.config["PROPAGATE_EXCEPTIONS"] = False

    @scene.app.get("/broken")
    @require_api_key
    def broken():
        raise RuntimeError("broken")

    response = scene.app.test_client().get("/broken", headers={"X-API-Key": scene.issue().key})
    assert response.status_code == 500
    assert response.headers["Cache-Control"] == "no-store"


def test_error_handler_of_one_class(scene):
    scene.app.register_error_handler(problems.KeyRevoked, lambda _: ("renew your key", 401))
    assert revoked(scene).text == "renew your key"
    assert expired(scene).json["code"] == "key_expired"


def test_challenge_of_an_error_handler(scene):
    scene.app.register_error_handler(401, lambda _: ("", 401, {"WWW-Authenticate": "Own"}))
    assert no_key(scene).headers.getlist("WWW-Authenticate") == ["Own"]


def test_status_of_an_error_handler(scene):
    scene.app.register_error_handler(401, lambda _: ("", 404))
    response = no_key(scene)
    assert response.status_code == 404
    assert "WWW-Authenticate" not in response.headers


class TestTransport:
    @pytest.fixture(autouse=True)
    def _production(self, scene):
        scene.app.testing = False

    def test_same_refusal_without_a_look_up(self, scene):
        good, revoked_key = scene.issue(), scene.issue()
        scene.revoke(revoked_key)
        scene.backend.looked_up.clear()
        responses = [
            scene.get(good.key),
            scene.get(Authorization=f"Api-Key {good.key}"),
            scene.get(Authorization=f"Bearer {good.key}"),
            scene.get(revoked_key.key),
            scene.get(another_secret(good)),
            scene.get("nonsense"),
            scene.get(""),
            scene.get("x" * 5000),
            scene.get(Authorization="Basic dTpw"),
            scene.get(),
        ]
        assert {(r.status, r.data, str(r.headers)) for r in responses} == {
            (responses[0].status, responses[0].data, str(responses[0].headers))
        }
        assert responses[0].json["code"] == "https_required"
        assert scene.backend.looked_up == []

    @pytest.mark.parametrize("reason", ["https", "debug", "testing"])
    def test_allowed_transport(self, scene, reason):
        if reason != "https":
            setattr(scene.app, reason, True)
        key = scene.issue().key
        assert scene.get(key, base_url=SECURE if reason == "https" else PLAIN).status_code == 200

    def test_forwarding_headers(self, scene):
        headers = {"X-Forwarded-Proto": "https", "Forwarded": "proto=https", "X-Forwarded-Ssl": "on"}
        assert scene.get(scene.issue().key, **headers).json["code"] == "https_required"


@pytest.mark.parametrize("relaxed", ["TESTING", "DEBUG"])
def test_https_enforced_while_testing(make_app, backend, clock, relaxed):
    scene = Scene(make_app(APIKEY_ENFORCE_HTTPS=True, **{"TESTING": False, relaxed: True}), backend, clock)
    assert scene.get(scene.issue().key).json["code"] == "https_required"


def test_plain_http_allowed(make_app, backend, clock):
    scene = Scene(make_app(APIKEY_ENFORCE_HTTPS=False, TESTING=False), backend, clock)
    assert scene.get(scene.issue().key).status_code == 200


class TestAddress:
    @pytest.mark.parametrize(
        ("allowed", "denied", "address", "status"),
        [
            ([], [], "192.0.2.1", 200),
            ([], [], "", 200),
            (["192.0.2.0/24"], [], "192.0.2.255", 200),
            (["192.0.2.0/24"], [], "192.0.3.0", 403),
            (["192.0.2.1"], [], "192.0.2.1", 200),
            (["192.0.2.1"], [], "192.0.2.10", 403),
            (["2001:db8::/32"], [], "2001:db8::1", 200),
            (["2001:db8::/32"], [], "2001:DB8:0::1", 200),
            (["2001:db8::/32"], [], "2001:db9::1", 403),
            (["0.0.0.0/0"], [], "2001:db8::1", 403),
            (["::/0", "0.0.0.0/0"], [], "192.0.2.1", 200),
            ([], ["192.0.2.0/24"], "192.0.2.1", 403),
            ([], ["192.0.2.0/24"], "192.0.3.1", 200),
            (["192.0.2.0/24"], ["192.0.2.1"], "192.0.2.1", 403),
            (["192.0.2.0/24"], ["192.0.2.1"], "192.0.2.2", 200),
            (["192.0.2.0/24"], [], "", 403),
            (["0.0.0.0/0", "::/0"], [], "unix:", 403),
            ([], ["192.0.2.1"], "unix:", 403),
            ([], ["192.0.2.1"], "", 403),
            ([], ["192.0.2.0/24"], "::ffff:192.0.2.1", 403),
            (["192.0.2.0/24"], [], "::ffff:192.0.2.1", 200),
            (["::ffff:192.0.2.0/120"], [], "192.0.2.1", 200),
            (["fe80::1%eth0"], [], "fe80::1%eth1", 200),
        ],
    )
    def test_lists(self, scene, allowed, denied, address, status):
        key = scene.issue(allowed_ips=allowed, denied_ips=denied).key
        assert scene.get(key, address=address).status_code == status

    def test_address_in_a_header(self, scene):
        key = scene.issue(allowed_ips=["192.0.2.1"]).key
        headers = dict.fromkeys(("X-Forwarded-For", "X-Real-IP", "X-Client-IP", "True-Client-IP"), "192.0.2.1") | {
            "Forwarded": "for=192.0.2.1"
        }
        assert scene.get(key, **headers).status_code == 403


class TestLookUps:
    def test_one_look_up_per_request(self, scene):
        scene.app.get("/twice", endpoint="twice")(require_api_key(require_api_key(scopes=["read"])(lambda: "reached")))
        key = scene.issue().key
        scene.backend.looked_up.clear()
        assert scene.app.test_client().get("/twice", headers={"X-API-Key": key}).status_code == 200
        assert len(scene.backend.looked_up) == 1

    @pytest.mark.parametrize("attempt", [unknown, wrong_secret, revoked, expired, address_denied, scope_missing])
    def test_one_look_up_per_refusal(self, scene, attempt):
        assert attempt(scene).status_code in (401, 403)
        assert len(scene.backend.looked_up) - (attempt is revoked) == 1  # revoking looks it up too

    @pytest.mark.parametrize("attempt", [no_key, another_scheme, malformed, empty, conflicting])
    def test_no_look_up_of_malformed_keys(self, scene, attempt):
        assert attempt(scene).status_code == 401
        assert scene.backend.looked_up == []

    def test_open_view(self, scene):
        scene.app.get("/open", endpoint="open")(lambda: "open")
        key = scene.issue().key
        for sent in (key, "nonsense"):
            response = scene.app.test_client().get("/open", headers={"X-API-Key": sent})
            assert (response.status_code, "Cache-Control" in response.headers) == (200, False)
        assert scene.backend.looked_up == []


class TestUnavailable:
    def test_log_and_recovery(self, scene, caplog):
        issued = scene.issue()
        scene.backend.failure = StorageError("the database failed: connection refused")
        assert scene.get(issued.key).status_code == 503
        (record,) = [record for record in caplog.records if record.name.startswith("flask_apikey")]
        assert record.levelno >= logging.ERROR
        assert "connection refused" in record.getMessage()
        assert issued.key.rpartition("_")[2] not in caplog.text
        scene.backend.failure = None
        assert scene.get(issued.key).status_code == 200

    def test_unexpected_error_of_a_backend(self, scene):
        scene.app.config["PROPAGATE_EXCEPTIONS"] = False
        key = scene.issue().key
        scene.backend.failure = ZeroDivisionError()
        assert scene.get(key).status_code >= 500
        assert scene.reached == 0

    def test_row_sealed_under_another_fernet_key(self, make_app, backend, clock, caplog):
        key = Scene(make_app(), backend, clock).issue().key
        other = Scene(make_app(APIKEY_FERNET_KEY=generate_fernet_key()), backend, clock)
        response = other.get(key)
        assert response.status_code == 503
        assert response.json["code"] == "unavailable"
        assert "APIKEY_FERNET_KEY_FALLBACKS" in caplog.text
        assert other.reached == 0

    def test_missing_tables(self, make_app, tmp_path, caplog):
        app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path / 'keys.db'}")
        api_keys = APIKeys(app)
        app.get("/", endpoint="view")(require_api_key(lambda: "reached"))
        key = keystring.mint("fak", keystring.new_id())
        assert app.test_client().get("/", headers={"X-API-Key": key}).status_code == 503
        assert "flask apikey init" in caplog.text
        with app.app_context():
            api_keys.init_storage()
            key = api_keys.create(name="ci").key
        assert app.test_client().get("/", headers={"X-API-Key": key}).status_code == 200


class TestTimeOfFailures:
    """Delays of refusals, measured as the arguments of `time.sleep`."""

    @pytest.fixture
    def waits(self, monkeypatch):
        waits = []
        monkeypatch.setattr("flask_apikey.request.hooks.time.sleep", waits.append)
        return waits

    @pytest.fixture
    def scene(self, make_app, backend, clock):
        return Scene(make_app(APIKEY_MIN_FAILURE_TIME="1s"), backend, clock)

    @pytest.mark.parametrize("attempt", [malformed, unknown, wrong_secret, revoked, expired, address_denied])
    def test_refused_key(self, scene, waits, attempt):
        attempt(scene)
        (wait,) = waits
        assert 0 < wait <= 1

    def test_no_delay_without_a_refused_key(self, scene, waits):
        assert scene.get(scene.issue().key).status_code == 200
        no_key(scene)
        assert waits == []

    def test_zero(self, make_app, backend, clock, waits):
        malformed(Scene(make_app(APIKEY_MIN_FAILURE_TIME=0), backend, clock))
        assert waits == []


def test_accepted_prefixes_of_an_application(make_app, backend, clock):
    """Applications on one storage, as before and after a change of the prefix."""
    old = Scene(make_app(APIKEY_PREFIX="acme_old"), backend, clock)
    issued = old.issue()
    statuses = {}
    for accepted in (["acme_new"], ["acme_new", "acme_old"]):
        new = Scene(make_app(APIKEY_PREFIX="acme_new", APIKEY_ACCEPTED_PREFIXES=accepted), backend, clock)
        assert new.get(new.issue().key).status_code == 200
        answers = [new.get(issued.key), *(new.get(Authorization=f"{s} {issued.key}") for s in ("Api-Key", "Bearer"))]
        statuses[len(accepted)] = [(each.json or {}).get("code", each.status_code) for each in answers]
        assert new.works(issued) == [len(accepted) == 2]
    assert statuses == {1: ["invalid_key", "invalid_key", "missing_key"], 2: [200, 200, 200]}
