"""New, empty databases on the servers that take part in a run of the tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

from pymongo import MongoClient
from sqlalchemy import Engine, create_engine, make_url, text

POSTGRESQL = "FLASK_APIKEY_TEST_POSTGRESQL_URI"
MYSQL = "FLASK_APIKEY_TEST_MYSQL_URI"
MONGODB = "FLASK_APIKEY_TEST_MONGODB_URI"

_DRIVERS = {POSTGRESQL: "postgresql+psycopg", MYSQL: "mysql+pymysql"}
# PostgreSQL refuses to drop a database with open connections, as pools keep them.
_DROP = {POSTGRESQL: "DROP DATABASE {name} WITH (FORCE)", MYSQL: "DROP DATABASE {name}"}


def named_servers(*variables: str) -> list[str]:
    """Return the variables that name a server."""
    return [variable for variable in variables if os.environ.get(variable)]


@contextmanager
def new_database(variable: str, options: str = "") -> Iterator[str]:
    """Create a database on the server that a variable names, and drop it on exit.

    Args:
        variable: Environment variable.
        options: Clauses for CREATE DATABASE.

    Yields:
        The URI of the database.
    """
    name = f"flask_apikey_{uuid4().hex}"
    with _mongodb_database(variable, name) if variable == MONGODB else _sql_database(variable, name, options) as uri:
        yield uri


@contextmanager
def _sql_database(variable: str, name: str, options: str) -> Iterator[str]:
    uri = make_url(os.environ[variable])
    engine = create_engine(uri.set(drivername=_DRIVERS[variable]), isolation_level="AUTOCOMMIT")
    try:
        _execute(engine, f"CREATE DATABASE {name} {options}")
        try:
            yield uri.set(database=name).render_as_string(hide_password=False)
        finally:
            _execute(engine, _DROP[variable].format(name=name))
    finally:
        engine.dispose()


def _execute(engine: Engine, statement: str) -> None:
    with engine.connect() as connection:
        connection.execute(text(statement))
    # Sessions last for minutes, and servers close idle connections.
    engine.dispose()


@contextmanager
def _mongodb_database(variable: str, name: str) -> Iterator[str]:
    """MongoDB creates a database with the first document."""
    uri = mongodb_uri(os.environ[variable], name)
    try:
        yield uri
    finally:
        with MongoClient(uri) as client:
            client.drop_database(name)


def mongodb_uri(uri: str, database: str) -> str:
    """Return a MongoDB URI with another database, and the same user."""
    parts = urlsplit(uri)
    query = parts.query
    if parts.username and "authsource=" not in query.lower():
        # The database of the URI is also where MongoDB looks for the user.
        query += f"&authSource={parts.path.strip('/') or 'admin'}"
    return parts._replace(path=f"/{database}", query=query.lstrip("&")).geturl()
