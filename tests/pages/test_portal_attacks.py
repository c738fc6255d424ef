"""Attacks on the portal: keys of others, forged forms, and more than the application gives."""

import html

import pytest

from tests.pages.conftest import hidden
from tests.pages.portal import DAY, FORMS, KEY, KEY_ROUTES, ROUTES, URL, Portal


@pytest.fixture
def portal(make_app, clock):
    return Portal(make_app(SECRET_KEY="made up"), clock)


@pytest.mark.parametrize(("method", "path"), KEY_ROUTES)
def test_the_key_of_another_owner_is_not_found(portal, method, path):
    for owner in ("team-2", None):
        other = portal.issue("secret name", owner=owner)
        answer = portal.send(method, path, other)
        assert answer.status_code == 404
        assert "secret name" not in answer.text
        assert portal.do("get", other.record.id) == other.record


def test_a_form_of_another_owner_is_not_found(portal):
    form = hidden(portal.show("/new"))
    portal.client.post(f"{URL}/new", data={**form, "name": "ci"})
    portal.customer = "team-2"
    again = {**hidden(portal.show("/new")), "form": form["form"], "name": "ci"}
    assert portal.client.post(f"{URL}/new", data=again).status_code == 404


def test_list_shows_keys_of_the_owner_only(portal):
    portal.issue("theirs", owner="team-2")
    portal.issue("nobody's", owner=None)
    portal.issue("mine")
    page = html.unescape(portal.show("/"))
    assert "mine" in page
    assert "theirs" not in page
    assert "nobody's" not in page


@pytest.mark.parametrize("customer", [None, "", " ", True, 7, object(), b"team-1", ["team-1"], "a\u202eb", "x" * 201])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_whoever_is_no_customer_is_refused(portal, customer, method, path):
    target = portal.issue()
    form = hidden(portal.show("/new"))
    portal.customer = customer
    path = path.replace("<key_id>", target.record.id)
    answer = portal.client.open(URL + path, method=method, data={**form, "version": "1"} if method == "POST" else None)
    assert answer.status_code == 403
    assert portal.do("get", target.record.id) == target.record
    assert portal.do("count") == 1


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize("token", [None, "", "forged"])
def test_forms_need_a_csrf_token(portal, path, token):
    target = portal.issue()
    path = path.replace("<key_id>", target.record.id)
    form = {**hidden(portal.show("/new")), "version": "1", "name": "x"}
    del form["csrf_token"]
    answer = portal.client.post(URL + path, data=form if token is None else {**form, "csrf_token": token})
    assert answer.status_code == 400
    assert "The form was not accepted" in answer.text
    assert portal.do("get", target.record.id) == target.record
    assert portal.do("count") == 1


@pytest.mark.parametrize("path", FORMS)
def test_forms_of_another_site_are_refused(portal, path):
    target = portal.issue()
    path = path.replace("<key_id>", target.record.id)
    form = {**hidden(portal.show("/new")), "version": "1", "name": "x"}
    answer = portal.client.post(URL + path, data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 400
    assert portal.do("count") == 1
    assert portal.do("get", target.record.id) == target.record


@pytest.mark.parametrize("scopes", [["admin"], ["*"], ["reports:*"], ["reports:read", "admin"]])
def test_a_forged_form_gives_no_other_scope(portal, scopes):
    answer = portal.post("/new", name="wide", scopes=scopes)
    assert answer.status_code == 400
    assert "cannot be given" in answer.text
    assert portal.do("count") == 0


def test_a_forged_form_gives_no_longer_life(portal):
    for lifetime in ("91d", "100w", "36500d", "0", "-1d", "never"):
        assert portal.post("/new", name="long", lifetime=lifetime).status_code == 400
    assert portal.do("count") == 0
    forged = {"expires_at": "2099-01-01", "owner": "team-2", "plan": "gold", "quota": "9/day", "metadata": '{"a": 1}'}
    portal.post("/new", name="default", **forged)
    (record,) = portal.do("list")
    assert (record.expires_at, record.owner, record.plan, record.quota) == (
        portal.clock() + 90 * DAY,
        "team-1",
        None,
        None,
    )
    assert record.metadata == {}


def test_a_suspended_key_is_not_resumed(portal):
    issued = portal.issue()
    portal.do("suspend", issued.record.id, reason="abuse by team-1")
    page = portal.show(f"/{issued.record.id}")
    assert "abuse" not in page
    assert portal.client.get(f"{URL}/{issued.record.id}/resume").status_code == 404
    form = {**hidden(portal.show("/new")), "version": "2"}
    assert portal.client.post(f"{URL}/{issued.record.id}/resume", data=form).status_code == 404
    assert KEY.search(portal.post(f"/{issued.record.id}/roll", grace="1h").text)
    assert portal.do("get", issued.record.id).suspended_at is not None
    assert portal.works(issued) == [False]


def test_usage_of_an_earlier_owner_stays_hidden(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_USAGE="sync", APIKEY_PROTECT_ALL=True), clock)
    portal.app.get("/secret-place")(lambda: "ok")
    issued = portal.issue(owner="team-2")
    for _ in range(3):
        assert portal.client.get("/secret-place", headers={"X-API-Key": issued.key}).status_code == 200
    portal.do("update", issued.record.id, owner="team-1")
    page = portal.show(f"/{issued.record.id}")
    assert "secret-place" not in page
    assert "Requests: 0." in page


def test_hostile_names_are_text(portal):
    name = "<script>alert(1)</script>\"'&"
    assert KEY.search(portal.post("/new", name=name).text)
    (record,) = portal.do("list")
    for page in (portal.show("/"), portal.show(f"/{record.id}"), portal.show(f"/{record.id}/roll")):
        assert "<script>alert" not in page
        assert html.escape("<script>alert(1)</script>") in page


def test_plain_http_is_refused(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_ENFORCE_HTTPS=True), clock)
    assert portal.client.get(f"{URL}/").status_code == 403
    assert portal.client.get(f"{URL}/", base_url="https://localhost").status_code == 200
