"""Cache of rows: changes of other processes hold within the bound, whatever happens at the same time."""

import hashlib
import logging
from datetime import timedelta
from itertools import count
from types import SimpleNamespace

import pytest

from flask_apikey import ConfigurationError, StorageError
from flask_apikey.core import processes
from flask_apikey.core.errors import RowDamaged
from flask_apikey.core.keys import repository, row_cache
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.core.storage.contract import Changes
from flask_apikey.core.times import to_microseconds, utc_now
from tests.conftest import WatchedBackend
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene

BOUND = 1.0
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.1"
ALMOST = BOUND - 0.001


class Scene(KeyScene):
    """An application with a cache, and counters of what it asks the storage."""

    def __init__(self, app):
        super().__init__(app, utc_now)
        self.read, self.checks, self.failure = [], [], None
        get, changed_since = self.backend.get, self.backend.changes.changed_since

        def watched_get(key_id):
            self.read.append(key_id)
            self.fail()
            return get(key_id)

        def watched_check(moment, *, limit):
            self.checks.append(moment)
            self.fail()
            return changed_since(moment, limit=limit)

        self.backend.get = watched_get
        self.backend.changes.changed_since = watched_check

    def fail(self):
        if self.failure is not None:
            raise self.failure

    def verdict(self, issued, address=HOME):
        return self.do("verify", issued.key, address=address).verdict

    def warmed(self, **attributes):
        """Issue a key, and read its row into the cache."""
        issued = self.issue(**attributes)
        self.warm(issued)
        return issued

    def warm(self, issued):
        for _ in range(4):
            assert self.verdict(issued) is Verdict.ACCEPTED
        self.forget_counts()
        assert self.verdict(issued) is Verdict.ACCEPTED
        assert self.asked == ([], [])

    def forget_counts(self):
        self.read.clear()
        self.checks.clear()

    @property
    def asked(self):
        return self.read, self.checks

    @property
    def rows(self):
        return self.app.extensions["apikey"].services.authenticator._rows._of_process.get()


@pytest.fixture
def time(monkeypatch):
    """The monotonic clock of the cache. It ticks with each reading."""
    time, ticks = SimpleNamespace(now=1_000.0), count()
    monkeypatch.setattr(row_cache, "monotonic", lambda: time.now + next(ticks) * 1e-7)
    return time


@pytest.fixture
def make_scene(make_app, tmp_path, time):
    def make(uri=f"sqlite:///{tmp_path}/keys.db", **config):
        return Scene(make_app(APIKEY_STORAGE_URI=uri, APIKEY_MAX_STALENESS="1s", **config))

    return make


@pytest.fixture
def scene(make_scene):
    return make_scene()


@pytest.fixture
def any_scene(make_scene, any_storage_uri):
    return make_scene(any_storage_uri)


@pytest.fixture
def another_process(make_app, monkeypatch):
    """Function that returns another process on the same storage, whose clock is wrong by half a minute."""
    monkeypatch.setattr(repository, "forget_row", lambda key_id: None)

    def another_process(scene):
        app = make_app(APIKEY_STORAGE_URI=scene.app.config["APIKEY_STORAGE_URI"])
        return KeyScene(app, lambda: utc_now() - timedelta(seconds=30))

    return another_process


def prune(scene, key_id):
    scene.do("revoke", key_id)
    assert scene.do("prune", ended_before=utc_now() + timedelta(days=1)) == 1


