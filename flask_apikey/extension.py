"""`APIKeys`, the Flask extension."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from weakref import WeakSet

from flask import Blueprint, Flask

from flask_apikey import decorators
from flask_apikey.app_state import ApplicationState, current_application_state
from flask_apikey.core import actors
from flask_apikey.core.addresses import parse_address
from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.core.keys import bulk
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.keys.bulk import BulkRevocation, Progress
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.finding import KeyFinder
from flask_apikey.core.keys.lifecycle import UNSET, Lifetime, Unset, chosen_owner
from flask_apikey.core.keys.repair import RepairedKey
from flask_apikey.core.keys.rolling import FinishedRoll
from flask_apikey.core.keys.suspension import BulkSuspension
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.model.keys import APIKey, IssuedKey, Status
from flask_apikey.core.model.quotas import checked_addition
from flask_apikey.core.model.validation import checked_reason
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import Clock, Duration, utc_now
from flask_apikey.core.usage.last_use import KeyLastUse
from flask_apikey.core.usage.reports import UsageBy, UsageReport
from flask_apikey.doctor.fernet_keys import log_fernet_warnings
from flask_apikey.owned_keys import OwnedKeys
from flask_apikey.problems import APIKeyProblem
from flask_apikey.request.current import EXTENSION_NAME, ActorLoader, Loaders, OwnerLoader, PlanLoader


class APIKeys:
    """API keys for Flask applications.

    One object serves any number of applications. Its methods need an application
    context and work on that application; only `close` works on all of them.

    Every method that reads or writes keys raises `StorageError` when the storage
    fails. A method that takes the id of a key raises `KeyNotFound` when no key has
    this id. A change raises `RowTampered` when the stored row was changed outside of
    this library: only `revoke` and `repair` work on such a row. A value that cannot
    be stored raises `InvalidValue`, and nothing is written.

    Args:
        app: Application to initialise at once.
        backend: Storage of the keys, instead of the one that ``APIKEY_STORAGE_URI`` names.
        clock: Returns the current time in UTC; for tests.
    """

    def __init__(self, app: Flask | None = None, *, backend: Backend | None = None, clock: Clock = utc_now) -> None:
        self._backend = backend
        self._clock = clock
        self._loaders = Loaders()
        self._states: WeakSet[ApplicationState] = WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, *, backend: Backend | None = None, clock: Clock | None = None) -> None:
        """Validate the configuration of an application and register the request hooks.

        The check of a request comes before all other ``before_request`` functions, and the work on
        its answer after all other ``after_request`` functions.

        Args:
            app: The application.
            backend: Storage of its keys, instead of the constructor's `backend`.
            clock: Its clock, instead of the constructor's `clock`.

        Raises:
            ConfigurationError: A setting is wrong; the message names it and the cure.
        """
        if EXTENSION_NAME in app.extensions:
            raise ConfigurationError(f"an APIKeys is initialised for {app.import_name!r} already: use that one")
        chosen = self._backend if backend is None else backend
        if chosen is not None and not isinstance(chosen, Backend):
            # Not shown, because a URI may hold a password.
            raise ConfigurationError(
                f"backend must be a Backend, such as SQLBackend(engine) or MongoDBBackend(client), not "
                f"{type(chosen).__name__}. For a URI, set APIKEY_STORAGE_URI"
            )
        state = ApplicationState(
            app,
            self,
            chosen,
            self._clock if clock is None else clock,
            self._loaders,
        )
        log_fernet_warnings(app, state.settings)
        app.extensions[EXTENSION_NAME] = state
        self._states.add(state)
        if APIKeyProblem not in app.error_handler_spec[None][None]:
            # Handlers for every HTTPException, such as those of frameworks, would make other bodies.
            app.register_error_handler(APIKeyProblem, _keep)
        # First in both lists, whoever registered before: Flask calls it first before a request, and last after it.
        app.before_request_funcs.setdefault(None, []).insert(0, state.enforcement.before_request)
        app.after_request_funcs.setdefault(None, []).insert(0, state.enforcement.after_request)
        # Other functions before a request may choose another view or method than was checked.
        preprocess = partial(state.enforcement.preprocess, app.preprocess_request)
        app.preprocess_request = preprocess  # type: ignore[method-assign]  # Flask has no hook after those of blueprints

    def owner_loader(self, loader: OwnerLoader) -> OwnerLoader:
        """Register the function that turns an owner's id into your user or tenant.

        It is called on the first access to ``current_api_key.owner`` in a request. With
        ``APIKEY_CHECK_OWNER`` it is called for every accepted key that has an owner, before
        the view, and its result is kept for ``current_api_key.owner``. It then refuses the
        key by raising `OwnerInactive`, and has no key of the request itself.
        """
        self._loaders.owner = loader
        return loader

    def plan_loader(self, loader: PlanLoader) -> PlanLoader:
        """Register the function that turns an owner's id into the name of a plan in ``APIKEY_PLANS``.

        It is called in each request with a key that has an owner and no plan of its own. Return None
        for an owner without a plan. If it raises, the request is refused with 503.
        """
        self._loaders.plan = loader
        return loader

    def actor_loader(self, loader: ActorLoader) -> ActorLoader:
        """Register the function that names who acts in a request, for the history and the audit log.

        It is called without arguments on each change of a key in a request. Return None where
        nobody is known: the actor is then the accepted key of the request, as ``key:<id>``.
        A failure does not stop the change. It is logged, and the actor recorded as unknown.
        """
        self._loaders.actor = loader
        return loader

    def acting_as(self, name: str) -> AbstractContextManager[None]:
        """Name who makes the changes in a ``with`` block, for the history and the audit log.

        It holds for the current thread or task, and takes precedence over the actor loader.
        Blocks nest. No application context is needed.

        Args:
            name: 1 to 200 printable characters.

        Raises:
            InvalidValue: The name is not valid. Raised on entering the block.
        """
        return actors.acting_as(name)

    def protect(
        self,
        blueprint: Blueprint,
        *,
        scopes: Iterable[str] = (),
        any_scope: Iterable[str] | Unset = UNSET,
        report: bool = False,
    ) -> None:
        """Require a key for every view of a blueprint and of the blueprints nested in it.

        Call it before or after the blueprint is registered.

        Args:
            blueprint: The blueprint.
            scopes: The key must have them all.
            any_scope: The key must have one of them, besides all `scopes`.
            report: Let requests pass that would be refused, and record them. This includes those that
                ``@require_api_key`` or `check_api_key` refuses in views of the blueprint itself, but not in
                those of blueprints nested in it.

        Raises:
            InvalidValue: A scope is malformed or a wildcard, `any_scope` is empty, or `report` is True for a
                blueprint of this library.
        """
        decorators.protect(blueprint, scopes, any_scope, report=report)

    def init_storage(self) -> None:
        """Create missing tables and indexes. Idempotent."""
        self._state().backend.init_storage()

    def create(
        self,
        *,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        lifetime: Lifetime = UNSET,
        expires_at: datetime | None = None,
        allowed_ips: Iterable[str] = (),
        denied_ips: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        plan: str | None = None,
        rate: str | None = None,
        quota: str | None = None,
        reason: str | None = None,
    ) -> IssuedKey:
        """Issue a key.

        Args:
            name: Name for people, 1 to 200 characters.
            owner: Id of the user or tenant that the key is for.
            scopes: Scopes of the key. Without scopes it satisfies no scope requirement; ``"*"`` satisfies all,
                ``"reports:*"`` those for scopes that begin with ``reports:``.
            lifetime: Lifetime as a timedelta or text such as ``"90d"``; None for no expiry.
                ``APIKEY_LIFETIME`` by default.
            expires_at: Time of expiry, with a time zone, instead of a lifetime.
            allowed_ips: Addresses and networks that may use the key; any if empty.
            denied_ips: Addresses and networks that may not use the key.
            metadata: JSON object for the application's own use.
            plan: Name of a plan in ``APIKEY_PLANS``; by default the plan that the plan loader names for the owner.
            rate: Rates in place of the plan's, such as ``"60/minute"`` or ``"60/minute; 1000/hour"``.
            quota: Quota in place of the plan's, such as ``"10000/month"``.
            reason: Explanation for the history.

        Returns:
            The key string, which cannot be read again later, and its record.

        Raises:
            InvalidValue: A value cannot be stored.
            StorageError: The storage failed; no key was issued.
        """
        return self._state().services.lifecycle.create(
            name=name,
            owner=owner,
            scopes=scopes,
            lifetime=lifetime,
            expires_at=expires_at,
            allowed_ips=allowed_ips,
            denied_ips=denied_ips,
            metadata={} if metadata is None else metadata,
            plan=plan,
            rate=rate,
            quota=quota,
            reason=reason,
        )

    def create_many(self, keys: Iterable[Mapping[str, Any]], *, reason: str | None = None) -> Sequence[IssuedKey]:
        """Issue many keys in few statements, such as thousands for an import.

        Everything is validated before anything is written. SQL databases store all keys
        or none. If another storage fails in between, the error says how many keys it has.

        Args:
            keys: The arguments of `create` for each key, without a reason.
            reason: Explanation for the history of each key.

        Returns:
            The keys, in the same order.

        Raises:
            InvalidValue: A value cannot be stored; the message names its position. No key was issued.
            StorageError: The storage failed.
        """
        return self._state().services.lifecycle.create_many(keys, reason=reason)

    def adopt(
        self,
        *,
        digest: str | bytes,
        algorithm: str = "sha256",
        visible: str | None = None,
        name: str,
        owner: str | None = None,
        scopes: Iterable[str] = (),
        lifetime: Lifetime = UNSET,
        expires_at: datetime | None = None,
        created_at: datetime | None = None,
        allowed_ips: Iterable[str] = (),
        denied_ips: Iterable[str] = (),
        metadata: Mapping[str, Any] | None = None,
        plan: str | None = None,
        rate: str | None = None,
        quota: str | None = None,
        reason: str | None = None,
    ) -> APIKey:
        """Adopt a key that another system issued: the string that its holder has goes on working.

        ``APIKEY_ADOPTED_KEYS`` must name the form. The key has a record like any other, and a roll
        gives it a secret of this library.

        Args:
            digest: What the other system stored of the key: a digest in hexadecimal, base64 or bytes, or a hash.
            algorithm: Name of the form: ``"sha256"``, ``"sha512"``, or another one in ``APIKEY_ADOPTED_KEYS``.
            visible: Visible prefix or id of the key, for forms whose keys have one.
            name: Name for people, 1 to 200 characters.
            owner: Id of the user or tenant that the key is for.
            scopes: Scopes of the key.
            lifetime: Lifetime from now on; None for no expiry. ``APIKEY_LIFETIME`` by default.
            expires_at: Time of expiry, with a time zone, instead of a lifetime. It may have passed.
            created_at: Time at which the other system issued it, with a time zone. Now by default.
            allowed_ips: Addresses and networks that may use the key; any if empty.
            denied_ips: Addresses and networks that may not use the key.
            metadata: JSON object for the application's own use.
            plan: Name of a plan in ``APIKEY_PLANS``.
            rate: Rates in place of the plan's.
            quota: Quota in place of the plan's.
            reason: Explanation for the history.

        Returns:
            The record. Its `APIKey.adopted` is the form.

        Raises:
            AlreadyExists: The key was adopted before. Nothing was written, even if it was removed since.
            ConfigurationError: ``APIKEY_ADOPTED_KEYS`` does not name the form.
            InvalidValue: A value cannot be stored.
        """
        return self._state().services.adoption.adopt(
            digest=digest,
            algorithm=algorithm,
            visible=visible,
            name=name,
            owner=owner,
            scopes=scopes,
            lifetime=lifetime,
            expires_at=expires_at,
            created_at=created_at,
            allowed_ips=allowed_ips,
            denied_ips=denied_ips,
            metadata={} if metadata is None else metadata,
            plan=plan,
            rate=rate,
            quota=quota,
            reason=reason,
        )

    def get(self, key_id: str) -> APIKey:
        """Return the record of a key.

        Raises:
            KeyNotFound: No key has this id.
        """
        return self._state().services.lifecycle.get(key_id)

    def list(
        self,
        *,
        owner: str | Unset = UNSET,
        status: Status | str | None = None,
        expiring_within: Duration | None = None,
        unused_for: Duration | None = None,
        search: str | None = None,
        adopted: bool | None = None,
        newest_first: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[APIKey]:
        """Iterate over records, oldest first. Pages are fetched while you iterate.

        Args:
            owner: Only keys of this owner; keys of all owners by default.
            status: Only keys that are ``"active"``, ``"suspended"``, ``"expired"`` or ``"revoked"``.
            expiring_within: Only active keys that expire within this time, such as ``"14d"``.
            unused_for: Only active keys that are older than this time and were not used during it,
                such as ``"90d"``. Counts of this process are stored first.
            search: Only keys whose name contains this text in any case, or whose id, owner or
                one scope begins with it. A whole key finds itself by its id.
            adopted: True for keys that keep a secret of another system, also if they are suspended or have ended.
                False for all others. Add ``status="active"`` for those that work.
            newest_first: List the newest key first.
            after: Continue after the key with this `APIKey.cursor`, in either direction.
            limit: Maximum number of records.

        Raises:
            InvalidValue: `owner` is None, `status`, `search` or `after` is not valid, or `expiring_within` or
                `unused_for` is combined with a `status` other than ``"active"``.
            ConfigurationError: `unused_for` is given and not every use is counted.
        """
        return self._finder(unused_for).list(
            owner=chosen_owner(owner),
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
        owner: str | Unset = UNSET,
        status: Status | str | None = None,
        expiring_within: Duration | None = None,
        unused_for: Duration | None = None,
        search: str | None = None,
        adopted: bool | None = None,
    ) -> int:
        """Count the keys that `list` would give for the same arguments."""
        return self._finder(unused_for).count(
            owner=chosen_owner(owner),
            status=status,
            expiring_within=expiring_within,
            unused_for=unused_for,
            search=search,
            adopted=adopted,
        )

    def last_uses(self, key_ids: Iterable[str]) -> Mapping[str, KeyLastUse]:
        """Read when and from where keys were last used. Counts of this process are stored first.

        Args:
            key_ids: Ids of the keys, such as those of a page of a listing.

        Returns:
            The last uses by id. An id that no key has is left out.

        Raises:
            ConfigurationError: The storage keeps no usage.
        """
        state = self._state()
        if state.usage is not None:
            state.usage.flush()
        return state.services.finder.last_uses(key_ids)

    def update(
        self,
        key_id: str,
        *,
        name: str | Unset = UNSET,
        owner: str | Unset | None = UNSET,
        scopes: Iterable[str] | Unset = UNSET,
        allowed_ips: Iterable[str] | Unset = UNSET,
        denied_ips: Iterable[str] | Unset = UNSET,
        metadata: Mapping[str, Any] | Unset = UNSET,
        plan: str | Unset | None = UNSET,
        rate: str | Unset | None = UNSET,
        quota: str | Unset | None = UNSET,
        expires_at: datetime | Unset | None = UNSET,
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> APIKey:
        """Change the fields that are given; all others stay.

        The change holds from the next request on. Concurrent changes are retried.

        Args:
            key_id: Id of the key.
            name: New name.
            owner: New owner; None for no owner.
            scopes: New scopes, instead of all present ones.
            allowed_ips: New addresses and networks that may use the key; empty for any.
            denied_ips: New addresses and networks that may not use the key.
            metadata: New JSON object, instead of the present one.
            plan: New plan; None for the plan that the plan loader names for the owner.
            rate: New rates in place of the plan's; None for those of the plan.
            quota: New quota in place of the plan's; None for that of the plan.
            expires_at: New time of expiry, with a time zone; None for no expiry.
            expected_version: Change only a key with this version.
            reason: Explanation for the history.

        Returns:
            The record after the change.

        Raises:
            KeyNotFound: No key has this id.
            Conflict: The key has another version.
            InvalidValue: A value cannot be stored; nothing was changed.
        """
        fields = {
            "name": name,
            "owner": owner,
            "scopes": scopes,
            "allowed_ips": allowed_ips,
            "denied_ips": denied_ips,
            "metadata": metadata,
            "plan": plan,
            "rate": rate,
            "quota": quota,
            "expires_at": expires_at,
        }
        changes = {field: value for field, value in fields.items() if value is not UNSET}
        return self._state().services.lifecycle.update(
            key_id, changes, expected_version=expected_version, reason=reason
        )

    def suspend(self, key_id: str, *, expected_version: int | None = None, reason: str | None = None) -> APIKey:
        """Refuse a key from the next request on, until it is resumed. A suspended key stays as it is.

        It can still be updated, rolled and revoked. None of that resumes it.

        Args:
            key_id: Id of the key.
            expected_version: Suspend only a key with this version.
            reason: Explanation, stored with the key and in its history.

        Raises:
            KeyNotFound: No key has this id.
            Conflict: The key has another version.
            KeyEnded: The key is revoked or expired.
        """
        return self._state().services.suspension.suspend(key_id, expected_version=expected_version, reason=reason)

    def resume(self, key_id: str, *, expected_version: int | None = None, reason: str | None = None) -> APIKey:
        """Accept a suspended key again, from the next request on. An active key stays as it is.

        Args:
            key_id: Id of the key.
            expected_version: Resume only a key with this version.
            reason: Explanation for the history.

        Raises:
            KeyNotFound: No key has this id.
            Conflict: The key has another version.
            KeyEnded: The key is revoked or expired.
        """
        return self._state().services.suspension.resume(key_id, expected_version=expected_version, reason=reason)

    def suspend_many(
        self, *, owner: str, reason: str | None = None, dry_run: bool = False, progress: Progress | None = None
    ) -> BulkSuspension:
        """Suspend all active keys of an owner. The call may be interrupted and repeated.

        Keys that cannot be changed are left out and reported.

        Args:
            owner: Owner of the keys.
            reason: Explanation, stored with the keys and in their history.
            dry_run: True to count only and change nothing.
            progress: Called with each record after its change.
        """
        return self._state().services.suspension.suspend_many(
            owner=owner, reason=reason, dry_run=dry_run, progress=progress
        )

    def resume_many(
        self, *, owner: str, reason: str | None = None, dry_run: bool = False, progress: Progress | None = None
    ) -> BulkSuspension:
        """Resume all suspended keys of an owner, also those that were suspended one by one.

        The call may be interrupted and repeated. Keys that cannot be changed are left out and reported.

        Args:
            owner: Owner of the keys.
            reason: Explanation for the history.
            dry_run: True to count only and change nothing.
            progress: Called with each record after its change.
        """
        return self._state().services.suspension.resume_many(
            owner=owner, reason=reason, dry_run=dry_run, progress=progress
        )

    def revoke(self, key_id: str, *, expected_version: int | None = None, reason: str | None = None) -> APIKey:
        """End a key for good, from the next request on. A revoked key stays as it is.

        Args:
            key_id: Id of the key.
            expected_version: Revoke only a key with this version.
            reason: Explanation, stored with the key and in its history.

        Raises:
            KeyNotFound: No key has this id.
            Conflict: The key has another version.
        """
        return self._state().services.lifecycle.revoke(key_id, expected_version=expected_version, reason=reason)

    def revoke_many(
        self,
        *,
        owner: str | Unset = UNSET,
        issued_before: datetime | None = None,
        reason: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> BulkRevocation:
        """Revoke the active and suspended keys of an owner, or the secrets issued before a moment, or both.

        With `issued_before`, a key whose newest secret is as old is revoked. A key that
        was rolled since stays active and loses its previous secrets. So no secret from
        before that moment works afterwards. The call may be interrupted and repeated.

        Args:
            owner: Only keys of this owner.
            issued_before: Only secrets issued before this moment, with a time zone.
            reason: Explanation, stored with the keys and in their history.
            dry_run: True to count only and change nothing.
            progress: Called with each record after its change.

        Raises:
            InvalidValue: Neither `owner` nor `issued_before` is given, or `owner` is None.
        """
        state = self._state()
        return bulk.revoke_many(
            state.services.repository,
            state.clock,
            owner=chosen_owner(owner),
            issued_before=issued_before,
            reason=reason,
            dry_run=dry_run,
            progress=progress,
        )

    def roll(
        self,
        key_id: str,
        *,
        grace: Duration = timedelta(0),
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> IssuedKey:
        """Give a key a new secret. Id, scopes and expiry stay. A suspended key stays suspended.

        Args:
            key_id: Id of the key.
            grace: Time for which the replaced secret works on, as a timedelta or text such as
                ``"24h"``, at most until the key expires. Zero ends it at once. Secrets replaced
                earlier keep their end, or end with this one if that is sooner.
            expected_version: Roll only a key with this version.
            reason: Explanation for the history.

        Returns:
            The new key string, which cannot be read again later, and the record.

        Raises:
            KeyNotFound: No key has this id.
            KeyEnded: The key is revoked or expired.
            InvalidValue: `grace` is not a duration, negative, or longer than 100 years.
            Conflict: A concurrent change was made, or the key has another version.
            TooManySecrets: Too many previous secrets still work.
        """
        return self._state().services.rolling.roll(
            key_id, grace=grace, expected_version=expected_version, reason=reason
        )

    def finish_roll(
        self,
        key_id: str,
        *,
        unused_for: Duration | None = None,
        expected_version: int | None = None,
        reason: str | None = None,
    ) -> FinishedRoll:
        """End the grace period of a key: only its newest secret works afterwards.

        With `unused_for`, counts of this process are stored first. Other processes store
        theirs within ``APIKEY_USAGE_FLUSH_INTERVAL``.

        Args:
            key_id: Id of the key.
            unused_for: End previous secrets only if none was used for this long, as a timedelta
                or text such as ``"24h"``, and the last roll is as long ago. None ends them at
                once, used or not, as after a leak.
            expected_version: Change only a key with this version.
            reason: Explanation for the history.

        Raises:
            KeyNotFound: No key has this id.
            KeyEnded: The key is revoked or expired.
            SecretInUse: A previous secret was used since, or the last roll is more recent.
            Conflict: A concurrent change was made, or the key has another version.
            ConfigurationError: `unused_for` is given and not every use is counted.
        """
        state = self._state()
        if unused_for is not None:
            state.store_last_uses()
        return state.services.rolling.finish(
            key_id, unused_for=unused_for, expected_version=expected_version, reason=reason
        )

    def reveal(self, key_id: str, *, reason: str | None = None) -> str:
        """Return the key string of a key that was issued under ``APIKEY_RECOVERABLE``.

        Args:
            key_id: Id of the key.
            reason: Explanation for the history.

        Raises:
            KeyNotFound: No key has this id.
            NotRecoverable: ``APIKEY_RECOVERABLE`` is off, or was off when the key was issued.
            SealUnreadable: The configured Fernet keys do not open the seal.
        """
        return self._state().services.lifecycle.reveal(key_id, reason=reason)

    def repair(self, key_id: str, *, reason: str | None = None) -> RepairedKey:
        """Accept the row of a key as it stands, though it does not fit its seal or its history.

        Look at the row first, as ``flask apikey repair`` shows it: who wrote to the
        database may have widened it. If its secrets are lost, the key gets a new one.

        Args:
            key_id: Id of the key.
            reason: Explanation for the history.

        Returns:
            The record, what did not fit, and the new key string, if there is one. It cannot be read again later.

        Raises:
            KeyNotFound: No row has this id.
            StorageError: The row is damaged: it can be corrected in the database, or revoked.
            InvalidValue: A value of the row could not be stored by this library either.
            Conflict: A concurrent change was made.
        """
        return self._state().repair.repair(key_id, reason=reason)

    def verify(self, key: str, *, address: str | None = None) -> Decision:
        """Decide on a key outside of a request. The decision is false unless the key is accepted.

        With ``APIKEY_CHECK_OWNER`` the owner loader is called too.

        Args:
            key: The key string.
            address: IP address of the caller; None fails the checks of a key with address lists.

        Raises:
            InvalidValue: `key` is not text, or `address` is not an IP address.
            ConfigurationError: ``APIKEY_CHECK_OWNER`` is on, and there is no owner loader.
        """
        if not isinstance(key, str):
            raise InvalidValue(f"key must be a str, not {type(key).__name__}")
        credentials = Credentials(key)
        del key  # error trackers report the locals of each frame
        caller = parse_address(address) if isinstance(address, str) else None
        if caller is None and address is not None:
            raise InvalidValue(f"address must be an IP address, not {address!r:.100}")
        state = self._state()
        decision = state.services.authenticator.authenticate(credentials, caller)
        return decision if state.owner_check is None else state.owner_check.check(decision).decision

    def usage(
        self,
        *,
        key_id: str | None = None,
        owner: str | Unset = UNSET,
        since: datetime | None = None,
        until: datetime | None = None,
        by: UsageBy | str = UsageBy.ENDPOINT,
    ) -> UsageReport:
        """Report counted requests.

        Counts of this process are stored first. Other processes store theirs within
        ``APIKEY_USAGE_FLUSH_INTERVAL``.

        Args:
            key_id: Only requests with this key.
            owner: Only requests with keys that were this owner's at the time; of all owners by default.
            since: Start of the period, with a time zone; rounded down to the hour.
            until: End of the period, exclusive, with a time zone.
            by: Rows of the report: ``"endpoint"``, ``"hour"``, ``"day"``, ``"status"``, ``"key"``
                or ``"owner"``.

        Raises:
            InvalidValue: An argument is not valid, or `owner` is None.
            KeyNotFound: `key_id` is neither the id of a key nor counted; with `owner`, of this owner.
            ConfigurationError: The storage keeps no usage.
        """
        state = self._state()
        return state.stored_usage_reports().report(
            key_id=key_id, owner=chosen_owner(owner), since=since, until=until, by=by
        )

    def limits(self, key_id: str) -> KeyLimits:
        """Return the limits of a key, and what is left of them.

        Rates in memory are those of this process: see ``APIKEY_RATE_STORAGE_URI``.

        Raises:
            KeyNotFound: No key has this id.
            APIKeyError: The plan is not in ``APIKEY_PLANS``, or the plan loader failed.
            StorageError: The storage of keys, of rates or of quotas failed.
        """
        state = self._state()
        return state.enforcement.rate_check.limits_of(state.services.lifecycle.get(key_id))

    def reset_limits(self, key_id: str) -> KeyLimits:
        """Forget what was counted against the rates and the quota of a key, and return its limits; see `limits`.

        Keys that share the limits of an owner are reset together. What was added to a quota stays.
        """
        state = self._state()
        return state.reset_limits(state.services.lifecycle.get(key_id))

    def add_quota(
        self, key_id: str, amount: int, *, every_period: bool = False, reason: str | None = None
    ) -> KeyLimits:
        """Add to the quota of a key, and return its limits.

        If the keys of an owner share the quota, all of them have the addition.

        Args:
            key_id: Id of the key.
            amount: Number of requests to add, from 1 on.
            every_period: Add to this period and to every one after it, not to this one alone.
            reason: Explanation for the history.

        Raises:
            KeyNotFound: No key has this id.
            InvalidValue: The amount is not valid, or the key has no quota.
            APIKeyError: The plan is not in ``APIKEY_PLANS``, or the plan loader failed.
        """
        state = self._state()
        amount = checked_addition(amount)
        reason = checked_reason(reason)
        return state.add_quota(state.services.lifecycle.get(key_id), amount, every_period=every_period, reason=reason)

    def for_owner(
        self,
        owner: str,
        *,
        scopes: Iterable[str] = (),
        plan: str | Unset | None = UNSET,
        rate: str | None = None,
        quota: str | None = None,
    ) -> OwnedKeys:
        """Return the keys of one owner, for views in which owners manage their own keys.

        Args:
            owner: Id of the owner.
            scopes: Scopes that the owner may give to keys; none by default. A wildcard
                needs the same one or a wider one.
            plan: Plan of the keys that the owner creates. None leaves them to the plan loader. It is needed
                for new keys where ``APIKEY_PLANS`` is set, there is no plan loader, no `rate` and no `quota`.
            rate: Rates of the keys that the owner creates, in place of the plan's.
            quota: Quota of the keys that the owner creates, in place of the plan's.

        Raises:
            InvalidValue: `owner` is None or not valid, or a scope, `plan`, `rate` or `quota` is malformed.
        """
        return OwnedKeys(self, owner, scopes, plan=plan, rate=rate, quota=quota)

    @property
    def rotation(self) -> FernetRotation:
        """The rotation of the Fernet key.

        Raises:
            ConfigurationError: The storage cannot re-seal keys.
        """
        return self._state().rotation

    def prune(
        self,
        *,
        ended_before: datetime,
        reason: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> int:
        """Remove keys that were revoked or expired before a moment.

        Args:
            ended_before: The moment, with a time zone.
            reason: Explanation for the history.
            dry_run: True to count only and remove nothing.
            progress: Called with each record after it was removed.

        Returns:
            Number of keys removed.
        """
        repository = self._state().services.repository
        return bulk.prune(repository, ended_before=ended_before, reason=reason, dry_run=dry_run, progress=progress)

    def close(self) -> None:
        """Store counts and close the storage of every application. Both open again on their next use."""
        for state in list(self._states):
            state.close()

    def _finder(self, unused_for: Duration | None) -> KeyFinder:
        state = self._state()
        if unused_for is not None:
            state.store_last_uses()
        return state.services.finder

    def _state(self) -> ApplicationState:
        return current_application_state(self)


def _keep(problem: Exception) -> Any:
    """Handle a refusal as an error handler that changes nothing."""
    return problem
