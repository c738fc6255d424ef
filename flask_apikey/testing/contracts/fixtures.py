"""Fixtures of all contracts."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar

import pytest

from flask_apikey.core.model.history import LifecycleEvent
from flask_apikey.core.model.keys import StoredKey
from flask_apikey.core.storage.contract import Backend
from flask_apikey.testing.races import MakeBackend, Race, run_in_processes


def update(backend: Backend, before: StoredKey, after: StoredKey, event: LifecycleEvent | None = None) -> None:
    """Replace a row if the version and the seal are still those of `before`."""
    version, seal = before.record.version, before.seal.token
    backend.update(after, expected_version=version, expected_seal=seal, event=event)


class ContractFixtures:
    """Fixtures of all contracts. For `is_shared` see `BackendContract`."""

    is_shared: ClassVar[bool] = True

    @pytest.fixture
    def backend(self, make_backend: MakeBackend) -> Iterator[Backend]:
        """A backend with an empty, initialised storage."""
        backend = make_backend()
        backend.init_storage()
        yield backend
        backend.close()

    @pytest.fixture
    def damage(self) -> Callable[[str], object] | None:
        """A function that damages the row of a key. None if the test module has none."""
        return None

    @pytest.fixture
    def server_uri(self) -> str | None:
        """The URI of the server of the storage, with one host and a port. None if there is no server."""
        return None

    @pytest.fixture
    def race(self, make_backend: MakeBackend) -> Race:
        """Runs a function in several processes. Skips the test if they cannot reach the same storage."""
        if not self.is_shared:
            pytest.skip("the storage is in the memory of one process")
        return partial(run_in_processes, make_backend)
