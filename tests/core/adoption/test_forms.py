"""Forms of adopted keys: those of one's own, slow hashes, their budget, and values that are replaced."""

import hashlib
import hmac
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import bcrypt
import pytest

from flask_apikey import AdoptedForm, AdoptedMatch, ConfigurationError, HashedKeys, InvalidValue, StorageError
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.keys import slow_checks
from flask_apikey.core.model import password_hashes
from flask_apikey.core.model.adopted_form import pack, unpack
from flask_apikey.core.model.history import ADOPTION_ID
from flask_apikey.core.storage.chains import chain_of
from tests.support.attacker import Attacker
from tests.support.diagnosis import findings

SECRET = "otter-bay.0123456789abcdef"
HASH = bcrypt.hashpw(SECRET.encode(), bcrypt.gensalt(4)).decode()


class Peppered(AdoptedForm):
    """Keys of which the other system stored an HMAC, and a prefix."""

    name = "acme"
    start = "otter"

    def find_by(self, key):
        visible, dot, _ = key.partition(".")
        return visible.encode() if dot else None

    def matches(self, key, stored):
        return hmac.compare_digest(hmac.digest(b"pepper", key.encode(), "sha256").hex().encode(), stored)


class Failing(Peppered):
    def __init__(self, method):
        setattr(self, method, self._fail)

    def _fail(self, key, *_arguments):
        raise ValueError(f"cannot be read: {key}")


class Pinning(Peppered):
    """A form that replaces what is stored, until a time."""

    def __init__(self, until):
        self.until = until

    def verify(self, key, stored, now):
        if stored == b"open":
            return AdoptedMatch(hashlib.sha256(key.encode()).digest(), self.until) if now < self.until else None
        return AdoptedMatch() if hmac.compare_digest(hashlib.sha256(key.encode()).digest(), stored) else None


def peppered(key):
    return hmac.digest(b"pepper", key.encode(), "sha256").hex()


@pytest.fixture
def make(make_scene, tmp_path):
    return lambda *forms, **config: make_scene(f"sqlite:///{tmp_path}/forms.db", APIKEY_ADOPTED_KEYS=[*forms], **config)


@pytest.fixture
def hashed(make):
    scene = make(HashedKeys("slow", separator="."))
    scene.record = scene.do("adopt", algorithm="slow", digest=HASH, visible="otter-bay", name="x")
    return scene


@pytest.fixture
def hashing(monkeypatch):
    """Number of slow comparisons."""
    calls = []
    is_hash = password_hashes.is_hash
    monkeypatch.setattr(
        "flask_apikey.core.model.adopted_tables.is_hash", lambda *arguments: calls.append(1) or is_hash(*arguments)
    )
    return calls


def events_of(scene, key_id):
    return [each.event for each in chain_of(scene.backend.history, key_id)]


