"""The contract between this library and a storage backend.

Rules for every backend, checked by the contract suite in `flask_apikey.testing`:

- Every change is one atomic operation. `Backend.update` is a compare-and-set on version and seal.
- No change makes all writers meet in one row or document.
- Methods take and return records, never driver rows. Times are in UTC with a zone.
- Driver errors become `StorageError`. Neither its message nor its traceback shows a
  row or a document, so raise it ``from None``.
- Clients are created on first use in each process, so that forking is safe.
- The application's own session and transaction stay untouched.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.model.history import EventPosition, LifecycleEvent
from flask_apikey.core.model.keys import Cursor, DamagedKey, Resealing, Rotation, StoredKey
from flask_apikey.core.model.quotas import QuotaCounter, QuotaState
from flask_apikey.core.model.usage import LastUse, UsageBatch, UsageField, UsageFilter, UsageLabel, UsageRow

_PAGE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFilter:
    """Conditions on the keys of a listing. All conditions that are set must hold.

    Attributes:
        owner: Keys of this owner.
        revoked: True for revoked keys only, False for all others.
        suspended: True for keys with a suspension, even if they have ended; False for all others.
        expires_after: Keys that expire after this moment, or never.
        expires_by: Keys that expire at this moment or earlier.
        ended_by: Keys that were revoked or expired at this moment or earlier.
        created_before: Keys created before this moment.
        not_sealed_by: Keys sealed under another Fernet key than the one with this fingerprint.
        pruned: False for keys, True for the tombstones of removed ones, None for both.
        adopted: True for keys that keep a secret of another system, even if they have ended; False for all others.
        ids: Keys with one of these ids, at most a few hundred.
        search: Keys whose name contains this printable text in any case, or whose id, owner or
            one scope begins with it. `flask_apikey.storage.matches_search` defines it. The
            text comes from users, so no character of it may have a meaning of its own.
    """

    owner: str | None = None
    revoked: bool | None = None
    suspended: bool | None = None
    expires_after: datetime | None = None
    expires_by: datetime | None = None
    ended_by: datetime | None = None
    created_before: datetime | None = None
    not_sealed_by: str | None = None
    pruned: bool | None = False
    adopted: bool | None = None
    ids: AbstractSet[str] | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Conditions on the events of a listing. All conditions that are set must hold.

    Attributes:
        key_id: Events of this key.
        owner: Events of keys that had this owner then.
        actor: Events of this actor.
        since: Events at this moment or later.
    """

    key_id: str | None = None
    owner: str | None = None
    actor: str | None = None
    since: datetime | None = None


class HistoryStore(ABC):
    """Lifecycle events, identified by key and number.

    Events of changes are written by `Backend.add`, `Backend.add_many` and `Backend.update`.
    An event with the same key and number replaces a stored one: the sealed row of the
    key has no such version, so the stored event is forged.
    """

    @abstractmethod
    def events(
        self, event_filter: EventFilter, *, after: EventPosition | None, limit: int, newest_first: bool = False
    ) -> Sequence[LifecycleEvent]:
        """List the next `limit` matching events by ``(at, key_id, number)``. Every filter has an index.

        Events without a place in this order are left out, see `flask_apikey.storage.stored_event`.
        """

    @abstractmethod
    def chains(self, *, after: tuple[str, int] | None, limit: int) -> Sequence[LifecycleEvent]:
        """List the next `limit` events of all keys by ``(key_id, number)``, after a key and a number."""

    @abstractmethod
    def append(self, events: Sequence[LifecycleEvent]) -> None:
        """Store events unchanged. Used by copies, before the keys are stored.

        Idempotent: events that are stored already are skipped.

        Raises:
            Conflict: Another event has the same key and number. Nothing was written.
        """

    @abstractmethod
    def remove(self, events: Sequence[LifecycleEvent]) -> None:
        """Remove events that still have their key, number and hash. Used by repairs, for forged events."""


