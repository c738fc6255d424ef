"""HTTP errors: one exception class for each refusal.

Each class is a werkzeug ``HTTPException``, so ``@app.errorhandler`` accepts the
class or its status. The response body is a problem document (RFC 9457).
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar

from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    HTTPException,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
)

from flask_apikey.core.keys.authenticator import Decision, Verdict
from flask_apikey.core.keys.key_headers import DEFAULT_HEADERS, KeyHeaders

RETRY_AFTER_SECONDS = 5


class APIKeyProblem(HTTPException):
    """Base class of all refusals.

    Attributes:
        problem: Stable ``code`` in the response body.
        decision: Decision about the request. It is not part of the response.
    """

    problem: ClassVar[str]

    _key_headers: KeyHeaders = DEFAULT_HEADERS

    def __init__(self, decision: Decision) -> None:
        super().__init__()
        self.decision = decision

    def name_headers(self, key_headers: KeyHeaders) -> None:
        """Set the headers and schemes that the answer names."""
        self._key_headers = key_headers

    @property
    def challenge(self) -> WWWAuthenticate | None:
        """Value of the ``WWW-Authenticate`` header; None for no header."""
        return None

    def body(self) -> dict[str, Any]:
        """Build the problem document."""
        # A problem of the type about:blank has the title of its status (RFC 9457, section 4.2.1).
        return {
            "type": "about:blank",
            "title": self.name,
            "status": self.code,
            "code": self.problem,
            "detail": self.description,
        }

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        """Answer as a WSGI application, which is how Flask makes a response of an exception.

        It makes no werkzeug response in between, which would take longer than the rest of a refusal.
        """
        body = self.get_body().encode()
        headers = [*self.get_headers(), ("Content-Length", str(len(body)))]
        start_response(f"{self.code} {self.name}", headers)
        return [body]

    def get_body(self, environ: Any = None, scope: Any = None) -> str:
        """Serialize the problem document as JSON."""
        return json.dumps(self.body())

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Build the response headers."""
        headers = [("Content-Type", "application/problem+json"), ("Cache-Control", "no-store")]
        if self.challenge is not None:
            headers.append(("WWW-Authenticate", self.challenge.to_header()))
        return headers


class NotAuthenticated(APIKeyProblem, Unauthorized):
    """Base class of all refusals with status 401."""

    @property
    def challenge(self) -> WWWAuthenticate:
        """Challenge that names the error, because a key was presented."""
        return WWWAuthenticate(self._key_headers.scheme, {"error": self.problem})


class MissingKey(NotAuthenticated):
    """The request has no key."""

    problem = "missing_key"
    description = DEFAULT_HEADERS.advice()

    def name_headers(self, key_headers: KeyHeaders) -> None:
        """Set the headers and schemes that the answer names."""
        super().name_headers(key_headers)
        self.description = key_headers.advice()

    @property
    def challenge(self) -> WWWAuthenticate:
        """Challenge without an error, because no key was presented."""
        return WWWAuthenticate(self._key_headers.scheme)


class InvalidKey(NotAuthenticated):
    """The key is malformed, unknown or has a wrong secret. The response does not say which."""

    problem = "invalid_key"
    description = "The API key is not valid."


class KeyRevoked(NotAuthenticated):
    """The key is genuine, but revoked."""

    problem = "key_revoked"
    description = "The API key was revoked."


class KeyExpired(NotAuthenticated):
    """The key is genuine, but expired."""

    problem = "key_expired"
    description = "The API key expired."


class KeySuspended(APIKeyProblem, Forbidden):
    """The key is genuine, but suspended."""

    problem = "key_suspended"
    description = "The API key is suspended."


class AddressNotAllowed(APIKeyProblem, Forbidden):
    """The key is genuine, but not allowed from the address of the caller."""

    problem = "address_not_allowed"
    description = "The API key may not be used from this address."


class HTTPSRequired(APIKeyProblem, Forbidden):
    """The request was sent over plain HTTP."""

    problem = "https_required"
    description = "Use HTTPS. A key that was sent over plain HTTP should be replaced."


class InsufficientScope(APIKeyProblem, Forbidden):
    """The key is genuine, but lacks a required scope."""

    problem = "insufficient_scope"
    description = "The API key lacks a required scope."

    @property
    def challenge(self) -> WWWAuthenticate:
        """Challenge that names every scope of the requirement (RFC 6750, section 3.1)."""
        scope = " ".join(sorted(self.decision.required_scopes))
        return WWWAuthenticate(self._key_headers.scheme, {"error": self.problem, "scope": scope})

    def body(self) -> dict[str, Any]:
        """Build the problem document, with the missing scopes."""
        body = {**super().body(), "missing_scopes": sorted(self.decision.missing_scopes)}
        if self.decision.missing_any_scope:
            body["missing_any_scope"] = sorted(map(sorted, self.decision.missing_any_scope))
        return body


