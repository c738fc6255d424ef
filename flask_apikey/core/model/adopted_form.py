"""One form of adopted keys: how a presented string finds its row, and is compared with what the row holds."""

import hmac
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import ClassVar, NamedTuple

from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.core.model.sealing import digest

MAX_FORM_LENGTH = 20
MAX_PART_LENGTH = 500
"""Maximum length of what finds a row, in bytes."""

MAX_STORED_LENGTH = 4_000
"""Maximum length of what a row holds of an adopted key, in bytes."""

is_form_name = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{MAX_FORM_LENGTH - 1}}}").fullmatch

# Long enough that no digest of another system begins with one of them.
_LOCATED = b"\0flask-apikey located\0"
_PROVEN = b"\0flask-apikey proven\0"


class MissingLibrary(ConfigurationError):
    """A library that checks hashes is not installed. The message names it."""


class AdoptedMatch(NamedTuple):
    """A presented string that fits its row.

    Attributes:
        replacement: What to store in place of the stored value; None to keep it.
        until: Time at which the string must be compared again, if it cannot be replaced. None for no such time.
        ends_at: Time at which the string expires, if that is before the end of its row. None for no such time.
        must_replace: Refuse the request with 503 if the replacement cannot be stored.
    """

    replacement: bytes | None = None
    until: datetime | None = None
    ends_at: datetime | None = None
    must_replace: bool = False


class AdoptedForm(ABC):
    """A form of keys that another system issued. Subclasses go into ``APIKEY_ADOPTED_KEYS``.

    An exception of a method refuses the request with 503, and only its class is logged.

    Attributes:
        name: Name in ``APIKey.adopted``: 1 to 20 lower-case letters, digits and hyphens. Never change it.
        start: How the keys start, such as ``"acme_"``. They are then accepted as ``Bearer``, and redacted in logs.
        columns: Column in the table of the other system for each argument of ``APIKeys.adopt``. Imports require them.
            Keys without scopes get none where it names the column of scopes.
        ignored_columns: Columns of that table that an import leaves out.
    """

    name: str
    start: str = ""
    columns: ClassVar[Mapping[str, str]] = {}
    ignored_columns: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def find_by(self, key: str) -> bytes | None:
        """Return what finds the row of a presented string: its digest, or its visible prefix or id.

        Called for every unknown string, so it must be fast. None if the string cannot be of this form.
        """

    @abstractmethod
    def matches(self, key: str, stored: bytes) -> bool:
        """Return True if a presented string is the key of a row. The comparison must take constant time.

        Args:
            key: The presented string.
            stored: What `parse` returned to be stored.
        """

    def parse(self, digest: object, visible: str | None) -> tuple[bytes, bytes]:
        """Parse what the other system stored of a key.

        Args:
            digest: Digest or hash, as text or bytes.
            visible: Visible prefix or id of the key; None if there is none.

        Returns:
            What `find_by` returns for the key, and what to store. By default the visible part, or else the
            digest, finds the key.

        Raises:
            InvalidValue: The key cannot be adopted. The message shows no value.
        """
        stored = digest.encode() if isinstance(digest, str) else digest
        if not isinstance(stored, bytes) or not stored:
            raise InvalidValue("digest must be text or bytes, and not empty")
        return (visible.encode() if visible else stored), stored

    def is_slow(self, stored: bytes) -> bool:  # noqa: ARG002  # for overrides
        """Return True if the comparison with a stored value is slow on purpose.

        Such comparisons have a budget. The first one that succeeds is the last: its row then has a SHA-256.
        """
        return False

    def may_be_bearer(self, text: str) -> bool:
        """Return True if a Bearer token is an attempt with a key of this form. Others are left to the application."""
        return bool(self.start) and text.startswith(self.start)

    def verify(self, key: str, stored: bytes, now: datetime) -> AdoptedMatch | None:  # noqa: ARG002  # for overrides
        """Compare a presented string with a stored value. Override it to replace the stored value, or to set an end.

        Args:
            key: The presented string.
            stored: The stored value.
            now: The present moment, in UTC.

        Returns:
            None if they do not match.
        """
        return AdoptedMatch() if self.matches(key, stored) else None


def pack(locator: bytes, stored: bytes) -> bytes:
    """Return what a seal holds of an adopted key: what finds the row, and the stored value.

    Raises:
        InvalidValue: One of them is too long.
    """
    if not 0 < len(locator) <= MAX_PART_LENGTH or len(stored) > MAX_STORED_LENGTH:
        raise InvalidValue(
            f"the visible part must have 1 to {MAX_PART_LENGTH} bytes, the digest at most {MAX_STORED_LENGTH}"
        )
    if locator == stored:
        return stored
    return _LOCATED + len(locator).to_bytes(2, "big") + locator + stored


def unpack(packed: bytes) -> tuple[bytes, bytes]:
    """Return what finds the row, and the stored value."""
    if not packed.startswith(_LOCATED):
        return packed, packed
    start = len(_LOCATED) + 2
    end = start + int.from_bytes(packed[start - 2 : start], "big")
    return packed[start:end], packed[end:]


def is_reserved(stored: bytes) -> bool:
    """Return True if a value of another system looks like one of this library."""
    return stored.startswith((_LOCATED, _PROVEN))


def proven(key: str) -> bytes:
    """Return the stored value of a key that was compared with a slow hash: its SHA-256."""
    return _PROVEN + digest(key)


def is_proven(stored: bytes) -> bool:
    """Return True if a stored value is the SHA-256 of `proven`."""
    return stored.startswith(_PROVEN)


def is_key_of(key: str, stored: bytes) -> bool:
    """Return True if a stored value is the SHA-256 of a presented string. The comparison takes constant time."""
    return hmac.compare_digest(proven(key), stored)
