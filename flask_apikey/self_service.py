"""Optional blueprint with which the holder of a key shows, rolls and revokes it.

The key itself is the only credential. The routes exist only after the application
has registered the blueprint.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, jsonify

from flask_apikey.app_state import current_application_state
from flask_apikey.core.actors import acting_as, key_actor
from flask_apikey.core.errors import (
    APIKeyError,
    Conflict,
    KeyEnded,
    KeyNotFound,
    SealUnreadable,
    StorageError,
    TooManySecrets,
    described,
    raise_alone,
)
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.model.history import ROLLED
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.validation import checked_duration
from flask_apikey.core.times import Duration, in_words, to_isoformat
from flask_apikey.decorators import require_api_key
from flask_apikey.extension import APIKeys
from flask_apikey.problems import ConcurrentChange, InvalidRequest, PreviousSecret, TooManyPreviousSecrets, Unavailable
from flask_apikey.request.current import current_request, current_request_state
from flask_apikey.request.requirements import mark_closed

__all__ = ["self_service_blueprint"]

MAX_BODY_BYTES = 1024
_REASON = "by its holder"


def self_service_blueprint(
    api_keys: APIKeys, *, max_grace: Duration = timedelta(days=7), name: str = "api_key_self_service"
) -> Blueprint:
    """Create the blueprint with ``GET``, ``DELETE``, ``POST /roll`` and ``POST /revoke`` below ``/api-key``.

    Args:
        api_keys: Extension of the application that registers the blueprint.
        max_grace: Maximum grace period of a roll. Zero allows none.
        name: Name of the blueprint.

    Raises:
        InvalidValue: `max_grace` is not a valid duration.
    """
    max_grace = checked_duration(max_grace, "max_grace", zero=True)
    blueprint = Blueprint(name, __name__, url_prefix="/api-key")
    mark_closed(blueprint)

    @blueprint.get("")
    @require_api_key
    def show() -> Response:
        decision, record = _presented_key()
        details = {
            "id": record.id,
            "name": record.name,
            "status": record.status(current_application_state().clock()).value,
            "scopes": sorted(record.scopes),
            "allowed_ips": list(record.allowed_ips),
            "created_at": record.created_at.isoformat(),
            "expires_at": to_isoformat(record.expires_at),
            "rolled_at": to_isoformat(record.rolled_at),
            "secret": "previous" if decision.position else "newest",
            "secret_ends_at": to_isoformat(decision.ends_at),
            "limits": _limits(record),
        }
        return _response(details)

    @blueprint.post("/roll")
    @require_api_key
    def roll() -> Response:
        decision, record = _presented_key()
        if decision.position:
            with acting_as(key_actor(record.id)):
                current_application_state().record_failure(ROLLED, record, PreviousSecret.problem)
            raise PreviousSecret(decision)
        grace = _requested_grace(decision, max_grace)
        with _errors_as_problems(decision), acting_as(key_actor(record.id)):
            issued = api_keys.roll(record.id, grace=grace, expected_version=record.version)
        rolled = issued.record
        previous_ends = rolled.previous_secrets_expire_at
        details = {
            "id": rolled.id,
            "expires_at": to_isoformat(rolled.expires_at),
            "rolled_at": to_isoformat(rolled.rolled_at),
            "previous_secret_ends_at": to_isoformat(previous_ends[0] if previous_ends else rolled.rolled_at),
        }
        return _response({"key": issued.key, **details})

    @blueprint.post("/revoke")
    @blueprint.delete("")
    @require_api_key
    def revoke() -> Response:
        decision, record = _presented_key()
        _body(decision, allowed=())
        with _errors_as_problems(decision), acting_as(key_actor(record.id)):
            if decision.position:
                rolling = current_application_state().services.rolling
                rolling.end_secret(record.id, decision.position, expected_version=record.version, reason=_REASON)
            else:
                api_keys.revoke(record.id, reason=_REASON)
        return _response({"id": record.id, "ended": "secret" if decision.position else "key"})

    return blueprint


def _presented_key() -> tuple[Decision, APIKey]:
    decision = current_request_state().decision
    if decision is None or decision.key is None or not decision.accepted:
        raise RuntimeError("a view of the self-service was called without a check of the key")
    return decision, decision.key


def _limits(record: APIKey) -> dict[str, Any] | None:
    """Return the limits of the key, or None while they cannot be read."""
    try:
        return current_application_state().enforcement.rate_check.limits_of(record).to_dict()
    except APIKeyError:
        return None


def _requested_grace(decision: Decision, max_grace: timedelta) -> timedelta:
    if "grace" in current_request().args:
        raise InvalidRequest(decision, "grace: send it in the body, as JSON")
    value = _body(decision, allowed=("grace",)).get("grace", 0)
    maximum = f"the maximum is {in_words(max_grace)}"
    try:
        grace = checked_duration(value, "grace", zero=True)
    except ValueError:
        expected = 'expected text such as "24h", or 0'
        raise InvalidRequest(decision, f"grace: {expected}; {maximum}") from None
    if grace > max_grace:
        raise InvalidRequest(decision, f"grace: {maximum}")
    return grace


def _body(decision: Decision, *, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Parse the JSON object in the request body. A missing body is an empty object."""
    request = current_request()
    if "Transfer-Encoding" in request.headers or (request.content_length or 0) > MAX_BODY_BYTES:
        raise InvalidRequest(decision, f"the body must have a Content-Length of at most {MAX_BODY_BYTES} bytes")
    if not request.content_length:
        return {}
    if not request.is_json:
        raise InvalidRequest(decision, "the body must be application/json")
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise InvalidRequest(decision, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequest(decision, "the body must be a JSON object")
    unknown = body.keys() - set(allowed)
    if unknown:
        raise InvalidRequest(
            decision,
            f"unknown members: {', '.join(sorted(unknown))}; allowed: {', '.join(allowed) or 'none'}",
        )
    return body


@contextmanager
def _errors_as_problems(decision: Decision) -> Iterator[None]:
    """Convert an error of a change to the problem in the response."""
    try:
        yield
    except TooManySecrets:
        raise TooManyPreviousSecrets(decision) from None
    except (Conflict, KeyEnded, KeyNotFound):
        raise ConcurrentChange(decision) from None
    except Exception as exc:  # backends of others may raise anything
        if isinstance(exc, APIKeyError) and not isinstance(exc, StorageError | SealUnreadable):
            raise
        if decision.key is not None:
            current_application_state().record_failure("storage", decision.key, described(exc))
        raise_alone(Unavailable(decision))


def _response(body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.headers["Cache-Control"] = "no-store"
    return response
