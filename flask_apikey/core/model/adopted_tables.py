"""Adopted keys with a visible part: those of other packages, and of tables made by hand."""

import hashlib
import hmac
import re
import zlib

from flask_apikey.core.errors import ConfigurationError, InvalidValue
from flask_apikey.core.model.adopted_digests import digest_of, parse_digest
from flask_apikey.core.model.adopted_form import AdoptedForm
from flask_apikey.core.model.password_hashes import checked_hash, is_hash

_DJANGO_SHA512 = "sha512$$"

_is_django_sha512 = re.compile(r"sha512\$\$[0-9a-f]{128}").fullmatch
_is_id = re.compile(r"[0-9]{1,20}", re.ASCII).fullmatch
_starts_as_sanctum = re.compile(r"[0-9]{1,20}\|[0-9A-Za-z_]", re.ASCII).match
_ends_as_sanctum = re.compile(r"([0-9A-Za-z]{40})([0-9a-f]{8})$", re.ASCII).search


class HashedKeys(AdoptedForm):
    """Keys of which another system stored a slow hash, and a visible part of the string that finds the row.

    The hash is bcrypt, scrypt, PBKDF2 or Argon2, in the encodings of Django, Werkzeug, bcrypt and argon2-cffi.

    Args:
        name: Name of the form: 1 to 20 lower-case letters, digits and hyphens. Never change it.
        separator: Text behind the visible part.
        length: Length of the visible part, instead of a separator.
        secret_only: The hash is that of the text behind the visible part and the separator, not of the whole key.
        start: How the keys start, if they may come as ``Bearer``.

    Raises:
        ConfigurationError: There is no visible part.
    """

    def __init__(
        self,
        name: str,
        *,
        separator: str | None = None,
        length: int | None = None,
        secret_only: bool = False,
        start: str = "",
    ) -> None:
        if (not separator) == (not length) or (length or 0) < 0:
            raise ConfigurationError(
                "HashedKeys needs a separator or a length of the visible part: without one, each presented string "
                "would have to be hashed for each row"
            )
        self.name = name
        self.start = start
        self._separator = separator
        self._length = length
        self._secret_only = secret_only

    def find_by(self, key: str) -> bytes | None:
        """Return the visible part."""
        visible, secret = self._parts(key)
        return visible.encode("utf-8", "surrogatepass") if visible and secret else None

    def matches(self, key: str, stored: bytes) -> bool:
        """Compare a presented string with its hash."""
        return is_hash(self._parts(key)[1] if self._secret_only else key, stored.decode())

    def is_slow(self, stored: bytes) -> bool:  # noqa: ARG002  # all are
        """Return True."""
        return True

    def parse(self, digest: object, visible: str | None) -> tuple[bytes, bytes]:
        """Parse a hash in its encoding."""
        if not visible:
            raise InvalidValue("a slow hash needs the visible part of the key: nothing else finds its row")
        if self._length is not None and len(visible) != self._length:
            raise InvalidValue(f"the visible part must have {self._length} characters")
        if self._separator is not None and self._separator in visible:
            raise InvalidValue("the visible part must not contain the separator")
        return visible.encode(), checked_hash(_text(digest)).encode()

    def _parts(self, key: str) -> tuple[str, str]:
        if self._length is not None:
            return key[: self._length], key[self._length :]
        visible, _, secret = key.partition(self._separator or "")
        return visible, secret


class DjangoKeys(HashedKeys):
    """Keys of djangorestframework-api-key: ``PREFIX.SECRET``, with a hash of the whole."""

    columns = {  # noqa: RUF012  # a constant, declared as one in the base
        "digest": "hashed_key",
        "visible": "prefix",
        "created_at": "created",
        "expires_at": "expiry_date",
        "revoked": "revoked",
    }
    ignored_columns = frozenset({"id"})

    def __init__(self) -> None:
        super().__init__("drf-api-key", separator=".")

    def matches(self, key: str, stored: bytes) -> bool:
        """Compare a presented string with its hash."""
        if self.is_slow(stored):
            return super().matches(key, stored)
        return hmac.compare_digest(digest_of("sha512", key), stored)

    def is_slow(self, stored: bytes) -> bool:
        """Return True for hashes of versions before 3.0."""
        return len(stored) != hashlib.sha512().digest_size

    def parse(self, digest: object, visible: str | None) -> tuple[bytes, bytes]:
        """Parse a hash, or the id of a row of versions before 1.4, which is the prefix, a dot and the hash."""
        text = _text(digest)
        if visible is None:
            visible, _, text = text.partition(".")
        if not _is_django_sha512(text):
            return super().parse(text, visible)
        if not visible or "." in visible:
            raise InvalidValue("the prefix of the key is missing")
        return visible.encode(), parse_digest("sha512", text.removeprefix(_DJANGO_SHA512))


class SanctumKeys(AdoptedForm):
    """Tokens of Laravel Sanctum: ``ID|TOKEN``, or ``TOKEN`` alone, with the SHA-256 of ``TOKEN``."""

    name = "sanctum"
    columns = {  # noqa: RUF012  # a constant, declared as one in the base
        "digest": "token",
        "visible": "id",
        "owner": "tokenable_id",
        "scopes": "abilities",
        "created_at": "created_at",
        "expires_at": "expires_at",
    }
    ignored_columns = frozenset({"tokenable_type", "last_used_at", "updated_at"})

    def find_by(self, key: str) -> bytes:
        """Return the digest of the token behind the id."""
        return digest_of("sha256", _token(key))

    def matches(self, key: str, stored: bytes) -> bool:
        """Compare digests, and the id if it was presented."""
        row_id = stored[32:].decode()
        is_right = hmac.compare_digest(digest_of("sha256", _token(key)), stored[:32])
        return is_right and ("|" not in key or key.partition("|")[0] == row_id)

    def parse(self, digest: object, visible: str | None) -> tuple[bytes, bytes]:
        """Parse the digest and the id of a row."""
        if visible is None or not _is_id(visible):
            raise InvalidValue("the id of the token is missing, or is not a number")
        parsed = parse_digest("sha256", digest)
        return parsed, parsed + visible.encode()

    def may_be_bearer(self, text: str) -> bool:
        """Return True for an id in front, or a checksum behind."""
        if _starts_as_sanctum(text):
            return True
        ending = _ends_as_sanctum(text)
        return ending is not None and f"{zlib.crc32(ending[1].encode()):08x}" == ending[2]


def _token(key: str) -> str:
    row_id, separator, token = key.partition("|")
    return token if separator else row_id


def _text(digest: object) -> str:
    if isinstance(digest, bytes):
        digest = digest.decode("ascii", "replace")
    if not isinstance(digest, str):
        raise InvalidValue("digest must be text or bytes")
    return digest.strip()
