"""Rows that constraints or triggers of the application refuse."""

import sqlite3
import traceback
from contextlib import closing

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from flask_apikey import StorageError
from flask_apikey.core.errors import AlreadyExists
from flask_apikey.core.model.keys import Resealing
from flask_apikey.core.model.usage import UsageBatch, UsageLabel, UsageRow
from flask_apikey.testing.contracts.fixtures import update
from flask_apikey.testing.samples import NOW, changed, recorded, stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.errors import storage_error, storage_errors
from flask_apikey_sql.history import EVENTS_TABLE
from flask_apikey_sql.tables import KEYS_TABLE
from flask_apikey_sql.uris import parse_uri
from flask_apikey_sql.usage_tables import USAGE_TABLE, WRITERS_TABLE
from tests.support.stored import all_events, all_keys


@pytest.fixture
def backend(sql_uri):
    backend = SQLBackend(sql_uri)
    backend.init_storage()
    yield backend
    backend.close()


def logged(failure):
    """Format an exception like the logging module."""
    return "".join(traceback.format_exception(failure))


def refuse_rows(backend, table, condition):
    """Make a table refuse rows that do not meet a condition."""
    with backend._opened.get().engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            condition = f"NEW.{condition}"
            connection.execute(
                sa.text(
                    f"CREATE TRIGGER only_those BEFORE INSERT ON {table} WHEN NOT ({condition}) "
                    "BEGIN SELECT RAISE(ABORT, 'only_those'); END"
                )
            )
        else:
            connection.execute(sa.text(f"ALTER TABLE {table} ADD CONSTRAINT only_those CHECK ({condition})"))


def test_refused_row_stays_out_of_the_error(backend):
    refuse_rows(backend, KEYS_TABLE, "version > 1")
    key, event = recorded(stored_key(name="a name not to be told"))
    for store in (
        lambda: backend.add(key),
        lambda: backend.add(key, event=event),
        lambda: backend.add_many([stored_key(version=2), key]),
    ):
        with pytest.raises(StorageError, match="only_those") as caught:
            store()
        assert key.record.name not in logged(caught.value)
        assert key.seal.token not in logged(caught.value)
    assert all_keys(backend) == all_events(backend.history) == []


def test_engine_that_shows_parameters_logs_no_seal(sql_uri, backend):
    refuse_rows(backend, KEYS_TABLE, "version > 1")
    refused, stored = stored_key(), stored_key(version=2)
    engine = sa.create_engine(parse_uri(sql_uri))
    with closing(SQLBackend(engine)) as shown:
        shown.add(stored)
        for store in (
            lambda: shown.add(refused),
            lambda: shown.add(refused, event=recorded(refused)[1]),
            lambda: shown.add(stored),
            lambda: update(shown, stored, changed(stored, name=None)),
        ):
            with pytest.raises((StorageError, AlreadyExists)) as caught:
                store()
            for token in (refused.seal.token, stored.seal.token):
                assert token not in logged(caught.value)
        shown._metadata.drop_all(engine)
        with pytest.raises(StorageError) as caught:
            shown.rotation.reseal([Resealing(stored.record.id, stored.seal, refused.seal)])
        assert refused.seal.token not in logged(caught.value)
        with pytest.raises(StorageError) as caught:
            shown.get(stored.record.id)
        assert stored.record.id not in logged(caught.value)
    engine.dispose()


def test_exhausted_retries_log_no_seal(backend, monkeypatch):
    key, event = recorded(stored_key())

    def give_way(*_, **__):
        raise DBAPIError("UPDATE", {"seal": key.seal.token}, sqlite3.OperationalError(1213))

    monkeypatch.setattr(backend.history, "_insert", give_way)
    with pytest.raises(StorageError, match="others write the same rows") as caught:
        backend.add(key, event=event)
    assert key.seal.token not in logged(caught.value)


def test_statement_error_logs_no_seal():
    token = stored_key().seal.token
    engine = sa.create_engine("sqlite:///:memory:")
    with engine.connect() as connection, pytest.raises(StorageError) as caught, storage_errors():
        connection.execute(sa.text("SELECT :seal, :missing"), {"seal": token})
    assert token not in logged(caught.value)
    engine.dispose()


def test_detail_field_stays_out_of_the_error():
    answer = {"C": "23514", "M": "violates check constraint", "D": "Failing row contains (gAAAAA)."}
    failure = storage_error(DBAPIError("INSERT", {}, Exception(answer)))
    assert str(failure) == "the database failed: violates check constraint"


def test_refused_duplicate_already_exists(backend):
    key = stored_key()
    backend.add(key)
    for store in (lambda: backend.add(key), lambda: backend.add_many([stored_key(), key])):
        with pytest.raises(AlreadyExists, match=key.record.id):
            store()
    assert all_keys(backend) == [key]


def test_refused_event_undoes_its_change(backend):
    refuse_rows(backend, EVENTS_TABLE, "number > 2")
    key = stored_key()
    backend.add(key)
    newer, updated = recorded(changed(key))
    new, created = recorded(stored_key())
    for change in (
        lambda: backend.add(new, event=created),
        lambda: backend.add_many([new], events=[created]),
        lambda: update(backend, key, newer, updated),
    ):
        with pytest.raises(StorageError, match="only_those"):
            change()
    assert all_keys(backend) == [key]
    assert all_events(backend.history) == []


@pytest.mark.parametrize(("table", "condition"), [(WRITERS_TABLE, "number > 1"), (USAGE_TABLE, "hour < 490000")])
def test_refused_counts_are_not_taken_for_repeated_ones(backend, table, condition):
    refuse_rows(backend, table, condition)
    rows = [UsageRow(UsageLabel("id", 490_000, "/books", "GET", "2xx"), 5)]
    with pytest.raises(StorageError, match="only_those"):
        backend.usage.add(UsageBatch("writer", 1, rows, [], NOW))
    assert list(backend.usage.rows(after=None, limit=10)) == []
