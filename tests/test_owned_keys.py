"""`APIKeys.for_owner`: the keys of one owner, and what the owner may give them."""

from datetime import timedelta

import pytest

from flask_apikey import APIKeys, Conflict, InvalidValue, KeyNotFound, OwnedKeys, UsageBy, require_api_key
from flask_apikey.core.errors import RowDamaged, RowTampered
from flask_apikey.core.model import keystring
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
YEAR = timedelta(days=365)

CHANGES = {
    "get": {},
    "update": {"name": "mine"},
    "roll": {"grace": "1h"},
    "roll an expected version": {"expected_version": 1},
    "roll another version": {"expected_version": 7},
    "finish_roll": {},
    "suspend": {},
    "revoke": {},
    "reveal": {},
}
ON_ONE_KEY = [pytest.param(name.split()[0], options, id=name) for name, options in CHANGES.items()]
WRITING = [each for each in ON_ONE_KEY if each.id not in {"get", "roll another version"}]


class Scene(KeyScene):
    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **options)
        self.app.add_url_rule("/", view_func=require_api_key(lambda: "ok"))

    def mine(self, method, *arguments, owner="a", ceiling=("read",), **options):
        with self.app.app_context():
            return getattr(self.api_keys.for_owner(owner, scopes=ceiling), method)(*arguments, **options)

    def request(self, *issued):
        for each in issued:
            self.app.test_client().get("/", headers={"X-API-Key": each.key})


@pytest.fixture
def scene(make_app, backend, clock):
    """Keys on a watched backend, which keeps no usage."""
    return Scene(make_app(APIKEY_RECOVERABLE=True), clock, backend=backend)


@pytest.fixture
def counting(app, clock):
    return Scene(app, clock)


