"""What a roll leaves working of the secrets before it, and how that ends early."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from flask_apikey.core.errors import Conflict, SecretInUse, TooManySecrets
from flask_apikey.core.model.keys import APIKey, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets
from flask_apikey.core.model.usage import LastUse
from flask_apikey.core.times import in_words

MAX_SECRETS = 8


@dataclass(frozen=True, slots=True)
class FinishedRoll:
    """A key of which the newest secret alone works.

    Attributes:
        record: What is stored of it.
        ended: How many previous secrets were ended; 0 where none worked any more.
    """

    record: APIKey
    ended: int


def left_working(
    stored: StoredKey, ring: FernetKeyring, grace: timedelta, now: datetime
) -> tuple[tuple[bytes, ...], tuple[datetime, ...]]:
    """The digests of the secrets that still work after a roll with a grace, and when each ends.

    Raises:
        TooManySecrets: There is no room for a new one beside them.
        SealUnreadable: There is a grace, and the seal cannot be read.
    """
    record = stored.record
    # Without a grace nothing of the old seal is needed: a key can be rolled although its Fernet key is lost.
    digests = ring.unseal(stored.seal).digests if grace else ()
    latest_end = now + grace if record.expires_at is None else min(record.expires_at, now + grace)
    ends = [latest_end, *(min(end, latest_end) for end in record.previous_secrets_expire_at)]
    working = [(digest, end) for digest, end in zip(digests, ends, strict=False) if end > now]
    if len(working) >= MAX_SECRETS:
        raise TooManySecrets(
            f"key {record.id} has {len(working)} secrets that still work: wait for one to end, or roll with grace 0"
        )
    return tuple(digest for digest, _ in working), tuple(end for _, end in working)


def without_secret(stored: StoredKey, ring: FernetKeyring, position: int) -> StoredKey:
    """The key without one of the secrets that a roll left working.

    Args:
        stored: The key.
        ring: The application's Fernet keys.
        position: Which secret: 1 for the one before the newest, and so on.

    Raises:
        Conflict: The key has no such secret any more.
        SealUnreadable: The seal cannot be read.
    """
    record = stored.record
    if not 0 < position <= len(record.previous_secrets_expire_at):
        raise Conflict(f"key {record.id} has no previous secret at position {position}")
    secrets = ring.unseal(stored.seal)
    digests = (*secrets.digests[:position], *secrets.digests[position + 1 : len(record.previous_secrets_expire_at) + 1])
    previous_secrets_expire_at = (
        *record.previous_secrets_expire_at[: position - 1],
        *record.previous_secrets_expire_at[position:],
    )
    return StoredKey(
        replace(record, previous_secrets_expire_at=previous_secrets_expire_at),
        ring.seal(SealedSecrets(digests, secrets.key)),
    )


def without_previous_secrets(stored: StoredKey) -> StoredKey:
    """The key with its newest secret alone.

    The seal stays, and can be one that this process cannot read: a digest behind
    the last of ``APIKey.previous_secrets_expire_at`` opens nothing.
    """
    return replace(stored, record=replace(stored.record, previous_secrets_expire_at=()))


def working_previous_secrets(record: APIKey, now: datetime) -> int:
    """How many of the secrets that rolls replaced still work."""
    return sum(end > now for end in record.previous_secrets_expire_at)


def has_previous_secrets(record: APIKey, now: datetime) -> bool:
    """Whether a secret that a roll replaced still works."""
    return bool(working_previous_secrets(record, now))


def refuse_unless_idle(record: APIKey, last_use: LastUse | None, idle: timedelta, now: datetime) -> None:
    """Make sure that no previous secret was used for a while.

    Args:
        record: The key.
        last_use: Of the previous secrets.
        idle: How long.
        now: The present moment.

    Raises:
        SecretInUse: One was used since, or could not have been unused for so long.
    """
    if last_use is not None and now - last_use.at < idle:
        raise SecretInUse(
            f"a previous secret of key {record.id} was last used {last_use.at.isoformat(timespec='seconds')} from "
            f"{last_use.address or 'an unknown address'}, less than {in_words(idle)} ago"
        )
    if record.rolled_at is None or now - record.rolled_at < idle:
        raise SecretInUse(
            f"key {record.id} was rolled less than {in_words(idle)} ago: "
            "its previous secrets cannot have been unused for so long"
        )
