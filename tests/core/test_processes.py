"""What a lock excludes, and that a fork leaves nobody waiting for a thread that is not there."""

import os
import signal
from datetime import timedelta

import pytest

from flask_apikey.core.audit_log import AuditEvent, AuditLog
from flask_apikey.core.processes import ProcessLock
from flask_apikey.request.expiry_notice import ExpiryNotice
from flask_apikey.testing.samples import NOW


def status_of_child(work):
    """How a child ends that does some work, which must not take long."""
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


def test_it_is_held_until_it_is_left():
    lock = ProcessLock()
    with lock:
        assert lock._locks[os.getpid()].locked()
    assert not lock._locks[os.getpid()].locked()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_writes_events_although_a_thread_of_its_parent_was_about_to():
    log = AuditLog()
    failure = AuditEvent(event="authentication", outcome="failure")
    with log._repeated._lock:
        assert status_of_child(lambda: log.record(failure)) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_gives_notice_although_a_thread_of_its_parent_was_about_to(app):
    notice = ExpiryNotice(app, timedelta(days=14), AuditLog())
    with notice._lock:
        assert status_of_child(lambda: notice._is_signal_due("A" * 16, NOW)) == 0
