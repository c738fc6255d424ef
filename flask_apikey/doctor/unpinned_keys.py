"""Check of keys of drf-simple-apikey that nobody has used yet, which whoever has its Fernet key can forge."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from flask_apikey.core.errors import RowTampered, SealUnreadable
from flask_apikey.core.model.adopted_form import unpack
from flask_apikey.core.model.adopted_forms import AdoptedForms
from flask_apikey.core.model.drf_simple_apikey import DRFSimpleAPIKey, has_no_token
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.sealed_rows import secrets_of
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.doctor.findings import MAX_DETAILS, Finding, warning


def check_unpinned_keys(
    stored: Iterable[StoredKey], ring: FernetKeyring, forms: AdoptedForms, now: datetime
) -> Iterator[Finding]:
    """Count the rows without a token and without a secret of their own, and remind of the deadline."""
    form = forms.forms.get(DRFSimpleAPIKey.name)
    if not isinstance(form, DRFSimpleAPIKey):
        return
    unpinned = [row.record.id for row in stored if not row.record.has_ended(now) and _is_unpinned(row, ring)]
    details = tuple({"key_id": key_id} for key_id in unpinned[:MAX_DETAILS])
    until = f"{form.until:%Y-%m-%d %H:%M} UTC"
    if now < form.until:
        yield warning(
            "old_fernet_key_forges",
            f"Until {until}, whoever has the Fernet key of drf-simple-apikey can make tokens for its keys. "
            f"Keys that nobody has used here yet: {len(unpinned)}.",
            "Ask their holders to use them, or revoke them, and bring the deadline forward once all are used.",
            details=details,
        )
    elif unpinned:
        yield warning(
            "old_tokens_unused",
            f"Keys of drf-simple-apikey that nobody used before {until}: {len(unpinned)}. Their tokens are refused.",
            "Roll or revoke them. With a later deadline, whoever has the old Fernet key could forge them again.",
            details=details,
        )


def _is_unpinned(row: StoredKey, ring: FernetKeyring) -> bool:
    if row.record.adopted != DRFSimpleAPIKey.name:
        return False
    try:
        digests = secrets_of(row, ring).digests
    except (RowTampered, SealUnreadable):
        # Reported with the damaged rows.
        return False
    return bool(digests) and has_no_token(unpack(digests[-1])[1])
