"""Rates in Redis: shared by processes, and requests while it is down or hangs."""

import logging
import multiprocessing
import socket
import time

import pytest

from flask_apikey import ConfigurationError, StorageError
from flask_apikey.cli import apikey
from flask_apikey.core.limits import rate_storage
from flask_apikey.core.limits.rate_storage import MAX_TIMEOUT, PAUSE, RateStorage
from flask_apikey.core.model.rates import parse_rates
from flask_apikey.core.storage import circuit
from tests.support.limited_app import LimitedScene
from tests.support.redis_server import RedisServer

HUNDRED = parse_rates("100/minute")


@pytest.fixture
def make_scene(make_app, clock):
    return lambda uri, **config: LimitedScene(
        make_app(**{"APIKEY_PLANS": {"free": {"rate": "2/minute"}}, "APIKEY_RATE_STORAGE_URI": uri, **config}), clock
    )


def count(uri, results):
    storage = RateStorage(uri, 5, print)
    results.put(sum(storage.take("key:shared", HUNDRED, 1).accepted for _ in range(80)))


def test_processes_share_a_rate(redis_server, redis_client):
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    processes = [context.Process(target=count, args=(redis_server.uri, results)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sum(results.get() for _ in processes) == 100


def test_requests(redis_server, redis_client, make_scene):
    scene = make_scene(redis_server.uri)
    issued = scene.issue(plan="free")
    assert scene.statuses(issued, 3) == [200, 200, 429]
    assert scene.get(issued).headers["RateLimit-Policy"] == '"default";q=2;w=60'


def test_one_round_trip(redis_server, redis_client, make_scene):
    scene = make_scene(redis_server.uri)
    issued = scene.issue(rate="100/second; 1000/minute; 9000/hour")
    scene.get(issued)
    before = redis_client.info("commandstats")["cmdstat_evalsha"]["calls"]
    calls = redis_client.info("stats")["total_commands_processed"]
    scene.get(issued)
    assert redis_client.info("commandstats")["cmdstat_evalsha"]["calls"] == before + 1
    assert redis_client.info("stats")["total_commands_processed"] > calls


@pytest.mark.parametrize(("on_failure", "status"), [("allow", 200), ("refuse", 503)])
def test_stopped_and_started_again(tmp_path, make_scene, caplog, on_failure, status):
    server = RedisServer(tmp_path)
    server.start()
    try:
        scene = make_scene(server.uri, APIKEY_RATE_ON_FAILURE=on_failure)
        issued = scene.issue(plan="free")
        assert scene.get(issued).status_code == 200
        server.stop()
        assert scene.statuses(issued, 4) == [status] * 4
        events = [record for record in caplog.records if getattr(record, "event", None) == "rate_storage"]
        assert events[0].levelno == logging.ERROR
        assert events[0].reason == "ConnectionError was raised"
        assert len([event for event in events if event.address is None]) == 1
        server.start()
        assert scene.statuses(issued, 3) == [200, 200, 429]
    finally:
        server.stop()


def test_storage_that_hangs(make_scene):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        scene = make_scene(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        issued = scene.issue(plan="free")
        started_at = time.monotonic()
        assert scene.get(issued).status_code == 200
        assert time.monotonic() - started_at < 4 * MAX_TIMEOUT


@pytest.mark.parametrize(("on_failure", "status"), [("allow", 200), ("refuse", 503)])
def test_storage_that_hangs_is_left_alone_for_a_pause(make_scene, monkeypatch, caplog, on_failure, status):
    now = 1000.0
    taken = []

    class HangingWindows:
        def take(self, bucket, rates, cost):
            nonlocal now
            taken.append(now)
            now += MAX_TIMEOUT
            raise TimeoutError

        def close(self):
            pass

    monkeypatch.setattr(circuit, "monotonic", lambda: now)
    monkeypatch.setattr(rate_storage, "_opened", lambda uri, timeout: HangingWindows())
    scene = make_scene("redis://127.0.0.1:1/0", APIKEY_RATE_ON_FAILURE=on_failure)
    issued = scene.issue(plan="free")
    assert scene.statuses(issued, 4) == [status] * 4
    assert taken == [1000.0]
    now += PAUSE
    assert scene.statuses(issued, 4) == [status] * 4
    assert taken == [1000.0, 1000.0 + MAX_TIMEOUT + PAUSE]
    events = [record for record in caplog.records if getattr(record, "event", None) == "rate_storage"]
    assert len([event for event in events if event.address is None]) == 1


def test_password_is_in_no_message(make_scene, caplog):
    for uri in ("nosuch://user:hunter2@host", "async+redis://user:hunter2@host"):
        with pytest.raises(ConfigurationError, match="APIKEY_RATE_STORAGE_URI") as raised:
            make_scene(uri)
        assert "hunter2" not in str(raised.value)
    scene = make_scene("redis://user:hunter2@127.0.0.1:1/0")
    assert scene.get(scene.issue(plan="free")).status_code == 200
    assert "hunter2" not in caplog.text


def test_close(redis_server, redis_client, make_scene, tmp_path):
    scene = make_scene(redis_server.uri, APIKEY_STORAGE_URI=f"sqlite:///{tmp_path / 'keys.db'}")
    issued = scene.issue(plan="free")
    before = redis_client.info("clients")["connected_clients"]
    scene.get(issued)
    assert redis_client.info("clients")["connected_clients"] > before
    scene.do("close")
    # The server notices later that a connection was closed.
    deadline = time.monotonic() + 10
    while redis_client.info("clients")["connected_clients"] != before:
        assert time.monotonic() < deadline
    assert scene.statuses(issued, 2) == [200, 429]


def test_command(redis_server, redis_client, make_scene):
    scene = make_scene(redis_server.uri)
    issued = scene.issue(plan="free")
    scene.statuses(issued, 3)
    runner = scene.app.test_cli_runner()
    shown = runner.invoke(apikey, ["limits", issued.record.id])
    assert shown.output.startswith("plan      free\n2/minute  0 left, more in ")
    reset = runner.invoke(apikey, ["limits", issued.record.id, "--reset", "--json"])
    assert '"remaining": 2' in reset.output
    assert scene.get(issued).status_code == 200


def test_limits_while_the_storage_is_down(make_scene):
    scene = make_scene("redis://127.0.0.1:1/0")
    issued = scene.issue(plan="free")
    for method in ("limits", "reset_limits"):
        with pytest.raises(StorageError, match="the storage of rates failed"):
            scene.do(method, issued.record.id)
