"""Cache of proven keys: it saves work and never changes a decision."""

import random
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.errors import AlreadyExists, Conflict, KeyEnded, KeyNotFound, RowTampered, TooManySecrets
from flask_apikey.core.keys import authenticator as authenticators
from flask_apikey.core.keys.authenticator import Authenticator, Verdict
from flask_apikey.core.keys.credentials import Credentials
from flask_apikey.core.model.keystring import mint
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey_sql import SQLBackend
from tests.support.keys import Lifecycle

STEPS = 60


class Story:
    """Random changes to keys, made by the library and directly in the database.

    Attributes:
        keys: All keys that were ever issued.
    """

    def __init__(self, seed, backend, rings, clock):
        self._random = random.Random(seed)  # noqa: S311  # reproducible changes
        self._backend = backend
        self._rings = rings
        self._clock = clock
        self._lifecycles = [Lifecycle(backend, ring, clock=clock) for ring in rings]
        self._saved_rows = []
        self.keys = []
        self._steps = [
            self.create, self.roll, self.roll, self.revoke, self.end_secret, self.save_row, self.restore_row,
            self.copy_seal, self.prune, self.reseal, self.edit_row, self.wait,
        ]  # fmt: skip

    def step(self):
        with suppress(AlreadyExists, Conflict, KeyEnded, KeyNotFound, RowTampered, TooManySecrets):
            self._random.choice(self._steps)()

    def create(self):
        self.keys.append(self._lifecycle().create(name="ci").key)

    def roll(self):
        grace = timedelta(seconds=self._random.choice([0, 5, 50]))
        self.keys.append(self._lifecycle().roll(self._id(), grace=grace).key)

    def revoke(self):
        self._lifecycle().revoke(self._id())

    def end_secret(self):
        record = self._row().record
        self._lifecycle().end_secret(record.id, self._random.randint(1, 3), expected_version=record.version)

    def save_row(self):
        self._saved_rows.append(self._row())

    def restore_row(self):
        if self._saved_rows:
            self._write(self._random.choice(self._saved_rows))

    def copy_seal(self):
        self._write(replace(self._row(), seal=self._row().seal))

    def prune(self):
        self._lifecycle().prune(ended_before=self._clock())

    def reseal(self):
        row = self._row()
        ring = self._random.choice(self._rings)
        self._write(replace(row, seal=ring.seal(ring.unseal(row.seal))))

    def edit_row(self):
        row = self._row()
        edits = [
            {"scopes": frozenset("*")},
            {"expires_at": None},
            {"revoked_at": None},
            {"previous_secrets_expire_at": ()},
        ]
        self._write(replace(row, record=replace(row.record, **self._random.choice(edits))))

    def wait(self):
        self._clock.advance(timedelta(seconds=self._random.choice([1, 10])))

    def _lifecycle(self):
        return self._random.choice(self._lifecycles)

    def _id(self):
        return self._random.choice(self.keys).split("_")[1]

    def _row(self):
        row = self._backend.get(self._id())
        if row is None:
            raise KeyNotFound
        return row

    def _write(self, row):
        present = self._backend.get(row.record.id)
        if present is None:
            self._backend.add(row)
        else:
            expected = {"expected_version": present.record.version, "expected_seal": present.seal.token}
            self._backend.update(row, **expected)


@pytest.fixture
def keys():
    backend = SQLBackend("sqlite:///:memory:")
    yield backend
    backend.close()


@pytest.fixture
def rings():
    one, other = generate_fernet_key(), generate_fernet_key()
    return [FernetKeyring(one, [other]), FernetKeyring(other, [one])]


@pytest.mark.parametrize(("seed", "max_proofs"), [(1, 10_000), (2, 10_000), (3, 3)])
def test_cache_does_not_change_decisions(keys, rings, clock, monkeypatch, seed, max_proofs):
    monkeypatch.setattr(authenticators, "MAX_PROOFS", max_proofs)
    configured = [*rings, FernetKeyring(generate_fernet_key())]
    caching = [Authenticator(keys, ring, clock) for ring in configured]
    story = Story(seed, keys, rings, clock)
    story.create()
    accepted = 0
    for _ in range(STEPS):
        story.step()
        for key in story.keys[-8:]:
            for ring, authenticator in zip(configured, caching, strict=True):
                decision = authenticator.authenticate(Credentials(key), None)
                assert decision == Authenticator(keys, ring, clock).authenticate(Credentials(key), None)
                accepted += decision.accepted
    assert accepted


def test_only_proven_keys_are_cached(keys, rings, clock, monkeypatch):
    unsealed = []
    unseal = FernetKeyring.unseal
    monkeypatch.setattr(FernetKeyring, "unseal", lambda ring, seal: (unsealed.append(seal), unseal(ring, seal))[1])
    issued = Lifecycle(keys, rings[0], clock=clock).create(name="ci")
    authenticator = Authenticator(keys, rings[0], clock)
    for key, verdict, times in [
        (issued.key, Verdict.ACCEPTED, 1),
        (mint("fak", issued.record.id), Verdict.WRONG_SECRET, 3),
        (mint("fak", "A" * 16), Verdict.UNKNOWN, 3),
    ]:
        unsealed.clear()
        for _ in range(3):
            assert authenticator.authenticate(Credentials(key), None).verdict is verdict
        assert len(unsealed) == times
