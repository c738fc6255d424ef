"""Single flight: concurrent calls share one attempt."""

import sys
import threading
from contextlib import ExitStack

import pytest

from tests.support.waiting import WatchedFlight, in_thread


class HeldAttempt:
    """An attempt that ends on demand and counts its starts."""

    def __init__(self, succeeds=True):
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()
        self._succeeds = succeeds

    def __call__(self):
        self.begun.release()
        assert self.may_end.wait(30)
        return self._succeeds


@pytest.fixture
def single_flight():
    return WatchedFlight()


@pytest.mark.parametrize("succeeds", [True, False])
def test_waiting_threads_share_next_attempt(single_flight, succeeds):
    first, second = HeldAttempt(not succeeds), HeldAttempt(succeeds)
    outcomes = []
    with in_thread(single_flight.run, first), ExitStack() as others:
        assert first.begun.acquire(timeout=30)
        for _ in range(3):
            others.enter_context(in_thread(lambda: outcomes.append(single_flight.run(second))))
            assert single_flight.waiting.acquire(timeout=30)
        first.may_end.set()
        assert second.begun.acquire(timeout=30)
        for _ in range(2):
            assert single_flight.waiting.acquire(timeout=30), "two attempts run at once"
        second.may_end.set()
    assert outcomes == [succeeds] * 3
    assert not second.begun.acquire(blocking=False)


def test_run_unless_running_skips_while_running(single_flight):
    held = HeldAttempt()
    with in_thread(single_flight.run, held):
        assert held.begun.acquire(timeout=30)
        assert single_flight.is_running
        single_flight.run_unless_running(sys.exit)
        held.may_end.set()
    assert not single_flight.is_running
    single_flight.run_unless_running(held)
    assert held.begun.acquire(blocking=False)


def test_raising_attempt_ends_as_failure(single_flight):
    with pytest.raises(SystemExit):
        single_flight.run(sys.exit)
    assert not single_flight.is_running
    assert single_flight.run(lambda: True)
