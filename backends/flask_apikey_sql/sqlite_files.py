"""SQLite files that are replaced while connections are open, as by ``mv``, ``rsync`` or a restore.

An open connection goes on reading the file that it opened, even after another file took its
name. In write-ahead mode SQLite does not notice either that the file was overwritten in place.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sqlalchemy import Engine

from flask_apikey.core.errors import StorageError
from flask_apikey.core.text import visible
from flask_apikey_sql.uris import is_in_memory

logger = logging.getLogger("flask_apikey")


_State = tuple[int, int, int, int]
"""Device and inode of a file, time of its last change, and its size."""


class SQLiteFile:
    """The file of a SQLite database, compared with the file that was opened.

    Args:
        path: The path that connections open.
        refresh: Closes open connections.
    """

    def __init__(self, path: str, refresh: Callable[[], object]) -> None:
        self.path = path
        self._log_path = f"{path}-wal"
        self._refresh = refresh
        self._lock = threading.Lock()
        self._state = _state(path)
        self._log: tuple[int, int] | None = None

    def check(self) -> None:
        """Close all connections if the path leads to another file than before. Call it before each use.

        Raises:
            StorageError: The write-ahead log of the replaced file is in the way.
        """
        state = _state(self.path)
        if state != self._state and self._is_changed(state):
            with self._lock:
                state = _state(self.path)
                # Another thread may have opened the connections again.
                if state != self._state:
                    self._reopen(state)

    def note_log(self) -> None:
        """Note which write-ahead log belongs to the file. Call it after the first statement of a connection."""
        log, state = _state(self._log_path), _state(self.path)
        if state is not None and self._state is not None and _file(state) == _file(self._state):
            self._log = None if log is None else _file(log)

    def _is_changed(self, state: _State | None) -> bool:
        before = self._state
        if state is None or before is None or self._log is not None:
            # A checkpoint writes to the file too, which is rare: connections are opened again then.
            return True
        # Without a write-ahead log each commit writes to the file, and SQLite notices it.
        return _file(state) != _file(before)

    def _reopen(self, state: _State | None) -> None:
        is_replaced = state is not None and (self._state is None or _file(state) != _file(self._state))
        if is_replaced and self._log is not None:
            self._set_log_aside(self._log)
            self._log = None
            logger.warning("the SQLite file %s was replaced, and is opened again", visible(self.path))
        # Set before the connections are closed: those opened from now on open the new file.
        self._state = state
        self._refresh()
        closed = _state(self.path)
        if state is not None and closed is not None and _file(closed) == _file(state):
            # The last connection writes the log to the file when it is closed.
            self._state = closed

    def _set_log_aside(self, belongs_to_replaced: tuple[int, int]) -> None:
        """Rename the log of the replaced file. SQLite would apply its pages to the new file."""
        with _one_process(Path(self.path).parent):
            log = _state(self._log_path)
            if log is None or _file(log) != belongs_to_replaced:
                return
            aside = f"{self._log_path}-replaced"
            try:
                Path(self._log_path).replace(aside)
                Path(f"{self.path}-shm").unlink(missing_ok=True)
            except OSError as exc:
                raise StorageError(
                    f"{visible(self._log_path)} belongs to a SQLite file that was replaced, and cannot be moved: "
                    f"{exc.strerror}. Remove it, and the -shm beside it"
                ) from None
        logger.warning("the write-ahead log of the replaced file is kept as %s", visible(aside))


def watched_path(engine: Engine) -> str | None:
    """Return the path of the SQLite file that an engine opens. None for other databases and for those in memory."""
    if engine.dialect.name != "sqlite" or is_in_memory(engine.url):
        return None
    (file, *_), options = engine.dialect.create_connect_args(engine.url)
    if options.get("uri") and file.startswith("file:"):
        return unquote(urlsplit(file).path)
    return str(file)


@contextmanager
def _one_process(folder: Path) -> Iterator[None]:
    # Not on Windows, where files in use cannot be replaced.
    fcntl = import_module("fcntl")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _state(path: str) -> _State | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # twice as fast as Path.stat(), in each request
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _file(state: _State) -> tuple[int, int]:
    return state[:2]
