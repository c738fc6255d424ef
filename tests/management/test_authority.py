"""Attacks: a key that reaches, gives or changes more than it holds, in every route."""

from datetime import timedelta

import pytest

from tests.management.conftest import CHANGES, KEY_ROUTES, MANAGER, ROUTES, Scene, code

DAY = timedelta(days=1)
NEEDS_ANY_OWNER = {"resume_key", "reset_limits", "add_quota"}


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_needs_a_key_with_the_scope(scene, route):
    target = scene.issue(owner="team-1")
    assert code(scene.act(None, route, target.record.id)) == (401, "missing_key")
    lacking = [scope for scope in MANAGER if scope != ("keys:read" if route[1] == "GET" else "keys:write")]
    answer = scene.act(scene.manager(scopes=[*lacking, "keys:any-owner"]), route, target.record.id)
    assert code(answer) == (403, "insufficient_scope")
    assert scene.record(target) == target.record


@pytest.mark.parametrize("route", KEY_ROUTES)
def test_the_key_of_another_owner_is_not_found(scene, route):
    manager = scene.manager(scopes=["keys:read", "keys:write", "a"])
    target, unowned = scene.issue(owner="team-2", scopes=["a"], quota="5/day"), scene.issue()
    for hidden in (target, unowned):
        answer = scene.act(manager, route, hidden.record.id)
        unknown = scene.act(manager, route, "0" * 16)
        assert code(answer) in {(404, "key_not_found"), (403, "insufficient_scope")}
        assert (answer.status_code == 403) == (route[0] in NEEDS_ANY_OWNER)
        assert answer.data == unknown.data
        assert scene.record(hidden) == hidden.record


@pytest.mark.parametrize("route", ROUTES)
def test_a_key_without_an_owner_acts_on_nothing(scene, route):
    if route[0] == "get_description":
        return
    target = scene.issue()
    answer = scene.act(scene.manager(owner=None), route, target.record.id)
    assert code(answer) == (403, "insufficient_scope")
    assert "keys:any-owner" in answer.json["missing_scopes"]
    assert scene.record(target) == target.record


@pytest.mark.parametrize("route", CHANGES)
@pytest.mark.parametrize("scopes", [["b"], ["*"], ["a:*"], ["keys:*"], ["keys:read", "keys:write", "b"]])
def test_a_key_with_more_scopes_is_refused(scene, route, scopes):
    caller = scene.issue(owner="team-1", scopes=["keys:read", "keys:write", "keys:any-owner", "a:read"])
    target = scene.issue(owner="team-1", scopes=scopes)
    answer = scene.act(caller, route, target.record.id)
    assert code(answer) == (403, "exceeds_key")
    assert "scopes" in answer.json["detail"]
    assert scene.record(target) == target.record
    assert scene.works(target) == [True]


LIMITS = {"rate": "60/minute", "quota": "1000/month"}
BEYOND = [
    ("scopes", {}, {"scopes": ["*"]}),
    ("scopes", {}, {"scopes": ["keys:any-owner"]}),
    ("scopes", {}, {"scopes": ["reports:*"]}),
    ("owner", {}, {"owner": "team-2"}),
    ("owner", {}, {"owner": None}),
    ("expires_at", {}, {"expires_at": None}),
    ("expires_at", {}, {"expires_at": "2027-06-01T00:00:00Z"}),
    ("allowed_ips", {"allowed_ips": ["127.0.0.0/24"]}, {"allowed_ips": []}),
    ("allowed_ips", {"allowed_ips": ["127.0.0.0/24"]}, {"allowed_ips": ["127.0.0.0/23"]}),
    ("allowed_ips", {"allowed_ips": ["127.0.0.0/24"]}, {"allowed_ips": ["127.0.0.1", "::/0"]}),
    ("denied_ips", {"denied_ips": ["10.0.0.0/8"]}, {"denied_ips": []}),
    ("denied_ips", {"denied_ips": ["10.0.0.0/8"]}, {"denied_ips": ["10.0.0.0/9"]}),
    ("plan", {}, {"rate": "1000000/second"}),
    ("plan", {}, {"quota": "1000000/day"}),
    ("plan", {}, {"plan": "free"}),
    ("plan", LIMITS, {"rate": None, "quota": None}),
    ("plan", LIMITS, {"quota": "2000/month"}),
]


