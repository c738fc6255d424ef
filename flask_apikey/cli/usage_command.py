"""``flask apikey usage``."""

import csv
import io
import os
import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli import parameters
from flask_apikey.cli.application import api_keys, now, resolved, unless_none
from flask_apikey.cli.bars import print_bars
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import minute, note, print_json, show
from flask_apikey.cli.parameters import json_option, optional_key_id_argument, yes_option
from flask_apikey.cli.would_refuse import print_would_refuse
from flask_apikey.core.errors import KeyNotFound
from flask_apikey.core.text import visible
from flask_apikey.core.times import EPOCH
from flask_apikey.core.usage.reports import UsageBy, UsageCount, UsageReport, WouldRefuseReport, usage_storage
from flask_apikey.core.usage.retention import count_prunable, prunable_until, prune
from flask_apikey.pages.usage_page import usage_page

_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")


@click.command("usage")
@optional_key_id_argument
@click.option("--owner", help="Only requests with keys that were this owner's at the time.")
@click.option("--since", type=parameters.moment_or_ago, metavar="7d|MOMENT", help="Start of the period.")
@click.option("--until", type=parameters.moment_or_ago, metavar="1d|MOMENT", help="End of the period.")
@click.option("--by", type=click.Choice([by.value for by in UsageBy]), help="Group requests by. [default: endpoint]")
@click.option("--would-refuse", is_flag=True, help="Show requests that report mode let pass, and whose they were.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@click.option("--html", "html_file", metavar="FILE", help="Write an HTML report; '-' prints it.")
@click.option(
    "--prune",
    "older_than",
    type=parameters.duration,
    metavar="DURATION",
    help="Fold hours older than this into days, such as 90d.",
)
@click.option("--no-fold", is_flag=True, help="With --prune: permanently delete older counts.")
@click.option("--dry-run", is_flag=True, help="With --prune: count rows and change nothing.")
@yes_option
@json_option
@with_appcontext
def usage_command(key_id: str | None, as_json: bool, **options: Any) -> None:
    """Show the number of requests of all keys or of one.

    Periods cover whole hours: --since is rounded down, --until up. Refused
    attempts are counted separately and are in no total.
    """
    _refuse_contradictions(key_id, as_json=as_json, **options)
    if options["older_than"] is not None:
        _prune(
            options["older_than"],
            fold=not options["no_fold"],
            dry_run=options["dry_run"],
            yes=options["yes"],
            as_json=as_json,
        )
        return
    owner = options["owner"]
    period = {"since": resolved(options["since"]), "until": resolved(options["until"])}
    if options["html_file"] is not None:
        page = usage_page(current_application_state(), key_id=key_id, owner=owner, **period)
        _write_page(options["html_file"], page)
        return
    if options["would_refuse"]:
        passed = current_application_state().stored_usage_reports().would_refuse(key_id=key_id, owner=owner, **period)
        if as_json:
            print_json(passed.to_dict())
        else:
            print_would_refuse(passed, _period(passed))
        return
    by = options["by"] or UsageBy.ENDPOINT
    report = api_keys().usage(key_id=key_id, owner=unless_none(owner), by=by, **period)
    if as_json:
        print_json(report.to_dict())
    elif options["as_csv"]:
        show(_csv(report), newline=False)
    else:
        _print(report, _subject(key_id, owner))


def _refuse_contradictions(key_id: str | None, **options: Any) -> None:
    filters = [f"--{name}" for name in ("owner", "since", "until", "by") if options[name] is not None]
    formats = {"--json": options["as_json"], "--csv": options["as_csv"], "--html": options["html_file"] is not None}
    chosen = [name for name, is_chosen in formats.items() if is_chosen]
    if options["older_than"] is not None:
        contradicting = [*(["ID"] if key_id else []), *filters, *(name for name in chosen if name != "--json")]
        contradicting += ["--would-refuse"] if options["would_refuse"] else []
        if contradicting:
            raise click.UsageError(f"--prune applies to all usage and excludes {', '.join(contradicting)}")
        return
    if options["no_fold"] or options["dry_run"]:
        raise click.UsageError("--no-fold and --dry-run need --prune")
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    excluded = ["--by"] if options["by"] is not None else []
    excluded += [name for name in chosen if name != "--json"]
    if options["would_refuse"] and excluded:
        raise click.UsageError(f"--would-refuse and {excluded[0]} exclude each other")
    if options["html_file"] is not None and options["by"] is not None:
        raise click.UsageError("--html shows every grouping and excludes --by")


def _prune(older_than: timedelta, *, fold: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    storage = usage_storage(current_application_state().backend)
    before = prunable_until(now(), older_than)
    done = "folded" if fold else "removed"
    if dry_run:
        found = count_prunable(storage, before, fold=fold)
    else:
        if not yes:
            end = minute(EPOCH + timedelta(hours=before))
            question = f"Fold the hours before {end} UTC into days?"
            if not fold:
                question = f"Permanently remove all usage before {end} UTC?"
            confirm(question)
        found = prune(storage, before, fold=fold)
        quotas = current_application_state().backend.quotas
        if quotas is not None:
            quotas.prune(before=EPOCH + timedelta(hours=before))
    if as_json:
        print_json({"dry_run": dry_run, "found": found, done: 0 if dry_run else found})
    else:
        note(f"Rows {'that would be ' if dry_run else ''}{done}: {found}.")


def _write_page(name: str, page: str) -> None:
    if name == "-":
        show(page.encode(), newline=False)
        return
    try:
        path = Path(name)
        # Another user may have put a link there, to have the file behind it overwritten.
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise click.ClickException(f"{visible(name)} is not a file: name a file for the page")
        _replace(path, page)
    except OSError as exc:
        raise click.ClickException(f"{visible(name)} cannot be written: {exc.strerror}") from None


def _replace(path: Path, page: str) -> None:
    """Replace a file atomically. A new file is readable by its owner only; a replaced file keeps its mode."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(page)
        if path.exists():
            shutil.copymode(path, temporary, follow_symlinks=False)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def _subject(key_id: str | None, owner: str | None) -> str:
    if key_id is not None:
        return f"Requests with {_name(key_id)}"
    return "Requests" if owner is None else f"Requests with keys of {owner}"


def _name(key_id: str) -> str:
    try:
        return f"{key_id} ({api_keys().get(key_id).name})"
    except KeyNotFound:
        return f"{key_id} (removed)"


def _print(report: UsageReport, subject: str) -> None:
    heading = f"{subject} by {report.by.value}, {_period(report)}: {report.total:,}"
    print_bars(heading, _labelled_rows(report), color="cyan")
    if report.refusals:
        show()
        print_bars(f"Refused: {report.refused:,}", report.refusals, color="yellow")


def _labelled_rows(report: UsageReport) -> list[UsageCount]:
    if report.by is UsageBy.KEY:
        return [UsageCount(_name(label), count) for label, count in report.rows]
    if report.by is UsageBy.OWNER:
        return [UsageCount(label or "(no owner)", count) for label, count in report.rows]
    if report.by is UsageBy.HOUR:
        return [UsageCount(minute(datetime.fromisoformat(label)), count) for label, count in report.rows]
    return list(report.rows)


def _period(report: UsageReport | WouldRefuseReport) -> str:
    if report.since is None and report.until is None:
        return "all that is stored"
    bounds = (("from", report.since), ("to", report.until))
    return f"{' '.join(f'{word} {minute(value)}' for word, value in bounds if value is not None)} UTC"


def _csv(report: UsageReport) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([report.by.value, "requests"])
    writer.writerows([_without_formula(label), count] for label, count in report.rows)
    return table.getvalue()


def _without_formula(label: str) -> str:
    # Spreadsheets run formulas.
    return visible(f"'{label}" if label.startswith(_FORMULA_PREFIXES) else label)
