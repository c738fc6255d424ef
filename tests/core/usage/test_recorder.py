"""What is counted in memory reaches the storage once, whatever fails in between."""

import gc
import os
import threading
import weakref
from collections import Counter
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address

import pytest

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.usage import PREVIOUS_SECRET
from flask_apikey.core.times import to_microseconds
from flask_apikey.core.usage import recorder as usage_recorder
from flask_apikey.core.usage.labels import OTHER
from flask_apikey.core.usage.recorder import UsageRecorder
from tests.support.waiting import WatchedFlight, in_thread

NOW = datetime(2026, 1, 1, 12, 59, 59, tzinfo=timezone.utc)
HOUR = int(NOW.timestamp()) // 3600
KEY = APIKey(id="A" * 16, prefix="fak", name="a key", created_at=NOW, updated_at=NOW)
ADDRESS = ip_address("192.0.2.1")


class Ledger:
    """A storage of usage in memory, that notes what it is sent and fails when told to."""

    def __init__(self):
        self.batches = {}
        self.received = []
        self.fails_before = []
        self.fails_after = []
        self.endpoints = {}
        self.arrived = threading.Event()
        self.asked = threading.Event()
        self.answers = threading.Event()
        self.answers.set()

    def add_usage(self, batch):
        self.received.append(batch)
        self.asked.set()
        assert self.answers.wait(30), "the test left the storage hanging"
        if self.fails_before:
            raise self.fails_before.pop(0)
        self.batches.setdefault((batch.writer, batch.number), batch)
        self.arrived.set()
        if self.fails_after:
            raise self.fails_after.pop(0)

    def usage_endpoints(self, key_id, *, limit):
        return set(list(self.endpoints.get(key_id, ()))[:limit])

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
def ledger():
    return Ledger()


@pytest.fixture
def told():
    return []


@pytest.fixture
def make_recorder(ledger, told):
    made = []

    def make(**settings):
        settings = {
            "flush_interval": 3600.0,
            "is_synchronous": False,
            "max_endpoints": 1000,
            "clock": lambda: NOW,
            "on_failure": told.append,
            **settings,
        }
        made.append(UsageRecorder(ledger, **settings))
        return made[-1]

    yield make
    for recorder in made:
        recorder.close()


@pytest.fixture
def attempts(monkeypatch):
    """The attempts of the recorders that are made."""
    watched = WatchedFlight()
    monkeypatch.setattr(usage_recorder, "SingleFlight", lambda: watched)
    return watched


def accept(recorder, endpoint="/books", *, key=KEY, at=NOW, position=0, method="GET", status=200, address=ADDRESS):
    return recorder.accepted(
        key, at, position=position, endpoint=endpoint, method=method, status=status, address=address
    )


def test_requests_with_the_same_label_are_one_row(make_recorder, ledger):
    recorder = make_recorder()
    for _ in range(3):
        accept(recorder)
    accept(recorder, status=404)
    accept(recorder, method="POST")
    assert recorder.flush()
    assert ledger.counts == {
        (KEY.id, HOUR, "/books", "GET", "2xx", "", 1): 3,
        (KEY.id, HOUR, "/books", "GET", "4xx", "", 1): 1,
        (KEY.id, HOUR, "/books", "POST", "2xx", "", 1): 1,
    }


def test_refusals_are_counted_by_reason_and_are_no_use(make_recorder, ledger):
    recorder = make_recorder()
    recorder.refused(KEY.id, "/books", "GET", "revoked")
    assert recorder.flush()
    assert ledger.counts == {(KEY.id, HOUR, "/books", "GET", "", "revoked", 1): 1}
    assert ledger.last_uses == []


def test_the_last_use_of_each_secret_is_sent_once_in_a_batch(make_recorder, ledger):
    moments = [NOW + timedelta(seconds=number) for number in range(6)]
    recorder = make_recorder()
    rolled = APIKey(
        id="B" * 16, prefix="fak", name="b", created_at=NOW, updated_at=NOW, rolled_at=NOW + timedelta(microseconds=1)
    )
    for moment in moments[:3]:
        accept(recorder, at=moment)
    accept(recorder, key=rolled, at=moments[3])
    accept(recorder, key=rolled, at=moments[4], position=1, address=None)
    accept(recorder, key=rolled, at=moments[5], position=2)
    assert recorder.flush()
    uses = {(use.key_id, use.secret): (use.at, use.address) for use in ledger.last_uses}
    assert uses == {
        (KEY.id, to_microseconds(NOW)): (moments[2], "192.0.2.1"),
        (rolled.id, to_microseconds(NOW) + 1): (moments[3], "192.0.2.1"),
        (rolled.id, PREVIOUS_SECRET): (moments[5], "192.0.2.1"),
    }
    assert len(ledger.last_uses) == 3


