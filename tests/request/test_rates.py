"""Plans and rates in the decision on a request."""

import json
import logging
from datetime import timedelta

import pytest
from werkzeug.exceptions import BadRequest

from flask_apikey import ConfigurationError, InvalidValue, Verdict, problems, require_api_key, signals
from flask_apikey.request import rate_check

PLANS = {
    "free": {"rate": "3/minute"},
    "team": {"rate": "3/minute", "per": "owner"},
    "pro": {"rate": "5/second; 8/minute"},
    "internal": {},
}


def test_refusal(scene):
    issued = scene.issue(plan="free")
    assert scene.statuses(issued, 3) == [200] * 3
    refused = scene.get(issued)
    assert (refused.status_code, refused.content_type) == (429, "application/problem+json")
    assert refused.json == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "code": "rate_limited",
        "detail": "The API key has used up its rate. Try again later.",
    }
    assert refused.headers["Retry-After"] == "60"
    assert refused.headers["Cache-Control"] == "no-store"
    assert "WWW-Authenticate" not in refused.headers


def test_accepted_again_after_the_announced_time(scene, clock):
    issued = scene.issue(rate="2/minute")
    scene.get(issued)
    clock.advance(timedelta(seconds=20))
    scene.get(issued)
    refused = scene.get(issued)
    assert refused.headers["Retry-After"] == "40"
    clock.advance(timedelta(seconds=39))
    assert scene.get(issued).status_code == 429
    clock.advance(timedelta(seconds=1, milliseconds=100))
    assert scene.statuses(issued, 2) == [200, 429]


def test_headers(scene, clock):
    issued = scene.issue(plan="free")
    headers = scene.get(issued).headers
    assert headers["RateLimit-Policy"] == '"default";q=3;w=60'
    assert headers["RateLimit"] == '"default";r=2;t=60'
    clock.advance(timedelta(seconds=10))
    assert scene.get(issued).headers["RateLimit"] == '"default";r=1;t=50'
    scene.get(issued)
    assert scene.get(issued).headers["RateLimit"] == '"default";r=0;t=50'


def test_headers_of_several_rates(scene):
    headers = scene.get(scene.issue(rate="100/5 minutes; 5/second")).headers
    assert headers["RateLimit-Policy"] == '"second";q=5;w=1, "5-minutes";q=100;w=300'
    assert headers["RateLimit"] == '"second";r=4;t=1, "5-minutes";r=99;t=300'


def test_no_headers_without_rates(scene):
    for issued in (scene.issue(), scene.issue(plan="internal")):
        response = scene.get(issued)
        assert response.status_code == 200
        assert "RateLimit" not in response.headers
        assert "RateLimit-Policy" not in response.headers


