"""Adopted keys over HTTP, on every kind of storage."""

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from flask_apikey import (
    AlreadyExists,
    ConfigurationError,
    InvalidValue,
    KeyNotFound,
    SealUnreadable,
    StorageError,
    generate_fernet_key,
)
from flask_apikey.core.model.history import ADOPTION_ID
from flask_apikey.core.model.sealing import SealedSecrets
from flask_apikey.core.storage.contract import EventFilter
from flask_apikey.core.text import redacted
from tests.core.adoption.conftest import KEY, OTHER
from tests.support.attacker import Attacker

DAY = timedelta(days=1)


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


def sha512(key):
    return hashlib.sha512(key.encode()).hexdigest()


class TestOnEveryStorage:
    def test_life_of_an_adopted_key(self, scene):
        assert scene.code(KEY) == "invalid_key"
        record = scene.do("adopt", digest=sha256(KEY), name="exports", owner="juniper", scopes=["read"])
        longer = scene.do("adopt", digest=sha512(OTHER), algorithm="sha512", name="imports")
        assert (record.adopted, longer.adopted) == ("sha256", "sha512")
        for _ in range(2):
            assert scene.code(KEY) is scene.code(OTHER) is None
            assert scene.code(KEY[:-1] + "A") == scene.code("x") == "invalid_key"
        scene.do("suspend", record.id)
        assert scene.code(KEY) == "key_suspended"
        scene.do("resume", record.id)
        rolled = scene.do("roll", record.id, grace="7d")
        assert scene.code(KEY) is scene.code(rolled.key) is None
        assert [each.id for each in scene.do("list", adopted=True)] == sorted(
            [record.id, longer.id], key=lambda key_id: scene.do("get", key_id).cursor
        )
        scene.do("finish_roll", record.id)
        assert (scene.code(KEY), scene.code(rolled.key)) == ("invalid_key", None)
        assert [each.id for each in scene.do("list", adopted=True)] == [longer.id]
        assert scene.do("count", adopted=False) == 1
        scene.do("revoke", longer.id)
        assert scene.code(OTHER) == "key_revoked"
        for key, form, digest in ((KEY, "sha256", sha256(KEY)), (OTHER, "sha512", sha512(OTHER))):
            with pytest.raises(AlreadyExists, match="adopted before"):
                scene.do("adopt", digest=digest, algorithm=form, name="again")
            assert scene.code(key) is not None

    def test_adopted_key_is_not_adopted_after_its_removal(self, scene):
        record = scene.do("adopt", digest=sha256(KEY), name="x", expires_at=scene.clock() - DAY)
        assert scene.code(KEY) == "key_expired"
        repository = scene.app.extensions["apikey"].services.repository
        repository.remove(repository.get(record.id))
        assert scene.code(KEY) == "invalid_key"
        with pytest.raises(AlreadyExists):
            scene.do("adopt", digest=sha256(KEY), name="x")
        with pytest.raises(KeyNotFound):
            scene.do("get", record.id)
        with pytest.raises(KeyNotFound):
            scene.do("get", ADOPTION_ID)

    def test_digest_opens_nothing(self, scene):
        scene.do("adopt", digest=sha256(KEY), name="x")
        scene.do("adopt", digest=sha512(OTHER), algorithm="sha512", name="y")
        for key in (KEY, OTHER):
            for digest in (hashlib.sha256(key.encode()).digest(), hashlib.sha512(key.encode()).digest()):
                encoded = base64.b64encode(digest).decode()
                for text in (
                    digest.hex(),
                    digest.hex().upper(),
                    encoded,
                    encoded.rstrip("="),
                    digest.decode("latin-1"),
                ):
                    assert not scene.do("verify", text)
                assert scene.code(digest.hex()) == "invalid_key"

    def test_same_string_in_another_form(self, scene):
        """The first form of the setting counts."""
        first = scene.do("adopt", digest=sha256(KEY), name="x")
        second = scene.do("adopt", digest=sha512(KEY), algorithm="sha512", name="y")
        assert scene.do("verify", KEY).key.id == first.id != second.id

    def test_rotation_of_the_fernet_key(self, scene, make_scene):
        scene.do("adopt", digest=sha256(KEY), name="x")
        old, new = scene.app.config["APIKEY_FERNET_KEY"], generate_fernet_key()
        uri = scene.app.config["APIKEY_STORAGE_URI"]
        both = make_scene(uri, APIKEY_FERNET_KEY=new, APIKEY_FERNET_KEY_FALLBACKS=[old])
        assert both.code(KEY) is None
        with both.app.app_context():
            both.api_keys.rotation.start()
            assert both.api_keys.rotation.run().remaining == 0
        only_new = make_scene(uri, APIKEY_FERNET_KEY=new)
        assert only_new.code(KEY) is None
        assert only_new.do("adopt", digest=sha256(OTHER), name="y").id != only_new.do("verify", KEY).key.id
        assert only_new.code(OTHER) is both.code(OTHER) is None


