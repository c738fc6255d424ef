"""Events on the pages, in words."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.model import history
from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.storage.contract import EventFilter
from flask_apikey.pages.event_words import _EVENTS, detail_words
from tests.pages.conftest import URL


def test_history_says_what_changed(scene):
    issued = scene.issue(scopes=["a"], lifetime=None)
    scene.post(scene.key_page(issued, "/edit"), name="renamed", scopes="a b")
    scene.post(scene.key_page(issued, "/roll"), grace="24h")
    page = scene.show(scene.key_page(issued))
    assert re.search(r">edited<.*>from: 127\.0\.0\.1; changed: Name, Scopes", page.replace("\n", ""))
    assert re.search(r">secret replaced<.*grace period: 1 day", page.replace("\n", ""))


def test_audit_names_keys_and_seconds(scene):
    issued = scene.issue("Nightly <export>", lifetime=None)
    removed = scene.issue("gone")
    scene.do("revoke", removed.record.id)
    scene.clock.advance(timedelta(days=400))
    scene.do("prune", ended_before=scene.clock())
    page = scene.show("/audit")
    assert f'href="{URL}/keys/{issued.record.id}"><bdi>Nightly &lt;export&gt;</bdi>' in page
    assert f"{issued.record.created_at:%Y-%m-%d %H:%M:%S}</time>" in page
    assert removed.record.id in page
    assert f"/keys/{removed.record.id}" not in page


def test_every_event_has_words(scene):
    names = {value for value in vars(history).values() if isinstance(value, str) and re.fullmatch(r"\w+\.\w+", value)}
    assert names <= set(_EVENTS)


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ("no JSON", "no JSON"),
        ("[1]", "[1]"),
        ('{"grace_seconds":"soon"}', "grace_seconds: soon"),
        ('{"grace_seconds":1e300}', "grace_seconds: 1e+300"),
        ('{"fields":7}', "fields: 7"),
        ('{"events_removed":2}', "events removed: 2"),
    ],
)
def test_details_of_any_form_are_shown(scene, details, words):
    scene.issue()
    (event,) = scene.backend.history.events(EventFilter(), after=None, limit=1)
    assert isinstance(event, LifecycleEvent)
    with scene.app.test_request_context():
        assert detail_words(replace(event, details=details)) == words
