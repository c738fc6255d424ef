"""Metadata of an application that migrates the database of the keys."""

import os
from collections.abc import Iterator

from sqlalchemy import Engine, MetaData, inspect

from flask_apikey_sql.sqlite_files import watched_path

_PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306}
_LOCAL = (None, "", "127.0.0.1", "::1")


def metadata_of_database(client: object, engine: Engine) -> Iterator[MetaData]:
    """Yield each metadata of a Flask-SQLAlchemy object whose engine opens the same database as `engine`."""
    for candidate, metadata in _migrated(client):
        if _database(candidate) == _database(engine):
            yield metadata


def unknown_tables(client: object, names: set[str]) -> Iterator[str]:
    """Yield each of these tables that a database of a Flask-SQLAlchemy object has and its metadata lacks."""
    for engine, metadata in _migrated(client):
        known = {table.name for table in metadata.tables.values()}
        if names - known:
            yield from names.intersection(inspect(engine).get_table_names()) - known


def _migrated(client: object) -> Iterator[tuple[Engine, MetaData]]:
    engines, metadatas = getattr(client, "engines", {}), getattr(client, "metadatas", {})
    for bind, engine in engines.items():
        metadata = metadatas.get(bind)
        if isinstance(metadata, MetaData):
            yield engine, metadata


def _database(engine: Engine) -> tuple[object, ...]:
    path = watched_path(engine)
    if path is not None:
        return ("sqlite", os.path.realpath(path))
    url, name = engine.url, engine.dialect.name
    host = "localhost" if url.host in _LOCAL else url.host
    return ("mysql" if name == "mariadb" else name, host, url.port or _PORTS.get(name), url.database)
