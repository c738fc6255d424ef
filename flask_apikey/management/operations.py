"""The operations of the management API, each with its description.

Routes and the OpenAPI document are made from `OPERATIONS`, so that neither lacks an operation of the other.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask_apikey.management import reading, writing
from flask_apikey.management import schemas as s
from flask_apikey.management.answers import Answer
from flask_apikey.management.caller import Caller
from flask_apikey.management.request_data import Schema

READ = "keys:read"
WRITE = "keys:write"

_VERSIONED: Mapping[str, Schema] = {"version": s.VERSION, "reason": s.REASON}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one route.

    Attributes:
        name: Operation id, and name of the endpoint in the blueprint.
        method: HTTP method.
        path: URL rule in the blueprint.
        summary: Line for the description.
        handle: Function that does it: it takes the caller, the id of the key and the fields of the request.
        result: Name of the schema of the answer.
        status: Status of the answer.
        query: Schemas of the parameters.
        body: Schemas of the fields of the body; None if it takes no body.
        required: Names of the fields that must be in the body.
        any_owner: True if the presented key needs to act for any owner.
    """

    name: str
    method: str
    path: str
    summary: str
    handle: Callable[[Caller, str, dict[str, Any]], Answer]
    result: str
    status: int = 200
    query: Mapping[str, Schema] = field(default_factory=dict)
    body: Mapping[str, Schema] | None = None
    required: tuple[str, ...] = ()
    any_owner: bool = False

    @property
    def scope(self) -> str:
        """Scope that the presented key needs."""
        return READ if self.body is None else WRITE

    @property
    def has_version(self) -> bool:
        """True if the body may name the version of the key."""
        return self.body is not None and "version" in self.body


def _act(name: str, path: str, summary: str, handle: Any, body: Mapping[str, Schema], **options: Any) -> Operation:
    return Operation(
        name=name, method="POST", path=f"/keys/<key_id>{path}", summary=summary, handle=handle, body=body, **options
    )


OPERATIONS: Iterable[Operation] = (
    Operation(
        name="list_keys",
        method="GET",
        path="/keys",
        summary="List keys",
        handle=reading.list_keys,
        result="KeyPage",
        query=s.LIST_QUERY,
    ),
    Operation(
        name="create_key",
        method="POST",
        path="/keys",
        summary="Create a key",
        handle=writing.create_key,
        result="IssuedKey",
        status=201,
        body={**s.KEY_FIELDS, "lifetime": s.LIFETIME, "reason": s.REASON},
        required=("name",),
    ),
    Operation(
        name="get_key",
        method="GET",
        path="/keys/<key_id>",
        summary="Show a key",
        handle=reading.get_key,
        result="Key",
    ),
    Operation(
        name="update_key",
        method="PATCH",
        path="/keys/<key_id>",
        summary="Change the fields that are given",
        handle=writing.update_key,
        result="Key",
        body={**s.KEY_FIELDS, **_VERSIONED},
    ),
    _act("suspend_key", "/suspend", "Refuse a key until it is resumed", writing.suspend_key, _VERSIONED, result="Key"),
    _act(
        "resume_key",
        "/resume",
        "Accept a suspended key again",
        writing.resume_key,
        _VERSIONED,
        result="Key",
        any_owner=True,
    ),
    _act(
        "roll_key",
        "/roll",
        "Give a key a new secret",
        writing.roll_key,
        {"grace": s.GRACE, **_VERSIONED},
        result="IssuedKey",
    ),
    _act(
        "finish_roll",
        "/finish-roll",
        "End the previous secrets of a key",
        writing.finish_roll,
        {"unused_for": s.UNUSED_FOR, **_VERSIONED},
        result="FinishedRoll",
    ),
    _act("revoke_key", "/revoke", "End a key for good", writing.revoke_key, _VERSIONED, result="Key"),
    Operation(
        name="get_usage",
        method="GET",
        path="/keys/<key_id>/usage",
        summary="Report the requests with a key, and its last uses",
        handle=reading.get_usage,
        result="Usage",
        query=s.USAGE_QUERY,
    ),
    Operation(
        name="get_history",
        method="GET",
        path="/keys/<key_id>/history",
        summary="List the changes of a key",
        handle=reading.get_history,
        result="EventPage",
        query=s.HISTORY_QUERY,
    ),
    Operation(
        name="get_limits",
        method="GET",
        path="/keys/<key_id>/limits",
        summary="Show the limits of a key, and what is left of them",
        handle=reading.get_limits,
        result="Limits",
    ),
    _act(
        "reset_limits",
        "/limits/reset",
        "Forget what was counted against the limits of a key",
        writing.reset_limits,
        {},
        result="Limits",
        any_owner=True,
    ),
    _act(
        "add_quota",
        "/quota/add",
        "Add to the quota of a key",
        writing.add_quota,
        {"amount": s.AMOUNT, "every_period": s.EVERY_PERIOD, "reason": s.REASON},
        result="Limits",
        required=("amount",),
        any_owner=True,
    ),
)