def test_a_slow_request_that_ends_after_a_later_one_does_not_take_the_last_use_back(make_recorder, ledger):
    recorder = make_recorder()
    later = NOW + timedelta(seconds=49)
    accept(recorder, at=later, address=ADDRESS)
    accept(recorder, at=NOW, address=None)
    assert recorder.flush()
    assert [(use.at, use.address) for use in ledger.last_uses] == [(later, "192.0.2.1")]
    assert ledger.total == 2


def test_counts_are_stored_after_the_interval_without_anybody_asking(make_recorder, ledger):
    accept(make_recorder(flush_interval=0.01))
    assert ledger.arrived.wait(30)
    assert ledger.total == 1


def test_a_large_buffer_does_not_wait_for_the_interval(make_recorder, ledger, monkeypatch):
    monkeypatch.setattr(usage_recorder, "EARLY_FLUSH_ROWS", 3)
    recorder = make_recorder()
    for number in range(3):
        accept(recorder, f"/{number}")
    assert ledger.arrived.wait(30)


def test_nothing_is_sent_where_nothing_was_counted(make_recorder, ledger):
    recorder = make_recorder()
    accept(recorder)
    assert recorder.flush()
    assert recorder.flush()
    assert len(ledger.received) == 1


def test_a_batch_whose_answer_was_lost_is_sent_again_as_it_was(make_recorder, ledger, told):
    recorder = make_recorder()
    accept(recorder)
    ledger.fails_after = [StorageError("the connection broke")]
    assert not recorder.flush()
    accept(recorder)
    assert recorder.flush()
    assert ledger.received[0] == ledger.received[1] != ledger.received[2]
    assert ledger.total == 2
    assert told == ["1 rows of usage wait in memory until the storage takes them: the connection broke"]


@pytest.mark.parametrize("failure", [StorageError("down"), RuntimeError("a backend that breaks the contract")])
def test_what_cannot_be_stored_is_kept_and_stored_later(make_recorder, ledger, failure, told):
    recorder = make_recorder(flush_interval=0.01)
    ledger.fails_before = [failure] * 3
    accept(recorder)
    assert ledger.arrived.wait(30)
    assert ledger.total == 1
    assert len(told) == 3


def test_synchronous_counts_are_stored_when_the_call_returns(make_recorder, ledger):
    recorder = make_recorder(is_synchronous=True)
    assert not accept(recorder)
    assert ledger.total == 1
    recorder.refused(KEY.id, "/books", "GET", "wrong_secret")
    assert ledger.total == 1, "the time of a refusal would tell that the key exists"
    ledger.fails_before = [StorageError("down")]
    accept(recorder)
    assert ledger.total == 1
    accept(recorder)
    assert ledger.total == 4


def test_threads_lose_nothing(make_recorder, ledger):
    recorder = make_recorder(flush_interval=0.01)
    ledger.fails_after = [StorageError("the connection broke")] * 20

    def work():
        for number in range(500):
            accept(recorder, f"/{number % 7}")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.fails_after = []
    recorder.close()
    assert ledger.total == 4000
    assert sum(count for label, count in ledger.counts.items() if label.endpoint == "/0") == 8 * 72


def test_close_stores_what_waits_and_the_recorder_can_be_used_again(make_recorder, ledger):
    recorder = make_recorder()
    accept(recorder)
    recorder.close()
    assert ledger.total == 1
    accept(recorder)
    recorder.close()
    assert ledger.total == 2
    assert len({batch.writer for batch in ledger.received}) == 2


