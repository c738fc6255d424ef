"""Counting in memory and flushing: each count is stored exactly once, whatever fails."""

import gc
import os
import threading
import weakref
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from unittest.mock import Mock

import pytest

from flask_apikey.core.errors import StorageError
from flask_apikey.core.flush_thread import FlushThread
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.usage import PREVIOUS_SECRET
from flask_apikey.core.times import to_microseconds
from flask_apikey.core.usage import recorder as usage_recorder
from flask_apikey.core.usage.labels import OTHER
from flask_apikey.core.usage.recorder import UsageRecorder
from tests.support.waiting import WatchedFlight, in_thread

NOW = datetime(2026, 1, 1, 12, 59, 59, tzinfo=timezone.utc)
HOUR = int(NOW.timestamp()) // 3600
ADDRESS = ip_address("192.0.2.1")


def key_with_id(key_id, **attributes):
    return APIKey(id=key_id, prefix="fak", name="ci", created_at=NOW, updated_at=NOW, **attributes)


KEY = key_with_id("A" * 16)


class FakeStorage:
    """In-memory usage storage that records batches and fails or hangs on demand."""

    def __init__(self):
        self.batches = {}
        self.received = []
        self.fails_before = []
        self.fails_after = []
        self.known_endpoints = {}
        self.is_stored = threading.Event()
        self.is_called = threading.Event()
        self.may_return = threading.Event()
        self.may_return.set()
        self.is_blocked = bool

    def add(self, batch):
        self.received.append(batch)
        self.is_called.set()
        assert self.may_return.wait(30), "the storage was never released"
        if self.fails_before:
            raise self.fails_before.pop(0)
        self.batches.setdefault((batch.writer, batch.number), batch)
        self.is_stored.set()
        if self.fails_after:
            raise self.fails_after.pop(0)

    def endpoints(self, key_id, *, limit):
        return set(list(self.known_endpoints.get(key_id, ()))[:limit])

    @property
    def counts(self):
        counted = Counter()
        for batch in self.batches.values():
            for row in batch.rows:
                counted[row.label] += row.count
        return counted

    @property
    def total(self):
        return sum(self.counts.values())

    @property
    def last_uses(self):
        return [use for batch in self.batches.values() for use in batch.last_uses]


@pytest.fixture
def storage():
    return FakeStorage()


@pytest.fixture
def messages():
    return []


@pytest.fixture
def make_recorder(storage, messages):
    recorders = []

    def make(**settings):
        settings = {
            "flush_interval": 3600.0,
            "is_synchronous": False,
            "max_endpoints": 1000,
            "clock": lambda: NOW,
            "on_failure": messages.append,
            **settings,
        }
        recorders.append(UsageRecorder(storage, **settings))
        return recorders[-1]

    yield make
    for recorder in recorders:
        recorder.close()


@pytest.fixture
def set_monotonic(monkeypatch):
    """Set the monotonic clock, which stands at 0 until then."""

    def set_monotonic(seconds):
        monkeypatch.setattr(usage_recorder.time, "monotonic", lambda: seconds)

    set_monotonic(0.0)
    return set_monotonic


@pytest.fixture
def single_flight(monkeypatch):
    """The single flight of the next recorder."""
    watched = WatchedFlight()
    monkeypatch.setattr(usage_recorder, "SingleFlight", lambda: watched)
    return watched


@pytest.fixture
def flush_threads():
    """Return the flush threads started by the test."""
    earlier = set(threading.enumerate())
    return lambda: [thread for thread in set(threading.enumerate()) - earlier if thread.name == "flask-apikey-usage"]


def accept(recorder, endpoint="/books", *, key=KEY, at=NOW, position=0, method="GET", status=200, address=ADDRESS):
    return recorder.accepted(
        key, at, position=position, endpoint=endpoint, method=method, status=status, address=address
    )


