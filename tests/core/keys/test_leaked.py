"""States of leaked secrets, and how they end."""

from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey import KeyNotFound
from flask_apikey.core.keys.leaked import Ending, Leak, LeakState
from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.core.model.sealing import digest
from flask_apikey.core.storage.contract import KeyFilter
from tests.support.keys import KeyScene

HOUR = timedelta(hours=1)


def leak(key):
    return Leak(key.split("_")[-2], digest(key))


def widen(backend, key_id):
    """Change a row without its seal, as somebody who can write to the database."""
    stored = backend.get(key_id)
    record = replace(stored.record, scopes=frozenset({"*"}))
    backend.update(replace(stored, record=record), expected_version=record.version, expected_seal=stored.seal.token)


class Scene(KeyScene):
    @property
    def leaked(self):
        return self.app.extensions["apikey"].services.leaked

    def state(self, key):
        (secret,) = self.leaked.look_up([leak(key)]).values()
        assert secret.is_genuine == (secret.record is not None)
        return secret.state

    def end(self, key, **options):
        with self.app.app_context():
            return self.leaked.end(leak(key), **options)[1]


@pytest.fixture
def scene(app, clock):
    return Scene(app, clock)


def test_states(scene, clock):
    issued = {state: scene.issue(lifetime=HOUR * 2) for state in LeakState}
    scene.do("suspend", issued[LeakState.SUSPENDED].record.id)
    scene.do("revoke", issued[LeakState.REVOKED].record.id)
    scene.do("update", issued[LeakState.EXPIRED].record.id, expires_at=clock() + HOUR / 2)
    scene.roll(issued[LeakState.PREVIOUS_SECRET], grace=HOUR)
    keys = {state: each.key for state, each in issued.items()}
    keys[LeakState.WRONG_SECRET] = mint("fak", issued[LeakState.LIVE].record.id)
    keys[LeakState.UNKNOWN] = mint("fak", new_id())
    for state in (LeakState.TAMPERED, LeakState.UNDECIDED):
        del keys[state]
    clock.advance(HOUR / 2)
    assert {state: scene.state(key) for state, key in keys.items()} == {state: state for state in keys}
    clock.advance(HOUR / 2)
    assert scene.state(keys[LeakState.PREVIOUS_SECRET]) is LeakState.WRONG_SECRET


def test_key_with_address_lists_is_live(scene):
    assert scene.state(scene.issue(allowed_ips=["10.0.0.0/8"]).key) is LeakState.LIVE


def test_prefix_of_another_environment(make_app, clock):
    scene = Scene(make_app(APIKEY_ACCEPTED_PREFIXES=["fak", "old"], APIKEY_PREFIX="old"), clock)
    issued = scene.issue()
    assert scene.state(issued.key) is LeakState.LIVE
    scene.leaked._accepted_prefixes = frozenset({"fak"})
    assert scene.state(issued.key) is LeakState.UNKNOWN


def test_removed_key_is_unknown(scene, clock):
    issued = scene.issue(lifetime=HOUR)
    clock.advance(HOUR * 2)
    scene.do("prune", ended_before=clock())
    assert scene.state(issued.key) is LeakState.UNKNOWN
    with pytest.raises(KeyNotFound):
        scene.end(issued.key)


def test_lookups_are_batched(make_app, clock, backend):
    scene = Scene(make_app(), clock, backend=backend)
    issued = [scene.issue() for _ in range(3)]
    scans = []
    scan = backend.scan
    backend.scan = lambda key_filter: scans.append(key_filter) or scan(key_filter)
    scene.leaked.look_up([leak(each.key) for each in [*issued, *issued]])
    assert scans == [KeyFilter(ids={each.record.id for each in issued})]
    assert backend.looked_up == []


@pytest.mark.parametrize("suspend", [False, True])
def test_newest_secret_ends_its_key(scene, suspend):
    issued = scene.issue()
    previous = issued.key
    rolled = scene.roll(issued, grace=HOUR)
    ending = scene.end(rolled.key, suspend=suspend, reason="leaked")
    assert ending is (Ending.KEY_SUSPENDED if suspend else Ending.KEY_REVOKED)
    expected = LeakState.SUSPENDED if suspend else LeakState.REVOKED
    assert [scene.state(key) for key in (rolled.key, previous)] == [expected, expected]
    record = scene.do("get", issued.record.id)
    assert (record.suspension_reason if suspend else record.revocation_reason) == "leaked"
    assert scene.end(rolled.key, suspend=suspend) is None
    assert scene.do("get", issued.record.id) == record


@pytest.mark.parametrize("suspend", [False, True])
def test_previous_secret_ends_alone(scene, suspend):
    issued = scene.issue()
    second = scene.roll(issued, grace=HOUR)
    third = scene.roll(issued, grace=HOUR)
    assert scene.end(issued.key, suspend=suspend) is Ending.SECRET_ENDED
    assert scene.end(issued.key, suspend=suspend) is None
    assert scene.works(issued, second, third) == [False, True, True]
    assert scene.end(second.key, suspend=suspend) is Ending.SECRET_ENDED
    assert scene.works(issued, second, third) == [False, False, True]


def test_wrong_secret_ends_nothing(scene):
    issued = scene.issue()
    assert scene.end(mint("fak", issued.record.id)) is None
    assert scene.works(issued) == [True]


def test_expired_key_is_not_revived(scene, clock):
    issued = scene.issue(lifetime=HOUR)
    clock.advance(HOUR * 2)
    assert scene.end(issued.key, suspend=True) is None
    assert scene.end(issued.key) is Ending.KEY_REVOKED
    scene.do("update", issued.record.id, expires_at=None)
    assert scene.works(issued) == [False]


def test_roll_in_between(make_app, clock, backend):
    """A key that is rolled while its leaked secret ends keeps its new secret."""
    scene = Scene(make_app(), clock, backend=backend)
    issued = scene.issue()
    rolled = []
    backend.before_next_update = lambda: rolled.append(scene.roll(issued, grace=HOUR))
    assert scene.end(issued.key) is Ending.SECRET_ENDED
    assert scene.works(issued, *rolled) == [False, True]


@pytest.mark.parametrize("suspend", [False, True])
def test_tampered_row_is_revoked(scene, suspend):
    issued = scene.issue()
    widen(scene.backend, issued.record.id)
    assert scene.state(issued.key) is LeakState.TAMPERED
    assert scene.end(mint("fak", issued.record.id), suspend=suspend) is None
    assert scene.end(issued.key, suspend=suspend) is Ending.KEY_REVOKED
    assert scene.state(issued.key) is LeakState.REVOKED
    assert scene.end(issued.key) is None


def test_every_storage(make_app, clock, any_storage_uri):
    scene = Scene(make_app(APIKEY_STORAGE_URI=any_storage_uri), clock)
    first, second, third = (scene.issue() for _ in range(3))
    previous, rolled = second.key, scene.roll(second, grace=HOUR)
    keys = [first.key, previous, third.key, mint("fak", new_id())]
    states = [secret.state for secret in scene.leaked.look_up(map(leak, keys)).values()]
    assert states == [LeakState.LIVE, LeakState.PREVIOUS_SECRET, LeakState.LIVE, LeakState.UNKNOWN]
    endings = [scene.end(key, reason="leaked") for key in keys[:2]] + [scene.end(third.key, suspend=True)]
    assert endings == [Ending.KEY_REVOKED, Ending.SECRET_ENDED, Ending.KEY_SUSPENDED]
    assert scene.works(first, second, third, rolled) == [False, False, False, True]
