"""Indexes that queries use."""

from contextlib import closing

import pytest
import sqlalchemy as sa

from flask_apikey.core.model.history import EventPosition
from flask_apikey.core.model.keys import Cursor
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.storage.contract import EventFilter, KeyFilter
from flask_apikey.core.times import to_microseconds
from flask_apikey.testing.samples import NOW
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.queries import listing
from tests.support.storages import POSTGRESQL, named_servers, new_database


@pytest.fixture
def plans(backend, tmp_path):
    """Query plans of SQLite for what a backend reads."""
    engine = backend._opened.get().engine
    statements = []
    sa.event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2:4]))

    def plans(read):
        statements.clear()
        read()
        with sa.create_engine(f"sqlite:///{tmp_path}/keys.db").connect() as connection:
            return [
                row.detail
                for statement, parameters in list(statements)
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            ]

    return plans


@pytest.mark.parametrize("after", [None, Cursor(NOW, "a" * 16)], ids=["start", "position"])
@pytest.mark.parametrize(("values", "index"), [({}, "created_at"), ({"owner": "x"}, "owner")])
@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
def test_listing_uses_an_index(backend, plans, values, index, after, newest_first):
    (plan,) = plans(lambda: backend.find(KeyFilter(**values), after=after, limit=9, newest_first=newest_first))
    assert plan.startswith(f"SEARCH flask_apikey_keys USING INDEX ix_flask_apikey_keys_{index} (")


@pytest.mark.parametrize("newest_first", [False, True], ids=["oldest first", "newest first"])
@pytest.mark.parametrize("after", [None, EventPosition(NOW, "a" * 16, 7)], ids=["start", "position"])
@pytest.mark.parametrize(
    ("values", "index"),
    [
        ({}, "at"),
        ({"since": NOW}, "at"),
        ({"owner": "x", "since": NOW}, "owner"),
        ({"actor": "x"}, "actor"),
        ({"actor": "x", "since": NOW}, "actor"),
    ],
    ids=["all", "since", "owner", "actor", "actor since"],
)
def test_events_use_an_index(backend, plans, values, index, after, newest_first):
    def read():
        backend.history.events(EventFilter(**values), after=after, limit=9, newest_first=newest_first)

    (plan,) = plans(read)
    assert f" USING INDEX ix_flask_apikey_events_{index}" in plan


def test_events_of_a_key_use_an_index(backend, plans):
    found = plans(lambda: backend.history.events(EventFilter(key_id=new_id()), after=None, limit=9))
    assert found[0] == "SEARCH flask_apikey_events USING INDEX sqlite_autoindex_flask_apikey_events_1 (key_id=?)"
    for after in (None, ("a" * 16, 7)):
        (plan,) = plans(lambda after=after: backend.history.chains(after=after, limit=9))
        assert "USING INDEX sqlite_autoindex_flask_apikey_events_1" in plan


@pytest.mark.parametrize("variable", named_servers(POSTGRESQL))
def test_listing_uses_an_index_of_postgresql(variable):
    with new_database(variable) as uri, closing(SQLBackend(uri)) as backend:
        backend.init_storage()
        position = to_microseconds(NOW), "a" * 16
        statements = [
            listing(backend._keys, KeyFilter(owner=owner), after=after, limit=9, newest_first=newest_first)
            for owner in (None, "x")
            for after in (None, position)
            for newest_first in (False, True)
        ]
        with backend._opened.get().engine.connect() as connection:
            # The table is empty, so the planner would otherwise prefer to scan and sort it.
            connection.execute(sa.text("SET enable_seqscan = off; SET enable_bitmapscan = off"))
            for statement in statements:
                text = str(statement.compile(connection, compile_kwargs={"literal_binds": True}))
                plan = " ".join(connection.scalars(sa.text(f"EXPLAIN {text}")))
                assert "using ix_flask_apikey_keys_" in plan
                assert "Sort" not in plan
