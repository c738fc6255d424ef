"""Creation of what the database lacks, and a check for it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any
from warnings import catch_warnings, simplefilter

from sqlalchemy import Column, Connection, Inspector, Table, inspect
from sqlalchemy.exc import DBAPIError, SAWarning
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.sql.compiler import DDLCompiler

from flask_apikey.core.errors import StorageError
from flask_apikey_sql.errors import exists_already


def create_missing(connection: Connection, tables: Sequence[Table]) -> None:
    """Create missing tables, indexes, and columns that may be empty.

    Raises:
        StorageError: A column is missing that a row must have.
    """
    existing = [table for table in tables if _exists(connection, table) or not _make(partial(table.create, connection))]
    missing = [column for table in existing for column in _missing_columns(connection, table)]
    for column in missing:
        if column.nullable:
            _make(partial(connection.execute, _AddColumn(column)))
    required = ", ".join(f"{column.table.name}.{column.name}" for column in missing if not column.nullable)
    if required:
        raise StorageError(
            f"the tables are of another version, and lack the columns {required}: add them with a migration, "
            "or use an empty database"
        )
    for table in existing:
        names = _names(connection, table, Inspector.get_indexes)
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.name not in names:
                _make(partial(index.create, connection))


def missing_parts(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """List tables, columns and indexes that the database lacks."""
    for table in tables:
        if not _exists(connection, table):
            yield f"table {table.name}"
            continue
        yield from (f"column {table.name}.{column.name}" for column in _missing_columns(connection, table))
        indexes = _names(connection, table, Inspector.get_indexes)
        yield from sorted(f"index {index.name}" for index in table.indexes if index.name not in indexes)


def _exists(connection: Connection, table: Table) -> bool:
    return inspect(connection).has_table(table.name, schema=_schema(connection, table))


def _missing_columns(connection: Connection, table: Table) -> list[Column[Any]]:
    names = _names(connection, table, Inspector.get_columns)
    return [column for column in table.columns if column.name not in names]


def _names(connection: Connection, table: Table, get: Callable[..., Any]) -> set[Any]:
    with catch_warnings():
        # SQLAlchemy warns of types and indexes that it cannot read, but only names are needed here. It cannot
        # read them where PostgreSQL has quote_all_identifiers on.
        simplefilter("ignore", SAWarning)
        return {each["name"] for each in get(inspect(connection), table.name, schema=_schema(connection, table))}


def _schema(connection: Connection, table: Table) -> str | None:
    # Inspectors ignore the connection's schema_translate_map.
    return connection.schema_for_object(table)


def _make(create: Callable[[], object]) -> bool:
    """Create a part of the database.

    Returns:
        False if it exists already. Two nodes of a cluster have no lock in common.
    """
    try:
        create()
    except DBAPIError as exc:
        if not exists_already(exc):
            raise
        return False
    return True


class _AddColumn(ExecutableDDLElement):
    """Adds a column to a table."""

    def __init__(self, column: Column[Any]) -> None:
        self.column = column


@compiles(_AddColumn)
def _add_column(element: _AddColumn, compiler: DDLCompiler, **_options: object) -> str:
    table = compiler.preparer.format_table(element.column.table)
    return f"ALTER TABLE {table} ADD COLUMN {compiler.get_column_specification(element.column)}"
