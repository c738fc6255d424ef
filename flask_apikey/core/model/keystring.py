"""The key string that a client holds: minted, parsed and checked here.

A key reads ``prefix_id_secret``: a prefix that may itself contain ``_``, a public
id of 16 characters, and 43 random characters (256 bits) followed by a CRC-32 in
six. All of it is base62, so that a double click selects a whole key.
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
MAX_PREFIX_LENGTH = 32
MAX_LENGTH = MAX_PREFIX_LENGTH + ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH + 2

_PREFIX = r"[0-9A-Za-z]+(?:_[0-9A-Za-z]+)*"
_ID = rf"[0-9A-Za-z]{{{ID_LENGTH}}}"
_TAIL = rf"[0-9A-Za-z]{{{SECRET_LENGTH + CHECKSUM_LENGTH}}}"

_PARTS = 3
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]

_is_prefix = re.compile(_PREFIX).fullmatch
_is_id = re.compile(_ID).fullmatch
_secret_in_text = re.compile(rf"(?<=_{_ID}_)[0-9A-Za-z]{{8,}}").sub


class ParsedKey(NamedTuple):
    """The public parts of a well-formed key string."""

    prefix: str
    id: str


def is_prefix(text: str) -> bool:
    """Whether `text` can stand before the id of a key."""
    return len(text) <= MAX_PREFIX_LENGTH and _is_prefix(text) is not None


def is_id(value: object) -> bool:
    """Whether `value` is text in the form of a key's public id."""
    return isinstance(value, str) and _is_id(value) is not None


def new_id() -> str:
    """A random public id (95 bits)."""
    return _base62(secrets.randbelow(62**ID_LENGTH), ID_LENGTH)


def mint(prefix: str, key_id: str) -> str:
    """A key string with a new random secret of 256 bits."""
    secret = _base62(secrets.randbelow(62**SECRET_LENGTH), SECRET_LENGTH)
    body = f"{prefix}_{key_id}_{secret}"
    return body + checksum(body)


def parse(text: str) -> ParsedKey | None:
    """The public parts of a key string, or None when it is not well-formed.

    Well-formed says nothing of genuine: the checksum only tells a key from
    something else, for secret scanners and for typing errors.
    """
    if len(text) > MAX_LENGTH or not text.isascii():
        return None
    # From the right: a prefix may contain what separates the parts.
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
    """CRC-32 (ISO-HDLC, as in zlib) of everything before it, in base62."""
    return _base62(zlib.crc32(body.encode("ascii")), CHECKSUM_LENGTH)


def scanner_pattern(prefix: str) -> str:
    """A regular expression with which secret scanners find keys of this prefix."""
    return rf"\b{re.escape(prefix)}_{_ID}_{_TAIL}\b"


def redacted(text: str) -> str:
    """`text` with the secret of every key in it replaced, whatever its prefix, even of one that is cut short."""
    return _secret_in_text("[redacted]", text)


def _base62(number: int, length: int) -> str:
    pairs = []
    for _ in range(0, length, 2):
        number, pair = divmod(number, 62 * 62)
        pairs.append(_PAIRS[pair])
    pairs.reverse()
    return "".join(pairs)[-length:]
