"""Labels under which finished requests are counted."""

from collections.abc import Callable

from flask import Flask, Request, Response

from flask_apikey.core.addresses import Address
from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.keys.authenticator import Decision, Verdict
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.usage.labels import STANDARD_METHODS, EndpointLabels, method_label, patterns_without_rule
from flask_apikey.core.usage.recorder import UsageRecorder
from flask_apikey.request.protected_views import Protection, protected_views
from flask_apikey.settings import Settings

# These verdicts do not establish that the key exists. A tuple, because hashing Enum members is slow.
_NOT_COUNTED = (Verdict.UNKNOWN, Verdict.UNAVAILABLE, Verdict.TAMPERED)

_ACCEPTS_KEYS = {Protection.REQUIRED, Protection.OPTIONAL}


class Counting:
    """Request counting of one application."""

    def __init__(self, settings: Settings, recorder: Callable[[], UsageRecorder | None]) -> None:
        self._recorder = recorder
        self._labels = EndpointLabels(settings.max_endpoint_length, settings.ignored_routes)

    def count(self, incoming: Request, decision: Decision, address: Address | None, response: Response) -> None:
        """Count a finished request."""
        key = decision.key
        key_id, owner = (decision.presented_id, decision.presented_owner) if key is None else (key.id, key.owner)
        if key_id is None or decision.verdict in _NOT_COUNTED:
            return
        counted = self._counted(incoming)
        if counted is None:
            return
        recorder, endpoint, method = counted
        if key is not None and decision.at is not None:
            is_overdue = recorder.accepted(
                key,
                decision.at,
                position=decision.position or 0,
                endpoint=endpoint,
                method=method,
                status=response.status_code,
                address=address,
            )
        else:
            is_overdue = recorder.refused(key_id, owner, endpoint, method, decision.verdict.name.lower())
        if is_overdue:
            response.call_on_close(recorder.flush_if_overdue)

    def count_would_refuse(self, incoming: Request, decision: Decision, response: Response) -> None:
        """Count a finished request that passed in report mode. Its key is only counted if it is proven."""
        counted = self._counted(incoming)
        if counted is None:
            return
        recorder, endpoint, method = counted
        key_id, owner = ("", None) if decision.key is None else (decision.key.id, decision.key.owner)
        reason = decision.verdict.name.lower()
        if recorder.would_refuse(key_id, owner, endpoint, method, status=response.status_code, reason=reason):
            response.call_on_close(recorder.flush_if_overdue)

    def _counted(self, incoming: Request) -> tuple[UsageRecorder, str, str] | None:
        """Return the recorder and the labels of endpoint and method, or None if the request is not counted."""
        # Fetched late: it opens the storage, which requests without a key do not need.
        recorder = self._recorder()
        if recorder is None:
            return None
        rule = incoming.url_rule
        endpoint = self._labels[None if rule is None else rule.rule]
        if endpoint is None:
            return None
        method = incoming.method
        if method not in STANDARD_METHODS:
            method = method_label(method, None if rule is None else rule.methods)
        return recorder, endpoint, method


def ignored_without_rule(app: Flask, settings: Settings) -> list[str]:
    """Return the entries of ``APIKEY_IGNORED_ROUTES`` that match no URL rule."""
    return patterns_without_rule(settings.ignored_routes, [rule.rule for rule in app.url_map.iter_rules()])


def require_complete_counting(app: Flask, settings: Settings, backend: Backend) -> None:
    """Raise a ConfigurationError that names the cause if some uses of a key are not counted."""
    unknown = "the last use of a secret is unknown"
    if settings.usage == "off":
        raise ConfigurationError(f"{unknown}: APIKEY_USAGE is 'off'")
    if backend.usage is None:
        raise ConfigurationError(f"{unknown}: {type(backend).__name__} keeps no usage")
    labels = EndpointLabels(ignored=settings.ignored_routes)
    views = protected_views(app, protect_all=settings.protect_all)
    uncounted = {view.rule for view in views if view.protection in _ACCEPTS_KEYS and labels[view.rule] is None}
    if uncounted:
        raise ConfigurationError(
            f"{unknown}: keys are used at {', '.join(sorted(uncounted))}, which APIKEY_IGNORED_ROUTES leaves out"
        )
