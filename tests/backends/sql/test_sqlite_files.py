"""SQLite files."""

import sqlite3
import sys
from contextlib import closing

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flask_apikey import StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.text import sanitized
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.errors import storage_error

# Error codes that distinguish refused changes from refused reads.
HAS_CODES = sys.version_info >= (3, 11)


def test_sqlite_file_uses_the_write_ahead_log(backend, tmp_path):
    with sa.create_engine(f"sqlite:///{tmp_path}/keys.db").connect() as connection:
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "wal"


def test_sqlite_file_of_the_application_keeps_its_journal_mode(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    backend = SQLBackend(engine)
    backend.init_storage()
    backend.get(new_id())
    with engine.connect() as connection:
        assert connection.scalar(sa.text("PRAGMA journal_mode")) == "delete"
    backend.close()


@pytest.mark.parametrize("option", ["", "?timeout=17"])
def test_only_init_creates_a_missing_sqlite_file(tmp_path, option):
    path = tmp_path / "keys.db"
    with closing(SQLBackend(f"sqlite:///{path}{option}")) as backend:
        for attempt in (
            backend.ping,
            lambda: backend.get(new_id()),
            lambda: backend.add(stored_key()),
            lambda: list(backend.scan(KeyFilter())),
            lambda: backend.usage.last_uses([new_id()]),
        ):
            with pytest.raises(StorageError, match=f"{path} does not exist: .* 'flask apikey init'"):
                attempt()
        assert "table flask_apikey_keys" in backend.missing_parts()
        assert list(tmp_path.iterdir()) == []
        backend.init_storage()
        assert backend.missing_parts() == []
    assert path.stat().st_mode & 0o777 == 0o600


def test_sqlite_file_name_is_escaped(tmp_path):
    with closing(SQLBackend(f"sqlite:///{tmp_path}/a\nb/c.db")) as backend:
        for attempt in (backend.ping, backend.init_storage):
            with pytest.raises(StorageError, match=r"a\\u\{a\}b/c\.db"):
                attempt()


def test_sqlite_file_in_a_missing_folder(tmp_path):
    path = tmp_path / "missing" / "keys.db"
    with closing(SQLBackend(f"sqlite:///{path}")) as backend:
        with pytest.raises(StorageError, match=f"{path} cannot be made: its folder does not exist"):
            backend.init_storage()
        with pytest.raises(StorageError, match="does not exist"):
            backend.ping()
    assert list(tmp_path.iterdir()) == []


def test_restored_sqlite_file_is_used_again(tmp_path):
    path = tmp_path / "keys.db"
    with closing(SQLBackend(f"sqlite:///{path}")) as backend:
        backend.init_storage()
        key = stored_key()
        backend.add(key)
        backend.close()
        path.rename(tmp_path / "away.db")
        with pytest.raises(StorageError, match="does not exist"):
            backend.get(key.record.id)
        (tmp_path / "away.db").rename(path)
        assert backend.get(key.record.id) == key


@pytest.mark.parametrize("source", ["sqlite:///file:{path}?mode=rwc&uri=true", "engine"])
def test_sqlite_uri_and_engine_may_create_the_file(tmp_path, source):
    path = tmp_path / "keys.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    with closing(SQLBackend(engine if source == "engine" else source.format(path=path))) as backend:
        backend.ping()
        assert path.exists()
        with pytest.raises(StorageError, match="the tables do not exist yet: run 'flask apikey init'"):
            backend.get(new_id())


def test_read_only_database_serves_lookups(tmp_path):
    path = tmp_path / "keys.db"
    backend = SQLBackend(f"sqlite:///{path}")
    backend.init_storage()
    key = stored_key()
    backend.add(key)
    backend.close()
    read_only = SQLBackend(f"sqlite:///file:{path}?mode=ro&uri=true")
    assert read_only.get(key.record.id) == key
    with pytest.raises(StorageError, match=r"attempt to write a readonly database$" if HAS_CODES else "readonly"):
        read_only.add(stored_key())
    read_only.close()


@pytest.mark.parametrize("code", [None, "SQLITE_READONLY_DIRECTORY", "SQLITE_READONLY_CANTINIT"])
def test_unwritable_write_ahead_log_names_the_cure(code):
    failure = sqlite3.OperationalError("attempt to write a readonly database")
    if code is not None:
        failure.sqlite_errorname = code
    for raised in (failure, DBAPIError("SELECT", {}, failure)):
        said = sanitized(str(storage_error(raised)))
        assert "needs a folder that can be written" in said
        assert said.endswith("immutable=1&uri=true")


def test_immutable_sqlite_file(tmp_path):
    path, key = tmp_path / "keys.db", stored_key()
    with closing(SQLBackend(f"sqlite:///{path}")) as backend:
        backend.init_storage()
        backend.add(key)
    with closing(SQLBackend(f"sqlite:///file:{path}?immutable=1&uri=true")) as backend:
        assert backend.get(key.record.id) == key
        assert [each.name for each in tmp_path.iterdir()] == ["keys.db"]