class TestOwnForm:
    def test_key_opens_and_other_strings_do_not(self, make):
        scene = make("sha256", Peppered())
        record = scene.do("adopt", algorithm="acme", digest=peppered(SECRET), visible="otter-bay", name="x")
        assert record.adopted == "acme"
        assert scene.code(SECRET) is scene.code(f"Bearer {SECRET}", "Authorization") is None
        for other in (SECRET + "0", "otter-bay.", "otter-bay", peppered(SECRET), f"otter-bay.{peppered(SECRET)}"):
            assert scene.code(other) == "invalid_key"
        rolled = scene.do("roll", record.id, grace="1d")
        assert scene.code(SECRET) is scene.code(rolled.key) is None
        scene.do("roll", record.id)
        assert scene.code(SECRET) == "invalid_key"

    def test_same_number_of_ids_for_every_string(self, make, monkeypatch):
        scene = make("sha256", "sanctum", Peppered())
        asked = []
        get_many = scene.backend.get_many
        monkeypatch.setattr(scene.backend, "get_many", lambda ids: asked.append(len(set(ids))) or get_many(ids))
        for key in (SECRET, "no visible part", "7|x"):
            scene.code(key)
        assert asked == [4, 4, 4]

    @pytest.mark.parametrize("method", ["find_by", "matches", "is_slow", "verify"])
    def test_form_that_raises(self, make, method, caplog):
        adopting = make(Peppered())
        adopting.do("adopt", algorithm="acme", digest=peppered(SECRET), visible="otter-bay", name="x")
        scene = make(Failing(method))
        assert scene.code(SECRET) == "unavailable"
        assert "the form 'acme' of adopted keys raised ValueError" in caplog.text
        assert "0123456789" not in caplog.text

    def test_bearer_test_that_raises_is_an_attempt(self, make):
        failing = type("Test", (Peppered,), {"may_be_bearer": Failing._fail})()
        assert make(failing).code("Bearer x", "Authorization") == "invalid_key"

    def test_row_opens_only_in_its_form(self, make):
        """A database writer renames the form of a row, and the seal no longer fits."""

        class Any(Peppered):
            name = "any"

            def matches(self, key, stored):
                return True

        scene = make(Peppered(), Any())
        record = scene.do("adopt", algorithm="acme", digest=peppered(SECRET), visible="otter-bay", name="x")
        Attacker(scene.backend).edit_row(record.id, adopted="any")
        assert scene.code("otter-bay.x") == "unavailable"
        other = make(Any())
        assert other.code("otter-bay.x") == "invalid_key"

    @pytest.mark.parametrize(
        ("form", "problem"),
        [
            (type("Nameless", (Peppered,), {"name": "Acme"})(), "lower-case letters"),
            (type("Long", (Peppered,), {"name": "a" * 21})(), "1 to 20"),
            (type("Taken", (Peppered,), {"name": "sha256"})(), "name of a built-in form"),
            (type("Start", (Peppered,), {"start": "eyJhbGci"})(), "JWTs start like this"),
            (7, "names and AdoptedForm objects, not int"),
        ],
        ids=["nameless", "long", "taken", "start", "number"],
    )
    def test_refused_form(self, make, form, problem):
        with pytest.raises(ConfigurationError, match=problem):
            make(form)

    def test_same_name_twice(self, make):
        with pytest.raises(ConfigurationError, match="names the form 'acme' twice"):
            make(Peppered(), Peppered())

    def test_value_of_this_library_is_not_adopted(self, make):
        scene = make(Peppered())
        for value in (b"\0flask-apikey proven\0" + hashlib.sha256(b"x").digest(), pack(b"a", b"b")):
            with pytest.raises(InvalidValue, match="not of another system"):
                scene.do("adopt", algorithm="acme", digest=value, visible="x", name="x")

    @pytest.mark.parametrize("parts", [(b"a", b"a"), (b"a", b""), (b"a" * 500, b"b" * 4_000)])
    def test_packing(self, parts):
        assert unpack(pack(*parts)) == parts


