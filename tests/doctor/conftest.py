import pytest
from flask import Flask

from flask_apikey import APIKeys
from flask_apikey_sql import SQLBackend


@pytest.fixture(autouse=True)
def _durable_storage(monkeypatch):
    """Make the database in memory pass for one on a disk."""
    monkeypatch.setattr(SQLBackend, "is_in_memory", False)


@pytest.fixture
def make_app(make_app, tmp_path):
    """Make applications as in production, each with an empty source directory."""

    def make(**config):
        app = make_app(TESTING=False, **config)
        app.root_path = str(tmp_path)
        return app

    return make


@pytest.fixture
def bare(make_app, clock):
    """Application without static files, so that it has only the views of the test."""
    app = Flask("bare", static_folder=None)
    app.config.update(make_app().config)
    APIKeys(app, clock=clock)
    return app
