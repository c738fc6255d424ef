"""Commands for one key or a list of keys."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli import parameters
from flask_apikey.cli.application import api_keys, now, resolved
from flask_apikey.cli.output import (
    json_record,
    note,
    print_issued,
    print_json,
    print_record,
    print_table,
    refuse_closed_output,
    show,
)
from flask_apikey.cli.parameters import json_option, key_id_argument
from flask_apikey.core.errors import StorageError
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.keys.lifecycle import UNSET, Lifetime
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.usage.last_use import KeyLastUse, last_uses_of
from flask_apikey.problems import problem_code

_LIST_LIMIT = 100
_MAX_LINE = 4096
_UNDECIDED = 3

_CREATE_EXAMPLES = """\b
Examples:
  flask apikey create ci --scope reports:read --lifetime 90d > key.txt
  flask apikey create "nightly export" --owner team-7 --allow-ip 10.0.0.0/8"""
_UPDATE_EXAMPLES = """\b
Examples:
  flask apikey update 8sQ2dKf0LmX7Tz1B --expires 30d
  flask apikey update 8sQ2dKf0LmX7Tz1B --scope reports:read --scope reports:write"""


@click.command("create", epilog=_CREATE_EXAMPLES)
@click.argument("name")
@click.option("--owner", help="Id of the user or tenant who owns the key.")
@click.option("--scope", "scopes", multiple=True, help="Scope of the key; '*' means every scope. Repeatable.")
@click.option(
    "--lifetime",
    type=parameters.lifetime,
    metavar="DURATION|never",
    help="Time until the key expires, such as 90d. [default: APIKEY_LIFETIME]",
)
@click.option(
    "--expires",
    type=parameters.moment_or_ahead,
    metavar="DURATION|MOMENT",
    help="Instead of --lifetime: when the key expires, such as 2027-01-31, or 30d from now.",
)
@click.option(
    "--allow-ip",
    "allowed_ips",
    multiple=True,
    help="Address or network allowed to use the key; all others are refused. Repeatable.",
)
@click.option(
    "--deny-ip", "denied_ips", multiple=True, help="Address or network denied the use of the key. Repeatable."
)
@click.option(
    "--metadata",
    type=parameters.metadata,
    metavar="JSON",
    default="{}",
    show_default=True,
    help="JSON object for your own use.",
)
@json_option
@with_appcontext
def create_command(
    name: str,
    owner: str | None,
    scopes: tuple[str, ...],
    lifetime: timedelta | str | None,
    expires: datetime | timedelta | None,
    allowed_ips: tuple[str, ...],
    denied_ips: tuple[str, ...],
    metadata: dict[str, Any],
    as_json: bool,
) -> None:
    """Issue a new key. The key is shown only once."""
    if lifetime is not None and expires is not None:
        raise click.UsageError("--lifetime and --expires cannot be combined")
    refuse_closed_output()
    issued = api_keys().create(
        name=name,
        owner=owner,
        scopes=scopes,
        lifetime=_lifetime(lifetime),
        expires_at=resolved(expires),
        allowed_ips=allowed_ips,
        denied_ips=denied_ips,
        metadata=metadata,
    )
    _warn_about_scopes(scopes)
    print_issued(issued, now(), as_json=as_json)


@click.command("list")
@click.option("--owner", help="List only keys of this owner.")
@click.option(
    "--status", type=click.Choice([status.value for status in Status]), help="List only keys with this status."
)
@click.option(
    "--expiring",
    "expiring_within",
    type=parameters.duration,
    metavar="DURATION",
    help="List only active keys that expire within this time, such as 14d.",
)
@click.option("--limit", type=parameters.limit, default=_LIST_LIMIT, show_default=True, help="Maximum number of keys.")
@click.option("--after", metavar="CURSOR", help="Continue from the cursor that an earlier listing printed.")
@json_option
@with_appcontext
def list_command(
    owner: str | None,
    status: str | None,
    expiring_within: timedelta | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List keys, oldest first."""
    if expiring_within is not None and status not in {None, Status.ACTIVE.value}:
        raise click.UsageError(f"--expiring lists only active keys and cannot be combined with --status {status}")
    found = api_keys().list(owner=owner, status=status, expiring_within=expiring_within, after=after, limit=limit + 1)
    records = list(found)
    following = records[limit - 1].cursor if len(records) > limit else None
    records = records[:limit]
    last_uses = _last_uses(records)
    if as_json:
        keys = [{**json_record(record, now()), **_json_last_use(last_uses, record)} for record in records]
        print_json({"keys": keys, "next": following})
        return
    print_table(records, now(), last_uses)
    if not records:
        note("No keys." if after is None else "No more keys.")
    if following is not None:
        note(f"More keys follow: add --after {following}")


@click.command("show")
@key_id_argument
@json_option
@with_appcontext
def show_command(key_id: str, as_json: bool) -> None:
    """Show one key."""
    _print(api_keys().get(key_id), as_json=as_json)


