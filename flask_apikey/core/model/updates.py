"""What can be given and changed of a key, and how it is checked."""

from collections.abc import Callable, Mapping
from typing import Any

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.validation import (
    checked_metadata,
    checked_moment,
    checked_name,
    checked_networks,
    checked_owner,
    checked_scopes,
)

_CHECKS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "name": ("name", checked_name),
    "owner": ("owner", checked_owner),
    "scopes": ("scopes", checked_scopes),
    "allowed_ips": ("allowed_ips", lambda value: checked_networks(value, "allowed_ips")),
    "denied_ips": ("denied_ips", lambda value: checked_networks(value, "denied_ips")),
    "metadata": ("metadata_json", checked_metadata),
    "expires_at": ("expires_at", lambda value: None if value is None else checked_moment(value, "expires_at")),
}


def checked_fields(given: Mapping[str, object]) -> dict[str, Any]:
    """What is given of a key, as fields of its record.

    Raises:
        InvalidValue: A value cannot be stored, or cannot be changed at all.
    """
    unknown = given.keys() - _CHECKS.keys()
    if unknown:
        raise InvalidValue(f"{', '.join(sorted(unknown))} cannot be updated; what can: {', '.join(_CHECKS)}")
    checked = {}
    for name, value in given.items():
        field, check = _CHECKS[name]
        checked[field] = check(value)
    return checked
