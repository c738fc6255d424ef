"""A MongoDB server for each test.

The wire server needs no installation. Tests on the server in
FLASK_APIKEY_TEST_MONGODB_URI run if it is set, and fail if it is unreachable.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection

from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_mongodb.clients import DEFAULT_DATABASE
from flask_apikey_mongodb.collections import (
    KEYS_COLLECTION,
)
from tests.support.wire_server import WireServer, emptied

NAMED_SERVER = "FLASK_APIKEY_TEST_MONGODB_URI"


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