class TestTampering:
    """Somebody who can write to the database can close keys, and open none."""

    @pytest.fixture
    def record(self, scene):
        return scene.do("adopt", digest=sha256(KEY), name="x")

    @pytest.mark.parametrize("value", ["sha512", None])
    def test_changed_form(self, scene, record, value, caplog):
        scene.attacker.edit_row(record.id, adopted=value)
        assert scene.code(KEY) == "unavailable"
        assert "event=tampered outcome=failure" in caplog.text
        assert record.id in caplog.text
        assert scene.code(KEY[:-1] + "A") == "invalid_key"

    def test_moved_row(self, scene, record):
        """The row of a key at the id of another one is opened by neither."""
        other = scene.do("adopt", digest=sha256(OTHER), name="y", scopes=["admin"])
        assert scene.code(KEY) is None
        here, there = scene.attacker.row(record.id), scene.attacker.row(other.id)
        scene.attacker.edit_row(other.id, seal=here["seal"], history_hash=here["history_hash"])
        assert scene.code(KEY) is None
        assert scene.code(OTHER) == "invalid_key"
        scene.attacker.edit_row(record.id, seal=there["seal"])
        assert scene.code(KEY) == "invalid_key"
        assert not scene.do("verify", OTHER)

    def test_own_key_with_the_seal_of_an_adopted_one(self, scene, record):
        issued = scene.issue(scopes=["admin"])
        scene.attacker.edit_row(issued.record.id, seal=scene.attacker.row(record.id)["seal"])
        assert scene.code(issued.key) == "invalid_key"
        assert scene.code(KEY) is None

    def test_row_of_a_known_string_cannot_be_made(self, scene, record):
        """Not even at the right id, which nobody without the sealed key can compute."""
        lookup = scene.app.extensions["apikey"].services.authenticator._adopted
        scene.code(KEY)
        forged = lookup._known.key.id_of("sha256", hashlib.sha256(OTHER.encode()).digest())
        row = scene.attacker.row(record.id)
        scene.attacker.put_back({**row, "_id" if "_id" in row else "id": forged})
        assert scene.code(OTHER) == "invalid_key"
        assert scene.code(KEY) is None

    def test_adoption_row_of_another_seal(self, scene, record):
        assert scene.code(KEY) is None
        scene.attacker.edit_row(ADOPTION_ID, seal=scene.attacker.row(record.id)["seal"])
        assert scene.code(OTHER) == "unavailable"
        other = Attacker(scene.backend)
        other.edit_row(ADOPTION_ID, seal="x")
        assert scene.code(OTHER) == "unavailable"

    def test_adoption_row_that_is_missing(self, scene, make_scene, record):
        """Otherwise revoked keys could be adopted again, with other ids."""
        scene.do("revoke", record.id)
        scene.attacker.remove_row(ADOPTION_ID)
        restarted = make_scene(scene.app.config["APIKEY_STORAGE_URI"])
        assert restarted.code(KEY) == "invalid_key"
        with pytest.raises(StorageError, match="is missing: restore it from a backup"):
            restarted.do("adopt", digest=sha256(KEY), name="again")