def test_same_label_is_one_row(make_recorder, storage):
    recorder = make_recorder()
    for _ in range(3):
        accept(recorder)
    accept(recorder, status=404)
    accept(recorder, method="POST")
    accept(recorder, key=replace(KEY, owner="team-7"))
    assert recorder.flush()
    assert recorder.flush()
    assert len(storage.received) == 1, "a flush of nothing sends no batch"
    assert storage.counts == {
        (KEY.id, HOUR, "/books", "GET", "2xx", "", "", 1): 3,
        (KEY.id, HOUR, "/books", "GET", "4xx", "", "", 1): 1,
        (KEY.id, HOUR, "/books", "POST", "2xx", "", "", 1): 1,
        (KEY.id, HOUR, "/books", "GET", "2xx", "", "team-7", 1): 1,
    }


def test_refusals_by_reason_without_last_use(make_recorder, storage):
    recorder = make_recorder()
    recorder.refused(KEY.id, "team-7", "/books", "GET", "revoked")
    assert recorder.flush()
    assert storage.counts == {(KEY.id, HOUR, "/books", "GET", "", "revoked", "team-7", 1): 1}
    assert storage.last_uses == []


def test_one_last_use_per_secret_and_batch(make_recorder, storage):
    moments = [NOW + timedelta(seconds=number) for number in range(6)]
    recorder = make_recorder()
    rolled = key_with_id("B" * 16, rolled_at=NOW + timedelta(microseconds=1))
    for moment in moments[:3]:
        accept(recorder, at=moment)
    accept(recorder, key=rolled, at=moments[3])
    accept(recorder, key=rolled, at=moments[4], position=1, address=None)
    accept(recorder, key=rolled, at=moments[5], position=2)
    assert recorder.flush()
    uses = {(use.key_id, use.secret): (use.at, use.address) for use in storage.last_uses}
    assert uses == {
        (KEY.id, to_microseconds(NOW)): (moments[2], "192.0.2.1"),
        (rolled.id, to_microseconds(NOW) + 1): (moments[3], "192.0.2.1"),
        (rolled.id, PREVIOUS_SECRET): (moments[5], "192.0.2.1"),
    }
    assert len(storage.last_uses) == 3


def test_last_use_never_moves_back(make_recorder, storage):
    recorder = make_recorder()
    later = NOW + timedelta(seconds=49)
    accept(recorder, at=later, address=ADDRESS)
    accept(recorder, at=NOW, address=None)
    assert recorder.flush()
    assert [(use.at, use.address) for use in storage.last_uses] == [(later, "192.0.2.1")]
    assert storage.total == 2


def test_early_flush_of_large_buffer(make_recorder, storage, monkeypatch):
    monkeypatch.setattr(usage_recorder, "EARLY_FLUSH_ROWS", 3)
    recorder = make_recorder()
    for number in range(3):
        accept(recorder, f"/{number}")
    assert storage.is_stored.wait(30)


def test_no_early_flush_while_storage_fails(make_recorder, storage, monkeypatch):
    monkeypatch.setattr(usage_recorder, "EARLY_FLUSH_ROWS", 1)
    wake = Mock()
    monkeypatch.setattr(FlushThread, "wake", wake)
    recorder = make_recorder()
    storage.fails_before = [StorageError("down")]
    accept(recorder)
    assert wake.call_count == 1
    assert not recorder.flush()
    accept(recorder)
    assert wake.call_count == 1
    assert recorder.flush()
    accept(recorder)
    assert wake.call_count == 2


def test_retry_sends_unchanged_batch(make_recorder, storage, messages):
    recorder = make_recorder()
    accept(recorder)
    storage.fails_after = [StorageError("the connection broke")]
    assert not recorder.flush()
    accept(recorder)
    assert recorder.flush()
    assert storage.received[0] == storage.received[1] != storage.received[2]
    assert storage.total == 2
    assert messages == ["1 rows of usage wait in memory until the storage takes them: the connection broke"]


@pytest.mark.parametrize("failure", [StorageError("down"), RuntimeError("a backend that breaks the contract")])
def test_retry_until_stored(make_recorder, storage, failure, messages):
    recorder = make_recorder(flush_interval=0.01)
    storage.fails_before = [failure] * 3
    accept(recorder)
    assert storage.is_stored.wait(30)
    assert storage.total == 1
    assert len(messages) == 3


