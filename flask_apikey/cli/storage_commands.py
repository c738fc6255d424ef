"""Commands for the storage and the Fernet key."""

import sys
from datetime import timedelta

import click
from flask import current_app
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.application import api_keys, from_now
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import count, note, print_json, refuse_closed_output, show
from flask_apikey.cli.parameters import actor_option, duration, json_option, reason_option, yes_option
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.doctor.migrations import check_migrations


@click.command("generate-fernet-key")
@json_option
def generate_fernet_key_command(as_json: bool) -> None:
    """Print a new Fernet key for APIKEY_FERNET_KEY. No application is needed."""
    refuse_closed_output()
    if as_json:
        print_json({"fernet_key": generate_fernet_key()})
        return
    show(generate_fernet_key())
    note("Keep it in the environment or a secrets store as FLASK_APIKEY_FERNET_KEY, never in the source code.")


@click.command("init")
@json_option
@with_appcontext
def init_command(as_json: bool) -> None:
    """Create missing tables and indexes. Safe to repeat."""
    api_keys().init_storage()
    for finding in check_migrations(current_app, current_application_state()):
        note(f"Warning: {finding.message} {finding.advice}")
    if as_json:
        print_json({"initialized": True})
    else:
        note("The storage is ready.")


@click.command("prune", epilog="Example: flask apikey prune --older-than 365d --dry-run")
@click.option(
    "--older-than",
    type=duration,
    metavar="DURATION",
    default="90d",
    show_default=True,
    help="Remove only keys that ended longer ago than this.",
)
@click.option("--dry-run", is_flag=True, help="Count keys and remove nothing.")
@reason_option
@actor_option
@yes_option
@json_option
@with_appcontext
def prune_command(older_than: timedelta, reason: str | None, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove keys that were revoked or expired long ago."""
    ended_before = from_now(-older_than)
    keys = found = api_keys().prune(ended_before=ended_before, dry_run=True)
    if not dry_run and keys:
        if not yes:
            confirm(f"Remove {count(keys, 'key')} permanently?")
        with click.progressbar(length=keys, label="Removing", file=sys.stderr) as bar:
            keys = api_keys().prune(ended_before=ended_before, reason=reason, progress=lambda _: bar.update(1))
    if as_json:
        print_json({"dry_run": dry_run, "found": found, "removed": 0 if dry_run else keys})
    else:
        note(f"Keys {'that would be removed' if dry_run else 'removed'}: {keys}.")
