"""Upserts of counts and last uses, for each SQL dialect."""

from collections.abc import Callable, Mapping, Sequence
from itertools import count as numbers
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Insert, Table, Update, bindparam, case, func
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from flask_apikey_sql.usage_tables import UsageTables

Rows = Sequence[Mapping[str, Any]]
Write = Callable[[Connection, Rows], None]

_GIVEN = "given_"
_MAX_ATTEMPTS = 20


class Upserts(NamedTuple):
    """The upserts of one dialect.

    Attributes:
        add: Adds counts to the stored ones.
        store_uses: Replaces earlier last uses.
    """

    add: Write
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
    last = insert(uses)

    def add(counts: sqlite.Insert | postgresql.Insert) -> Insert:
        added = {"count": usage.c["count"] + counts.excluded["count"]}
        return counts.on_conflict_do_update(index_elements=usage.primary_key, set_=added)

    return Upserts(
        add=_many(add(insert(usage))),
        store_uses=_many(
            last.on_conflict_do_update(
                index_elements=uses.primary_key,
                set_={"at": last.excluded["at"], "address": last.excluded["address"]},
                where=last.excluded["at"] > uses.c["at"],
            )
        ),
    )


def _on_duplicate_key(tables: UsageTables) -> Upserts:
    usage, uses = tables.usage, tables.last_uses
    last = mysql.insert(uses)
    at = last.inserted["at"]

    def add(counts: mysql.Insert) -> mysql.Insert:
        return counts.on_duplicate_key_update(count=usage.c["count"] + counts.inserted["count"])

    return Upserts(
        add=_many(add(mysql.insert(usage))),
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
    at, given_at = uses.c["at"], bindparam(f"{_GIVEN}at", type_=BigInteger)
    add = _one_by_one(usage, usage.update().values(count=usage.c["count"] + bindparam(f"{_GIVEN}count")))

    return Upserts(
        add=add,
        store_uses=_one_by_one(
            uses,
            uses.update().values(
                address=case((given_at > at, bindparam(f"{_GIVEN}address")), else_=uses.c["address"]),
                at=case((given_at > at, given_at), else_=at),
            ),
        ),
    )


def _many(statement: Insert) -> Write:
    def write(connection: Connection, rows: Rows) -> None:
        if rows:
            connection.execute(statement, rows)

    return write


def _one_by_one(table: Table, update: Update) -> Write:
    update = update.where(*(column == bindparam(f"{_GIVEN}{column.name}") for column in table.primary_key))
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
