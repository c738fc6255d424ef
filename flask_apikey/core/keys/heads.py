"""Heads of histories, noted outside of the storage.

A note holds one JSON object a line, in the order of ids. It tells which keys there
were, which no table of the storage can prove.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import count

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.keystring import is_id

MAX_LINE = 1_000


@dataclass(frozen=True, slots=True)
class Head:
    """Latest event of a key, of a tombstone or of the storage itself.

    Attributes:
        id: Id of the row.
        version: Number of the event, which is the version of the row.
        hash: Hash of the event.
    """

    id: str
    version: int
    hash: str


def to_line(head: Head) -> str:
    """Return the line of a note for a head."""
    return json.dumps(asdict(head), separators=(",", ":")) + "\n"


def parse_heads(lines: Iterable[str]) -> Iterator[Head]:
    """Iterate over the heads of a note.

    Raises:
        InvalidValue: A line is not that of a head, or out of order. The message has its number.
    """
    last = ""
    for number, line in zip(count(1), lines):
        head = _parsed(line)
        if head is None:
            raise InvalidValue(f'line {number} is not a head, such as {{"id": …, "version": …, "hash": …}}')
        if head.id <= last:
            raise InvalidValue(f"line {number} is out of order: {head.id} comes after {last}")
        last = head.id
        yield head


def _parsed(line: str) -> Head | None:
    try:
        values = json.loads(line) if len(line) <= MAX_LINE else None
    except (RecursionError, ValueError):
        return None
    if not isinstance(values, dict) or values.keys() != {"id", "version", "hash"}:
        return None
    is_head = is_id(values["id"]) and isinstance(values["version"], int) and isinstance(values["hash"], str)
    return Head(**values) if is_head else None
