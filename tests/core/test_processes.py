"""Per-process values and locks."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from flask_apikey.core.audit_log import AuditEvent, AuditLog
from flask_apikey.core.processes import PerProcess, ProcessLock
from flask_apikey.request.expiry_notice import ExpiryNotice
from flask_apikey.testing.samples import NOW


def status_of_child(work):
    """Return the exit status of a child that runs a function within 20 seconds."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(20)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


class TestPerProcess:
    def test_concurrent_threads_share_one_value(self):
        created = []

        def create():
            time.sleep(0.05)
            created.append(object())
            return created[-1]

        value = PerProcess(create)
        with ThreadPoolExecutor(4) as pool:
            returned = {id(each) for each in pool.map(lambda _: value.get(), range(4))}
        assert returned == {id(created[0])}
        assert len(created) == 1

    def test_pop_ends_a_value(self):
        value = PerProcess(object)
        first = value.get()
        assert value.peek() is value.pop() is first
        assert value.peek() is value.pop() is None
        assert value.get() is not first

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    @pytest.mark.process
    def test_child_creates_its_own_value(self):
        value = PerProcess(os.getpid)
        assert value.get() == os.getpid()

        def compare():
            assert value.get() == os.getpid()

        assert status_of_child(compare) == 0

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
    @pytest.mark.process
    def test_child_does_not_wait_for_a_thread_of_its_parent(self):
        is_creating, may_return = threading.Event(), threading.Event()
        parent = os.getpid()

        def create():
            if os.getpid() == parent:
                is_creating.set()
                may_return.wait(30)
            return os.getpid()

        value = PerProcess(create)
        with ThreadPoolExecutor(1) as pool:
            created = pool.submit(value.get)
            assert is_creating.wait(30)
            try:
                assert status_of_child(value.get) == 0
            finally:
                may_return.set()
            assert created.result(30) == parent


def test_lock_excludes_other_threads_within_the_block():
    lock = ProcessLock()
    with ThreadPoolExecutor(1) as pool:
        with lock, lock:
            assert not pool.submit(lock._lock.get().acquire, blocking=False).result(30)
        assert pool.submit(lock._lock.get().acquire, blocking=False).result(30)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.process
def test_child_writes_events_while_its_parent_holds_the_lock():
    log = AuditLog()
    failure = AuditEvent(event="authentication", outcome="failure")
    with log._repeated._lock:
        assert status_of_child(lambda: log.record(failure)) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.process
def test_child_gives_notice_while_its_parent_holds_the_lock(app):
    notice = ExpiryNotice(app, timedelta(days=14), AuditLog())
    with notice._lock:
        assert status_of_child(lambda: notice._is_signal_due("A" * 16, NOW)) == 0
