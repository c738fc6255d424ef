"""Copies that are interrupted at any write, from a source in use."""

from contextlib import suppress
from datetime import timedelta
from random import Random

import pytest

from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.usage import copy_usage, requests_counted
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.usage import DAY, LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.core.times import utc_now
from tests.core.copying.interference import killed_copy, owner_of
from tests.core.copying.storages import all_rows, app_with_keys, same_content
from tests.support.stored import all_keys

MIDNIGHT = 20_000 * DAY
WRITES = ["history.append", "add_many", "update", "usage.put"]


class Source:
    """A storage in use: each method is one change by an application, an operator or a job."""

    def __init__(self, app, backend, random):
        self.api_keys = app.extensions["apikey"].extension
        self.backend = backend
        self.random = random

    def create(self):
        self.api_keys.create(name="new")

    def update(self):
        self.api_keys.update(self._active_id(), name=f"name {self.random.random()}")

    def roll(self):
        self.api_keys.roll(self._active_id(), grace=timedelta(days=1))

    def revoke(self):
        self.create()
        self.api_keys.revoke(self._active_id())

    def prune(self):
        self.revoke()
        self.api_keys.prune(ended_before=utc_now() + timedelta(days=1))

    def use(self):
        for key in all_keys(self.backend):
            hour, owner = MIDNIGHT + self.random.randrange(3 * DAY), self.random.choice(["", "a", "b"])
            label = UsageLabel(key.record.id, hour, "/books", "GET", "2xx", owner=owner)
            uses = [LastUse(key.record.id, 1, utc_now(), None)]
            self.backend.usage.add(UsageBatch(new_id(), 1, [UsageRow(label, 3)], uses, utc_now()))

    def fold(self):
        self.backend.usage.fold(before=MIDNIGHT + self.random.randrange(4) * DAY)
        self.backend.usage.fold_last_uses()

    def _active_id(self):
        return self.random.choice(list(self.api_keys.list(status="active"))).id


def interrupt(monkeypatch, target, writes):
    """Raise `InterruptedError` after a number of writes, alternately before and after the last of them."""
    remaining = [writes]

    def interrupted(write):
        def wrapper(*arguments, **options):
            remaining[0] -= 1
            if remaining[0] == 0 and writes % 2:
                raise InterruptedError
            result = write(*arguments, **options)
            if remaining[0] <= 0:
                raise InterruptedError
            return result

        return wrapper

    for name in WRITES:
        owner, method = owner_of(target, name)
        monkeypatch.setattr(owner, method, interrupted(getattr(owner, method)))


@pytest.mark.parametrize("seed", range(5))
def test_interrupted_copies_of_a_storage_in_use_end_exact(
    make_app, source_uri, source, ring, tmp_path, monkeypatch, seed
):
    monkeypatch.setattr("flask_apikey.core.copying.keys._PAGE", 2)
    monkeypatch.setattr("flask_apikey.core.copying.usage._DAYS", 2)
    app, random = app_with_keys(make_app, source_uri), Random(seed)  # noqa: S311 - picks the steps of a test
    changes = Source(app, source, random)
    target = backend_for(f"sqlite:///{tmp_path}/target.db")
    target.init_storage()
    with app.app_context():
        for _ in range(15):
            random.choice([changes.create, changes.update, changes.roll, changes.revoke, changes.prune])()
            random.choice([changes.use, changes.use, changes.fold])()
            with monkeypatch.context() as patched, suppress(InterruptedError):
                interrupt(patched, target, random.randrange(1, 12))
                copy_keys(source, target, ring=ring)
                copy_usage(source, target)
    copy_keys(source, target, ring=ring)
    copy_usage(source, target)
    same_content(source, target)
    assert requests_counted(target) == requests_counted(source)
    assert copy_usage(source, target, dry_run=True).counts == 0
    target.close()


@pytest.mark.process
@pytest.mark.parametrize("method", ["add_many", "history.append"], ids=["between-events-and-rows", "before-events"])
def test_killed_copy_is_resumed(make_app, source_uri, target_uri, source, target, fernet_key, copied, method):
    app = app_with_keys(make_app, source_uri)
    killed_copy(source_uri, target_uri, fernet_key, method)
    assert len(all_rows(target)) == 2
    with app.app_context():
        for key in app.extensions["apikey"].extension.list(status="active"):
            app.extensions["apikey"].extension.update(key.id, name="changed since")
    report = copied("--verify")
    assert (report["added"], report["verified"]) == (3, True)
    same_content(source, target)
