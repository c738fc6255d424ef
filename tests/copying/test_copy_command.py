"""What ``flask apikey copy`` takes, and what it never shows."""

import pytest

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.uris import redacted_uri


@pytest.mark.parametrize(
    "options", [["--from", "sqlite:///same.db", "--to", "sqlite:///same.db"], ["--dry-run", "--verify"], []]
)
def test_wrong_usage(make_app, options):
    app = make_app()
    APIKeys(app)
    assert app.test_cli_runner().invoke(apikey, ["copy", *options]).exit_code == 2


def test_an_unreachable_storage_is_one_line_without_the_password(copy, unused_port):
    result = copy("--from", f"postgresql://user:hunter2@127.0.0.1:{unused_port}/x")
    assert result.exit_code == 1
    assert "hunter2" not in result.output
    assert len(result.stderr.splitlines()) == 1


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
def test_passwords_are_not_shown(uri, shown):
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
def test_a_failure_does_not_show_what_the_query_of_a_uri_has(make_app, unused_port, scheme, query):
    app = make_app()
    APIKeys(app)
    uri = f"{scheme}://user@127.0.0.1:{unused_port}/x?{query}"
    result = app.test_cli_runner().invoke(apikey, ["copy", "--from", uri, "--json"])
    assert result.exit_code == 1
    assert "hunter2" not in result.output
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_copy_shows_neither_side_with_what_its_query_has(source, target, copy, source_uri, options):
    result = copy("--from", f"{source_uri}?check_same_thread=false&timeout=17", *options)
    assert result.exit_code == 0, result.output
    assert f"{source_uri}?***" in result.output
    assert "timeout" not in result.output
