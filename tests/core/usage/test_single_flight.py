"""One thread at a time attempts something, and the others wait no longer than they must."""

import sys
import threading
from contextlib import ExitStack

import pytest

from tests.support.waiting import WatchedFlight, in_thread


class HeldAttempt:
    """An attempt that ends when it is told to, and says how often it was begun."""

    def __init__(self, succeeds=True):
        self.begun = threading.Semaphore(0)
        self.ends = threading.Event()
        self._succeeds = succeeds

    def __call__(self):
        self.begun.release()
        assert self.ends.wait(30)
        return self._succeeds


@pytest.fixture
def attempts():
    return WatchedFlight()


@pytest.mark.parametrize("succeeds", [True, False])
def test_all_who_wait_for_an_attempt_share_the_next_one(attempts, succeeds):
    first, second = HeldAttempt(not succeeds), HeldAttempt(succeeds)
    outcomes = []
    with in_thread(attempts.join, first), ExitStack() as others:
        assert first.begun.acquire(timeout=30)
        for _ in range(3):
            others.enter_context(in_thread(lambda: outcomes.append(attempts.join(second))))
            assert attempts.waiting.acquire(timeout=30)
        first.ends.set()
        assert second.begun.acquire(timeout=30)
        for _ in range(2):
            assert attempts.waiting.acquire(timeout=30), "two attempts are being made at once"
        second.ends.set()
    assert outcomes == [succeeds] * 3
    assert not second.begun.acquire(blocking=False)


def test_nobody_begins_beside_an_attempt_who_would_not_wait(attempts):
    held = HeldAttempt()
    with in_thread(attempts.join, held):
        assert held.begun.acquire(timeout=30)
        assert attempts.is_running
        attempts.make_unless_running(sys.exit)
        held.ends.set()
    assert not attempts.is_running
    attempts.make_unless_running(held)
    assert held.begun.acquire(blocking=False)


def test_an_attempt_that_its_thread_leaves_has_failed_and_is_over(attempts):
    with pytest.raises(SystemExit):
        attempts.join(sys.exit)
    assert not attempts.is_running
    assert attempts.join(lambda: True)
