"""Documents and commands of the MongoDB backend."""

import logging
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson import DatetimeMS, ObjectId, decode, encode
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.monitoring import CommandListener

from flask_apikey.core.errors import RowDamaged, StorageError
from flask_apikey.core.model.keys import Cursor, StoredKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import LastUse
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.testing.contracts.fixtures import update
from flask_apikey.testing.samples import NOW, changed, stored_key
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_mongodb.collections import (
    EVENTS_COLLECTION,
    KEYS_COLLECTION,
    LAST_USES_COLLECTION,
    PENDING,
    Collections,
)
from flask_apikey_mongodb.documents import from_document
from flask_apikey_mongodb.queries import matching


class TestOnTheWire:
    def test_lookup_is_one_command_to_the_primary(self, watched: MongoDBBackend, commands: list[Any]) -> None:
        watched.get("a" * 16)
        (command,) = commands
        assert command["find"] == KEYS_COLLECTION
        assert command["filter"] == {"_id": "a" * 16}
        assert command["readConcern"]["level"] == "local"
        assert command.get("$readPreference", {"mode": "primary"}) == {"mode": "primary"}

    def test_changes_wait_for_the_journal_of_a_majority(self, watched: MongoDBBackend, commands: list[Any]) -> None:
        key = stored_key()
        watched.add(key)
        update(watched, key, changed(key))
        watched.revoke_unsealed(key.record.id, revoked_at=NOW, reason=None)
        assert [next(iter(command)) for command in commands] == ["insert", "update", "update"]
        for command in commands:
            assert command["writeConcern"]["w"] == "majority"
            assert command["writeConcern"]["j"] is True

    @pytest.fixture
    def commands(self) -> list[Any]:
        return []

    @pytest.fixture
    def watched(self, uri: str, commands: list[Any]) -> Iterator[MongoDBBackend]:
        """The client of the application has a weaker write concern."""

        class Recorder(CommandListener):
            def started(self, event: Any) -> None:
                commands.append(dict(event.command))

            def succeeded(self, event: Any) -> None:
                pass

            failed = succeeded

        options = {"w": 0, "readPreference": "secondaryPreferred", "readConcernLevel": "majority"}
        with MongoClient(uri, event_listeners=[Recorder()], **options) as client:
            yield MongoDBBackend(client)


