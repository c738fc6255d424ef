"""Output of the commands: records for people, JSON for programs."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain, islice
from textwrap import indent
from typing import Any

import click

from flask_apikey.core.limits.quotas import QuotaStatus
from flask_apikey.core.model.keys import APIKey, IssuedKey, Status
from flask_apikey.core.model.usage import LastUse
from flask_apikey.core.text import visible
from flask_apikey.core.usage.last_use import KeyLastUse

_COLORS = {Status.ACTIVE: "green", Status.SUSPENDED: "yellow", Status.EXPIRED: "yellow", Status.REVOKED: "red"}
_STATUS_WIDTH = max(len(status.value) for status in Status)
_OLD_USED = "OLD USED (UTC)"
_EXPIRES, _LAST_USED, _NAME, _OWNER, _SCOPES = "EXPIRES (UTC)", "LAST USED (UTC)", "NAME", "OWNER", "SCOPES"
_TIME_COLUMNS = {_EXPIRES, _LAST_USED, _OLD_USED}
_DROPPED_FIRST = (_OWNER, _LAST_USED, _OLD_USED)
_MIN_TEXT_WIDTH = 12
_DEFAULT_WIDTH = 120
_HAS_OUTPUT = f"{__name__}.has_output"


def note(message: str) -> None:
    """Print a message for people on standard error. A failed write is ignored."""
    try:
        click.echo(visible(message), err=True)
    except OSError:
        sys.stderr = io.StringIO()  # Without this, Python flushes stderr again at exit and fails with status 120.


def note_adopted_forms(names: Sequence[str]) -> None:
    """Print which adopted keys scanners do not look for, if any are accepted."""
    if names:
        note(f"Adopted keys are not looked for: {', '.join(names)}. 'flask apikey verify' checks one.")


def show(text: str | bytes = "", *, newline: bool = True, failure_message: str | None = None) -> None:
    """Print on standard output. Characters that its encoding lacks are printed as escapes, bytes unchanged.

    A secret has a `failure_message`, which is the error if it cannot be printed. For other
    text, a BrokenPipeError is left to click: the reader has closed the pipe, as ``head`` does.
    """
    failure = _written(text, newline=newline)
    del text  # may be a secret, and error trackers report the locals of each frame
    _require_written(failure, failure_message)


def _without_escapes(text: str) -> str:
    """Escape what a hostile storage could send to a terminal. Line ends and the colours of this library stay."""
    return "".join(
        part if _is_ours(part) else visible(part) for part in re.split(r"(\x1b\[(?:0|1|3[0-7])m|\r?\n)", text)
    )


def _is_ours(part: str) -> bool:
    return part in ("\n", "\r\n") or (part.startswith("\x1b[") and part.endswith("m") and len(part) <= len("\x1b[37m"))


def _written(text: str | bytes, *, newline: bool = True) -> Exception | None:
    context = click.get_current_context(silent=True)
    if context is not None:
        context.meta[_HAS_OUTPUT] = True
    try:
        click.echo(showable(_without_escapes(text)) if isinstance(text, str) else text, nl=newline)
    except Exception as exc:  # noqa: BLE001  # raised again, without the frames that hold the text
        return exc.with_traceback(None)
    return None


def _require_written(failure: Exception | None, failure_message: str | None) -> None:
    if failure is None:
        return
    if not isinstance(failure, OSError) or (failure_message is None and isinstance(failure, BrokenPipeError)):
        raise failure
    sys.stdout = io.StringIO()  # Without this, Python flushes stdout again at exit and prints a traceback.
    cause = f"standard output cannot be written: {failure.strerror}"
    raise click.ClickException(cause if failure_message is None else f"{failure_message} ({cause})") from failure


def has_output() -> bool:
    """Return True if the current command has printed anything on standard output."""
    return bool(click.get_current_context().meta.get(_HAS_OUTPUT))


def refuse_closed_output() -> None:
    """Raise `click.ClickException` if standard output is closed, before a secret is generated."""
    if sys.stdout is None:
        raise click.ClickException("standard output is closed: the key could not be shown, and nothing was changed")


def can_show(characters: str) -> bool:
    """Return True if the encoding of standard output has all these characters."""
    return showable(characters) == characters


def showable(line: str) -> str:
    """Escape the characters that the encoding of standard output lacks."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def shortened(text: str, width: int) -> str:
    """Cut a line to a width, as measured after escaping."""
    shown = showable(text)
    if len(shown) <= width:
        return shown
    ellipsis = "…" if can_show("…") else "..."
    return shown[: max(1, width - len(ellipsis))] + ellipsis