class UsageStore(ABC):
    """Request counts and last uses. The database adds counts; they are never read and written back."""

    @abstractmethod
    def add(self, batch: UsageBatch) -> None:
        """Add counts, and store last uses that are later than the stored ones.

        Idempotent as long as the hours of the batch are neither folded nor pruned.
        Each writer sends one batch at a time, with increasing numbers that may have
        gaps. Ignore a batch whose number is not larger than the writer's last one.
        """

    def is_blocked(self) -> bool:
        """Return True if a transaction of the current thread may keep `add` from writing until it ends."""
        return False

    @abstractmethod
    def totals(self, by: Sequence[UsageField], usage_filter: UsageFilter) -> Mapping[tuple[str | int, ...], int]:
        """Sum the counts of matching rows, grouped by the values of these fields."""

    def sum(self, by: UsageField, usage_filter: UsageFilter) -> Mapping[str | int, int]:
        """Sum the counts of matching rows, grouped by one field."""
        return {value: count for (value,), count in self.totals([by], usage_filter).items()}

    @abstractmethod
    def endpoints(self, key_id: str, *, limit: int) -> AbstractSet[str]:
        """List at most `limit` endpoints that the key has rows for."""

    @abstractmethod
    def last_uses(self, key_ids: Sequence[str]) -> Sequence[LastUse]:
        """List the last use of every secret of these keys."""

    @abstractmethod
    def rows(self, *, after: UsageLabel | None, limit: int) -> Sequence[UsageRow]:
        """List the next `limit` rows after a label, ordered by label."""

    def all_rows(self) -> Iterator[UsageRow]:
        """Iterate over all rows, ordered by label. Override it if the storage has cursors."""
        after = None
        while page := self.rows(after=after, limit=_PAGE):
            yield from page
            after = page[-1].label

    @abstractmethod
    def fold(self, *, before: int) -> int:
        """Turn hourly rows into daily rows, for whole days before an hour.

        An interrupted fold is completed by the next one. Nothing is counted twice.

        Args:
            before: Hours since 1970-01-01 UTC. No new counts arrive for earlier hours.

        Returns:
            The number of hourly rows removed.
        """

    @abstractmethod
    def prune(self, *, before: int) -> int:
        """Remove rows of hours and days that ended before an hour. Returns their number."""

    @abstractmethod
    def fold_last_uses(self) -> None:
        """Reduce the last uses of each key to two: the current secret's, and the latest of all others.

        The latter is stored under `PREVIOUS_SECRET`. Last uses of removed keys are
        removed. A use stored during the fold is kept and left to the next fold.
        `flask_apikey.storage.folded_last_uses` computes the changes.
        """

    @abstractmethod
    def put(self, rows: Sequence[UsageRow], last_uses: Sequence[LastUse]) -> None:
        """Store counts in place of the stored ones, and last uses that are later. Used by copies."""


class RotationStore(ABC):
    """Seals of keys, and the state of the Fernet key rotation."""

    @abstractmethod
    def reseal(self, resealings: Sequence[Resealing]) -> int:
        """Replace seals by compare-and-set on the old seal. Changes nothing else of a row.

        Returns:
            The number of seals replaced. The other keys were changed or removed.
        """

    @abstractmethod
    def count_seals(self) -> Mapping[str, int]:
        """Count the keys and tombstones sealed under each Fernet key, by fingerprint.

        The row `flask_apikey.storage.STORAGE_ID` is not counted.
        """

    @abstractmethod
    def get(self) -> Rotation | None:
        """Return the latest rotation."""

    @abstractmethod
    def put(self, rotation: Rotation, *, expected_version: int) -> None:
        """Store `rotation` in place of the one at `expected_version`; 0 if there is none.

        Raises:
            Conflict: The stored rotation has another version.
        """


