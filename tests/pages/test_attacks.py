"""Attacks on the operator's pages. Each goes through every route, so that a new route cannot be forgotten."""

import re
from html.parser import HTMLParser

import pytest
from flask import abort, redirect
from flask_wtf import CSRFProtect

from flask_apikey import APIKeys
from flask_apikey.pages import operator_blueprint
from tests.pages.conftest import URL, PagesScene, hidden
from tests.pages.routes import READ, WRITTEN, path_of, stored
from tests.support.stored_usage import StoredUsage

HOSTILE = """'"><script>alert(1)</script><img/src=x/onerror=alert(1)>{{7*7}}"""
SCOPE = "'><script>alert(1)</script><img/src=x/onerror=alert(1)>"


def test_routes_are_known():
    assert (len(READ), len(WRITTEN)) == (11, 7)


STATIC = f"{URL}/static/<path:filename>"


@pytest.mark.parametrize("rule", [rule for rule in READ if rule != STATIC])
def test_page_without_consent_is_refused(scene, issued, rule):
    for answer in (None, "", " ", True, 7, b"alice", "a" * 201, "a\nb", ["alice"]):
        scene.operator = answer
        for method in ("get", "head"):
            response = getattr(scene.client, method)(path_of(rule, issued.record.id))
            assert response.status_code == 403
            assert "secret name" not in response.text


def test_refusal_has_its_stylesheet(scene):
    scene.operator = None
    page = scene.show("/keys", 403)
    (stylesheet,) = re.findall(rf'href="{URL}(/static/pages\.css)"', page)
    assert ".apikey" in scene.client.get(URL + stylesheet, buffered=True).text
    scene.show("/static/../blueprint.py", 404)


@pytest.mark.parametrize("rule", WRITTEN)
def test_change_without_consent_is_refused(scene, issued, rule):
    values = {**hidden(scene.show("/keys/new")), "owner": "team-7", "action": "revoke", "name": "x", "version": "1"}
    before = stored(scene)
    scene.operator = None
    response = scene.client.post(path_of(rule, issued.record.id), data=values)
    assert response.status_code == 403
    assert stored(scene) == before
    assert "team-7" in response.text, "what was entered is kept"


@pytest.mark.parametrize(
    ("authorize", "status", "header"),
    [
        (lambda: abort(401), 401, None),
        (lambda: abort(redirect("/sign-in")), 302, ("Location", "/sign-in")),
        (lambda: redirect("/sign-in"), 302, ("Location", "/sign-in")),
        (lambda: abort(503), 503, None),
    ],
)
def test_authorize_answers_itself(make_app, clock, authorize, status, header):
    app = make_app(SECRET_KEY="made up")
    app.register_blueprint(operator_blueprint(APIKeys(app, clock=clock), authorize=authorize))
    response = app.test_client().get(f"{URL}/keys")
    assert response.status_code == status
    assert header is None or response.headers[header[0]] == header[1]


@pytest.fixture(params=["pages alone", "CSRFProtect"])
def protected(request, make_app, clock):
    app = make_app(SECRET_KEY="made up")
    if request.param == "CSRFProtect":
        CSRFProtect(app)
    return PagesScene(app, clock)


@pytest.mark.parametrize("rule", WRITTEN)
@pytest.mark.parametrize("forgery", ["no token", "token of another session", "no session", "another site"])
def test_forged_form_is_refused(protected, rule, forgery):
    issued = protected.issue(owner="team-7")
    page = protected.show("/owners?owner=team-7&action=revoke")
    values = {**hidden(page), **hidden(protected.show("/keys/new")), "version": "1", "name": "<x>"}
    before = stored(protected)
    client, headers = protected.client, {}
    if forgery == "no token":
        del values["csrf_token"]
    elif forgery == "token of another session":
        values["csrf_token"] = hidden(protected.app.test_client().get(f"{URL}/keys/new").text)["csrf_token"]
    elif forgery == "no session":
        client = protected.app.test_client()
    else:
        headers = {"Sec-Fetch-Site": "cross-site"}
    response = client.post(path_of(rule, issued.record.id), data=values, headers=headers)
    assert response.status_code == 400
    assert stored(protected) == before
    assert "The form was not accepted" in response.text
    assert "&lt;x&gt;" in response.text, "what was entered is kept"
    assert "<form" not in response.text, "what another site sent is not one click away"


def test_form_of_an_ended_session_can_be_sent_again(scene):
    values = {**hidden(scene.show("/keys/new")), "name": "kept"}
    scene.client.delete_cookie("session")
    own = {"Sec-Fetch-Site": "same-origin"}
    response = scene.client.post(f"{URL}/keys/new", data=values, headers=own)
    assert (response.status_code, scene.do("count")) == (400, 0)
    assert scene.client.post(f"{URL}/keys/new", data=hidden(response.text), headers=own).status_code == 200
    assert [record.name for record in scene.do("list")] == ["kept"]


@pytest.mark.parametrize("rule", sorted({*READ, *WRITTEN}))
def test_headers_of_every_answer(scene, issued, rule):
    for method in ("get", "post"):
        for operator in ("alice", None):
            scene.operator = operator
            headers = getattr(scene.client, method)(path_of(rule, issued.record.id), buffered=True).headers
            if "Allow" in headers:
                continue  # Flask refuses the method before the blueprint.
            policy = dict(each.strip().split(" ", 1) for each in headers["Content-Security-Policy"].split(";"))
            assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
            assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "same-origin"
            assert rule.endswith("<path:filename>") or headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("rule", sorted({*READ, *WRITTEN}))