@pytest.mark.parametrize(("field", "held", "wanted"), BEYOND)
@pytest.mark.parametrize("route", ["create", "update", "update itself"])
def test_nothing_beyond_the_key_is_given(make_app, clock, field, held, wanted, route):
    scene = Scene(make_app(APIKEY_PLANS={"free": {"rate": "1/minute"}}), clock)
    caller = scene.manager(**held)
    target = caller if route == "update itself" else scene.issue(owner="team-1", lifetime="1d", **held)
    count = scene.do("count")
    if route == "create":
        end = {} if field == "expires_at" else {"lifetime": "1d"}
        answer = scene.post(caller, "/keys", **{"name": "new", **end, **wanted})
    else:
        answer = scene.patch(caller, target, **wanted)
    assert code(answer) == (403, "exceeds_key")
    assert answer.json["detail"].startswith((field, "limits"))
    assert scene.do("count") == count
    assert scene.record(target) == target.record


def test_new_keys_end_with_the_key_that_makes_them(scene):
    caller = scene.manager(lifetime="10d")
    record = scene.do("get", scene.post(caller, "/keys", name="new").json["id"])
    assert record.expires_at == caller.record.expires_at
    assert code(scene.post(caller, "/keys", name="new", lifetime="11d")) == (403, "exceeds_key")
    assert scene.post(caller, "/keys", name="new", lifetime="10d").status_code == 201
    assert scene.post(caller, "/keys", name="new", expires_at=caller.record.expires_at.isoformat()).status_code == 201


def test_new_keys_have_the_restrictions_of_the_key_that_makes_them(scene):
    caller = scene.manager(allowed_ips=["127.0.0.0/8"], denied_ips=["10.0.0.0/8"])
    answer = scene.post(caller, "/keys", name="new")
    assert (answer.json["owner"], answer.json["scopes"]) == ("team-1", [])
    assert (answer.json["allowed_ips"], answer.json["denied_ips"]) == (["127.0.0.0/8"], ["10.0.0.0/8"])
    narrower = scene.post(caller, "/keys", name="new", allowed_ips=["127.0.0.1"], denied_ips=["10.0.0.0/7"])
    assert narrower.status_code == 201


@pytest.mark.parametrize("held", [{"rate": "60/minute"}, {"quota": "1000/month"}, {"plan": "key"}])
def test_a_key_with_limits_of_its_own_makes_and_rolls_no_other(make_app, clock, held):
    scene = Scene(make_app(APIKEY_PLANS={"key": {"rate": "60/minute"}}), clock)
    caller = scene.manager(**held)
    target = scene.issue(owner="team-1", **held)
    assert code(scene.post(caller, "/keys", name="new")) == (403, "exceeds_key")
    assert code(scene.change(caller, target, "roll")) == (403, "exceeds_key")
    assert scene.works(target) == [True]
    assert scene.change(caller, caller, "roll").status_code == 200


def test_a_shared_plan_is_kept_by_new_keys(make_app, clock):
    scene = Scene(make_app(APIKEY_PLANS={"team": {"rate": "60/minute", "quota": "9/day", "per": "owner"}}), clock)
    caller = scene.manager(plan="team")
    answer = scene.post(caller, "/keys", name="new")
    assert answer.json["plan"] == "team"
    assert scene.change(caller, scene.issue(owner="team-1", plan="team"), "roll").status_code == 200
    assert code(scene.change(caller, scene.issue(owner="team-1"), "roll")) == (403, "exceeds_key")
    operator = scene.operator(owner="team-1", plan="team")
    assert code(scene.post(operator, "/keys", name="new", owner="team-2")) == (403, "exceeds_key")
    assert code(scene.post(operator, f"/keys/{caller.record.id}/limits/reset")) == (403, "exceeds_key")
    assert code(scene.post(operator, f"/keys/{caller.record.id}/quota/add", amount=5)) == (403, "exceeds_key")
    assert code(scene.patch(operator, caller, owner="team-2")) == (403, "exceeds_key")


