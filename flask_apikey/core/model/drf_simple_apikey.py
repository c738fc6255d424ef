"""Keys that drf-simple-apikey issued.

Nothing of a key is in its table, so whoever has the Fernet key of that package makes keys for any row.
Until a deadline each valid token is therefore accepted once, and its digest pinned in the row.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import ClassVar

from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.core.model.adopted_form import AdoptedForm, AdoptedMatch
from flask_apikey.core.model.adopted_forms import AdoptedForms
from flask_apikey.core.model.fernet_tokens import FernetToken, TokenReader, row_number
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.times import utc_now

MAX_PINS = 8
"""Maximum number of tokens of one row."""

_PINS, _SECRET = b"pins\0", b"secret\0"
_DIGEST_LENGTH = 32

_is_hex_digest = re.compile(r"[0-9a-f]{64}").fullmatch


class DRFSimpleAPIKey(AdoptedForm):
    """Keys that drf-simple-apikey issued, for ``APIKEY_ADOPTED_KEYS``.

    Until the deadline, a valid token of a row is accepted, and pinned in the row: at most 8 tokens of one row.
    Afterwards only pinned tokens are accepted, so that nobody makes new ones. Tokens with a secret that
    belongs to their row need no pin.

    Args:
        fernet_keys: ``FERNET_SECRET`` of that package, and its ``ROTATION_FERNET_SECRET`` if there was one.
        until: The deadline, with a time zone.

    Raises:
        ConfigurationError: An argument is missing or invalid.
    """

    name = "drf-simple-apikey"
    start = "gAAAAAB"
    columns: ClassVar = {
        "visible": "id",
        "digest": "hashed_secret",
        "owner": "entity_id",
        "expires_at": "expiry_date",
        "created_at": "created",
        "allowed_ips": "whitelisted_ips",
        "denied_ips": "blacklisted_ips",
    }

    def __init__(self, fernet_keys: Iterable[str | bytes], until: datetime | None = None) -> None:
        if not isinstance(until, datetime):
            raise ConfigurationError(
                "DRFSimpleAPIKey needs until=: the time from which no further tokens are accepted, because whoever "
                "has the old Fernet key can make them"
            )
        if until.utcoffset() is None:
            raise ConfigurationError("DRFSimpleAPIKey: until has no time zone, as datetime.now(timezone.utc) has")
        self.until = until.astimezone(timezone.utc)
        self._reader = TokenReader(fernet_keys)

    def __repr__(self) -> str:
        """Show the deadline, and no Fernet key."""
        return f"DRFSimpleAPIKey(until={self.until.isoformat()})"

    @property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of the Fernet keys."""
        return self._reader.fingerprints

    def find_by(self, key: str) -> bytes | None:
        """Return the number of the row in a token."""
        token = self._reader.read(key)
        return None if token is None else token.row.encode()

    def matches(self, key: str, stored: bytes) -> bool:
        """Return True if a token is accepted now."""
        return self.verify(key, stored, utc_now()) is not None

    def parse(self, digest: object, visible: str | None) -> tuple[bytes, bytes]:
        """Parse the number of a row, and the ``hashed_secret`` in it, which may be empty."""
        row = row_number(visible)
        if row is None:
            raise InvalidValue("visible must be the number of the row")
        if not digest:
            return row.encode(), _PINS
        if not isinstance(digest, str) or _is_hex_digest(digest) is None:
            raise InvalidValue("digest must be hashed_secret: 64 hexadecimal digits, or empty")
        return row.encode(), _SECRET + bytes.fromhex(digest)

    def verify(self, key: str, stored: bytes, now: datetime) -> AdoptedMatch | None:
        """Compare a token with its row. One that is not pinned yet has a replacement, which must be stored first."""
        token = self._reader.read(key)
        if token is None:
            return None
        if stored.startswith(_SECRET):
            return AdoptedMatch(ends_at=token.ends_at) if _has_secret(token, stored[len(_SECRET) :]) else None
        pins = pins_in(stored)
        # All are compared: the time tells nothing of their order.
        if sum(hmac.compare_digest(pin, token.digest) for pin in pins):
            return AdoptedMatch(ends_at=token.ends_at)
        if now >= self.until or len(pins) >= MAX_PINS:
            return None
        return AdoptedMatch(ends_at=token.ends_at, replacement=stored + token.digest, must_replace=True)


def refuse_shared_fernet_keys(forms: AdoptedForms, ring: FernetKeyring) -> None:
    """Raise a ConfigurationError if a Fernet key of the other system seals keys of this library."""
    for form in forms.forms.values():
        shared = form.fingerprints & ring.fingerprints if isinstance(form, DRFSimpleAPIKey) else frozenset()
        if shared:
            raise ConfigurationError(
                f"{ring.settings[min(shared)]} is a Fernet key of drf-simple-apikey too, and whoever has that could "
                "forge keys of this application: generate one with 'flask apikey generate-fernet-key'"
            )


def pins_in(stored: bytes) -> tuple[bytes, ...]:
    """Return the digests of the pinned tokens in a stored value."""
    pins = stored.removeprefix(_PINS)
    return tuple(pins[start : start + _DIGEST_LENGTH] for start in range(0, len(pins), _DIGEST_LENGTH))


def has_no_token(stored: bytes) -> bool:
    """Return True if a row has neither a pinned token nor a secret of its own."""
    return stored == _PINS


def _has_secret(token: FernetToken, digest: bytes) -> bool:
    secret = hashlib.sha256((token.secret or "").encode("utf-8", "surrogatepass")).digest()
    return token.secret is not None and hmac.compare_digest(secret, digest)
