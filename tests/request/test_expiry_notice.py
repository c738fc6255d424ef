"""Keys that end soon: what their callers, the application and the operator are told."""

import logging
from datetime import timedelta
from email.utils import parsedate_to_datetime

import pytest

from flask_apikey import APIKeys, require_api_key
from flask_apikey.request import expiry_notice as module
from flask_apikey.signals import api_key_expiring

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NOTICE = 14 * DAY


class Scene:
    """An application whose signals of keys that end soon are noted."""

    def __init__(self, app, clock):
        self.app, self.clock = app, clock
        self.api_keys = APIKeys(app, clock=clock)
        self.told = []
        self.receiver = lambda sender, key, ends_at: self.told.append((sender, key.id, ends_at))
        api_key_expiring.connect(self.receiver, app)
        app.get("/", endpoint="view")(require_api_key(lambda: "ok"))
        with app.app_context():
            self.api_keys.init_storage()

    def issue(self, lifetime=365 * DAY, **attributes):
        with self.app.app_context():
            return self.api_keys.create(name="ci", lifetime=lifetime, **attributes)

    def roll(self, issued, grace):
        with self.app.app_context():
            return self.api_keys.roll(issued.record.id, grace=grace)

    def get(self, issued=None, path="/"):
        headers = {"X-API-Key": issued.key} if issued else {}
        return self.app.test_client().get(path, headers=headers)

    def sunset(self, issued):
        """When the answer to a request with a key says that it ends; None where it does not say."""
        answer = self.get(issued)
        assert answer.status_code == 200
        assert len(answer.headers.getlist("Sunset")) <= 1
        sunset = answer.headers.get("Sunset")
        return None if sunset is None else parsedate_to_datetime(sunset)


@pytest.fixture
def scene(app, clock):
    return Scene(app, clock)


def test_a_key_that_expires_within_the_period_is_told_its_end(scene, clock):
    assert scene.sunset(scene.issue(NOTICE)) == clock() + NOTICE


def test_the_header_is_an_http_date(scene):
    assert scene.get(scene.issue(DAY)).headers["Sunset"] == "Fri, 02 Jan 2026 00:00:00 GMT"


@pytest.mark.parametrize("lifetime", [NOTICE + timedelta(microseconds=1), None])
def test_nothing_is_said_of_a_key_that_is_far_from_its_end(scene, lifetime):
    assert scene.sunset(scene.issue(lifetime)) is None
    assert scene.told == []


def test_an_end_within_a_second_is_never_told_too_late(scene, clock):
    issued = scene.issue(HOUR + timedelta(milliseconds=999))
    assert scene.sunset(issued) == clock() + HOUR


def test_a_previous_secret_is_told_the_end_of_its_grace_and_the_newest_is_not(scene, clock):
    old = scene.issue()
    new = scene.roll(old, 2 * DAY)
    assert scene.sunset(old) == clock() + 2 * DAY
    assert scene.sunset(new) is None


def test_a_previous_secret_is_told_the_end_of_the_key_where_that_is_sooner(scene, clock):
    old = scene.issue()
    scene.roll(old, 2 * DAY)
    with scene.app.app_context():
        scene.api_keys.update(old.record.id, expires_at=clock() + HOUR)
    assert scene.sunset(old) == clock() + HOUR


def test_of_several_previous_secrets_each_is_told_its_own_end(scene, clock):
    first = scene.issue()
    second = scene.roll(first, HOUR)
    third = scene.roll(first, DAY)
    assert [scene.sunset(each) for each in (first, second, third)] == [clock() + HOUR, clock() + DAY, None]


def test_a_sunset_of_the_view_stands(scene):
    @scene.app.get("/leaving")
    @require_api_key
    def leaving():
        return "ok", {"Sunset": "Tue, 01 Dec 2026 00:00:00 GMT"}

    answer = scene.get(scene.issue(DAY), "/leaving")
    assert answer.headers.getlist("Sunset") == ["Tue, 01 Dec 2026 00:00:00 GMT"]
    assert len(scene.told) == 1


def test_a_refusal_says_nothing(scene, clock):
    @scene.app.get("/scoped")
    @require_api_key(scopes=["read"])
    def scoped():
        return "ok"

    issued = scene.issue(DAY)
    assert "Sunset" not in scene.get(issued, "/scoped").headers
    assert "Sunset" not in scene.get().headers
    clock.advance(DAY)
    assert scene.get(issued).status_code == 401
    assert "Sunset" not in scene.get(issued).headers
    assert scene.told == []


