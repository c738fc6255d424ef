"""Seals: digests of secrets and of all other fields of a row, encrypted with the application's Fernet key.

Fernet is AES-128-CBC with HMAC-SHA-256
(https://github.com/fernet/spec/blob/master/Spec.md). The client's key is not a
Fernet token. Only the storage has tokens, so a seal can be re-encrypted without
a change for the client. `flask_apikey.core.model.sealed_rows` seals whole rows.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.fernet import Fernet, InvalidToken

from flask_apikey.core.errors import ConfigurationError, SealUnreadable, raise_alone

DIGEST_LENGTH = 32
_FORMAT = 2

_is_fernet_key = re.compile(r"[A-Za-z0-9_-]{43}=").fullmatch
_matches_fingerprint = re.compile(r"[0-9a-f]{16}").fullmatch


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
    """Secrets of a key in its seal.

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


NO_SECRETS = SealedSecrets(())


@dataclass(frozen=True, slots=True)
class SealContent:
    """Decrypted content of a seal.

    Attributes:
        secrets: The secrets.
        fields: Digest of each other field of the row, by its name. A field that is not named has its default.
    """

    secrets: SealedSecrets
    fields: Mapping[str, str]


def digest(key: str) -> bytes:
    """Return the SHA-256 of a key string, or of any text presented as one."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_fingerprint(text: str) -> bool:
    """Return True if `text` has the form of the fingerprint of a Fernet key."""
    return _matches_fingerprint(text) is not None


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
        try:
            self.fingerprint = self._include(primary, primary_setting)
            self._include_fallbacks(fallbacks)
        except ConfigurationError as exc:
            del primary, fallbacks
            raise_alone(exc)

    def _include_fallbacks(self, fallbacks: Sequence[object]) -> None:
        for position, fallback in enumerate(fallbacks):
            self._include(fallback, f"APIKEY_FERNET_KEY_FALLBACKS[{position}]")

    def _include(self, value: object, setting: str) -> str:
        key = _checked_fernet_key(value, setting)
        fingerprint = fingerprint_of(key)
        if fingerprint in self._fernets:
            raise ConfigurationError(f"{setting} repeats a Fernet key that is already configured: remove it.")
        self._fernets[fingerprint] = Fernet(key)
        self.settings[fingerprint] = setting
        return fingerprint

    @property
    def fingerprints(self) -> frozenset[str]:
        """Fingerprints of all keys, including the primary one."""
        return frozenset(self._fernets)

    def seal(self, content: SealContent, fingerprint: str | None = None) -> Seal:
        """Encrypt the content of a seal with the key of a fingerprint, by default the primary one."""
        fingerprint = fingerprint or self.fingerprint
        token = self._fernets[fingerprint].encrypt(_to_json(content).encode())
        return Seal(token.decode("ascii"), fingerprint)

    def unseal(self, seal: Seal) -> SealContent:
        """Decrypt a seal.

        Raises:
            SealUnreadable: The key is not configured, or the seal is damaged.
        """
        fernet = self._fernets.get(seal.fingerprint)
        if fernet is None:
            raise SealUnreadable(
                f"sealed under the Fernet key with fingerprint {seal.fingerprint!r:.70}, which is not configured "
                "here: add that key to APIKEY_FERNET_KEY_FALLBACKS"
            )
        try:
            content = _from_json(fernet.decrypt(seal.token))
        except (InvalidToken, KeyError, TypeError, ValueError):
            problem = "the stored seal is damaged"
        else:
            if content is not None:
                return content
            problem = "the stored seal has a format that this version does not support"
        # Not in the handler: the error must not refer to frames that hold the content.
        raise SealUnreadable(problem)


def _to_json(content: SealContent) -> str:
    document = {
        "format": _FORMAT,
        "digests": [base64.b64encode(each).decode("ascii") for each in content.secrets.digests],
        "key": content.secrets.key,
        "fields": dict(content.fields),
    }
    return json.dumps(document, separators=(",", ":"))


def _from_json(text: bytes) -> SealContent | None:
    """Parse the content of a seal. None if it has another format. The caller drops errors with these locals."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        return None
    # Whatever was encrypted with the Fernet key was written by this library.
    digests = tuple(map(base64.b64decode, document["digests"]))
    return SealContent(SealedSecrets(digests, document["key"]), document["fields"])


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


def fingerprint_of(key: bytes) -> str:
    """Return the fingerprint of a Fernet key in its canonical spelling."""
    return hashlib.sha256(b"flask-apikey fingerprint\0" + key).hexdigest()[:16]
