"""The decision on a presented key."""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple

from flask_apikey.core.addresses import Address, is_allowed
from flask_apikey.core.errors import ConfigurationError, Conflict, RowTampered, described
from flask_apikey.core.keys.adopted_lookup import AdoptedLookup, AdoptedRow, FoundSecret
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.row_cache import RowCache
from flask_apikey.core.limits.attempts import FailedAttempts
from flask_apikey.core.model.adopted_form import AdoptedMatch
from flask_apikey.core.model.adopted_forms import AdoptedForms
from flask_apikey.core.model.keys import APIKey, Status, StoredKey
from flask_apikey.core.model.keystring import DEFAULT_PREFIX
from flask_apikey.core.model.sealed_rows import changed_fields, sealed_row
from flask_apikey.core.model.sealing import DIGEST_LENGTH, FernetKeyring, SealContent, SealedSecrets
from flask_apikey.core.storage.circuit import LookupCircuit
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.times import Clock, utc_now

MAX_PROOFS = 10_000
DEFAULT_TIMEOUT = timedelta(seconds=5)

REPLACEMENT_PERIOD = timedelta(minutes=1)
"""Time after which the adopted secret of a row is compared again, and replaced, if it could not be stored."""

_ATTEMPTS = 20


class Verdict(Enum):
    """Result of a check. `flask_apikey.problems` maps it to HTTP."""

    ACCEPTED = auto()
    MISSING = auto()
    INSECURE_TRANSPORT = auto()
    MALFORMED = auto()
    UNKNOWN = auto()
    WRONG_SECRET = auto()
    REVOKED = auto()
    EXPIRED = auto()
    SUSPENDED = auto()
    OWNER_INACTIVE = auto()
    ADDRESS_REFUSED = auto()
    TOO_MANY_FAILURES = auto()
    INSUFFICIENT_SCOPE = auto()
    RATE_LIMITED = auto()
    QUOTA_EXCEEDED = auto()
    TAMPERED = auto()
    UNAVAILABLE = auto()


class Decision(NamedTuple):
    """Decision on a presented key. True only if the key is accepted.

    Attributes:
        verdict: Result of the check.
        key: Record of the key; None until the caller has proven possession of its secret.
        missing_scopes: Required scopes that the key lacks.
        presented_id: Id in the presented string, which may be forged.
        presented_owner: Owner of the key with this id, while possession is not proven. For counting only.
        failure: Reason why the key could not be checked, for the log.
        position: Position of the presented secret: 0 is the newest, 1 the one before it.
        at: Time of the decision in UTC, if the key is accepted.
        missing_any_scope: Sets of scopes. The key needs a scope of each set and has none.
        required_scopes: Every scope that the failed check names.
        retry_after: Seconds after which another attempt may succeed, if there were too many.
        failed_part: The part that failed after the key was proven: ``plan``, ``rate_storage`` or
            ``quota_storage``; None for others.
    """

    verdict: Verdict
    key: APIKey | None = None
    missing_scopes: frozenset[str] = frozenset()
    presented_id: str | None = None
    presented_owner: str | None = None
    failure: str | None = None
    position: int | None = None
    at: datetime | None = None
    missing_any_scope: frozenset[frozenset[str]] = frozenset()
    required_scopes: frozenset[str] = frozenset()
    retry_after: int | None = None
    failed_part: str | None = None

    def __bool__(self) -> bool:
        return self.verdict is Verdict.ACCEPTED

    @property
    def accepted(self) -> bool:
        """True if the key is accepted."""
        return self.verdict is Verdict.ACCEPTED

    @property
    def ends_at(self) -> datetime | None:
        """Time at which the presented secret expires, in UTC; None if it does not expire."""
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
_FAILED_ATTEMPTS = (Verdict.MALFORMED, Verdict.UNKNOWN, Verdict.WRONG_SECRET)
_STATUS_VERDICTS = {
    Status.REVOKED: Verdict.REVOKED,
    Status.EXPIRED: Verdict.EXPIRED,
    Status.SUSPENDED: Verdict.SUSPENDED,
}


