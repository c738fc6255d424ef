"""Dry runs of a copy, and storages without tables."""

import json
import sqlite3
from contextlib import closing

import mongomock_ng
import pytest

from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keys import Rotation
from flask_apikey.testing.samples import NOW
from flask_apikey_mongodb import MongoDBBackend
from tests.core.copying.storages import MIDNIGHT, all_rows, app_with_keys, used

EVERYTHING = {"added": 5, "events": 7, "counts": 6, "last_uses": 1, "rotation": True}


@pytest.fixture
def filled(make_app, source_uri, source):
    """A source with keys, history, usage and a rotation."""
    app_with_keys(make_app, source_uri)
    used(source, all_rows(source)[:1], [MIDNIGHT])
    source.rotation.put(
        Rotation(from_fingerprint="a" * 16, to_fingerprint="b" * 16, started_at=NOW, due_at=NOW), expected_version=0
    )
    return source


def test_dry_run_writes_nothing(filled, target, copy):
    report = json.loads(copy("--dry-run", "--json").stdout)
    assert report == {**report, **EVERYTHING}
    assert all_rows(target) == list(target.usage.all_rows()) == []


@pytest.fixture
def file_of_another_application(filled, tmp_path):
    """A file with the content of the source, without a write-ahead log."""
    path = tmp_path / "another.db"
    with closing(sqlite3.connect(tmp_path / "source.db")) as connection:
        connection.execute("VACUUM INTO ?", [str(path)]).close()
    return path


@pytest.mark.parametrize("options", [["--dry-run"], ["--verify"]], ids=["dry-run", "copy"])
def test_source_file_stays_as_it_is(file_of_another_application, copy, options):
    """Not even the journal mode changes."""
    stored = file_of_another_application.read_bytes()
    assert copy("--from", f"sqlite:///{file_of_another_application}", *options).exit_code == 0
    assert file_of_another_application.read_bytes() == stored


def test_dry_run_keeps_the_file_of_the_target(file_of_another_application, copy):
    stored = file_of_another_application.read_bytes()
    assert copy("--to", f"sqlite:///{file_of_another_application}", "--dry-run").exit_code == 0
    assert file_of_another_application.read_bytes() == stored


def test_immutable_source_is_copied(file_of_another_application, copy):
    uri = f"sqlite:///file:{file_of_another_application}?immutable=1&uri=true"
    result = copy("--from", uri, "--verify", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["verified"] is True


def drop(backend, *names):
    tables = [backend._metadata.tables[name] for name in names or backend._metadata.tables]
    backend._metadata.drop_all(backend._opened.get().engine, tables=tables)


def test_target_without_tables_is_empty(filled, target, copy):
    drop(target)
    report = json.loads(copy("--dry-run", "--json").stdout)
    assert report == {**report, **EVERYTHING}
    assert "table flask_apikey_keys" in target.missing_parts()
    assert copy().exit_code == 0


def test_target_without_a_file_is_empty(filled, tmp_path, copy):
    path = tmp_path / "new.db"
    report = json.loads(copy("--to", f"sqlite:///{path}", "--dry-run", "--json").stdout)
    assert report == {**report, **EVERYTHING}
    assert not path.exists()
    assert copy("--to", f"sqlite:///{path}", "--verify").exit_code == 0


def test_target_that_lacks_some_tables_is_completed(filled, target, copy):
    assert copy().exit_code == 0
    drop(target, "flask_apikey_usage", "flask_apikey_last_uses", "flask_apikey_rotation")
    result = copy("--dry-run", "--json")
    expected = {**EVERYTHING, "added": 0, "unchanged": 5, "events": 0}
    assert json.loads(result.stdout) == {**json.loads(result.stdout), **expected}


def test_mongodb_without_collections_is_empty(filled, copy, monkeypatch):
    target = MongoDBBackend(mongomock_ng.MongoClient())
    monkeypatch.setattr("flask_apikey.cli.copy_command.backend_for", lambda _: target)
    report = json.loads(copy("--dry-run", "--json").stdout)
    assert report == {**report, **EVERYTHING}
    assert target._keys.database.list_collection_names() == []


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_source_without_tables_is_an_error(source, target, copy, options):
    drop(source)
    result = copy(*options)
    assert result.exit_code == 1
    assert "the tables do not exist yet" in result.stderr


def test_failing_target_is_not_empty(filled, target, copy, monkeypatch):
    def fail(*_, **__):
        raise StorageError("the database failed: gone")

    monkeypatch.setattr(type(target), "missing_parts", fail)
    drop(target)
    result = copy("--dry-run")
    assert result.exit_code == 1
    assert "gone" in result.stderr
