"""Initialisation on servers whose privileges and locks differ."""

from concurrent import futures
from contextlib import closing, contextmanager
from uuid import uuid4

import pytest
import sqlalchemy as sa

from flask_apikey import StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.history import EVENTS_TABLE
from flask_apikey_sql.init_lock import _NUMBER
from flask_apikey_sql.uris import parse_uri
from tests.support.storages import MYSQL, POSTGRESQL, named_servers, new_database

CREATE_ACCOUNT = {
    "postgresql": "CREATE ROLE {name} LOGIN PASSWORD 'limited'",
    "mysql": "CREATE USER '{name}'@'127.0.0.1' IDENTIFIED BY 'limited'",
}
DROP_ACCOUNT = {"postgresql": "DROP ROLE {name}", "mysql": "DROP USER '{name}'@'127.0.0.1'"}


class Server:
    """An empty database, and an account that may do only what it is granted."""

    def __init__(self, uri, name):
        self.name = name
        self.url = parse_uri(uri)
        self.admin = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)

    def run(self, *statements):
        with self.admin.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.format(name=self.name, database=self.url.database))

    @contextmanager
    def backend(self):
        limited = self.url.set(username=self.name, password="limited")
        with closing(SQLBackend(limited.render_as_string(hide_password=False))) as backend:
            yield backend

    def init(self):
        with self.backend() as backend:
            backend.init_storage()
            assert backend.missing_parts() == []

    def refuses(self, said):
        with self.backend() as backend, pytest.raises(StorageError, match=said) as failure:
            backend.init_storage()
        assert "\n" not in str(failure.value)

    def tables(self):
        return sa.inspect(self.admin).get_table_names()


@contextmanager
def account(variable):
    with new_database(variable) as uri:
        server = Server(uri, f"limited_{uuid4().hex[:16]}")
        server.run(CREATE_ACCOUNT[server.admin.dialect.name])
        try:
            yield server
        finally:
            if server.admin.dialect.name == "postgresql":
                server.run("DROP OWNED BY {name}")
            server.run(DROP_ACCOUNT[server.admin.dialect.name])


@pytest.fixture(params=named_servers(POSTGRESQL))
def postgresql(request):
    with account(request.param) as server:
        yield server


@pytest.fixture(params=named_servers(MYSQL))
def mysql(request):
    with account(request.param) as server:
        yield server


def test_role_without_create_on_the_schema(postgresql):
    postgresql.refuses("permission denied for schema public.*needs USAGE and CREATE on the schema.*GRANT")
    assert postgresql.tables() == []
    postgresql.run("GRANT CREATE ON SCHEMA public TO {name}")
    postgresql.init()


def test_role_that_does_not_own_the_tables(postgresql):
    with closing(SQLBackend(postgresql.url.render_as_string(hide_password=False))) as admin:
        admin.init_storage()
    postgresql.init()
    with postgresql.backend() as backend, pytest.raises(StorageError, match="SELECT, INSERT, UPDATE and DELETE"):
        backend.get(new_id())
    postgresql.run("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {name}")
    with postgresql.backend() as backend:
        backend.add(stored_key())
    postgresql.run("DROP INDEX ix_flask_apikey_keys_owner", "GRANT CREATE ON SCHEMA public TO {name}")
    postgresql.refuses("must be owner of .*own tables that exist")


def test_postgresql_creates_all_or_nothing(postgresql):
    postgresql.run("GRANT CREATE ON SCHEMA public TO {name}", "CREATE TABLE other (id int)")
    # The name of the last index is taken.
    postgresql.run("CREATE INDEX ix_flask_apikey_usage_span ON other (id)")
    postgresql.refuses("ix_flask_apikey_usage_span.* already exists")
    assert postgresql.tables() == ["other"]


def test_advisory_lock_is_refused(postgresql):
    postgresql.run(
        "GRANT CREATE ON SCHEMA public TO {name}",
        "REVOKE EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) FROM PUBLIC",
    )
    postgresql.refuses("permission denied for function .*: GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock")
    postgresql.run("GRANT EXECUTE ON FUNCTION pg_advisory_xact_lock(bigint) TO {name}")
    postgresql.init()


