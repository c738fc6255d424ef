"""Failures of commands: unanswered questions, and the JSON document of a failure."""

import re
from contextlib import suppress

import click

from flask_apikey.cli.output import has_output, print_json
from flask_apikey.core.errors import ConfigurationError

_AS_JSON = f"{__name__}.as_json"


class NotConfirmed(click.ClickException):
    """Question that was not answered with yes. Nothing was changed."""


def confirm(question: str) -> None:
    """Ask a question, and raise `NotConfirmed` unless the answer is yes."""
    try:
        is_confirmed = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)  # Ends the line of the question.
        is_confirmed = False
    if not is_confirmed:
        raise NotConfirmed("not confirmed, and nothing was changed; --yes confirms where nobody can answer")


def note_format(context: click.Context, arguments: list[str]) -> None:
    """Remember whether failures are to be printed as JSON, before the arguments are parsed."""
    context.meta[_AS_JSON] = "--json" in arguments


def print_failure(context: click.Context, failure: Exception, message: str) -> None:
    """Print a failure as JSON on standard output, if that was asked for and nothing was printed there yet."""
    if context.meta.get(_AS_JSON) and not has_output():
        with suppress(OSError, click.ClickException):
            print_json({"error": {"code": failure_code(failure), "message": message}})


def failure_code(failure: Exception) -> str:
    """Return the name of an exception in snake case, such as ``key_not_found``."""
    if isinstance(failure, ConfigurationError):
        return "configuration_error"
    if isinstance(failure, click.UsageError):
        return "usage_error"
    if type(failure) is click.ClickException:
        return "failed"
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(failure).__name__).lower()
