"""Adopting keys that another system issued: their digests become secrets of our rows."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, InvalidValue
from flask_apikey.core.keys.lifecycle import UNSET, KeyLifecycle, Lifetime
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.adopted_forms import AdoptedForms, AdoptionKey, parse_digest
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.model.sealing import SealedSecrets
from flask_apikey.core.model.validation import checked_moment, checked_reason
from flask_apikey.core.times import Clock, utc_now


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

    def key_for(self, algorithm: str) -> AdoptionKey:
        """Return the key that derives ids, once for many keys.

        Raises:
            ConfigurationError: Keys of this form are not accepted.
        """
        if algorithm not in self._forms.names:
            known = self._forms.entries
            raise ConfigurationError(
                f"adopted keys of the form {algorithm!r:.60} would not be accepted: add it to APIKEY_ADOPTED_KEYS, "
                f"which has {', '.join(map(repr, known)) or 'none'}"
            )
        return self._repository.adoption_key()

    def prepared(
        self,
        key: AdoptionKey,
        *,
        digest: object,
        algorithm: str,
        lifetime: Lifetime = UNSET,
        expires_at: datetime | None = None,
        created_at: datetime | None = None,
        **attributes: object,
    ) -> Adoption:
        """Validate a key to adopt. Nothing is stored.

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
        secrets = SealedSecrets((parse_digest(algorithm, digest),))
        record = self._lifecycle.new_record(now, lifetime, None, attributes)
        record = replace(
            record,
            id=key.id_of(algorithm, secrets.digests[0]),
            adopted=algorithm,
            created_at=created_at,
            expires_at=expires_at or record.expires_at,
        )
        return Adoption(record, secrets)
