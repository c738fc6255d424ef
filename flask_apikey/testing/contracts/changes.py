"""Contract of `Backend.changes`."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest

from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.storage.contract import Backend, ChangeStore
from flask_apikey.testing.contracts.fixtures import ContractFixtures, update
from flask_apikey.testing.contracts.rotation import resealing
from flask_apikey.testing.samples import NOW, changed, stored_key

_MANY = 1_000


class ChangesContract(ContractFixtures):
    """Tests for the moments of changes in a backend. For the fixtures see `BackendContract`."""

    @pytest.fixture
    def changes(self, backend: Backend) -> ChangeStore:
        """The change store of the backend, which must have one."""
        assert backend.changes is not None
        return backend.changes

    @pytest.fixture
    def started_at(self, changes: ChangeStore) -> datetime:
        """The time by the clock of the storage, before the changes of the test."""
        return changes.changed_since(None, limit=_MANY).now

    def test_each_kind_of_change_is_told(self, backend: Backend, changes: ChangeStore, started_at: datetime) -> None:
        def revoke_unsealed(key: StoredKey) -> None:
            assert backend.revoke_unsealed(key.record.id, revoked_at=NOW, reason=None)

        def reseal(key: StoredKey) -> None:
            assert backend.rotation is not None
            assert backend.rotation.reseal([resealing(key)]) == 1

        kinds: list[Callable[[StoredKey], object]] = [
            # Its own times are those of another process, and may be wrong by years.
            lambda key: update(backend, key, changed(key, updated_at=NOW)),
            lambda key: update(backend, key, changed(key, pruned_at=NOW)),
            revoke_unsealed,
        ]
        if backend.rotation is not None:
            kinds.append(reseal)
        for change in kinds:
            key, other = stored_key(), stored_key()
            backend.add_many([key, other])
            before = changes.changed_since(started_at, limit=_MANY)
            change(key)
            after = changes.changed_since(started_at, limit=_MANY)
            assert set(after.key_ids) - set(before.key_ids) == {key.record.id}

    def test_earlier_changes_are_left_out(self, backend: Backend, changes: ChangeStore, started_at: datetime) -> None:
        key = stored_key()
        backend.add(key)
        update(backend, key, changed(key))
        told = changes.changed_since(started_at, limit=_MANY)
        assert list(told.key_ids) == [key.record.id]
        assert list(changes.changed_since(told.now + timedelta(seconds=1), limit=_MANY).key_ids) == []

    def test_time_goes_on(self, changes: ChangeStore, started_at: datetime) -> None:
        assert started_at.tzinfo is timezone.utc
        times = [started_at]
        while times[-1] == started_at:
            times.append(changes.changed_since(started_at, limit=_MANY).now)
        assert times[-1] - timedelta(hours=1) < started_at < times[-1]

    def test_no_more_than_the_limit_are_told(
        self, backend: Backend, changes: ChangeStore, started_at: datetime
    ) -> None:
        keys = [stored_key() for _ in range(3)]
        backend.add_many(keys)
        for key in keys:
            update(backend, key, changed(key))
        assert len(changes.changed_since(started_at, limit=2).key_ids) == 2
        assert {*changes.changed_since(started_at, limit=3).key_ids} == {key.record.id for key in keys}

    def test_changed_row_that_is_damaged_is_told(
        self,
        backend: Backend,
        changes: ChangeStore,
        started_at: datetime,
        damage: Callable[[str], object] | None,
    ) -> None:
        if damage is None:
            pytest.skip("the test module has no damage fixture")
        key = stored_key()
        backend.add(key)
        damage(key.record.id)
        assert backend.revoke_unsealed(key.record.id, revoked_at=NOW, reason=None)
        assert list(changes.changed_since(started_at, limit=_MANY).key_ids) == [key.record.id]
