"""The contract suite on MongoDB."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from pymongo.collection import Collection

from flask_apikey.testing import (
    BackendContract,
    ChangesContract,
    HistoryContract,
    QuotaContract,
    RotationContract,
    UsageContract,
)
from flask_apikey_mongodb import MongoDBBackend


class TestContractOnServer(
    BackendContract, ChangesContract, HistoryContract, QuotaContract, RotationContract, UsageContract
):
    @pytest.fixture
    def damage(self, documents: Collection[Any]) -> Callable[[str], object]:
        return lambda key_id: documents.update_one({"_id": key_id}, {"$set": {"metadata": "{"}})

    @pytest.fixture
    def server_uri(self, uri: str) -> str:
        separator = "&" if "?" in uri else "?"
        return f"{uri}{separator}directConnection=true&serverSelectionTimeoutMS=1000"

    @pytest.fixture
    def make_backend(self, uri: str) -> Callable[[], MongoDBBackend]:
        return functools.partial(MongoDBBackend, uri)