class QuotaStore(ABC):
    """Counters of quotas. The database changes them; they are never read and written back.

    A counter that is not stored has the state of a new one.
    """

    @abstractmethod
    def take(self, counter: QuotaCounter, *, least: int, most: int, limit: int) -> QuotaState:
        """Take from a quota in one atomic operation, so that no more is used than the limit and its additions.

        Takes `most`; or all that is left, if that is at least `least`; or else nothing. An
        operation whose answer is lost may have taken, and is not repeated.

        Args:
            counter: The counter.
            least: Minimum amount, at least 1.
            most: Maximum amount.
            limit: Limit of the quota, without additions.

        Returns:
            The state afterwards, with what was taken.
        """

    @abstractmethod
    def give_back(self, counter: QuotaCounter, amount: int, *, generation: int) -> None:
        """Give back what was taken, unless the counter was reset since. Not repeated when the answer is lost.

        Args:
            counter: The counter.
            amount: What to give back.
            generation: The generation from which it was taken.
        """

    @abstractmethod
    def get(self, counter: QuotaCounter) -> QuotaState:
        """Return the state of a counter."""

    @abstractmethod
    def reset(self, counter: QuotaCounter) -> None:
        """Forget what was taken, and start the next generation. Additions stay."""

    @abstractmethod
    def add(self, counter: QuotaCounter, amount: int, *, every_period: bool) -> None:
        """Add to the limit of the period, and with `every_period` to that of each new counter of the subject."""

    @abstractmethod
    def prune(self, *, before: datetime) -> int:
        """Remove counters of periods that ended before a moment. Returns their number."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys that were changed.

    Attributes:
        now: Time of the query by the clock of the storage, in UTC.
        key_ids: Ids of the keys and tombstones, in any order.
    """

    now: datetime
    key_ids: Sequence[str] = ()


class ChangeStore(ABC):
    """The moment of the last change of each key, by the clock of the storage.

    Every operation that writes an existing row sets it: `Backend.update`, `Backend.revoke_unsealed`
    and `RotationStore.reseal`. A new row needs none.
    """

    @abstractmethod
    def changed_since(self, moment: datetime | None, *, limit: int) -> Changes:
        """List keys that were changed at this moment or later. One query with an index, for each process at intervals.

        It may neither wait for connections of the application nor miss a change that was
        committed before the call. It lists a change with the moment of its write, which may
        be seconds before its commit.

        Args:
            moment: A moment by the clock of the storage. None lists no keys, only the time.
            limit: The maximum number of ids.
        """


