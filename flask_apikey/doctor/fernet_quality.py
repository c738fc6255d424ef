"""Whether a Fernet key could be guessed.

A Fernet key is 32 random bytes. What looks otherwise was typed, derived or copied.
The bounds are such that all of them together suspect a random key with a
probability of less than 2⁻⁶⁴:

===================================================  ==========
32 bytes that repeat a block of at most 16           2⁻¹²⁷
32 bytes, none smaller (or larger) than the last     2⁻¹¹³
at most 12 different bytes                           2⁻⁷⁴
letters and digits only                              2⁻⁶⁵·⁴
printable ASCII, at least 27 of 32 lower-case
letters, digits or spaces                            2⁻⁶⁸
base64 text that repeats a block of at most 20       2⁻¹³¹
base64 text of at most 11 different characters       2⁻⁶⁷
base64 text with 14 characters in sequence           2⁻⁷³
===================================================  ==========
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from flask_apikey.doctor.findings import Finding, Severity

KEY_BYTES = 32
MAX_BLOCK = 16
MAX_DISTINCT_BYTES = 12
MIN_PLAIN_CHARACTERS = 27
# The last of the 43 characters carries four bits only.
TEXT_LENGTH = 42
MAX_TEXT_BLOCK = 20
MAX_DISTINCT_CHARACTERS = 11
SEQUENCE_LENGTH = 14

_ALPHANUMERIC = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_PLAIN = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyz ")
_PRINTABLE = frozenset(range(0x20, 0x7F))

_NEW_KEY = (
    "Make a new one with 'flask apikey generate-fernet-key', and keep this one in APIKEY_FERNET_KEY_FALLBACKS only "
    "until no key is sealed under it."
)

# SHA-256 of Fernet keys that everybody can read: the first is that of the Fernet
# specification's test vectors, which our own tests use; the others are printed in
# the documentation of packages that seal keys or passwords with Fernet.
PUBLISHED = frozenset(
    {
        "d88a2cb53b61ef4d6fe8923a89129d437a293f6cd1a951ff09b94f971a88d585",
        "d1e2cb35cc60198e3e0d14aba60c7b58e3655e881f56c050e88ae53ab22f0985",
        "4f8d3a11aa37dad9878f56ab0e4645dcc96356c36903f665df27cdbaa135adb2",
        "81886cc4d79074f6e946934d4e9e9d6a2ef320041045a0bd3c36ab6939df37e8",
        "45f9af60db8dc522a2d2f8d302f80d4eab1452fb4ad437bbe4f6fb819608efcc",
    }
)


def weaknesses(key: str | bytes, setting: str, secret_keys: Iterable[object] = ()) -> list[Finding]:
    """What makes a Fernet key easier to guess than it should be.

    Args:
        key: A well-formed Fernet key.
        setting: Where it is configured, for the messages.
        secret_keys: The application's ``SECRET_KEY`` and its fallbacks.
    """
    text = key if isinstance(key, str) else key.decode("ascii")
    found = []
    if is_published(text):
        found.append(_finding("fernet_key_published", f"{setting} is printed in public documentation."))
    else:
        pattern = weak_pattern(text)
        if pattern is not None:
            found.append(_finding("fernet_key_weak", f"{setting} is not random: {pattern}."))
    origins = {_origin(text, secret) for secret in secret_keys if isinstance(secret, str | bytes) and secret}
    found += [
        _finding("fernet_key_is_secret_key", f"{setting} {origin}. One leak would open both.")
        for origin in sorted(filter(None, origins))
    ]
    return found


def is_published(text: str) -> bool:
    """Whether everybody can read this Fernet key."""
    canonical = base64.urlsafe_b64encode(base64.urlsafe_b64decode(text))
    return hashlib.sha256(canonical).hexdigest() in PUBLISHED


def weak_pattern(text: str) -> str | None:
    """What the 32 bytes of a Fernet key, or its text, show that random ones do not; None for a good key."""
    decoded = base64.urlsafe_b64decode(text)
    characters = text[:TEXT_LENGTH].encode("ascii")
    return next((pattern for pattern, has_it in _PATTERNS if has_it(decoded, characters)), None)


def _repeats(values: Sequence[int], max_block: int) -> bool:
    return any(values[size:] == values[:-size] for size in range(1, max_block + 1))


def _is_in_order(values: bytes) -> bool:
    return list(values) in (sorted(values), sorted(values, reverse=True))


def _is_text(values: bytes) -> bool:
    if _ALPHANUMERIC.issuperset(values):
        return True
    return _PRINTABLE.issuperset(values) and sum(value in _PLAIN for value in values) >= MIN_PLAIN_CHARACTERS


def _has_sequence(characters: bytes) -> bool:
    steps = [following - value for value, following in pairwise(characters)]
    length = SEQUENCE_LENGTH - 1
    windows = [steps[start : start + length] for start in range(len(steps) - length + 1)]
    return any(window in ([1] * length, [-1] * length) for window in windows)


_PATTERNS: list[tuple[str, Callable[[bytes, bytes], bool]]] = [
    ("all of its bytes are equal", lambda decoded, _: len(set(decoded)) == 1),
    (
        "it repeats a short pattern",
        lambda decoded, characters: _repeats(decoded, MAX_BLOCK) or _repeats(characters, MAX_TEXT_BLOCK),
    ),
    ("its bytes are in ascending or descending order", lambda decoded, _: _is_in_order(decoded)),
    ("its bytes are readable text", lambda decoded, _: _is_text(decoded)),
    (
        "it has few different characters",
        lambda decoded, characters: (
            len(set(decoded)) <= MAX_DISTINCT_BYTES or len(set(characters)) <= MAX_DISTINCT_CHARACTERS
        ),
    ),
    ("it contains a sequence such as abcdefghijklmn", lambda _, characters: _has_sequence(characters)),
]


def _origin(text: str, secret: str | bytes) -> str | None:
    given = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else bytes(secret)
    decoded = base64.urlsafe_b64decode(text)
    if given in (text.encode("ascii"), text.rstrip("=").encode("ascii"), decoded, decoded.hex().encode("ascii")):
        return "has the same value as SECRET_KEY"
    if decoded in (given[:KEY_BYTES].ljust(KEY_BYTES, b"\0"), hashlib.sha256(given).digest()):
        return "is made from SECRET_KEY"
    return None


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, severity=Severity.PROBLEM, message=message, advice=_NEW_KEY)