class TestOtherOwners:
    @pytest.mark.parametrize("owner", ["b", "A", None], ids=str)
    @pytest.mark.parametrize(("method", "options"), ON_ONE_KEY)
    def test_key_does_not_exist(self, scene, backend, method, options, owner):
        """Words and look-ups are those for an unknown id."""
        issued, unknown = scene.issue(owner=owner), keystring.new_id()
        before = backend.inner.get(issued.record.id)
        outcomes = []
        for key_id in (issued.record.id, unknown):
            backend.looked_up.clear()
            with pytest.raises(KeyNotFound) as refused:
                scene.mine(method, key_id, **options)
            outcomes.append((str(refused.value).replace(key_id, "ID"), len(backend.looked_up)))
        assert outcomes == [("no key has the id ID", 1)] * 2
        assert backend.inner.get(issued.record.id) == before

    @pytest.mark.parametrize(("method", "options"), WRITING)
    def test_key_is_handed_over_during_the_change(self, scene, backend, method, options):
        issued = scene.issue(owner="a")
        key_id = issued.record.id
        if method == "finish_roll":
            scene.do("roll", key_id, grace="1h")
        backend.before_next_update = lambda: scene.do("update", key_id, owner="b")
        with pytest.raises(KeyNotFound, match=f"^no key has the id {key_id}$"):
            scene.mine(method, key_id, **options)
        record = scene.do("get", key_id)
        assert (record.owner, record.name, record.revoked_at, record.suspended_at) == ("b", "ci", None, None)
        assert backend.before_next_update is None

    @pytest.mark.parametrize(("method", "options"), ON_ONE_KEY)
    def test_damaged_row_does_not_exist(self, scene, backend, method, options):
        """Nobody can tell whose key it is."""
        key_id = scene.issue(owner="b").record.id
        backend.failure = RowDamaged("the row is damaged")
        with pytest.raises(KeyNotFound, match=f"^no key has the id {key_id}$"):
            scene.mine(method, key_id, **options)
        with pytest.raises(RowDamaged):
            scene.do("get", key_id)

    def test_tampered_row_can_be_closed_only(self, scene, backend):
        mine, yours = scene.issue(owner="a"), scene.issue(owner="b")
        attacker = Attacker(backend.inner)
        for issued in (mine, yours):
            attacker.edit_row(issued.record.id, scopes="*")
        for method in ("roll", "reveal", "suspend"):
            with pytest.raises(RowTampered):
                scene.mine(method, mine.record.id)
        with pytest.raises(KeyNotFound):
            scene.mine("revoke", yours.record.id)
        assert scene.mine("revoke", mine.record.id).revoked_at is not None
        assert scene.do("get", yours.record.id).revoked_at is None

    def test_concurrent_change_of_own_key(self, scene, backend):
        key_id = scene.issue(owner="a").record.id
        backend.before_next_update = lambda: scene.do("update", key_id, metadata={"seen": True})
        assert scene.mine("update", key_id, name="mine").metadata == {"seen": True}
        backend.before_next_update = lambda: scene.do("update", key_id, name="ours")
        with pytest.raises(Conflict):
            scene.mine("roll", key_id)

    def test_list_and_revoke_many(self, scene, clock):
        mine, yours, nobodys = (scene.issue(owner=owner) for owner in ("a", "b", None))
        clock.advance(HOUR)
        late = scene.issue(owner="a")
        assert [record.id for record in scene.mine("list")] == [mine.record.id, late.record.id]
        assert [record.id for record in scene.mine("list", after=mine.record.cursor)] == [late.record.id]
        assert [record.id for record in scene.mine("list", newest_first=True)] == [late.record.id, mine.record.id]
        assert (scene.mine("count"), scene.do("count")) == (2, 4)
        for search, found in (("ci", 2), (mine.key, 1), (yours.key, 0), (yours.record.id, 0)):
            assert (scene.mine("count", search=search), len(list(scene.mine("list", search=search)))) == (found, found)
        assert scene.mine("revoke_many", issued_before=clock(), dry_run=True).revoked == 1
        assert scene.mine("revoke_many", issued_before=clock()).revoked == 1
        assert scene.mine("revoke_many", reason="left").revoked == 1
        assert scene.works(mine, late, yours, nobodys) == [False, False, True, True]
        assert scene.mine("get", late.record.id).revocation_reason == "left"

    @pytest.mark.parametrize("method", ["create", "update", "list", "count", "usage", "revoke_many"])
    def test_no_method_takes_an_owner(self, scene, method):
        arguments = [scene.issue(owner="a").record.id] if method == "update" else []
        options = {"name": "x"} if method in {"create", "update"} else {}
        with scene.app.app_context(), pytest.raises(TypeError, match="unexpected keyword argument 'owner'"):
            getattr(scene.api_keys.for_owner("a"), method)(*arguments, **options, owner="b")

    @pytest.mark.parametrize("owner", [None, "", " ", 7, ["a"], "a\nb"], ids=repr)
    def test_owner_must_be_valid(self, api_keys, owner):
        with pytest.raises(InvalidValue, match="owner"):
            api_keys.for_owner(owner)

    def test_own_keys(self, scene, clock):
        issued = scene.mine("create", name="mine", scopes=["read"], allowed_ips=["10.0.0.0/8"], metadata={"a": 1})
        record = issued.record
        assert (record.owner, record.scopes, record.allowed_ips) == ("a", {"read"}, ("10.0.0.0/8",))
        assert scene.mine("get", record.id) == record
        assert scene.mine("reveal", record.id) == issued.key
        scene.mine("update", record.id, allowed_ips=[], metadata={})
        rolled = scene.mine("roll", record.id, grace="1h")
        assert scene.works(issued, rolled) == [True, True]
        assert scene.mine("finish_roll", record.id).ended == 1
        assert scene.works(issued, rolled) == [False, True]
        assert scene.mine("suspend", record.id, reason="lost").suspension_reason == "lost"
        assert not hasattr(OwnedKeys, "resume")
        assert scene.mine("revoke", record.id, reason="done").revocation_reason == "done"


class TestUsage:
    def test_counted_as_the_owners(self, counting):
        mine, pruned, given, yours = (counting.issue(owner=owner) for owner in ("a", "a", "a", "b"))
        counting.request(mine, mine, pruned, given, yours)
        counting.do("update", given.record.id, owner="b")
        counting.request(given)
        counting.do("revoke", pruned.record.id)
        counting.do("prune", ended_before=counting.clock() + DAY)
        assert counting.mine("usage").total == 4
        assert dict(counting.mine("usage", by=UsageBy.KEY).rows) == {
            mine.record.id: 2,
            pruned.record.id: 1,
            given.record.id: 1,
        }
        assert counting.mine("usage", key_id=mine.record.id, by="owner").rows == (("a", 2),)
        assert counting.mine("usage", key_id=pruned.record.id).total == 1
        assert counting.mine("usage", owner="b").total == 2
        for key_id in (yours.record.id, given.record.id, keystring.new_id()):
            with pytest.raises(KeyNotFound, match=f"^no key has the id {key_id}$"):
                counting.mine("usage", key_id=key_id)

    def test_last_uses(self, counting, clock):
        mine, idle, yours = (counting.issue(owner=owner) for owner in ("a", "a", "b"))
        clock.advance(2 * HOUR)
        counting.request(mine, yours)
        last_uses = counting.mine("last_uses", [mine.record.id, idle.record.id, yours.record.id])
        assert last_uses.keys() == {mine.record.id, idle.record.id}
        assert [record.id for record in counting.mine("list", unused_for=HOUR)] == [idle.record.id]
        assert counting.mine("count", unused_for=HOUR) == 1

    def test_finish_unused_roll(self, counting, clock):
        issued = counting.issue(owner="a")
        counting.mine("roll", issued.record.id, grace=DAY)
        clock.advance(2 * HOUR)
        assert counting.mine("finish_roll", issued.record.id, unused_for=HOUR).ended == 1


