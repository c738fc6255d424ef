"""The last uses of keys that a command shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from flask_apikey.cli.application import state
from flask_apikey.cli.output import note
from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keys import APIKey
from flask_apikey.core.storage.contract import KeepsUsage
from flask_apikey.core.usage.last_use import KeyLastUse, last_uses_of


def shown_last_uses(records: Sequence[APIKey]) -> Mapping[str, KeyLastUse] | None:
    """The last uses of keys, by id; None where nobody knows them."""
    storage = state().backend
    if not isinstance(storage, KeepsUsage) or state().settings.usage == "off":
        return None
    try:
        return last_uses_of(storage, records)
    except StorageError as exc:
        # Who is looking for a key to revoke must find it all the same.
        note(f"When keys were last used cannot be read: {exc}")
        return None


def json_last_use(last_uses: Mapping[str, KeyLastUse] | None, record: APIKey) -> dict[str, Any]:
    """The last use of a key for programs; nothing where it is not known."""
    return {} if last_uses is None else last_uses[record.id].to_dict()
