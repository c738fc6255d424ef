"""Slow hashes of adopted keys, in the encodings of Django, Werkzeug, bcrypt and argon2-cffi.

Parameters that would take a server down are refused, both when a hash is adopted and when it is computed.
"""

import base64
import hashlib
import hmac
import importlib
import re
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.adopted_form import MissingLibrary

MAX_ROUNDS = 5_000_000
"""Maximum number of rounds of PBKDF2."""

MAX_COST = 15
"""Maximum cost of bcrypt: the number of rounds is a power of two."""

MAX_MEMORY = 256 * 2**20
"""Maximum memory of scrypt and Argon2, in bytes."""

MAX_WORK = 2**30
"""Maximum memory of scrypt and Argon2, times the passes over it."""

_MAX_LANES = 64
_MAX_BCRYPT = 72

_BCRYPT = r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}"
_ARGON2 = (
    r"\$(?P<variant>argon2(?:id|i|d))\$v=19\$m=(?P<memory>\d{1,18}),t=(?P<passes>\d{1,18}),p=(?P<lanes>\d{1,18})"
    r"\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{16,171}"
)
_SALT = r"(?P<salt>[^$]{1,200})"
_HEX = r"(?P<hex>(?:[0-9a-f]{2}){16,128})"
_BASE64 = r"(?P<hash>[A-Za-z0-9+/]{20,100}={0,2})"


def is_hash(key: str, text: str) -> bool:
    """Return True if a slow hash is that of a presented string. The comparison takes constant time.

    Raises:
        InvalidValue: The hash is not supported.
        MissingLibrary: Its library is not installed.
    """
    encoding, parsed = _parsed(text)
    return encoding.check(key, parsed)


def checked_hash(text: str) -> str:
    """Return a slow hash that can be checked.

    Raises:
        InvalidValue: Its encoding is unknown, or its parameters are out of bounds. The message does not show it.
        MissingLibrary: Its library is not installed.
    """
    encoding, parsed = _parsed(text)
    if parsed.groupdict().get("hash"):
        try:
            _hash_in(parsed)
        except ValueError:
            raise InvalidValue("digest is a hash that was cut or changed") from None
    if encoding.library is not None:
        _library(encoding.library)
    return text


class _Encoding(NamedTuple):
    """An encoding of hashes.

    Attributes:
        matches: Matches a whole hash.
        is_bounded: Returns True if the parameters are within bounds.
        check: Compares a presented string with the hash, of which it gets the match.
        library: Module that is needed; None for none.
    """

    matches: Callable[[str], "re.Match[str] | None"]
    is_bounded: Callable[["re.Match[str]"], bool]
    check: Callable[[str, "re.Match[str]"], bool]
    library: str | None = None


def _parsed(text: str) -> tuple[_Encoding, "re.Match[str]"]:
    for encoding in _ENCODINGS:
        parsed = encoding.matches(text)
        if parsed is not None:
            if not encoding.is_bounded(parsed):
                break
            return encoding, parsed
    else:
        raise InvalidValue(
            "digest is not a hash of Django, Werkzeug, bcrypt or argon2-cffi in their encodings: see the documentation"
        )
    raise InvalidValue("digest is a hash whose memory or rounds are out of bounds: see the documentation")


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = {"argon2": "argon2-cffi"}.get(name, name)
        raise MissingLibrary(
            f"hashes of this kind need {package}, which is not installed: pip install 'flask-apikey-auth[hashes]'"
        ) from None


def _has_bounded_rounds(parsed: "re.Match[str]") -> bool:
    return 1 <= int(parsed["rounds"]) <= MAX_ROUNDS


def _has_bounded_cost(parsed: "re.Match[str]") -> bool:
    return 4 <= int(parsed["cost"]) <= MAX_COST  # noqa: PLR2004  # the minimum of bcrypt


def _has_bounded_argon2(parsed: "re.Match[str]") -> bool:
    memory, passes, lanes = 1024 * int(parsed["memory"]), int(parsed["passes"]), int(parsed["lanes"])
    return _is_bounded(memory, passes) and 1 <= lanes <= _MAX_LANES and memory >= 8 * 1024 * lanes


def _has_bounded_scrypt(parsed: "re.Match[str]") -> bool:
    n, r, p = (int(parsed[name]) for name in ("n", "r", "p"))
    return n > 1 and n & (n - 1) == 0 and r >= 1 and _is_bounded(128 * n * r, p)


