"""The look-up of adopted keys: all ids that a presented string can have, in one query."""

from typing import NamedTuple

from flask_apikey.core.errors import SealUnreadable, StorageError
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.model.adopted_forms import KEY_LENGTH, AdoptedForms, AdoptionKey
from flask_apikey.core.model.history import ADOPTION_ID
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import FernetKeyring, SealedSecrets
from flask_apikey.core.storage.circuit import LookupCircuit

_ATTEMPTS = 3


class _Known(NamedTuple):
    """The row of the adoption key as it was last read, and the key in it."""

    row: StoredKey | None
    key: AdoptionKey


class AdoptedLookup:
    """Finds the row of a presented string, if it is an adopted key.

    Every string takes the same steps: its ids in all forms are asked for in one query, with the row
    of the adoption key, which another process may have made, restored or re-sealed since.

    Args:
        storage: The storage.
        keyring: Fernet keys.
        forms: Forms of keys that are accepted.
    """

    def __init__(self, storage: LookupCircuit, keyring: FernetKeyring, forms: AdoptedForms) -> None:
        self._storage = storage
        self._keyring = keyring
        self._forms = forms.names
        # Without a row there are no adopted keys, and a random key finds none.
        self._known = _Known(None, AdoptionKey.generate())

    def find(self, credentials: Credentials) -> StoredKey | None:
        """Return the row of a key or tombstone. The first form that has one counts.

        Raises:
            SealUnreadable: The configured Fernet keys do not open the row of the adoption key.
            RowTampered: That row does not fit its seal.
            StorageError: The storage failed.
        """
        for _ in range(_ATTEMPTS):
            known = self._known
            ids = known.key.ids_of(self._forms, credentials.digests_in(self._forms))
            rows = self._storage.get_many((ADOPTION_ID, *ids))
            row = rows.get(ADOPTION_ID)
            if row is known.row or row == known.row:
                return next((rows[key_id] for key_id in ids if key_id in rows), None)
            key = AdoptionKey.generate() if row is None else stored_adoption_key(row, self._keyring)
            self._known = _Known(row, key)
        raise StorageError(f"the row {ADOPTION_ID} changes all the time")

    def position(self, secrets: SealedSecrets, credentials: Credentials) -> int | None:
        """Return the position of a presented string among the secrets of a row, or None."""
        positions = [secrets.position(each) for each in credentials.digests_in(self._forms)]
        return next((position for position in positions if position is not None), None)


def stored_adoption_key(stored: StoredKey, keyring: FernetKeyring) -> AdoptionKey:
    """Return the adoption key in its row.

    Raises:
        SealUnreadable: The configured Fernet keys do not open the seal, or it holds no key.
        RowTampered: The seal does not fit the row.
    """
    secrets = secrets_of(stored, keyring)
    if stored.record.pruned_at is None or len(secrets.digests) != 1 or len(secrets.digests[0]) != KEY_LENGTH:
        raise SealUnreadable(f"the row {ADOPTION_ID} has lost what finds adopted keys: restore it from a backup")
    return AdoptionKey(secrets.digests[0])
