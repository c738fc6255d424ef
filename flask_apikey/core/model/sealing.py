"""Seals: digests of secrets, encrypted with the application's Fernet key.

Fernet is AES-128-CBC with HMAC-SHA-256
(https://github.com/fernet/spec/blob/master/Spec.md). The client's key is not a
Fernet token. Only the storage has tokens, so a seal can be re-encrypted without
a change for the client.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, InvalidToken

from flask_apikey.core.errors import ConfigurationError, SealUnreadable

DIGEST_LENGTH = 32
_FORMAT = 1
_HEADER_LENGTH = 2

_is_fernet_key = re.compile(r"[A-Za-z0-9_-]{43}=").fullmatch


@dataclass(frozen=True, slots=True)
class Seal:
    """Encrypted secrets of a key.

    Attributes:
        token: The Fernet token.
        fingerprint: Fingerprint of the Fernet key that encrypted it.
    """

    token: str = field(repr=False)
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SealedSecrets:
    """Content of a seal.

    Attributes:
        digests: SHA-256 of each accepted key string, newest first.
        key: The newest key string, if it is recoverable.
    """

    digests: tuple[bytes, ...] = field(repr=False)
    key: str | None = field(default=None, repr=False)

    def position(self, digest: bytes) -> int | None:
        """Return the index of `digest` among the digests, or None. The comparison takes constant time."""
        position = None
        for index, candidate in enumerate(self.digests):
            if hmac.compare_digest(candidate, digest):
                position = index
        return position


def digest(key: str) -> bytes:
    """Return the SHA-256 of a key string, or of any text presented as one."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def generate_fernet_key() -> str:
    """Return a new random Fernet key."""
    return Fernet.generate_key().decode("ascii")


class FernetKeyring:
    """Fernet keys of an application. The primary one seals, all unseal.

    Attributes:
        settings: The setting of each key by its fingerprint, the primary one first.
        fingerprint: Fingerprint of the primary key.

    Raises:
        ConfigurationError: A value is not a Fernet key, or a duplicate.
    """

    def __init__(
        self, primary: object, fallbacks: Sequence[object] = (), *, primary_setting: str = "APIKEY_FERNET_KEY"
    ) -> None:
        self._fernets: dict[str, Fernet] = {}
        self.settings: dict[str, str] = {}
        self.fingerprint = self._include(primary, primary_setting)
        for position, fallback in enumerate(fallbacks):
            self._include(fallback, f"APIKEY_FERNET_KEY_FALLBACKS[{position}]")

    def _include(self, value: object, setting: str) -> str:
        key = _checked_fernet_key(value, setting)
        fingerprint = _fingerprint(key)
        if fingerprint in self._fernets:
            raise ConfigurationError(f"{setting} repeats a Fernet key that is already configured: remove it.")
        self._fernets[fingerprint] = Fernet(key)
        self.settings[fingerprint] = setting
        return fingerprint

    @property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of all keys, including the primary one."""
        return frozenset(self._fernets)

    def seal(self, secrets: SealedSecrets) -> Seal:
        """Encrypt secrets with the primary key."""
        plain = bytes((_FORMAT, len(secrets.digests))) + b"".join(secrets.digests)
        plain += (secrets.key or "").encode("ascii")
        token = self._fernets[self.fingerprint].encrypt(plain)
        return Seal(token.decode("ascii"), self.fingerprint)

    def resealed(self, seal: Seal) -> Seal:
        """Return a seal of the same secrets under the primary key: `seal` itself if it is one.

        Raises:
            SealUnreadable: The key is not configured, or the seal is damaged.
        """
        return seal if seal.fingerprint == self.fingerprint else self.seal(self.unseal(seal))

    def unseal(self, seal: Seal) -> SealedSecrets:
        """Decrypt a seal.

        Raises:
            SealUnreadable: The key is not configured, or the seal is damaged.
        """
        fernet = self._fernets.get(seal.fingerprint)
        if fernet is None:
            raise SealUnreadable(
                f"sealed under the Fernet key with fingerprint {seal.fingerprint!r}, which is not configured here: "
                "add that key to APIKEY_FERNET_KEY_FALLBACKS"
            )
        try:
            plain = fernet.decrypt(seal.token)
        except (InvalidToken, ValueError):
            raise SealUnreadable("the stored seal is damaged") from None
        header, rest = plain[:_HEADER_LENGTH], plain[_HEADER_LENGTH:]
        end = DIGEST_LENGTH * header[1] if len(header) == _HEADER_LENGTH else 0
        if not 0 < end <= len(rest) or header[0] != _FORMAT:
            raise SealUnreadable("the stored seal has a format that this version does not support")
        digests = tuple(rest[start : start + DIGEST_LENGTH] for start in range(0, end, DIGEST_LENGTH))
        return SealedSecrets(digests, rest[end:].decode("ascii") or None)


def _checked_fernet_key(value: object, setting: str) -> bytes:
    advice = "Make one with 'flask apikey generate-fernet-key' and keep it out of the source code."
    if value is None or value in ("", b""):
        raise ConfigurationError(f"{setting} is not set. {advice}")
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        raise ConfigurationError(f"{setting} must be a str, not {type(value).__name__}. {advice}")
    if _is_fernet_key(value) is None:
        raise ConfigurationError(
            f"{setting} is not a Fernet key: expected 32 bytes in URL-safe base64, which are 44 characters "
            f"that end with '='; got {len(value)} characters. {advice}"
        )
    return base64.urlsafe_b64encode(base64.urlsafe_b64decode(value))


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(b"flask-apikey fingerprint\0" + key).hexdigest()[:16]
