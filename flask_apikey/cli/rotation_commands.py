"""``flask apikey rotation …``."""

import sys

import click
from flask.cli import with_appcontext

from flask_apikey.cli.application import api_keys, now
from flask_apikey.cli.output import moment, note, print_json, show
from flask_apikey.cli.parameters import actor_option, json_option
from flask_apikey.core.rotation.reseal import ResealingReport
from flask_apikey.core.rotation.status import UNREADABLE_KEYS, RotationStatus
from flask_apikey.core.text import visible


@click.group("rotation")
def rotation_group() -> None:
    """Replace the Fernet key, unnoticed by clients.

    Add the new Fernet key to APIKEY_FERNET_KEY_FALLBACKS of every process; start;
    make it APIKEY_FERNET_KEY of every process, with the old one in the fallbacks;
    run; finish; remove the old one. 'status' shows the next step, and 'cancel'
    abandons a rotation before anything is sealed under the new Fernet key.

    After a leak, make a new Fernet key APIKEY_FERNET_KEY of every process at once,
    with the old one in the fallbacks, and begin with run.
    """


@rotation_group.command("start")
@click.option("--from", "from_fingerprint", metavar="FINGERPRINT", help="Fernet key to retire.")
@click.option("--to", "to_fingerprint", metavar="FINGERPRINT", help="Its replacement.")
@actor_option
@json_option
@with_appcontext
def start_command(from_fingerprint: str | None, to_fingerprint: str | None, as_json: bool) -> None:
    """Record the start of a rotation, and its due date.

    APIKEY_FERNET_KEY replaces the fallback that sealed keys. Before any key is sealed
    under the fallback, the fallback is to replace APIKEY_FERNET_KEY. Where that is
    ambiguous, name both fingerprints.
    """
    api_keys().rotation.start(from_fingerprint=from_fingerprint, to_fingerprint=to_fingerprint)
    _print_status(as_json=as_json)


@rotation_group.command("run")
@click.option("--rate", type=click.IntRange(min=1), metavar="KEYS", help="Maximum number of keys per second.")
@actor_option
@json_option
@with_appcontext
def run_command(rate: int | None, as_json: bool) -> None:
    """Seal every key under APIKEY_FERNET_KEY.

    Starts the rotation if none is under way. A run can be interrupted and repeated,
    and several processes can run it at once. The exit status is 1 when keys are left
    under another Fernet key.
    """
    rotation = api_keys().rotation
    before = rotation.prepare()
    if before.rotation is not None and not as_json:
        note(f"From {before.rotation.from_fingerprint} to {before.rotation.to_fingerprint}.")
    with click.progressbar(length=before.remaining, label="Re-sealing", file=sys.stderr) as bar:
        report = rotation.run(rate=rate, progress=bar.update)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_report(report)
        _print_next(rotation.status())
    sys.exit(1 if report.remaining else 0)


@rotation_group.command("status")
@json_option
@with_appcontext
def status_command(as_json: bool) -> None:
    """Show the number of keys sealed under each Fernet key, and the next step."""
    _print_status(as_json=as_json)


@rotation_group.command("finish")
@actor_option
@json_option
@with_appcontext
def finish_command(as_json: bool) -> None:
    """Record the end of a rotation. Refused while a key is sealed under another Fernet key."""
    api_keys().rotation.finish()
    _print_status(as_json=as_json)


@rotation_group.command("cancel")
@actor_option
@json_option
@with_appcontext
def cancel_command(as_json: bool) -> None:
    """Abandon a rotation whose new Fernet key is lost, has leaked or is not wanted.

    Refused while a key is sealed under the new Fernet key; the message says how to go back.
    """
    api_keys().rotation.cancel()
    _print_status(as_json=as_json)


def _print_status(*, as_json: bool) -> None:
    status = api_keys().rotation.status()
    if as_json:
        print_json(status.to_dict())
        return
    rotation = status.rotation
    if rotation is None:
        show("No rotation was ever started.")
    else:
        show(visible(f"From {rotation.from_fingerprint} to {rotation.to_fingerprint}"))
        show(f"  started   {moment(rotation.started_at)}")
        if rotation.finished_at is not None:
            show(f"  finished  {moment(rotation.finished_at)}")
        else:
            overdue = click.style("  overdue", fg="red") if rotation.is_overdue(now()) else ""
            show(f"  due       {moment(rotation.due_at)}{overdue}")
    width = max(len(str(each.keys)) for each in status.seals)
    for each in status.seals:
        noun = "key " if each.keys == 1 else "keys"
        show(f"{visible(each.fingerprint)}  {each.keys:>{width}} {noun}  {each.setting or 'not configured here'}")
    _print_next(status)


def _print_next(status: RotationStatus) -> None:
    if status.next_step:
        note(f"Next: {status.next_step}")


def _print_report(report: ResealingReport) -> None:
    note(f"Keys re-sealed: {report.resealed}. Keys left under another Fernet key: {report.remaining}.")
    for fingerprint, count in sorted(report.not_configured.items()):
        note(
            f"  {count} under {fingerprint}, which is not configured here: add that Fernet key to "
            f"APIKEY_FERNET_KEY_FALLBACKS. If it is lost, {UNREADABLE_KEYS}."
        )
    if report.damaged:
        note(
            f"  {report.damaged} whose row or seal is damaged, or whose seal does not fit: find out who wrote to the "
            f"database. Then {UNREADABLE_KEYS}."
        )
    if report.unaccounted:
        note(
            f"  {report.unaccounted} sealed under another Fernet key during this run: check that every process has "
            "the new one as APIKEY_FERNET_KEY, and run this again."
        )
    if report.examples:
        note(f"  Among them: {', '.join(report.examples)}")
