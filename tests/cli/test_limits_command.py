"""``flask apikey limits`` with quotas, and what other commands say of them."""

import json
from datetime import timedelta

import pytest

from flask_apikey.cli import apikey
from tests.support.keys import KeyScene

PLANS = {"free": {"rate": "60/minute", "quota": "10000/month", "per": "owner"}, "rated": {"rate": "60/minute"}}


class Scene(KeyScene):
    def run(self, *arguments):
        return self.app.test_cli_runner().invoke(apikey, arguments)


@pytest.fixture
def scene(make_app, clock):
    return Scene(make_app(APIKEY_PLANS=PLANS), clock)


def test_add(scene):
    issued = scene.issue(plan="free", owner="a")
    added = scene.run("limits", issued.record.id, "--add", "5000", "--reason", "invoice 42")
    assert added.output.splitlines() == [
        "plan         free",
        "60/minute    60 left",
        "10000/month  15000 of 15000 left (5000 added), until 2026-02-01 00:00 UTC",
        "All keys of the owner on this plan share what is the plan's.",
    ]
    scene.run("limits", issued.record.id, "--add", "1", "--every-period")
    scene.clock.advance(timedelta(days=31))
    shown = json.loads(scene.run("limits", issued.record.id, "--json").stdout)["quota"]
    assert (shown["limit"], shown["added"], shown["remaining"]) == (10001, 1, 10001)
    audit = scene.run("audit", "--key", issued.record.id).output
    assert audit.count("key.quota_added") == 2
    assert "invoice 42" in audit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--add", "1", "--reset"], "exclude each other"),
        (["--every-period"], "need --add"),
        (["--reason", "x"], "need --add"),
        (["--add", "0"], "amount must be a whole number from 1"),
        (["--add", "x"], "not a valid integer"),
    ],
)
def test_contradictions(scene, options, message):
    refused = scene.run("limits", scene.issue(plan="free").record.id, *options)
    assert refused.exit_code != 0
    assert message in refused.output


def test_add_without_a_quota(scene):
    refused = scene.run("limits", scene.issue(plan="rated").record.id, "--add", "1")
    assert (refused.exit_code, "has no quota: give it one" in refused.output) == (1, True)


def test_reset(scene):
    issued = scene.issue(quota="5/total")
    scene.backend.quotas.take(scene_counter(scene, issued), least=1, most=3, limit=5)
    assert "2 of 5 left\n" in scene.run("limits", issued.record.id).output
    assert "5 of 5 left\n" in scene.run("limits", issued.record.id, "--reset").output
    assert "key.limits_reset" in scene.run("audit", "--key", issued.record.id).output


def test_show(scene):
    issued = scene.issue(plan="free")
    assert "10000 of 10000 left, until 2026-02-01 00:00 UTC" in scene.run("show", issued.record.id).output
    assert json.loads(scene.run("show", issued.record.id, "--json").stdout)["quota_remaining"] == 10000
    unlimited = scene.issue()
    assert "quota" not in scene.run("show", unlimited.record.id).output
    assert json.loads(scene.run("show", unlimited.record.id, "--json").stdout)["quota_remaining"] is None


def test_show_of_a_plan_that_is_gone(scene):
    issued = scene.issue(plan="free")
    del scene.app.extensions["apikey"].settings.plans["free"]
    shown = scene.run("show", issued.record.id)
    assert shown.exit_code == 0
    assert "The quota cannot be read: the plan 'free' is not in APIKEY_PLANS" in shown.stderr


def test_create_and_update(scene):
    created = json.loads(scene.run("create", "ci", "--quota", "9/day", "--json").stdout)
    assert created["quota"] == "9/day"
    scene.run("update", created["id"], "--quota", "")
    assert scene.do("get", created["id"]).quota is None


def test_prune_removes_counters_of_ended_periods(scene):
    issued = scene.issue(quota="5/day")
    counter = scene_counter(scene, issued)
    scene.backend.quotas.take(counter, least=1, most=3, limit=5)
    scene.clock.advance(timedelta(days=9))
    scene.run("usage", "--prune", "9d", "--yes")
    assert scene.backend.quotas.get(counter).used == 3
    scene.run("usage", "--prune", "8d", "--dry-run")
    assert scene.backend.quotas.get(counter).used == 3
    scene.run("usage", "--prune", "8d", "--yes")
    assert scene.backend.quotas.get(counter).used == 0


def scene_counter(scene, issued):
    rate_check = scene.app.extensions["apikey"].enforcement.rate_check
    return rate_check.quota_of(issued.record).counter_at(issued.record, scene.clock())
