"""Keys in a schema that the application's metadata names."""

import json
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click.testing import CliRunner
from flask.cli import FlaskGroup
from flask_sqlalchemy import SQLAlchemy

from flask_apikey import APIKeys, require_api_key
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.tables import KEYS_TABLE
from flask_apikey_sql.uris import parse_uri

NEW = generate_fernet_key()


@pytest.fixture
def engine(sql_uri):
    engine = sa.create_engine(parse_uri(sql_uri))
    yield engine
    engine.dispose()


@pytest.fixture
def schema(engine, tmp_path):
    """The name of an empty schema."""
    name = f"tenant_{uuid4().hex}"
    if engine.dialect.name == "sqlite":
        # For the engines of an application too.
        def attach(connection, _record):
            connection.execute(f"ATTACH '{tmp_path}/attached.db' AS {name}").close()

        sa.event.listen(sa.Engine, "connect", attach)
        yield name
        sa.event.remove(sa.Engine, "connect", attach)
        return
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    yield name
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name}{' CASCADE' * (engine.dialect.name == 'postgresql')}")


@pytest.fixture
def make_scene(make_app, sql_uri, schema):
    """Create an application whose models and keys are in the schema."""
    databases = []

    def make_scene(**config):
        app = make_app(APIKEY_STORAGE_URI=None, SQLALCHEMY_DATABASE_URI=parse_uri(sql_uri), **config)
        db = SQLAlchemy(app, metadata=sa.MetaData(schema=schema))
        databases.append((app, db))
        APIKeys(app)
        return app, db

    yield make_scene
    for app, db in databases:
        with app.app_context():
            db.engine.dispose()


def run(app, *arguments):
    group = FlaskGroup(create_app=lambda: app, set_debug_flag=False)
    done = CliRunner().invoke(group, ["apikey", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def tables(engine, schema=None):
    return {name for name in sa.inspect(engine).get_table_names(schema=schema) if name.startswith("flask_apikey")}


def test_keys_in_a_schema(make_scene, engine, schema, tmp_path, fernet_key):
    app, _ = make_scene(APIKEY_USAGE="sync")
    app.add_url_rule("/", "index", require_api_key(lambda: "ok"))
    missing = app.extensions["apikey"].backend.missing_parts()
    assert f"table {KEYS_TABLE}" in missing
    run(app, "init")
    assert not tables(engine)
    assert {f"table {name}" for name in tables(engine, schema)} == set(missing)

    key_id = run(app, "create", "ci")["id"]
    key = run(app, "roll", key_id, "--yes")["key"]
    assert app.test_client().get("/", headers={"X-API-Key": key}).status_code == 200
    assert [each["id"] for each in run(app, "list")["keys"]] == [key_id]
    assert run(app, "usage")["total"] == 1
    assert run(app, "audit", "--verify")

    promoted, _ = make_scene(APIKEY_FERNET_KEY=NEW, APIKEY_FERNET_KEY_FALLBACKS=[fernet_key])
    assert run(promoted, "rotation", "run")["resealed"]
    assert run(promoted, "copy", "--to", f"sqlite:///{tmp_path}/copy.db", "--verify")["verified"]
    assert app.extensions["apikey"].backend.missing_parts() == []


def test_doctor_names_a_part_that_a_schema_lacks(make_scene, engine, schema):
    app, db = make_scene()
    backend = app.extensions["apikey"].backend
    backend.init_storage()
    qualified = f"{schema}.{KEYS_TABLE}"
    with engine.begin() as connection:
        index = next(index for index in db.metadata.tables[qualified].indexes if "owner" in index.name)
        index.drop(connection)
        connection.exec_driver_sql(f"DROP TABLE {schema}.flask_apikey_rotation")
    assert backend.missing_parts() == [f"index {index.name}", "table flask_apikey_rotation"]
    backend.init_storage()
    assert backend.missing_parts() == []


@pytest.fixture
def migrations(engine, schema):
    """Compare the database with the metadata of an application, as ``flask db migrate`` does."""

    def migrations(db):
        with engine.connect() as connection:

            def is_included(name, type_, _parents):
                return type_ != "schema" or name in (None, schema)

            options = {"include_schemas": True, "include_name": is_included}
            return compare_metadata(MigrationContext.configure(connection, opts=options), db.metadata)

    return migrations


def test_migrations_find_the_tables_in_the_schema(make_scene, migrations):
    app, db = make_scene()
    app.extensions["apikey"].backend.init_storage()
    with app.app_context():
        assert migrations(db) == []


@pytest.mark.parametrize("of_models", [True, False], ids=["models in the schema", "keys in the schema"])
def test_migrations_when_only_one_has_the_schema(make_app, sql_uri, engine, schema, migrations, of_models):
    app = make_app(SQLALCHEMY_DATABASE_URI=parse_uri(sql_uri))
    db = SQLAlchemy(app, metadata=sa.MetaData(schema=schema if of_models else None))
    keys = SQLBackend(engine, metadata=sa.MetaData(schema=None if of_models else schema))
    keys.init_storage()
    APIKeys(app, backend=keys)
    with app.app_context():
        assert migrations(db) == []
        db.engine.dispose()
