"""Reading the presented key from the headers of a request."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from flask_apikey.core.model.keystring import MAX_LENGTH, ParsedKey, parse
from flask_apikey.core.model.sealing import digest

SCHEME = "api-key"
_LONGEST_HEADER = len(SCHEME) + 16 + MAX_LENGTH


@dataclass(frozen=True, slots=True)
class Credentials:
    """A presented key; None if the text cannot be a key."""

    key: str | None = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the text that was presented. Compute it where it is needed, rather than keep it in a local."""
        return digest(self.key or "")

    @property
    def parsed(self) -> ParsedKey | None:
        """Public parts of the key; None if it is malformed."""
        return None if self.key is None else parse(self.key)


MALFORMED = Credentials(None)


def bearer_beginnings(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Return how bearer tokens begin that are keys with one of these prefixes."""
    return tuple(f"{prefix}_" for prefix in prefixes)


def read_credentials(
    authorization: str | None, x_api_key: str | None, beginnings: tuple[str, ...]
) -> Credentials | None:
    """Read ``Authorization: Api-Key``, ``Authorization: Bearer`` or ``X-API-Key``.

    Args:
        authorization: Value of the header ``Authorization``.
        x_api_key: Value of the header ``X-API-Key``.
        beginnings: Result of `bearer_beginnings`. Other bearer tokens are not keys.

    Returns:
        None if no key is presented. `MALFORMED` if the text cannot be a key, or if
        several keys are presented: servers join repeated headers with a comma, which
        no key contains.
    """
    presented = None if authorization is None else _from_authorization(authorization, beginnings)
    if x_api_key is None:
        return presented
    return _credentials(x_api_key) if presented is None else MALFORMED


def _from_authorization(value: str, beginnings: tuple[str, ...]) -> Credentials | None:
    scheme, _, rest = value[: _LONGEST_HEADER + 1].strip(" \t").partition(" ")
    scheme = scheme.lower()
    if scheme == SCHEME or (scheme == "bearer" and rest.lstrip(" \t").startswith(beginnings)):
        return _credentials(rest) if len(value) <= _LONGEST_HEADER else MALFORMED
    return None


def _credentials(text: str) -> Credentials:
    text = text.strip(" \t")
    return Credentials(text) if 0 < len(text) <= MAX_LENGTH else MALFORMED
