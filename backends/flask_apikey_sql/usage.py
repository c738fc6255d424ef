"""Request counts in tables, added by upserts.

Every transaction starts with a write, so that SQLite takes its write lock first. A
transaction that has read before is rejected if another process has written since.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property, partial
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError
from typing_extensions import override

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.usage import (
    DAY,
    HOUR,
    PREVIOUS_SECRET,
    LastUse,
    UsageBatch,
    UsageField,
    UsageFilter,
    UsageLabel,
    UsageOutcome,
    UsageRow,
    stored_count,
)
from flask_apikey.core.storage.contract import UsageStore
from flask_apikey.core.times import to_microseconds
from flask_apikey.core.usage.labels import storable
from flask_apikey.core.usage.last_use import FoldedLastUses, folded_last_uses
from flask_apikey_sql.database import Database
from flask_apikey_sql.errors import is_refused_as_data
from flask_apikey_sql.sqlite_holds import Hold
from flask_apikey_sql.tables import NOT_PRUNED
from flask_apikey_sql.timeouts import unlimited
from flask_apikey_sql.transactions import transact
from flask_apikey_sql.upserts import Upserts, upserts_for
from flask_apikey_sql.usage_tables import (
    UsageTables,
    from_last_use_row,
    from_usage_row,
    to_last_use_row,
    to_usage_row,
)

_PAGE = 500
_MAX_PARAMETERS = 500
_MICROSECONDS_PER_HOUR = 3600 * 1_000_000
_WRITER_LIFETIME = 30 * DAY * _MICROSECONDS_PER_HOUR
_ROWS_OF_TRANSACTION = 1000
_FOLDING = -1
"""The span of hourly rows while a transaction folds them."""


class SQLUsage(UsageStore):
    """Request counts in tables."""

    def __init__(self, database: Database, tables: UsageTables, keys: Table) -> None:
        self._database = database
        self._tables = tables
        self._keys = keys
        self._counts = tables.usage
        self._same_label = [column == bindparam(f"given_{column.name}") for column in self._counts.primary_key]
        writers = tables.writers
        number: ColumnElement[int] = bindparam("given_number")
        self._next_batch = (
            update(writers)
            .where(writers.c.writer == bindparam("given_writer"), writers.c.number < number)
            .values(number=number, written_at=bindparam("given_written_at"))
        )
        self._first_batch = writers.insert()

    @cached_property
    def _upserts(self) -> Upserts:
        return upserts_for(self._database.opened.get().engine.dialect.name, self._tables)

    @override
    def add(self, batch: UsageBatch) -> None:
        # The same order everywhere prevents deadlocks between transactions.
        rows = sorted(batch.rows, key=attrgetter("label"))
        uses = [to_last_use_row(use) for use in sorted(batch.last_uses, key=attrgetter("key_id", "secret"))]

        def write(add: Callable[[Connection, Sequence[UsageRow]], object], connection: Connection) -> None:
            self._number(connection, batch)
            add(connection, rows)
            self._upserts.store_uses(connection, uses)

        with self._database.connections() as connections:
            try:
                transact(connections, partial(write, self._add))
            except IntegrityError:
                # Constraints of the application raise IntegrityError too.
                if not self._has(batch):
                    raise
            except Exception as exc:
                if not is_refused_as_data(exc):
                    raise
                # In one transaction with the number of the batch, so that nothing is counted twice.
                transact(connections, partial(write, self._add_storable))

    @override
    def is_blocked(self) -> bool:
        return self._database.opened.get().connections.hold() >= Hold.TRANSACTION

    @override
    def totals(self, by: Sequence[UsageField], usage_filter: UsageFilter) -> Mapping[tuple[str | int, ...], int]:
        columns = [self._counts.c[field.value] for field in by]
        totals: dict[tuple[str | int, ...], int] = {}
        with self._database.connect() as connection:
            for conditions in self._conditions(usage_filter):
                query = select(*columns, func.sum(self._counts.c["count"])).where(*conditions).group_by(*columns)
                for *values, total in connection.execute(query):
                    label = tuple(values)
                    totals[label] = totals.get(label, 0) + stored_count(total)
        return totals

    @override
    def endpoints(self, key_id: str, *, limit: int) -> AbstractSet[str]:
        columns = self._counts.c
        query = select(columns.endpoint).where(columns.key_id == key_id).distinct().limit(limit)
        with self._database.connect() as connection:
            return set(connection.scalars(query))

    @override
    def last_uses(self, key_ids: Sequence[str]) -> list[LastUse]:
        table = self._tables.last_uses
        found: list[LastUse] = []
        with self._database.connect() as connection:
            for some in _chunks(key_ids):
                query = select(table).where(table.c.key_id.in_(some))
                found += map(from_last_use_row, connection.execute(query))
        return found

    @override
    @unlimited()
    def fold(self, *, before: int) -> int:
        folded = 0
        while labels := self._first_labels(HOUR, before // DAY * DAY):
            folded += self._database.transact(partial(self._fold_rows, labels))
        self._forget_writers(before)
        return folded

    @override
    @unlimited()
    def prune(self, *, before: int) -> int:
        removed = 0
        for span in (HOUR, DAY):
            while labels := self._first_labels(span, before - span + 1):
                removed += self._database.transact(partial(self._remove_rows, labels))
        self._forget_writers(before)
        return removed

    @override
    @unlimited()
    def fold_last_uses(self) -> None:
        for folded in self._superseded():
            self._database.transact(partial(self._fold_last_uses, folded))

    @override
    def rows(self, *, after: UsageLabel | None, limit: int) -> list[UsageRow]:
        found: list[UsageRow] = []
        with self._database.connect() as connection:
            for condition in _behind(self._counts.c, after):
                query = select(self._counts).where(condition).order_by(*self._counts.primary_key)
                found += map(from_usage_row, connection.execute(query.limit(limit - len(found))))
                if len(found) == limit:
                    break
        return found

    @override
    def put(self, rows: Sequence[UsageRow], last_uses: Sequence[LastUse]) -> None:

        def write(connection: Connection) -> None:
            if rows:
                self._remove_rows([row.label for row in rows], connection)
                connection.execute(self._counts.insert(), [to_usage_row(row) for row in rows])
            self._upserts.store_uses(connection, [to_last_use_row(use) for use in last_uses])

        self._database.transact(write)

    def _add(self, connection: Connection, rows: Sequence[UsageRow]) -> None:
        self._upserts.add(connection, [to_usage_row(row) for row in rows])

    def _add_storable(self, connection: Connection, rows: Sequence[UsageRow]) -> None:
        """Add rows under labels that the database can store."""
        refused = self._add_some(connection, rows)
        for keeps_owner in (True, False):
            refused = self._add_some(connection, storable(refused, keeps_owner=keeps_owner))
        if refused:
            raise StorageError(f"the database cannot store a count of key {refused[0].label.key_id!r:.60}")

    def _add_some(self, connection: Connection, rows: Sequence[UsageRow]) -> list[UsageRow]:
        """Add the rows that the database can store, and return the others."""
        try:
            with connection.begin_nested():
                self._add(connection, rows)
        except Exception as exc:
            if not is_refused_as_data(exc):
                raise
            if len(rows) == 1:
                return list(rows)
            half = len(rows) // 2
            return [*self._add_some(connection, rows[:half]), *self._add_some(connection, rows[half:])]
        return []

    def _number(self, connection: Connection, batch: UsageBatch) -> None:
        """Store the number of a batch. Raises IntegrityError if it is stored already."""
        numbered = {
            "writer": batch.writer,
            "number": batch.number,
            "written_at": to_microseconds(batch.written_at),
        }
        if batch.number > 1:
            given = {f"given_{name}": value for name, value in numbered.items()}
            if connection.execute(self._next_batch, given).rowcount:
                return
        connection.execute(self._first_batch, numbered)

    def _has(self, batch: UsageBatch) -> bool:
        columns = self._tables.writers.c
        with self._database.connect() as connection:
            number = connection.scalar(select(columns.number).where(columns.writer == batch.writer))
        return number is not None and number >= batch.number

    def _conditions(self, usage_filter: UsageFilter) -> Iterator[list[ColumnElement[bool]]]:
        columns = self._counts.c
        if usage_filter.outcome is UsageOutcome.ACCEPTED:
            conditions = [columns.reason == ""]
        else:
            passed = usage_filter.outcome is UsageOutcome.WOULD_REFUSE
            conditions = [columns.reason != "", columns.status != "" if passed else columns.status == ""]
        if usage_filter.since is not None:
            conditions.append(columns.hour >= usage_filter.since)
        if usage_filter.until is not None:
            conditions.append(columns.hour < usage_filter.until)
        if usage_filter.owner is not None:
            conditions.append(columns.owner == usage_filter.owner)
        if usage_filter.key_ids is not None:
            for some in _chunks(usage_filter.key_ids):
                yield [columns.key_id.in_(some), *conditions]
        elif usage_filter.owner is not None:
            yield conditions
        else:
            # True for all rows. Lets the database use the index on span and hour.
            yield [columns.span.in_((HOUR, DAY)), *conditions]

    def _first_labels(self, span: int, before: int) -> list[UsageLabel]:
        """Return labels of the first day with rows of a span, in the order of `add`."""
        columns = self._counts.c
        first = select(func.min(columns.hour)).where(columns.span == span)
        with self._database.connect() as connection:
            hour: int | None = connection.scalar(first)
            if hour is None or hour >= before:
                return []
            end = min(hour // DAY * DAY + DAY, before)
            query = select(self._counts).where(columns.span == span, columns.hour >= hour, columns.hour < end)
            return sorted(from_usage_row(row).label for row in connection.execute(query.limit(_ROWS_OF_TRANSACTION)))

    def _fold_rows(self, labels: Sequence[UsageLabel], connection: Connection) -> int:
        columns = self._counts.c
        day = labels[0].hour // DAY * DAY
        # Counts added meanwhile create new rows, left to the next fold. Each row is locked by its label
        # and in the order of `add`, which prevents deadlocks and suits servers with safe updates.
        connection.execute(update(self._counts).where(*self._same_label).values(span=_FOLDING), _given(labels))
        query = select(self._counts).where(columns.span == _FOLDING, columns.hour >= day, columns.hour < day + DAY)
        claimed = list(map(from_usage_row, connection.execute(query)))
        daily: Counter[UsageLabel] = Counter()
        for row in claimed:
            daily[row.label._replace(hour=day, span=DAY)] += row.count
        self._add(connection, [UsageRow(label, daily[label]) for label in sorted(daily)])
        self._remove_rows([label._replace(span=_FOLDING) for label in labels], connection)
        return len(claimed)

    def _remove_rows(self, labels: Sequence[UsageLabel], connection: Connection) -> int:
        return connection.execute(delete(self._counts).where(*self._same_label), _given(labels)).rowcount

    def _fold_last_uses(self, folded: FoldedLastUses, connection: Connection) -> None:
        # In the order of `add`, which prevents deadlocks.
        for key_id, removed in groupby(folded.removed, key=lambda use: use.key_id):
            if key_id in folded.merged:
                self._upserts.store_uses(connection, [to_last_use_row(folded.merged[key_id])])
            self._remove_last_uses(connection, removed)

    def _superseded(self) -> Iterator[FoldedLastUses]:
        after = ("", PREVIOUS_SECRET)
        while rows := self._superseded_page(after):
            present = {row.key_id: row.present for row in rows if row.present is not None}
            yield folded_last_uses([from_last_use_row(row[:-1]) for row in rows], present)
            after = (rows[-1].key_id, rows[-1].secret)

    def _superseded_page(self, after: tuple[str, int]) -> list[Row[Any]]:
        keys, uses = self._keys, self._tables.last_uses
        present = func.coalesce(keys.c.rolled_at, keys.c.created_at).label("present")
        key_id, secret = uses.c.key_id, uses.c.secret
        query = (
            select(uses, present)
            .outerjoin(keys, and_(keys.c.id == key_id, keys.c.pruned_at == NOT_PRUNED))
            .where(key_id >= after[0], or_(key_id > after[0], secret > after[1]))
            .where(or_(keys.c.id.is_(None), and_(secret != PREVIOUS_SECRET, secret != present)))
            .order_by(key_id, secret)
            .limit(_PAGE)
        )
        with self._database.connect() as connection:
            return list(connection.execute(query))

    def _remove_last_uses(self, connection: Connection, removed: Iterable[LastUse]) -> None:
        uses = self._tables.last_uses
        given = [{f"given_{name}": value for name, value in to_last_use_row(use).items()} for use in removed]
        # A use stored since has a later moment, and stays.
        same = [uses.c[name] == bindparam(f"given_{name}") for name in ("key_id", "secret", "at")]
        connection.execute(delete(uses).where(*same), given)

    def _forget_writers(self, before: int) -> None:
        """Remove old writers. A writer that was disconnected for weeks is given up."""
        columns = self._tables.writers.c
        with self._database.connect() as connection:
            latest: int | None = connection.scalar(select(func.max(columns.written_at)))
            if latest is None:
                return
            end = min(before * _MICROSECONDS_PER_HOUR, latest - _WRITER_LIFETIME)
            old = list(connection.scalars(select(columns.writer).where(columns.written_at < end)))
        statement = delete(self._tables.writers).where(
            columns.writer == bindparam("given_writer"), columns.written_at < end
        )
        given = [{"given_writer": writer} for writer in sorted(old)]
        if given:
            self._database.transact(lambda connection: connection.execute(statement, given))


def _given(labels: Iterable[UsageLabel]) -> list[dict[str, Any]]:
    return [{f"given_{name}": value for name, value in label._asdict().items()} for label in labels]


def _behind(columns: Any, after: UsageLabel | None) -> Iterator[ColumnElement[bool]]:
    """Yield conditions for the rows after a label, each one range of the primary key."""
    if after is None:
        yield true()
        return
    names = list(after._fields)
    for length in range(len(names), 0, -1):
        *same, later = names[:length]
        yield and_(*(columns[name] == getattr(after, name) for name in same), columns[later] > getattr(after, later))


def _chunks(key_ids: Iterable[str]) -> Iterator[list[str]]:
    """Split distinct ids into chunks that fit into a statement of any database."""
    distinct = iter(dict.fromkeys(key_ids))
    while some := list(islice(distinct, _MAX_PARAMETERS)):
        yield some
