"""Storage URIs that cannot be used, and what their options do."""

import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from textwrap import dedent

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.cli import FlaskGroup
from flask_sqlalchemy import SQLAlchemy

from flask_apikey import APIKeys, ConfigurationError, StorageError
from flask_apikey.cli import apikey
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.doctor.findings import Severity
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend
from tests.support.diagnosis import severities
from tests.support.storages import POSTGRESQL, named_servers


class AsynchronousEngine:
    """Stands for SQLAlchemy's AsyncEngine, whose drivers the tests do not install."""

    def __init__(self, engine):
        self.sync_engine = self.engine = engine


@pytest.fixture
def asynchronous_engine(tmp_path, monkeypatch):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/keys.db")
    monkeypatch.setattr(type(engine.dialect), "is_async", True)
    return engine


@pytest.mark.parametrize(
    "uri", ["sqlite://", "sqlite:///", "sqlite+pysqlite://", "sqlite:///file:?uri=true", "sqlite:///?uri=true"]
)
def test_uri_without_a_file(make_app, uri):
    with pytest.raises(ConfigurationError, match=r"names no file: write .*, or sqlite:///:memory:"):
        APIKeys(make_app(APIKEY_STORAGE_URI=uri))


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///:memory:",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:keys?mode=memory&uri=true",
        "sqlite:///file:/keys?vfs=memdb&uri=true",
        # SQLAlchemy 2.0 does not decode the path.
        sa.URL.create("sqlite", database="file:%3amemory%3a", query={"uri": "true"}).render_as_string(),
    ],
)
def test_database_in_memory(uri):
    with closing(backend_for(uri)) as backend:
        assert backend.is_in_memory
        key = stored_key()
        backend.add(key)
        assert backend.get(key.record.id) == key


