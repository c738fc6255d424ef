"""Self-service of key holders, with the key as the only credential."""

import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from flask import Blueprint

from flask_apikey import APIKeys, InvalidValue, StorageError, api_key_exempt, require_api_key
from flask_apikey.core.keys.grace import MAX_SECRETS
from flask_apikey.problems import APIKeyProblem
from flask_apikey.request.protected_views import Protection, protected_views
from flask_apikey.self_service import MAX_BODY_BYTES, self_service_blueprint
from tests.support.keys import KeyScene

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Scene(KeyScene):
    """Application with the self-service, on a watched storage."""

    def __init__(self, app, backend, clock, **options):
        super().__init__(app, clock, backend=backend)
        app.register_blueprint(self_service_blueprint(self.api_keys, **options))
        app.get("/", endpoint="view")(require_api_key(lambda: "ok"))

    def issue(self, name="ci", **attributes):
        return super().issue(name, **{"lifetime": 90 * DAY, **attributes})

    def ask(self, method, path, key=None, *, address="127.0.0.1", base_url="http://localhost", **options):
        headers = {"X-API-Key": key} if key else {}
        return self.app.test_client().open(
            f"/api-key{path}",
            method=method,
            headers=headers,
            base_url=base_url,
            environ_overrides={"REMOTE_ADDR": address},
            **options,
        )

    def post_roll(self, key, **body):
        return self.ask("POST", "/roll", key, json=body)

    def revoke(self, key):
        return self.ask("POST", "/revoke", key)

    def record(self, issued):
        return self.do("get", issued.record.id)

    def works(self, key):
        return self.do("verify", key, address="127.0.0.1").accepted


@pytest.fixture
def scene(app, backend, clock):
    return Scene(app, backend, clock)


def code(answer):
    assert answer.mimetype == "application/problem+json"
    assert answer.json["status"] == answer.status_code
    return answer.status_code, answer.json["code"]


ROUTES = [("GET", ""), ("DELETE", ""), ("POST", "/roll"), ("POST", "/revoke")]
REVOKING_ROUTES = [("DELETE", ""), ("POST", "/revoke")]

AS_JSON = {"content_type": "application/json"}
BAD_GRACES = ["null", "true", "[]", "{}", '""', '"soon"', '"1 h"', "-1", "-1e-6", "NaN", "Infinity", "1e999"]
BAD_GRACES += ["604800.000001", '"8d"', '"999999999w"', "9" * 400]
BAD_BODIES = [
    {"data": "{", **AS_JSON},
    {"data": "[1]", **AS_JSON},
    {"data": "null", **AS_JSON},
    {"data": "60", **AS_JSON},
    {"data": b'{"grace": "\xff"}', **AS_JSON},
    {"data": "[" * MAX_BODY_BYTES, **AS_JSON},
    {"data": '{"grace": "60s"}' + " " * MAX_BODY_BYTES, **AS_JSON},
    {"data": '{"grace": "60s"}', "headers": {"Transfer-Encoding": "chunked"}, **AS_JSON},
    {"data": '{"grace": "60s"}', "content_type": "text/plain"},
    {"data": {"grace": "60"}},
    *({"data": f'{{"grace": {grace}}}', **AS_JSON} for grace in BAD_GRACES),
]


