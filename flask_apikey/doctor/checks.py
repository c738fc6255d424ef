"""Checks of ``flask apikey doctor``."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import takewhile
from operator import ne

from flask import Flask

from flask_apikey.app_state import ApplicationState
from flask_apikey.core.errors import StorageError, StorageMissing
from flask_apikey.core.fernet_key_file import loose_mode
from flask_apikey.core.rotation.status import RotationStatus, status_of
from flask_apikey.core.times import in_words
from flask_apikey.doctor import fernet_keys, rotation, stored_keys
from flask_apikey.doctor.adoption import check_adopted_keys
from flask_apikey.doctor.findings import MAX_DETAILS, Finding, Severity, ok, problem, warning
from flask_apikey.doctor.migrations import check_migrations
from flask_apikey.doctor.proxies import check_proxies, check_servers, place_of_many_workers
from flask_apikey.doctor.report_mode import check_report_mode
from flask_apikey.request.counting import ignored_without_rule
from flask_apikey.request.protected_views import InventoriedView, Protection, protected_views, unregistered_functions
from flask_apikey.request.requirement import layers


def diagnose(app: Flask, state: ApplicationState, *, max_keys: int | None = None) -> list[Finding]:
    """Run every check, and return the findings, the worst first.

    Args:
        app: The application.
        state: Its state.
        max_keys: Maximum number of keys read; None for `stored_keys.MAX_KEYS`.
    """
    severities = list(Severity)
    limited = partial(check_storage, max_keys=max_keys)
    checks = (limited if check is check_storage else check for check in CHECKS)
    findings = [finding for check in checks for finding in check(app, state)]
    return sorted(findings, key=lambda finding: severities.index(finding.severity))


def check_fernet_keys(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check that nobody else can guess or read the Fernet keys."""
    findings = [
        *fernet_keys.check_strength(app, state.settings),
        *fernet_keys.check_file_mode(state.settings),
        *fernet_keys.check_source(app, state.settings),
    ]
    yield from findings or [ok("fernet_keys", "The Fernet keys look random and are not in the source code.")]


