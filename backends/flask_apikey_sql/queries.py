"""Queries on the table of keys."""

import re
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Select, Table, and_, collate, func, literal, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.storage.search import name_pattern
from flask_apikey.core.times import to_microseconds
from flask_apikey_sql.tables import NOT_PRUNED

Position = tuple[int, str]
"""The stored ``created_at`` and ``id`` of a row."""


def listing(
    table: Table, key_filter: KeyFilter, *, after: Position | None, limit: int, newest_first: bool
) -> Select[tuple[object, ...]]:
    """Build the query for the next rows that match a filter."""
    columns = table.c
    position = (columns.created_at, columns.id)
    return (
        select(table)
        .where(*_conditions(table, key_filter), *_behind(table, after, newest_first=newest_first))
        .order_by(*(column.desc() if newest_first else column for column in position))
        .limit(limit)
    )


def scanning(table: Table, key_filter: KeyFilter, *, after: str, limit: int) -> Select[tuple[object, ...]]:
    """Build the query for the next rows that match a filter, by id."""
    column: ColumnElement[str] = _WithoutIndex(table.c.id) if _is_narrow(key_filter) else table.c.id
    return select(table).where(*_conditions(table, key_filter), column > after).order_by(column).limit(limit)


def number(table: Table, key_filter: KeyFilter) -> Select[Any]:
    """Build the query for the number of rows that match a filter."""
    return select(func.count()).select_from(table).where(*_conditions(table, key_filter))


class _WithoutIndex(FunctionElement[Any]):
    """A column of which the database must use no index for a condition.

    SQLite takes any equality for more selective than a range. MariaDB looks up NULLs,
    which most rows have.
    """

    inherit_cache = True
    name = "without_index"

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_WithoutIndex)
def _plain(element: _WithoutIndex, compiler: SQLCompiler, **options: Any) -> str:
    # PostgreSQL has statistics of the column.
    return compiler.process(element.clauses, **options)


@compiles(_WithoutIndex, "sqlite")
def _unary_plus(element: _WithoutIndex, compiler: SQLCompiler, **options: Any) -> str:
    # https://www.sqlite.org/optoverview.html#disqualifying_where_clause_terms_using_unary_
    return f"+{compiler.process(element.clauses, **options)}"


@compiles(_WithoutIndex, "mysql")
@compiles(_WithoutIndex, "mariadb")
def _function(element: _WithoutIndex, compiler: SQLCompiler, **options: Any) -> str:
    return f"COALESCE({compiler.process(element.clauses, **options)})"


def _is_narrow(key_filter: KeyFilter) -> bool:
    """Return True if another index than that of all keys serves a filter."""
    is_by_end = key_filter.expires_by is not None or key_filter.ended_by is not None
    is_by_mark = key_filter.revoked or key_filter.suspended or key_filter.adopted
    return key_filter.owner is None and bool(is_by_mark or is_by_end)


def _conditions(table: Table, key_filter: KeyFilter) -> list[ColumnElement[bool]]:
    columns = table.c
    conditions: list[ColumnElement[bool]] = []
    if key_filter.owner is not None:
        conditions.append(columns.owner == key_filter.owner)
    if key_filter.revoked is not None:
        conditions.append(_is_set(columns.revoked_at, wanted=key_filter.revoked))
    if key_filter.suspended is not None:
        conditions.append(_is_set(columns.suspended_at, wanted=key_filter.suspended))
    if key_filter.adopted is not None:
        conditions.append(_is_set(columns.adopted, wanted=key_filter.adopted))
    conditions += _conditions_on_ends(table, key_filter)
    if key_filter.created_before is not None:
        conditions.append(columns.created_at < to_microseconds(key_filter.created_before))
    if key_filter.not_sealed_by is not None:
        conditions.append(columns.sealed_by != key_filter.not_sealed_by)
    if key_filter.pruned is not None:
        pruned_at = _WithoutIndex(columns.pruned_at) if _is_narrow(key_filter) else columns.pruned_at
        conditions.append(pruned_at != NOT_PRUNED if key_filter.pruned else pruned_at == NOT_PRUNED)
    if key_filter.ids is not None:
        conditions.append(columns.id.in_(sorted(key_filter.ids)))
    if key_filter.search is not None:
        conditions.append(_found(table, key_filter.search))
    return conditions


