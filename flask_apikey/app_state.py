"""What one application has of an `APIKeys`: the parts, put together."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from blinker import NamedSignal
from flask import Flask, current_app

from flask_apikey.core.audit_log import LOGGER_NAME, AuditEvent, AuditLog
from flask_apikey.core.errors import APIKeyError, ConfigurationError, StorageError
from flask_apikey.core.keys.authenticator import Authenticator, Decision
from flask_apikey.core.keys.issuance import Issuance
from flask_apikey.core.keys.lifecycle import Lifecycle
from flask_apikey.core.model.history import PRUNED, REVOKED
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.processes import ProcessLock
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey.core.storage.contract import Backend, ContextBound, KeepsUsage, backend_class, backend_for
from flask_apikey.core.text import sanitized
from flask_apikey.core.times import Clock
from flask_apikey.core.usage.recorder import UsageRecorder
from flask_apikey.core.usage.reports import UsageReports
from flask_apikey.doctor.fernet_keys import log_fernet_warnings
from flask_apikey.request.counting import Counting, require_complete_counting
from flask_apikey.request.current import EXTENSION_NAME, current_application
from flask_apikey.request.hooks import RequestHooks
from flask_apikey.settings import Settings
from flask_apikey.signals import api_key_exposed, api_key_revoked, api_key_updated

if TYPE_CHECKING:
    from flask_apikey.extension import APIKeys

logger = logging.getLogger(LOGGER_NAME)

INSTANCE_DATABASE = "api_keys.db"
FLASK_SQLALCHEMY = "sqlalchemy"
T = TypeVar("T")

_EXPOSED = "exposed over plain HTTP"


class _Part(Generic[T]):
    """A part of the state that is made when it is first needed, and once however many threads need it.

    ``functools.cached_property`` makes it once for each of them, from Python 3.12 on.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, state: "ApplicationState", _owner: type) -> T:
        # Found in the instance from then on, which Python looks into first.
        parts: dict[str, T] = vars(state)
        with state.making:
            if self._name not in parts:
                parts[self._name] = self._make(state)
            return parts[self._name]


