"""Validated settings, read from ``app.config``."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from reprlib import repr as repr_of
from typing import Any, cast

from flask_apikey.core.errors import ConfigurationError, InvalidValue, raise_alone
from flask_apikey.core.fernet_key_file import read_key_file
from flask_apikey.core.forwarding_headers import TrustedProxies
from flask_apikey.core.keys.key_headers import DEFAULT_ENTRIES, KeyHeaders
from flask_apikey.core.model import keystring
from flask_apikey.core.model.adopted_form import AdoptedForm
from flask_apikey.core.model.adopted_forms import AdoptedForms
from flask_apikey.core.model.plans import Plan, checked_plans
from flask_apikey.core.model.rates import Rate, parse_rate
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.model.usage import MAX_ENDPOINT_LENGTH
from flask_apikey.core.model.validation import checked_duration
from flask_apikey.core.times import to_duration
from flask_apikey.setting_names import check_names

_MAX_FAILURE_TIME = timedelta(seconds=1)
_MIN_FLUSH_INTERVAL, _MAX_FLUSH_INTERVAL = timedelta(milliseconds=10), timedelta(hours=1)
_MIN_STORAGE_TIMEOUT, _MAX_STORAGE_TIMEOUT = timedelta(milliseconds=100), timedelta(minutes=1)
_MIN_STALENESS, _MAX_STALENESS = timedelta(milliseconds=100), timedelta(minutes=1)
_MAX_OUTAGE_STALENESS = timedelta(days=1)
_MAX_ENDPOINTS = 1_000_000
_FAILURE_LIMIT = Rate(60, 60, "minute")

logger = logging.getLogger("flask_apikey")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one application.

    The setting of an attribute is its name in capitals, prefixed with ``APIKEY_``.

    Attributes:
        fernet_key: Fernet key that seals and unseals stored keys. Read from `fernet_key_file` if that is set.
        fernet_key_fallbacks: Further Fernet keys that unseal stored keys, used during a rotation.
        fernet_key_file: File that holds the Fernet key. Replaces ``APIKEY_FERNET_KEY``.
        storage_uri: URI of the storage. Its scheme selects the backend.
        storage_timeout: Maximum wait for a connection to the storage, and for each of its answers.
        max_staleness: Maximum time for which a row that was read is trusted after another process changed it. Zero
            means that the row is read on each request.
        outage_staleness: Maximum time for which it is trusted while the storage does not answer.
        prefix: Prefix of new keys.
        accept: Headers and schemes in which clients present keys.
        adopted_keys: Forms of keys from elsewhere that are accepted.
        accepted_prefixes: Prefixes of accepted keys, with `prefix` among them. Only `prefix` by default.
        lifetime: Default lifetime of a key. None means that keys do not expire.
        expiry_notice: Time before the expiry of a key in which responses announce it. Zero disables the notice.
        enforce_https: Refuse keys over plain HTTP. None means True, except with ``app.debug`` or ``app.testing``.
        trusted_proxies: Addresses and networks of proxies whose forwarding headers are trusted.
            ``"unix"`` stands for a proxy that connects through a Unix socket.
        forwarded_header: Header in which the proxies pass on the address of the caller.
        min_failure_time: Minimum time until a presented key is refused.
        failure_limit: Failed attempts of one address (IPv6: of its /64). None means no limit.
        revoke_exposed: Revoke a genuine key that arrives over plain HTTP.
        audit_logging: Write security events to the logger ``flask_apikey``.
        plans: Plans by name, which keys and owners can have.
        fallback_plan: Plan in place of one that `plans` does not have. None refuses keys with such a plan.
        rate_storage_uri: URI of the library ``limits`` for the storage that counts rates.
        rate_on_failure: ``"allow"`` accepts requests while that storage is down, ``"refuse"`` answers 503.
        charge_failures: Charge a quota for requests that the application answers with a status of 5xx.
        check_owner: Call the owner loader for each accepted key, which can refuse it.
        protect_all: Require a key for every view that is not exempt.
        enforcement: ``"on"`` refuses requests, ``"report"`` lets them pass where only `protect_all` requires a key.
        recoverable: Store the sealed key itself, not only its digest.
        usage: ``"buffered"`` counts requests in memory and stores the counts at intervals.
            ``"sync"`` stores each count before the response is sent. ``"off"`` counts nothing.
        usage_flush_interval: Time between two flushes of buffered counts.
        rotation_period: Time within which a rotation of the Fernet key should be finished.
        ignored_routes: URL rules whose requests are not counted. ``*`` matches any text.
        max_endpoints_per_key: Maximum number of endpoints that are counted separately for one key.
        max_endpoint_length: Maximum length of an endpoint label, in characters.
    """

    fernet_key: object = field(repr=False)
    fernet_key_fallbacks: tuple[object, ...] = field(default=(), repr=False)
    fernet_key_file: Path | None = None
    storage_uri: str | None = field(default=None, repr=False)
    storage_timeout: timedelta = timedelta(seconds=5)
    max_staleness: timedelta = timedelta(0)
    outage_staleness: timedelta = timedelta(0)
    prefix: str = keystring.DEFAULT_PREFIX
    accept: tuple[str, ...] = DEFAULT_ENTRIES
    adopted_keys: tuple[str | AdoptedForm, ...] = ()
    accepted_prefixes: tuple[str, ...] = (keystring.DEFAULT_PREFIX,)
    lifetime: timedelta | None = timedelta(days=365)
    expiry_notice: timedelta = timedelta(days=14)
    enforce_https: bool | None = None
    trusted_proxies: tuple[str, ...] = ()
    forwarded_header: str = "X-Forwarded-For"
    min_failure_time: timedelta = timedelta(milliseconds=10)
    failure_limit: Rate | None = _FAILURE_LIMIT
    revoke_exposed: bool = False
    audit_logging: bool = True
    plans: Mapping[str, Plan] = field(default_factory=dict)
    fallback_plan: str | None = None
    rate_storage_uri: str = field(default="memory://", repr=False)
    rate_on_failure: str = "allow"
    charge_failures: bool = False
    check_owner: bool = False
    protect_all: bool = False
    enforcement: str = "on"
    recoverable: bool = False
    usage: str = "buffered"
    usage_flush_interval: timedelta = timedelta(seconds=1)
    rotation_period: timedelta = timedelta(days=7)
    ignored_routes: tuple[str, ...] = ()
    max_endpoints_per_key: int = 1000
    max_endpoint_length: int = 500

    @property
    def adopted_forms(self) -> AdoptedForms:
        """The forms in `adopted_keys`."""
        return AdoptedForms(self.adopted_keys)

    @property
    def fernet_key_setting(self) -> str:
        """Name of the setting that the Fernet key was read from."""
        return "APIKEY_FERNET_KEY" if self.fernet_key_file is None else "APIKEY_FERNET_KEY_FILE"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Settings":
        """Read and validate all ``APIKEY_`` settings of an application.

        Raises:
            ConfigurationError: A value is invalid, or a name looks like a misspelt setting.
        """
        try:
            return cls._validated(config)
        except ConfigurationError as exc:
            del config  # holds the Fernet key
            raise_alone(exc)

    @classmethod
    def _validated(cls, config: Mapping[str, Any]) -> "Settings":
        check_names(config, [_setting(name) for name in ("fernet_key", *_CHECKS)])
        values: dict[str, Any] = {"fernet_key": config.get("APIKEY_FERNET_KEY")}
        for name, check in _CHECKS.items():
            setting = _setting(name)
            if setting in config:
                try:
                    values[name] = check(config[setting])
                except ValueError as exc:
                    raise ConfigurationError(f"{setting}: {exc}") from None
        if values.get("fernet_key_file") is not None:
            values["fernet_key"] = _key_in_file(values["fernet_key_file"], values["fernet_key"])
        prefix = values.setdefault("prefix", keystring.DEFAULT_PREFIX)
        if prefix not in values.setdefault("accepted_prefixes", (prefix,)):
            raise ConfigurationError(
                f"APIKEY_ACCEPTED_PREFIXES does not contain APIKEY_PREFIX, {prefix!r}: new keys would be refused. "
                "Add it"
            )
        settings = cls(**values)
        if settings.fallback_plan is not None and settings.fallback_plan not in settings.plans:
            raise ConfigurationError(
                f"APIKEY_FALLBACK_PLAN: the plan {settings.fallback_plan!r} is not in APIKEY_PLANS. Add it"
            )
        if settings.outage_staleness and not timedelta(0) < settings.max_staleness < settings.outage_staleness:
            raise ConfigurationError(
                "APIKEY_OUTAGE_STALENESS must be longer than APIKEY_MAX_STALENESS, which turns the cache on. Set both, "
                "such as '5m' and '1s', or remove it"
            )
        if settings.revoke_exposed and not settings.trusted_proxies:
            raise ConfigurationError(
                "APIKEY_REVOKE_EXPOSED needs APIKEY_TRUSTED_PROXIES: behind an undeclared proxy every request looks "
                'like plain HTTP, and every key would be revoked. If there is no proxy, set it to ["127.0.0.1"]'
            )
        return settings


