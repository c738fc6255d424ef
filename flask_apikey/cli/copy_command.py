"""``flask apikey copy``."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.application import refuse_memory
from flask_apikey.cli.output import count, note, print_json
from flask_apikey.cli.parameters import actor_option, json_option
from flask_apikey.core.copying.keys import copy_keys, left_behind
from flask_apikey.core.copying.summary import refuse_unreadable, summarize
from flask_apikey.core.copying.usage import copy_usage, requests_counted
from flask_apikey.core.errors import APIKeyError
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.core.text import redacted_uri, visible

_CHANGES = ("added", "updated", "resealed", "events", "counts", "last_uses")
_COUNTED = ("added", "updated", "resealed", "unchanged", "events", "counts", "last_uses")
_MAX_SHOWN = 20


@dataclass(frozen=True, slots=True)
class _Place:
    """Storage to read or write; None for the application's. The repr shows no URI, which may hold a password."""

    uri: str | None = field(repr=False)

    @classmethod
    def of(cls, _context: click.Context, _parameter: click.Parameter, uri: str | None) -> "_Place":
        return cls(uri)

    def __str__(self) -> str:
        return "the application's storage" if self.uri is None else redacted_uri(self.uri)

    def open(self, opened: ExitStack) -> Backend:
        if self.uri is None:
            return current_application_state().backend
        return opened.enter_context(closing(backend_for(self.uri)))


@click.command("copy")
@click.option(
    "--from",
    "origin",
    metavar="URI",
    callback=_Place.of,
    envvar="APIKEY_COPY_FROM",
    help="Storage to read. [default: the application's]",
)
@click.option(
    "--to",
    "goal",
    metavar="URI",
    callback=_Place.of,
    envvar="APIKEY_COPY_TO",
    help="Storage to write. [default: the application's]",
)
@click.option("--dry-run", is_flag=True, help="Write nothing, only count.")
@click.option("--verify", is_flag=True, help="Compare both sides afterwards.")
@actor_option
@json_option
@with_appcontext
def copy_command(origin: _Place, goal: _Place, dry_run: bool, verify: bool, as_json: bool) -> None:
    """Copy every key, its history and its usage to another storage.

    The target must be empty, or hold an earlier copy from the same source, such as an
    interrupted one. Repeat the command to resume it. A target in use is refused.

    Rows that do not fit their seal or their history are left out and listed. The
    exit status is then 1.

    Give a URI with a password in the environment (APIKEY_COPY_FROM,
    APIKEY_COPY_TO): other users of the machine can read options.
    """
    if origin == goal:
        raise click.UsageError("--from and --to name the same storage")
    if dry_run and verify:
        raise click.UsageError("--verify compares what was copied, and --dry-run copies nothing")
    with ExitStack() as opened:
        with _failing_at(_side("source", origin)):
            source = origin.open(opened)
            # A source without tables is an error; a target without tables is empty.
            source.find(KeyFilter(), after=None, limit=1)
            rows = _readable_rows(source)
        with _failing_at(_side("target", goal)):
            target = goal.open(opened)
            refuse_memory(target)
            if not dry_run:
                target.init_storage()
            _readable_rows(target)
        with _failing_at(f"from {origin} to {goal}"):
            result = {
                "from": str(origin),
                "to": str(goal),
                "dry_run": dry_run,
                **_copied(source, target, rows, dry_run=dry_run, verify=verify),
            }
    if as_json:
        print_json(result)
    else:
        _print(result)
    sys.exit(1 if result["refused"] or not result.get("verified", True) else 0)


@contextmanager
def _failing_at(place: str) -> Iterator[None]:
    try:
        yield
    except APIKeyError as exc:
        raise click.ClickException(visible(f"{place}: {exc}")) from exc


def _side(side: str, place: _Place) -> str:
    return f"{side}{',' if place.uri is None else ''} {place}"


def _readable_rows(backend: Backend) -> int:
    summary = summarize(backend)
    refuse_unreadable(summary, current_application_state().ring)
    return summary.rows


def _copied(source: Backend, target: Backend, rows: int, *, dry_run: bool, verify: bool) -> dict[str, Any]:
    changes = partial(_changes, source, target, rows)
    # The dry run refuses a target in use before anything is written.
    result = changes("Comparing", dry_run=True)
    if not dry_run:
        result = changes("Copying", dry_run=False)
    result["left_behind"] = left_behind(source, target)
    if verify:
        missing = changes("Verifying", dry_run=True)
        result["verified"] = not any(missing[name] for name in (*_CHANGES, "rotation", "refused"))
        result["usage_compared"] = source.usage is not None and target.usage is not None
        result["source"] = _content(source)
        result["target"] = _content(target)
    return result


def _changes(source: Backend, target: Backend, rows: int, label: str, *, dry_run: bool) -> dict[str, Any]:
    with click.progressbar(length=rows, label=label, file=sys.stderr) as bar:
        copied = copy_keys(source, target, ring=current_application_state().ring, dry_run=dry_run, progress=bar.update)
    with click.progressbar(length=requests_counted(source), label=f"{label} usage", file=sys.stderr) as bar:
        counted = copy_usage(source, target, dry_run=dry_run, progress=bar.update)
    refusals = [copied.refusals, counted.refusals]
    result = {**asdict(copied), **asdict(counted)}
    result["refused"] = sum(each.count for each in refusals)
    result["refusals"] = [
        {"key_id": refusal.id, "reason": refusal.reason} for each in refusals for refusal in each.first
    ]
    return result


def _content(backend: Backend) -> dict[str, Any]:
    summary = summarize(backend)
    return {"keys": summary.keys, "digest": summary.digest, "requests": requests_counted(backend)}


def _print(result: dict[str, Any]) -> None:
    note(f"From {result['from']} to {result['to']}{', as a dry run' if result['dry_run'] else ''}:")
    for name in _COUNTED:
        note(f"  {name.replace('_', ' '):<14} {result[name]}")
    if result["rotation"]:
        note("The state of the rotation of the Fernet key is copied too.")
    _print_refusals(result)
    if "verified" in result:
        for side in ("source", "target"):
            keys, digest, requests = result[side].values()
            note(f"  {side:<14} {count(keys, 'key')}, digest {digest}, {count(requests, 'counted request')}")
        if result["verified"]:
            note(f"Every key of the source is at the target{', with its usage' if result['usage_compared'] else ''}.")
        elif result["refused"]:
            note("The target lacks what was left out.")
        else:
            note("The target lacks keys, changes of keys, or counts of their use: repeat the copy.")
    if result["left_behind"]:
        note(f"Left behind, because the target does not keep it: {', '.join(result['left_behind'])}.")


def _print_refusals(result: dict[str, Any]) -> None:
    if not result["refused"]:
        return
    note(f"Left out because the source does not hold up ({count(result['refused'], 'row')}):")
    for refusal in result["refusals"][:_MAX_SHOWN]:
        note(f"  {refusal['key_id']}: {refusal['reason']}")
    if result["refused"] > _MAX_SHOWN:
        note(f"  … and {result['refused'] - _MAX_SHOWN:,} more.")
