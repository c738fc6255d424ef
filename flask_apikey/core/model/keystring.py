"""Key string of a client.

A key is ``prefix_id_secret``: a prefix that may itself contain ``_``, a public id of
16 characters, 43 random characters (256 bits), and a CRC-32 in six characters. All
of it is base62, so that a double click selects a whole key.
"""

import re
import secrets
import string
import zlib
from typing import NamedTuple

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_LENGTH = 16
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6
DEFAULT_PREFIX = "fak"
MAX_PREFIX_LENGTH = 32
MAX_LENGTH = MAX_PREFIX_LENGTH + ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH + 2

_PREFIX = r"[0-9A-Za-z]+(?:_[0-9A-Za-z]+)*"
_ID = rf"[0-9A-Za-z]{{{ID_LENGTH}}}"
_TAIL = rf"[0-9A-Za-z]{{{SECRET_LENGTH + CHECKSUM_LENGTH}}}"

_PARTS = 3
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]

_is_prefix = re.compile(_PREFIX).fullmatch
_is_id = re.compile(_ID).fullmatch


class ParsedKey(NamedTuple):
    """Public parts of a well-formed key string."""

    prefix: str
    id: str


def is_prefix(text: str) -> bool:
    """Return True if `text` is a valid prefix of keys."""
    return len(text) <= MAX_PREFIX_LENGTH and _is_prefix(text) is not None


def is_id(value: object) -> bool:
    """Return True if `value` has the form of a public id."""
    return isinstance(value, str) and _is_id(value) is not None


def new_id() -> str:
    """Return a random public id (95 bits)."""
    return _base62(secrets.randbelow(62**ID_LENGTH), ID_LENGTH)


def id_of_number(number: int) -> str:
    """Return a public id for a number that is uniformly random and much larger than the number of ids."""
    return _base62(number % 62**ID_LENGTH, ID_LENGTH)


def mint(prefix: str, key_id: str) -> str:
    """Return a key string with a new random secret (256 bits)."""
    secret = _base62(secrets.randbelow(62**SECRET_LENGTH), SECRET_LENGTH)
    body = f"{prefix}_{key_id}_{secret}"
    return body + checksum(body)


def parse(text: str) -> ParsedKey | None:
    """Parse a key string.

    A well-formed key need not be genuine. The checksum only detects typing errors,
    and false positives of secret scanners.

    Args:
        text: The key string.

    Returns:
        Its public parts, or None if it is malformed.
    """
    if len(text) > MAX_LENGTH or not text.isascii():
        return None
    # From the right: a prefix may contain the separator.
    parts = text.rsplit("_", 2)
    if len(parts) != _PARTS:
        return None
    prefix, key_id, tail = parts
    is_well_formed = (
        len(key_id) == ID_LENGTH
        and len(tail) == SECRET_LENGTH + CHECKSUM_LENGTH
        and key_id.isalnum()
        and tail.isalnum()
        and _is_prefix(prefix) is not None
        and tail[-CHECKSUM_LENGTH:] == checksum(text[:-CHECKSUM_LENGTH])
    )
    return ParsedKey(prefix, key_id) if is_well_formed else None


def checksum(body: str) -> str:
    """Return the CRC-32 (ISO-HDLC, as in zlib) of a key without its checksum, in base62."""
    return _base62(zlib.crc32(body.encode("ascii")), CHECKSUM_LENGTH)


def scanner_pattern(prefix: str) -> str:
    r"""Return a regular expression for secret scanners that matches keys of this prefix.

    It has no boundaries: letters may come before a key, as in ``\nacme_live_…`` or ``%3Dacme_live_…``.
    """
    return f"{re.escape(prefix)}_{_ID}_{_TAIL}"


def _base62(number: int, length: int) -> str:
    pairs = []
    for _ in range(0, length, 2):
        number, pair = divmod(number, 62 * 62)
        pairs.append(_PAIRS[pair])
    pairs.reverse()
    return "".join(pairs)[-length:]
