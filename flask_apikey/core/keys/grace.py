"""The grace period of a roll: previous secrets that still work, and how they end."""

from dataclasses import replace
from datetime import datetime, timedelta

from flask_apikey.core.errors import Conflict, SecretInUse, TooManySecrets
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.sealing import SealedSecrets
from flask_apikey.core.model.usage import LastUse
from flask_apikey.core.times import in_words

MAX_SECRETS = 8


def secrets_in_grace(
    record: APIKey, secrets: SealedSecrets, grace: timedelta, now: datetime
) -> tuple[SealedSecrets, tuple[datetime, ...]]:
    """Return the secrets that work on after a roll, and when each expires.

    Raises:
        TooManySecrets: `MAX_SECRETS` secrets would work besides the new one.
    """
    latest_end = now + grace if record.expires_at is None else min(record.expires_at, now + grace)
    ends = [latest_end, *(min(end, latest_end) for end in record.previous_secrets_expire_at)]
    positions = [position for position, end in enumerate(ends[: len(secrets.digests)] if grace else ()) if end > now]
    if len(positions) >= MAX_SECRETS:
        raise TooManySecrets(
            f"key {record.id} has {len(positions)} secrets that still work: wait for one to end, or roll with grace 0"
        )
    working = SealedSecrets(tuple(secrets.digests[position] for position in positions))
    return working, tuple(ends[position] for position in positions)


def without_secret(record: APIKey, secrets: SealedSecrets, position: int) -> tuple[APIKey, SealedSecrets]:
    """Return the key without the previous secret at a position: 1 is the one before the newest.

    Raises:
        Conflict: The key has no such secret.
    """
    ends = record.previous_secrets_expire_at
    if not 0 < position <= len(ends):
        raise Conflict(f"key {record.id} has no previous secret at position {position}")
    remaining = (*ends[: position - 1], *ends[position:])
    kept = [each for each in range(min(len(secrets.digests), len(ends) + 1)) if each != position]
    left = SealedSecrets(tuple(secrets.digests[each] for each in kept), secrets.key)
    # The adopted secret is the oldest one.
    adopted = None if position == len(ends) else record.adopted
    return replace(record, previous_secrets_expire_at=remaining, adopted=adopted), left


def without_previous_secrets(record: APIKey) -> APIKey:
    """Return the key with its newest secret only: a digest without an entry in this list opens nothing."""
    return replace(record, previous_secrets_expire_at=(), adopted=None)


def count_previous_secrets(record: APIKey, now: datetime) -> int:
    """Count the previous secrets that still work."""
    return sum(end > now for end in record.previous_secrets_expire_at)


def refuse_unless_unused(record: APIKey, last_use: LastUse | None, unused_for: timedelta, now: datetime) -> None:
    """Raise `SecretInUse` unless the previous secrets have been unused for a duration, given their last use."""
    if last_use is not None and now - last_use.at < unused_for:
        raise SecretInUse(
            f"a previous secret of key {record.id} was last used {last_use.at.isoformat(timespec='seconds')} from "
            f"{last_use.address or 'an unknown address'}, less than {in_words(unused_for)} ago"
        )
    if record.rolled_at is None or now - record.rolled_at < unused_for:
        raise SecretInUse(
            f"key {record.id} was rolled less than {in_words(unused_for)} ago: "
            "its previous secrets cannot have been unused for that long"
        )
