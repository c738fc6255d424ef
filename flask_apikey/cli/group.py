"""The group, registered as a Flask command by entry point."""

import os
from typing import Any

import click

from flask_apikey.cli import (
    audit_command,
    copy_command,
    doctor_command,
    key_commands,
    revoke_command,
    roll_command,
    rotation_commands,
    storage_commands,
    usage_command,
)
from flask_apikey.core.errors import APIKeyError
from flask_apikey.core.model.keystring import redacted


class OneLineFailures(click.Group):
    """Says what failed in one line, and exits with status 1. A key that was given by mistake is not repeated."""

    def invoke(self, ctx: click.Context) -> Any:
        """See ``click.Group.invoke``."""
        try:
            return super().invoke(ctx)
        except APIKeyError as exc:
            raise click.ClickException(redacted(str(exc))) from exc
        except click.ClickException as exc:
            exc.message = redacted(exc.message)  # type: ignore[misc]  # final to subclasses, and still what is shown
            raise


@click.group("apikey", cls=OneLineFailures, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def apikey(ctx: click.Context) -> None:
    """Issue, check, limit, roll and revoke API keys.

    Secrets are printed alone on standard output and notes on standard error, so
    that output can be piped. The exit status is 1 for a refusal or a failure, 2
    for wrong usage, and 3 where verify cannot decide.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False


for command in (
    storage_commands.generate_fernet_key_command,
    storage_commands.init_command,
    key_commands.create_command,
    key_commands.list_command,
    key_commands.show_command,
    key_commands.update_command,
    revoke_command.revoke_command,
    roll_command.roll_command,
    key_commands.verify_command,
    key_commands.reveal_command,
    usage_command.usage_command,
    rotation_commands.rotation_group,
    copy_command.copy_command,
    audit_command.audit_command,
    storage_commands.prune_command,
    doctor_command.doctor_command,
):
    apikey.add_command(command)
