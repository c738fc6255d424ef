"""Findings of ``flask apikey scan``, and their summary."""

from dataclasses import dataclass, field
from typing import Any

import click

from flask_apikey.cli.output import minute, note
from flask_apikey.core.keys.leaked import Ending, Leak, LeakedSecret, LeakState
from flask_apikey.core.model.usage import LastUse
from flask_apikey.core.scanning.files import Place
from flask_apikey.core.scanning.search import Match
from flask_apikey.core.text import redacted, visible

_MAX_LISTED = 20
_COLORS = {LeakState.LIVE: "red", LeakState.PREVIOUS_SECRET: "red", LeakState.SUSPENDED: "yellow"}


@dataclass(frozen=True, slots=True)
class Finding:
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
class ScanSummary:
    """Result of a scan.

    Attributes:
        not_searched: Forms of adopted keys, which are not looked for.
        found: Number of places with a key.
        endable: Leaked secrets that can be ended.
        live: Number of them that are live.
        undecided: Number of places with a key that could not be checked.
        unreadable: Paths that could not be read, and why.
        endings: Number of secrets for each way in which they ended.
        failures: Leaked secrets that could not be ended, by key id, and why.
    """

    not_searched: tuple[str, ...] = ()
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

    def add(self, finding: Finding) -> None:
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
            "adopted_forms_not_searched": list(self.not_searched),
        }


def finding_line(finding: Finding) -> str:
    """Describe a finding in one line, without the secret."""
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


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values, without the secret."""
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
