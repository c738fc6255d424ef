"""URIs, clients and databases that the MongoDB backend takes."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.testing.samples import stored_key
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_mongodb.clients import DEFAULT_TIMEOUT, make_client
from flask_apikey_mongodb.collections import (
    KEYS_COLLECTION,
)
from tests.support.wire_server import DATABASE, TIMEOUT, WireServer


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
        assert "pip install 'flask-apikey-auth[mongodb]'" in done.stderr

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
