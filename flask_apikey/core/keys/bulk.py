"""Ending and removing many keys: each by compare-and-set, so that a run can be interrupted and repeated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from flask_apikey.core.errors import Conflict, KeyNotFound
from flask_apikey.core.keys.grace import has_previous_secrets, without_previous_secrets
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model.history import REVOKED, SECRETS_ENDED
from flask_apikey.core.model.keys import APIKey, Status, StoredKey
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import Clock


@dataclass(frozen=True, slots=True)
class BulkRevocation:
    """What a revocation of many keys did, or would do.

    Attributes:
        revoked: How many keys were revoked.
        secrets_ended: How many keys stayed, and lost the previous secrets that still worked.
    """

    revoked: int = 0
    secrets_ended: int = 0

    @property
    def total(self) -> int:
        """How many keys were changed."""
        return self.revoked + self.secrets_ended


def revoke_many(
    changes: KeyRepository,
    clock: Clock,
    *,
    owner: str | None,
    issued_before: datetime | None,
    reason: str | None,
    dry_run: bool,
    progress: Callable[[APIKey, str], object] | None,
) -> BulkRevocation:
    """Revoke the active keys of an owner, or whose secret was issued before a moment, or only count them.

    Args:
        changes: Reads and writes keys.
        clock: The present moment, in UTC.
        owner: Only keys of this owner.
        issued_before: Only secrets that were issued before this moment.
        reason: Why; it is kept with the keys.
        dry_run: Change nothing.
        progress: Called with each record as it is then, and the name of the event.
    """

    def change_of(stored: StoredKey) -> Change | None:
        # Asked again of what is stored when it is changed: the key may have been rolled since it was listed.
        record, now = stored.record, clock()
        if record.status(now) is not Status.ACTIVE or owner not in {None, record.owner}:
            return None
        details = {"reason": reason} if reason else {}
        if issued_before is None or record.issued_at < issued_before:
            revoked = replace(record, revoked_at=now, revocation_reason=reason)
            return Change(replace(stored, record=revoked), REVOKED, details)
        if has_previous_secrets(record, now):
            return Change(without_previous_secrets(stored), SECRETS_ENDED, details)
        return None

    done = {REVOKED: 0, SECRETS_ENDED: 0}
    candidates = KeyFilter(owner=owner, revoked=False, expires_after=clock(), created_before=issued_before)
    for stored in changes.each(candidates):
        record, change = stored.record, change_of(stored)
        if change is not None and not dry_run:
            try:
                changed, change = changes.apply(record.id, change_of)
            except KeyNotFound:
                continue
            record = changed.record
        if change is not None:
            done[change.event] += 1
            if progress is not None:
                progress(record, change.event)
    return BulkRevocation(done[REVOKED], done[SECRETS_ENDED])


def prune(
    changes: KeyRepository,
    ended_before: datetime,
    *,
    dry_run: bool,
    progress: Callable[[APIKey], object] | None,
) -> int:
    """Remove keys that were revoked or expired before a moment. Gives how many."""
    removed = 0
    for stored in changes.each(KeyFilter(ended_by=ended_before)):
        if not dry_run:
            try:
                changes.remove(stored.record)
            except Conflict:
                continue
        removed += 1
        if progress is not None:
            progress(stored.record)
    return removed