class Backend(ABC):
    """A storage for keys, with optional parts.

    Every method except `close` may raise `StorageError`.

    Attributes:
        history: The lifecycle events, or None if this backend keeps none. It then never receives an event.
        usage: The request counts, or None if this backend counts no requests.
        rotation: The seals, or None if this backend cannot rotate the Fernet key.
        quotas: The counters of quotas, or None if this backend keeps none. Keys then cannot have quotas.
        changes: The moments of changes, or None if this backend keeps none. Rows are then read on each request.
    """

    history: HistoryStore | None = None
    usage: UsageStore | None = None
    rotation: RotationStore | None = None
    quotas: QuotaStore | None = None
    changes: ChangeStore | None = None

    @classmethod
    @abstractmethod
    def from_uri(cls, uri: str) -> "Backend":
        """Create a backend for a URI with a scheme registered for it. Does not connect.

        Raises:
            ConfigurationError: The URI is malformed, or the driver is not installed.
        """

    @classmethod
    def from_client(cls, client: object) -> "Backend":
        """Create a backend on a client object of the application.

        Raises:
            ConfigurationError: This backend does not support the client.
        """
        raise ConfigurationError(f"{cls.__name__} takes a URI only, not {type(client).__name__}")

    def for_application(self, context: Callable[[], AbstractContextManager[object]]) -> "Backend":  # noqa: ARG002  # for overrides
        """Return the backend for one application.

        Override it if the client is only available inside an application context.

        Args:
            context: Enters the application context.
        """
        return self

    def show_tables_to(self, client: object) -> None:  # noqa: B027  # most backends have no tables
        """Define the tables where the migration tools of a client look, if it opens the same database.

        Otherwise they take the tables for leftovers and drop them. Called in an application context.
        """

    def tables_unknown_to(self, client: object) -> Sequence[str]:  # noqa: ARG002  # for backends with tables
        """List tables of keys in the databases of a client that its migration tools would drop."""
        return ()

    @property
    def is_in_memory(self) -> bool:
        """True if the keys end with the process. The command line then issues none."""
        return False

    def limit_waits(self, timeout: timedelta) -> None:  # noqa: B027  # a backend may have limits of its own
        """Limit the wait for a connection, and for each answer of the storage. Called before the first use.

        A storage that hangs must fail with `StorageError` within this time. By default the
        backend has limits of its own. Operations that prepare, fold or prune may take longer.
        """

    @property
    def file(self) -> Path | None:
        """The file that holds the keys; None if there is none. ``flask apikey doctor`` looks at its mode."""
        return None

    @abstractmethod
    def init_storage(self) -> None:
        """Create missing tables and indexes. Idempotent, also with concurrent processes."""

    def missing_parts(self) -> Sequence[str]:
        """List what `init_storage` would create, such as ``"index ix_flask_apikey_keys_owner"``."""
        return ()

    @abstractmethod
    def ping(self) -> None:
        """Return if the storage responds."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections. The next use opens the backend again."""

    @abstractmethod
    def add(self, key: StoredKey, *, event: LifecycleEvent | None = None) -> None:
        """Store a new key, and its event in the same operation.

        Raises:
            AlreadyExists: A key or a tombstone has the id. Other rejections raise `StorageError`.
        """

    def add_many(self, keys: Sequence[StoredKey], *, events: Sequence[LifecycleEvent] = ()) -> None:
        """Store new keys, and the event of each. Override it if the storage has bulk inserts.

        Args:
            keys: The keys.
            events: No event, or one for each key.

        Raises:
            AlreadyExists: One of the ids exists. Some of the other keys may be stored.
        """
        for position, key in enumerate(keys):
            self.add(key, event=events[position] if events else None)

    @abstractmethod
    def get(self, key_id: str) -> StoredKey | None:
        """Return the key or tombstone with this id. The only query of a request.

        Raises:
            RowDamaged: The row does not hold valid values.
        """

    def get_many(self, key_ids: Sequence[str]) -> Mapping[str, StoredKey]:
        """Return the keys and tombstones with these ids, by id. The only query of a request with an adopted key.

        There are a few ids. Override it to ask for all of them at once.

        Raises:
            RowDamaged: One of the rows does not hold valid values.
        """
        found = ((key_id, self.get(key_id)) for key_id in key_ids)
        return {key_id: key for key_id, key in found if key is not None}

    @abstractmethod
    def find(
        self, key_filter: KeyFilter, *, after: Cursor | None, limit: int, newest_first: bool = False
    ) -> Sequence[StoredKey]:
        """List the next `limit` matching keys by ``(created_at, id)``. Fewer keys are the last ones.

        Damaged rows are left out, and the keys behind them take their place.

        Args:
            key_filter: Conditions on the keys.
            after: Position to continue from, in either direction; None to start.
            limit: The maximum number of keys.
            newest_first: List the newest key first, else the oldest.
        """

    @abstractmethod
    def count(self, key_filter: KeyFilter) -> int:
        """Count the matching keys, damaged rows included."""

    @abstractmethod
    def scan(self, key_filter: KeyFilter) -> Iterator[StoredKey | DamagedKey]:
        """Iterate over matching keys by id, in pages. Damaged rows are included, unless they clearly do not match."""

    @abstractmethod
    def update(
        self, key: StoredKey, *, expected_version: int, expected_seal: str, event: LifecycleEvent | None = None
    ) -> None:
        """Replace a key that has this version and this seal, and store its event in the same operation.

        Args:
            key: The new content.
            expected_version: The version to replace.
            expected_seal: The token of the seal to replace. A rotation replaces seals without a new version.
            event: The event of the change.

        Raises:
            Conflict: The key has another version or seal, or does not exist.
        """

    @abstractmethod
    def revoke_unsealed(self, key_id: str, *, revoked_at: datetime, reason: str | None) -> bool:
        """Write a revocation into a row and change nothing else, whatever the row holds.

        Used for rows that are damaged or do not fit their seal.

        Returns:
            False if no row has the id, or if it is a tombstone.
        """
