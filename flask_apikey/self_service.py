"""A blueprint with which the holder of a key sees, rolls and revokes it, by possession of the key alone.

Nothing of it exists until the application registers it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from flask import Blueprint, Response, jsonify

from flask_apikey.app_state import current_application_state
from flask_apikey.core.errors import (
    Conflict,
    KeyEnded,
    KeyNotFound,
    SealUnreadable,
    StorageError,
    TooManySecrets,
)
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.model.history import ROLLED
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.validation import checked_duration
from flask_apikey.core.times import Duration, in_words, to_duration, to_isoformat
from flask_apikey.decorators import require_api_key
from flask_apikey.extension import APIKeys
from flask_apikey.problems import ChangedMeanwhile, InvalidRequest, OldSecret, TooManyOldSecrets, Unavailable
from flask_apikey.request.current import current_request, current_request_state

MAX_BODY_BYTES = 1024
_BY_HOLDER = "by its holder"


def self_service_blueprint(
    api_keys: APIKeys, *, max_grace: Duration = timedelta(days=7), name: str = "api_key_self_service"
) -> Blueprint:
    """Make the blueprint: ``GET``, ``DELETE``, ``POST /roll`` and ``POST /revoke`` below ``/api-key``.

    Args:
        api_keys: Of the application on which it is registered.
        max_grace: The longest grace that a holder can ask for; zero for none.
        name: Of the blueprint.

    Raises:
        InvalidValue: `max_grace` is none.
    """
    longest = checked_duration(max_grace, "max_grace", zero=True)
    blueprint = Blueprint(name, __name__, url_prefix="/api-key")

    @blueprint.get("")
    @require_api_key
    def show() -> Response:
        decision, record = _presented()
        return _answer(_shown(decision, record))

    @blueprint.post("/roll")
    @require_api_key
    def roll() -> Response:
        decision, record = _presented()
        if decision.position:
            current_application_state().announce_failure(ROLLED, record, OldSecret.problem)
            raise OldSecret(decision)
        grace = _asked_grace(decision, longest)
        with _problems(decision):
            issued = api_keys.roll(record.id, grace=grace, expected_version=record.version)
        return _answer({"key": issued.key, **_rolled(issued.record)})

    @blueprint.post("/revoke")
    @blueprint.delete("")
    @require_api_key
    def revoke() -> Response:
        decision, record = _presented()
        _body(decision, allowed=())
        with _problems(decision):
            if decision.position:
                api_keys.end_secret(record.id, decision.position, expected_version=record.version, reason=_BY_HOLDER)
            else:
                api_keys.revoke(record.id, reason=_BY_HOLDER)
        return _answer({"id": record.id, "ended": "secret" if decision.position else "key"})

    return blueprint


def _presented() -> tuple[Decision, APIKey]:
    decision = current_request_state().decision
    if decision is None or decision.key is None or not decision.accepted:
        raise RuntimeError("a view of the self-service was called without the check of its key")
    return decision, decision.key


def _shown(decision: Decision, record: APIKey) -> dict[str, Any]:
    return {
        "id": record.id,
        "name": record.name,
        "status": record.status(current_application_state().clock()).value,
        "scopes": sorted(record.scopes),
        "allowed_ips": list(record.allowed_ips),
        "created_at": record.created_at.isoformat(),
        "expires_at": to_isoformat(record.expires_at),
        "rolled_at": to_isoformat(record.rolled_at),
        "secret": "old" if decision.position else "newest",
        "secret_ends_at": to_isoformat(decision.ends_at),
    }


def _rolled(record: APIKey) -> dict[str, Any]:
    return {
        "id": record.id,
        "expires_at": to_isoformat(record.expires_at),
        "rolled_at": to_isoformat(record.rolled_at),
        "old_secret_ends_at": to_isoformat(
            record.previous_secrets_expire_at[0] if record.previous_secrets_expire_at else record.rolled_at
        ),
    }


def _asked_grace(decision: Decision, longest: timedelta) -> timedelta:
    asked = _body(decision, allowed=("grace",)).get("grace", 0)
    most = f"at most {in_words(longest)} can be asked for"
    try:
        grace = checked_duration(to_duration(asked), "grace", zero=True)
    except ValueError:
        expected = 'expected a number of seconds that is not negative, or text such as "24h"'
        raise InvalidRequest(decision, f"grace: {expected}; {most}") from None
    if grace > longest:
        raise InvalidRequest(decision, f"grace: {most}")
    return grace


def _body(decision: Decision, *, allowed: tuple[str, ...]) -> dict[str, Any]:
    """The members of the JSON object that was sent; none where nothing was."""
    incoming = current_request()
    if "Transfer-Encoding" in incoming.headers or (incoming.content_length or 0) > MAX_BODY_BYTES:
        raise InvalidRequest(decision, f"the body must have a Content-Length of at most {MAX_BODY_BYTES} bytes")
    if not incoming.content_length:
        return {}
    if not incoming.is_json:
        raise InvalidRequest(decision, "the body must be application/json")
    try:
        body = json.loads(incoming.get_data())
    except (ValueError, RecursionError):
        raise InvalidRequest(decision, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise InvalidRequest(decision, "the body must be a JSON object")
    unknown = body.keys() - set(allowed)
    if unknown:
        raise InvalidRequest(
            decision,
            f"not known here: {', '.join(sorted(unknown))}; what can be sent: {', '.join(allowed) or 'nothing'}",
        )
    return body


@contextmanager
def _problems(decision: Decision) -> Iterator[None]:
    """What prevents a change becomes its answer."""
    try:
        yield
    except TooManySecrets:
        raise TooManyOldSecrets(decision) from None
    except (Conflict, KeyEnded, KeyNotFound):
        raise ChangedMeanwhile(decision) from None
    except (StorageError, SealUnreadable) as exc:
        if decision.key is not None:
            current_application_state().announce_failure("storage", decision.key, str(exc))
        raise Unavailable(decision) from exc


def _answer(body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.headers["Cache-Control"] = "no-store"
    return response