@pytest.mark.parametrize(
    ("held", "target"),
    [
        ({"lifetime": "10d"}, {"lifetime": "11d"}),
        ({"lifetime": "10d"}, {"lifetime": None}),
        ({"allowed_ips": ["127.0.0.1"]}, {}),
        ({"denied_ips": ["10.0.0.1"]}, {}),
    ],
)
def test_the_secret_of_a_wider_key_is_not_handed_out(scene, held, target):
    caller, wider = scene.manager(**held), scene.issue(owner="team-1", **target)
    assert code(scene.change(caller, wider, "roll", grace="1d")) == (403, "exceeds_key")
    assert scene.record(wider) == wider.record


def test_grace_ends_with_the_key(scene):
    caller = scene.manager(lifetime="10d")
    rolled = scene.change(caller, scene.issue(owner="team-1", lifetime="5d"), "roll", grace="90d").json
    assert rolled["previous_secrets_expire_at"] == [rolled["expires_at"]]
    own = scene.change(caller, caller, "roll", grace="90d").json
    assert own["previous_secrets_expire_at"] == [caller.record.expires_at.isoformat()]


def test_an_expired_key_is_not_revived(scene):
    target = scene.issue(owner="team-1", lifetime="1d")
    scene.clock.advance(2 * DAY)
    assert code(scene.patch(scene.operator(), target, expires_at=None)) == (403, "exceeds_key")
    assert scene.patch(scene.operator(), target, name="renamed").status_code == 200


def test_a_suspended_key_does_nothing(scene):
    caller = scene.operator(owner="team-1")
    scene.do("suspend", caller.record.id)
    for route in ROUTES:
        assert code(scene.act(caller, route, caller.record.id)) == (403, "key_suspended")


def test_an_owner_does_not_undo_a_suspension(scene):
    target = scene.issue(owner="team-1")
    scene.do("suspend", target.record.id)
    manager = scene.manager()
    assert code(scene.change(manager, target, "resume")) == (403, "insufficient_scope")
    assert scene.patch(manager, target, name="renamed").json["status"] == "suspended"
    assert scene.change(manager, target, "roll").json["status"] == "suspended"


def test_a_previous_secret_changes_nothing(scene):
    caller = scene.manager()
    target = scene.issue(owner="team-1")
    scene.do("roll", caller.record.id, grace="1d")
    for route in ROUTES:
        answer = scene.act(caller, route, target.record.id)
        if route[1] == "GET":
            assert answer.status_code == 200
        elif route[0] not in NEEDS_ANY_OWNER:
            assert code(answer) == (403, "previous_secret")
    assert scene.record(target) == target.record


def test_listing_shows_keys_of_the_owner_only(scene):
    manager = scene.manager()
    scene.issue(owner="team-2")
    assert [key["id"] for key in scene.ask(manager, "GET", "/keys").json["keys"]] == [manager.record.id]
    assert len(scene.ask(manager, "GET", "/keys?owner=team-1").json["keys"]) == 1
    assert code(scene.ask(manager, "GET", "/keys?owner=team-2")) == (403, "insufficient_scope")
    assert scene.ask(manager, "GET", "/keys?search=team-2").json["keys"] == []


def test_history_and_usage_of_an_earlier_owner_stay_hidden(scene):
    target = scene.issue("secret name", owner="team-2")
    scene.do("update", target.record.id, owner="team-1", reason="handed over")
    manager = scene.manager()
    events = scene.ask(manager, "GET", f"/keys/{target.record.id}/history").json["events"]
    assert [event["owner"] for event in events] == ["team-1"]


@pytest.mark.parametrize("route", CHANGES)
def test_a_key_that_is_widened_during_the_request_is_refused(make_app, backend, clock, route):
    scene = Scene(make_app(), clock, backend=backend)
    caller = scene.manager(scopes=[*MANAGER, "keys:any-owner"])
    target = scene.issue(owner="team-1")
    if route[0] in {"reset_limits", "add_quota"}:
        return
    if route[0] == "resume_key":
        scene.do("suspend", target.record.id)
    if route[0] == "finish_roll":
        scene.do("roll", target.record.id, grace="1d")
    backend.before_next_update = lambda: scene.do("update", target.record.id, scopes=["admin"])
    answer = scene.act(caller, route, target.record.id)
    assert code(answer) in {(403, "exceeds_key"), (409, "conflict")}
    record = scene.record(target)
    assert record.scopes == {"admin"}
    assert (record.name, record.revoked_at) == ("ci", None)
