"""Forms of adopted keys: keys that another system issued, of which it stored a digest.

The id of an adopted key is an HMAC of its digest. So a presented string finds its row by
primary key, and an id in a log or a dump tells nothing of the digest.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.keystring import id_of_number

MAX_ADOPTED_LENGTH = 500
"""Maximum length of an adopted key, in characters."""

MAX_FORM_LENGTH = 20
KEY_LENGTH = 32

_LENGTHS = {"sha256": 32, "sha512": 64}
FORMS = tuple(_LENGTHS)

_is_start = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.|-]{1,39}").fullmatch
_is_hex = re.compile(r"[0-9a-fA-F]+").fullmatch


class AdoptedForms:
    """The forms and starts of ``APIKEY_ADOPTED_KEYS``.

    Args:
        entries: Entries of the setting, such as ``"sha256"`` or ``"sha256:sk_live_"``.

    Attributes:
        entries: The entries.
        names: The forms, each once.
        starts: How keys start that may come as ``Bearer``.

    Raises:
        ValueError: An entry is invalid.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self.entries = tuple(entries)
        names, starts = [], []
        for entry in self.entries:
            name, separator, start = entry.partition(":")
            if name not in _LENGTHS:
                raise ValueError(f"{entry!r:.100} is not a form of adopted keys: use {' or '.join(map(repr, FORMS))}")
            if separator and not _is_start(start):
                raise ValueError(
                    f"{entry!r:.100}: behind the colon comes the start of the keys, as in 'sha256:sk_live_'"
                )
            if start.startswith("eyJ"):
                raise ValueError(f"{entry!r:.100}: JWTs start like this, and would no longer reach the application")
            names.append(name)
            starts += [start] if start else []
        if len(set(self.entries)) < len(self.entries):
            raise ValueError("names a form twice")
        self.names = tuple(dict.fromkeys(names))
        self.starts = tuple(starts)


def parse_digest(form: str, value: object) -> bytes:
    """Parse a digest of a form, which is bytes, or text in hexadecimal or base64.

    Raises:
        InvalidValue: It is no such digest. The message does not show it.
    """
    length = _LENGTHS.get(form)
    if length is None:
        raise InvalidValue(f"algorithm must be one of {', '.join(FORMS)}, not {form!r:.60}")
    digest = value if isinstance(value, bytes) else _decoded(value, length) if isinstance(value, str) else None
    if digest is None or len(digest) != length:
        # Not shown: it opens nothing, but a key that was passed by mistake does.
        raise InvalidValue(
            f"digest is not a digest of {form}: expected {length} bytes, or {2 * length} hexadecimal digits, or base64"
        )
    return digest


def digest_of(form: str, key: str) -> bytes:
    """Return the digest of a presented string."""
    return hashlib.new(form, key.encode("utf-8", "surrogatepass")).digest()


class AdoptionKey:
    """Secret key that derives the ids of adopted keys."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "AdoptionKey":
        """Return a new random key."""
        return cls(secrets.token_bytes(KEY_LENGTH))

    @property
    def secret(self) -> bytes:
        """The key itself, to be sealed."""
        return self._key

    def id_of(self, form: str, digest: bytes) -> str:
        """Return the id of the key with this digest."""
        mac = hmac.digest(self._key, form.encode("ascii") + b"\0" + digest, "sha256")
        return id_of_number(int.from_bytes(mac, "big"))

    def ids_of(self, forms: Iterable[str], digests: Iterable[bytes]) -> tuple[str, ...]:
        """Return the id in each form, given the digest in each form."""
        return tuple(self.id_of(form, digest) for form, digest in zip(forms, digests, strict=True))


def _decoded(text: str, length: int) -> bytes | None:
    text = text.strip()
    if len(text) == 2 * length:
        return bytes.fromhex(text) if _is_hex(text) else None
    try:
        unpadded = text.rstrip("=").replace("-", "+").replace("_", "/")
        decoded = base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    # Another spelling of the same bytes is a mistake somewhere.
    is_canonical = base64.b64encode(decoded).decode("ascii").rstrip("=") == unpadded
    return decoded if is_canonical else None
