"""Reports of leaked keys from GitHub."""

import base64
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Blueprint

from flask_apikey import APIKeys, StorageError
from flask_apikey.core.model.keystring import mint, new_id
from flask_apikey.core.storage.chains import chain_of
from flask_apikey.leaks import leak_intake_blueprint, public_keys
from flask_apikey.leaks.intake import MAX_BODY_BYTES
from flask_apikey.leaks.public_keys import (
    FETCH_INTERVAL,
    MAX_AGE,
    MAX_FETCHES,
    MAX_OUTAGE,
    PublicKeys,
    PublicKeysUnavailable,
    fetch_github_keys,
    is_signed,
)
from flask_apikey.signals import api_key_leaked
from tests.support.keys import KeyScene

HOUR = timedelta(hours=1)
VECTOR = json.loads((Path(__file__).parent / "support" / "github_partner_vector.json").read_text())


def document(**keys):
    """Return public keys as GitHub publishes them."""
    entries = [
        {
            "key_identifier": name,
            "key": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            "is_current": True,
        }
        for name, key in keys.items()
    ]
    return json.dumps({"public_keys": entries}).encode()


class Scene(KeyScene):
    """An application with the intake, and GitHub, which signs reports."""

    def __init__(self, app, clock, *, backend=None, **options):
        super().__init__(app, clock, backend=backend)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.fetches = 0
        self.told = []
        app.register_blueprint(leak_intake_blueprint(self.api_keys, fetch_public_keys=self.fetch, **options))
        api_key_leaked.connect(self.tell, app)

    def fetch(self):
        self.fetches += 1
        return document(current=self.key)

    def tell(self, sender, **details):
        self.told.append(details)

    def sign(self, body, key=None):
        return base64.b64encode((key or self.key).sign(body, ec.ECDSA(SHA256()))).decode()

    def send(self, body, *, identifier="current", signature=None, base_url="https://localhost", **options):
        headers = {
            "Github-Public-Key-Identifier": identifier,
            "Github-Public-Key-Signature": self.sign(body) if signature is None else signature,
        }
        headers |= options.pop("headers", {})
        client = self.app.test_client()
        return client.post("/leaked-keys", data=body, headers=headers, base_url=base_url, **options)

    def report(self, *keys, **options):
        url = "https://github.com/octo/repo/blob/1/config.py"
        entries = [{"token": key, "type": "other_token", "url": url, "source": "commit"} for key in keys]
        return self.send(json.dumps(entries).encode(), **options)

    def events(self, issued):
        return [event.event for event in self.history(issued)]

    def history(self, issued):
        return list(chain_of(self.backend.history, issued.record.id))


@pytest.fixture
def scene(make_app, clock):
    return Scene(make_app(APIKEY_PROTECT_ALL=True), clock)


def labels(answer):
    assert answer.status_code == 200
    return [each["label"] for each in answer.json]


class TestSignature:
    def find(self, identifier=VECTOR["headers"]["Github-Public-Key-Identifier"]):
        return PublicKeys(lambda: json.dumps(VECTOR).encode()).find(identifier)

    def test_published_vector(self):
        signature = VECTOR["headers"]["Github-Public-Key-Signature"]
        body = VECTOR["body"].encode()
        assert is_signed(body, signature, self.find())
        assert not is_signed(body, signature, self.find(VECTOR["public_keys"][0]["key_identifier"]))

    def test_any_changed_byte(self):
        signature, body, key = VECTOR["headers"]["Github-Public-Key-Signature"], VECTOR["body"].encode(), self.find()
        for index in range(len(body)):
            changed = bytearray(body)
            changed[index] ^= 1
            assert not is_signed(bytes(changed), signature, key)
        raw = base64.b64decode(signature)
        for index in range(len(raw)):
            changed = bytearray(raw)
            changed[index] ^= 1
            assert not is_signed(body, base64.b64encode(changed).decode(), key)

    @pytest.mark.parametrize("signature", ["", "x", "é", "====", "A" * 100_000, "AAAA\n", "MAYCAQACAQA="])
    def test_other_signatures(self, signature):
        assert not is_signed(VECTOR["body"].encode(), signature, self.find())

    def test_published_vector_over_http(self, make_app, clock):
        app = make_app()
        api_keys = APIKeys(app, clock=clock)
        app.register_blueprint(leak_intake_blueprint(api_keys, fetch_public_keys=json.dumps(VECTOR).encode))
        with app.app_context():
            api_keys.init_storage()
        answer = app.test_client().post("/leaked-keys", data=VECTOR["body"], headers=VECTOR["headers"])
        token_hash = sha256(b"some_token").hexdigest()
        assert answer.json == [{"token_hash": token_hash, "token_type": "some_type", "label": "false_positive"}]
        body = VECTOR["body"].replace("commit", "Commit")
        assert app.test_client().post("/leaked-keys", data=body, headers=VECTOR["headers"]).status_code == 403