def _is_bounded(memory: int, passes: int) -> bool:
    return 0 < memory <= MAX_MEMORY and passes >= 1 and memory * passes <= MAX_WORK


def _check_bcrypt(key: str, parsed: "re.Match[str]", prepare: Callable[[bytes], bytes] = lambda secret: secret) -> bool:
    secret = prepare(key.encode())
    # bcrypt ignores the rest, so that other strings would open the row too.
    if len(secret) > _MAX_BCRYPT or b"\0" in secret:
        return False
    is_right: bool = _library("bcrypt").checkpw(secret, parsed["encoded"].encode())
    return is_right


def _sha256_in_hex(secret: bytes) -> bytes:
    return hashlib.sha256(secret).hexdigest().encode()


def _check_argon2(key: str, parsed: "re.Match[str]") -> bool:
    argon2 = _library("argon2")
    try:
        is_right: bool = argon2.PasswordHasher().verify(parsed["encoded"], key)
    except argon2.exceptions.VerifyMismatchError:
        return False
    return is_right


def _check_pbkdf2(key: str, parsed: "re.Match[str]") -> bool:
    salt, rounds = parsed["salt"].encode(), int(parsed["rounds"])
    computed = hashlib.pbkdf2_hmac(parsed["algorithm"], key.encode(), salt, rounds)
    return hmac.compare_digest(computed, _hash_in(parsed))


def _check_scrypt(key: str, parsed: "re.Match[str]") -> bool:
    n, r, p = (int(parsed[name]) for name in ("n", "r", "p"))
    salt = parsed["salt"].encode()
    computed = hashlib.scrypt(key.encode(), salt=salt, n=n, r=r, p=p, maxmem=2 * MAX_MEMORY, dklen=64)
    return hmac.compare_digest(computed, _hash_in(parsed))


def _check_md5(key: str, parsed: "re.Match[str]") -> bool:
    computed = hashlib.md5((parsed["salt"] + key).encode(), usedforsecurity=False).hexdigest()
    return hmac.compare_digest(computed, parsed["hash"])


def _hash_in(parsed: "re.Match[str]") -> bytes:
    in_hex = parsed.groupdict().get("hex")
    return base64.b64decode(parsed["hash"]) if in_hex is None else bytes.fromhex(in_hex)


def _matcher(pattern: str) -> Callable[[str], "re.Match[str] | None"]:
    return re.compile(pattern, re.ASCII).fullmatch


_ENCODINGS = (
    _Encoding(_matcher(rf"(?:bcrypt\$)?(?P<encoded>{_BCRYPT})"), _has_bounded_cost, _check_bcrypt, "bcrypt"),
    _Encoding(
        _matcher(rf"bcrypt_sha256\$(?P<encoded>{_BCRYPT})"),
        _has_bounded_cost,
        partial(_check_bcrypt, prepare=_sha256_in_hex),
        "bcrypt",
    ),
    _Encoding(_matcher(rf"(?:argon2)?(?P<encoded>{_ARGON2})"), _has_bounded_argon2, _check_argon2, "argon2"),
    _Encoding(
        _matcher(rf"pbkdf2_(?P<algorithm>sha256|sha1)\$(?P<rounds>\d{{1,18}})\${_SALT}\${_BASE64}"),
        _has_bounded_rounds,
        _check_pbkdf2,
    ),
    _Encoding(
        _matcher(rf"scrypt\$(?P<n>\d{{1,18}})\${_SALT}\$(?P<r>\d{{1,18}})\$(?P<p>\d{{1,18}})\${_BASE64}"),
        _has_bounded_scrypt,
        _check_scrypt,
    ),
    _Encoding(_matcher(rf"md5\${_SALT}\$(?P<hash>[0-9a-f]{{32}})"), lambda _parsed: True, _check_md5),
    _Encoding(
        _matcher(rf"pbkdf2:(?P<algorithm>sha1|sha256|sha512):(?P<rounds>\d{{1,18}})\${_SALT}\${_HEX}"),
        _has_bounded_rounds,
        _check_pbkdf2,
    ),
    _Encoding(
        _matcher(rf"scrypt:(?P<n>\d{{1,18}}):(?P<r>\d{{1,18}}):(?P<p>\d{{1,18}})\${_SALT}\${_HEX}"),
        _has_bounded_scrypt,
        _check_scrypt,
    ),
)
