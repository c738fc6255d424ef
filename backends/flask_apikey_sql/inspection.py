"""What the database has of our tables."""

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, Table, inspect


def missing_parts(connection: Connection, tables: Iterable[Table]) -> Iterator[str]:
    """Tables, columns and indexes that are defined and not there."""
    inspector = inspect(connection)
    for table in tables:
        if not inspector.has_table(table.name, schema=table.schema):
            yield f"table {table.name}"
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name, schema=table.schema)}
        yield from (f"column {table.name}.{each.name}" for each in table.columns if each.name not in columns)
        indexes = {index["name"] for index in inspector.get_indexes(table.name, schema=table.schema)}
        yield from sorted(f"index {index.name}" for index in table.indexes if index.name not in indexes)
