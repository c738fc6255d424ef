"""What ``flask apikey doctor`` looks at."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from flask_apikey.app_state import ApplicationState
from flask_apikey.core.addresses import parse_network
from flask_apikey.core.errors import StorageError, StorageMissing
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.rotation.status import RotationStatus, status_of
from flask_apikey.core.storage.contract import Backend, Inspectable, KeepsRotation, KeepsUsage
from flask_apikey.core.times import in_words
from flask_apikey.doctor import fernet_keys as fernet_checks
from flask_apikey.doctor import rotation as rotation_checks
from flask_apikey.doctor.findings import Finding, Severity
from flask_apikey.request.protected_views import InventoriedView, Protection, protected_views

MAX_KEYS = 50_000
"""So many keys are read, oldest first."""

MAX_LISTED = 20
"""So many details of each finding are listed."""

_MOST_READINGS = 4

_LARGEST_PRIVATE_NETWORKS = {4: 8, 6: 7}
"""The prefix lengths of 10.0.0.0/8 (RFC 1918) and fc00::/7 (RFC 4193), by version of IP."""

Check = Callable[[Flask, ApplicationState], Iterator[Finding]]


def diagnose(app: Flask, state: ApplicationState) -> list[Finding]:
    """Everything that can be told without a request, the worst first.

    Raises:
        ConfigurationError: The storage is not configured.
    """
    findings = [finding for check in _CHECKS for finding in check(app, state)]
    order = [Severity.PROBLEM, Severity.WARNING, Severity.OK]
    return sorted(findings, key=lambda finding: order.index(finding.severity))


def check_fernet_keys(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Whether the Fernet keys can be guessed, and whether others can read them."""
    tracked = list(fernet_checks.in_repository(app, state.settings))
    known = [detail for finding in tracked for detail in finding.details]
    written = [
        finding
        for finding in fernet_checks.in_source(app, state.settings)
        if any(detail not in known for detail in finding.details)
    ]
    loose = fernet_checks.file_mode(state.settings)
    found = [*fernet_checks.quality(app, state.settings), *loose, *tracked, *written]
    yield from found or [_ok("fernet_keys", "The Fernet keys look random and are not written in the source.")]


