"""``flask apikey repair``."""

import sys
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.application import now
from flask_apikey.cli.audit_command import STORAGE
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import (
    count,
    json_record,
    note,
    print_json,
    print_record,
    refuse_closed_output,
    show,
)
from flask_apikey.cli.parameters import actor_option, json_option, optional_key_id_argument, reason_option, yes_option
from flask_apikey.cli.verification import count_rows
from flask_apikey.core.keys.repair import BulkRepair, Inspection, RepairedKey
from flask_apikey.core.model.history import STORAGE_ID
from flask_apikey.core.model.validation import checked_owner, checked_reason
from flask_apikey.core.text import visible

_EXAMPLES = """\b
Examples:
  flask apikey repair 8sQ2dKf0LmX7Tz1B --reason "corrected the owner by hand"
  flask apikey repair --all --dry-run"""


@click.command("repair", epilog=_EXAMPLES)
@optional_key_id_argument
@click.option("--owner", help="Instead of ID: every row with this owner that does not fit its seal.")
@click.option("--all", "is_all", is_flag=True, help="Instead of ID: every row that does not fit its seal.")
@click.option("--dry-run", is_flag=True, help="Show what does not fit and change nothing.")
@reason_option
@actor_option
@yes_option
@json_option
@with_appcontext
def repair_command(
    key_id: str | None,
    owner: str | None,
    is_all: bool,
    reason: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Accept rows that were changed outside of this library, as they stand.

    Without this, such a key opens nothing. Find out first who wrote to the database,
    and look at each field that is named: the row may have been widened. The
    repair is an event in the history of the key.

    If the seal of the row cannot be read, its secrets are lost: the key gets a new
    one, which is printed once. For the row of the storage itself, which holds the
    history about no key, pass 'storage' as ID.
    """
    if sum((key_id is not None, owner is not None, is_all)) != 1:
        raise click.UsageError("pass either the ID of a key, or --owner, or --all")
    if key_id is not None:
        _repair_one(STORAGE_ID if key_id == STORAGE else key_id, reason, dry_run=dry_run, yes=yes, as_json=as_json)
    else:
        _repair_many(owner, reason, dry_run=dry_run, yes=yes, as_json=as_json)


def _repair_one(key_id: str, reason: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    refuse_closed_output()
    repair = current_application_state().repair
    inspection = repair.inspect(key_id)
    if not as_json:
        _show(inspection)
    if inspection.fits or dry_run:
        if as_json:
            _print_one(_preview(inspection), is_dry_run=True)
        return
    if not yes:
        question = "Accept this row as it stands?"
        if inspection.issues_secret(now()):
            question = "Accept this row as it stands, with a new secret?"
        confirm(question)
    repaired = repair.accept(inspection, reason)
    if as_json:
        _print_one(repaired, is_dry_run=False)
        return
    note(f"Key {repaired.record.id} was repaired: version {repaired.record.version}.")
    if repaired.key is not None:
        note("Its secrets were lost. The new key is shown only once:")
        show(repaired.key, failure_message=_not_shown(repaired))


def _show(inspection: Inspection) -> None:
    record = inspection.stored.record
    if record.id != STORAGE_ID:
        print_record(record, now())
    if inspection.fits:
        note("The row fits its seal and its history: there is nothing to repair.")
        return
    if inspection.fields:
        note(f"Changed outside of this library: {', '.join(inspection.fields)}.")
    if inspection.seal_problem is not None:
        note(f"The seal cannot be used: {inspection.seal_problem}.")
    if inspection.history_problem is not None:
        note(f"The history does not hold: {inspection.history_problem}.")
    if inspection.forged:
        note(f"{count(len(inspection.forged), 'event')} after event {inspection.number - 1} will be removed.")


def _preview(inspection: Inspection) -> RepairedKey:
    return RepairedKey(inspection.stored.record, inspection.fields, inspection.problem)


def _print_one(repaired: RepairedKey, *, is_dry_run: bool) -> None:
    result: dict[str, Any] = {
        **json_record(repaired.record, now()),
        "dry_run": is_dry_run,
        "fields": list(repaired.fields),
        "problem": repaired.problem,
        "repaired": repaired.is_changed,
        "key": None,
    }
    if repaired.key is None:
        print_json(result)
    else:
        print_json({**result, "key": repaired.key}, failure_message=_not_shown(repaired))


def _not_shown(repaired: RepairedKey) -> str:
    return f"a new secret of key {repaired.record.id} was issued but could not be shown: roll the key, or revoke it"


def _repair_many(owner: str | None, reason: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    # Before the progress bar begins.
    owner, reason = checked_owner(owner), checked_reason(reason)
    found = _run("Comparing", owner, reason, dry_run=True)
    done = BulkRepair()
    if not as_json:
        _show_many(found)
    if found.repaired and not dry_run:
        if not yes:
            confirm(f"Accept {count(found.repaired, 'row')} as they stand?")
        done = _run("Repairing", owner, reason, dry_run=False)
    result = found if dry_run or not found.repaired else done
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "found": found.repaired,
                "fields": found.fields,
                "examples": [{"key_id": key_id, "fields": list(fields)} for key_id, fields in found.examples.items()],
                "repaired": done.repaired,
                "fitting": found.fitting,
                "failed": result.failed,
                "failures": [{"key_id": key_id, "reason": reason} for key_id, reason in result.failures.items()],
            }
        )
    else:
        if not dry_run:
            note(f"Rows repaired: {done.repaired}.")
        for key_id, failure in result.failures.items():
            note(f"  {key_id}: {failure}")
        if result.failed:
            note(f"Rows that could not be repaired: {result.failed}.")
    sys.exit(1 if result.failed else 0)


def _run(label: str, owner: str | None, reason: str | None, *, dry_run: bool) -> BulkRepair:
    state = current_application_state()
    with click.progressbar(length=count_rows(state.backend), label=label, file=sys.stderr) as bar:
        return state.repair.repair_many(owner=owner, reason=reason, dry_run=dry_run, progress=bar.update)


def _show_many(found: BulkRepair) -> None:
    note(f"Rows that fit: {found.fitting}. Rows that do not: {found.repaired}.")
    for name, number in sorted(found.fields.items()):
        note(f"  {name}: {count(number, 'row')}")
    for key_id, fields in found.examples.items():
        show(visible(f"{key_id}  {', '.join(fields)}"))
    if found.repaired > len(found.examples):
        note(f"And {found.repaired - len(found.examples)} more.")
