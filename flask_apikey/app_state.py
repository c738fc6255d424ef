"""Per-application state, in ``app.extensions["apikey"]``."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from blinker import NamedSignal
from flask import Flask, appcontext_pushed, current_app, has_request_context

from flask_apikey.core.actors import FAILED_LOADER, acting_as, key_actor, named_actor, printable
from flask_apikey.core.audit_log import LEAK, LOGGER_NAME, AuditEvent, AuditLog
from flask_apikey.core.errors import APIKeyError, ConfigurationError, Conflict, InvalidValue, StorageError, described
from flask_apikey.core.keys.adoption import KeyAdoption
from flask_apikey.core.keys.authenticator import Authenticator, Decision
from flask_apikey.core.keys.finding import KeyFinder
from flask_apikey.core.keys.leaked import Ending, LeakedSecrets
from flask_apikey.core.keys.lifecycle import KeyLifecycle
from flask_apikey.core.keys.repair import KeyRepair
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.keys.rolling import IssuePolicy, KeyRolling
from flask_apikey.core.keys.row_cache import CLOCK_DIFFERENCE, RowCache
from flask_apikey.core.keys.suspension import KeySuspension
from flask_apikey.core.limits.quota_leases import QuotaLeases
from flask_apikey.core.limits.rate_storage import RateStorage
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.model.drf_simple_apikey import refuse_shared_fernet_keys
from flask_apikey.core.model.history import LIMITS_RESET, QUOTA_ADDED
from flask_apikey.core.model.keys import APIKey, StoredKey
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.processes import ProcessLock
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey.core.storage.circuit import LookupCircuit
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.storage.registry import backend_class, backend_for
from flask_apikey.core.text import sanitized
from flask_apikey.core.times import Clock, utc_now
from flask_apikey.core.usage.recorder import UsageRecorder
from flask_apikey.core.usage.reports import UsageReports
from flask_apikey.request.counting import Counting, require_complete_counting
from flask_apikey.request.current import EXTENSION_NAME, Loaders, current_application, current_request_state
from flask_apikey.request.hooks import RequestHooks
from flask_apikey.request.owner_check import OwnerCheck
from flask_apikey.request.quota_check import FAILED_PART, QuotaCheck
from flask_apikey.settings import Settings
from flask_apikey.signals import SIGNALS_OF_CHANGES, api_key_exposed, api_key_leaked

logger = logging.getLogger(LOGGER_NAME)

INSTANCE_DATABASE = "api_keys.db"
FLASK_SQLALCHEMY = "sqlalchemy"

_EXPOSED = "exposed over plain HTTP"
_OURSELVES = "flask-apikey"


@dataclass(frozen=True, slots=True)
class StorageServices:
    """Services that need the backend, built once the backend is known."""

    backend: Backend
    authenticator: Authenticator
    usage: UsageRecorder | None
    quotas: QuotaLeases | None
    repository: KeyRepository
    finder: KeyFinder
    lifecycle: KeyLifecycle
    adoption: KeyAdoption
    rolling: KeyRolling
    suspension: KeySuspension
    leaked: LeakedSecrets


class ApplicationState:
    """Settings and services of one application.

    Attributes:
        extension: The `APIKeys` that initialised it. Typed as object, since `extension` imports this module.
        enforcement: The check on each request.
        owner_check: The check of owners; None if ``APIKEY_CHECK_OWNER`` is off.
    """

    def __init__(self, app: Flask, extension: object, backend: Backend | None, clock: Clock, loaders: Loaders) -> None:
        self._app = app
        self._backend = backend
        self._services: StorageServices | None = None
        self._building = ProcessLock()
        self.extension = extension
        self.clock = clock
        self.loaders = loaders
        self.settings = Settings.from_config(app.config)
        self.ring = FernetKeyring(
            self.settings.fernet_key,
            self.settings.fernet_key_fallbacks,
            primary_setting=self.settings.fernet_key_setting,
        )
        refuse_shared_fernet_keys(self.settings.adopted_forms, self.ring)
        self.audit = AuditLog(is_enabled=self.settings.audit_logging)
        self.owner_check = OwnerCheck(app, loaders) if self.settings.check_owner else None
        self.enforcement = RequestHooks(
            app,
            self.settings,
            authenticator=lambda: self.services.authenticator,
            counting=Counting(self.settings, lambda: self.services.usage),
            audit=self.audit,
            owner_check=self.owner_check,
            loaders=loaders,
            rate_storage=self._rate_storage(),
            quotas=QuotaCheck(lambda: self.services.quotas, clock),
            on_exposure=self._handle_exposure,
        )
        if backend is not None or self.settings.storage_uri is not None or FLASK_SQLALCHEMY in app.extensions:
            # Report wrong settings at start. Otherwise wait: Flask-SQLAlchemy may be initialised later.
            _ = self.services
        appcontext_pushed.connect(self._show_tables, app)

    @property
    def services(self) -> StorageServices:
        """The services, built on first use."""
        services = self._services
        if services is None:
            with self._building:
                services = self._services or self._build()
                self._services = services
        return services

    @property
    def backend(self) -> Backend:
        """Storage of the keys."""
        return self.services.backend

    @property
    def policy(self) -> IssuePolicy:
        """Settings for new keys and secrets."""
        settings = self.settings
        return IssuePolicy(
            prefix=settings.prefix,
            lifetime=settings.lifetime,
            recoverable=settings.recoverable,
            plans=frozenset(settings.plans),
        )

    @property
    def usage(self) -> UsageRecorder | None:
        """Recorder of requests; None where they are not counted."""
        return self.services.usage

    @property
    def rotation(self) -> FernetRotation:
        """The rotation of the Fernet key."""
        return FernetRotation(
            self.backend,
            self.ring,
            period=self.settings.rotation_period,
            clock=self.clock,
            event_context=self._origin,
            announce=self._record_rotation,
        )

    @property
    def usage_reports(self) -> UsageReports:
        """Reports on counted requests."""
        return UsageReports(self.backend, self.clock)

    def stored_usage_reports(self) -> UsageReports:
        """Store the counts of this process, and return `usage_reports`."""
        if self.usage is not None:
            self.usage.flush()
        return self.usage_reports

    @property
    def repair(self) -> KeyRepair:
        """The repair of rows that do not fit."""
        services = self.services
        return KeyRepair(services.repository, self.ring, services.backend.history, self.policy, self.clock)

    def close(self) -> None:
        """Store counts, give back what was taken of quotas and close the storages. All open again on their next use."""
        services = self._services
        if services is not None:
            if services.usage is not None:
                services.usage.close()
            if services.quotas is not None:
                services.quotas.close()
            services.backend.close()
        self.enforcement.rate_check.storage.close()

    def store_last_uses(self) -> None:
        """Store the last uses that this process has counted, or raise if any is unknown."""
        require_complete_counting(self._app, self.settings, self.backend)
        usage = self.services.usage
        if usage is None or not usage.flush():
            raise StorageError("the last use of secrets is unknown: counts of this process cannot be stored")

    def actor(self) -> str:
        """Return the name of who makes a change now, or the empty text if it is unknown."""
        name = named_actor()
        if name is not None:
            return name
        return (self._loaded_actor() or self._accepted_key()) if has_request_context() else ""

    def reset_limits(self, record: APIKey) -> KeyLimits:
        """Forget what was counted against the limits of a key, and record that in its history."""
        limits = self.enforcement.rate_check
        limits.reset(record)
        # Afterwards, because leases of the quota end with the change of the key.
        return limits.limits_of(self._record_change(record, LIMITS_RESET))

    def add_quota(self, record: APIKey, amount: int, *, every_period: bool, reason: str | None) -> KeyLimits:
        """Add to the quota of a key, and record that in its history."""
        limits = self.enforcement.rate_check
        applied = limits.quota_of(record)
        if applied is None:
            raise InvalidValue(f"key {record.id} has no quota: give it one with quota=…, or a plan that has one")
        details = {"amount": amount, "every_period": every_period}
        record = self._record_change(record, QUOTA_ADDED, details, reason)
        limits.quotas.add(record, applied, amount, every_period=every_period)
        return limits.limits_of(record)

    def record_failure(self, event: str, record: APIKey, reason: str) -> None:
        """Write a change that failed to the audit log."""
        context = self._context()
        self.audit.record(
            replace(context, event=event, outcome="failure", key_id=record.id, owner=record.owner, reason=reason)
        )

    def announce_leak(self, record: APIKey, ending: Ending, *, source: str | None, url: str | None) -> None:
        """Write the end of a leaked secret to the audit log, and send its signal.

        Args:
            record: The record after the change.
            ending: What ended.
            source: Kind of the place where it leaked.
            url: Address of the place.
        """
        place = " ".join(part for part in (source, url) if part)
        reason = f"{ending.value}: {place}" if place else ending.value
        context = self._context()
        self.audit.record(replace(context, event=LEAK, key_id=record.id, owner=record.owner, reason=reason))
        self._send(api_key_leaked, record, ended=ending.value, source=source, url=url)

    def record_leak_failure(self, event: str, reason: str) -> None:
        """Write a report of a leak that was refused, or could not be followed, to the audit log."""
        self.audit.record(replace(self._context(), event=event, outcome="failure", reason=reason))

    def _record_change(
        self, record: APIKey, event: str, details: Mapping[str, object] | None = None, reason: str | None = None
    ) -> APIKey:
        """Record an event in the history of a key, which stays as it is."""
        stored, _ = self.services.repository.change(
            record.id, lambda stored: Change(stored.record, event, details or {}, reason)
        )
        return stored.record

    def _build(self) -> StorageServices:
        backend = self._find_backend()
        self._refuse_lost_quotas(backend)
        repository = KeyRepository(backend, self.ring, self.clock, self._origin, self._announce)
        policy = self.policy
        lifecycle = KeyLifecycle(repository, policy, self.clock)
        adoption = KeyAdoption(repository, lifecycle, self.settings.adopted_forms, self.clock)
        return StorageServices(
            backend=backend,
            authenticator=Authenticator(
                backend,
                self.ring,
                self.clock,
                self.settings.accepted_prefixes,
                self.settings.storage_timeout,
                adopted=self.settings.adopted_forms,
                replace_secret=lambda stored, value: self._replace_adopted_secret(adoption, stored, value),
                make_cache=self._row_cache_for(backend),
            ),
            usage=self._usage_recorder(backend),
            quotas=self._quota_leases(backend),
            repository=repository,
            finder=KeyFinder(repository, backend.usage, self.clock),
            lifecycle=lifecycle,
            adoption=adoption,
            rolling=KeyRolling(repository, policy, backend.usage, self.clock),
            suspension=KeySuspension(repository, self.clock),
            leaked=LeakedSecrets(repository, lifecycle, self.ring, self.clock, self.settings.accepted_prefixes),
        )

    def _replace_adopted_secret(self, adoption: KeyAdoption, stored: StoredKey, value: bytes) -> bool:
        try:
            with acting_as(_OURSELVES):
                adoption.replace_secret(stored, value)
        except Conflict:
            raise
        except Exception as exc:  # noqa: BLE001  # the key is genuine, whatever the storage does
            failure = AuditEvent(event="storage", outcome="failure", reason=described(exc), key_id=stored.record.id)
            self.audit.record(failure)
            return False
        return True

    def _row_cache_for(self, backend: Backend) -> Callable[[LookupCircuit], RowCache] | None:
        settings = self.settings
        if not settings.max_staleness:
            return None
        if backend.changes is None:
            raise ConfigurationError(
                f"APIKEY_MAX_STALENESS: {type(backend).__name__} cannot tell which keys were changed. Remove the "
                "setting, or use another storage"
            )
        return partial(
            RowCache,
            max_staleness=settings.max_staleness.total_seconds(),
            outage_staleness=settings.outage_staleness.total_seconds(),
            overlap=CLOCK_DIFFERENCE + 2 * settings.storage_timeout,
            on_outage=self._record_storage_failure,
        )

    def _show_tables(self, app: Flask) -> None:
        """Define the tables for migrations in the first application context, when every extension is initialised."""
        appcontext_pushed.disconnect(self._show_tables, app)
        if FLASK_SQLALCHEMY in app.extensions:
            # Wrong settings are reported on the first use.
            with suppress(APIKeyError):
                self.backend.show_tables_to(app.extensions[FLASK_SQLALCHEMY])

    def _find_backend(self) -> Backend:
        backend = self._backend
        if backend is None and self.settings.storage_uri is not None:
            try:
                backend = backend_for(self.settings.storage_uri)
            except ConfigurationError as exc:
                raise ConfigurationError(f"APIKEY_STORAGE_URI: {exc}") from exc
        if backend is None and FLASK_SQLALCHEMY in self._app.extensions:
            backend = backend_class("sqlite").from_client(self._app.extensions[FLASK_SQLALCHEMY])
        if backend is None:
            # Not as a URI, because a folder may have characters with a meaning there.
            backend = backend_class("sqlite").from_client(Path(self._instance_folder(), INSTANCE_DATABASE))
        backend = backend.for_application(self._app.app_context)
        backend.limit_waits(self.settings.storage_timeout)
        return backend

    def _instance_folder(self) -> str:
        path = self._app.instance_path
        try:
            Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise ConfigurationError(
                f"the instance folder {path}, where keys are kept unless APIKEY_STORAGE_URI names another place, "
                f"cannot be made: {exc.strerror}. Make it, or set APIKEY_STORAGE_URI."
            ) from exc
        return path

    def _usage_recorder(self, backend: Backend) -> UsageRecorder | None:
        if self.settings.usage == "off":
            return None
        if backend.usage is None:
            if self.settings.usage == "sync":
                raise ConfigurationError(f"APIKEY_USAGE is 'sync', but {type(backend).__name__} keeps no usage")
            return None
        return UsageRecorder(
            backend.usage,
            flush_interval=self.settings.usage_flush_interval.total_seconds(),
            is_synchronous=self.settings.usage == "sync",
            max_endpoints=self.settings.max_endpoints_per_key,
            on_failure=self._record_storage_failure,
            clock=self.clock,
        )

    def _refuse_lost_quotas(self, backend: Backend) -> None:
        plans = [name for name, plan in self.settings.plans.items() if plan.quota is not None]
        if plans and backend.quotas is None:
            raise ConfigurationError(
                f"APIKEY_PLANS: plan {plans[0]!r} has a quota, but {type(backend).__name__} keeps no quotas: remove "
                "it, or use another storage"
            )

    def _quota_leases(self, backend: Backend) -> QuotaLeases | None:
        if backend.quotas is None:
            return None
        timeout = self.settings.storage_timeout.total_seconds()
        return QuotaLeases(backend.quotas, timeout, self._record_quota_failure)

    def _record_quota_failure(self, reason: str) -> None:
        self.audit.record(AuditEvent(event=FAILED_PART, outcome="failure", reason=reason))

    def _rate_storage(self) -> RateStorage:
        clock = self.clock
        # Not the time of day, which may be set back; but tests set a clock of their own.
        now = time.monotonic if clock is utc_now else lambda: clock().timestamp()
        timeout = self.settings.storage_timeout.total_seconds()
        return RateStorage(self.settings.rate_storage_uri, timeout, self._record_rate_failure, now)

    def _record_rate_failure(self, reason: str) -> None:
        self.audit.record(AuditEvent(event="rate_storage", outcome="failure", reason=reason))

    def _loaded_actor(self) -> str:
        loader = self.loaders.actor
        if loader is None:
            return ""
        try:
            return _printable_name(loader())
        except Exception:  # loaders belong to the application and raise anything
            logger.exception("the actor loader failed; the change is recorded without a name")
            return FAILED_LOADER

    def _accepted_key(self) -> str:
        decision = current_request_state().decision
        return key_actor(decision.key.id) if decision and decision.key is not None else ""

    def _context(self) -> AuditEvent:
        """Return an audit event with the actor, and the fields of the current request if there is one."""
        return replace(self.enforcement.context(), actor=self.actor() or None)

    def _origin(self) -> dict[str, str]:
        context = self.enforcement.context()
        fields = {"actor": self.actor() or None, "address": context.address, "request_id": context.request_id}
        return {name: sanitized(value) for name, value in fields.items() if value is not None}

    def _announce(self, event: str, record: APIKey, reason: str | None) -> None:
        """Write a change to the audit log and send its signal.

        The change is made already, so a failing receiver is logged and not raised:
        otherwise a secret that is shown once would be lost.
        """
        if self.audit.writes_successes:
            context = self._context()
            self.audit.record(replace(context, event=event, key_id=record.id, owner=record.owner, reason=reason))
        signal = SIGNALS_OF_CHANGES.get(event)
        if signal is not None:
            self._send(signal, record)

    def _send(self, signal: NamedSignal, record: APIKey, **details: Any) -> None:
        try:
            signal.send(self._app, key=record, **details)
        except Exception:  # receivers belong to the application and raise anything
            logger.exception("a receiver of the signal %s failed; it was about key %s", signal.name, record.id)

    def _record_rotation(self, event: str, description: str) -> None:
        self.audit.record(replace(self._context(), event=event, reason=description))

    def _record_storage_failure(self, reason: str) -> None:
        self.audit.record(AuditEvent(event="storage", outcome="failure", reason=reason))

    def _handle_exposure(self, decision: Decision) -> None:
        record = decision.key
        if record is None:
            return
        with self._app.app_context(), acting_as(_OURSELVES):
            self._send(api_key_exposed, record)
            if self.settings.revoke_exposed and record.revoked_at is None:
                try:
                    self._end_exposed(record, decision.position)
                except Exception as exc:  # noqa: BLE001  # the response is sent already: there is no caller to raise to
                    failure = AuditEvent(event="storage", outcome="failure", reason=described(exc), key_id=record.id)
                    self.audit.record(failure)

    def _end_exposed(self, record: APIKey, position: int | None) -> None:
        if position:
            # The finder of a previous secret must not be able to revoke the newest one.
            self.services.rolling.end_secret(record.id, position, expected_version=record.version, reason=_EXPOSED)
        else:
            self.services.lifecycle.revoke(record.id, reason=_EXPOSED)


def _printable_name(name: object) -> str:
    if not isinstance(name, str | None):
        raise TypeError(f"an actor loader returns a str or None, not {type(name).__name__}")
    return printable(name.strip()) if name else ""


def current_application_state(extension: object = None) -> ApplicationState:
    """Return the state of the application whose context is active, which `extension` must have initialised."""
    state: ApplicationState | None = current_application().extensions.get(EXTENSION_NAME)
    if state is None or (extension is not None and extension is not state.extension):
        fault = "no APIKeys is" if extension is None else "this APIKeys is not"
        raise ConfigurationError(f"{fault} initialised for {current_app.import_name!r}: call api_keys.init_app(app)")
    return state
