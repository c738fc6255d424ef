"""The command ``flask apikey limits``."""

import math

import click
from flask.cli import FlaskGroup, with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.application import api_keys
from flask_apikey.cli.output import note, print_json, quota_left, show
from flask_apikey.cli.parameters import actor_option, json_option, key_id_argument, reason_option
from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.limits.rates import KeyLimits
from flask_apikey.core.text import visible

_EXAMPLES = """\b
Examples:
  flask apikey limits 8sQ2dKf0LmX7Tz1B
  flask apikey limits 8sQ2dKf0LmX7Tz1B --reset
  flask apikey limits 8sQ2dKf0LmX7Tz1B --add 5000 --reason invoice-42"""


@click.command("limits", epilog=_EXAMPLES)
@key_id_argument
@click.option("--reset", is_flag=True, help="Forget what was counted. Keys that share limits are reset together.")
@click.option("--add", type=int, metavar="NUMBER", help="Add to the quota of this period.")
@click.option("--every-period", is_flag=True, help="With --add: add to this period and to every one after it.")
@reason_option
@actor_option
@json_option
@with_appcontext
def limits_command(
    key_id: str, reset: bool, add: int | None, every_period: bool, reason: str | None, as_json: bool
) -> None:
    """Show the plan, the rates and the quota of a key, and what is left of them."""
    if reset and add is not None:
        raise click.UsageError("--reset and --add exclude each other")
    if add is None and (every_period or reason is not None):
        raise click.UsageError("--every-period and --reason need --add")
    is_hidden = _counts_elsewhere()
    limits = _limits(key_id, reset=reset, add=add, every_period=every_period, reason=reason, is_hidden=is_hidden)
    if as_json:
        print_json(_json(limits, is_hidden=is_hidden))
        return
    rows = [("plan", limits.plan or "none")]
    for window in limits.windows:
        left = f"{window.remaining} left"
        if window.resets_in:
            left += f", more in {math.ceil(window.resets_in)} s"
        rows.append((str(window.rate), "counted by each process" if is_hidden else left))
    quota = limits.quota
    if quota is not None:
        rows.append((quota.quota, quota_left(quota)))
    width = max(len(title) for title, _ in rows)
    for title, value in rows:
        show(f"{title:<{width}}  {visible(value)}")
    if not limits.windows and quota is None:
        note("The key has no limits.")
    if (limits.windows and limits.is_shared) or (quota is not None and quota.is_shared):
        note("All keys of the owner on this plan share what is the plan's.")


def _limits(
    key_id: str, *, reset: bool, add: int | None, every_period: bool, reason: str | None, is_hidden: bool
) -> KeyLimits:
    if add is not None:
        return api_keys().add_quota(key_id, add, every_period=every_period, reason=reason)
    limits = api_keys().limits(key_id)
    if not reset:
        return limits
    if is_hidden and limits.windows:
        problem = (
            "each process of the server counts rates in its own memory, which this command cannot reset: restart the "
            "server, or set APIKEY_RATE_STORAGE_URI"
        )
        if limits.quota is None:
            raise ConfigurationError(problem)
        note(f"Only the quota is reset: {problem}.")
    return api_keys().reset_limits(key_id)


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
