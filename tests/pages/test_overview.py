"""The overview, and the checks of the doctor."""

import re
from datetime import timedelta

from flask_apikey import generate_fernet_key
from flask_apikey.pages.operator import checks
from tests.pages.conftest import URL, PagesScene
from tests.support.stored_usage import StoredUsage


def test_overview_shows_the_rotation(scene, make_app, clock, fernet_key):
    assert "None is under way" in scene.show("/")
    new = generate_fernet_key()
    app = make_app(SECRET_KEY="made up", APIKEY_FERNET_KEY=new, APIKEY_FERNET_KEY_FALLBACKS=[fernet_key])
    rotating = PagesScene(app, clock)
    assert "Stage: added" in rotating.show("/")
    rotating.do("create", name="ci")
    with app.app_context():
        rotating.api_keys.rotation.start()
    page = rotating.show("/")
    assert "Stage: " in page
    assert "flask apikey rotation" in page


def test_overview_shows_keys_that_need_attention(scene):
    scene.issue("ends soon", lifetime="3d")
    scene.issue("idle", lifetime=None)
    assert "ends soon" in scene.show("/")
    scene.clock.advance(timedelta(days=91))
    page = scene.show("/")
    assert "ends soon" not in page
    assert "idle" in page


def test_checks_run_on_demand(make_app, clock):
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_ENFORCE_HTTPS=False), clock)
    assert 'href="/api-keys/checks">Go to the checks' in scene.show("/")
    assert "Checked at" not in scene.show("/checks")
    page = scene.post("/checks").text
    assert "Checked at" in page
    problems, passed = (int(number) for number in re.findall(r"(?:Problems|Passed): (\d+)", page))
    assert problems
    assert passed
    assert page.index(">Problems<") < page.index(">Warnings<") < page.index("<details><summary>Passed<")
    assert page.count('<li><span class="id">') == sum(map(int, re.findall(r"(?:ms|gs|ed): (\d+)", page)))
    assert "secret_key" not in re.findall(r"<details>.*", page, re.DOTALL)[0]


def test_checks_of_the_page_read_fewer_keys(scene, monkeypatch):
    """A server gives up on an answer that takes long."""
    monkeypatch.setattr(checks, "MAX_KEYS", 2)
    for _ in range(3):
        scene.issue()
    assert "Only the first 2 keys were read." in scene.post("/checks").text


def test_overview_shows_requests_that_would_be_refused(scene):
    """The section appears only when there are some."""
    assert "would be refused" not in scene.show("/")
    issued = scene.issue(owner="team-7")
    counted = StoredUsage(scene.backend)
    counted.passed("", scene.clock(), 1_234, "missing", endpoint="/<b>")
    counted.passed(issued.record.id, scene.clock(), 7, "suspended", owner="team-7")
    page = scene.show("/")
    (section,) = re.findall(r'<section aria-labelledby="would-refuse">.*?</section>', page, re.DOTALL)
    assert "Report mode let 1,241 requests pass" in section
    assert "/&lt;b&gt;" in section
    assert f'href="{URL}/keys/{issued.record.id}"' in section
    assert "team-7" in section
    scene.clock.advance(timedelta(days=8))
    assert "would be refused" not in scene.show("/")
