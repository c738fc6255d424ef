"""Untrusted or secret text, made safe to log, print and store."""

import re
import unicodedata

MAX_LENGTH = 200

UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of control, format (such as bidirectional overrides, UAX #9), surrogate, private and
unassigned characters, and of line and paragraph separators."""

# The end of a key string, as in `flask_apikey.core.model.keystring`: "_", the public id, "_" and the secret.
_secret_of_key = re.compile(r"(?<=_([0-9A-Za-z]{16})_)[0-9A-Za-z]{8,}")


# Seals, which drivers write to their DEBUG logs. The first byte of a Fernet token is a version, then comes a time.
_fernet_token = re.compile(r"gAAAA[0-9A-Za-z_-]{20,}={0,2}")


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
    """Return `text` with ``[redacted]`` for each Fernet token and the secret of each key, even if it is cut short."""
    return _fernet_token.sub("[redacted]", _secret_of_key.sub("[redacted]", text))


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
