"""Checks of the configured Fernet keys."""

import base64
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from flask import Flask

from flask_apikey.core.fernet_key_file import loose_mode
from flask_apikey.core.text import sanitized
from flask_apikey.doctor.findings import Finding, problem, warning
from flask_apikey.doctor.source_search import Match, search_source
from flask_apikey.settings import Settings

logger = logging.getLogger("flask_apikey")

KEY_BYTES = 32

# SHA-256 of published Fernet keys. The first one is in the Fernet specification, and in our own tests.
# The others are in the documentation of packages that encrypt with Fernet.
PUBLISHED = frozenset(
    {
        "d88a2cb53b61ef4d6fe8923a89129d437a293f6cd1a951ff09b94f971a88d585",
        "d1e2cb35cc60198e3e0d14aba60c7b58e3655e881f56c050e88ae53ab22f0985",
        "4f8d3a11aa37dad9878f56ab0e4645dcc96356c36903f665df27cdbaa135adb2",
        "81886cc4d79074f6e946934d4e9e9d6a2ef320041045a0bd3c36ab6939df37e8",
        "45f9af60db8dc522a2d2f8d302f80d4eab1452fb4ad437bbe4f6fb819608efcc",
    }
)

# A random key looks weak with a probability below 2**-45.
_MAX_BLOCK = 16
_MAX_DISTINCT = 12
_SEQUENCE_LENGTH = 14

# The last of 43 base64 characters has only four bits.
_FULL_CHARACTERS = 42

_REPLACE = (
    "Make a new one with 'flask apikey generate-fernet-key', and keep this one in APIKEY_FERNET_KEY_FALLBACKS only "
    "until no key is sealed under it."
)


def log_fernet_warnings(app: Flask, settings: Settings) -> None:
    """Log the problems of the configured Fernet keys. The source code is searched only while ``app.debug`` is on."""
    findings = [*check_strength(app, settings), *check_file_mode(settings)]
    if app.debug:
        findings += check_source(app, settings)
    for finding in findings:
        places = "".join(f" ({sanitized(str(each['file']), 500)}:{each['line']})" for each in finding.details)
        fields = {"event": "configuration", "outcome": "failure", "reason": finding.code}
        logger.warning("%s%s %s", finding.message, places, finding.advice, extra=fields)


def check_strength(app: Flask, settings: Settings) -> Iterator[Finding]:
    """Report Fernet keys that an attacker could guess."""
    secret_keys = [app.config.get("SECRET_KEY"), *(app.config.get("SECRET_KEY_FALLBACKS") or ())]
    for setting, key in _configured_keys(settings).items():
        yield from weaknesses(key, setting, secret_keys)


def check_file_mode(settings: Settings) -> Iterator[Finding]:
    """Report a key file that other users can read or change."""
    path = settings.fernet_key_file
    mode = None if path is None else loose_mode(path)
    if mode is not None:
        yield warning(
            "fernet_key_file_mode",
            f"APIKEY_FERNET_KEY_FILE: other users have access to {path} (mode {mode:04o}).",
            f"chmod 0400 {path}",
        )


def check_source(app: Flask, settings: Settings) -> Iterator[Finding]:
    """Report Fernet keys in the source code of the application."""
    by_setting: dict[str, list[Match]] = {}
    for match in search_source(Path(app.root_path), _configured_keys(settings)):
        by_setting.setdefault(match.setting, []).append(match)
    for setting, matches in by_setting.items():
        yield problem(
            "fernet_key_in_source",
            f"{setting} is in the source code.",
            "Make a new one, and pass it in the environment or with APIKEY_FERNET_KEY_FILE.",
            # A file name may be invalid UTF-8, which JSON cannot hold.
            details=tuple(
                {"file": os.fsencode(match.path).decode("utf-8", "replace"), "line": match.line} for match in matches
            ),
        )


def weaknesses(key: str, setting: str, secret_keys: Iterable[object] = ()) -> Iterator[Finding]:
    """Report each reason why an attacker could guess the Fernet key of a setting."""
    if is_published(key):
        yield problem("fernet_key_published", f"{setting} is printed in public documentation.", _REPLACE)
    elif (pattern := weak_pattern(key)) is not None:
        yield problem("fernet_key_weak", f"{setting} is not random: {pattern}.", _REPLACE)
    origins = {_origin(key, secret) for secret in secret_keys if isinstance(secret, str | bytes) and secret}
    for origin in sorted(filter(None, origins)):
        yield problem("fernet_key_is_secret_key", f"{setting} {origin}. A leak of one exposes both.", _REPLACE)


def is_published(key: str) -> bool:
    """Return True if public documentation contains this Fernet key."""
    # Encode again: the last character of a key has two bits without meaning.
    canonical = base64.urlsafe_b64encode(base64.urlsafe_b64decode(key))
    return hashlib.sha256(canonical).hexdigest() in PUBLISHED


def weak_pattern(key: str) -> str | None:
    """Return the pattern of a typed or copied Fernet key, or None for a random one."""
    decoded = base64.urlsafe_b64decode(key)
    characters = key[:_FULL_CHARACTERS].encode("ascii")
    if _repeats(decoded) or _repeats(characters):
        return "it repeats a short pattern"
    if list(decoded) in (sorted(decoded), sorted(decoded, reverse=True)) or _has_sequence(characters):
        return "it contains a sequence such as abcdefghijklmn"
    # Short passwords are often padded with zero bytes.
    password = decoded.rstrip(b"\0")
    if password.isascii() and password.decode("ascii").isprintable():
        return "its bytes are readable text"
    if min(len(set(decoded)), len(set(characters))) <= _MAX_DISTINCT:
        return "it has few different characters"
    return None


def _repeats(values: Sequence[int]) -> bool:
    return any(values[size:] == values[:-size] for size in range(1, _MAX_BLOCK + 1))


def _has_sequence(characters: bytes) -> bool:
    steps = bytes((following - value) % 256 for value, following in pairwise(characters))
    return any(step * (_SEQUENCE_LENGTH - 1) in steps for step in (b"\x01", b"\xff"))


def _origin(key: str, secret: str | bytes) -> str | None:
    raw = secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else bytes(secret)
    decoded = base64.urlsafe_b64decode(key)
    if raw in (key.encode("ascii"), key.rstrip("=").encode("ascii"), decoded, decoded.hex().encode("ascii")):
        return "has the same value as SECRET_KEY"
    if decoded in (raw[:KEY_BYTES].ljust(KEY_BYTES, b"\0"), hashlib.sha256(raw).digest()):
        return "is derived from SECRET_KEY"
    return None


def _configured_keys(settings: Settings) -> dict[str, str]:
    keys = {settings.fernet_key_setting: settings.fernet_key}
    keys |= {f"APIKEY_FERNET_KEY_FALLBACKS[{index}]": key for index, key in enumerate(settings.fernet_key_fallbacks)}
    return {setting: key.decode("ascii") if isinstance(key, bytes) else str(key) for setting, key in keys.items()}