class TestCeiling:
    @pytest.mark.parametrize(
        ("ceiling", "scopes"),
        [
            ([], ["read"]),
            (["read"], ["*"]),
            (["read"], ["read", "write"]),
            (["read"], ["Read"]),
            (["read"], ["read:*"]),
            (["read:*"], ["*"]),
            (["read:*"], ["read"]),
            (["read:a:*"], ["read:*"]),
        ],
        ids=str,
    )
    def test_scopes_beyond_it(self, scene, ceiling, scopes):
        with pytest.raises(InvalidValue, match="cannot be given; these can: "):
            scene.mine("create", name="x", ceiling=ceiling, scopes=scopes)
        issued = scene.issue(owner="a", scopes=ceiling)
        with pytest.raises(InvalidValue, match="cannot be given"):
            scene.mine("update", issued.record.id, ceiling=ceiling, scopes=scopes)
        assert scene.do("get", issued.record.id) == issued.record
        assert len(list(scene.do("list"))) == 1

    @pytest.mark.parametrize(
        ("ceiling", "scopes"),
        [
            ([], []),
            (["read"], ["read"]),
            (["*"], ["*"]),
            (["*"], ["read:*"]),
            (["read:*"], ["read:a:*", "read:*", "read:b"]),
        ],
        ids=str,
    )
    def test_scopes_within_it(self, scene, ceiling, scopes):
        issued = scene.mine("create", name="x", ceiling=ceiling, scopes=scopes)
        assert issued.record.scopes == set(scopes)
        assert scene.mine("update", scene.issue(owner="a").record.id, ceiling=ceiling, scopes=scopes).scopes == set(
            scopes
        )

    def test_no_scopes_by_default(self, app, api_keys):
        with app.app_context(), pytest.raises(InvalidValue, match="scopes: read cannot be given; these can: none"):
            api_keys.for_owner("a").create(name="x", scopes=["read"])

    def test_key_beyond_it_may_keep_or_lose(self, scene):
        issued = scene.issue(owner="a", scopes=["admin", "audit"])
        kept = scene.mine("update", issued.record.id, name="mine", scopes=["admin", "audit", "read"])
        assert kept.scopes == {"admin", "audit", "read"}
        assert scene.mine("update", issued.record.id, scopes=["admin"]).scopes == {"admin"}
        with pytest.raises(InvalidValue, match="scopes: audit cannot be given; these can: read"):
            scene.mine("update", issued.record.id, scopes=["admin", "audit"])
        everything = scene.issue(owner="a", scopes=["*"])
        assert scene.mine("update", everything.record.id, scopes=["admin"]).scopes == {"admin"}
        with pytest.raises(InvalidValue, match=r"scopes: \* cannot be given"):
            scene.mine("update", everything.record.id, scopes=["*"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"scopes": ["read", "write"]}, "cannot be given"),
            ({"lifetime": None}, "must expire within"),
            ({"owner": "b"}, "no argument owner"),
            ({"owner": None}, "no argument owner"),
        ],
        ids=str,
    )
    def test_create_many_beyond_it(self, scene, arguments, message):
        with pytest.raises(InvalidValue, match=message):
            scene.mine("create_many", [{"name": "first"}, {"name": "x", **arguments}])
        assert list(scene.do("list")) == []

    def test_create_many_within_it(self, scene):
        issued = scene.mine("create_many", [{"name": "first", "scopes": ["read"]}, {"name": "second"}])
        assert [(each.record.owner, each.record.name) for each in issued] == [("a", "first"), ("a", "second")]

    def test_ceiling_holds_at_the_moment_of_the_change(self, scene, backend):
        """A scope that an operator removes during the update is not given back: the write checks the present row."""
        issued = scene.issue(owner="a", scopes=["admin"])
        backend.before_next_update = lambda: scene.do("update", issued.record.id, scopes=[])
        with pytest.raises(InvalidValue, match="admin cannot be given"):
            scene.mine("update", issued.record.id, name="mine", scopes=["admin"])
        assert scene.do("get", issued.record.id).scopes == set()

    @pytest.mark.parametrize("lifetime", [None, "366d", YEAR + timedelta(microseconds=1)], ids=str)
    def test_lifetime_beyond_the_setting(self, scene, lifetime):
        with pytest.raises(InvalidValue, match="the key must expire within 365 days"):
            scene.mine("create", name="x", lifetime=lifetime)

    def test_expiry_beyond_the_setting(self, scene, clock):
        latest = clock() + YEAR
        issued = scene.mine("create", name="x", expires_at=latest)
        assert scene.mine("create", name="x").record.expires_at == latest
        with pytest.raises(InvalidValue, match="within 365 days"):
            scene.mine("create", name="x", expires_at=latest + HOUR)
        for beyond in (None, latest + HOUR):
            with pytest.raises(InvalidValue, match="within 365 days"):
                scene.mine("update", issued.record.id, expires_at=beyond)
        assert scene.mine("update", issued.record.id, expires_at=latest - DAY).expires_at == latest - DAY
        clock.advance(HOUR)
        assert scene.mine("update", issued.record.id, expires_at=latest + HOUR).expires_at == latest + HOUR

    def test_longer_expiry_may_stay_or_be_shortened(self, scene, clock):
        forever, long = scene.issue(owner="a", lifetime=None), scene.issue(owner="a", lifetime=3 * YEAR)
        assert scene.mine("update", forever.record.id, name="x", expires_at=None).expires_at is None
        assert scene.mine("update", forever.record.id, expires_at=clock() + 5 * YEAR)
        assert scene.mine("update", long.record.id, expires_at=clock() + 2 * YEAR)
        with pytest.raises(InvalidValue, match="within 365 days"):
            scene.mine("update", long.record.id, expires_at=clock() + 3 * YEAR)

    def test_no_limit_without_a_lifetime(self, make_app, clock):
        scene = Scene(make_app(APIKEY_LIFETIME=None), clock)
        issued = scene.mine("create", name="x", lifetime=DAY)
        assert scene.mine("create", name="x").record.expires_at is None
        assert scene.mine("update", issued.record.id, expires_at=None).expires_at is None

    def test_key_beyond_it_cannot_work_longer(self, scene, clock):
        issued = scene.issue(owner="a", scopes=["admin"], lifetime=DAY)
        with pytest.raises(InvalidValue, match="cannot be made to work longer"):
            scene.mine("update", issued.record.id, expires_at=clock() + 2 * DAY)
        shorter = scene.mine("update", issued.record.id, expires_at=clock() + HOUR)
        assert shorter.expires_at == clock() + HOUR
        assert scene.mine("update", issued.record.id, scopes=[], expires_at=clock() + 2 * DAY).scopes == set()

    def test_expired_key_stays_expired(self, scene, clock):
        issued = scene.issue(owner="a", lifetime=HOUR)
        clock.advance(DAY)
        for later in (clock() + HOUR, None):
            with pytest.raises(InvalidValue, match="an expired key cannot be made to work again"):
                scene.mine("update", issued.record.id, expires_at=later)
        assert scene.mine("update", issued.record.id, name="old").name == "old"

    def test_scopes_of_the_ceiling_must_be_valid(self, api_keys):
        for scopes in ("read", [""], [7], None):
            with pytest.raises(InvalidValue, match="scopes"):
                api_keys.for_owner("a", scopes=scopes)


def test_works_for_each_application(make_app, clock):
    api_keys = APIKeys(clock=clock)
    apps = [make_app(), make_app()]
    mine = api_keys.for_owner("a")
    assert isinstance(mine, OwnedKeys)
    for app in apps:
        api_keys.init_app(app)
        with app.app_context():
            api_keys.init_storage()
            mine.create(name=app.name)
    for app in apps:
        with app.app_context():
            assert [record.name for record in mine.list()] == [app.name]