def test_an_open_view_and_an_optional_one_without_a_key_say_nothing(scene):
    scene.app.get("/open", endpoint="open")(lambda: "ok")
    scene.app.get("/optional", endpoint="optional")(require_api_key(optional=True)(lambda: "ok"))
    issued = scene.issue(DAY)
    assert "Sunset" not in scene.get(issued, "/open").headers
    assert "Sunset" not in scene.get(None, "/optional").headers
    assert "Sunset" in scene.get(issued, "/optional").headers


def test_a_failing_view_says_it_too(scene):
    @scene.app.get("/failing")
    @require_api_key
    def failing():
        return "sorry", 503

    assert "Sunset" in scene.get(scene.issue(DAY), "/failing").headers


def test_the_signal_comes_once_a_day_for_each_key(scene, clock):
    one, other = scene.issue(DAY * 3), scene.issue(DAY * 3)
    for _ in range(3):
        scene.get(one)
        scene.get(other)
    ends_at = one.record.expires_at
    expected = [(scene.app, one.record.id, ends_at), (scene.app, other.record.id, ends_at)]
    assert scene.told == expected
    clock.advance(DAY - timedelta(microseconds=1))
    scene.get(one)
    assert scene.told == expected
    clock.advance(timedelta(microseconds=1))
    scene.get(one)
    scene.get(one)
    assert scene.told == [*expected, expected[0]]


def test_the_ends_of_a_key_and_of_its_old_secret_are_told_each(scene, clock):
    old = scene.issue(10 * DAY)
    new = scene.roll(old, HOUR)
    for issued in (old, new, old, new):
        scene.get(issued)
    assert [ends_at for _, _, ends_at in scene.told] == [clock() + HOUR, clock() + 10 * DAY]


def test_a_clock_that_was_ahead_silences_nothing(scene, clock):
    issued = scene.issue(10 * DAY)
    clock.advance(5 * DAY)
    scene.get(issued)
    clock.advance(-5 * DAY)
    scene.get(issued)
    scene.get(issued)
    assert len(scene.told) == 2


def test_each_application_is_told(make_app, clock):
    scenes = [Scene(make_app(), clock) for _ in range(2)]
    for scene in scenes:
        scene.get(scene.issue(DAY))
    assert [len(scene.told) for scene in scenes] == [1, 1]


def test_only_so_many_keys_are_remembered_and_the_oldest_is_forgotten_first(scene, monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    keys = [scene.issue(DAY) for _ in range(4)]
    for key in keys:
        scene.get(key)
    remembered = scene.app.extensions["apikey"].enforcement._expiry_notice._told_at
    assert [key_id for key_id, _ in remembered] == [key.record.id for key in keys[1:]]
    scene.get(keys[3])
    assert len(scene.told) == 4
    scene.get(keys[0])
    assert len(scene.told) == 5


def test_it_is_a_warning_in_the_audit_log(scene, caplog):
    issued = scene.issue(DAY, owner="team-7")
    with caplog.at_level(logging.WARNING, "flask_apikey"):
        scene.get(issued)
        scene.get(issued)
    (record,) = caplog.records
    assert (record.event, record.outcome, record.levelname) == ("key.expiring", "success", "WARNING")
    assert (record.key_id, record.owner, record.address) == (issued.record.id, "team-7", "127.0.0.1")
    assert record.reason == "ends 2026-01-02T00:00:00+00:00"


def test_zero_turns_it_off(make_app, clock):
    scene = Scene(make_app(APIKEY_EXPIRY_NOTICE=0), clock)
    scene.app.get("/slow", endpoint="slow")(require_api_key(lambda: clock.advance(HOUR) or "ok"))
    issued = scene.issue(HOUR)
    assert scene.sunset(issued) is None
    assert "Sunset" not in scene.get(issued, "/slow").headers
    assert scene.told == []


def test_the_period_is_a_setting(make_app, clock):
    scene = Scene(make_app(APIKEY_EXPIRY_NOTICE="2d"), clock)
    assert scene.sunset(scene.issue(2 * DAY)) == clock() + 2 * DAY
    assert scene.sunset(scene.issue(3 * DAY)) is None