def test_sync_stores_before_return(make_recorder, storage):
    recorder = make_recorder(is_synchronous=True)
    assert not accept(recorder)
    assert storage.total == 1
    recorder.refused(KEY.id, "team-7", "/books", "GET", "wrong_secret")
    assert storage.total == 1, "the time of a refusal would reveal that the key exists"
    storage.fails_before = [StorageError("down")]
    accept(recorder)
    assert storage.total == 1
    accept(recorder)
    assert storage.total == 4


def test_concurrent_threads_lose_no_count(make_recorder, storage):
    recorder = make_recorder(flush_interval=0.01)
    storage.fails_after = [StorageError("the connection broke")] * 20

    def work():
        for number in range(500):
            accept(recorder, f"/{number % 7}")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    storage.fails_after = []
    recorder.close()
    assert storage.total == 4000
    assert sum(count for label, count in storage.counts.items() if label.endpoint == "/0") == 8 * 72


def test_close_flushes_and_allows_reuse(make_recorder, storage, flush_threads):
    recorder = make_recorder()
    accept(recorder)
    (thread,) = flush_threads()
    recorder.close()
    thread.join(30)
    assert not thread.is_alive()
    assert storage.total == 1
    accept(recorder)
    recorder.close()
    assert storage.total == 2
    assert len({batch.writer for batch in storage.received}) == 2


def test_close_reports_lost_counts(make_recorder, storage, messages):
    recorder = make_recorder()
    accept(recorder)
    storage.fails_before = [StorageError("down")]
    recorder.close()
    assert messages[-1] == "usage that could not be stored is lost, as the process ends"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.process
