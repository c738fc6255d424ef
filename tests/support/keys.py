"""Keys for tests: the services on a backend without an application, and an application with keys."""

from functools import partial

from flask_apikey import APIKeys
from flask_apikey.core.keys import bulk
from flask_apikey.core.keys.finding import KeyFinder
from flask_apikey.core.keys.lifecycle import KeyLifecycle
from flask_apikey.core.keys.repair import KeyRepair
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.keys.rolling import IssuePolicy, KeyRolling
from flask_apikey.core.times import utc_now


class Lifecycle:
    """The methods of `APIKeys`, without an application."""

    def __init__(self, backend, keyring, policy=None, clock=utc_now, origin=dict):
        repository = KeyRepository(backend, keyring, clock, origin)
        lifecycle = KeyLifecycle(repository, policy, clock)
        rolling = KeyRolling(repository, policy, backend.usage, clock)
        self.get = lifecycle.get
        self.create_many = lifecycle.create_many
        finder = KeyFinder(repository, backend.usage, clock)
        self.list = finder.list
        self.count = finder.count
        self.last_uses = finder.last_uses
        self.revoke = lifecycle.revoke
        self.reveal = lifecycle.reveal
        self.roll = rolling.roll
        self.finish_roll = rolling.finish
        self.end_secret = rolling.end_secret
        self.revoke_many = partial(bulk.revoke_many, repository, clock)
        self.prune = partial(bulk.prune, repository)
        self.repair = KeyRepair(repository, keyring, backend.history, policy or IssuePolicy(), clock).repair
        self._lifecycle = lifecycle

    def create(self, *, metadata=None, **attributes):
        return self._lifecycle.create(metadata={} if metadata is None else metadata, **attributes)

    def update(self, key_id, **changes):
        return self._lifecycle.update(key_id, changes)


class KeyScene:
    """An application with keys."""

    def __init__(self, app, clock, **options):
        self.app, self.clock = app, clock
        self.api_keys = APIKeys(app, clock=clock, **options)
        self.backend = app.extensions["apikey"].backend
        self.backend.init_storage()

    def do(self, method, *arguments, **options):
        with self.app.app_context():
            return getattr(self.api_keys, method)(*arguments, **options)

    def issue(self, name="ci", **attributes):
        return self.do("create", name=name, **attributes)

    def roll(self, issued, **options):
        return self.do("roll", issued.record.id, **options)

    def works(self, *keys):
        return [self.do("verify", issued.key).accepted for issued in keys]
