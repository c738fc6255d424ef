"""``flask apikey copy``."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.cli.application import now, state
from flask_apikey.cli.output import note, print_json
from flask_apikey.cli.parameters import json_option
from flask_apikey.core.inventory import refuse_unreadable, take_inventory
from flask_apikey.core.storage import Backend, KeepsUsage, backend_for
from flask_apikey.core.transfer import CopyReport, copy_keys
from flask_apikey.core.uris import redacted_uri
from flask_apikey.core.usage_transfer import UsageCopyReport, copy_usage, requests_counted, surplus

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
        source, target = _opened(source_uri, opened), _opened(target_uri, opened)
        report = _copy(source, target, dry_run=dry_run)
        counted = _copy_usage(source, target, dry_run=dry_run)
        result = {
            "from": _named(source_uri),
            "to": _named(target_uri),
            "dry_run": dry_run,
            **asdict(report),
            "counts": counted.counts,
            "last_uses": counted.last_uses,
        }
        if verify:
            left = copy_keys(source, target, ring=state().ring, dry_run=True)
            uncounted = copy_usage(source, target, dry_run=True)
            result["problems"] = list(_problems(left, uncounted, surplus(counted, uncounted, now())))
            result["verified"] = not result["problems"]
            result["source"], result["target"] = _content(source), _content(target)
    if as_json:
        print_json(result)
    else:
        _print(result)
    sys.exit(0 if result.get("verified", True) else 1)


def _named(uri: str | None) -> str:
    return "the application's storage" if uri is None else redacted_uri(uri)


def _opened(uri: str | None, opened: ExitStack) -> Backend:
    return state().backend if uri is None else opened.enter_context(closing(backend_for(uri)))


def _copy(source: Backend, target: Backend, *, dry_run: bool) -> CopyReport:
    if not dry_run:
        target.init_storage()
    source_keys = _readable_keys(source, "the source")
    _readable_keys(target, "the target")
    with click.progressbar(length=source_keys, label="Copying", file=sys.stderr) as bar:
        return copy_keys(source, target, ring=state().ring, dry_run=dry_run, progress=bar.update)


def _copy_usage(source: Backend, target: Backend, *, dry_run: bool) -> UsageCopyReport:
    if not isinstance(target, KeepsUsage) and isinstance(source, KeepsUsage):
        note("The target keeps no usage: what was counted stays behind.")
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
            f"The target counts {surplus} requests more than it should: its counts were folded while they were copied, "
            "and some were added twice."
        )


def _readable_keys(backend: Backend, where: str) -> int:
    inventory = take_inventory(backend)
    refuse_unreadable(inventory, state().ring, where)
    return inventory.keys


def _content(backend: Backend) -> dict[str, Any]:
    inventory = take_inventory(backend)
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
            note(f"  {side:<14} {keys} keys, digest {digest}, {requests} counted requests")
        for problem in result["problems"]:
            note(problem)
        if result["verified"]:
            note("Every key of the source is at the target, with its usage.")
