"""Requests that are refused, each for one reason."""

from datetime import timedelta

from flask_apikey import StorageError, current_api_key, require_api_key
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model import keystring
from tests.support.keys import KeyScene, Lifecycle

PLAIN = "http://localhost"
SECURE = "https://localhost"


class Scene(KeyScene):
    """An application with one protected view, on a watched storage."""

    def __init__(self, app, backend, clock):
        super().__init__(app, clock, backend=backend)
        self.reached = 0

        @app.get("/")
        @require_api_key(scopes=["read"])
        def view():
            self.reached += 1
            return current_api_key.name

    def issue(self, name="ci", **attributes):
        return super().issue(name, **{"scopes": ["read"], **attributes})

    def revoke(self, issued):
        self.do("revoke", issued.record.id)

    def suspend(self, issued):
        self.do("suspend", issued.record.id)

    def get(self, key=None, *, base_url=PLAIN, address="127.0.0.1", **headers):
        if key is not None:
            headers["X-API-Key"] = key
        return self.app.test_client().get(
            "/", base_url=base_url, headers=headers, environ_overrides={"REMOTE_ADDR": address}
        )


def another_secret(issued):
    return keystring.mint(issued.record.prefix, issued.record.id)


def no_key(scene):
    return scene.get()


def another_scheme(scene):
    return scene.get(Authorization="Basic dXNlcjpwYXNz")


def malformed(scene):
    return scene.get("nonsense")


def empty(scene):
    return scene.get("")


def conflicting(scene):
    key = scene.issue().key
    return scene.get(key, Authorization=f"Api-Key {key}")


def unknown(scene):
    return scene.get(keystring.mint("fak", keystring.new_id()))


def wrong_secret(scene):
    return scene.get(another_secret(scene.issue()))


def wrong_secret_of_a_revoked_key(scene):
    issued = scene.issue()
    scene.revoke(issued)
    return scene.get(another_secret(issued))


def wrong_secret_of_an_expired_key(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1))
    scene.clock.advance(timedelta(seconds=1))
    return scene.get(another_secret(issued))


def wrong_secret_of_a_suspended_key(scene):
    issued = scene.issue()
    scene.suspend(issued)
    return scene.get(another_secret(issued))


def wrong_secret_from_a_refused_address(scene):
    return scene.get(another_secret(scene.issue(denied_ips=["127.0.0.1"])))


def revoked(scene):
    issued = scene.issue()
    scene.revoke(issued)
    return scene.get(issued.key)


def revoked_and_expired(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1), denied_ips=["127.0.0.1"], scopes=[])
    scene.clock.advance(timedelta(seconds=2))
    scene.revoke(issued)
    return scene.get(issued.key)


def expired(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1), denied_ips=["127.0.0.1"], scopes=[])
    scene.clock.advance(timedelta(seconds=1))
    return scene.get(issued.key)


def suspended(scene):
    issued = scene.issue(denied_ips=["127.0.0.1"], scopes=[])
    scene.suspend(issued)
    return scene.get(issued.key)


def suspended_and_revoked(scene):
    issued = scene.issue()
    scene.suspend(issued)
    scene.revoke(issued)
    return scene.get(issued.key)


def suspended_and_expired(scene):
    issued = scene.issue(lifetime=timedelta(seconds=1))
    scene.suspend(issued)
    scene.clock.advance(timedelta(seconds=1))
    return scene.get(issued.key)


def address_denied(scene):
    return scene.get(scene.issue(denied_ips=["127.0.0.0/8"], scopes=[]).key)


def address_not_in_the_list(scene):
    return scene.get(scene.issue(allowed_ips=["10.0.0.0/8", "::1"]).key)


def plain_http(scene):
    scene.app.config["TESTING"] = False
    return scene.get(scene.issue().key)


def scope_missing(scene):
    return scene.get(scene.issue(scopes=["write"]).key)


def other_environment(scene):
    ring = scene.app.extensions["apikey"].ring
    lifecycle = Lifecycle(scene.backend, ring, IssuePolicy(prefix="acme_test"), scene.clock)
    return scene.get(lifecycle.create(name="ci", scopes=["*"]).key)


def storage_down(scene):
    key = scene.issue().key
    scene.backend.failure = StorageError("the database failed: connection refused")
    return scene.get(key)
