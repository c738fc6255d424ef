"""The portal, in which signed-in customers manage their own keys."""

from threading import Barrier, Thread

import pytest
from flask import redirect

from flask_apikey import APIKeys, ConfigurationError, InvalidValue, StorageError
from flask_apikey.pages import portal_blueprint
from tests.pages.conftest import hidden
from tests.pages.portal import DAY, FORMS, KEY, URL, Portal


@pytest.fixture
def portal(make_app, clock):
    return Portal(make_app(SECRET_KEY="made up"), clock)


def test_customer_creates_rolls_and_revokes(portal):
    answer = portal.post("/new", name="export", scopes=["reports:read"], lifetime="30d")
    assert answer.headers["Cache-Control"] == "no-store"
    (key,) = KEY.findall(answer.text)
    decision = portal.do("verify", key)
    record = decision.key
    assert decision.accepted
    assert (record.owner, record.scopes, record.expires_at) == ("team-1", {"reports:read"}, portal.clock() + 30 * DAY)
    assert "export" in portal.show("/")
    page = portal.show(f"/{record.id}")
    assert key not in page + portal.show("/")
    (rolled,) = KEY.findall(portal.post(f"/{record.id}/roll", grace="24h").text)
    assert portal.do("verify", rolled).accepted
    assert portal.do("verify", key).accepted
    assert portal.post(f"/{record.id}/finish").status_code == 303
    assert not portal.do("verify", key).accepted
    assert portal.post(f"/{record.id}/revoke", reason="lost").status_code == 303
    assert not portal.do("verify", rolled).accepted
    assert portal.do("get", record.id).revocation_reason == "lost"


def test_changes_name_the_owner_as_actor(portal):
    issued = portal.issue()
    portal.post(f"/{issued.record.id}/revoke")
    (event,) = portal.backend.history.chains(after=(issued.record.id, 1), limit=1)
    assert event.actor == "owner:team-1"
    portal.customer = "x" * 200
    assert KEY.search(portal.post("/new", name="long").text)


def test_page_shows_usage_and_what_is_left(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_USAGE="sync"), clock, quota="10/day", rate="5/minute")
    portal.post("/new", name="limited")
    (record,) = portal.do("list")
    page = portal.show(f"/{record.id}")
    assert "10 of 10 left" in page
    assert "5 of 5 left" in page
    assert "Requests: 0. Refused attempts: 0." in page


def test_owner_may_send_people_to_the_sign_in(portal):
    with portal.app.app_context():
        portal.customer = redirect("/login")
    assert portal.client.get(f"{URL}/").headers["Location"] == "/login"


def test_the_lifetime_of_the_application_bounds_that_of_the_portal(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_LIFETIME="30d"), clock)
    assert portal.post("/new", name="long", lifetime="31d").status_code == 400
    assert KEY.search(portal.post("/new", name="default").text)
    assert next(iter(portal.do("list"))).expires_at == clock() + 30 * DAY
    endless = Portal(make_app(SECRET_KEY="made up", APIKEY_LIFETIME=None), clock, max_lifetime=None)
    assert KEY.search(endless.post("/new", name="endless").text)
    assert next(iter(endless.do("list"))).expires_at is None


def test_keys_that_have_not_ended_are_counted(portal):
    keys = [portal.issue(f"key {number}") for number in range(3)]
    portal.do("suspend", keys[0].record.id)
    refused = portal.post("/new", name="one more")
    assert refused.status_code == 400
    assert "You can have 3 keys" in refused.text
    assert portal.do("count") == 3
    portal.do("revoke", keys[0].record.id)
    assert KEY.search(portal.post("/new", name="one more").text)


def test_concurrent_creations_do_not_exceed_the_maximum(make_app, clock, backend):
    portal = Portal(make_app(SECRET_KEY="made up"), clock, backend=backend, max_keys=1)
    add, answers = backend.add, []

    def add_after_another(key, *, event=None):
        backend.add = add
        answers.append(portal.post("/new", name="second"))
        add(key, event=event)

    backend.add = add_after_another
    answers.append(portal.post("/new", name="first"))
    shown = [key for answer in answers for key in KEY.findall(answer.text)]
    assert len(shown) == 1
    assert portal.do("count", status="active") == 1
    assert portal.do("verify", shown[0]).accepted


def test_maximum_holds_on_every_storage(make_app, clock, any_storage_uri):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_STORAGE_URI=any_storage_uri), clock, max_keys=2)
    portal.issue()
    rivals = 6
    form = hidden(portal.show("/new"))
    with portal.client.session_transaction() as session:
        token = session["csrf_token"]
    start, pages = Barrier(rivals), []

    def create(number):
        client = portal.app.test_client()
        with client.session_transaction() as session:
            session["csrf_token"] = token
        values = {**form, "form": hidden(client.get(f"{URL}/new").text)["form"], "name": f"rival {number}"}
        start.wait(30)
        pages.append(client.post(f"{URL}/new", data=values).text)

    threads = [Thread(target=create, args=(number,)) for number in range(rivals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    shown = [key for page in pages for key in KEY.findall(page)]
    assert len(pages) == rivals
    assert portal.do("count", status="active") == 1 + len(shown) <= 2
    assert all(portal.do("verify", key).accepted for key in shown)


def test_double_click_makes_one_key(portal):
    form = {**hidden(portal.show("/new")), "name": "ci"}
    first, second = (portal.client.post(f"{URL}/new", data=form) for _ in range(2))
    assert (first.status_code, second.status_code, portal.do("count")) == (200, 409, 1)
    assert not KEY.search(second.text)


@pytest.mark.parametrize("path", [path for path in FORMS if "<key_id>" in path])
def test_a_change_in_between_is_a_conflict(portal, path):
    issued = portal.issue()
    path = path.replace("<key_id>", issued.record.id)
    form = hidden(portal.show(path))
    portal.do("update", issued.record.id, name="renamed")
    answer = portal.client.post(URL + path, data=form)
    assert answer.status_code == 409
    assert "Somebody else has changed this key" in answer.text
    assert portal.do("get", issued.record.id).version == 2


def test_a_failed_storage_has_a_page(make_app, clock, backend):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_USAGE="off"), clock, backend=backend)
    issued = portal.issue()
    backend.failure = StorageError("down")
    answer = portal.client.get(f"{URL}/{issued.record.id}")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "<h1>" in answer.text


@pytest.mark.parametrize("options", [{"max_keys": 0}, {"max_keys": True}, {"max_keys": "3"}, {"owner": "team-1"}])
def test_wrong_arguments_are_refused(options):
    with pytest.raises(ConfigurationError, match=f"^{next(iter(options))} must be"):
        portal_blueprint(APIKeys(), **{"owner": lambda: "team-1", **options})


@pytest.mark.parametrize(
    "options", [{"scopes": "reports"}, {"scopes": ["a b"]}, {"max_lifetime": "soon"}, {"max_lifetime": 0}]
)
def test_wrong_values_are_refused(options):
    with pytest.raises(InvalidValue):
        portal_blueprint(APIKeys(), owner=lambda: "team-1", **options)
