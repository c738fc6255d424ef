"""Frames of this library hold no secret when an error passes them."""

import base64
import hashlib
import io
import os
import sys

import pytest
from flask import Flask

from flask_apikey import APIKeys, ConfigurationError, require_api_key
from flask_apikey.cli import apikey
from flask_apikey.core.model.keystring import checksum, mint, new_id
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.core.storage.contract import Backend
from flask_apikey.core.storage.registry import backend_for
from flask_apikey.self_service import self_service_blueprint
from flask_apikey_mongodb import MongoDBBackend
from flask_apikey_sql import SQLBackend
from tests.support.frames import Interrupted, Raised, call_sites, failure_at, forms_of_key, is_ours, leaks

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="code objects have qualified names from Python 3.11 on"
)

PASSWORD = "s3cret-of-the-database"


# Built-in operations on a text that was presented or generated. Callers keep it out of their own frames.
LEAVES = {
    "_from_authorization",
    "_from_json",
    "_json",
    "_to_json",
    "_written",
    "can_show",
    "print_json",
    "showable",
    "checksum",
    "digest",
    "digest_of",
    "AdoptionKey.id_of",
    "AdoptionKey.ids_of",
    "mint",
    "parse",
    "credentials_in",
    "KeyHeaders.read",
    "KeyHeaders._from_authorization",
    "KeyHeaders._may_be_bearer",
    "_base62",
    "_is_ours",
    "_without_escapes",
    "_response",
    "SealedSecrets.position",
}


LEAF_MODULES = ("forwarding_headers.py", "addresses.py")


class MemoryBackend(Backend):
    """Rows in memory: a run for each call site must be fast."""

    def __init__(self):
        self.rows = {}

    @classmethod
    def from_uri(cls, uri):
        return cls()

    def add(self, key, *, event=None):
        self.rows[key.record.id] = key

    def get(self, key_id):
        return self.rows.get(key_id)

    def find(self, key_filter, *, after, limit, newest_first=False):
        return []

    def count(self, key_filter):
        return len(self.rows)

    def update(self, key, *, expected_version, expected_seal, event=None):
        self.rows[key.record.id] = key

    def revoke_unsealed(self, key_id, *, revoked_at, reason):
        return False

    def scan(self, key_filter):
        return iter(self.rows.values())

    def init_storage(self): ...

    def ping(self): ...

    def close(self): ...


@pytest.fixture
def app(fernet_key):
    app = Flask(__name__)
    app.config.update(
        TESTING=True,
        APIKEY_FERNET_KEY=fernet_key,
        APIKEY_FERNET_KEY_FALLBACKS=[generate_fernet_key()],
        APIKEY_MIN_FAILURE_TIME=0,
        APIKEY_RECOVERABLE=True,
        APIKEY_USAGE="off",
    )
    app.api_keys = APIKeys(app, backend=MemoryBackend())
    app.register_blueprint(self_service_blueprint(app.api_keys))

    @app.get("/")
    @require_api_key
    def view():
        return "open"

    with app.app_context():
        yield app


@pytest.fixture
def known(app, monkeypatch):
    """Texts that no frame may show: the Fernet keys, and each key that is made from now on."""
    texts = [app.config["APIKEY_FERNET_KEY"], *app.config["APIKEY_FERNET_KEY_FALLBACKS"]]

    def remembered(*arguments):
        key = mint(*arguments)
        texts.extend(forms_of_key(key))
        return key

    monkeypatch.setattr("flask_apikey.core.model.keystring.mint", remembered)
    return texts


def is_leaf(code):
    return code.co_qualname.partition(".<locals>")[0] in LEAVES or code.co_filename.endswith(LEAF_MODULES)


def found(run, known, kind):
    """Return what frames show when each call of other code fails in turn."""
    run()
    sites = [site for site in call_sites(run) if not is_leaf(site[0])]
    assert len(sites) > 5
    shown, left = set(), 0
    for site in sites:
        failure = failure_at(site, run, kind)
        if failure is not None:
            left += 1
            shown.update(leaks(failure, known))
    assert left
    return shown


@pytest.mark.parametrize("kind", [Raised, Interrupted])
def test_requests(app, known, kind):
    issued = app.api_keys.create(name="ci")
    unknown = mint("fak", new_id())
    client = app.test_client()

    def run():
        # Another proof for each run: the first check of a key takes longer.
        app.extensions["apikey"].services.authenticator._proofs.clear()
        for key in (issued.key, issued.key, issued.key[:-7] + "0000000", unknown):
            client.get("/", headers={"X-API-Key": key})
            client.get("/", headers={"Authorization": f"Bearer {key}"}, environ_base={"REMOTE_ADDR": "203.0.113.9"})

    assert found(run, [*known, *forms_of_key(unknown)], kind) == set()


@pytest.mark.parametrize("kind", [Raised, Interrupted])
def test_requests_with_adopted_keys(app, known, kind):
    adopting = Flask(__name__)
    adopting.config.update(app.config, APIKEY_ADOPTED_KEYS=["sha256", "sha512"])
    api_keys = APIKeys(adopting, backend=MemoryBackend())
    adopting.get("/")(require_api_key(lambda: "open"))
    key, unknown = (f"customer-key-{name}-{os.urandom(20).hex()}" for name in ("known", "unknown"))
    with adopting.app_context():
        api_keys.adopt(digest=hashlib.sha512(key.encode()).digest(), algorithm="sha512", name="x")
    client = adopting.test_client()
    texts = [*known, *(text for each in (key, unknown) for text in (*forms_of_key(each), *forms_of_sha512(each)))]

    def run():
        adopting.extensions["apikey"].services.authenticator._proofs.clear()
        for each in (key, key, unknown):
            client.get("/", headers={"X-API-Key": each})

    assert found(run, texts, kind) == set()