def test_unlimited_key_costs_no_call(scene, monkeypatch):
    calls = []
    monkeypatch.setattr(rate_check.RateStorage, "take", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(rate_check.RateCheck, "plan_of", lambda *arguments: calls.append(arguments))
    assert scene.statuses(scene.issue(owner="team-7"), 2) == [200, 200]
    assert not calls


def test_several_rates(scene, clock):
    issued = scene.issue(plan="pro")
    assert scene.statuses(issued, 7) == [200] * 5 + [429] * 2
    clock.advance(timedelta(seconds=1.1))
    assert scene.statuses(issued, 4) == [200] * 3 + [429]
    clock.advance(timedelta(seconds=1.1))
    refused = scene.get(issued)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "58"


def test_keys_are_limited_apart(scene):
    one, other = scene.issue(plan="free", owner="a"), scene.issue(plan="free", owner="a")
    assert scene.statuses(one, 4) == [200] * 3 + [429]
    assert scene.get(other).status_code == 200


def test_keys_of_an_owner_share(scene):
    one, other = scene.issue(plan="team", owner="a"), scene.issue(plan="team", owner="a")
    assert [scene.get(each).status_code for each in (one, other, one, other, one)] == [200] * 3 + [429] * 2
    assert scene.get(scene.issue(plan="team", owner="b")).status_code == 200


def test_keys_without_an_owner_do_not_share(scene):
    one, other = scene.issue(plan="team"), scene.issue(plan="team")
    assert scene.statuses(one, 4)[-1] == 429
    assert scene.get(other).status_code == 200


def test_rate_of_a_key_stands_in_place_of_the_plan(scene):
    issued = scene.issue(plan="team", owner="a", rate="1/minute")
    assert scene.statuses(issued, 2) == [200, 429]
    assert scene.get(scene.issue(plan="team", owner="a")).headers["RateLimit"] == '"default";r=2;t=60'


def test_change_of_rate_holds_from_the_next_request(scene):
    issued = scene.issue(rate="1/minute")
    assert scene.statuses(issued, 2) == [200, 429]
    scene.do("update", issued.record.id, rate="2/minute")
    assert scene.statuses(issued, 2) == [200, 429]
    scene.do("update", issued.record.id, rate=None)
    assert scene.get(issued).status_code == 200


def test_roll_keeps_limits_and_what_was_counted(scene):
    issued = scene.issue(plan="free")
    assert scene.statuses(issued, 3) == [200] * 3
    assert scene.get(scene.roll(issued)).status_code == 429


@pytest.mark.parametrize("change", ["scope", "address", "suspended"])
def test_other_refusals_count_in_no_window(scene, change):
    options = {"allowed_ips": ["192.0.2.1"]} if change == "address" else {}
    issued = scene.issue(plan="free", scopes=["other"], **options)
    if change == "suspended":
        scene.do("suspend", issued.record.id)
    assert set(scene.statuses(issued, 5, "/scoped")) == {403}
    scene.do("update", issued.record.id, allowed_ips=[])
    scene.do("resume", issued.record.id)
    assert scene.get(issued).headers["RateLimit"] == '"default";r=2;t=60'


def test_request_is_counted_once(scene):
    issued = scene.issue(rate="10/minute", scopes=["read"])
    for path in ("/", "/scoped", "/inside"):
        scene.get(issued, path)
    assert scene.get(issued).headers["RateLimit"].startswith('"default";r=6;')


def test_request_without_a_key(scene):
    response = scene.get(None, "/optional")
    assert response.status_code == 200
    assert "RateLimit" not in response.headers


def test_cost(scene):
    issued = scene.issue(plan="free")
    assert scene.get(issued, "/two").headers["RateLimit"] == '"default";r=1;t=60'
    refused = scene.get(issued, "/two")
    assert refused.status_code == 429
    assert refused.headers["RateLimit"] == '"default";r=1;t=60'
    assert scene.get(issued).status_code == 200


def test_cost_of_zero_passes_when_the_rate_is_used_up(scene):
    issued = scene.issue(plan="free")
    scene.statuses(issued, 4)
    assert scene.statuses(issued, 2, "/free") == [200, 200]


def test_computed_cost(scene):
    issued = scene.issue(plan="free")
    scene.cost = 3
    assert scene.statuses(issued, 2, "/computed") == [200, 429]


def test_highest_cost_counts(scene):
    @scene.app.get("/both")
    @require_api_key(cost=3)
    @require_api_key(cost=2)
    def both():
        return {}

    assert scene.get(scene.issue(plan="free"), "/both").headers["RateLimit"] == '"default";r=0;t=60'


def test_cost_above_the_rate_is_refused_at_once(scene, caplog):
    issued = scene.issue(plan="free")
    scene.cost = 4
    refused = scene.get(issued, "/computed")
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "60")
    assert refused.headers["RateLimit"] == '"default";r=3'
    assert "the cost 4 is higher than the rate 3/minute" in caplog.text


@pytest.mark.parametrize("cost", [-1, 1.5, True, "2", 10**12, object()])
def test_unusable_cost_of_a_view(cost):
    with pytest.raises(InvalidValue, match="cost must be a whole number from 0"):
        require_api_key(cost=cost)


@pytest.mark.parametrize("cost", [-1, 1.5, True, None, "2", 10**12])
def test_unusable_computed_cost(scene, caplog, cost):
    scene.cost = cost
    issued = scene.issue(plan="free")
    scene.app.config["PROPAGATE_EXCEPTIONS"] = False
    assert scene.get(issued, "/computed").status_code == 500
    assert "event=configuration outcome=failure reason=the cost of a request must be a whole number" in caplog.text
    scene.app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ConfigurationError, match="'computed': the cost of a request must be a whole number from 0"):
        scene.get(issued, "/computed")


def test_cost_function_that_raises(scene, caplog):
    issued = scene.issue(plan="free")
    scene.cost = BadRequest("no items")
    assert scene.get(issued, "/computed").status_code == 400
    scene.cost = KeyError("items")
    with pytest.raises(KeyError):
        scene.get(issued, "/computed")
    assert "reason=the cost function raised KeyError" in caplog.text


def test_cost_function_is_called_only_for_limited_keys(scene):
    scene.cost = KeyError("items")
    assert scene.get(scene.issue(), "/computed").status_code == 200


