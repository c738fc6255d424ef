"""Objects in the JSON that ``manage.py dumpdata`` of Django writes, read in constant memory."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

from flask_apikey.core.importing.lines import MAX_LINE
from flask_apikey.core.importing.values import unique_members

_CHUNK = 65_536
_BETWEEN = " \t\r\n,"


class DumpError(ValueError):
    """The file is malformed. The message does not show its text."""


class DumpedObject(NamedTuple):
    """An object.

    Attributes:
        line: Number of its first line.
        model: Label of its model, such as ``"auth.user"``.
        pk: Its primary key.
        fields: Its fields.
    """

    line: int
    model: str
    pk: object
    fields: dict[str, Any]


def objects_of(file: BinaryIO) -> Iterator[tuple[DumpedObject, int]]:
    """Iterate over the objects of a JSON array, each with the number of bytes read so far.

    Raises:
        DumpError: The file is no such array.
    """
    decoder = json.JSONDecoder(object_pairs_hook=unique_members)
    source = codecs.getincrementaldecoder("utf-8-sig")()
    text, start, line, position, is_open = "", 0, 1, 0, False
    while True:
        chunk = file.read(_CHUNK)
        position += len(chunk)
        try:
            text = text[start:] + source.decode(chunk, final=not chunk)
        except UnicodeDecodeError:
            raise DumpError(f"line {line} or later: not UTF-8") from None
        start = 0
        if not is_open:
            text = text.lstrip()
            if text[:1] not in ("", "["):
                raise DumpError("expected a JSON array")
            is_open = bool(text)
            start = int(is_open)
        while True:
            begin = start
            while begin < len(text) and text[begin] in _BETWEEN:
                begin += 1
            line += text.count("\n", start, begin)
            start = begin
            if text[start : start + 1] == "]":
                return
            try:
                document, end = decoder.raw_decode(text, start)
            except (ValueError, RecursionError):
                break
            yield _checked(document, line), position
            line += text.count("\n", start, end)
            start = end
        if not chunk or len(text) - start > MAX_LINE:
            raise DumpError(f"line {line}: expected a JSON object of at most {MAX_LINE:,} bytes, and ']' at the end")


def _checked(document: object, line: int) -> DumpedObject:
    if isinstance(document, dict):
        model, fields = document.get("model"), document.get("fields")
        if isinstance(model, str) and isinstance(fields, dict):
            return DumpedObject(line, model.lower(), document.get("pk"), fields)
    raise DumpError(f"line {line}: expected an object with model, pk and fields")
