"""The contract between this library and a storage, and the registry of storages.

Rules that every backend keeps (`flask_apikey.testing.BackendContract` checks them):

- every change is one atomic operation; `update` and `delete` compare and set on
  ``version``;
- records in, records out: no driver rows, times in UTC with a zone;
- the driver's errors become `StorageError`, whose message and traceback tell of no
  row or document (``raise … from None``, where the driver's would);
- clients are made on first use in each process, so that a fork is harmless;
- the application's own session and transaction are never touched.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import EntryPoint, entry_points

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.model.history import ChainedEvent, LifecycleEvent
from flask_apikey.core.model.keys import Cursor, Resealing, Rotation, StoredKey
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageField, UsageFilter, UsageLabel, UsageRow

ENTRY_POINT_GROUP = "flask_apikey.backends"

_PAGE = 1_000

_scheme = re.compile(r"([A-Za-z][A-Za-z0-9-]*)(?:\+[A-Za-z0-9_.-]+)?:").match


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """Which keys a listing holds; every condition that is given must hold.

    Attributes:
        owner: Keys of this owner.
        revoked: Only revoked keys, or only those that are not.
        expires_after: Keys that expire after this moment, or never.
        expires_by: Keys that expire at this moment or before.
        ended_by: Keys that were revoked, or expired, at this moment or before.
        created_before: Keys that were made before this moment.
        not_sealed_by: Keys whose seal is of another Fernet key than the one with this fingerprint.
    """

    owner: str | None = None
    revoked: bool | None = None
    expires_after: datetime | None = None
    expires_by: datetime | None = None
    ended_by: datetime | None = None
    created_before: datetime | None = None
    not_sealed_by: str | None = None


class Backend(ABC):
    """Where keys are kept.

    Every method but `close` may raise `StorageError`.
    """

    @classmethod
    @abstractmethod
    def from_uri(cls, uri: str) -> "Backend":
        """Make a backend for a URI whose scheme is registered for it. Does not connect.

        Raises:
            ConfigurationError: The URI is malformed, or the driver is not installed.
        """

    @classmethod
    def from_client(cls, client: object) -> "Backend":
        """Make a backend on a client that the application has already.

        Raises:
            ConfigurationError: This backend cannot use it.
        """
        raise ConfigurationError(f"{cls.__name__} takes a URI only, not {type(client).__name__}")

    @abstractmethod
    def init_storage(self) -> None:
        """Make tables and indexes where they are missing.

        Does nothing where they exist, and is safe in several processes at once.
        """

    @abstractmethod
    def ping(self) -> None:
        """Return when the storage answers."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open. A closed backend opens again on its next use."""

    @abstractmethod
    def add(self, key: StoredKey) -> None:
        """Store a new key.

        Raises:
            AlreadyExists: A key with this id is stored already. Whatever else the
                storage refuses is a `StorageError`.
        """

    def add_many(self, keys: Sequence[StoredKey]) -> None:
        """Store new keys; a storage that can store several at once overrides this.

        Raises:
            AlreadyExists: A key with one of the ids is stored already. Some of the
                others may be stored then.
        """
        for key in keys:
            self.add(key)

    @abstractmethod
    def get(self, key_id: str) -> StoredKey | None:
        """The key with this id. The one look-up of a request."""

    @abstractmethod
    def find(self, key_filter: KeyFilter, *, after: Cursor | None, limit: int) -> Sequence[StoredKey]:
        """The next `limit` keys that pass the filter, by ``(created_at, id)``, oldest first."""

    def all_keys(self) -> Iterator[StoredKey]:
        """Every key, by ``(created_at, id)``, oldest first; a storage that can read on where it was overrides this."""
        after = None
        while page := self.find(KeyFilter(), after=after, limit=_PAGE):
            yield from page
            after = Cursor(page[-1].record.created_at, page[-1].record.id)

    @abstractmethod
    def update(self, key: StoredKey, *, expected_version: int, keep_seal: bool = False) -> None:
        """Replace what is stored for ``key.record.id``, if its version is `expected_version`.

        Args:
            key: The key as it shall be.
            expected_version: Its version so far.
            keep_seal: Leave the seal that is stored, whatever it is by now: a seal is
                replaced without a new version while the Fernet key is changed.

        Raises:
            Conflict: Its version is another, or it is gone.
        """

    @abstractmethod
    def delete(self, key_id: str, *, expected_version: int) -> None:
        """Remove a key for good, if its version is `expected_version`.

        Raises:
            Conflict: Its version is another, or it is gone.
        """


