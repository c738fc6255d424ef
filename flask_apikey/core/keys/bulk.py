"""Revoking and pruning many keys: one compare-and-set a key, so a run can be interrupted and repeated."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from flask_apikey.core.errors import Conflict, InvalidValue, KeyNotFound, RowDamaged, RowTampered, SealUnreadable
from flask_apikey.core.keys.grace import count_previous_secrets, without_previous_secrets
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model.history import REVOKED, SECRETS_ENDED
from flask_apikey.core.model.keys import APIKey, DamagedKey, StoredKey
from flask_apikey.core.model.validation import checked_moment, checked_owner, checked_reason
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import Clock

logger = logging.getLogger("flask_apikey")

Progress = Callable[[APIKey], object]
"""Called with each record after its change."""


@dataclass(frozen=True, slots=True)
class BulkRevocation:
    """The result of a bulk revocation, or its preview.

    Attributes:
        revoked: Number of keys revoked.
        secrets_ended: Number of keys that stay active and lost their previous secrets.
        failed: Ids of keys that could not be changed.
    """

    revoked: int = 0
    secrets_ended: int = 0
    failed: tuple[str, ...] = ()

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
    failed: list[str] = []
    candidates = KeyFilter(owner=owner, revoked=False, expires_after=clock(), created_before=moment)
    for candidate in repository.scan(candidates):
        try:
            event, record = _revoked(repository, candidate, change_of, reason, dry_run=dry_run)
        except KeyNotFound:
            continue
        except (Conflict, SealUnreadable) as exc:
            logger.warning("a key was not revoked: %s", exc)
            failed.append(candidate.record.id if isinstance(candidate, StoredKey) else candidate.id)
            continue
        if event is not None:
            counts[event] += 1
            if progress is not None and record is not None:
                progress(record)
    return BulkRevocation(counts[REVOKED], counts[SECRETS_ENDED], tuple(failed))


def _revoked(
    repository: KeyRepository,
    candidate: StoredKey | DamagedKey,
    change_of: Callable[[StoredKey], Change | None],
    reason: str | None,
    *,
    dry_run: bool,
) -> tuple[str | None, APIKey | None]:
    """Revoke a key, and return the event and the record. Rows that are damaged or do not fit their seal are too."""
    if isinstance(candidate, DamagedKey):
        return REVOKED, None if dry_run else repository.revoke_unsealed(candidate.id, reason)
    change = change_of(candidate)
    if change is None or dry_run:
        return None if change is None else change.event, candidate.record
    event = change.event
    try:
        stored, change = repository.change(candidate.record.id, change_of)
    except (RowDamaged, RowTampered, SealUnreadable) as exc:
        if event != REVOKED and isinstance(exc, SealUnreadable):
            # Its newest secret is good where the Fernet key is configured: repeat the revocation there.
            raise
        return REVOKED, repository.revoke_unsealed(candidate.record.id, reason)
    return None if change is None else change.event, stored.record


def _revocation_of(
    clock: Clock, owner: str | None, issued_before: datetime | None, reason: str | None, stored: StoredKey
) -> Change | None:
    # Called again on each attempt: the key may have been rolled or handed over since it was listed.
    record, now = stored.record, clock()
    if record.has_ended(now) or owner not in {None, record.owner}:
        return None
    if issued_before is None or record.issued_at < issued_before:
        revoked = replace(record, revoked_at=now, revocation_reason=reason)
        return Change(revoked, REVOKED, reason=reason)
    if count_previous_secrets(record, now):
        return Change(without_previous_secrets(record), SECRETS_ENDED, reason=reason)
    return None


def prune(
    repository: KeyRepository,
    *,
    ended_before: datetime,
    reason: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> int:
    """Remove keys that ended before a moment; see `APIKeys.prune`."""
    reason = checked_reason(reason)
    removed = 0
    for stored in repository.scan(KeyFilter(ended_by=checked_moment(ended_before, "ended_before"))):
        if isinstance(stored, DamagedKey):
            continue
        if not dry_run:
            try:
                repository.remove(stored, reason=reason)
            except Conflict:
                continue
            except (RowTampered, SealUnreadable) as exc:
                logger.warning("key %s was not removed: %s", stored.record.id, exc)
                continue
        removed += 1
        if progress is not None:
            progress(stored.record)
    return removed
