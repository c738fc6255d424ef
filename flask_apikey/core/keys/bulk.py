"""Revoking and pruning many keys: one compare-and-set a key, so a run can be interrupted and repeated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from flask_apikey.core.errors import Conflict, InvalidValue, KeyNotFound
from flask_apikey.core.keys.grace import count_previous_secrets, without_previous_secrets
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model.history import REVOKED, SECRETS_ENDED
from flask_apikey.core.model.keys import APIKey, Status, StoredKey
from flask_apikey.core.model.validation import checked_moment, checked_owner, checked_reason
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import Clock

Progress = Callable[[APIKey], object]
"""Called with each record after its change."""


@dataclass(frozen=True, slots=True)
class BulkRevocation:
    """The result of a bulk revocation, or its preview.

    Attributes:
        revoked: Number of keys revoked.
        secrets_ended: Number of keys that stay active and lost their previous secrets.
    """

    revoked: int = 0
    secrets_ended: int = 0

    @property
    def total(self) -> int:
        """Number of keys changed."""
        return self.revoked + self.secrets_ended


def revoke_many(
    repository: KeyRepository,
    clock: Clock,
    *,
    owner: str | None = None,
    issued_before: datetime | None = None,
    reason: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> BulkRevocation:
    """Revoke keys by owner, by age of their secret, or by both; see `APIKeys.revoke_many`."""
    if owner is None and issued_before is None:
        raise InvalidValue("give owner or issued_before, or both")
    owner = checked_owner(owner)
    reason = checked_reason(reason)
    moment = None if issued_before is None else checked_moment(issued_before, "issued_before")
    change_of = partial(_revocation_of, clock, owner, moment, reason)
    counts = {REVOKED: 0, SECRETS_ENDED: 0}
    candidates = KeyFilter(owner=owner, revoked=False, expires_after=clock(), created_before=moment)
    for candidate in repository.find(candidates):
        stored, change = candidate, change_of(candidate)
        if change is not None and not dry_run:
            try:
                stored, change = repository.change(stored.record.id, change_of)
            except KeyNotFound:
                continue
        if change is not None:
            counts[change.event] += 1
            if progress is not None:
                progress(stored.record)
    return BulkRevocation(counts[REVOKED], counts[SECRETS_ENDED])


def _revocation_of(
    clock: Clock, owner: str | None, issued_before: datetime | None, reason: str | None, stored: StoredKey
) -> Change | None:
    # Called again on each attempt: the key may have been rolled or handed over since it was listed.
    record, now = stored.record, clock()
    if record.status(now) is not Status.ACTIVE or owner not in {None, record.owner}:
        return None
    details = {"reason": reason} if reason else {}
    if issued_before is None or record.issued_at < issued_before:
        revoked = replace(record, revoked_at=now, revocation_reason=reason)
        return Change(replace(stored, record=revoked), REVOKED, details, reason)
    if count_previous_secrets(record, now):
        return Change(without_previous_secrets(stored), SECRETS_ENDED, details, reason)
    return None


def prune(
    repository: KeyRepository,
    *,
    ended_before: datetime,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> int:
    """Remove keys that ended before a moment; see `APIKeys.prune`."""
    removed = 0
    for stored in repository.find(KeyFilter(ended_by=checked_moment(ended_before, "ended_before"))):
        if not dry_run:
            try:
                repository.remove(stored.record)
            except Conflict:
                continue
        removed += 1
        if progress is not None:
            progress(stored.record)
    return removed
