"""The contract suite on MongoDB, and tests of this backend beyond it.

The wire server needs no installation. Tests on the server in
FLASK_APIKEY_TEST_MONGODB_URI run if it is set, and fail if it is unreachable.
"""

import functools
import logging
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from bson import DatetimeMS, ObjectId, decode, encode
from pymongo import AsyncMongoClient, MongoClient
from pymongo.collection import Collection
from pymongo.errors import WriteError
from pymongo.monitoring import CommandListener

from flask_apikey.core.errors import ConfigurationError, Conflict, InvalidValue, RowDamaged, StorageError
from flask_apikey.core.model.history import EventPosition, LifecycleEvent
from flask_apikey.core.model.keys import Cursor, StoredKey
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import DAY, LastUse
from flask_apikey.core.storage.contract import EventFilter, KeyFilter
from flask_apikey.testing import BackendContract, HistoryContract, QuotaContract, RotationContract, UsageContract
from flask_apikey.testing.contracts.fixtures import update
from flask_apikey.testing.contracts.history import events_in, require_history
from flask_apikey.testing.samples import NOW, changed, recorded, stored_key
from flask_apikey.testing.tcp_proxy import TCPProxy
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_mongodb.clients import DEFAULT_DATABASE, DEFAULT_TIMEOUT, make_client
from flask_apikey_mongodb.collections import (
    EVENTS_COLLECTION,
    KEYS_COLLECTION,
    LAST_USES_COLLECTION,
    PENDING,
    Collections,
)
from flask_apikey_mongodb.documents import from_document
from flask_apikey_mongodb.history import MongoDBHistory, to_event
from flask_apikey_mongodb.queries import matching
from tests.support.wire_server import DATABASE, TIMEOUT, WireServer, emptied

NAMED_SERVER = "FLASK_APIKEY_TEST_MONGODB_URI"
PASSWORD = "hunter2"
_ATTEMPTS = 5
_ANYTHING: Any = {"$gt": ""}


@pytest.fixture(scope="session")
def named_server_uri() -> str:
    uri = os.environ[NAMED_SERVER]
    with MongoClient(uri, serverSelectionTimeoutMS=5000) as client:
        client.admin.command("ping")
    return uri


@pytest.fixture(params=["wire_server", *(["named_server_uri"] if NAMED_SERVER in os.environ else [])])
def uri(request: pytest.FixtureRequest) -> str:
    """The URI of an empty server."""
    server: WireServer | str = request.getfixturevalue(request.param)
    uri = server if isinstance(server, str) else server.uri
    return emptied(uri)


@pytest.fixture
def backend(uri: str) -> Iterator[MongoDBBackend]:
    backend = MongoDBBackend(uri)
    backend.init_storage()
    yield backend
    backend.close()


@pytest.fixture
def documents(uri: str) -> Iterator[Collection[Any]]:
    """The collection of keys, for edits by hand."""
    with MongoClient(uri) as client:
        yield client.get_default_database(DEFAULT_DATABASE)[KEYS_COLLECTION]


class TestContractOnServer(BackendContract, HistoryContract, QuotaContract, RotationContract, UsageContract):
    @pytest.fixture
    def damage(self, documents: Collection[Any]) -> Callable[[str], object]:
        return lambda key_id: documents.update_one({"_id": key_id}, {"$set": {"metadata": "{"}})

    @pytest.fixture
    def server_uri(self, uri: str) -> str:
        separator = "&" if "?" in uri else "?"
        return f"{uri}{separator}directConnection=true&serverSelectionTimeoutMS=3000"

    @pytest.fixture
    def make_backend(self, uri: str) -> Callable[[], MongoDBBackend]:
        return functools.partial(MongoDBBackend, uri)


