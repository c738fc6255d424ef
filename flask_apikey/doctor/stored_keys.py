"""Checks of the stored keys."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from flask_apikey.core.errors import RowTampered, SealUnreadable
from flask_apikey.core.keys.verification import KeyVerifier, Problem
from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.model.keys import APIKey, DamagedKey, Status, StoredKey
from flask_apikey.core.model.scopes import uncovered
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.chains import all_chains
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.core.times import in_words
from flask_apikey.doctor.findings import MAX_DETAILS, Finding, ok, problem, warning
from flask_apikey.request.protected_views import InventoriedView

MAX_KEYS = 50_000
"""Maximum number of keys read, unless the caller says less."""

MAX_EVENTS = 200_000
"""Maximum number of events read."""


@dataclass(slots=True)
class StoredKeys:
    """Summary of the stored keys.

    Attributes:
        active: Number of active keys.
        scopes: Scopes of active keys.
        expiring: Number of active keys that expire soon.
        expiring_first: The first of them, for the details.
        seals: Number of keys by the fingerprint of their Fernet key.
        other_prefixes: Number of active keys by their prefix, where it is not accepted. No other attribute
            but `seals` counts them.
        plans: Number of active keys by their plan.
        damaged: Rows that do not hold valid values.
        tampered: Rows that do not fit their seal.
        outdated: Problems of rows whose history ends with another event.
        is_complete: False if there are more keys than were read. Counts are then of the first by id.
        is_history_complete: False if there are more than `MAX_EVENTS` events. Further keys are not compared.
    """

    active: int = 0
    scopes: set[str] = field(default_factory=set)
    expiring: int = 0
    expiring_first: list[APIKey] = field(default_factory=list)
    seals: Mapping[str, int] = field(default_factory=dict)
    other_prefixes: Counter[str] = field(default_factory=Counter)
    plans: Counter[str | None] = field(default_factory=Counter)
    damaged: list[DamagedKey] = field(default_factory=list)
    tampered: list[RowTampered] = field(default_factory=list)
    outdated: list[Problem] = field(default_factory=list)
    is_complete: bool = True
    is_history_complete: bool = True


def read_keys(
    backend: Backend,
    ring: FernetKeyring,
    *,
    accepted_prefixes: Collection[str],
    now: datetime,
    notice: timedelta,
    max_keys: int,
) -> StoredKeys:
    """Read and summarize up to `max_keys` stored keys. Those that expire within `notice` expire soon."""
    keys = StoredKeys()
    histories = _Histories(backend, ring, keys)
    seals = Counter[str]()
    for count, stored in enumerate(islice(backend.scan(KeyFilter()), max_keys + 1)):
        if count == max_keys:
            keys.is_complete = False
            break
        if isinstance(stored, DamagedKey):
            keys.damaged.append(stored)
            continue
        if _fits(stored, ring, keys):
            histories.compare(stored)
        seals[stored.seal.fingerprint] += 1
        record = stored.record
        if record.status(now) is not Status.ACTIVE:
            continue
        if record.prefix not in accepted_prefixes:
            keys.other_prefixes[record.prefix] += 1
            continue
        keys.active += 1
        keys.plans[record.plan] += 1
        keys.scopes |= record.scopes
        if record.expires_at is not None and record.expires_at <= now + notice:
            keys.expiring += 1
            if keys.expiring <= MAX_DETAILS:
                keys.expiring_first.append(record)
    keys.seals = seals
    if backend.rotation is not None:
        keys.seals = backend.rotation.count_seals()
    return keys


class _Histories:
    """Last events of keys, compared with their rows, which must be in the order of their ids."""

    def __init__(self, backend: Backend, ring: FernetKeyring, keys: StoredKeys) -> None:
        self._keys = keys
        self._verifier = None if backend.history is None else KeyVerifier(backend, ring)
        self._events = iter(()) if backend.history is None else islice(all_chains(backend.history), MAX_EVENTS + 1)
        self._read = 0
        self._advance()

    def compare(self, stored: StoredKey) -> None:
        """Compare the last event of a key with its row."""
        last = None
        while self._next is not None and self._next.key_id <= stored.record.id:
            if self._next.key_id == stored.record.id:
                last = self._next
            self._advance()
        if self._read > MAX_EVENTS:
            self._keys.is_history_complete = False
        elif self._verifier is not None and _end(last) != (stored.record.version, stored.history_hash):
            # Read again: another process may have changed the key in between.
            _, problems, _ = self._verifier.verify(stored.record.id, stored, () if last is None else [last])
            self._keys.outdated += problems[:1]

    def _advance(self) -> None:
        self._next = next(self._events, None)
        self._read += self._next is not None


def _end(last: LifecycleEvent | None) -> tuple[int, str]:
    return (0, "") if last is None else (last.number, last.hash)


def _fits(stored: StoredKey, ring: FernetKeyring, keys: StoredKeys) -> bool:
    try:
        secrets_of(stored, ring)
    except RowTampered as exc:
        keys.tampered.append(exc)
    except SealUnreadable:
        # Reported with the fingerprints of the seals.
        pass
    else:
        return True
    return False


def check_completeness(keys: StoredKeys, max_keys: int) -> Iterator[Finding]:
    """Report keys that were not read."""
    if not keys.is_complete:
        yield warning(
            "keys_not_all_read",
            f"Only the first {max_keys:,} keys were read.",
            "The findings about keys are limited to these. 'flask apikey audit --verify' reads all.",
        )
    elif not keys.is_history_complete:
        yield warning(
            "history_not_all_read",
            f"Only the first {MAX_EVENTS} events were compared with the rows of their keys.",
            "Use 'flask apikey audit --verify', which reads all.",
        )


def check_damage(keys: StoredKeys) -> Iterator[Finding]:
    """Report rows and documents that cannot be read."""
    if keys.damaged:
        yield problem(
            "keys_damaged",
            f"Keys with a damaged row: {len(keys.damaged)}. Requests with them get 503, and a rotation cannot finish "
            "if it has to re-seal one.",
            "Find out who wrote to the database. Correct the row there, or revoke the key: 'flask apikey revoke ID'.",
            details=tuple({"key_id": key.id, "message": key.problem} for key in keys.damaged[:MAX_DETAILS]),
        )
    if keys.tampered:
        yield problem(
            "keys_tampered",
            f"Keys whose row does not fit its seal: {len(keys.tampered)}. Their rows were changed outside of this "
            "library. Requests with them get 503.",
            "Find out who wrote to the database. Then revoke the key, or accept its row as it stands with "
            "'flask apikey repair ID'.",
            details=tuple(
                {"key_id": each.key_id, "changed": ", ".join(each.fields)} for each in keys.tampered[:MAX_DETAILS]
            ),
        )
    if keys.outdated:
        yield problem(
            "keys_outdated",
            f"Keys whose row is not at the end of their history: {len(keys.outdated)}. An older row was put back, or "
            "events were added or removed. Requests do not notice this.",
            "Find out who wrote to the database, and look at 'flask apikey audit --key ID'. Then revoke the key, or "
            "accept its row as it stands with 'flask apikey repair ID'.",
            details=tuple({"key_id": each.key_id, "message": each.message} for each in keys.outdated[:MAX_DETAILS]),
        )


def check_prefixes(keys: StoredKeys) -> Iterator[Finding]:
    """Report active keys that this application does not accept because of their prefix."""
    if keys.other_prefixes:
        yield warning(
            "keys_of_other_prefix",
            f"Active keys with a prefix that is not accepted here: {keys.other_prefixes.total()}.",
            "If they belong to another application on the same storage, nothing is wrong. Otherwise add their "
            "prefix to APIKEY_ACCEPTED_PREFIXES.",
            details=tuple(
                {"prefix": prefix, "keys": count} for prefix, count in keys.other_prefixes.most_common(MAX_DETAILS)
            ),
        )


def check_plans(keys: StoredKeys, known: Collection[str], fallback: str | None) -> Iterator[Finding]:
    """Report plans that active keys have and ``APIKEY_PLANS`` does not."""
    unknown = {plan: count for plan, count in keys.plans.items() if plan is not None and plan not in known}
    if unknown:
        report, effect = (problem, "get 503") if fallback is None else (warning, f"are limited as {fallback!r}")
        yield report(
            "plans_unknown",
            f"Active keys with a plan that APIKEY_PLANS does not have: {sum(unknown.values())}. Requests with them "
            f"{effect}.",
            "Add the plan, or give the keys another one: 'flask apikey update ID --plan NAME'.",
            details=tuple({"plan": plan, "keys": count} for plan, count in sorted(unknown.items())[:MAX_DETAILS]),
        )


def check_scopes(keys: StoredKeys, views: Iterable[InventoriedView]) -> Iterator[Finding]:
    """Report scopes that a view requires and no active key grants."""
    missing: dict[str, set[str]] = {}
    for view in views:
        for scope in uncovered(keys.scopes, view.requirement.scopes):
            missing.setdefault(scope, set()).add(view.endpoint)
        for alternatives in view.requirement.any_scope:
            if uncovered(keys.scopes, alternatives) == alternatives:
                missing.setdefault(f"one of {', '.join(sorted(alternatives))}", set()).add(view.endpoint)
    if missing:
        yield warning(
            "scopes_without_key",
            f"Scopes that views require and no active key has: {len(missing)}.",
            "Look for a misspelt scope, or issue a key with it.",
            details=tuple(
                {"scope": scope, "endpoints": ", ".join(sorted(missing[scope]))} for scope in sorted(missing)
            )[:MAX_DETAILS],
        )


def check_expiry(keys: StoredKeys, notice: timedelta) -> Iterator[Finding]:
    """Report active keys that expire within the notice period."""
    period = in_words(notice)
    if keys.expiring:
        yield warning(
            "keys_expiring",
            f"Keys that expire within {period}: {keys.expiring}.",
            "Issue new keys in time, or postpone their expiry with 'flask apikey update ID --expires MOMENT'.",
            details=tuple(
                {"key_id": record.id, "name": record.name, "expires_at": record.expires_at.isoformat()}
                for record in keys.expiring_first
                if record.expires_at is not None
            ),
        )
    elif notice:
        yield ok("keys", f"Active keys: {keys.active}. None of them expires within {period}.")
    else:
        yield ok("keys", f"Active keys: {keys.active}. Their expiry is not checked: APIKEY_EXPIRY_NOTICE is 0.")
