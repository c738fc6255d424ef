"""New, empty storages on the servers that take part in a run of the tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from sqlalchemy import create_engine, make_url, text

POSTGRESQL = "FLASK_APIKEY_TEST_POSTGRESQL_URI"
MYSQL = "FLASK_APIKEY_TEST_MYSQL_URI"
MONGODB = "FLASK_APIKEY_TEST_MONGODB_URI"

_DRIVERS = {POSTGRESQL: "postgresql+psycopg", MYSQL: "mysql+pymysql"}


def named_servers(*variables: str) -> list[str]:
    """Those of the variables that name a server."""
    return [variable for variable in variables if os.environ.get(variable)]


@contextmanager
def new_database(variable: str) -> Iterator[str]:
    """The URI of a new database on the SQL server that a variable names; it goes away afterwards."""
    uri = make_url(os.environ[variable])
    name = f"flask_apikey_{uuid4().hex}"
    engine = create_engine(uri.set(drivername=_DRIVERS[variable]), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
            yield uri.set(database=name).render_as_string(hide_password=False)
            connection.execute(text(f"DROP DATABASE {name}"))
    finally:
        engine.dispose()
