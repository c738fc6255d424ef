"""Report mode: requests that would be refused pass, and are recorded."""

import asyncio
import time
from datetime import timedelta
from functools import partial

import pytest
from flask import Blueprint, request
from sqlalchemy import text
from werkzeug.exceptions import Unauthorized

from flask_apikey import (
    APIKeys,
    ConfigurationError,
    InvalidValue,
    api_key_exempt,
    check_api_key,
    current_api_key,
    require_api_key,
    signals,
)
from flask_apikey.core.model.keystring import mint
from flask_apikey.leaks import leak_intake_blueprint
from flask_apikey.management import management_blueprint
from flask_apikey.pages import operator_blueprint, portal_blueprint
from flask_apikey.prometheus import usage_metrics_blueprint
from flask_apikey.self_service import self_service_blueprint
from tests.support.report_app import ReportScene, new_checking_view, new_view

OPEN = ["/named/plain", "/named/decorated", "/named/inside", "/decorated"]
CLOSED = ["/closed", "/closed-inside"]
EVERYWHERE = "/everywhere"


@pytest.fixture
def config():
    return {}


@pytest.fixture
def scene(make_app, clock, config):
    return ReportScene(
        make_app(APIKEY_PROTECT_ALL=True, APIKEY_ENFORCEMENT="report", APIKEY_USAGE_FLUSH_INTERVAL="1h", **config),
        clock,
    )


def broken_seal(scene, issued):
    with scene.backend._opened.get().engine.begin() as connection:
        connection.execute(text("UPDATE flask_apikey_keys SET name = 'other'"))
    return issued.key


def forged(issued):
    """Return a key with the id of another."""
    return mint(issued.record.prefix, issued.record.id)


def ended(scene, method):
    issued = scene.issue(scopes=["read"], owner="team-7")
    scene.do(method, issued.record.id)
    return issued.key


def late(scene):
    issued = scene.issue(scopes=["read"], owner="team-7", lifetime="1d")
    scene.clock.advance(timedelta(days=2))
    return issued.key


VERDICTS = {
    "missing": lambda scene: None,
    "malformed": lambda scene: "x",
    "unknown": lambda scene: mint(scene.issue().record.prefix, "8sQ2dKf0LmX7Tz1B"),
    "wrong_secret": lambda scene: forged(scene.issue(scopes=["read"])),
    "revoked": lambda scene: ended(scene, "revoke"),
    "suspended": lambda scene: ended(scene, "suspend"),
    "expired": late,
    "address_refused": lambda scene: scene.issue(scopes=["read"], allowed_ips=["192.0.2.1"], owner="team-7").key,
    "insufficient_scope": lambda scene: scene.issue(scopes=["write"], owner="team-7").key,
    "tampered": lambda scene: broken_seal(scene, scene.issue(scopes=["read"])),
}
PROVEN = {"revoked", "suspended", "expired", "address_refused", "insufficient_scope"}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_refusal_passes_without_identity(scene, verdict):
    """It is counted with its key only if that is proven, and never as a refusal or an accepted request."""
    key = VERDICTS[verdict](scene)
    refused = []
    with signals.api_key_refused.connected_to(refused.append, scene.app):
        answers = [scene.get(path, key) for path in OPEN]
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "nobody")] * len(OPEN)
    rows = scene.would_refuse()
    is_proven = verdict in PROVEN
    owner = "team-7" if is_proven else ""
    assert sorted(row[1] for row in rows) == sorted(OPEN)
    assert {(row[0], bool(row[2]), *row[3:]) for row in rows} == {(verdict, is_proven, owner, 1)}
    assert [reason for reason, _ in scene.marked()] == [verdict] * len(OPEN)
    report = scene.do("usage")
    assert (report.total, report.refused, refused) == (0, 0, [])
    assert not scene.backend.usage.last_uses([row[2] for row in rows])