def check_https(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Whether keys can come over plain HTTP."""
    enforced = state.settings.enforce_https
    relaxed = " and ".join(name for name in ("debug", "testing") if getattr(app, name))
    if enforced is False:
        yield Finding(
            code="https_not_enforced",
            severity=Severity.WARNING if app.debug else Severity.PROBLEM,
            message="APIKEY_ENFORCE_HTTPS is False: keys are accepted over plain HTTP.",
            advice="Remove the setting. Behind a proxy that ends TLS, name the proxy in APIKEY_TRUSTED_PROXIES.",
        )
    elif enforced is None and relaxed:
        yield Finding(
            code="https_relaxed",
            severity=Severity.WARNING,
            message=f"app.{relaxed.replace(' and ', ' and app.')} is on: keys are accepted over plain HTTP.",
            advice="Turn it off in production, or set APIKEY_ENFORCE_HTTPS to True.",
        )
    else:
        yield _ok("https", "Plain HTTP is refused.")


def check_proxies(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Whose word counts on where a request comes from."""
    networks = state.settings.trusted_proxies
    fixed = isinstance(app.wsgi_app, ProxyFix)
    if networks and fixed:
        yield Finding(
            code="proxies_twice",
            severity=Severity.WARNING,
            message="APIKEY_TRUSTED_PROXIES is set and werkzeug's ProxyFix is in use: both read forwarding headers.",
            advice="Keep one of them.",
        )
    elif any(network != "unix" and _is_vast(network) for network in networks):
        yield Finding(
            code="proxies_everywhere",
            severity=Severity.PROBLEM,
            message="APIKEY_TRUSTED_PROXIES trusts much of the Internet: clients can name their address and scheme.",
            advice="Name the addresses of your proxies only.",
        )
    elif networks:
        yield _ok("proxies", f"{state.settings.forwarded_header} counts when it comes from {', '.join(networks)}.")
    elif fixed:
        yield _ok("proxies", "Callers are taken from werkzeug's ProxyFix.")
    else:
        yield _ok(
            "proxies",
            "No proxy is declared: callers are taken at the address of their connection, and forwarding headers do "
            "not count. Behind a proxy, name it in APIKEY_TRUSTED_PROXIES.",
        )


def check_views(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Which views answer without a key."""
    views = list(protected_views(app, protect_all=state.settings.protect_all))
    of = {kind: [view for view in views if view.protection is kind] for kind in Protection}
    if of[Protection.NONE]:
        yield Finding(
            code="views_unprotected",
            severity=Severity.WARNING,
            message=f"Views that answer without an API key: {len(of[Protection.NONE])}.",
            advice="Protect them with @require_api_key, or mark what is public with @api_key_exempt.",
            details=_listed(of[Protection.NONE]),
        )
    else:
        yield _ok("views", "Every view needs an API key or is exempt.")
    for kind, said in (
        (Protection.OPTIONAL, "Views for which an API key is optional"),
        (Protection.EXEMPT, "Views that are exempt"),
        (Protection.STATIC, "Static files that need no API key"),
    ):
        if of[kind]:
            yield _ok(f"views_{kind.value}", f"{said}: {len(of[kind])}.", _listed(of[kind]))


def check_storage(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Whether the storage answers, and what its keys say."""
    try:
        with suppress(StorageMissing):
            state.backend.ping()
    except StorageError as exc:
        yield Finding(
            code="storage_unreachable",
            severity=Severity.PROBLEM,
            message=f"The storage does not answer: {exc}",
            advice="Check APIKEY_STORAGE_URI, the network and the database.",
        )
        return
    try:
        missing = state.backend.missing_parts() if isinstance(state.backend, Inspectable) else ()
        if missing:
            yield Finding(
                code="storage_incomplete",
                severity=Severity.PROBLEM,
                message=f"Tables or indexes are missing: {', '.join(missing)}.",
                advice="Make them with 'flask apikey init', or with your migrations.",
            )
        census = _take_census(state)
        seals = state.backend if isinstance(state.backend, KeepsRotation) else None
        sealed_under = census.sealed_under if seals is None else seals.count_seals()
        damaged = 0 if seals is None or not census.is_complete else _damaged_keys(state.backend, seals, census)
        status = _rotation_status(state, sealed_under, is_incomplete=bool(missing))
    except StorageError as exc:
        yield Finding(
            code="storage_unusable",
            severity=Severity.PROBLEM,
            message=f"The keys of the storage cannot be read: {exc}",
        )
        return
    yield _ok("storage", "The storage answers.")
    if state.settings.usage != "off" and not isinstance(state.backend, KeepsUsage):
        yield Finding(
            code="usage_not_kept",
            severity=Severity.WARNING,
            message=f"Requests are not counted: {type(state.backend).__name__} keeps no usage.",
            advice="Use a storage that does, or set APIKEY_USAGE to 'off'.",
        )
    if not census.is_complete:
        yield Finding(
            code="keys_not_all_read",
            severity=Severity.WARNING,
            message=f"Only the oldest {MAX_KEYS} keys were looked at.",
            advice="What is said of scopes and expiry holds for those.",
        )
    yield from _scopes(protected_views(app, protect_all=state.settings.protect_all), census)
    yield from _expiry(state.settings.expiry_notice, census)
    yield from _damage(damaged)
    yield from rotation_checks.unreadable_keys(state.ring, sealed_under)
    if status is not None and (seals is not None or census.is_complete):
        yield from rotation_checks.rotation(status, can_reseal=seals is not None)


_CHECKS: tuple[Check, ...] = (check_fernet_keys, check_https, check_proxies, check_storage, check_views)


@dataclass(slots=True)
class _Census:
    """What was learned in one reading of the keys."""

    active: int = 0
    scopes: set[str] = field(default_factory=set)
    expiring: int = 0
    expiring_first: list[APIKey] = field(default_factory=list)
    sealed_under: Counter[str] = field(default_factory=Counter)
    is_complete: bool = True


def _take_census(state: ApplicationState) -> _Census:
    census = _Census()
    now = state.clock()
    notice_until = now + state.settings.expiry_notice
    for count, stored in enumerate(islice(state.backend.all_keys(), MAX_KEYS + 1)):
        if count == MAX_KEYS:
            census.is_complete = False
            break
        census.sealed_under[stored.seal.fingerprint] += 1
        record = stored.record
        if record.status(now) is not Status.ACTIVE:
            continue
        census.active += 1
        census.scopes |= record.scopes
        if record.expires_at is not None and record.expires_at <= notice_until:
            census.expiring += 1
            if census.expiring <= MAX_LISTED:
                census.expiring_first.append(record)
    return census


def _damaged_keys(backend: Backend, seals: KeepsRotation, census: _Census) -> int:
    """How many keys are counted by the storage and cannot be read.

    Keys that others add or remove between a reading and its count must not look
    damaged, so that two of them in a row have to agree. While they do not, it is 0.
    """
    read, before = sum(census.sealed_under.values()), None
    for _ in range(_MOST_READINGS):
        counted = sum(seals.count_seals().values())
        if counted <= read:
            return 0
        if (read, counted) == before:
            return counted - read
        before = read, counted
        read = sum(1 for _ in backend.all_keys())
    return 0


def _damage(keys: int) -> Iterator[Finding]:
    if keys:
        yield Finding(
            code="keys_damaged",
            severity=Severity.PROBLEM,
            message=f"Keys whose stored row is damaged: {keys}. The log names them. They get 503, and no rotation can "
            "finish that has to re-seal one.",
            advice="No command can change them: repair each row in the database itself, or remove it there by its id.",
        )


def _rotation_status(
    state: ApplicationState, sealed_under: Mapping[str, int], *, is_incomplete: bool
) -> RotationStatus | None:
    """Where a rotation stands; None where the storage has no place yet in which that could be kept."""
    try:
        last = state.backend.get_rotation() if isinstance(state.backend, KeepsRotation) else None
    except StorageError:
        if not is_incomplete:
            raise
        return None
    return status_of(state.ring, sealed_under, last, state.clock())


def _scopes(views: Iterable[InventoriedView], census: _Census) -> Iterator[Finding]:
    if "*" in census.scopes:
        return
    missing: dict[str, set[str]] = {}
    for view in views:
        for scope in view.scopes - census.scopes:
            missing.setdefault(scope, set()).add(view.endpoint)
    if missing:
        yield Finding(
            code="scopes_without_key",
            severity=Severity.WARNING,
            message=f"Scopes that views require and no active key has: {len(missing)}.",
            advice="Look for a misspelt scope, or issue a key that has it.",
            details=tuple(
                {"scope": scope, "endpoints": ", ".join(sorted(missing[scope]))} for scope in sorted(missing)
            )[:MAX_LISTED],
        )


def _expiry(notice: timedelta, census: _Census) -> Iterator[Finding]:
    period = in_words(notice)
    if census.expiring:
        yield Finding(
            code="keys_expiring",
            severity=Severity.WARNING,
            message=f"Keys that expire within {period}: {census.expiring}.",
            advice="Issue new keys in time, or move their end with 'flask apikey update ID --expires MOMENT'.",
            details=tuple(
                {"id": record.id, "name": record.name, "expires": record.expires_at.isoformat()}
                for record in census.expiring_first
                if record.expires_at is not None
            ),
        )
    elif notice:
        yield _ok("keys", f"Active keys: {census.active}. None of them expires within {period}.")
    else:
        yield _ok(
            "keys", f"Active keys: {census.active}. APIKEY_EXPIRY_NOTICE is 0: when they expire is not looked at."
        )


def _is_vast(network: str) -> bool:
    parsed = parse_network(network)
    return parsed.prefixlen < _LARGEST_PRIVATE_NETWORKS[parsed.version]


def _listed(views: list[InventoriedView]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"methods": ", ".join(view.methods), "rule": view.rule, "endpoint": view.endpoint}
        for view in views[:MAX_LISTED]
    )


def _ok(code: str, message: str, details: tuple[dict[str, Any], ...] = ()) -> Finding:
    return Finding(code=code, severity=Severity.OK, message=message, details=details)
