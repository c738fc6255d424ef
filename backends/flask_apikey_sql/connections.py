"""Connections for everything but look-ups."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from weakref import finalize, ref

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import AssertionPool, Pool, StaticPool

from flask_apikey_sql import sqlite_holds
from flask_apikey_sql.sqlite_holds import Hold


class Connections:
    """Connections to the database of an engine.

    An application's engine is not asked for them, because a request may hold all of its connections
    while it changes a key. They come from another pool, which is made like the engine's.

    Args:
        engine: The engine, with its options and events.
        path: The SQLite file that the engine opens, or None.
        is_shared: True if the application uses the engine too.

    Attributes:
        path: The SQLite file that the engine opens, or None.
        turn: Lets one thread at a time use a pool that has a single connection.
        may_be_stale: True if the pool does not look for connections that the server closed.
    """

    def __init__(self, engine: Engine, path: str | None, *, is_shared: bool) -> None:
        self.engine = engine
        self.path = path
        self._is_shared = is_shared
        self._lock = Lock()
        # Threads of the application and the one that stores counts would share one transaction.
        self.turn: AbstractContextManager[object] = (
            Lock() if is_shared and isinstance(engine.pool, StaticPool | AssertionPool) else nullcontext()
        )
        self.may_be_stale = is_shared and engine.dialect.name != "sqlite"
        self._pool: Pool | None = None
        self._made_like: ref[Pool] | None = None
        if path is not None:
            sqlite_holds.watch()

    def connect(self) -> Connection:
        """Return a connection. Close it to release it."""
        if not self._is_shared:
            return self.engine.connect()
        return Connection(self.engine, self._current_pool().connect())

    def hold(self) -> Hold:
        """Return what the current thread holds of the SQLite file."""
        return Hold.NOTHING if self.path is None else sqlite_holds.hold_of(self.path)

    def close(self) -> None:
        """Close the idle connections of the own pool."""
        with self._lock:
            pool, self._pool, self._made_like = self._pool, None, None
        if pool is not None:
            pool.dispose()

    def _current_pool(self) -> Pool:
        like = self.engine.pool
        with self._lock:
            if self._pool is None or self._made_like is None or self._made_like() is not like:
                # Engine.dispose() replaced the pool, or this is the first use.
                self._pool = pool = like.recreate()
                self._made_like = ref(like)
                finalize(like, in_this_process(pool.dispose))
            return self._pool


def in_this_process(close: Callable[[], object]) -> Callable[[], None]:
    """Wrap `close` to do nothing in a forked child, where the connections still belong to the parent."""
    process = os.getpid()

    def close_here() -> None:
        if os.getpid() == process:
            close()

    return close_here
