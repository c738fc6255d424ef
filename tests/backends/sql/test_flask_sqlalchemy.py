"""Databases of the application."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from textwrap import dedent

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy_lite import SQLAlchemy as SQLAlchemyLite

from flask_apikey import APIKeys, ConfigurationError, require_api_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.tables import KEYS_TABLE


def count_keys(path):
    with sa.create_engine(f"sqlite:///{path}").connect() as connection:
        return connection.scalar(sa.text(f"SELECT count(*) FROM {KEYS_TABLE}"))


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


def test_close_keeps_an_engine_of_the_application_open(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    with engine.connect() as connection:
        backend = SQLBackend(engine)
        backend.init_storage()
        backend.close()
        assert connection.scalar(sa.text("SELECT 1")) == 1