def given_settings(config: Mapping[str, Any]) -> dict[str, object]:
    """Return the raw values of all ``APIKEY_`` names in a configuration."""
    return {name: value for name, value in config.items() if name.startswith("APIKEY_")}


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be True or False, not {repr_of(value)}; in the environment: true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text that is not empty")
    return value.strip()


def _prefix(value: object) -> str:
    if not isinstance(value, str) or not keystring.is_prefix(value):
        raise ValueError(
            f"must be letters and digits, in parts joined by single underscores, "
            f"at most {keystring.MAX_PREFIX_LENGTH} characters, such as acme_live"
        )
    return value


def _accepted_prefixes(value: object) -> tuple[str, ...]:
    return tuple(map(_prefix, _list(value, "prefixes", "acme_live")))


def _accept(value: object) -> tuple[str, ...]:
    return KeyHeaders(_texts(value, "headers", "X-API-Key")).entries


def _adopted_keys(value: object) -> tuple[str | AdoptedForm, ...]:
    return AdoptedForms(cast(tuple[Any, ...], _list(value, "forms of keys", "sha256"))).entries


def _list(value: object, items: str, example: str) -> tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"must be a list of {items}, not {type(value).__name__}; in the environment: '[\"{example}\"]'"
        )
    return tuple(value)


