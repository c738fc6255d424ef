"""What is known of a key: frozen, typed, times in UTC."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.sealing import Seal
from flask_apikey.core.times import from_microseconds, to_isoformat, to_microseconds


class Status(Enum):
    """Whether a key opens anything."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class APIKey:
    """The record of a key. It holds no secret.

    Attributes:
        id: The public id, part of the key string.
        prefix: What the key string begins with.
        name: What people call it.
        owner: The id of the user or tenant it was issued to.
        scopes: What it may be used for; ``"*"`` is everything.
        allowed_ips: Networks in canonical form; when not empty, only these.
        denied_ips: Networks in canonical form; these never.
        metadata_json: JSON object of the application, as text.
        created_at: UTC.
        updated_at: UTC, of the last change to this record.
        expires_at: UTC; None never expires.
        rolled_at: UTC, when the current secret replaced another.
        previous_secrets_expire_at: UTC, when each previous secret that was left working ends, newest first.
        revoked_at: UTC.
        revocation_reason: What was given with the revocation.
        version: Counts the changes, from 1.
    """

    id: str
    prefix: str
    name: str
    owner: str | None = None
    scopes: frozenset[str] = frozenset()
    allowed_ips: tuple[str, ...] = ()
    denied_ips: tuple[str, ...] = ()
    metadata_json: str = "{}"
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    rolled_at: datetime | None = None
    previous_secrets_expire_at: tuple[datetime, ...] = ()
    revoked_at: datetime | None = None
    revocation_reason: str | None = None
    version: int = 1

    @property
    def metadata(self) -> dict[str, Any]:
        """The JSON object of the application; a copy that may be changed."""
        parsed: dict[str, Any] = json.loads(self.metadata_json)
        return parsed

    @property
    def issued_at(self) -> datetime:
        """When the current secret was issued; UTC."""
        return self.rolled_at or self.created_at

    def status(self, now: datetime) -> Status:
        """Whether the key opens anything at `now`."""
        if self.revoked_at is not None:
            return Status.REVOKED
        if self.expires_at is not None and self.expires_at <= now:
            return Status.EXPIRED
        return Status.ACTIVE

    def missing_scopes(self, required: frozenset[str]) -> frozenset[str]:
        """Those of the `required` scopes that this key does not have."""
        if not required or "*" in self.scopes:
            return frozenset()
        return required - self.scopes

    @property
    def cursor(self) -> str:
        """The position of this key in a listing, to continue from."""
        return f"{to_microseconds(self.created_at)}.{self.id}"

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values, times in ISO 8601."""
        return {
            "id": self.id,
            "prefix": self.prefix,
            "name": self.name,
            "owner": self.owner,
            "scopes": sorted(self.scopes),
            "allowed_ips": list(self.allowed_ips),
            "denied_ips": list(self.denied_ips),
            "metadata": self.metadata,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "expires_at": to_isoformat(self.expires_at),
            "rolled_at": to_isoformat(self.rolled_at),
            "previous_secrets_expire_at": [end.isoformat() for end in self.previous_secrets_expire_at],
            "revoked_at": to_isoformat(self.revoked_at),
            "revocation_reason": self.revocation_reason,
            "version": self.version,
        }


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What a backend keeps: the record and the seal of its secrets."""

    record: APIKey
    seal: Seal


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key just made. The key string is shown here and nowhere else.

    Attributes:
        key: The key string to hand to the client, once.
        record: What is stored of it.
    """

    key: str = field(repr=False)
    record: APIKey


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a listing: after the key made at `created_at` with this `id`."""

    created_at: datetime
    id: str

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read what `APIKey.cursor` gave.

        Raises:
            InvalidValue: It is not such a text.
        """
        try:
            created_at, key_id = text.split(".")
            if is_id(key_id):
                return cls(from_microseconds(int(created_at)), key_id)
        except (AttributeError, ValueError, OverflowError):
            pass
        raise InvalidValue("the cursor is not one that a listing gave")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """A change of the Fernet key, from the start until nothing is sealed under the old one.

    Attributes:
        from_fingerprint: Of the Fernet key that is to be retired.
        to_fingerprint: Of the one that takes its place.
        started_at: UTC.
        due_at: UTC, when it should be finished.
        finished_at: UTC; None while it is under way.
        version: Counts the changes, from 1.
    """

    from_fingerprint: str
    to_fingerprint: str
    started_at: datetime
    due_at: datetime
    finished_at: datetime | None = None
    version: int = 1

    def is_overdue(self, now: datetime) -> bool:
        """Whether it should be finished and is not."""
        return self.finished_at is None and self.due_at <= now

    def to_dict(self) -> dict[str, Any]:
        """The rotation as JSON values, times in ISO 8601."""
        return {
            "from": self.from_fingerprint,
            "to": self.to_fingerprint,
            "started_at": self.started_at.isoformat(),
            "due_at": self.due_at.isoformat(),
            "finished_at": to_isoformat(self.finished_at),
        }


@dataclass(frozen=True, slots=True)
class Resealing:
    """A seal in place of another that holds the same secrets."""

    key_id: str
    old: Seal
    new: Seal
