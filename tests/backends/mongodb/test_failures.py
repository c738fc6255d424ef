"""Failures of the server and of the driver."""

import socket
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.monitoring import CommandListener

from flask_apikey.core.errors import ConfigurationError, Conflict, StorageError
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.model.usage import DAY
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.testing.contracts.fixtures import update
from flask_apikey.testing.contracts.history import require_history
from flask_apikey.testing.samples import NOW, changed, recorded, stored_key
from flask_apikey.testing.tcp_proxy import TCPProxy
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_mongodb.collections import (
    KEYS_COLLECTION,
)
from tests.support.wire_server import TIMEOUT, WireServer, emptied

PASSWORD = "hunter2"
# The wire server may execute a retried write twice, more often under load. A real conflict would fail each attempt.
_ATTEMPTS = 50


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
