"""One contract, every backend.

SQLite needs nothing. A server takes part when its URI is in the environment, and
one that was asked for and is not there fails the run.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url

from flask_apikey.testing import HistoryContract, RotationContract
from flask_apikey_sql import SQLBackend

POSTGRESQL_URI = os.environ.get("FLASK_APIKEY_TEST_POSTGRESQL_URI")
MYSQL_URI = os.environ.get("FLASK_APIKEY_TEST_MYSQL_URI")


class TestSQLiteFile(HistoryContract, RotationContract):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], SQLBackend]:
        return functools.partial(SQLBackend, f"sqlite:///{tmp_path}/keys.db")


class TestSQLiteInMemory(HistoryContract, RotationContract):
    is_shared = False

    @pytest.fixture
    def make_backend(self) -> Callable[[], SQLBackend]:
        return functools.partial(SQLBackend, "sqlite://")


class TestSQLiteEngineOfTheApplication(HistoryContract, RotationContract):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], SQLBackend]:
        return functools.partial(backend_on_engine, f"sqlite:///{tmp_path}/keys.db")


class OnServer(HistoryContract, RotationContract):
    @pytest.fixture
    def uri(self) -> str:
        raise AssertionError("each server names its URI")

    @pytest.fixture
    def server_uri(self, uri: str) -> str:
        return uri

    @pytest.fixture
    def make_backend(self, uri: str) -> Callable[[], SQLBackend]:
        make = functools.partial(SQLBackend, uri)
        backend = make()
        engine = backend._engine()
        backend._metadata.drop_all(engine)
        engine.dispose()
        return make


@pytest.mark.skipif(POSTGRESQL_URI is None, reason="FLASK_APIKEY_TEST_POSTGRESQL_URI is not set")
class TestPostgreSQL(OnServer):
    @pytest.fixture
    def uri(self) -> str:
        return POSTGRESQL_URI or ""


@pytest.mark.skipif(MYSQL_URI is None, reason="FLASK_APIKEY_TEST_MYSQL_URI is not set")
class TestMySQL(OnServer):
    @pytest.fixture
    def uri(self) -> str:
        return MYSQL_URI or ""


def backend_on_engine(uri: str) -> SQLBackend:
    return SQLBackend(create_engine(make_url(uri)))
