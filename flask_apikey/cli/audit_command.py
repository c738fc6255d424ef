"""The command ``flask apikey audit``."""

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import islice

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli import parameters
from flask_apikey.cli.application import resolved
from flask_apikey.cli.output import note, print_json, shortened, show
from flask_apikey.cli.parameters import json_option
from flask_apikey.cli.pasted_keys import id_of_pasted
from flask_apikey.cli.verification import verify_storage
from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.history import STORAGE_ID, EventPosition, LifecycleEvent
from flask_apikey.core.model.validation import checked_actor, checked_id, checked_owner
from flask_apikey.core.storage.contract import EventFilter, HistoryStore
from flask_apikey.core.text import visible

STORAGE = "storage"
"""Name of `STORAGE_ID` on the command line."""

_LIMIT = 100
_PAGE = 500
_TITLES = ("TIME (UTC)", "EVENT", "KEY", "VERSION", "OWNER", "ACTOR", "REASON", "DETAILS")
_MAX_CELL = 30

_EXAMPLES = """\b
Examples:
  flask apikey audit --last 20
  flask apikey audit --key 8sQ2dKf0LmX7Tz1B
  flask apikey audit --actor alice --since 24h
  flask apikey audit --verify --expect monday.jsonl --note tuesday.jsonl"""


@click.command("audit", epilog=_EXAMPLES)
@click.option(
    "--key",
    "key_id",
    metavar="ID",
    callback=id_of_pasted,
    help=f"Only events of this key; {STORAGE!r} for events about no key.",
)
@click.option("--owner", help="Only events of keys that had this owner then.")
@click.option("--actor", help="Only events of this actor.")
@click.option(
    "--since",
    type=parameters.moment_or_ago,
    metavar="DURATION|MOMENT",
    help="Only events since this time, such as 24h ago, or 2027-01-31.",
)
@click.option("--limit", type=parameters.limit, help=f"Maximum number of events. [default: {_LIMIT}]")
@click.option("--last", type=parameters.limit, help="Show this many of the newest events, newest first.")
@click.option("--after", metavar="CURSOR", help="Continue from the cursor that an earlier listing printed.")
@click.option("--verify", is_flag=True, help="Check every row and its history instead of showing events.")
@click.option(
    "--note", "note_name", metavar="FILE", help="With --verify: write the latest event of each key to this file."
)
@click.option("--expect", "expect_name", metavar="FILE", help="With --verify: a file that --note wrote earlier.")
@json_option
@with_appcontext
def audit_command(
    key_id: str | None,
    owner: str | None,
    actor: str | None,
    since: datetime | timedelta | None,
    limit: int | None,
    last: int | None,
    after: str | None,
    verify: bool,
    note_name: str | None,
    expect_name: str | None,
    as_json: bool,
) -> None:
    """Show the history of changes to keys, oldest first, or verify it.

    --verify checks the seal of each row, and each event from there. Keep the file of
    --note outside of the storage and pass it with --expect the next time: this also
    detects keys that were deleted with all their events, or put back to an older
    state. The exit status is 1 if something does not hold.
    """
    values = (key_id, owner, actor, since, limit, last, after)
    names = ("--key", "--owner", "--actor", "--since", "--limit", "--last", "--after")
    filters = [name for name, value in zip(names, values, strict=True) if value is not None]
    if verify and filters:
        raise click.UsageError(f"--verify checks everything and cannot be combined with {', '.join(filters)}")
    if not verify and (note_name is not None or expect_name is not None):
        raise click.UsageError("--note and --expect need --verify")
    if verify:
        _history()
        verify_storage(note_name, expect_name, as_json=as_json)
        return
    if last is not None and limit is not None:
        raise click.UsageError("--last and --limit cannot be combined")
    if key_id is not None:
        key_id = STORAGE_ID if key_id == STORAGE else checked_id(key_id)
    event_filter = EventFilter(
        key_id=key_id,
        owner=checked_owner(owner),
        actor=None if actor is None else checked_actor(actor),
        since=resolved(since),
    )
    events = _events(_history(), event_filter, _position(after), newest_first=last is not None)
    _print(events, last or limit or _LIMIT, as_json=as_json)


def _history() -> HistoryStore:
    backend = current_application_state().backend
    if backend.history is None:
        raise click.ClickException(f"the storage ({type(backend).__name__}) keeps no history")
    return backend.history


def _position(cursor: str | None) -> EventPosition | None:
    if cursor is None:
        return None
    try:
        return EventPosition.parse(cursor)
    except InvalidValue as exc:
        raise click.BadParameter(str(exc), param_hint="--after") from None


def _events(
    history: HistoryStore, event_filter: EventFilter, after: EventPosition | None, *, newest_first: bool
) -> Iterator[LifecycleEvent]:
    while page := history.events(event_filter, after=after, limit=_PAGE, newest_first=newest_first):
        yield from page
        after = EventPosition.of(page[-1])


def _print(events: Iterator[LifecycleEvent], limit: int, *, as_json: bool) -> None:
    wanted = islice(events, limit)
    if as_json:
        shown = list(wanted)
        following = shown[-1].cursor if shown and next(events, None) is not None else None
        print_json({"events": [event.to_dict() for event in shown], "next": following})
        return
    last = None
    while page := list(islice(wanted, _PAGE)):
        _print_table(page, with_titles=last is None)
        last = page[-1]
    if last is None:
        note("No events.")
    elif next(events, None) is not None:
        note(f"More events follow: add --after {last.cursor}")


def _print_table(events: Sequence[LifecycleEvent], *, with_titles: bool) -> None:
    lines = [_cells(event) for event in events]
    widths = [
        max(len(title), *map(len, column)) for title, column in zip(_TITLES, zip(*lines, strict=True), strict=True)
    ]
    if with_titles:
        show(click.style(_line(_TITLES, widths), bold=True))
    for cells in lines:
        show(_line(cells, widths))


def _cells(event: LifecycleEvent) -> list[str]:
    # Only a terminal gets cut texts: a file is searched.
    width = _MAX_CELL if sys.stdout.isatty() else sys.maxsize
    texts = (event.event, event.owner or "", event.actor, event.reason or "")
    name, owner, actor, reason = (shortened(visible(str(text)), width) for text in texts)
    key = STORAGE if event.key_id == STORAGE_ID else visible(str(event.key_id))
    return [f"{event.at:%Y-%m-%d %H:%M:%S}", name, key, str(event.number), owner, actor, reason, _details(event)]


def _details(event: LifecycleEvent) -> str:
    details = event.to_dict()["details"]
    if not isinstance(details, dict):
        return visible(str(details))
    return visible("  ".join(f"{name}={_text(value)}" for name, value in details.items()))


def _text(value: object) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
