"""Applications for the benchmarks: one view behind different checks."""

import hashlib
import os
import random
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from flask import Flask, abort, request
from flask_httpauth import HTTPTokenAuth  # type: ignore[import-untyped]  # Flask-HTTPAuth has no types
from flask_sqlalchemy import SQLAlchemy
from pymongo import MongoClient
from sqlalchemy import event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.timing import SEED
from flask_apikey import APIKeys, require_api_key
from flask_apikey.core.model import keystring
from flask_apikey.core.model.history import CREATED, LifecycleEvent
from flask_apikey.core.model.keys import APIKey, StoredKey
from flask_apikey.core.model.sealed_rows import sealed_row
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets, digest
from flask_apikey.core.storage.registry import backend_for
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.engines import make_engine
from flask_apikey_sql.uris import parse_uri

PREFIX = "fak"
SERVERS = {
    "PostgreSQL": "FLASK_APIKEY_TEST_POSTGRESQL_URI",
    "MariaDB or MySQL": "FLASK_APIKEY_TEST_MYSQL_URI",
    "MongoDB": "FLASK_APIKEY_TEST_MONGODB_URI",
}
_CHUNK = 10_000


@dataclass(frozen=True)
class Guarded:
    """An application and the ``Authorization`` headers that it accepts."""

    app: Flask
    authorizations: list[str] = field(repr=False)


def bare() -> Flask:
    """Create an application without a check."""
    app = Flask("bare")

    @app.get("/")
    def view() -> str:
        return "ok"

    return app


def looking_up(look_up: Callable[[str], object], ids: Sequence[str]) -> Flask:
    """Create an application that looks up a row, of each id in turn, and checks nothing."""
    app = Flask("looking_up")
    next_id = cycle(ids)

    @app.get("/")
    def view() -> str:
        if look_up(next(next_id)) is None:
            abort(404)
        return "ok"

    return app


def refusing() -> Flask:
    """Create an application that aborts every request with 401."""
    app = Flask("refusing")

    @app.get("/")
    def view() -> str:
        abort(401)

    return app


def flask_apikey(
    storage_uri: str,
    fernet_key: str,
    *,
    fallbacks: Sequence[str] = (),
    min_failure_time: str | int = "10ms",
    failure_limit: str | None = "60/minute",
    enforce_https: bool = True,
    usage: str = "buffered",
    max_staleness: str | int = 0,
    endpoints: int = 0,
) -> Flask:
    """Create an application with this extension, a view at ``/`` and a number of further endpoints."""
    app = Flask("flask_apikey")
    app.config.update(
        APIKEY_FERNET_KEY=fernet_key,
        APIKEY_FERNET_KEY_FALLBACKS=fallbacks,
        APIKEY_STORAGE_URI=storage_uri,
        APIKEY_MIN_FAILURE_TIME=min_failure_time,
        APIKEY_FAILURE_LIMIT=failure_limit,
        APIKEY_ENFORCE_HTTPS=enforce_https,
        APIKEY_USAGE=usage,
        APIKEY_MAX_STALENESS=max_staleness,
    )
    api_keys = APIKeys(app)
    with app.app_context():
        api_keys.init_storage()

    @require_api_key
    def view() -> str:
        return "ok"

    for rule in ("/", *(f"/{number}" for number in range(endpoints))):
        app.add_url_rule(rule, endpoint=rule, view_func=view)
    return app


def store_keys(database: Path, fernet_key: str, *, stored: int, presented: int) -> list[str]:
    """Store keys as `APIKeys.create` does, but many in one transaction.

    Args:
        database: SQLite file.
        fernet_key: Fernet key that seals the keys.
        stored: Number of keys to store.
        presented: Number of keys to return, drawn at random.

    Returns:
        ``Authorization`` headers of the keys to present.
    """
    draw = random.Random(SEED)  # noqa: S311  # a choice among keys, not a secret
    returned = set(draw.sample(range(stored), presented))
    ring = FernetKeyring(fernet_key)
    keys: list[str] = []
    numbers = iter(range(stored))
    with closing(SQLBackend(f"sqlite:///{database}")) as backend:
        backend.init_storage()
        while chunk := list(islice(numbers, _CHUNK)):
            made = [(number, *make_key(ring, number)) for number in chunk]
            keys.extend(key for number, key, _ in made if number in returned)
            rows = [row for _, _, row in made]
            backend.add_many(rows, events=[_creation(row.record) for row in rows])
    draw.shuffle(keys)
    return [f"Api-Key {key}" for key in keys]