class _Proof(NamedTuple):
    """Cached position of a secret in a row whose seal fits, valid as long as exactly this row is stored.

    Attributes:
        stored: The row.
        position: The position.
        record: Record of the key, with the end of the secret if that is earlier.
        until: Time at which the secret must be compared again; None for no such time.
    """

    stored: StoredKey
    position: int
    record: APIKey
    until: datetime | None = None


def _keep_secret(_stored: StoredKey, _value: bytes) -> bool:
    """Replace nothing."""
    return False


class Authenticator:
    """Decides on presented keys.

    A failed attempt costs one look-up and one unseal, whatever is wrong with the
    key, and is never cached. For a proven key, the position of its secret is cached
    as long as the stored row stays the same: each process checks its seal once.

    Args:
        accepted_prefixes: A key with another prefix, as presented or as stored, is unknown.
        timeout: Time after which the storage gives up.
        adopted: Forms of keys from elsewhere that are accepted.
        replace_secret: Stores another value of the adopted secret of a row, and returns True if it is stored.
            Raises `Conflict` if the row was changed since it was read.
        make_cache: Makes the cache of the rows of proven keys; None to read the row on each request.
    """

    def __init__(
        self,
        backend: Backend,
        keyring: FernetKeyring,
        clock: Clock = utc_now,
        accepted_prefixes: Collection[str] = (DEFAULT_PREFIX,),
        timeout: timedelta = DEFAULT_TIMEOUT,
        *,
        adopted: AdoptedForms | None = None,
        replace_secret: Callable[[StoredKey, bytes], bool] = _keep_secret,
        make_cache: Callable[[LookupCircuit], RowCache] | None = None,
    ) -> None:
        self._storage = LookupCircuit(backend, timeout.total_seconds())
        self._rows = None if make_cache is None else make_cache(self._storage)
        self._keyring = keyring
        self._adopted = AdoptedLookup(self._storage, keyring, adopted) if adopted else None
        self._replace_secret = replace_secret
        self._clock = clock
        self._accepted_prefixes = frozenset(accepted_prefixes)
        now = clock()
        # With the fields that most keys have, so that its seal takes as long to check.
        decoy = APIKey(
            id="decoy",
            prefix="decoy",
            name="decoy",
            owner="decoy",
            scopes=frozenset({"decoy"}),
            created_at=now,
            updated_at=now,
            expires_at=now,
        )
        self._decoy = sealed_row(decoy, bytes(DIGEST_LENGTH).hex(), SealedSecrets((bytes(DIGEST_LENGTH),)), keyring)
        self._proofs: dict[bytes, _Proof] = {}

    def authenticate(
        self, credentials: Credentials, address: Address | None, attempts: FailedAttempts | None = None
    ) -> Decision:
        """Decide on the credentials of a caller at `address`.

        Args:
            credentials: What was presented.
            address: Address of the caller; None if it is unknown.
            attempts: Budget of failed attempts, which a proven key does not need. None for no budget.
        """
        decision = self._decide(credentials, address, attempts)
        if decision.verdict in _FAILED_ATTEMPTS:
            # A secret that no longer fits needs the budget like any other.
            self._proofs.pop(credentials.digest, None)
            if attempts is not None:
                attempts.count(address)
        return decision

    def _decide(self, credentials: Credentials, address: Address | None, attempts: FailedAttempts | None) -> Decision:
        for _ in range(_ATTEMPTS):
            try:
                return self._decide_once(credentials, address, attempts)
            except Conflict:
                # The row has changed since it was read, as when another token of it was pinned.
                continue
        return Decision(Verdict.UNAVAILABLE, failure="the row of the key changes all the time")

    def _decide_once(
        self, credentials: Credentials, address: Address | None, attempts: FailedAttempts | None
    ) -> Decision:
        # No local holds the key or its digest: error trackers report the locals of each frame.
        # Only the genuine key has a cached digest (SHA-256 preimage resistance), so a hit proves possession.
        proof = None if credentials.key is None else self._proof_of(credentials)
        if proof is None:
            refusal = self._refusal_without_lookup(credentials, address, attempts)
            if refusal is not None:
                return refusal
            parsed = credentials.parsed
            key_id = None if parsed is None else parsed.id
            is_accepted = parsed is None or parsed.prefix in self._accepted_prefixes
        else:
            key_id = proof.stored.record.id
            is_accepted = True
        try:
            stored, adopted = self._find(credentials, key_id, proof)
            # Backends return the same object for an unchanged row, so the comparison is cheap.
            if proof is not None and (proof.stored is stored or proof.stored == stored):
                return decide(proof.record, proof.position, address, self._clock())
            # After the look-up, so that a key of another environment takes as long as an unknown one.
            # Its Fernet key may not be configured here.
            row = stored if stored is not None and is_accepted else self._decoy
            found = self._proven_position(row, credentials, adopted)
        except ConfigurationError:
            raise
        except Exception as exc:  # noqa: BLE001  # backends of others may raise anything
            if isinstance(exc, RowTampered):
                return Decision(Verdict.TAMPERED, presented_id=exc.key_id, failure=described(exc))
            return Decision(Verdict.UNAVAILABLE, presented_id=key_id, failure=described(exc))
        if row.record.pruned_at is not None or row.record.prefix not in self._accepted_prefixes:
            return Decision(Verdict.UNKNOWN, presented_id=key_id)
        position, match = found or (None, AdoptedMatch())
        return self._replaced(row, match, decide(_ending(row.record, match), position, address, self._clock()))

    def _find(
        self, credentials: Credentials, key_id: str | None, proof: _Proof | None
    ) -> tuple[StoredKey | None, AdoptedRow | None]:
        if key_id is not None:
            stored = self._row(key_id, proof)
            if proof is None or proof.stored is stored or proof.stored == stored or credentials.parsed is not None:
                return stored, None
            # The row of an adopted key has changed: its form must compare the key again.
        adopted = self._adopted_row(credentials)
        return adopted and adopted.stored, adopted

    def _replaced(self, row: StoredKey, match: AdoptedMatch, decision: Decision) -> Decision:
        """Return the decision after storing what the form of an accepted key replaces.

        Raises:
            Conflict: The row was changed since it was read, so the form must decide again.
        """
        if match.replacement is None or not decision.accepted:
            return decision
        try:
            is_stored = self._replace_secret(row, match.replacement)
        except Conflict:
            if match.must_replace:
                raise
            return decision
        if match.must_replace and not is_stored:
            return Decision(Verdict.UNAVAILABLE, presented_id=row.record.id, failure="the key could not be pinned")
        return decision

    def _refusal_without_lookup(
        self, credentials: Credentials, address: Address | None, attempts: FailedAttempts | None
    ) -> Decision | None:
        if attempts is not None:
            # Before the key is parsed, which would be most of the work of such a refusal.
            retry_after = attempts.retry_after(address, lambda: self._needs_lookup(credentials))
            if retry_after is not None:
                return Decision(Verdict.TOO_MANY_FAILURES, retry_after=retry_after)
        return None if self._needs_lookup(credentials) else _MALFORMED

    def _needs_lookup(self, credentials: Credentials) -> bool:
        return credentials.parsed is not None or (self._adopted is not None and credentials.may_be_adopted)

    def _row(self, key_id: str, proof: _Proof | None) -> StoredKey | None:
        if proof is None or self._rows is None:
            return self._storage.get(key_id)
        return self._rows.get(proof.stored)

    def _adopted_row(self, credentials: Credentials) -> AdoptedRow | None:
        return None if self._adopted is None else self._adopted.find(credentials)

    def _proof_of(self, credentials: Credentials) -> _Proof | None:
        proof = self._proofs.get(credentials.digest)
        return None if proof is None or (proof.until is not None and proof.until <= self._clock()) else proof

    def _match(
        self, content: SealContent, credentials: Credentials, adopted: AdoptedRow | None, now: datetime
    ) -> FoundSecret | None:
        if self._adopted is None or adopted is None:
            position = content.secrets.position(credentials.digest)
            return None if position is None else FoundSecret(position, AdoptedMatch())

        def is_proven() -> bool:
            proof = self._proof_of(credentials)
            return proof is not None and proof.stored == adopted.stored

        return self._adopted.match(adopted, content, credentials, now, is_proven)

    def _proven_position(
        self, stored: StoredKey, credentials: Credentials, adopted: AdoptedRow | None
    ) -> FoundSecret | None:
        """Return the position of a secret in a row, or None if it is wrong.

        Raises:
            RowTampered: The secret is right, and the seal does not fit the row.
        """
        content, now = self._keyring.unseal(stored.seal), self._clock()
        found = self._match(content, credentials, adopted, now)
        if found is None:
            # Before the fields are compared: that takes longer, the more a row holds.
            return None
        changed = changed_fields(stored, content)
        if changed:
            raise RowTampered(stored.record.id, changed)
        if stored.record.prefix in self._accepted_prefixes and not found.match.must_replace:
            if len(self._proofs) >= MAX_PROOFS:
                self._proofs.clear()
            match = found.match
            until = match.until if match.replacement is None else now + REPLACEMENT_PERIOD
            if match.until is not None and until is not None:
                until = min(until, match.until)
            self._proofs[credentials.digest] = _Proof(stored, found.position, _ending(stored.record, match), until)
        return found


