"""Text that others chose, made safe to store and to log."""

import unicodedata

MAX_LENGTH = 200

# Control, format (among them the bidirectional overrides of UAX #9), surrogate, private, unassigned, separators.
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def sanitized(text: str, max_length: int = MAX_LENGTH) -> str:
    r"""`text` on one line, without what could forge a log line or mislead its reader.

    Characters that are not printable are written as ``\u{…}``, and what is longer
    than `max_length` ends with ``…``.
    """
    shortened = visible(text[:max_length])[:max_length]
    return shortened if len(text) <= max_length else f"{shortened[: max_length - 1]}…"


def visible(text: str) -> str:
    r"""`text` of any length on one line, characters that are not printable as ``\u{…}``."""
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.category(character) in _UNSAFE:
        return f"\\u{{{ord(character):x}}}"
    return character
