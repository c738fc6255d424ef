"""The look-up of adopted keys: all ids that a presented string can have, in one query."""

import hmac
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from flask_apikey.core.errors import RowTampered, SealUnreadable, StorageError, raise_alone
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.slow_checks import SlowChecks, TooManySlowChecks
from flask_apikey.core.model.adopted_form import (
    AdoptedForm,
    AdoptedMatch,
    MissingLibrary,
    is_key_of,
    is_proven,
    proven,
    unpack,
)
from flask_apikey.core.model.adopted_forms import KEY_LENGTH, AdoptedForms, AdoptionKey
from flask_apikey.core.model.history import ADOPTION_ID
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.sealed_rows import changed_fields, secrets_of
from flask_apikey.core.model.sealing import FernetKeyring, SealContent
from flask_apikey.core.storage.circuit import LookupCircuit

_ATTEMPTS = 3

# Nobody can adopt a key with the id that this gives.
_NOWHERE = secrets.token_bytes(KEY_LENGTH)


class FormFailed(StorageError):
    """A form of adopted keys raised an exception, so the key could not be checked."""


class AdoptedRow(NamedTuple):
    """The row of a presented string, and the form under which it was found."""

    stored: StoredKey
    form: AdoptedForm


class FoundSecret(NamedTuple):
    """A presented string that fits its row.

    Attributes:
        position: Position of its secret.
        match: Result of the form.
    """

    position: int
    match: AdoptedMatch


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
        self._forms = tuple(forms.forms.values())
        self._slow_checks = SlowChecks()
        # Without a row there are no adopted keys, and a random key finds none.
        self._known = _Known(None, AdoptionKey.generate())

    def find(self, credentials: Credentials) -> AdoptedRow | None:
        """Return the row of a key or tombstone. The first form that has one counts.

        Raises:
            SealUnreadable: The configured Fernet keys do not open the row of the adoption key.
            RowTampered: That row does not fit its seal.
            StorageError: The storage or a form failed.
        """
        for _ in range(_ATTEMPTS):
            known = self._known
            ids = tuple(known.key.id_of(form.name, _locator(form, credentials)) for form in self._forms)
            rows = self._storage.get_many((ADOPTION_ID, *ids))
            row = rows.get(ADOPTION_ID)
            if row is known.row or row == known.row:
                found = zip(ids, self._forms, strict=True)
                return next((AdoptedRow(rows[key_id], form) for key_id, form in found if key_id in rows), None)
            key = AdoptionKey.generate() if row is None else stored_adoption_key(row, self._keyring)
            self._known = _Known(row, key)
        raise StorageError(f"the row {ADOPTION_ID} changes all the time")

    def match(
        self,
        row: AdoptedRow,
        content: SealContent,
        credentials: Credentials,
        now: datetime,
        is_proven_now: Callable[[], bool],
    ) -> FoundSecret | None:
        """Compare a presented string with the adopted secret of its row, which is the oldest one.

        Args:
            row: The row.
            content: Content of its seal.
            credentials: The presented string.
            now: The present moment, in UTC.
            is_proven_now: Returns True if another request has compared the same string with the row since.

        Raises:
            RowTampered: The row has another form than its seal.
            StorageError: The form failed, or too many slow hashes are being checked.
        """
        try:
            return self._match(row, content, credentials, now, is_proven_now)
        except (RowTampered, TooManySlowChecks) as exc:
            failure: BaseException = exc
        except BaseException as exc:  # noqa: BLE001  # forms of others may raise anything
            failure = _failure(row.form, exc)
        return raise_alone(failure)

    def _match(
        self,
        row: AdoptedRow,
        content: SealContent,
        credentials: Credentials,
        now: datetime,
        is_proven_now: Callable[[], bool],
    ) -> FoundSecret | None:
        stored, form = row
        # None where the adopted secret ended, as in a revoked key.
        if stored.record.adopted not in {form.name, None}:
            changed = changed_fields(stored, content)
            if "adopted" in changed:
                raise RowTampered(stored.record.id, changed)
            return None
        position, key = len(content.secrets.digests) - 1, credentials.key or ""
        if position < 0:
            return None
        locator, value = unpack(content.secrets.digests[position])
        # A rolled key may only have secrets of this library left.
        if not hmac.compare_digest(form.find_by(key) or _NOWHERE, locator):
            return None
        match: AdoptedMatch | None
        if is_proven(value):
            match = AdoptedMatch() if is_key_of(key, value) else None
        elif not form.is_slow(value):
            match = form.verify(key, value, now)
        else:
            with self._slow_checks.admit(stored.record.id):
                match = AdoptedMatch() if is_proven_now() else form.verify(key, value, now)
            if match is not None and match.replacement is None:
                match = match._replace(replacement=proven(key))
        return None if match is None else FoundSecret(position, match)


def _locator(form: AdoptedForm, credentials: Credentials) -> bytes:
    """Return what finds the row of a presented string in a form, or what finds none."""
    try:
        return form.find_by(credentials.key or "") or _NOWHERE
    except BaseException as exc:  # noqa: BLE001  # forms of others may raise anything
        failure = _failure(form, exc)
    return raise_alone(failure)


def _failure(form: AdoptedForm, exc: BaseException) -> BaseException:
    """Return what to raise outside of the handler, so that it does not refer to frames that hold the key."""
    if not isinstance(exc, Exception):
        return exc
    # The text of the exception may quote the key.
    advice = f": {exc}" if isinstance(exc, MissingLibrary) else ""
    return FormFailed(f"the form {form.name!r} of adopted keys raised {type(exc).__name__}{advice}")


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
