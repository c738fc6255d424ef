"""Untrusted or secret text, made safe to log, print and store."""

import re
import unicodedata
from collections.abc import Iterable

MAX_LENGTH = 200

UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of control, format (such as bidirectional overrides, UAX #9), surrogate, private and
unassigned characters, and of line and paragraph separators."""

# The end of a key string, as in `flask_apikey.core.model.keystring`: "_", the public id, "_" and the secret.
_secret_of_key = re.compile(r"(?<=_([0-9A-Za-z]{16})_)[0-9A-Za-z]{8,}")


# Seals, which drivers write to their DEBUG logs. The first byte of a Fernet token is a version, then comes a time.
_fernet_token = re.compile(r"gAAAA[0-9A-Za-z_-]{20,}={0,2}")


class _ForeignKeys:
    """Patterns of keys without a form of ours, in all applications of the process: by their header, or their start."""

    def __init__(self) -> None:
        self._ways: frozenset[str] = frozenset()
        self._pattern: re.Pattern[str] | None = None

    def include(self, entries: Iterable[str], starts: Iterable[str] = ()) -> None:
        """Redact what the headers of ``APIKEY_ACCEPT`` present, and keys with these starts, from then on."""
        headers = {rf"(?<![0-9a-z])(?i:{_pattern_of_entry(entry)})" for entry in entries}
        ways = self._ways | headers | {rf"(?<![0-9A-Za-z]){re.escape(start)}" for start in starts}
        if ways != self._ways:
            self._ways, self._pattern = ways, re.compile(rf"({'|'.join(sorted(ways))})((?!<key>){_VALUE})")

    def redacted(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(_without_value, text)


# Value of a header, and what separates it from the name, in texts, JSON and reprs.
_VALUE = r"""(?:[^\s'"\\]|\\(?!['"]))+"""
_SEPARATOR = r"""\\*(?:['"]\s*,\s*b?['"]|['"]?\s*[:=]\s*(?:\[(?!redacted)|\()?b?\\*['"]?)"""


def _pattern_of_entry(entry: str) -> str:
    name, _, scheme = entry.partition(": ")
    header = re.escape(name).replace(r"\-", "[-_]") + _SEPARATOR
    return rf"{header}{re.escape(scheme)}[ \t]+" if scheme else header


def _without_value(match: re.Match[str]) -> str:
    # A key of this library keeps its id.
    return match[0] if "[redacted]" in match[2] else f"{match[1]}[redacted]"


_foreign_keys = _ForeignKeys()
redact_also = _foreign_keys.include


def sanitized(text: str, max_length: int = MAX_LENGTH) -> str:
    r"""Return `text` on one printable line of at most `max_length` characters, with a final ``…`` if it is cut."""
    shortened = visible(text[:max_length])[:max_length]
    return shortened if len(text) <= max_length else f"{shortened[: max_length - 1]}…"


def visible(text: str) -> str:
    r"""Return `text` on one line, with unprintable characters as ``\u{…}``."""
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.category(character) in UNPRINTABLE:
        return f"\\u{{{ord(character):x}}}"
    return character


def redacted(text: str) -> str:
    """Return `text` with ``[redacted]`` for each Fernet token and the secret of each key, even if it is cut short.

    What follows a header that presents keys, or the start of an adopted key, is redacted whole, unless it has an id.
    """
    return _foreign_keys.redacted(_fernet_token.sub("[redacted]", _secret_of_key.sub("[redacted]", text)))


def key_id_in(text: str) -> str | None:
    """Return the id of the key in a text, even if the secret is cut short or mistyped. None without a secret."""
    # The last match: a prefix may end like an id, which makes the id look like a secret.
    return next((match[1] for match in reversed(list(_secret_of_key.finditer(text)))), None)


def redacted_uri(uri: str) -> str:
    """Return a storage URI with ``***`` for its password and query. An ambiguous URI is reduced to its scheme."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return f"{uri.partition(':')[0]}:***"
    address, question_mark, query = rest.partition("?")
    if "@" in query:
        return f"{scheme}://***"
    credentials, at, place = address.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{place}{'?***' if question_mark else ''}"
