"""Values of drf-simple-apikey that mean something else here. Less access is decided, and noted."""

import ipaddress
import json
from collections.abc import Callable
from typing import Any

from flask_apikey.core.addresses import parse_network
from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.importing.values import Narrowed
from flask_apikey.core.model.scopes import EVERY_SCOPE
from flask_apikey.core.model.validation import MAX_NAME_LENGTH, checked_scopes

UNNAMED = "unnamed"

_LIST = "expected a JSON list of texts"


def parse_name(value: object) -> object:
    """Parse a name, which may be missing, and may be longer than ours."""
    if value is None:
        return Narrowed(UNNAMED, f"without a name, and called {UNNAMED!r}")
    if not isinstance(value, str):
        raise ValueError("expected text")  # noqa: TRY004  # callers handle one error
    name = "".join(each if each.isprintable() else " " for each in value).strip()[:MAX_NAME_LENGTH].strip()
    return value if name == value else Narrowed(name or UNNAMED, f"changed to {MAX_NAME_LENGTH} printable characters")


def parse_scopes(value: object) -> object:
    """Parse scopes, which may be any text there. A ``*`` is a text like any other there, and a wildcard here."""
    texts = _texts(_document(value))
    scopes = [each for each in texts if EVERY_SCOPE not in each and _is_scope(each)]
    if texts and not scopes:
        # Without any scope the key could get every one: that is what an empty list means there.
        raise ValueError("expected a text that can be a scope, such as reports:read, and is no wildcard")
    return _noted(scopes, texts, "without texts that cannot be scopes, or would be wildcards")


def parse_allowed(value: object) -> object:
    """Parse allowed addresses. Entries are compared as texts there, so a network or another spelling allows nothing."""
    document = _document(value)
    if isinstance(document, str) and document:
        if not _is_address(document):
            raise ValueError("expected a JSON list of addresses, not a text of which any part is allowed")
        return Narrowed([document], "a text, of which any part was allowed: now this address alone")
    texts = _texts(document)
    allowed = [each for each in texts if _is_address(each)]
    if texts and not allowed:
        raise ValueError("expected an address: nothing in the list was ever matched")
    return _noted(allowed, texts, "without entries that were never matched")


def parse_denied(value: object) -> object:
    """Parse denied addresses. What was never matched there is denied here if it is a network."""
    document = _document(value)
    if isinstance(document, str) and document:
        raise ValueError("expected a JSON list of addresses, not a text of which any part is denied")
    texts = _texts(document)
    return _noted([each for each in texts if _is_network(each)], texts, "without entries that were never matched")


PARSERS: dict[str, Callable[[object], object]] = {
    "name": parse_name,
    "scopes": parse_scopes,
    "allowed_ips": parse_allowed,
    "denied_ips": parse_denied,
}
"""Functions that parse the columns in place of the usual ones."""


def _document(value: object) -> Any:
    """Return the JSON in a field. A list has been parsed already."""
    if value is None or isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise ValueError(_LIST)  # noqa: TRY004  # callers handle one error
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(_LIST) from None


def _texts(document: Any) -> list[str]:
    if document in (None, ""):
        return []
    if not isinstance(document, list) or not all(isinstance(each, str) for each in document):
        raise ValueError(_LIST)
    return document


def _noted(kept: list[str], texts: list[str], note: str) -> object:
    return kept if len(kept) == len(texts) else Narrowed(kept, note)


def _is_scope(text: str) -> bool:
    try:
        checked_scopes([text])
    except InvalidValue:
        return False
    return True


def _is_address(text: str) -> bool:
    try:
        return str(ipaddress.ip_address(text)) == text
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        parse_network(text)
    except ValueError:
        return False
    return True
