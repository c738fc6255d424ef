"""Changes of a key that another process has changed."""

from datetime import timedelta
from functools import partial

import pytest

from flask_apikey import Conflict, KeyNotFound
from flask_apikey.core.keys.authenticator import Verdict

DAY = timedelta(days=1)


class TestConcurrentChanges:
    @pytest.fixture
    def key(self, lifecycle):
        return lifecycle.create(name="ci", scopes=["read"])

    @pytest.mark.parametrize("changes", [("revoke", "update"), ("update", "revoke")], ids=["revoked", "renamed"])
    def test_concurrent_update_and_revocation(self, lifecycle, backend, key, verdict, changes):
        change = {"revoke": lifecycle.revoke, "update": partial(lifecycle.update, name="renamed")}
        first, second = (partial(change[name], key.record.id) for name in changes)
        backend.before_next_update = first
        second()
        assert verdict(key.key) is Verdict.REVOKED
        assert lifecycle.get(key.record.id).name == "renamed"

    @pytest.mark.parametrize(("method", "changes"), [("revoke", {}), ("update", {"scopes": []}), ("roll", {})])
    def test_roll_is_refused_after_concurrent_change(self, lifecycle, backend, key, method, changes):
        changed = []
        backend.before_next_update = lambda: changed.append(getattr(lifecycle, method)(key.record.id, **changes))
        with pytest.raises(Conflict, match=key.record.id):
            lifecycle.roll(key.record.id, grace=DAY)
        assert lifecycle.get(key.record.id) == getattr(changed[0], "record", changed[0])

    def test_update_of_concurrently_pruned_key(self, lifecycle, backend, key, prune):
        backend.before_next_update = lambda: prune(backend, key.record.id)
        with pytest.raises(KeyNotFound):
            lifecycle.update(key.record.id, name="renamed")

    def test_update_gives_up_after_repeated_conflicts(self, lifecycle, backend, key, monkeypatch):
        def update(*_, **__):
            raise Conflict("again")

        monkeypatch.setattr(backend, "update", update)
        with pytest.raises(Conflict, match="nothing was written"):
            lifecycle.update(key.record.id, name="renamed")