class TestSources:
    @pytest.mark.parametrize(
        ("database", "source"),
        [
            (DATABASE, lambda uri, client: uri),
            ("flask_apikey", lambda uri, client: uri.removesuffix(DATABASE)),
            (DATABASE, lambda uri, client: client),
            ("chosen", lambda uri, client: client["chosen"]),
        ],
        ids=["uri with a path", "uri without a path", "client", "database"],
    )
    def test_database_of_a_source(self, wire_server: WireServer, database: str, source: Callable[..., Any]) -> None:
        key = stored_key()
        with MongoClient(wire_server.uri) as client:
            with closing(MongoDBBackend(source(wire_server.uri, client))) as backend:
                backend.add(key)
            assert client[database][KEYS_COLLECTION].find_one({"_id": key.record.id}) is not None

    def test_close_keeps_a_client_of_the_application_open(self, uri: str) -> None:
        with MongoClient(uri) as client:
            backend = MongoDBBackend.from_client(client)
            backend.ping()
            backend.close()
            client.admin.command("ping")

    @pytest.mark.parametrize("source", [None, 7, {"host": "localhost"}])
    def test_other_sources_are_refused(self, source: object) -> None:
        with pytest.raises(ConfigurationError, match=f"MongoDBBackend takes .* not builtins.{type(source).__name__}"):
            MongoDBBackend.from_client(source)

    def test_asynchronous_clients_are_refused(self) -> None:
        client = AsyncMongoClient(connect=False)
        for source in (client, client["keys"]):
            with pytest.raises(ConfigurationError, match="synchronous"):
                MongoDBBackend.from_client(source)

    def test_srv_uri_needs_no_dns_lookup_at_creation(self) -> None:
        MongoDBBackend("mongodb+srv://nowhere.invalid/keys").close()

    def test_timeouts_of_the_uri_take_precedence(self) -> None:
        with make_client("mongodb://localhost/?serverselectiontimeoutms=70") as client:
            assert client.options.server_selection_timeout == 0.07
            assert client.options.pool_options.socket_timeout == DEFAULT_TIMEOUT

    @pytest.mark.process
    def test_missing_driver_names_the_extra(self) -> None:
        program = "import sys; sys.modules['pymongo'] = None; import flask_apikey_mongodb"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "ConfigurationError: the driver 'pymongo'" in done.stderr
        assert "pip install 'flask-apikey[mongodb]'" in done.stderr

    @pytest.mark.process
    def test_forked_process_creates_its_own_client(self, wire_server: WireServer) -> None:
        program = (
            "import os, sys; from flask_apikey_mongodb import MongoDBBackend; "
            "backend = MongoDBBackend(sys.argv[1]); backend.ping(); child = os.fork(); backend.ping(); "
            "sys.exit(child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
        )
        # PyMongo warns if a client is used in another process.
        command = [sys.executable, "-W", "error:MongoClient opened before fork", "-c", program, wire_server.uri]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        assert done.returncode == 0, done.stderr


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


