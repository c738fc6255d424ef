"""The command ``flask apikey revoke``."""

import sys
from datetime import datetime
from functools import partial

import click
from flask.cli import with_appcontext

from flask_apikey.cli import parameters
from flask_apikey.cli.application import api_keys, now, unless_none
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import count, json_record, moment, note, print_json
from flask_apikey.cli.parameters import actor_option, json_option, optional_key_id_argument, reason_option, yes_option
from flask_apikey.core.errors import KeyNotFound, RowDamaged
from flask_apikey.core.keys.bulk import BulkRevocation

_EXAMPLES = """\b
Examples:
  flask apikey revoke 8sQ2dKf0LmX7Tz1B --reason "left the team"
  flask apikey revoke --issued-before 2027-01-31T12:00 --reason "restored a backup"
  flask apikey revoke --owner team-7 --dry-run"""


@click.command("revoke", epilog=_EXAMPLES)
@optional_key_id_argument
@click.option("--owner", help="Instead of ID: revoke all active and suspended keys of this owner.")
@click.option(
    "--issued-before",
    type=parameters.moment,
    metavar="MOMENT",
    help="Instead of ID: end all secrets issued before this time, such as 2027-01-31T12:00.",
)
@click.option("--dry-run", is_flag=True, help="Without ID: count keys and change nothing.")
@reason_option
@actor_option
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
    """Revoke one key or many permanently.

    Use --issued-before after restoring a backup: keys that were revoked or rolled
    since the backup work again. It revokes keys whose current secret is
    older than the time. Of keys rolled since, it ends the previous secrets that
    still work. Together with --owner it is limited to the keys of that owner. It is
    safe to interrupt and repeat.
    """
    is_many = owner is not None or issued_before is not None
    if is_many == (key_id is not None):
        raise click.UsageError("pass either the ID of a key, or --owner, --issued-before or both")
    if key_id is not None:
        if dry_run:
            raise click.UsageError("--dry-run needs --owner or --issued-before")
        _revoke_one(key_id, reason, yes=yes, as_json=as_json)
    else:
        _revoke_many(owner, issued_before, reason, dry_run=dry_run, yes=yes, as_json=as_json)


def _revoke_one(key_id: str, reason: str | None, *, yes: bool, as_json: bool) -> None:
    try:
        record = api_keys().get(key_id)
    except RowDamaged:
        question = f"The row of key {key_id} is damaged. Revoke the key permanently?"
    else:
        question = "" if record.revoked_at else f"Revoke {record.name!r} ({record.id}) permanently?"
    if question and not yes:
        confirm(question)
    record = api_keys().revoke(key_id, reason=reason)
    if as_json:
        print_json(json_record(record, now()))
    else:
        note(f"{record.name or 'A key'} ({record.id}) was revoked at {moment(record.revoked_at)}.")


def _revoke_many(
    owner: str | None,
    issued_before: datetime | None,
    reason: str | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    if owner is not None and next(api_keys().list(owner=owner, limit=1), None) is None:
        raise KeyNotFound(f"no key has the owner {owner!r}: check the spelling with 'flask apikey list'")
    revoke_many = partial(api_keys().revoke_many, owner=unless_none(owner), issued_before=issued_before, reason=reason)
    found = revoke_many(dry_run=True)
    done = BulkRevocation()
    if found.total and not dry_run:
        if not yes:
            confirm(_question(found))
        with click.progressbar(length=found.total, label="Revoking", file=sys.stderr) as bar:
            done = revoke_many(progress=lambda _: bar.update(1))
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
    result = found if dry_run else done
    note(f"Keys {'that would be revoked' if dry_run else 'revoked'}: {result.revoked}.")
    if issued_before is not None:
        verb = "would lose" if dry_run else "lost"
        note(f"Other keys that {verb} previous secrets: {result.secrets_ended}.")


def _question(found: BulkRevocation) -> str:
    changes = [f"revoke {count(found.revoked, 'key')}"] if found.revoked else []
    if found.secrets_ended:
        changes.append(f"end the previous secrets of {count(found.secrets_ended, 'key')}")
    return f"Permanently {' and '.join(changes)}?"
