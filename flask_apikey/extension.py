"""`APIKeys`: puts the parts together, one state for each application."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask

from flask_apikey import decorators as protection
from flask_apikey.app_state import ApplicationState, state_of
from flask_apikey.core.addresses import parse_address
from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.keys.bulk import BulkRevocation
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.grace import FinishedRoll
from flask_apikey.core.keys.lifecycle import Default, Lifetime
from flask_apikey.core.model.history import CREATED, REVEALED, REVOKED, ROLLED, SECRETS_ENDED, UPDATED
from flask_apikey.core.model.keys import APIKey, IssuedKey, Status
from flask_apikey.core.model.validation import checked_duration
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import Clock, Duration, in_words, utc_now
from flask_apikey.core.usage.reports import UsageBy, UsageReport
from flask_apikey.request.current import EXTENSION_NAME, OwnerLoader
from flask_apikey.signals import (
    api_key_created,
    api_key_revealed,
    api_key_rolled,
    api_key_updated,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from flask_apikey.core.model.updates import Changes


class APIKeys:
    """API keys for Flask applications.

    Args:
        app: Calls `init_app` at once.
        backend: Where keys are kept, in place of ``APIKEY_STORAGE_URI``.
        clock: Gives the present moment in UTC, for tests.

    One object serves any number of applications. Its methods work on the
    application whose context is active, and raise what is named there:
    `StorageError` when the storage fails, `KeyNotFound` for an unknown id,
    `InvalidValue` for a value that cannot be stored.
    """

    def __init__(self, app: Flask | None = None, *, backend: Backend | None = None, clock: Clock = utc_now) -> None:
        self._backend = backend
        self._clock = clock
        self.loads_owners_with: OwnerLoader | None = None
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, *, backend: Backend | None = None, clock: Clock | None = None) -> None:
        """Check the configuration of an application and hook into its requests.

        Args:
            app: The application.
            backend: Where its keys are kept, in place of the `backend` that was given to the constructor.
            clock: Its clock, in place of the one that was given there.

        Raises:
            ConfigurationError: A setting is wrong; the message says which and what to do.
        """
        if EXTENSION_NAME in app.extensions:
            raise ConfigurationError(f"an APIKeys is initialised for {app.import_name!r} already: use that one")
        state = ApplicationState(
            app,
            self,
            self._backend if backend is None else backend,
            self._clock if clock is None else clock,
        )
        app.extensions[EXTENSION_NAME] = state
        app.before_request(state.enforcement.before_request)
        app.after_request(state.enforcement.after_request)

    def owner_loader(self, loader: OwnerLoader) -> OwnerLoader:
        """Decorate the function that turns an owner's id into your user or tenant.

        It is called when ``current_api_key.owner`` is first read in a request.
        """
        self.loads_owners_with = loader
        return loader

    def protect(self, blueprint: Blueprint, *, scopes: Iterable[str] = ()) -> None:
        """Let every view of a blueprint, and of those nested in it, be called with a key only.

        It may be registered before or after.

        Args:
            blueprint: The blueprint.
            scopes: The key must have them all.
        """
        protection.protect(blueprint, protection.checked_requirement(scopes))

    def init_storage(self) -> None:
        """Make the tables and indexes of the storage where they are missing."""
        self._state().backend.init_storage()

    def create(
        self,
        *,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        lifetime: Lifetime = Default.LIFETIME,
        expires_at: datetime | None = None,
        allowed_ips: Iterable[str] = (),
        denied_ips: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> IssuedKey:
        """Issue a new key. See `Lifecycle.create`."""
        state = self._state()
        issued = state.lifecycle.create(
            name=name,
            owner=owner,
            scopes=scopes,
            lifetime=lifetime,
            expires_at=expires_at,
            allowed_ips=allowed_ips,
            denied_ips=denied_ips,
            metadata=metadata,
        )
        state.announce(CREATED, api_key_created, issued.record)
        return issued

    def get(self, key_id: str) -> APIKey:
        """The record of a key."""
        return self._state().lifecycle.get(key_id)

    def list(
        self,
        *,
        owner: str | None = None,
        status: Status | str | None = None,
        expiring_within: Duration | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[APIKey]:
        """The records of many keys, oldest first. See `Lifecycle.list`."""
        return self._state().lifecycle.list(
            owner=owner, status=status, expiring_within=expiring_within, after=after, limit=limit
        )

    def update(self, key_id: str, **changes: "Unpack[Changes]") -> APIKey:
        """Change what is named and nothing else. See `Lifecycle.update`."""
        state = self._state()
        outcome = state.lifecycle.update(key_id, **changes)
        if outcome.is_changed:
            state.announce(UPDATED, api_key_updated, outcome.record, ", ".join(sorted(changes)))
        return outcome.record

    def revoke(self, key_id: str, *, reason: str | None = None) -> APIKey:
        """End a key for good, from the next request on. See `Lifecycle.revoke`."""
        state = self._state()
        outcome = state.lifecycle.revoke(key_id, reason=reason)
        if outcome.is_changed:
            state.announce_ended(outcome.record, REVOKED, reason)
        return outcome.record

    def revoke_many(
        self,
        *,
        owner: str | None = None,
        issued_before: datetime | None = None,
        reason: str | None = None,
        dry_run: bool = False,
    ) -> BulkRevocation:
        """End every active key of an owner, or every secret that was issued before a moment, or both.

        See `Lifecycle.revoke_many`.
        """
        state = self._state()
        return state.lifecycle.revoke_many(
            owner=owner,
            issued_before=issued_before,
            reason=reason,
            dry_run=dry_run,
            progress=None if dry_run else partial(state.announce_ended, reason=reason),
        )

    def roll(self, key_id: str, *, grace: Duration = timedelta(0), expected_version: int | None = None) -> IssuedKey:
        """Give a key a new secret. See `Lifecycle.roll`."""
        state = self._state()
        issued = state.lifecycle.roll(key_id, grace=grace, expected_version=expected_version)
        state.announce(ROLLED, api_key_rolled, issued.record)
        return issued

    def finish_roll(self, key_id: str, *, idle: Duration) -> FinishedRoll:
        """End the secrets that rolls left working, if none of them was used for a while. See `Lifecycle.finish_roll`.

        What this process counted is stored first. Other processes store theirs within
        ``APIKEY_USAGE_FLUSH_INTERVAL``.
        """
        idle = checked_duration(idle, "idle")
        state = self._state()
        state.store_uses()
        finished = state.lifecycle.finish_roll(key_id, idle=idle)
        if finished.ended:
            state.announce_ended(finished.record, SECRETS_ENDED, f"unused for {in_words(idle)}")
        return finished

    def end_previous_secrets(self, key_id: str, *, reason: str | None = None) -> FinishedRoll:
        """End every secret that rolls left working, used or not. See `Lifecycle.end_previous_secrets`."""
        state = self._state()
        finished = state.lifecycle.end_previous_secrets(key_id, reason=reason)
        if finished.ended:
            state.announce_ended(finished.record, SECRETS_ENDED, reason)
        return finished

    def end_secret(self, key_id: str, position: int, *, expected_version: int, reason: str | None = None) -> APIKey:
        """End one of the secrets that a roll left working, before its time. See `Lifecycle.end_secret`."""
        state = self._state()
        record = state.lifecycle.end_secret(key_id, position, expected_version=expected_version, reason=reason)
        state.announce_ended(record, SECRETS_ENDED, reason)
        return record

    def reveal(self, key_id: str) -> str:
        """The key string of a recoverable key. See `Lifecycle.reveal`."""
        state = self._state()
        key = state.lifecycle.reveal(key_id)
        state.announce(REVEALED, api_key_revealed, state.lifecycle.get(key_id))
        return key

    def verify(self, key: str, *, address: str | None = None) -> Decision:
        """Decide on a key outside of a request, as a request from `address` would be decided.

        Raises:
            InvalidValue: `key` is no text, or `address` no IP address.
        """
        if not isinstance(key, str):
            raise InvalidValue(f"key must be a str, not {type(key).__name__}")
        caller = parse_address(address) if isinstance(address, str) else None
        if caller is None and address is not None:
            raise InvalidValue(f"address must be an IP address, not {address!r:.100}")
        return self._state().authenticator.authenticate(Credentials(key), caller)

    def usage(
        self,
        id: str | None = None,  # noqa: A002  # what it is called everywhere
        *,
        owner: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        by: UsageBy | str = UsageBy.ENDPOINT,
    ) -> UsageReport:
        """What was counted, of all keys, of one, or of an owner's. See `UsageReports.report`.

        What this process counted is stored first. Other processes store theirs within
        ``APIKEY_USAGE_FLUSH_INTERVAL``.
        """
        state = self._state()
        if state.usage is not None:
            state.usage.flush()
        return state.usage_reports.report(key_id=id, owner=owner, since=since, until=until, by=by)

    @property
    def rotation(self) -> FernetRotation:
        """The rotation of the Fernet key.

        Raises:
            ConfigurationError: The storage cannot re-seal keys.
        """
        return self._state().rotation

    def prune(self, *, ended_before: datetime, dry_run: bool = False) -> int:
        """Remove keys that were revoked or expired before a moment. See `Lifecycle.prune`."""
        state = self._state()
        return state.lifecycle.prune(
            ended_before=ended_before, dry_run=dry_run, progress=None if dry_run else state.announce_pruned
        )

    def _state(self) -> ApplicationState:
        return state_of(self)
