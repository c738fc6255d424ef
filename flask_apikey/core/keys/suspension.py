"""Suspending and resuming keys: one key, or all keys of an owner."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from flask_apikey.core.errors import APIKeyError, KeyEnded, KeyNotFound, StorageError
from flask_apikey.core.keys.bulk import Progress
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model.history import RESUMED, SUSPENDED
from flask_apikey.core.model.keys import APIKey, DamagedKey, StoredKey
from flask_apikey.core.model.validation import MAX_OWNER_LENGTH, checked_reason, checked_text
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import Clock, utc_now

logger = logging.getLogger("flask_apikey")


@dataclass(frozen=True, slots=True)
class BulkSuspension:
    """The result of suspending or resuming the keys of an owner, or its preview.

    Attributes:
        changed: Number of keys changed.
        failed: Ids of keys that could not be changed. The log says why.
    """

    changed: int = 0
    failed: tuple[str, ...] = ()


class KeySuspension:
    """Suspends and resumes keys."""

    def __init__(self, repository: KeyRepository, clock: Clock = utc_now) -> None:
        self._repository = repository
        self._clock = clock

    def for_owner(self, owner: str) -> "KeySuspension":
        """Return the suspension of one owner's keys."""
        return KeySuspension(self._repository.for_owner(owner), self._clock)

    def suspend(self, key_id: str, *, expected_version: int | None = None, reason: str | None = None) -> APIKey:
        """Suspend a key; see `APIKeys.suspend`."""
        change_of = partial(self._suspended, checked_reason(reason))
        return self._repository.change(key_id, change_of, expected_version)[0].record

    def resume(self, key_id: str, *, expected_version: int | None = None, reason: str | None = None) -> APIKey:
        """Resume a suspended key; see `APIKeys.resume`."""
        change_of = partial(self._resumed, checked_reason(reason))
        return self._repository.change(key_id, change_of, expected_version)[0].record

    def suspend_many(
        self, *, owner: str, reason: str | None = None, dry_run: bool = False, progress: Progress | None = None
    ) -> BulkSuspension:
        """Suspend the active keys of an owner; see `APIKeys.suspend_many`."""
        change_of = partial(self._suspended, checked_reason(reason))
        return self._change_many(owner, change_of, suspended=False, dry_run=dry_run, progress=progress)

    def resume_many(
        self, *, owner: str, reason: str | None = None, dry_run: bool = False, progress: Progress | None = None
    ) -> BulkSuspension:
        """Resume the suspended keys of an owner; see `APIKeys.resume_many`."""
        change_of = partial(self._resumed, checked_reason(reason))
        return self._change_many(owner, change_of, suspended=True, dry_run=dry_run, progress=progress)

    def _change_many(
        self,
        owner: str,
        change_of: Callable[[StoredKey], Change | None],
        *,
        suspended: bool,
        dry_run: bool,
        progress: Progress | None,
    ) -> BulkSuspension:
        owner = checked_text(owner, "owner", MAX_OWNER_LENGTH)
        candidates = KeyFilter(owner=owner, revoked=False, suspended=suspended, expires_after=self._clock())

        def change_of_owned(stored: StoredKey) -> Change | None:
            # The key may have been handed over since it was listed.
            return change_of(stored) if stored.record.owner == owner else None

        changed, failed = 0, list[str]()
        for candidate in self._repository.scan(candidates):
            if isinstance(candidate, DamagedKey):
                logger.warning("key %s was not changed: %s", candidate.id, candidate.problem)
                failed.append(candidate.id)
                continue
            record, is_changed = candidate.record, True
            if not dry_run:
                try:
                    stored, change = self._repository.change(record.id, change_of_owned)
                except (KeyEnded, KeyNotFound):
                    continue
                except APIKeyError as exc:
                    if isinstance(exc, StorageError):
                        self._require_storage()
                    logger.warning("key %s was not changed: %s", record.id, exc)
                    failed.append(record.id)
                    continue
                record, is_changed = stored.record, change is not None
            if is_changed:
                changed += 1
                if progress is not None:
                    progress(record)
        return BulkSuspension(changed, tuple(failed))

    def _require_storage(self) -> None:
        """Raise `StorageError` if the storage is down, so that not every key waits for a timeout."""
        for _ in self._repository.find(KeyFilter(), limit=1):
            return

    def _suspended(self, reason: str | None, stored: StoredKey) -> Change | None:
        self._require_unended(stored.record, "suspended")
        if stored.record.suspended_at is not None:
            return None
        record = replace(stored.record, suspended_at=self._clock(), suspension_reason=reason)
        return Change(record, SUSPENDED, reason=reason)

    def _resumed(self, reason: str | None, stored: StoredKey) -> Change | None:
        self._require_unended(stored.record, "resumed")
        if stored.record.suspended_at is None:
            return None
        record = replace(stored.record, suspended_at=None, suspension_reason=None)
        return Change(record, RESUMED, reason=reason)

    def _require_unended(self, record: APIKey, participle: str) -> None:
        now = self._clock()
        if record.has_ended(now):
            raise KeyEnded(f"key {record.id} is {record.status(now).value} and cannot be {participle}")