@pytest.mark.parametrize("path", [*OPEN, EVERYWHERE, *CLOSED])
def test_valid_key_is_accepted_as_ever(scene, path):
    issued = scene.issue(scopes=["read"])
    response = scene.get(path, issued.key)
    assert (response.status_code, response.text) == (200, issued.record.id)
    assert scene.would_refuse() == scene.marked() == []
    assert scene.do("usage").total == 1


@pytest.mark.parametrize("path", CLOSED)
def test_setting_opens_no_view_that_requires_a_key_itself(scene, path):
    for key, status in ((None, 401), ("x", 401), (scene.issue(scopes=["write"]).key, 403)):
        assert scene.get(path, key).status_code == status


def test_setting_opens_what_is_protected_by_protect_all_only(scene):
    assert scene.get(EVERYWHERE).text == "nobody"
    assert scene.get("/nowhere").status_code == 404
    assert [row[:2] for row in scene.would_refuse()] == [("missing", "(unmatched)"), ("missing", EVERYWHERE)]


@pytest.mark.parametrize("enforcement", ["on", "report"])
def test_blueprint_and_decorator_are_reported_whatever_the_setting(make_app, clock, enforcement):
    scene = ReportScene(make_app(APIKEY_PROTECT_ALL=True, APIKEY_ENFORCEMENT=enforcement), clock)
    assert [scene.get(path).status_code for path in OPEN] == [200] * 4
    assert scene.get(EVERYWHERE).status_code == (200 if enforcement == "report" else 401)


def test_reports_nothing_without_protect_all(make_app, clock):
    scene = ReportScene(make_app(APIKEY_ENFORCEMENT="report"), clock)
    assert scene.get(EVERYWHERE).text == "nobody"
    assert scene.get("/closed").status_code == 401
    assert scene.would_refuse() == []


@pytest.mark.parametrize("value", ["off", "Report", "", None, True, ["report"]])
def test_other_value_is_refused_at_start(make_app, value):
    with pytest.raises(ConfigurationError, match="APIKEY_ENFORCEMENT: must be one of 'on', 'report'"):
        APIKeys(make_app(APIKEY_ENFORCEMENT=value))


@pytest.mark.parametrize("report", ["no", 1, None])
def test_report_is_true_or_false(api_keys, report):
    with pytest.raises(InvalidValue, match="report must be True or False"):
        require_api_key(report=report)
    with pytest.raises(InvalidValue, match="report must be True or False"):
        api_keys.protect(Blueprint("b", __name__), report=report)


def nested(scene, outer_report, inner_report, view, *, inner=True):
    """Register a view in a blueprint within a blueprint."""
    blueprints = Blueprint("outer", __name__), Blueprint("inner", __name__, url_prefix="/nested")
    scene.api_keys.protect(blueprints[0], report=outer_report)
    if inner:
        scene.api_keys.protect(blueprints[1], scopes=["read"], report=inner_report)
    blueprints[1].get("")(view)
    blueprints[0].register_blueprint(blueprints[1])
    scene.app.register_blueprint(blueprints[0])
    return [scene.get("/nested", key).status_code for key in (None, scene.issue().key)]


class TestNestedBlueprints:
    """Each blueprint decides on what it requires."""

    @pytest.mark.parametrize(
        ("outer", "inner", "statuses"),
        [(True, True, [200, 200]), (False, True, [401, 200]), (True, False, [401, 403]), (False, False, [401, 403])],
    )
    def test_each_of_two(self, scene, outer, inner, statuses):
        assert nested(scene, outer, inner, new_view()) == statuses

    @pytest.mark.parametrize(
        "view", [lambda: require_api_key(scopes=["read"])(new_view()), new_checking_view], ids=["wrapper", "check"]
    )
    def test_outer_name_does_not_open_a_view_that_requires_a_key_itself(self, scene, view):
        assert nested(scene, True, None, view(), inner=False) == [401, 403]

    def test_exempt_view_that_requires_a_key_itself_stays_closed(self, scene):
        assert nested(scene, True, True, api_key_exempt(require_api_key(scopes=["read"])(new_view()))) == [401, 403]

    def test_exempt_view_is_not_recorded(self, scene):
        assert nested(scene, True, True, api_key_exempt(new_view())) == [200, 200]
        assert scene.would_refuse() == []

    def test_optional_view_under_protect_all(self, scene):
        """Protection by the setting is reported, and a bad key is refused as ever."""
        scene.app.get("/optional")(require_api_key(optional=True)(new_view()))
        assert [scene.get("/optional", key).status_code for key in (None, "x")] == [200, 401]
        assert [row[0] for row in scene.would_refuse()] == ["missing"]


