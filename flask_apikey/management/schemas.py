"""JSON schemas of what requests and answers contain."""

from collections.abc import Mapping

from flask_apikey.core.model.keys import Status
from flask_apikey.core.model.keystring import ID_LENGTH
from flask_apikey.core.model.validation import (
    MAX_NAME_LENGTH,
    MAX_OWNER_LENGTH,
    MAX_PLAN_LENGTH,
    MAX_REASON_LENGTH,
    MAX_SCOPE_LENGTH,
    MAX_SCOPES,
)
from flask_apikey.core.usage.reports import UsageBy
from flask_apikey.management.request_data import Schema

MAX_PAGE = 500
DEFAULT_PAGE = 100


def text(description: str, maximum: int | None = None, *, null: bool = False, **constraints: object) -> Schema:
    """Return the schema of a string."""
    length = {} if maximum is None else {"minLength": 1, "maxLength": maximum}
    return {"type": ["string", "null"] if null else "string", "description": description, **length, **constraints}


def moment(description: str, *, null: bool = False) -> Schema:
    """Return the schema of a time."""
    return text(description, null=null, format="date-time")


def listed(items: Schema, description: str) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items, "description": description}


def object_of(properties: Mapping[str, Schema]) -> Schema:
    """Return the schema of an object that has all of these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}

KEY_ID = text("Id of the key.", pattern=f"^[0-9A-Za-z]{{{ID_LENGTH}}}$")
VERSION: Schema = {
    "type": "integer",
    "minimum": 1,
    "maximum": 2**31 - 1,
    "description": "Change only a key with this version. The header If-Match does the same.",
}
REASON = text("Explanation for the history.", MAX_REASON_LENGTH, null=True)
GRACE = text("Time for which the replaced secret works on, such as 24h. None if left out.")
UNUSED_FOR = text("End them only if none was used for this time, such as 24h.")
AMOUNT: Schema = {
    "type": "integer",
    "minimum": 1,
    "maximum": 10**15,
    "description": "Number of requests to add to the quota of this period.",
}
EVERY_PERIOD: Schema = {"type": "boolean", "description": "Add to every later period too."}

_SCOPE = text("A scope.", MAX_SCOPE_LENGTH)
_NETWORK = text("An address, or a network in CIDR notation.")

KEY_FIELDS: Mapping[str, Schema] = {
    "name": text("Name for people.", MAX_NAME_LENGTH),
    "owner": text("Id of the owner. The caller's by default.", MAX_OWNER_LENGTH, null=True),
    "scopes": {**listed(_SCOPE, "Scopes, none of which the caller may lack."), "maxItems": MAX_SCOPES},
    "expires_at": moment("End of the key, no later than the caller's. Null for none.", null=True),
    "allowed_ips": listed(_NETWORK, "Only these may use the key. Any if empty; the caller's by default."),
    "denied_ips": listed(_NETWORK, "These may not use the key. The caller's by default."),
    "metadata": {"type": "object", "description": "The application's own JSON object."},
    "plan": text("Name of a plan.", MAX_PLAN_LENGTH, null=True),
    "rate": text("Rates in place of the plan's, such as 60/minute.", null=True),
    "quota": text("Quota in place of the plan's, such as 10000/month.", null=True),
}
LIFETIME = text("Lifetime, such as 90d, instead of expires_at.")

LIST_QUERY: Mapping[str, Schema] = {
    "owner": text("Only keys of this owner.", MAX_OWNER_LENGTH),
    "status": text("Only keys with this status.", enum=[each.value for each in Status]),
    "expiring_within": text("Only active keys that expire within this time, such as 14d."),
    "unused_for": text("Only active keys that were not used for this time, such as 90d."),
    "search": text("Text in the name, or beginning of the id, the owner or a scope.", MAX_NAME_LENGTH),
    "newest_first": {"type": "boolean", "description": "Newest first. Oldest first by default."},
    "after": text("Value of next in the previous page."),
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_PAGE,
        "default": DEFAULT_PAGE,
        "description": "Maximum length of the page.",
    },
}
HISTORY_QUERY = {name: LIST_QUERY[name] for name in ("newest_first", "after", "limit")}
USAGE_QUERY: Mapping[str, Schema] = {
    "since": moment("Start of the period, rounded down to the hour."),
    "until": moment("End of the period."),
    "by": text("Rows of the report.", enum=[each.value for each in UsageBy], default=UsageBy.ENDPOINT.value),
}

_MOMENT = moment("Time, in UTC.")
_OPTIONAL_MOMENT = moment("Time, in UTC.", null=True)
_OPTIONAL_TEXT = text("Text.", null=True)
_NEXT = text("Value of after for the next page; null on the last one.", null=True)
_COUNTS = listed(_ref("UsageCount"), "Counts.")

_KEY: Mapping[str, Schema] = {
    "id": KEY_ID,
    "prefix": text("Prefix of the key string."),
    "status": text("Status.", enum=[each.value for each in Status]),
    **KEY_FIELDS,
    "created_at": _MOMENT,
    "updated_at": _MOMENT,
    "rolled_at": _OPTIONAL_MOMENT,
    "previous_secrets_expire_at": listed(_MOMENT, "Ends of the secrets in their grace period, newest first."),
    "suspended_at": _OPTIONAL_MOMENT,
    "suspension_reason": _OPTIONAL_TEXT,
    "revoked_at": _OPTIONAL_MOMENT,
    "revocation_reason": _OPTIONAL_TEXT,
    "adopted": {**_OPTIONAL_TEXT, "description": "Form of a key that another system issued, while it has that secret."},
    "version": {"type": "integer", "description": "Number of the last change, from 1."},
}

COMPONENTS: Mapping[str, Schema] = {
    "Key": object_of(_KEY),
    "IssuedKey": object_of({"key": text("The key string. It is shown only once."), **_KEY}),
    "KeyPage": object_of({"keys": listed(_ref("Key"), "Keys."), "next": _NEXT}),
    "Event": object_of(
        {
            "at": _MOMENT,
            "event": text("Name of the event, such as key.created."),
            "key_id": KEY_ID,
            "number": {"type": "integer"},
            "owner": _OPTIONAL_TEXT,
            "actor": text("Who made the change."),
            "reason": _OPTIONAL_TEXT,
            "details": {"type": "object"},
            "previous": text("Hash of the event before."),
            "hash": text("Hash of this event."),
        }
    ),
    "EventPage": object_of({"events": listed(_ref("Event"), "Events."), "next": _NEXT}),
    "UsageCount": object_of({"label": text("Group."), "count": _COUNT}),
    "LastUse": object_of(
        {
            f"{secret}last_used_{suffix}": schema
            for secret in ("", "current_secret_", "previous_secret_")
            for suffix, schema in (("at", _OPTIONAL_MOMENT), ("from", _OPTIONAL_TEXT))
        }
    ),
    "Usage": object_of(
        {
            "by": USAGE_QUERY["by"],
            "since": _OPTIONAL_MOMENT,
            "until": _OPTIONAL_MOMENT,
            "total": _COUNT,
            "rows": _COUNTS,
            "refused": _COUNT,
            "refusals": _COUNTS,
            "last_use": _ref("LastUse"),
        }
    ),
    "Window": object_of(
        {
            "rate": text("The rate."),
            "limit": _COUNT,
            "seconds": _COUNT,
            "remaining": _COUNT,
            "resets_in": {"type": "number"},
        }
    ),
    "Quota": object_of(
        {
            "quota": text("The quota."),
            "shared": _FLAG,
            "limit": _COUNT,
            "added": _COUNT,
            "used": _COUNT,
            "remaining": _COUNT,
            "starts_at": _OPTIONAL_MOMENT,
            "ends_at": _OPTIONAL_MOMENT,
        }
    ),
    "Limits": object_of(
        {
            "plan": _OPTIONAL_TEXT,
            "shared": _FLAG,
            "windows": listed(_ref("Window"), "Rates, from the shortest window to the longest."),
            "quota": {"anyOf": [_ref("Quota"), {"type": "null"}]},
        }
    ),
    "FinishedRoll": object_of({"ended": _COUNT, **_KEY}),
    "OpenAPI": {"type": "object"},
    "Problem": {
        "type": "object",
        "properties": {
            "type": text("about:blank."),
            "title": text("Name of the status."),
            "status": {"type": "integer"},
            "code": text("Stable code of the problem."),
            "detail": text("Explanation for people."),
        },
        "required": ["type", "title", "status", "code", "detail"],
    },
}