class TooManyFailures(APIKeyProblem, TooManyRequests):
    """Too many failed attempts came from the address of the caller, so the key was not checked."""

    problem = "too_many_failures"
    description = "Too many invalid API keys came from this address, so this one was not checked. Try again later."

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Build the response headers, with ``Retry-After``."""
        return [*super().get_headers(environ, scope), ("Retry-After", str(self.decision.retry_after))]


class RateLimited(APIKeyProblem, TooManyRequests):
    """The key has used up a rate."""

    problem = "rate_limited"
    description = "The API key has used up its rate. Try again later."

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Build the response headers, with ``Retry-After``."""
        return [*super().get_headers(environ, scope), ("Retry-After", str(self.decision.retry_after))]


class QuotaExceeded(APIKeyProblem, TooManyRequests):
    """The key has used up its quota."""

    problem = "quota_exceeded"
    description = "The API key has used up its quota."

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Build the response headers, with ``Retry-After`` unless the quota has no periods."""
        retry_after = self.decision.retry_after
        end = [] if retry_after is None else [("Retry-After", str(retry_after))]
        return [*super().get_headers(environ, scope), *end]


class Unavailable(APIKeyProblem, ServiceUnavailable):
    """Keys cannot be checked at the moment."""

    problem = "unavailable"
    description = "API keys cannot be checked at the moment. Try again later."

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:
        """Build the response headers, with ``Retry-After``."""
        return [*super().get_headers(environ, scope), ("Retry-After", str(RETRY_AFTER_SECONDS))]


class InvalidRequest(APIKeyProblem, BadRequest):
    """A request to the self-service or the management API is invalid. ``detail`` says why."""

    problem = "invalid_request"

    def __init__(self, decision: Decision, detail: str) -> None:
        super().__init__(decision)
        self.description = detail


class PreviousSecret(APIKeyProblem, Forbidden):
    """The key was presented with a previous secret, which is not enough for this request."""

    problem = "previous_secret"
    description = "This request needs the current secret of the key. The secret that was sent has been replaced."


class ConcurrentChange(APIKeyProblem, Conflict):
    """Another request changed the key at the same time."""

    problem = "conflict"
    description = "The key was changed by another request, and this one had no effect. Check the key before you retry."


class TooManyPreviousSecrets(APIKeyProblem, Conflict):
    """The key already has the maximum number of valid secrets."""

    problem = "too_many_secrets"
    description = "Too many secrets of the key are valid. Wait until one has expired, or roll without a grace period."


_PROBLEMS: dict[Verdict, type[APIKeyProblem]] = {
    Verdict.MISSING: MissingKey,
    Verdict.MALFORMED: InvalidKey,
    Verdict.UNKNOWN: InvalidKey,
    Verdict.WRONG_SECRET: InvalidKey,
    Verdict.REVOKED: KeyRevoked,
    Verdict.EXPIRED: KeyExpired,
    Verdict.SUSPENDED: KeySuspended,
    Verdict.OWNER_INACTIVE: KeySuspended,
    Verdict.ADDRESS_REFUSED: AddressNotAllowed,
    Verdict.TOO_MANY_FAILURES: TooManyFailures,
    Verdict.INSECURE_TRANSPORT: HTTPSRequired,
    Verdict.INSUFFICIENT_SCOPE: InsufficientScope,
    Verdict.RATE_LIMITED: RateLimited,
    Verdict.QUOTA_EXCEEDED: QuotaExceeded,
    Verdict.UNAVAILABLE: Unavailable,
    Verdict.TAMPERED: Unavailable,
}


def problem_for(decision: Decision, key_headers: KeyHeaders = DEFAULT_HEADERS) -> APIKeyProblem:
    """Return the error for a decision that refuses the request."""
    problem = _PROBLEMS[decision.verdict](decision)
    problem.name_headers(key_headers)
    return problem


def problem_classes() -> Iterator[type[APIKeyProblem]]:
    """Yield the errors with which requests are refused before their view is called, each once."""
    yield from dict.fromkeys(_PROBLEMS.values())


@cache
def codes_by_reason() -> Mapping[str, str]:
    """Return the ``code`` of each reason under which refusals are counted."""
    return {verdict.name.lower(): problem.problem for verdict, problem in _PROBLEMS.items()}


def problem_code(decision: Decision) -> str:
    """Return the ``code`` of the error for a decision that refuses the request."""
    return _PROBLEMS[decision.verdict].problem
