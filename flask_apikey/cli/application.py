"""Access to the application that a command runs for."""

from datetime import datetime, timedelta
from typing import cast

import click
from flask.cli import FlaskGroup

from flask_apikey.app_state import current_application_state
from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.keys.lifecycle import UNSET, Unset
from flask_apikey.core.storage.contract import Backend
from flask_apikey.extension import APIKeys


def api_keys() -> APIKeys:
    """Return the extension of the current application."""
    state = current_application_state()
    refuse_memory(state.backend)
    return cast(APIKeys, state.extension)


def refuse_memory(backend: Backend) -> None:
    """Raise if the keys of a backend would end with the command. A test runner outlives its commands."""
    if backend.is_in_memory and isinstance(click.get_current_context().find_root().command, FlaskGroup):
        raise ConfigurationError(
            "the storage is a database in memory, which ends with this command: "
            "set APIKEY_STORAGE_URI to a file or a server, such as sqlite:////var/lib/app/keys.db"
        )


def now() -> datetime:
    """Return the current time by the application's clock."""
    return current_application_state().clock()


def from_now(duration: timedelta) -> datetime:
    """Add a duration to the current time. A negative duration gives a past time."""
    try:
        return now() + duration
    except OverflowError:
        raise click.UsageError("the time is outside the years 1 to 9999") from None


def unless_none(value: str | None) -> str | Unset:
    """Return the value of an option, or `UNSET` if the option was not given."""
    return UNSET if value is None else value


def resolved(value: datetime | timedelta | None) -> datetime | None:
    """Convert a duration from now to a time. Other values stay as they are."""
    return from_now(value) if isinstance(value, timedelta) else value
