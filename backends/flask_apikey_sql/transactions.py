"""Transactions, repeated where they give way to others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.errors import must_be_repeated, said

_AUTOCOMMIT = "AUTOCOMMIT"
_MOST_ATTEMPTS = 200

T = TypeVar("T")


class Overtaken(Exception):
    """Another transaction was first: this one is to be repeated."""


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction, on an engine that commits each statement by itself too."""
    with engine.connect() as connection:
        if _isolation_level(connection) == _AUTOCOMMIT:
            connection.execution_options(isolation_level=connection.default_isolation_level)
        with connection.begin():
            yield connection


def _isolation_level(connection: Connection) -> object:
    level = connection.get_execution_options().get("isolation_level")
    # No public attribute tells what create_engine() was given, and databases do not know of autocommit.
    return level or getattr(connection.dialect, "_on_connect_isolation_level", None)


def transact(engine: Engine, change: Callable[[Connection], T]) -> T:
    """Carry out a change in a transaction of its own, again while others get into its way.

    A transaction that is serializable or reads repeatably may be refused at any of its
    statements, and when it is committed.

    Raises:
        StorageError: There is no end to it.
    """
    last: BaseException | None = None
    for _ in range(_MOST_ATTEMPTS):
        try:
            with transaction(engine) as connection:
                return change(connection)
        except Overtaken as exc:
            last = exc.__cause__
        except DBAPIError as exc:
            if not must_be_repeated(exc):
                raise
            last = exc
    reason = "" if last is None else f"; the database says: {said(last)}"
    raise StorageError(f"others write the same rows all the time, and nothing was written{reason}")
