"""Operations that read keys. Each takes the caller, the id of the key and the fields of the request."""

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.core.model.history import EventPosition, LifecycleEvent
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.validation import checked_owner
from flask_apikey.core.storage.contract import EventFilter
from flask_apikey.core.usage.last_use import KeyLastUse
from flask_apikey.extension import APIKeys
from flask_apikey.management.answers import Answer, key_answer, shown
from flask_apikey.management.caller import Caller, require_any_owner
from flask_apikey.management.schemas import DEFAULT_PAGE

_Listed = TypeVar("_Listed", APIKey, LifecycleEvent)


def list_keys(caller: Caller, _key_id: str, query: dict[str, Any]) -> Answer:
    """List a page of keys."""
    limit = query.pop("limit", DEFAULT_PAGE)
    keys = caller.keys
    if not isinstance(keys, APIKeys) and "owner" in query and checked_owner(query.pop("owner")) != caller.owner:
        require_any_owner()
    records, end = _page(list(islice(keys.list(**query, limit=limit + 1), limit + 1)), limit)
    return Answer({"keys": [shown(record) for record in records], "next": end})


def get_key(caller: Caller, key_id: str, _query: dict[str, Any]) -> Answer:
    """Show a key."""
    return key_answer(caller.keys.get(key_id))


def get_usage(caller: Caller, key_id: str, query: dict[str, Any]) -> Answer:
    """Report the requests with a key."""
    for name in ("since", "until"):
        if name in query:
            query[name] = parsed_moment(query[name], name)
    record = caller.keys.get(key_id)
    report = caller.keys.usage(key_id=record.id, **query)
    last_use = caller.keys.last_uses([record.id]).get(record.id, KeyLastUse())
    return Answer({**report.to_dict(), "last_use": last_use.to_dict()})


def get_history(caller: Caller, key_id: str, query: dict[str, Any]) -> Answer:
    """List a page of the events of a key, while it had the owner whose keys the caller reads."""
    history = caller.state.services.backend.history
    if history is None:
        raise ConfigurationError("the storage keeps no history")
    event_filter = EventFilter(key_id=caller.keys.get(key_id).id, owner=caller.owner)
    limit = query.get("limit", DEFAULT_PAGE)
    after = EventPosition.parse(query["after"]) if "after" in query else None
    newest_first = query.get("newest_first", False)
    events, end = _page(history.events(event_filter, after=after, limit=limit + 1, newest_first=newest_first), limit)
    return Answer({"events": [event.to_dict() for event in events], "next": end})


def get_limits(caller: Caller, key_id: str, _query: dict[str, Any]) -> Answer:
    """Show the limits of a key."""
    return Answer(caller.keys.limits(key_id).to_dict())


def parsed_moment(text: str, name: str) -> datetime:
    """Parse a time as in RFC 3339.

    Raises:
        InvalidValue: The text has another form, or no time zone.
    """
    try:
        moment = datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in {"Z", "z"} else text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise InvalidValue(f"{name} must be a time with a zone, such as 2027-01-31T00:00:00Z")
    return moment


def _page(found: Sequence[_Listed], limit: int) -> tuple[Sequence[_Listed], str | None]:
    """Cut a page to its length, and return the cursor behind it if there is more."""
    return found[:limit], found[limit - 1].cursor if len(found) > limit else None
