"""Quotas in the decision on a request."""

import logging
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from flask_apikey import APIKeys, ConfigurationError, InvalidValue, StorageError, Verdict, require_api_key, signals
from tests.support.limited_app import LimitedScene

PLANS = {
    "free": {"quota": "3/month"},
    "team": {"quota": "3/month", "per": "owner"},
    "both": {"rate": "2/minute", "quota": "5/day"},
    "own": {"quota": "3/month from creation"},
}


def test_refusal(scene, clock):
    clock.set(datetime(2026, 1, 31, 23, 59, tzinfo=timezone.utc))
    issued = scene.issue(plan="free")
    assert scene.statuses(issued, 3) == [200] * 3
    refused = scene.get(issued)
    assert (refused.status_code, refused.content_type) == (429, "application/problem+json")
    assert refused.json == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "code": "quota_exceeded",
        "detail": "The API key has used up its quota.",
    }
    assert refused.headers["Retry-After"] == "60"
    clock.advance(timedelta(seconds=59, milliseconds=999))
    assert scene.get(issued).status_code == 429
    clock.advance(timedelta(milliseconds=1))
    assert scene.statuses(issued, 4) == [200] * 3 + [429]


def test_headers(scene):
    issued = scene.issue(plan="free")
    headers = scene.get(issued).headers
    assert headers["RateLimit-Policy"] == f'"quota";q=3;w={31 * 86_400}'
    assert headers["RateLimit"] == f'"quota";r=2;t={31 * 86_400}'
    scene.statuses(issued, 2)
    assert scene.get(issued).headers["RateLimit"] == f'"quota";r=0;t={31 * 86_400}'


def test_headers_beside_a_rate(scene):
    headers = scene.get(scene.issue(plan="both")).headers
    assert headers["RateLimit-Policy"] == '"default";q=2;w=60, "quota";q=5;w=86400'
    assert headers["RateLimit"] == '"default";r=1;t=60, "quota";r=4;t=86400'


def test_total(scene):
    issued = scene.issue(quota="2/total")
    assert scene.statuses(issued, 2) == [200, 200]
    refused = scene.get(issued)
    assert refused.status_code == 429
    assert "Retry-After" not in refused.headers
    assert refused.headers["RateLimit-Policy"] == '"quota";q=2'
    assert refused.headers["RateLimit"] == '"quota";r=0'
    scene.clock.advance(timedelta(days=4_000))
    scene.do("update", issued.record.id, expires_at=None)
    assert scene.get(issued).status_code == 429


def test_month_from_creation(scene, clock):
    clock.set(datetime(2026, 1, 31, 12, tzinfo=timezone.utc))
    issued = scene.issue(plan="own")
    clock.set(datetime(2026, 2, 27, tzinfo=timezone.utc))
    assert scene.statuses(issued, 4)[-1] == 429
    clock.set(datetime(2026, 2, 28, tzinfo=timezone.utc))
    assert scene.statuses(issued, 4) == [200] * 3 + [429]
    clock.set(datetime(2026, 3, 30, 23, tzinfo=timezone.utc))
    assert scene.get(issued).headers["Retry-After"] == "3600"


def test_clock_jumps_back_and_forth_over_the_end(scene, clock):
    issued = scene.issue(plan="free")
    periods = [datetime(2026, month, 1, tzinfo=timezone.utc) for month in (1, 2)]
    accepted = {0: 0, 1: 0}
    for number in range(12):
        clock.set(periods[number % 2])
        accepted[number % 2] += scene.get(issued).status_code == 200
    assert accepted == {0: 3, 1: 3}


def test_keys_of_an_owner_share(scene):
    one, other = scene.issue(plan="team", owner="a"), scene.issue(plan="team", owner="a")
    assert [scene.get(each).status_code for each in (one, other, one, other, one)] == [200] * 3 + [429] * 2
    assert scene.get(scene.issue(plan="team", owner="b")).status_code == 200
    unowned = [scene.issue(plan="team") for _ in range(2)]
    assert [scene.statuses(each, 4)[-1] for each in unowned] == [429, 429]
    assert scene.get(scene.issue(plan="team", owner="a", quota="1/day")).status_code == 200


def test_plan_of_the_owner_is_counted_apart(scene):
    plans = {"a": "team"}
    scene.api_keys.plan_loader(plans.get)
    issued = scene.issue(owner="a")
    assert scene.statuses(issued, 4)[-1] == 429
    plans["a"] = "both"
    assert scene.get(issued).status_code == 200
    plans["a"] = "team"
    assert scene.get(issued).status_code == 429


def test_change_of_quota_holds_from_the_next_request(scene):
    issued = scene.issue(quota="1000/month")
    scene.statuses(issued, 10)
    scene.do("update", issued.record.id, quota="12/month")
    assert scene.statuses(issued, 3) == [200, 200, 429]
    scene.do("update", issued.record.id, quota="13/month")
    assert scene.statuses(issued, 2) == [200, 429]
    scene.do("update", issued.record.id, quota="1/day")
    assert scene.statuses(issued, 2) == [200, 429]


