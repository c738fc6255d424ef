"""Rates on each server: counted by several threads, during an outage and after it."""

import threading
import time
from contextlib import closing
from uuid import uuid4

import pytest

from flask_apikey.core.limits.rate_storage import MAX_TIMEOUT, PAUSE, RateStorage
from flask_apikey.core.model.rates import parse_rates
from flask_apikey.core.storage import circuit
from flask_apikey.testing.tcp_proxy import TCPProxy

TIMEOUT = 30
THREADS = 4
RATES = parse_rates("20/minute")


@pytest.fixture(params=["redis_server", "valkey", "memcached_uri", "wire_server"])
def proxy(request):
    """A proxy in front of a server. The client of Valkey speaks to Redis."""
    if request.param == "valkey":
        uri = request.getfixturevalue("redis_server").uri.replace("redis:", "valkey:")
    else:
        server = request.getfixturevalue(request.param)
        uri = getattr(server, "uri", server)
        if request.param == "wire_server":
            # Otherwise the driver connects to the address that the server says.
            uri += "?directConnection=true"
    proxy = TCPProxy(uri)
    yield proxy
    proxy.close()


@pytest.fixture
def bucket():
    return f"key:{uuid4().hex}"


@pytest.fixture
def storage(proxy):
    with closing(RateStorage(proxy.uri, 5, print)) as storage:
        yield storage


def test_clients_share_a_rate(proxy, bucket):
    accepted = []

    def count():
        with closing(RateStorage(proxy.uri, 5, print)) as storage:
            accepted.extend(storage.take(bucket, RATES, 1).accepted for _ in range(10))

    threads = [threading.Thread(target=count) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert (len(accepted), sum(accepted)) == (40, 20)


def test_outage(storage, bucket, proxy, monkeypatch):
    skipped = 0.0
    monkeypatch.setattr(circuit, "monotonic", lambda: time.monotonic() + skipped)
    assert storage.take(bucket, RATES, 15).accepted
    proxy.cut()
    assert storage.take(bucket, RATES, 1) is None
    proxy.mend()
    deadline = time.monotonic() + TIMEOUT
    while (taken := storage.take(bucket, RATES, 6)) is None:
        assert time.monotonic() < deadline, "the storage does not recover"
        skipped += PAUSE
    assert (taken.accepted, taken.windows[0].remaining) == (False, 5)


def test_mongodb_that_hangs(wire_server, bucket):
    """The driver repeats a failed command within the timeout."""
    with closing(RateStorage(wire_server.uri, 5, print)) as storage:
        assert storage.take(bucket, RATES, 1).accepted
        with wire_server.paused():
            started_at = time.monotonic()
            assert storage.take(bucket, RATES, 1) is None
            assert time.monotonic() - started_at < 2 * MAX_TIMEOUT


def test_used_after_closing(storage, bucket):
    assert storage.take(bucket, RATES, 20).accepted
    storage.close()
    assert not storage.take(bucket, RATES, 1).accepted