def forms_of_sha512(key):
    digest = hashlib.sha512(key.encode()).digest()
    return [digest.hex(), base64.b64encode(digest).decode(), repr(digest)[2:-1]]


@pytest.mark.parametrize("kind", [Raised, Interrupted])
def test_key_methods(app, known, kind):
    api_keys = app.api_keys
    issued = api_keys.create(name="ci")

    def run():
        api_keys.verify(issued.key)
        api_keys.create_many([{"name": "a"}, {"name": "b"}])
        new = api_keys.create(name="another").record
        api_keys.roll(new.id, grace="1h")
        api_keys.roll(new.id, grace="1h")
        api_keys.update(new.id, name="renamed")
        api_keys.reveal(new.id)
        api_keys.finish_roll(new.id)
        api_keys.revoke(new.id)

    assert found(run, known, kind) == set()


def test_self_service(app, known):
    client = app.test_client()

    def run():
        key = app.api_keys.create(name="ci").key
        client.post("/api-key/roll", headers={"X-API-Key": key}, json={"grace": "1h"})
        client.delete("/api-key", headers={"X-API-Key": key})

    assert found(run, known, Interrupted) == set()


@pytest.mark.parametrize(
    "arguments", ["create ci", "create ci --json", "roll ID --yes", "reveal ID", "reveal ID --json"]
)
def test_commands(app, known, arguments, monkeypatch):
    key_id = app.api_keys.create(name="ci").record.id
    arguments = arguments.replace("ID", key_id).split()

    def run():
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO()))
        apikey.main(arguments, standalone_mode=False)

    assert found(run, known, Raised) == set()


@pytest.mark.parametrize("arguments", [["create", "ci"], ["create", "ci", "--json"], ["reveal", "ID", "--json"]])
def test_commands_with_a_full_disk(app, known, arguments, monkeypatch):
    key_id = app.api_keys.create(name="ci").record.id

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flask_apikey.cli.output.click.echo", refuse)
    with pytest.raises(Exception, match="No space left") as caught:
        apikey.main([key_id if each == "ID" else each for each in arguments], standalone_mode=False)
    assert set(leaks(caught.value, known)) == set()


@pytest.mark.parametrize(
    "start",
    [
        SQLBackend,
        backend_for,
        lambda uri: APIKeys(app_with(APIKEY_STORAGE_URI=uri)),
        lambda uri: copy_from(uri),  # noqa: PLW0108  # defined below,
    ],
    ids=["backend", "registry", "application", "copy"],
)
@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql+nothing://app:{PASSWORD}@127.0.0.1/app",
        f"postgresql://app:{PASSWORD}@127.0.0.1:port/app",
        f"postgresql://app:{PASSWORD}@127.0.0.1:1/app?nonsense=1",
        f"mysql://app:{PASSWORD}@127.0.0.1:1/app?nonsense=1",
    ],
)
def test_uris(start, uri):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # any, as long as it shows nothing
        start(uri).get(new_id())
    assert set(leaks(caught.value, [PASSWORD])) == set()


@pytest.mark.parametrize("uri", [f"mongodb://app:{PASSWORD}@host:port/", f"mongodb://app:{PASSWORD}@h/?tlsCAFile=/no"])
@pytest.mark.parametrize("start", [MongoDBBackend, backend_for])
def test_mongodb_uris(start, uri):
    with pytest.raises(ConfigurationError) as caught:
        start(uri)
    assert set(leaks(caught.value, [PASSWORD])) == set()


@pytest.mark.parametrize(
    "settings",
    [
        {"APIKEY_FERNET_KEY_FALLBACKS": ["not a key"]},
        {"APIKEY_LIFETIME": "soon"},
        {"APIKEY_PREFIX": "!"},
        {"APIKEY_FERNET_KEY_FILE": "/no/such/file"},
        {"APIKEY_STORAGE_URI": "nothing"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings(settings, fernet_key):
    uri = f"postgresql://app:{PASSWORD}@127.0.0.1:1/app"
    with pytest.raises(ConfigurationError) as caught:
        APIKeys(app_with(**{"APIKEY_FERNET_KEY": fernet_key, "APIKEY_STORAGE_URI": uri, **settings}))
    assert set(leaks(caught.value, [fernet_key, PASSWORD])) == set()


def test_frames_are_searched():
    def holding(_key):
        raise Raised

    key = mint("fak", new_id())
    with pytest.raises(Raised) as caught:
        holding(key)
    assert not is_ours(caught.tb.tb_frame)
    with pytest.raises(UnicodeEncodeError) as caught:
        checksum(f"{key}é")
    assert set(leaks(caught.value, forms_of_key(key))) == {"body in checksum", "the text of UnicodeEncodeError"}


def app_with(**settings):
    app = Flask(__name__)
    app.config.update({"APIKEY_FERNET_KEY": generate_fernet_key(), **settings})
    return app


def copy_from(uri):
    app = app_with(APIKEY_STORAGE_URI="sqlite:///:memory:")
    APIKeys(app)
    with app.app_context():
        apikey.main(["copy", "--from", uri], standalone_mode=False)
