"""The APIKeys of the application that the command runs for."""

from datetime import datetime, timedelta

import click
from flask import current_app

from flask_apikey.current import EXTENSION_NAME
from flask_apikey.extension import APIKeys
from flask_apikey.state import ApplicationState


def state() -> ApplicationState:
    """What the application has.

    Raises:
        click.ClickException: It has no APIKeys.
    """
    found: ApplicationState | None = current_app.extensions.get(EXTENSION_NAME)
    if found is None:
        raise click.ClickException(
            f"the application {current_app.import_name!r} has no APIKeys: call api_keys.init_app(app) where it is made"
        )
    return found


def api_keys() -> APIKeys:
    """The extension object."""
    return state().extension


def now() -> datetime:
    """The present moment by the application's clock."""
    return state().clock()


def ago(duration: timedelta) -> datetime:
    """The moment so long before the present one.

    Raises:
        click.UsageError: There is none.
    """
    try:
        return now() - duration
    except OverflowError:
        raise click.UsageError("that is too long ago") from None
