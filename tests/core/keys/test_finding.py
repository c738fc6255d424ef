"""Finding keys: order, search, count, unused keys, last uses."""

from datetime import timedelta

import pytest

from flask_apikey import ConfigurationError, InvalidValue, require_api_key
from flask_apikey.core.keys.rolling import IssuePolicy
from flask_apikey.core.model.sealing import FernetKeyring
from flask_apikey.core.usage.last_use import KeyLastUse
from tests.support.keys import KeyScene, Lifecycle

DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)


@pytest.fixture
def ring(fernet_key):
    return FernetKeyring(fernet_key)


@pytest.fixture
def keys(storage, ring, clock):
    return Lifecycle(storage, ring, IssuePolicy(lifetime=None), clock)


@pytest.fixture
def records(keys, clock):
    records = []
    for number in range(5):
        records.append(keys.create(name=f"key {number}", owner="ab"[number % 2]).record)
        clock.advance(INSTANT)
    return records


def names(records):
    return [record.name for record in records]


@pytest.mark.parametrize("page", [1, 2, 500])
def test_list_newest_first(keys, records, monkeypatch, page):
    monkeypatch.setattr("flask_apikey.core.keys.repository._PAGE", page)
    assert list(keys.list(newest_first=True)) == records[::-1]
    assert list(keys.list(newest_first=True, owner="a", limit=2)) == [records[4], records[2]]


def test_cursor_continues_either_way(keys, records):
    cursor = records[2].cursor
    assert list(keys.list(after=cursor)) == records[3:]
    assert list(keys.list(after=cursor, newest_first=True)) == records[1::-1]


class TestSearch:
    def test_search_combines_with_other_conditions(self, keys, records):
        assert names(keys.list(search="KEY 1")) == ["key 1"]
        assert list(keys.list(search="key", owner="b")) == records[1::2]
        assert keys.update(records[0].id, owner="team-7") in list(keys.list(search="team-"))
        assert list(keys.list(search=f" {records[3].id[:15]} ")) == [records[3]]
        assert list(keys.list(search="key", status="revoked")) == []

    @pytest.mark.parametrize("damage", ["{}", "{}\n", "Authorization: Api-Key {}", "{}x", "{:.60}", "{:.47}"])
    def test_whole_key_is_found_by_its_id(self, backend, ring, clock, monkeypatch, damage):
        """The storage never gets the secret, even of a key that was mistyped or cut short."""
        keys = Lifecycle(backend, ring, IssuePolicy(prefix="acme_0123456789abcdef"), clock)
        issued = keys.create(name="ci", owner="a")
        filters = []
        find = backend.find
        monkeypatch.setattr(backend, "find", lambda *found, **options: filters.append(found) or find(*found, **options))
        text = damage.format(issued.key)
        assert list(keys.list(search=text)) == list(keys.list(search=text, owner="a")) == [issued.record]
        assert list(keys.list(search=text, owner="b")) == list(keys.list(search=text, status="revoked")) == []
        assert keys.count(search=text) == 1
        assert issued.key[39:47] not in repr(filters)

    @pytest.mark.parametrize("text", ["", " ", "a\nb", "a\0", "\udcff", "\u202e", "x" * 201, 5, b"a", ["a"]], ids=ascii)
    def test_invalid_text(self, keys, text):
        for method in (keys.list, keys.count):
            with pytest.raises(InvalidValue, match="search"):
                method(search=text)


@pytest.mark.parametrize(
    ("conditions", "number"),
    [
        ({}, 5),
        ({"owner": "a"}, 3),
        ({"search": "key 1"}, 1),
        ({"status": "revoked"}, 1),
        ({"status": "active", "owner": "a"}, 2),
        ({"expiring_within": "2d"}, 1),
        ({"unused_for": "1d"}, 3),
    ],
)
def test_count(keys, records, counted, clock, conditions, number):
    keys.revoke(records[0].id)
    keys.update(records[1].id, expires_at=clock() + 2 * DAY)
    clock.advance(DAY)
    counted.last(records[2], clock())
    assert keys.count(**conditions) == len(list(keys.list(**conditions))) == number