class TestPublicKeys:
    class Source:
        def __init__(self, monotonic):
            self.keys = {"a": ec.generate_private_key(ec.SECP256R1())}
            self.count, self.failure = 0, None
            self.cache = PublicKeys(self.fetch, monotonic)

        def fetch(self):
            self.count += 1
            if self.failure is not None:
                raise self.failure
            return document(**self.keys)

    @pytest.fixture
    def time(self):
        class Time:
            now = 0.0

            def __call__(self):
                return self.now

        return Time()

    @pytest.fixture
    def source(self, time):
        return self.Source(time)

    def test_other_curves_and_algorithms(self):
        others = [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256K1())]
        others.append(ed25519.Ed25519PrivateKey.generate())
        keys = {f"other{number}": key for number, key in enumerate(others)}
        cache = PublicKeys(lambda: document(good=ec.generate_private_key(ec.SECP256R1()), **keys))
        assert cache.find("good") is not None
        assert cache.find("other0") is cache.find("other1") is None
        assert cache._keys.keys() == {"good"}

    def test_signature_on_another_curve(self, scene):
        """A report is refused though its signature fits a published key."""
        issued = scene.issue()
        scene.key = ec.generate_private_key(ec.SECP384R1())
        assert scene.report(issued.key).status_code == 429
        assert scene.works(issued) == [True]

    def test_flood_of_unknown_identifiers(self, source, time):
        """A few fetches are made, then one in each interval."""
        for number in range(1000):
            with pytest.raises(PublicKeysUnavailable) if number >= MAX_FETCHES else nullcontext():
                source.cache.find(f"unknown{number}")
        assert source.count == MAX_FETCHES
        assert source.cache.find("a") is not None
        time.now += FETCH_INTERVAL
        assert source.cache.find("unknown") is None
        assert source.count == MAX_FETCHES + 1

    def test_new_key_after_a_flood(self, source, time):
        source.cache.find("a")
        source.keys["b"] = ec.generate_private_key(ec.SECP256R1())
        assert source.cache.find("b") is not None
        assert source.count == 2

    def test_withdrawn_key_ends(self, source, time):
        old = source.cache.find("a")
        source.keys = {"b": ec.generate_private_key(ec.SECP256R1())}
        time.now += MAX_AGE - 1
        assert source.cache.find("a") is old
        time.now += 1
        assert source.cache.find("a") is None

    @pytest.mark.parametrize("failure", [OSError("down"), None], ids=["error", "no keys"])
    def test_keys_outlive_an_outage_of_github(self, source, time, failure):
        source.cache.find("a")
        source.failure, source.keys = failure, {}
        time.now += MAX_AGE
        assert source.cache.find("a") is not None
        time.now += MAX_OUTAGE
        with pytest.raises(PublicKeysUnavailable):
            source.cache.find("a")

    @pytest.mark.parametrize(
        "text", [b"", b"[]", b"{}", b'{"public_keys": [1]}', b'{"public_keys": [{"key": 1}]}', b"\xff"]
    )
    def test_other_documents(self, text):
        with pytest.raises(PublicKeysUnavailable):
            PublicKeys(lambda: text).find("a")

    def test_threads_share_the_first_fetch(self, source):
        started, ready = threading.Event(), threading.Event()
        fetch = source.fetch

        def slow():
            started.set()
            assert ready.wait(20)
            return fetch()

        source.cache._fetch = slow
        with ThreadPoolExecutor(8) as pool:
            found = [pool.submit(source.cache.find, "a") for _ in range(8)]
            assert started.wait(20)
            ready.set()
            assert all(each.result(20) is not None for each in found)
        assert source.count == 1

    def test_hanging_fetch_stops_nobody_else(self, source):
        source.cache.find("a")
        started, ready, finished = threading.Event(), threading.Event(), threading.Event()

        def hang():
            started.set()
            ready.wait(5)
            finished.set()
            return b""

        source.cache._fetch = hang
        with ThreadPoolExecutor(1) as pool:
            pool.submit(source.cache.find, "unknown")
            assert started.wait(20)
            assert source.cache.find("a") is not None
            with pytest.raises(PublicKeysUnavailable):
                source.cache.find("other")
            assert not finished.is_set()
            ready.set()


