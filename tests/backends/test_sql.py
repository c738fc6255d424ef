"""The SQL backend beyond the contract."""

import gc
import os
import sqlite3
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from textwrap import dedent

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy_lite import SQLAlchemy as SQLAlchemyLite
from sqlalchemy.exc import DBAPIError

from flask_apikey import APIKeys, ConfigurationError, StorageError, require_api_key
from flask_apikey.core.model.history import EventPosition
from flask_apikey.core.model.keys import Cursor, DamagedKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageField, UsageFilter, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import EventFilter, KeyFilter
from flask_apikey.core.text import sanitized
from flask_apikey.core.times import to_microseconds
from flask_apikey.testing.samples import NOW, stored_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.errors import storage_error
from flask_apikey_sql.queries import listing
from flask_apikey_sql.tables import KEYS_TABLE
from tests.support.storages import POSTGRESQL, named_servers, new_database

# Error codes that distinguish refused changes from refused reads.
HAS_CODES = sys.version_info >= (3, 11)


def count_keys(path):
    with sa.create_engine(f"sqlite:///{path}").connect() as connection:
        return connection.scalar(sa.text(f"SELECT count(*) FROM {KEYS_TABLE}"))


@pytest.fixture
def backend(tmp_path):
    with closing(SQLBackend(f"sqlite:///{tmp_path}/keys.db")) as backend:
        backend.init_storage()
        yield backend


@pytest.fixture
def db_app(tmp_path, fernet_key):
    """Create an application with Flask-SQLAlchemy on its own file."""

    def make(db, name="app", **config):
        app = Flask(name, instance_path=str(tmp_path))
        app.config.update(
            TESTING=True,
            APIKEY_FERNET_KEY=fernet_key,
            SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/{name}.db",
            **config,
        )
        db.init_app(app)
        return app

    return make


def test_one_backend_for_several_applications(db_app, tmp_path):
    db = SQLAlchemy()
    api_keys = APIKeys(backend=SQLBackend(db))
    apps = [db_app(db, name) for name in ("one", "two")]
    for app in apps:
        api_keys.init_app(app)
        with app.app_context():
            db.create_all()
    with apps[0].app_context():
        issued = api_keys.create(name="ci")
        with apps[1].app_context():
            assert not api_keys.verify(issued.key).accepted
        assert api_keys.verify(issued.key).accepted
    assert (count_keys(tmp_path / "one.db"), count_keys(tmp_path / "two.db")) == (1, 0)


def test_flask_sqlalchemy_lite(tmp_path, fernet_key):
    db = SQLAlchemyLite()
    metadata = sa.MetaData()
    app = Flask("lite", instance_path=str(tmp_path))
    app.config.update(APIKEY_FERNET_KEY=fernet_key, SQLALCHEMY_ENGINES={"default": f"sqlite:///{tmp_path}/lite.db"})
    db.init_app(app)
    api_keys = APIKeys(app, backend=SQLBackend(db, metadata=metadata))
    with app.app_context():
        metadata.create_all(db.engine)
        api_keys.create(name="ci")
    assert count_keys(tmp_path / "lite.db") == 1


def test_flask_sqlalchemy_without_init_app(fernet_key):
    app = Flask("without")
    app.config["APIKEY_FERNET_KEY"] = fernet_key
    api_keys = APIKeys(app, backend=SQLBackend(SQLAlchemy()))
    with app.app_context(), pytest.raises(ConfigurationError, match="init_app"):
        api_keys.create(name="ci")


def test_transaction_of_the_application_stays_untouched(db_app):
    db = SQLAlchemy()

    class Book(db.Model):
        id = db.Column(db.Integer, primary_key=True)

    app = db_app(db)
    api_keys = APIKeys(app)
    with app.app_context():
        db.create_all()
        issued = api_keys.create(name="ci")
        db.session.add(Book(id=1))
        assert api_keys.verify(issued.key).accepted
        assert db.session.new
        db.session.commit()
        db.session.execute(sa.select(Book)).all()
        api_keys.revoke(issued.record.id)
        db.session.rollback()
        assert not api_keys.verify(issued.key).accepted


