"""Expiry notice: ``Sunset`` header, signal and audit event."""

import logging
from datetime import timedelta
from email.utils import parsedate_to_datetime

import pytest

from flask_apikey import require_api_key
from flask_apikey.request import expiry_notice as module
from flask_apikey.signals import api_key_expiring
from tests.support.keys import KeyScene

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
NOTICE = 14 * DAY


class Scene(KeyScene):
    """An application whose expiry signals are recorded."""

    def __init__(self, app, clock):
        super().__init__(app, clock)
        self.signals = []
        self.receiver = lambda sender, key, ends_at: self.signals.append((sender, key.id, ends_at))
        api_key_expiring.connect(self.receiver, app)
        app.get("/", endpoint="view")(require_api_key(lambda: "ok"))

    def issue(self, name="ci", *, lifetime=365 * DAY, **attributes):
        return super().issue(name, lifetime=lifetime, **attributes)

    def get(self, issued=None, path="/"):
        headers = {"X-API-Key": issued.key} if issued else {}
        return self.app.test_client().get(path, headers=headers)

    def sunset(self, issued):
        """Return the time in the ``Sunset`` header; None if there is no header."""
        answer = self.get(issued)
        assert answer.status_code == 200
        assert len(answer.headers.getlist("Sunset")) <= 1
        sunset = answer.headers.get("Sunset")
        return None if sunset is None else parsedate_to_datetime(sunset)


@pytest.fixture
def scene(app, clock):
    return Scene(app, clock)


def test_sunset_is_an_http_date(scene):
    assert scene.get(scene.issue(lifetime=DAY)).headers["Sunset"] == "Fri, 02 Jan 2026 00:00:00 GMT"


@pytest.mark.parametrize("lifetime", [NOTICE + timedelta(microseconds=1), None])
def test_no_notice_before_period(scene, lifetime):
    assert scene.sunset(scene.issue(lifetime=lifetime)) is None
    assert scene.signals == []


def test_sunset_is_rounded_down(scene, clock):
    issued = scene.issue(lifetime=HOUR + timedelta(milliseconds=999))
    assert scene.sunset(issued) == clock() + HOUR


def test_previous_secret_has_earlier_expiry_of_key(scene, clock):
    old = scene.issue()
    scene.roll(old, grace=2 * DAY)
    scene.do("update", old.record.id, expires_at=clock() + HOUR)
    assert scene.sunset(old) == clock() + HOUR


def test_each_previous_secret_has_its_own_end(scene, clock):
    first = scene.issue()
    second = scene.roll(first, grace=HOUR)
    third = scene.roll(first, grace=DAY)
    assert [scene.sunset(each) for each in (first, second, third)] == [clock() + HOUR, clock() + DAY, None]


def test_sunset_of_view_is_kept(scene):
    @scene.app.get("/leaving")
    @require_api_key
    def leaving():
        return "ok", {"Sunset": "Tue, 01 Dec 2026 00:00:00 GMT"}

    answer = scene.get(scene.issue(lifetime=DAY), "/leaving")
    assert answer.headers.getlist("Sunset") == ["Tue, 01 Dec 2026 00:00:00 GMT"]
    assert len(scene.signals) == 1


def test_no_notice_on_refusal(scene, clock):
    @scene.app.get("/scoped")
    @require_api_key(scopes=["read"])
    def scoped():
        return "ok"

    issued = scene.issue(lifetime=DAY)
    assert "Sunset" not in scene.get(issued, "/scoped").headers
    assert "Sunset" not in scene.get().headers
    clock.advance(DAY)
    assert scene.get(issued).status_code == 401
    assert "Sunset" not in scene.get(issued).headers
    assert scene.signals == []


def test_no_notice_without_key(scene):
    scene.app.get("/open", endpoint="open")(lambda: "ok")
    scene.app.get("/optional", endpoint="optional")(require_api_key(optional=True)(lambda: "ok"))
    issued = scene.issue(lifetime=DAY)
    assert "Sunset" not in scene.get(issued, "/open").headers
    assert "Sunset" not in scene.get(None, "/optional").headers
    assert "Sunset" in scene.get(issued, "/optional").headers


def test_notice_on_server_error(scene):
    @scene.app.get("/failing")
    @require_api_key
    def failing():
        return "sorry", 503

    assert "Sunset" in scene.get(scene.issue(lifetime=DAY), "/failing").headers


def test_signal_once_a_day_per_key(scene, clock):
    one, other = scene.issue(lifetime=DAY * 3), scene.issue(lifetime=DAY * 3)
    for _ in range(3):
        scene.get(one)
        scene.get(other)
    ends_at = one.record.expires_at
    expected = [(scene.app, one.record.id, ends_at), (scene.app, other.record.id, ends_at)]
    assert scene.signals == expected
    clock.advance(DAY - timedelta(microseconds=1))
    scene.get(one)
    assert scene.signals == expected
    clock.advance(timedelta(microseconds=1))
    scene.get(one)
    scene.get(one)
    assert scene.signals == [*expected, expected[0]]


def test_signal_per_secret(scene, clock):
    old = scene.issue(lifetime=10 * DAY)
    new = scene.roll(old, grace=HOUR)
    for issued in (old, new, old, new):
        scene.get(issued)
    assert [ends_at for _, _, ends_at in scene.signals] == [clock() + HOUR, clock() + 10 * DAY]


def test_clock_correction_does_not_suppress_signal(scene, clock):
    issued = scene.issue(lifetime=10 * DAY)
    clock.advance(5 * DAY)
    scene.get(issued)
    clock.advance(-5 * DAY)
    scene.get(issued)
    scene.get(issued)
    assert len(scene.signals) == 2


def test_remembered_signals_are_bounded(scene, monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 3)
    keys = [scene.issue(lifetime=DAY) for _ in range(4)]
    for key in keys:
        scene.get(key)
    remembered = scene.app.extensions["apikey"].enforcement._expiry_notice._signalled_at
    assert [key_id for key_id, _ in remembered] == [key.record.id for key in keys[1:]]
    scene.get(keys[3])
    assert len(scene.signals) == 4
    scene.get(keys[0])
    assert len(scene.signals) == 5


def test_audit_event_is_a_warning(scene, caplog):
    issued = scene.issue(lifetime=DAY, owner="team-7")
    with caplog.at_level(logging.WARNING, "flask_apikey"):
        scene.get(issued)
        scene.get(issued)
    (record,) = caplog.records
    assert (record.event, record.outcome, record.levelname) == ("key.expiring", "success", "WARNING")
    assert (record.key_id, record.owner, record.address) == (issued.record.id, "team-7", "127.0.0.1")
    assert record.reason == "ends 2026-01-02T00:00:00+00:00"


def test_zero_disables_notice(make_app, clock):
    scene = Scene(make_app(APIKEY_EXPIRY_NOTICE=0), clock)
    scene.app.get("/slow", endpoint="slow")(require_api_key(lambda: clock.advance(HOUR) or "ok"))
    issued = scene.issue(lifetime=HOUR)
    assert scene.sunset(issued) is None
    assert "Sunset" not in scene.get(issued, "/slow").headers
    assert scene.signals == []


def test_period_setting(make_app, clock):
    scene = Scene(make_app(APIKEY_EXPIRY_NOTICE="2d"), clock)
    assert scene.sunset(scene.issue(lifetime=2 * DAY)) == clock() + 2 * DAY
    assert scene.sunset(scene.issue(lifetime=3 * DAY)) is None
