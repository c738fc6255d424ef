"""``flask apikey roll``."""

from datetime import timedelta

import click
from flask.cli import with_appcontext

from flask_apikey.cli import parameters
from flask_apikey.cli.application import api_keys, now
from flask_apikey.cli.output import json_record, note, print_issued, print_json, refuse_closed_output
from flask_apikey.cli.parameters import json_option, key_id_argument, yes_option
from flask_apikey.core.times import in_words


@click.command("roll")
@key_id_argument
@click.option(
    "--grace",
    type=parameters.duration,
    metavar="DURATION",
    help="How long the present secret works on, such as 24h. [default: 0s]",
)
@click.option(
    "--finish-when-idle",
    "idle",
    type=parameters.duration,
    metavar="DURATION",
    help="Make no new secret: end the earlier ones if none was used for so long. Does not ask.",
)
@yes_option
@json_option
@with_appcontext
def roll_command(key_id: str, grace: timedelta | None, idle: timedelta | None, yes: bool, as_json: bool) -> None:
    """Give a key a new secret. It is printed now and never again."""
    if idle is not None:
        if grace is not None:
            raise click.UsageError("--finish-when-idle makes no new secret and contradicts --grace")
        _finish(key_id, idle, as_json=as_json)
        return
    refuse_closed_output()
    record = api_keys().get(key_id)
    if not grace and not yes:
        click.confirm(f"The present secret of {record.name!r} ({record.id}) ends at once. Go on?", abort=True, err=True)
    print_issued(api_keys().roll(key_id, grace=grace or timedelta(0)), now(), as_json=as_json)


def _finish(key_id: str, idle: timedelta, *, as_json: bool) -> None:
    finished = api_keys().finish_roll(key_id, idle=idle)
    record = finished.record
    if as_json:
        print_json({**json_record(record, now()), "secrets_ended": finished.ended})
    elif finished.ended:
        note(
            f"The newest secret of {record.name} ({record.id}) alone works now. "
            f"Earlier ones, unused for {in_words(idle)}, that were ended: {finished.ended}."
        )
    else:
        note(f"No earlier secret of {record.name} ({record.id}) works any more.")
