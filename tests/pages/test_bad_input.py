"""Bad input to the operator's pages, and a storage that is down."""

import pytest

from flask_apikey import StorageError
from flask_apikey.pages.blueprint import MAX_BODY_BYTES
from tests.pages.conftest import URL, hidden
from tests.pages.routes import READ, WRITTEN, path_of, stored

OVERRIDE = "\u202e"
FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("rule", WRITTEN)
def test_other_content_types_are_refused(scene, issued, rule):
    url = path_of(rule, issued.record.id)
    values = {**hidden(scene.show("/keys/new")), "version": "1"}
    before = stored(scene)
    assert scene.client.post(url, json=values).status_code == 415
    assert scene.client.post(url, data=values, content_type="multipart/form-data").status_code == 415
    # Werkzeug 3.0 answers bytes that are no form with 413.
    assert scene.client.post(url, data=b"\xff\xfe=\x00&%ff=%", content_type=FORM).status_code in {400, 413}
    assert scene.client.post(url, data={**values, "name": "x" * MAX_BODY_BYTES}).status_code == 413
    for method in ("PUT", "PATCH", "DELETE"):
        assert scene.client.open(url, method=method).status_code == 405
    assert stored(scene) == before


def test_hostile_characters_are_visible(scene):
    emoji = "\N{FAMILY}" * 255
    refused = scene.post("/keys/new", name=f"invoice{OVERRIDE}fdp", owner=emoji)
    assert (refused.status_code, scene.do("count")) == (400, 0)
    assert "U+202E" in refused.text
    assert "255 characters" in scene.post("/keys/new", name=emoji).text
    assert scene.post("/keys/new", name=emoji[:200]).status_code == 200
    assert emoji[:200] in scene.show("/keys")
    for path in (f"/keys?search={OVERRIDE}", f"/audit?actor={OVERRIDE}", f"/owners?owner={OVERRIDE}&action=revoke"):
        assert "U+202E" in scene.show(path, 400)


@pytest.mark.parametrize(("path", "field"), [("/keys", "search"), ("/audit", "key_id")])
def test_pasted_key_gets_into_no_url(scene, issued, path, field):
    page = scene.show(path)
    assert f'method="post" action="{URL}{path}"' in page
    response = scene.post(path, **{field: f" {issued.key}"})
    assert response.headers["Location"] == f"{URL}{path}?{field}={issued.record.id}"
    page = scene.client.get(response.headers["Location"]).text
    assert issued.record.id in page
    secret = issued.key.rpartition("_")[2]
    assert secret not in scene.client.get(f"{URL}/keys?search={issued.key}").text


def test_impossible_times_and_numbers_are_refused(scene, issued):
    scene.show("/audit?since=0001-01-01T00:00:00%2B23:59", 400)
    scene.show("/audit?since=99999999w", 400)
    scene.show("/keys?expiring_within=999999w", 400)
    scene.show("/keys?after=9999999999999999999999.8sQ2dKf0LmX7Tz1B", 400)
    path = scene.key_page(issued, "/edit")
    for value in ("odd", "0001-01-01T00:00+23:59", "9" * 50):
        assert scene.post(path, name="x", expires_at=value).status_code == 400
    for version in ("", "-1", "²", "9" * 400):
        assert scene.post(path, name="x", version=version).status_code == 409


def test_storage_down_gives_a_page(scene, issued, monkeypatch):
    def down(*_, **__):
        raise StorageError("the database is down")

    for name in ("get", "find", "add", "update", "count"):
        monkeypatch.setattr(scene.backend, name, down)
    monkeypatch.setattr(scene.backend.history, "events", down)
    for rule in READ:
        if "static" in rule or rule.endswith(("/new", "/owners", "/checks")):
            continue
        response = scene.client.get(path_of(rule, issued.record.id))
        assert response.status_code == 503
        assert "does not answer" in response.text
        assert response.headers["Retry-After"]
    answer = scene.post("/keys/new", name="kept")
    assert answer.status_code == 503
    assert "kept" in answer.text