class TestBearer:
    def test_only_with_a_declared_start(self, make_scene, tmp_path):
        plain = make_scene(f"sqlite:///{tmp_path}/keys.db")
        started = make_scene(f"sqlite:///{tmp_path}/keys.db", APIKEY_ADOPTED_KEYS=["sha256:sk_live_"])
        plain.do("adopt", digest=sha256(KEY), name="x")
        assert plain.code(f"Api-Key {KEY}", header="Authorization") is None
        assert plain.code(f"Bearer {KEY}", header="Authorization") == "missing_key"
        assert started.code(f"Bearer {KEY}", header="Authorization") is None
        assert started.code("Bearer eyJhbGciOiJIUzI1NiJ9.e30.x", header="Authorization") == "missing_key"
        assert started.code(KEY, Authorization=f"Bearer {KEY}") == "invalid_key"

    def test_start_is_redacted(self, make_scene, tmp_path):
        make_scene(f"sqlite:///{tmp_path}/keys.db", APIKEY_ADOPTED_KEYS=["sha256:vx_live_"])
        assert redacted("got vx_live_abcdef!") == "got vx_live_[redacted]"


class TestSettings:
    @pytest.mark.parametrize(
        ("value", "problem"),
        [
            ("sha256", "must be a list of forms of keys"),
            (["md5"], "'md5' is not a form of adopted keys: use 'sha256', 'sha512', 'drf-api-key'"),
            (["sha256:"], "behind the colon comes the start"),
            (["sha256:eyJh"], "JWTs start like this"),
            (["sha256", "sha256"], "names a form twice"),
        ],
    )
    def test_refused(self, make_scene, value, problem):
        with pytest.raises(ConfigurationError, match="APIKEY_ADOPTED_KEYS: ") as refused:
            make_scene("sqlite:///:memory:", APIKEY_ADOPTED_KEYS=value)
        assert problem in str(refused.value)

    def test_form_that_is_not_accepted(self, make_scene, tmp_path):
        uri = f"sqlite:///{tmp_path}/keys.db"
        both = make_scene(uri)
        both.do("adopt", digest=sha512(KEY), algorithm="sha512", name="x")
        one = make_scene(uri, APIKEY_ADOPTED_KEYS=["sha256"])
        assert (both.code(KEY), one.code(KEY)) == (None, "invalid_key")
        with pytest.raises(ConfigurationError, match="'sha512' would not be accepted: add it to APIKEY_ADOPTED_KEYS"):
            one.do("adopt", digest=sha512(OTHER), algorithm="sha512", name="y")
        none = make_scene(uri, APIKEY_ADOPTED_KEYS=[])
        assert none.code(KEY) == "invalid_key"