def print_json(value: Any, *, failure_message: str | None = None) -> None:
    """Print one JSON document.

    Control characters are escaped. If the encoding of standard output lacks a
    character, everything outside of ASCII is escaped. Errors are those of `show`.
    """
    failure = _written(_json(value))
    del value  # as in `show`
    _require_written(failure, failure_message)


def print_json_list(name: str, values: Iterable[Any], rest: Callable[[], Mapping[str, Any]]) -> None:
    """Print a JSON object with a list of any length, each value as soon as it is there.

    Args:
        name: Name of the list in the object.
        values: Values of the list.
        rest: Returns the other values of the object. Called after the last value.
    """
    opening = f'{{\n  "{name}": ['
    before = opening
    for value in values:
        show(f"{before}\n{indent(_json(value), '    ')}", newline=False)
        before = ","
    end = f"{opening}]" if before == opening else "\n  ]"
    show(f"{end},\n{_json(rest()).removeprefix('{').lstrip()}")


def _json(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if not can_show(text):
        text = json.dumps(value, indent=2)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def json_record(record: APIKey, now: datetime) -> dict[str, Any]:
    """Convert a record and its status to JSON."""
    return {**record.to_dict(), "status": record.status(now).value}


def print_record(
    record: APIKey,
    now: datetime,
    last_use: KeyLastUse | None = None,
    *,
    quota: QuotaStatus | None = None,
    changed_by: str | None = None,
) -> None:
    """Print the fields of a key, one per line. Empty fields are left out."""
    status = record.status(now)
    rows = [
        ("id", record.id),
        ("name", record.name),
        ("status", status.value),
        ("owner", record.owner),
        ("scopes", ", ".join(sorted(record.scopes))),
        ("allowed addresses", ", ".join(record.allowed_ips)),
        ("denied addresses", ", ".join(record.denied_ips)),
        ("plan", record.plan),
        ("rate", record.rate),
        ("quota", record.quota),
        ("quota left", None if quota is None else quota_left(quota)),
        ("metadata", json.dumps(dict(record.metadata), ensure_ascii=False) if record.metadata else None),
        ("adopted", record.adopted),
        ("created", moment(record.created_at)),
        ("expires", moment(record.expires_at) if record.expires_at else "never"),
        ("rolled", moment(record.rolled_at)),
        *_last_use_rows(record, last_use),
        ("previous secret ends", ", ".join(moment(end) for end in record.previous_secrets_expire_at if end > now)),
        ("suspended", moment(record.suspended_at)),
        ("suspension reason", record.suspension_reason),
        ("revoked", moment(record.revoked_at)),
        ("revocation reason", record.revocation_reason),
        ("version", str(record.version)),
        ("changed by", changed_by),
    ]
    filled = [(title, value) for title, value in rows if value]
    width = max(len(title) for title, _ in filled)
    for title, value in filled:
        shown = click.style(value, fg=_COLORS[status]) if title == "status" else visible(value)
        show(f"{title:<{width}}  {shown}")


def quota_left(quota: QuotaStatus) -> str:
    """Describe what is left of a quota."""
    left = f"{quota.remaining} of {quota.limit} left"
    if quota.added:
        left += f" ({quota.added} added)"
    return left if quota.ends_at is None else f"{left}, until {minute(quota.ends_at)} UTC"


def print_issued(issued: IssuedKey, now: datetime, *, as_json: bool) -> None:
    """Print a new key: the secret alone on standard output, the rest on standard error, or both as JSON."""
    record = issued.record
    failure_message = (
        f"a new secret of key {record.id} was issued but could not be shown: roll the key again, or revoke it"
    )
    if as_json:
        print_json({**json_record(record, now), "key": issued.key}, failure_message=failure_message)
        return
    expires = moment(record.expires_at) if record.expires_at else "never"
    note(f"{record.name} ({record.id}), expires: {expires}. The key is shown only once:")
    show(issued.key, failure_message=failure_message)
    for end in record.previous_secrets_expire_at[:1]:
        note(f"The previous secret works until {moment(end)}.")


def print_table(rows: Iterable[tuple[APIKey, KeyLastUse | None]], now: datetime, *, adopted: bool = False) -> None:
    """Print one line per key, with its last use if that is known.

    A narrow terminal gets fewer columns and shorter cells. Without a terminal, nothing is cut.

    Args:
        rows: The keys.
        now: The present moment, in UTC.
        adopted: Print the last use of the adopted secret: of a previous one if the key was rolled.
    """
    remaining = iter(rows)
    used = _OLD_USED if adopted else _LAST_USED
    first = list(islice(remaining, 1))
    width = shutil.get_terminal_size((0, 24)).columns
    titles = [_EXPIRES, *(used for _, last_use in first if last_use is not None), _NAME, _OWNER, _SCOPES]
    for title in _DROPPED_FIRST:
        if width and title in titles and _text_width(titles, width) < _MIN_TEXT_WIDTH:
            titles.remove(title)
    text_width = max(_MIN_TEXT_WIDTH, _text_width(titles, width or _DEFAULT_WIDTH))
    max_width = text_width if width else sys.maxsize
    show(click.style(_line("ID", f"{'STATUS':<{_STATUS_WIDTH}}", titles, titles, text_width, max_width), bold=True))
    for record, last_use in chain(first, remaining):
        status = record.status(now)
        cells = {
            _EXPIRES: minute(record.expires_at),
            used: _last_used(_of_adopted(record, last_use) if adopted else last_use),
            _NAME: record.name,
            _OWNER: record.owner or "",
            _SCOPES: " ".join(sorted(record.scopes)),
        }
        shown = click.style(f"{status.value:<{_STATUS_WIDTH}}", fg=_COLORS[status])
        show(_line(record.id, shown, titles, [cells[title] for title in titles], text_width, max_width))


def count(number: int, noun: str) -> str:
    """Format a number of things, such as ``"1 key"`` or ``"2 keys"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def moment(value: datetime | None) -> str:
    """Format a time in UTC, to the second. None becomes the empty string."""
    return "" if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def minute(value: datetime | None) -> str:
    """Format a time in UTC, to the minute. None becomes ``never``."""
    return "never" if value is None else f"{value:%Y-%m-%d %H:%M}"


def _last_use_rows(record: APIKey, last_use: KeyLastUse | None) -> list[tuple[str, str]]:
    if last_use is None:
        return []
    rows = [("last used", last_use.latest)]
    if record.rolled_at is not None:
        rows += [("current secret used", last_use.current), ("previous secret used", last_use.previous)]
    return [(title, _used(use)) for title, use in rows]


def _last_used(last_use: KeyLastUse | None) -> str:
    if last_use is None:
        return "unknown"
    return minute(None if last_use.latest is None else last_use.latest.at)


def _of_adopted(record: APIKey, last_use: KeyLastUse | None) -> KeyLastUse | None:
    if last_use is None or record.rolled_at is None:
        return last_use
    return KeyLastUse(previous=last_use.previous)


def _used(use: LastUse | None) -> str:
    return "never" if use is None else f"{moment(use.at)} from {use.address or 'an unknown address'}"


def _text_width(titles: Sequence[str], width: int) -> int:
    times = sum(title in _TIME_COLUMNS for title in titles)
    texts = len(titles) - times
    return (width - 18 - _STATUS_WIDTH - 18 * times - 2 * texts) // texts


def _line(
    key_id: str, status: str, titles: Sequence[str], cells: Sequence[str], text_width: int, max_width: int
) -> str:
    columns = [
        f"{cell:<16}" if title in _TIME_COLUMNS else f"{shortened(visible(cell), max_width):<{text_width}}"
        for title, cell in zip(titles, cells, strict=True)
    ]
    return f"{key_id:<16}  {status}  {'  '.join(columns)}".rstrip()
