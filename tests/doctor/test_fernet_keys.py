"""Fernet keys that an attacker could guess or read."""

import base64
import errno
import hashlib
import logging
import os
import re
from pathlib import Path

import pytest

from flask_apikey import APIKeys
from flask_apikey.core.model.sealing import generate_fernet_key
from flask_apikey.doctor.fernet_keys import is_published, weak_pattern, weaknesses
from flask_apikey.doctor.findings import Severity

ROOT = Path(__file__).parents[2]
SPECIFICATION_KEY = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="


def encoded(raw):
    return base64.urlsafe_b64encode(raw).decode()


REPEATED = "it repeats a short pattern"
SEQUENCE = "it contains a sequence"
TEXT = "its bytes are readable text"
FEW = "it has few different characters"


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        pytest.param(encoded(bytes(32)), REPEATED, id="zeros"),
        pytest.param(encoded(bytes.fromhex("8e31f09c") * 8), REPEATED, id="block of 4"),
        pytest.param(encoded((bytes.fromhex("8e31f09c77aa01") * 5)[:32]), REPEATED, id="block of 7"),
        pytest.param(encoded(hashlib.sha256(b"half").digest()[:16] * 2), REPEATED, id="block of 16"),
        pytest.param("aB3-xY9_qRs" * 3 + "aB3-xY9_qQ=", REPEATED, id="typed block"),
        pytest.param(encoded(bytes(range(32))), SEQUENCE, id="ascending"),
        pytest.param(encoded(bytes(range(0, 256, 8))), SEQUENCE, id="ascending by 8"),
        pytest.param(encoded(bytes(range(200, 168, -1))), SEQUENCE, id="descending"),
        pytest.param("abcdefghijklmnopqrstuvwxyzX9_k2Qp-7LmZ4vRt8=", SEQUENCE, id="alphabet"),
        pytest.param("X9_k2Qp-7LmZ4vRt8onmlkjihgfedcbaT5yW0sHj1cU=", SEQUENCE, id="reversed alphabet"),
        pytest.param(encoded(b"correct horse battery staple ok!"), TEXT, id="passphrase"),
        pytest.param(encoded(b"Change-Me: {THE} [FERNET] <key>!"), TEXT, id="punctuation"),
        pytest.param(encoded(b"correct horse battery".ljust(32, b"\0")), TEXT, id="padded passphrase"),
        pytest.param(encoded(hashlib.sha256(b"x").hexdigest()[:32].encode()), TEXT, id="hexadecimal"),
        pytest.param(
            encoded(bytes(b"\x07\xc1\x92\xfe"[value % 4] for value in hashlib.sha256(b"x").digest())), FEW, id="4 bytes"
        ),
        pytest.param("zQ9w0zQ0w9Qz9w0QQzw90z9wQz0w9Q0wz9Qw0zQw9z0=", FEW, id="typed"),
    ],
)
def test_weak_key(key, pattern):
    (finding,) = weaknesses(key, "APIKEY_FERNET_KEY")
    assert (finding.code, finding.severity) == ("fernet_key_weak", Severity.PROBLEM)
    assert f"APIKEY_FERNET_KEY is not random: {pattern}" in finding.message
    assert key not in repr(finding)


def test_random_keys_are_not_weak():
    for seed in range(1000):
        random_bytes = hashlib.sha256(str(seed).encode()).digest()
        assert not [*weaknesses(encoded(random_bytes), "APIKEY_FERNET_KEY", ["a secret key", b"another"])]


def test_published_key():
    assert [finding.code for finding in weaknesses(SPECIFICATION_KEY, "APIKEY_FERNET_KEY")] == ["fernet_key_published"]
    # The last character has two bits without meaning.
    assert is_published(SPECIFICATION_KEY.replace("4e4=", "4e5="))


def test_every_key_in_our_documentation_is_reported():
    printed = {
        key
        for pattern in ("*.md", "docs/**/*.rst", "example_app/**/*.py", "tests/**/*.py")
        for path in ROOT.glob(pattern)
        for key in re.findall(r"(?<![\w-])[\w-]{43}=(?![\w=])", path.read_text(encoding="utf-8"), re.ASCII)
    }
    assert SPECIFICATION_KEY in printed
    assert [key for key in printed if not is_published(key) and weak_pattern(key) is None] == []