class TestPlanLoader:
    @pytest.fixture
    def loaded(self, scene):
        scene.plans = {"a": "free", "b": None}
        scene.calls = []

        @scene.api_keys.plan_loader
        def load(owner):
            scene.calls.append(owner)
            plan = scene.plans[owner]
            if isinstance(plan, Exception):
                raise plan
            return plan

        return scene

    def test_plan_of_the_owner(self, loaded):
        issued = loaded.issue(owner="a")
        assert loaded.statuses(issued, 4) == [200] * 3 + [429]
        loaded.plans["a"] = "pro"
        assert loaded.get(issued).status_code == 200
        assert loaded.calls == ["a"] * 5

    def test_owner_without_a_plan(self, loaded):
        assert set(loaded.statuses(loaded.issue(owner="b"), 6)) == {200}

    def test_key_without_an_owner(self, loaded):
        assert loaded.get(loaded.issue()).status_code == 200
        assert not loaded.calls

    def test_own_plan_of_a_key_comes_first(self, loaded):
        assert loaded.get(loaded.issue(owner="a", plan="internal")).status_code == 200
        assert not loaded.calls

    @pytest.mark.parametrize(
        ("result", "reason"),
        [
            (RuntimeError("postgresql://user:secret@db"), "the plan loader raised RuntimeError"),
            ("gold", "the plan 'gold' is not in APIKEY_PLANS"),
            (7, "the plan loader returned a int, not the name of a plan"),
        ],
    )
    def test_failure(self, loaded, caplog, result, reason):
        loaded.plans["a"] = result
        response = loaded.get(loaded.issue(owner="a"))
        assert (response.status_code, response.json["code"]) == (503, "unavailable")
        events = [record for record in caplog.records if getattr(record, "event", None) == "plan"]
        assert [event.levelno for event in events] == [logging.ERROR]
        assert reason in events[0].reason
        assert "secret" not in events[0].reason

    def test_refused_requests_do_not_call_it(self, loaded):
        assert loaded.get(loaded.issue(owner="a"), "/scoped").status_code == 403
        assert not loaded.calls


def removed_plan(make_scene, tmp_path, **config):
    """Issue a key with a plan, and restart the application without the plan."""
    storage = {"APIKEY_STORAGE_URI": f"sqlite:///{tmp_path}/keys.db"}
    issued = make_scene(**storage).issue(plan="free")
    plans = {name: plan for name, plan in PLANS.items() if name != "free"}
    return make_scene(**storage, APIKEY_PLANS=plans, **config), issued


def test_removed_plan_is_refused(make_scene, tmp_path, caplog):
    scene, issued = removed_plan(make_scene, tmp_path)
    assert scene.get(issued).status_code == 503
    assert "event=plan outcome=failure reason=the plan 'free' is not in APIKEY_PLANS: add it" in caplog.text


def test_removed_plan_falls_back(make_scene, tmp_path):
    scene, issued = removed_plan(make_scene, tmp_path, APIKEY_FALLBACK_PLAN="pro")
    assert scene.get(issued).headers["RateLimit-Policy"] == '"second";q=5;w=1, "minute";q=8;w=60'


def test_removed_plan_survives_other_changes(make_scene, tmp_path):
    scene, issued = removed_plan(make_scene, tmp_path)
    assert scene.do("update", issued.record.id, name="new").plan == "free"
    assert scene.do("update", issued.record.id, plan=None).plan is None
    assert scene.get(issued).status_code == 200


def test_refusals_are_counted_by_reason(scene):
    issued = scene.issue(plan="free")
    scene.statuses(issued, 5)
    rows = scene.do("usage", key_id=issued.record.id, by="status").to_dict()
    assert "rate_limited" in json.dumps(rows)
    report = scene.do("usage", key_id=issued.record.id)
    assert (report.total, report.refused) == (3, 2)


def test_signal_and_audit_event(scene, caplog):
    caplog.set_level(logging.INFO, logger="flask_apikey")
    decisions = []

    def receive(sender, decision):
        decisions.append(decision)

    issued = scene.issue(plan="free", owner="a")
    with signals.api_key_refused.connected_to(receive):
        scene.statuses(issued, 4)
    assert [each.verdict for each in decisions] == [Verdict.RATE_LIMITED]
    assert f"reason=rate_limited key_id={issued.record.id} owner=a" in caplog.text


def test_error_handler_of_the_application(scene):
    @scene.app.errorhandler(problems.RateLimited)
    def slow_down(problem):
        return {"error": "slow down"}, 429

    issued = scene.issue(rate="1/minute")
    scene.get(issued)
    assert scene.get(issued).json == {"error": "slow down"}


def test_memory_of_several_processes_is_warned_of_once(scene, caplog):
    issued = scene.issue(plan="free")
    for _ in range(3):
        scene.app.test_client().get(
            "/", headers={"X-API-Key": issued.key}, environ_overrides={"wsgi.multiprocess": True}
        )
    warnings = [record for record in caplog.records if "each counts rates in its own memory" in record.message]
    assert len(warnings) == 1
