"""Windows in memory and in Redis: the same promises, by the same tests."""

import random
import threading
import time

import pytest

from flask_apikey.core.limits.memory import MemoryWindows
from flask_apikey.core.limits.redis import RedisWindows
from flask_apikey.core.model.rates import parse_rates

MINUTE = parse_rates("10/minute")
BOTH = parse_rates("3/second; 10/minute")


class Clock:
    def __init__(self, now=1_700_000_000.0):
        self.now = now

    def __call__(self):
        return self.now


class ScriptOnClock:
    """A Redis client whose script reads a clock of the test instead of TIME."""

    def __init__(self, client, clock):
        self._client, self._clock = client, clock

    def register_script(self, text):
        assert "redis.call('TIME')" in text
        return lambda keys, args: self._client.register_script(
            text.replace("redis.call('TIME')", f"{{'{int(self._clock.now)}', '{self._clock.now % 1 * 1e6:.0f}'}}")
        )(keys=keys, args=args)

    def delete(self, *keys):
        return self._client.delete(*keys)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "redis_server"])
def windows(request, clock):
    if request.param == "memory":
        return MemoryWindows(clock)
    client = request.getfixturevalue("redis_client")
    return RedisWindows(ScriptOnClock(client, clock))


def take(windows, cost=1, rates=MINUTE, bucket="key:a"):
    return windows.take(bucket, rates, cost)


def test_rate_is_exact(windows):
    assert [take(windows).accepted for _ in range(12)] == [True] * 10 + [False] * 2


def test_state(windows, clock):
    take(windows, 4)
    clock.now += 15
    (state,) = take(windows).windows
    assert (state.rate, state.remaining) == (MINUTE[0], 5)
    assert state.resets_in == pytest.approx(45, abs=0.1)


def test_window_moves(windows, clock):
    take(windows, 6)
    clock.now += 30
    take(windows, 4)
    clock.now += 29.9
    assert not take(windows).accepted
    clock.now += 0.201
    assert take(windows, 6).accepted
    assert not take(windows).accepted


def test_refused_requests_do_not_move_the_window(windows, clock):
    take(windows, 10)
    for _ in range(59):
        clock.now += 1
        assert not take(windows).accepted
    clock.now += 1.1
    assert take(windows, 10).accepted


def test_refused_request_counts_in_no_window(windows, clock):
    for _ in range(3):
        assert take(windows, rates=BOTH).accepted
    for _ in range(5):
        refused = take(windows, rates=BOTH)
        assert not refused.accepted
        assert [state.remaining for state in refused.windows] == [0, 7]
    clock.now += 1.1
    assert [take(windows, 2, BOTH).accepted for _ in range(2)] == [True, False]
    assert [state.remaining for state in take(windows, 0, BOTH).windows] == [1, 5]


def test_retry_in_is_enough(windows, clock):
    take(windows, 2)
    clock.now += 10
    take(windows, 3)
    clock.now += 10
    take(windows, 5)
    for cost, expected in ((1, 40), (2, 40), (3, 50), (5, 50), (6, 60), (10, 60)):
        refused = take(windows, cost)
        assert refused.retry_in == pytest.approx(expected, abs=0.1)
    retry_in = take(windows, 5).retry_in
    clock.now += retry_in - 0.2
    assert not take(windows, 5).accepted
    clock.now += 0.201
    assert take(windows, 5).accepted


def test_cost_of_zero_only_reads(windows):
    take(windows, 10)
    for _ in range(3):
        read = take(windows, 0)
        assert read.accepted
        assert read.windows[0].remaining == 0
    assert take(windows, 0, bucket="key:other").windows[0].remaining == 10


def test_buckets_and_periods_are_apart(windows):
    take(windows, 10)
    assert take(windows, bucket="key:b").accepted
    assert take(windows, rates=parse_rates("10/hour")).accepted


def test_raised_rate_keeps_what_was_counted(windows):
    take(windows, 10)
    assert [take(windows, rates=parse_rates("12/minute")).accepted for _ in range(3)] == [True, True, False]


def test_lowered_rate(windows, clock):
    take(windows, 10)
    lower = parse_rates("4/minute")
    refused = take(windows, rates=lower)
    assert refused.windows[0].remaining == 0
    clock.now += 61
    assert take(windows, 4, lower).accepted


def test_clear(windows):
    take(windows, 3, BOTH)
    windows.clear("key:a", BOTH)
    assert [state.remaining for state in take(windows, 0, BOTH).windows] == [3, 10]


@pytest.mark.parametrize("step", [-0.3, -5, -3600, -86_400 * 400])
def test_clock_set_back(windows, clock, step):
    take(windows, 10)
    clock.now += step
    assert not take(windows).accepted
    clock.now += 60.5 - min(0, max(step, -0.6))
    assert take(windows, 10).accepted


def test_clock_that_jumps_back_and_forth(windows, clock):
    accepted = 0
    for number in range(40):
        clock.now += 5 if number % 2 else -5
        accepted += take(windows).accepted
    assert accepted == 10


def test_clock_set_forward(windows, clock):
    take(windows, 10)
    clock.now += 86_400
    assert take(windows, 10).accepted
    assert not take(windows).accepted


def test_huge_costs_and_rates(windows):
    rates = parse_rates("1000000000/day")
    assert take(windows, 999_999_999, rates).accepted
    assert [take(windows, 1, rates).accepted for _ in range(2)] == [True, False]


def test_every_window_holds_at_most_the_rate(windows, clock):
    choose = random.Random(7)  # noqa: S311  # the requests of a test
    rates = parse_rates("5/second; 20/7 seconds")
    accepted = []
    for _ in range(400):
        clock.now += choose.choice([0, 0.0004, 0.01, 0.1, 0.4, 1.3])
        cost = choose.choice([1, 1, 1, 2, 5])
        if take(windows, cost, rates).accepted:
            accepted.append((clock.now, cost))
    for rate in rates:
        for start, _ in accepted:
            assert sum(cost for at, cost in accepted if start <= at < start + rate.seconds) <= rate.amount
    assert sum(cost for _, cost in accepted) > 100


def test_threads_share_a_rate(windows):
    rates = parse_rates("50/minute")
    results = []
    threads = [
        threading.Thread(target=lambda: results.extend(take(windows, rates=rates).accepted for _ in range(20)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count(True) == 50


def test_memory_is_bounded(clock):
    windows = MemoryWindows(clock)
    rates = parse_rates("1000000/minute")
    for _ in range(20_000):
        clock.now += 0.001
        windows.take("key:a", rates, 7)
    assert len(windows._windows["key:a", 60].slots) <= 1201


def test_windows_of_idle_keys_are_dropped(clock):
    windows = MemoryWindows(clock)
    for number in range(5000):
        clock.now += 1
        windows.take(f"key:{number}", MINUTE, 1)
    assert len(windows._windows) < 1200


def test_redis_reads_its_own_clock(redis_client):
    windows = RedisWindows(redis_client)
    rates = parse_rates("2/second")
    started = time.monotonic()
    assert [windows.take("key:now", rates, 1).accepted for _ in range(3)] == [True, True, False]
    while not windows.take("key:now", rates, 1).accepted:
        assert time.monotonic() - started < 10
    assert time.monotonic() - started >= 0.99
    assert 0 < redis_client.ttl("flask-apikey:{key:now}:1") <= 2
