"""API keys for Flask: issue, check, limit, rotate and revoke."""

from importlib.metadata import version

from flask_apikey.core.errors import (
    AlreadyExists,
    APIKeyError,
    ConfigurationError,
    Conflict,
    InvalidValue,
    KeyEnded,
    KeyNotFound,
    NotRecoverable,
    OwnerInactive,
    RotationRefused,
    RowTampered,
    SealUnreadable,
    SecretInUse,
    StorageError,
    TooManySecrets,
)
from flask_apikey.core.keys.authenticator import Decision, Verdict
from flask_apikey.core.keys.bulk import BulkRevocation
from flask_apikey.core.keys.repair import RepairedKey
from flask_apikey.core.keys.rolling import FinishedRoll
from flask_apikey.core.keys.suspension import BulkSuspension
from flask_apikey.core.limits.quotas import QuotaStatus
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.limits.windows import WindowState
from flask_apikey.core.model.adopted_form import AdoptedForm, AdoptedMatch
from flask_apikey.core.model.adopted_tables import HashedKeys
from flask_apikey.core.model.drf_simple_apikey import DRFSimpleAPIKey
from flask_apikey.core.model.keys import APIKey, IssuedKey, Status
from flask_apikey.core.model.keystring import ParsedKey, scanner_pattern
from flask_apikey.core.model.keystring import parse as parse_key
from flask_apikey.core.model.rates import Rate
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.core.rotation.reseal import ResealingReport
from flask_apikey.core.rotation.status import RotationStage, RotationStatus, SealedKeys
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey.core.usage.last_use import KeyLastUse
from flask_apikey.core.usage.reports import UsageBy, UsageCount, UsageReport
from flask_apikey.decorators import api_key_exempt, check_api_key, require_api_key
from flask_apikey.extension import APIKeys
from flask_apikey.owned_keys import OwnedKeys
from flask_apikey.problems import APIKeyProblem
from flask_apikey.request.current import CurrentAPIKey, current_api_key

__version__ = version("flask-apikey-auth")

__all__ = [
    "APIKey",
    "APIKeyError",
    "APIKeyProblem",
    "APIKeys",
    "AdoptedForm",
    "AdoptedMatch",
    "AlreadyExists",
    "BulkRevocation",
    "BulkSuspension",
    "ConfigurationError",
    "Conflict",
    "CurrentAPIKey",
    "DRFSimpleAPIKey",
    "Decision",
    "FernetRotation",
    "FinishedRoll",
    "HashedKeys",
    "InvalidValue",
    "IssuedKey",
    "KeyEnded",
    "KeyLastUse",
    "KeyLimits",
    "KeyNotFound",
    "NotRecoverable",
    "OwnedKeys",
    "OwnerInactive",
    "ParsedKey",
    "QuotaStatus",
    "Rate",
    "RepairedKey",
    "ResealingReport",
    "RotationRefused",
    "RotationStage",
    "RotationStatus",
    "RowTampered",
    "SealUnreadable",
    "SealedKeys",
    "SecretInUse",
    "Status",
    "StorageError",
    "TooManySecrets",
    "UsageBy",
    "UsageCount",
    "UsageReport",
    "Verdict",
    "WindowState",
    "api_key_exempt",
    "check_api_key",
    "current_api_key",
    "generate_fernet_key",
    "parse_key",
    "require_api_key",
    "scanner_pattern",
]
