"""The APIKeys of the application that the command runs for."""

from datetime import datetime, timedelta

import click

from flask_apikey.app_state import ApplicationState, current_application_state
from flask_apikey.extension import APIKeys


def state() -> ApplicationState:
    """What the application has."""
    return current_application_state()


def api_keys() -> APIKeys:
    """The extension object."""
    return state().extension


def now() -> datetime:
    """The present moment by the application's clock."""
    return state().clock()


def ahead(duration: timedelta) -> datetime:
    """The moment so long after the present one.

    Raises:
        click.UsageError: There is none.
    """
    try:
        return now() + duration
    except OverflowError:
        raise click.UsageError("that is too far ahead") from None


def ago(duration: timedelta) -> datetime:
    """The moment so long before the present one.

    Raises:
        click.UsageError: There is none.
    """
    try:
        return now() - duration
    except OverflowError:
        raise click.UsageError("that is too long ago") from None
