"""Rows and events that a database writer made to stop listings and changes."""

from contextlib import closing, suppress
from typing import Any

import pytest
from pymongo.errors import PyMongoError
from sqlalchemy.exc import SQLAlchemyError

from flask_apikey.core.errors import RowDamaged, RowTampered
from flask_apikey.core.keys.repository import KeyRepository
from flask_apikey.core.model.history import EventPosition
from flask_apikey.core.model.keys import DamagedKey
from flask_apikey.core.storage.contract import EventFilter, KeyFilter
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.core.times import to_microseconds, utc_now
from flask_apikey.testing.contracts.fixtures import update
from flask_apikey.testing.contracts.history import require_history
from flask_apikey.testing.samples import RING, changed, recorded, stored_key
from tests.support.attacker import Attacker
from tests.support.keys import Lifecycle
from tests.support.stored import all_keys

# SQL databases with column types refuse most of them.
PLACES: list[dict[str, Any]] = [
    *({"at": value} for value in (2**62, -(2**62), 1.5, "soon", None, True, b"\0")),
    *({"number": value} for value in (2.5, "x", None, False, b"\0", -1, 0, 2**31 - 1, 2**63 - 1)),
    *({"key_id": value} for value in ("?", "a.b", "", None, 7, b"\0")),
]


@pytest.fixture
def backend(any_storage_uri):
    with closing(backend_for(any_storage_uri)) as backend:
        backend.init_storage()
        yield backend


@pytest.fixture
def attacker(backend):
    return Attacker(backend)


def form_of(event):
    """Return the values of an event in the form of a storage."""
    names = ("key_id", "number", "event", "owner", "actor", "reason", "details", "previous", "hash")
    return {**{name: getattr(event, name) for name in names}, "at": to_microseconds(event.at)}


@pytest.fixture
def events(backend, attacker):
    """Events of three keys, between events that have no valid place."""
    pairs = [recorded(stored_key(id=letter * 16)) for letter in "19z"]
    backend.add_many([key for key, _ in pairs], events=[event for _, event in pairs])
    for key_id in ("0" * 16, "5" * 16, "zz" + "Z" * 14):
        for place in PLACES:
            _, forged = recorded(stored_key(id=key_id, version=2))
            # Databases with column types refuse some of the values, and keys that are stored already.
            with suppress(SQLAlchemyError, PyMongoError):
                attacker.add_event(**{**form_of(forged), **place})
    return [event for _, event in pairs]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 7, 1_000])
def test_listing_between_invalid_events(backend, events, limit, newest_first):
    seen, after = [], None
    while page := backend.history.events(EventFilter(), after=after, limit=limit, newest_first=newest_first):
        seen += page
        after = EventPosition.parse(page[-1].cursor)
        assert len(seen) < 100
    genuine = [event for event in seen if event in events]
    assert genuine == (events[::-1] if newest_first else events)
    assert len({event.cursor for event in seen}) == len(seen)


@pytest.mark.parametrize("limit", [1, 2, 7, 1_000])
def test_chains_between_invalid_events(backend, events, limit):
    seen = []
    while page := backend.history.chains(after=(seen[-1].key_id, seen[-1].number) if seen else None, limit=limit):
        seen += page
        assert len(seen) < 100
    assert [event for event in seen if event in events] == events


@pytest.mark.parametrize("number", [1, 2, 2**31 - 1, 2**63 - 1])
def test_forged_event_does_not_block_changes(backend, attacker, number):
    key, created = recorded(stored_key())
    newer, updated = recorded(changed(key))
    _, forged = recorded(stored_key(id=key.record.id), reason="forged")
    with suppress(SQLAlchemyError):
        attacker.add_event(**{**form_of(forged), "number": number})
    backend.add(key, event=created)
    update(backend, key, newer, updated)
    if number < 3:
        require_history(backend, newer)


@pytest.mark.parametrize("version", [2**31 - 1, 2**63 - 1, 0, -1])
def test_poisoned_version(backend, attacker, version):
    lifecycle = Lifecycle(backend, RING)
    poisoned, other = lifecycle.create(name="poisoned").record, lifecycle.create(name="other").record
    try:
        attacker.edit_row(poisoned.id, version=version)
    except SQLAlchemyError:
        pytest.skip("the column refuses this number")
    with pytest.raises(RowTampered):
        lifecycle.update(poisoned.id, name="renamed")
    assert lifecycle.revoke(poisoned.id).revoked_at is not None
    assert lifecycle.update(other.id, name="renamed").version == 2
    assert {record.id for record in lifecycle.list()} == {poisoned.id, other.id}
    assert len(all_keys(backend)) == 2
    assert lifecycle.revoke_many(issued_before=utc_now()).revoked == 1


def test_poisoned_row_of_the_storage(backend, attacker):
    lifecycle = Lifecycle(backend, RING)
    repository = KeyRepository(backend, RING, utc_now)
    repository.record_without_key("rotation.run", {})
    issued = lifecycle.create(name="tampered").record
    attacker.edit_row("0" * 16, version=2**31 - 1)
    attacker.edit_row(issued.id, name="edited")
    with pytest.raises(RowTampered):
        repository.record_without_key("rotation.run", {})
    assert lifecycle.revoke(issued.id).revoked_at is not None


def test_row_without_the_id_of_a_key(backend, attacker):
    key = stored_key()
    backend.add(key)
    row = attacker.row(key.record.id)
    attacker.put_back({**row, "id" if "id" in row else "_id": "added by hand"})
    assert list(backend.find(KeyFilter(), after=None, limit=10)) == [key]
    (damaged,) = [each for each in backend.scan(KeyFilter()) if each != key]
    assert (type(damaged), damaged.id) == (DamagedKey, "added by hand")
    with pytest.raises(RowDamaged):
        backend.get("added by hand")
    lifecycle = Lifecycle(backend, RING)
    assert lifecycle.revoke_many(issued_before=utc_now()).revoked == 1