def test_pool_of_one_connection(db_app):
    db = SQLAlchemy(engine_options={"pool_size": 1, "max_overflow": 0, "pool_timeout": 5})
    app = db_app(db)
    api_keys = APIKeys(app)

    @app.get("/")
    @require_api_key
    def view():
        return str(db.session.scalar(sa.text("SELECT 1")))

    with app.app_context():
        db.create_all()
        key = api_keys.create(name="ci").key
    with ThreadPoolExecutor(8) as pool:
        statuses = pool.map(lambda _: app.test_client().get("/", headers={"X-API-Key": key}).status_code, range(64))
    assert set(statuses) == {200}


@pytest.mark.process
def test_migrations_see_the_tables(tmp_path, fernet_key):
    program = f"""
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext
        from flask import Flask
        from flask_migrate import Migrate, init, migrate, upgrade
        from flask_sqlalchemy import SQLAlchemy
        from flask_apikey import APIKeys

        app = Flask(__name__)
        app.config.update(SQLALCHEMY_DATABASE_URI="sqlite:///{tmp_path}/migrated.db", APIKEY_FERNET_KEY="{fernet_key}")
        db = SQLAlchemy(app)
        Migrate(app, db)
        api_keys = APIKeys(app)
        with app.app_context():
            init()
            migrate()
            upgrade()
            api_keys.create(name="ci")
            with db.engine.connect() as connection:
                assert compare_metadata(MigrationContext.configure(connection), db.metadata) == []
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert count_keys(tmp_path / "migrated.db") == 1


def test_in_memory_database_of_the_application_stays_untouched(fernet_key):
    db = SQLAlchemy()
    app = Flask("memory")
    app.config.update(APIKEY_FERNET_KEY=fernet_key, SQLALCHEMY_DATABASE_URI="sqlite:///:memory:")
    db.init_app(app)
    api_keys = APIKeys(app)
    with app.app_context():
        issued = api_keys.create(name="ci")
        assert api_keys.verify(issued.key).accepted
        assert not sa.inspect(db.engine).has_table(KEYS_TABLE)


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


def test_close_keeps_an_engine_of_the_application_open(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    with engine.connect() as connection:
        backend = SQLBackend(engine)
        backend.init_storage()
        backend.close()
        assert connection.scalar(sa.text("SELECT 1")) == 1


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


def test_init_storage_adds_tables_of_a_later_version(tmp_path):
    uri = f"sqlite:///{tmp_path}/keys.db"
    older = SQLBackend(uri)
    older._tables = older._tables[:2]
    older.init_storage()
    key = stored_key()
    older.add(key)
    older.close()
    backend = SQLBackend(uri)
    batch = UsageBatch("w", 1, [UsageRow(UsageLabel(key.record.id, 1, "/", "GET", "2xx"), 1)], [], NOW)
    assert {f"table flask_apikey_{name}" for name in ("usage", "last_uses", "usage_writers")} <= {
        *backend.missing_parts()
    }
    with pytest.raises(StorageError, match="flask apikey init"):
        backend.usage.add(batch)
    backend.init_storage()
    assert backend.missing_parts() == []
    backend.usage.add(batch)
    assert backend.usage.sum(UsageField.KEY, UsageFilter()) == {key.record.id: 1}
    assert backend.get(key.record.id) == key
    backend.close()


def test_init_storage_refuses_tables_that_lack_a_column(sql_uri):
    with closing(SQLBackend(sql_uri)) as backend:
        backend.init_storage()
        with backend._opened.get().engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE flask_apikey_keys DROP COLUMN name"))
        assert backend.missing_parts() == ["column flask_apikey_keys.name"]
        with pytest.raises(StorageError, match=r"of another version, and lack the columns flask_apikey_keys.name: add"):
            backend.init_storage()


def test_sum_over_more_keys_than_parameters(backend):
    key_ids = [f"{number:016}" for number in range(260_000)]
    rows = [UsageRow(UsageLabel(key_id, 1, "/", "GET", "2xx"), 1) for key_id in key_ids[::1000]]
    backend.usage.add(UsageBatch("w", 1, rows, [LastUse(key_ids[-1], 1, NOW, None)], NOW))
    assert backend.usage.sum(UsageField.STATUS, UsageFilter(key_ids=key_ids)) == {"2xx": 260}
    assert len(backend.usage.last_uses(key_ids)) == 1


@pytest.mark.parametrize("upkeep", ["fold", "prune"])
def test_old_writers_are_forgotten(backend, upkeep):
    hour = int(NOW.timestamp()) // 3600
    rows = [UsageRow(UsageLabel(new_id(), hour, "/", "GET", "2xx"), 1)]
    batches = [UsageBatch(f"w{days}", 1, rows, [], NOW - timedelta(days=days)) for days in (40, 29, 0)]
    for batch in batches:
        backend.usage.add(batch)
    getattr(backend.usage, upkeep)(before=hour - 31 * 24)
    getattr(backend.usage, upkeep)(before=hour)
    with backend._opened.get().engine.connect() as connection:
        assert {*connection.scalars(sa.text("SELECT writer FROM flask_apikey_usage_writers"))} == {"w29", "w0"}
    for batch in batches[1:]:
        backend.usage.add(batch)
    assert sum(backend.usage.sum(UsageField.HOUR, UsageFilter()).values()) == 3


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


@pytest.mark.parametrize(
    ("column", "nonsense"),
    [
        ("created_at", "'yesterday'"),
        ("expires_at", "9e99"),
        ("previous_secrets_expire_at", "'soon'"),
        ("allowed_ips", "'everywhere'"),
        ("metadata", "'{'"),
        ("metadata", "'[]'"),
        ("metadata", "'" + "[" * 100_000 + "'"),
        ("version", "'first'"),
        ("name", "x'00'"),
        ("owner", "x'00'"),
        ("history_hash", "x'00'"),
    ],
)
def test_damaged_row_is_refused_and_logged(backend, tmp_path, column, nonsense, caplog):
    keys = sorted([stored_key() for _ in range(5)], key=lambda key: key.record.id)
    backend.add_many(keys)
    with sa.create_engine(f"sqlite:///{tmp_path}/keys.db").begin() as connection:
        connection.execute(
            sa.text(f"UPDATE {KEYS_TABLE} SET {column} = {nonsense} WHERE id = :id"), {"id": keys[1].record.id}
        )
    with pytest.raises(StorageError, match=keys[1].record.id):
        backend.get(keys[1].record.id)
    others = [keys[0], *keys[2:]]
    for limit in (1, 2, 10):
        assert list(_all(backend, limit)) == others
    assert list(backend.find(KeyFilter(search="A KEY"), after=None, limit=10)) == others
    assert keys[1].record.id in caplog.text
    assert backend.get(keys[0].record.id) == keys[0]


@pytest.mark.parametrize("page", [1, 2, 3, 5, 100])
def test_scan_in_pages(backend, tmp_path, monkeypatch, page):
    monkeypatch.setattr("flask_apikey_sql.backend._PAGE", page)
    keys = [stored_key(id=letter * 16) for letter in "1Aabz"]
    backend.add_many(keys)
    with sa.create_engine(f"sqlite:///{tmp_path}/keys.db").begin() as connection:
        connection.execute(sa.text(f"UPDATE {KEYS_TABLE} SET metadata = '[' WHERE id = :id"), {"id": "A" * 16})
    scanned = list(backend.scan(KeyFilter()))
    assert [each.id if isinstance(each, DamagedKey) else each for each in scanned] == [keys[0], "A" * 16, *keys[2:]]


def _all(backend, limit):
    after = None
    while page := backend.find(KeyFilter(), after=after, limit=limit):
        yield from page
        after = Cursor(page[-1].record.created_at, page[-1].record.id)


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
