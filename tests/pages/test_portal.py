"""The portal, in which signed-in customers manage their own keys."""

import html
import re
from datetime import timedelta

import pytest
from flask import Flask, redirect
from jinja2 import StrictUndefined

from flask_apikey import APIKeys, ConfigurationError, InvalidValue, StorageError
from flask_apikey.pages import portal_blueprint
from tests.pages.conftest import hidden
from tests.support.keys import KeyScene

DAY = timedelta(days=1)
URL = "/my-api-keys"
KEY = re.compile(r'id="new-key"[^>]*>([^<]+)<')
SCOPES = ["reports:read", "reports:write"]


def routes():
    """Every route of the portal, as method and path."""
    app = Flask("routes")
    app.register_blueprint(portal_blueprint(APIKeys(), owner=lambda: None))
    found = []
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("api_key_portal.") and not rule.endpoint.endswith(".static"):
            actions = ["roll", "finish", "revoke"] if "action" in rule.arguments else [""]
            path = re.sub(r"<any\(.*\):action>", "{}", rule.rule).removeprefix(URL)
            for action in actions:
                found += [(method, path.format(action)) for method in sorted(rule.methods - {"HEAD", "OPTIONS"})]
    return found


ROUTES = routes()
KEY_ROUTES = [route for route in ROUTES if "<key_id>" in route[1]]
FORMS = [path for method, path in ROUTES if method == "POST"]


class Portal(KeyScene):
    """An application with the portal."""

    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **({"backend": options.pop("backend")} if "backend" in options else {}))
        self.customer = "team-1"
        app.jinja_env.undefined = StrictUndefined
        portal = {"scopes": SCOPES, "max_keys": 3, "max_lifetime": "90d", **options}
        app.register_blueprint(portal_blueprint(self.api_keys, owner=lambda: self.customer, **portal))
        self.client = app.test_client()

    def issue(self, name="ci", **attributes):
        return super().issue(name, **{"owner": "team-1", **attributes})

    def show(self, path, status=200):
        answer = self.client.get(URL + path)
        assert answer.status_code == status, answer.text
        return answer.text

    def send(self, method, path, target=None):
        path = path if target is None else path.replace("<key_id>", target.record.id)
        values = {**hidden(self.show("/new")), "version": "1", "name": "new"} if method == "POST" else None
        return self.client.open(URL + path, method=method, data=values)

    def post(self, path, **values):
        """Send a form, with the hidden fields of its page."""
        return self.client.post(URL + path, data={**hidden(self.show(path)), **values})


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
    assert "0 requests, and 0 refused attempts." in page


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


def test_owner_may_send_people_to_the_sign_in(portal):
    with portal.app.app_context():
        portal.customer = redirect("/login")
    assert portal.client.get(f"{URL}/").headers["Location"] == "/login"


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


def test_the_lifetime_of_the_application_bounds_that_of_the_portal(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_LIFETIME="30d"), clock)
    assert portal.post("/new", name="long", lifetime="31d").status_code == 400
    assert KEY.search(portal.post("/new", name="default").text)
    assert next(iter(portal.do("list"))).expires_at == clock() + 30 * DAY
    endless = Portal(make_app(SECRET_KEY="made up", APIKEY_LIFETIME=None), clock, max_lifetime=None)
    assert KEY.search(endless.post("/new", name="endless").text)
    assert next(iter(endless.do("list"))).expires_at is None


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


def test_keys_that_have_not_ended_are_counted(portal):
    keys = [portal.issue(f"key {number}") for number in range(3)]
    portal.do("suspend", keys[0].record.id)
    refused = portal.post("/new", name="one more")
    assert refused.status_code == 400
    assert "You can have 3 keys" in refused.text
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


def test_usage_of_an_earlier_owner_stays_hidden(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_USAGE="sync", APIKEY_PROTECT_ALL=True), clock)
    portal.app.get("/secret-place")(lambda: "ok")
    issued = portal.issue(owner="team-2")
    for _ in range(3):
        assert portal.client.get("/secret-place", headers={"X-API-Key": issued.key}).status_code == 200
    portal.do("update", issued.record.id, owner="team-1")
    page = portal.show(f"/{issued.record.id}")
    assert "secret-place" not in page
    assert "0 requests" in page


def test_hostile_names_are_text(portal):
    name = "<script>alert(1)</script>\"'&"
    assert KEY.search(portal.post("/new", name=name).text)
    (record,) = portal.do("list")
    for page in (portal.show("/"), portal.show(f"/{record.id}"), portal.show(f"/{record.id}/roll")):
        assert "<script>alert" not in page
        assert html.escape("<script>alert(1)</script>") in page


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


def test_plain_http_is_refused(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_ENFORCE_HTTPS=True), clock)
    assert portal.client.get(f"{URL}/").status_code == 403
    assert portal.client.get(f"{URL}/", base_url="https://localhost").status_code == 200
