"""Public keys of GitHub, and the signatures of its reports."""

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.request import HTTPRedirectHandler, Request, build_opener

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from flask_apikey.core.audit_log import LOGGER_NAME
from flask_apikey.core.limits.token_bucket import TokenBucket

GITHUB_PUBLIC_KEYS = "https://api.github.com/meta/public_keys/secret_scanning"

FETCH_INTERVAL = 300.0
"""Seconds after which another fetch is allowed, besides the first `MAX_FETCHES`."""

MAX_FETCHES = 3
MAX_AGE = 3600.0
"""Seconds after which keys are fetched anew."""

MAX_OUTAGE = 24 * 3600.0
"""Seconds for which keys are used while they cannot be fetched."""

_MAX_BYTES = 1 << 16
_MAX_KEYS = 100
_MAX_SIGNATURE = 200
_TIMEOUT = 5

logger = logging.getLogger(LOGGER_NAME)


class PublicKeysUnavailable(Exception):
    """A public key is not known, and cannot be fetched at the moment."""


class _NoRedirects(HTTPRedirectHandler):
    """Handler that refuses to follow a redirect."""

    def redirect_request(self, *_args: Any, **_options: Any) -> None:
        """Return no request, so that the redirect becomes an error."""


def fetch_github_keys(url: str = GITHUB_PUBLIC_KEYS) -> bytes:
    """Fetch the public keys of GitHub, as JSON."""
    request = Request(url, headers={"Accept": "application/json", "User-Agent": "flask-apikey"})  # noqa: S310  # a constant
    with build_opener(_NoRedirects).open(request, timeout=_TIMEOUT) as response:
        data: bytes = response.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"the public keys have more than {_MAX_BYTES} bytes")
    return data


class PublicKeys:
    """Cache of public keys.

    A key that is not known is looked for in a new fetch. The number of fetches is bounded, so a
    flood of unknown identifiers does not exhaust the rate limit of GitHub.
    """

    def __init__(self, fetch: Callable[[], bytes], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._fetches = TokenBucket(1 / FETCH_INTERVAL, MAX_FETCHES, monotonic)
        self._lock = threading.Lock()
        self._attempts = 0
        self._is_current = False
        self._keys: Mapping[str, EllipticCurvePublicKey] = {}
        self._fetched_at = 0.0

    def find(self, identifier: str) -> EllipticCurvePublicKey | None:
        """Return the public key with an identifier, or None if GitHub has no such key.

        Raises:
            PublicKeysUnavailable: The key is not known, and the keys cannot be fetched.
        """
        key = self._keys.get(identifier)
        if key is not None and self._age() < MAX_AGE:
            return key
        is_refreshed = self._refresh()
        key = self._keys.get(identifier)
        if key is not None and self._age() < MAX_OUTAGE:
            return key
        if not is_refreshed:
            raise PublicKeysUnavailable
        return None

    def _age(self) -> float:
        return self._monotonic() - self._fetched_at

    def _refresh(self) -> bool:
        """Fetch the keys, or wait for another thread that does. Return True if they are current."""
        seen = self._attempts
        # Only the first fetch is worth waiting for: a hanging one must not stop other threads.
        if not self._lock.acquire(blocking=not self._keys):
            return False
        try:
            if self._attempts != seen:
                return self._is_current
            if not self._fetches.take():
                return False
            self._is_current = False
            try:
                self._keys, self._fetched_at = _parsed(self._fetch()), self._monotonic()
                self._is_current = True
            except Exception as exc:  # noqa: BLE001  # a network raises anything
                logger.warning("the public keys of GitHub cannot be fetched: %s", type(exc).__name__)
            self._attempts += 1
            return self._is_current
        finally:
            self._lock.release()


def is_signed(body: bytes, signature: str, key: EllipticCurvePublicKey) -> bool:
    """Return True if a base64 signature over a body is that of a public key."""
    if len(signature) > _MAX_SIGNATURE:
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), body, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def _parsed(document: bytes) -> Mapping[str, EllipticCurvePublicKey]:
    keys = {}
    for entry in json.loads(document)["public_keys"][:_MAX_KEYS]:
        key = _loaded(entry["key"])
        if key is not None:
            keys[str(entry["key_identifier"])] = key
    if not keys:
        raise ValueError("there is no public key on the curve P-256")
    return keys


def _loaded(pem: str) -> EllipticCurvePublicKey | None:
    """Load a public key on the curve P-256; None for any other key."""
    try:
        key = load_pem_public_key(pem.encode())
    except (UnsupportedAlgorithm, ValueError):
        return None
    return key if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1) else None
