"""``flask apikey usage --prune``."""

from datetime import timedelta

import click

from flask_apikey.cli.application import now, state
from flask_apikey.cli.output import hour, note, print_json
from flask_apikey.core.times import EPOCH
from flask_apikey.core.usage.reports import usage_storage
from flask_apikey.core.usage.retention import UsageRetention


def prune_usage(older_than: timedelta, *, fold: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Fold old hours into days, or remove what is old."""
    retention = UsageRetention(usage_storage(state().backend), now(), older_than)
    done = "folded" if fold else "removed"
    if dry_run:
        found = retention.count_folded() if fold else retention.count_removed()
        if as_json:
            print_json({done: 0, "found": found})
        else:
            note(f"Rows that would be {done}: {found}.")
        return
    before = hour(EPOCH + timedelta(hours=retention.before))
    if not yes:
        question = "Fold the hours before {} UTC into days?" if fold else "Remove all usage before {} UTC for good?"
        click.confirm(question.format(before), abort=True, err=True)
    count = retention.fold() if fold else retention.remove()
    if as_json:
        print_json({done: count, "found": count})
    else:
        note(f"Rows {done}: {count}.")
