"""Plans, rates and quotas of keys: who can give them, and to whom."""

import pytest

from flask_apikey import InvalidValue
from flask_apikey.cli import apikey
from tests.support.keys import KeyScene

PLANS = {"free": {"rate": "3/minute"}, "pro": {}}


@pytest.fixture
def scene(make_app, clock):
    return KeyScene(make_app(APIKEY_PLANS=PLANS), clock)


@pytest.fixture
def owned(scene):
    def do(method, *arguments, limits=None, **options):
        with scene.app.app_context():
            mine = scene.api_keys.for_owner("team-7", **({"plan": "free"} if limits is None else limits))
            return getattr(mine, method)(*arguments, **options)

    return do


def test_create_and_update(scene):
    record = scene.issue(plan="free", rate="1000/hour; 60/minute", quota=" 9 / Month").record
    assert (record.plan, record.rate, record.quota) == ("free", "60/minute; 1000/hour", "9/month")
    assert scene.do("get", record.id) == record
    changed = scene.do("update", record.id, plan="pro", rate=None, quota=None)
    assert (changed.plan, changed.rate, changed.quota) == ("pro", None, None)
    (many,) = scene.do("create_many", [{"name": "a", "plan": "free", "rate": "1/day", "quota": "9/total"}])
    assert (many.record.plan, many.record.rate, many.record.quota) == ("free", "1/day", "9/total")


def test_unknown_plan(scene):
    issued = scene.issue()
    for method, arguments, options in (
        ("create", (), {"name": "a"}),
        ("update", (issued.record.id,), {}),
    ):
        with pytest.raises(InvalidValue, match="plan 'gold' is not in APIKEY_PLANS, which has: free, pro"):
            scene.do(method, *arguments, plan="gold", **options)


def test_owner_gets_the_plan_of_for_owner(owned):
    assert owned("create", name="a").record.plan == "free"
    (many,) = owned("create_many", [{"name": "a"}])
    assert many.record.plan == "free"
    assert owned("create", name="a", limits={"rate": "5/minute"}).record.rate == "5/minute"
    assert owned("create", name="a", limits={"quota": "5/day"}).record.quota == "5/day"


@pytest.mark.parametrize("limits", [{"plan": "pro"}, {"rate": "9/second"}, {"quota": "9/day"}, {"plan": None}])
def test_owner_cannot_choose(owned, limits):
    with pytest.raises(InvalidValue, match="plan, rate and quota cannot be chosen here"):
        owned("create_many", [{"name": "a", **limits}])
    with pytest.raises(TypeError):
        owned("create", name="a", **limits)
    issued = owned("create", name="a")
    with pytest.raises(TypeError):
        owned("update", issued.record.id, **limits)


def test_owner_keeps_what_a_key_has(scene, owned):
    issued = scene.issue(owner="team-7", plan="pro", rate="9/second")
    assert owned("update", issued.record.id, name="new").plan == "pro"
    assert owned("roll", issued.record.id).record.rate == "9/second"


def test_owner_cannot_escape_all_limits(scene, owned):
    with pytest.raises(InvalidValue, match="the owner's new keys would have no limits"):
        owned("create", name="a", limits={})
    assert owned("create", name="a", limits={"plan": None}).record.plan is None
    scene.api_keys.plan_loader(lambda owner: "free")
    assert owned("create", name="a", limits={}).record.plan is None
    assert owned("limits", owned("create", name="a", limits={}).record.id).plan == "free"


def test_commands(scene):
    runner = scene.app.test_cli_runner()
    created = runner.invoke(apikey, ["create", "ci", "--plan", "free", "--rate", "5/minute", "--json"])
    assert '"plan": "free",\n  "rate": "5/minute",' in created.stdout
    (record,) = scene.do("list")
    assert "5/minute" in runner.invoke(apikey, ["show", record.id]).stdout
    runner.invoke(apikey, ["update", record.id, "--plan", "", "--rate", ""])
    changed = scene.do("get", record.id)
    assert (changed.plan, changed.rate) == (None, None)
    assert "The key has no limits." in runner.invoke(apikey, ["limits", record.id]).output
    refused = runner.invoke(apikey, ["update", record.id, "--plan", "gold"])
    assert refused.exit_code == 1
    assert "which has: free, pro" in refused.output
