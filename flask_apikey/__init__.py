"""API keys for Flask: issued, checked, limited, rotated and revoked."""

from importlib.metadata import version

from flask_apikey.core.errors import (
    APIKeyError,
    ConfigurationError,
    Conflict,
    InvalidValue,
    KeyEnded,
    KeyNotFound,
    NotRecoverable,
    RotationRefused,
    SealUnreadable,
    SecretInUse,
    StorageError,
    TooManySecrets,
)
from flask_apikey.core.keys.authenticator import Decision, Verdict
from flask_apikey.core.model.keys import APIKey, IssuedKey, Status
from flask_apikey.decorators import api_key_exempt, check_api_key, require_api_key
from flask_apikey.extension import APIKeys
from flask_apikey.request.current import CurrentAPIKey, current_api_key

__version__ = version("flask-apikey")

__all__ = [
    "APIKey",
    "APIKeyError",
    "APIKeys",
    "ConfigurationError",
    "Conflict",
    "CurrentAPIKey",
    "Decision",
    "InvalidValue",
    "IssuedKey",
    "KeyEnded",
    "KeyNotFound",
    "NotRecoverable",
    "RotationRefused",
    "SealUnreadable",
    "SecretInUse",
    "Status",
    "StorageError",
    "TooManySecrets",
    "Verdict",
    "api_key_exempt",
    "check_api_key",
    "current_api_key",
    "require_api_key",
]
