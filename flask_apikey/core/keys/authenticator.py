"""The decision on a presented key."""

from datetime import datetime
from enum import Enum, auto
from typing import NamedTuple

from flask_apikey.core.addresses import Address, is_allowed
from flask_apikey.core.errors import SealUnreadable, StorageError
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.model import keystring
from flask_apikey.core.model.keys import APIKey, Status
from flask_apikey.core.model.sealing import DIGEST_LENGTH, FernetKeyring, Seal, SealedSecrets, digest
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import Clock, utc_now

MAX_PROOFS = 10_000


class Verdict(Enum):
    """What became of an attempt. Only `errors` turns one into HTTP."""

    ACCEPTED = auto()
    MISSING = auto()
    INSECURE_TRANSPORT = auto()
    MALFORMED = auto()
    UNKNOWN = auto()
    WRONG_SECRET = auto()
    REVOKED = auto()
    EXPIRED = auto()
    ADDRESS_REFUSED = auto()
    INSUFFICIENT_SCOPE = auto()
    UNAVAILABLE = auto()


class Decision(NamedTuple):
    """A verdict and the record it is about. True only if the key is accepted.

    Attributes:
        verdict: What became of the attempt.
        key: The record, once possession of its secret is proven.
        missing_scopes: Which scopes an `INSUFFICIENT_SCOPE` lacks.
        presented_id: The public id in what was presented, genuine or not.
        failure: What made the key impossible to check, for the log.
        position: Which secret of the key was presented, accepted or not: 0 for the newest, 1 for the one before, and
            so on.
        at: When an accepted key was decided on, in UTC.
    """

    verdict: Verdict
    key: APIKey | None = None
    missing_scopes: frozenset[str] = frozenset()
    presented_id: str | None = None
    failure: str | None = None
    position: int | None = None
    at: datetime | None = None

    def __bool__(self) -> bool:
        return self.verdict is Verdict.ACCEPTED

    @property
    def accepted(self) -> bool:
        """Whether the key opens what was asked."""
        return self.verdict is Verdict.ACCEPTED

    @property
    def ends_at(self) -> datetime | None:
        """When what was presented of an accepted key stops working, in UTC; None for never."""
        record = self.key
        if record is None:
            return None
        if not self.position:
            return record.expires_at
        end = record.previous_secrets_expire_at[self.position - 1]
        return end if record.expires_at is None else min(end, record.expires_at)


MISSING = Decision(Verdict.MISSING)
INSECURE_TRANSPORT = Decision(Verdict.INSECURE_TRANSPORT)
_MALFORMED = Decision(Verdict.MALFORMED)
_STATUS_VERDICTS = {Status.REVOKED: Verdict.REVOKED, Status.EXPIRED: Verdict.EXPIRED}


class _Proof(NamedTuple):
    """That a secret was found under a seal."""

    key_id: str
    token: str
    position: int


class Authenticator:
    """Decides on presented keys.

    An attempt without the secret costs one look-up and one unseal, whatever is
    wrong with it, and nothing is remembered of it. One with the secret is looked
    up likewise, but where its digest was found is remembered for as long as the
    stored seal stays the same, so that it is unsealed once in each process.

    Args:
        backend: Where the keys are kept.
        ring: The application's Fernet keys.
        clock: The present moment, in UTC.
    """

    def __init__(self, backend: Backend, ring: FernetKeyring, clock: Clock = utc_now) -> None:
        self._backend = backend
        self._ring = ring
        self._clock = clock
        self._decoy = ring.seal(SealedSecrets((bytes(DIGEST_LENGTH),)))
        self._proofs: dict[bytes, _Proof] = {}

    def authenticate(self, credentials: Credentials, address: Address | None) -> Decision:
        """Decide on what a caller at `address` presents."""
        key = credentials.key
        if key is None:
            return _MALFORMED
        presented = digest(key)
        # Who finds a proof here has a string with the digest of a genuine key, and so the key.
        proof = self._proofs.get(presented)
        if proof is None:
            parsed = keystring.parse(key)
            if parsed is None:
                return _MALFORMED
            key_id = parsed.id
        else:
            key_id = proof.key_id
        try:
            stored = self._backend.get(key_id)
            seal = self._decoy if stored is None else stored.seal
            if proof is not None and proof.token == seal.token:
                position: int | None = proof.position
            else:
                position = self._position(key_id, seal, presented)
        except (StorageError, SealUnreadable) as exc:
            return Decision(Verdict.UNAVAILABLE, presented_id=key_id, failure=str(exc))
        if stored is None:
            return Decision(Verdict.UNKNOWN, presented_id=key_id)
        return decide(stored.record, position, address, self._clock())

    def _position(self, key_id: str, seal: Seal, presented: bytes) -> int | None:
        position = self._ring.unseal(seal).position(presented)
        if position is not None:
            if len(self._proofs) >= MAX_PROOFS:
                self._proofs.clear()
            self._proofs[presented] = _Proof(key_id, seal.token, position)
        return position


def decide(record: APIKey, position: int | None, address: Address | None, now: datetime) -> Decision:
    """The decision over what was fetched.

    Args:
        record: The stored record.
        position: Which of its secrets was presented, newest first; None when none was.
        address: The caller's address.
        now: The present moment.
    """
    if position is None or (position and _has_ended(record, position, now)):
        return Decision(Verdict.WRONG_SECRET, presented_id=record.id)
    status = record.status(now)
    if status is not Status.ACTIVE:
        return Decision(_STATUS_VERDICTS[status], record, position=position)
    if (record.allowed_ips or record.denied_ips) and not is_allowed(address, record.allowed_ips, record.denied_ips):
        return Decision(Verdict.ADDRESS_REFUSED, record, position=position)
    return Decision(Verdict.ACCEPTED, record, position=position, at=now)


def _has_ended(record: APIKey, position: int, now: datetime) -> bool:
    return position > len(record.previous_secrets_expire_at) or record.previous_secrets_expire_at[position - 1] <= now


def require_scopes(decision: Decision, scopes: frozenset[str]) -> Decision:
    """The decision once the scopes of an accepted key are looked at too."""
    if decision.key is None or not decision.accepted:
        return decision
    missing = decision.key.missing_scopes(scopes)
    if not missing:
        return decision
    return Decision(Verdict.INSUFFICIENT_SCOPE, decision.key, missing, position=decision.position)
