"""Stored history of keys: its events, and the detection of changes to it."""

import json
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.model.history import (
    BrokenChain,
    ChainedEvent,
    LifecycleEvent,
    Link,
    chained,
    last_events,
    verify_chain,
)
from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.testing.samples import NOW
from tests.support.keys import KeyScene

IDS = [new_id() for _ in range(3)]


def chain_of(events):
    chain, last = [], Link()
    for event in events:
        chain.append(chained(last, event))
        last = Link.of(chain[-1])
    return chain


@pytest.fixture
def events():
    content = [
        ("key.created", IDS[0], 1),
        ("key.created", IDS[1], 1),
        ("key.updated", IDS[0], 2),
        ("key.created", IDS[2], 1),
    ]
    return chain_of(
        LifecycleEvent(at=NOW, event=name, key_id=key, key_version=version) for name, key, version in content
    )


@pytest.fixture
def versions():
    return {IDS[0]: 2, IDS[1]: 1, IDS[2]: 1}


def broken(events, versions, expected=None):
    with pytest.raises(BrokenChain) as found:
        verify_chain(iter(events), versions, expected)
    return found.value.number


class CountedReads:
    """A history with a given number of events, which counts reads."""

    def __init__(self, newest):
        self.newest = newest
        self.reads = 0

    def events(self, *, after, limit, key_id=None):
        self.reads += 1
        assert after < 2**63
        event = LifecycleEvent(at=NOW, event="key.created", key_id=IDS[0], key_version=1)
        numbers = range(after + 1, min(after + limit, self.newest) + 1)
        return [ChainedEvent(number, event, "", "") for number in numbers]


@pytest.mark.parametrize("newest", [*range(20), 1_000_000, 2**63 - 1])
def test_last_events_needs_few_reads(newest):
    history = CountedReads(newest)
    found = [event.number for event in last_events(history, 3)]
    assert found == list(range(max(1, newest - 2), newest + 1))
    assert history.reads <= 2 * newest.bit_length() + 3


def test_intact_chain(events, versions):
    assert verify_chain(iter(events), versions) == Link.of(events[-1])
    assert verify_chain(iter([]), {}) == Link()


@pytest.mark.parametrize(
    "change",
    [
        {"at": NOW + timedelta(microseconds=1)},
        {"event": "key.revoked"},
        {"key_id": IDS[2]},
        {"key_version": 3},
        {"details": '{"reason":"x"}'},
    ],
)
def test_tampered_event(events, versions, change):
    events[1] = replace(events[1], event=replace(events[1].event, **change))
    assert broken(events, versions) == 2


def test_rechained_event_breaks_the_next(events, versions):
    events[1] = chained(Link.of(events[0]), replace(events[1].event, details='{"forged":true}'))
    assert broken(events, versions) == 3


@pytest.mark.parametrize("numbers", [(3, 2), (2, 3)], ids=["events", "contents"])
def test_swapped_events(events, versions, numbers):
    events[1], events[2] = replace(events[2], number=numbers[0]), replace(events[1], number=numbers[1])
    assert broken(events, versions) == 2


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_missing_event(events, versions, missing):
    del events[missing]
    assert broken(events, versions) == missing + 1


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_truncated_chain_contradicts_the_keys(events, versions, kept):
    broken(events[:kept], versions)


def test_key_deleted_without_event(events, versions):
    del versions[IDS[2]]
    assert broken(events, versions) == 4


def test_pruned_key(events, versions):
    pruned = LifecycleEvent(at=NOW, event="key.pruned", key_id=IDS[2], key_version=2)
    events.append(chained(Link.of(events[-1]), pruned))
    del versions[IDS[2]]
    verify_chain(iter(events), versions)


def test_rewritten_history_contradicts_expected_link(events, versions):
    noted = Link.of(events[2])
    assert verify_chain(iter(events), versions, noted) == Link.of(events[-1])
    forged = chain_of(replace(each.event, at=NOW + timedelta(days=1)) for each in events)
    verify_chain(iter(forged), versions)
    assert broken(forged, versions, noted) == 3


def test_verification_uses_constant_memory():
    key_id = IDS[0]

    def history():
        last = Link()
        for version in range(1, 5_001):
            event = chained(last, LifecycleEvent(at=NOW, event="key.updated", key_id=key_id, key_version=version))
            last = Link.of(event)
            yield event

    tracemalloc.start()
    try:
        assert verify_chain(history(), {key_id: 5_000}).number == 5_000
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