class TestFetch:
    @pytest.fixture
    def serve(self):
        """Serve one answer, and return its address."""
        servers = []

        def serve(body=b"", status=200, **headers):
            class Handler(BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

                def log_message(self, *_):
                    pass

            server = HTTPServer(("127.0.0.1", 0), Handler)
            servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            return f"http://127.0.0.1:{server.server_port}/"

        yield serve
        for server in servers:
            server.shutdown()
            server.server_close()

    def test_fetch(self, serve):
        assert fetch_github_keys(serve(b"{}")) == b"{}"

    def test_long_answers_are_not_read(self, serve):
        with pytest.raises(ValueError, match="more than"):
            fetch_github_keys(serve(b"x" * 100_000))

    def test_redirects_are_not_followed(self, serve):
        with pytest.raises(OSError, match="302"):
            fetch_github_keys(serve(status=302, Location=serve(b"{}")))

    def test_default_address(self):
        assert public_keys.GITHUB_PUBLIC_KEYS.startswith("https://api.github.com/")


class TestEndings:
    def test_live_key_is_revoked(self, scene):
        issued, other = scene.issue(owner="team-7"), scene.issue()
        answer = scene.report(issued.key)
        assert answer.json == [
            {
                "token_hash": sha256(issued.key.encode()).hexdigest(),
                "token_type": "other_token",
                "label": "true_positive",
            }
        ]
        assert answer.headers["Cache-Control"] == "no-store"
        assert scene.works(issued, other) == [False, True]
        event = scene.history(issued)[-1]
        assert (event.event, event.actor) == ("key.revoked", "GitHub secret scanning")
        assert event.reason == "leaked: reported by GitHub (commit https://github.com/octo/repo/blob/1/config.py)"

    def test_suspended_instead(self, make_app, clock):
        scene = Scene(make_app(), clock, suspend=True)
        issued = scene.issue()
        assert labels(scene.report(issued.key)) == ["true_positive"]
        assert labels(scene.report(issued.key)) == ["true_positive"]
        assert scene.events(issued) == ["key.created", "key.suspended"]
        assert [told["ended"] for told in scene.told] == ["key_suspended"]
        scene.do("resume", issued.record.id)
        assert scene.works(issued) == [True]

    def test_previous_secret_ends_alone(self, scene):
        issued = scene.issue()
        rolled = scene.roll(issued, grace=HOUR)
        assert labels(scene.report(issued.key)) == ["true_positive"]
        assert scene.works(issued, rolled) == [False, True]
        assert scene.told[0]["ended"] == "secret_ended"

    def test_newest_secret_ends_its_key(self, scene):
        issued = scene.issue()
        rolled = scene.roll(issued, grace=HOUR)
        scene.report(rolled.key)
        assert scene.works(issued, rolled) == [False, False]

    def test_repeated_reports(self, scene):
        issued = scene.issue()
        body = json.dumps([{"token": issued.key, "type": "t"}] * 3).encode()
        signature = scene.sign(body)
        answers = [scene.send(body, signature=signature) for _ in range(3)]
        assert [labels(answer) for answer in answers] == [["true_positive"]] * 3
        assert scene.events(issued) == ["key.created", "key.revoked"]
        assert len(scene.told) == 1

    def test_reordered_reports(self, scene):
        """An old report of a secret that was rolled since does not end the new one."""
        issued = scene.issue()
        body = json.dumps([{"token": issued.key, "type": "t"}]).encode()
        signature = scene.sign(body)
        rolled = scene.roll(issued)
        assert labels(scene.send(body, signature=signature)) == ["false_positive"]
        assert scene.works(rolled) == [True]

    def test_owner_is_told(self, scene):
        issued = scene.issue(owner="team-7")
        scene.report(issued.key)
        (told,) = scene.told
        assert (told["key"].owner, told["key"].id) == ("team-7", issued.record.id)
        assert told["key"].revoked_at is not None
        assert (told["ended"], told["source"]) == ("key_revoked", "commit")
        assert told["url"] == "https://github.com/octo/repo/blob/1/config.py"

    def test_failing_receiver(self, scene):
        issued = scene.issue()

        def fail(sender, **details):
            raise RuntimeError("no mail today")

        api_key_leaked.connect(fail, scene.app)
        assert labels(scene.report(issued.key)) == ["true_positive"]
        assert scene.works(issued) == [False]

    def test_audit_event(self, scene, caplog):
        issued = scene.issue(owner="team-7")
        with caplog.at_level(logging.INFO, "flask_apikey"):
            scene.report(issued.key)
        (event,) = [record for record in caplog.records if record.event == "leak"]
        assert (event.levelname, event.outcome, event.key_id, event.owner) == (
            "WARNING",
            "success",
            issued.record.id,
            "team-7",
        )
        assert (event.actor, event.endpoint) == ("GitHub secret scanning", "/leaked-keys")
        assert issued.key not in caplog.text

    def test_form_and_checksum_decide(self, scene):
        issued = scene.issue()
        key = issued.key
        tokens = [
            key[:-1] + ("A" if key[-1] != "A" else "B"),
            f" {key}",
            mint("fak", issued.record.id),
            mint("fak", new_id()),
            mint("other", issued.record.id),
            "",
            "\ud800",
            "x" * 10_000,
        ]
        assert labels(scene.report(*tokens)) == ["false_positive"] * len(tokens)
        assert scene.works(issued) == [True]

    def test_many_tokens_in_one_report(self, scene):
        issued = [scene.issue() for _ in range(20)]
        answer = scene.report(*[each.key for each in issued], *[mint("fak", new_id()) for _ in range(1200)])
        assert labels(answer) == ["true_positive"] * 20 + ["false_positive"] * 1200
        assert not any(scene.works(*issued))


class TestRefusals:
    def attempts(self, scene, key):
        """Return answers to callers who are not GitHub."""
        body = json.dumps([{"token": key, "type": "t"}]).encode()
        stranger = ec.generate_private_key(ec.SECP256R1())
        other_curve = ec.generate_private_key(ec.SECP384R1())
        return [
            scene.send(body, signature=""),
            scene.send(body, identifier=""),
            scene.send(body, signature="nonsense"),
            scene.send(body, signature=scene.sign(body, stranger)),
            scene.send(body, signature=scene.sign(body, other_curve)),
            scene.send(body, signature=scene.sign(body + b" ")),
            scene.send(body, identifier="unknown"),
            scene.send(body, identifier="x" * 10_000),
            scene.send(b"", signature=scene.sign(body)),
        ]

    def test_unsigned_reports(self, scene, caplog):
        issued = scene.issue()
        answers = self.attempts(scene, issued.key)
        assert {answer.status_code for answer in answers} == {403}
        assert {answer.json["code"] for answer in answers} == {"invalid_signature"}
        assert len({answer.data for answer in answers}) == 1
        assert scene.works(issued) == [True]
        assert scene.told == []
        assert [record.outcome for record in caplog.records if record.event == "leak"] == ["failure"] * len(answers)

    @pytest.mark.parametrize("failure", [StorageError("down"), RuntimeError("x")])
    def test_unsigned_reports_never_reach_the_storage(self, make_app, clock, backend, failure):
        scene = Scene(make_app(), clock, backend=backend)
        issued = scene.issue()
        backend.failure = failure
        assert {answer.status_code for answer in self.attempts(scene, issued.key)} == {403}
        assert backend.looked_up == []

    def test_flood_of_unknown_identifiers(self, scene):
        issued = scene.issue()
        answers = [scene.report(issued.key, identifier=f"unknown{number}") for number in range(50)]
        assert scene.fetches == MAX_FETCHES
        assert {answer.status_code for answer in answers} == {403, 429}
        assert answers[-1].headers["Retry-After"] == "300"
        assert labels(scene.report(issued.key)) == ["true_positive"]

    def test_no_public_keys(self, scene):
        def fail():
            raise OSError("no network")

        scene.fetch = fail
        blueprint = leak_intake_blueprint(scene.api_keys, fetch_public_keys=fail, name="other")
        scene.app._got_first_request = False
        scene.app.register_blueprint(blueprint, url_prefix="/other")
        answer = scene.app.test_client().post(
            "/other", headers={"Github-Public-Key-Identifier": "a", "Github-Public-Key-Signature": "b"}
        )
        assert answer.status_code == 429

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"{}", b"null", b'"x"', b"1", b"\xff", b"[" * 100_000, b"NaN"],
        ids=["empty", "cut", "object", "null", "text", "number", "bytes", "nested", "nan"],
    )
    def test_signed_nonsense(self, scene, body):
        answer = scene.send(body)
        assert (answer.status_code, answer.json["code"]) == (400, "invalid_report")

    @pytest.mark.parametrize(
        "body",
        [b"[]", b"[1, null, [], {}]", b'[{"token": 1}, {"token": null}, {"token": {"x": 1}}]'],
    )
    def test_entries_without_a_token(self, scene, body):
        assert labels(scene.send(body)) == []

    def test_entries_with_other_values(self, scene):
        issued = scene.issue()
        entry = {"token": issued.key, "type": {"x": [1]}, "source": 7, "url": ["\n"], "more": 1}
        answer = scene.send(json.dumps([entry]).encode())
        assert labels(answer) == ["true_positive"]
        assert answer.json[0]["token_type"] == ""
        assert scene.do("get", issued.record.id).revocation_reason == "leaked: reported by GitHub"

    def test_hostile_texts(self, scene):
        issued = scene.issue()
        text = f"https://x/{issued.key}?\n\x1b[31m" + "y" * 5000
        answer = scene.send(json.dumps([{"token": issued.key, "type": text, "source": text, "url": text}]).encode())
        assert labels(answer) == ["true_positive"]
        reason = scene.do("get", issued.record.id).revocation_reason
        assert reason.isprintable()
        for shown in (reason, answer.text, str(scene.told), scene.history(issued)[-1].reason):
            assert issued.key not in shown

    def test_body_that_is_too_long(self, scene):
        body = b" " * (MAX_BODY_BYTES + 1)
        assert scene.send(body).status_code == 413
        assert scene.fetches == 0
        assert scene.send(b"[]" + body[:-3]).status_code == 200

    def test_long_body_is_not_read(self, scene):
        class Body:
            def read(self, *_):
                raise AssertionError("the body was read")

        body = {"wsgi.input": Body(), "CONTENT_LENGTH": "10000000"}
        assert scene.send(b"", environ_overrides=body).status_code == 413

    def test_body_without_a_length(self, scene):
        """A chunked body is read up to the limit."""

        class Body:
            left = 10_000_000

            def read(self, size=-1):
                size = min(self.left, 65_536 if size < 0 else size)
                self.left -= size
                return b" " * size

        body = Body()
        chunked = {"wsgi.input": body, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        answer = scene.send(b"", environ_overrides={**chunked, "CONTENT_LENGTH": ""})
        assert answer.status_code == 413
        assert body.left > 8_000_000

    def test_plain_http(self, scene):
        scene.app.testing = False
        issued = scene.issue()
        answer = scene.report(issued.key, base_url="http://localhost")
        assert (answer.status_code, answer.json["code"]) == (403, "https_required")
        assert scene.works(issued) == [True]
        assert labels(scene.report(issued.key)) == ["true_positive"]

    def test_no_key_needed_below_a_protected_blueprint(self, make_app, clock):
        app = make_app(APIKEY_PROTECT_ALL=True)
        api_keys = APIKeys(app, clock=clock)
        parent = Blueprint("parent", __name__, url_prefix="/internal")
        api_keys.protect(parent)
        parent.register_blueprint(leak_intake_blueprint(api_keys, fetch_public_keys=bytes))
        app.register_blueprint(parent)
        assert app.test_client().post("/internal/leaked-keys").json["code"] == "invalid_signature"


class TestOutage:
    def test_storage_that_is_down(self, make_app, clock, backend):
        scene = Scene(make_app(), clock, backend=backend)
        issued = scene.issue()
        scan, backend.scan = backend.scan, lambda _: (_ for _ in ()).throw(StorageError("down"))
        answer = scene.report(issued.key)
        assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
        assert answer.headers["Retry-After"]
        backend.scan = scan
        assert labels(scene.report(issued.key)) == ["true_positive"]

    @pytest.mark.parametrize("failure", [StorageError("down"), RuntimeError("x")])
    def test_storage_that_cannot_be_written(self, make_app, clock, backend, failure):
        """Other keys of the report end nevertheless, and the next report ends the rest."""
        scene = Scene(make_app(), clock, backend=backend)
        issued = [scene.issue() for _ in range(3)]

        def fail():
            raise failure

        backend.before_next_update = fail
        assert scene.report(*[each.key for each in issued]).status_code == 503
        assert scene.works(*issued) == [True, False, False]
        assert labels(scene.report(*[each.key for each in issued])) == ["true_positive"] * 3
        assert scene.works(*issued) == [False] * 3
        assert len(scene.told) == 3

    def test_unreadable_seal(self, scene, caplog):
        issued = scene.issue()
        fernets = scene.app.extensions["apikey"].ring._fernets
        kept = dict(fernets)
        fernets.clear()
        assert scene.report(issued.key).status_code == 503
        assert issued.record.id in caplog.text
        fernets.update(kept)
        assert labels(scene.report(issued.key)) == ["true_positive"]
