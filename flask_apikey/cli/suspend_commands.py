"""The commands ``flask apikey suspend`` and ``flask apikey resume``."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli.application import api_keys, now
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import count, json_record, note, print_json
from flask_apikey.cli.parameters import actor_option, json_option, optional_key_id_argument, reason_option, yes_option
from flask_apikey.core.errors import KeyNotFound
from flask_apikey.core.keys.suspension import BulkSuspension
from flask_apikey.core.model.keys import APIKey
from flask_apikey.extension import APIKeys

_SUSPEND_EXAMPLES = """\b
Examples:
  flask apikey suspend 8sQ2dKf0LmX7Tz1B --reason "unusual traffic"
  flask apikey suspend --owner team-7 --reason "unpaid" --dry-run"""
_RESUME_EXAMPLES = """\b
Examples:
  flask apikey resume 8sQ2dKf0LmX7Tz1B
  flask apikey resume --owner team-7 --reason paid"""


@dataclass(frozen=True)
class _Action:
    """One of the two commands, and the methods that it calls."""

    verb: str
    participle: str
    label: str
    change: Callable[..., APIKey]
    change_many: Callable[..., BulkSuspension]
    unchanged: str


_SUSPEND = _Action(
    "Suspend",
    "suspended",
    "Suspending",
    APIKeys.suspend,
    APIKeys.suspend_many,
    "It was suspended before: nothing was changed.",
)
_RESUME = _Action(
    "Resume", "resumed", "Resuming", APIKeys.resume, APIKeys.resume_many, "It was not suspended: nothing was changed."
)

_dry_run_option = click.option("--dry-run", is_flag=True, help="With --owner: count keys and change nothing.")


@click.command("suspend", epilog=_SUSPEND_EXAMPLES)
@optional_key_id_argument
@click.option("--owner", help="Instead of ID: suspend all active keys of this owner.")
@_dry_run_option
@reason_option
@actor_option
@yes_option
@json_option
@with_appcontext
def suspend_command(
    key_id: str | None, owner: str | None, reason: str | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Refuse one key, or all keys of an owner, until they are resumed."""
    _run(_SUSPEND, key_id, owner, reason, dry_run=dry_run, yes=yes, as_json=as_json)


@click.command("resume", epilog=_RESUME_EXAMPLES)
@optional_key_id_argument
@click.option("--owner", help="Instead of ID: resume all suspended keys of this owner.")
@_dry_run_option
@reason_option
@actor_option
@yes_option
@json_option
@with_appcontext
def resume_command(
    key_id: str | None, owner: str | None, reason: str | None, dry_run: bool, yes: bool, as_json: bool
) -> None:
    """Accept suspended keys again: one, or all of an owner.

    With --owner, keys that were suspended one by one are resumed too.
    """
    _run(_RESUME, key_id, owner, reason, dry_run=dry_run, yes=yes, as_json=as_json)


def _run(
    action: _Action,
    key_id: str | None,
    owner: str | None,
    reason: str | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    if (owner is None) == (key_id is None):
        raise click.UsageError("pass either the ID of a key, or --owner")
    if owner is not None:
        _change_many(action, owner, reason, dry_run=dry_run, yes=yes, as_json=as_json)
        return
    if dry_run:
        raise click.UsageError("--dry-run needs --owner")
    record = api_keys().get(key_id or "")
    is_pending = (record.suspended_at is None) == (action is _SUSPEND)
    if is_pending and not yes and not record.has_ended(now()):
        confirm(f"{action.verb} {record.name!r} ({record.id})?")
    record = action.change(api_keys(), record.id, reason=reason)
    if as_json:
        print_json(json_record(record, now()))
    else:
        note(f"{record.name} ({record.id}) is {record.status(now()).value}.")
        if not is_pending:
            note(action.unchanged)
        if not is_pending and action is _RESUME and current_application_state().settings.check_owner:
            note("Its requests are refused with key_suspended too while its owner is inactive.")


def _change_many(action: _Action, owner: str, reason: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    found = action.change_many(api_keys(), owner=owner, reason=reason, dry_run=True)
    if not (found.changed or found.failed) and not any(api_keys().list(owner=owner, limit=1)):
        raise KeyNotFound(f"no key has the owner {owner!r}")
    done = BulkSuspension(failed=found.failed)
    if found.changed and not dry_run:
        if not yes:
            confirm(f"{action.verb} {count(found.changed, 'key')} of {owner!r}?")
        with click.progressbar(length=found.changed, label=action.label, file=sys.stderr) as bar:
            done = action.change_many(api_keys(), owner=owner, reason=reason, progress=lambda _: bar.update(1))
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "found": found.changed,
                action.participle: done.changed,
                "failed": len(done.failed),
                "failures": [{"key_id": key_id, "reason": "see the log"} for key_id in done.failed],
            }
        )
    else:
        result = found if dry_run else done
        note(f"Keys {'that would be ' if dry_run else ''}{action.participle}: {result.changed}.")
        if done.failed:
            note(f"Not {action.participle}, see the log: {', '.join(done.failed)}.")
    sys.exit(1 if done.failed else 0)
