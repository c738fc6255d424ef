"""The acts of an operator as JSON."""

from datetime import timedelta

import pytest

from flask_apikey import StorageError
from tests.management.conftest import CHANGES, KEY_ROUTES, ROUTES, Scene, code

DAY = timedelta(days=1)


def test_create_shows_the_key_once(scene):
    answer = scene.post(scene.operator(), "/keys", name="export", owner="team-1", scopes=["a:read"], lifetime="30d")
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["ETag"] == '"1"'
    assert scene.do("verify", answer.json["key"]).accepted
    record = scene.do("get", answer.json["id"])
    assert (record.name, record.owner, record.scopes) == ("export", "team-1", {"a:read"})
    assert record.expires_at == scene.clock() + 30 * DAY
    shown = scene.ask(scene.operator(), "GET", answer.headers["Location"].removeprefix("/management"))
    assert "key" not in shown.json
    assert {**shown.json, "key": answer.json["key"]} == answer.json


@pytest.mark.parametrize(
    ("body", "lifetime"),
    [
        ({"expires_at": None}, None),
        ({"lifetime": "90d"}, 90 * DAY),
        ({"expires_at": "2026-02-01T00:00:00Z"}, None),
        ({}, 365 * DAY),
    ],
)
def test_create_ends_as_asked(scene, body, lifetime):
    answer = scene.post(scene.operator(), "/keys", name="export", **body)
    record = scene.do("get", answer.json["id"])
    if body.get("expires_at"):
        assert record.expires_at.isoformat() == "2026-02-01T00:00:00+00:00"
    else:
        assert record.expires_at == (lifetime and scene.clock() + lifetime)