@pytest.mark.parametrize("change", ["scope", "address", "suspended", "inside"])
def test_refused_requests_burn_nothing(scene, change):
    options = {"allowed_ips": ["192.0.2.1"]} if change == "address" else {}
    issued = scene.issue(quota="1000/month", scopes=["other"], **options)
    if change == "suspended":
        scene.do("suspend", issued.record.id)
    path = "/inside" if change == "inside" else "/scoped"
    assert set(scene.statuses(issued, 5, path)) == {403}
    assert scene.left(issued) == 1000


def test_request_beyond_the_rate_burns_nothing(scene):
    issued = scene.issue(plan="both")
    refused = [response for response in (scene.get(issued) for _ in range(6)) if response.status_code == 429]
    assert {response.json["code"] for response in refused} == {"rate_limited"}
    assert (len(refused), scene.left(issued)) == (4, 3)


def test_request_is_charged_once(scene):
    issued = scene.issue(quota="1000/month", scopes=["read"])
    for path in ("/", "/scoped", "/inside"):
        scene.get(issued, path)
    assert scene.left(issued) == 997


def test_cost(scene):
    issued = scene.issue(plan="free")
    assert scene.get(issued, "/two").status_code == 200
    refused = scene.get(issued, "/two")
    assert refused.status_code == 429
    assert '"quota";r=1' in refused.headers["RateLimit"]
    assert scene.statuses(issued, 2) == [200, 429]
    assert scene.get(issued, "/free").status_code == 200


def test_cost_above_the_quota(scene, caplog):
    issued = scene.issue(plan="free")
    scene.cost = 4
    assert scene.get(issued, "/computed").status_code == 429
    assert "the cost 4 is higher than the quota 3" in caplog.text
    assert scene.left(issued) == 3


@pytest.mark.parametrize(("is_charged", "left"), [(False, 1000), (True, 997)])
def test_failures(make_scene, is_charged, left):
    scene = make_scene(APIKEY_CHARGE_FAILURES=is_charged)
    issued = scene.issue(quota="1000/month")
    assert scene.statuses(issued, 2, "/failing") == [503, 503]
    assert scene.get(issued, "/raising").headers["RateLimit"].startswith(f'"quota";r={left};')
    assert scene.left(issued) == left
    scene.status = 404
    scene.get(issued, "/failing")
    assert scene.left(issued) == left - 1


def test_failure_of_the_last_request_is_given_back(scene):
    issued = scene.issue(plan="free")
    scene.statuses(issued, 2)
    assert scene.statuses(issued, 3, "/failing") == [503] * 3
    assert scene.statuses(issued, 2) == [200, 429]


def test_unhandled_exception_is_given_back(scene):
    issued = scene.issue(quota="1000/month")
    scene.app.config["PROPAGATE_EXCEPTIONS"] = False

    @scene.app.get("/broken")
    @require_api_key
    def broken():
        raise RuntimeError

    assert scene.get(issued, "/broken").status_code == 500
    assert scene.left(issued) == 1000


def test_failure_after_the_view_is_given_back_once(scene):
    issued = scene.issue(quota="1000/month")
    scene.app.config["PROPAGATE_EXCEPTIONS"] = False

    class Failing(type(scene.app.session_interface)):
        def save_session(self, *_arguments):
            raise RuntimeError

    scene.app.session_interface = Failing()
    scene.app.secret_key = "not secret"
    assert scene.get(issued).status_code == 500
    assert scene.left(issued) == 1000


def test_storage_of_quotas_down(scene, monkeypatch, caplog):
    issued, other = scene.issue(quota="10000/month"), scene.issue(quota="10000/month")
    scene.statuses(issued, 2)
    store = scene.backend.quotas

    def fail(*_arguments, **_options):
        raise StorageError("the database failed")

    for method in ("take", "get", "give_back"):
        monkeypatch.setattr(store, method, fail)
    response = scene.get(other)
    assert (response.status_code, response.json["code"]) == (503, "unavailable")
    (event,) = (record for record in caplog.records if getattr(record, "event", None) == "quota_storage")
    assert (event.levelno, event.reason) == (logging.ERROR, "the quota could not be charged: the database failed")
    # The lease of the second request has one left.
    assert scene.statuses(issued, 2) == [200, 503]
    with pytest.raises(StorageError, match="the database failed"):
        scene.left(issued)


def test_signal_and_count(scene):
    decisions = []

    def receive(sender, decision):
        decisions.append(decision)

    issued = scene.issue(plan="free")
    with signals.api_key_refused.connected_to(receive):
        scene.statuses(issued, 5)
    assert [each.verdict for each in decisions] == [Verdict.QUOTA_EXCEEDED] * 2
    report = scene.do("usage", key_id=issued.record.id)
    assert (report.total, report.refused) == (3, 2)


