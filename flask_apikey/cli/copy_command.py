"""``flask apikey copy``."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.cli.application import now, state
from flask_apikey.cli.output import count, note, print_json
from flask_apikey.cli.parameters import json_option
from flask_apikey.core.copying.keys import CopyReport, copy_keys, left_behind
from flask_apikey.core.copying.summary import refuse_unreadable, summarize
from flask_apikey.core.copying.usage import UsageCopyReport, copy_usage, requests_counted, surplus
from flask_apikey.core.errors import APIKeyError
from flask_apikey.core.storage.contract import Backend, KeepsUsage, KeyFilter, backend_for
from flask_apikey.core.text import redacted_uri, visible

_COUNTED = (
    "added",
    "updated",
    "resealed",
    "unchanged",
    "kept",
    "removed",
    "only_at_target",
    "events",
    "counts",
    "last_uses",
)
_MOST_LISTED = 20


@click.command("copy")
@click.option(
    "--from",
    "source_uri",
    metavar="URI",
    envvar="APIKEY_COPY_FROM",
    help="Storage to read. [default: the application's]",
)
@click.option(
    "--to",
    "target_uri",
    metavar="URI",
    envvar="APIKEY_COPY_TO",
    help="Storage to write. [default: the application's]",
)
@click.option("--dry-run", is_flag=True, help="Write nothing, only count.")
@click.option("--verify", is_flag=True, help="Compare both sides afterwards.")
@json_option
@with_appcontext
def copy_command(source_uri: str | None, target_uri: str | None, dry_run: bool, verify: bool, as_json: bool) -> None:
    """Bring every key and its usage to another storage. It may be interrupted and repeated.

    Keys that are newer at the target stay as they are, and so do larger counts. A URI with a password is
    better given in the environment (APIKEY_COPY_FROM, APIKEY_COPY_TO)
    than as an option, which others on the machine can read.
    """
    if source_uri == target_uri:
        raise click.UsageError("--from and --to name the same storage")
    if dry_run and verify:
        raise click.UsageError("--verify compares what was copied, and --dry-run copies nothing")
    with ExitStack() as opened:
        with _failing_at(_side("source", source_uri)):
            source = _opened(source_uri, opened)
            keys = _readable_keys_of_source(source)
        with _failing_at(_side("target", target_uri)):
            target = _opened(target_uri, opened)
            _prepare(target, dry_run=dry_run)
        with _failing_at(f"from {_named(source_uri)} to {_named(target_uri)}"):
            result = {
                "from": _named(source_uri),
                "to": _named(target_uri),
                "dry_run": dry_run,
                **_copy(source, target, keys, dry_run=dry_run, verify=verify),
            }
    if as_json:
        print_json(result)
    else:
        _print(result)
    sys.exit(0 if result.get("verified", True) else 1)


@contextmanager
def _failing_at(place: str) -> Iterator[None]:
    try:
        yield
    except APIKeyError as exc:
        raise click.ClickException(visible(f"{place}: {exc}")) from exc


def _side(side: str, uri: str | None) -> str:
    return f"{side}{',' if uri is None else ''} {_named(uri)}"


def _named(uri: str | None) -> str:
    return "the application's storage" if uri is None else redacted_uri(uri)


def _opened(uri: str | None, opened: ExitStack) -> Backend:
    return state().backend if uri is None else opened.enter_context(closing(backend_for(uri)))


def _readable_keys_of_source(source: Backend) -> int:
    # A source without tables is an error; a target without any is taken for an empty one.
    source.find(KeyFilter(), after=None, limit=1)
    return _readable_keys(source)


def _prepare(target: Backend, *, dry_run: bool) -> None:
    if not dry_run:
        target.init_storage()
    _readable_keys(target)


def _copy(source: Backend, target: Backend, keys: int, *, dry_run: bool, verify: bool) -> dict[str, Any]:
    with click.progressbar(length=keys, label="Copying", file=sys.stderr) as bar:
        report = copy_keys(source, target, ring=state().ring, dry_run=dry_run, progress=bar.update)
    counted = _copy_usage(source, target, dry_run=dry_run)
    result = {
        **asdict(report),
        "counts": counted.counts,
        "last_uses": counted.last_uses,
        "left_behind": left_behind(source, target),
    }
    return {**result, **_comparison(source, target, counted)} if verify else result


def _comparison(source: Backend, target: Backend, counted: UsageCopyReport) -> dict[str, Any]:
    left = copy_keys(source, target, ring=state().ring, dry_run=True)
    uncounted = copy_usage(source, target, dry_run=True)
    problems = list(_problems(left, uncounted, surplus(counted, uncounted, now())))
    return {
        "problems": problems,
        "verified": not problems,
        "usage_compared": isinstance(source, KeepsUsage) and isinstance(target, KeepsUsage),
        "source": _content(source),
        "target": _content(target),
    }


def _copy_usage(source: Backend, target: Backend, *, dry_run: bool) -> UsageCopyReport:
    with click.progressbar(length=requests_counted(source), label="Copying usage", file=sys.stderr) as bar:
        return copy_usage(source, target, dry_run=dry_run, progress=bar.update)


def _problems(left: CopyReport, uncounted: UsageCopyReport, surplus: int) -> Iterator[str]:
    if any((left.added, left.updated, left.resealed, left.removed, uncounted.counts, uncounted.last_uses)):
        yield "The target lacks keys, changes of keys, or counts of their use: repeat the copy."
    if left.still_active:
        listed = ", ".join(left.still_active[:_MOST_LISTED]) + (", …" if len(left.still_active) > _MOST_LISTED else "")
        yield (
            f"Keys that were removed from the source still work at the target: {len(left.still_active)} ({listed}). "
            "Revoke there those that were revoked before they were removed."
        )
    if surplus:
        yield (
            f"The target counts {count(surplus, 'request')} more than it should: its counts were folded while they "
            "were copied, and some were added twice."
        )


def _readable_keys(backend: Backend) -> int:
    inventory = summarize(backend)
    refuse_unreadable(inventory, state().ring)
    return inventory.keys


def _content(backend: Backend) -> dict[str, Any]:
    inventory = summarize(backend)
    return {"keys": inventory.keys, "digest": inventory.digest, "requests": requests_counted(backend)}


def _print(result: dict[str, Any]) -> None:
    note(f"From {result['from']} to {result['to']}{', as a dry run' if result['dry_run'] else ''}:")
    for counted in _COUNTED:
        note(f"  {counted.replace('_', ' '):<14} {result[counted]}")
    if result["rotation"]:
        note("The state of the rotation of the Fernet key comes along.")
    if "verified" in result:
        for side in ("source", "target"):
            keys, digest, requests = result[side].values()
            note(f"  {side:<14} {count(keys, 'key')}, digest {digest}, {count(requests, 'counted request')}")
        for problem in result["problems"]:
            note(problem)
        if result["verified"]:
            note(f"Every key of the source is at the target{', with its usage' if result['usage_compared'] else ''}.")
    if result["left_behind"]:
        note(f"Left behind, because the target does not keep it: {', '.join(result['left_behind'])}.")
