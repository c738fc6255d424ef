"""Tables of keys in the metadata of an application that migrates its database."""

from contextlib import closing

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_apikey import APIKeys
from flask_apikey_sql import SQLBackend


@pytest.fixture
def migrated(tmp_path, fernet_key):
    """Compare the database of an application with its metadata, as ``flask db migrate`` does."""

    def migrated(init, **config):
        app = Flask("app", instance_path=str(tmp_path))
        uri = f"sqlite:///{tmp_path}/app.db"
        app.config.update(TESTING=True, APIKEY_FERNET_KEY=fernet_key, SQLALCHEMY_DATABASE_URI=uri, **config)
        with closing(SQLBackend(uri)) as backend:
            backend.init_storage()
        db = SQLAlchemy()
        # Not used: migrations run before.
        init(app, db)
        with app.app_context(), db.engine.connect() as connection:
            return compare_metadata(MigrationContext.configure(connection), db.metadata)

    return migrated


def database_first(app, db):
    db.init_app(app)
    return APIKeys(app)


def keys_first(app, db):
    api_keys = APIKeys(app)
    db.init_app(app)
    return api_keys


def engine(app, db):
    db.init_app(app)
    return APIKeys(app, backend=SQLBackend(sa.create_engine(app.config["SQLALCHEMY_DATABASE_URI"])))


@pytest.mark.parametrize("init", [database_first, keys_first, engine])
def test_migrations_keep_the_tables(migrated, init):
    assert migrated(init) == []


@pytest.mark.parametrize("init", [database_first, keys_first])
@pytest.mark.parametrize("path", ["{}/app.db", "{}/../{}/app.db"], ids=["same path", "other spelling"])
def test_migrations_keep_the_tables_of_the_same_database_by_uri(migrated, tmp_path, init, path):
    uri = "sqlite:///" + path.format(tmp_path, tmp_path.name)
    assert migrated(init, APIKEY_STORAGE_URI=uri) == []


def test_other_database_leaves_the_metadata_alone(tmp_path, fernet_key):
    app = Flask("app", instance_path=str(tmp_path))
    app.config.update(
        APIKEY_FERNET_KEY=fernet_key,
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/app.db",
        APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/keys.db",
    )
    db = SQLAlchemy(app)
    APIKeys(app)
    with app.app_context():
        assert not db.metadata.tables
