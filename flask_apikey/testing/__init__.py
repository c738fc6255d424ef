"""Helpers for tests: a client that sends a key, a clock, and contract suites for backends."""

from importlib import import_module
from typing import TYPE_CHECKING

from flask_apikey.testing.client import APIKeyClient
from flask_apikey.testing.clock import FrozenClock

if TYPE_CHECKING:
    from flask_apikey.testing.contracts.changes import ChangesContract
    from flask_apikey.testing.contracts.history import HistoryContract
    from flask_apikey.testing.contracts.keys import BackendContract
    from flask_apikey.testing.contracts.quotas import QuotaContract
    from flask_apikey.testing.contracts.rotation import RotationContract
    from flask_apikey.testing.contracts.usage import UsageContract

__all__ = [
    "APIKeyClient",
    "BackendContract",
    "ChangesContract",
    "FrozenClock",
    "HistoryContract",
    "QuotaContract",
    "RotationContract",
    "UsageContract",
]

# Imported lazily, because they need pytest.
_CONTRACTS = {
    "BackendContract": "flask_apikey.testing.contracts.keys",
    "ChangesContract": "flask_apikey.testing.contracts.changes",
    "HistoryContract": "flask_apikey.testing.contracts.history",
    "QuotaContract": "flask_apikey.testing.contracts.quotas",
    "RotationContract": "flask_apikey.testing.contracts.rotation",
    "UsageContract": "flask_apikey.testing.contracts.usage",
}


def __getattr__(name: str) -> object:
    if name in _CONTRACTS:
        return getattr(import_module(_CONTRACTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
