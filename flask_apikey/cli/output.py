"""What the commands print: records for people, JSON for programs."""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from flask_apikey.core.last_use import KeyLastUse
from flask_apikey.core.records import APIKey, IssuedKey, Status
from flask_apikey.core.sanitizing import visible
from flask_apikey.core.usage_records import LastUse

_COLORS = {Status.ACTIVE: "green", Status.EXPIRED: "yellow", Status.REVOKED: "red"}


def note(message: str) -> None:
    """Tell people something, on standard error."""
    click.echo(visible(message), err=True)


def can_show(characters: str) -> bool:
    """Whether the encoding of standard output has all these characters."""
    return showable(characters) == characters


def showable(line: str) -> str:
    """A line in which what the encoding of standard output has not is written as escapes."""
    encoding = sys.stdout.encoding or "ascii"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def print_json(value: Any) -> None:
    """Print one JSON document. What a terminal would obey instead of showing it is escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo("".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text))


def json_record(record: APIKey, now: datetime) -> dict[str, Any]:
    """A record and its status, for programs."""
    return {**record.to_dict(), "status": record.status(now).value}


def print_record(record: APIKey, now: datetime, last_use: KeyLastUse | None = None) -> None:
    """Print what is known of a key, a line each."""
    status = record.status(now)
    rows = [
        ("id", record.id),
        ("name", record.name),
        ("status", status.value),
        ("owner", record.owner),
        ("scopes", ", ".join(sorted(record.scopes))),
        ("allowed addresses", ", ".join(record.allowed_ips)),
        ("denied addresses", ", ".join(record.denied_ips)),
        ("metadata", json.dumps(dict(record.metadata), ensure_ascii=False) if record.metadata else None),
        ("created", moment(record.created_at)),
        ("expires", moment(record.expires_at) if record.expires_at else "never"),
        ("rolled", moment(record.rolled_at)),
        *_last_use_rows(record, last_use),
        ("earlier secret ends", ", ".join(moment(end) for end in record.retiring if end > now)),
        ("revoked", moment(record.revoked_at)),
        ("reason", record.revocation_reason),
        ("version", str(record.version)),
    ]
    shown = [(title, value) for title, value in rows if value]
    width = max(len(title) for title, _ in shown)
    for title, value in shown:
        said = click.style(value, fg=_COLORS[status]) if title == "status" else visible(value)
        click.echo(f"{title:<{width}}  {said}")


def print_issued(issued: IssuedKey, now: datetime, *, as_json: bool) -> None:
    """Print a new key: its secret alone on standard output, the rest beside it, or all of it as JSON."""
    record = issued.record
    if as_json:
        print_json({**json_record(record, now), "key": issued.key})
        return
    expires = moment(record.expires_at) if record.expires_at else "never"
    note(f"{record.name} ({record.id}), expires: {expires}. The key is shown this once:")
    click.echo(issued.key)
    for end in record.retiring[:1]:
        note(f"The secret before it works until {moment(end)}.")


def print_table(records: Iterable[APIKey], now: datetime, last_uses: Mapping[str, KeyLastUse] | None = None) -> None:
    """Print a line for each key, as they come."""
    width = shutil.get_terminal_size((120, 24)).columns
    moments = ["EXPIRES (UTC)"] if last_uses is None else ["EXPIRES (UTC)", "LAST USED (UTC)"]
    text_width = max(12, (width - 16 - 8 - 18 * len(moments) - 8) // 3)
    click.secho(_line("ID", "STATUS", moments, ["NAME", "OWNER", "SCOPES"], text_width), bold=True)
    for record in records:
        status = record.status(now)
        moments = [_minute(record.expires_at)]
        if last_uses is not None:
            latest = last_uses[record.id].latest
            moments.append(_minute(None if latest is None else latest.at))
        line = _line(
            record.id,
            status.value,
            moments,
            [record.name, record.owner or "", " ".join(sorted(record.scopes))],
            text_width,
        )
        click.echo(visible(line).replace(status.value, click.style(status.value, fg=_COLORS[status]), 1))


def moment(value: datetime | None) -> str:
    """A moment for people, in UTC."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def hour(value: datetime) -> str:
    """The beginning of an hour for people, in UTC."""
    return f"{value:%Y-%m-%d %H:%M}"


def _last_use_rows(record: APIKey, last_use: KeyLastUse | None) -> list[tuple[str, str]]:
    if last_use is None:
        return []
    rows = [("last used", last_use.latest)]
    if record.rolled_at is not None:
        rows += [("present secret used", last_use.present), ("earlier secret used", last_use.earlier)]
    return [(title, _used(use)) for title, use in rows]


def _used(use: LastUse | None) -> str:
    return "never" if use is None else f"{moment(use.at)} from {use.address or 'an unknown address'}"


def _minute(value: datetime | None) -> str:
    return "never" if value is None else f"{value:%Y-%m-%d %H:%M}"


def _line(key_id: str, status: str, moments: Sequence[str], texts: Sequence[str], width: int) -> str:
    shortened = [text if len(text) <= width else f"{text[: width - 1]}…" for text in texts]
    columns = [*(f"{text:<16}" for text in moments), *(f"{text:<{width}}" for text in shortened)]
    return f"{key_id:<16}  {status:<7}  {'  '.join(columns)}".rstrip()
