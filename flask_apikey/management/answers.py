"""Answers of the management API, and the problems that errors become."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Response, jsonify
from werkzeug.exceptions import HTTPException

from flask_apikey.app_state import current_application_state
from flask_apikey.core.errors import (
    ConfigurationError,
    Conflict,
    ExceedsKey,
    InvalidValue,
    KeyEnded,
    KeyNotFound,
    SecretInUse,
    TooManySecrets,
    described,
    raise_alone,
)
from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.core.model.keys import APIKey
from flask_apikey.management.problems import BeyondKey, EndedKey, NotKept, UnknownKey, UsedSecret
from flask_apikey.problems import ConcurrentChange, InvalidRequest, TooManyPreviousSecrets, Unavailable


@dataclass(frozen=True, slots=True)
class Answer:
    """Body and headers of an answer.

    Attributes:
        body: JSON values.
        headers: Headers.
    """

    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, status: int) -> Response:
        """Build the response."""
        response = jsonify(self.body)
        response.status_code = status
        response.headers.extend(self.headers)
        return response


def key_answer(record: APIKey, **further: object) -> Answer:
    """Return the answer that shows a key, with its version as ``ETag``."""
    return Answer({**shown(record), **further}, {"ETag": f'"{record.version}"'})


def shown(record: APIKey) -> dict[str, Any]:
    """Convert a record and its status to JSON."""
    return {**record.to_dict(), "status": record.status(current_application_state().clock()).value}


_PROBLEMS = {TooManySecrets: TooManyPreviousSecrets, KeyNotFound: UnknownKey, Conflict: ConcurrentChange}
_DETAILED_PROBLEMS = {
    InvalidValue: InvalidRequest,
    ExceedsKey: BeyondKey,
    KeyEnded: EndedKey,
    SecretInUse: UsedSecret,
    ConfigurationError: NotKept,
}


@contextmanager
def errors_as_problems(decision: Decision) -> Iterator[None]:
    """Convert an error to the problem in the response."""
    try:
        yield
    except HTTPException:
        raise
    except Exception as exc:  # noqa: BLE001  # backends of others may raise anything
        for error, problem in _PROBLEMS.items():
            if isinstance(exc, error):
                raise problem(decision) from None
        for error, detailed in _DETAILED_PROBLEMS.items():
            if isinstance(exc, error):
                raise detailed(decision, str(exc)) from None
        if decision.key is not None:
            current_application_state().record_failure("storage", decision.key, described(exc))
        raise_alone(Unavailable(decision))
