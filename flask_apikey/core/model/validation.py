"""Validation of the values of a key, before anything is written. Invalid ones raise `InvalidValue`.

The limits are the same for every backend, so that keys can be copied between them.
"""

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from flask_apikey.core.addresses import parse_network
from flask_apikey.core.errors import InvalidValue, KeyNotFound
from flask_apikey.core.model.history import MAX_ACTOR_LENGTH
from flask_apikey.core.model.keystring import ID_LENGTH, is_id
from flask_apikey.core.model.quotas import checked_quota
from flask_apikey.core.model.rates import checked_rate
from flask_apikey.core.model.scopes import EVERY_SCOPE, is_wildcard
from flask_apikey.core.text import UNPRINTABLE
from flask_apikey.core.times import to_duration

MAX_NAME_LENGTH = 200
MAX_OWNER_LENGTH = 200
MAX_REASON_LENGTH = 500
MAX_PLAN_LENGTH = 100
MAX_SCOPES = 100
MAX_SCOPE_LENGTH = 100
MAX_NETWORKS = 200
MAX_METADATA_BYTES = 16_384
MAX_METADATA_DEPTH = 32
MAX_LIFETIME = timedelta(days=36_525)

_MAX_QUOTED = 60
# RFC 6749, section 3.3: %x21 / %x23-5B / %x5D-7E
_SCOPE_CHARACTERS = frozenset(map(chr, {0x21, *range(0x23, 0x5C), *range(0x5D, 0x7F)}))


def checked_fields(values: Mapping[str, object]) -> dict[str, Any]:
    """Validate arguments of `APIKeys.update`, and return them by the names of the record's attributes."""
    unknown = values.keys() - _CHECKS.keys()
    if unknown:
        raise InvalidValue(f"{', '.join(sorted(unknown))} cannot be updated; these can: {', '.join(_CHECKS)}")
    checked = {}
    for name, value in values.items():
        attribute, check = _CHECKS[name]
        checked[attribute] = check(value)
    return checked


def checked_text(value: object, what: str, max_length: int) -> str:
    """Validate a line of printable text, and return it without surrounding white space."""
    if not isinstance(value, str):
        raise InvalidValue(f"{what} must be a str, not {type(value).__name__}")
    text = value.strip()
    if not text:
        raise InvalidValue(f"{what} must not be empty")
    if len(text) > max_length:
        raise InvalidValue(f"{what} has {len(text)} characters; at most {max_length} can be stored")
    for position, character in enumerate(text):
        if unicodedata.category(character) in UNPRINTABLE and character != "\u200d":
            raise InvalidValue(
                f"{what} contains the unprintable character U+{ord(character):04X} at position {position}"
            )
    return text


def checked_id(value: object) -> str:
    """Validate the public id of a key, or raise `KeyNotFound`."""
    if not isinstance(value, str) or not is_id(value):
        raise KeyNotFound(f"not the id of a key: an id has {ID_LENGTH} letters and digits")
    return value


def checked_name(value: object) -> str:
    """Validate the name of a key."""
    return checked_text(value, "name", MAX_NAME_LENGTH)


def checked_owner(value: object) -> str | None:
    """Validate the id of an owner, or None."""
    return None if value is None else checked_text(value, "owner", MAX_OWNER_LENGTH)


def checked_plan(value: object) -> str | None:
    """Validate the name of a plan, or None."""
    return None if value is None else checked_text(value, "plan", MAX_PLAN_LENGTH)


def checked_reason(value: object) -> str | None:
    """Validate the reason of a change, or None."""
    return None if value is None else checked_text(value, "reason", MAX_REASON_LENGTH)


def checked_search(value: object) -> str:
    """Validate the text of a search."""
    return checked_text(value, "search", MAX_NAME_LENGTH)


def checked_actor(value: object) -> str:
    """Validate the name of who acts."""
    return checked_text(value, "actor", MAX_ACTOR_LENGTH)


def checked_scopes(value: object) -> frozenset[str]:
    """Validate the scopes of a key. ``*`` may stand alone or as the last segment, as in ``reports:*``."""
    scopes = _well_formed_scopes(value, "scopes")
    for scope in scopes:
        if EVERY_SCOPE in scope and not (is_wildcard(scope) and scope.count(EVERY_SCOPE) == 1):
            raise InvalidValue(
                f"scopes: {scope!r} is not a scope: '*' may only stand alone, or after the last ':' as in 'reports:*'"
            )
    return scopes


def checked_required_scopes(value: object, what: str = "scopes") -> frozenset[str]:
    """Validate the scopes that a view requires. None of them is a wildcard."""
    scopes = _well_formed_scopes(value, what)
    for scope in scopes:
        if EVERY_SCOPE in scope:
            raise InvalidValue(f"{what}: {scope!r} cannot be required: only the scopes of keys may contain '*'")
    return scopes


def checked_any_scope(value: object) -> frozenset[str]:
    """Validate the scopes of which a view requires one. An empty list is invalid: no key could satisfy it."""
    scopes = checked_required_scopes(value, "any_scope")
    if not scopes:
        raise InvalidValue("any_scope must not be empty: leave it out if no scope is required")
    return scopes