class TestUnusedFor:
    def test_unused_keys(self, keys, counted, clock):
        def create(name):
            clock.advance(INSTANT)
            return keys.create(name=name).record

        never = create("never")
        long_ago = create("long ago")
        at_the_limit = create("at the limit")
        lately = create("lately")
        by_previous = create("by a previous secret")
        revoked = create("revoked")
        keys.create(name="expired", lifetime=DAY)
        counted.last(long_ago, clock())
        clock.advance(INSTANT)
        counted.last(at_the_limit, clock())
        counted.last(lately, clock() + DAY)
        counted.last(by_previous, clock() + DAY, secret=1)
        keys.create(name="new")
        keys.revoke(revoked.id)
        clock.advance(90 * DAY)
        assert list(keys.list(unused_for="90d")) == [never, long_ago]
        assert list(keys.list(unused_for="90d", newest_first=True)) == [long_ago, never]
        assert keys.count(unused_for=91 * DAY) == 0
        assert at_the_limit in keys.list(unused_for="89d")
        assert list(keys.list(unused_for="90d", search="long")) == [long_ago]

    def test_pages(self, keys, records, storage, counted, clock, monkeypatch):
        """A page of keys needs one query for their last uses, and may hold no unused key."""
        monkeypatch.setattr("flask_apikey.core.usage.last_use._PAGE", 2)
        monkeypatch.setattr("flask_apikey.core.keys.repository._PAGE", 2)
        queries = []
        last_uses = storage.usage.last_uses
        monkeypatch.setattr(storage.usage, "last_uses", lambda ids: queries.append(ids) or last_uses(ids))
        clock.advance(DAY)
        for record in records[:3]:
            counted.last(record, clock())
        assert list(keys.list(unused_for="1d")) == records[3:]
        assert [len(ids) for ids in queries] == [2, 2, 1]
        assert list(keys.list(unused_for="1d", limit=1)) == [records[3]]
        assert list(keys.list(unused_for="1d", after=records[3].cursor)) == [records[4]]

    @pytest.mark.parametrize("status", ["expired", "revoked"])
    def test_other_status(self, keys, status):
        with pytest.raises(InvalidValue, match="unused_for lists active keys only"):
            keys.list(unused_for="1d", status=status)

    @pytest.mark.parametrize("duration", [timedelta(0), timedelta.max, 5, "14"])
    def test_invalid_duration(self, keys, duration):
        with pytest.raises(InvalidValue, match="unused_for"):
            keys.list(unused_for=duration)


class TestLastUses:
    def test_last_uses(self, keys, records, counted, clock, monkeypatch):
        monkeypatch.setattr("flask_apikey.core.keys.finding._PAGE", 2)
        counted.last(records[0], clock())
        counted.last(records[3], clock(), secret=1)
        uses = keys.last_uses(record.id for record in records)
        assert set(uses) == {record.id for record in records}
        assert uses[records[0].id].current.at == uses[records[3].id].previous.at == clock()
        assert uses[records[1].id] == KeyLastUse()

    def test_ids_that_no_key_has(self, keys, records):
        ids = ["0" * 16, "", "x", None, 5, {"$ne": None}, records[0].id, records[0].id]
        assert keys.last_uses(ids).keys() == {records[0].id}
        assert keys.last_uses([]) == {}

    def test_one_id_is_refused(self, keys, records):
        with pytest.raises(InvalidValue, match="a list of ids"):
            keys.last_uses(records[0].id)


def test_storage_without_usage(backend, ring, clock):
    keys = Lifecycle(backend, ring, clock=clock)
    for attempt in (
        lambda: keys.list(unused_for="1d"),
        lambda: keys.count(unused_for="1d"),
        lambda: keys.last_uses(["0" * 16]),
    ):
        with pytest.raises(ConfigurationError, match="the storage keeps no usage"):
            attempt()


class TestApplication:
    def test_uses_counted_by_this_process(self, make_app, clock):
        scene = KeyScene(make_app(APIKEY_USAGE_FLUSH_INTERVAL="1h"), clock)
        scene.app.get("/", endpoint="view")(require_api_key(lambda: "ok"))
        used, unused = scene.issue("used"), scene.issue("unused")
        clock.advance(DAY)
        assert scene.app.test_client(api_key=used.key).get("/").status_code == 200
        assert scene.do("last_uses", [used.record.id])[used.record.id].latest.at == clock()
        clock.advance(DAY)
        assert scene.app.test_client(api_key=unused.key).get("/").status_code == 200
        assert list(scene.do("list", unused_for="1d")) == []
        assert scene.do("count", unused_for=DAY - INSTANT) == 1
        assert [record.id for record in scene.do("list", search=used.key)] == [used.record.id]

    @pytest.mark.parametrize(
        "config", [{"APIKEY_USAGE": "off"}, {"APIKEY_IGNORED_ROUTES": ["/"]}], ids=["usage off", "ignored route"]
    )
    def test_keys_of_unknown_use_are_not_unused(self, make_app, clock, config):
        scene = KeyScene(make_app(**config), clock)
        scene.app.get("/", endpoint="view")(require_api_key(lambda: "ok"))
        scene.issue()
        for method in ("list", "count"):
            with pytest.raises(ConfigurationError, match="the last use of a secret is unknown"):
                scene.do(method, unused_for="1d")
