"""Usage reports: totals, and rows by endpoint, hour, day, status, key or owner."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from heapq import nlargest
from typing import Any, NamedTuple

from flask_apikey.core.errors import ConfigurationError, InvalidValue, KeyNotFound, RowDamaged
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.usage import UsageField, UsageFilter, UsageOutcome, stored_hour
from flask_apikey.core.model.validation import checked_id, checked_moment, checked_owner
from flask_apikey.core.storage.contract import Backend, UsageStore
from flask_apikey.core.times import EPOCH, Clock, utc_now

MAX_EMPTY_ROWS = 2_400
"""Maximum number of rows of a report that includes hours or days without requests: 100 days of hours."""

_HOUR = timedelta(hours=1)
_HOURS_PER_DAY = 24


class UsageBy(Enum):
    """Grouping of the rows of a report."""

    ENDPOINT = "endpoint"
    HOUR = "hour"
    DAY = "day"
    STATUS = "status"
    KEY = "key"
    OWNER = "owner"


class UsageCount(NamedTuple):
    """Number of requests of one group.

    Attributes:
        label: The endpoint, status, key id, owner or reason of the group, or its hour or day in ISO 8601, UTC.
            Empty for keys without an owner.
        count: The number of requests.
    """

    label: str
    count: int  # type: ignore[assignment]  # hides tuple.count(), which is of no use here


class RefusalCount(NamedTuple):
    """Number of refused attempts in an hour.

    Attributes:
        hour: Start of the hour, in UTC; of the day, where hours were folded into days.
        endpoint: The URL rule.
        method: The HTTP method.
        reason: The reason.
        count: The number of attempts.
    """

    hour: datetime
    endpoint: str
    method: str
    reason: str
    count: int  # type: ignore[assignment]  # hides tuple.count(), which is of no use here


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """Requests counted in a period.

    Attributes:
        by: The grouping of the rows.
        since: Start of the first hour, in UTC; None if the start is open.
        until: End of the last hour, in UTC; None if the end is open.
        total: Number of accepted requests.
        rows: Accepted requests by group: hours and days in order, others by descending count.
        refused: Number of refused attempts, which are not in the total.
        refusals: Refused attempts by reason, by descending count.
    """

    by: UsageBy
    since: datetime | None
    until: datetime | None
    total: int
    rows: tuple[UsageCount, ...]
    refused: int
    refusals: tuple[UsageCount, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with times in ISO 8601."""
        return {
            "by": self.by.value,
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "total": self.total,
            "rows": [row._asdict() for row in self.rows],
            "refused": self.refused,
            "refusals": [row._asdict() for row in self.refusals],
        }


class WouldRefuseRow(NamedTuple):
    """Requests that would be refused for the same reason, at the same endpoint, with the same key.

    Attributes:
        reason: The reason of the refusal.
        endpoint: The URL rule.
        key_id: The key; empty if none was proven.
        owner: The key's owner at the time; empty if it had none.
        count: The number of requests.
    """

    reason: str
    endpoint: str
    key_id: str
    owner: str
    count: int  # type: ignore[assignment]  # hides tuple.count(), which is of no use here


