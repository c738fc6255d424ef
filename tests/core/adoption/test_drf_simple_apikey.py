"""Keys that drf-simple-apikey issued, over HTTP. The Fernet keys are made up."""

import base64
import hashlib
import json
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from threading import Barrier

import pytest
from cryptography.fernet import Fernet

from flask_apikey import AlreadyExists, ConfigurationError, DRFSimpleAPIKey, InvalidValue, StorageError
from flask_apikey.core.keys.adoption import KeyAdoption
from flask_apikey.core.storage.contract import EventFilter
from tests.support.diagnosis import details, findings

OLD = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
ROTATED = base64.urlsafe_b64encode(bytes(range(32))).decode()
FORM = "drf-simple-apikey"
DAY = timedelta(days=1)
SECRET = "QAB57-AwAYWtgu7r0pT7XJQTv7A0Fa-gR595gqbYUJY"
HASHED = hashlib.sha256(SECRET.encode()).hexdigest()


@lru_cache(maxsize=None, typed=True)
def token(row=1, end=None, key=OLD, number=0, **members):
    """Make a token as whoever has the Fernet key does. Another number makes another token."""
    content = {"_pk": row, "_exp": 4_000_000_000.5 if end is None else end.timestamp(), **members}
    return Fernet(key).encrypt_at_time(json.dumps(content).encode(), 1_770_000_000 + number).decode()


@pytest.fixture
def adopting(make_scene, clock):
    """Create applications that accept old tokens for 30 days."""

    def make(uri, **config):
        form = DRFSimpleAPIKey([OLD, ROTATED], until=clock() + 30 * DAY)
        return make_scene(uri, APIKEY_ADOPTED_KEYS=[form], **config)

    return make


@pytest.fixture
def scene(adopting, any_storage_uri):
    return adopting(any_storage_uri)


@pytest.fixture
def lite(adopting, tmp_path):
    return adopting(f"sqlite:///{tmp_path}/adopting.db")


def adopt(scene, row=1, hashed_secret="", **arguments):
    if "expires_at" not in arguments:
        arguments["lifetime"] = None
    return scene.do("adopt", digest=hashed_secret, algorithm=FORM, visible=str(row), name=f"row {row}", **arguments)


def code(scene, text):
    return scene.code(f"Api-Key {text}", header="Authorization")


def version(scene, record):
    return scene.do("get", record.id).version


class TestOnEveryStorage:
    def test_life_of_a_row(self, scene):
        assert code(scene, token()) == "invalid_key"
        record = adopt(scene)
        assert record.adopted == FORM
        early, late = token(), token(number=1)
        for _ in range(2):
            assert code(scene, early) is code(scene, late) is None
        assert version(scene, record) == 3
        history = scene.backend.history.events(EventFilter(key_id=record.id), after=None, limit=9)
        assert [(each.event, each.actor) for each in history][1:] == [("key.adopted_replaced", "flask-apikey")] * 2
        scene.do("suspend", record.id)
        assert code(scene, early) == "key_suspended"
        scene.do("resume", record.id)
        scene.clock.advance(30 * DAY)
        assert code(scene, early) is code(scene, late) is None
        assert code(scene, token(number=2)) == "invalid_key"
        rolled = scene.do("roll", record.id, grace="7d")
        assert code(scene, early) is code(scene, late) is scene.code(rolled.key) is None
        scene.clock.advance(7 * DAY)
        assert code(scene, early) == code(scene, late) == "invalid_key"
        assert scene.code(rolled.key) is None
        scene.do("revoke", record.id)
        assert code(scene, early) == "invalid_key"
        with pytest.raises(AlreadyExists, match="adopted before"):
            adopt(scene)

    def test_ninth_token(self, scene):
        record = adopt(scene)
        tokens = [token(number=number) for number in range(9)]
        assert [code(scene, each) for each in tokens] == [None] * 8 + ["invalid_key"]
        assert [code(scene, each) for each in tokens] == [None] * 8 + ["invalid_key"]
        assert version(scene, record) == 9

    @pytest.mark.parametrize("count", [1, 16], ids=["one", "different"])
    def test_sixteen_first_uses_at_once(self, scene, count):
        record = adopt(scene)
        tokens = [token(number=number % count) for number in range(16)]
        start = Barrier(16)

        def use(text):
            start.wait()
            return code(scene, text)

        with ThreadPoolExecutor(16) as pool:
            codes = list(pool.map(use, tokens))
        pinned = min(count, 8)
        assert version(scene, record) == 1 + pinned
        assert codes.count(None) == (16 if count == 1 else 8)
        assert {*codes} <= {None, "invalid_key"}
        scene.clock.advance(31 * DAY)
        assert [code(scene, each) for each in tokens] == codes

    def test_row_of_another_row(self, scene):
        """Somebody who can write to the database moves no pin, and forgets none."""
        first, second = adopt(scene, 1), adopt(scene, 2)
        fresh = scene.attacker.row(first.id)
        assert code(scene, token(1)) is None
        pinned = scene.attacker.row(first.id)
        scene.attacker.edit_row(second.id, seal=pinned["seal"])
        assert code(scene, token(2)) == "invalid_key"
        scene.attacker.put_back(fresh)
        scene.clock.advance(30 * DAY)
        assert code(scene, token(1)) == code(scene, token(1, number=1)) == "invalid_key"


