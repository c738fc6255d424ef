"""The life of a key: create, update, revoke, reveal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from flask_apikey.core.errors import (
    AlreadyExists,
    InvalidValue,
    NotRecoverable,
    RowDamaged,
    RowTampered,
    SealUnreadable,
    StorageError,
)
from flask_apikey.core.keys.ceiling import Ceiling
from flask_apikey.core.keys.delegation import Delegation
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model import keystring
from flask_apikey.core.model.history import REVEALED, REVOKED, ROWS_OF_STORAGE, UPDATED
from flask_apikey.core.model.keys import APIKey, IssuedKey, StoredKey
from flask_apikey.core.model.validation import (
    checked_duration,
    checked_fields,
    checked_id,
    checked_moment,
    checked_owner,
    checked_reason,
)
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.text import sanitized
from flask_apikey.core.times import Clock, Duration, utc_now

_ID_ATTEMPTS = 3
_PAGE = 500
_ATTRIBUTES = {"name", "owner", "scopes", "allowed_ips", "denied_ips", "metadata", "plan", "rate", "quota"}


class Unset(Enum):
    """Type of `UNSET`."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
"""Default of an argument for which None is a value of its own."""

Lifetime: TypeAlias = Duration | Literal[Unset.UNSET] | None


def chosen_owner(value: str | Unset | None) -> str | None:
    """Validate the owner whose keys are chosen. `UNSET` chooses the keys of all owners, and becomes None.

    Raises:
        InvalidValue: The value is None, as that of a user without an id: it must not choose everybody's keys.
    """
    if value is UNSET:
        return None
    if value is None:
        raise InvalidValue("owner must not be None where keys are chosen: leave it out for the keys of all owners")
    return checked_owner(value)


