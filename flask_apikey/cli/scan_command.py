"""The command ``flask apikey scan``."""

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import ApplicationState, current_application_state
from flask_apikey.cli.application import api_keys
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import count, note, note_adopted_forms, print_json_list, show
from flask_apikey.cli.parameters import actor_option, json_option, reason_option, yes_option
from flask_apikey.cli.scan_findings import Finding, ScanSummary, finding_json, finding_line
from flask_apikey.core.errors import APIKeyError
from flask_apikey.core.keys.leaked import Ending, Leak, LeakedSecret
from flask_apikey.core.model.usage import LastUse
from flask_apikey.core.scanning.files import FileScan, Place
from flask_apikey.core.scanning.git_history import GitFailed, GitScan
from flask_apikey.core.scanning.search import KeySearch, Match

_EXAMPLES = """\b
Examples:
  flask apikey scan config/ deploy.env
  flask apikey scan --git
  journalctl -u web | flask apikey scan -
  flask apikey scan --git --revoke --reason "found in the repository\""""

_STDIN = "-"
_BATCH = 500
_MAX_REMEMBERED = 10_000
_DEFAULT_REASON = "leaked: found by a scan"


@click.command("scan", epilog=_EXAMPLES)
@click.argument("paths", metavar="[PATH]... | -", nargs=-1)
@click.option(
    "--git", "in_git", is_flag=True, help="Scan the whole history of the git repository in each PATH, or here."
)
@click.option("--revoke", is_flag=True, help="End the secrets that were found: revoke their keys.")
@reason_option
@actor_option
@yes_option
@json_option
@with_appcontext
def scan_command(
    paths: Sequence[str], in_git: bool, revoke: bool, reason: str | None, yes: bool, as_json: bool
) -> None:
    """Find leaked keys in files, folders, standard input or git histories.

    Keys are found by their form and checksum, and shown without their secret: whether they
    are live, whose they are, when they were last used, and where they stand. Adopted keys
    have no such form, and are not looked for.

    The exit status is 1 if a key is live, also if it was revoked now, and if something
    could not be read.
    """
    if in_git:
        paths = paths or (os.curdir,)
    if not paths:
        raise click.UsageError("pass files or folders, '-' for standard input, or --git")
    if _STDIN in paths and (in_git or len(paths) > 1):
        raise click.UsageError("'-' stands alone: it scans standard input")
    if not revoke and (reason is not None or yes):
        raise click.UsageError("--reason and --yes need --revoke")
    api_keys()  # Refuses a storage in memory before it is asked for keys.
    state = current_application_state()
    summary, failure = ScanSummary(not_searched=state.settings.adopted_forms.names), None
    findings = _findings(state, summary, _places(state, paths, summary, in_git=in_git))
    if as_json:

        def rest() -> dict[str, Any]:
            nonlocal failure
            failure = _end_all(state, summary, reason, yes=yes) if revoke else None
            return summary.to_dict()

        print_json_list("findings", (finding_json(finding) for finding in findings), rest)
    else:
        for finding in findings:
            show(finding_line(finding))
        note(f"Keys found: {summary.found}. Live secrets: {summary.live}.")
        note_adopted_forms(summary.not_searched)
        if revoke:
            failure = _end_all(state, summary, reason, yes=yes)
            note(f"Keys revoked: {summary.endings.count(Ending.KEY_REVOKED)}.")
            note(f"Previous secrets ended: {summary.endings.count(Ending.SECRET_ENDED)}.")
    if failure is not None:
        raise failure
    sys.exit(0 if summary.is_clear and not summary.failures else 1)


def _places(
    state: ApplicationState, paths: Sequence[str], summary: ScanSummary, *, in_git: bool
) -> Iterator[tuple[Place, Match]]:
    search = KeySearch(state.settings.accepted_prefixes)
    is_shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and paths != (_STDIN,)
    with click.progressbar(length=0, label="Scanning", file=sys.stderr, hidden=not is_shown) as bar:
        files = FileScan(search, summary.add_unreadable, bar.update)
        if paths == (_STDIN,):
            if sys.stdin is None:
                raise click.ClickException("standard input is closed: pass what to scan there")
            yield from files.scan_stream(_STDIN, sys.stdin.buffer)
            return
        if not in_git:
            bar.length = sum(map(files.total, paths)) if is_shown else 0
        for path in paths:
            try:
                if in_git:
                    history = GitScan(search, path, bar.update)
                    bar.length = (bar.length or 0) + history.total
                    found = history.scan()
                else:
                    found = files.scan(path)
                for each in found:
                    if is_shown:
                        # The line of the bar; it is drawn again.
                        click.echo("\r\x1b[K", nl=False, err=True)
                    yield each
            except GitFailed as exc:
                summary.add_unreadable(path, str(exc))


def _findings(
    state: ApplicationState, summary: ScanSummary, places: Iterator[tuple[Place, Match]]
) -> Iterator[Finding]:
    """Look up keys, several hundred in one statement, each once, and count them."""
    services = state.services
    known: dict[Leak, tuple[LeakedSecret, LastUse | None]] = {}
    while batch := list(islice(places, _BATCH)):
        if len(known) > _MAX_REMEMBERED:
            known.clear()
        unknown = {match.leak for _, match in batch} - known.keys()
        secrets = services.leaked.look_up(unknown)
        genuine = {secret.record.id for secret in secrets.values() if secret.record is not None}
        knows_use = services.backend.usage is not None
        uses = api_keys().last_uses(genuine) if knows_use and genuine else {}
        for leak, secret in secrets.items():
            use = uses.get(leak.key_id)
            known[leak] = secret, None if use is None else use.previous if secret.position else use.current
        for place, match in batch:
            secret, last_use = known[match.leak]
            finding = Finding(place, match, secret, last_use, knows_use and secret.record is not None)
            summary.add(finding)
            yield finding


def _end_all(state: ApplicationState, summary: ScanSummary, reason: str | None, *, yes: bool) -> Exception | None:
    """End all leaked secrets. Return the failure of the question, so that the output can be completed first."""
    secrets = summary.endable
    if not secrets:
        return None
    previous = sum(bool(secret.position) for secret in secrets.values())
    parts = [f"revoke {count(len(secrets) - previous, 'key')}"] if len(secrets) > previous else []
    parts += [f"end {count(previous, 'previous secret')}"] if previous else []
    try:
        if not yes:
            confirm(f"Permanently {' and '.join(parts)}?")
    except click.ClickException as exc:
        return exc
    for leak in secrets:
        try:
            _, ending = state.services.leaked.end(leak, reason=reason or _DEFAULT_REASON)
        except APIKeyError as exc:
            note(f"key {leak.key_id} could not be ended: {exc}")
            summary.failures.append((leak.key_id, str(exc)))
        else:
            summary.endings += [] if ending is None else [ending]
    return None
