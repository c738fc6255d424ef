"""What the commands print: records for people, JSON for programs."""

import io
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from flask_apikey.core.model.keys import APIKey, IssuedKey, Status
from flask_apikey.core.model.usage import LastUse
from flask_apikey.core.text import visible
from flask_apikey.core.usage.last_use import KeyLastUse

_COLORS = {Status.ACTIVE: "green", Status.EXPIRED: "yellow", Status.REVOKED: "red"}
_EXPIRES, _LAST_USED, _NAME, _OWNER, _SCOPES = "EXPIRES (UTC)", "LAST USED (UTC)", "NAME", "OWNER", "SCOPES"
_MOMENTS = {_EXPIRES, _LAST_USED}
_LEFT_OUT_FIRST = (_OWNER, _LAST_USED)
_MIN_TEXT_WIDTH = 12


def note(message: str) -> None:
    """Tell people something, on standard error. Where that cannot be written, nobody is told, and all else goes on."""
    try:
        click.echo(visible(message), err=True)
    except OSError:
        sys.stderr = io.StringIO()  # Python would write what is left once more at its end, and exit with 120.


def show(text: str | bytes = "", *, newline: bool = True, otherwise: str | None = None) -> None:
    """Print on standard output; what its encoding has not is written as escapes.

    Args:
        text: One line or many; bytes as they are.
        newline: Whether to end the line.
        otherwise: What is said of a secret that could not be shown.

    Raises:
        BrokenPipeError: Who reads it has read enough, such as ``head``; of a secret it is a failure like any other.
        click.ClickException: It cannot be written, such as to a full disk.
    """
    try:
        click.echo(showable(text) if isinstance(text, str) else text, nl=newline)
    except OSError as exc:
        if otherwise is None and isinstance(exc, BrokenPipeError):
            raise
        sys.stdout = io.StringIO()  # Python would write what is left once more at its end, and fail with a traceback.
        said = f"standard output cannot be written: {exc.strerror}"
        raise click.ClickException(said if otherwise is None else f"{otherwise} ({said})") from exc


def refuse_closed_output() -> None:
    """Make sure that a secret can be shown, before it is made.

    Raises:
        click.ClickException: Standard output is closed.
    """
    if sys.stdout is None:
        raise click.ClickException("standard output is closed: the key could not be shown, and nothing was changed")


def can_show(characters: str) -> bool:
    """Whether the encoding of standard output has all these characters."""
    return showable(characters) == characters


def showable(line: str) -> str:
    """A line in which what the encoding of standard output has not is written as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def shortened(text: str, width: int) -> str:
    """A line of at most so many characters, as it can be shown."""
    shown = showable(text)
    if len(shown) <= width:
        return shown
    ellipsis = "…" if can_show("…") else "..."
    return shown[: max(1, width - len(ellipsis))] + ellipsis


def print_json(value: Any, *, otherwise: str | None = None) -> None:
    """Print one JSON document, for `otherwise` see `show`.

    What a terminal would obey instead of showing it is escaped, and everything
    outside of ASCII where the encoding of standard output has not all of it.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not can_show(text):
        text = json.dumps(value, indent=2)
    shown = "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)
    show(shown, otherwise=otherwise)


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
        ("previous secret ends", ", ".join(moment(end) for end in record.previous_secrets_expire_at if end > now)),
        ("revoked", moment(record.revoked_at)),
        ("reason", record.revocation_reason),
        ("version", str(record.version)),
    ]
    shown = [(title, value) for title, value in rows if value]
    width = max(len(title) for title, _ in shown)
    for title, value in shown:
        said = click.style(value, fg=_COLORS[status]) if title == "status" else visible(value)
        show(f"{title:<{width}}  {said}")


def print_issued(issued: IssuedKey, now: datetime, *, as_json: bool) -> None:
    """Print a new key: its secret alone on standard output, the rest beside it, or all of it as JSON.

    Raises:
        click.ClickException: It cannot be printed; it says which key has a secret that nobody knows.
    """
    record = issued.record
    otherwise = f"a new secret of key {record.id} was issued but could not be shown: roll the key again, or revoke it"
    if as_json:
        print_json({**json_record(record, now), "key": issued.key}, otherwise=otherwise)
        return
    expires = moment(record.expires_at) if record.expires_at else "never"
    note(f"{record.name} ({record.id}), expires: {expires}. The key is shown this once:")
    show(issued.key, otherwise=otherwise)
    for end in record.previous_secrets_expire_at[:1]:
        note(f"The secret before it works until {moment(end)}.")


def print_table(records: Iterable[APIKey], now: datetime, last_uses: Mapping[str, KeyLastUse] | None = None) -> None:
    """Print a line for each key, as they come. Where the terminal is narrow, some columns are left out."""
    width = shutil.get_terminal_size((120, 24)).columns
    titles = [_EXPIRES, *([] if last_uses is None else [_LAST_USED]), _NAME, _OWNER, _SCOPES]
    for title in _LEFT_OUT_FIRST:
        if title in titles and _text_width(titles, width) < _MIN_TEXT_WIDTH:
            titles.remove(title)
    text_width = max(_MIN_TEXT_WIDTH, _text_width(titles, width))
    show(click.style(_line("ID", "STATUS ", titles, titles, text_width), bold=True))
    for record in records:
        status = record.status(now)
        cells = {
            _EXPIRES: _minute(record.expires_at),
            _NAME: record.name,
            _OWNER: record.owner or "",
            _SCOPES: " ".join(sorted(record.scopes)),
        }
        if last_uses is not None:
            latest = last_uses[record.id].latest
            cells[_LAST_USED] = _minute(None if latest is None else latest.at)
        shown = click.style(f"{status.value:<7}", fg=_COLORS[status])
        show(_line(record.id, shown, titles, [cells[title] for title in titles], text_width))


def count(number: int, noun: str) -> str:
    """A number of things for people, such as ``"1 key"`` or ``"2 keys"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
        rows += [("current secret used", last_use.current), ("previous secret used", last_use.previous)]
    return [(title, _used(use)) for title, use in rows]


def _used(use: LastUse | None) -> str:
    return "never" if use is None else f"{moment(use.at)} from {use.address or 'an unknown address'}"


def _minute(value: datetime | None) -> str:
    return "never" if value is None else f"{value:%Y-%m-%d %H:%M}"


def _text_width(titles: Sequence[str], width: int) -> int:
    moments = sum(title in _MOMENTS for title in titles)
    texts = len(titles) - moments
    return (width - 25 - 18 * moments - 2 * texts) // texts


def _line(key_id: str, status: str, titles: Sequence[str], cells: Sequence[str], text_width: int) -> str:
    columns = [
        f"{cell:<16}" if title in _MOMENTS else f"{shortened(visible(cell), text_width):<{text_width}}"
        for title, cell in zip(titles, cells, strict=True)
    ]
    return f"{key_id:<16}  {status}  {'  '.join(columns)}".rstrip()
