"""SQLite files that are replaced while they are in use."""

import shutil
import sqlite3
from contextlib import closing

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_apikey import APIKeys, require_api_key
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.tables import KEYS_TABLE


def _with_uri(app, path):
    app.config["APIKEY_STORAGE_URI"] = f"sqlite:///{path}"
    return APIKeys(app)


def _with_file_uri(app, path):
    app.config["APIKEY_STORAGE_URI"] = f"sqlite:///file:{path}?uri=true"
    sqlite3.connect(path).close()
    return APIKeys(app)


def _with_engine(app, path):
    return APIKeys(app, backend=SQLBackend(sa.create_engine(f"sqlite:///{path}")))


def _with_engine_in_wal(app, path):
    api_keys = _with_engine(app, path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    return api_keys


def _with_creator(app, path):
    engine = sa.create_engine(
        f"sqlite:///{path}", creator=lambda: sqlite3.connect(path, check_same_thread=False), poolclass=sa.QueuePool
    )
    return APIKeys(app, backend=SQLBackend(engine))


def _with_flask_sqlalchemy(app, path):
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
    SQLAlchemy(app)
    return APIKeys(app)


STORAGES = {
    "URI": _with_uri,
    "URI of a file": _with_file_uri,
    "engine": _with_engine,
    "engine in write-ahead mode": _with_engine_in_wal,
    "engine with creator": _with_creator,
    "Flask-SQLAlchemy": _with_flask_sqlalchemy,
}


@pytest.fixture
def service(request, tmp_path, fernet_key):
    """An application with a key, and connections that are open on its storage."""
    path = tmp_path / "data" / "keys.db"
    path.parent.mkdir()
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config.update(TESTING=True, APIKEY_FERNET_KEY=fernet_key, APIKEY_MIN_FAILURE_TIME=0)
    service = Service(app, STORAGES[request.param](app, path), path)
    yield service
    app.extensions["apikey"].close()


class Service:
    def __init__(self, app, api_keys, path):
        self.app, self.api_keys, self.path = app, api_keys, path
        app.add_url_rule("/", view_func=require_api_key(lambda: "open"), endpoint="view")
        with app.app_context():
            api_keys.init_storage()
            self.revoked, self.valid = (api_keys.create(name=name) for name in ("revoked", "valid"))
        assert self.statuses() == (200, 200)

    def statuses(self):
        client = self.app.test_client()
        return tuple(
            client.get("/", headers={"X-API-Key": issued.key}).status_code for issued in (self.revoked, self.valid)
        )

    def names(self):
        with self.app.app_context():
            return [record.name for record in self.api_keys.list(status="active")]

    def copy_with_revocation(self):
        """Return a whole copy of the database, in one file, in which a key is revoked."""
        copy = self.path.with_name("copy.db")
        with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
        app = Flask("copy")
        app.config.update(
            APIKEY_FERNET_KEY=self.app.config["APIKEY_FERNET_KEY"],
            APIKEY_STORAGE_URI=f"sqlite:///{copy}",
            APIKEY_AUDIT_LOGGING=False,
        )
        api_keys = APIKeys(app)
        with app.app_context():
            api_keys.revoke(self.revoked.record.id)
            api_keys.close()
        return copy


def _move(copy, path):
    copy.replace(path)


def _remove_and_copy(copy, path):
    path.unlink()
    shutil.copy(copy, path)


def _swap_folder(copy, path):
    folder = path.parent.with_name("new")
    folder.mkdir()
    copy.rename(folder / path.name)
    path.parent.rename(path.parent.with_name("old"))
    folder.rename(path.parent)


def _retarget_link(copy, path):
    copy.rename(path.with_name("other.db"))
    path.with_name("link").symlink_to("other.db")
    path.with_name("link").rename(path)


def _move_without_log(copy, path):
    for each in path.parent.glob("keys.db-*"):
        each.unlink()
    copy.replace(path)


def _overwrite(copy, path):
    # Pages in the log would hide those of the file. Nothing tells this from a checkpoint.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint")
    shutil.copy(copy, path)


REPLACEMENTS = {
    "cp": _overwrite,
    "mv": _move,
    "rm and cp": _remove_and_copy,
    "folder swapped": _swap_folder,
    "link": _retarget_link,
    "mv without the log": _move_without_log,
}


PAIRS = [(storage, "mv") for storage in STORAGES]
PAIRS += [(storage, name) for storage in ("URI", "engine", "engine in write-ahead mode") for name in REPLACEMENTS]


@pytest.mark.parametrize(("service", "name"), dict.fromkeys(PAIRS), indirect=["service"])
def test_replaced_file_is_read_at_the_next_request(service, name):
    REPLACEMENTS[name](service.copy_with_revocation(), service.path)
    assert service.statuses() == (401, 200)
    assert service.names() == ["valid"]
    with service.app.app_context():
        service.api_keys.revoke(service.valid.record.id)
    assert service.statuses() == (401, 401)
    with closing(sqlite3.connect(service.path)) as connection:
        assert connection.execute(f"SELECT count(*) FROM {KEYS_TABLE} WHERE revoked_at > 0").fetchone() == (2,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("service", ["URI", "Flask-SQLAlchemy"], indirect=True)
def test_deleted_file_is_noticed(service):
    copy = service.copy_with_revocation()
    service.path.unlink()
    assert service.statuses() == (503, 503)
    copy.replace(service.path)
    assert service.statuses() == (401, 200)


@pytest.mark.parametrize("service", ["engine in write-ahead mode"], indirect=True)
def test_replaced_file_gets_no_log_of_another_file(service):
    with closing(SQLBackend(f"sqlite:///{service.path}")) as other:
        assert other.get(service.valid.record.id)
        service.copy_with_revocation().replace(service.path)
        assert service.statuses() == (401, 200)
        with service.app.app_context():
            service.api_keys.revoke(service.valid.record.id)
        assert other.get(service.valid.record.id).record.revoked_at
    assert service.statuses() == (401, 401)


@pytest.mark.parametrize("service", ["engine in write-ahead mode"], indirect=True)
def test_log_that_cannot_be_moved_is_reported(service, caplog):
    service.path.with_name("keys.db-wal-replaced").mkdir()
    service.copy_with_revocation().replace(service.path)
    assert service.statuses() == (503, 503)
    assert (
        "keys.db-wal belongs to a SQLite file that was replaced, and cannot be moved: Is a directory. Remove it"
        in caplog.text
    )


@pytest.mark.parametrize("service", ["Flask-SQLAlchemy"], indirect=True)
def test_file_replaced_before_the_first_use_is_read(service):
    engine = service.app.extensions["apikey"].backend._opened.get().engine
    service.api_keys.close()
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT 1"))
    service.copy_with_revocation().replace(service.path)
    assert service.statuses() == (401, 200)