def _ending(record: APIKey, match: AdoptedMatch) -> APIKey:
    """Return the record with the end of the presented string, if that is earlier."""
    end = match.ends_at
    if end is None or (record.expires_at is not None and record.expires_at <= end):
        return record
    return replace(record, expires_at=end)


def decide(record: APIKey, position: int | None, address: Address | None, now: datetime) -> Decision:
    """Decide on a stored key, given the position of the presented secret; None if the secret is wrong."""
    if position is None or (position and _has_ended(record, position, now)):
        return Decision(Verdict.WRONG_SECRET, presented_id=record.id, presented_owner=record.owner)
    status = record.status(now)
    if status is not Status.ACTIVE:
        return Decision(_STATUS_VERDICTS[status], record, position=position)
    if (record.allowed_ips or record.denied_ips) and not is_allowed(address, record.allowed_ips, record.denied_ips):
        return Decision(Verdict.ADDRESS_REFUSED, record, position=position)
    return Decision(Verdict.ACCEPTED, record, position=position, at=now)


def _has_ended(record: APIKey, position: int, now: datetime) -> bool:
    return position > len(record.previous_secrets_expire_at) or record.previous_secrets_expire_at[position - 1] <= now


def require_scopes(
    decision: Decision, scopes: frozenset[str], any_scope: frozenset[frozenset[str]] = frozenset()
) -> Decision:
    """Return the decision after checking the scopes of an accepted key.

    Args:
        decision: The decision so far.
        scopes: The key must have them all.
        any_scope: The key must have a scope of each set.
    """
    record = decision.key
    if record is None or not decision.accepted:
        return decision
    missing = record.missing_scopes(scopes)
    missing_any = any_scope and frozenset(each for each in any_scope if record.missing_scopes(each) == each)
    if not missing and not missing_any:
        return decision
    return Decision(
        Verdict.INSUFFICIENT_SCOPE,
        record,
        missing,
        position=decision.position,
        missing_any_scope=missing_any,
        required_scopes=scopes.union(*any_scope),
    )
