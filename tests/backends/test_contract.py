"""The contract suite on SQL databases.

Tests on a server run if its URI is in the environment, and fail if it is unreachable.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from flask_apikey.testing import (
    BackendContract,
    ChangesContract,
    HistoryContract,
    QuotaContract,
    RotationContract,
    UsageContract,
)
from flask_apikey_sql import SQLBackend
from flask_apikey_sql.tables import KEYS_TABLE
from flask_apikey_sql.upserts import upserts_for
from tests.support.storages import MYSQL, POSTGRESQL, named_servers


class SQLContract(BackendContract, ChangesContract, HistoryContract, QuotaContract, RotationContract, UsageContract):
    @pytest.fixture
    def damage(self, backend: SQLBackend) -> Callable[[str], object]:
        def damage(key_id: str) -> None:
            with backend._opened.get().engine.begin() as connection:
                connection.execute(text(f"UPDATE {KEYS_TABLE} SET metadata = '{{' WHERE id = :id"), {"id": key_id})

        return damage


class TestSQLiteFile(SQLContract):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], SQLBackend]:
        return functools.partial(SQLBackend, f"sqlite:///{tmp_path}/keys.db")


@pytest.mark.no_cover  # the lines of TestSQLiteFile
class TestSQLiteInMemory(SQLContract):
    is_shared = False

    @pytest.fixture
    def make_backend(self) -> Callable[[], SQLBackend]:
        return functools.partial(SQLBackend, "sqlite:///:memory:")


@pytest.mark.no_cover  # the lines of TestSQLiteFile
class TestSQLiteEngineOfTheApplication(SQLContract):
    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[[], SQLBackend]:
        return functools.partial(backend_on_engine, f"sqlite:///{tmp_path}/keys.db")


class TestServer(SQLContract):
    @pytest.fixture(params=named_servers(POSTGRESQL, MYSQL))
    def server_uri(self, request: pytest.FixtureRequest) -> str:
        return os.environ[request.param]

    @pytest.fixture
    def make_backend(self, server_uri: str) -> Callable[[], SQLBackend]:
        drop_tables(server_uri)
        return functools.partial(SQLBackend, server_uri)


class TestPortableStatements(UsageContract):
    """Statements without dialect features, for other databases of SQLAlchemy."""

    @pytest.fixture
    def uri(self, tmp_path: Path) -> str:
        return os.environ.get(POSTGRESQL) or f"sqlite:///{tmp_path}/keys.db"

    @pytest.fixture
    def make_backend(self, uri: str) -> Callable[[], SQLBackend]:
        drop_tables(uri)
        return functools.partial(portable_backend, uri)


def drop_tables(uri: str) -> None:
    backend = SQLBackend(uri)
    if not uri.startswith("sqlite"):
        backend._metadata.drop_all(backend._opened.get().engine)
    backend.close()


def portable_backend(uri: str) -> SQLBackend:
    backend = SQLBackend(uri)
    backend.usage._upserts = upserts_for("another", backend.usage._tables)
    return backend


def backend_on_engine(uri: str) -> SQLBackend:
    return SQLBackend(create_engine(make_url(uri)))
