"""Refusals of the management API, besides those of every protected view."""

from typing import ClassVar

from werkzeug import exceptions
from werkzeug.exceptions import (
    Conflict,
    Forbidden,
    NotFound,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from flask_apikey.core.keys.authenticator import Decision
from flask_apikey.problems import APIKeyProblem


class DetailedProblem(APIKeyProblem):
    """Base class of problems whose ``detail`` depends on the request."""

    problem: ClassVar[str]

    def __init__(self, decision: Decision, detail: str) -> None:
        super().__init__(decision)
        self.description = detail


class BeyondKey(DetailedProblem, Forbidden):
    """The presented key would give, or change, more than it holds itself."""

    problem = "exceeds_key"


class UnknownKey(APIKeyProblem, NotFound):
    """No key has the id, or it belongs to another owner."""

    problem = "key_not_found"
    description = "No key has this id."


class EndedKey(DetailedProblem, Conflict):
    """The operation needs an active key."""

    problem = "key_ended"


class UsedSecret(DetailedProblem, Conflict):
    """A previous secret is, or may be, still in use."""

    problem = "secret_in_use"


class TooLarge(DetailedProblem, RequestEntityTooLarge):
    """The body is too long."""

    problem = "too_large"


class NotJSON(APIKeyProblem, UnsupportedMediaType):
    """The body has another content type."""

    problem = "unsupported_media_type"
    description = "Send the body as application/json."


class NotKept(DetailedProblem, exceptions.NotImplemented):
    """The storage, or the configuration, does not keep what the request is about."""

    problem = "not_kept"
