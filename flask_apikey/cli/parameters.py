"""Parameter types and options that several commands share."""

import getpass
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import click

from flask_apikey.cli.pasted_keys import id_of_pasted
from flask_apikey.core.actors import acting_as
from flask_apikey.core.addresses import parse_address
from flask_apikey.core.text import sanitized
from flask_apikey.core.times import parse_duration

NEVER = "never"


def duration(text: str) -> timedelta:
    """Parse a duration such as ``90d``."""
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def lifetime(text: str) -> timedelta | str:
    """Parse a duration, or ``never`` for a key that does not expire."""
    return NEVER if text == NEVER else duration(text)


def address(text: str) -> str:
    """Check the IP address of a caller."""
    if parse_address(text) is None:
        raise click.BadParameter("expected an IP address, such as 192.0.2.7 or 2001:db8::7")
    return text


def metadata(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise click.BadParameter(f"not JSON: {exc}") from None
    if not isinstance(parsed, dict):
        raise click.BadParameter('expected a JSON object, such as {"plan": "gold"}')
    return parsed


def moment(text: str) -> datetime:
    """Parse a time in ISO 8601. The default zone is UTC."""
    try:
        # Python 3.10 does not parse the suffix Z.
        parsed = datetime.fromisoformat(text.removesuffix("Z") + "+00:00" * text.endswith("Z"))
    except ValueError:
        raise click.BadParameter("expected ISO 8601, such as 2027-01-31 or 2027-01-31T12:00:00+00:00") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=timezone.utc)


def moment_or_ahead(text: str) -> datetime | timedelta:
    """Parse a time, or a duration from now."""
    try:
        return parse_duration(text)
    except ValueError:
        pass
    try:
        return moment(text)
    except click.BadParameter:
        raise click.BadParameter("expected a duration, such as 30d, or a time, such as 2027-01-31") from None


def moment_or_ago(text: str) -> datetime | timedelta:
    """Parse a time, or a duration before now, which becomes negative."""
    value = moment_or_ahead(text)
    return -value if isinstance(value, timedelta) else value


def default_actor() -> str:
    """Return the actor of a command without ``--actor``: the user of the operating system."""
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a user id without a name, as in containers
        user = "unknown"
    return sanitized(f"cli:{user}")


def _act(ctx: click.Context, _parameter: click.Parameter, name: str) -> None:
    if not ctx.resilient_parsing:
        # Click closes the context of the group also when a later parameter is refused.
        (ctx.parent or ctx).with_resource(acting_as(name))


limit = click.IntRange(min=1, max=2**31 - 1)
"""Maximum number of results."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
reason_option = click.option("--reason", help="Reason for the change, kept in the history.")
actor_option = click.option(
    "--actor",
    metavar="NAME",
    envvar="APIKEY_ACTOR",
    default=default_actor,
    show_default="cli:<system user>",
    expose_value=False,
    callback=_act,
    help="Who makes the change, for the history. Also read from APIKEY_ACTOR.",
)
key_id_argument = click.argument("key_id", metavar="ID", callback=id_of_pasted)
optional_key_id_argument = click.argument("key_id", metavar="[ID]", required=False, callback=id_of_pasted)
