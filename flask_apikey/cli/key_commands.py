"""Commands for one key or a list of keys."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import click
from flask.cli import with_appcontext

from flask_apikey.app_state import current_application_state
from flask_apikey.cli import parameters
from flask_apikey.cli.application import api_keys, now, resolved, unless_none
from flask_apikey.cli.failures import confirm
from flask_apikey.cli.output import (
    json_record,
    note,
    print_issued,
    print_json,
    print_json_list,
    print_record,
    print_table,
    refuse_closed_output,
    show,
)
from flask_apikey.cli.parameters import actor_option, json_option, key_id_argument, reason_option
from flask_apikey.cli.pasted_keys import ADOPTED_ADVICE, id_of_pasted, read_key
from flask_apikey.core.errors import APIKeyError, StorageError
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.keys.lifecycle import UNSET, Lifetime
from flask_apikey.core.limits.quotas import QuotaStatus
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.storage.contract import EventFilter
from flask_apikey.core.usage.last_use import KeyLastUse, last_uses_of
from flask_apikey.problems import problem_code

_LIST_LIMIT = 100
_PAGE = 500
_UNDECIDED = 3
_CLEARABLE = {"owner", "plan", "rate", "quota"}

_CREATE_EXAMPLES = """\b
Examples:
  flask apikey create ci --scope reports:read --lifetime 90d > key.txt
  flask apikey create "nightly export" --owner team-7 --allow-ip 10.0.0.0/8"""
_LIST_EXAMPLES = """\b
Examples:
  flask apikey list --owner team-7 --status active
  flask apikey list --search export --newest-first
  flask apikey list --unused-for 90d --json"""
_UPDATE_EXAMPLES = """\b
Examples:
  flask apikey update 8sQ2dKf0LmX7Tz1B --expires 30d
  flask apikey update 8sQ2dKf0LmX7Tz1B --scope reports:read --scope reports:write"""


@click.command("create", epilog=_CREATE_EXAMPLES)
@click.argument("name")
@click.option("--owner", help="Id of the user or tenant who owns the key.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="Scope of the key; '*' means every scope, 'a:*' every scope below a. Repeatable.",
)
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
@click.option("--plan", help="Name of a plan in APIKEY_PLANS. [default: the plan of the owner, if there is one]")
@click.option(
    "--rate", metavar="RATE", help="Rate in place of the plan's, such as 60/minute or '60/minute; 1000/hour'."
)
@click.option("--quota", metavar="QUOTA", help="Quota in place of the plan's, such as 10000/month.")
@reason_option
@actor_option
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
    plan: str | None,
    rate: str | None,
    quota: str | None,
    reason: str | None,
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
        plan=plan,
        rate=rate,
        quota=quota,
        reason=reason,
    )
    _warn_about_scopes(scopes)
    print_issued(issued, now(), as_json=as_json)


@click.command("list", epilog=_LIST_EXAMPLES)
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
@click.option(
    "--unused-for",
    type=parameters.duration,
    metavar="DURATION",
    help="List only active keys that are older than this time and were not used during it, such as 90d.",
)
@click.option(
    "--search",
    metavar="TEXT",
    callback=id_of_pasted,
    help="List only keys with this text in their name, or at the beginning of their id, owner or a scope. "
    "'-' reads it, or a whole key, from standard input.",
)
@click.option(
    "--adopted",
    is_flag=True,
    default=None,
    help="List only keys that still have a secret of another system, and when it was last used.",
)
@click.option("--newest-first", is_flag=True, help="List the newest key first.")
@click.option("--count", "only_count", is_flag=True, help="Print only the number of keys.")
@click.option(
    "--limit",
    type=parameters.limit,
    help=f"Maximum number of keys. [default: {_LIST_LIMIT} on a terminal, otherwise all]",
)
@click.option("--after", metavar="CURSOR", help="Continue from the cursor that an earlier listing printed.")
@json_option
@with_appcontext
def list_command(
    only_count: bool, limit: int | None, after: str | None, newest_first: bool, as_json: bool, **conditions: Any
) -> None:
    """List keys, oldest first."""
    conditions["owner"] = unless_none(conditions["owner"])
    _refuse_other_status(conditions)
    if only_count:
        if limit is not None or after is not None or newest_first:
            raise click.UsageError("--count cannot be combined with --limit, --after or --newest-first")
        number = api_keys().count(**conditions)
        if as_json:
            print_json({"count": number})
        else:
            show(str(number))
        return
    if limit is None and not as_json and sys.stdout is not None and sys.stdout.isatty():
        limit = _LIST_LIMIT
    found = api_keys().list(
        newest_first=newest_first, after=after, limit=None if limit is None else limit + 1, **conditions
    )
    page = _Page(found, limit)
    rows = _with_last_uses(page)
    if as_json:
        print_json_list("keys", (_json(*row) for row in rows), lambda: {"next": page.following})
        return
    print_table(rows, now(), adopted=bool(conditions["adopted"]))
    if page.is_empty:
        note("No keys." if after is None else "No more keys.")
        if conditions["search"] is not None and current_application_state().settings.adopted_forms:
            note(ADOPTED_ADVICE)
    if page.following is not None:
        note(f"More keys follow: add --after {page.following}")


def _refuse_other_status(conditions: Mapping[str, Any]) -> None:
    if conditions["status"] in {None, Status.ACTIVE.value}:
        return
    for name, option in (("expiring_within", "--expiring"), ("unused_for", "--unused-for")):
        if conditions[name] is not None:
            raise click.UsageError(
                f"{option} lists only active keys and cannot be combined with --status {conditions['status']}"
            )


class _Page:
    """At most `limit` of the records found.

    Attributes:
        is_empty: True if there is no record. Known after the iteration, like `following`.
        following: The cursor of the last record if more follow, else None.
    """

    def __init__(self, found: Iterable[APIKey], limit: int | None) -> None:
        self._found = found
        self._limit = limit
        self.is_empty = True
        self.following: str | None = None

    def __iter__(self) -> Iterator[APIKey]:
        cursor = None
        for position, record in enumerate(self._found):
            if position == self._limit:
                self.following = cursor
                return
            self.is_empty = False
            cursor = record.cursor
            yield record


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
@click.option("--plan", help="New plan; '' for the plan of the owner, if there is one.")
@click.option("--rate", metavar="RATE", help="New rate in place of the plan's; '' for that of the plan.")
@click.option("--quota", metavar="QUOTA", help="New quota in place of the plan's; '' for that of the plan.")
@click.option(
    "--expires",
    type=parameters.moment_or_ahead,
    metavar="DURATION|MOMENT",
    help="New expiry, such as 2027-01-31, or 30d from now.",
)
@click.option("--never-expires", is_flag=True, help="Remove the expiry.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation if the new expiry is in the past.")
@reason_option
@actor_option
@json_option
@with_appcontext
def update_command(key_id: str, as_json: bool, **options: Any) -> None:
    """Change the given fields of a key. Other fields stay as they are."""
    named = ("name", "metadata", "owner", "plan", "rate", "quota")
    given = {name: options[name] for name in named if options[name] is not None}
    # An empty option clears the field where it can be None.
    changes: dict[str, Any] = {name: value or (None if name in _CLEARABLE else value) for name, value in given.items()}
    if options["expires"] is not None:
        changes["expires_at"] = resolved(options["expires"])
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
    record = api_keys().update(key_id, **changes, reason=options["reason"])
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
    decision = api_keys().verify(read_key(), address=address)
    code = "valid" if decision.accepted else problem_code(decision)
    if as_json:
        record = None if decision.key is None else json_record(decision.key, now())
        print_json({"valid": decision.accepted, "code": code, "reason": decision.failure, "record": record})
    elif decision.failure is not None:
        note(f"{code}: {decision.failure}")
    elif decision.key is None:
        note(code)
    else:
        note(f"{code}: {decision.key.name} ({decision.key.id})")
    if decision.verdict is Verdict.ADDRESS_REFUSED and address is None and not as_json:
        note("The key is limited to certain addresses: pass one with --address.")
    if decision.verdict in {Verdict.UNAVAILABLE, Verdict.TAMPERED}:
        sys.exit(_UNDECIDED)
    sys.exit(0 if decision.accepted else 1)


@click.command("reveal")
@key_id_argument
@reason_option
@actor_option
@json_option
@with_appcontext
def reveal_command(key_id: str, reason: str | None, as_json: bool) -> None:
    """Print a key again. This needs APIKEY_RECOVERABLE, now and when the key was issued."""
    refuse_closed_output()
    failure_message = f"key {key_id} was revealed but could not be shown: reveal it again"
    if as_json:
        print_json({"id": key_id, "key": api_keys().reveal(key_id, reason=reason)}, failure_message=failure_message)
    else:
        show(api_keys().reveal(key_id, reason=reason), failure_message=failure_message)


def _with_last_uses(records: Iterable[APIKey]) -> Iterator[tuple[APIKey, KeyLastUse | None]]:
    state = current_application_state()
    storage = None if state.settings.usage == "off" else state.backend.usage
    remaining = iter(records)
    while page := list(islice(remaining, _PAGE)):
        last_uses: Mapping[str, KeyLastUse] = {}
        if storage is not None:
            try:
                last_uses = last_uses_of(storage, page)
            except StorageError as exc:
                # A failure to read usage must not hide the keys: the user may be looking for one to revoke.
                note(f"Last uses cannot be read: {exc}")
                storage = None
        yield from ((record, last_uses.get(record.id)) for record in page)


def _json(record: APIKey, last_use: KeyLastUse | None) -> dict[str, Any]:
    uses = KeyLastUse() if last_use is None else last_use
    return {**json_record(record, now()), "last_use_known": last_use is not None, **uses.to_dict()}


def _lifetime(lifetime: timedelta | str | None) -> Lifetime:
    if lifetime is None:
        return UNSET
    return None if isinstance(lifetime, str) else lifetime


def _confirm_expiry(key_id: str, expires_at: datetime) -> None:
    record = api_keys().get(key_id)
    if expires_at <= now() and not record.has_ended(now()):
        confirm(f"This time is past: {record.name!r} ({record.id}) expires at once. Continue?")


def _warn_about_scopes(scopes: Sequence[str]) -> None:
    for scope in scopes:
        if "," in scope:
            note(f"scope {scope!r} has a comma: for several scopes, repeat --scope")


def _print(record: APIKey, *, as_json: bool) -> None:
    ((_, last_use),) = _with_last_uses([record])
    quota = _quota(record)
    if as_json:
        left = None if quota is None else quota.remaining
        print_json({**_json(record, last_use), "quota_remaining": left, "changed_by": _changed_by(record)})
    else:
        print_record(record, now(), last_use, quota=quota, changed_by=_changed_by(record))


def _quota(record: APIKey) -> QuotaStatus | None:
    try:
        return current_application_state().enforcement.rate_check.quota_status(record)
    except APIKeyError as exc:
        # As with last uses: this must not hide the key.
        note(f"The quota cannot be read: {exc}")
        return None


def _changed_by(record: APIKey) -> str | None:
    """Return the actor of the last change; None if the storage does not tell."""
    history = current_application_state().backend.history
    if history is None:
        return None
    try:
        events = history.events(EventFilter(key_id=record.id), after=None, limit=1, newest_first=True)
    except StorageError as exc:
        # As with last uses: a failure to read the history must not hide the key.
        note(f"The history cannot be read: {exc}")
        return None
    return next((event.actor or "unknown" for event in events if event.number == record.version), None)
