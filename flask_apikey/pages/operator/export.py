"""Export of keys and events, streamed."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from flask import Response, abort, stream_with_context

from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.usage.last_use import KeyLastUse, with_last_uses
from flask_apikey.pages.blueprint import visit
from flask_apikey.pages.listing import Fetch
from flask_apikey.pages.operator.audit import chosen_events, events_after
from flask_apikey.pages.operator.keys import list_arguments, usage_storage_now

_PAGE = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_TYPES = {"csv": "text/csv", "json": "application/json"}


def export(content: str, form: str) -> Response:
    """Send keys or events as a file."""
    rows = _keys() if content == "keys" else _events()
    # The first row is read before the answer begins, so that an error gets its page.
    first = next(rows, None)
    remaining = rows if first is None else chain([first], rows)
    lines = _csv(remaining) if form == "csv" else _json(remaining)
    response = Response(stream_with_context(lines), content_type=f"{_TYPES[form]}; charset=utf-8")
    response.headers.set("Content-Disposition", "attachment", filename=f"api-{content}.{form}")
    return response


def _keys() -> Iterator[dict[str, Any]]:
    now = visit().state.clock()
    records = visit().api_keys.list(**list_arguments(), newest_first=True)
    for record, last_use in _with_last_uses(records):
        row = record.to_dict()
        uses = {} if last_use is None else last_use.to_dict()
        yield {"id": row.pop("id"), "name": row.pop("name"), "status": record.status(now).value, **row, **uses}


def _with_last_uses(records: Iterator[APIKey]) -> Iterator[tuple[APIKey, KeyLastUse | None]]:
    storage = usage_storage_now()
    return ((record, None) for record in records) if storage is None else with_last_uses(storage, records)


def _events() -> Iterator[dict[str, Any]]:
    history = visit().state.backend.history
    if history is None:
        abort(404)
    fetch: Fetch[LifecycleEvent] = events_after(history, chosen_events())
    after = None
    while page := fetch(after, True, _PAGE):  # noqa: FBT003  # see `Fetch`
        yield from (event.to_dict() for event in page)
        after = page[-1].cursor


def _json(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    before = "["
    for row in rows:
        yield f"{before}\n{json.dumps(row)}"
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def _csv(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    line = io.StringIO()
    writer = csv.writer(line)
    is_first = True
    for row in rows:
        if is_first:
            writer.writerow(row)
            is_first = False
        writer.writerow(map(_cell, row.values()))
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _cell(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # Spreadsheets run cells that begin so, even quoted ones.
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text
