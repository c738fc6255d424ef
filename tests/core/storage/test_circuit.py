"""Look-ups in a storage that hangs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event

import pytest

from flask_apikey import APIKeys
from flask_apikey.core.errors import RowDamaged, StorageError
from flask_apikey.core.storage import circuit
from flask_apikey.core.storage.circuit import LookupCircuit


class HangingStorage:
    """A storage that hangs until it is resumed or the timeout passes."""

    def __init__(self):
        self.failure = None
        self.took = 0
        self.asked = 0
        self.entered, self.resumed = Event(), Event()
        self.resumed.set()

    def get(self, key_id):
        self.asked += 1
        self.entered.set()
        assert self.resumed.wait(10)
        self.now += self.took
        if self.failure is not None:
            raise self.failure
        return key_id

    now = 0.0


@pytest.fixture
def storage(monkeypatch):
    storage = HangingStorage()
    monkeypatch.setattr(circuit, "monotonic", lambda: storage.now)
    return storage


@pytest.fixture
def lookups(storage):
    return LookupCircuit(storage, 5)


def _time_out(storage, lookups):
    storage.failure, storage.took = StorageError("no answer"), 5
    with pytest.raises(StorageError, match="no answer"):
        lookups.get("a")


def test_one_caller_asks_after_a_timeout(storage, lookups):
    _time_out(storage, lookups)
    storage.failure, storage.took = None, 0
    storage.resumed.clear()
    storage.entered.clear()
    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(lookups.get, "a")
        assert storage.entered.wait(10)
        for _ in range(3):
            with pytest.raises(StorageError, match="one request at a time"):
                lookups.get("a")
        storage.resumed.set()
        assert probe.result() == "a"
    assert lookups.get("b") == "b"
    assert storage.asked == 3


def test_each_timeout_is_followed_by_another_attempt(storage, lookups):
    for asked in range(1, 4):
        _time_out(storage, lookups)
        assert storage.asked == asked


@pytest.mark.parametrize("failure", [StorageError("refused"), RowDamaged("damaged")])
def test_quick_failure_lets_all_callers_ask(storage, lookups, failure):
    _time_out(storage, lookups)
    storage.failure, storage.took = failure, 0.1
    with pytest.raises(StorageError):
        lookups.get("a")
    storage.resumed.clear()
    storage.entered.clear()
    with ThreadPoolExecutor(2) as pool:
        attempts = [pool.submit(lookups.get, "a") for _ in range(2)]
        assert storage.entered.wait(10)
        storage.resumed.set()
        assert {str(attempt.exception()) for attempt in attempts} == {str(failure)}


def test_timeout_is_the_setting(make_app, backend):
    given = []
    backend.limit_waits = given.append
    APIKeys(make_app(APIKEY_STORAGE_TIMEOUT="3s"), backend=backend)
    assert given == [timedelta(seconds=3)]
