"""The key that a request presents, read from its raw headers."""

from dataclasses import dataclass, field

from flask_apikey.core.model.keystring import MAX_LENGTH

SCHEME = "api-key"
_LONGEST_HEADER = len(SCHEME) + 16 + MAX_LENGTH


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request presents.

    Attributes:
        key: The presented text; None when it is certainly no key.
    """

    key: str | None = field(repr=False)


MALFORMED = Credentials(None)


def read_credentials(authorization: str | None, x_api_key: str | None, prefix: str) -> Credentials | None:
    """Read ``Authorization: Api-Key``, ``Authorization: Bearer`` or ``X-API-Key``.

    Args:
        authorization: The field value as the server passed it on, or None.
        x_api_key: Likewise.
        prefix: A Bearer token is an attempt only when it starts with this prefix.

    Returns:
        None when the request makes no attempt; `MALFORMED` when it makes one that
        cannot be a key, or more than one. Servers join repeated fields with a
        comma, which no key contains.
    """
    presented = None if authorization is None else _from_authorization(authorization, prefix)
    if x_api_key is None:
        return presented
    if presented is not None:
        return MALFORMED
    return _credentials(x_api_key)


def _from_authorization(value: str, prefix: str) -> Credentials | None:
    scheme, _, rest = value[: _LONGEST_HEADER + 1].strip(" \t").partition(" ")
    scheme = scheme.lower()
    if scheme == SCHEME:
        return _credentials(rest) if len(value) <= _LONGEST_HEADER else MALFORMED
    if scheme == "bearer" and rest.lstrip(" \t").startswith(f"{prefix}_"):
        return _credentials(rest) if len(value) <= _LONGEST_HEADER else MALFORMED
    return None


def _credentials(text: str) -> Credentials:
    text = text.strip(" \t")
    return Credentials(text) if 0 < len(text) <= MAX_LENGTH else MALFORMED
