"""What is known of the use of keys: counts and last uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple

PREVIOUS_SECRET = 0
"""Stands for the secrets of a key that a roll left working."""

HOUR = 1
DAY = 24
"""What is counted together, in hours."""

MAX_ENDPOINT_LENGTH = 500
MAX_METHOD_LENGTH = 20
MAX_STATUS_LENGTH = 8
MAX_REFUSAL_LENGTH = 40
MAX_ADDRESS_LENGTH = 45
MAX_WRITER_LENGTH = 40
"""How many characters every storage can hold."""


class UsageField(Enum):
    """What distinguishes usage rows, and what they can be summed by."""

    KEY = "key_id"
    HOUR = "hour"
    ENDPOINT = "endpoint"
    METHOD = "method"
    STATUS = "status"
    REASON = "reason"


class UsageLabel(NamedTuple):
    """What requests have in common that are counted together.

    Texts have no control characters, and no space at either end, which some
    databases take for nothing.

    Attributes:
        key_id: The key.
        hour: Hours since 1970-01-01 UTC; the first hour of a day where whole days are counted.
        endpoint: The URL rule, or a label in parentheses.
        method: Of the HTTP request.
        status: The class of the HTTP status, such as ``2xx``; empty for a refusal.
        reason: Why the key was refused; empty for an accepted one.
        span: How many hours are counted together: `HOUR`, or `DAY`.
    """

    key_id: str
    hour: int
    endpoint: str
    method: str
    status: str
    reason: str = ""
    span: int = HOUR


@dataclass(frozen=True, slots=True)
class UsageRow:
    """How many requests a label has. Counts only grow."""

    label: UsageLabel
    count: int


@dataclass(frozen=True, slots=True)
class LastUse:
    """When and from where a secret of a key was last accepted.

    Attributes:
        key_id: The key.
        secret: Which of its secrets: when it was issued, in microseconds since
            1970-01-01 UTC, as long as it is the newest; `PREVIOUS_SECRET` for those
            that a roll left working.
        at: UTC.
        address: The caller's, in canonical form; None when it was unknown.
    """

    key_id: str
    secret: int
    at: datetime
    address: str | None


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """What one process counted since its last batch.

    Attributes:
        writer: Names the process, at random, in letters and digits.
        number: Counts the batches of the writer, from 1. A batch that is stored
            already is not stored again.
        rows: Each label once.
        last_uses: Each secret once.
        written_at: UTC.
    """

    writer: str
    number: int
    rows: Sequence[UsageRow]
    last_uses: Sequence[LastUse]
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which usage rows are meant; every condition that is given must hold.

    Attributes:
        key_ids: Only those of these keys.
        since: Only from this hour on, in hours since 1970-01-01 UTC.
        until: Only before this hour.
        refused: Refusals in place of accepted requests.
    """

    key_ids: Sequence[str] | None = None
    since: int | None = None
    until: int | None = None
    refused: bool = False