def _fernet_keys(value: object) -> tuple[object, ...]:
    return _list(value, "Fernet keys", "<key>")


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ValueError("must be the path of a file")
    return Path(value)


def _key_in_file(path: Path, configured: object) -> str:
    if configured:
        raise ConfigurationError("APIKEY_FERNET_KEY_FILE and APIKEY_FERNET_KEY are both set: remove one of them")
    try:
        key = read_key_file(path)
    except ValueError as exc:
        raise ConfigurationError(f"APIKEY_FERNET_KEY_FILE: {path} cannot be used: {exc}") from None
    try:
        FernetKeyring(key)
    except ConfigurationError:
        raise ConfigurationError(
            f"APIKEY_FERNET_KEY_FILE: {path} does not hold a Fernet key of 44 characters, ending with '='. "
            "Generate one with 'flask apikey generate-fernet-key'."
        ) from None
    return key


def _texts(value: object, items: str, example: str) -> tuple[str, ...]:
    texts = []
    for each in _list(value, items, example):
        if not isinstance(each, str):
            raise ValueError(f"must hold text only, not {type(each).__name__}")
        texts.append(each)
    return tuple(texts)


def _trusted_proxies(value: object) -> tuple[str, ...]:
    networks = _texts(value, "addresses and networks", "10.0.0.0/8")
    TrustedProxies(networks)
    return networks


def _ignored_routes(value: object) -> tuple[str, ...]:
    rules = _texts(value, "URL rules", "/health")
    for rule in rules:
        if not rule.startswith(("/", "*")):
            raise ValueError(f"{rule!r} is not a URL rule, such as /health or /static/*")
    return rules