class ApplicationState:
    """What one application has of an `APIKeys`, in ``app.extensions["apikey"]``.

    Attributes:
        extension: The `APIKeys` that it belongs to.
        settings: The checked configuration.
        enforcement: The check on requests.
        clock: The present moment, in UTC.
        ring: The Fernet keys.
        audit: Where security events go.
        making: Held while a part is made.
    """

    def __init__(self, app: Flask, extension: "APIKeys", backend: Backend | None, clock: Clock) -> None:
        self._app = app
        self._backend = backend
        self.making = ProcessLock(is_reentrant=True)
        self.clock = clock
        self.extension = extension
        self.settings = Settings.from_config(app.config)
        self.ring = FernetKeyring(
            self.settings.fernet_key,
            self.settings.fernet_key_fallbacks,
            primary_setting=self.settings.fernet_key_setting,
        )
        log_fernet_warnings(app, self.settings)
        self.audit = AuditLog(is_enabled=self.settings.audit_logging)
        self.enforcement = RequestHooks(
            app,
            self.settings,
            authenticator=lambda: self.authenticator,
            counting=Counting(self.settings, lambda: self.usage),
            audit=self.audit,
            on_exposure=self._handle_exposure,
        )
        if backend is not None or self.settings.storage_uri is not None or FLASK_SQLALCHEMY in app.extensions:
            # Wrong settings are told now. Otherwise Flask-SQLAlchemy may still be to come.
            _ = self.usage

    @_Part
    def backend(self) -> Backend:
        """Where the keys of this application are kept."""
        backend = self._backend
        if backend is None and self.settings.storage_uri is not None:
            try:
                backend = backend_for(self.settings.storage_uri)
            except ConfigurationError as exc:
                raise ConfigurationError(f"APIKEY_STORAGE_URI: {exc}") from exc
        if backend is None and FLASK_SQLALCHEMY in self._app.extensions:
            backend = backend_class("sqlite").from_client(self._app.extensions[FLASK_SQLALCHEMY])
        if backend is None:
            backend = backend_for(f"sqlite:///{Path(self._instance_folder(), INSTANCE_DATABASE)}")
        return backend.bound(self._app.app_context) if isinstance(backend, ContextBound) else backend

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

    @_Part
    def authenticator(self) -> Authenticator:
        """What decides on keys."""
        return Authenticator(self.backend, self.ring, self.clock)

    @_Part
    def usage(self) -> UsageRecorder | None:
        """What counts requests; None where they are not counted."""
        if self.settings.usage == "off":
            return None
        if not isinstance(self.backend, KeepsUsage):
            if self.settings.usage == "sync":
                raise ConfigurationError(f"APIKEY_USAGE is 'sync', but {type(self.backend).__name__} keeps no usage")
            return None
        return UsageRecorder(
            self.backend,
            flush_interval=self.settings.usage_flush_interval.total_seconds(),
            is_synchronous=self.settings.usage == "sync",
            max_endpoints=self.settings.max_endpoints_per_key,
            on_failure=self._tell_of_usage,
            clock=self.clock,
        )

    def close(self) -> None:
        """Store what was counted, and close the backend. Both open again on their next use."""
        if "usage" in vars(self) and self.usage is not None:
            self.usage.close()
        if "backend" in vars(self):
            self.backend.close()

    @_Part
    def lifecycle(self) -> Lifecycle:
        """What changes keys."""
        issuance = Issuance(
            prefix=self.settings.prefix, lifetime=self.settings.lifetime, recoverable=self.settings.recoverable
        )
        return Lifecycle(self.backend, self.ring, issuance, self.clock, self._origin)

    def store_uses(self) -> None:
        """Bring to the storage when this process last saw each secret.

        Raises:
            ConfigurationError: Not every use is stored.
            StorageError: The storage does not take it.
        """
        require_complete_counting(self._app, self.settings, self.backend)
        if self.usage is None or not self.usage.flush():
            raise StorageError("when a secret was last used is not known: what was counted cannot be stored")

    @_Part
    def rotation(self) -> FernetRotation:
        """What replaces the Fernet key."""
        return FernetRotation(
            self.backend,
            self.ring,
            period=self.settings.rotation_period,
            clock=self.clock,
            event_context=self._origin,
            announce=self._announce_rotation,
        )

    @_Part
    def usage_reports(self) -> UsageReports:
        """What reports on usage."""
        return UsageReports(self.backend, self.clock)

    def _origin(self) -> dict[str, str]:
        context = self.enforcement.context()
        said = {"address": context.address, "request_id": context.request_id}
        return {name: sanitized(value) for name, value in said.items() if value is not None}

    def announce(self, event: str, signal: NamedSignal, record: APIKey, reason: str | None = None) -> None:
        """Write the event of a change and send its signal, from this application.

        What is told has happened already: a receiver that fails is reported and not raised,
        so that nobody loses a secret that is shown once.
        """
        context = self.enforcement.context()
        self.audit.record(replace(context, event=event, key_id=record.id, owner=record.owner, reason=reason))
        self._send(signal, record)

    def announce_ended(self, record: APIKey, event: str, reason: str | None) -> None:
        """Write the event of a key that was revoked or lost previous secrets, and send its signal."""
        self.announce(event, api_key_revoked if event == REVOKED else api_key_updated, record, reason)

    def announce_failure(self, event: str, record: APIKey, reason: str) -> None:
        """Write the event of a change that was asked for and not made."""
        context = self.enforcement.context()
        self.audit.record(
            replace(context, event=event, outcome="failure", key_id=record.id, owner=record.owner, reason=reason)
        )

    def announce_pruned(self, record: APIKey) -> None:
        """Write the event of a key that was removed for good."""
        self.audit.record(AuditEvent(event=PRUNED, key_id=record.id, owner=record.owner))

    def _send(self, signal: NamedSignal, record: APIKey) -> None:
        try:
            signal.send(self._app, key=record)
        except Exception:  # receivers belong to the application, and raise what they like
            logger.exception("a receiver of the signal %s failed; it was about key %s", signal.name, record.id)

    def _announce_rotation(self, event: str, description: str) -> None:
        self.audit.record(replace(self.enforcement.context(), event=event, reason=description))

    def _tell_of_usage(self, trouble: str) -> None:
        self.audit.record(AuditEvent(event="storage", outcome="failure", reason=trouble))

    def _handle_exposure(self, decision: Decision) -> None:
        record = decision.key
        if record is None:
            return
        with self._app.app_context():
            self._send(api_key_exposed, record)
            if self.settings.revoke_exposed and record.revoked_at is None:
                try:
                    self._end_exposed(record, decision.position)
                except APIKeyError as exc:
                    # The answer is sent already, and nobody is left to raise it to.
                    self.audit.record(AuditEvent(event="storage", outcome="failure", reason=str(exc), key_id=record.id))

    def _end_exposed(self, record: APIKey, position: int | None) -> None:
        if position:
            # Whoever finds an old secret must not be able to cut off who holds the newest.
            self.extension.end_secret(record.id, position, expected_version=record.version, reason=_EXPOSED)
        else:
            self.extension.revoke(record.id, reason=_EXPOSED)


def current_application_state() -> ApplicationState:
    """What the application whose context is active has.

    Raises:
        ConfigurationError: It has no `APIKeys`.
    """
    state = _state_or_none()
    if state is None:
        raise ConfigurationError(
            f"no APIKeys was initialised for the application {current_app.import_name!r}: call api_keys.init_app(app)"
        )
    return state


def state_of(extension: "APIKeys") -> ApplicationState:
    """What the application whose context is active has of an `APIKeys`.

    Raises:
        ConfigurationError: It has nothing of this one.
    """
    state = _state_or_none()
    if state is None or state.extension is not extension:
        raise ConfigurationError(
            f"this APIKeys is not initialised for {current_app.import_name!r}: call api_keys.init_app(app)"
        )
    return state


def _state_or_none() -> ApplicationState | None:
    state: ApplicationState | None = current_application().extensions.get(EXTENSION_NAME)
    return state