def check_https(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check that plain HTTP is refused."""
    enforced = state.settings.enforce_https
    relaxed = " and ".join(f"app.{name}" for name in ("debug", "testing") if getattr(app, name))
    if enforced is False:
        report = warning if app.debug else problem
        yield report(
            "https_not_enforced",
            "APIKEY_ENFORCE_HTTPS is False: keys are accepted over plain HTTP.",
            "Remove the setting. Behind a proxy that terminates TLS, name the proxy in APIKEY_TRUSTED_PROXIES.",
        )
    elif enforced is None and relaxed:
        yield warning(
            "https_relaxed",
            f"{relaxed} is on: keys are accepted over plain HTTP.",
            "Turn it off in production, or set APIKEY_ENFORCE_HTTPS to True.",
        )
    else:
        yield ok("https", "Plain HTTP is refused.")


def check_hooks(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check that no function runs before the check of a request, or after the work on its answer."""
    hooks = state.enforcement
    functions = [
        function
        for registered, own in (
            (app.before_request_funcs, hooks.before_request),
            (app.after_request_funcs, hooks.after_request),
        )
        for function in takewhile(partial(ne, own), registered.get(None, ()))
    ]
    if functions:
        yield warning(
            "hooks_before_check",
            f"Functions that run before the check of a key, or change its answer afterwards: {len(functions)}. "
            "What they answer is not checked, and may be cached.",
            "Register them with app.before_request and app.after_request, not at the beginning of Flask's lists.",
            details=tuple(
                {"function": f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"}
                for function in functions[:MAX_DETAILS]
            ),
        )


def check_storage(app: Flask, state: ApplicationState, max_keys: int | None = None) -> Iterator[Finding]:
    """Check the storage, and up to `max_keys` keys in it."""
    max_keys = stored_keys.MAX_KEYS if max_keys is None else max_keys
    try:
        # A storage without tables answers, and is reported as incomplete below.
        with suppress(StorageMissing):
            state.backend.ping()
    except StorageError as exc:
        yield problem(
            "storage_unreachable",
            f"The storage does not answer: {exc}",
            "Check APIKEY_STORAGE_URI, the network and the database.",
        )
        return
    notice = state.settings.expiry_notice
    try:
        missing = state.backend.missing_parts()
        if missing:
            yield problem(
                "storage_incomplete",
                f"Missing tables, columns or indexes: {', '.join(missing)}.",
                "Create tables and indexes with 'flask apikey init', and columns with a migration.",
            )
        keys = stored_keys.read_keys(
            state.backend,
            state.ring,
            accepted_prefixes=state.settings.accepted_prefixes,
            now=state.clock(),
            notice=notice,
            max_keys=max_keys,
        )
        adopted = list(
            check_adopted_keys(
                state.backend, state.ring, state.settings.adopted_forms, state.clock(), max_keys=max_keys
            )
        )
        status = _rotation_status(state, keys.seals, is_incomplete=bool(missing))
    except StorageError as exc:
        message = f"The stored keys cannot be read: {exc}"
        yield problem("storage_unusable", message)
        return
    if state.backend.is_in_memory:
        report = warning if app.testing else problem
        yield report(
            "storage_in_memory",
            "Keys are in a database in memory: they end with each process, and no other process sees them.",
            "Set APIKEY_STORAGE_URI to a file or a server.",
        )
    yield from _check_file_mode(state)
    yield ok("storage", "The storage answers.")
    yield from _check_usage(state)
    yield from stored_keys.check_completeness(keys, max_keys)
    yield from stored_keys.check_prefixes(keys)
    yield from stored_keys.check_plans(keys, state.settings.plans, state.settings.fallback_plan)
    yield from stored_keys.check_scopes(keys, protected_views(app, protect_all=state.settings.protect_all))
    yield from stored_keys.check_expiry(keys, notice)
    yield from stored_keys.check_damage(keys)
    yield from adopted
    yield from rotation.unreadable_keys(state.ring, keys.seals)
    if status is not None:
        yield from rotation.rotation(status)


def _check_file_mode(state: ApplicationState) -> Iterator[Finding]:
    path = state.backend.file
    mode = None if path is None else loose_mode(path)
    if mode is not None:
        yield warning(
            "storage_file_mode",
            f"Other users have access to {path}, which holds the keys (mode {mode:04o}).",
            f"chmod 0600 {path}",
        )


def _check_usage(state: ApplicationState) -> Iterator[Finding]:
    if state.settings.usage != "off" and state.backend.usage is None:
        yield warning(
            "usage_not_kept",
            f"Requests are not counted: {type(state.backend).__name__} does not store usage.",
            "Use another storage, or set APIKEY_USAGE to 'off'.",
        )


def _rotation_status(
    state: ApplicationState, seals: Mapping[str, int], *, is_incomplete: bool
) -> RotationStatus | None:
    """Return the rotation status, or None if the storage keeps none or has no table for it yet."""
    if state.backend.rotation is None:
        return None
    try:
        last = state.backend.rotation.get()
    except StorageError:
        if not is_incomplete:
            raise
        return None
    return status_of(state.ring, seals, last, state.clock())


def check_owner_loader(app: Flask, state: ApplicationState) -> Iterator[Finding]:  # noqa: ARG001  # all checks take both
    """Check that owners can be checked where the setting asks for it."""
    if state.settings.check_owner and state.loaders.owner is None:
        yield problem(
            "owner_loader_missing",
            "APIKEY_CHECK_OWNER is True, but there is no owner loader: every protected view fails.",
            "Register one with @api_keys.owner_loader, or remove the setting.",
        )


def check_staleness(app: Flask, state: ApplicationState) -> Iterator[Finding]:  # noqa: ARG001  # all checks take both
    """Tell how long a key that another process revokes may be accepted."""
    settings = state.settings
    if settings.outage_staleness:
        yield warning(
            "staleness_in_outage",
            "While the storage does not answer, keys that were revoked or changed since are accepted for up to "
            f"{in_words(settings.outage_staleness)}.",
            "Remove APIKEY_OUTAGE_STALENESS if that is longer than a leaked key may work.",
        )
    elif settings.max_staleness:
        bound = in_words(settings.max_staleness)
        yield ok("staleness", f"Changes hold in other processes after {bound}, and edits by hand after 1 minute.")


def check_rates(app: Flask, state: ApplicationState) -> Iterator[Finding]:  # noqa: ARG001  # all checks take both
    """Check that all processes count rates in one place."""
    if not state.settings.plans or not state.enforcement.rate_check.storage.is_in_memory:
        return
    place = place_of_many_workers()
    if place is not None:
        yield warning(
            "rates_in_memory",
            f"{place} starts several processes, and each counts rates in its own memory: more requests pass than the "
            "plans say.",
            "Set APIKEY_RATE_STORAGE_URI to a server, such as redis://localhost:6379/0.",
        )
    else:
        yield ok("rates", "Rates are counted in memory. With several processes, set APIKEY_RATE_STORAGE_URI.")


def check_views(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check which views answer without a key."""
    views: dict[Protection, list[InventoriedView]] = {protection: [] for protection in Protection}
    for view in protected_views(app, protect_all=state.settings.protect_all):
        views[view.protection].append(view)
    undeclared = views[Protection.NONE]
    if undeclared:
        yield warning(
            "views_undeclared",
            f"Views that need no API key, and are not declared so: {len(undeclared)}.",
            "Protect them with @require_api_key. Mark those that are public, or that something else protects, such as "
            "a login, with @api_key_exempt.",
            details=_view_details(undeclared),
        )
    else:
        yield ok("views", "Every view needs an API key or is exempt.")
    for protection, title in (
        (Protection.OPTIONAL, "Views with an optional API key"),
        (Protection.EXEMPT, "Exempt views"),
        (Protection.STATIC, "Static files without an API key"),
    ):
        if views[protection]:
            message = f"{title}: {len(views[protection])}."
            yield ok(f"views_{protection.value}", message, details=_view_details(views[protection]))
    functions = unregistered_functions(app)
    if functions:
        yield warning(
            "views_not_registered",
            f"Functions with @require_api_key that are the view of no endpoint: {len(functions)}. Other "
            "decorators hide them, or nothing registers them. Requests that reach them fail.",
            "Put @require_api_key below @app.get, above decorators that do not use functools.wraps.",
            details=tuple({"function": name} for name in functions[:MAX_DETAILS]),
        )


def check_caches(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check that no cache of Flask-Caching gives the answer to one key to another."""
    views = [
        view
        for view in protected_views(app, protect_all=state.settings.protect_all)
        if view.protection in {Protection.REQUIRED, Protection.OPTIONAL}
        and any(map(_is_cached_for_all, layers(app.view_functions[view.endpoint])))
    ]
    if views:
        yield warning(
            "answers_shared",
            f"Views whose answers Flask-Caching keeps for all callers: {len(views)}. Callers with other keys get the "
            "same answers.",
            "Use @cache.cached(make_cache_key=flask_apikey.caching.caller_cache_key) where they depend on the key.",
            details=_view_details(views),
        )


def _is_cached_for_all(layer: object) -> bool:
    """Return True for a function of ``Cache.cached`` without ``make_cache_key``."""
    if not (inspect.isfunction(layer) and hasattr(layer, "uncached")):
        return False
    return inspect.getclosurevars(layer).nonlocals.get("make_cache_key") is None


def check_ignored_routes(app: Flask, state: ApplicationState) -> Iterator[Finding]:
    """Check that the URL rules whose requests are not counted exist."""
    entries = ignored_without_rule(app, state.settings)
    if entries:
        yield warning(
            "ignored_routes_unknown",
            f"APIKEY_IGNORED_ROUTES has entries that match no URL rule, and have no effect: {', '.join(entries)}.",
            "Write them as in @app.get, with * for any text, such as /admin/*.",
        )


def _view_details(views: list[InventoriedView]) -> tuple[dict[str, str], ...]:
    return tuple(
        {"methods": ", ".join(view.methods), "rule": view.rule, "endpoint": view.endpoint}
        for view in views[:MAX_DETAILS]
    )


CHECKS: tuple[Callable[[Flask, ApplicationState], Iterator[Finding]], ...] = (
    check_fernet_keys,
    check_https,
    check_proxies,
    check_servers,
    check_storage,
    check_migrations,
    check_staleness,
    check_owner_loader,
    check_rates,
    check_hooks,
    check_caches,
    check_ignored_routes,
    check_views,
    check_report_mode,
)