class TestReplacement:
    def test_first_use_stores_our_digest(self, hashed, hashing):
        assert hashed.code(SECRET) is hashed.code(SECRET) is None
        assert len(hashing) == 1
        record = hashed.do("get", hashed.record.id)
        assert (record.version, record.adopted) == (2, "slow")
        assert events_of(hashed, record.id) == ["key.created", "key.adopted_replaced"]
        assert hashed.code(SECRET + "0") == "invalid_key"
        hashed.app.extensions["apikey"].services.authenticator._proofs.clear()
        assert hashed.code(SECRET) is None
        assert hashed.code(HASH) == hashed.code(f"otter-bay.{HASH}") == "invalid_key"
        assert len(hashing) == 1

    def test_key_that_is_refused_keeps_its_hash(self, hashed):
        hashed.do("suspend", hashed.record.id)
        assert hashed.code(SECRET) == "key_suspended"
        assert hashed.do("get", hashed.record.id).version == 2

    def test_rolled_key_has_no_hash(self, hashed):
        hashed.do("roll", hashed.record.id)
        assert hashed.code(SECRET) == "invalid_key"

    def test_write_that_fails(self, hashed, hashing, monkeypatch, caplog):
        """The key opens, is compared once a minute, and is replaced as soon as the storage writes again."""

        def fail(*_arguments, **_options):
            raise StorageError("read-only")

        with monkeypatch.context() as patched:
            patched.setattr(hashed.backend, "update", fail)
            assert hashed.code(SECRET) is hashed.code(SECRET) is None
        assert "event=storage outcome=failure reason=read-only" in caplog.text
        assert (len(hashing), hashed.do("get", hashed.record.id).version) == (1, 1)
        hashed.clock.set(hashed.clock() + timedelta(minutes=1))
        assert hashed.code(SECRET) is None
        assert (len(hashing), hashed.do("get", hashed.record.id).version) == (2, 2)

    def test_lost_race(self, hashed, monkeypatch):
        """Another process changes the key between the comparison and the write."""
        is_hash = password_hashes.is_hash

        def changing(*arguments):
            hashed.do("update", hashed.record.id, name="changed")
            return is_hash(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr("flask_apikey.core.model.adopted_tables.is_hash", changing)
            assert hashed.code(SECRET) is None
        assert events_of(hashed, hashed.record.id) == ["key.created", "key.updated"]
        assert hashed.code(SECRET) is None
        assert events_of(hashed, hashed.record.id)[2:] == ["key.adopted_replaced"]

    def test_concurrent_first_uses(self, hashed):
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: hashed.code(SECRET), range(8))) == {None}
        assert events_of(hashed, hashed.record.id) == ["key.created", "key.adopted_replaced"]

    def test_value_of_the_form_with_an_end(self, make, clock, monkeypatch):
        scene = make(Pinning(clock() + timedelta(seconds=30)))
        pinned, late = (
            scene.do("adopt", algorithm="acme", digest=b"open", visible=name, name=name) for name in ("a", "b")
        )
        assert scene.code("a.secret") is None
        assert scene.code("a.other") == "invalid_key"
        with monkeypatch.context() as patched:
            patched.setattr(scene.backend, "update", lambda *_arguments, **_options: 1 / 0)
            assert scene.code("b.secret") is None
        scene.clock.set(clock() + timedelta(seconds=30))
        assert (scene.code("a.secret"), scene.code("b.secret")) == (None, "invalid_key")
        assert scene.do("get", pinned.id).version == 2
        assert scene.do("get", late.id).version == 1


class TestUpkeep:
    @pytest.mark.parametrize("is_replaced", [False, True])
    def test_copy_and_findings(self, hashed, make_scene, tmp_path, is_replaced):
        if is_replaced:
            assert hashed.code(SECRET) is None
        forms = [HashedKeys("slow", separator=".")]
        target = make_scene(f"sqlite:///{tmp_path}/target.db", APIKEY_ADOPTED_KEYS=forms)
        report = copy_keys(hashed.backend, target.backend, ring=hashed.app.extensions["apikey"].ring)
        assert (report.added, report.refusals.count) == (1, 0)
        assert target.code(SECRET) is None
        assert findings(target.app)["adopted_keys"].message == (
            "Keys that still have a secret of another system, and work: 1."
        )

    def test_row_of_another_storage(self, hashed, make_scene, tmp_path):
        other = make_scene(f"sqlite:///{tmp_path}/other.db", APIKEY_ADOPTED_KEYS=["sha256"])
        other.do("adopt", digest=hashlib.sha256(b"x").hexdigest(), name="x")
        Attacker(hashed.backend).remove_row(ADOPTION_ID)
        Attacker(hashed.backend).put_back(Attacker(other.backend).row(ADOPTION_ID))
        assert "that no request finds: 1" in findings(hashed.app)["adopted_keys_lost"].message
        assert hashed.code(SECRET) == "invalid_key"


