"""Sources that were edited by somebody who can write to their database and has no Fernet key."""

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy.exc import DBAPIError

from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.copying.refusals import MAX_REFUSALS, Refusals
from flask_apikey.core.model.keystring import new_id
from flask_apikey.core.model.sealed_rows import sealed_row
from flask_apikey.core.model.sealing import SealedSecrets
from flask_apikey.core.storage.chains import all_chains
from flask_apikey.testing.samples import NOW
from tests.core.copying.conftest import opened
from tests.core.copying.interference import before
from tests.core.copying.storages import Writer, all_rows, same_content
from tests.support.attacker import Attacker


@pytest.fixture
def source(any_storage_uri):
    yield from opened(any_storage_uri)


@pytest.fixture
def target(tmp_path):
    yield from opened(f"sqlite:///{tmp_path}/target.db")


@pytest.fixture
def attacker(source):
    return Attacker(source)


@pytest.fixture
def keys(at_source):
    """Three keys; the second has three versions."""
    keys = at_source.add(3)
    for _ in range(2):
        at_source.change(keys[1])
    return keys


@contextmanager
def storage_permitting():
    """Skip a test whose edit the types of the columns do not permit."""
    try:
        yield
    except (DBAPIError, TypeError) as exc:
        pytest.skip(f"not permitted: {type(exc).__name__}")


def swap_seals(attacker, victim, other):
    row = attacker.row(other)
    attacker.edit_row(victim, seal=row["seal"], sealed_by=row["sealed_by"])


def remove_all_events(attacker, key_id, _):
    attacker.remove_events(key_id)


def move_events(attacker, key_id, other):
    attacker.remove_events(key_id)
    for number in (1, 2, 3):
        attacker.add_event(**{**attacker.event(other, 1), "key_id": key_id, "number": number})


def add_a_newer_event(attacker, key_id, _):
    attacker.add_event(**{**attacker.event(key_id, 3), "number": 4})


def edited_row(**values):
    return lambda attacker, key_id, _: attacker.edit_row(key_id, **values)


def edited_event(number, **values):
    return lambda attacker, key_id, _: attacker.edit_event(key_id, number, **values)


EDITS = {
    "garbage-seal": (edited_row(seal="garbage"), "seal is damaged"),
    "seal-of-another": (swap_seals, "does not fit its seal"),
    "invalid-fingerprint": (edited_row(sealed_by="\x1b[31m" * 9), "not configured here"),
    "renamed": (edited_row(name="another"), "does not fit its seal"),
    "old-version": (edited_row(version=2), "does not fit its seal"),
    "huge-version": (edited_row(version=2**31 - 1), "does not fit its seal"),
    "damaged": (edited_row(metadata="[]"), "is damaged"),
    "long-name": (edited_row(name="x" * 10_000), "does not fit its seal"),
    "edited-event": (edited_event(2, actor="another"), "event 2 was changed"),
    "long-event": (edited_event(2, details=json.dumps("x" * 70_000)), "its details of event 2 is not valid"),
    "no-first-event": (lambda attacker, key_id, _: attacker.remove_event(key_id, 1), "event 1 is missing"),
    "no-last-event": (lambda attacker, key_id, _: attacker.remove_event(key_id, 3), "event 3 is missing"),
    "no-events": (remove_all_events, "events 1 to 3 are missing"),
    "moved-events": (move_events, "event 1 was changed, or is the event of another key"),
    "newer-event": (add_a_newer_event, "event 4 was added"),
    "no-row": (lambda attacker, key_id, _: attacker.remove_row(key_id), "its row was deleted"),
}


@pytest.mark.parametrize(("edit", "reason"), EDITS.values(), ids=EDITS)
def test_row_that_does_not_hold_up_is_left_out(source, target, keys, ring, attacker, edit, reason):
    with storage_permitting():
        edit(attacker, keys[1].record.id, keys[0].record.id)
    dry = copy_keys(source, target, ring=ring, dry_run=True)
    report = copy_keys(source, target, ring=ring)
    assert [refusal.id for refusal in report.refusals.first] == [keys[1].record.id]
    assert reason in report.refusals.first[0].reason
    assert (report.added, report.events, report.refusals.count) == (2, 2, 1)
    assert dry.refusals == report.refusals
    assert [row.record.id for row in all_rows(target)] == [keys[0].record.id, keys[2].record.id]
    assert {event.key_id for event in all_chains(target.history)} == {keys[0].record.id, keys[2].record.id}
    assert copy_keys(source, target, ring=ring).unchanged == 2


@pytest.mark.parametrize(("edit", "reason"), [EDITS["garbage-seal"], EDITS["no-events"]], ids=["seal", "events"])
def test_row_of_the_target_stays_if_the_newer_one_is_refused(source, target, at_source, ring, attacker, edit, reason):
    key, other = at_source.add(2)
    copy_keys(source, target, ring=ring)
    for _ in range(2):
        at_source.change(key)
    edit(attacker, key.record.id, other.record.id)
    (refusal,) = copy_keys(source, target, ring=ring).refusals.first
    assert reason in refusal.reason
    assert refusal.reason.endswith("; the target keeps version 1")
    assert target.get(key.record.id) == key


@pytest.mark.parametrize("key_id", ["!", "A" * 17, "é" * 16, "~" * 16], ids=["short", "long", "unicode", "last"])
def test_row_without_the_id_of_a_key_is_left_out(source, target, keys, ring, attacker, key_id):
    name = "id" if "id" in attacker.row(keys[0].record.id) else "_id"
    with storage_permitting():
        attacker.put_back({**attacker.row(keys[0].record.id), name: key_id})
    report = copy_keys(source, target, ring=ring)
    assert [refusal.id for refusal in report.refusals.first] == [key_id]
    assert len(all_rows(target)) == 3