class ContextBound(ABC):
    """The ability of a backend to find its client inside an application context."""

    @abstractmethod
    def bound(self, context: Callable[[], AbstractContextManager[object]]) -> Backend:
        """The backend of one application, which enters `context` to find its client."""


class KeepsHistory(ABC):
    """The ability to keep lifecycle events, each written in one operation with the change that it describes.

    The events form one chain, which `flask_apikey.core.model.history.chained` extends.
    """

    @abstractmethod
    def add_recorded(self, key: StoredKey, event: LifecycleEvent) -> None:
        """`Backend.add`, and its event."""

    @abstractmethod
    def update_recorded(
        self, key: StoredKey, *, expected_version: int, event: LifecycleEvent, keep_seal: bool = False
    ) -> None:
        """`Backend.update`, and its event."""

    @abstractmethod
    def delete_recorded(self, key_id: str, *, expected_version: int, event: LifecycleEvent) -> None:
        """`Backend.delete`, and its event."""

    @abstractmethod
    def record(self, event: LifecycleEvent) -> None:
        """An event that changes no key."""

    @abstractmethod
    def events(self, *, after: int, limit: int, key_id: str | None = None) -> Sequence[ChainedEvent]:
        """The next `limit` events behind number `after`, in order; with `key_id`, only those of that key.

        Those of a key are found by an index: a history grows without end.
        """

    @abstractmethod
    def append_events(self, events: Sequence[ChainedEvent]) -> None:
        """Store events as they are, all or none, for a copy of a whole history.

        Raises:
            Conflict: The first does not follow the last that is stored.
        """


class KeepsRotation(ABC):
    """The ability to replace seals, and to remember where a rotation of the Fernet key stands."""

    @abstractmethod
    def reseal(self, resealings: Sequence[Resealing]) -> int:
        """Replace seals, each only where the stored one is still the old one, and nothing else of the keys.

        Returns:
            How many were replaced. The others were changed or removed meanwhile.
        """

    @abstractmethod
    def count_seals(self) -> Mapping[str, int]:
        """How many keys are sealed under each Fernet key, by fingerprint."""

    @abstractmethod
    def get_rotation(self) -> Rotation | None:
        """The rotation that was started last."""

    @abstractmethod
    def put_rotation(self, rotation: Rotation, *, expected_version: int) -> None:
        """Store `rotation` in place of the one whose version is `expected_version`; 0 where there is none.

        Raises:
            Conflict: Its version is another.
        """


