"""Leaked secrets: the state of each, and how it ends."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial

from flask_apikey.core.errors import RowTampered, SealUnreadable
from flask_apikey.core.keys.authenticator import Verdict, decide
from flask_apikey.core.keys.grace import without_secret
from flask_apikey.core.keys.lifecycle import KeyLifecycle
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model.history import REVOKED, SECRETS_ENDED, SUSPENDED
from flask_apikey.core.model.keys import APIKey, DamagedKey, StoredKey
from flask_apikey.core.model.sealed_rows import changed_fields
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.model.validation import checked_reason
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import Clock

_PAGE = 500


class LeakState(Enum):
    """State of a leaked secret."""

    LIVE = "live"
    PREVIOUS_SECRET = "previous_secret"  # noqa: S105  # a state
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    REVOKED = "revoked"
    TAMPERED = "tampered"
    WRONG_SECRET = "wrong_secret"  # noqa: S105  # a state
    UNKNOWN = "unknown"
    UNDECIDED = "undecided"


_OPENING = {LeakState.LIVE, LeakState.PREVIOUS_SECRET, LeakState.SUSPENDED, LeakState.TAMPERED}
_UNPROVEN = {LeakState.WRONG_SECRET, LeakState.UNKNOWN, LeakState.UNDECIDED}
_STATES = {
    Verdict.REVOKED: LeakState.REVOKED,
    Verdict.EXPIRED: LeakState.EXPIRED,
    Verdict.SUSPENDED: LeakState.SUSPENDED,
    Verdict.WRONG_SECRET: LeakState.WRONG_SECRET,
}


class Ending(Enum):
    """Result of ending a leaked secret."""

    KEY_REVOKED = "key_revoked"
    SECRET_ENDED = "secret_ended"  # noqa: S105  # a result
    KEY_SUSPENDED = "key_suspended"


_ENDINGS = {REVOKED: Ending.KEY_REVOKED, SECRETS_ENDED: Ending.SECRET_ENDED, SUSPENDED: Ending.KEY_SUSPENDED}


@dataclass(frozen=True, slots=True)
class Leak:
    """Key string that was found somewhere, without its secret.

    Attributes:
        key_id: Public id in the key string.
        digest: SHA-256 of the key string.
    """

    key_id: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LeakedSecret:
    """State of a leaked secret.

    Attributes:
        state: The state.
        record: Record of its key; None unless the secret is one of the key.
        position: Position of the secret: 0 is the newest.
        problem: Reason why the state is undecided, for an operator.
    """

    state: LeakState
    record: APIKey | None = None
    position: int | None = None
    problem: str | None = None

    @property
    def is_genuine(self) -> bool:
        """True if the secret is, or was, one of the key."""
        return self.state not in _UNPROVEN

    @property
    def is_live(self) -> bool:
        """True if the secret works, or works again once its key is resumed or repaired."""
        return self.state in _OPENING

    @property
    def is_endable(self) -> bool:
        """True if the secret is live, or works again with a later expiry of its key."""
        return self.is_live or self.state is LeakState.EXPIRED


_UNKNOWN = LeakedSecret(LeakState.UNKNOWN)


class LeakedSecrets:
    """Looks up leaked secrets and ends them.

    Args:
        repository: The stored keys.
        lifecycle: Revokes rows that do not fit their seal.
        keyring: Fernet keys.
        clock: Returns the current time.
        accepted_prefixes: Keys with other prefixes are unknown.
    """

    def __init__(
        self,
        repository: KeyRepository,
        lifecycle: KeyLifecycle,
        keyring: FernetKeyring,
        clock: Clock,
        accepted_prefixes: Iterable[str],
    ) -> None:
        self._repository = repository
        self._lifecycle = lifecycle
        self._keyring = keyring
        self._clock = clock
        self._accepted_prefixes = frozenset(accepted_prefixes)

    def look_up(self, leaks: Iterable[Leak]) -> Mapping[Leak, LeakedSecret]:
        """Return the state of each leaked secret. Several hundred are looked up in one statement."""
        by_id: dict[str, list[Leak]] = {}
        states: dict[Leak, LeakedSecret] = {}
        for leak in leaks:
            by_id.setdefault(leak.key_id, []).append(leak)
            states[leak] = _UNKNOWN
        for row in self._rows(list(by_id)):
            key_id = row.id if isinstance(row, DamagedKey) else row.record.id
            for leak in by_id[key_id]:
                states[leak] = self._state(row, leak)
        return states

    def end(self, leak: Leak, *, suspend: bool = False, reason: str | None = None) -> tuple[APIKey, Ending | None]:
        """End a leaked secret for good, as the key stands at the moment.

        A previous secret ends alone. The newest secret ends with its key, and so with all other
        secrets: a key without a newest secret does not exist. A secret that has ended, or is none
        of the key, changes nothing.

        Args:
            leak: The secret.
            suspend: Suspend the key instead of revoking it.
            reason: Explanation for the history.

        Returns:
            The record, and what was done; None for nothing.

        Raises:
            KeyNotFound: No key has this id.
            SealUnreadable: The configured Fernet keys do not open the seal.
            StorageError: The storage failed.
        """
        reason = checked_reason(reason)
        try:
            stored, change = self._repository.change(leak.key_id, partial(self._ended, leak, reason, suspend=suspend))
        except RowTampered:
            return self._revoke_tampered(leak, reason)
        return stored.record, None if change is None else _ENDINGS[change.event]

    def _rows(self, key_ids: list[str]) -> Iterator[StoredKey | DamagedKey]:
        for start in range(0, len(key_ids), _PAGE):
            page = frozenset(key_ids[start : start + _PAGE])
            for row in self._repository.scan(KeyFilter(ids=page)):
                # A backend may list damaged rows that it cannot compare.
                if not isinstance(row, DamagedKey) or row.id in page:
                    yield row

    def _state(self, row: StoredKey | DamagedKey, leak: Leak) -> LeakedSecret:
        if isinstance(row, DamagedKey):
            return LeakedSecret(LeakState.UNDECIDED, problem=f"the row of key {row.id} is damaged")
        if row.record.prefix not in self._accepted_prefixes:
            return _UNKNOWN
        try:
            content = self._keyring.unseal(row.seal)
        except SealUnreadable as exc:
            return LeakedSecret(LeakState.UNDECIDED, problem=f"key {row.record.id}: {exc}")
        position = content.secrets.position(leak.digest)
        changed = () if position is None or row.record.revoked_at is not None else changed_fields(row, content)
        if changed:
            # The row opens nothing until somebody puts it right again.
            return LeakedSecret(LeakState.TAMPERED, row.record, position, str(RowTampered(row.record.id, changed)))
        decision = decide(row.record, position, None, self._clock())
        if decision.verdict in _STATES:
            return LeakedSecret(_STATES[decision.verdict], decision.key, decision.position)
        # Refused addresses are those of this process: elsewhere the key works.
        state = LeakState.PREVIOUS_SECRET if decision.position else LeakState.LIVE
        return LeakedSecret(state, decision.key, decision.position)

    def _ended(self, leak: Leak, reason: str | None, stored: StoredKey, *, suspend: bool) -> Change | None:
        record, now = stored.record, self._clock()
        secrets = self._repository.secrets_of(stored)
        position = secrets.position(leak.digest)
        ends = record.previous_secrets_expire_at
        if position is None or record.revoked_at is not None:
            return None
        if position:
            if position > len(ends) or ends[position - 1] <= now:
                return None
            record, secrets = without_secret(record, secrets, position)
            return Change(record, SECRETS_ENDED, reason=reason, secrets=secrets)
        if not suspend:
            # Also if it has expired: a later expiry would revive it.
            return Change(replace(record, revoked_at=now, revocation_reason=reason), REVOKED, reason=reason)
        if record.suspended_at is not None or record.has_ended(now):
            return None
        return Change(replace(record, suspended_at=now, suspension_reason=reason), SUSPENDED, reason=reason)

    def _revoke_tampered(self, leak: Leak, reason: str | None) -> tuple[APIKey, Ending | None]:
        """Revoke a row that does not fit its seal, which nothing else can change."""
        stored = self._repository.get(leak.key_id)
        position = self._keyring.unseal(stored.seal).secrets.position(leak.digest)
        if position is None or stored.record.revoked_at is not None:
            return stored.record, None
        return self._lifecycle.revoke(leak.key_id, reason=reason), Ending.KEY_REVOKED
