"""``flask apikey roll``."""

from datetime import timedelta

import click
from flask.cli import with_appcontext

from flask_apikey.cli import parameters
from flask_apikey.cli.application import api_keys, now
from flask_apikey.cli.output import json_record, note, print_issued, print_json, refuse_closed_output
from flask_apikey.cli.parameters import json_option, key_id_argument, yes_option
from flask_apikey.core.keys.grace import FinishedRoll, has_previous_secrets
from flask_apikey.core.times import in_words


@click.command("roll")
@key_id_argument
@click.option(
    "--grace",
    type=parameters.duration,
    metavar="DURATION",
    help="How long the current secret works on, such as 24h. [default: 0s]",
)
@click.option(
    "--finish-when-idle",
    "idle",
    type=parameters.duration,
    metavar="DURATION",
    help="Make no new secret: end the earlier ones if none was used for so long. Does not ask.",
)
@click.option("--finish", is_flag=True, help="Make no new secret: end the earlier ones now, used or not.")
@yes_option
@json_option
@with_appcontext
def roll_command(
    key_id: str, grace: timedelta | None, idle: timedelta | None, finish: bool, yes: bool, as_json: bool
) -> None:
    """Give a key a new secret. It is printed now and never again."""
    if finish and idle is not None:
        raise click.UsageError("--finish and --finish-when-idle exclude each other")
    if grace is not None and (finish or idle is not None):
        given = "--finish" if finish else "--finish-when-idle"
        raise click.UsageError(f"{given} makes no new secret and contradicts --grace")
    if finish:
        _finish(key_id, yes=yes, as_json=as_json)
    elif idle is not None:
        _finish_when_idle(key_id, idle, as_json=as_json)
    else:
        _roll(key_id, grace or timedelta(0), yes=yes, as_json=as_json)


def _roll(key_id: str, grace: timedelta, *, yes: bool, as_json: bool) -> None:
    refuse_closed_output()
    record = api_keys().get(key_id)
    if not grace and not yes:
        click.confirm(f"The current secret of {record.name!r} ({record.id}) ends at once. Go on?", abort=True, err=True)
    print_issued(api_keys().roll(key_id, grace=grace), now(), as_json=as_json)


def _finish(key_id: str, *, yes: bool, as_json: bool) -> None:
    record = api_keys().get(key_id)
    if not yes and has_previous_secrets(record, now()):
        click.confirm(
            f"The previous secrets of {record.name!r} ({record.id}) end at once. Go on?", abort=True, err=True
        )
    _print_finished(api_keys().end_previous_secrets(key_id), "Earlier ones that were ended", as_json=as_json)


def _finish_when_idle(key_id: str, idle: timedelta, *, as_json: bool) -> None:
    finished = api_keys().finish_roll(key_id, idle=idle)
    _print_finished(finished, f"Earlier ones, unused for {in_words(idle)}, that were ended", as_json=as_json)


def _print_finished(finished: FinishedRoll, said: str, *, as_json: bool) -> None:
    record = finished.record
    if as_json:
        print_json({**json_record(record, now()), "secrets_ended": finished.ended})
    elif finished.ended:
        note(f"The newest secret of {record.name} ({record.id}) alone works now. {said}: {finished.ended}.")
    else:
        note(f"No previous secret of {record.name} ({record.id}) works any more.")