class TestAccess:
    def test_routes_need_registration(self, client):
        assert [client.open(f"/api-key{path}", method=method).status_code for method, path in ROUTES] == [404] * 4

    @pytest.mark.parametrize(("method", "path"), ROUTES)
    def test_missing_or_invalid_key(self, scene, method, path):
        assert code(scene.ask(method, path)) == (401, "missing_key")
        assert code(scene.ask(method, path, "nonsense")) == (401, "invalid_key")

    @pytest.mark.parametrize(("method", "path"), ROUTES)
    @pytest.mark.parametrize("end", ["revoked", "expired"])
    def test_revoked_or_expired_key(self, scene, clock, method, path, end):
        issued = scene.issue(lifetime=HOUR)
        if end == "revoked":
            scene.do("revoke", issued.record.id)
        else:
            clock.advance(HOUR)
        before = scene.record(issued)
        assert code(scene.ask(method, path, issued.key)) == (401, f"key_{end}")
        assert scene.record(issued) == before

    @pytest.mark.parametrize(("method", "path"), ROUTES)
    def test_plain_http(self, scene, method, path):
        scene.app.testing = False
        issued = scene.issue()
        assert code(scene.ask(method, path, issued.key)) == (403, "https_required")
        assert scene.record(issued) == issued.record
        assert scene.ask(method, path, issued.key, base_url="https://localhost").status_code == 200

    @pytest.mark.parametrize(("method", "path"), ROUTES)
    def test_address_not_allowed(self, scene, method, path):
        issued = scene.issue(allowed_ips=["10.0.0.0/8"])
        assert code(scene.ask(method, path, issued.key)) == (403, "address_not_allowed")
        assert scene.record(issued) == issued.record
        assert scene.ask(method, path, issued.key, address="10.1.1.1").status_code == 200

    @pytest.mark.parametrize(("method", "path"), ROUTES)
    def test_key_without_scopes(self, scene, method, path):
        assert scene.ask(method, path, scene.issue(scopes=[]).key).status_code == 200

    def test_exempt_parent_blueprint_stays_protected(self, make_app, backend, clock):
        app = make_app(APIKEY_PROTECT_ALL=True)
        api_keys = APIKeys(app, backend=backend, clock=clock)
        parent = api_key_exempt(Blueprint("parent", __name__, url_prefix="/public"))
        parent.get("/open")(lambda: "ok")
        parent.register_blueprint(self_service_blueprint(api_keys))
        app.register_blueprint(parent)
        client = app.test_client()
        assert client.get("/public/open").status_code == 200
        answers = [client.open(f"/public/api-key{path}", method=method) for method, path in ROUTES]
        assert [answer.status_code for answer in answers] == [401] * 4
        assert {
            view.protection for view in protected_views(app, protect_all=False) if "self_service" in view.endpoint
        } == {Protection.REQUIRED}

    def test_custom_url_prefix(self, make_app, backend, clock):
        app = make_app()
        api_keys = APIKeys(app, backend=backend, clock=clock)
        app.register_blueprint(self_service_blueprint(api_keys), url_prefix="/me/key")
        client = app.test_client()
        assert [client.get(path).status_code for path in ("/me/key", "/api-key")] == [401, 404]

    @pytest.mark.parametrize("has_extension", [True, False], ids=["another extension", "no extension"])
    @pytest.mark.parametrize(("method", "path"), ROUTES[1:])
    def test_application_without_this_extension(self, scene, make_app, method, path, has_extension):
        issued, other = scene.issue(), make_app(PROPAGATE_EXCEPTIONS=False)
        if has_extension:
            APIKeys(other, backend=scene.backend, clock=scene.clock)
        other.register_blueprint(self_service_blueprint(scene.api_keys))
        answer = other.test_client(api_key=issued.key).open(f"/api-key{path}", method=method)
        assert answer.status_code == 500
        assert scene.record(issued) == issued.record


class TestShow:
    def test_details(self, scene, clock):
        issued = scene.issue(
            owner="team-7",
            scopes=["write", "read"],
            allowed_ips=["127.0.0.0/8"],
            denied_ips=["127.0.0.9"],
            metadata={"plan": "internal"},
        )
        now = clock()
        answer = scene.ask("GET", "", issued.key)
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.json == {
            "id": issued.record.id,
            "name": "ci",
            "status": "active",
            "scopes": ["read", "write"],
            "allowed_ips": ["127.0.0.0/8"],
            "created_at": now.isoformat(),
            "expires_at": (now + 90 * DAY).isoformat(),
            "rolled_at": None,
            "secret": "newest",
            "secret_ends_at": (now + 90 * DAY).isoformat(),
            "limits": {"plan": None, "shared": False, "windows": [], "quota": None},
        }

    def test_previous_secret_and_its_expiry(self, scene, clock):
        old = scene.issue(lifetime=None)
        new = scene.do("roll", old.record.id, grace=HOUR)
        shown = scene.ask("GET", "", old.key).json
        assert (shown["secret"], shown["secret_ends_at"]) == ("previous", (clock() + HOUR).isoformat())
        shown = scene.ask("GET", "", new.key).json
        assert (shown["secret"], shown["secret_ends_at"]) == ("newest", None)
        assert shown["rolled_at"] == clock().isoformat()


