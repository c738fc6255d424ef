"""``flask apikey audit --verify``: files of noted heads, and the printed result."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import click
from typing_extensions import Self

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.output import count, note, print_json, show
from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.keys.heads import MAX_LINE, Head, parse_heads, to_line
from flask_apikey.core.keys.verification import Verification, verify_all
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.text import visible


def verify_storage(note_name: str | None, expect_name: str | None, *, as_json: bool) -> None:
    """Verify all rows and histories, print the result, and exit with status 1 unless everything holds."""
    state = current_application_state()
    with ExitStack() as opened:
        expected = () if expect_name is None else opened.enter_context(_noted_heads(expect_name))
        note_file = None
        if note_name is not None:
            note_file = opened.enter_context(NoteFile(note_name, replaces=_is_same_file(note_name, expect_name)))
        total = count_rows(state.backend)
        with click.progressbar(length=total, label="Verifying", file=sys.stderr) as bar:
            result = verify_all(
                state.backend,
                state.ring,
                expected=expected,
                note=None if note_file is None else note_file.add,
                progress=bar.update,
            )
        if note_file is not None and result.holds:
            note_file.keep()
    if as_json:
        print_json({**result.to_dict(), "noted": note_name if result.holds else None})
    else:
        _print(result, note_name)
    sys.exit(0 if result.holds else 1)


class NoteFile:
    """File of noted heads, readable by its owner only. It appears when it is complete."""

    def __init__(self, name: str, *, replaces: bool) -> None:
        self._name = name
        self._path = Path(name)
        if self._path.exists() and not replaces:
            raise click.ClickException(
                f"{visible(name)} exists: name a new file, or pass it with --expect too, to compare it before it is "
                "replaced"
            )
        try:
            descriptor, self._temporary = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
        except OSError as exc:
            raise self._failure(exc) from None
        self._file = os.fdopen(descriptor, "w", encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        Path(self._temporary).unlink(missing_ok=True)

    def add(self, head: Head) -> None:
        """Write a head."""
        try:
            self._file.write(to_line(head))
        except OSError as exc:
            raise self._failure(exc) from None

    def keep(self) -> None:
        """Put the complete file in its place."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            Path(self._temporary).replace(self._path)
        except OSError as exc:
            raise self._failure(exc) from None

    def _failure(self, exc: OSError) -> click.ClickException:
        return click.ClickException(f"{visible(self._name)} cannot be written: {exc.strerror}")


@contextmanager
def _noted_heads(name: str) -> Iterator[Iterator[Head]]:
    try:
        with Path(name).open(encoding="utf-8-sig", errors="replace") as file:
            yield parse_heads(iter(lambda: file.readline(MAX_LINE + 1), ""))
    except OSError as exc:
        raise click.ClickException(f"{visible(name)} cannot be read: {exc.strerror}") from None
    except InvalidValue as exc:
        raise click.ClickException(f"{visible(name)}: {exc}") from None


def _is_same_file(note_name: str, expect_name: str | None) -> bool:
    return expect_name is not None and Path(note_name).resolve() == Path(expect_name).resolve()


def count_rows(backend: Backend) -> int:
    """Count the rows of a storage, for a progress bar."""
    if backend.rotation is not None:
        return sum(backend.rotation.count_seals().values())
    return sum(1 for _ in backend.scan(KeyFilter(pruned=None)))


def _print(result: Verification, note_name: str | None) -> None:
    for problem in result.problems:
        key = "storage" if problem.key_id == STORAGE_ID else problem.key_id
        show(visible(f"{key}  {problem.message}"))
    hidden = result.found - len(result.problems)
    if hidden:
        note(f"{count(hidden, 'more problem')}.")
    extent = f"{count(result.keys, 'key')}, {count(result.tombstones, 'tombstone')}, {count(result.events, 'event')}"
    if result.expected:
        extent += f", {count(result.expected, 'noted head')}"
    note(f"{'Everything holds' if result.holds else f'Problems: {result.found}'} ({extent}).")
    if note_name is not None:
        kept = "The heads are in" if result.holds else "Because of the problems, nothing was written to"
        note(f"{kept} {note_name}.")
