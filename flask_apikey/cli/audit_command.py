"""``flask apikey audit``."""

import sys
from itertools import islice
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.cli.application import state
from flask_apikey.cli.output import moment, note, print_json
from flask_apikey.cli.parameters import json_option
from flask_apikey.core.history import BrokenChain, ChainedEvent, Link, all_events, verify_chain
from flask_apikey.core.sanitizing import visible
from flask_apikey.core.storage import KeepsHistory


def _link(text: str) -> Link:
    number, _, link_hash = text.partition(":")
    if not number.isdecimal() or not link_hash:
        raise click.BadParameter("expected NUMBER:HASH, as an earlier run printed")
    return Link(int(number), link_hash)


@click.command("audit")
@click.option("--key", "key_id", metavar="ID", help="Only events of this key.")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, show_default=True, help="Only events behind this number."
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@click.option("--verify", is_flag=True, help="Check the whole chain instead of printing events.")
@click.option("--expect", type=_link, metavar="NUMBER:HASH", help="With --verify: a link that was noted earlier.")
@json_option
@with_appcontext
def audit_command(key_id: str | None, after: int, limit: int, verify: bool, expect: Link | None, as_json: bool) -> None:
    """Show what happened to keys, or check that the record of it is whole.

    --verify prints where the chain stands. Note it elsewhere and give it with
    --expect next time: then even a history that was written anew is found.
    """
    backend = state().backend
    if not isinstance(backend, KeepsHistory):
        raise click.ClickException(f"the storage ({type(backend).__name__}) keeps no history")
    if verify:
        _verify(backend, expect, as_json=as_json)
        return
    wanted = (event for event in all_events(backend, after) if key_id in (None, event.event.key_id))
    events = list(islice(wanted, limit))
    if as_json:
        print_json({"events": [event.to_dict() for event in events]})
        return
    for event in events:
        click.echo(visible(_line(event)))
    if not events:
        note("No events.")


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
        note(f"The history is intact: {last.number} events. It stands at:")
        click.echo(f"{last.number}:{last.hash}")


def _line(chained: ChainedEvent) -> str:
    event = chained.event
    details = "" if event.details == "{}" else f"  {event.details}"
    key = f"{event.key_id}  v{event.key_version}" if event.key_id else "no key"
    return f"{chained.number:>6}  {moment(event.at)}  {event.event:<17}  {key}{details}"
