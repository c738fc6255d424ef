"""Tokens of drf-simple-apikey: Fernet tokens with the number of a row and an end.

Whoever has the Fernet key makes such tokens. `flask_apikey.core.model.drf_simple_apikey` says which are accepted.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.fernet import Fernet, InvalidToken

from flask_apikey.core.errors import ConfigurationError, raise_alone
from flask_apikey.core.model.sealing import fingerprint_of
from flask_apikey.core.times import from_microseconds

MAX_ROW_LENGTH = 64
"""Maximum length of the number of a row, in characters."""

_is_fernet_key = re.compile(r"[A-Za-z0-9_-]{43}=").fullmatch
_is_number = re.compile(r"0|-?[1-9][0-9]{0,18}", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class FernetToken:
    """Content of a token.

    Attributes:
        row: Number of the row, as text.
        ends_at: Time at which the token ends.
        secret: Secret of this key; None if the token has none.
        digest: SHA-256 of the token in its canonical spelling.
    """

    row: str
    ends_at: datetime
    secret: str | None = field(repr=False)
    digest: bytes = field(repr=False)


class TokenReader:
    """Decrypts tokens.

    Args:
        keys: Fernet keys, of which any may have encrypted a token.

    Attributes:
        fingerprints: Fingerprints of the keys.

    Raises:
        ConfigurationError: There is none, one is repeated, or a value is not a Fernet key. The message shows no value.
    """

    __slots__ = ("_fernets", "fingerprints")

    def __init__(self, keys: Iterable[object]) -> None:
        try:
            canonical = _checked_keys(keys)
        except ConfigurationError as exc:
            # The traceback has frames that hold the keys.
            del keys
            raise_alone(exc)
        self._fernets = tuple(map(Fernet, canonical))
        self.fingerprints = frozenset(map(fingerprint_of, canonical))

    def read(self, text: str) -> FernetToken | None:
        """Return the content of a token, in any spelling of its base64 that the other package takes.

        Returns:
            None if no key opens it, or its content is not that of a token.
        """
        try:
            # Python skips characters that are not base64, and takes both alphabets.
            token = base64.urlsafe_b64encode(base64.urlsafe_b64decode(text.encode("ascii")))
        except ValueError:
            return None
        content = None
        for fernet in self._fernets:
            try:
                content = fernet.decrypt(token)
            except InvalidToken:
                continue
        return None if content is None else _parsed(content, hashlib.sha256(token).digest())


def row_number(value: object) -> str | None:
    """Return the number of a row as text; None if it is neither a number nor its text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value)
    return text if len(text) <= MAX_ROW_LENGTH and _is_number(text) else None


def _parsed(content: bytes, digest: bytes) -> FernetToken | None:
    try:
        members = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(members, dict):
        return None
    row, ends_at, secret = row_number(members.get("_pk")), _moment(members.get("_exp")), members.get("_secret")
    if row is None or ends_at is None or not isinstance(secret, str | None):
        return None
    return FernetToken(row, ends_at, secret, digest)


def _moment(value: object) -> datetime | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return from_microseconds(math.floor(value * 1_000_000))
    except (ValueError, OverflowError):
        # Not a number, infinite, or outside of the years 1 to 9999.
        return None


def _checked_keys(keys: object) -> list[bytes]:
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise ConfigurationError("fernet_keys must be a list of the Fernet keys of the other system")
    listed = list(keys)
    if not listed:
        raise ConfigurationError("fernet_keys is empty: it must have the Fernet keys of the other system")
    canonical = [_checked_key(key, position) for position, key in enumerate(listed)]
    if len(set(canonical)) < len(canonical):
        raise ConfigurationError("fernet_keys repeats a key: remove it")
    return canonical


def _checked_key(value: object, position: int) -> bytes:
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    if not isinstance(text, str) or _is_fernet_key(text) is None:
        raise ConfigurationError(
            f"fernet_keys[{position}] is not a Fernet key: expected 44 characters that end with '='"
        )
    return base64.urlsafe_b64encode(base64.urlsafe_b64decode(text))
