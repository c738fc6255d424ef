"""Upserts of counts and last uses, for each SQL dialect."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count as numbers
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Insert, Select, Table, Update, and_, bindparam, case, func
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from flask_apikey_sql.usage_tables import UsageTables

Rows = Sequence[Mapping[str, Any]]
Write = Callable[[Connection, Rows], None]
WriteSelected = Callable[[Connection, Select[Any]], None]

_GIVEN = "given_"
_MAX_ATTEMPTS = 20


class Upserts(NamedTuple):
    """The upserts of one dialect.

    Attributes:
        add: Adds counts to the stored ones.
        add_selected: Adds the counts that a query selects, with the columns in the order of the table.
        raise_to: Replaces smaller counts.
        store_uses: Replaces earlier last uses.
    """

    add: Write
    add_selected: WriteSelected
    raise_to: Write
    store_uses: Write


def upserts_for(dialect: str, tables: UsageTables) -> Upserts:
    """Build the upserts for a dialect."""
    match dialect:
        case "sqlite" | "postgresql":
            return _on_conflict(dialect, tables)
        case "mysql" | "mariadb":
            return _on_duplicate_key(tables)
        case _:
            return _update_else_insert(tables)


def _on_conflict(dialect: str, tables: UsageTables) -> Upserts:
    insert = sqlite.insert if dialect == "sqlite" else postgresql.insert
    usage, uses = tables.usage, tables.last_uses
    counts, last = insert(usage), insert(uses)
    count = usage.c["count"]
    given = counts.excluded["count"]

    def add_selected(connection: Connection, query: Select[Any]) -> None:
        counts = insert(usage).from_select(usage.columns.keys(), query)
        added = {"count": count + counts.excluded["count"]}
        connection.execute(counts.on_conflict_do_update(index_elements=usage.primary_key, set_=added))

    return Upserts(
        add=_many(counts.on_conflict_do_update(index_elements=usage.primary_key, set_={"count": count + given})),
        add_selected=add_selected,
        raise_to=_many(
            counts.on_conflict_do_update(index_elements=usage.primary_key, set_={"count": given}, where=given > count)
        ),
        store_uses=_many(
            last.on_conflict_do_update(
                index_elements=uses.primary_key,
                set_={"at": last.excluded["at"], "address": last.excluded["address"]},
                where=last.excluded["at"] > uses.c["at"],
            )
        ),
    )


def _on_duplicate_key(tables: UsageTables) -> Upserts:
    uses = tables.last_uses
    counts, last = mysql.insert(tables.usage), mysql.insert(uses)
    count = tables.usage.c["count"]
    given = counts.inserted["count"]
    at = last.inserted["at"]

    def add_selected(connection: Connection, query: Select[Any]) -> None:
        counts = mysql.insert(tables.usage).from_select(tables.usage.columns.keys(), query)
        connection.execute(counts.on_duplicate_key_update(count=count + counts.inserted["count"]))

    return Upserts(
        add=_many(counts.on_duplicate_key_update(count=count + given)),
        add_selected=add_selected,
        raise_to=_many(counts.on_duplicate_key_update(count=func.greatest(count, given))),
        # MySQL assigns in order: the address must be compared with the old time.
        store_uses=_many(
            last.on_duplicate_key_update(
                [
                    ("address", case((at > uses.c["at"], last.inserted["address"]), else_=uses.c["address"])),
                    ("at", func.greatest(uses.c["at"], at)),
                ]
            )
        ),
    )


def _update_else_insert(tables: UsageTables) -> Upserts:
    usage, uses = tables.usage, tables.last_uses
    count, at = usage.c["count"], uses.c["at"]
    given_count: ColumnElement[int] = bindparam(f"{_GIVEN}count")
    given_at: ColumnElement[int] = bindparam(f"{_GIVEN}at")
    add = _one_by_one(usage, usage.update().values(count=count + given_count))

    def add_selected(connection: Connection, query: Select[Any]) -> None:
        add(connection, [dict(zip(usage.columns.keys(), row, strict=True)) for row in connection.execute(query)])

    return Upserts(
        add=add,
        add_selected=add_selected,
        raise_to=_one_by_one(usage, usage.update().values(count=_greater(count, given_count))),
        store_uses=_one_by_one(
            uses,
            uses.update().values(
                address=case((given_at > at, bindparam(f"{_GIVEN}address")), else_=uses.c["address"]),
                at=_greater(at, given_at),
            ),
        ),
    )


def _greater(stored: ColumnElement[int], given: ColumnElement[int]) -> ColumnElement[int]:
    return case((given > stored, given), else_=stored)


def _many(statement: Insert) -> Write:
    def write(connection: Connection, rows: Rows) -> None:
        if rows:
            connection.execute(statement, rows)

    return write


def _one_by_one(table: Table, update: Update) -> Write:
    matching = [column == bindparam(f"{_GIVEN}{column.name}") for column in table.primary_key]
    update = update.where(and_(*matching))
    insert = table.insert()

    def write(connection: Connection, rows: Rows) -> None:
        for row in rows:
            given = {f"{_GIVEN}{name}": value for name, value in row.items()}
            for attempt in numbers(1):
                if connection.execute(update, given).rowcount:
                    break
                try:
                    with connection.begin_nested():
                        connection.execute(insert, row)
                    break
                except IntegrityError:
                    # Another transaction inserted the row. A third one may have removed it since.
                    if attempt == _MAX_ATTEMPTS:
                        raise

    return write
