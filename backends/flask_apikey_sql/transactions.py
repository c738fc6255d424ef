"""Transactions, repeated where they give way to others."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.failures import must_be_repeated, said

_MOST_ATTEMPTS = 200

T = TypeVar("T")


class Overtaken(Exception):
    """Another transaction was first: this one is to be repeated."""


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
            with engine.begin() as connection:
                return change(connection)
        except Overtaken as exc:
            last = exc.__cause__
        except DBAPIError as exc:
            if not must_be_repeated(exc):
                raise
            last = exc
    reason = "" if last is None else f"; the database says: {said(last)}"
    raise StorageError(f"others write the same rows all the time, and nothing was written{reason}") from last
