"""Counts of requests, added in the database.

Every transaction begins with a write. SQLite then gives it the one write lock at
once, or lets it wait for it; one that has read before is refused when another
process has written since.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from itertools import groupby, islice
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    and_,
    bindparam,
    delete,
    func,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.exc import IntegrityError

from flask_apikey.core.model.usage import (
    DAY,
    HOUR,
    LastUse,
    UsageBatch,
    UsageField,
    UsageFilter,
    UsageLabel,
    UsageRow,
)
from flask_apikey.core.times import to_microseconds
from flask_apikey.core.usage.last_use import Folding
from flask_apikey_sql.last_uses import remove, superseded
from flask_apikey_sql.transactions import transact
from flask_apikey_sql.upserts import upserts_for
from flask_apikey_sql.usage_tables import (
    UsageTables,
    from_last_use_row,
    from_usage_row,
    to_last_use_row,
    to_usage_row,
)

_MOST_PARAMETERS = 500
_MICROSECONDS_PER_HOUR = 3600 * 1_000_000
_WRITER_LIFETIME = 30 * DAY * _MICROSECONDS_PER_HOUR
_FOLDING = -1
"""The span of the rows of an hour while a transaction folds them."""


class Usage:
    """The counts in one database.

    Args:
        engine: Where it is.
        tables: Its tables of usage.
        keys: Its table of keys.

    Every method raises what SQLAlchemy and the driver raise.
    """

    def __init__(self, engine: Engine, tables: UsageTables, keys: Table) -> None:
        self._engine = engine
        self._tables = tables
        self._keys = keys
        self._rows = tables.usage
        self._upserts = upserts_for(engine.dialect.name, tables)
        writers = tables.writers
        number: ColumnElement[int] = bindparam("given_number")
        self._next_batch = (
            update(writers)
            .where(writers.c.writer == bindparam("given_writer"), writers.c.number < number)
            .values(number=number, written_at=bindparam("given_written_at"))
        )
        self._first_batch = writers.insert()

    def add(self, batch: UsageBatch) -> None:
        """See `KeepsUsage.add_usage`."""
        # In the same order everywhere, so that no two transactions wait for each other.
        rows = [to_usage_row(row) for row in sorted(batch.rows, key=_label)]
        uses = [to_last_use_row(use) for use in sorted(batch.last_uses, key=_secret)]

        def write(connection: Connection) -> None:
            self._number(connection, batch)
            self._upserts.add(connection, rows)
            self._upserts.note(connection, uses)

        try:
            transact(self._engine, write)
        except IntegrityError:
            # Whatever else somebody demands of a row is refused with the same error.
            if not self._has(batch):
                raise

    def totals(self, by: Sequence[UsageField], usage_filter: UsageFilter) -> Mapping[tuple[str | int, ...], int]:
        """See `KeepsUsage.usage_totals`."""
        columns = [self._rows.c[field.value] for field in by]
        totals: dict[tuple[str | int, ...], int] = {}
        with self._engine.connect() as connection:
            for conditions in self._conditions(usage_filter):
                query = select(*columns, func.sum(self._rows.c["count"])).where(*conditions).group_by(*columns)
                for *values, total in connection.execute(query):
                    label = tuple(values)
                    totals[label] = totals.get(label, 0) + int(total)
        return totals

    def endpoints(self, key_id: str, limit: int) -> AbstractSet[str]:
        """See `KeepsUsage.usage_endpoints`."""
        columns = self._rows.c
        query = select(columns.endpoint).where(columns.key_id == key_id).distinct().limit(limit)
        with self._engine.connect() as connection:
            return set(connection.scalars(query))

    def last_uses(self, key_ids: Sequence[str]) -> list[LastUse]:
        """See `KeepsUsage.last_uses`."""
        table = self._tables.last_uses
        found: list[LastUse] = []
        with self._engine.connect() as connection:
            for some in _in_parts(key_ids):
                query = select(table).where(table.c.key_id.in_(some))
                found += map(from_last_use_row, connection.execute(query))
        return found

    def fold(self, before: int) -> int:
        """See `KeepsUsage.fold_usage`: a day is one transaction."""
        end = before // DAY * DAY
        folded = 0
        while (hour := self._first_hour(HOUR)) is not None and hour < end:
            folded += self._fold_day(hour // DAY * DAY)
        self._forget_writers(before)
        return folded

    def prune(self, before: int) -> int:
        """See `KeepsUsage.prune_usage`: a day is one transaction."""
        removed = 0
        for span in (HOUR, DAY):
            end = before - span + 1
            while (hour := self._first_hour(span)) is not None and hour < end:
                removed += self._remove(span, hour, min(hour + DAY, end))
        self._forget_writers(before)
        return removed

    def fold_last_uses(self) -> None:
        """See `KeepsUsage.fold_last_uses`."""
        for folding in superseded(self._engine, self._tables.last_uses, self._keys):
            transact(self._engine, partial(self._fold_last_uses, folding))

    def page(self, after: UsageLabel | None, limit: int) -> list[UsageRow]:
        """See `KeepsUsage.usage_rows`."""
        found: list[UsageRow] = []
        with self._engine.connect() as connection:
            for condition in _behind(self._rows.c, after):
                query = select(self._rows).where(condition).order_by(*self._rows.primary_key)
                found += map(from_usage_row, connection.execute(query.limit(limit - len(found))))
                if len(found) == limit:
                    break
        return found

    def merge(self, rows: Sequence[UsageRow], last_uses: Sequence[LastUse]) -> int:
        """See `KeepsUsage.merge_usage`."""
        stored = self._stored(rows) if rows else {}
        larger = [row for row in sorted(rows, key=_label) if row.count > stored.get(row.label, 0)]

        def write(connection: Connection) -> None:
            self._upserts.raise_to(connection, [to_usage_row(row) for row in larger])
            self._upserts.note(connection, [to_last_use_row(use) for use in sorted(last_uses, key=_secret)])

        transact(self._engine, write)
        return len(larger)

    def _number(self, connection: Connection, batch: UsageBatch) -> None:
        """Note the number of a batch; an IntegrityError if it is noted already."""
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
        with self._engine.connect() as connection:
            number = connection.scalar(select(columns.number).where(columns.writer == batch.writer))
        return number is not None and number >= batch.number

    def _conditions(self, usage_filter: UsageFilter) -> Iterator[list[ColumnElement[bool]]]:
        columns = self._rows.c
        conditions = [columns.reason != "" if usage_filter.refused else columns.reason == ""]
        if usage_filter.since is not None:
            conditions.append(columns.hour >= usage_filter.since)
        if usage_filter.until is not None:
            conditions.append(columns.hour < usage_filter.until)
        if usage_filter.key_ids is None:
            # True of all rows, and what the index of the hours needs.
            yield [columns.span.in_((HOUR, DAY)), *conditions]
        else:
            for some in _in_parts(usage_filter.key_ids):
                yield [columns.key_id.in_(some), *conditions]

    def _stored(self, rows: Sequence[UsageRow]) -> dict[UsageLabel, int]:
        columns = self._rows.c
        hours = [row.label.hour for row in rows]
        stored: dict[UsageLabel, int] = {}
        with self._engine.connect() as connection:
            for some in _in_parts(row.label.key_id for row in rows):
                query = select(self._rows).where(
                    columns.key_id.in_(some), columns.hour >= min(hours), columns.hour <= max(hours)
                )
                found = map(from_usage_row, connection.execute(query))
                stored.update((row.label, row.count) for row in found)
        return stored

    def _first_hour(self, span: int) -> int | None:
        columns = self._rows.c
        with self._engine.connect() as connection:
            hour: int | None = connection.scalar(select(func.min(columns.hour)).where(columns.span == span))
        return hour

    def _fold_day(self, day: int) -> int:
        columns, hours = self._rows.c, self._rows.alias("hours")
        in_day = and_(columns.hour >= day, columns.hour < day + DAY)
        label = [hours.c.key_id, hours.c.endpoint, hours.c.method, hours.c.status, hours.c.reason]
        key_id, *others = label
        query = (
            select(key_id, literal(day), *others, literal(DAY), func.sum(hours.c["count"]))
            .where(hours.c.span == _FOLDING, hours.c.hour >= day, hours.c.hour < day + DAY)
            .group_by(*label)
        )

        def fold(connection: Connection) -> int:
            # Whoever counts in these hours meanwhile makes new rows, which the next fold takes.
            claim = update(self._rows).where(columns.span == HOUR, in_day).values(span=_FOLDING)
            claimed = connection.execute(claim).rowcount
            self._upserts.add_selected(connection, query)
            connection.execute(delete(self._rows).where(columns.span == _FOLDING, in_day))
            return claimed

        return transact(self._engine, fold)

    def _remove(self, span: int, since: int, until: int) -> int:
        columns = self._rows.c
        statement = delete(self._rows).where(columns.span == span, columns.hour >= since, columns.hour < until)
        return transact(self._engine, lambda connection: connection.execute(statement).rowcount)

    def _fold_last_uses(self, folding: Folding, connection: Connection) -> None:
        # Key by key, in the order in which batches write them.
        for key_id, removed in groupby(folding.removed, key=lambda use: use.key_id):
            if key_id in folding.noted:
                self._upserts.note(connection, [to_last_use_row(folding.noted[key_id])])
            remove(connection, self._tables.last_uses, removed)

    def _forget_writers(self, before: int) -> None:
        """Remove writers that are gone; one that was cut off from the database for weeks is given up."""
        written_at = self._tables.writers.c.written_at
        with self._engine.connect() as connection:
            latest: int | None = connection.scalar(select(func.max(written_at)))
        if latest is not None:
            end = min(before * _MICROSECONDS_PER_HOUR, latest - _WRITER_LIFETIME)
            transact(
                self._engine,
                lambda connection: connection.execute(delete(self._tables.writers).where(written_at < end)),
            )


def _behind(columns: Any, after: UsageLabel | None) -> Iterator[ColumnElement[bool]]:
    """The rows behind a label, in parts that each are one range of the primary key."""
    if after is None:
        yield true()
        return
    names = list(after._fields)
    for length in range(len(names), 0, -1):
        *same, later = names[:length]
        yield and_(*(columns[name] == getattr(after, name) for name in same), columns[later] > getattr(after, later))


def _in_parts(key_ids: Iterable[str]) -> Iterator[list[str]]:
    """The ids, each once, as many at a time as every database takes in a statement."""
    distinct = iter(dict.fromkeys(key_ids))
    while some := list(islice(distinct, _MOST_PARAMETERS)):
        yield some


def _label(row: UsageRow) -> UsageLabel:
    return row.label


def _secret(use: LastUse) -> tuple[str, int]:
    return use.key_id, use.secret