def flask_httpauth(database: Path, stored: int) -> Guarded:
    """Create the usual hand-made check: SHA-256 of a random token, looked up with Flask-SQLAlchemy."""

    class Base(DeclarativeBase):
        pass

    app = Flask("flask_httpauth")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{database}"
    db = SQLAlchemy(app, model_class=Base)
    auth = HTTPTokenAuth(scheme="Bearer")

    class Token(db.Model):  # type: ignore[misc, name-defined]  # Flask-SQLAlchemy makes the base class when it runs
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        digest: Mapped[str] = mapped_column(unique=True)
        expires_at: Mapped[datetime]
        revoked: Mapped[bool] = mapped_column(default=False)

    @auth.verify_token  # type: ignore[untyped-decorator]  # as the import
    def verify(presented: str) -> Token | None:
        presented_digest = hashlib.sha256(presented.encode()).hexdigest()
        token: Token | None = db.session.scalar(db.select(Token).filter_by(digest=presented_digest))
        if token is None or token.revoked or token.expires_at <= datetime.now(timezone.utc).replace(tzinfo=None):
            return None
        return token

    @app.get("/")
    @auth.login_required  # type: ignore[untyped-decorator]  # as the import
    def view() -> str:
        return "ok"

    presented = [secrets.token_urlsafe(32) for _ in range(stored)]
    with app.app_context():
        event.listen(db.engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode=WAL"))
        db.create_all()
        for number, each in enumerate(presented):
            db.session.add(
                Token(name=f"key {number}", digest=hashlib.sha256(each.encode()).hexdigest(), expires_at=_in_a_year())
            )
        db.session.commit()
    return Guarded(app, [f"Bearer {each}" for each in presented])


def fernet_and_sqlite3(database: Path, stored: int) -> Guarded:
    """Create a minimal hand-made check: the key is a Fernet token that holds the id of a row."""
    app = Flask("fernet_and_sqlite3")
    fernet = Fernet(Fernet.generate_key())
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE keys (id TEXT PRIMARY KEY, name TEXT, expires_at INTEGER, revoked INTEGER)")
    ids = [keystring.new_id() for _ in range(stored)]
    expires_at = int(_in_a_year().timestamp())
    connection.executemany("INSERT INTO keys VALUES (?, 'key', ?, 0)", [(each, expires_at) for each in ids])

    @app.before_request
    def check() -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Api-Key":
            abort(401)
        try:
            key_id = fernet.decrypt(token).decode()
        except InvalidToken:
            abort(401)
        row = connection.execute("SELECT expires_at, revoked FROM keys WHERE id = ?", (key_id,)).fetchone()
        if row is None or row[1] or row[0] <= datetime.now(timezone.utc).timestamp():
            abort(401)

    @app.get("/")
    def view() -> str:
        return "ok"

    return Guarded(app, [f"Api-Key {fernet.encrypt(each.encode()).decode()}" for each in ids])


def make_key(ring: FernetKeyring, number: int, **changes: Any) -> tuple[str, StoredKey]:
    """Create a key and the row that `APIKeys.create` stores for it, with other values of some fields."""
    key_id = keystring.new_id()
    key = keystring.mint(PREFIX, key_id)
    now = datetime.now(timezone.utc)
    record = APIKey(
        id=key_id,
        prefix=PREFIX,
        name=f"key {number}",
        owner=f"team-{number % 1000}",
        scopes=frozenset({"reports:read"}),
        created_at=now,
        updated_at=now,
        expires_at=now + timedelta(days=365),
    )
    record = replace(record, **changes)
    return key, sealed_row(record, _creation(record).hash, SealedSecrets((digest(key),)), ring)


def _creation(record: APIKey) -> LifecycleEvent:
    return LifecycleEvent(key_id=record.id, number=1, at=record.created_at, event=CREATED, owner=record.owner)


def named_storages(directory: Path) -> dict[str, str]:
    """Return the URI of a new SQLite file, and those of the servers that the environment names."""
    storages = {"SQLite": f"sqlite:///{directory / 'keys.db'}"}
    return storages | {name: os.environ[variable] for name, variable in SERVERS.items() if os.environ.get(variable)}


@contextmanager
def stored_temporarily(uri: str, keys: Sequence[StoredKey]) -> Iterator[None]:
    """Store keys, and remove them at the end."""
    with deleted_afterwards(uri) as ids, closing(backend_for(uri)) as backend:
        ids += [key.record.id for key in keys]
        backend.add_many(keys)
        yield


@contextmanager
def deleted_afterwards(uri: str) -> Iterator[list[str]]:
    """Initialise a storage, and remove the keys with the listed ids at the end, with their events.

    They are removed behind the back of the library, which would only make tombstones of them.
    """
    with closing(backend_for(uri)) as backend:
        backend.init_storage()
    ids: list[str] = []
    try:
        yield ids
    finally:
        if uri.startswith("mongodb"):
            with MongoClient[Any](uri) as client:
                database = client.get_default_database("flask_apikey")
                database["flask_apikey_keys"].delete_many({"_id": {"$in": ids}})
                database["flask_apikey_events"].delete_many({"key_id": {"$in": ids}})
        else:
            engine = make_engine(parse_uri(uri))
            with engine.begin() as connection:
                parameters = [{"id": each} for each in ids]
                for table, column in (("flask_apikey_keys", "id"), ("flask_apikey_events", "key_id")):
                    connection.execute(text(f"DELETE FROM {table} WHERE {column} = :id"), parameters)  # constants
            engine.dispose()


def _in_a_year() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None) + timedelta(days=365)
