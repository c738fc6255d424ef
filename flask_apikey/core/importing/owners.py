"""Inactive users of the other system, whose keys are suspended."""

import csv
from typing import BinaryIO

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.importing.dumpdata import DumpError, objects_of
from flask_apikey.core.importing.lines import LineError, Lines
from flask_apikey.core.importing.values import parse_boolean

_EXPECTED = "expected CSV with the columns id and is_active, or a dump of Django"


class UsersError(InvalidValue):
    """The users cannot be read. The message shows no value."""


def is_dump(file: BinaryIO) -> bool:
    """Return True if a file, at its start, is a dump of Django."""
    start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    return start.startswith(b"[")


def inactive_users(file: BinaryIO) -> frozenset[str] | None:
    """Return the ids of the inactive users in CSV or in a dump of Django. Only these are kept in memory.

    Returns:
        None if a dump has no users.

    Raises:
        UsersError: The file is malformed.
    """
    try:
        return _in_dump(file) if is_dump(file) else _in_csv(file)
    except (DumpError, LineError, csv.Error, ValueError) as exc:
        reason = exc if isinstance(exc, DumpError | LineError) else _EXPECTED
        raise UsersError(f"the users cannot be read: {reason}") from None


def _in_dump(file: BinaryIO) -> frozenset[str] | None:
    inactive, has_users = set(), False
    for each, _ in objects_of(file):
        if each.model.endswith("user") and "is_active" in each.fields:
            has_users = True
            if not parse_boolean(each.fields["is_active"]):
                inactive.add(str(each.pk))
    return frozenset(inactive) if has_users else None


def _in_csv(file: BinaryIO) -> frozenset[str]:
    reader = csv.DictReader(Lines(file), strict=True)
    if not {"id", "is_active"} <= set(reader.fieldnames or ()):
        raise ValueError
    # A field that is missing is no value, which would mean False.
    return frozenset(row["id"] for row in reader if not parse_boolean(row["is_active"] or ""))
