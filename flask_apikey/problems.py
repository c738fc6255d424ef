"""Where a verdict becomes HTTP.

Every refusal is a werkzeug ``HTTPException``, so that ``@app.errorhandler`` works
by class and by status, with a body in the form of RFC 9457 (problem details).
"""

import json
from typing import Any, ClassVar

from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, Conflict, Forbidden, HTTPException, ServiceUnavailable, Unauthorized

from flask_apikey.core.keys.authenticator import Decision, Verdict

RETRY_AFTER_SECONDS = 5
CHALLENGE_SCHEME = "Api-Key"


class APIKeyProblem(HTTPException):
    """A refusal.

    Attributes:
        problem: The ``code`` in the body, stable for programs.
        decision: What was decided. It is not part of the answer.
    """

    problem: ClassVar[str]

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.decision = decision

    @property
    def challenge(self) -> WWWAuthenticate | None:
        """The ``WWW-Authenticate`` of a 401."""
        return None

    def body(self) -> dict[str, Any]:
        """The members of the problem document.

        Without a type of its own, a problem has the title of its status (RFC 9457, section 4.2.1).
        """
        return {
            "type": "about:blank",
            "title": self.name,
            "status": self.code,
            "code": self.problem,
            "detail": self.description,
        }

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        """The problem document as JSON."""
        return json.dumps(self.body())

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """The headers of the answer."""
        headers = [("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")]
        if self.challenge is not None:
            headers.append(("WWW-Authenticate", self.challenge.to_header()))
        return headers


class NotAuthenticated(APIKeyProblem, Unauthorized):
    """Any 401 of this library."""

    @property
    def challenge(self) -> WWWAuthenticate:
        """Names the error too, when there was an attempt."""
        return WWWAuthenticate(CHALLENGE_SCHEME, {"error": self.problem})


class MissingKey(NotAuthenticated):
    """The request presents no key."""

    problem = "missing_key"
    description = (
        "Send a key as 'Authorization: Api-Key <key>', as 'Authorization: Bearer <key>' or as 'X-API-Key: <key>'."
    )

    @property
    def challenge(self) -> WWWAuthenticate:
        """Bare: there was no attempt."""
        return WWWAuthenticate(CHALLENGE_SCHEME)


class InvalidKey(NotAuthenticated):
    """The key is malformed, unknown or has another secret; which of them is not told."""

    problem = "invalid_key"
    description = "The API key is not valid."


class KeyRevoked(NotAuthenticated):
    """The key is genuine and revoked."""

    problem = "key_revoked"
    description = "The API key was revoked."


class KeyExpired(NotAuthenticated):
    """The key is genuine and expired."""

    problem = "key_expired"
    description = "The API key expired."


class AddressNotAllowed(APIKeyProblem, Forbidden):
    """The key is genuine and may not be used from this address."""

    problem = "address_not_allowed"
    description = "The API key may not be used from this address."


class HTTPSRequired(APIKeyProblem, Forbidden):
    """The request came over plain HTTP."""

    problem = "https_required"
    description = "Use HTTPS. A key that was sent over plain HTTP should be replaced."


class InsufficientScope(APIKeyProblem, Forbidden):
    """The key is genuine and lacks a scope."""

    problem = "insufficient_scope"
    description = "The API key does not have the scopes that this needs."

    def body(self) -> dict[str, Any]:
        """Names the scopes that are missing."""
        return {**super().body(), "missing_scopes": sorted(self.decision.missing_scopes)}


class Unavailable(APIKeyProblem, ServiceUnavailable):
    """Keys cannot be checked at the moment."""

    problem = "unavailable"
    description = "API keys cannot be checked at the moment. Try again later."

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Says when to try again."""
        return [*super().get_headers(environ, scope), ("Retry-After", str(RETRY_AFTER_SECONDS))]


class InvalidRequest(APIKeyProblem, BadRequest):
    """The holder of a key asks for something that does not exist; ``detail`` says what."""

    problem = "invalid_request"

    def __init__(self, decision: Decision, detail: str) -> None:
        super().__init__(decision)
        self.description = detail


class OldSecret(APIKeyProblem, Forbidden):
    """The secret works, but is not the newest one of its key."""

    problem = "old_secret"
    description = "This needs the newest secret of the key. The one that was sent was replaced."


class ChangedMeanwhile(APIKeyProblem, Conflict):
    """Somebody else changed the key while the request was under way."""

    problem = "conflict"
    description = "The key was changed at the same moment, and nothing was done. Look at it before you try again."


class TooManyOldSecrets(APIKeyProblem, Conflict):
    """No other secret can be left working beside those that work already."""

    problem = "too_many_secrets"
    description = "Too many secrets of the key still work. Wait until one has ended, or roll without a grace."


_PROBLEMS: dict[Verdict, type[APIKeyProblem]] = {
    Verdict.MISSING: MissingKey,
    Verdict.MALFORMED: InvalidKey,
    Verdict.UNKNOWN: InvalidKey,
    Verdict.WRONG_SECRET: InvalidKey,
    Verdict.REVOKED: KeyRevoked,
    Verdict.EXPIRED: KeyExpired,
    Verdict.ADDRESS_REFUSED: AddressNotAllowed,
    Verdict.INSECURE_TRANSPORT: HTTPSRequired,
    Verdict.INSUFFICIENT_SCOPE: InsufficientScope,
    Verdict.UNAVAILABLE: Unavailable,
}


def problem_for(decision: Decision) -> APIKeyProblem:
    """The refusal that a decision other than acceptance becomes."""
    return _PROBLEMS[decision.verdict](decision)


def problem_code(decision: Decision) -> str:
    """The ``code`` of that refusal."""
    return _PROBLEMS[decision.verdict].problem
