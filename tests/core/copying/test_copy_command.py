"""Options, errors and redaction of ``flask apikey copy``."""

import json
import sqlite3
from contextlib import closing

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.usage import DAY
from flask_apikey.core.text import redacted_uri
from flask_apikey_sql.usage import SQLUsage
from tests.core.copying.storages import MIDNIGHT, all_rows, used


@pytest.mark.parametrize(
    "options", [["--from", "sqlite:///same.db", "--to", "sqlite:///same.db"], ["--dry-run", "--verify"], []]
)
def test_wrong_usage(make_app, options):
    app = make_app()
    APIKeys(app)
    assert app.test_cli_runner().invoke(apikey, ["copy", *options]).exit_code == 2


def test_missing_source_is_named_and_not_created(copy, tmp_path):
    path = tmp_path / "none.db"
    for options in (["--to", f"sqlite:///{tmp_path}/target.db"], ["--dry-run"], ["--verify"]):
        result = copy("--from", f"sqlite:///{path}", *options)
        assert result.exit_code == 1
        assert result.stderr == (
            f"Error: source sqlite:///{path}: the SQLite file {path} does not exist: "
            "correct its path, or make it with 'flask apikey init'\n"
        )
    assert list(tmp_path.glob("*.db*")) == []


def test_failing_side_is_named(source, copy, unused_port, tmp_path):
    away = f"postgresql://user:hunter2@127.0.0.1:{unused_port}/x"
    shown = f"postgresql://user:***@127.0.0.1:{unused_port}/x"
    with closing(sqlite3.connect(tmp_path / "empty.db")):
        pass
    for options, message in (
        (["--from", away], f"source {shown}: the database failed: "),
        (["--to", away], f"target {shown}: the database failed: "),
        (["--to", "nosuch://x"], "target nosuch://x: no storage backend is registered"),
        (["--to", f"sqlite:///{tmp_path}/no/folder.db"], f"target sqlite:///{tmp_path}/no"),
        (
            ["--from", f"sqlite:///{tmp_path}/empty.db"],
            f"source sqlite:///{tmp_path}/empty.db: the tables do",
        ),
    ):
        result = copy(*options)
        assert result.exit_code == 1
        assert "hunter2" not in result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"Error: {message}")


def test_failure_during_the_copy_names_both_sides(source, copy, target_uri, monkeypatch):
    def fail(*_, **__):
        raise StorageError("the database failed: gone")

    monkeypatch.setattr(type(source.history), "chains", fail)
    result = copy()
    assert result.stderr.splitlines()[-1] == (
        f"Error: from the application's storage to {redacted_uri(target_uri)}: the database failed: gone"
    )


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://user:p@ss:w/ord@host/x", "postgresql://user:***@host/x"),
        ("postgresql://user:@host/x", "postgresql://user:***@host/x"),
        ("postgresql://user@host/x", "postgresql://user@host/x"),
        ("mongodb://user:secret@a,b/x", "mongodb://user:***@a,b/x"),
        ("mongodb://host/x?tlsCertificateKeyFilePassword=secret", "mongodb://host/x?***"),
        ("mongodb://user:secret@host/x?replicaSet=rs0", "mongodb://user:***@host/x?***"),
        ("postgresql:///x?user=u&password=secret", "postgresql:///x?***"),
        ("postgresql://host:5432/x?user=u&password=sec@ret", "postgresql://***"),
        ("postgresql://user:sec?ret@host/x", "postgresql://***"),
        ("postgresql://user:sec?ret@host/x?sslpassword=secret", "postgresql://***"),
        ("mine:user:secret@host", "mine:***"),
        ("sqlite:////var/keys.db", "sqlite:////var/keys.db"),
        ("sqlite:////home/me@work/keys.db", "sqlite:////home/me@work/keys.db"),
    ],
)
def test_passwords_are_redacted(uri, shown):
    assert redacted_uri(uri) == shown


@pytest.mark.parametrize(
    ("scheme", "query"),
    [
        ("postgresql", "password=hunter2"),
        ("postgresql", "sslpassword=hunter2&sslmode=nonsense"),
        ("postgresql", "sslpassword=hunter2&nonsense=hunter2"),
        ("mysql", "password=hunter2"),
        ("mongodb", "tls=true&tlsCertificateKeyFilePassword=hunter2"),
    ],
)
def test_failure_redacts_the_query_of_a_uri(make_app, unused_port, scheme, query):
    app = make_app()
    APIKeys(app)
    uri = f"{scheme}://user@127.0.0.1:{unused_port}/x?{query}"
    result = app.test_cli_runner().invoke(apikey, ["copy", "--from", uri, "--json"])
    assert result.exit_code == 1
    assert "hunter2" not in result.output
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_report_redacts_the_query_of_a_uri(source, target, copy, source_uri, options):
    result = copy("--from", f"{source_uri}?cached_statements=17&timeout=17", *options)
    assert result.exit_code == 0, result.output
    assert f"{source_uri}?***" in result.output
    assert "timeout" not in result.output


class TestUsage:
    @pytest.fixture(autouse=True)
    def used_keys(self, source, at_source):
        keys = at_source.add(5)
        used(source, keys, [MIDNIGHT])
        return keys

    def test_verify_reports_usage_of_both_sides(self, copy, source, target):
        result = copy("--verify", "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert (report["counts"], report["last_uses"], report["verified"]) == (30, 5, True)
        assert (report["usage_compared"], report["left_behind"]) == (True, [])
        assert report["source"]["requests"] == report["target"]["requests"] == 30
        assert list(target.usage.all_rows()) == list(source.usage.all_rows())

    def test_verify_finds_missing_counts(self, copy, target, monkeypatch):
        monkeypatch.setattr(SQLUsage, "put", lambda self, rows, uses: None)
        result = copy("--verify", "--json")
        assert result.exit_code == 1
        assert json.loads(result.stdout)["verified"] is False

    def test_verify_finds_doubled_counts(self, copy, source, target, used_keys, monkeypatch):
        assert copy().exit_code == 0
        used(source, used_keys[:2], [MIDNIGHT, MIDNIGHT + 1], count=2)
        put = SQLUsage.put

        def fold_and_put(self, rows, uses):
            if rows:
                self.fold(before=MIDNIGHT + DAY)
            return put(self, rows, uses)

        monkeypatch.setattr(SQLUsage, "put", fold_and_put)
        result = copy("--verify", "--json")
        assert result.exit_code == 1
        assert "it has counted more requests of key" in result.stderr

    def test_target_without_usage_gets_the_keys(self, copy, target, backend, monkeypatch):
        plain = type(backend)(target)
        monkeypatch.setattr("flask_apikey.cli.copy_command.backend_for", lambda _: plain)
        result = copy("--verify")
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines()[-2:] == [
            "Every key of the source is at the target.",
            "Left behind, because the target does not keep it: usage, history, rotation.",
        ]
        report = json.loads(copy("--verify", "--json").stdout)
        assert (report["verified"], report["usage_compared"]) == (True, False)
        assert report["left_behind"] == ["usage", "history", "rotation"]
        assert "usage, history, rotation" in copy("--dry-run").stderr
        assert len(all_rows(target)) == 5
        assert list(target.usage.all_rows()) == []