class TestDocuments:
    def test_times_are_64_bit_integers(self, backend: MongoDBBackend, documents: Collection[Any]) -> None:
        epoch = datetime.fromtimestamp(0, NOW.tzinfo)
        backend.add(stored_key(created_at=epoch, expires_at=NOW, previous_secrets_expire_at=(epoch,)))
        for field in ("created_at", "updated_at", "expires_at", "previous_secrets_expire_at"):
            assert documents.count_documents({field: {"$type": "long"}}) == 1, field

    def test_listings_use_an_index(self, backend: MongoDBBackend, documents: Collection[Any]) -> None:
        indexed = [[field for field, _ in index["key"]] for index in documents.index_information().values()]
        assert ["pruned_at", "created_at", "_id"] in indexed
        assert ["owner", "pruned_at", "created_at", "_id"] in indexed
        for ended in ("revoked_at", "suspended_at", "expires_at"):
            assert [ended] in indexed
        expiring = matching(KeyFilter(expires_after=NOW, expires_by=NOW))
        assert [each.keys() for each in expiring["$and"]] == [{"expires_at"}, {"expires_at"}, {"pruned_at"}]

    def test_histories_use_an_index(self, backend: MongoDBBackend, documents: Collection[Any]) -> None:
        indexes = documents.database[EVENTS_COLLECTION].index_information().values()
        indexed = [[field for field, _ in index["key"]] for index in indexes]
        order = ["at", "key_id", "number"]
        for expected in (order, ["owner", *order], ["actor", *order], ["key_id", "number"]):
            assert expected in indexed

    def test_cached_document_is_parsed_again_after_an_edit(
        self, backend: MongoDBBackend, documents: Collection[Any]
    ) -> None:
        key = stored_key()
        backend.add(key)
        assert backend.get(key.record.id) is backend.get(key.record.id)
        documents.update_one({"_id": key.record.id}, {"$set": {"revoked_at": 1}})
        edited = backend.get(key.record.id)
        assert edited is not None
        assert edited.record.revoked_at is not None
        documents.update_one({"_id": key.record.id}, {"$set": {"revoked_at": "yes"}})
        with pytest.raises(StorageError):
            backend.get(key.record.id)

    def test_cache_of_documents_is_limited(self, backend: MongoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flask_apikey_mongodb.documents.MAX_CACHED", 1)
        first, second = stored_key(), stored_key()
        backend.add(first)
        backend.add(second)
        remembered = backend.get(first.record.id)
        assert backend.get(second.record.id) == second
        assert backend.get(first.record.id) == first
        assert backend.get(first.record.id) is not remembered

    @pytest.mark.parametrize(
        "edit",
        [
            {"$unset": {"seal": ""}},
            {"$unset": {"created_at": ""}},
            {"$set": {"seal": None}},
            {"$set": {"sealed_by": 7}},
            {"$set": {"name": ["a"]}},
            {"$set": {"owner": 7}},
            {"$set": {"scopes": "reports:read"}},
            {"$set": {"scopes": [{"a": 1}]}},
            {"$set": {"allowed_ips": ["everywhere"]}},
            {"$set": {"denied_ips": None}},
            {"$set": {"metadata": {"plan": "gold"}}},
            {"$set": {"metadata": "[]"}},
            {"$set": {"metadata": "{"}},
            {"$set": {"version": "2"}},
            {"$set": {"version": True}},
            {"$set": {"expires_at": NOW}},
            {"$set": {"revoked_at": 2**62}},
            {"$set": {"revoked_at": False}},
            {"$set": {"previous_secrets_expire_at": [None]}},
            {"$unset": {"history_hash": ""}},
            {"$set": {PENDING: "no list of events"}},
        ],
        ids=str,
    )
    def test_damaged_document_is_refused_and_logged(
        self,
        backend: MongoDBBackend,
        documents: Collection[Any],
        caplog: pytest.LogCaptureFixture,
        edit: dict[str, Any],
    ) -> None:
        keys = [stored_key(created_at=NOW + timedelta(seconds=number)) for number in range(4)]
        for key in keys:
            backend.add(key)
        damaged = keys.pop(1)
        assert documents.update_one({"_id": damaged.record.id}, edit).modified_count == 1
        with pytest.raises(StorageError, match=f"document of key '{damaged.record.id}' is damaged: "):
            backend.get(damaged.record.id)
        assert [backend.get(key.record.id) for key in keys] == keys
        with caplog.at_level(logging.WARNING, logger="flask_apikey"):
            listed = list(backend.find(KeyFilter(), after=None, limit=2))
            listed += backend.find(KeyFilter(), after=position_of(listed[-1]), limit=2)
        assert listed == keys
        assert f"document of key {damaged.record.id!r} is damaged" in caplog.text
        assert sum(backend.rotation.count_seals().values()) == len(keys) + 1

    def test_decoder_survives_values_out_of_range(self, documents: Collection[Any]) -> None:
        encoded = encode({"_id": "a" * 16, "name": "good", "expires_at": DatetimeMS(2**62)})
        damaged = decode(encoded.replace(b"good", b"b\xff\xfed"), Collections(documents.database).keys.codec_options)
        with pytest.raises(RowDamaged, match="a" * 16):
            from_document(damaged)

    def test_listing_continues_after_a_page_of_damaged_documents(
        self, backend: MongoDBBackend, documents: Collection[Any]
    ) -> None:
        last = stored_key(created_at=NOW + timedelta(days=1))
        backend.add(last)
        documents.insert_many([{"_id": number, "created_at": number} for number in range(5)])
        documents.insert_one({"_id": ObjectId()})
        assert list(backend.find(KeyFilter(), after=None, limit=2)) == [last]

    def test_fold_skips_damaged_last_uses(
        self, backend: MongoDBBackend, documents: Collection[Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        uses = [LastUse(new_id(), 1, NOW, None) for _ in range(4)]
        backend.usage.put([], uses)
        stored = documents.database[LAST_USES_COLLECTION]
        for use, edit in zip(uses, ({"at": "today"}, {"key_id": {"$ne": ""}}, {"secret": None}), strict=False):
            stored.update_one({"key_id": use.key_id}, {"$set": edit})
        with caplog.at_level(logging.WARNING, logger="flask_apikey"):
            backend.usage.fold_last_uses()
        assert len(list(stored.find())) == caplog.text.count("of a last use is damaged") == 3


def test_missing_indexes_are_named(uri: str, documents: Collection[Any]) -> None:
    with closing(MongoDBBackend(uri)) as backend:
        backend.init_storage()
        assert backend.missing_parts() == []
        documents.drop_indexes()
        assert backend.missing_parts() != []
        assert all("flask_apikey_keys" in part for part in backend.missing_parts())
        backend.init_storage()
        documents.database[EVENTS_COLLECTION].drop_index("key_id_1_number_1")
        assert backend.missing_parts() == [f"index key_id_1_number_1 of {EVENTS_COLLECTION}"]


def position_of(key: StoredKey) -> Cursor:
    return Cursor(key.record.created_at, key.record.id)