class KeepsUsage(ABC):
    """The ability to count requests. Counts are added in the database and never written back."""

    @abstractmethod
    def add_usage(self, batch: UsageBatch) -> None:
        """Add what was counted, and note the last uses that are later than those stored.

        Repeating a batch whose answer was lost is harmless as long as its hours are
        neither folded nor pruned: a writer's batches come one at a time, with numbers
        that only grow and may have gaps, and one whose number is not larger than that
        of the last is left out.
        """

    @abstractmethod
    def usage_totals(self, by: Sequence[UsageField], usage_filter: UsageFilter) -> Mapping[tuple[str | int, ...], int]:
        """The counts of the rows that pass the filter, added up for all that have the same values of some fields."""

    def sum_usage(self, by: UsageField, usage_filter: UsageFilter) -> Mapping[str | int, int]:
        """The same for one field, by its values."""
        return {value: count for (value,), count in self.usage_totals([by], usage_filter).items()}

    @abstractmethod
    def usage_endpoints(self, key_id: str, *, limit: int) -> AbstractSet[str]:
        """At most `limit` endpoints for which the key has rows."""

    @abstractmethod
    def last_uses(self, key_ids: Sequence[str]) -> Sequence[LastUse]:
        """The last use of every secret of these keys."""

    @abstractmethod
    def fold_usage(self, *, before: int) -> int:
        """Add what whole days before an hour have in rows of an hour to rows of a day.

        Args:
            before: Hours since 1970-01-01 UTC; nobody counts in hours before it any more.

        Returns:
            How many rows of an hour were removed. A fold that was interrupted is
            completed by the next one, and nothing is counted twice.
        """

    @abstractmethod
    def prune_usage(self, *, before: int) -> int:
        """Remove rows of hours and days that ended before an hour. Gives how many."""

    @abstractmethod
    def fold_last_uses(self) -> None:
        """Leave two last uses of each key: of its current secret, and under `PREVIOUS_SECRET` the latest of all others.

        Of keys that were removed none is left. A use that is noted meanwhile is not
        lost: the next fold takes what this one does not. `flask_apikey.core.usage.last_use.folding_of`
        says what is to be done.
        """

    @abstractmethod
    def usage_rows(self, *, after: UsageLabel | None, limit: int) -> Sequence[UsageRow]:
        """The next `limit` rows behind a label, in the order of their labels."""

    def all_usage_rows(self) -> Iterator[UsageRow]:
        """Every row, in the order of their labels; a storage that can read on where it was overrides this."""
        after = None
        while page := self.usage_rows(after=after, limit=_PAGE):
            yield from page
            after = page[-1].label

    @abstractmethod
    def merge_usage(self, rows: Sequence[UsageRow], last_uses: Sequence[LastUse]) -> int:
        """Let each count be the larger of what is stored and what is given, for a copy.

        Returns:
            How many rows were added or raised.
        """


class Inspectable(ABC):
    """The ability of a backend to say what `Backend.init_storage` would still have to make."""

    @abstractmethod
    def missing_parts(self) -> Sequence[str]:
        """Tables, columns and indexes that are missing, such as ``"index ix_flask_apikey_keys_owner"``."""


def backend_for(uri: str) -> Backend:
    """Make the backend that is registered for the scheme of `uri`.

    Raises:
        ConfigurationError: The URI has no scheme, nothing or more than one thing is
            registered for it, or the backend refused it.
    """
    match = _scheme(uri)
    if match is None:
        raise ConfigurationError(
            "the storage URI has no scheme; expected something like sqlite:////var/lib/app/keys.db"
        )
    return backend_class(match[1].lower()).from_uri(uri)


def backend_class(scheme: str) -> type[Backend]:
    """The backend class that is registered for a URI scheme.

    Raises:
        ConfigurationError: None is, more than one is, or it cannot be imported.
    """
    registered = entry_points(group=ENTRY_POINT_GROUP)
    found = {(point.value, _distribution(point)): point for point in registered if point.name == scheme}
    if not found:
        known = ", ".join(sorted({point.name for point in registered})) or "none"
        raise ConfigurationError(
            f"no storage backend is registered for the scheme {scheme!r}; registered are: {known}. "
            "Any other SQLAlchemy database can be given as an engine: APIKeys(app, backend=SQLBackend(engine))"
        )
    if len(found) > 1:
        rivals = ", ".join(sorted(f"{value} of {distribution}" for value, distribution in found))
        raise ConfigurationError(
            f"several storage backends claim the scheme {scheme!r}: {rivals}. Uninstall all but one."
        )
    (point,) = found.values()
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(f"the storage backend {point.value} for {scheme!r} cannot be imported: {exc}") from exc
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise ConfigurationError(f"{point.value}, registered for the scheme {scheme!r}, is not a Backend class")
    return loaded


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"
