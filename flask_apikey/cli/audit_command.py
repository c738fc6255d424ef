"""The command ``flask apikey audit``."""

import sys
from collections.abc import Sequence

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli import parameters
from flask_apikey.cli.output import count, moment, note, print_json, show
from flask_apikey.cli.parameters import json_option
from flask_apikey.core.model.validation import checked_id
from flask_apikey.core.storage.contract import Backend, HistoryStore
from flask_apikey.core.text import visible

_LIMIT = 100


def _link(text: str) -> Link:
    number, _, link_hash = text.partition(":")
    if not number.isdecimal() or not link_hash:
        raise click.BadParameter("expected NUMBER:HASH, as printed by an earlier run")
    return Link(int(number), link_hash)


_EXAMPLES = """\b
Examples:
  flask apikey audit --key 8sQ2dKf0LmX7Tz1B
  flask apikey audit --last 20
  flask apikey audit --verify"""


@click.command("audit", epilog=_EXAMPLES)
@click.option("--key", "key_id", metavar="ID", help="Show only events of this key.")
@click.option("--after", type=click.IntRange(0, MAX_NUMBER), help="Show only events after this number.")
@click.option("--limit", type=parameters.limit, help=f"Maximum number of events. [default: {_LIMIT}]")
@click.option("--last", type=parameters.limit, help="Show this many of the newest events.")
@click.option("--verify", is_flag=True, help="Check the whole history instead of printing events.")
@click.option(
    "--expect", type=_link, metavar="NUMBER:HASH", help="With --verify: the link that an earlier run printed."
)
@json_option
@with_appcontext
def audit_command(
    key_id: str | None,
    after: int | None,
    limit: int | None,
    last: int | None,
    verify: bool,
    expect: Link | None,
    as_json: bool,
) -> None:
    """Show the history of changes to keys, or verify it.

    --verify checks the hash chain of all events and prints its last link. Keep the
    link outside of the storage, and pass it with --expect next time: this detects
    even a history that was rewritten as a whole. The exit status is 1 if the
    history is not intact.
    """
    filters = {"--key": key_id, "--after": after, "--limit": limit, "--last": last}
    used = [name for name, value in filters.items() if value is not None]
    if verify and used:
        raise click.UsageError(f"--verify checks the whole history and cannot be combined with {', '.join(used)}")
    if last is not None and (after is not None or limit is not None):
        raise click.UsageError("--last counts from the newest event and cannot be combined with --after or --limit")
    if expect is not None and not verify:
        raise click.UsageError("--expect needs --verify")
    if key_id is not None:
        checked_id(key_id)
    backend = current_application_state().backend
    history = backend.history
    if history is None:
        raise click.ClickException(f"the storage ({type(backend).__name__}) keeps no history")
    if verify:
        _verify(backend, history, expect, as_json=as_json)
        return
    if last is not None:
        _print(last_events(history, last, key_id), as_json=as_json)
        return
    limit = limit or _LIMIT
    events = history.events(after=after or 0, limit=limit + 1, key_id=key_id)
    following = events[limit - 1].number if len(events) > limit else None
    _print(events[:limit], following, as_json=as_json)


def _print(events: Sequence[ChainedEvent], following: int | None = None, *, as_json: bool) -> None:
    if as_json:
        print_json({"events": [event.to_dict() for event in events], "next": following})
        return
    for event in events:
        show(visible(_line(event)))
    if not events:
        note("No events.")
    if following is not None:
        note(f"More events follow: add --after {following}. For the newest: --last {_LIMIT}")


def _verify(backend: Backend, history: HistoryStore, expect: Link | None, *, as_json: bool) -> None:
    versions = {key.record.id: key.record.version for key in backend.all_keys()}
    try:
        last = verify_chain(
            all_events(history), versions, expect, is_present=lambda key_id: backend.get(key_id) is not None
        )
    except BrokenChain as exc:
        if as_json:
            print_json({"intact": False, "number": exc.number, "problem": str(exc)})
        else:
            note(f"The history is not intact: {exc}.")
        sys.exit(1)
    if as_json:
        print_json({"intact": True, "number": last.number, "hash": last.hash})
    else:
        note(f"The history is intact: {count(last.number, 'event')}. The last link:")
        show(f"{last.number}:{last.hash}")


def _line(chained: ChainedEvent) -> str:
    event = chained.event
    details = "" if event.details == "{}" else f"  {event.details}"
    key = f"{event.key_id}  v{event.key_version}" if event.key_id else "no key"
    return f"{chained.number:>6}  {moment(event.at)}  {event.event:<18}  {key}{details}"
