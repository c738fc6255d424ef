"""Keys of another environment on the same storage: prefixes that are not accepted."""

from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.keys.authenticator import Authenticator, Verdict
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.keystring import mint
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from tests.support.keys import Lifecycle

DAY = timedelta(days=1)


class Environment:
    """An application on the storage of others."""

    def __init__(self, backend, ring, clock, prefix, *further):
        self.ring = ring
        self.lifecycle = Lifecycle(backend, ring, IssuePolicy(prefix=prefix), clock)
        self._authenticator = Authenticator(backend, ring, clock, (prefix, *further))

    def decide(self, key):
        return self._authenticator.authenticate(Credentials(key), None)

    def verdict(self, key):
        return self.decide(key).verdict


@pytest.fixture
def environment(backend, fernet_key, clock):
    backend.init_storage()
    return lambda *prefixes, ring=None: Environment(backend, ring or FernetKeyring(fernet_key), clock, *prefixes)


@pytest.fixture
def live(environment):
    return environment("acme_live")


@pytest.fixture
def staging(environment):
    return environment("acme_test")


@pytest.fixture
def unsealed(monkeypatch):
    """Seals that were unsealed."""
    seals = []
    unseal = FernetKeyring.unseal
    monkeypatch.setattr(FernetKeyring, "unseal", lambda ring, seal: (seals.append(seal), unseal(ring, seal))[1])
    return seals


def test_key_opens_its_own_environment_only(live, staging):
    for own, other in ((live, staging), (staging, live)):
        issued = own.lifecycle.create(name="ci")
        for _ in range(2):
            assert own.verdict(issued.key) is Verdict.ACCEPTED
            decision = other.decide(issued.key)
            assert (decision.verdict, decision.key) == (Verdict.UNKNOWN, None)


@pytest.mark.parametrize("prefix", ["acme", "acme_liv", "ACME_LIVE", "acme_live_x", "live"])
def test_similar_prefix(environment, live, prefix):
    key = environment(prefix).lifecycle.create(name="ci").key
    assert live.verdict(key) is Verdict.UNKNOWN


def test_accepted_prefixes(environment, live, staging):
    both = environment("acme_new", "acme_live")
    issued = live.lifecycle.create(name="ci")
    assert both.verdict(issued.key) is Verdict.ACCEPTED
    assert both.verdict(staging.lifecycle.create(name="ci").key) is Verdict.UNKNOWN
    rolled = both.lifecycle.roll(issued.record.id, grace=DAY)
    assert both.verdict(rolled.key) is both.verdict(issued.key) is Verdict.ACCEPTED


def test_secret_of_a_key_rolled_by_another_environment(live, staging):
    """The earlier secret has an accepted prefix, and its record has not."""
    issued = live.lifecycle.create(name="ci")
    assert live.verdict(issued.key) is Verdict.ACCEPTED
    rolled = staging.lifecycle.roll(issued.record.id, grace=DAY)
    assert live.verdict(issued.key) is live.verdict(rolled.key) is Verdict.UNKNOWN
    assert staging.verdict(issued.key) is Verdict.UNKNOWN
    assert staging.verdict(rolled.key) is Verdict.ACCEPTED


def test_edited_prefix(backend, live, staging):
    """Somebody who can write to the database moves a key to another environment."""
    issued = staging.lifecycle.create(name="ci")
    stored = backend.get(issued.record.id)
    edited = replace(stored, record=replace(stored.record, prefix="acme_live"))
    backend.get = lambda _: edited
    for _ in range(2):
        assert live.verdict(issued.key) is Verdict.UNKNOWN
        assert staging.verdict(issued.key) is Verdict.TAMPERED


def test_same_steps_as_a_wrong_secret(backend, live, staging, unsealed):
    own, other = live.lifecycle.create(name="ci"), staging.lifecycle.create(name="ci")
    for key, verdict in (
        (mint("acme_live", own.record.id), Verdict.WRONG_SECRET),
        (mint("acme_live", "A" * 16), Verdict.UNKNOWN),
        (other.key, Verdict.UNKNOWN),
        (mint("acme_test", other.record.id), Verdict.UNKNOWN),
        (mint("acme_test", own.record.id), Verdict.UNKNOWN),
        (mint("acme_live", other.record.id), Verdict.UNKNOWN),
    ):
        for _ in range(2):
            backend.looked_up.clear()
            unsealed.clear()
            assert live.verdict(key) is verdict
            assert len(backend.looked_up) == len(unsealed) == 1


def test_other_environment_with_its_own_fernet_key(environment, live):
    other = environment("acme_test", ring=FernetKeyring(generate_fernet_key()))
    assert live.verdict(other.lifecycle.create(name="ci").key) is Verdict.UNKNOWN
