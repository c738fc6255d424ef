"""Adopting keys that another system issued: their digests become secrets of our rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flask_apikey.core.errors import AlreadyExists, ConfigurationError, Conflict, InvalidValue
from flask_apikey.core.keys.lifecycle import UNSET, KeyLifecycle, Lifetime
from flask_apikey.core.keys.repository import Change, KeyRepository
from flask_apikey.core.model.adopted_form import AdoptedForm, is_reserved, pack, unpack
from flask_apikey.core.model.adopted_forms import AdoptedForms, AdoptionKey
from flask_apikey.core.model.history import ADOPTED_REPLACED
from flask_apikey.core.model.keys import APIKey, DamagedKey, StoredKey
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
        adoption = self.prepared(self.form(algorithm), self.key(), digest=digest, **arguments)
        try:
            self._repository.add(adoption.record, adoption.secrets, reason=reason)
        except AlreadyExists:
            raise AlreadyExists(
                f"this key was adopted before, with the id {adoption.record.id}, and stays as it is now"
            ) from None
        return adoption.record

    def replace_secret(self, stored: StoredKey, value: bytes) -> None:
        """Store another value of the adopted secret of a key, as its form returned it.

        Raises:
            Conflict: The key was changed since it was read. Nothing was written.
        """
        *newer, adopted = self._repository.secrets_of(stored).digests
        locator, _ = unpack(adopted)
        secrets = SealedSecrets((*newer, pack(locator, value)), self._repository.secrets_of(stored).key)
        self._repository.write(stored, Change(stored.record, ADOPTED_REPLACED, secrets=secrets))

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

    def form(self, name: str) -> AdoptedForm:
        """Return the form with a name.

        Raises:
            ConfigurationError: Keys of this form are not accepted.
        """
        form = self._forms.forms.get(name)
        if form is None:
            known = (each if isinstance(each, str) else each.name for each in self._forms.entries)
            raise ConfigurationError(
                f"adopted keys of the form {name!r:.60} would not be accepted: add it to APIKEY_ADOPTED_KEYS, "
                f"which has {', '.join(map(repr, known)) or 'none'}"
            )
        return form

    def key(self, *, dry_run: bool = False) -> AdoptionKey:
        """Return the key that derives ids, once for many keys. With `dry_run`, a missing one is not stored."""
        return self._repository.adoption_key(dry_run=dry_run)

    def prepared(
        self,
        form: AdoptedForm,
        key: AdoptionKey,
        *,
        digest: object,
        visible: str | None = None,
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
        locator, value = form.parse(digest, visible)
        if is_reserved(value):
            raise InvalidValue("digest is not of another system: it begins like a value of this library")
        secrets = SealedSecrets((pack(locator, value),))
        fields: dict[str, object] = {
            "id": key.id_of(form.name, locator),
            "adopted": form.name,
            "created_at": created_at,
            "revoked_at": revoked_at,
        }
        if expires_at is not None:
            fields["expires_at"] = expires_at
        return Adoption(self._lifecycle.new_record(now, lifetime, None, attributes, fields), secrets)