def test_row_with_bytes_as_id_is_left_out(source, target, keys, ring, attacker):
    name = "id" if "id" in attacker.row(keys[0].record.id) else "_id"
    copy_keys(source, target, ring=ring)
    with storage_permitting():
        attacker.put_back({**attacker.row(keys[0].record.id), name: b"A"})
    report = copy_keys(source, target, ring=ring)
    (refusal,) = report.refusals.first
    assert refusal.id in {"A", "b'A'"}
    assert report.unchanged == len(all_rows(target)) == 3


@pytest.mark.parametrize("key_id", ["", "~" * 16, None], ids=["first", "last", "key"])
def test_events_without_a_row_are_not_copied(source, target, keys, ring, attacker, key_id):
    event = {**attacker.event(keys[0].record.id, 1), "key_id": new_id() if key_id is None else key_id}
    attacker.add_event(**event)
    report = copy_keys(source, target, ring=ring)
    assert report.refusals.count == (key_id is None)
    assert report.added == 3
    assert len(list(all_chains(target.history))) == 5


INVALID_RECORDS = {
    "no-name": {"name": " "},
    "long-name": {"name": "x" * 201},
    "owner": {"owner": "\x1b[31m"},
    "scopes": {"scopes": frozenset({"a b"})},
    "many-scopes": {"scopes": frozenset(map(str, range(101)))},
    "spaces-before-name": {"name": " " * 200 + "x"},
    "spaces-before-owner": {"owner": " " * 200 + "x"},
    "spaces-in-metadata": {"metadata_json": " " * 65_530 + '{"a":1}'},
    "huge-metadata": {"metadata_json": json.dumps({"a": "x" * 17_000})},
    "prefix": {"prefix": "a-b"},
    "reason": {"revoked_at": NOW, "revocation_reason": "x" * 501},
    "suspension": {"suspended_at": NOW, "suspension_reason": "x" * 501},
    "version": {"version": 0},
    "tombstone": {"pruned_at": NOW},
}


@pytest.mark.parametrize("values", INVALID_RECORDS.values(), ids=INVALID_RECORDS)
def test_sealed_values_that_create_refuses_are_left_out(backend, target, ring, values):
    """A repair seals what stands there."""
    backend.init_storage()
    at_source = Writer(backend, ring)
    key, _ = at_source.add(2)
    invalid = sealed_row(replace(key.record, **values), "", SealedSecrets((b"d" * 32,)), ring)
    backend.inner.update(invalid, expected_version=1, expected_seal=key.seal.token)
    report = copy_keys(backend, target, ring=ring)
    assert [refusal.id for refusal in report.refusals.first] == [key.record.id]
    assert (report.added, len(all_rows(target))) == (1, 1)


def test_change_of_the_source_between_row_and_history_is_read_again(source, target, at_source, keys, ring, monkeypatch):
    """The history goes further than the row, and there are events of a key that was created since."""
    monkeypatch.setattr("flask_apikey.core.storage.chains._PAGE", 1)
    scan = source.scan

    def scan_before_changes(key_filter):
        rows = list(scan(key_filter))
        at_source.change(keys[1])
        at_source.add(3)
        return iter(rows)

    monkeypatch.setattr(source, "scan", scan_before_changes)
    report = copy_keys(source, target, ring=ring)
    assert (report.added, report.refusals.count) == (3, 0)
    assert target.get(keys[1].record.id) == source.get(keys[1].record.id)
    monkeypatch.setattr(source, "scan", scan)
    copy_keys(source, target, ring=ring)
    same_content(source, target)


def test_change_of_the_source_behind_its_history_is_read_again(source, target, at_source, keys, ring, monkeypatch):
    before(monkeypatch, source, "scan", lambda: at_source.change(keys[1]))
    report = copy_keys(source, target, ring=ring)
    assert report.refusals.count == 0
    same_content(source, target)


class TestCommand:
    @pytest.fixture
    def source_uri(self, any_storage_uri):
        return any_storage_uri

    @pytest.fixture
    def target_uri(self, tmp_path):
        return f"sqlite:///{tmp_path}/target.db"

    @pytest.mark.parametrize("options", [["--dry-run"], [], ["--verify"]], ids=["dry-run", "copy", "verify"])
    def test_refused_rows_are_listed(self, keys, attacker, copy, options):
        attacker.edit_row(keys[1].record.id, seal="garbage")
        result = copy(*options)
        assert result.exit_code == 1
        assert "Left out because the source does not hold up (1 row):" in result.stderr
        assert f"  {keys[1].record.id}: key {keys[1].record.id}: the stored seal is damaged\n" in result.stderr
        assert "Every key of the source is at the target" not in result.stderr

    def test_json_has_the_refused_rows(self, keys, attacker, copy):
        attacker.edit_row(keys[1].record.id, seal="garbage")
        result = copy("--verify", "--json")
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        assert (report["refused"], report["verified"]) == (1, False)
        assert report["refusals"] == [
            {"key_id": keys[1].record.id, "reason": f"key {keys[1].record.id}: the stored seal is damaged"}
        ]

    def test_first_twenty_refused_rows_are_listed(self, at_source, attacker, copy):
        for key in at_source.add(23):
            attacker.edit_row(key.record.id, seal="garbage")
        lines = copy().stderr.splitlines()
        assert sum(line.endswith("the stored seal is damaged") for line in lines) == 20
        assert lines[-1] == "  … and 3 more."


def test_number_of_refusals_in_memory_is_limited():
    refusals = Refusals()
    for number in range(MAX_REFUSALS + 5):
        refusals.add(number, "no id")
    assert (refusals.count, len(refusals.first)) == (MAX_REFUSALS + 5, MAX_REFUSALS)
    assert refusals.first[3].id == "3"
