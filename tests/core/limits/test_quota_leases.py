"""Leases of quotas: growth, return, threads, forks and killed processes."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from flask_apikey import StorageError
from flask_apikey.core.limits import quota_leases
from flask_apikey.core.limits.quota_leases import MAX_AGE, MAX_REQUESTS, QuotaLeases
from flask_apikey.core.limits.quotas import AppliedQuota
from flask_apikey.core.model.quotas import QuotaCounter, parse_quota
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.testing.samples import stored_key

NOW = datetime(2026, 5, 7, tzinfo=timezone.utc)
RECORD = stored_key().record
FEBRUARY, MARCH = (datetime(2026, month, 1, tzinfo=timezone.utc) for month in (2, 3))


def applied(quota):
    return AppliedQuota(parse_quota(quota), "key:a:month")


class Leases:
    """Leases with a record of what was taken and given back, and without the background thread."""

    def __init__(self, store, monkeypatch):
        self.taken, self.given_back, self.failures = [], [], []
        self.store = store
        self.leases = QuotaLeases(store, 5, self.failures.append)
        self.monotonic = 1_000.0
        self.fail = False
        monkeypatch.setattr(quota_leases.FlushThread, "start", lambda _: None)
        monkeypatch.setattr(quota_leases.time, "monotonic", lambda: self.monotonic)
        take, give_back = store.take, store.give_back
        monkeypatch.setattr(store, "take", self.recorded_take(take))
        monkeypatch.setattr(store, "give_back", self.recorded_give_back(give_back))

    def recorded_take(self, take):
        def recorded(counter, **amounts):
            if self.fail:
                raise StorageError("down")
            state = take(counter, **amounts)
            self.taken.append(state.granted)
            return state

        return recorded

    def recorded_give_back(self, give_back):
        def recorded(counter, amount, *, generation):
            if self.fail:
                raise StorageError("down")
            self.given_back.append(amount)
            give_back(counter, amount, generation=generation)

        return recorded

    def take(self, cost=1, quota="1000000/month", record=RECORD, now=NOW):
        return self.leases.take(applied(quota), record, cost, now)

    def sweep(self):
        self.leases._leases.get().sweep()

    def used(self, now=NOW):
        return self.store.get(applied("1/month").counter_at(RECORD, now)).used


@pytest.fixture
def leases(storage, monkeypatch):
    return Leases(storage.quotas, monkeypatch)


def test_lease_grows_with_the_traffic(leases):
    for _ in range(3_000):
        leases.take()
    assert leases.taken == [*(2**doubled for doubled in range(10)), MAX_REQUESTS, MAX_REQUESTS]


def test_lease_lasts_half_a_second(leases):
    for _ in range(200):
        leases.monotonic += 0.1
        leases.take()
    assert set(leases.taken) == {1, 2, 4}


def test_slow_key_takes_nothing_ahead(leases):
    for _ in range(5):
        leases.take()
        leases.monotonic += MAX_AGE
        leases.sweep()
    assert (leases.taken, leases.given_back) == ([1] * 5, [])


def test_lease_shrinks_near_the_limit(leases):
    charges = [leases.take(quota="300/month") for _ in range(310)]
    assert [charge.accepted for charge in charges] == [True] * 300 + [False] * 10
    assert [charge.remaining for charge in charges] == [*range(299, -1, -1), *[0] * 10]
    assert max(leases.taken) == 4
    assert leases.taken[-120:] == [1] * 120


def test_exhausted_quota_is_only_read(leases):
    for _ in range(5):
        leases.take(quota="1/month")
    assert leases.taken == [1]


def test_unused_lease_is_given_back(leases):
    for _ in range(4):
        leases.take()
    leases.sweep()
    assert (leases.used(), leases.given_back) == (7, [])
    leases.monotonic += MAX_AGE
    leases.sweep()
    assert (leases.used(), leases.given_back) == (4, [3])
    assert leases.take().remaining == 1_000_000 - 5


def test_lease_that_nobody_uses_is_forgotten(leases):
    leases.take()
    leases.monotonic += quota_leases._FORGET_AFTER
    leases.sweep()
    assert leases.leases._leases.get()._leases == {}
    assert leases.take().accepted


def test_servers_without_threads_give_back_in_a_later_request(leases):
    for _ in range(2):
        leases.take()
    leases.monotonic += 4 * MAX_AGE
    other = AppliedQuota(parse_quota("5/month"), "key:b:month")
    leases.leases.take(other, RECORD, 1, NOW)
    assert leases.given_back == [1]


def test_close_gives_back(leases):
    for _ in range(5):
        leases.take()
    leases.leases.close()
    assert leases.used() == 5
    leases.take()
    assert leases.used() == 6


@pytest.mark.parametrize("now", [FEBRUARY, MARCH])
def test_lease_does_not_cross_the_end_of_its_period(leases, now):
    last = now - timedelta(microseconds=1)
    for _ in range(5):
        leases.take(now=last)
    for _ in range(2):
        leases.take(now=now)
    leases.take(now=last)
    assert leases.given_back == [2, 1]
    assert (leases.used(last), leases.used(now)) == (6, 2)


def test_lease_does_not_cross_a_change_of_the_limit(leases):
    for _ in range(20):
        leases.take(quota="1000/month")
    assert not leases.take(quota="20/month").accepted
    assert leases.used() == 20


def test_lease_does_not_cross_a_change_of_its_key(leases):
    for _ in range(20):
        leases.take()
    leases.store.reset(applied("1/month").counter_at(RECORD, NOW))
    charge = leases.take(record=replace(RECORD, version=RECORD.version + 1))
    assert (charge.generation, leases.used()) == (1, 1)


def test_request_that_has_begun_before_a_change_ends_no_lease(leases):
    newer = replace(RECORD, version=RECORD.version + 1)
    for _ in range(4):
        leases.take(record=newer)
        leases.take()
    assert leases.given_back == []


def test_part_of_a_cost_from_before_a_reset_is_dropped(leases):
    leases.take()
    leases.take()
    leases.store.reset(applied("1/month").counter_at(RECORD, NOW))
    charge = leases.take(cost=3)
    assert (charge.accepted, charge.generation) == (True, 1)
    leases.leases.close()
    assert leases.used() == 3


def test_refund_goes_to_the_lease(leases):
    charges = [leases.take() for _ in range(3)]
    for charge in charges:
        leases.leases.give_back(charge)
    assert leases.given_back == []
    leases.monotonic += MAX_AGE
    leases.sweep()
    assert (leases.used(), leases.given_back) == (0, [3])


@pytest.mark.parametrize("change", ["period", "process", "reset"])
def test_refund_after_the_lease(leases, change):
    charge = leases.take()
    if change == "period":
        leases.take(now=FEBRUARY)
    elif change == "process":
        leases.leases.close()
    else:
        leases.store.reset(charge.counter)
        leases.take(record=replace(RECORD, version=RECORD.version + 1))
    leases.leases.give_back(charge)
    leases.leases.close()
    assert leases.used() == (1 if change == "reset" else 0)


def test_costs(leases):
    charges = [leases.take(cost=7, quota="100/month") for _ in range(20)]
    assert sum(charge.accepted for charge in charges) == 14
    assert leases.take(cost=2, quota="100/month").accepted
    assert leases.used() == 100


def test_outage(leases):
    for _ in range(4):
        leases.take()
    leases.fail = True
    assert [leases.take().accepted for _ in range(3)] == [True] * 3
    with pytest.raises(StorageError, match="down"):
        leases.take()
    leases.fail = False
    leases.take()
    assert leases.used() >= 8


def test_failed_return_is_not_repeated(leases):
    for _ in range(4):
        leases.take()
    leases.fail = True
    leases.monotonic += MAX_AGE
    leases.sweep()
    leases.fail = False
    leases.sweep()
    assert leases.failures == ["3 of a quota, which no request has used, were not given back: down"]
    assert (leases.used(), leases.given_back) == (7, [])


def test_threads_take_exactly_the_limit(storage):
    leases = QuotaLeases(storage.quotas, 5, print)

    def take(_):
        return sum(leases.take(applied("500/month"), RECORD, 1, NOW).accepted for _ in range(100))

    with closing(leases), ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 500


def test_background_thread_gives_back(storage):
    given_back = threading.Event()
    leases = QuotaLeases(storage.quotas, 5, print)
    give_back = storage.quotas.give_back
    storage.quotas.give_back = lambda *a, **k: (give_back(*a, **k), given_back.set())
    with closing(leases):
        for _ in range(2):
            leases.take(applied("1000/month"), RECORD, 1, NOW)
        assert given_back.wait(30)
    assert storage.quotas.get(applied("1/month").counter_at(RECORD, NOW)).used == 2


def test_child_has_leases_of_its_own(tmp_path):
    with closing(backend_for(f"sqlite:///{tmp_path}/keys.db")) as backend:
        backend.init_storage()
        leases = QuotaLeases(backend.quotas, 5, print)
        for _ in range(5):
            leases.take(applied("1000/month"), RECORD, 1, NOW)
        process = multiprocessing.get_context("fork").Process(target=use_in_child, args=(leases,))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        leases.close()
        assert backend.quotas.get(applied("1/month").counter_at(RECORD, NOW)).used == 10


def use_in_child(leases):
    for _ in range(5):
        leases.take(applied("1000/month"), RECORD, 1, NOW)
    leases.close()


def use_until_killed(uri, pipe):
    with closing(backend_for(uri)) as backend:
        leases = QuotaLeases(backend.quotas, 5, print)
        for number in range(1, 1_000):
            leases.take(applied("100000/month"), RECORD, 1, NOW)
            pipe.send(number)
            if number == 300:
                os.kill(os.getpid(), signal.SIGKILL)


def test_killed_process_loses_one_lease(any_storage_uri):
    with closing(backend_for(any_storage_uri)) as backend:
        backend.init_storage()
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=use_until_killed, args=(any_storage_uri, sender))
        process.start()
        sender.close()
        accepted = 0
        try:
            while True:
                accepted = receiver.recv()
        except EOFError:
            process.join(60)
        assert (accepted, process.exitcode) == (300, -signal.SIGKILL)
        used = backend.quotas.get(QuotaCounter("key:a:month", *applied("1/month").counter_at(RECORD, NOW)[1:])).used
        # The last lease is at most as large as all before it.
        assert 300 <= used <= 2 * 300