class TestRoll:
    def test_response_has_working_key(self, scene, clock):
        issued = scene.issue()
        answer = scene.post_roll(issued.key)
        key = answer.json["key"]
        now = clock().isoformat()
        assert answer.json == {
            "key": key,
            "id": issued.record.id,
            "expires_at": (clock() + 90 * DAY).isoformat(),
            "rolled_at": now,
            "previous_secret_ends_at": now,
        }
        assert answer.headers["Cache-Control"] == "no-store"
        assert scene.works(key)
        assert not scene.works(issued.key)

    @pytest.mark.parametrize("grace", ["3600s", "1h", "60m"])
    def test_previous_secret_works_during_grace(self, scene, clock, grace):
        issued = scene.issue()
        answer = scene.post_roll(issued.key, grace=grace)
        assert answer.json["previous_secret_ends_at"] == (clock() + HOUR).isoformat()
        assert scene.works(issued.key)
        clock.advance(HOUR)
        assert not scene.works(issued.key)

    def test_roll_changes_no_other_field(self, scene, clock):
        issued = scene.issue(scopes=["read"], owner="team-7", allowed_ips=["127.0.0.1"], metadata={"a": 1})
        clock.advance(HOUR)
        scene.post_roll(issued.key, grace="60s")
        changed = {
            "rolled_at": clock(),
            "previous_secrets_expire_at": (clock() + timedelta(minutes=1),),
            "updated_at": clock(),
            "version": 2,
        }
        assert scene.record(issued) == replace(issued.record, **changed)

    def test_rolls_do_not_extend_lifetime(self, scene, clock):
        issued = scene.issue(lifetime=3 * HOUR)
        key = issued.key
        for _ in range(3):
            key = scene.post_roll(key, grace="7d").json["key"]
            clock.advance(HOUR - timedelta(microseconds=1))
        assert scene.works(key)
        clock.advance(timedelta(microseconds=3))
        assert not scene.works(key)
        assert not scene.works(issued.key)

    @pytest.mark.parametrize(
        "member",
        ["owner", "scopes", "id", "key_id", "name", "lifetime", "expires_at", "allowed_ips", "metadata", "Grace", ""],
    )
    def test_roll_accepts_only_grace(self, scene, member):
        issued, other = scene.issue(), scene.issue()
        answer = scene.ask("POST", "/roll", issued.key, json={"grace": "60s", member: other.record.id})
        assert code(answer) == (400, "invalid_request")
        assert member in answer.json["detail"]
        assert scene.record(issued) == issued.record
        assert scene.record(other) == other.record

    def test_id_in_url_has_no_effect(self, scene):
        issued, other = scene.issue(), scene.issue()
        assert scene.ask("POST", f"/roll/{other.record.id}", issued.key).status_code == 404
        assert scene.ask("POST", f"/roll?id={other.record.id}&scopes=*", issued.key).status_code == 200
        assert scene.record(other) == other.record
        assert scene.record(issued).scopes == frozenset()

    def test_grace_in_the_query_is_refused(self, scene):
        """Without it the roll would end the previous secret at once."""
        issued = scene.issue()
        answer = scene.ask("POST", "/roll?grace=1h", issued.key)
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
        assert scene.ask("GET", "", issued.key).status_code == 200

    @pytest.mark.parametrize("options", BAD_BODIES)
    def test_invalid_body(self, scene, options):
        issued = scene.issue()
        headers = {"X-API-Key": issued.key, **options.pop("headers", {})}
        answer = scene.app.test_client().post("/api-key/roll", headers=headers, **options)
        assert code(answer) == (400, "invalid_request")
        assert answer.json["detail"]
        assert scene.record(issued) == issued.record

    def test_default_max_grace(self, scene):
        assert scene.post_roll(scene.issue().key, grace="7d").status_code == 200
        assert scene.post_roll(scene.issue().key, grace="8d").json["detail"] == "grace: the maximum is 7 days"
        assert scene.post_roll(scene.issue().key, grace="soon").json["detail"] == (
            'grace: expected text such as "24h", or 0; the maximum is 7 days'
        )

    def test_configured_max_grace(self, app, backend, clock):
        scene = Scene(app, backend, clock, max_grace=timedelta(0))
        assert code(scene.post_roll(scene.issue().key, grace="1s")) == (400, "invalid_request")
        assert scene.post_roll(scene.issue().key, grace=0).status_code == 200

    @pytest.mark.parametrize("max_grace", [-DAY, 5, None, timedelta.max])
    def test_invalid_max_grace(self, api_keys, max_grace):
        with pytest.raises(InvalidValue, match="max_grace"):
            self_service_blueprint(api_keys, max_grace=max_grace)

    def test_maximum_number_of_secrets(self, scene):
        key = scene.issue().key
        for _ in range(MAX_SECRETS - 1):
            key = scene.post_roll(key, grace="60s").json["key"]
        assert code(scene.post_roll(key, grace="60s")) == (409, "too_many_secrets")
        assert scene.works(key)
        assert scene.works(scene.post_roll(key).json["key"])

    def test_concurrent_update_is_a_conflict(self, scene):
        issued = scene.issue()
        scene.backend.before_next_update = lambda: scene.do("update", issued.record.id, name="renamed")
        assert code(scene.post_roll(issued.key, grace="60s")) == (409, "conflict")
        assert scene.record(issued).rolled_at is None
        assert scene.works(issued.key)

    def test_concurrent_roll_wins(self, scene, monkeypatch):
        issued, look_up, rolled = scene.issue(), scene.backend.get, []

        def look_up_and_roll(key_id):
            found = look_up(key_id)
            monkeypatch.undo()
            rolled.append(scene.do("roll", key_id, grace=DAY))
            return found

        monkeypatch.setattr(scene.backend, "get", look_up_and_roll)
        assert code(scene.post_roll(issued.key)) == (409, "conflict")
        assert scene.works(rolled[0].key)

    @pytest.mark.parametrize(("method", "path"), ROUTES[1:])
    def test_storage_failure(self, scene, method, path, monkeypatch, caplog):
        issued = scene.issue()

        def fail(key, **_rest):
            raise StorageError("read-only")

        monkeypatch.setattr(scene.backend, "update", fail)
        answer = scene.ask(method, path, issued.key)
        assert code(answer) == (503, "unavailable")
        assert answer.headers["Retry-After"]
        assert [(each.event, each.reason) for each in caplog.records if each.levelname == "ERROR"] == [
            ("storage", "read-only")
        ]
        assert scene.works(issued.key)

    def test_audit_event_has_no_secret(self, scene, caplog):
        issued = scene.issue(owner="team-7")
        with caplog.at_level(logging.INFO, "flask_apikey"):
            key = scene.post_roll(issued.key).json["key"]
        (event,) = [each for each in caplog.records if each.event == "key.rolled"]
        assert (event.outcome, event.key_id, event.owner, event.address) == (
            "success", issued.record.id, "team-7", "127.0.0.1",
        )  # fmt: skip
        assert event.endpoint == "/api-key/roll"
        assert key.rpartition("_")[2] not in caplog.text


