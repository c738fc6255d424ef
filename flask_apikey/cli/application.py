"""Access to the application that a command runs for."""

from datetime import datetime, timedelta
from typing import cast

import click

from flask_apikey.app_state import ApplicationState, current_application_state
from flask_apikey.extension import APIKeys


def state() -> ApplicationState:
    """Return the state of the current application."""
    return current_application_state()


def api_keys() -> APIKeys:
    """Return the extension of the current application."""
    return cast(APIKeys, state().extension)


def now() -> datetime:
    """Return the current time by the application's clock."""
    return state().clock()


def ahead(duration: timedelta) -> datetime:
    """Return the time that lies a duration in the future.

    Raises:
        click.UsageError: The time is too far ahead to be represented.
    """
    try:
        return now() + duration
    except OverflowError:
        raise click.UsageError("the time is too far ahead") from None


def ago(duration: timedelta) -> datetime:
    """Return the time that lies a duration in the past.

    Raises:
        click.UsageError: The time is too long ago to be represented.
    """
    try:
        return now() - duration
    except OverflowError:
        raise click.UsageError("the time is too long ago") from None
