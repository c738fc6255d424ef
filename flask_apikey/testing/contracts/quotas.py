"""Contract of `Backend.quotas`."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from datetime import datetime, timedelta
from typing import Any

import pytest

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.quotas import MAX_QUOTA, MAX_SUBJECT_LENGTH, QuotaCounter, QuotaState
from flask_apikey.core.storage.contract import Backend, QuotaStore
from flask_apikey.core.times import EPOCH
from flask_apikey.testing.contracts.fixtures import ContractFixtures
from flask_apikey.testing.races import Race
from flask_apikey.testing.samples import NOW
from flask_apikey.testing.tcp_proxy import TCPProxy

_RACERS = 8
_ROUNDS = 20
_PERIOD = timedelta(days=30)


def counter_of(subject: str | None = None, starts_at: datetime = NOW) -> QuotaCounter:
    """Create a counter of a period, by default of a new subject."""
    return QuotaCounter(subject or f"key:{new_id()}:month", starts_at, starts_at + _PERIOD)


def take(quotas: QuotaStore, counter: QuotaCounter, most: int, limit: int, least: int = 1) -> int:
    """Take from a counter, and return what was granted."""
    return quotas.take(counter, least=least, most=most, limit=limit).granted


def quotas_of(backend: Backend) -> QuotaStore:
    """Return the quota store of a backend that must have one."""
    assert backend.quotas is not None
    return backend.quotas


class QuotaContract(ContractFixtures):
    """Tests for the quotas of a backend. For the fixtures see `BackendContract`."""

    @pytest.fixture
    def quotas(self, backend: Backend) -> QuotaStore:
        """The quota store of the backend."""
        return quotas_of(backend)

    def test_take_up_to_the_limit(self, quotas: QuotaStore) -> None:
        counter = counter_of()
        assert quotas.get(counter) == QuotaState()
        assert quotas.take(counter, least=1, most=7, limit=10) == QuotaState(used=7, granted=7)
        assert quotas.take(counter, least=1, most=7, limit=10) == QuotaState(used=10, granted=3)
        assert quotas.take(counter, least=1, most=7, limit=10) == QuotaState(used=10)
        assert quotas.get(counter) == QuotaState(used=10)

    def test_take_at_least(self, quotas: QuotaStore) -> None:
        counter = counter_of()
        assert take(quotas, counter, 8, 10) == 8
        assert take(quotas, counter, 9, 10, least=3) == 0
        assert take(quotas, counter, 9, 10, least=2) == 2
        assert take(quotas, counter_of(), 11, 10, least=11) == 0

    def test_change_of_the_limit(self, quotas: QuotaStore) -> None:
        counter = counter_of()
        assert take(quotas, counter, 10, 10) == 10
        assert take(quotas, counter, 10, 5) == 0
        assert take(quotas, counter, 10, 12) == 2

    def test_large_amounts(self, quotas: QuotaStore) -> None:
        counter = QuotaCounter("s" * MAX_SUBJECT_LENGTH, EPOCH, None)
        assert take(quotas, counter, MAX_QUOTA - 1, MAX_QUOTA) == MAX_QUOTA - 1
        quotas.add(counter, MAX_QUOTA, every_period=True)
        assert take(quotas, counter, 2 * MAX_QUOTA, MAX_QUOTA) == MAX_QUOTA + 1
        assert quotas.get(counter) == QuotaState(used=2 * MAX_QUOTA, added=MAX_QUOTA)

    def test_counters_are_independent(self, quotas: QuotaStore) -> None:
        one, other = counter_of("key:a:month"), counter_of("key:A:month")
        following = counter_of("key:a:month", NOW + _PERIOD)
        assert [take(quotas, each, 9, 5) for each in (one, other, following, one)] == [5, 5, 5, 0]

    def test_give_back(self, quotas: QuotaStore) -> None:
        counter = counter_of()
        assert take(quotas, counter, 10, 10) == 10
        quotas.give_back(counter, 4, generation=0)
        assert quotas.get(counter).used == 6
        assert take(quotas, counter, 10, 10) == 4
        quotas.give_back(counter_of(), 4, generation=0)

    def test_reset_starts_a_generation(self, quotas: QuotaStore) -> None:
        counter = counter_of()
        quotas.reset(counter)
        take(quotas, counter, 10, 10)
        quotas.add(counter, 5, every_period=False)
        quotas.reset(counter)
        assert quotas.get(counter) == QuotaState(added=5, generation=1)
        quotas.give_back(counter, 10, generation=0)
        assert quotas.take(counter, least=1, most=20, limit=10) == QuotaState(15, 5, 1, 15)
        quotas.give_back(counter, 3, generation=1)
        assert quotas.get(counter).used == 12

    def test_add_once(self, quotas: QuotaStore) -> None:
        counter = counter_of()
        take(quotas, counter, 10, 10)
        for _ in range(2):
            quotas.add(counter, 3, every_period=False)
        assert quotas.take(counter, least=1, most=20, limit=10) == QuotaState(16, 6, 0, 6)
        assert take(quotas, counter_of(counter.subject, NOW + _PERIOD), 20, 10) == 10

    def test_add_before_anything_is_taken(self, quotas: QuotaStore) -> None:
        for every_period in (False, True):
            counter = counter_of()
            quotas.add(counter, 3, every_period=every_period)
            assert quotas.get(counter) == QuotaState(added=3)
            assert take(quotas, counter, 20, 10) == 13

    def test_add_to_every_period(self, quotas: QuotaStore) -> None:
        counter = counter_of()
        following = counter_of(counter.subject, NOW + _PERIOD)
        take(quotas, counter, 4, 10)
        quotas.add(counter, 3, every_period=True)
        quotas.add(counter, 100, every_period=False)
        assert quotas.get(counter) == QuotaState(used=4, added=103)
        assert quotas.get(following) == QuotaState(added=3)
        assert take(quotas, following, 20, 10) == 13
        quotas.add(following, 2, every_period=True)
        assert quotas.get(following) == QuotaState(used=13, added=5)
        assert quotas.get(counter_of(counter.subject, NOW + 2 * _PERIOD)).added == 5
        assert quotas.get(counter_of()).added == 0

    def test_prune_removes_ended_periods(self, quotas: QuotaStore) -> None:
        old, current = counter_of(), counter_of(starts_at=NOW + _PERIOD)
        total = QuotaCounter(old.subject, EPOCH, None)
        for counter in (old, current, total):
            take(quotas, counter, 1, 10)
        quotas.add(old, 5, every_period=True)
        second = timedelta(seconds=1)
        assert quotas.prune(before=NOW + _PERIOD - second) == 0
        assert quotas.prune(before=NOW + _PERIOD) == 1
        assert quotas.get(old) == QuotaState(added=5)
        assert (quotas.get(current).used, quotas.get(total).used) == (1, 1)

    def test_concurrent_threads_take_exactly_the_limit(self, quotas: QuotaStore) -> None:
        counter = counter_of()

        def take_some(number: int) -> int:
            return sum(take(quotas, counter, 1 + (number + each) % 5, 200) for each in range(_ROUNDS))

        with ThreadPoolExecutor(_RACERS) as pool:
            assert sum(pool.map(take_some, range(_RACERS))) == 200
        assert quotas.get(counter).used == 200

    def test_concurrent_processes_take_exactly_the_limit(self, quotas: QuotaStore, race: Race) -> None:
        subject = f"key:{new_id()}:month"
        limit = _RACERS * _ROUNDS // 2
        granted = race(_take_ones, [(subject, limit)] * _RACERS)
        assert sum(granted) == limit
        assert quotas.get(counter_of(subject)).used == limit

    def test_new_counter_gets_a_concurrent_addition_once(self, quotas: QuotaStore) -> None:
        for _ in range(10):
            counter = counter_of()
            with ThreadPoolExecutor(4) as pool:
                work = [pool.submit(take, quotas, counter, 1, 10) for _ in range(3)]
                pool.submit(quotas.add, counter, 5, every_period=True).result()
                assert sum(each.result() for each in work) == 3
            assert quotas.get(counter) == QuotaState(used=3, added=5)

    def test_lost_answers_grant_nothing_twice(
        self, backend: Backend, quotas: QuotaStore, server_uri: str | None
    ) -> None:
        if server_uri is None:
            pytest.skip("there is no server whose answers could get lost")
        counter = counter_of()
        proxy = TCPProxy(server_uri)
        granted = lost = number = 0
        with closing(proxy), closing(type(backend).from_uri(proxy.uri)) as connected:
            remote = quotas_of(connected)
            granted += take(remote, counter, 1, 1_000)
            while True:
                number += 1
                proxy.lose_answer(number)
                with suppress(StorageError):
                    granted += take(remote, counter, 5, 1_000)
                if not proxy.has_lost_answer:
                    break
                lost += 1
        assert lost > 0
        # Each lost answer may have taken what nobody got.
        assert granted <= quotas.get(counter).used <= granted + 5 * lost


def _take_ones(backend: Backend, barrier: Any, subject: str, limit: int) -> int:
    barrier.wait()
    return sum(take(quotas_of(backend), counter_of(subject), 1, limit) for _ in range(_ROUNDS))
