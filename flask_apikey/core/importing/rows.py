"""Rows of a file in CSV or JSON lines."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, BinaryIO

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.importing.columns import Columns, ColumnsError
from flask_apikey.core.importing.dumpdata import DumpedObject, DumpError, objects_of
from flask_apikey.core.importing.lines import LineError, Lines
from flask_apikey.core.importing.values import Narrowed, unique_members

_DELIMITERS = ",;\t"


class FileError(InvalidValue):
    """The rest of a file cannot be read safely: values could be taken for rows."""


@dataclass(frozen=True, slots=True)
class RowError:
    """A row that cannot be imported.

    Attributes:
        line: Number of its first line.
        column: The column; None for the row as a whole.
        reason: Description, without values.
    """

    line: int
    column: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row.

    Attributes:
        line: Number of its first line.
        arguments: Parsed values, by argument. Missing columns are left out.
        notes: Columns whose values were narrowed, and the differences.
    """

    line: int
    arguments: dict[str, Any] = field(repr=False)
    notes: tuple[tuple[str, str], ...] = ()


def rows_of(file: BinaryIO, columns: Columns) -> Iterator[tuple[Row | RowError, int]]:
    """Iterate over the rows of a file, each with the number of bytes read so far.

    A first line that begins with ``{`` means JSON lines, one with ``[`` a dump of Django, anything else CSV
    with a header.

    Raises:
        ColumnsError: The header of a CSV file does not fit.
        FileError: A file in CSV, or a dump, is malformed, so that the borders of its rows are uncertain.
    """
    lines = Lines(file)
    try:
        first = next(lines, "")
    except LineError as exc:
        raise FileError(f"line 1: {exc}") from None
    if first.lstrip().startswith("["):
        yield from _dumped_rows(file, columns)
        return
    rows = _json_rows if first.lstrip().startswith("{") else _csv_rows
    for row in rows(first, lines, columns):
        yield row, lines.position


def _csv_rows(first: str, lines: Lines, columns: Columns) -> Iterator[Row | RowError]:
    reader = csv.reader(chain([first], lines), delimiter=max(_DELIMITERS, key=first.count), strict=True)
    arguments: list[str | None] | None = None
    names: list[str] = []
    line = 1
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (csv.Error, LineError) as exc:
            reason = exc if isinstance(exc, LineError) else "malformed CSV, such as a quote that is not closed"
            raise FileError(f"line {line}: {reason}") from None
        if arguments is None:
            names = [name.strip() for name in fields]
            arguments = columns.arguments_of_header(names)
        elif len(fields) != len(names):
            if fields:
                yield RowError(line, None, f"{len(fields)} fields, but the header has {len(names)}")
        else:
            yield _parsed(line, zip(names, arguments, fields, strict=True), columns)
        line = lines.number + 1


def _json_rows(first: str, lines: Lines, columns: Columns) -> Iterator[Row | RowError]:
    text: str | None = first
    while text is not None:
        if text.strip():
            yield _json_row(lines.number, text, columns)
        text = None
        while text is None:
            try:
                text = next(lines)
            except StopIteration:
                return
            except LineError as exc:
                yield RowError(lines.number, None, str(exc))


def _json_row(line: int, text: str, columns: Columns) -> Row | RowError:
    try:
        members = json.loads(text, object_pairs_hook=unique_members)
    except (ValueError, RecursionError):
        return RowError(line, None, "not a JSON object on one line, with each member once")
    if not isinstance(members, dict):
        return RowError(line, None, "not a JSON object")
    try:
        arguments = columns.arguments(list(members))
    except ColumnsError as exc:
        return RowError(line, None, str(exc))
    return _parsed(line, zip(members, arguments, members.values(), strict=True), columns)


def _dumped_rows(file: BinaryIO, columns: Columns) -> Iterator[tuple[Row | RowError, int]]:
    if not columns.table.models:
        raise FileError("line 1: expected CSV with a header, or JSON lines")
    file.seek(0)
    try:
        for each, position in objects_of(file):
            if each.model in columns.table.models:
                yield _dumped_row(each, columns), position
    except DumpError as exc:
        raise FileError(str(exc)) from None


def _dumped_row(dumped: DumpedObject, columns: Columns) -> Row | RowError:
    table = columns.table
    members = {"id": dumped.pk}
    for name, value in dumped.fields.items():
        # As in a column, where the text of a text has quotes.
        is_json = name in table.json_columns and isinstance(value, str)
        members[table.of_dumps.get(name, name)] = json.dumps(value) if is_json else value
    try:
        arguments = columns.arguments(list(members))
    except ColumnsError as exc:
        return RowError(dumped.line, None, str(exc))
    return _parsed(dumped.line, zip(members, arguments, members.values(), strict=True), columns)


def _parsed(line: int, values: Iterator[tuple[str, str | None, object]], columns: Columns) -> Row | RowError:
    parsed: dict[str, Any] = {}
    notes = []
    for column, argument, value in values:
        if argument is not None:
            try:
                result = columns.table.parsers[argument](None if value == "" else value)
            except ValueError as exc:
                return RowError(line, column, str(exc))
            if isinstance(result, Narrowed):
                notes.append((column, result.note))
                result = result.value
            parsed[argument] = result
    return Row(line, parsed, tuple(notes))
