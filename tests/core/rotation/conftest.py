"""Processes with different Fernet keys on one storage."""

from datetime import timedelta

import pytest

from flask_apikey import RotationRefused
from flask_apikey.core.keys.authenticator import Authenticator
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.core.rotation.steps import FernetRotation
from flask_apikey_sql import SQLBackend
from tests.support.keys import Lifecycle

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
OLD, NEW, THIRD = (generate_fernet_key() for _ in range(3))
OLD_PRINT, NEW_PRINT, THIRD_PRINT = (FernetKeyring(key).fingerprint for key in (OLD, NEW, THIRD))


class BusyBackend(SQLBackend):
    """Backend that runs a function once, before the next write of a kind."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.before_next_update = self.before_next_reseal = self.before_next_put = None
        self._interrupt("before_next_update", self, "update")
        self._interrupt("before_next_reseal", self.rotation, "reseal")
        self._interrupt("before_next_put", self.rotation, "put")

    def _interrupt(self, name, part, method):
        write = getattr(part, method)

        def interrupted(*arguments, **options):
            function = getattr(self, name)
            setattr(self, name, None)
            if function is not None:
                function()
            return write(*arguments, **options)

        setattr(part, method, interrupted)


class Process:
    """One process of a deployment, with its Fernet keys."""

    def __init__(self, backend, clock, primary, *fallbacks):
        self.ring = FernetKeyring(primary, fallbacks)
        self.announced = []
        self.lifecycle = Lifecycle(backend, self.ring, IssuePolicy(recoverable=True), clock)
        self.rotation = FernetRotation(
            backend, self.ring, clock=clock, announce=lambda *event: self.announced.append(event)
        )
        self._authenticator = Authenticator(backend, self.ring, clock)

    def verdict(self, key):
        return self._authenticator.authenticate(Credentials(key), None).verdict


@pytest.fixture
def backend():
    backend = BusyBackend("sqlite:///:memory:")
    backend.init_storage()
    yield backend
    backend.close()


@pytest.fixture
def process(backend, clock):
    return lambda *fernet_keys: Process(backend, clock, *fernet_keys)


@pytest.fixture
def before(process):
    """Process from before the rotation."""
    return process(OLD)


@pytest.fixture
def added(process):
    """Process with the new Fernet key as a fallback."""
    return process(OLD, NEW)


@pytest.fixture
def promoted(process):
    """Process that seals under the new Fernet key."""
    return process(NEW, OLD)


@pytest.fixture
def keys(before):
    return [before.lifecycle.create(name=f"key {number}") for number in range(10)]


@pytest.fixture
def started(added, keys):
    """The rotation from the old to the new Fernet key, under way."""
    return added.rotation.start()


@pytest.fixture
def finished(started, promoted):
    """The rotation from the old to the new Fernet key, finished."""
    promoted.rotation.run()
    return promoted.rotation.finish()


def refusal(step, **options):
    with pytest.raises(RotationRefused) as refused:
        step(**options)
    return str(refused.value)