class TestTokens:
    def test_its_own_end(self, lite):
        adopt(lite)
        short = token(end=lite.clock() + DAY)
        assert code(lite, short) is None
        answer = lite.app.test_client().get("/", headers={"X-API-Key": short})
        assert answer.headers["Sunset"]
        assert lite.do("verify", short).key.expires_at == lite.clock() + DAY
        assert code(lite, token(end=lite.clock())) == "key_expired"
        lite.clock.advance(DAY)
        assert code(lite, short) == "key_expired"
        assert code(lite, token()) is None

    def test_end_of_the_row(self, lite):
        adopt(lite, expires_at=lite.clock() + DAY)
        assert code(lite, token()) is None
        lite.clock.advance(DAY)
        assert code(lite, token()) == "key_expired"

    def test_only_accepted_tokens_are_pinned(self, lite):
        record = adopt(lite, allowed_ips=["198.51.100.9"])
        assert code(lite, token()) == "address_not_allowed"
        assert code(lite, token(end=lite.clock() - DAY)) == "key_expired"
        lite.do("suspend", record.id)
        assert code(lite, token()) == "key_suspended"
        lite.do("revoke", record.id)
        assert code(lite, token()) == "key_revoked"
        assert version(lite, record) == 3

    def test_every_spelling_is_one_token(self, lite):
        record = adopt(lite)
        plain = token().replace("-", "+").replace("_", "/")
        for spelt in (token(), plain, f"{token()[:20]}!{token()[20:]}", token().rstrip("=") + "==="):
            assert code(lite, spelt) is None
        assert version(lite, record) == 2

    def test_token_of_a_rotation(self, lite):
        adopt(lite)
        assert code(lite, token(key=ROTATED)) is code(lite, token()) is None
        assert code(lite, token(key=Fernet.generate_key())) == "invalid_key"

    def test_token_as_bearer(self, lite):
        adopt(lite)
        assert lite.code(f"Bearer {token()}", header="Authorization") is None
        assert lite.code("Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", header="Authorization") == "missing_key"

    def test_number_as_text(self, lite):
        record = adopt(lite, 11)
        assert lite.do("verify", token("11")).key.id == lite.do("verify", token(11)).key.id == record.id
        assert code(lite, token("011")) == code(lite, token(11.0)) == code(lite, token(True)) == "invalid_key"


class TestSecretOfARow:
    def test_needs_no_pin(self, lite):
        record = adopt(lite, hashed_secret=HASHED)
        lite.clock.advance(31 * DAY)
        genuine = token(_secret=SECRET)
        assert code(lite, genuine) is code(lite, token(_secret=SECRET, number=1)) is None
        assert version(lite, record) == 1

    def test_cannot_be_forged(self, lite):
        adopt(lite, hashed_secret=HASHED)
        for members in ({}, {"_secret": ""}, {"_secret": "A" * 43}, {"_secret": HASHED}, {"_secret": None}):
            assert code(lite, token(**members)) == "invalid_key"

    def test_is_ignored_where_the_row_has_none(self, lite):
        record = adopt(lite)
        assert code(lite, token(_secret=SECRET)) is None
        assert version(lite, record) == 2