@pytest.mark.parametrize(
    ("from_key", "message"),
    [
        pytest.param(lambda key: key, "has the same value as SECRET_KEY", id="text"),
        pytest.param(lambda key: key.encode(), "has the same value as SECRET_KEY", id="bytes"),
        pytest.param(lambda key: key.rstrip("="), "has the same value as SECRET_KEY", id="without padding"),
        pytest.param(base64.urlsafe_b64decode, "has the same value as SECRET_KEY", id="decoded"),
        pytest.param(lambda key: base64.urlsafe_b64decode(key).hex(), "has the same value as SECRET_KEY", id="hex"),
        pytest.param(lambda key: base64.urlsafe_b64decode(key) + b"...", "is derived from SECRET_KEY", id="prefix"),
    ],
)
def test_key_from_secret_key(fernet_key, from_key, message):
    for secret_keys in ([from_key(fernet_key)], ["another", from_key(fernet_key)]):
        (finding,) = weaknesses(fernet_key, "APIKEY_FERNET_KEY", secret_keys)
        assert finding.code == "fernet_key_is_secret_key"
        assert finding.message.startswith(f"APIKEY_FERNET_KEY {message}.")


@pytest.mark.parametrize("secret_key", ["some secret", b"\xff\x00 some secret"])
def test_sha_256_of_secret_key(secret_key):
    raw = secret_key.encode() if isinstance(secret_key, str) else secret_key
    (finding,) = weaknesses(encoded(hashlib.sha256(raw).digest()), "APIKEY_FERNET_KEY", [secret_key])
    assert finding.message.startswith("APIKEY_FERNET_KEY is derived from SECRET_KEY.")


@pytest.mark.parametrize("secret_keys", [[None], [""], [b""], [42], []])
def test_missing_secret_key(fernet_key, secret_keys):
    assert not [*weaknesses(fernet_key, "APIKEY_FERNET_KEY", secret_keys)]


class TestWarningsAtTheStart:
    @staticmethod
    def logged(caplog):
        return [
            (record.levelno, record.reason) for record in caplog.records if vars(record).get("event") == "configuration"
        ]

    def test_random_key(self, make_app, caplog):
        APIKeys(make_app())
        assert self.logged(caplog) == []

    def test_once_per_application(self, make_app, caplog):
        for count in (1, 2):
            app = make_app(APIKEY_FERNET_KEY=SPECIFICATION_KEY, APIKEY_AUDIT_LOGGING=False)
            APIKeys(app)
            app.test_client().get("/")
            assert self.logged(caplog) == [(logging.WARNING, "fernet_key_published")] * count
        assert SPECIFICATION_KEY not in caplog.text

    def test_fallbacks_and_secret_key_fallbacks(self, make_app, caplog):
        key = generate_fernet_key()
        APIKeys(make_app(APIKEY_FERNET_KEY_FALLBACKS=[SPECIFICATION_KEY, key], SECRET_KEY_FALLBACKS=[key]))
        assert [reason for _, reason in self.logged(caplog)] == ["fernet_key_published", "fernet_key_is_secret_key"]
        assert "APIKEY_FERNET_KEY_FALLBACKS[0] is printed" in caplog.text
        assert "APIKEY_FERNET_KEY_FALLBACKS[1] has the same value" in caplog.text

    def test_mode_of_the_key_file(self, make_app, tmp_path, fernet_key, caplog):
        path = tmp_path / "fernet_key"
        path.write_text(fernet_key)
        path.chmod(0o644)
        APIKeys(make_app(APIKEY_FERNET_KEY=None, APIKEY_FERNET_KEY_FILE=path))
        assert self.logged(caplog) == [(logging.WARNING, "fernet_key_file_mode")]
        assert f"{path} (mode 0644)" in caplog.text

    @pytest.mark.parametrize("debug", [False, True])
    def test_source_is_searched_in_debug_mode_only(self, make_app, tmp_path, fernet_key, caplog, debug):
        (tmp_path / "shop.py").write_text(f"\nKEY = {fernet_key!r}\n")
        APIKeys(make_app(DEBUG=debug))
        assert self.logged(caplog) == [(logging.WARNING, "fernet_key_in_source")] * debug
        assert (f"APIKEY_FERNET_KEY is in the source code. ({tmp_path / 'shop.py'}:2)" in caplog.text) is debug
        assert fernet_key not in caplog.text

    def test_inaccessible_directories_are_skipped(self, make_app, tmp_path, fernet_key, caplog, monkeypatch):
        locked, listed = tmp_path / "pgdata", tmp_path / "listed"
        for directory in (locked, listed):
            directory.mkdir()
        for path in (listed / "a.py", tmp_path / "z.py"):
            path.write_text(fernet_key)
        original = os.stat

        # Modes would not stop root, who runs the tests in containers.
        def stat(path, **options):
            if isinstance(path, str | os.PathLike) and Path(path).parent in (locked, listed):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return original(path, **options)

        monkeypatch.setattr(os, "stat", stat)
        APIKeys(make_app(DEBUG=True))
        assert self.logged(caplog) == [(logging.WARNING, "fernet_key_in_source")]
        assert f"({tmp_path / 'z.py'}:1)" in caplog.text