class TestRevoke:
    @pytest.mark.parametrize(("method", "path"), REVOKING_ROUTES)
    def test_current_secret_revokes_the_key(self, scene, clock, method, path):
        old = scene.issue()
        new = scene.do("roll", old.record.id, grace=DAY)
        answer = scene.ask(method, path, new.key)
        assert answer.json == {"id": old.record.id, "ended": "key"}
        record = scene.record(old)
        assert (record.revoked_at, record.revocation_reason) == (clock(), "by its holder")
        assert code(scene.ask(method, path, new.key)) == (401, "key_revoked")
        assert not scene.works(old.key)

    @pytest.mark.parametrize(("method", "path"), REVOKING_ROUTES)
    def test_revoke_accepts_no_member(self, scene, method, path):
        issued = scene.issue()
        assert code(scene.ask(method, path, issued.key, json={"id": "x"})) == (400, "invalid_request")
        assert scene.record(issued) == issued.record
        assert scene.ask(method, path, issued.key, json={}).status_code == 200


class TestPreviousSecret:
    """Requests with a previous secret in its grace period, such as one from an old backup of a client."""

    def test_it_cannot_roll(self, scene, caplog):
        old = scene.issue(owner="team-7")
        new = scene.do("roll", old.record.id, grace=DAY)
        assert code(scene.post_roll(old.key, grace="60s")) == (403, "previous_secret")
        assert scene.record(old) == new.record
        (event,) = [each for each in caplog.records if each.event != "key.expiring"]
        assert (event.event, event.outcome, event.reason) == ("key.rolled", "failure", "previous_secret")
        assert (event.key_id, event.owner, event.address) == (old.record.id, "team-7", "127.0.0.1")

    @pytest.mark.parametrize(("method", "path"), REVOKING_ROUTES)
    def test_revoke_ends_only_this_secret(self, scene, method, path):
        first = scene.issue()
        second = scene.do("roll", first.record.id, grace=DAY)
        third = scene.do("roll", first.record.id, grace=DAY)
        answer = scene.ask(method, path, second.key)
        assert answer.json == {"id": first.record.id, "ended": "secret"}
        assert [scene.works(each.key) for each in (first, second, third)] == [True, False, True]
        assert scene.record(first).revoked_at is None
        assert code(scene.ask(method, path, second.key)) == (401, "invalid_key")

    def test_revoke_during_roll_ends_no_other_secret(self, scene):
        first = scene.issue()
        second = scene.do("roll", first.record.id, grace=DAY)
        rolled = []
        scene.backend.before_next_update = lambda: rolled.append(scene.do("roll", first.record.id, grace=DAY))
        assert code(scene.revoke(first.key)) == (409, "conflict")
        assert [scene.works(each.key) for each in (first, second, *rolled)] == [True, True, True]


def test_custom_error_handler(scene):
    @scene.app.errorhandler(APIKeyProblem)
    def refused(problem):
        return {"own": problem.problem}, problem.code

    old = scene.issue()
    scene.do("roll", old.record.id, grace=DAY)
    answer = scene.post_roll(old.key)
    assert (answer.status_code, answer.json) == (403, {"own": "previous_secret"})