class TestFailures:
    @pytest.mark.parametrize(
        "uri",
        [
            f"mongodb://app:{PASSWORD}@@localhost/keys",
            f"mongodb://app:/{PASSWORD}@localhost/keys",
            f"mongodb://app:{PASSWORD}@localhost:port/keys",
            f"mongodb://app:{PASSWORD}@/keys",
            f"mongodb+srv://app:{PASSWORD}@example.org:27017/keys",
            f"mongodb://app:{PASSWORD}@localhost/keys?tlsCAFile=/nowhere/ca.pem",
        ],
    )
    def test_malformed_uri_hides_the_password(self, uri: str) -> None:
        with pytest.raises(ConfigurationError, match="the storage URI") as caught:
            MongoDBBackend.from_uri(uri)
        assert PASSWORD not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("option", ["bogus=1", "socketTimeoutMS=abc"])
    def test_option_that_pymongo_ignores_is_refused(self, option: str) -> None:
        with pytest.raises(ConfigurationError, match="an option that PyMongo does not know"):
            MongoDBBackend(f"mongodb://localhost/x?{option}")

    def test_refused_connection_hides_the_password(self) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            backend = MongoDBBackend(f"mongodb://app:{PASSWORD}@127.0.0.1:{port}/keys?serverSelectionTimeoutMS=50")
            for attempt in attempts(backend):
                with pytest.raises(StorageError, match=f"127.0.0.1:{port}.*refused") as caught:
                    attempt()
                assert caught.value.__context__ is None
                assert PASSWORD not in "".join(traceback.format_exception(caught.value))
            backend.close()

    def test_unknown_host_is_a_storage_error(self) -> None:
        backend = MongoDBBackend(f"mongodb+srv://app:{PASSWORD}@keys.db.invalid/keys?connectTimeoutMS=500")
        with pytest.raises(StorageError) as caught:
            backend.ping()
        assert PASSWORD not in str(caught.value)
        backend.close()

    def test_refused_document_stays_out_of_the_error(self, wire_server: WireServer) -> None:
        key = stored_key(name="a name not to be told")
        with MongoClient(wire_server.uri) as client:
            database = client["refusing"]
            database.create_collection(KEYS_COLLECTION, validator={"name": "another"})
            with pytest.raises(StorageError, match=r"the database refused: \w+ \(code 121\)") as caught:
                MongoDBBackend(database).add(key)
        assert key.record.name not in logged(caught.value)
        assert key.seal.token not in logged(caught.value)

    def test_other_unique_indexes_do_not_mean_an_existing_id(
        self, backend: MongoDBBackend, documents: Collection[Any]
    ) -> None:
        backend.add(stored_key(name="taken"))
        documents.create_index("name", unique=True)
        key = stored_key(name="taken")
        for store in (
            lambda: backend.add(key),
            lambda: backend.add(key, event=recorded(key)[1]),
            lambda: backend.add_many([stored_key(name="free"), key]),
        ):
            with pytest.raises(StorageError) as caught:
                store()
            assert key.seal.token not in logged(caught.value)
            assert "taken" not in logged(caught.value)
        assert backend.get(key.record.id) is None

    def test_value_that_bson_cannot_encode_stays_out_of_the_error(self, backend: MongoDBBackend) -> None:
        unfit: Any = {"not to be told"}
        with pytest.raises(StorageError, match="InvalidDocument") as caught:
            backend.add(replace(stored_key(), history_hash=unfit))
        assert "not to be told" not in str(caught.value)

    def test_long_operations_outlast_the_timeout(self, wire_server: WireServer) -> None:
        commands: list[Any] = []

        class Recorder(CommandListener):
            def started(self, event: Any) -> None:
                commands.append(event.command)

            def succeeded(self, event: object) -> None:
                """Do nothing."""

            def failed(self, event: object) -> None:
                """Do nothing."""

        with MongoClient[Any](emptied(wire_server.uri), event_listeners=[Recorder()]) as client:
            backend = MongoDBBackend(client)
            backend.init_storage()
            backend.usage.fold(before=DAY)
            backend.usage.prune(before=DAY)
        # PyMongo replaces the timeout of the socket by this one.
        long = {name for command in commands for name in command if command.get("maxTimeMS", 0) > 1_000_000}
        assert {"createIndexes", "update", "delete"} <= long

    def test_long_operations_do_not_wait_for_a_missing_server(self, unused_port: int) -> None:
        with closing(MongoDBBackend(f"mongodb://127.0.0.1:{unused_port}/x")) as backend:
            backend.limit_waits(timedelta(milliseconds=200))
            for operation in (backend.init_storage, backend.usage.fold_last_uses):
                with pytest.raises(StorageError, match="refused"):
                    operation()

    def test_lost_answer_is_not_a_conflict(self, wire_server: WireServer) -> None:
        with (
            closing(TCPProxy(wire_server.uri)) as proxy,
            closing(MongoDBBackend(f"{proxy.uri}?directConnection=true&heartbeatFrequencyMS=600000")) as backend,
        ):
            backend.ping()
            for lost in count(1):
                self._change_with_lost_answer(backend, proxy, lost)
                if not proxy.has_lost_answer:
                    break
            assert lost > len(["insert", "copy", "remove", "update", "copy", "remove", "find", "update"])

    def _change_with_lost_answer(self, backend: MongoDBBackend, proxy: TCPProxy, lost: int) -> None:
        for attempt in range(_ATTEMPTS):
            proxy.lose_answer(lost)
            key, created = recorded(stored_key())
            newer, updated = recorded(changed(key))
            try:
                backend.add(key, event=created)
                update(backend, key, newer, updated)
            except StorageError as exc:
                # A lost heartbeat makes PyMongo retry writes that the wire server is still executing, and the wire
                # server then executes them twice. MongoDB waits for the first attempt.
                is_executed_twice = isinstance(exc, Conflict) or "DuplicateKeyError" in str(exc)
                if not is_executed_twice or attempt == _ATTEMPTS - 1:
                    raise
                continue
            assert backend.get(key.record.id) == newer
            assert backend.revoke_unsealed(key.record.id, revoked_at=NOW, reason=None)
            require_history(backend, newer)
            return

    def test_acknowledged_writes_survive_a_killed_server(self, tmp_path: Path) -> None:
        server = WireServer(tmp_path)
        server.start()
        backend = MongoDBBackend(f"{server.uri}?serverSelectionTimeoutMS=3000")
        backend.init_storage()
        enough = threading.Event()
        acknowledged: dict[str, tuple[StoredKey, ...]] = {}

        def create_and_revoke() -> None:
            while True:
                key = stored_key()
                revoked = changed(key, revoked_at=NOW)
                backend.add(key)
                # An unacknowledged revocation may have succeeded.
                acknowledged[key.record.id] = key, revoked
                update(backend, key, revoked)
                acknowledged[key.record.id] = (revoked,)
                if len(acknowledged) >= 100:
                    enough.set()

        try:
            with ThreadPoolExecutor(4) as pool:
                workers = [pool.submit(create_and_revoke) for _ in range(4)]
                assert enough.wait(TIMEOUT)
                server.kill()
                for worker in workers:
                    assert isinstance(worker.exception(TIMEOUT), StorageError)
            with pytest.raises(StorageError):
                backend.ping()
            server.start()
            for key_id, possible in acknowledged.items():
                assert backend.get(key_id) in possible
            backend.add(stored_key())
        finally:
            backend.close()
            server.kill()


