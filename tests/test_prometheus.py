"""Prometheus metrics: samples and protection of the view."""

import subprocess
import sys
from datetime import datetime, timezone

import pytest
from flask import Flask
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from flask_apikey import APIKeys, ConfigurationError, StorageError, require_api_key
from flask_apikey.prometheus import usage_metrics_blueprint
from tests.support.stored_usage import BOOK, BOOKS

NOW = datetime(2026, 1, 15, 12, 30, tzinfo=timezone.utc)


@pytest.fixture
def make_worker(make_app, storage):
    """Create an application that counts into the storage, with a long flush interval."""

    def make_worker(**config):
        app = make_app(APIKEY_USAGE_FLUSH_INTERVAL="1h", **config)
        api_keys = APIKeys(app, backend=storage)
        app.register_blueprint(usage_metrics_blueprint(api_keys))
        app.add_url_rule("/books", view_func=require_api_key(lambda: "ok"))
        return app

    return make_worker


def scrape(app, parse=text_string_to_metric_families, **headers):
    answer = app.test_client().get("/metrics", headers=headers)
    assert answer.status_code == 200
    names = ("key_id", "endpoint", "method", "status", "reason")
    return {
        (sample.name, *(sample.labels[name] for name in names if name in sample.labels)): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def test_scrape_sums_hours(make_worker, counted):
    one, other = "1" * 16, "2" * 16
    counted(one, NOW, 2, endpoint=BOOKS)
    counted(one, NOW.replace(day=1), 3, endpoint=BOOKS)
    counted(one, NOW, 5, endpoint=BOOKS, method="POST", status="4xx")
    counted(other, NOW, 7, endpoint=BOOK)
    counted(other, NOW, 11, reason="wrong_secret")
    counted(other, NOW, 13, endpoint=BOOK, reason="wrong_secret")
    assert scrape(make_worker()) == {
        ("flask_apikey_requests_total", one, "/books", "GET", "2xx"): 5,
        ("flask_apikey_requests_total", one, "/books", "POST", "4xx"): 5,
        ("flask_apikey_requests_total", other, "/books/<int:book_id>", "GET", "2xx"): 7,
        ("flask_apikey_refusals_total", other, "wrong_secret"): 24,
    }


def test_metric_and_label_names(make_worker, counted):
    counted("1" * 16, NOW, 2)
    counted("1" * 16, NOW, 3, reason="expired")
    text = make_worker().test_client().get("/metrics").text
    assert (
        'flask_apikey_requests_total{endpoint="/books",key_id="1111111111111111",method="GET",status="2xx"} 2.0\n'
        in text
    )
    assert 'flask_apikey_refusals_total{key_id="1111111111111111",reason="expired"} 3.0\n' in text


def test_hostile_endpoint_forges_no_sample(make_worker, counted):
    hostile = '/"} 1\nforged{x="\\'
    counted("1" * 16, NOW, 2, endpoint=hostile)
    assert scrape(make_worker()) == {("flask_apikey_requests_total", "1" * 16, hostile, "GET", "2xx"): 2}


def test_openmetrics_negotiation(make_worker, counted):
    counted("1" * 16, NOW, 2)
    accepted = {"Accept": "application/openmetrics-text; version=1.0.0"}
    assert scrape(make_worker(), openmetrics_families, **accepted) == {
        ("flask_apikey_requests_total", "1" * 16, "/books", "GET", "2xx"): 2
    }


def test_scrape_flushes_and_is_same_on_all_workers(make_worker):
    one, other = make_worker(), make_worker()
    with one.app_context():
        issued = one.extensions["apikey"].extension.create(name="ci")
    for _ in range(3):
        one.test_client().get("/books", headers={"X-API-Key": issued.key})
    expected = {("flask_apikey_requests_total", issued.record.id, "/books", "GET", "2xx"): 3}
    assert scrape(one) == expected
    assert scrape(other) == expected


def test_protected_metrics_view(make_app, storage):
    app = make_app()
    api_keys = APIKeys(app, backend=storage)
    metrics = usage_metrics_blueprint(api_keys)
    api_keys.protect(metrics, scopes=["metrics:read"])
    app.register_blueprint(metrics)
    with app.app_context():
        reader = api_keys.create(name="prometheus", scopes=["metrics:read"]).key
        other = api_keys.create(name="ci", scopes=["books:read"]).key
    client = app.test_client()
    assert client.get("/metrics").json["code"] == "missing_key"
    assert client.get("/metrics", headers={"Authorization": f"Bearer {other}"}).json["code"] == "insufficient_scope"
    assert client.get("/metrics", headers={"Authorization": f"Bearer {reader}"}).status_code == 200


def test_storage_failure_is_503(make_worker, storage, monkeypatch):
    def fail(*_):
        raise StorageError("secret host")

    monkeypatch.setattr(storage.usage, "totals", fail)
    answer = make_worker().test_client().get("/metrics")
    assert answer.status_code == 503
    assert "secret host" not in answer.text


def test_usage_off_serves_stored_counts(make_worker, counted):
    counted("1" * 16, NOW, 2)
    assert len(scrape(make_worker(APIKEY_USAGE="off"))) == 1


def test_uninitialised_extension():
    app = Flask(__name__)
    app.testing = True
    app.register_blueprint(usage_metrics_blueprint(APIKeys()))
    with pytest.raises(ConfigurationError, match="is not initialised"):
        app.test_client().get("/metrics")


@pytest.mark.process
def test_missing_package():
    code = "import sys; sys.modules['prometheus_client'] = None; import flask_apikey.prometheus"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = result.stderr.splitlines()[-1]
    assert last.startswith("flask_apikey.core.errors.ConfigurationError: metrics need the package prometheus-client")
    assert last.endswith("pip install 'flask-apikey-auth[prometheus]'")
