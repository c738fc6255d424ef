"""``flask apikey audit``."""

import sys
from collections.abc import Sequence
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.cli import parameters
from flask_apikey.cli.application import state
from flask_apikey.cli.output import count, moment, note, print_json, show
from flask_apikey.cli.parameters import json_option
from flask_apikey.core.model.history import (
    MAX_NUMBER,
    BrokenChain,
    ChainedEvent,
    Link,
    all_events,
    last_events,
    verify_chain,
)
from flask_apikey.core.model.validation import checked_id
from flask_apikey.core.storage.contract import KeepsHistory
from flask_apikey.core.text import visible

_LIMIT = 100


def _link(text: str) -> Link:
    number, _, link_hash = text.partition(":")
    if not number.isdecimal() or not link_hash:
        raise click.BadParameter("expected NUMBER:HASH, as an earlier run printed")
    return Link(int(number), link_hash)


@click.command("audit")
@click.option("--key", "key_id", metavar="ID", help="Only events of this key.")
@click.option("--after", type=click.IntRange(0, MAX_NUMBER), help="Only events behind this number.")
@click.option("--limit", type=parameters.limit, help=f"At most so many. [default: {_LIMIT}]")
@click.option("--last", type=parameters.limit, help="The newest so many.")
@click.option("--verify", is_flag=True, help="Check the whole chain instead of printing events.")
@click.option("--expect", type=_link, metavar="NUMBER:HASH", help="With --verify: a link that was noted earlier.")
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
    """Show what happened to keys, or check that the record of it is whole.

    --verify prints where the chain stands. Note it elsewhere and give it with
    --expect next time: then even a history that was written anew is found.
    """
    listing = {"--key": key_id, "--after": after, "--limit": limit, "--last": last}
    given = [name for name, value in listing.items() if value is not None]
    if verify and given:
        raise click.UsageError(f"--verify checks the whole chain, and does not go with {', '.join(given)}")
    if last is not None and (after is not None or limit is not None):
        raise click.UsageError("--last counts from the newest event, and does not go with --after or --limit")
    if expect is not None and not verify:
        raise click.UsageError("--expect belongs to --verify")
    if key_id is not None:
        checked_id(key_id)
    backend = state().backend
    if not isinstance(backend, KeepsHistory):
        raise click.ClickException(f"the storage ({type(backend).__name__}) keeps no history")
    if verify:
        _verify(backend, expect, as_json=as_json)
        return
    if last is not None:
        _print(last_events(backend, last, key_id), as_json=as_json)
        return
    limit = limit or _LIMIT
    events = backend.events(after=after or 0, limit=limit + 1, key_id=key_id)
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
        note(f"There are more: add --after {following}. The newest: --last {_LIMIT}")


def _verify(backend: Any, expect: Link | None, *, as_json: bool) -> None:
    versions = {key.record.id: key.record.version for key in backend.all_keys()}
    try:
        last = verify_chain(
            all_events(backend), versions, expect, is_present=lambda key_id: backend.get(key_id) is not None
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
        note(f"The history is intact: {count(last.number, 'event')}. It stands at:")
        show(f"{last.number}:{last.hash}")


def _line(chained: ChainedEvent) -> str:
    event = chained.event
    details = "" if event.details == "{}" else f"  {event.details}"
    key = f"{event.key_id}  v{event.key_version}" if event.key_id else "no key"
    return f"{chained.number:>6}  {moment(event.at)}  {event.event:<18}  {key}{details}"
