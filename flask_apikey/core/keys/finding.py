"""Finding keys: listings, counts and last uses."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import islice

from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.keys import APIKey, Cursor, Status
from flask_apikey.core.model.keystring import is_id
from flask_apikey.core.model.validation import checked_duration, checked_limit, checked_owner, checked_search
from flask_apikey.core.storage.contract import KeyFilter, UsageStore
from flask_apikey.core.text import key_id_in
from flask_apikey.core.times import Clock, Duration, utc_now
from flask_apikey.core.usage.last_use import KeyLastUse, last_uses_of, with_last_uses

_PAGE = 500
_UNENDED = {Status.ACTIVE, Status.SUSPENDED}


class KeyFinder:
    """Lists and counts keys, and reads their last uses."""

    def __init__(self, repository: KeyRepository, usage: UsageStore | None = None, clock: Clock = utc_now) -> None:
        self._repository = repository
        self._usage = usage
        self._clock = clock

    def for_owner(self, owner: str) -> "KeyFinder":
        """Return the finder of one owner's keys."""
        return KeyFinder(self._repository.for_owner(owner), self._usage, self._clock)

    def list(
        self,
        *,
        owner: str | None = None,
        status: Status | str | None = None,
        expiring_within: Duration | None = None,
        unused_for: Duration | None = None,
        search: str | None = None,
        adopted: bool | None = None,
        newest_first: bool = False,
        after: str | None = None,
        limit: int | None = None,
    ) -> Iterator[APIKey]:
        """Iterate over records; see `APIKeys.list`."""
        checked_limit(limit)
        cursor = None if after is None else Cursor.parse(after)
        cutoff = self._cutoff(unused_for)
        key_filter = replace(self._filter(owner, status, expiring_within, cutoff, search), adopted=adopted)
        if cutoff is None:
            return (key.record for key in self._repository.find(key_filter, cursor, limit, newest_first=newest_first))
        records = (key.record for key in self._repository.find(key_filter, cursor, newest_first=newest_first))
        return islice(self._unused(records, cutoff), limit)

    def count(
        self,
        *,
        owner: str | None = None,
        status: Status | str | None = None,
        expiring_within: Duration | None = None,
        unused_for: Duration | None = None,
        search: str | None = None,
        adopted: bool | None = None,
    ) -> int:
        """Count keys; see `APIKeys.count`."""
        cutoff = self._cutoff(unused_for)
        key_filter = replace(self._filter(owner, status, expiring_within, cutoff, search), adopted=adopted)
        if cutoff is None:
            return self._repository.count(key_filter)
        records = (key.record for key in self._repository.find(key_filter))
        return sum(1 for _ in self._unused(records, cutoff))

    def last_uses(self, key_ids: Iterable[str]) -> Mapping[str, KeyLastUse]:
        """Read the last uses of keys; see `APIKeys.last_uses`."""
        if isinstance(key_ids, str):
            raise InvalidValue("last_uses takes a list of ids, not one id")
        return last_uses_of(self._usage_store(), self._records(key_ids))

    def _records(self, key_ids: Iterable[str]) -> Iterator[APIKey]:
        distinct = iter(dict.fromkeys(filter(is_id, key_ids)))
        while ids := frozenset(islice(distinct, _PAGE)):
            for key in self._repository.find(KeyFilter(ids=ids), limit=len(ids)):
                yield key.record

    def _unused(self, records: Iterable[APIKey], cutoff: datetime) -> Iterator[APIKey]:
        for record, last_use in with_last_uses(self._usage_store(), records):
            if last_use.latest is None or last_use.latest.at < cutoff:
                yield record

    def _cutoff(self, unused_for: Duration | None) -> datetime | None:
        if unused_for is None:
            return None
        self._usage_store()
        return self._clock() - checked_duration(unused_for, "unused_for")

    def _usage_store(self) -> UsageStore:
        if self._usage is None:
            raise ConfigurationError("the last use of keys is unknown: the storage keeps no usage")
        return self._usage

    def _filter(
        self,
        owner: str | None,
        status: Status | str | None,
        expiring_within: Duration | None,
        created_before: datetime | None,
        search: str | None,
    ) -> KeyFilter:
        pasted_id = key_id_in(search) if isinstance(search, str) else None
        if pasted_id is not None:
            search = None
        now, until = self._clock(), None
        wanted = _checked_status(status)
        for name, value in (("expiring_within", expiring_within), ("unused_for", created_before)):
            if value is not None:
                if wanted not in {None, Status.ACTIVE}:
                    raise InvalidValue(f"{name} lists active keys only: leave status out")
                wanted = Status.ACTIVE
        if expiring_within is not None:
            until = now + checked_duration(expiring_within, "expiring_within")
        return KeyFilter(
            owner=checked_owner(owner),
            revoked=None if wanted is None else wanted is Status.REVOKED,
            suspended=wanted is Status.SUSPENDED if wanted in _UNENDED else None,
            expires_after=now if wanted in _UNENDED else None,
            expires_by=now if wanted is Status.EXPIRED else until,
            created_before=created_before,
            ids=None if pasted_id is None else {pasted_id},
            search=None if search is None else checked_search(search),
        )


def _checked_status(status: Status | str | None) -> Status | None:
    try:
        return None if status is None else Status(status)
    except ValueError:
        raise InvalidValue(f"status must be one of {', '.join(each.value for each in Status)}") from None