class TestDoctor:
    def test_counts_rows_without_a_token(self, lite):
        used, unused = adopt(lite, 1), adopt(lite, 2)
        adopt(lite, 3, hashed_secret=HASHED)
        adopt(lite, 4, expires_at=lite.clock())
        lite.do("revoke", adopt(lite, 5).id)
        assert code(lite, token(1)) is None
        finding = findings(lite.app)["old_fernet_key_forges"]
        assert "Keys that nobody has used here yet: 1." in finding.message
        assert f"Until {lite.clock() + 30 * DAY:%Y-%m-%d %H:%M} UTC" in finding.message
        assert details(finding, "key_id") == [(unused.id,)]
        lite.clock.advance(30 * DAY)
        late = findings(lite.app)
        assert "old_fernet_key_forges" not in late
        assert details(late["old_tokens_unused"], "key_id") == [(unused.id,)]
        lite.do("roll", unused.id)
        assert "old_tokens_unused" not in findings(lite.app)
        assert lite.do("get", used.id).adopted == FORM


class TestStorageThatFails:
    def test_token_that_cannot_be_pinned_is_refused(self, lite, monkeypatch, caplog):
        record = adopt(lite)

        def fail(*_):
            raise StorageError("read only")

        with monkeypatch.context() as patched:
            patched.setattr(KeyAdoption, "replace_secret", fail)
            for _ in range(2):
                assert code(lite, token()) == "unavailable"
        assert "read only" in caplog.text
        assert version(lite, record) == 1
        assert code(lite, token()) is None

    def test_pinned_token_needs_no_write(self, lite, monkeypatch):
        adopt(lite)
        assert code(lite, token()) is None
        monkeypatch.setattr(KeyAdoption, "replace_secret", None)
        assert code(lite, token()) is None


class TestConfiguration:
    @pytest.mark.parametrize("until", [None, "2027-01-01", 0])
    def test_deadline_is_required(self, until):
        with pytest.raises(ConfigurationError, match="needs until=: the time from which"):
            DRFSimpleAPIKey([OLD], until=until)
        with pytest.raises(ConfigurationError, match="needs until="):
            DRFSimpleAPIKey([OLD])

    def test_deadline_needs_a_zone(self):
        with pytest.raises(ConfigurationError, match="until has no time zone"):
            DRFSimpleAPIKey([OLD], until=datetime(2027, 1, 1))  # noqa: DTZ001  # that is the mistake

    @pytest.mark.parametrize("setting", ["APIKEY_FERNET_KEY", "APIKEY_FERNET_KEY_FALLBACKS"])
    def test_fernet_key_of_our_own(self, adopting, setting):
        value = ROTATED if setting == "APIKEY_FERNET_KEY" else [ROTATED]
        with pytest.raises(ConfigurationError, match="is a Fernet key of drf-simple-apikey too") as refused:
            adopting("sqlite:///:memory:", **{setting: value})
        assert setting in str(refused.value)

    def test_fernet_keys_are_not_shown(self, lite, caplog):
        form = DRFSimpleAPIKey([OLD], until=datetime(2027, 1, 1, tzinfo=timezone.utc))
        assert repr(form) == "DRFSimpleAPIKey(until=2027-01-01T00:00:00+00:00)"
        assert OLD[:20] not in repr(lite.app.extensions["apikey"].settings)
        adopt(lite)
        assert code(lite, token()) is None
        assert code(lite, token(key=Fernet.generate_key())) == "invalid_key"
        assert not {part for part in (OLD[:20], token()[:40]) if part in caplog.text}

    def test_fernet_keys_are_in_no_traceback(self):
        with pytest.raises(ConfigurationError) as refused:
            DRFSimpleAPIKey(iter([OLD, OLD]), until=datetime(2027, 1, 1, tzinfo=timezone.utc))
        shown = traceback.TracebackException.from_exception(refused.value, capture_locals=True)
        ours = [frame for frame in shown.stack if "flask_apikey" in frame.filename]
        assert OLD not in "".join(str(frame.locals) for frame in ours)

    @pytest.mark.parametrize("visible", [None, "", "x", "01", "1 ", "\uff11", "1" * 20])
    def test_row_without_a_number(self, lite, visible):
        with pytest.raises(InvalidValue, match="visible must be the number of the row"):
            lite.do("adopt", digest="", algorithm=FORM, visible=visible, name="x")

    @pytest.mark.parametrize("digest", [HASHED.upper(), HASHED[:-1], SECRET, b"x" * 32])
    def test_hashed_secret_of_another_form(self, lite, digest):
        with pytest.raises(InvalidValue, match="digest must be hashed_secret"):
            lite.do("adopt", digest=digest, algorithm=FORM, visible="1", name="x")

    def test_hashed_secret_opens_nothing(self, lite):
        adopt(lite, hashed_secret=HASHED)
        for text in (HASHED, SECRET, "1", hashlib.sha256(token().encode()).hexdigest()):
            assert code(lite, text) == "invalid_key"