def test_every_decorator_must_report(scene):
    scene.app.get("/both")(require_api_key(scopes=["a"])(require_api_key(report=True)(new_view())))
    assert scene.get("/both").status_code == 401


def test_protecting_a_blueprint_twice_must_report_twice(scene):
    blueprint = Blueprint("twice", __name__)
    scene.api_keys.protect(blueprint)
    scene.api_keys.protect(blueprint, report=True)
    blueprint.get("/twice")(new_view())
    scene.app.register_blueprint(blueprint)
    assert scene.get("/twice").status_code == 401


def test_hidden_wrapper_is_not_opened_by_a_reported_one(scene):
    inner = require_api_key(new_view())
    scene.app.config["PROPAGATE_EXCEPTIONS"] = False
    scene.app.get("/hidden")(require_api_key(report=True)(lambda *_: inner()))
    assert scene.get("/hidden").status_code == 500


def test_coroutine_view(scene):
    @scene.app.get("/coroutine")
    @require_api_key(scopes=["read"], report=True)
    async def coroutine():
        await asyncio.sleep(0)
        check_api_key(scopes=["write"])
        return new_view()()

    assert scene.get("/coroutine").text == "nobody"
    assert scene.get("/coroutine", scene.issue(scopes=["read"]).key).text == "nobody"
    assert {row[0] for row in scene.would_refuse()} == {"missing", "insufficient_scope"}


def test_failed_check_inside_takes_the_identity(scene):
    """A key that was not accepted has no owner and no scopes for the rest of the view."""
    issued, seen = scene.issue(scopes=["read"], quota="5/day"), []

    @scene.app.get("/inside")
    @require_api_key(scopes=["read"], report=True)
    def inside():
        seen.append(bool(current_api_key))
        check_api_key(scopes=["write"])
        seen.append(bool(current_api_key))
        with pytest.raises(AttributeError):
            _ = current_api_key.owner
        return {}

    assert scene.get("/inside", issued.key).status_code == 200
    assert seen == [True, False]
    assert scene.do("limits", issued.record.id).quota.remaining == 5
    assert scene.do("usage").total == 0


def test_owner_loader_is_not_called_for_a_refused_key(scene):
    loaded = []
    scene.api_keys.owner_loader(loaded.append)
    assert scene.get("/named/plain", ended(scene, "revoke")).text == "nobody"
    assert loaded == []


@pytest.mark.parametrize("config", [{"APIKEY_FAILURE_LIMIT": "1/minute"}])
def test_failed_attempts_take_no_budget_and_hold_no_worker(scene, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("a worker waits"))
    issued = scene.issue(scopes=["read"])
    assert [scene.get("/named/plain", forged(issued)).text for _ in range(5)] == ["nobody"] * 5
    assert scene.get("/closed", issued.key).text == issued.record.id


@pytest.mark.parametrize("config", [{"APIKEY_FAILURE_LIMIT": "1/minute", "APIKEY_MIN_FAILURE_TIME": "0s"}])
def test_check_that_refuses_takes_the_budget(scene):
    """The hook has decided without it, as only the setting protects the view."""
    assert scene.get("/closed-inside", "x").status_code == 401
    assert scene.get("/closed-inside", "x").status_code == 429


