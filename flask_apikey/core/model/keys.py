"""Records of keys and of Fernet key rotations. All are immutable, with times in UTC."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.scopes import uncovered
from flask_apikey.core.model.sealing import Seal
from flask_apikey.core.times import from_microseconds, to_isoformat, to_microseconds


class Status(Enum):
    """Status of a key. Only active keys are accepted."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class APIKey:
    """Record of a key. It contains no secret.

    Attributes:
        id: The public id, part of the key string.
        prefix: The prefix of the key string.
        name: A name for people.
        owner: The id of the user or tenant; None if the key has no owner.
        scopes: The scopes of the key; ``"*"`` grants all, ``"reports:*"`` all that begin with ``reports:``.
        allowed_ips: Canonical networks. If not empty, other addresses are refused.
        denied_ips: Canonical networks that are refused.
        plan: Name of its plan in ``APIKEY_PLANS``; None for the plan of its owner, if there is one.
        rate: Rates in place of the plan's, such as ``60/minute; 1000/hour``; None for those of the plan.
        quota: Quota in place of the plan's, such as ``10000/month``; None for that of the plan.
        metadata_json: The application's metadata, a JSON object as text.
        created_at: Time of creation.
        updated_at: Time of the last change.
        expires_at: Time of expiry; None if the key never expires.
        rolled_at: Time of the last roll; None if the key was never rolled.
        previous_secrets_expire_at: Expiry of each previous secret in its grace period, newest first.
        suspended_at: Time of the suspension; None if the key is not suspended.
        suspension_reason: The reason of the suspension, if given.
        revoked_at: Time of the revocation; None if the key is not revoked.
        revocation_reason: The reason of the revocation, if given.
        pruned_at: Time of the removal, for a tombstone; None for a key.
        adopted: Form of a key that another system issued, such as ``sha256``, while it has that secret; else None.
        version: Number of the last change, from 1.
    """

    id: str
    prefix: str
    name: str
    owner: str | None = None
    scopes: frozenset[str] = frozenset()
    allowed_ips: tuple[str, ...] = ()
    denied_ips: tuple[str, ...] = ()
    plan: str | None = None
    rate: str | None = None
    quota: str | None = None
    metadata_json: str = "{}"
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    rolled_at: datetime | None = None
    previous_secrets_expire_at: tuple[datetime, ...] = ()
    suspended_at: datetime | None = None
    suspension_reason: str | None = None
    revoked_at: datetime | None = None
    revocation_reason: str | None = None
    pruned_at: datetime | None = None
    adopted: str | None = None
    version: int = 1

    @property
    def metadata(self) -> dict[str, Any]:
        """The application's metadata, as a new dictionary."""
        parsed: dict[str, Any] = json.loads(self.metadata_json)
        return parsed

    @property
    def issued_at(self) -> datetime:
        """Time when the current secret was issued."""
        return self.rolled_at or self.created_at

    def status(self, now: datetime) -> Status:
        """Return the status of the key at `now`."""
        if self.revoked_at is not None:
            return Status.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return Status.EXPIRED
        if self.suspended_at is not None:
            return Status.SUSPENDED
        return Status.ACTIVE

    def has_ended(self, now: datetime) -> bool:
        """Return True if the key is revoked or expired at `now`."""
        return self.status(now) in {Status.REVOKED, Status.EXPIRED}

    def missing_scopes(self, required: frozenset[str]) -> frozenset[str]:
        """Return the `required` scopes that this key lacks."""
        missing = required - self.scopes
        # Wildcards cost nothing where the key has every scope as it is written.
        return uncovered(self.scopes, missing) if missing else missing

    @property
    def cursor(self) -> str:
        """Position of this key in a listing, for the next page."""
        return f"{to_microseconds(self.created_at)}.{self.id}"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values, with times in ISO 8601."""
        return {
            "id": self.id,
            "prefix": self.prefix,
            "name": self.name,
            "owner": self.owner,
            "scopes": sorted(self.scopes),
            "allowed_ips": list(self.allowed_ips),
            "denied_ips": list(self.denied_ips),
            "plan": self.plan,
            "rate": self.rate,
            "quota": self.quota,
            "metadata": self.metadata,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "expires_at": to_isoformat(self.expires_at),
            "rolled_at": to_isoformat(self.rolled_at),
            "previous_secrets_expire_at": [end.isoformat() for end in self.previous_secrets_expire_at],
            "suspended_at": to_isoformat(self.suspended_at),
            "suspension_reason": self.suspension_reason,
            "revoked_at": to_isoformat(self.revoked_at),
            "revocation_reason": self.revocation_reason,
            "adopted": self.adopted,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class StoredKey:
    """Stored form of a key.

    Attributes:
        record: The record.
        seal: The seal of its secrets and of all other fields.
        history_hash: Hash of the key's latest event; empty if the storage keeps no history.
    """

    record: APIKey
    seal: Seal
    history_hash: str = ""


@dataclass(frozen=True, slots=True)
class DamagedKey:
    """A stored row or document that does not hold a valid key.

    Attributes:
        id: The id of the row.
        problem: Description for an operator, without stored values.
    """

    id: str
    problem: str


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """New key, or new secret of a key.

    Attributes:
        key: The key string for the client. It is not available again.
        record: The stored record.
    """

    key: str = field(repr=False)
    record: APIKey


@dataclass(frozen=True, slots=True)
class Cursor:
    """Position in a listing, after a key.

    Attributes:
        created_at: Time of the key's creation.
        id: The key's public id.
    """

    created_at: datetime
    id: str

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Parse the text of `APIKey.cursor`.

        Raises:
            InvalidValue: The text has another form.
        """
        try:
            created_at, key_id = text.split(".")
            if is_id(key_id):
                return cls(from_microseconds(int(created_at)), key_id)
        except (AttributeError, ValueError, OverflowError):
            pass
        raise InvalidValue("the cursor is not from a listing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Rotation of the Fernet key.

    Attributes:
        from_fingerprint: Fingerprint of the Fernet key to retire.
        to_fingerprint: Fingerprint of the new Fernet key.
        started_at: Time of the start.
        due_at: Time by which it should be finished.
        finished_at: Time of the end; None while the rotation is in progress.
        version: Number of the last change, from 1.
    """

    from_fingerprint: str
    to_fingerprint: str
    started_at: datetime
    due_at: datetime
    finished_at: datetime | None = None
    version: int = 1

    def is_overdue(self, now: datetime) -> bool:
        """Return True if the rotation is unfinished at its due time."""
        return self.finished_at is None and self.due_at <= now

    def to_dict(self) -> dict[str, Any]:
        """Return the rotation as JSON values, with times in ISO 8601."""
        return {
            "from_fingerprint": self.from_fingerprint,
            "to_fingerprint": self.to_fingerprint,
            "started_at": self.started_at.isoformat(),
            "due_at": self.due_at.isoformat(),
            "finished_at": to_isoformat(self.finished_at),
        }


@dataclass(frozen=True, slots=True)
class Resealing:
    """Replacement of a seal by one with the same content.

    Attributes:
        key_id: The key.
        old: The seal to replace.
        new: Its replacement.
    """

    key_id: str
    old: Seal
    new: Seal
