"""The operator's pages: finding, creating and changing keys."""

import re
from datetime import timedelta

import pytest

from tests.pages.conftest import URL, PagesScene, hidden

KEY = re.compile(r'id="new-key"[^>]*>([^<]+)<')


def test_every_page_opens(scene):
    issued = scene.issue(
        owner="team-7", scopes=["a", "b"], metadata={"ticket": "OPS-1"}, rate="60/minute", quota="5/day"
    )
    scene.roll(issued, grace="1d")
    for path in (
        "/",
        "/keys",
        "/keys/new",
        "/owners",
        "/owners?owner=team-7&action=revoke",
        "/audit",
        *(scene.key_page(issued, each) for each in ("", "/edit", "/suspend", "/resume", "/roll", "/finish", "/revoke")),
    ):
        assert "<h1>" in scene.show(path)


def test_create_shows_key_once(scene):
    answer = scene.post("/keys/new", name="ci", owner="team-7", scopes="a b\nc", lifetime="30d", metadata='{"x": 1}')
    (key,) = KEY.findall(answer.text)
    decision = scene.do("verify", key)
    record = decision.key
    assert decision.accepted
    assert (record.name, record.owner, record.scopes, record.metadata) == ("ci", "team-7", {"a", "b", "c"}, {"x": 1})
    assert record.expires_at == record.created_at + timedelta(days=30)
    assert key not in scene.show(f"/keys/{record.id}") + scene.show("/audit")


def test_double_click_makes_one_key(scene):
    form = {**hidden(scene.show("/keys/new")), "name": "ci"}
    first, second = (scene.client.post(f"{URL}/keys/new", data=form) for _ in range(2))
    assert (first.status_code, second.status_code, scene.do("count")) == (200, 409, 1)
    assert not KEY.search(second.text)


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x", "lifetime": "soon"}, "lifetime"),
        ({"name": "x", "metadata": "{"}, "metadata"),
        ({"name": "x", "allowed_ips": "elsewhere"}, "allowed_ips"),
        ({"name": "x", "plan": "gold"}, "plan"),
        ({"name": "x", "quota": "many"}, "quota"),
    ],
)
def test_refused_value_is_explained_beside_its_field(scene, values, field):
    answer = scene.post("/keys/new", **{"owner": "kept", **values})
    assert (answer.status_code, scene.do("count")) == (400, 0)
    assert f'id="{field}-error"' in answer.text
    assert re.search(rf'name="{field}" aria-describedby="[^"]*{field}-error" aria-invalid="true"', answer.text)
    assert 'value="kept"' in answer.text


def test_edit_changes_fields_and_keeps_the_rest(scene):
    issued = scene.issue(owner="team-7", scopes=["a"], lifetime="30d", metadata={"x": [1, "ü"]})
    page = scene.show(scene.key_page(issued, "/edit"))
    values = {name: value for name, value in form_values(page).items() if name != "name"}
    scene.client.post(URL + scene.key_page(issued, "/edit"), data={**values, "name": "renamed"})
    after = scene.do("get", issued.record.id)
    assert after.to_dict() == {
        **issued.record.to_dict(),
        "name": "renamed",
        "version": 2,
        "updated_at": after.updated_at.isoformat(),
    }


def test_edit_leaves_a_plan_that_is_gone(make_app, clock):
    app = make_app(SECRET_KEY="made up", APIKEY_PLANS={"gold": {"rate": "9/minute"}})
    scene = PagesScene(app, clock)
    issued = scene.issue(plan="gold", expires_at=clock() + timedelta(days=1, microseconds=5))
    scene.app.extensions["apikey"].settings.plans.clear()
    page = scene.show(scene.key_page(issued, "/edit"))
    assert '<option value="gold" selected>' in page
    values = {**form_values(page), "plan": "gold", "name": "renamed"}
    assert scene.client.post(URL + scene.key_page(issued, "/edit"), data=values).status_code == 303
    after = scene.do("get", issued.record.id)
    assert (after.name, after.plan, after.expires_at) == ("renamed", "gold", issued.record.expires_at)


def form_values(page):
    """Return all fields of a form as a browser sends them."""
    import html

    texts = dict(re.findall(r'<input id="[^"]*" name="([^"]*)"[^>]*? value="([^"]*)"', page))
    areas = dict(re.findall(r'<textarea id="[^"]*" name="([^"]*)"[^>]*>\n([^<]*)</textarea>', page))
    return {**hidden(page), **{name: html.unescape(value) for name, value in {**texts, **areas}.items()}}


def test_changes_of_a_key(scene):
    issued = scene.issue()
    path = scene.key_page(issued)
    scene.post(f"{path}/suspend", reason="odd traffic")
    assert not scene.works(issued)[0]
    scene.post(f"{path}/resume")
    (rolled,) = KEY.findall(scene.post(f"{path}/roll", grace="24h").text)
    assert scene.works(issued) == [True]
    assert scene.do("verify", rolled)
    scene.post(f"{path}/finish")
    assert scene.works(issued) == [False]
    scene.post(f"{path}/revoke", reason="gone")
    assert not scene.do("verify", rolled)
    events = scene.backend.history.events
    from flask_apikey.core.storage.contract import EventFilter

    found = events(EventFilter(key_id=issued.record.id), after=None, limit=9)
    assert [event.actor for event in found[1:]] == ["alice"] * 5