def test_counts_that_are_lost_at_the_end_are_told(make_recorder, ledger, told):
    recorder = make_recorder()
    accept(recorder)
    ledger.fails_before = [StorageError("down")]
    recorder.close()
    assert told[-1] == "usage that could not be stored is lost, as the process ends"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_counts_for_itself(make_recorder, ledger):
    recorder = make_recorder()
    accept(recorder)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            accept(recorder, "/of/the/child")
            recorder.flush()
            said = "|".join(f"{label.endpoint}={count}" for label, count in ledger.counts.items())
            os.write(writer, said.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "/of/the/child=1"
    recorder.flush()
    assert [label.endpoint for label in ledger.counts] == ["/books"]


def test_memory_is_bounded_and_totals_stay_right(make_recorder, ledger, monkeypatch, told):
    monkeypatch.setattr(usage_recorder, "MAX_ROWS", 10)
    ledger.fails_before = [StorageError("down")]
    recorder = make_recorder()
    accept(recorder)
    recorder.flush()
    for number in range(50):
        accept(recorder, f"/{number}")
    assert recorder.flush()
    assert ledger.total == 51
    assert len(ledger.counts) == 12
    assert {label.endpoint for label in ledger.counts} == {"/books", OTHER, *(f"/{number}" for number in range(10))}


def test_a_use_that_memory_cannot_count_is_noted_nevertheless(make_recorder, ledger, monkeypatch):
    monkeypatch.setattr(usage_recorder, "MAX_ROWS", 2)
    keys = [APIKey(id=f"{number:016}", prefix="fak", name="k", created_at=NOW, updated_at=NOW) for number in range(6)]
    recorder = make_recorder()
    for key in keys:
        accept(recorder, key=key)
    later = NOW + timedelta(seconds=1)
    accept(recorder, key=keys[5], at=later)
    assert recorder.flush()
    assert ledger.total == 4
    assert {use.key_id: use.at for use in ledger.last_uses} == {key.id: NOW for key in keys} | {keys[5].id: later}


def test_what_memory_cannot_hold_is_told(make_recorder, ledger, monkeypatch, told):
    monkeypatch.setattr(usage_recorder, "MAX_ROWS", 2)
    recorder = make_recorder()
    for number in range(6):
        accept(recorder, key=APIKey(id=f"{number:016}", prefix="fak", name="k", created_at=NOW, updated_at=NOW))
    ledger.fails_before = [StorageError("down")]
    assert not recorder.flush()
    (trouble,) = told
    assert trouble.startswith("4 rows of usage wait in memory until the storage takes them: down")
    assert trouble.endswith("(2 requests were not counted: memory is full)")


def test_endpoints_beyond_the_limit_of_a_key_are_counted_together(make_recorder, ledger):
    recorder = make_recorder(max_endpoints=3)
    other = APIKey(id="C" * 16, prefix="fak", name="c", created_at=NOW, updated_at=NOW)
    for number in range(5):
        accept(recorder, f"/{number}")
    accept(recorder, "/4", key=other)
    assert recorder.flush()
    accept(recorder, "/4")
    accept(recorder, "/1")
    assert recorder.flush()
    of_key = {label.endpoint: count for label, count in ledger.counts.items() if label.key_id == KEY.id}
    assert of_key == {"/0": 1, "/1": 2, "/2": 1, OTHER: 3}
    assert [label.endpoint for label in ledger.counts if label.key_id == other.id] == ["/4"]


def test_endpoints_that_are_stored_already_count_for_the_limit(make_recorder, ledger):
    ledger.endpoints = {KEY.id: ["/of/another/process", OTHER]}
    recorder = make_recorder(max_endpoints=2)
    for number in range(3):
        accept(recorder, f"/{number}")
    accept(recorder, "/of/another/process")
    assert recorder.flush()
    assert {label.endpoint: count for label, count in ledger.counts.items()} == {
        "/0": 1,
        OTHER: 2,
        "/of/another/process": 1,
    }


def test_counts_survive_when_the_endpoints_of_a_key_cannot_be_read(make_recorder, ledger, monkeypatch):
    recorder = make_recorder(max_endpoints=1)
    accept(recorder, "/a")
    accept(recorder, "/b")

    def fails(key_id, *, limit):
        accept(recorder, "/a", at=NOW - timedelta(seconds=1))
        raise StorageError("down")

    with monkeypatch.context() as outage:
        outage.setattr(ledger, "usage_endpoints", fails)
        assert not recorder.flush()
    assert recorder.flush()
    assert {label.endpoint: count for label, count in ledger.counts.items()} == {"/a": 2, OTHER: 1}
    assert max(use.at for use in ledger.last_uses) == NOW


def test_a_clock_that_jumps_makes_no_negative_hours(make_recorder, ledger):
    recorder = make_recorder()
    for moment in (datetime(1900, 1, 1, tzinfo=timezone.utc), NOW, NOW - timedelta(days=400)):
        accept(recorder, at=moment)
    assert recorder.flush()
    assert sorted(label.hour for label in ledger.counts) == [0, HOUR - 400 * 24, HOUR]


def test_requests_are_counted_where_no_thread_can_be_started_and_the_next_one_tries_again(
    make_recorder, ledger, monkeypatch
):
    def fails(thread):
        raise RuntimeError("can't start new thread")

    passed = 0.0
    recorder = make_recorder(flush_interval=0.01)
    with monkeypatch.context() as exhausted:
        exhausted.setattr(usage_recorder.time, "monotonic", lambda: passed)
        exhausted.setattr(threading.Thread, "start", fails)
        assert not accept(recorder)
        passed = 3.0
        assert accept(recorder)
        recorder.flush_if_overdue()
        assert ledger.total == 2
        ledger.arrived.clear()
    accept(recorder)
    assert ledger.arrived.wait(30)
    assert ledger.total == 3


def test_a_flush_is_overdue_where_no_thread_flushes(make_recorder, ledger, monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    passed = 0.0
    monkeypatch.setattr(usage_recorder.time, "monotonic", lambda: passed)
    recorder = make_recorder(flush_interval=1.0)
    assert not accept(recorder)
    passed = 3.5
    assert accept(recorder)
    recorder.flush()
    assert ledger.total == 2
    assert not accept(recorder)


def test_nobody_waits_to_flush_what_is_overdue_while_the_storage_hangs(make_recorder, ledger, monkeypatch):
    passed = 0.0
    monkeypatch.setattr(usage_recorder.time, "monotonic", lambda: passed)
    recorder = make_recorder()
    accept(recorder)
    passed = 10_000.0
    assert accept(recorder)
    ledger.answers.clear()
    with in_thread(recorder.flush):
        assert ledger.asked.wait(30)
        assert not accept(recorder), "whoever flushes now would wait"
        with in_thread(recorder.flush_if_overdue):
            pass
        ledger.answers.set()
    assert len(ledger.received) == 2


def test_requests_that_found_a_flush_overdue_together_make_one(make_recorder, ledger, monkeypatch):
    passed = 0.0
    monkeypatch.setattr(usage_recorder.time, "monotonic", lambda: passed)
    recorder = make_recorder()
    accept(recorder)
    passed = 10_000.0
    assert accept(recorder)
    assert accept(recorder)
    ledger.fails_before = [StorageError("down")]
    recorder.flush_if_overdue()
    recorder.flush_if_overdue()
    assert len(ledger.received) == 1


def test_synchronous_requests_wait_for_one_attempt_together_while_the_storage_hangs(
    make_recorder, ledger, attempts, told
):
    recorder = make_recorder(is_synchronous=True)
    ledger.answers.clear()
    ledger.fails_before = [StorageError("locked")] * 10
    with in_thread(accept, recorder), ExitStack() as others:
        assert ledger.asked.wait(30)
        for _ in range(4):
            others.enter_context(in_thread(accept, recorder))
        for _ in range(4):
            assert attempts.waiting.acquire(timeout=30)
        ledger.answers.set()
    assert len(ledger.received) == len(told) == 2, "the one that hung, and one for all who waited"
    ledger.fails_before = []
    accept(recorder)
    assert ledger.total == 6


def test_a_synchronous_count_is_never_taken_for_stored_because_an_older_attempt_succeeded(
    make_recorder, ledger, attempts
):
    recorder = make_recorder(is_synchronous=True)
    ledger.answers.clear()
    stored = []

    def count_behind():
        accept(recorder)
        stored.append(ledger.total)

    with in_thread(accept, recorder):
        assert ledger.asked.wait(30)
        with in_thread(count_behind):
            assert attempts.waiting.acquire(timeout=30)
            ledger.answers.set()
    assert stored == [2]


def test_a_recorder_that_nobody_uses_any_more_is_freed(ledger):
    recorder = UsageRecorder(
        ledger, flush_interval=0.01, is_synchronous=False, max_endpoints=10, on_failure=print, clock=lambda: NOW
    )
    accept(recorder)
    assert ledger.arrived.wait(30)
    gone = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert gone() is None
