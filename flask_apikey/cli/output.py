"""What the commands print: records for people, JSON for programs."""

import json
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

from flask_apikey.core.records import APIKey, Status

_COLORS = {Status.ACTIVE: "green", Status.EXPIRED: "yellow", Status.REVOKED: "red"}


def note(message: str) -> None:
    """Tell people something, on standard error."""
    click.echo(message, err=True)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def json_record(record: APIKey, now: datetime) -> dict[str, Any]:
    """A record and its status, for programs."""
    return {**record.to_dict(), "status": record.status(now).value}


def print_record(record: APIKey, now: datetime) -> None:
    """Print what is known of a key, a line each."""
    status = record.status(now)
    rows = [
        ("id", record.id),
        ("name", record.name),
        ("status", click.style(status.value, fg=_COLORS[status])),
        ("owner", record.owner),
        ("scopes", ", ".join(sorted(record.scopes))),
        ("allowed addresses", ", ".join(record.allowed_ips)),
        ("denied addresses", ", ".join(record.denied_ips)),
        ("metadata", json.dumps(dict(record.metadata), ensure_ascii=False) if record.metadata else None),
        ("created", moment(record.created_at)),
        ("expires", moment(record.expires_at) if record.expires_at else "never"),
        ("rolled", moment(record.rolled_at)),
        ("earlier secret ends", ", ".join(moment(end) for end in record.retiring if end > now)),
        ("revoked", moment(record.revoked_at)),
        ("reason", record.revocation_reason),
        ("version", str(record.version)),
    ]
    shown = [(title, value) for title, value in rows if value]
    width = max(len(title) for title, _ in shown)
    for title, value in shown:
        click.echo(f"{title:<{width}}  {value}")


def print_table(records: Iterable[APIKey], now: datetime) -> None:
    """Print a line for each key, as they come."""
    width = shutil.get_terminal_size((120, 24)).columns
    text_width = max(12, (width - 16 - 8 - 20 - 8) // 3)
    click.secho(_line("ID", "STATUS", "EXPIRES (UTC)", ["NAME", "OWNER", "SCOPES"], text_width), bold=True)
    for record in records:
        status = record.status(now)
        line = _line(
            record.id,
            status.value,
            f"{record.expires_at:%Y-%m-%d %H:%M}" if record.expires_at else "never",
            [record.name, record.owner or "", " ".join(sorted(record.scopes))],
            text_width,
        )
        click.echo(line.replace(status.value, click.style(status.value, fg=_COLORS[status]), 1))


def moment(value: datetime | None) -> str:
    """A moment for people, in UTC."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def _line(key_id: str, status: str, expires: str, texts: Sequence[str], width: int) -> str:
    shortened = [text if len(text) <= width else f"{text[: width - 1]}…" for text in texts]
    return f"{key_id:<16}  {status:<7}  {expires:<16}  {'  '.join(f'{text:<{width}}' for text in shortened)}".rstrip()