def _is_set(column: ColumnElement[Any], *, wanted: bool) -> ColumnElement[bool]:
    return column.is_not(None) if wanted else _WithoutIndex(column).is_(None)


def _conditions_on_ends(table: Table, key_filter: KeyFilter) -> list[ColumnElement[bool]]:
    columns = table.c
    conditions: list[ColumnElement[bool]] = []
    if key_filter.expires_after is not None:
        moment = to_microseconds(key_filter.expires_after)
        if key_filter.expires_by is None:
            expires_at = _WithoutIndex(columns.expires_at)
            conditions.append(or_(expires_at.is_(None), expires_at > moment))
        else:
            # Without OR, which would hide the range from the index.
            conditions.append(columns.expires_at > moment)
    if key_filter.expires_by is not None:
        conditions.append(columns.expires_at <= to_microseconds(key_filter.expires_by))
    if key_filter.ended_by is not None:
        moment = to_microseconds(key_filter.ended_by)
        conditions.append(or_(columns.revoked_at <= moment, columns.expires_at <= moment))
    return conditions


def _found(table: Table, text: str) -> ColumnElement[bool]:
    columns = table.c
    # Not LIKE: its wildcards need escapes, and SQLite ignores case in it.
    found = [func.substr(column, 1, len(text)) == text for column in (columns.id, columns.owner)]
    # SQLite passes a damaged value to the regular expression as bytes unless it is concatenated.
    in_name = (columns.name + "").regexp_match(name_pattern(text))
    in_scopes = [(columns.scopes + "").regexp_match(f"(^| ){re.escape(text)}")] if " " not in text else []
    return _OnPostgreSQL(or_(*found, in_name, *in_scopes), _found_by_like(table, text, in_name))


def _found_by_like(table: Table, text: str, in_name: ColumnElement[bool]) -> ColumnElement[bool]:
    """Build the condition with LIKE, for which PostgreSQL has better estimates and faster code."""
    columns = table.c
    escaped = re.sub(r"([\\%_])", r"\\\1", text)
    found: list[ColumnElement[bool]] = [column.like(f"{escaped}%") for column in (columns.id, columns.owner)]
    # This collation changes the case of ASCII letters only.
    found.append(func.upper(collate(columns.name, "C")).like(f"%{escaped.upper()}%") if text.isascii() else in_name)
    if " " not in text:
        found.append((literal(" ") + columns.scopes).like(f"% {escaped}%"))
    return or_(*found)


class _OnPostgreSQL(FunctionElement[bool]):
    """A condition, and one with the same result for PostgreSQL."""

    inherit_cache = True
    name = "on_postgresql"

    def __init__(self, portable: ColumnElement[bool], postgresql: ColumnElement[bool]) -> None:
        super().__init__(portable.self_group(), postgresql.self_group())
        self.type = Boolean()


@compiles(_OnPostgreSQL)
def _portable(element: _OnPostgreSQL, compiler: SQLCompiler, **options: Any) -> str:
    portable, _ = element.clauses
    return f"({compiler.process(portable, **options)})"


@compiles(_OnPostgreSQL, "postgresql")
def _postgresql(element: _OnPostgreSQL, compiler: SQLCompiler, **options: Any) -> str:
    _, postgresql = element.clauses
    return f"({compiler.process(postgresql, **options)})"


def _behind(table: Table, position: Position | None, *, newest_first: bool) -> list[ColumnElement[bool]]:
    if position is None:
        return []
    created_at, key_id = position
    columns = table.c
    # The second condition implies the first one, which lets the database use the index.
    if newest_first:
        return [
            columns.created_at <= created_at,
            or_(columns.created_at < created_at, and_(columns.created_at == created_at, columns.id < key_id)),
        ]
    return [
        columns.created_at >= created_at,
        or_(columns.created_at > created_at, and_(columns.created_at == created_at, columns.id > key_id)),
    ]