@pytest.mark.process
@pytest.mark.parametrize("command", ["init", "create ci", "copy --from sqlite:///other.db", "list"])
def test_command_line_refuses_memory(tmp_path, fernet_key, command):
    (tmp_path / "app.py").write_text(
        dedent("""
            from flask import Flask
            from flask_apikey import APIKeys

            app = Flask(__name__)
            app.config.from_prefixed_env("SHOP")
            APIKeys(app)
        """)
    )
    with closing(SQLBackend(tmp_path / "other.db")) as other:
        other.init_storage()
    done = subprocess.run(
        [sys.executable, "-m", "flask", "apikey", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "SHOP_APIKEY_STORAGE_URI": "sqlite:///:memory:", "SHOP_APIKEY_FERNET_KEY": fernet_key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "a database in memory, which ends with this command: set APIKEY_STORAGE_URI" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_command_line_refuses_the_memory_of_flask_sqlalchemy(fernet_key):
    app = Flask("memory")
    app.config.update(APIKEY_FERNET_KEY=fernet_key, SQLALCHEMY_DATABASE_URI="sqlite://")
    SQLAlchemy(app)
    APIKeys(app)
    runner = app.test_cli_runner()
    assert "in memory" in runner.invoke(FlaskGroup(create_app=lambda: app), ["apikey", "create", "ci"]).output
    assert runner.invoke(apikey, ["create", "ci"]).exit_code == 0


@pytest.mark.parametrize(("testing", "severity"), [(False, Severity.PROBLEM), (True, Severity.WARNING)])
def test_doctor_reports_memory(make_app, testing, severity):
    app = make_app(TESTING=testing)
    APIKeys(app)
    assert severities(app)["storage_in_memory"] is severity


@pytest.mark.parametrize(
    ("uri", "synchronous"),
    [
        ("sqlite+aiosqlite:///keys.db", "sqlite://"),
        ("postgresql+asyncpg://u:hunter2@localhost/x", r"postgresql\+psycopg://"),
        ("postgresql+psycopg_async://u:hunter2@localhost/x", r"postgresql\+psycopg://"),
        ("mysql+aiomysql://u:hunter2@localhost/x", r"mysql\+pymysql://"),
        ("mysql+asyncmy://u:hunter2@localhost/x", r"mysql\+pymysql://"),
        ("mariadb+aiomysql://u:hunter2@localhost/x", r"m\w+\+pymysql://"),
    ],
)
def test_asynchronous_driver(make_app, uri, synchronous):
    with pytest.raises(ConfigurationError, match=f"is asynchronous, .* such as {synchronous}$"):
        APIKeys(make_app(APIKEY_STORAGE_URI=uri))


@pytest.mark.parametrize("wrap", [lambda engine: engine, AsynchronousEngine], ids=["engine", "asynchronous"])
def test_asynchronous_engine(asynchronous_engine, wrap):
    with pytest.raises(ConfigurationError, match="is asynchronous"):
        SQLBackend(wrap(asynchronous_engine))


def test_asynchronous_engine_of_flask_sqlalchemy(make_app, asynchronous_engine, monkeypatch):
    monkeypatch.setattr(SQLAlchemy, "engine", asynchronous_engine)
    app = make_app(APIKEY_STORAGE_URI=None, SQLALCHEMY_DATABASE_URI="sqlite://")
    SQLAlchemy(app)
    with pytest.raises(ConfigurationError, match="is asynchronous"):
        APIKeys(app)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:///keys.db?mode=ro", r"not supported \(mode\)"),
        ("sqlite:///keys.db?isolation_level=IMMEDIATE", r"\(isolation_level\)"),
        ("sqlite:///keys.db?check_same_thread=true", r"\(check_same_thread\)"),
        ("sqlite:///file:keys.db?uri=true&detect_types=1", r"\(detect_types\)"),
        ("sqlite:///keys.db?timeout=-1", "timeout .* must be a number"),
        ("sqlite:///keys.db?timeout=nan", "timeout .* must be a number"),
        ("postgresql://localhost/x?row_factory=dict_row", r"\(row_factory\)"),
        ("postgresql://localhost/x?cursor_factory=x", r"\(cursor_factory\)"),
        ("postgresql://localhost/x?autocommit=true", r"\(autocommit\)"),
        ("postgresql://localhost/x?prepare_threshold=soon", "prepare_threshold .* must be a whole number"),
        ("postgresql://localhost/x?client_encoding=latin1", "client_encoding .* set it to utf8"),
        ("mysql://localhost/x?cursorclass=pymysql.cursors.DictCursor", r"\(cursorclass\)"),
        ("mysql://localhost/x?charset=latin1", "charset .* set it to utf8mb4"),
        ("mysql://localhost/x?charset=utf8", "charset .* set it to utf8mb4"),
        ("mysql://localhost/x?autocommit=1&conv=x", r"\(autocommit, conv\)"),
        ("mysql://localhost", "names no database"),
        ("sqlite:///a\0b", "malformed"),
        ("postgresql://u:p%00@localhost/x", "malformed"),
        ("mysql://localhost/x?unix_socket=a&ss%40word=1", r"\(one\)"),
    ],
)
def test_option_is_refused_at_the_start(make_app, uri, said):
    with pytest.raises(ConfigurationError, match=f"APIKEY_STORAGE_URI: .*{said}"):
        APIKeys(make_app(APIKEY_STORAGE_URI=uri))


def test_timeout_of_a_sqlite_uri(tmp_path):
    with closing(SQLBackend(f"sqlite:///{tmp_path}/keys.db?timeout=0")) as backend:
        backend.init_storage()
        with closing(sqlite3.connect(tmp_path / "keys.db")) as other:
            other.execute("DELETE FROM flask_apikey_keys")
            begun = time.monotonic()
            with pytest.raises(StorageError, match="locked"):
                backend.add(stored_key())
            assert time.monotonic() - begun < 10


@pytest.mark.parametrize("folder", ["feature%2Fx", "what?", "a#b", "mode=memory", "ünï cödé", ":memory:"])
def test_instance_folder(tmp_path, fernet_key, folder):
    instance = tmp_path / folder
    app = Flask("app", instance_path=str(instance))
    app.config["APIKEY_FERNET_KEY"] = fernet_key
    api_keys = APIKeys(app)
    with app.app_context():
        api_keys.init_storage()
        assert api_keys.verify(api_keys.create(name="ci").key)
    assert {path.name for path in instance.iterdir()} >= {"api_keys.db"}
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    api_keys.close()


@pytest.mark.parametrize("variable", named_servers(POSTGRESQL))
@pytest.mark.parametrize("threshold", ["0", "3", "None"])
def test_prepare_threshold(variable, threshold):
    with closing(SQLBackend(f"{os.environ[variable]}?prepare_threshold={threshold}")) as backend:
        backend.ping()
