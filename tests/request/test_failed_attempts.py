"""The budget of failed attempts, and the time that refusals hold a worker, over HTTP."""

from datetime import timedelta

import pytest

from flask_apikey import current_api_key, require_api_key
from flask_apikey.core.limits.attempts import LOOKUPS_PER_SECOND, FailedAttempts
from flask_apikey.core.limits.token_bucket import TokenBucket
from flask_apikey.core.model import keystring
from tests.support.keys import KeyScene

LIMIT = 5
ADDRESS = "192.0.2.7"


class Scene(KeyScene):
    """An application with a budget of five failures a minute, and with a clock for it that can be set."""

    def __init__(self, make_app, clock, backend, **config):
        super().__init__(make_app(APIKEY_FAILURE_LIMIT=f"{LIMIT}/minute", **config), clock, backend=backend)
        self.now = 0.0
        self.hooks = self.app.extensions["apikey"].enforcement
        self.hooks._attempts = FailedAttempts(LIMIT, 60, monotonic=lambda: self.now)
        self.hooks._waiting = TokenBucket(0.05, self.hooks._waiting._capacity, lambda: self.now)

        @self.app.get("/")
        @require_api_key(optional=True)
        def view():
            return current_api_key.name if current_api_key else "nobody"

    def get(self, key, address=ADDRESS, base_url="https://localhost", **headers):
        response = self.app.test_client().get(
            "/", base_url=base_url, headers={"X-API-Key": key, **headers}, environ_overrides={"REMOTE_ADDR": address}
        )
        response.close()
        return response

    def statuses(self, keys, address=ADDRESS, **headers):
        return [self.get(key, address, **headers).status_code for key in keys]

    def exhaust(self, address=ADDRESS):
        assert self.statuses(["junk"] * LIMIT, address) == [401] * LIMIT

    def is_exhausted(self, address=ADDRESS):
        return self.get("junk", address).status_code == 429


def unknown(number=1):
    return [keystring.mint("fak", keystring.new_id()) for _ in range(number)]


@pytest.fixture
def make_scene(make_app, clock, backend):
    return lambda **config: Scene(make_app, clock, backend, **config)


@pytest.fixture
def scene(make_scene):
    return make_scene()


def test_answer(scene):
    scene.exhaust()
    scene.now += 0.5
    response = scene.get("junk")
    assert (response.status_code, response.json["code"]) == (429, "too_many_failures")
    assert response.headers["Retry-After"] == "60"
    assert response.content_type == "application/problem+json"
    assert "WWW-Authenticate" not in response.headers
    assert scene.get("junk", "192.0.2.8").status_code == 401
    scene.now += 59.5
    assert scene.get("junk").status_code == 401


def wrong_secret(scene):
    return keystring.mint("fak", scene.issue().record.id)


def address_refused(scene):
    return scene.issue(denied_ips=[ADDRESS]).key


def expired(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1))
    scene.clock.advance(timedelta(seconds=1))
    return issued.key


def revoked(scene):
    issued = scene.issue()
    scene.do("revoke", issued.record.id)
    return issued.key


def suspended(scene):
    issued = scene.issue()
    scene.do("suspend", issued.record.id)
    return issued.key


@pytest.mark.parametrize("attempt", [lambda _: "junk", lambda _: unknown()[0], wrong_secret])
def test_failed_attempts_count(scene, attempt):
    scene.statuses([attempt(scene) for _ in range(LIMIT)])
    assert scene.is_exhausted()


@pytest.mark.parametrize("attempt", [address_refused, expired, revoked, suspended, lambda scene: scene.issue().key])
def test_proven_keys_do_not_count(scene, attempt):
    key = attempt(scene)
    assert 429 not in scene.statuses([key] * 2 * LIMIT)
    assert not scene.is_exhausted()


def test_proven_key_beyond_the_budget(scene, backend):
    issued = scene.issue()
    scene.get(issued.key)
    scene.exhaust()
    assert scene.statuses([issued.key] * 20) == [200] * 20
    scene.do("update", issued.record.id, name="renamed")
    assert scene.get(issued.key).text == "renamed"
    assert len(backend.looked_up) > 20
    scene.do("revoke", issued.record.id)
    assert scene.get(issued.key).json["code"] == "key_revoked"


def test_key_that_was_not_proven_gets_a_shared_look_up(scene):
    issued = scene.issue()
    scene.exhaust()
    flood = unknown(3 * LOOKUPS_PER_SECOND)
    assert scene.statuses(flood).count(401) == LOOKUPS_PER_SECOND
    assert scene.get(issued.key).status_code == 429
    scene.now += 1 / LOOKUPS_PER_SECOND
    assert scene.statuses(["junk"] * 10) == [429] * 10
    assert scene.statuses([issued.key] * 3) == [200] * 3


