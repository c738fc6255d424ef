"""Defaults of a server's sessions that change what statements do."""

from contextlib import closing, contextmanager

import pytest
import sqlalchemy as sa

from flask_apikey import StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import DAY, UsageField, UsageFilter
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.testing.contracts.usage import batch_of, label_of
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.tables import KEYS_TABLE
from flask_apikey_sql.uris import parse_uri
from tests.support.storages import MYSQL, POSTGRESQL, named_servers, new_database


@contextmanager
def backend_by_uri(uri, setting):
    url = parse_uri(uri).update_query_dict({"init_command": f"SET SESSION {setting}"})
    with closing(SQLBackend(url)) as backend:
        yield backend


@contextmanager
def backend_on_engine(uri, setting):
    engine = sa.create_engine(parse_uri(uri), connect_args={"init_command": f"SET SESSION {setting}"})
    with closing(SQLBackend(engine)) as backend:
        yield backend
    engine.dispose()


@pytest.fixture(params=[backend_by_uri, backend_on_engine])
def make_backend(request):
    return request.param


@pytest.fixture(params=named_servers(MYSQL))
def mysql_uri(request):
    with new_database(request.param) as uri:
        yield uri


def test_limits_of_safe_updates_lose_no_counts(mysql_uri, make_backend):
    limits = "sql_safe_updates = 1, sql_select_limit = 3, max_join_size = 20"
    with make_backend(mysql_uri, limits) as backend:
        backend.init_storage()
        midnight, key_ids = 20_000 * DAY, [new_id() for _ in range(4)]
        counts = {label_of(key_id, midnight + hour): 1 for key_id in key_ids for hour in range(DAY)}
        backend.usage.add(batch_of(counts))
        for _ in range(2):
            assert backend.usage.sum(UsageField.KEY, UsageFilter()) == dict.fromkeys(key_ids, DAY)
            backend.usage.fold(before=midnight + DAY)


@pytest.mark.parametrize("quotes", ["", "ANSI_QUOTES"])
def test_empty_text_is_null(mysql_uri, make_backend, quotes):
    with make_backend(mysql_uri, f"sql_mode = 'EMPTY_STRING_IS_NULL,{quotes}'") as backend:
        backend.init_storage()
        key = stored_key()
        backend.add(key)
        assert backend.get(key.record.id) == key


def test_engine_without_transactions(mysql_uri, make_backend):
    with make_backend(mysql_uri, "enforce_storage_engine = 'Aria', sql_mode = ''") as backend:
        with pytest.raises(StorageError, match=r"need InnoDB.*enforce_storage_engine off") as failure:
            backend.init_storage()
        assert "\n" not in str(failure.value)
        assert "table flask_apikey_keys" in backend.missing_parts()


@pytest.mark.parametrize("autocommit", [0, 1])
def test_listings_wait_for_no_writer(mysql_uri, make_backend, autocommit):
    setting = f"tx_isolation = 'SERIALIZABLE', autocommit = {autocommit}, innodb_lock_wait_timeout = 1"
    with make_backend(mysql_uri, setting) as backend:
        backend.init_storage()
        key = stored_key()
        backend.add(key)
        writer = sa.create_engine(parse_uri(mysql_uri))
        with writer.begin() as connection:
            connection.exec_driver_sql(f"UPDATE {KEYS_TABLE} SET name = 'uncommitted'")
            assert list(backend.find(KeyFilter(), after=None, limit=2)) == [key]
            assert list(backend.scan(KeyFilter())) == [key]
            with pytest.raises(StorageError, match="Lock wait timeout"):
                backend.update(key, expected_version=1, expected_seal=key.seal.token)
        writer.dispose()


CLOSE = {
    POSTGRESQL: "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(name)s AND pid <> %(own)s",
    MYSQL: "SELECT concat('KILL ', id) FROM information_schema.processlist WHERE db = %(name)s AND id <> %(own)s",
}
OWN = {POSTGRESQL: "SELECT pg_backend_pid()", MYSQL: "SELECT connection_id()"}


def close_sessions(variable, url):
    """Close all sessions of a database, as a server does that is restarted or finds them idle."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        given = {"name": url.database, "own": connection.exec_driver_sql(OWN[variable]).scalar()}
        answers = connection.exec_driver_sql(CLOSE[variable], given).scalars().all()
        assert answers
        for statement in answers if variable == MYSQL else ():
            connection.exec_driver_sql(statement)


@pytest.mark.parametrize("variable", named_servers(POSTGRESQL, MYSQL))
def test_closed_sessions_are_replaced(variable):
    with new_database(variable) as uri:
        engine = sa.create_engine(url := parse_uri(uri))
        with closing(SQLBackend(engine)) as backend:
            backend.init_storage()
            close_sessions(variable, url)
            backend.add(key := stored_key())
            close_sessions(variable, url)
            assert list(backend.find(KeyFilter(), after=None, limit=2)) == [key]
            close_sessions(variable, url)
            backend.usage.add(batch_of({label_of(key.record.id): 1}))
        engine.dispose()


@pytest.mark.parametrize("variable", named_servers(POSTGRESQL))
def test_engine_on_a_database_without_an_encoding(variable):
    with new_database(variable, "ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0") as uri:
        engine = sa.create_engine(parse_uri(uri))
        with closing(SQLBackend(engine)) as backend:
            backend.init_storage()
            key = stored_key(name="βιβλία")
            backend.add(key)
            assert backend.get(key.record.id) == key
            assert list(backend.find(KeyFilter(), after=None, limit=2)) == [key]
        engine.dispose()


@pytest.mark.parametrize("variable", named_servers(POSTGRESQL))
def test_quoted_names_of_types(variable):
    with new_database(variable) as uri:
        url = parse_uri(uri).update_query_dict({"options": "-c quote_all_identifiers=on"})
        with closing(SQLBackend(url)) as backend:
            for _ in range(2):
                backend.init_storage()
                assert backend.missing_parts() == []
