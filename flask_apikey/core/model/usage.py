"""Usage of keys: request counts and last uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any, NamedTuple

from flask_apikey.core.errors import RowDamaged
from flask_apikey.core.times import from_microseconds

PREVIOUS_SECRET = 0
"""Value of `LastUse.secret` for previous secrets in their grace period."""

HOUR = 1
DAY = 24
"""Value of `UsageLabel.span`, in hours."""

_LAST_HOUR = int(datetime(9999, 12, 31, 23, tzinfo=timezone.utc).timestamp()) // 3600

MAX_ENDPOINT_LENGTH = 500
MAX_METHOD_LENGTH = 20
MAX_STATUS_LENGTH = 3
MAX_REFUSAL_LENGTH = 24
MAX_ADDRESS_LENGTH = 45
MAX_WRITER_LENGTH = 40
"""Maximum numbers of characters. A label of this length is a valid key of an index in MySQL: 3,072 bytes."""

MAX_ENDPOINT_BYTES = 1_200
"""Maximum size of an endpoint in UTF-8. A label with it is a valid key of an index in PostgreSQL: 2,704 bytes."""


class UsageField(Enum):
    """Columns of usage rows, by which counts can be grouped."""

    KEY = "key_id"
    HOUR = "hour"
    ENDPOINT = "endpoint"
    METHOD = "method"
    STATUS = "status"
    REASON = "reason"
    OWNER = "owner"


class UsageOutcome(Enum):
    """Outcomes of counted requests, which a label tells by its `status` and its `reason`."""

    ACCEPTED = "accepted"
    """The key was accepted. The label has no reason."""

    REFUSED = "refused"
    """The request was refused. The label has no status."""

    WOULD_REFUSE = "would_refuse"
    """The request passed in report mode, and would be refused otherwise. The label has both."""


class UsageLabel(NamedTuple):
    """Label of requests that share a counter.

    Texts have no control characters. They have no space at either end either, which
    some databases ignore.

    Attributes:
        key_id: The key; empty for a request in report mode without a proven key.
        hour: Hours since 1970-01-01 UTC; the first hour of the day if `span` is `DAY`.
        endpoint: The URL rule, or a label in parentheses.
        method: The HTTP method.
        status: The class of the HTTP status, such as ``2xx``; empty for a refusal.
        reason: The reason of a refusal, or of one that report mode spared; empty for an accepted key.
        owner: The key's owner at the time of the request; empty if it had none.
        span: Hours per counter: `HOUR` or `DAY`.
    """

    key_id: str
    hour: int
    endpoint: str
    method: str
    status: str
    reason: str = ""
    owner: str = ""
    span: int = HOUR


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Number of requests with a label.

    Attributes:
        label: The label.
        count: The number. A stored count only grows.
    """

    label: UsageLabel
    count: int


@dataclass(frozen=True, slots=True)
class LastUse:
    """Last accepted use of a secret.

    Attributes:
        key_id: The key.
        secret: The time when the current secret was issued, in microseconds since
            1970-01-01 UTC; `PREVIOUS_SECRET` for previous secrets.
        at: Time of the use, in UTC.
        address: The caller's canonical address; None if unknown.
    """

    key_id: str
    secret: int
    at: datetime
    address: str | None


def stored_count(value: Any) -> int:
    """Convert a stored sum of counts.

    Raises:
        RowDamaged: It is not a number.
    """
    try:
        return int(value)
    except (ArithmeticError, TypeError, ValueError):
        raise RowDamaged("a count of requests is damaged") from None


def stored_hour(value: Any) -> int:
    """Convert a stored hour.

    Raises:
        RowDamaged: It is no hour of the years 1970 to 9999.
    """
    if isinstance(value, int) and 0 <= value <= _LAST_HOUR:
        return value
    raise RowDamaged("the hour of a count of requests is damaged")


def stored_last_use(key_id: Any, secret: Any, at: Any, address: Any) -> LastUse:
    """Convert a stored last use, whose time is in microseconds.

    Raises:
        RowDamaged: A value is not valid.
    """
    try:
        return LastUse(key_id, int(secret), from_microseconds(at), address)
    except (ArithmeticError, TypeError, ValueError):
        raise RowDamaged(f"a stored last use of key {key_id!r:.60} is damaged") from None


@dataclass(frozen=True, slots=True)
class UsageBatch:
    """Counts and last uses of one process since its last batch.

    Attributes:
        writer: Random name of the process, in letters and digits.
        number: Number of the batch, from 1 for each writer. Storing a batch is
            idempotent by writer and number.
        rows: Counts, each label once.
        last_uses: Last uses, each secret once.
        written_at: Time of writing, in UTC.
    """

    writer: str
    number: int
    rows: Sequence[UsageRow]
    last_uses: Sequence[LastUse]
    written_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Selection of usage rows. All conditions must hold.

    Attributes:
        key_ids: Rows of these keys; None for all keys.
        owner: Rows of this owner; empty for rows without an owner, None for all rows.
        since: The first hour, in hours since 1970-01-01 UTC; None for no limit.
        until: The hour after the last; None for no limit.
        outcome: Rows with this outcome.
    """

    key_ids: Sequence[str] | None = None
    owner: str | None = None
    since: int | None = None
    until: int | None = None
    outcome: UsageOutcome = UsageOutcome.ACCEPTED