def checked_networks(value: object, what: str) -> tuple[str, ...]:
    """Validate addresses and CIDR networks, and return them canonical and sorted."""
    networks = set()
    for text in _strings(value, what):
        try:
            networks.add(parse_network(text.strip()))
        except ValueError as exc:
            reason = str(exc)[:_MAX_QUOTED]
            raise InvalidValue(f"{what}: {text[:_MAX_QUOTED]!r} is not an IP address or network: {reason}") from None
    if len(networks) > MAX_NETWORKS:
        raise InvalidValue(f"{what}: {len(networks)} were given; at most {MAX_NETWORKS} can be stored")
    return tuple(
        map(str, sorted(networks, key=lambda network: (network.version, network.network_address, network.prefixlen)))
    )


def checked_metadata(value: object) -> str:
    """Validate metadata, and return it as JSON in ASCII that decodes to an equal object."""
    if not isinstance(value, Mapping):
        raise InvalidValue(f"metadata must be a mapping, not {type(value).__name__}")
    if not value:
        return "{}"
    if _depth(value) > MAX_METADATA_DEPTH:
        raise InvalidValue(f"metadata is nested more than {MAX_METADATA_DEPTH} levels deep")
    try:
        text = json.dumps(dict(value), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidValue(f"metadata must contain only JSON values: {exc}") from None
    if len(text) > MAX_METADATA_BYTES:
        raise InvalidValue(f"metadata takes {len(text)} bytes as JSON; at most {MAX_METADATA_BYTES} can be stored")
    if json.loads(text) != dict(value):
        raise InvalidValue("metadata must be a JSON object with str keys that decodes to an equal object")
    return text


def checked_moment(value: object, what: str) -> datetime:
    """Validate an aware datetime, and return it in UTC."""
    if not isinstance(value, datetime):
        raise InvalidValue(f"{what} must be a datetime, not {type(value).__name__}")
    if value.utcoffset() is None:
        raise InvalidValue(f"{what} must have a time zone, such as datetime.now(timezone.utc)")
    try:
        return value.astimezone(timezone.utc)
    except OverflowError:
        raise InvalidValue(f"{what} is outside the years 1 to 9999 in UTC") from None


def checked_duration(value: object, what: str, *, zero: bool = False) -> timedelta:
    """Validate a timedelta, or text such as ``"90d"``, of at most 100 years. With `zero`, zero is valid."""
    try:
        duration = to_duration(value)
    except ValueError as exc:
        raise InvalidValue(f"{what}: {exc}") from None
    if duration < timedelta(0) or (not duration and not zero):
        raise InvalidValue(f"{what} must be {'zero or more' if zero else 'more than zero'}")
    if duration > MAX_LIFETIME:
        raise InvalidValue(f"{what} is longer than 100 years")
    return duration


def checked_limit(value: object) -> None:
    """Validate the limit of a listing: a whole number, or None for no limit."""
    if value is not None and (not isinstance(value, int) or value < 0):
        raise InvalidValue("limit must be a whole number, zero or more")


_CHECKS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "name": ("name", checked_name),
    "owner": ("owner", checked_owner),
    "scopes": ("scopes", checked_scopes),
    "allowed_ips": ("allowed_ips", lambda value: checked_networks(value, "allowed_ips")),
    "denied_ips": ("denied_ips", lambda value: checked_networks(value, "denied_ips")),
    "metadata": ("metadata_json", checked_metadata),
    "plan": ("plan", checked_plan),
    "rate": ("rate", checked_rate),
    "quota": ("quota", checked_quota),
    "expires_at": ("expires_at", lambda value: None if value is None else checked_moment(value, "expires_at")),
}


def _depth(value: object) -> int:
    depth = 0
    level = [value]
    while level and depth <= MAX_METADATA_DEPTH:
        depth += 1
        inner: list[object] = []
        for each in level:
            if isinstance(each, Mapping):
                inner.extend(each.values())
            elif isinstance(each, list | tuple):
                inner.extend(each)
        level = inner
    return depth


def _well_formed_scopes(value: object, what: str) -> frozenset[str]:
    """Validate scopes by RFC 6749, section 3.3."""
    scopes = frozenset(_strings(value, what))
    if len(scopes) > MAX_SCOPES:
        raise InvalidValue(f"{what}: {len(scopes)} were given; at most {MAX_SCOPES} can be stored")
    for scope in scopes:
        if not scope or len(scope) > MAX_SCOPE_LENGTH or not _SCOPE_CHARACTERS.issuperset(scope):
            raise InvalidValue(
                f"{what}: {scope[:MAX_SCOPE_LENGTH]!r} is not a scope: "
                f"1 to {MAX_SCOPE_LENGTH} printable ASCII characters without space, quote or backslash"
            )
    return scopes


def _strings(value: object, what: str) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InvalidValue(f"{what} must be a list of str, not {type(value).__name__}")
    items = list(value)
    for item in items:
        if not isinstance(item, str):
            raise InvalidValue(f"{what} must contain only str, not {type(item).__name__}")
    return items