def test_list_pages_and_filters(scene):
    operator = scene.operator()
    keys = [scene.issue(f"key {number}", owner="team-1") for number in range(5)]
    scene.issue("other", owner="team-2")
    found, after = [], {}
    while True:
        query = {"owner": "team-1", "limit": 2, "newest_first": "true", **after}
        page = scene.ask(operator, "GET", "/keys", query_string=query).json
        found += [key["id"] for key in page["keys"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert sorted(found) == sorted(key.record.id for key in keys)
    scene.do("revoke", keys[0].record.id)
    assert len(scene.ask(operator, "GET", "/keys?status=revoked").json["keys"]) == 1
    assert len(scene.ask(operator, "GET", "/keys?search=other").json["keys"]) == 1
    assert len(scene.ask(operator, "GET", "/keys?unused_for=1d").json["keys"]) == 0
    scene.clock.advance(2 * DAY)
    assert len(scene.ask(operator, "GET", "/keys?unused_for=1d&limit=2").json["keys"]) == 2


def test_update_changes_given_fields(scene):
    target = scene.issue("old", owner="team-1", scopes=["a"], metadata={"x": 1})
    answer = scene.patch(scene.operator(), target, name="new", metadata={"y": [None]}, expires_at=None, plan=None)
    assert (answer.status_code, answer.json["version"], answer.headers["ETag"]) == (200, 2, '"2"')
    record = scene.record(target)
    assert (record.name, record.metadata, record.expires_at, record.scopes) == ("new", {"y": [None]}, None, {"a"})


def test_suspend_resume_and_revoke(scene):
    operator, target = scene.operator(), scene.issue()
    assert scene.change(operator, target, "suspend", reason="abuse").json["suspension_reason"] == "abuse"
    assert scene.change(operator, target, "resume").json["status"] == "active"
    assert scene.change(operator, target, "revoke", reason="gone").json["status"] == "revoked"
    assert scene.record(target).revocation_reason == "gone"
    assert code(scene.change(operator, target, "suspend")) == (409, "key_ended")
    assert code(scene.change(operator, target, "roll")) == (409, "key_ended")


def test_roll_with_grace_and_finish(scene):
    operator, target = scene.operator(), scene.issue()
    answer = scene.change(operator, target, "roll", grace="24h")
    assert answer.headers["Cache-Control"] == "no-store"
    assert scene.do("verify", answer.json["key"]).accepted
    assert scene.works(target) == [True]
    assert code(scene.change(operator, target, "finish-roll", unused_for="1h")) == (409, "secret_in_use")
    assert scene.change(operator, target, "finish-roll").json["ended"] == 1
    assert scene.works(target) == [False]


def test_usage_limits_and_history(scene):
    operator, target = scene.operator(), scene.issue(quota="10/day", rate="5/minute", owner="team-1")
    path = f"/keys/{target.record.id}"
    manager = scene.manager()
    scene.ask(manager, "GET", "/keys")
    usage = scene.ask(operator, "GET", f"/keys/{manager.record.id}/usage?by=status&since=2020-01-01T00:00:00Z").json
    assert (usage["total"], usage["rows"]) == (1, [{"label": "2xx", "count": 1}])
    assert usage["last_use"]["last_used_from"] == "127.0.0.1"
    limits = scene.ask(operator, "GET", f"{path}/limits").json
    assert (limits["windows"][0]["remaining"], limits["quota"]["remaining"]) == (5, 10)
    assert scene.post(operator, f"{path}/quota/add", amount=7).json["quota"]["remaining"] == 17
    assert scene.post(operator, f"{path}/limits/reset").json["quota"]["used"] == 0
    scene.change(operator, target, "suspend", reason="abuse")
    page = scene.ask(operator, "GET", f"{path}/history?limit=1&newest_first=true").json
    assert page["events"][0]["event"] == "key.suspended"
    assert page["events"][0]["reason"] == "abuse"
    assert page["events"][0]["actor"] == f"key:{operator.record.id}"
    events = scene.ask(operator, "GET", f"{path}/history", query_string={"after": page["next"]}).json["events"]
    assert events == []


def test_a_key_lives_on_every_storage(make_app, clock, any_storage_uri):
    scene = Scene(make_app(APIKEY_STORAGE_URI=any_storage_uri), clock)
    operator = scene.operator()
    created = scene.post(operator, "/keys", name="export", owner="team-1", quota="5/day", metadata={"x": [1]}).json
    path = f"/keys/{created['id']}"
    assert scene.ask(operator, "PATCH", path, json={"name": "import", "version": 1}).json["version"] == 2
    assert code(scene.ask(operator, "PATCH", path, json={"name": "lost", "version": 1})) == (409, "conflict")
    assert scene.post(operator, f"{path}/roll", grace="1d").json["key"] != created["key"]
    assert scene.post(operator, f"{path}/finish-roll").json["ended"] == 1
    assert scene.post(operator, f"{path}/quota/add", amount=2).json["quota"]["remaining"] == 7
    assert scene.post(operator, f"{path}/revoke").json["status"] == "revoked"
    assert scene.ask(operator, "GET", "/keys?owner=team-1").json["keys"][0]["name"] == "import"
    assert scene.ask(operator, "GET", f"{path}/usage").json["total"] == 0
    events = scene.ask(operator, "GET", f"{path}/history").json["events"]
    assert [event["number"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert {event["actor"] for event in events} == {f"key:{operator.record.id}"}


@pytest.mark.parametrize("route", [each for each in CHANGES if each[0] not in {"reset_limits", "add_quota"}])
@pytest.mark.parametrize("where", ["body", "header"])
def test_a_stale_version_conflicts(scene, route, where):
    target = scene.issue(owner="team-1")
    scene.do("update", target.record.id, name="changed")
    operator = scene.operator()
    before = scene.record(target)
    if where == "body":
        answer = scene.act(operator, route, target.record.id, version=1)
    else:
        name, method, path = route
        answer = scene.ask(
            operator,
            method,
            path.replace("<key_id>", target.record.id),
            headers={"If-Match": '"1"'},
            json={"name": "lost"} if name == "update_key" else None,
        )
    assert code(answer) == (409, "conflict")
    assert scene.record(target) == before
    if route[0] != "resume_key":
        assert scene.act(operator, route, target.record.id, version=2).status_code == 200


@pytest.mark.parametrize("route", KEY_ROUTES)
def test_an_unknown_key_is_not_found(scene, route):
    for key_id in ("0" * 16, "x", "%00", "é" * 16):
        assert code(scene.act(scene.operator(), route, key_id)) == (404, "key_not_found")


@pytest.mark.parametrize("route", ROUTES)
def test_a_failed_storage_is_unavailable(make_app, backend, clock, route):
    scene = Scene(make_app(APIKEY_USAGE="off"), clock, backend=backend)
    operator, target = scene.operator(), scene.issue()

    with scene.app.app_context():
        found = backend.inner.get(operator.record.id)
    backend.get = lambda key_id: found if key_id == operator.record.id else raise_down()
    backend.find = backend.add = lambda *_, **__: raise_down()
    answer = scene.act(operator, route, target.record.id)
    if route[0] == "get_description":
        assert answer.status_code == 200
    else:
        assert code(answer) in {(503, "unavailable"), (501, "not_kept")}
        assert answer.headers.get("Retry-After") == "5" or answer.status_code == 501


def raise_down():
    raise StorageError("down")
