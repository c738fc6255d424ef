"""URIs, drivers and connections."""

import gc
import os
import sqlite3
import subprocess
import sys
import traceback
from contextlib import closing
from textwrap import dedent

import pytest
import sqlalchemy as sa

from flask_apikey import APIKeys, ConfigurationError, StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hunter2", "no scheme"),
        ("://user:hunter2@host/x", ""),
        ("nosuchdatabase://user:hunter2@localhost/x", "registered are: .*sqlite"),
        ("postgresql+nosuchdriver://user:hunter2@localhost/x", "nosuchdriver"),
        ("postgresql://user:hunter2@host:port/x", "malformed"),
        ("postgresql://user:hunter2@[::1/x", "malformed"),
        ("mysql://user:hunter2@localhost/x?connect_timeout=soon", "options .*connect_timeout.* are refused"),
        ("sqlite:///x.db?timeout=hunter2", "timeout .* must be a number of seconds"),
        ("sqlite://hunter2.db", "SQLite has none: write sqlite:///keys.db"),
        ("sqlite://hunter2/keys.db", "SQLite has none"),
    ],
)
def test_malformed_uri_hides_the_password(make_app, uri, said):
    app = make_app(APIKEY_STORAGE_URI=uri)
    with pytest.raises(ConfigurationError, match=f"APIKEY_STORAGE_URI: .*{said}") as failure:
        APIKeys(app)
    assert "hunter2" not in "".join(traceback.format_exception(failure.value))


@pytest.mark.parametrize(
    ("uri", "driver", "extra"),
    [
        ("postgresql://localhost/x", "psycopg", "postgresql"),
        ("mysql://localhost/x", "pymysql", "mysql"),
        ("mariadb://localhost/x", "pymysql", "mysql"),
    ],
)
def test_missing_driver_names_the_extra(monkeypatch, uri, driver, extra):
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'flask-apikey-auth\[{extra}\]'"):
        SQLBackend(uri)


def test_driver_of_another_package_names_no_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(ConfigurationError, match=r"the driver 'psycopg2' .* is not installed$"):
        SQLBackend("postgresql+psycopg2://localhost/x")


def test_driver_that_cannot_be_imported(monkeypatch):
    def no_libpq():
        raise ImportError("no pq wrapper available")

    monkeypatch.setattr("sqlalchemy.dialects.postgresql.psycopg.PGDialect_psycopg.import_dbapi", no_libpq)
    with pytest.raises(ConfigurationError, match=r"'psycopg' .* cannot be imported: pip install 'flask-apikey-auth\[p"):
        SQLBackend("postgresql://localhost/x")


def test_garbage_collected_backend_closes_its_connections(tmp_path):
    opened = []
    with closing(SQLBackend(f"sqlite:///{tmp_path}/keys.db")) as backend:
        backend.init_storage()
    backend = SQLBackend(f"sqlite:///{tmp_path}/keys.db")
    sa.event.listen(backend._source, "connect", lambda connection, _: opened.append(connection))
    # One connection of the look-up, and one in the pool.
    assert backend.get(new_id()) is None
    backend.ping()
    del backend
    gc.collect()
    assert len(opened) == 2
    for connection in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


def test_other_sources_are_refused():
    with pytest.raises(ConfigurationError, match="int"):
        SQLBackend(42)


def test_refused_connection_hides_the_password(unused_port):
    backend = SQLBackend(f"postgresql://user:hunter2@127.0.0.1:{unused_port}/x")
    for attempt in (backend.ping, lambda: backend.get(new_id()), lambda: backend.add(stored_key())):
        with pytest.raises(StorageError) as failure:
            attempt()
        assert "hunter2" not in "".join(traceback.format_exception(failure.value))


@pytest.mark.skipif(
    "FLASK_APIKEY_TEST_POSTGRESQL_URI" not in os.environ, reason="FLASK_APIKEY_TEST_POSTGRESQL_URI is not set"
)
@pytest.mark.process
def test_forked_process_gets_its_own_connections(tmp_path):
    program = tmp_path / "fork.py"
    program.write_text(
        dedent(
            """
            import os
            import sqlalchemy as sa
            from flask_apikey.core.model.keystring import new_id
            from flask_apikey_sql import SQLBackend
            from flask_apikey_sql.uris import parse_uri

            def server_process():
                with engine.connect() as connection:
                    return connection.scalar(sa.text("SELECT pg_backend_pid()"))

            engine = sa.create_engine(parse_uri(os.environ["FLASK_APIKEY_TEST_POSTGRESQL_URI"]))
            backend = SQLBackend(engine)
            backend.init_storage()
            backend.get(new_id())
            ours = server_process()
            if os.fork() == 0:
                backend.ping()
                os._exit(server_process() == ours)
            print(os.waitstatus_to_exitcode(os.wait()[1]), server_process() == ours)
            """
        )
    )
    result = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["0", "True"]
