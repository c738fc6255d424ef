"""Warnings of tables that a generated migration would drop."""

import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup
from flask_migrate import Migrate  # type: ignore[import-untyped]  # has no annotations
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import make_url

from flask_apikey import APIKeys
from flask_apikey.doctor.findings import Severity
from flask_apikey_sql.uris import parse_uri
from tests.support.diagnosis import findings

CODE = "tables_not_in_metadata"


def init(app):
    return CliRunner().invoke(FlaskGroup(create_app=lambda: app, set_debug_flag=False), ["apikey", "init"])


@pytest.fixture
def other_name(sql_uri):
    """Another name of the same database, which is not recognised."""
    url = make_url(sql_uri)
    if url.get_backend_name() == "sqlite":
        pytest.skip("SQLite files are told apart")
    return url.set(host="127.1").render_as_string(hide_password=False)


@pytest.fixture
def migrated(make_app, sql_uri, tmp_path, monkeypatch):
    """Create an application that migrates the database, with its keys under another URI."""
    monkeypatch.chdir(tmp_path)
    opened = []

    def migrated(keys_uri):
        app = make_app(APIKEY_STORAGE_URI=keys_uri, SQLALCHEMY_DATABASE_URI=parse_uri(sql_uri))
        db = SQLAlchemy(app)
        Migrate(app, db)
        APIKeys(app)
        opened.append((app, db))
        return app

    yield migrated
    for app, db in opened:
        with app.app_context():
            db.engine.dispose()


def test_same_database_by_another_name(migrated, other_name):
    app = migrated(other_name)
    said = init(app).stderr
    assert "Warning: A generated migration drops flask_apikey_events, flask_apikey_keys, " in said
    assert "The storage is ready." in said
    assert findings(app)[CODE].severity is Severity.WARNING


def test_environment_that_leaves_the_tables_out(migrated, other_name, tmp_path):
    app = migrated(other_name)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations/env.py").write_text('name.startswith("flask_apikey_")')
    assert "Warning" not in init(app).stderr
    assert CODE not in findings(app)


def test_same_database_by_the_same_name(migrated, sql_uri):
    app = migrated(sql_uri)
    assert "Warning" not in init(app).stderr
    assert CODE not in findings(app)


def test_other_database(migrated, tmp_path):
    app = migrated(f"sqlite:///{tmp_path}/other.db")
    assert "Warning" not in init(app).stderr
    assert CODE not in findings(app)
