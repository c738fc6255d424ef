"""Adopting keys that another system issued: their digests become secrets of our rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, Conflict, InvalidValue
from flask_apikey.core.keys.lifecycle import UNSET, KeyLifecycle, Lifetime
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.adopted_forms import AdoptedForms, AdoptionKey, parse_digest
from flask_apikey.core.model.keys import APIKey, DamagedKey
from flask_apikey.core.model.sealing import SealedSecrets
from flask_apikey.core.model.validation import checked_moment, checked_reason
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.core.times import Clock, utc_now

_ATTEMPTS = 20
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Adoption:
    """A key to adopt, validated.

    Attributes:
        record: Its record.
        secrets: Its digest.
    """

    record: APIKey
    secrets: SealedSecrets = field(repr=False)


class KeyAdoption:
    """Adopts keys.

    Args:
        repository: The stored keys.
        lifecycle: Validates the attributes of new keys.
        forms: Forms of keys that are accepted.
        clock: Returns the present moment, in UTC.
    """

    def __init__(
        self, repository: KeyRepository, lifecycle: KeyLifecycle, forms: AdoptedForms, clock: Clock = utc_now
    ) -> None:
        self._repository = repository
        self._lifecycle = lifecycle
        self._forms = forms
        self._clock = clock

    def adopt(self, *, digest: object, algorithm: str, reason: str | None = None, **arguments: Any) -> APIKey:
        """Adopt a key; see `APIKeys.adopt`."""
        reason = checked_reason(reason)
        adoption = self.prepared(self.key_for(algorithm), digest=digest, algorithm=algorithm, **arguments)
        try:
            self._repository.add(adoption.record, adoption.secrets, reason=reason)
        except AlreadyExists:
            raise AlreadyExists(
                f"this key was adopted before, with the id {adoption.record.id}, and stays as it is now"
            ) from None
        return adoption.record

    def new_of(self, adoptions: Sequence[Adoption]) -> list[Adoption]:
        """Return the keys that are not stored yet. Removed keys and damaged rows count as stored."""
        stored = set()
        for start in range(0, len(adoptions), _PAGE):
            ids = frozenset(each.record.id for each in adoptions[start : start + _PAGE])
            for row in self._repository.scan(KeyFilter(ids=ids, pruned=None)):
                stored.add(row.id if isinstance(row, DamagedKey) else row.record.id)
        return [each for each in adoptions if each.record.id not in stored]

    def add_new(self, adoptions: Sequence[Adoption], *, reason: str | None = None) -> int:
        """Store the keys that are not stored yet, in one operation, and return their number. Others stay as they are.

        Raises:
            Conflict: Every attempt met others that adopt the same keys.
        """
        for _ in range(_ATTEMPTS):
            new = self.new_of(adoptions)
            try:
                if new:
                    self._repository.add_many([(each.record, each.secrets) for each in new], reason=reason)
            except AlreadyExists:
                continue
            return len(new)
        raise Conflict(f"others adopted the same keys on each of {_ATTEMPTS} attempts: repeat the import")

    def key_for(self, algorithm: str, *, dry_run: bool = False) -> AdoptionKey:
        """Return the key that derives ids, once for many keys. With `dry_run`, a missing one is not stored.

        Raises:
            ConfigurationError: Keys of this form are not accepted.
        """
        if algorithm not in self._forms.names:
            known = self._forms.entries
            raise ConfigurationError(
                f"adopted keys of the form {algorithm!r:.60} would not be accepted: add it to APIKEY_ADOPTED_KEYS, "
                f"which has {', '.join(map(repr, known)) or 'none'}"
            )
        return self._repository.adoption_key(dry_run=dry_run)

    def prepared(
        self,
        key: AdoptionKey,
        *,
        digest: object,
        algorithm: str,
        lifetime: Lifetime = UNSET,
        expires_at: datetime | None = None,
        created_at: datetime | None = None,
        revoked_at: datetime | None = None,
        **attributes: object,
    ) -> Adoption:
        """Validate a key to adopt, which may be revoked. Nothing is stored.

        Raises:
            InvalidValue: A value cannot be stored.
        """
        now = self._clock()
        if expires_at is not None:
            if lifetime is not UNSET:
                raise InvalidValue("lifetime and expires_at exclude each other")
            # It may have passed: the key then stays expired.
            expires_at, lifetime = checked_moment(expires_at, "expires_at"), None
        created_at = now if created_at is None else checked_moment(created_at, "created_at")
        if created_at > now:
            raise InvalidValue("created_at must not be in the future")
        if revoked_at is not None and revoked_at > now:
            raise InvalidValue("revoked must not be in the future")
        secrets = SealedSecrets((parse_digest(algorithm, digest),))
        record = self._lifecycle.new_record(now, lifetime, None, attributes)
        record = replace(
            record,
            id=key.id_of(algorithm, secrets.digests[0]),
            adopted=algorithm,
            created_at=created_at,
            expires_at=expires_at or record.expires_at,
            revoked_at=revoked_at,
        )
        return Adoption(record, secrets)
