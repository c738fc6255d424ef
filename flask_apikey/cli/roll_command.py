"""``flask apikey roll``."""

from datetime import timedelta

import click
from flask.cli import with_appcontext

from flask_apikey.cli import parameters
from flask_apikey.cli.application import api_keys, now
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import json_record, note, print_issued, print_json, refuse_closed_output
from flask_apikey.cli.parameters import actor_option, json_option, key_id_argument, reason_option, yes_option
from flask_apikey.core.keys.grace import count_previous_secrets
from flask_apikey.core.times import in_words


@click.command("roll")
@key_id_argument
@click.option(
    "--grace",
    type=parameters.duration,
    metavar="DURATION",
    help="Keep the current secret working for this time, such as 24h. [default: 0s]",
)
@click.option("--finish", is_flag=True, help="Make no new secret: end the previous secrets now.")
@click.option(
    "--unused-for",
    type=parameters.duration,
    metavar="DURATION",
    help="With --finish: only if no previous secret was used for this time, such as 24h. Does not ask.",
)
@reason_option
@actor_option
@yes_option
@json_option
@with_appcontext
def roll_command(
    key_id: str,
    grace: timedelta | None,
    finish: bool,
    unused_for: timedelta | None,
    reason: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Give a key a new secret, or end its previous ones. A new secret is printed once."""
    if finish and grace is not None:
        raise click.UsageError("--finish makes no new secret, so --grace has no meaning with it")
    if not finish and unused_for is not None:
        raise click.UsageError("--unused-for needs --finish")
    if finish:
        _finish(key_id, unused_for, reason, yes=yes, as_json=as_json)
    else:
        _roll(key_id, grace or timedelta(0), reason, yes=yes, as_json=as_json)


def _roll(key_id: str, grace: timedelta, reason: str | None, *, yes: bool, as_json: bool) -> None:
    refuse_closed_output()
    record = api_keys().get(key_id)
    if not grace and not yes:
        confirm(f"The current secret of {record.name!r} ({record.id}) ends at once. Go on?")
    print_issued(api_keys().roll(key_id, grace=grace, reason=reason), now(), as_json=as_json)


def _finish(key_id: str, unused_for: timedelta | None, reason: str | None, *, yes: bool, as_json: bool) -> None:
    record = api_keys().get(key_id)
    if unused_for is None and not yes and count_previous_secrets(record, now()):
        confirm(f"The previous secrets of {record.name!r} ({record.id}) end at once. Go on?")
    finished = api_keys().finish_roll(key_id, unused_for=unused_for, reason=reason)
    record = finished.record
    if as_json:
        print_json({**json_record(record, now()), "secrets_ended": finished.ended})
    elif finished.ended:
        unused = "" if unused_for is None else f", unused for {in_words(unused_for)}"
        note(f"Only the newest secret of {record.name} ({record.id}) works now.")
        note(f"Previous secrets ended{unused}: {finished.ended}.")
    else:
        note(f"No previous secret of {record.name} ({record.id}) works any more.")