def test_initialisation_outlasts_short_timeouts(postgresql):
    postgresql.run(
        "GRANT CREATE ON SCHEMA public TO {name}",
        "ALTER ROLE {name} SET lock_timeout = '5ms'",
        "ALTER ROLE {name} SET statement_timeout = '1s'",
    )
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with futures.ThreadPoolExecutor(1) as pool, postgresql.admin.connect() as other:
        other.exec_driver_sql(f"SELECT pg_advisory_lock({_NUMBER})")
        initialisation = pool.submit(postgresql.init)
        while not (other.exec_driver_sql(waiting).scalar() or initialisation.done()):
            pass
        with pytest.raises(futures.TimeoutError):
            initialisation.result(0.05)
        other.exec_driver_sql(f"SELECT pg_advisory_unlock({_NUMBER})")
        initialisation.result(30)


def test_transactions_are_read_only(postgresql):
    postgresql.run(
        "GRANT CREATE ON SCHEMA public TO {name}", "ALTER ROLE {name} SET default_transaction_read_only = on"
    )
    postgresql.refuses("read-only transaction. Connect to the primary")


def test_no_schema_in_the_search_path(postgresql):
    postgresql.run("GRANT CREATE ON SCHEMA public TO {name}", "ALTER ROLE {name} SET search_path = ''")
    postgresql.refuses("no schema has been selected.*search_path")


def test_users_without_privileges_continue_when_they_get_them(mysql):
    mysql.run("GRANT SELECT ON {database}.* TO '{name}'@'127.0.0.1'")
    mysql.refuses("CREATE command denied .*needs CREATE, ALTER and INDEX")
    mysql.run("GRANT CREATE ON {database}.* TO '{name}'@'127.0.0.1'")
    mysql.refuses("INDEX command denied .*needs CREATE, ALTER and INDEX")
    with mysql.backend() as backend:
        assert any("ix_flask_apikey_keys" in part for part in backend.missing_parts())
    mysql.run("GRANT INDEX ON {database}.* TO '{name}'@'127.0.0.1'")
    mysql.init()
    with (
        mysql.backend() as backend,
        pytest.raises(StorageError, match=r"INSERT command denied .*INSERT, UPDATE and DEL"),
    ):
        backend.add(stored_key())


@pytest.mark.parametrize("answer", ["SELECT NULL", "SELECT missing.get_lock()"], ids=["NULL", "error"])
def test_creation_without_a_lock(mysql, answer):
    mysql.run("GRANT ALL ON {database}.* TO '{name}'@'127.0.0.1'")
    with mysql.backend() as backend, mysql.backend() as other:
        faster = [other]

        def has_no_lock(_connection, _cursor, statement, parameters, *_):
            return (answer, None) if "GET_LOCK" in statement else (statement, parameters)

        def is_slower(_connection, _cursor, statement, *_):
            if faster and statement.lstrip().startswith("CREATE TABLE"):
                faster.pop().init_storage()

        sa.event.listen(backend._source, "before_cursor_execute", has_no_lock, retval=True)
        sa.event.listen(backend._source, "before_cursor_execute", is_slower)
        backend.init_storage()
        assert backend.missing_parts() == []


def drop_column(uri, column):
    engine = sa.create_engine(parse_uri(uri))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {EVENTS_TABLE} DROP COLUMN {column}")
    engine.dispose()


def test_missing_columns(sql_uri):
    with closing(SQLBackend(sql_uri)) as backend:
        backend.init_storage()
    drop_column(sql_uri, "reason")
    with closing(SQLBackend(sql_uri)) as backend:
        assert backend.missing_parts() == [f"column {EVENTS_TABLE}.reason"]
        backend.init_storage()
        assert backend.missing_parts() == []
    drop_column(sql_uri, "details")
    said = f"lack the columns {EVENTS_TABLE}.details: add them"
    with closing(SQLBackend(sql_uri)) as backend, pytest.raises(StorageError, match=said):
        backend.init_storage()