@dataclass(frozen=True, slots=True, kw_only=True)
class WouldRefuseReport:
    """Requests that passed in report mode in a period.

    Attributes:
        since: Start of the first hour, in UTC; None if the start is open.
        until: End of the last hour, in UTC; None if the end is open.
        total: Number of requests.
        rows: Requests by descending count.
    """

    since: datetime | None
    until: datetime | None
    total: int
    rows: tuple[WouldRefuseRow, ...]

    def by(self, field: str) -> tuple[UsageCount, ...]:
        """Return the requests by one field of the rows, by descending count."""
        counts: Counter[str | int] = Counter()
        for row in self.rows:
            counts[getattr(row, field)] += row.count
        return _ranked(counts)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, with times in ISO 8601."""
        return {
            "since": None if self.since is None else self.since.isoformat(),
            "until": None if self.until is None else self.until.isoformat(),
            "total": self.total,
            "reasons": [row._asdict() for row in self.by("reason")],
            "endpoints": [row._asdict() for row in self.by("endpoint")],
            "rows": [row._asdict() for row in self.rows],
        }


class UsageReports:
    """Reports on stored counts."""

    def __init__(self, backend: Backend, clock: Clock = utc_now) -> None:
        self._backend = backend
        self._storage = usage_storage(backend)
        self._clock = clock

    def report(
        self,
        *,
        key_id: str | None = None,
        owner: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        by: UsageBy | str = UsageBy.ENDPOINT,
    ) -> UsageReport:
        """Report on a period of whole hours, as `APIKeys.usage` documents it."""
        rows_by = _checked_by(by)
        period = _Period.of(since, until)
        owner = checked_owner(owner)
        if key_id is not None:
            self._check_key(key_id, owner)
        accepted = UsageFilter(
            key_ids=None if key_id is None else [key_id], owner=owner, since=period.since, until=period.until
        )
        counts = self._storage.sum(_FIELDS[rows_by], accepted)
        refusals = self._storage.sum(UsageField.REASON, replace(accepted, outcome=UsageOutcome.REFUSED))
        return UsageReport(
            by=rows_by,
            since=_moment(period.since),
            until=_moment(period.until),
            total=sum(counts.values()),
            rows=self._rows(rows_by, counts, period),
            refused=sum(refusals.values()),
            refusals=_ranked(refusals),
        )

    def endpoints(
        self,
        *,
        key_id: str | None = None,
        owner: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> tuple[UsageCount, ...]:
        """Return the rows of a report by endpoint, without counting refusals once more."""
        period = _Period.of(since, until)
        key_ids = None if key_id is None else [key_id]
        accepted = UsageFilter(key_ids=key_ids, owner=owner, since=period.since, until=period.until)
        return _ranked(self._storage.sum(UsageField.ENDPOINT, accepted))

    def last_refusals(
        self, key_id: str, *, owner: str | None, since: datetime, until: datetime, limit: int
    ) -> list[RefusalCount]:
        """Return the refused attempts with a key by hour, endpoint, method and reason, the latest first."""
        period = _Period.of(since, until)
        refused = UsageFilter(
            key_ids=[key_id], owner=owner, since=period.since, until=period.until, outcome=UsageOutcome.REFUSED
        )
        fields = (UsageField.HOUR, UsageField.ENDPOINT, UsageField.METHOD, UsageField.REASON)
        totals = nlargest(limit, self._storage.totals(fields, refused).items())
        return [
            RefusalCount(EPOCH + stored_hour(hour) * _HOUR, str(endpoint), str(method), str(reason), count)
            for (hour, endpoint, method, reason), count in totals
        ]

    def would_refuse(
        self,
        *,
        key_id: str | None = None,
        owner: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> WouldRefuseReport:
        """Report on requests that passed in report mode. See `report` for the arguments."""
        period = _Period.of(since, until)
        owner = checked_owner(owner)
        if key_id is not None:
            self._check_key(key_id, owner)
        passed = UsageFilter(
            key_ids=None if key_id is None else [key_id],
            owner=owner,
            since=period.since,
            until=period.until,
            outcome=UsageOutcome.WOULD_REFUSE,
        )
        totals = self._storage.totals(_WOULD_REFUSE_FIELDS, passed)
        rows = [
            WouldRefuseRow(str(reason), str(endpoint), str(key), str(of_owner), count)
            for (reason, endpoint, key, of_owner), count in totals.items()
        ]
        return WouldRefuseReport(
            since=_moment(period.since),
            until=_moment(period.until),
            total=sum(totals.values()),
            rows=tuple(sorted(rows, key=lambda row: (-row.count, row))),
        )

    def _check_key(self, key_id: str, owner: str | None) -> None:
        """Refuse a key that neither is the owner's nor was counted as the owner's; any owner for None."""
        stored = self._stored(key_id, owner)
        if stored is not None and stored.record.pruned_at is None and owner in {None, stored.record.owner}:
            return
        for outcome in UsageOutcome:
            if self._storage.sum(UsageField.KEY, UsageFilter(key_ids=[key_id], owner=owner, outcome=outcome)):
                return
        raise KeyNotFound(f"no key has the id {key_id}")

    def _stored(self, key_id: str, owner: str | None) -> StoredKey | None:
        try:
            return self._backend.get(checked_id(key_id))
        except RowDamaged:
            # Nobody can tell whose key it is.
            if owner is not None:
                return None
            raise

    def _rows(self, by: UsageBy, counts: Mapping[str | int, int], period: "_Period") -> tuple[UsageCount, ...]:
        if by not in _SPANS:
            return _ranked(counts)
        span = _SPANS[by]
        spans: Counter[int] = Counter()
        for hour, count in counts.items():
            spans[stored_hour(hour) // span] += count
        numbers = _shown_spans(spans, period, span, present=_hours_up_to(self._clock()))
        return tuple(UsageCount(_label(number * span, by), spans[number]) for number in numbers)


def usage_storage(backend: Backend) -> UsageStore:
    """Return the usage storage of a backend, or raise a ConfigurationError if it has none."""
    if backend.usage is None:
        raise ConfigurationError(f"the storage ({type(backend).__name__}) keeps no usage")
    return backend.usage


@dataclass(frozen=True, slots=True)
class _Period:
    """Half-open range of hours since 1970-01-01 UTC."""

    since: int | None
    until: int | None

    @classmethod
    def of(cls, since: datetime | None, until: datetime | None) -> "_Period":
        if since is not None:
            since = checked_moment(since, "since")
        if until is not None:
            until = checked_moment(until, "until")
        if since is not None and until is not None and until <= since:
            raise InvalidValue(
                f"the period must begin before it ends, not from {since.isoformat()} to {until.isoformat()}"
            )
        return cls(
            None if since is None else (since - EPOCH) // _HOUR,
            None if until is None else _hours_up_to(until),
        )


_FIELDS = {
    UsageBy.ENDPOINT: UsageField.ENDPOINT,
    UsageBy.HOUR: UsageField.HOUR,
    UsageBy.DAY: UsageField.HOUR,
    UsageBy.STATUS: UsageField.STATUS,
    UsageBy.KEY: UsageField.KEY,
    UsageBy.OWNER: UsageField.OWNER,
}
_WOULD_REFUSE_FIELDS = (UsageField.REASON, UsageField.ENDPOINT, UsageField.KEY, UsageField.OWNER)
_SPANS = {UsageBy.HOUR: 1, UsageBy.DAY: _HOURS_PER_DAY}


def _checked_by(by: UsageBy | str) -> UsageBy:
    try:
        return UsageBy(by)
    except ValueError:
        raise InvalidValue(f"by must be one of {', '.join(each.value for each in UsageBy)}") from None


def _ranked(counts: Mapping[str | int, int]) -> tuple[UsageCount, ...]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return tuple(UsageCount(str(label), count) for label, count in ranked)


def _shown_spans(spans: Mapping[int, int], period: _Period, span: int, *, present: int) -> Sequence[int]:
    """Return the hours or days to show: those with requests only if the period has too many."""
    counted = sorted(spans)
    if period.since is None and not counted:
        return counted
    first = counted[0] if period.since is None else period.since // span
    last = counted[-1] if counted else first
    end = max(present, (last + 1) * span) if period.until is None else period.until
    numbers = range(first, -(-end // span))
    return numbers if len(numbers) <= MAX_EMPTY_ROWS else counted


def _hours_up_to(moment: datetime) -> int:
    return -((EPOCH - moment) // _HOUR)


def _label(hour: int, by: UsageBy) -> str:
    moment = EPOCH + hour * _HOUR
    return moment.date().isoformat() if by is UsageBy.DAY else moment.isoformat()


def _moment(hour: int | None) -> datetime | None:
    try:
        return None if hour is None else EPOCH + hour * _HOUR
    except OverflowError:
        raise InvalidValue("until is outside the years 1 to 9999 in UTC") from None
