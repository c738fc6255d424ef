"""The contract's methods of usage, apart from the rest of the backend."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager

from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageField, UsageFilter, UsageLabel, UsageRow
from flask_apikey.core.storage.contract import KeepsUsage
from flask_apikey_mongodb.usage import Usage


class CountsUsage(KeepsUsage):
    """The part of a backend that counts in the database which is open in this process."""

    @abstractmethod
    def _usage(self) -> AbstractContextManager[Usage]:
        """The counts, with the driver's errors turned into the contract's."""

    def add_usage(self, batch: UsageBatch) -> None:
        """See `KeepsUsage.add_usage`."""
        with self._usage() as usage:
            usage.add(batch)

    def usage_totals(self, by: Sequence[UsageField], usage_filter: UsageFilter) -> Mapping[tuple[str | int, ...], int]:
        """See `KeepsUsage.usage_totals`."""
        with self._usage() as usage:
            return usage.totals(by, usage_filter)

    def usage_endpoints(self, key_id: str, *, limit: int) -> AbstractSet[str]:
        """See `KeepsUsage.usage_endpoints`."""
        with self._usage() as usage:
            return usage.endpoints(key_id, limit)

    def last_uses(self, key_ids: Sequence[str]) -> Sequence[LastUse]:
        """See `KeepsUsage.last_uses`."""
        with self._usage() as usage:
            return usage.last_uses(key_ids)

    def fold_usage(self, *, before: int) -> int:
        """See `KeepsUsage.fold_usage`."""
        with self._usage() as usage:
            return usage.fold(before)

    def prune_usage(self, *, before: int) -> int:
        """See `KeepsUsage.prune_usage`."""
        with self._usage() as usage:
            return usage.prune(before)

    def fold_last_uses(self) -> None:
        """See `KeepsUsage.fold_last_uses`."""
        with self._usage() as usage:
            usage.fold_last_uses()

    def usage_rows(self, *, after: UsageLabel | None, limit: int) -> Sequence[UsageRow]:
        """See `KeepsUsage.usage_rows`."""
        with self._usage() as usage:
            return usage.page(after, limit)

    def all_usage_rows(self) -> Iterator[UsageRow]:
        """See `KeepsUsage.all_usage_rows`: with one cursor of the server."""
        with self._usage() as usage:
            yield from usage.all()

    def merge_usage(self, rows: Sequence[UsageRow], last_uses: Sequence[LastUse]) -> int:
        """See `KeepsUsage.merge_usage`."""
        with self._usage() as usage:
            return usage.merge(rows, last_uses)
