"""Settings of a server's sessions that statements of this library depend on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event

from flask_apikey_sql.connections import Connections
from flask_apikey_sql.timeouts import connected, is_connecting_for_us

_SERVERS = ("postgresql", "mysql", "mariadb")

# The client option --safe-updates limits all queries to 1,000 rows, and some servers have that as a default.
# The other modes stay, because SQLAlchemy asks only the first connection for them. No '' here: it may mean NULL.
_MYSQL = """\
SET SESSION sql_select_limit = 18446744073709551615, sql_big_selects = 1, sql_mode = CONCAT_WS(
    ',', 'STRICT_ALL_TABLES', 'NO_ENGINE_SUBSTITUTION', REPLACE(@@sql_mode, 'EMPTY_STRING_IS_NULL', 'STRICT_ALL_TABLES')
)"""


def prepare_sessions(engine: Engine, *, is_shared: bool) -> None:
    """Let new sessions of MySQL and MariaDB return all rows, and refuse what they cannot store.

    Args:
        engine: The engine.
        is_shared: True to leave the connections of the application alone.
    """
    listener = _prepare_for_us if is_shared else _prepare
    if engine.dialect.name in ("mysql", "mariadb") and not event.contains(engine, "connect", listener):
        event.listen(engine, "connect", listener)


@contextmanager
def reading(connections: Connections) -> Iterator[Connection]:
    """Provide a connection to read from.

    Each statement is a transaction of its own. It takes no lock on a server with the isolation level
    SERIALIZABLE, and does not give way to a writer.
    """
    with connected(connections) as connection:
        if connection.dialect.name in _SERVERS:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


def _prepare_for_us(connection: Any, record: object) -> None:
    if is_connecting_for_us():
        _prepare(connection, record)


def _prepare(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(_MYSQL)
    cursor.close()
