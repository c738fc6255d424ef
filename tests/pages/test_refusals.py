"""The last refusals on the page of a key."""

import re
from datetime import timedelta

import pytest

from flask_apikey import require_api_key
from tests.pages.conftest import PagesScene
from tests.pages.portal import Portal


@pytest.fixture
def scene(make_app, clock):
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_USAGE="sync"), clock)
    add_views(scene.app)
    return scene


def add_views(app):
    app.get("/reports/<int:number>", endpoint="report")(
        require_api_key(scopes=["reports:read", "held"])(lambda number: "report")
    )
    app.post("/orders", endpoint="order")(require_api_key(any_scope=["orders:write", "admin"])(lambda: "order"))


def ask(scene, key, path="/reports/7", method="GET"):
    return scene.app.test_client().open(path, method=method, headers={"X-API-Key": key}).status_code


def rows(page):
    """Return the cells of the table of refusals."""
    (table,) = re.findall(r"Last refusals, by the hour.*?</table>", page, re.DOTALL)
    return [re.findall(r"<td[^>]*>(?:<time[^>]*>)?([^<]*)", row) for row in re.findall(r"<tr><td>.*?</tr>", table)]


def test_refusals_name_hour_endpoint_reason_and_missing_scope(scene):
    issued = scene.issue(scopes=["held"])
    assert ask(scene, issued.key) == ask(scene, issued.key, method="HEAD") == 403
    scene.clock.advance(timedelta(hours=1))
    assert ask(scene, issued.key, "/orders", "POST") == 403
    scene.do("suspend", issued.record.id)
    assert ask(scene, issued.key) == 403
    now = scene.clock()
    hours = [f"{now - timedelta(hours=ago):%Y-%m-%d %H:00}" for ago in (0, 1)]
    page = scene.show(scene.key_page(issued))
    assert "(logger flask_apikey)" in page
    assert rows(page) == [
        [hours[0], "GET /reports/&lt;int:number&gt;", "suspended", "", "1"],
        [hours[0], "POST /orders", "insufficient_scope", "one of admin, orders:write", "1"],
        [hours[1], "HEAD /reports/&lt;int:number&gt;", "insufficient_scope", "reports:read", "1"],
        [hours[1], "GET /reports/&lt;int:number&gt;", "insufficient_scope", "reports:read", "1"],
    ]


def test_scope_that_was_given_since_is_not_missing(scene):
    issued = scene.issue(scopes=["held"])
    ask(scene, issued.key)
    scene.do("update", issued.record.id, scopes=["held", "reports:*"])
    ((*_, missing, count),) = rows(scene.show(scene.key_page(issued)))
    assert (missing, count) == ("none that the view declares", "1")


def test_page_without_refusals_has_no_table(scene):
    issued = scene.issue(scopes=["held"])
    ask(scene, issued.key)
    scene.clock.advance(timedelta(days=1))
    page = scene.show(scene.key_page(issued, "?period=today"))
    assert "Last refusals" not in page


def test_customer_sees_refusals_while_the_key_was_theirs(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up", APIKEY_USAGE="sync"), clock)
    add_views(portal.app)
    issued = portal.issue(owner="team-2")
    ask(portal, issued.key)
    portal.do("update", issued.record.id, owner="team-1")
    assert "Last refusals" not in portal.show(f"/{issued.record.id}")
    ask(portal, issued.key, "/orders", "POST")
    page = portal.show(f"/{issued.record.id}")
    ((_, request, *_),) = rows(page)
    assert "Ask our support for the exact times" in page
    assert request == "POST /orders"
