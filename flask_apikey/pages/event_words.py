"""Events of the history in words."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from flask_apikey.core.model import history
from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.times import in_words
from flask_apikey.pages.forms import LABELS
from flask_apikey.pages.translation import marked, translated

_EVENTS = {
    history.ADOPTION_STARTED: marked("adoption of keys started"),
    history.ADOPTED_REPLACED: marked("secret of the other system replaced"),
    history.CREATED: marked("created"),
    history.UPDATED: marked("edited"),
    history.ROLLED: marked("secret replaced"),
    history.SECRETS_ENDED: marked("previous secrets ended"),
    history.REVEALED: marked("secret shown again"),
    history.SUSPENDED: marked("suspended"),
    history.RESUMED: marked("resumed"),
    history.REVOKED: marked("revoked"),
    history.PRUNED: marked("removed"),
    history.LIMITS_RESET: marked("limits reset"),
    history.QUOTA_ADDED: marked("quota added"),
    history.COPIED: marked("copied from another storage"),
    history.REPAIRED: marked("repaired"),
    history.REVOKED_UNSEALED: marked("revoked, although its row was damaged"),
    "rotation.started": marked("rotation of the Fernet key started"),
    "rotation.run": marked("keys re-sealed"),
    "rotation.finished": marked("rotation of the Fernet key finished"),
    "rotation.cancelled": marked("rotation of the Fernet key cancelled"),
}
_DETAILS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "fields": (marked("changed"), lambda names: ", ".join(translated(LABELS.get(name, name)) for name in names)),
    "address": (marked("from"), str),
    "request_id": (marked("request"), str),
    "adopted": (marked("issued by another system, as"), str),
    "grace_seconds": (marked("grace period"), lambda seconds: in_words(timedelta(seconds=seconds))),
    "unused_for_seconds": (marked("not used for"), lambda seconds: in_words(timedelta(seconds=seconds))),
}


def event_words(event: LifecycleEvent) -> str:
    """Return the name of an event in words, translated."""
    return translated(_EVENTS.get(event.event, event.event))


def detail_words(event: LifecycleEvent) -> str:
    """Return the details of an event in words, translated."""
    details = event.to_dict()["details"]
    if not isinstance(details, dict):
        return str(details)
    return "; ".join(_detail(name, value) for name, value in details.items())


def _detail(name: str, value: object) -> str:
    label, words = _DETAILS.get(name, (name.replace("_", " "), str))
    try:
        return f"{translated(label)}: {words(value)}"
    except (OverflowError, TypeError, ValueError):
        # The storage holds what somebody else wrote.
        return f"{name}: {value}"
