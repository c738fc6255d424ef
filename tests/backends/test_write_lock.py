"""Turns of the processes that write to a SQLite file."""

import fcntl
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event
from types import SimpleNamespace

import pytest

from flask_apikey.testing.samples import stored_key
from flask_apikey_sql import SQLBackend, write_lock


@pytest.fixture
def locked(tmp_path):
    """Return the backend of a file whose turn another process has, and a function that ends this turn."""

    def locked(options=""):
        backend = SQLBackend(f"sqlite:///{tmp_path}/keys.db{options}")
        backend.init_storage()
        backend.add(stored_key())
        log = (tmp_path / "keys.db-wal").open("rb")
        fcntl.flock(log, fcntl.LOCK_EX)
        return backend, log.close

    return locked


def test_writers_wait_for_their_turn(locked, monkeypatch):
    backend, unlock = locked()
    waits, key = Event(), stored_key()
    clock = SimpleNamespace(monotonic=write_lock.time.monotonic, sleep=lambda _: waits.set())
    monkeypatch.setattr(write_lock, "time", clock)
    with closing(backend), ThreadPoolExecutor(1) as pool:
        writing = pool.submit(backend.add, key)
        assert waits.wait(30)
        assert backend.get(key.id) is None
        unlock()
        writing.result(30)
        assert backend.get(key.id) == key


def test_turn_of_a_process_that_hangs(locked):
    backend, unlock = locked("?timeout=0.1")
    key = stored_key()
    with closing(backend):
        backend.add(key)
        assert backend.get(key.id) == key
    unlock()
