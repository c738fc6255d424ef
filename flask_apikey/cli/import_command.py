"""The command ``flask apikey import``."""

import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from os import SEEK_END
from pathlib import Path
from typing import Any, BinaryIO, cast

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.application import api_keys
from flask_apikey.cli.output import count, note, print_json
from flask_apikey.cli.parameters import actor_option, json_option, reason_option
from flask_apikey.core.importing.columns import Columns, ColumnsError
from flask_apikey.core.importing.owners import inactive_users, is_dump
from flask_apikey.core.importing.report import ImportReport
from flask_apikey.core.importing.run import PLAINTEXT, KeyImport
from flask_apikey.core.importing.tables import TABLES
from flask_apikey.core.model.adopted_form import AdoptedForm
from flask_apikey.core.model.adopted_forms import BUILT_IN_FORMS
from flask_apikey.core.model.validation import checked_reason

_EXAMPLES = """\b
Examples:
  flask apikey import keys.csv --digest sha256 --dry-run
  flask apikey import keys.csv --digest sha256 --column digest=key_hash
  psql -c "\\copy api_keys to stdout csv header" | flask apikey import - --digest sha512"""

_STDIN = "-"


def _mapping(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = [each.partition("=")[::2] for each in values]
    mapping = dict(pairs)
    if len(mapping) < len(pairs) or not all(map(all, pairs)):
        raise click.BadParameter("expected ARGUMENT=COLUMN, such as digest=key_hash, once for each argument")
    return mapping


@click.command("import", epilog=_EXAMPLES)
@click.argument("path", metavar="FILE|-", type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True))
@click.option(
    "--digest",
    required=True,
    metavar="FORM",
    help=f"What the file has of each key: {', '.join(BUILT_IN_FORMS)}, the name of another form in "
    "APIKEY_ADOPTED_KEYS, or plaintext. Plaintext keys are stored as SHA-256.",
)
@click.option(
    "--column",
    "mapped",
    metavar="ARGUMENT=COLUMN",
    multiple=True,
    callback=_mapping,
    help="Name of a column, where it is not that of the argument. Repeatable.",
)
@click.option("--ignore-column", "ignored", metavar="COLUMN", multiple=True, help="Column to leave out. Repeatable.")
@click.option(
    "--empty-scopes",
    type=click.Choice(["all", "none"]),
    help="What keys without scopes may do. Required if other keys have scopes; none by default.",
)
@click.option(
    "--users",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, readable=True),
    help="Users of the other system, in CSV or a dump of Django. Keys of inactive ones are suspended.",
)
@click.option("--skip-errors", is_flag=True, help="Leave out rows with errors. Otherwise nothing is written.")
@click.option("--dry-run", is_flag=True, help="Check the file and write nothing.")
@reason_option
@actor_option
@json_option
@with_appcontext
def import_command(
    path: str,
    digest: str,
    mapped: dict[str, str],
    ignored: Sequence[str],
    empty_scopes: str | None,
    users: str | None,
    skip_errors: bool,
    dry_run: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """Adopt the keys of a file, in CSV or JSON lines, or a dump of Django for drf-simple-apikey.

    The columns are digest (key with --digest plaintext), name, owner, scopes, created_at,
    expires_at, revoked, metadata, allowed_ips, denied_ips, plan, rate and quota.

    The whole file is checked before anything is written. Keys that exist, or were
    removed, stay as they are: repeat the command to resume it.

    The exit status is 1 if rows were refused.
    """
    reason = checked_reason(reason)
    api_keys()  # Refuses a storage in memory.
    state = current_application_state()
    with ExitStack() as opened:
        opened.enter_context(_failures())
        adoption = state.services.adoption
        form = None if digest == PLAINTEXT else adoption.form(digest)
        columns = _columns(form, mapped, ignored)
        file = _opened(path, opened)
        inactive = _inactive(users, file, columns)
        run = KeyImport(
            adoption, columns, digest, state.clock, all_scopes=empty_scopes == "all", inactive=inactive or frozenset()
        ).run
        report = _with_progress(run, file, "Checking", dry_run=True)
        knows_scopes = form is not None and "scopes" in form.columns
        if empty_scopes is None and not knows_scopes and report.with_scopes and report.without_scopes:
            raise click.UsageError(
                f"{report.without_scopes} of {report.rows} rows have no scopes: "
                "--empty-scopes says whether these keys may do all or none"
            )
        if not dry_run and (skip_errors or not report.refused):
            report = _with_progress(run, file, "Importing", dry_run=False, skip_errors=skip_errors, reason=reason)
        elif not dry_run:
            report.added = 0
    if as_json:
        print_json({"dry_run": dry_run, **asdict(report), "ignored_columns": sorted(columns.ignored)})
    else:
        if inactive is None and columns.table.models:
            note("Not checked: whether the owners are active. --users names a file that says so.")
        _print(report, columns, empty_scopes, dry_run=dry_run, is_written=skip_errors or not report.refused)
    sys.exit(1 if report.refused else 0)


def _columns(form: AdoptedForm | None, mapped: dict[str, str], ignored: Sequence[str]) -> Columns:
    if form is None:
        return Columns("key", mapped, ignored)
    table = TABLES.get(form.name)
    if table is not None:
        return Columns("digest", mapped, ignored, defaults=form.columns, table=table)
    known = dict(form.columns)
    if "digest" in mapped:
        # The visible part may be in the same column.
        known.pop("visible", None)
    names = known | mapped
    return Columns("digest", names, {*ignored, *(form.ignored_columns - set(names.values()))})


def _inactive(users: str | None, file: BinaryIO, columns: Columns) -> frozenset[str] | None:
    """Return the inactive owners; None if the users are unknown."""
    if users is not None:
        with Path(users).open("rb") as opened:
            return inactive_users(opened)
    return inactive_users(file) if columns.table.models and is_dump(file) else None


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except ColumnsError as exc:
        raise click.UsageError(str(exc)) from None
    except OSError as exc:
        raise click.ClickException(f"the rows cannot be read, or kept in a temporary file: {exc.strerror}") from None
    except sqlite3.Error as exc:
        raise click.ClickException(f"the lines cannot be kept in a temporary file: {exc}") from None


def _opened(path: str, opened: ExitStack) -> BinaryIO:
    """Open the file. What can be read only once is kept in a temporary file without a name."""
    if path == _STDIN and sys.stdin is None:
        raise click.ClickException("standard input is closed: pass the rows there")
    file: BinaryIO = sys.stdin.buffer if path == _STDIN else opened.enter_context(Path(path).open("rb"))  # noqa: SIM115  # closed by the stack
    if path != _STDIN and file.seekable():
        return file
    spool: Any = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # closed by the stack
    shutil.copyfileobj(file, spool)
    return cast(BinaryIO, spool)


def _with_progress(run: Callable[..., ImportReport], file: BinaryIO, label: str, **options: Any) -> ImportReport:
    size = file.seek(0, SEEK_END)
    file.seek(0)
    with click.progressbar(length=size, label=label, file=sys.stderr) as bar:
        return run(file, progress=bar.update, **options)


def _print(
    report: ImportReport, columns: Columns, empty_scopes: str | None, *, dry_run: bool, is_written: bool
) -> None:
    note(f"{count(report.rows, 'row')}{', as a dry run' if dry_run else ''}:")
    for name in ("added", "unchanged", "expired", "revoked", "refused"):
        note(f"  {name:<14} {getattr(report, name)}")
    for error in report.refusals:
        note(f"  line {error.line}{f', column {error.column}' if error.column else ''}: {error.reason}")
    if report.refused > len(report.refusals):
        note(f"  … and {report.refused - len(report.refusals):,} more.")
    if columns.ignored:
        note(f"Not carried over: {', '.join(sorted(columns.ignored))}.")
    may = "get every scope" if empty_scopes == "all" else "open only views that require none"
    differences = {
        "Without the time of the revocation, which becomes that of the import": report.revoked_now,
        "Without a column of the expiry, which APIKEY_LIFETIME sets": report.lifetime_set,
        f"Without scopes, so that they {may}": report.without_scopes,
        "With an inactive owner, so that they are suspended": report.suspended,
        **report.narrowed,
    }
    for difference, rows in differences.items():
        if rows:
            lines = ", ".join(map(str, report.narrowed_lines.get(difference, [])))
            note(f"{difference}: {rows}{f' (line {lines})' if lines else ''}.")
    if not is_written:
        note("Nothing was written: correct these rows, or leave them out with --skip-errors.")