def test_plain_http_is_refused(make_app, clock, rule):
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_ENFORCE_HTTPS=True), clock)
    issued = scene.issue()
    url = path_of(rule, issued.record.id)
    scene.operator = None
    for method in {"GET", "POST"} - (set() if rule in WRITTEN else {"POST"}) - (set() if rule in READ else {"GET"}):
        refused = scene.client.open(url, method=method)
        assert refused.status_code == 403
        assert "HTTPS" in refused.text
    scene.operator = "alice"
    if rule in READ:
        assert scene.client.get(url, base_url="https://localhost", buffered=True).status_code == 200


class Elements(HTMLParser):
    """Scripts and handlers of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "script" and values.get("src", "").startswith(f"{URL}/static/"):
            return
        if tag in {"script", "style", "img", "iframe", "base"} or any(
            name.startswith("on") or name == "style" for name in values
        ):
            self.found.append(tag)
        if any(
            str(values.get(name, "")).lower().startswith(("javascript:", "//", "http")) for name in ("href", "action")
        ):
            self.found.append(tag)


def test_stored_markup_is_text(make_app, clock):
    plans = {HOSTILE: {"rate": "9/minute"}}
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_PLANS=plans), clock)
    scene.operator = HOSTILE
    made = scene.post(
        "/keys/new",
        name=HOSTILE,
        owner=HOSTILE,
        scopes=SCOPE,
        plan=HOSTILE,
        reason=HOSTILE,
        metadata=f'{{"x": "{SCOPE}"}}',
    )
    (record,) = scene.do("list")
    assert (record.name, record.owner, record.scopes) == (HOSTILE, HOSTILE, {SCOPE})
    StoredUsage(scene.backend)(record.id, scene.clock(), endpoint=HOSTILE, owner=HOSTILE)
    StoredUsage(scene.backend)(record.id, scene.clock(), reason=HOSTILE)
    scene.post(f"/keys/{record.id}/suspend", reason=HOSTILE)
    pages = [made.text]
    for rule in READ:
        url = path_of(rule, record.id).replace(".json", ".csv")
        if "/export/" not in url and "/static/" not in url:
            pages += [scene.client.get(url).text]
    query = {
        "owner": HOSTILE,
        "action": "resume",
        "search": HOSTILE,
        "actor": HOSTILE,
        "status": HOSTILE,
        "since": HOSTILE,
    }
    pages += [scene.client.get(f"{URL}{path}", query_string=query).text for path in ("/keys", "/owners", "/audit")]
    stale = {**hidden(scene.show(f"/keys/{record.id}/edit")), "version": "1", "name": HOSTILE, "metadata": HOSTILE}
    pages += [scene.client.post(f"{URL}/keys/{record.id}/{each}", data=stale).text for each in ("edit", "roll")]
    pages += [scene.client.post(f"{URL}/keys/{record.id}/edit", data={**stale, "csrf_token": HOSTILE}).text]
    pages += [scene.client.post(f"{URL}/keys/new", data={**stale, "lifetime": HOSTILE, HOSTILE: HOSTILE}).text]
    assert sum("alert(1)" in page for page in pages) > 8
    for page in pages:
        assert Elements(page).found == []


def test_exported_files_are_downloads(scene, issued):
    for form in ("csv", "json"):
        headers = scene.client.get(f"{URL}/export/keys.{form}").headers
        assert headers["Content-Disposition"] == f"attachment; filename=api-keys.{form}"


def test_no_redirect_leaves_the_pages(scene, issued):
    elsewhere = "https://elsewhere.example/"
    path = scene.key_page(issued, "/suspend")
    query = {"next": elsewhere, "_external": "1", "_scheme": "https", "_anchor": "x", "url": elsewhere}
    values = {**hidden(scene.show(path)), **query}
    response = scene.client.post(URL + path, data=values, query_string=query, headers={"Referer": elsewhere})
    assert response.status_code == 303
    assert response.headers["Location"] == f"{URL}/keys/{issued.record.id}?done=suspend"
    for rule in READ:
        page = scene.client.get(path_of(rule, issued.record.id), query_string=query, buffered=True).text
        assert "elsewhere" not in page


def test_new_key_is_in_one_answer_only(scene, caplog):
    caplog.set_level("DEBUG")
    made = scene.post("/keys/new", name="ci")
    rolled = scene.post(f"/keys/{next(scene.do('list')).id}/roll", grace="24h")
    for response in (made, rolled):
        (key,) = re.findall(r'id="new-key"[^>]*>([^<]+)<', response.text)
        assert response.text.count(key) == 1
        secret = key.rpartition("_")[2]
        assert response.status_code == 200
        assert secret not in str(response.headers)
        with scene.client.session_transaction() as session:
            assert secret not in str(dict(session))
        assert secret not in caplog.text + str(stored(scene))
        for rule in READ:
            assert secret not in scene.client.get(path_of(rule, scene.do("verify", key).key.id), buffered=True).text
