"""Files that commands read and write: modes, byte-order marks, sources that nobody may write."""

import hashlib
import sqlite3
import stat
from contextlib import closing

import pytest
from flask import Flask

from flask_apikey import APIKeys, ConfigurationError
from flask_apikey.cli import apikey
from flask_apikey.core.storage.registry import backend_for


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.db"


@pytest.fixture
def app(file, fernet_key):
    app = Flask(__name__)
    app.config.update(APIKEY_FERNET_KEY=fernet_key, APIKEY_STORAGE_URI=f"sqlite:///{file}")
    app.api_keys = APIKeys(app)
    yield app
    app.api_keys.close()


@pytest.fixture
def run(app):
    def run(*arguments, sent=b""):
        return app.test_cli_runner().invoke(apikey, arguments, input=sent)

    return run


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_sqlite_file_is_private(run, file):
    assert run("init").exit_code == 0
    assert run("create", "ci").exit_code == 0
    assert {path.name: mode(path) for path in file.parent.glob("keys.db*")} == {
        path.name: 0o600 for path in file.parent.glob("keys.db*")
    }


def test_existing_file_keeps_its_mode(run, file):
    file.touch(mode=0o640)
    assert run("init").exit_code == 0
    assert mode(file) == 0o640


def test_file_of_a_missing_folder(run, app, tmp_path):
    with pytest.raises(Exception, match="its folder does not exist"):
        backend_for(f"sqlite:///{tmp_path}/no/keys.db").init_storage()


def test_doctor_warns_of_a_file_that_others_read(run, file):
    run("init")
    assert "storage_file_mode" not in run("doctor").output
    file.chmod(0o644)
    assert "storage_file_mode" in run("doctor").output


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_verify_reads_files_of_any_editor(run, encoding, end):
    run("init")
    key = run("create", "ci").stdout.strip()
    sent = f"{key}{end}".encode(encoding)
    if encoding == "utf-16-be":
        sent = b"\xfe\xff" + sent
    assert run("verify", sent=sent).exit_code == 0


def test_expected_heads_may_begin_with_a_mark(run, tmp_path):
    run("init")
    run("create", "ci")
    noted = tmp_path / "heads.jsonl"
    assert run("audit", "--verify", "--note", str(noted)).exit_code == 0
    noted.write_bytes(b"\xef\xbb\xbf" + noted.read_bytes())
    assert run("audit", "--verify", "--expect", str(noted)).exit_code == 0


def test_dry_run_of_a_copy_leaves_its_source_as_it_is(run, app, file, tmp_path):
    run("init")
    run("create", "ci")
    app.api_keys.close()
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    target = tmp_path / "target.db"
    backend_for(f"sqlite:///{target}").init_storage()
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        # Even a transaction that writes nothing would wait for this one, and fail.
        writer.execute("BEGIN IMMEDIATE")
        copied = run("copy", "--from", f"sqlite:///{file}?timeout=0.1", "--to", f"sqlite:///{target}", "--dry-run")
        assert copied.exit_code == 0
        writer.execute("ROLLBACK")
    app.api_keys.close()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://app:p@ssword@127.0.0.1:1/app",
        "postgresql://app:p@ss/word@127.0.0.1:1/app",
        "mysql://app:p@ssword@127.0.0.1:1/app",
        "mysql://app:p@ss:word@127.0.0.1:1/app",
        "mongodb://app:p@ssword@127.0.0.1:1/app",
    ],
)
def test_password_that_is_not_encoded_is_refused(uri):
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        backend_for(uri)
    assert "@127" not in str(caught.value)
