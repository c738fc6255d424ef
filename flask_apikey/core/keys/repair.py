"""Accepting rows that do not fit their seal or their history. An operator decides; nothing else calls this."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from flask_apikey.core.errors import APIKeyError, InvalidValue, RowDamaged, SealUnreadable
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.history import (
    ACCEPTED_PROBLEMS,
    GENESIS,
    REPAIRED,
    ChainCheck,
    LifecycleEvent,
    is_number,
)
from flask_apikey.core.model.keys import APIKey, DamagedKey, StoredKey
from flask_apikey.core.model.sealed_rows import changed_fields
from flask_apikey.core.model.sealing import NO_SECRETS, FernetKeyring, SealedSecrets
from flask_apikey.core.model.validation import checked_fields, checked_owner, checked_reason
from flask_apikey.core.storage.chains import chain_of
from flask_apikey.core.storage.contract import HistoryStore, KeyFilter
from flask_apikey.core.times import EPOCH, Clock

MAX_FAILURES = 100
"""Maximum number of failures kept of a repair of many rows. All are counted."""

_CURE = "Correct it in the database, or revoke the key"
_MAX_NUMBER = 2**31 - 1
"""Largest version that every storage holds."""


@dataclass(frozen=True, slots=True)
class RepairedKey:
    """A row after its repair.

    Attributes:
        record: The record.
        fields: Fields that did not fit the seal.
        problem: Reason why the seal or the history did not hold, if there is another one than `fields`.
        key: New key string for the client, if the secrets were lost. It is not available again.
        is_changed: False if everything fitted, and nothing was written.
    """

    record: APIKey
    fields: tuple[str, ...] = ()
    problem: str | None = None
    key: str | None = field(default=None, repr=False)
    is_changed: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """A row as it stands, compared with its seal and its history.

    Attributes:
        stored: The row.
        fields: Fields that do not fit the seal.
        seal_problem: Reason why the seal cannot be used.
        history_problem: Reason why the history does not hold.
        secrets: The secrets; None if they are lost.
        number: Version of the row after its repair.
        previous: Hash of the last event that holds.
        accepted: Digest of the problems of the history before that event, if there are any.
        forged: Events after the last one that holds. The repair removes them.
    """

    stored: StoredKey
    fields: tuple[str, ...]
    seal_problem: str | None
    history_problem: str | None
    secrets: SealedSecrets | None
    number: int
    previous: str
    accepted: str | None
    forged: Sequence[LifecycleEvent]

    @property
    def fits(self) -> bool:
        """True if there is nothing to repair."""
        return not self.fields and self.seal_problem is None and self.history_problem is None

    @property
    def problem(self) -> str | None:
        """The problem of the seal or of the history."""
        return self.seal_problem or self.history_problem

    def issues_secret(self, now: datetime) -> bool:
        """Return True if the secrets are lost and the key needs a new one."""
        record = self.stored.record
        return self.secrets is None and record.pruned_at is None and not record.has_ended(now)


@dataclass(slots=True)
class BulkRepair:
    """Result of a repair of many rows, or its preview.

    Attributes:
        fitting: Number of rows that fit.
        repaired: Number of rows that were accepted, or would be.
        fields: Number of these rows by the field that did not fit.
        examples: The first of these rows, and the fields of each that did not fit.
        failed: Number of rows that could not be accepted.
        failures: Reason of the first failures, by the id of the row.
    """

    fitting: int = 0
    repaired: int = 0
    fields: dict[str, int] = field(default_factory=dict)
    examples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class KeyRepair:
    """Accepts rows as they stand, as a new version with an event in their history."""

    def __init__(
        self,
        repository: KeyRepository,
        keyring: FernetKeyring,
        history: HistoryStore | None,
        policy: IssuePolicy,
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._keyring = keyring
        self._history = history
        self._policy = policy
        self._clock = clock

    def inspect(self, key_id: str) -> Inspection:
        """Compare a row with its seal and its history.

        Raises:
            KeyNotFound: No row has this id.
            RowDamaged: The row does not hold valid values.
        """
        try:
            return self._inspected(self._repository.read(key_id))
        except RowDamaged as exc:
            raise RowDamaged(_advice(key_id, exc)) from None

    def accept(self, inspection: Inspection, reason: str | None = None) -> RepairedKey:
        """Accept a row as it was inspected.

        Raises:
            Conflict: The row was changed or removed since it was inspected.
            InvalidValue: A value of the row could not be stored by this library either.
        """
        reason = checked_reason(reason)
        stored = inspection.stored
        if inspection.fits:
            return RepairedKey(stored.record)
        _refuse_invalid(stored.record)
        now = self._clock()
        record = replace(stored.record, updated_at=now, version=inspection.number)
        secrets, issued = inspection.secrets or NO_SECRETS, None
        if record.pruned_at is not None:
            secrets = NO_SECRETS
        if inspection.issues_secret(now):
            record = replace(
                record, prefix=self._policy.prefix, rolled_at=now, previous_secrets_expire_at=(), adopted=None
            )
            issued = self._policy.issue(record)
            secrets = self._policy.secrets_of(issued)
        change = Change(record, REPAIRED, _details(inspection, has_new_secret=issued is not None), reason, secrets)
        accepted = self._repository.accept(stored, change, previous=inspection.previous)
        if self._history is not None:
            # They were read before the row was replaced, so none of them is that of a later change.
            self._history.remove(inspection.forged)
        key = None if issued is None else issued.key
        return RepairedKey(accepted.record, inspection.fields, inspection.problem, key, is_changed=True)

    def repair(self, key_id: str, *, reason: str | None = None) -> RepairedKey:
        """Accept a row as it stands; see `APIKeys.repair`."""
        return self.accept(self.inspect(key_id), reason)

    def repair_many(
        self,
        *,
        owner: str | None = None,
        reason: str | None = None,
        dry_run: bool = False,
        progress: Callable[[int], object] | None = None,
        max_examples: int = 20,
    ) -> BulkRepair:
        """Accept every row that does not fit its seal, or those of an owner. Failures are reported at the end.

        Rows whose secrets are lost are failures: their new secrets are shown one by one.
        """
        owner, reason = checked_owner(owner), checked_reason(reason)
        result = BulkRepair()
        for row in self._repository.scan(KeyFilter(owner=owner, pruned=None)):
            try:
                self._repair_one(row, result, reason, max_examples, dry_run=dry_run)
            except APIKeyError as exc:
                result.failed += 1
                if len(result.failures) < MAX_FAILURES:
                    result.failures[row.record.id if isinstance(row, StoredKey) else row.id] = str(exc)
            if progress is not None:
                progress(1)
        return result

    def _repair_one(
        self, row: StoredKey | DamagedKey, result: BulkRepair, reason: str | None, max_examples: int, *, dry_run: bool
    ) -> None:
        if isinstance(row, DamagedKey):
            raise RowDamaged(_advice(row.id, row.problem))
        fields, seal_problem, secrets = self._unsealed(row)
        if not fields and seal_problem is None:
            result.fitting += 1
            return
        if secrets is None and row.record.pruned_at is None:
            raise SealUnreadable(f"{seal_problem}: repair this key alone, which issues a new secret")
        if dry_run:
            _refuse_invalid(row.record)
        else:
            self.accept(self._inspected(row), reason)
        result.repaired += 1
        for name in fields:
            result.fields[name] = result.fields.get(name, 0) + 1
        if len(result.examples) < max_examples:
            result.examples[row.record.id] = fields

    def _inspected(self, stored: StoredKey) -> Inspection:
        fields, seal_problem, secrets = self._unsealed(stored)
        is_anchored = seal_problem is None and not {"version", "history_hash"} & set(fields)
        past = _Past(stored if is_anchored else None)
        accepted = None
        if self._history is not None:
            for event in chain_of(self._history, stored.record.id):
                past.add(event)
            accepted = past.accepted()
        return Inspection(
            stored=stored,
            fields=fields,
            seal_problem=seal_problem,
            history_problem=past.problem,
            secrets=secrets,
            number=past.number + 1,
            previous=past.hash,
            accepted=accepted,
            forged=past.forged,
        )

    def _unsealed(self, stored: StoredKey) -> tuple[tuple[str, ...], str | None, SealedSecrets | None]:
        """Return the fields that differ from the seal, the reason why it cannot be used, and its secrets."""
        try:
            content = self._keyring.unseal(stored.seal)
        except SealUnreadable as exc:
            return (), str(exc), None
        fields = changed_fields(stored, content)
        if "id" in fields:
            # The secrets of another key must not open this one.
            return (), "the seal is that of another row", None
        return fields, None, content.secrets


class _Past:
    """Events of a row: those that hold, and those behind them.

    Args:
        anchor: The row, if its seal vouches for its version and its history hash.

    Attributes:
        number: Number of the last event that holds; 0 for none.
        hash: Its hash.
        problem: First problem of the events.
    """

    def __init__(self, anchor: StoredKey | None) -> None:
        self.number = 0
        self.hash = GENESIS
        self.problem: str | None = None
        self._anchor = anchor
        self._behind: list[LifecycleEvent] = []
        self._strays: list[LifecycleEvent] = []
        self._check = ChainCheck()
        if anchor is not None:
            self.number, self.hash = anchor.record.version, anchor.history_hash or GENESIS

    @property
    def forged(self) -> Sequence[LifecycleEvent]:
        """Events behind the last one that holds, and those with a number that no event has."""
        return [*self._strays, *self._behind]

    def add(self, event: LifecycleEvent) -> None:
        if not is_number(event.number) or event.number < 1:
            self._strays.append(event)
        elif self._anchor is None:
            self._add_unanchored(event)
        elif event.number <= self._anchor.record.version:
            self._check.add(event)
        elif (event.number, event.previous) == (self.number + 1, self.hash) and self._holds(event):
            # An older row was put back.
            self._check.add(event)
            self._end_at(event)
        else:
            self._behind.append(event)

    def accepted(self) -> str | None:
        """Return the digest of the problems that the next event has to accept, and set `problem`."""
        if self._anchor is not None:
            self._check.add(self._next_event())
        if self.problem is None and self._check.problem is not None:
            self.problem = self._check.problem[1]
        elif self._anchor is not None and self.number > self._anchor.record.version:
            self.problem = f"an older row was put back: its history goes on to event {self.number}"
        elif self.forged:
            self.problem = f"event {self.forged[0].number!r:.20} was added"
        return self._check.digest if self._anchor is not None and self._check.problem is not None else None

    def _add_unanchored(self, event: LifecycleEvent) -> None:
        self._check.add(event)
        if self._check.problem is None and self._holds(event):
            self._behind.clear()
            self._end_at(event)
        else:
            self._behind.append(event)

    def _holds(self, event: LifecycleEvent) -> bool:
        return event.is_intact and event.number < _MAX_NUMBER

    def _end_at(self, event: LifecycleEvent) -> None:
        self.number, self.hash = event.number, event.hash

    def _next_event(self) -> LifecycleEvent:
        at = self._anchor.record.updated_at if self._anchor is not None else EPOCH
        return LifecycleEvent(key_id="", number=self.number + 1, at=at, event=REPAIRED, previous=self.hash)


def _details(inspection: Inspection, *, has_new_secret: bool) -> dict[str, object]:
    details: dict[str, object] = {"fields": list(inspection.fields)}
    if inspection.seal_problem is not None:
        details["seal"] = inspection.seal_problem
    if inspection.history_problem is not None:
        details["history"] = inspection.history_problem
    if inspection.accepted is not None:
        details[ACCEPTED_PROBLEMS] = inspection.accepted
    if inspection.forged:
        details["events_removed"] = len(inspection.forged)
    if has_new_secret:
        details["new_secret"] = True
    return details


def _refuse_invalid(record: APIKey) -> None:
    """Raise `InvalidValue` for values that this library would not store."""
    if record.pruned_at is not None:
        return
    try:
        checked_fields(
            {
                "name": record.name,
                "owner": record.owner,
                "scopes": record.scopes,
                "allowed_ips": record.allowed_ips,
                "denied_ips": record.denied_ips,
                "plan": record.plan,
                "rate": record.rate,
                "quota": record.quota,
                "metadata": record.metadata,
            }
        )
    except InvalidValue as exc:
        raise InvalidValue(f"the row of key {record.id} cannot be accepted: {exc}. {_CURE}") from None


def _advice(key_id: str, problem: object) -> str:
    return f"{problem}: it cannot be accepted. {_CURE}: 'flask apikey revoke {key_id}'"
