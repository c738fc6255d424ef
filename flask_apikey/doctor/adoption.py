"""Checks of adopted keys."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from flask_apikey.core.errors import RowDamaged, RowTampered, SealUnreadable
from flask_apikey.core.keys.adopted_lookup import stored_adoption_key
from flask_apikey.core.model.adopted_form import unpack
from flask_apikey.core.model.adopted_forms import AdoptedForms, AdoptionKey
from flask_apikey.core.model.history import ADOPTION_ID
from flask_apikey.core.model.keys import APIKey, Status, StoredKey
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.storage.contract import Backend, KeyFilter
from flask_apikey.doctor.findings import MAX_DETAILS, Finding, ok, problem, warning
from flask_apikey.doctor.unpinned_keys import check_unpinned_keys


def check_adopted_keys(
    backend: Backend, ring: FernetKeyring, forms: AdoptedForms, now: datetime, *, max_keys: int
) -> Iterator[Finding]:
    """Check that adopted keys are found, and their forms accepted. At most `max_keys` are read."""
    stored = [row for row in islice(backend.scan(KeyFilter(adopted=True)), max_keys) if isinstance(row, StoredKey)]
    try:
        row = backend.get(ADOPTION_ID)
        key = None if row is None else stored_adoption_key(row, ring)
    except (RowDamaged, RowTampered, SealUnreadable) as exc:
        yield problem(
            "adoption_row_unusable",
            f"The row {ADOPTION_ID}, which finds adopted keys, cannot be used: {exc}. Requests with them get 503.",
            "Find out who wrote to the database, and restore the row from a backup.",
        )
        return
    if key is None:
        if stored:
            yield problem(
                "adoption_row_missing",
                f"The row {ADOPTION_ID}, which finds adopted keys, is missing. Requests with them get 401.",
                "Find out who wrote to the database, and restore the row from a backup.",
            )
        return
    lost = [row.record.id for row in stored if _is_lost(row, ring, key)]
    if lost:
        yield problem(
            "adopted_keys_lost",
            f"Adopted keys that no request finds: {len(lost)}. The row {ADOPTION_ID} is not the one they were stored "
            "with.",
            "Restore that row and the keys from the same backup.",
            details=tuple({"key_id": key_id} for key_id in lost[:MAX_DETAILS]),
        )
    yield from check_unpinned_keys(stored, ring, forms, now)
    counts = Counter(row.record.adopted or "" for row in stored)
    others = {form: count for form, count in counts.items() if form not in forms.names}
    if others:
        yield warning(
            "adopted_keys_not_accepted",
            f"Adopted keys of a form that is not accepted: {sum(others.values())}. Requests with them get 401.",
            "Add the form to APIKEY_ADOPTED_KEYS.",
            details=tuple({"form": form, "keys": count} for form, count in sorted(others.items())[:MAX_DETAILS]),
        )
    elif stored and not lost:
        active = sum(_works(row.record, now) for row in stored)
        yield ok("adopted_keys", f"Keys that still have a secret of another system, and work: {active}.")


def _works(record: APIKey, now: datetime) -> bool:
    # The adopted secret is the oldest one, and its grace may have passed since the last change of the row.
    ends = record.previous_secrets_expire_at
    return record.status(now) is Status.ACTIVE and (not ends or ends[-1] > now)


def _is_lost(stored: StoredKey, ring: FernetKeyring, key: AdoptionKey) -> bool:
    try:
        digests = secrets_of(stored, ring).digests
    except (RowTampered, SealUnreadable):
        # Reported with the damaged rows.
        return False
    return all(key.id_of(stored.record.adopted or "", unpack(digest)[0]) != stored.record.id for digest in digests)
