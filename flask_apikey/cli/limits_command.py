"""The command ``flask apikey limits``."""

import math

import click
from flask.cli import FlaskGroup, with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.application import api_keys
from flask_apikey.cli.output import note, print_json, show
from flask_apikey.cli.parameters import actor_option, json_option, key_id_argument
from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.text import visible

_EXAMPLES = """\b
Examples:
  flask apikey limits 8sQ2dKf0LmX7Tz1B
  flask apikey limits 8sQ2dKf0LmX7Tz1B --reset"""


@click.command("limits", epilog=_EXAMPLES)
@key_id_argument
@click.option("--reset", is_flag=True, help="Forget what was counted. Keys that share limits are reset together.")
@actor_option
@json_option
@with_appcontext
def limits_command(key_id: str, reset: bool, as_json: bool) -> None:
    """Show the plan and the rates of a key, and what is left of them."""
    is_hidden = _counts_elsewhere()
    if reset and is_hidden:
        raise ConfigurationError(
            "each process of the server counts rates in its own memory, which this command cannot reset: restart the "
            "server, or set APIKEY_RATE_STORAGE_URI"
        )
    limits = api_keys().reset_limits(key_id) if reset else api_keys().limits(key_id)
    if as_json:
        print_json(_json(limits, is_hidden=is_hidden))
        return
    rows = [("plan", limits.plan or "none")]
    for window in limits.windows:
        left = f"{window.remaining} left"
        if window.resets_in:
            left += f", more in {math.ceil(window.resets_in)} s"
        rows.append((str(window.rate), "counted by each process" if is_hidden else left))
    width = max(len(title) for title, _ in rows)
    for title, value in rows:
        show(f"{title:<{width}}  {visible(value)}")
    if not limits.windows:
        note("The key has no limits.")
    elif limits.is_shared:
        note("All keys of the owner on this plan share these limits.")


def _counts_elsewhere() -> bool:
    """Return True if rates are in the memory of other processes. A test runner outlives its commands."""
    storage = current_application_state().enforcement.rate_check.storage
    return storage.is_in_memory and isinstance(click.get_current_context().find_root().command, FlaskGroup)


def _json(limits: KeyLimits, *, is_hidden: bool) -> dict[str, object]:
    values = limits.to_dict()
    if is_hidden:
        for window in values["windows"]:
            window.update(remaining=None, resets_in=None)
    return values