def test_secret_that_was_rolled_away_is_no_longer_proven(scene, backend):
    old = scene.issue()
    scene.get(old.key)
    new = scene.roll(old)
    assert scene.get(new.key).status_code == 200
    scene.get(old.key)
    scene.statuses(["junk"] * (LIMIT - 1))
    backend.looked_up.clear()
    assert scene.statuses([old.key] * 20).count(429) == 20 - LOOKUPS_PER_SECOND
    assert len(backend.looked_up) == LOOKUPS_PER_SECOND
    assert scene.get(new.key).status_code == 200


def test_no_look_up_beyond_the_budget(scene, backend):
    scene.exhaust()
    scene.statuses(unknown(LOOKUPS_PER_SECOND))
    backend.looked_up.clear()
    assert scene.statuses(unknown(20)) == [429] * 20
    assert backend.looked_up == []


def test_exposed_keys_are_looked_up_within_the_budget(make_scene, backend):
    scene = make_scene(APIKEY_ENFORCE_HTTPS=True, APIKEY_TRUSTED_PROXIES=["192.0.2.7"])
    exposed = {"base_url": "http://localhost", "X-Forwarded-Proto": "http", "X-Forwarded-For": "198.51.100.1"}
    assert scene.statuses(unknown(20), **exposed) == [403] * 20
    assert len(backend.looked_up) == LIMIT + LOOKUPS_PER_SECOND


def test_client_cannot_choose_its_address(scene):
    for number in range(LIMIT):
        scene.get("junk", **{"X-Forwarded-For": f"198.51.100.{number}", "X-Real-IP": f"198.51.100.{number}"})
    assert scene.is_exhausted()


def test_address_behind_a_proxy(make_scene):
    scene = make_scene(APIKEY_TRUSTED_PROXIES=[ADDRESS])
    for number in range(LIMIT):
        scene.get("junk", **{"X-Forwarded-For": f"203.0.113.{number}, 198.51.100.1"})
    assert scene.statuses(["junk"], **{"X-Forwarded-For": "198.51.100.1"}) == [429]
    assert scene.statuses(["junk"], **{"X-Forwarded-For": "203.0.113.1"}) == [401]


def test_callers_on_a_unix_socket_share_a_budget(scene):
    scene.exhaust("")
    assert scene.is_exhausted("")
    assert not scene.is_exhausted(ADDRESS)


def test_verify_is_outside_of_the_budget(scene):
    issued = scene.issue()
    for _ in range(2 * LIMIT):
        assert not scene.do("verify", "junk", address=ADDRESS)
    assert not scene.is_exhausted()
    scene.exhaust("192.0.2.8")
    scene.statuses(unknown(LOOKUPS_PER_SECOND), "192.0.2.8")
    assert scene.do("verify", issued.key, address="192.0.2.8")


def test_no_limit(make_app, clock, backend):
    scene = KeyScene(make_app(APIKEY_FAILURE_LIMIT=None), clock, backend=backend)
    scene.app.get("/")(require_api_key(lambda: "open"))
    client = scene.app.test_client()
    assert {client.get("/", headers={"X-API-Key": "junk"}).status_code for _ in range(100)} == {401}


def test_default_limit(make_app, clock, backend):
    scene = KeyScene(make_app(), clock, backend=backend)
    scene.app.get("/")(require_api_key(lambda: "open"))
    client = scene.app.test_client()
    statuses = [client.get("/", headers={"X-API-Key": "junk"}).status_code for _ in range(70)]
    assert statuses == [401] * 60 + [429] * 10


class TestWaiting:
    """Delays of refusals, measured as the arguments of `time.sleep`."""

    @pytest.fixture
    def waits(self, monkeypatch):
        waits = []
        monkeypatch.setattr("flask_apikey.request.hooks.time.sleep", waits.append)
        return waits

    @pytest.fixture
    def scene(self, make_scene):
        return make_scene(APIKEY_MIN_FAILURE_TIME="20ms")

    def test_share_of_the_time(self, scene, waits):
        keys = unknown(40)
        scene.statuses(keys[:20], "192.0.2.8")
        for number, key in enumerate(keys):
            scene.get(key, f"198.51.100.{number}")
        assert 0.05 < sum(waits) <= 0.1
        waits.clear()
        scene.now += 8
        scene.statuses(keys[:20], "203.0.113.1")
        assert 0.05 < sum(waits) <= 0.1

    def test_share_covers_the_longest_floor(self, make_scene, waits):
        scene = make_scene(APIKEY_MIN_FAILURE_TIME="1s")
        scene.statuses(unknown(5))
        assert len(waits) == 1

    def test_refusals_of_genuine_keys_are_bounded_too(self, scene, waits):
        issued = scene.issue()
        scene.do("revoke", issued.record.id)
        assert scene.statuses([issued.key] * 40) == [401] * 40
        assert 0 < sum(waits) <= 0.1

    def test_same_work_without_a_wait(self, scene, waits, backend):
        for number, key in enumerate(unknown(40)):
            assert scene.get(key, f"198.51.100.{number}").status_code == 401
        assert len(backend.looked_up) == 40

    def test_no_wait_beyond_the_budget(self, scene, waits):
        scene.exhaust()
        waits.clear()
        scene.now += 30
        scene.statuses(["junk"] * 20)
        assert waits == []