class TestCommand:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "keys.db"

    @pytest.fixture
    def scene(self, make_app, path, clock):
        return KeyScene(make_app(APIKEY_STORAGE_URI=f"sqlite:///{path}", APIKEY_RECOVERABLE=True), clock)

    @pytest.fixture
    def key_id(self, scene):
        issued = scene.issue(lifetime=timedelta(days=1))
        scene.do("update", issued.record.id, name="renamed", scopes=["read"])
        scene.roll(issued, grace=timedelta(hours=1))
        scene.do("reveal", issued.record.id)
        scene.do("revoke", issued.record.id, reason="left")
        scene.issue("another")
        return issued.record.id

    @pytest.fixture
    def run(self, scene):
        return lambda *options: scene.app.test_cli_runner().invoke(apikey, ["audit", *options])

    def change(self, path, statement):
        with sa.create_engine(f"sqlite:///{path}").begin() as connection:
            assert connection.execute(sa.text(statement)).rowcount > 0

    def test_json(self, run, key_id, clock):
        events = json.loads(run("--json", "--key", key_id).stdout)["events"]
        assert [(each["event"], each["key_version"], each["details"]) for each in events] == [
            ("key.created", 1, {}),
            ("key.updated", 2, {"fields": ["name", "scopes"]}),
            ("key.rolled", 3, {"grace_seconds": 3600.0}),
            ("key.revealed", 3, {}),
            ("key.revoked", 4, {"reason": "left"}),
        ]
        assert {each["at"] for each in events} == {clock().isoformat()}

    def test_one_line_per_event(self, run, key_id):
        lines = run("--after", "4", "--limit", "1").stdout.splitlines()
        assert [line.split() for line in lines] == [
            ["5", "2026-01-01", "00:00:00", "UTC", "key.revoked", key_id, "v4", '{"reason":"left"}']
        ]
        assert "No events." in run("--after", "99").stderr

    def test_prune_is_an_event(self, scene, run, key_id, clock):
        clock.advance(timedelta(days=2))
        scene.do("prune", ended_before=clock())
        assert json.loads(run("--json").stdout)["events"][-1]["event"] == "key.pruned"
        assert run("--verify").exit_code == 0

    def test_verify_prints_last_link(self, run, key_id):
        link = run("--verify").stdout.strip()
        assert link.startswith("6:")
        assert run("--verify", "--expect", link).exit_code == 0
        assert run("--verify", "--expect", f"6:{'0' * 64}").exit_code == 1
        assert run("--verify", "--expect", "yesterday").exit_code == 2
        assert json.loads(run("--verify", "--json").stdout) == {"intact": True, "number": 6, "hash": link[2:]}

    @pytest.mark.parametrize(
        ("statement", "number"),
        [
            ("UPDATE flask_apikey_events SET details = '{}' WHERE number = 5", 5),
            ("UPDATE flask_apikey_events SET number = 99 WHERE number = 3", 3),
            ("DELETE FROM flask_apikey_events WHERE number = 2", 2),
            ("DELETE FROM flask_apikey_events WHERE number = 6", None),
            ("DELETE FROM flask_apikey_events", None),
            ("DELETE FROM flask_apikey_keys WHERE name = 'another'", 6),
        ],
    )
    def test_verify_detects_manual_change(self, run, path, key_id, statement, number):
        self.change(path, statement)
        result = run("--verify", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["number"] == number
        assert "not intact" in run("--verify").stderr

    def test_verify_during_concurrent_create(self, scene, run, key_id, monkeypatch):
        read = scene.backend.history.events

        def issue_and_read(*, after, limit, key_id=None):
            if not after:
                scene.issue("concurrent")
            return read(after=after, limit=limit)

        monkeypatch.setattr(scene.backend.history, "events", issue_and_read)
        assert run("--verify").stdout.startswith("7:")

    def test_pagination(self, run, key_id):
        first = json.loads(run("--limit", "4", "--json").stdout)
        rest = json.loads(run("--after", str(first["next"]), "--limit", "2", "--json").stdout)
        assert [event["number"] for event in first["events"] + rest["events"]] == [1, 2, 3, 4, 5, 6]
        assert rest["next"] is None
        assert "More events follow: add --after 4." in run("--limit", "4").stderr
        assert run("--limit", "6").stderr == ""

    @pytest.mark.parametrize("count", [1, 5, 6, 7, 2**31 - 1])
    def test_last(self, run, key_id, count):
        events = json.loads(run("--json").stdout)["events"]
        assert json.loads(run("--last", str(count), "--json").stdout) == {"events": events[-count:], "next": None}
        of_key = [event for event in events if event["key_id"] == key_id]
        assert json.loads(run("--last", str(count), "--key", key_id, "--json").stdout)["events"] == of_key[-count:]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--expect", f"5:{'0' * 64}"], "--expect needs --verify"),
            (["--verify", "--key", "0" * 16], "--verify checks the whole history and cannot be combined with --key"),
            (["--verify", "--after", "0"], "cannot be combined with --after"),
            (["--verify", "--limit", "100", "--key", "no-id"], "cannot be combined with --key, --limit"),
            (["--verify", "--last", "1"], "cannot be combined with --last"),
            (["--last", "1", "--after", "0"], "cannot be combined with --after or --limit"),
            (["--last", "1", "--limit", "1"], "cannot be combined with --after or --limit"),
        ],
    )
    def test_usage_errors(self, run, key_id, options, message):
        result = run(*options)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert message in result.stderr

    def test_invalid_or_unknown_id(self, run, key_id):
        result = run("--key", "nonsense")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "Error: not the id of a key: an id has 16 letters and digits\n"
        assert run("--key", "0" * 16).stderr == "No events.\n"

    def test_event_has_origin_of_the_change(self, scene, run):
        @scene.app.post("/keys")
        def create():
            return scene.api_keys.create(name="ci").record.id

        scene.app.test_client().post("/keys", headers={"X-Request-ID": "r-1"})
        (event,) = json.loads(run("--json").stdout)["events"]
        assert event["details"] == {"address": "127.0.0.1", "request_id": "r-1"}

    def test_event_has_no_secret(self, scene, run):
        issued = scene.issue()
        scene.do("revoke", issued.record.id, reason=f"leaked: {issued.key}")
        assert issued.key[-49:] not in run("--json").stdout
        assert mint("fak", issued.record.id)[:21] in run("--json").stdout

    def test_storage_without_history(self, make_app, backend):
        app = make_app()
        APIKeys(app, backend=backend)
        result = app.test_cli_runner().invoke(apikey, ["audit"])
        assert result.exit_code == 1
        assert "keeps no history" in result.stderr
