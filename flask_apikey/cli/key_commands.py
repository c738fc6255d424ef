"""The commands that are about one key or a listing of keys."""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.cli import parameters
from flask_apikey.cli.application import ahead, api_keys, now, state
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
from flask_apikey.core.keys.lifecycle import Default, Lifetime
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.storage.contract import KeepsUsage
from flask_apikey.core.usage.last_use import KeyLastUse, last_uses_of
from flask_apikey.problems import problem_code

_LIST_LIMIT = 100
_MAX_LINE = 4096
_UNDECIDED = 3


@click.command("create")
@click.argument("name")
@click.option("--owner", help="Id of the user or tenant it is for.")
@click.option(
    "--scope", "scopes", multiple=True, help="What it may be used for; repeat for several; '*' is everything."
)
@click.option(
    "--lifetime",
    type=parameters.lifetime,
    metavar="DURATION|never",
    help="Such as 90d, or never. [default: APIKEY_LIFETIME]",
)
@click.option(
    "--expires",
    type=parameters.moment_or_ahead,
    metavar="30d|MOMENT",
    help="In place of --lifetime: its end, such as 2027-01-31.",
)
@click.option("--allow-ip", "allowed_ips", multiple=True, help="Address or network that alone may use it; repeat.")
@click.option("--deny-ip", "denied_ips", multiple=True, help="Address or network that may not use it; repeat.")
@click.option(
    "--metadata",
    type=parameters.metadata,
    metavar="JSON",
    default="{}",
    show_default=True,
    help="JSON object of your own.",
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
    """Issue a new key. Its secret is printed now and never again."""
    if lifetime is not None and expires is not None:
        raise click.UsageError("--lifetime and --expires exclude each other")
    refuse_closed_output()
    issued = api_keys().create(
        name=name,
        owner=owner,
        scopes=scopes,
        lifetime=_chosen(lifetime),
        expires_at=_end(expires),
        allowed_ips=allowed_ips,
        denied_ips=denied_ips,
        metadata=metadata,
    )
    _note_unusual(scopes)
    print_issued(issued, now(), as_json=as_json)


@click.command("list")
@click.option("--owner", help="Only keys of this owner.")
@click.option("--status", type=click.Choice([status.value for status in Status]), help="Only keys with this status.")
@click.option(
    "--expiring",
    "expiring_within",
    type=parameters.duration,
    metavar="DURATION",
    help="Only keys that expire within it.",
)
@click.option("--limit", type=parameters.limit, default=_LIST_LIMIT, show_default=True, help="At most so many.")
@click.option("--after", metavar="CURSOR", help="Continue behind where an earlier listing stopped.")
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
        raise click.UsageError(f"--expiring is about active keys and contradicts --status {status}")
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
        note(f"There are more: add --after {following}")


@click.command("show")
@key_id_argument
@json_option
@with_appcontext
def show_command(key_id: str, as_json: bool) -> None:
    """Show what is known of a key."""
    record = api_keys().get(key_id)
    last_uses = _last_uses([record])
    if as_json:
        print_json({**json_record(record, now()), **_json_last_use(last_uses, record)})
    else:
        print_record(record, now(), None if last_uses is None else last_uses[record.id])


@click.command("update")
@key_id_argument
@click.option("--name", help="New name.")
@click.option("--owner", help="New owner; '' for none.")
@click.option("--scope", "scopes", multiple=True, help="New scopes in place of all; repeat for several.")
@click.option("--no-scopes", is_flag=True, help="Take all scopes away.")
@click.option("--allow-ip", "allowed_ips", multiple=True, help="New allow list in place of the old; repeat.")
@click.option("--allow-any-ip", is_flag=True, help="Empty the allow list.")
@click.option("--deny-ip", "denied_ips", multiple=True, help="New deny list in place of the old; repeat.")
@click.option("--deny-no-ip", is_flag=True, help="Empty the deny list.")
@click.option("--metadata", type=parameters.metadata, metavar="JSON", help="New JSON object in place of the old.")
@click.option(
    "--expires",
    type=parameters.moment_or_ahead,
    metavar="30d|MOMENT",
    help="New end, such as 2027-01-31; 30d is from now.",
)
@click.option("--never-expires", is_flag=True, help="Let it live for ever.")
@click.option("--yes", is_flag=True, help="Do not ask before an end that is past.")
@json_option
@with_appcontext
def update_command(key_id: str, as_json: bool, **options: Any) -> None:
    """Change what is named and nothing else."""
    changes = {name: options[name] for name in ("name", "metadata") if options[name] is not None}
    if options["expires"] is not None:
        changes["expires_at"] = _end(options["expires"])
    if options["owner"] is not None:
        changes["owner"] = options["owner"] or None
    for name, emptied_by in (("scopes", "no_scopes"), ("allowed_ips", "allow_any_ip"), ("denied_ips", "deny_no_ip")):
        if options[name] and options[emptied_by]:
            raise click.UsageError(f"--{emptied_by.replace('_', '-')} contradicts the option that sets the same list")
        if options[name] or options[emptied_by]:
            changes[name] = options[name]
    if options["never_expires"]:
        if "expires_at" in changes:
            raise click.UsageError("--never-expires contradicts --expires")
        changes["expires_at"] = None
    if not changes:
        raise click.UsageError("nothing to change was named")
    if changes.get("expires_at") and not options["yes"]:
        _confirm_end(key_id, changes["expires_at"])
    record = api_keys().update(key_id, **changes)
    _note_unusual(options["scopes"])
    _print(record, as_json=as_json)


@click.command("verify")
@click.option("--address", type=parameters.address, help="Decide as for a caller at this address.")
@json_option
@with_appcontext
def verify_command(address: str | None, as_json: bool) -> None:
    """Read a key from standard input and say whether it opens anything.

    It is not taken as an argument: those can be read by others on the machine.
    The exit status is 3 where nothing can be said, such as without the storage.
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
        note("The key is limited to certain addresses: name one with --address.")
    if decision.verdict is Verdict.UNAVAILABLE:
        sys.exit(_UNDECIDED)
    sys.exit(0 if decision.accepted else 1)


@click.command("reveal")
@key_id_argument
@json_option
@with_appcontext
def reveal_command(key_id: str, as_json: bool) -> None:
    """Print a key again. Works only for keys issued with APIKEY_RECOVERABLE."""
    refuse_closed_output()
    key = api_keys().reveal(key_id)
    otherwise = f"key {key_id} was revealed but could not be shown: reveal it again"
    if as_json:
        print_json({"id": key_id, "key": key}, otherwise=otherwise)
    else:
        show(key, otherwise=otherwise)


def _last_uses(records: Sequence[APIKey]) -> Mapping[str, KeyLastUse] | None:
    """The last uses by key id; None if they are unknown."""
    storage = state().backend
    if not isinstance(storage, KeepsUsage) or state().settings.usage == "off":
        return None
    try:
        return last_uses_of(storage, records)
    except StorageError as exc:
        # A key that must be revoked can be found without its last use.
        note(f"When keys were last used cannot be read: {exc}")
        return None


def _json_last_use(last_uses: Mapping[str, KeyLastUse] | None, record: APIKey) -> dict[str, Any]:
    return {} if last_uses is None else last_uses[record.id].to_dict()


def _read_key() -> str:
    if sys.stdin is None:
        raise click.ClickException("standard input is closed: give the key there")
    if sys.stdin.isatty():
        return click.prompt("Paste the key", default="", show_default=False, hide_input=True, err=True).strip()
    # Bytes that are no text are no key either, and shall be refused like one.
    return sys.stdin.buffer.readline(_MAX_LINE).decode(errors="replace").strip()


def _chosen(lifetime: timedelta | str | None) -> Lifetime:
    if lifetime is None:
        return Default.LIFETIME
    return None if isinstance(lifetime, str) else lifetime


def _end(given: datetime | timedelta | None) -> datetime | None:
    return ahead(given) if isinstance(given, timedelta) else given


def _confirm_end(key_id: str, expires_at: datetime) -> None:
    record = api_keys().get(key_id)
    if expires_at <= now() and record.status(now()) is Status.ACTIVE:
        click.confirm(f"That moment is past: {record.name!r} ({record.id}) ends at once. Go on?", abort=True, err=True)


def _note_unusual(scopes: Sequence[str]) -> None:
    for scope in scopes:
        if "," in scope:
            note(f"scope {scope!r} has a comma: for several scopes, repeat --scope")
        if "*" in scope and scope != "*":
            note(f"scope {scope!r} is taken literally: only '*' alone means every scope")


def _print(record: APIKey, *, as_json: bool) -> None:
    if as_json:
        print_json(json_record(record, now()))
    else:
        print_record(record, now())