class TestAdopt:
    @pytest.mark.parametrize("encoding", ["hex", "HEX", "base64", "unpadded", "url", "bytes"])
    def test_encodings_of_a_digest(self, lite, encoding):
        digest = hashlib.sha256(b"key 9").digest()
        encoded = base64.b64encode(digest).decode()
        url = base64.urlsafe_b64encode(digest).decode()
        assert url != encoded
        values = {"hex": digest.hex(), "HEX": digest.hex().upper(), "base64": encoded, "unpadded": encoded.rstrip("=")}
        lite.do("adopt", digest={**values, "url": url, "bytes": digest}[encoding], name="x")
        assert lite.code("key 9") is None

    @pytest.mark.parametrize(
        "digest", ["", "x" * 64, "ab" * 31, "ab" * 33, sha512("x"), KEY, b"short", None, 7, "A" * 42 + "B="]
    )
    def test_wrong_digest(self, lite, digest):
        with pytest.raises(InvalidValue, match="digest is not a digest of sha256") as refused:
            lite.do("adopt", digest=digest, name="x")
        assert not digest or str(digest) not in str(refused.value)
        assert lite.do("count") == 0

    def test_moments_of_the_other_system(self, lite):
        now = lite.clock()
        record = lite.do("adopt", digest=sha256(KEY), name="x", created_at=now - 9 * DAY, expires_at=now - DAY)
        assert (record.created_at, record.expires_at) == (now - 9 * DAY, now - DAY)
        assert lite.code(KEY) == "key_expired"
        with pytest.raises(InvalidValue, match="created_at must not be in the future"):
            lite.do("adopt", digest=sha256(OTHER), name="x", created_at=now + DAY)
        with pytest.raises(InvalidValue, match="exclude each other"):
            lite.do("adopt", digest=sha256(OTHER), name="x", lifetime="1d", expires_at=now + DAY)

    def test_processes_share_one_adoption_key(self, lite, make_scene):
        uri = lite.app.config["APIKEY_STORAGE_URI"]
        scenes = [make_scene(uri) for _ in range(4)]
        digests = [sha256(f"key {number}") for number in range(4)]
        with ThreadPoolExecutor(4) as pool:
            ids = list(pool.map(lambda scene, digest: scene.do("adopt", digest=digest, name="x").id, scenes, digests))
        assert len(set(ids)) == 4
        assert all(lite.code(f"key {number}") is None for number in range(4))

    def test_adoption_key_of_a_process_that_was_faster(self, lite, make_scene, monkeypatch):
        other = make_scene(lite.app.config["APIKEY_STORAGE_URI"])
        inner, adopted = lite.backend.get, []

        def get(key_id):
            found = inner(key_id)
            if not adopted:
                adopted.append(other.do("adopt", digest=sha256(OTHER), name="y"))
            return found

        monkeypatch.setattr(lite.backend, "get", get)
        lite.do("adopt", digest=sha256(KEY), name="x")
        assert lite.code(KEY) is lite.code(OTHER) is None

    def test_key_in_place_of_the_adoption_row(self, lite):
        """Whoever knows the secret of such a key must not know what derives ids."""
        create = lite.app.extensions["apikey"].services.lifecycle.create
        with pytest.raises(InvalidValue, match="that of no key"):
            create(key_id=ADOPTION_ID, name="x", metadata={})
        services = lite.app.extensions["apikey"].services
        record = replace(services.lifecycle.new_record(lite.clock(), None, None, {"name": "x"}), id=ADOPTION_ID)
        services.repository.add(record, SealedSecrets((bytes(32),)))
        with pytest.raises(SealUnreadable):
            lite.do("adopt", digest=sha256(KEY), name="x")
        assert lite.code(KEY) == "unavailable"

    def test_ids_tell_nothing_of_digests(self, make_scene, tmp_path):
        ids = {
            make_scene(f"sqlite:///{tmp_path}/{name}.db").do("adopt", digest=sha256(KEY), name="x").id
            for name in ("one", "two")
        }
        assert len(ids) == 2

    def test_history_names_the_form(self, lite):
        record = lite.do("adopt", digest=sha256(KEY), name="x", reason="moved")
        events = lite.backend.history.events(EventFilter(key_id=record.id), after=None, limit=9)
        assert [(each.event, each.to_dict()["details"]["adopted"], each.reason) for each in events] == [
            ("key.created", "sha256", "moved")
        ]

    def test_unknown_strings_take_the_same_steps(self, lite, monkeypatch):
        lite.do("adopt", digest=sha256(KEY), name="x")
        lite.code(OTHER)
        asked = []
        inner = lite.backend.get_many
        monkeypatch.setattr(lite.backend, "get_many", lambda ids: asked.append(len(ids)) or inner(ids))
        for key in (OTHER, KEY, "x", "key with spaces", KEY + "x" * 400):
            lite.code(key)
        assert asked == [3] * 5
        lite.code(KEY)
        assert asked == [3] * 5, "a proven key is asked for by its id alone"
        lite.code("x" * 501)
        lite.do("verify", "x" * 501)
        assert asked == [3] * 5, "no adopted key is as long"

    def test_roll_without_grace_ends_the_adopted_secret(self, lite):
        record = lite.do("adopt", digest=sha256(KEY), name="x")
        rolled = lite.do("roll", record.id)
        assert rolled.record.adopted is None
        assert (lite.code(KEY), lite.code(rolled.key)) == ("invalid_key", None)

    def test_second_roll_knows_whether_the_adopted_secret_is_left(self, lite):
        record = lite.do("adopt", digest=sha256(KEY), name="x")
        assert lite.do("roll", record.id, grace="1d").record.adopted == "sha256"
        assert lite.do("roll", record.id, grace="1d").record.adopted == "sha256"
        assert lite.code(KEY) is None
        lite.clock.advance(2 * DAY)
        assert lite.do("roll", record.id, grace="1d").record.adopted is None
        assert lite.code(KEY) == "invalid_key"
