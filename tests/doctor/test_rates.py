"""Findings about plans and rates."""

import pytest

from flask_apikey import APIKeys
from flask_apikey.doctor.checks import diagnose
from tests.support.keys import KeyScene

PLANS = {"free": {"rate": "60/minute"}}


def found(app):
    with app.app_context():
        return {each.code: each for each in diagnose(app, app.extensions["apikey"])}


@pytest.mark.parametrize(("fallback", "severity"), [(None, "problem"), ("pro", "warning")])
def test_keys_of_an_unknown_plan(make_app, clock, tmp_path, fallback, severity):
    storage = {"APIKEY_STORAGE_URI": f"sqlite:///{tmp_path}/keys.db"}
    old = KeyScene(make_app(**storage, APIKEY_PLANS=PLANS), clock)
    old.issue(plan="free")
    old.issue()
    assert "plans_unknown" not in found(old.app)
    app = make_app(**storage, APIKEY_PLANS={"pro": {}}, APIKEY_FALLBACK_PLAN=fallback)
    APIKeys(app, clock=clock)
    finding = found(app)["plans_unknown"]
    assert finding.severity.value == severity
    assert finding.details == ({"plan": "free", "keys": 1},)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gunicorn.conf.py", "workers = 4"),
        ("Procfile", "web: gunicorn -w 4 app:app"),
        ("Dockerfile", 'CMD ["gunicorn", "--workers", "2", "app:app"]'),
        ("uwsgi.ini", "processes = 4"),
    ],
)
def test_memory_of_several_processes(make_app, clock, tmp_path, monkeypatch, name, line):
    monkeypatch.chdir(tmp_path)
    scene = KeyScene(make_app(APIKEY_PLANS=PLANS), clock)
    assert "rates_in_memory" not in found(scene.app)
    (tmp_path / name).write_text(f"{line}\n")
    assert name in found(scene.app)["rates_in_memory"].message


def test_web_concurrency(make_app, clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = KeyScene(make_app(APIKEY_PLANS=PLANS), clock)
    for number, is_found in (("1", False), ("3", True)):
        monkeypatch.setenv("WEB_CONCURRENCY", number)
        assert ("rates_in_memory" in found(scene.app)) == is_found


def test_one_storage_for_all_processes(make_app, clock, monkeypatch):
    monkeypatch.setenv("WEB_CONCURRENCY", "3")
    scene = KeyScene(make_app(APIKEY_PLANS=PLANS, APIKEY_RATE_STORAGE_URI="redis://127.0.0.1:1/0"), clock)
    assert "rates_in_memory" not in found(scene.app)
