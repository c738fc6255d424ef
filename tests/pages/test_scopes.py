"""Scopes in the forms, and warnings about them."""

import re

import pytest

from flask_apikey import require_api_key
from flask_apikey.pages import portal_blueprint
from tests.pages.conftest import URL, PagesScene, hidden
from tests.pages.portal import Portal

UNASKED = "No view of this application asks for"
NONE = "This key has no scopes"


@pytest.fixture
def scene(make_app, clock):
    scene = PagesScene(make_app(SECRET_KEY="made up"), clock)
    scene.app.get("/a")(require_api_key(scopes=["reports:read"], any_scope=["x", "y"])(lambda: ""))
    return scene


def boxes(page):
    """Return the scopes to choose from, and those that are checked."""
    found = re.findall(r'<input type="checkbox" [^>]*name="scopes" value="([^"]*)"( checked)?>', page)
    return [scope for scope, _ in found], [scope for scope, checked in found if checked]


def text(page):
    return re.findall(r'<textarea id="scopes"[^>]*>\n([^<]*)</textarea>', page)[0].split()


def test_known_scopes_can_be_checked(scene):
    api_keys = scene.api_keys
    scene.app.register_blueprint(portal_blueprint(api_keys, owner=lambda: None, scopes=["given", "reports:read"]))
    page = scene.show("/keys/new")
    assert boxes(page) == (["given", "reports:read", "x", "y"], [])
    scene.client.post(
        f"{URL}/keys/new", data={**hidden(page), "name": "ci", "scopes": ["x", "reports:read", "other one"]}
    )
    (record,) = scene.do("list")
    assert record.scopes == {"x", "reports:read", "other", "one"}
    edit = scene.show(f"/keys/{record.id}/edit")
    assert boxes(edit)[1] == ["reports:read", "x"]
    assert text(edit) == ["one", "other"]


def test_form_with_errors_keeps_scopes(scene):
    page = scene.post("/keys/new", name="", scopes=["x", "other"]).text
    assert (boxes(page)[1], text(page)) == (["x"], ["other"])


def test_scopes_in_another_order_are_no_change(scene):
    issued = scene.issue(scopes=["a", "x"], lifetime=None)
    scene.post(scene.key_page(issued, "/edit"), name="renamed", scopes=["x", "a"])
    assert "; changed: Name<" in scene.show(scene.key_page(issued))


def test_conflict_shows_every_scope_that_was_chosen(scene):
    issued = scene.issue()
    page = scene.post(scene.key_page(issued, "/edit"), name="ci", scopes=["x", "other"], version="7").text
    assert '<td class="lines">x\nother</td>' in page


def test_application_without_scopes_has_a_text_alone(make_app, clock):
    scene = PagesScene(make_app(SECRET_KEY="made up"), clock)
    page = scene.post("/keys/new", name="ci", scopes="a").text
    assert UNASKED not in page
    page = scene.show("/keys/new")
    assert boxes(page) == ([], [])
    assert '<label for="scopes">Scopes' in page


@pytest.mark.parametrize(
    ("scopes", "warning"),
    [("reports:raed", UNASKED), ("", NONE), ("reports:read", ""), ("reports:*", ""), ("*", ""), ("y", "")],
)
def test_warnings_about_scopes(scene, scopes, warning):
    made = scene.post("/keys/new", name="ci", scopes=scopes).text
    (record,) = scene.do("list")
    for page in (made, scene.show(f"/keys/{record.id}")):
        assert [each for each in (UNASKED, NONE) if each in page] == ([warning] if warning else [])
    scene.do("revoke", record.id)
    assert NONE not in scene.show(f"/keys/{record.id}")


def test_customer_is_warned_of_a_key_without_scopes(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up"), clock)
    portal.app.get("/a")(require_api_key(scopes=["reports:read"])(lambda: ""))
    assert NONE in portal.post("/new", name="ci").text
    (record,) = portal.do("list")
    assert NONE in portal.show(f"/{record.id}")
    odd = portal.issue(scopes=["odd"])
    assert UNASKED not in portal.show(f"/{odd.record.id}")