def _one_of(*choices: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(map(repr, choices))}, not {repr_of(value)}")
        return str(value)

    return check


def _flush_interval(value: object) -> timedelta:
    duration = to_duration(value)
    if not _MIN_FLUSH_INTERVAL <= duration <= _MAX_FLUSH_INTERVAL:
        raise ValueError(
            "must be between 10 milliseconds and 1 hour: buffered counts are lost if the process is killed"
        )
    return duration


def _whole_number(maximum: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
            raise ValueError(f"must be a whole number from 1 to {maximum}, not {repr_of(value)}")
        return value

    return check


def _forwarded_header(value: object) -> str:
    header = _text(value)
    TrustedProxies((), header)
    return header


def _duration(value: object, *, zero: bool = False) -> timedelta:
    try:
        return checked_duration(value, "the duration", zero=zero)
    except InvalidValue as exc:
        raise ValueError(str(exc)) from None


def _storage_timeout(value: object) -> timedelta:
    duration = to_duration(value)
    if not _MIN_STORAGE_TIMEOUT <= duration <= _MAX_STORAGE_TIMEOUT:
        raise ValueError("must be between 100 milliseconds and 1 minute: a storage that hangs occupies a worker for it")
    return duration


def _max_staleness(value: object) -> timedelta:
    duration = to_duration(value)
    if duration and not _MIN_STALENESS <= duration <= _MAX_STALENESS:
        raise ValueError("must be 0, or between 100 milliseconds and 1 minute: so long other processes accept a key")
    return duration


def _outage_staleness(value: object) -> timedelta:
    duration = to_duration(value)
    if not timedelta(0) <= duration <= _MAX_OUTAGE_STALENESS:
        raise ValueError("must be between 0 and 1 day: so long a key that was revoked is accepted in an outage")
    return duration


def _min_failure_time(value: object) -> timedelta:
    duration = to_duration(value)
    if not timedelta(0) <= duration <= _MAX_FAILURE_TIME:
        raise ValueError("must be between 0 and 1 second: each refusal occupies a worker for this time")
    return duration


def _optional(check: Callable[[object], Any]) -> Callable[[object], Any]:
    return lambda value: None if value is None else check(value)


_CHECKS: dict[str, Callable[[object], Any]] = {
    "fernet_key_fallbacks": _fernet_keys,
    "fernet_key_file": _optional(_path),
    "storage_uri": _optional(_text),
    "storage_timeout": _storage_timeout,
    "max_staleness": _max_staleness,
    "outage_staleness": _outage_staleness,
    "prefix": _prefix,
    "accept": _accept,
    "adopted_keys": _adopted_keys,
    "accepted_prefixes": _accepted_prefixes,
    "lifetime": _optional(_duration),
    "expiry_notice": partial(_duration, zero=True),
    "rotation_period": _duration,
    "enforce_https": _optional(_boolean),
    "trusted_proxies": _trusted_proxies,
    "forwarded_header": _forwarded_header,
    "min_failure_time": _min_failure_time,
    "failure_limit": _optional(parse_rate),
    "revoke_exposed": _boolean,
    "audit_logging": _boolean,
    "plans": checked_plans,
    "fallback_plan": _optional(_text),
    "rate_storage_uri": _text,
    "rate_on_failure": _one_of("allow", "refuse"),
    "charge_failures": _boolean,
    "check_owner": _boolean,
    "protect_all": _boolean,
    "enforcement": _one_of("on", "report"),
    "recoverable": _boolean,
    "usage": _one_of("buffered", "sync", "off"),
    "usage_flush_interval": _flush_interval,
    "ignored_routes": _ignored_routes,
    "max_endpoints_per_key": _whole_number(_MAX_ENDPOINTS),
    "max_endpoint_length": _whole_number(MAX_ENDPOINT_LENGTH),
}


def _setting(name: str) -> str:
    return f"APIKEY_{name.upper()}"
