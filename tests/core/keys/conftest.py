"""The services of keys on a watched backend."""

import pytest

from flask_apikey.core.addresses import parse_address
from flask_apikey.core.keys.authenticator import Authenticator
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.sealing import FernetKeyring
from tests.support.keys import Lifecycle


@pytest.fixture
def ring(fernet_key):
    return FernetKeyring(fernet_key)


@pytest.fixture
def make_lifecycle(backend, ring, clock):
    def make(**issuance):
        return Lifecycle(backend, ring, IssuePolicy(**issuance), clock)

    return make


@pytest.fixture
def lifecycle(make_lifecycle):
    return make_lifecycle()


@pytest.fixture
def decision(backend, ring, clock):
    authenticator = Authenticator(backend, ring, clock)
    return lambda key, address=None: authenticator.authenticate(Credentials(key), parse_address(address or ""))


@pytest.fixture
def verdict(decision):
    return lambda key, address=None: decision(key, address).verdict
