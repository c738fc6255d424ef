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
from flask_apikey.cli.application import ago, api_keys, state
from flask_apikey.cli.bars import bar_lines
from flask_apikey.cli.output import hour, print_json, show
from flask_apikey.cli.parameters import json_option, yes_option
from flask_apikey.cli.usage_files import write_page
from flask_apikey.cli.usage_pruning import prune_usage
from flask_apikey.core.errors import KeyNotFound
from flask_apikey.core.text import visible
from flask_apikey.core.usage.reports import UsageBy, UsageCount, UsageReport
from flask_apikey.pages.page import usage_page

_MIN_COLUMNS = 40
_FORMULA_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r")


@click.command("usage")
@click.argument("key_id", metavar="[ID]", required=False)
@click.option("--owner", help="Only requests with keys of this owner.")
@click.option("--since", type=parameters.moment_or_ago, metavar="7d|MOMENT", help="Only from then on.")
@click.option("--until", type=parameters.moment_or_ago, metavar="1d|MOMENT", help="Only before then.")
@click.option("--by", type=click.Choice([by.value for by in UsageBy]), help="What the rows are. [default: endpoint]")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@click.option("--html", "html_file", metavar="FILE", help="Write a page to look at; '-' prints it.")
@click.option(
    "--prune",
    "older_than",
    type=parameters.duration,
    metavar="DURATION",
    help="Fold hours that are older into days, such as 90d.",
)
@click.option("--no-fold", is_flag=True, help="With --prune: remove what is older for good.")
@click.option("--dry-run", is_flag=True, help="With --prune: change nothing, only count.")
@yes_option
@json_option
@with_appcontext
def usage_command(key_id: str | None, as_json: bool, **options: Any) -> None:
    """Show how many requests were made, of all keys or of one.

    Moments are rounded to whole hours, since down and until up. Refused attempts
    are counted apart and are in no total.
    """
    _refuse_contradictions(key_id, as_json=as_json, **options)
    if options["older_than"] is not None:
        prune_usage(
            options["older_than"],
            fold=not options["no_fold"],
            dry_run=options["dry_run"],
            yes=options["yes"],
            as_json=as_json,
        )
        return
    wanted = {"owner": options["owner"], "since": _moment(options["since"]), "until": _moment(options["until"])}
    if options["html_file"] is not None:
        write_page(options["html_file"], usage_page(state(), key_id=key_id, **wanted))
        return
    report = api_keys().usage(key_id, by=options["by"] or UsageBy.ENDPOINT, **wanted)
    if as_json:
        print_json(report.to_dict())
    elif options["as_csv"]:
        show(_csv(report), newline=False)
    else:
        _print(report, _subject(key_id, options["owner"]))


def _refuse_contradictions(key_id: str | None, **options: Any) -> None:
    asked = [f"--{name}" for name in ("owner", "since", "until", "by") if options[name] is not None]
    ways = {"--json": options["as_json"], "--csv": options["as_csv"], "--html": options["html_file"] is not None}
    chosen = [way for way, is_chosen in ways.items() if is_chosen]
    if options["older_than"] is not None:
        contradicting = [*(["ID"] if key_id else []), *asked, *(way for way in chosen if way != "--json")]
        if contradicting:
            raise click.UsageError(f"--prune concerns all usage, and does not go with {', '.join(contradicting)}")
        return
    if options["no_fold"] or options["dry_run"]:
        raise click.UsageError("--no-fold and --dry-run belong to --prune")
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} contradict each other")
    if options["html_file"] is not None and options["by"] is not None:
        raise click.UsageError("--html shows everything, and does not go with --by")


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
        _show(bar_lines(_named(report), columns=columns, color="cyan"))
    if report.refusals:
        show()
        show(click.style(f"Refused: {report.refused:,}", bold=True))
        show()
        _show(bar_lines(report.refusals, columns=columns, color="yellow"))


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        show(line)


def _named(report: UsageReport) -> list[UsageCount]:
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
    writer.writerows([_harmless(label), count] for label, count in report.rows)
    return table.getvalue()


def _harmless(label: str) -> str:
    # A spreadsheet would take it for a formula and run it.
    return visible(f"'{label}" if label.startswith(_FORMULA_BEGINNINGS) else label)