@pytest.mark.parametrize("limits", [{"rate": "1/minute"}, {"quota": "1/day"}], ids=["rate", "quota"])
def test_limits_are_recorded_and_not_charged(scene, limits):
    issued = scene.issue(scopes=["read"], **limits)
    assert [scene.get("/named/plain", issued.key).text for _ in range(3)] == [issued.record.id, "nobody", "nobody"]
    (row,) = scene.would_refuse()
    assert row[0] == ("rate_limited" if "rate" in limits else "quota_exceeded")
    assert (row[2], row[4], scene.do("usage").total) == (issued.record.id, 2, 1)


def test_missing_scope_is_not_charged(scene):
    issued = scene.issue(scopes=["write"], quota="3/day")
    for path in OPEN:
        scene.get(path, issued.key)
    assert scene.do("limits", issued.record.id).quota.remaining == 3


def test_answers_without_a_key_keep_their_caching_headers(scene):
    response = scene.get("/named/plain")
    assert response.headers["Cache-Control"] == "public, max-age=60"
    assert "Vary" not in response.headers
    assert "WWW-Authenticate" not in response.headers


@pytest.mark.parametrize("key", ["x", None], ids=["bad", "good"])
def test_answers_with_a_key_stay_out_of_shared_caches(scene, key):
    response = scene.get("/named/plain", key or scene.issue(scopes=["read"]).key)
    assert {"Authorization", "X-API-Key"} <= {name.strip() for name in response.headers["Vary"].split(",")}


@pytest.mark.parametrize("path", ["/named/any", "/any"])
def test_preflight_is_neither_answered_nor_recorded(scene, path):
    blueprint = Blueprint("any", __name__, url_prefix="/named")
    scene.api_keys.protect(blueprint, report=True)
    view = require_api_key(report=True)(lambda: ("the view", 202))
    for target in (blueprint, scene.app):
        target.route("/any", methods=["OPTIONS"], endpoint="any")(view)
    scene.app.register_blueprint(blueprint)
    headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}
    assert scene.client.options(path, headers=headers).text == "the view"
    assert scene.would_refuse() == []
    assert scene.client.options(path).text == "the view"
    assert [row[:2] for row in scene.would_refuse()] == [("missing", path)]


@pytest.mark.parametrize("config", [{"APIKEY_ENFORCE_HTTPS": True}])
def test_plain_http_passes(scene):
    issued = scene.issue(scopes=["read"])
    assert [scene.get("/named/plain", key).text for key in (None, issued.key)] == ["nobody"] * 2
    assert [row[0] for row in scene.would_refuse()] == ["insecure_transport"]
    assert scene.get("/closed", issued.key).status_code == 403


def test_storage_down(make_app, clock, backend):
    backend.usage = backend.inner.usage
    scene = ReportScene(make_app(APIKEY_PROTECT_ALL=True, APIKEY_ENFORCEMENT="report"), clock, backend=backend)
    key = scene.issue(scopes=["read"]).key
    backend.failure = ConnectionError("down")
    scene.audited.clear()
    assert [scene.get(path, key).text for path in OPEN] == ["nobody"] * 4
    assert {(event.event, event.outcome) for event in scene.audited} == {
        ("storage", "failure"),
        ("would_refuse", "failure"),
    }
    assert scene.get("/closed", key).status_code == 503
    assert {row[0] for row in scene.would_refuse()} == {"unavailable"}


def test_unreachable_storage(make_app, clock, unused_port):
    """The counts of requests without a key wait in memory."""
    app = make_app(
        APIKEY_PROTECT_ALL=True,
        APIKEY_ENFORCEMENT="report",
        APIKEY_STORAGE_URI=f"postgresql://nobody@127.0.0.1:{unused_port}/none",
    )
    APIKeys(app, clock=clock)
    app.get("/")(new_view())
    assert [app.test_client().get("/").text for _ in range(2)] == ["nobody"] * 2


