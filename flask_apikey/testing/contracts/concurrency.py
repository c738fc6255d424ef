"""The rules of the contract for threads and processes that come together: a part of `BackendContract`."""

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any, ClassVar

import pytest

from flask_apikey.core.errors import AlreadyExists, Conflict
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.keys.rolling import KeyRolling
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealing import FernetKeyring, digest, generate_fernet_key
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import utc_now
from flask_apikey.testing.races import MakeBackend, race
from flask_apikey.testing.samples import changed, stored_key

_RACERS = 16
_ROUNDS = 25


class ConcurrencyContract:
    """What holds while threads and processes do the same at the same moment.

    Attributes:
        is_shared: Whether several processes reach the same storage. Only a storage
            in the memory of one process may say False.
    """

    is_shared: ClassVar[bool] = True

    @pytest.fixture
    def backend(self, make_backend: MakeBackend) -> Iterator[Backend]:
        """A backend on an empty storage that is ready."""
        backend = make_backend()
        backend.init_storage()
        yield backend
        backend.close()

    def test_threads_that_update_one_version_have_one_winner(self, backend: Backend) -> None:
        key = stored_key()
        backend.add(key)
        barrier = Barrier(8)

        def race(number: int) -> int:
            won = 0
            for version in range(1, 11):
                barrier.wait()
                newer = replace(key, record=replace(key.record, version=version + 1, name=f"of {number}"))
                won += _wins(functools.partial(backend.update, newer, expected_version=version))
            return won

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(race, range(8))) == 10
        final = backend.get(key.record.id)
        assert final is not None
        assert final.record.version == 11

    def test_threads_that_read_and_write_see_whole_keys(self, backend: Backend) -> None:
        keys = [stored_key(name=f"key {number}") for number in range(16)]

        def work(key: StoredKey) -> bool:
            backend.add(key)
            current = key
            for number in range(10):
                current = changed(current, name=f"{key.record.name} v{number}")
                backend.update(current, expected_version=current.record.version - 1)
                if backend.get(key.record.id) != current:
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, keys))

    def test_processes_that_prepare_the_storage_at_once_all_succeed(self, make_backend: MakeBackend) -> None:
        self.needs_processes()
        assert race(_prepare, make_backend, [()] * _RACERS) == [1] * _RACERS
        key = stored_key()
        backend = make_backend()
        backend.add(key)
        assert backend.get(key.record.id) == key
        backend.close()

    def test_processes_that_create_one_id_have_one_winner(self, backend: Backend, make_backend: MakeBackend) -> None:
        self.needs_processes()
        ids = [new_id() for _ in range(_ROUNDS)]
        assert sum(race(_create_each, make_backend, [(ids,)] * _RACERS)) == _ROUNDS
        assert sum(1 for _ in backend.all_keys()) == _ROUNDS

    def test_processes_that_update_one_version_have_one_winner(
        self, backend: Backend, make_backend: MakeBackend
    ) -> None:
        self.needs_processes()
        key = stored_key()
        backend.add(key)
        assert sum(race(_update_each_version, make_backend, [(key,)] * _RACERS)) == _ROUNDS
        final = backend.get(key.record.id)
        assert final is not None
        assert final.record.version == _ROUNDS + 1

    def test_processes_that_roll_one_key_have_one_winner(self, backend: Backend, make_backend: MakeBackend) -> None:
        self.needs_processes()
        key = stored_key()
        backend.add(key)
        fernet_key = generate_fernet_key()
        assert sum(race(_roll_each_version, make_backend, [(key.record.id, fernet_key)] * 2)) == _ROUNDS
        final = backend.get(key.record.id)
        assert final is not None
        assert final.record.version == _ROUNDS + 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_a_backend_works_on_both_sides_of_a_fork(self, backend: Backend, make_backend: MakeBackend) -> None:
        self.needs_processes()
        key = stored_key()
        backend.add(key)
        assert race(_use_after_fork, make_backend, [(key,)]) == [0]

    def needs_processes(self) -> None:
        """Skip the test where the storage is not shared."""
        if not self.is_shared:
            pytest.skip("the storage is in the memory of one process")


def _wins(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except (AlreadyExists, Conflict):
        return False
    return True


def _prepare(make_backend: MakeBackend, barrier: Any) -> int:
    backend = make_backend()
    barrier.wait()
    backend.init_storage()
    backend.add(stored_key())
    return 1


def _create_each(make_backend: MakeBackend, barrier: Any, ids: list[str]) -> int:
    backend = make_backend()
    backend.ping()
    won = 0
    for key_id in ids:
        barrier.wait()
        won += _wins(functools.partial(backend.add, stored_key(id=key_id)))
    return won


def _update_each_version(make_backend: MakeBackend, barrier: Any, key: StoredKey) -> int:
    backend = make_backend()
    backend.ping()
    won = 0
    for version in range(1, _ROUNDS + 1):
        barrier.wait()
        newer = replace(key, record=replace(key.record, version=version + 1))
        won += _wins(functools.partial(backend.update, newer, expected_version=version))
    return won


def _roll_each_version(make_backend: MakeBackend, barrier: Any, key_id: str, fernet_key: str) -> int:
    backend = make_backend()
    backend.ping()
    read = backend.get
    has_read = False

    def read_together(key_id: str) -> StoredKey | None:
        # Nobody writes before everybody has read. What a backend reads while it writes is its own affair.
        nonlocal has_read
        stored = read(key_id)
        if not has_read:
            has_read = True
            barrier.wait()
        return stored

    vars(backend)["get"] = read_together
    ring = FernetKeyring(fernet_key)
    rolling = KeyRolling(KeyRepository(backend, utc_now), ring)
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
        (newest,) = ring.unseal(stored.seal).digests
        assert key is None or newest == digest(key), "a roll that was said to be done was undone"
        won += key is not None
    return won


def _use_after_fork(make_backend: MakeBackend, _barrier: Any, key: StoredKey) -> int:
    backend = make_backend()
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
