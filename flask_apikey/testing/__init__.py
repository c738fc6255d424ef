"""For your tests: a client that carries a key, a clock that can be set, and the contract of a backend."""

from flask_apikey.testing.client import APIKeyClient
from flask_apikey.testing.clock import FrozenClock

__all__ = ["APIKeyClient", "BackendContract", "FrozenClock", "HistoryContract", "RotationContract", "UsageContract"]


def __getattr__(name: str) -> object:
    # The contract needs pytest, which an application that only uses the others need not have.
    if name == "BackendContract":
        from flask_apikey.testing.contract import BackendContract  # noqa: PLC0415  # as said above

        return BackendContract
    if name == "HistoryContract":
        from flask_apikey.testing.history_contract import HistoryContract  # noqa: PLC0415  # likewise

        return HistoryContract
    if name == "RotationContract":
        from flask_apikey.testing.rotation_contract import RotationContract  # noqa: PLC0415  # likewise

        return RotationContract
    if name == "UsageContract":
        from flask_apikey.testing.usage_contract import UsageContract  # noqa: PLC0415  # likewise

        return UsageContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