def test_signal(scene):
    received = []
    with signals.api_key_would_refuse.connected_to(lambda app, decision: received.append(decision.verdict.name)):
        scene.get("/named/plain")
        scene.get("/named/plain", ended(scene, "revoke"))
        scene.get("/closed")
    assert received == ["MISSING", "REVOKED"]


def test_one_record_for_a_request(scene):
    """Hook and checks inside fail, and the view fails afterwards."""

    @scene.app.get("/several")
    @require_api_key(report=True)
    def several():
        check_api_key()
        check_api_key(scopes=["write"])
        raise Unauthorized

    assert scene.get("/several").status_code == 401
    assert scene.would_refuse() == [("missing", "/several", "", "", 1)]
    assert scene.marked() == [("missing", None)]


@pytest.mark.parametrize(
    "attempt",
    [
        {"headers": {"X-APIKEY-ENFORCEMENT": "report", "X-HTTP-Method-Override": "OPTIONS"}},
        {"query_string": {"report": "True", "APIKEY_ENFORCEMENT": "report"}},
        {"headers": {"Origin": "https://shop.example", "Access-Control-Request-Method": "GET"}},
    ],
    ids=["header", "query", "preflight"],
)
def test_request_cannot_switch_it_on(scene, attempt):
    assert scene.get("/closed", **attempt).status_code == 401


def test_setting_changed_later_has_no_effect(make_app, clock):
    scene = ReportScene(make_app(APIKEY_PROTECT_ALL=True), clock)
    scene.app.config["APIKEY_ENFORCEMENT"] = "report"
    assert scene.get(EVERYWHERE).status_code == 401


def test_view_chosen_by_another_function_is_enforced(scene):
    """The hook had let the request pass for another view."""

    @scene.app.before_request
    def choose():
        request.url_rule = next(rule for rule in scene.app.url_map.iter_rules() if rule.rule == "/closed")

    assert scene.get("/decorated").status_code == 401
    issued = scene.issue(scopes=["read"])
    assert scene.get("/decorated", issued.key).text == issued.record.id


def test_other_application_in_the_same_request(scene, make_app, clock):
    """Report mode of one application opens nothing of another."""
    other = ReportScene(make_app(), clock)
    statuses = []

    @scene.app.get("/outer")
    def outer():
        statuses.append(other.get("/closed").status_code)
        with other.app.app_context(), pytest.raises(Unauthorized):
            check_api_key()
        return {}

    scene.get("/outer")
    assert statuses == [401]


BLUEPRINTS = {
    "self-service": self_service_blueprint,
    "management": management_blueprint,
    "intake": leak_intake_blueprint,
    "operator": partial(operator_blueprint, authorize=lambda: None),
    "portal": partial(portal_blueprint, owner=lambda: None),
    "metrics": usage_metrics_blueprint,
}


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprints_of_the_library_stay_closed(make_app, clock, name):
    """Neither the setting nor a named blueprint around them opens them, and they cannot be named."""
    statuses = []
    for enforcement, report in (("on", False), ("report", True)):
        statuses.append({})
        scene = ReportScene(
            make_app(APIKEY_PROTECT_ALL=True, APIKEY_ENFORCEMENT=enforcement, SECRET_KEY="made up"), clock
        )
        blueprint = BLUEPRINTS[name](scene.api_keys)
        with pytest.raises(InvalidValue, match="is never open"):
            scene.api_keys.protect(blueprint, report=True)
        around = Blueprint("around", __name__, url_prefix="/around")
        scene.api_keys.protect(around, report=report)
        around.register_blueprint(blueprint)
        scene.app.register_blueprint(around)
        for rule in scene.app.url_map.iter_rules():
            if rule.endpoint.startswith("around.") and "<" not in rule.rule:
                methods = rule.methods - {"OPTIONS"}
                statuses[-1] |= {
                    (rule.rule, each): scene.client.open(rule.rule, method=each).status_code for each in methods
                }
    assert statuses[0] == statuses[1]
    assert set(statuses[1].values()) & {401, 403, 400}