CHANGES = {
    "revoke": (lambda scene, key_id: scene.do("revoke", key_id), Verdict.REVOKED),
    "suspend": (lambda scene, key_id: scene.do("suspend", key_id), Verdict.SUSPENDED),
    "roll": (lambda scene, key_id: scene.do("roll", key_id), Verdict.WRONG_SECRET),
    "addresses": (lambda scene, key_id: scene.do("update", key_id, denied_ips=[HOME]), Verdict.ADDRESS_REFUSED),
    "prune": (prune, Verdict.UNKNOWN),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_other_processes_hold_within_the_bound(any_scene, another_process, time, change):
    scene = any_scene
    make, verdict = CHANGES[change]
    issued, unchanged = scene.warmed(), scene.warmed()
    make(another_process(scene), issued.record.id)
    assert scene.verdict(issued) is Verdict.ACCEPTED
    time.now += ALMOST
    assert scene.verdict(issued) is verdict
    scene.forget_counts()
    assert scene.verdict(unchanged) is Verdict.ACCEPTED
    assert scene.asked == ([], [])


def test_scopes_and_revocation_of_a_damaged_row_hold_within_the_bound(any_scene, another_process, time):
    scene, other = any_scene, another_process(any_scene)
    issued = scene.warmed(scopes=["reports:read"])
    other.do("update", issued.record.id, scopes=["reports:write"])
    time.now += BOUND
    assert scene.do("verify", issued.key).key.scopes == {"reports:write"}
    Attacker(scene.backend).edit_row(issued.record.id, metadata="{")
    scene.warm(issued)
    other.do("revoke", issued.record.id)
    time.now += BOUND
    assert scene.verdict(issued) is not Verdict.ACCEPTED


@pytest.mark.parametrize("change", CHANGES)
def test_own_changes_hold_at_once(scene, make_scene, change):
    make, verdict = CHANGES[change]
    issued, another_application = scene.warmed(), make_scene()
    another_application.warm(issued)
    make(scene, issued.record.id)
    assert scene.verdict(issued) is another_application.verdict(issued) is verdict


def test_one_check_serves_all_keys(scene, time):
    keys = [scene.warmed() for _ in range(5)]
    for _ in range(3):
        time.now += BOUND / 2
        scene.forget_counts()
        for issued in keys * 3:
            assert scene.verdict(issued) is Verdict.ACCEPTED
        assert scene.read == []
        assert len(scene.checks) == 1


def test_edit_by_hand_is_seen_after_a_minute(any_scene, time):
    scene = any_scene
    issued = scene.warmed()
    Attacker(scene.backend).edit_row(issued.record.id, revoked_at=1)
    read_at = time.now
    while time.now < read_at + 59:
        time.now += 1
        assert scene.verdict(issued) is Verdict.ACCEPTED
    time.now += 1
    assert scene.verdict(issued) is Verdict.TAMPERED


def test_change_that_is_committed_late_is_told(scene, time):
    issued = scene.warmed()
    written_at = scene.backend.changes.changed_since(None, limit=1).now - timedelta(seconds=9)
    time.now += BOUND
    assert scene.verdict(issued) is Verdict.ACCEPTED
    values = {"revoked_at": 1, "changed_at": to_microseconds(written_at)}
    Attacker(scene.backend).edit_row(issued.record.id, **values)
    time.now += BOUND
    assert scene.verdict(issued) is Verdict.TAMPERED


def test_row_that_arrives_after_a_check_is_not_kept(scene, another_process, time):
    other = another_process(scene)
    late, bystander = scene.warmed(), scene.warmed()
    time.now += 61
    get = scene.backend.get

    def slow_get(key_id):
        row = get(key_id)
        if key_id == late.record.id:
            scene.backend.get = get
            other.do("revoke", key_id)
            time.now += 1
            # A request of another thread, whose check tells of the revocation.
            scene.warm(bystander)
        return row

    scene.backend.get = slow_get
    assert scene.verdict(late) is Verdict.ACCEPTED
    assert scene.verdict(late) is Verdict.REVOKED


def test_row_that_arrives_after_an_own_change_is_not_kept(scene, time):
    issued, bystander = scene.warmed(), scene.warmed()
    time.now += 61
    scene.warm(bystander)
    get = scene.backend.get

    def slow_get(key_id):
        row = get(key_id)
        scene.backend.get = get
        scene.do("revoke", key_id)
        return row

    scene.backend.get = slow_get
    assert scene.verdict(issued) is Verdict.ACCEPTED
    assert scene.verdict(issued) is Verdict.REVOKED


@pytest.mark.parametrize("look", [1, 2], ids=["before the check", "after the check"])
def test_row_that_another_thread_forgets_is_not_trusted(scene, another_process, time, look):
    other = another_process(scene)
    issued, bystander = scene.warmed(), scene.warmed()

    class Rows(dict):
        looks = 0

        def get(self, key_id, default=None):
            row = super().get(key_id, default)
            if key_id == issued.record.id:
                Rows.looks += 1
                if Rows.looks == look:
                    other.do("revoke", key_id)
                    time.now += 10 * BOUND
                    scene.warm(bystander)
            return row

    scene.rows.rows = Rows(scene.rows.rows)
    time.now += BOUND / 2
    assert scene.verdict(issued) is Verdict.REVOKED
    assert Rows.looks >= look


@pytest.mark.parametrize("told", ["too many", "set back"])
def test_all_rows_are_forgotten(scene, time, told):
    issued = scene.warmed()
    changed_since = scene.backend.changes.changed_since

    def odd_check(moment, *, limit):
        changes = changed_since(moment, limit=limit)
        if told == "set back":
            return Changes(moment - timedelta(microseconds=1))
        return Changes(changes.now, [new_id() for _ in range(limit)])

    scene.backend.changes.changed_since = odd_check
    time.now += BOUND
    assert scene.verdict(issued) is Verdict.ACCEPTED
    assert scene.read == [issued.record.id]


def test_nothing_is_trusted_beyond_the_bound_without_an_answer(scene, time):
    issued = scene.warmed()
    scene.failure = StorageError("no route to the server")
    time.now += ALMOST
    assert scene.verdict(issued) is Verdict.ACCEPTED
    time.now += 0.001
    assert scene.verdict(issued) is Verdict.UNAVAILABLE
    scene.failure = None
    assert scene.verdict(issued) is Verdict.ACCEPTED


def test_outage_is_served_within_its_bound_and_told_once(make_scene, another_process, time, caplog):
    scene = make_scene(APIKEY_OUTAGE_STALENESS="5m")
    other = another_process(scene)
    keys = [scene.warmed() for _ in range(3)]
    unproven = scene.issue()
    with caplog.at_level(logging.ERROR, "flask_apikey"):
        for outage in (1, 2):
            scene.failure = StorageError("no route to the server")
            for seconds in (1, 60, 238):
                time.now += seconds
                assert {scene.verdict(issued) for issued in keys} == {Verdict.ACCEPTED}
            assert scene.verdict(unproven) is Verdict.UNAVAILABLE
            told = [each.getMessage() for each in caplog.records if "trusted in an outage" in each.getMessage()]
            assert len(told) == outage
            time.now += 1
            assert {scene.verdict(issued) for issued in keys} == {Verdict.UNAVAILABLE}
            scene.failure = None
            if outage == 1:
                for issued in keys:
                    scene.warm(issued)
    other.do("revoke", keys[0].record.id)
    assert scene.verdict(keys[0]) is Verdict.REVOKED


def test_damaged_row_is_no_outage(make_scene, time):
    scene = make_scene(APIKEY_OUTAGE_STALENESS="5m")
    issued = scene.warmed()
    scene.failure = RowDamaged("the stored row is damaged")
    time.now += 61
    assert scene.verdict(issued) is Verdict.UNAVAILABLE


def test_child_process_starts_empty(scene, monkeypatch):
    issued = scene.warmed()
    parent = scene.rows
    with monkeypatch.context() as patch:
        patch.setattr(processes, "os", SimpleNamespace(getpid=lambda: -1))
        assert scene.verdict(issued) is Verdict.ACCEPTED
        assert scene.read == [issued.record.id]
        assert scene.rows is not parent
        scene.backend.close()
    scene.forget_counts()
    assert scene.verdict(issued) is Verdict.ACCEPTED
    assert scene.asked == ([], [])


def test_only_rows_of_proven_keys_are_kept(scene):
    issued = scene.issue()
    for key_id in (issued.record.id, new_id()) * 4:
        assert not scene.do("verify", mint(issued.record.prefix, key_id))
    assert scene.rows.rows == {}
    scene.warm(issued)
    assert scene.rows.rows.keys() == {issued.record.id}


def test_adopted_rows_are_not_kept(make_scene):
    scene = make_scene(APIKEY_ADOPTED_KEYS=["sha256"])
    scene.do("adopt", digest=hashlib.sha256(b"old-key-of-another-system").hexdigest(), algorithm="sha256", name="old")
    for _ in range(4):
        assert scene.do("verify", "old-key-of-another-system").accepted
    assert scene.rows.rows == {}


def test_memory_is_bounded(scene, monkeypatch):
    monkeypatch.setattr(row_cache, "MAX_ROWS", 2)
    keys = [scene.warmed() for _ in range(3)]
    assert list(scene.rows.rows) == [issued.record.id for issued in keys[1:]]


def test_backend_without_moments_of_changes_is_refused(make_app):
    backend = WatchedBackend.from_uri("sqlite:///:memory:")
    with pytest.raises(ConfigurationError, match=r"APIKEY_MAX_STALENESS: WatchedBackend cannot tell"):
        KeyScene(make_app(APIKEY_MAX_STALENESS="1s"), utc_now, backend=backend)
