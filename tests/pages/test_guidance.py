"""Texts that keep people from mistakes."""

from datetime import timedelta

import pytest

from flask_apikey import require_api_key
from tests.pages.conftest import PagesScene
from tests.pages.portal import Portal
from tests.support.stored_usage import StoredUsage

WARNING = "The last use was with a previous secret"


@pytest.fixture
def counted(make_app, clock):
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_USAGE="sync"), clock)
    scene.app.get("/reports")(require_api_key(lambda: "reports"))
    return scene


def ask(scene, key):
    return scene.app.test_client().get("/reports", headers={"X-API-Key": key}).status_code


def test_refusals_name_the_code_that_the_caller_sees(counted):
    issued = counted.issue()
    counted.do("roll", issued.record.id)
    assert ask(counted, issued.key) == 401
    assert "(the caller sees invalid_key)" in counted.show(counted.key_page(issued))


def test_ending_a_secret_in_use_is_warned_of(counted):
    issued = counted.issue()
    rolled = counted.do("roll", issued.record.id, grace="1d")
    assert ask(counted, issued.key) == 200
    assert WARNING in counted.show(counted.key_page(issued, "/finish"))
    counted.clock.advance(timedelta(seconds=1))
    assert ask(counted, rolled.key) == 200
    assert WARNING not in counted.show(counted.key_page(issued, "/finish"))


def test_lifetime_may_be_written_in_words(scene):
    scene.post("/keys/new", name="June", lifetime="90 days")
    (record,) = scene.do("list")
    assert (record.expires_at - record.created_at).days == 90


def test_message_of_a_field_does_not_repeat_its_name(scene):
    page = scene.post("/keys/new", name="June", lifetime="soon").text
    assert 'id="lifetime-error">expected a whole number' in page


def test_owner_without_such_keys_can_be_corrected(scene):
    page = scene.show("/owners?owner=nobody&action=revoke")
    assert "This owner has no such key." in page
    assert 'id="owner" name="owner" value="nobody"' in page


def test_listing_of_an_owner_leads_to_the_change_of_all(scene):
    scene.issue(owner="team-7")
    assert "/api-keys/owners?owner=team-7" in scene.show("/keys?owner=team-7")


def test_new_key_comes_with_the_way_to_send_it(make_app, clock):
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_ACCEPT=["X-Acme-Key"]), clock)
    assert "X-Acme-Key: &lt;key&gt;" in scene.post("/keys/new", name="June").text


def test_pages_say_who_is_signed_in(scene):
    assert "Signed in as <bdi>alice</bdi>" in scene.show("/keys")


def test_customer_is_told_what_to_do_about_a_suspension(make_app, clock):
    portal = Portal(make_app(SECRET_KEY="made up"), clock)
    issued = portal.issue()
    portal.do("suspend", issued.record.id)
    assert "Ask our support." in portal.show(f"/{issued.record.id}")


def test_ended_key_has_no_previous_secret_that_ends_later(counted):
    issued = counted.issue()
    counted.do("roll", issued.record.id, grace="1d")
    assert "Previous secret ends" in counted.show(counted.key_page(issued))
    counted.do("revoke", issued.record.id)
    assert "Previous secret ends" not in counted.show(counted.key_page(issued))


def test_limits_that_are_none_or_unknown_are_said_so(make_app, clock):
    app = make_app(SECRET_KEY="made up", APIKEY_PLANS={"gold": {"rate": "9/minute"}})
    portal = Portal(app, clock)
    issued, planned = portal.issue(), portal.issue(plan="gold")
    assert "No limit: neither a rate nor a quota." in portal.show(f"/{issued.record.id}")
    assert "9 of 9 left" in portal.show(f"/{planned.record.id}")
    app.extensions["apikey"].settings.plans.clear()
    assert "They cannot be read at the moment." in portal.show(f"/{planned.record.id}")


@pytest.fixture
def adopting(make_app, clock):
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_ADOPTED_KEYS=["sha256"]), clock)
    scene.old = scene.do("adopt", digest="ab" * 32, algorithm="sha256", name="moved")
    scene.issue("own")
    return scene


def test_adopted_keys_are_listed_by_themselves(adopting):
    names = {
        query: {name for name in ("moved", "own") if f"<bdi>{name}</bdi>" in adopting.show(f"/keys?adopted={query}")}
        for query in ("", "yes", "no")
    }
    assert names == {"": {"moved", "own"}, "yes": {"moved"}, "no": {"own"}}
    assert '<option value="yes" selected>' in adopting.show("/keys?adopted=yes")
    assert "adopted must be one of yes, no" in adopting.show("/keys?adopted=maybe", 400)
    assert "moved" not in adopting.show("/export/keys.csv?adopted=no")


def test_adopted_key_shows_who_uses_the_old_secret(adopting):
    usage, old = StoredUsage(adopting.backend), adopting.old
    path = f"/keys/{old.id}"
    adopting.clock.advance(timedelta(minutes=1))
    usage.last(old, adopting.clock(), address="203.0.113.1")
    badge = '<span class="badge">issued by another system</span>'
    for page in (adopting.show(path), adopting.show("/keys")):
        assert page.count(badge) == 1
        assert page.count("from 203.0.113.1") == page.count("203.0.113.1")
    assert "as sha256" in adopting.show(path)
    rolled = adopting.do("roll", old.id, grace="1d").record
    usage.last(rolled, adopting.clock(), address="203.0.113.2")
    listed = adopting.show("/keys")
    assert "from 203.0.113.1" in listed
    assert "from 203.0.113.2" not in listed
    adopting.do("finish_roll", old.id)
    assert badge not in adopting.show(path) + adopting.show("/keys")
