"""The command ``flask apikey scan``."""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import ApplicationState, current_application_state
from flask_apikey.cli.application import api_keys
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import count, minute, note, print_json_list, show
from flask_apikey.cli.parameters import actor_option, json_option, reason_option, yes_option
from flask_apikey.core.errors import APIKeyError
from flask_apikey.core.keys.leaked import Ending, Leak, LeakedSecret, LeakState
from flask_apikey.core.model.usage import LastUse
from flask_apikey.core.scanning.files import FileScan, Place
from flask_apikey.core.scanning.git_history import GitFailed, GitScan
from flask_apikey.core.scanning.search import KeySearch, Match
from flask_apikey.core.text import redacted, visible

_EXAMPLES = """\b
Examples:
  flask apikey scan config/ deploy.env
  flask apikey scan --git
  journalctl -u web | flask apikey scan -
  flask apikey scan --git --revoke --reason "found in the repository\""""

_STDIN = "-"
_BATCH = 500
_MAX_REMEMBERED = 10_000
_MAX_LISTED = 20
_COLORS = {LeakState.LIVE: "red", LeakState.PREVIOUS_SECRET: "red", LeakState.SUSPENDED: "yellow"}
_DEFAULT_REASON = "leaked: found by a scan"


@dataclass(frozen=True, slots=True)
class _Finding:
    """A leaked secret in one place.

    Attributes:
        last_use: Last use of the secret; None if there is none, or if it is unknown.
        knows_use: True if the last use is known.
    """

    place: Place
    match: Match
    secret: LeakedSecret
    last_use: LastUse | None
    knows_use: bool


@dataclass(slots=True)
class _Summary:
    """Result of a scan.

    Attributes:
        found: Number of places with a key.
        endable: Leaked secrets that can be ended.
        live: Number of them that are live.
        undecided: Number of places with a key that could not be checked.
        unreadable: Paths that could not be read, and why.
        endings: Number of secrets for each way in which they ended.
        failures: Leaked secrets that could not be ended, by key id, and why.
    """

    found: int = 0
    endable: dict[Leak, LeakedSecret] = field(default_factory=dict)
    live: int = 0
    undecided: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    unreadable_count: int = 0
    endings: list[Ending] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_clear(self) -> bool:
        """True if everything was read, and no key in it is live."""
        return not (self.live or self.undecided or self.unreadable_count)

    def add(self, finding: _Finding) -> None:
        """Count a finding."""
        self.found += 1
        self.undecided += finding.secret.state is LeakState.UNDECIDED
        leak = finding.match.leak
        if finding.secret.is_endable and leak not in self.endable:
            self.endable[leak] = finding.secret
            self.live += finding.secret.is_live

    def add_unreadable(self, path: str, reason: str) -> None:
        """Note that something cannot be read."""
        path = redacted(path)
        note(f"{path} cannot be read: {reason}")
        self.unreadable_count += 1
        if len(self.unreadable) < _MAX_LISTED:
            self.unreadable.append((path, reason))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "found": self.found,
            "live": self.live,
            "revoked": self.endings.count(Ending.KEY_REVOKED),
            "secrets_ended": self.endings.count(Ending.SECRET_ENDED),
            "failed": len(self.failures),
            "failures": [{"key_id": key_id, "reason": reason} for key_id, reason in self.failures[:_MAX_LISTED]],
            "unreadable": self.unreadable_count,
            "unreadable_paths": [{"path": path, "reason": reason} for path, reason in self.unreadable],
        }


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
    are live, whose they are, when they were last used, and where they stand.

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
    summary, failure = _Summary(), None
    findings = _findings(state, _places(state, paths, summary, in_git=in_git))
    if as_json:

        def rest() -> dict[str, Any]:
            nonlocal failure
            failure = _end_all(state, summary, reason, yes=yes) if revoke else None
            return summary.to_dict()

        print_json_list("findings", (_json(summary, finding) for finding in findings), rest)
    else:
        for finding in findings:
            summary.add(finding)
            show(_line(finding))
        note(f"Keys found: {summary.found}. Live secrets: {summary.live}.")
        if revoke:
            failure = _end_all(state, summary, reason, yes=yes)
            note(f"Keys revoked: {summary.endings.count(Ending.KEY_REVOKED)}.")
            note(f"Previous secrets ended: {summary.endings.count(Ending.SECRET_ENDED)}.")
    if failure is not None:
        raise failure
    sys.exit(0 if summary.is_clear and not summary.failures else 1)


def _places(
    state: ApplicationState, paths: Sequence[str], summary: _Summary, *, in_git: bool
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


def _findings(state: ApplicationState, places: Iterator[tuple[Place, Match]]) -> Iterator[_Finding]:
    """Look up keys, several hundred in one statement, each once."""
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
            yield _Finding(place, match, secret, last_use, knows_use and secret.record is not None)


def _end_all(state: ApplicationState, summary: _Summary, reason: str | None, *, yes: bool) -> Exception | None:
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


def _line(finding: _Finding) -> str:
    secret, match = finding.secret, finding.match
    state = click.style(secret.state.value.replace("_", " "), fg=_COLORS.get(secret.state))
    line = f"{_where(finding.place)}  {match.prefix}_{match.leak.key_id}_[redacted]  {state}"
    record = secret.record
    if record is None:
        return line if secret.problem is None else f"{line}  {visible(secret.problem)}"
    owner = "no owner" if record.owner is None else f"owner {record.owner}"
    line += visible(f"  {record.name}, {owner}")
    if finding.knows_use:
        use = finding.last_use
        line += ", never used" if use is None else f", last used {minute(use.at)} UTC from {use.address or 'unknown'}"
    return line


def _where(place: Place) -> str:
    if place.path is None:
        kind = "object" if place.commit is None else "message of commit"
        return f"{kind} {place.object}:{place.line}"
    where = visible(f"{redacted(place.path)}:{place.line}")
    return where if place.commit is None else f"{where} (commit {place.commit})"


def _json(summary: _Summary, finding: _Finding) -> dict[str, Any]:
    summary.add(finding)
    place, secret, use = finding.place, finding.secret, finding.last_use
    record = secret.record
    return {
        "path": None if place.path is None else redacted(place.path),
        "line": place.line,
        "commit": place.commit,
        "object": place.object,
        "key_id": finding.match.leak.key_id,
        "prefix": finding.match.prefix,
        "state": secret.state.value,
        "live": secret.is_live,
        "name": None if record is None else record.name,
        "owner": None if record is None else record.owner,
        "last_use_known": finding.knows_use,
        "last_used_at": None if use is None else use.at.isoformat(),
        "last_used_from": None if use is None else use.address,
        "problem": secret.problem,
    }
