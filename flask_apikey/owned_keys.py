"""`OwnedKeys`: the keys of one owner."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from flask_apikey.app_state import ApplicationState, StorageServices, current_application_state
from flask_apikey.core.errors import InvalidValue, KeyNotFound, RowDamaged
from flask_apikey.core.keys import bulk
from flask_apikey.core.keys.bulk import BulkRevocation
from flask_apikey.core.keys.finding import KeyFinder
from flask_apikey.core.keys.lifecycle import UNSET, KeyLifecycle, Lifetime, Unset
from flask_apikey.core.keys.rolling import FinishedRoll, KeyRolling
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.model.keys import APIKey, IssuedKey, Status
from flask_apikey.core.model.quotas import checked_quota
from flask_apikey.core.model.rates import checked_rate
from flask_apikey.core.model.validation import checked_owner, checked_plan, checked_scopes
from flask_apikey.core.times import Duration
from flask_apikey.core.usage.last_use import KeyLastUse
from flask_apikey.core.usage.reports import UsageBy, UsageReport


class OwnedKeys:
    """The keys of one owner. `APIKeys.for_owner` returns it.

    Its methods are those of `APIKeys`, for views in which owners manage their own keys:

    - Another owner's key does not exist. Its id raises `KeyNotFound`, with the message for an
      unknown id. This holds at the moment of a change, even if the key was handed over just before.
    - No method takes an owner.
    - There is no `resume`: an owner must not undo your suspension.
    - `create` and `update` give no more than the ceiling: the `scopes` of `APIKeys.for_owner`,
      and an expiry within ``APIKEY_LIFETIME`` from now. Beyond it they raise `InvalidValue`.
    - No method takes a plan, a rate or a quota. New keys have those of `APIKeys.for_owner`.

    A key that holds more, because somebody else gave it more, may keep that or lose it. It
    can be rolled, which hands out a new secret for all that it holds. An update cannot make it work longer.
    An expired key cannot be made to work again. Name, address lists and metadata are the owner's to change.

    Like the methods of `APIKeys`, these need an application context.
    """

    def __init__(
        self,
        extension: object,
        owner: str,
        scopes: Iterable[str],
        *,
        plan: str | Unset | None = UNSET,
        rate: str | None = None,
        quota: str | None = None,
    ) -> None:
        # Typed as object, since `extension` imports this module.
        checked = checked_owner(owner)
        if checked is None:
            raise InvalidValue("owner must not be None: no owner has the keys without an owner")
        self._extension = extension
        self._owner = checked
        self._scopes = checked_scopes(scopes)
        self._plan = plan if plan is UNSET else checked_plan(plan)
        self._rate = checked_rate(rate)
        self._quota = checked_quota(quota)

    def create(
        self,
        *,
        name: str,
        scopes: Iterable[str] = (),
        lifetime: Lifetime = UNSET,
        expires_at: datetime | None = None,
        allowed_ips: Iterable[str] = (),
        denied_ips: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> IssuedKey:
        """Issue a key for the owner; see `APIKeys.create`.

        Raises:
            InvalidValue: A value cannot be stored, or goes beyond the ceiling.
        """
        return self.creation.create(
            name=name,
            owner=self._owner,
            scopes=scopes,
            lifetime=lifetime,
            expires_at=expires_at,
            allowed_ips=allowed_ips,
            denied_ips=denied_ips,
            metadata={} if metadata is None else metadata,
            reason=reason,
        )

    def create_many(self, keys: Iterable[Mapping[str, Any]], *, reason: str | None = None) -> Sequence[IssuedKey]:
        """Issue many keys for the owner; see `APIKeys.create_many`.

        Raises:
            InvalidValue: A value cannot be stored, or goes beyond the ceiling. No key was issued.
        """
        return self.creation.create_many(keys, owner=self._owner, reason=reason)

    def get(self, key_id: str) -> APIKey:
        """Return the record of a key; see `APIKeys.get`."""
        return self._lifecycle.get(key_id)

    def list(
        self,
        *,
        status: Status | str | None = None,
        expiring_within: Duration | None = None,
        unused_for: Duration | None = None,
        search: str | None = None,
        adopted: bool | None = None,
        newest_first: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[APIKey]:
        """Iterate over the owner's keys, oldest first; see `APIKeys.list`."""
        return self._finder(unused_for).list(
            status=status,
            expiring_within=expiring_within,
            unused_for=unused_for,
            search=search,
            adopted=adopted,
            newest_first=newest_first,
            after=after,
            limit=limit,
        )

    def count(
        self,
        *,
        status: Status | str | None = None,
        expiring_within: Duration | None = None,
        unused_for: Duration | None = None,
        search: str | None = None,
        adopted: bool | None = None,
    ) -> int:
        """Count the keys that `list` would give for the same arguments."""
        return self._finder(unused_for).count(
            status=status, expiring_within=expiring_within, unused_for=unused_for, search=search, adopted=adopted
        )

    def last_uses(self, key_ids: Iterable[str]) -> Mapping[str, KeyLastUse]:
        """Read the last uses of the owner's keys; see `APIKeys.last_uses`."""
        self._flush_usage()
        return self._finder().last_uses(key_ids)

    def limits(self, key_id: str) -> KeyLimits:
        """Return the limits of a key, and what is left of them; see `APIKeys.limits`."""
        return self._state.enforcement.rate_check.limits_of(self._lifecycle.get(key_id))

    def update(
        self,
        key_id: str,
        *,
        name: str | Unset = UNSET,
        scopes: Iterable[str] | Unset = UNSET,
        allowed_ips: Iterable[str] | Unset = UNSET,
        denied_ips: Iterable[str] | Unset = UNSET,
        metadata: Mapping[str, Any] | Unset = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> APIKey:
        """Change the fields that are given; see `APIKeys.update`.

        Raises:
            KeyNotFound: The owner has no key with this id.
            Conflict: The key has another version.
            InvalidValue: A value cannot be stored, or goes beyond the ceiling; nothing was changed.
        """
        fields = {
            "name": name,
            "scopes": scopes,
            "allowed_ips": allowed_ips,
            "denied_ips": denied_ips,
            "metadata": metadata,
            "expires_at": expires_at,
        }
        changes = {field: value for field, value in fields.items() if value is not UNSET}
        return self._lifecycle.update(key_id, changes, expected_version=expected_version, reason=reason)

    def suspend(self, key_id: str, *, expected_version: int | None = None, reason: str | None = None) -> APIKey:
        """Suspend a key; see `APIKeys.suspend`. Only `APIKeys.resume` ends this."""
        suspension = self._services.suspension.for_owner(self._owner)
        return suspension.suspend(key_id, expected_version=expected_version, reason=reason)

    def revoke(self, key_id: str, *, expected_version: int | None = None, reason: str | None = None) -> APIKey:
        """End a key for good; see `APIKeys.revoke`."""
        return self._lifecycle.revoke(key_id, expected_version=expected_version, reason=reason)

    def revoke_many(
        self, *, issued_before: datetime | None = None, reason: str | None = None, dry_run: bool = False
    ) -> BulkRevocation:
        """Revoke all active keys of the owner, or those of their secrets that are older; see `APIKeys.revoke_many`."""
        return bulk.revoke_many(
            self._services.repository.for_owner(self._owner),
            self._state.clock,
            owner=self._owner,
            issued_before=issued_before,
            reason=reason,
            dry_run=dry_run,
        )

    def roll(
        self,
        key_id: str,
        *,
        grace: Duration = timedelta(0),
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> IssuedKey:
        """Give a key a new secret; see `APIKeys.roll`."""
        return self._rolling.roll(key_id, grace=grace, expected_version=expected_version, reason=reason)

    def finish_roll(
        self,
        key_id: str,
        *,
        unused_for: Duration | None = None,
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> FinishedRoll:
        """End the grace period of a key; see `APIKeys.finish_roll`."""
        if unused_for is not None:
            self._state.store_last_uses()
        return self._rolling.finish(key_id, unused_for=unused_for, expected_version=expected_version, reason=reason)

    def reveal(self, key_id: str, *, reason: str | None = None) -> str:
        """Return the key string of a recoverable key; see `APIKeys.reveal`."""
        return self._lifecycle.reveal(key_id, reason=reason)

    def usage(
        self,
        *,
        key_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        by: UsageBy | str = UsageBy.ENDPOINT,
    ) -> UsageReport:
        """Report the requests that were counted while their key was the owner's; see `APIKeys.usage`.

        Raises:
            KeyNotFound: The owner has no key with this id. A key that was pruned has none, but is
                found while it is counted.
        """
        self._flush_usage()
        report = self._state.usage_reports.report(key_id=key_id, owner=self._owner, since=since, until=until, by=by)
        if key_id is not None:
            self._refuse_handed_over(key_id)
        return report

    def _refuse_handed_over(self, key_id: str) -> None:
        # Last, so that the key of another owner costs the same as an unknown id.
        try:
            stored = self._services.backend.get(key_id)
        except RowDamaged:
            stored = None
        if stored is not None and stored.record.pruned_at is None and stored.record.owner != self._owner:
            raise KeyNotFound(f"no key has the id {key_id}")

    def _flush_usage(self) -> None:
        usage = self._state.usage
        if usage is not None:
            usage.flush()

    def _finder(self, unused_for: Duration | None = None) -> KeyFinder:
        if unused_for is not None:
            self._state.store_last_uses()
        return self._services.finder.for_owner(self._owner)

    @property
    def _state(self) -> ApplicationState:
        return current_application_state(self._extension)

    @property
    def _services(self) -> StorageServices:
        return self._state.services

    @property
    def _lifecycle(self) -> KeyLifecycle:
        return self._services.lifecycle.for_owner(self._owner, self._scopes)

    @property
    def creation(self) -> KeyLifecycle:
        """Lifecycle for new keys, which must not escape the limits of the owner's other keys."""
        state = self._state
        if self._plan is UNSET:
            has_limits = state.loaders.plan is not None or self._rate is not None or self._quota is not None
            if state.settings.plans and not has_limits:
                raise InvalidValue(
                    "the owner's new keys would have no limits: pass plan=… to for_owner(), or plan=None if they "
                    "need none, or register a plan loader"
                )
            plan = None
        else:
            plan = self._plan
        return self._services.lifecycle.for_owner(self._owner, self._scopes, plan, self._rate, self._quota)

    @property
    def _rolling(self) -> KeyRolling:
        return self._services.rolling.for_owner(self._owner)
