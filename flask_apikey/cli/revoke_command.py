"""``flask apikey revoke``."""

import sys
from datetime import datetime

import click
from flask.cli import with_appcontext

from flask_apikey.cli import parameters
from flask_apikey.cli.application import api_keys, now, state
from flask_apikey.cli.output import count, json_record, moment, note, print_json
from flask_apikey.cli.parameters import json_option, yes_option
from flask_apikey.core.keys.bulk import BulkRevocation
from flask_apikey.core.model.keys import APIKey


@click.command("revoke")
@click.argument("key_id", metavar="[ID]", required=False)
@click.option("--owner", help="In place of ID: every active key of this owner.")
@click.option(
    "--issued-before",
    type=parameters.moment,
    metavar="MOMENT",
    help="In place of ID: every secret issued before this, such as 2027-01-31T12:00.",
)
@click.option("--reason", help="Why; it is kept with the key.")
@click.option("--dry-run", is_flag=True, help="Without ID: change nothing, only count.")
@yes_option
@json_option
@with_appcontext
def revoke_command(
    key_id: str | None,
    owner: str | None,
    issued_before: datetime | None,
    reason: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """End a key, or many, for good, from the next request on.

    --issued-before is for a restored backup, in which keys that were revoked or
    rolled since are alive again. It revokes every active key whose current secret
    is older, and ends older secrets that a roll left working. With --owner too,
    those of that owner. It may be interrupted and repeated.
    """
    is_many = owner is not None or issued_before is not None
    if is_many == (key_id is not None):
        raise click.UsageError("name either the ID of a key, or --owner or --issued-before or both")
    if key_id is not None:
        if dry_run:
            raise click.UsageError("--dry-run goes with --owner or --issued-before")
        _revoke_one(key_id, reason, yes=yes, as_json=as_json)
    else:
        _revoke_many(owner, issued_before, reason, dry_run=dry_run, yes=yes, as_json=as_json)


def _revoke_one(key_id: str, reason: str | None, *, yes: bool, as_json: bool) -> None:
    record = api_keys().get(key_id)
    if not yes and record.revoked_at is None:
        click.confirm(f"End {record.name!r} ({record.id}) for good?", abort=True, err=True)
    record = api_keys().revoke(key_id, reason=reason)
    if as_json:
        print_json(json_record(record, now()))
    else:
        note(f"{record.name} ({record.id}) is revoked since {moment(record.revoked_at)}.")


def _revoke_many(
    owner: str | None,
    issued_before: datetime | None,
    reason: str | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    lifecycle = state().lifecycle
    found = lifecycle.revoke_many(owner=owner, issued_before=issued_before, reason=reason, dry_run=True)
    done = BulkRevocation()
    if found.total and not dry_run:
        if not yes:
            click.confirm(_question(found), abort=True, err=True)
        with click.progressbar(length=found.total, label="Revoking", file=sys.stderr) as bar:

            def ended(record: APIKey, event: str) -> None:
                state().announce_ended(record, event, reason)
                bar.update(1)

            done = lifecycle.revoke_many(owner=owner, issued_before=issued_before, reason=reason, progress=ended)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "found": found.revoked,
                "found_rolled": found.secrets_ended,
                "revoked": done.revoked,
                "secrets_ended": done.secrets_ended,
            }
        )
        return
    told = found if dry_run else done
    note(f"Keys {'that would be revoked' if dry_run else 'revoked'}: {told.revoked}.")
    if issued_before is not None:
        said = "that would lose" if dry_run else "that lost"
        note(f"Keys rolled since {said} older secrets in their grace: {told.secrets_ended}.")


def _question(found: BulkRevocation) -> str:
    ends = [count(found.revoked, "key")] if found.revoked else []
    if found.secrets_ended:
        ends.append(f"the older secrets of {count(found.secrets_ended, 'key')} rolled since")
    return f"End {' and '.join(ends)} for good?"
