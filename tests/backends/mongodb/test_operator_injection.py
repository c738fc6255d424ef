"""Query operators in the place of values."""

from collections.abc import Callable
from typing import Any

import pytest

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.keys import Cursor, StoredKey
from flask_apikey.core.storage.contract import EventFilter, KeyFilter
from flask_apikey.testing.samples import NOW, changed, stored_key
from flask_apikey_mongodb import MongoDBBackend

_ANYTHING: Any = {"$gt": ""}


class TestOperatorInjection:
    @pytest.mark.parametrize(
        ("attempt", "message"),
        [
            (lambda backend, key: backend.get(_ANYTHING), "id must be a str, not dict"),
            (
                lambda backend, key: backend.revoke_unsealed(_ANYTHING, revoked_at=NOW, reason=None),
                "id must be a str",
            ),
            (
                lambda backend, key: backend.update(
                    stored_key(id=_ANYTHING), expected_version=1, expected_seal=key.seal.token
                ),
                "id must be a str",
            ),
            (
                lambda backend, key: backend.update(
                    changed(key), expected_version=_ANYTHING, expected_seal=key.seal.token
                ),
                "version must be an int",
            ),
            (
                lambda backend, key: backend.update(changed(key), expected_version=1, expected_seal=_ANYTHING),
                "seal must be a str",
            ),
            (lambda backend, key: backend.find(KeyFilter(owner=_ANYTHING), after=None, limit=1), "owner must be a str"),
            (lambda backend, key: backend.find(KeyFilter(), after=Cursor(NOW, _ANYTHING), limit=1), "id must be a str"),
            *(
                (
                    lambda backend, key, name=name: backend.history.events(
                        EventFilter(**{name: _ANYTHING}), after=None, limit=1
                    ),
                    f"{name} must be a str",
                )
                for name in ("key_id", "owner", "actor")
            ),
            (lambda backend, key: backend.history.chains(after=(_ANYTHING, 1), limit=1), "key_id must be a str"),
            (lambda backend, key: backend.history.chains(after=("a", _ANYTHING), limit=1), "number must be an int"),
        ],
        ids=[
            "get",
            "revoke",
            "update",
            "version",
            "seal",
            "filter",
            "cursor",
            "events of a key",
            "events of an owner",
            "events of an actor",
            "chains after a key",
            "chains after a number",
        ],
    )
    def test_operators_are_refused(self, backend: MongoDBBackend, attempt: Callable[..., Any], message: str) -> None:
        key = stored_key(owner="somebody")
        backend.add(key)
        with pytest.raises(InvalidValue, match=message):
            attempt(backend, key)
        assert backend.get(key.record.id) == key


def position_of(key: StoredKey) -> Cursor:
    return Cursor(key.record.created_at, key.record.id)