class KeyLifecycle:
    """Creates and changes keys, within a ceiling if there is one."""

    def __init__(
        self,
        repository: KeyRepository,
        policy: IssuePolicy | None = None,
        clock: Clock = utc_now,
        ceiling: Ceiling | Delegation | None = None,
    ) -> None:
        self._repository = repository
        self._policy = policy or IssuePolicy()
        self._clock = clock
        self._ceiling = ceiling

    def for_owner(
        self,
        owner: str,
        scopes: frozenset[str],
        plan: str | None = None,
        rate: str | None = None,
        quota: str | None = None,
    ) -> "KeyLifecycle":
        """Return the lifecycle of one owner's keys.

        They get these scopes and the default lifetime at most. New ones get this plan, rate and quota.
        """
        ceiling = Ceiling(scopes, self._policy.lifetime, plan, rate, quota)
        return KeyLifecycle(self._repository.for_owner(owner), self._policy, self._clock, ceiling)

    def create(
        self,
        *,
        lifetime: Lifetime = UNSET,
        expires_at: datetime | None = None,
        reason: str | None = None,
        key_id: str | None = None,
        **attributes: object,
    ) -> IssuedKey:
        """Issue a key; see `APIKeys.create`.

        With `key_id`, the key gets this new id, so that the same call makes no second key.

        Raises:
            AlreadyExists: A key has the id `key_id`.
        """
        reason = checked_reason(reason)
        record = self.new_record(self._clock(), lifetime, expires_at, attributes)
        if key_id is not None:
            if key_id in ROWS_OF_STORAGE:
                raise InvalidValue("this id is that of no key")
            record = replace(record, id=checked_id(key_id))
        for _ in range(_ID_ATTEMPTS):
            issued = self._policy.issue(record)
            try:
                self._repository.add(record, self._policy.secrets_of(issued), reason=reason)
            except AlreadyExists:
                if key_id is not None:
                    raise
                record = replace(record, id=keystring.new_id())
            else:
                return issued
        raise StorageError(
            f"no key was issued: the storage claims that {_ID_ATTEMPTS} random ids in a row exist already. "
            "Either the storage is wrong, or the random numbers of this machine repeat"
        )

    def create_many(
        self, keys: Iterable[Mapping[str, Any]], *, owner: str | None = None, reason: str | None = None
    ) -> list[IssuedKey]:
        """Issue many keys; see `APIKeys.create_many`. With `owner`, no key may name another."""
        reason = checked_reason(reason)
        now = self._clock()
        records = []
        for position, arguments in enumerate(keys):
            try:
                records.append(self._record_of(now, arguments, owner))
            except InvalidValue as exc:
                raise InvalidValue(f"keys[{position}]: {exc}; no key was issued") from None
        if not records:
            return []
        issued = [self._policy.issue(record) for record in records]
        try:
            self._repository.add_many([(each.record, self._policy.secrets_of(each)) for each in issued], reason=reason)
        except (AlreadyExists, StorageError) as exc:
            raise StorageError(f"{exc}; {self._stored_of(records)}") from exc
        return issued

    def get(self, key_id: str) -> APIKey:
        """Return the record of a key; see `APIKeys.get`."""
        return self._repository.get(key_id).record

    def update(
        self,
        key_id: str,
        changes: Mapping[str, object],
        *,
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> APIKey:
        """Change the named fields of a key; see `APIKeys.update`."""
        checked = checked_fields(changes)
        self._refuse_unusable_limits(checked.get("plan"), checked.get("quota"))
        reason = checked_reason(reason)
        names = sorted(changes)

        def updated(stored: StoredKey) -> Change | None:
            record = replace(stored.record, **checked)
            if record == stored.record:
                return None
            if self._ceiling is not None:
                self._ceiling.check(stored.record, record, self._clock())
            return Change(record, UPDATED, {"fields": names}, reason)

        return self._repository.change(key_id, updated, expected_version)[0].record

    def revoke(self, key_id: str, *, expected_version: int | None = None, reason: str | None = None) -> APIKey:
        """Revoke a key; see `APIKeys.revoke`."""
        reason = checked_reason(reason)

        def revoked(stored: StoredKey) -> Change | None:
            if stored.record.revoked_at is not None:
                return None
            record = replace(stored.record, revoked_at=self._clock(), revocation_reason=reason)
            return Change(record, REVOKED, reason=reason)

        try:
            return self._repository.change(key_id, revoked, expected_version)[0].record
        except (RowDamaged, RowTampered, SealUnreadable):
            return self._repository.revoke_unsealed(key_id, reason)

    def reveal(self, key_id: str, *, reason: str | None = None) -> str:
        """Return the key string of a recoverable key; see `APIKeys.reveal`."""
        reason = checked_reason(reason)
        if not self._policy.recoverable:
            raise NotRecoverable("keys are not recoverable: APIKEY_RECOVERABLE is off")
        stored, _ = self._repository.change(key_id, partial(self._revealed, reason))
        # The change keeps the secrets, so that this is the key that was there when it was recorded.
        return self._repository.secrets_of(stored).key or ""

    def _revealed(self, reason: str | None, stored: StoredKey) -> Change:
        if self._repository.secrets_of(stored).key is None:
            raise NotRecoverable(
                f"key {stored.record.id} was issued while APIKEY_RECOVERABLE was off: roll it to get a new secret"
            )
        return Change(stored.record, REVEALED, reason=reason)

    def _record_of(self, now: datetime, arguments: Mapping[str, Any], owner: str | None) -> APIKey:
        """Validate the arguments of `APIKeys.create`, which may come from JSON."""
        if not isinstance(arguments, Mapping):
            raise InvalidValue(f"the arguments of create must be a mapping, not {type(arguments).__name__}")
        attributes = {"metadata": {}, **arguments}
        lifetime, expires_at = attributes.pop("lifetime", UNSET), attributes.pop("expires_at", None)
        unknown = sorted(str(name) for name in attributes.keys() - _ATTRIBUTES)
        if owner is not None and "owner" in attributes:
            unknown.append("owner")
        if unknown:
            raise InvalidValue(f"create has no argument {sanitized(', '.join(unknown))}")
        if "name" not in attributes:
            raise InvalidValue("name is missing")
        if attributes["metadata"] is None:
            attributes["metadata"] = {}
        if owner is not None:
            attributes["owner"] = owner
        return self.new_record(now, lifetime, expires_at, attributes)

    def new_record(
        self,
        now: datetime,
        lifetime: Lifetime,
        expires_at: datetime | None,
        attributes: Mapping[str, object],
        given: Mapping[str, Any] | None = None,
    ) -> APIKey:
        """Validate the attributes of a new key, and return its record. Nothing is stored.

        Args:
            now: The present moment, in UTC.
            lifetime: Time until it expires.
            expires_at: Time of expiry, in place of a lifetime.
            attributes: Attributes to validate.
            given: Valid fields of the record, in place of a random id and others.
        """
        if self._ceiling is not None:
            limits = {"plan": self._ceiling.plan, "rate": self._ceiling.rate, "quota": self._ceiling.quota}
            attributes = {**limits, **attributes}
        fields = {
            "prefix": self._policy.prefix,
            "created_at": now,
            "updated_at": now,
            "expires_at": self._expiry(now, lifetime, expires_at),
            **checked_fields(attributes),
            **(given or {"id": keystring.new_id()}),
        }
        record = APIKey(**fields)
        self._refuse_unusable_limits(record.plan, record.quota)
        if self._ceiling is not None:
            self._ceiling.check(None, record, now)
        return record

    def _refuse_unusable_limits(self, plan: str | None, quota: str | None) -> None:
        if plan is not None and plan not in self._policy.plans:
            known = ", ".join(sorted(self._policy.plans)) or "none"
            raise InvalidValue(f"plan {plan!r} is not in APIKEY_PLANS, which has: {known}")
        if quota is not None and not self._repository.keeps_quotas:
            raise InvalidValue("quota: this storage keeps no quotas")

    def _stored_of(self, records: Sequence[APIKey]) -> str:
        """Say how many of the keys are stored although issuing them failed."""
        stored = 0
        try:
            for start in range(0, len(records), _PAGE):
                page = {record.id: record for record in records[start : start + _PAGE]}
                found = self._repository.find(KeyFilter(ids=page.keys()), limit=len(page))
                stored += sum(key.record == page[key.record.id] for key in found)
        except StorageError:
            return "whether some of the keys are stored is unknown"
        if not stored:
            return "no key was issued"
        return (
            f"{stored} of {len(records)} keys are stored, with secrets that nobody knows: "
            f"revoke the keys that were created at {records[0].created_at.isoformat()}"
        )

    def _expiry(self, now: datetime, lifetime: Lifetime, expires_at: datetime | None) -> datetime | None:
        if expires_at is not None:
            if lifetime is not UNSET:
                raise InvalidValue("lifetime and expires_at exclude each other")
            moment = checked_moment(expires_at, "expires_at")
            if moment <= now:
                raise InvalidValue("expires_at must be in the future")
            return moment
        if lifetime is UNSET:
            lifetime = self._policy.lifetime
        return None if lifetime is None else now + checked_duration(lifetime, "lifetime")
