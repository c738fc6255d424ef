"""``flask apikey usage``."""

import csv
import io
import shutil
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.cli import parameters
from flask_apikey.cli.application import ago, api_keys, now, state
from flask_apikey.cli.bars import bar_lines
from flask_apikey.cli.output import hour, note, print_json, show
from flask_apikey.cli.parameters import json_option, yes_option
from flask_apikey.cli.usage_files import write_page
from flask_apikey.core.errors import KeyNotFound
from flask_apikey.core.text import visible
from flask_apikey.core.times import EPOCH
from flask_apikey.core.usage.reports import UsageBy, UsageCount, UsageReport, usage_storage
from flask_apikey.core.usage.retention import UsageRetention
from flask_apikey.pages.page import usage_page

_MIN_COLUMNS = 40
_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")


@click.command("usage")
@click.argument("key_id", metavar="[ID]", required=False)
@click.option("--owner", help="Only requests with keys of this owner.")
@click.option("--since", type=parameters.moment_or_ago, metavar="7d|MOMENT", help="Start of the period.")
@click.option("--until", type=parameters.moment_or_ago, metavar="1d|MOMENT", help="End of the period.")
@click.option("--by", type=click.Choice([by.value for by in UsageBy]), help="Group requests by. [default: endpoint]")
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
    selection = {"owner": options["owner"], "since": _moment(options["since"]), "until": _moment(options["until"])}
    if options["html_file"] is not None:
        write_page(options["html_file"], usage_page(state(), key_id=key_id, **selection))
        return
    report = api_keys().usage(key_id=key_id, by=options["by"] or UsageBy.ENDPOINT, **selection)
    if as_json:
        print_json(report.to_dict())
    elif options["as_csv"]:
        show(_csv(report), newline=False)
    else:
        _print(report, _subject(key_id, options["owner"]))


def _refuse_contradictions(key_id: str | None, **options: Any) -> None:
    filters = [f"--{name}" for name in ("owner", "since", "until", "by") if options[name] is not None]
    formats = {"--json": options["as_json"], "--csv": options["as_csv"], "--html": options["html_file"] is not None}
    chosen = [name for name, is_chosen in formats.items() if is_chosen]
    if options["older_than"] is not None:
        contradicting = [*(["ID"] if key_id else []), *filters, *(name for name in chosen if name != "--json")]
        if contradicting:
            raise click.UsageError(f"--prune applies to all usage and excludes {', '.join(contradicting)}")
        return
    if options["no_fold"] or options["dry_run"]:
        raise click.UsageError("--no-fold and --dry-run need --prune")
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    if options["html_file"] is not None and options["by"] is not None:
        raise click.UsageError("--html shows every grouping and excludes --by")


def _prune(older_than: timedelta, *, fold: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    retention = UsageRetention(usage_storage(state().backend), now(), older_than)
    done = "folded" if fold else "removed"
    if dry_run:
        found = retention.count_foldable() if fold else retention.count_removable()
        if as_json:
            print_json({done: 0, "found": found})
        else:
            note(f"Rows that would be {done}: {found}.")
        return
    before = hour(EPOCH + timedelta(hours=retention.before))
    if not yes:
        question = "Fold the hours before {} UTC into days?" if fold else "Permanently remove all usage before {} UTC?"
        click.confirm(question.format(before), abort=True, err=True)
    count = retention.fold() if fold else retention.remove()
    if as_json:
        print_json({done: count, "found": count})
    else:
        note(f"Rows {done}: {count}.")


def _moment(value: datetime | timedelta | None) -> datetime | None:
    return ago(value) if isinstance(value, timedelta) else value


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
    columns = max(_MIN_COLUMNS, shutil.get_terminal_size((120, 24)).columns)
    heading = f"{subject} by {report.by.value}, {_period(report)}: {report.total:,}"
    show(click.style(visible(heading), bold=True))
    if report.rows:
        show()
        _show_lines(bar_lines(_labelled_rows(report), columns=columns, color="cyan"))
    if report.refusals:
        show()
        show(click.style(f"Refused: {report.refused:,}", bold=True))
        show()
        _show_lines(bar_lines(report.refusals, columns=columns, color="yellow"))


def _show_lines(lines: Iterable[str]) -> None:
    for line in lines:
        show(line)


def _labelled_rows(report: UsageReport) -> list[UsageCount]:
    if report.by is UsageBy.KEY:
        return [UsageCount(_name(label), count) for label, count in report.rows]
    if report.by is UsageBy.HOUR:
        return [UsageCount(hour(datetime.fromisoformat(label)), count) for label, count in report.rows]
    return list(report.rows)


def _period(report: UsageReport) -> str:
    if report.since is None and report.until is None:
        return "all that is stored"
    bounds = (("from", report.since), ("to", report.until))
    return f"{' '.join(f'{word} {hour(value)}' for word, value in bounds if value is not None)} UTC"


def _csv(report: UsageReport) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([report.by.value, "requests"])
    writer.writerows([_without_formula(label), count] for label, count in report.rows)
    return table.getvalue()


def _without_formula(label: str) -> str:
    # Spreadsheets run formulas.
    return visible(f"'{label}" if label.startswith(_FORMULA_PREFIXES) else label)
