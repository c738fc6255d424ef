"""Adopted keys of which the other system stored a digest without salt."""

import base64
import binascii
import hashlib
import hmac
import re

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.adopted_form import AdoptedForm

_LENGTHS = {"sha256": 32, "sha512": 64}

_is_hex = re.compile(r"[0-9a-fA-F]+").fullmatch


class DigestForm(AdoptedForm):
    """Keys of which the other system stored the digest of the whole string.

    Args:
        name: ``"sha256"`` or ``"sha512"``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def find_by(self, key: str) -> bytes:
        """Return the digest, which finds the row."""
        return digest_of(self.name, key)

    def matches(self, key: str, stored: bytes) -> bool:
        """Compare digests."""
        return hmac.compare_digest(digest_of(self.name, key), stored)

    def parse(self, digest: object, visible: str | None) -> tuple[bytes, bytes]:
        """Parse a digest in hexadecimal, base64 or bytes."""
        if visible is not None:
            raise InvalidValue(f"keys of the form {self.name} have no visible part")
        parsed = parse_digest(self.name, digest)
        return parsed, parsed


def digest_of(algorithm: str, key: str) -> bytes:
    """Return the digest of a presented string."""
    return hashlib.new(algorithm, key.encode("utf-8", "surrogatepass")).digest()


def parse_digest(algorithm: str, value: object) -> bytes:
    """Parse a digest, which is bytes, or text in hexadecimal or base64.

    Raises:
        InvalidValue: It is no such digest. The message does not show it.
    """
    length = _LENGTHS[algorithm]
    digest = value if isinstance(value, bytes) else _decoded(value, length) if isinstance(value, str) else None
    if digest is None or len(digest) != length:
        # Not shown: it opens nothing, but a key that was passed by mistake does.
        raise InvalidValue(
            f"digest is not a digest of {algorithm}: expected {length} bytes, or {2 * length} hexadecimal digits, "
            "or base64"
        )
    return digest


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