@pytest.mark.parametrize("action", ["edit", "suspend", "roll", "finish", "revoke"])
def test_change_of_somebody_else_is_a_conflict_that_keeps_what_was_entered(scene, action):
    issued = scene.issue()
    path = URL + scene.key_page(issued, f"/{action}")
    form = {**form_values(scene.client.get(path).text), "reason": "<mine>"}
    scene.do("update", issued.record.id, name="theirs")
    before = scene.do("get", issued.record.id)
    answer = scene.client.post(path, data=form)
    assert answer.status_code == 409
    assert "&lt;mine&gt;" in answer.text
    assert "theirs" in answer.text or action != "edit"
    assert scene.do("get", issued.record.id) == before
    again = scene.client.post(path, data=hidden(answer.text))
    assert again.status_code in {200, 303}


def test_listing_goes_both_ways(scene, monkeypatch):
    monkeypatch.setattr("flask_apikey.pages.listing.listing_page.__defaults__", (2,))
    for number in range(5):
        scene.issue(f"key {number}")
        scene.clock.advance(timedelta(seconds=1))

    def names(page):
        return re.findall(r">(key \d)<", page)

    def follow(page, relation):
        import html

        (url,) = re.findall(rf'rel="{relation}" href="([^"]*)"', page)
        return scene.client.get(html.unescape(url)).text

    first = scene.show("/keys?search=key")
    assert 'rel="prev"' not in first
    second = follow(first, "next")
    third = follow(second, "next")
    assert [names(page) for page in (first, second, third)] == [["key 4", "key 3"], ["key 2", "key 1"], ["key 0"]]
    assert 'rel="next"' not in third
    assert names(follow(third, "prev")) == ["key 2", "key 1"]
    assert names(follow(follow(third, "prev"), "prev")) == ["key 4", "key 3"]


def test_filters(scene):
    scene.issue("one", owner="team-7")
    scene.do("revoke", scene.issue("two", owner="team-8").record.id)
    assert "two" not in scene.show("/keys?owner=team-7")
    assert ">one<" not in scene.show("/keys?status=revoked")
    assert ">one<" in scene.show("/keys?search=team-7&expiring_within=400d")
    assert "unused_for" in scene.show("/keys?unused_for=soon", 400)
    assert "status must be" in scene.show("/keys?status=odd", 400)
    scene.show("/keys?after=odd", 400)


def test_unknown_key_is_404(scene):
    for path in ("/keys/8sQ2dKf0LmX7Tz1B", "/keys/odd", "/keys/8sQ2dKf0LmX7Tz1B/edit", "/keys/8sQ2dKf0LmX7Tz1B/roll"):
        assert "There is no such key" in scene.show(path, 404)


def test_refusals_of_yesterday(scene):
    issued = scene.issue(scopes=["a"])
    from flask_apikey import require_api_key

    scene.app.add_url_rule("/reports", "reports", require_api_key(scopes=["b"])(lambda: "reports"))
    scene.app.test_client().get("/reports", headers={"Authorization": f"Bearer {issued.key}"})
    scene.clock.advance(timedelta(days=1))
    page = scene.show(scene.key_page(issued, "?period=yesterday"))
    assert re.search(r"insufficient.scope</td><td class=\"number\">1<", page)
    assert "insufficient" not in scene.show(scene.key_page(issued, "?period=today"))


@pytest.mark.parametrize(("action", "works"), [("suspend", False), ("revoke", False), ("resume", True)])
def test_bulk_change_after_preview(scene, action, works):
    keys = [scene.issue(f"key {number}", owner="team-7") for number in range(3)]
    other = scene.issue(owner="team-8")
    if action == "resume":
        scene.do("suspend_many", owner="team-7")
    path = f"/owners?owner=team-7&action={action}"
    preview = scene.show(path)
    assert "Keys to change: 3." in preview
    answer = scene.client.post(f"{URL}/owners", data={**hidden(preview), "reason": "unpaid"})
    assert "Keys changed: 3." in answer.text
    assert scene.works(*keys, other) == [works, works, works, True]


def test_bulk_change_of_other_keys_than_shown_asks_again(scene):
    scene.issue(owner="team-7")
    preview = scene.show("/owners?owner=team-7&action=revoke")
    late = scene.issue(owner="team-7")
    answer = scene.client.post(f"{URL}/owners", data=hidden(preview))
    assert (answer.status_code, scene.works(late)) == (409, [True])
    assert "Keys to change: 2." in answer.text


def test_audit_filters(scene):
    scene.post("/keys/new", name="one", owner="team-7")
    scene.operator = "bob"
    scene.post("/keys/new", name="two", owner="team-8")
    assert "team-7" in scene.show("/audit")
    assert ">team-7<" not in scene.show("/audit?actor=bob")
    assert ">team-8<" not in scene.show("/audit?owner=team-7&since=1h")
    for wrong in ("since=odd", "key_id=odd", "after=odd"):
        scene.show(f"/audit?{wrong}", 400)
