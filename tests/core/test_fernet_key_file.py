"""Fernet key in a file."""

import os

import pytest

from flask_apikey import APIKeys, ConfigurationError
from flask_apikey.core import fernet_key_file
from flask_apikey.core.fernet_key_file import loose_mode, read_key_file
from flask_apikey.settings import Settings


@pytest.fixture
def path(tmp_path, fernet_key):
    path = tmp_path / "fernet_key"
    path.write_text(fernet_key)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("content", ["{}", "{}\n", "  {}\r\n\n", "\ufeff{}\n"])
def test_white_space_and_byte_order_mark_are_removed(path, fernet_key, content):
    path.write_text(content.format(fernet_key), encoding="utf-8")
    for setting in (path, str(path)):
        settings = Settings.from_config({"APIKEY_FERNET_KEY_FILE": setting})
        assert settings.fernet_key == fernet_key
        assert fernet_key not in repr(settings)


def test_application_with_a_key_file(make_app, path):
    app = make_app(APIKEY_FERNET_KEY=None, APIKEY_FERNET_KEY_FILE=path)
    api_keys = APIKeys(app)
    with app.app_context():
        assert api_keys.verify(api_keys.create(name="ci").key).accepted


def refusal(**config):
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_config(config)
    assert refused.value.__cause__ is None
    return str(refused.value)


def test_key_and_key_file_are_mutually_exclusive(path, fernet_key):
    message = refusal(APIKEY_FERNET_KEY=fernet_key, APIKEY_FERNET_KEY_FILE=path)
    assert "both" in message
    assert fernet_key not in message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be used: No such file or directory"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"\xff\xfe\x00", "it is not text"),
        (b"s3cret" * 1000, "more than 4096 bytes"),
        (b"s3cret", "does not hold a Fernet key"),
        (b"s3cret\n" + b"A" * 44, "does not hold a Fernet key"),
    ],
)
def test_invalid_file_is_refused_and_not_quoted(path, content, reason):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    message = refusal(APIKEY_FERNET_KEY_FILE=path)
    assert message.startswith(f"APIKEY_FERNET_KEY_FILE: {path} ")
    assert reason in message
    assert "s3cret" not in message


@pytest.mark.parametrize("value", ["", "  ", 3, b"path"])
def test_invalid_path(value):
    assert "APIKEY_FERNET_KEY_FILE: must be the path" in refusal(APIKEY_FERNET_KEY_FILE=value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_named_pipe_and_directory_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        read_key_file(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"not a regular file|Is a directory"):
        read_key_file(tmp_path)


@pytest.mark.parametrize(
    ("is_own", "mode", "is_loose"),
    [
        *((True, mode, is_loose) for mode, is_loose in ((0o400, False), (0o600, False), (0o640, True), (0o604, True))),
        *((False, mode, is_loose) for mode, is_loose in ((0o440, False), (0o640, False), (0o660, True), (0o644, True))),
    ],
)
def test_loose_mode(path, is_own, mode, is_loose, monkeypatch):
    path.chmod(mode)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner if is_own else owner + 1)
    assert loose_mode(path) == (mode if is_loose else None)


def test_docker_secret_may_have_any_mode(path, monkeypatch):
    path.chmod(0o444)
    assert loose_mode(path) == 0o444
    monkeypatch.setattr(fernet_key_file, "SECRET_DIRECTORIES", (path.parent,))
    assert loose_mode(path) is None


def test_kubernetes_secret_may_have_any_mode(tmp_path):
    mount = tmp_path / "mount"
    version = mount / "..2024_05_01_12_00_00.123"
    version.mkdir(parents=True)
    (version / "fernet_key").touch(0o644)
    (mount / "..data").symlink_to(version.name)
    (mount / "fernet_key").symlink_to("..data/fernet_key")
    assert loose_mode(mount / "fernet_key") is None
    link = tmp_path / "link"
    link.symlink_to(mount / "fernet_key")
    assert loose_mode(link) is None