def attempts(backend: MongoDBBackend) -> list[Callable[[], object]]:
    key = stored_key()
    return [
        backend.ping,
        backend.init_storage,
        lambda: backend.add(key),
        lambda: backend.get(key.record.id),
        lambda: backend.find(KeyFilter(), after=None, limit=1),
        lambda: update(backend, key, key),
        lambda: backend.revoke_unsealed(key.record.id, revoked_at=NOW, reason=None),
    ]


def logged(failure: BaseException) -> str:
    """Format an exception like the logging module."""
    return "".join(traceback.format_exception(failure))


def position_of(key: StoredKey) -> Cursor:
    return Cursor(key.record.created_at, key.record.id)


class TestHistory:
    @pytest.mark.parametrize("read", ["events", "chains"])
    def test_pending_events_of_a_dead_process_are_read_in_place(
        self, backend: MongoDBBackend, documents: Collection[Any], monkeypatch: pytest.MonkeyPatch, read: str
    ) -> None:
        before, of_before = recorded(stored_key())
        backend.add(before, event=of_before)
        key, created = recorded(stored_key())
        newer, updated = recorded(changed(key))
        other, of_other = recorded(stored_key())
        with monkeypatch.context() as dying:
            dying.setattr(MongoDBHistory, "settle", lambda self, events: None)
            backend.add(key, event=created)
            update(backend, key, newer, updated)
            backend.add_many([other], events=[of_other])
        assert backend.get(key.record.id) == newer
        assert documents.count_documents({PENDING: {"$exists": True}}) == 2
        # Somebody put another event in the place of a pending one.
        forged = {**to_event(created), "reason": "forged", "_id": f"{created.key_id}.1"}
        documents.database[EVENTS_COLLECTION].insert_one(forged)
        everything = [of_before, created, updated, of_other]

        def in_pages(size: int) -> list[LifecycleEvent]:
            found: list[LifecycleEvent] = []
            while page := self.page(backend, read, found, size):
                found += page
            return found

        for size in (1, 2, 9):
            assert sorted(in_pages(size), key=lambda event: event.hash) == sorted(
                everything, key=lambda event: event.hash
            )
        newest = backend.history.events(EventFilter(), after=None, limit=9, newest_first=True)
        assert newest == backend.history.events(EventFilter(), after=None, limit=9)[::-1]
        assert backend.history.events(EventFilter(key_id=other.record.id), after=None, limit=9) == [of_other]
        assert documents.count_documents({PENDING: {"$exists": True}}) == 2
        backend.init_storage()
        assert in_pages(9) == in_pages(1)
        assert len(in_pages(9)) == len(everything)
        assert documents.count_documents({PENDING: {"$exists": True}}) == 0
        assert backend.get(key.record.id) == newer

    def page(
        self, backend: MongoDBBackend, read: str, found: Sequence[LifecycleEvent], size: int
    ) -> Sequence[LifecycleEvent]:
        if read == "events":
            after = EventPosition.of(found[-1]) if found else None
            return backend.history.events(EventFilter(), after=after, limit=size)
        return backend.history.chains(after=(found[-1].key_id, found[-1].number) if found else None, limit=size)

    @pytest.mark.parametrize(
        "failure",
        [StorageError("gone"), WriteError("Document failed validation, full error: gAAAAA", 121, {})],
        ids=["gone", "refused"],
    )
    def test_change_succeeds_if_its_event_stays_pending(
        self,
        backend: MongoDBBackend,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        failure: Exception,
    ) -> None:
        key, created = recorded(stored_key())
        newer, updated = recorded(changed(key))

        def fail(*_: object) -> None:
            raise failure

        with monkeypatch.context() as failing:
            failing.setattr(MongoDBHistory, "_settle", fail)
            backend.add(key, event=created)
        assert "events are still pending" in caplog.text
        assert "gAAAAA" not in caplog.text
        update(backend, key, newer, updated)
        assert events_in(backend.history) == [created, updated]

    def test_event_moved_twice_is_stored_once(self, backend: MongoDBBackend) -> None:
        _, event = recorded(stored_key())
        for _ in range(2):
            backend.history.settle([event])
        assert events_in(backend.history) == [event]

    def test_forged_event_under_another_id_blocks_nothing(
        self, backend: MongoDBBackend, documents: Collection[Any]
    ) -> None:
        key, event = recorded(stored_key())
        documents.database[EVENTS_COLLECTION].insert_one({"key_id": key.record.id, "number": 1, "at": 1})
        backend.add(key, event=event)
        assert events_in(backend.history) == [event]
        require_history(backend, key)

    def test_forged_pending_events_block_nothing(self, backend: MongoDBBackend, documents: Collection[Any]) -> None:
        key, created = recorded(stored_key())
        newer, updated = recorded(changed(key))
        backend.add(key, event=created)
        forged = ["x", {"number": "x"}, {"number": 7}, {"number": 2**63 - 1, "key_id": key.record.id}, None]
        documents.update_one({"_id": key.record.id}, {"$set": {PENDING: forged}})
        update(backend, key, newer, updated)
        assert events_in(backend.history) == [created, updated]
        assert backend.get(key.record.id) == newer

    def test_copies_at_the_same_time(self, backend: MongoDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        pairs = sorted((recorded(stored_key()) for _ in range(3)), key=lambda pair: pair[1].key_id)
        events = [event for _, event in pairs]
        read = MongoDBHistory._missing

        def after_the_other_copy(self: MongoDBHistory, wanted: Sequence[LifecycleEvent]) -> Sequence[LifecycleEvent]:
            missing = read(self, wanted)
            monkeypatch.setattr(MongoDBHistory, "_missing", read)
            backend.history.append(events[:2])
            return missing

        monkeypatch.setattr(MongoDBHistory, "_missing", after_the_other_copy)
        backend.history.append(events)
        assert events_in(backend.history) == events


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
