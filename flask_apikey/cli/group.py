"""The ``apikey`` group, which the entry point registers as a Flask command."""

import os
from typing import IO, Any

import click
from flask.cli import NoAppException

from flask_apikey.cli import (
    audit_command,
    copy_command,
    doctor_command,
    import_command,
    key_commands,
    limits_command,
    repair_command,
    revoke_command,
    roll_command,
    rotation_commands,
    scan_command,
    scanner_rules_command,
    storage_commands,
    suspend_commands,
    usage_command,
)
from flask_apikey.cli.failures import note_format, print_failure
from flask_apikey.core.errors import APIKeyError, ConfigurationError
from flask_apikey.core.text import redacted, visible


class CLIConfigurationError(ConfigurationError, NoAppException):
    """Wrong configuration in a process of the ``flask`` command.

    Every ``flask`` command shows a `NoAppException` without a traceback, ``flask run`` and ``flask --help`` among them.
    """

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the error without the usage of the command."""
        click.ClickException.show(self, file)


class OneLineFailures(click.Group):
    """Group that reports an error of the library in one line, with status 1.

    With ``--json``, standard output gets a JSON document with the error too. Keys that were
    passed by mistake are redacted in every error message.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse arguments, which may be wrong: note the format of errors first."""
        note_format(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and convert its errors to `click.ClickException`."""
        try:
            return super().invoke(ctx)
        except APIKeyError as exc:
            message = visible(redacted(str(exc)))
            print_failure(ctx, exc, message)
            raise click.ClickException(message) from exc
        except click.ClickException as exc:
            message = "\n".join(map(visible, redacted(exc.message).split("\n")))
            exc.message = message  # type: ignore[misc]  # declared final, but click shows it
            print_failure(ctx, exc, exc.format_message())
            raise


_EXIT_STATUS = """\b
Exit status:
  0  success
  1  refused or failed
  2  wrong usage
  3  verify could not decide, as while the storage is down"""

# The flask command imports this module before it loads the application.
ConfigurationError.raised_as = CLIConfigurationError


@click.group(
    "apikey", cls=OneLineFailures, epilog=_EXIT_STATUS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.pass_context
def apikey(ctx: click.Context) -> None:
    """Issue, check, limit, roll, suspend and revoke API keys.

    Secrets are printed alone on standard output, and notes on standard error. So
    'flask apikey create ci > key.txt' stores only the key.

    A DURATION is a whole number and a unit: 30s, 15m, 24h, 90d or 2w. A MOMENT is
    ISO 8601, such as 2027-01-31 or 2027-01-31T12:00:00+01:00. Its default zone is
    UTC.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


for command in (
    storage_commands.generate_fernet_key_command,
    storage_commands.init_command,
    key_commands.create_command,
    import_command.import_command,
    key_commands.list_command,
    key_commands.show_command,
    key_commands.update_command,
    limits_command.limits_command,
    suspend_commands.suspend_command,
    suspend_commands.resume_command,
    revoke_command.revoke_command,
    roll_command.roll_command,
    key_commands.verify_command,
    key_commands.reveal_command,
    usage_command.usage_command,
    scan_command.scan_command,
    scanner_rules_command.scanner_rules_command,
    rotation_commands.rotation_group,
    copy_command.copy_command,
    audit_command.audit_command,
    repair_command.repair_command,
    storage_commands.prune_command,
    doctor_command.doctor_command,
):
    apikey.add_command(command)
