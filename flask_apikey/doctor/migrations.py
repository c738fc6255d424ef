"""Check for tables that a generated migration would drop."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from flask import Flask

from flask_apikey.app_state import FLASK_SQLALCHEMY, ApplicationState
from flask_apikey.core.errors import StorageError
from flask_apikey.doctor.findings import Finding, warning

_FLASK_MIGRATE = "migrate"
_DIRECTORY = "migrations"
_PREFIX = "flask_apikey"


def check_migrations(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check that Flask-Migrate does not take the tables of keys for leftovers."""
    migrate = app.extensions.get(_FLASK_MIGRATE)
    clients = {id(client): client for client in (app.extensions.get(FLASK_SQLALCHEMY), getattr(migrate, "db", None))}
    tables: list[str] = []
    for client in filter(None, clients.values()):
        # An unreachable storage is reported by its own check.
        with suppress(StorageError):
            tables += state.backend.tables_unknown_to(client)
    if tables and not _are_named_in(Path(getattr(migrate, "directory", None) or _DIRECTORY, "env.py")):
        yield warning(
            "tables_not_in_metadata",
            f"A generated migration drops {', '.join(sorted(set(tables)))}: the metadata of Flask-SQLAlchemy lacks "
            "these tables of its database.",
            "Name the database in APIKEY_STORAGE_URI as in SQLALCHEMY_DATABASE_URI, or leave the tables out with "
            "include_name in migrations/env.py.",
        )


def _are_named_in(path: Path) -> bool:
    try:
        return _PREFIX in path.read_text(errors="replace")
    except OSError:
        return False
