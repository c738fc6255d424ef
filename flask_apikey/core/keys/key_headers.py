"""Headers and schemes in which clients present their keys."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask_apikey.core.keys.credentials import MALFORMED, Credentials, credentials_in
from flask_apikey.core.model.keystring import MAX_LENGTH

DEFAULT_ENTRIES = ("Authorization: Api-Key", "Authorization: Bearer", "X-API-Key")
_AUTHORIZATION = "Authorization"
_BEARER = "bearer"
_MAX_NAME = 64

_is_entry = re.compile(r"authorization[ \t]*:[ \t]*([0-9a-z-]+)|([a-z][0-9a-z-]*)", re.IGNORECASE).fullmatch

# Registered schemes (IANA, HTTP Authentication Schemes), and NTLM.
_is_other_scheme = re.compile(
    r"basic|concealed|digest|dpop|gnap|hoba|mutual|negotiate|ntlm|oauth|privatetoken|scram-sha-(1|256)|vapid",
    re.IGNORECASE,
).fullmatch

# Headers that clients, proxies and servers set by themselves.
_is_taken = re.compile(
    r"(accept|access-control|content|forwarded|if|proxy|sec|via|x-forwarded)(-.*)?"
    r"|connection|cookie|date|expect|host|keep-alive|origin|range|referer|te|trailer|transfer-encoding|upgrade"
    r"|user-agent|x-real-ip|x-request-id",
    re.IGNORECASE,
).fullmatch


class KeyHeaders:
    """The headers and schemes of ``APIKEY_ACCEPT``, and the key that a request presents in them.

    Args:
        entries: Entries of the setting, such as ``"Authorization: Api-Key"`` and ``"X-API-Key"``.
        starts: How keys start that may come as ``Bearer``, which others use too. Other tokens are not keys.
        max_length: Maximum length of a key.
        bearer_tests: Tests of other tokens that may be keys.

    Attributes:
        entries: The entries in canonical form.
        names: Names of the headers, for ``Vary``.
        environ_names: Names of the headers in a WSGI environment.
        scheme: Scheme of the challenge: the first one that is accepted.

    Raises:
        ValueError: An entry is invalid.
    """

    def __init__(
        self,
        entries: Iterable[str],
        starts: tuple[str, ...] = (),
        max_length: int = MAX_LENGTH,
        bearer_tests: tuple[Callable[[str], bool], ...] = (),
    ) -> None:
        schemes: dict[str, str] = {}
        headers: dict[str, str] = {}
        for entry in entries:
            scheme, header = _parsed(entry)
            kind, name = (schemes, scheme) if header is None else (headers, header)
            if name.lower() in kind:
                raise ValueError(f"names {entry!r} twice")
            kind[name.lower()] = name
        if not schemes and not headers:
            raise ValueError("must name at least one header, such as 'X-API-Key'")
        self.entries = (*(f"{_AUTHORIZATION}: {name}" for name in schemes.values()), *headers.values())
        self.names = (*((_AUTHORIZATION,) if schemes else ()), *headers.values())
        self.environ_names = tuple(map(_environ_name, self.names))
        self.scheme = next(iter(schemes.values()), "Api-Key")
        self._schemes = frozenset(schemes)
        self._headers = tuple(map(_environ_name, headers.values()))
        self._starts = starts
        self._bearer_tests = bearer_tests
        self._max_length = max_length
        self._longest_value = max(map(len, schemes), default=0) + 16 + max_length

    def read(self, environ: Mapping[str, Any]) -> Credentials | None:
        """Read the presented key from a WSGI environment.

        Returns:
            None if no key is presented. `MALFORMED` if the text cannot be a key, or if
            several keys are presented: servers join repeated headers with a comma, which
            no key of this library contains.
        """
        presented = None
        if self._schemes and "HTTP_AUTHORIZATION" in environ:
            presented = self._from_authorization(environ["HTTP_AUTHORIZATION"])
        for name in self._headers:
            if name in environ:
                if presented is not None:
                    return MALFORMED
                presented = credentials_in(environ[name], self._max_length)
        return presented

    def header_for(self, key: str) -> tuple[str, str]:
        """Return a header that presents a key. The first entry is used."""
        name, _, scheme = self.entries[0].partition(": ")
        return name, f"{scheme} {key}" if scheme else key

    def advice(self) -> str:
        """Return a sentence that says how to send a key."""
        ways = [f"'{entry}{' ' if ': ' in entry else ': '}<key>'" for entry in self.entries]
        return f"Send a key as {' or as '.join(filter(None, [', as '.join(ways[:-1]), ways[-1]]))}."

    def _from_authorization(self, value: str) -> Credentials | None:
        scheme, _, rest = value[: self._longest_value + 1].strip(" \t").partition(" ")
        scheme = scheme.lower()
        if scheme not in self._schemes or (scheme == _BEARER and not self._may_be_bearer(rest.lstrip(" \t"))):
            return None
        return credentials_in(rest, self._max_length) if len(value) <= self._longest_value else MALFORMED

    def _may_be_bearer(self, text: str) -> bool:
        try:
            return text.startswith(self._starts) or any(test(text) for test in self._bearer_tests)
        except Exception:  # noqa: BLE001  # forms of others may raise anything
            # An attempt is checked, and refused; anything else would reach the application.
            return True


def key_starts(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Return how keys start that have one of these prefixes."""
    return tuple(f"{prefix}_" for prefix in prefixes)


def _parsed(entry: str) -> tuple[str, str | None]:
    """Return the scheme of an entry and None, or an empty scheme and the header."""
    match = _is_entry(entry.strip())
    if match is None or len(entry) > _MAX_NAME:
        raise ValueError(f"{entry!r:.100} is neither a header, such as 'X-API-Key', nor 'Authorization:' with a scheme")
    scheme, header = match.groups()
    if header is None:
        if _is_other_scheme(scheme):
            raise ValueError(f"the credentials of 'Authorization: {scheme}' are not a key: choose another scheme")
        return scheme, None
    if header.lower() == _AUTHORIZATION.lower():
        raise ValueError("'Authorization' needs a scheme, such as 'Authorization: Api-Key'")
    if _is_taken(header):
        raise ValueError(f"the header {header!r} has another meaning: choose one of your own, such as 'X-API-Key'")
    return "", header


def _environ_name(header: str) -> str:
    return f"HTTP_{header.upper().replace('-', '_')}"


DEFAULT_HEADERS = KeyHeaders(DEFAULT_ENTRIES)
