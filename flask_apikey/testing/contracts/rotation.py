"""Contract of `Backend.rotation`."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta, timezone
from itertools import islice
from typing import Any

import pytest

from flask_apikey.core.errors import Conflict, StorageError
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.model.keys import Resealing, Rotation, StoredKey
from flask_apikey.core.model.sealed_rows import resealed_row, sealed_row, secrets_of
from flask_apikey.core.model.sealing import FernetKeyring, Seal, SealedSecrets, generate_fernet_key
from flask_apikey.core.storage.contract import Backend, KeyFilter, RotationStore
from flask_apikey.testing.contracts.fixtures import ContractFixtures, update
from flask_apikey.testing.races import Race, count_wins
from flask_apikey.testing.samples import NOW, changed, recorded, stored_key
from flask_apikey.testing.tcp_proxy import TCPProxy

ROTATION = Rotation(
    from_fingerprint="0" * 16, to_fingerprint="f" * 16, started_at=NOW, due_at=NOW + timedelta(days=7, microseconds=1)
)

_RACERS = 8
_ROUNDS = 6
_RACED_KEYS = 20


def resealing(key: StoredKey, *, under: str = "f" * 16) -> Resealing:
    """Return a change of the seal of a key."""
    token = hashlib.sha256(f"{under}{key.seal.token}".encode()).hexdigest()
    return Resealing(key.record.id, key.seal, Seal(token, under))


def resealed(key: StoredKey) -> StoredKey:
    """Return the key after `resealing`."""
    return replace(key, seal=resealing(key).new)


def rotation_of(backend: Backend) -> RotationStore:
    """Return the rotation store of a backend that must have one."""
    assert backend.rotation is not None
    return backend.rotation


class RotationContract(ContractFixtures):
    """Tests for the rotation of the Fernet key in a backend. For the fixtures see `BackendContract`."""

    @pytest.fixture
    def rotation(self, backend: Backend) -> RotationStore:
        """The rotation store of the backend."""
        return rotation_of(backend)

    def test_reseal_replaces_only_the_seal(self, backend: Backend, rotation: RotationStore) -> None:
        keys = [
            stored_key(
                owner="team-7",
                scopes=frozenset({"a"}),
                version=3,
                previous_secrets_expire_at=(NOW,),
                metadata_json='{"a":1}',
            ),
            stored_key(created_at=NOW + timedelta(seconds=1), revoked_at=NOW, allowed_ips=("10.0.0.0/8",)),
            stored_key(pruned_at=NOW),
        ]
        keys = [recorded(key)[0] for key in keys]
        other = stored_key(created_at=NOW + timedelta(seconds=2))
        backend.add_many([*keys, other])
        # Fill the caches of the backend.
        assert [backend.get(key.record.id) for key in keys] == keys
        assert rotation.reseal([resealing(key) for key in keys]) == 3
        assert [backend.get(key.record.id) for key in keys] == [resealed(key) for key in keys]
        assert list(backend.find(KeyFilter(), after=None, limit=10)) == [*map(resealed, keys[:2]), other]

    def test_reseal_skips_changed_and_removed_keys(self, backend: Backend, rotation: RotationStore) -> None:
        untouched, rolled, removed, already = keys = [stored_key() for _ in range(4)]
        backend.add_many(keys)
        newer, tombstone = changed(rolled, rolled_at=NOW), changed(removed, pruned_at=NOW)
        update(backend, rolled, newer)
        update(backend, removed, tombstone)
        other = resealing(already, under="e" * 16)
        assert rotation.reseal([other]) == 1
        assert rotation.reseal([resealing(key) for key in keys]) == 1
        expected = [resealed(untouched), newer, tombstone, replace(already, seal=other.new)]
        assert [backend.get(key.record.id) for key in keys] == expected

    def test_reseal_skips_the_seal_of_another_key(self, backend: Backend, rotation: RotationStore) -> None:
        one, other = stored_key(), stored_key()
        backend.add_many([one, other])
        assert rotation.reseal([replace(resealing(one), key_id=other.record.id)]) == 0
        assert rotation.reseal([]) == 0
        assert [backend.get(each.record.id) for each in (one, other)] == [one, other]

    def test_update_needs_the_replaced_seal(self, backend: Backend, rotation: RotationStore) -> None:
        key = stored_key()
        newer = changed(key, name="renamed")
        backend.add(key)
        assert rotation.reseal([resealing(key)]) == 1
        with pytest.raises(Conflict):
            update(backend, key, newer)
        assert backend.get(key.record.id) == resealed(key)
        update(backend, resealed(key), newer)
        assert backend.get(key.record.id) == newer

    def test_count_seals(self, backend: Backend, rotation: RotationStore) -> None:
        assert dict(rotation.count_seals()) == {}
        keys = [stored_key() for _ in range(5)]
        backend.add_many([*keys, stored_key(id=STORAGE_ID, pruned_at=NOW)])
        assert dict(rotation.count_seals()) == {keys[0].seal.fingerprint: 5}
        rotation.reseal([resealing(key) for key in keys[:2]])
        update(backend, keys[4], changed(keys[4], pruned_at=NOW))
        assert dict(rotation.count_seals()) == {keys[0].seal.fingerprint: 3, "f" * 16: 2}

    @pytest.mark.parametrize("batch", [1, 3, 100])
    def test_scan_by_seal_while_resealing(self, backend: Backend, rotation: RotationStore, batch: int) -> None:
        keys = sorted((stored_key(pruned_at=NOW if number % 3 else None) for number in range(10)), key=_id)
        backend.add_many(keys)
        rotation.reseal([resealing(key) for key in keys[::4]])
        others = backend.scan(KeyFilter(not_sealed_by="f" * 16, pruned=None))
        seen: list[StoredKey] = []
        while page := [key for key in islice(others, batch) if isinstance(key, StoredKey)]:
            seen += page
            assert rotation.reseal([resealing(key) for key in page]) == len(page)
        assert seen == [key for number, key in enumerate(keys) if number % 4]
        assert dict(rotation.count_seals()) == {"f" * 16: 10}

    def test_rotation_round_trips(self, rotation: RotationStore) -> None:
        assert rotation.get() is None
        rotation.put(ROTATION, expected_version=0)
        assert rotation.get() == ROTATION
        finished = replace(ROTATION, finished_at=NOW + timedelta(days=1, microseconds=2), version=2)
        rotation.put(finished, expected_version=1)
        assert rotation.get() == finished
        another = replace(ROTATION, from_fingerprint="f" * 16, to_fingerprint="e" * 16, version=3)
        rotation.put(another, expected_version=2)
        assert rotation.get() == another

    def test_times_of_a_rotation_are_returned_in_utc(self, rotation: RotationStore) -> None:
        elsewhere = timezone(timedelta(hours=5, minutes=30))
        rotation.put(replace(ROTATION, started_at=NOW.astimezone(elsewhere)), expected_version=0)
        stored = rotation.get()
        assert stored == ROTATION
        assert stored.started_at.tzinfo is timezone.utc

    def test_put_of_another_version_is_a_conflict(self, rotation: RotationStore) -> None:
        with pytest.raises(Conflict):
            rotation.put(replace(ROTATION, version=2), expected_version=1)
        assert rotation.get() is None
        rotation.put(ROTATION, expected_version=0)
        for expected_version in (0, 2):
            with pytest.raises(Conflict):
                rotation.put(replace(ROTATION, due_at=NOW), expected_version=expected_version)
        assert rotation.get() == ROTATION

    def test_lost_connection_during_a_rotation_is_a_storage_error(
        self, backend: Backend, server_uri: str | None
    ) -> None:
        if server_uri is None:
            pytest.skip("there is no server that could go away")
        key = stored_key()
        backend.add(key)
        proxy = TCPProxy(server_uri)
        with closing(proxy), closing(type(backend).from_uri(proxy.uri)) as remote:
            remote_rotation = rotation_of(remote)
            assert remote_rotation.get() is None
            proxy.cut()
            attempts: list[Callable[[], object]] = [
                lambda: remote_rotation.reseal([resealing(key)]),
                remote_rotation.count_seals,
                remote_rotation.get,
                lambda: remote_rotation.put(ROTATION, expected_version=0),
            ]
            with ThreadPoolExecutor(len(attempts)) as pool:
                assert all(pool.map(_storage_error_of, attempts))
            proxy.mend()
            assert remote_rotation.reseal([resealing(key)]) == 1
            assert remote.get(key.record.id) == resealed(key)

    def test_concurrent_starts_of_a_rotation_have_one_winner(self, rotation: RotationStore, race: Race) -> None:
        assert sum(race(_start_rotations, [()] * _RACERS)) == _ROUNDS
        stored = rotation.get()
        assert stored is not None
        assert stored.version == _ROUNDS

    def test_concurrent_processes_replace_each_seal_once(
        self, backend: Backend, rotation: RotationStore, race: Race
    ) -> None:
        keys = [stored_key(created_at=NOW + timedelta(seconds=number)) for number in range(_RACED_KEYS)]
        backend.add_many(keys)
        racers = [(keys[::step], f"{number}" * 16) for number, step in enumerate([1, -1] * (_RACERS // 2))]
        replaced = race(_reseal_in_batches, racers)
        assert sum(replaced) == _RACED_KEYS
        assert sorted(rotation.count_seals().values()) == sorted(number for number in replaced if number)
        for key in keys:
            stored = backend.get(key.record.id)
            assert stored is not None
            assert stored.record == key.record
            assert stored.seal == resealing(key, under=stored.seal.fingerprint).new

    def test_reseal_loses_no_concurrent_roll(self, backend: Backend, rotation: RotationStore, race: Race) -> None:
        old, new = generate_fernet_key(), generate_fernet_key()
        keys = [stored_key(created_at=NOW + timedelta(seconds=number)) for number in range(_RACED_KEYS)]
        keys = [_sealed(FernetKeyring(old), key) for key in keys]
        backend.add_many(keys)
        half = _RACED_KEYS // 2
        racers = [(old, new, keys[:half]), (old, new, keys[half:]), (old, new, [])]
        race(_roll_or_reseal, racers)
        ring = FernetKeyring(new)
        assert dict(rotation.count_seals()) == {ring.fingerprint: _RACED_KEYS}
        for key in keys:
            stored = backend.get(key.record.id)
            assert stored is not None
            assert stored.record.version == 1 + _ROUNDS
            assert secrets_of(stored, ring).digests == (_digest(stored),)


def _storage_error_of(attempt: Callable[[], object]) -> StorageError:
    with pytest.raises(StorageError) as failure:
        attempt()
    return failure.value


def _start_rotations(backend: Backend, barrier: Any) -> int:
    rotation = rotation_of(backend)
    newer = [replace(ROTATION, version=version + 1) for version in range(_ROUNDS)]
    puts = (functools.partial(rotation.put, each, expected_version=each.version - 1) for each in newer)
    return count_wins(barrier, puts)


def _reseal_in_batches(backend: Backend, barrier: Any, keys: list[StoredKey], under: str) -> int:
    replaced = 0
    for start in range(0, len(keys), _RACED_KEYS // 4):
        barrier.wait()
        batch = keys[start : start + _RACED_KEYS // 4]
        replaced += rotation_of(backend).reseal([resealing(key, under=under) for key in batch])
    return replaced


def _roll_or_reseal(backend: Backend, barrier: Any, old: str, new: str, keys: list[StoredKey]) -> int:
    # Rolls before the promotion of the new key seal under the old one again.
    ring = FernetKeyring(old) if keys else FernetKeyring(new, [old])
    barrier.wait()
    if keys:
        for _ in range(_ROUNDS):
            keys = [_rolled(backend, ring, key) for key in keys]
        return 0
    replaced, are_rolled = 0, False
    # A failed process breaks the barrier.
    while not are_rolled and not barrier.broken:
        are_rolled = all(key.record.version > _ROUNDS for key in _page(backend, KeyFilter()))
        page = _page(backend, KeyFilter(not_sealed_by=ring.fingerprint))
        replaced += rotation_of(backend).reseal(
            [Resealing(key.record.id, key.seal, resealed_row(key, ring).seal) for key in page]
        )
    return replaced


def _page(backend: Backend, key_filter: KeyFilter) -> Sequence[StoredKey]:
    return backend.find(key_filter, after=None, limit=_RACED_KEYS)


def _rolled(backend: Backend, ring: FernetKeyring, key: StoredKey) -> StoredKey:
    record = replace(key.record, version=key.record.version + 1)
    newer = _sealed(ring, replace(key, record=record))
    while True:
        stored = backend.get(key.record.id)
        assert stored is not None
        assert stored.record == key.record
        with suppress(Conflict):
            update(backend, stored, newer)
            return newer


def _sealed(ring: FernetKeyring, key: StoredKey) -> StoredKey:
    return sealed_row(key.record, "", SealedSecrets((_digest(key),)), ring)


def _digest(key: StoredKey) -> bytes:
    return hashlib.sha256(f"{key.record.id} {key.record.version}".encode()).digest()


def _id(key: StoredKey) -> str:
    return key.record.id