class TestBudget:
    def test_attacker_with_a_visible_prefix(self, hashed, hashing):
        """Wrong secrets use up the budget of their row, and not that of others."""
        hashed.do("adopt", algorithm="slow", digest=HASH, visible="other", name="y")
        answers = [hashed.code(f"otter-bay.{number}") for number in range(12)]
        assert answers == ["invalid_key"] * 10 + ["unavailable"] * 2
        assert len(hashing) == 10
        assert hashed.code(SECRET) == "unavailable"
        assert hashed.code("other.wrong") == "invalid_key"

    def test_budget_of_the_process(self, hashed, hashing, monkeypatch):
        checks = hashed.app.extensions["apikey"].services.authenticator._adopted._slow_checks
        while checks._all.take():
            pass
        assert hashed.code(SECRET) == "unavailable"
        assert hashing == []

    def test_comparisons_at_once(self, monkeypatch):
        monkeypatch.setattr(slow_checks, "MAX_WAIT", 0.001)
        checks = slow_checks.SlowChecks()
        with checks.admit("a"), checks.admit("b"), pytest.raises(slow_checks.TooManySlowChecks), checks.admit("c"):
            pass
        with checks.admit("c"):
            pass

    def test_rows_are_bounded(self, monkeypatch):
        monkeypatch.setattr(slow_checks, "MAX_ROWS", 3)
        checks = slow_checks.SlowChecks()
        for row in "abcde":
            checks._bucket_of(row)
        assert list(checks._of_row) == ["c", "d", "e"]


class TestHashes:
    @pytest.mark.parametrize(
        "text",
        [
            "$2b$16$" + "a" * 53,
            "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$" + "a" * 43,
            "$argon2id$v=19$m=102400,t=1000000000,p=8$c29tZXNhbHQ$" + "a" * 43,
            "argon2$argon2id$v=19$m=102400,t=2,p=65$c29tZXNhbHQ$" + "a" * 43,
            "pbkdf2_sha256$1000000000$salt$" + "a" * 43 + "=",
            "pbkdf2_sha256$0$salt$" + "a" * 43 + "=",
            "pbkdf2:sha256:1000000000$salt$" + "ab" * 32,
            "scrypt:1048576:8:1$salt$" + "ab" * 64,
            "scrypt:32768:8:100$salt$" + "ab" * 64,
            "scrypt$1000$salt$8$1$" + "a" * 86 + "==",
        ],
    )
    def test_absurd_parameters(self, text):
        """They are refused when adopted, and never computed."""
        for check in (password_hashes.checked_hash, lambda text: password_hashes.is_hash("x", text)):
            with pytest.raises(InvalidValue, match="out of bounds"):
                check(text)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "x",
            "a" * 64,
            "!unusable",
            "$2b$12$short",
            "md5$$",
            "pbkdf2_md5$1$a$b",
            "sha512$$" + "a" * 128,
            pytest.param(HASH + "\n", id="line break"),  # the hash is random
        ],
    )
    def test_unknown_encoding(self, text):
        with pytest.raises(InvalidValue, match="not a hash of Django"):
            password_hashes.checked_hash(text)

    @pytest.mark.parametrize("library", ["bcrypt", "argon2"])
    def test_missing_library(self, library, monkeypatch, make, caplog):
        text = HASH if library == "bcrypt" else "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$" + "a" * 43
        scene = make(HashedKeys("slow", separator="."))
        scene.do("adopt", algorithm="slow", digest=text, visible="otter-bay", name="x")
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ConfigurationError, match=r"not installed: pip install 'flask-apikey-auth\[hashes\]'"):
            scene.do("adopt", algorithm="slow", digest=text, visible="other", name="x")
        assert scene.code(SECRET) == "unavailable"
        assert "pip install" in caplog.text

    def test_bcrypt_ignores_nothing(self):
        """bcrypt reads 72 bytes, so a longer string would open whatever follows them."""
        text = bcrypt.hashpw(b"a" * 72, bcrypt.gensalt(4)).decode()
        assert password_hashes.is_hash("a" * 72, text)
        assert not password_hashes.is_hash("a" * 73, text)

    @pytest.mark.parametrize("options", [{}, {"separator": ""}, {"length": 0}, {"separator": ".", "length": 8}])
    def test_no_visible_part(self, options):
        with pytest.raises(ConfigurationError, match="hashed for each row"):
            HashedKeys("slow", **options)

    def test_hash_of_the_secret_alone(self, make):
        scene = make(HashedKeys("slow", separator=".", secret_only=True))
        text = bcrypt.hashpw(b"0123456789abcdef", bcrypt.gensalt(4)).decode()
        scene.do("adopt", algorithm="slow", digest=text, visible="otter-bay", name="x")
        assert (scene.code(SECRET), scene.code(f"other.{SECRET}")) == (None, "invalid_key")
