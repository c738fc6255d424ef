"""Creation of what the database lacks, and a check for it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Column, Connection, Table, inspect
from sqlalchemy.exc import DBAPIError
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
    for table in tables:
        with _unless_exists():
            table.create(connection, checkfirst=True)
        for column in _missing_columns(connection, table):
            if column.nullable:
                with _unless_exists():
                    connection.execute(_AddColumn(column))
    missing = [part.removeprefix("column ") for part in missing_parts(connection, tables) if part.startswith("column ")]
    if missing:
        raise StorageError(
            f"the tables are of another version, and lack the columns {', '.join(missing)}: add them with a migration, "
            "or use an empty database"
        )
    for table in tables:
        # Table.create() makes no index of a table that exists.
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            with _unless_exists():
                index.create(connection, checkfirst=True)


def missing_parts(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """List tables, columns and indexes that the database lacks."""
    inspector = inspect(connection)
    for table in tables:
        # Inspectors ignore the connection's schema_translate_map.
        schema = connection.schema_for_object(table)
        if not inspector.has_table(table.name, schema=schema):
            yield f"table {table.name}"
            continue
        yield from (f"column {table.name}.{column.name}" for column in _missing_columns(connection, table))
        indexes = {index["name"] for index in inspector.get_indexes(table.name, schema=schema)}
        yield from sorted(f"index {index.name}" for index in table.indexes if index.name not in indexes)


def _missing_columns(connection: Connection, table: Table) -> list[Column[Any]]:
    found = inspect(connection).get_columns(table.name, schema=connection.schema_for_object(table))
    names = {column["name"] for column in found}
    return [column for column in table.columns if column.name not in names]


@contextmanager
def _unless_exists() -> Iterator[None]:
    try:
        yield
    except DBAPIError as exc:
        # Two nodes of a cluster have no lock in common.
        if not exists_already(exc):
            raise


class _AddColumn(ExecutableDDLElement):
    """Adds a column to a table."""

    def __init__(self, column: Column[Any]) -> None:
        self.column = column


@compiles(_AddColumn)
def _add_column(element: _AddColumn, compiler: DDLCompiler, **_options: object) -> str:
    table = compiler.preparer.format_table(element.column.table)
    return f"ALTER TABLE {table} ADD COLUMN {compiler.get_column_specification(element.column)}"
