"""Contract of `Backend`: changes of keys at the same time, in threads, processes and after a fork."""

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from flask_apikey.core.errors import Conflict
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.keys.rolling import KeyRolling
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import digest
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.times import utc_now
from flask_apikey.testing.contracts.fixtures import ContractFixtures, update
from flask_apikey.testing.races import MakeBackend, Race, count_wins, wins
from flask_apikey.testing.samples import RING, changed, stored_key

_RACERS = 16
_ROUNDS = 25


class KeyRaceContract(ContractFixtures):
    """Tests for concurrent changes of keys. They are a part of `BackendContract`."""

    def test_concurrent_updates_in_threads_have_one_winner(self, backend: Backend) -> None:
        key = stored_key()
        backend.add(key)
        barrier = Barrier(8, timeout=60)
        with ThreadPoolExecutor(8) as pool:
            racers = [pool.submit(_update_each_version, backend, barrier, key.record.id) for _ in range(8)]
            assert sum(racer.result() for racer in racers) == _ROUNDS
        assert _version(backend, key) == _ROUNDS + 1

    def test_concurrent_threads_read_whole_keys(self, backend: Backend) -> None:
        keys = [stored_key(name=f"key {number}") for number in range(16)]

        def work(key: StoredKey) -> bool:
            backend.add(key)
            current = key
            for number in range(10):
                before, current = current, changed(current, name=f"{key.record.name} v{number}")
                update(backend, before, current)
                if backend.get(key.record.id) != current:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, keys))

    def test_concurrent_init_storage(self, make_backend: MakeBackend, race: Race) -> None:
        assert race(_prepare, [()] * _RACERS) == [1] * _RACERS
        key = stored_key()
        backend = make_backend()
        backend.add(key)
        assert backend.get(key.record.id) == key
        backend.close()

    def test_concurrent_adds_in_processes_have_one_winner(self, backend: Backend, race: Race) -> None:
        ids = [new_id() for _ in range(_ROUNDS)]
        assert sum(race(_create_each, [(ids,)] * _RACERS)) == _ROUNDS
        assert len(backend.find(KeyFilter(), after=None, limit=2 * _ROUNDS)) == _ROUNDS

    def test_concurrent_updates_in_processes_have_one_winner(self, backend: Backend, race: Race) -> None:
        key = stored_key()
        backend.add(key)
        assert sum(race(_update_each_version, [(key.record.id,)] * _RACERS)) == _ROUNDS
        assert _version(backend, key) == _ROUNDS + 1

    def test_concurrent_rolls_in_processes_have_one_winner(self, backend: Backend, race: Race) -> None:
        key = stored_key()
        backend.add(key)
        assert sum(race(_roll_each_version, [(key.record.id,)] * 2)) == _ROUNDS
        assert _version(backend, key) == _ROUNDS + 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_parent_and_child_share_the_storage_after_a_fork(self, backend: Backend, race: Race) -> None:
        key = stored_key()
        backend.add(key)
        assert race(_use_after_fork, [(key,)]) == [0]


def _version(backend: Backend, key: StoredKey) -> int:
    stored = backend.get(key.record.id)
    return 0 if stored is None else stored.record.version


def _prepare(backend: Backend, barrier: Any) -> int:
    barrier.wait()
    backend.init_storage()
    backend.add(stored_key())
    return 1


def _create_each(backend: Backend, barrier: Any, ids: list[str]) -> int:
    return count_wins(barrier, (functools.partial(backend.add, stored_key(id=key_id)) for key_id in ids))


def _update_each_version(backend: Backend, barrier: Any, key_id: str) -> int:
    won = 0
    for _ in range(_ROUNDS):
        barrier.wait()
        stored = backend.get(key_id)
        assert stored is not None
        barrier.wait()
        won += wins(functools.partial(update, backend, stored, changed(stored)))
    return won


def _roll_each_version(backend: Backend, barrier: Any, key_id: str) -> int:
    read = backend.get
    has_read = False

    def read_together(key_id: str) -> StoredKey | None:
        # Wait only at the first read, so that all processes read before one writes.
        nonlocal has_read
        stored = read(key_id)
        if not has_read:
            has_read = True
            barrier.wait()
        return stored

    vars(backend)["get"] = read_together
    rolling = KeyRolling(KeyRepository(backend, RING, utc_now))
    won = 0
    for _ in range(_ROUNDS):
        has_read = False
        barrier.wait()
        try:
            key = rolling.roll(key_id).key
        except Conflict:
            key = None
        barrier.wait()
        stored = read(key_id)
        assert stored is not None
        (newest,) = secrets_of(stored, RING).digests
        assert key is None or newest == digest(key), "an acknowledged roll was undone"
        won += key is not None
    return won


def _use_after_fork(backend: Backend, _barrier: Any, key: StoredKey) -> int:
    assert backend.get(key.record.id) == key
    child = os.fork()
    if child == 0:
        failed = 1
        try:
            failed = _failures_of_reads_and_writes(backend, key)
        finally:
            os._exit(failed)
    failures = _failures_of_reads_and_writes(backend, key)
    _, status = os.waitpid(child, 0)
    return failures + os.waitstatus_to_exitcode(status)


def _failures_of_reads_and_writes(backend: Backend, key: StoredKey) -> int:
    failures = 0
    for _ in range(200):
        mine = stored_key()
        backend.add(mine)
        failures += backend.get(mine.record.id) != mine
        failures += backend.get(key.record.id) != key
    return min(failures, 100)
