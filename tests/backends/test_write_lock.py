"""Turns of the processes that write to a SQLite file."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from threading import Event
from types import SimpleNamespace

import pytest
from sqlalchemy import event

from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend, write_lock


@pytest.fixture
def make_backend(tmp_path):
    def make_backend(options=""):
        backend = SQLBackend(f"sqlite:///{tmp_path}/keys.db{options}")
        backend.init_storage()
        # Opens the connection, and with it the log.
        backend.add(stored_key())
        return closing(backend)

    return make_backend


@pytest.fixture
def log(tmp_path):
    """Open the write-ahead log. Another process locks the log while it writes."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context((tmp_path / "keys.db-wal").open("rb"))


def test_writers_wait_for_their_turn(make_backend, log, monkeypatch):
    waits, key = Event(), stored_key()
    clock = SimpleNamespace(monotonic=write_lock.time.monotonic, sleep=lambda _: waits.set())
    with make_backend() as backend, ThreadPoolExecutor(1) as pool:
        locked = log()
        fcntl.flock(locked, fcntl.LOCK_EX)
        monkeypatch.setattr(write_lock, "time", clock)
        writing = pool.submit(backend.add, key)
        assert waits.wait(10)
        assert backend.get(key.record.id) is None
        locked.close()
        writing.result(30)
        assert backend.get(key.record.id) == key


def test_turn_of_a_process_that_hangs(make_backend, log):
    key = stored_key()
    with make_backend("?timeout=0.1") as backend:
        fcntl.flock(log(), fcntl.LOCK_EX)
        backend.add(key)
        assert backend.get(key.record.id) == key


def test_connections_stay_open(make_backend):
    opened = []
    with make_backend() as backend:
        event.listen(backend._opened.get().engine, "connect", lambda *_: opened.append(True))
        for _ in range(5):
            backend.add(stored_key())
    assert len(opened) <= 1