class TestTopUp:
    def test_once(self, scene, clock):
        issued = scene.issue(plan="free")
        assert scene.statuses(issued, 4)[-1] == 429
        quota = scene.do("add_quota", issued.record.id, 2, reason="paid").quota
        assert (quota.limit, quota.added, quota.used, quota.remaining) == (5, 2, 3, 2)
        assert scene.get(issued).headers["RateLimit"].startswith('"quota";r=1;')
        assert scene.statuses(issued, 2) == [200, 429]
        clock.advance(timedelta(days=31))
        assert scene.statuses(issued, 4) == [200] * 3 + [429]

    def test_every_period(self, scene, clock):
        issued = scene.issue(plan="team", owner="a")
        scene.do("add_quota", issued.record.id, 2, every_period=True)
        other = scene.issue(plan="team", owner="a")
        assert scene.statuses(other, 6) == [200] * 5 + [429]
        clock.advance(timedelta(days=31))
        assert scene.left(issued) == 5
        assert scene.statuses(issued, 6) == [200] * 5 + [429]

    def test_event(self, scene):
        issued = scene.issue(plan="free")
        scene.do("add_quota", issued.record.id, 2, reason="paid")
        event = scene.do("get", issued.record.id)
        assert event.version == 2
        (_, added) = scene.backend.history.chains(after=None, limit=10)
        assert (added.event, added.reason) == ("key.quota_added", "paid")
        assert added.to_dict()["details"] == {"amount": 2, "every_period": False}

    @pytest.mark.parametrize("amount", [0, -1, 1.5, True, None, "5", 10**16])
    def test_invalid_amount(self, scene, amount):
        issued = scene.issue(plan="free")
        with pytest.raises(InvalidValue, match="amount must be a whole number from 1"):
            scene.do("add_quota", issued.record.id, amount)

    def test_key_without_a_quota(self, scene):
        with pytest.raises(InvalidValue, match="has no quota: give it one"):
            scene.do("add_quota", scene.issue().record.id, 5)


def test_reset(scene):
    issued = scene.issue(plan="free")
    scene.do("add_quota", issued.record.id, 1)
    assert scene.statuses(issued, 5)[-1] == 429
    assert scene.do("reset_limits", issued.record.id).quota.remaining == 4
    assert scene.statuses(issued, 5) == [200] * 4 + [429]


def test_reset_by_another_process_ends_leases(make_scene, tmp_path, clock):
    """Two applications on one storage stand for two processes."""
    storage = {"APIKEY_STORAGE_URI": f"sqlite:///{tmp_path}/keys.db"}
    one, other = make_scene(**storage), make_scene(**storage)
    issued = one.issue(quota="1000/month")
    one.statuses(issued, 100)
    other.do("reset_limits", issued.record.id)
    assert one.get(issued).headers["RateLimit"].startswith('"quota";r=999;')
    one.statuses(issued, 9)
    assert one.left(issued) == 990


def test_far_from_the_limit_most_requests_cost_no_write(scene, monkeypatch):
    calls = []
    take = scene.backend.quotas.take
    monkeypatch.setattr(scene.backend.quotas, "take", lambda *args, **kwargs: calls.append(1) or take(*args, **kwargs))
    issued = scene.issue(quota="1000000/month")
    assert set(scene.statuses(issued, 200)) == {200}
    assert len(calls) < 20
    assert scene.left(issued) == 999_800


def test_limits(scene, clock):
    clock.set(datetime(2026, 5, 7, tzinfo=timezone.utc))
    issued = scene.issue(plan="team", owner="a")
    scene.get(issued)
    assert scene.do("limits", issued.record.id).to_dict()["quota"] == {
        "quota": "3/month",
        "shared": True,
        "limit": 3,
        "added": 0,
        "used": 1,
        "remaining": 2,
        "starts_at": "2026-05-01T00:00:00+00:00",
        "ends_at": "2026-06-01T00:00:00+00:00",
    }
    total = scene.do("limits", scene.issue(quota="5/total").record.id).to_dict()["quota"]
    assert (total["starts_at"], total["ends_at"], total["remaining"]) == (None, None, 5)


class TestStorageWithoutQuotas:
    def test_plan_is_refused_at_start(self, make_app, backend):
        with pytest.raises(ConfigurationError, match="plan 'free' has a quota, but WatchedBackend keeps no quotas"):
            APIKeys(make_app(APIKEY_PLANS=PLANS), backend=backend)

    def test_quota_of_a_key_is_refused(self, make_app, clock, backend):
        scene = LimitedScene(make_app(), clock, backend=backend)
        with pytest.raises(InvalidValue, match="this storage keeps no quotas"):
            scene.issue(quota="5/day")
        issued = scene.issue()
        with pytest.raises(InvalidValue, match="this storage keeps no quotas"):
            scene.do("update", issued.record.id, quota="5/day")

    def test_key_with_a_quota_is_refused(self, scene, caplog):
        issued = scene.issue(quota="5/day")
        state = scene.app.extensions["apikey"]
        state._services = replace(state.services, quotas=None)
        assert scene.get(issued).status_code == 503
        assert "reason=the quota could not be charged: the storage keeps no quotas" in caplog.text