@click.command("update", epilog=_UPDATE_EXAMPLES)
@key_id_argument
@click.option("--name", help="New name.")
@click.option("--owner", help="New owner; '' for no owner.")
@click.option("--scope", "scopes", multiple=True, help="New scope; replaces all scopes. Repeatable.")
@click.option("--no-scopes", is_flag=True, help="Remove all scopes.")
@click.option(
    "--allow-ip",
    "allowed_ips",
    multiple=True,
    help="New allowed address or network; replaces the allow list. Repeatable.",
)
@click.option("--allow-any-ip", is_flag=True, help="Empty the allow list, so that all addresses are allowed.")
@click.option(
    "--deny-ip", "denied_ips", multiple=True, help="New denied address or network; replaces the deny list. Repeatable."
)
@click.option("--deny-no-ip", is_flag=True, help="Empty the deny list.")
@click.option("--metadata", type=parameters.metadata, metavar="JSON", help="New JSON object; replaces the stored one.")
@click.option(
    "--expires",
    type=parameters.moment_or_ahead,
    metavar="DURATION|MOMENT",
    help="New expiry, such as 2027-01-31, or 30d from now.",
)
@click.option("--never-expires", is_flag=True, help="Remove the expiry.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation if the new expiry is in the past.")
@json_option
@with_appcontext
def update_command(key_id: str, as_json: bool, **options: Any) -> None:
    """Change the given fields of a key. Other fields stay as they are."""
    changes = {name: options[name] for name in ("name", "metadata") if options[name] is not None}
    if options["expires"] is not None:
        changes["expires_at"] = resolved(options["expires"])
    if options["owner"] is not None:
        changes["owner"] = options["owner"] or None
    for name, clear in (("scopes", "no_scopes"), ("allowed_ips", "allow_any_ip"), ("denied_ips", "deny_no_ip")):
        if options[name] and options[clear]:
            raise click.UsageError(
                f"--{clear.replace('_', '-')} cannot be combined with the option that sets the same list"
            )
        if options[name] or options[clear]:
            changes[name] = options[name]
    if options["never_expires"]:
        if "expires_at" in changes:
            raise click.UsageError("--never-expires and --expires cannot be combined")
        changes["expires_at"] = None
    if not changes:
        raise click.UsageError("pass at least one field to change")
    if changes.get("expires_at") and not options["yes"]:
        _confirm_expiry(key_id, changes["expires_at"])
    record = api_keys().update(key_id, **changes)
    _warn_about_scopes(options["scopes"])
    _print(record, as_json=as_json)


@click.command("verify", epilog="Example: flask apikey verify < key.txt")
@click.option(
    "--address", type=parameters.address, help="Address of the caller, for keys limited to certain addresses."
)
@json_option
@with_appcontext
def verify_command(address: str | None, as_json: bool) -> None:
    """Check a key that is read from standard input.

    The key is not an argument, because other users of the machine can read
    arguments. The exit status is 0 if the key is accepted, 1 if it is refused, and
    3 if this cannot be decided, as while the storage is down.
    """
    decision = api_keys().verify(_read_key(), address=address)
    code = "valid" if decision.accepted else problem_code(decision)
    if as_json:
        record = None if decision.key is None else json_record(decision.key, now())
        print_json({"valid": decision.accepted, "code": code, "key": record, "reason": decision.failure})
    elif decision.key is None:
        note(code if decision.failure is None else f"{code}: {decision.failure}")
    else:
        note(f"{code}: {decision.key.name} ({decision.key.id})")
    if decision.verdict is Verdict.ADDRESS_REFUSED and address is None and not as_json:
        note("The key is limited to certain addresses: pass one with --address.")
    if decision.verdict in {Verdict.UNAVAILABLE, Verdict.TAMPERED}:
        sys.exit(_UNDECIDED)
    sys.exit(0 if decision.accepted else 1)


@click.command("reveal")
@key_id_argument
@json_option
@with_appcontext
def reveal_command(key_id: str, as_json: bool) -> None:
    """Print a key again. This needs APIKEY_RECOVERABLE, now and when the key was issued."""
    refuse_closed_output()
    key = api_keys().reveal(key_id)
    failure_message = f"key {key_id} was revealed but could not be shown: reveal it again"
    if as_json:
        print_json({"id": key_id, "key": key}, failure_message=failure_message)
    else:
        show(key, failure_message=failure_message)


def _last_uses(records: Sequence[APIKey]) -> Mapping[str, KeyLastUse] | None:
    state = current_application_state()
    storage = state.backend.usage
    if storage is None or state.settings.usage == "off":
        return None
    try:
        return last_uses_of(storage, records)
    except StorageError as exc:
        # A failure to read usage must not hide the keys: the user may be looking for one to revoke.
        note(f"Last uses cannot be read: {exc}")
        return None


def _json_last_use(last_uses: Mapping[str, KeyLastUse] | None, record: APIKey) -> dict[str, Any]:
    return {} if last_uses is None else last_uses[record.id].to_dict()


def _read_key() -> str:
    if sys.stdin is None:
        raise click.ClickException("standard input is closed: pass the key there")
    if sys.stdin.isatty():
        return click.prompt("Paste the key", default="", show_default=False, hide_input=True, err=True).strip()
    # Bytes that are not UTF-8 must be refused as an invalid key, not fail with a traceback.
    return sys.stdin.buffer.readline(_MAX_LINE).decode(errors="replace").strip()


def _lifetime(lifetime: timedelta | str | None) -> Lifetime:
    if lifetime is None:
        return UNSET
    return None if isinstance(lifetime, str) else lifetime


def _confirm_expiry(key_id: str, expires_at: datetime) -> None:
    record = api_keys().get(key_id)
    if expires_at <= now() and record.status(now()) is Status.ACTIVE:
        click.confirm(
            f"This time is past: {record.name!r} ({record.id}) expires at once. Continue?", abort=True, err=True
        )


def _warn_about_scopes(scopes: Sequence[str]) -> None:
    for scope in scopes:
        if "," in scope:
            note(f"scope {scope!r} has a comma: for several scopes, repeat --scope")
        if "*" in scope and scope != "*":
            note(f"scope {scope!r} is taken literally: only '*' alone means every scope")


def _print(record: APIKey, *, as_json: bool) -> None:
    last_uses = _last_uses([record])
    if as_json:
        print_json({**json_record(record, now()), **_json_last_use(last_uses, record)})
    else:
        print_record(record, now(), None if last_uses is None else last_uses[record.id])
