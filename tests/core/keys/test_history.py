"""Chains of events: what their links reveal."""

from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey.core.errors import InvalidValue
from flask_apikey.core.model.history import (
    ACCEPTED_PROBLEMS,
    COPIED,
    GENESIS,
    REPAIRED,
    ChainCheck,
    EventPosition,
    LifecycleEvent,
    stored_event,
)
from flask_apikey.core.times import to_microseconds
from flask_apikey.testing.samples import NOW

KEY, OTHER_KEY = "8sQ2dKf0LmX7Tz1B", "Jb4Yc0PqR6wNzX2e"


def chain_of(length, key_id=KEY, **values):
    chain = []
    for number in range(1, length + 1):
        previous = chain[-1].hash if chain else GENESIS
        content = {"at": NOW, "event": "key.updated", "key_id": key_id, "number": number, "previous": previous}
        chain.append(LifecycleEvent(**{**content, **values}))
    return chain


def changed(event, /, **values):
    """Return an event with other values and the hash that it had."""
    return replace(event, **values)


def forged(event, /, **values):
    """Return an event with other values and their hash."""
    return replace(event, hash="", **values)


def problem_of(events, end=None):
    check = ChainCheck()
    for event in events:
        check.add(event)
    if end is not None:
        check.end_at(end.number, end.hash)
    return check.problem


def test_intact_chain():
    chain = chain_of(4)
    assert problem_of(chain, chain[-1]) is None
    assert problem_of([]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"at": NOW + timedelta(microseconds=1)},
        {"event": "key.revoked"},
        {"key_id": OTHER_KEY},
        {"owner": "team-7"},
        {"actor": "alice"},
        {"reason": "left"},
        {"details": '{"fields":[]}'},
        {"previous": "0" * 64},
        {"hash": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("number", [1, 2, 4], ids=["first", "middle", "last"])
def test_changed_event(change, number):
    chain = chain_of(4)
    end = chain[-1]
    if number == 1 and "previous" in change:
        change = {"previous": "1" * 64}
    chain[number - 1] = changed(chain[number - 1], **change)
    assert problem_of(chain, end) == (number, f"event {number} was changed, or is the event of another key")


@pytest.mark.parametrize("number", [1, 2, 4], ids=["first", "middle", "last"])
def test_forged_event(number):
    chain = chain_of(4)
    end = chain[-1]
    chain[number - 1] = forged(chain[number - 1], actor="somebody else")
    assert problem_of(chain, end) == (number, f"event {number} was replaced")


@pytest.mark.parametrize("number", [1, 2, 4], ids=["first", "middle", "last"])
def test_removed_event(number):
    chain = chain_of(4)
    end = chain[-1]
    del chain[number - 1]
    assert problem_of(chain, end) == (number, f"event {number} is missing")


def test_all_events_removed():
    assert problem_of([], chain_of(4)[-1]) == (1, "events 1 to 4 are missing")


def test_several_events_removed():
    chain = chain_of(6)
    assert problem_of([chain[0], *chain[4:]], chain[-1]) == (2, "events 2 to 4 are missing")


def test_first_event_that_follows_another():
    chain = chain_of(1, previous="1" * 64)
    assert problem_of(chain, chain[-1]) == (1, "event 1 was replaced")


def test_event_after_the_end():
    chain = chain_of(4)
    assert problem_of(chain, chain[2]) == (4, "event 4 is newer than the row of the key")


def test_rewritten_chain_contradicts_the_row():
    end = chain_of(4)[-1]
    assert problem_of(chain_of(4, actor="somebody else"), end) == (4, "event 4 was replaced")


@pytest.mark.parametrize("number", [0, -1, None, "1"], ids=repr)
def test_number_that_no_event_has(number):
    chain = chain_of(2)
    assert problem_of([forged(chain[0], number=number), *chain], chain[-1]) == (0, f"event {number!r} was added")


def test_chain_of_a_copy_begins_later():
    copied = forged(chain_of(3)[-1], event=COPIED, previous=GENESIS)
    assert problem_of([copied], copied) is None
    assert problem_of([forged(copied, event="key.updated")]) == (1, "events 1 to 2 are missing")


class TestAcceptedProblems:
    @pytest.fixture
    def events(self):
        """A chain of six events without number 2, whose last one accepts this."""
        chain = chain_of(5)
        check = ChainCheck()
        for event in (chain[0], *chain[2:]):
            check.add(event)
        details = f'{{"{ACCEPTED_PROBLEMS}":"{check.digest}"}}'
        repaired = LifecycleEvent(
            key_id=KEY, number=6, at=NOW, event=REPAIRED, details=details, previous=chain[-1].hash
        )
        return [chain[0], *chain[2:], repaired]

    def test_holds(self, events):
        assert problem_of(events, events[-1]) is None

    def test_other_event_cannot_accept(self, events):
        events[-1] = forged(events[-1], event="key.updated")
        assert problem_of(events, events[-1]) == (2, "event 2 is missing")

    @pytest.mark.parametrize("position", [0, 1, 2, 3])
    def test_further_removal(self, events, position):
        del events[position]
        assert problem_of(events, events[-1]) is not None

    def test_later_removal(self, events):
        end = LifecycleEvent(key_id=KEY, number=7, at=NOW, event="key.updated", previous=events[-1].hash)
        assert problem_of([*events, end], end) is None
        assert problem_of(events, end) == (7, "event 7 is missing")


@pytest.mark.parametrize("value", [None, b"x", "x", 2**80, 1.5, {"a": 1}], ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("field", ["at", "event", "owner", "actor", "reason", "details", "previous", "hash"])
def test_damaged_event(field, value):
    """SQLite and MongoDB hold any type in any field."""
    event = LifecycleEvent(
        key_id=KEY, number=1, at=NOW, event="key.created", owner="a", actor="b", reason="c", details='{"d":1}'
    )
    names = ("key_id", "number", "event", "owner", "actor", "reason", "details", "previous", "hash")
    values = {**{name: getattr(event, name) for name in names}, "at": to_microseconds(NOW)}
    assert stored_event(values) == event
    damaged = stored_event({**values, field: value})
    if field == "at":
        assert damaged is None
    else:
        assert not damaged.is_intact
        damaged.to_dict()


def test_cursor():
    (event,) = chain_of(1)
    assert EventPosition.parse(event.cursor) == EventPosition.of(event)


@pytest.mark.parametrize("text", ["", "1.2", f"x.{KEY}.1", f"1.{KEY}.x", f"{10**40}.{KEY}.1", f"1.{KEY}.{10**40}"])
def test_cursor_of_another_form(text):
    with pytest.raises(InvalidValue, match="cursor"):
        EventPosition.parse(text)