def test_fork_counts_separately(make_recorder, storage):
    recorder = make_recorder()
    accept(recorder)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            accept(recorder, "/child")
            recorder.flush()
            counts = "|".join(f"{label.endpoint}={count}" for label, count in storage.counts.items())
            os.write(writer, counts.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "/child=1"
    recorder.flush()
    assert [label.endpoint for label in storage.counts] == ["/books"]


def test_full_buffer_drops_endpoints_but_no_counts(make_recorder, storage, monkeypatch, messages):
    monkeypatch.setattr(usage_recorder, "MAX_ROWS", 10)
    storage.fails_before = [StorageError("down")]
    recorder = make_recorder()
    accept(recorder)
    recorder.flush()
    for number in range(50):
        accept(recorder, f"/{number}")
    assert recorder.flush()
    assert storage.total == 51
    assert len(storage.counts) == 12
    assert {label.endpoint for label in storage.counts} == {"/books", OTHER, *(f"/{number}" for number in range(10))}


def test_full_buffer_keeps_last_uses_and_reports_uncounted_requests(make_recorder, storage, monkeypatch, messages):
    monkeypatch.setattr(usage_recorder, "MAX_ROWS", 2)
    keys = [key_with_id(f"{number:016}") for number in range(6)]
    recorder = make_recorder()
    for key in keys:
        accept(recorder, key=key)
    later = NOW + timedelta(seconds=1)
    accept(recorder, key=keys[5], at=later)
    storage.fails_before = [StorageError("down")]
    assert not recorder.flush()
    (message,) = messages
    assert message.startswith("4 rows of usage wait in memory until the storage takes them: down")
    assert message.endswith("(3 requests were not counted: memory is full)")
    assert recorder.flush()
    assert storage.total == 4
    assert {use.key_id: use.at for use in storage.last_uses} == {key.id: NOW for key in keys} | {keys[5].id: later}


def test_endpoint_limit_per_key(make_recorder, storage):
    recorder = make_recorder(max_endpoints=3)
    other = key_with_id("C" * 16)
    for number in range(5):
        accept(recorder, f"/{number}")
    accept(recorder, "/4", key=other)
    assert recorder.flush()
    accept(recorder, "/4")
    accept(recorder, "/1")
    assert recorder.flush()
    by_endpoint = {label.endpoint: count for label, count in storage.counts.items() if label.key_id == KEY.id}
    assert by_endpoint == {"/0": 1, "/1": 2, "/2": 1, OTHER: 3}
    assert [label.endpoint for label in storage.counts if label.key_id == other.id] == ["/4"]


def test_endpoint_limit_includes_stored_endpoints(make_recorder, storage):
    storage.known_endpoints = {KEY.id: ["/elsewhere", OTHER]}
    recorder = make_recorder(max_endpoints=2)
    for number in range(3):
        accept(recorder, f"/{number}")
    accept(recorder, "/elsewhere")
    assert recorder.flush()
    assert {label.endpoint: count for label, count in storage.counts.items()} == {
        "/0": 1,
        OTHER: 2,
        "/elsewhere": 1,
    }


def test_counts_survive_failed_endpoint_lookup(make_recorder, storage, monkeypatch):
    recorder = make_recorder(max_endpoints=1)
    accept(recorder, "/a")
    accept(recorder, "/b")

    def fail(key_id, *, limit):
        accept(recorder, "/a", at=NOW - timedelta(seconds=1))
        raise StorageError("down")

    with monkeypatch.context() as outage:
        outage.setattr(storage, "endpoints", fail)
        assert not recorder.flush()
    assert recorder.flush()
    assert {label.endpoint: count for label, count in storage.counts.items()} == {"/a": 2, OTHER: 1}
    assert max(use.at for use in storage.last_uses) == NOW


def test_clock_jump_makes_no_negative_hours(make_recorder, storage):
    recorder = make_recorder()
    for moment in (datetime(1900, 1, 1, tzinfo=timezone.utc), NOW, NOW - timedelta(days=400)):
        accept(recorder, at=moment)
    assert recorder.flush()
    assert sorted(label.hour for label in storage.counts) == [0, HOUR - 400 * 24, HOUR]


def test_thread_start_failure_is_retried(make_recorder, storage, monkeypatch, set_monotonic):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    recorder = make_recorder(flush_interval=0.01)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(threading.Thread, "start", fail)
        assert not accept(recorder)
        set_monotonic(3.0)
        assert accept(recorder)
        recorder.flush_if_overdue()
        assert storage.total == 2
        storage.is_stored.clear()
    accept(recorder)
    assert storage.is_stored.wait(30)
    assert storage.total == 3


def test_flush_overdue_without_thread(make_recorder, storage, monkeypatch, set_monotonic):
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    recorder = make_recorder(flush_interval=1.0)
    assert not accept(recorder)
    set_monotonic(3.5)
    assert accept(recorder)
    recorder.flush()
    assert storage.total == 2
    assert not accept(recorder)


def test_hanging_storage_delays_no_overdue_flush(make_recorder, storage, set_monotonic):
    recorder = make_recorder()
    accept(recorder)
    set_monotonic(10_000.0)
    assert accept(recorder)
    storage.may_return.clear()
    with in_thread(recorder.flush):
        assert storage.is_called.wait(30)
        assert not accept(recorder), "a flush would wait for the storage"
        with in_thread(recorder.flush_if_overdue):
            pass
        storage.may_return.set()
    assert len(storage.received) == 2


def test_concurrent_overdue_requests_flush_once(make_recorder, storage, set_monotonic):
    recorder = make_recorder()
    accept(recorder)
    set_monotonic(10_000.0)
    assert accept(recorder)
    assert accept(recorder)
    storage.fails_before = [StorageError("down")]
    recorder.flush_if_overdue()
    recorder.flush_if_overdue()
    assert len(storage.received) == 1


def test_sync_requests_share_attempt_of_hanging_storage(make_recorder, storage, single_flight, messages):
    recorder = make_recorder(is_synchronous=True)
    storage.may_return.clear()
    storage.fails_before = [StorageError("locked")] * 10
    with in_thread(accept, recorder), ExitStack() as others:
        assert storage.is_called.wait(30)
        for _ in range(4):
            others.enter_context(in_thread(accept, recorder))
        for _ in range(4):
            assert single_flight.waiting.acquire(timeout=30)
        storage.may_return.set()
    assert len(storage.received) == len(messages) == 2, "the attempt that hung, and one for all waiting threads"
    storage.fails_before = []
    accept(recorder)
    assert storage.total == 6


def test_unreferenced_recorder_is_freed(storage, flush_threads):
    recorder = UsageRecorder(
        storage, flush_interval=0.01, is_synchronous=False, max_endpoints=10, on_failure=print, clock=lambda: NOW
    )
    accept(recorder)
    assert storage.is_stored.wait(30)
    (thread,) = flush_threads()
    reference = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert reference() is None
    thread.join(30)
    assert not thread.is_alive()
