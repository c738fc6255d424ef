"""The ``flask apikey`` commands, through click and through the installed entry point."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet
from flask import Flask

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.model import keystring


class CommandLine:
    """Runs commands for one application."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        runner = self._app.test_cli_runner()
        return runner.invoke(apikey, list(arguments), input=stdin)

    def json(self, *arguments: str, stdin: str = "") -> dict:
        result = self(*arguments, "--json", stdin=stdin)
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)


@pytest.fixture
def app(tmp_path, clock):
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config["APIKEY_FERNET_KEY"] = Fernet.generate_key().decode()
    APIKeys(app, clock=clock)
    return app


@pytest.fixture
def run(app):
    run = CommandLine(app)
    assert run("init").exit_code == 0
    return run


@pytest.fixture
def created(run):
    return run.json("create", "ci", "--owner", "team-7", "--scope", "reports:read")


def run_flask(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [Path(sys.executable).with_name("flask"), "apikey", *arguments],
        cwd=cwd,
        env={**{name: value for name, value in os.environ.items() if name != "FLASK_APP"}, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
def test_generate_fernet_key_without_application(tmp_path):
    result = run_flask("generate-fernet-key", cwd=tmp_path, FLASK_APP="missing_module")
    assert result.returncode == 0
    Fernet(result.stdout.strip())
    assert "source code" in result.stderr


def test_application_without_extension():
    result = Flask(__name__).test_cli_runner().invoke(apikey, ["list"])
    assert result.exit_code == 1
    assert "init_app" in result.stderr


def test_missing_tables(app):
    result = CommandLine(app)("list")
    assert result.exit_code == 1
    assert "flask apikey init" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_init_is_idempotent(run):
    assert run.json("init") == {"initialized": True}


def test_create_prints_only_the_key_on_stdout(run):
    result = run("create", "nightly job")
    assert result.exit_code == 0
    assert keystring.parse(result.stdout.strip()) is not None
    assert result.stdout.count("\n") == 1
    assert result.stdout.strip() not in result.stderr
    assert "nightly job" in result.stderr


def test_create_with_all_options(run, clock):
    created = run.json(
        *("create", "ci", "--owner", "team-7", "--scope", "a", "--scope", "b", "--lifetime", "90d"),
        *("--allow-ip", "10.0.0.0/8", "--deny-ip", "10.0.0.1", "--metadata", '{"plan": "gold"}'),
    )
    assert created["owner"] == "team-7"
    assert created["scopes"] == ["a", "b"]
    assert created["expires_at"] == (clock() + timedelta(days=90)).isoformat()
    assert created["allowed_ips"] == ["10.0.0.0/8"]
    assert created["denied_ips"] == ["10.0.0.1/32"]
    assert created["metadata"] == {"plan": "gold"}
    assert created["status"] == "active"


@pytest.mark.parametrize(
    ("options", "expires_at"),
    [
        (["--lifetime", "never"], None),
        (["--expires", "2030-01-31"], "2030-01-31T00:00:00+00:00"),
        (["--expires", "2030-01-31T12:00:00+02:00"], "2030-01-31T10:00:00+00:00"),
        (["--expires", "2030-01-31T10:00:00Z"], "2030-01-31T10:00:00+00:00"),
        (["--expires", "30d"], "2026-01-31T00:00:00+00:00"),
    ],
)
def test_create_expiry(run, options, expires_at):
    assert run.json("create", "ci", *options)["expires_at"] == expires_at


@pytest.mark.parametrize("past", ["2025-12-31", "0s"])
def test_create_refuses_past_expiry(run, past):
    result = run("create", "ci", "--expires", past)
    assert (result.exit_code, result.stderr) == (1, "Error: expires_at must be in the future\n")
    assert run.json("list")["keys"] == []


@pytest.mark.parametrize("command", ["create", "update"])
def test_unusual_scope_is_stored_with_warning(run, created, command):
    subject = created["id"] if command == "update" else "ci"
    result = run(command, subject, "--scope", "a,b", "--scope", "orders:*", "--scope", "*", "--scope", "a:b", "--json")
    assert result.stderr.splitlines() == [
        "scope 'a,b' has a comma: for several scopes, repeat --scope",
    ]
    assert json.loads(result.stdout)["scopes"] == ["*", "a,b", "a:b", "orders:*"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lifetime", "90d", "--expires", "2030-01-31"], "cannot be combined"),
        (["--expires", "soon"], "such as 30d"),
        (["--expires", "999999999d"], "outside the years"),
        (["--lifetime", "soon"], "such as 90d"),
        (["--metadata", "[1]"], "JSON object"),
        (["--metadata", "{"], "not JSON"),
    ],
)
def test_create_usage_errors(run, arguments, message):
    result = run("create", "ci", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bad\x00name"], "U+0000"),
        (["ci", "--scope", "two words"], "not a scope"),
        (["ci", "--scope", "orders*"], "'*' may only stand alone"),
        (["ci", "--allow-ip", "300.0.0.1"], "allowed_ips"),
        (["ci", "--allow-ip", "10.0.0.1/8"], "host bits"),
    ],
)
def test_create_refuses_invalid_values(run, arguments, message):
    result = run("create", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert run.json("list")["keys"] == []


def test_list_pagination(run, clock):
    names = [f"key {number}" for number in range(5)]
    for name in names:
        run("create", name)
        clock.advance(timedelta(seconds=1))
    first = run.json("list", "--limit", "3")
    second = run.json("list", "--limit", "3", "--after", first["next"])
    assert [key["name"] for key in first["keys"] + second["keys"]] == names
    assert second["next"] is None
    assert f"--after {first['next']}" in run("list", "--limit", "3").stderr


def test_list_filters(run, clock, created):
    other = run.json("create", "short", "--lifetime", "1h")
    clock.advance(timedelta(hours=2))
    run("revoke", created["id"], "--yes")
    assert [key["id"] for key in run.json("list", "--status", "revoked")["keys"]] == [created["id"]]
    assert [key["id"] for key in run.json("list", "--status", "expired")["keys"]] == [other["id"]]
    assert run.json("list", "--status", "active")["keys"] == []
    assert [key["id"] for key in run.json("list", "--owner", "team-7")["keys"]] == [created["id"]]


def test_list_expiring(run, created):
    soon = run.json("create", "soon", "--lifetime", "14d")
    run("create", "later", "--lifetime", "15d")
    assert [key["id"] for key in run.json("list", "--expiring", "14d")["keys"]] == [soon["id"]]
    assert run.json("list", "--expiring", "14d", "--owner", "team-7")["keys"] == []
    result = run("list", "--expiring", "14d", "--status", "revoked")
    assert result.exit_code == 2
    assert "cannot be combined with --status revoked" in result.stderr


def test_list_table(run, created):
    header, line = run("list").stdout.splitlines()
    assert header.split() == ["ID", "STATUS", "EXPIRES", "(UTC)", "LAST", "USED", "(UTC)", "NAME", "OWNER", "SCOPES"]
    assert line.split()[:2] == [created["id"], "active"]
    assert line.split()[-3:] == ["ci", "team-7", "reports:read"]


CONTROL_CHARACTERS = "\x9b2J\u202e\x7f\x08\x1bc\u2028"


@pytest.mark.parametrize("command", ["show", "show --json", "list", "list --json", "audit", "audit --json", "usage"])
def test_control_characters_are_escaped(run, tmp_path, command):
    issued = run.json("create", "ci", "--metadata", json.dumps({"customer": CONTROL_CHARACTERS}))
    with closing(sqlite3.connect(tmp_path / "api_keys.db")) as database, database:
        database.execute("UPDATE flask_apikey_keys SET name = ?", [f"forged{CONTROL_CHARACTERS}"])
        database.execute(
            "UPDATE flask_apikey_events SET details = ?", [json.dumps(CONTROL_CHARACTERS, ensure_ascii=False)]
        )
    name, *options = command.split()
    result = run(name, *([issued["id"]] if name in {"show", "usage"} else []), *options)
    assert result.exit_code == 0
    assert result.stdout.replace("\n", "").isprintable()
    if options and name == "show":
        assert json.loads(result.stdout)["metadata"] == {"customer": CONTROL_CHARACTERS}


def test_list_without_keys(run):
    assert "No keys." in run("list").stderr


def test_show(run, created):
    shown = run("show", created["id"]).stdout
    assert "reports:read" in shown
    assert created["key"] not in shown
    expected = {name: value for name, value in created.items() if name != "key"}
    assert run.json("show", created["id"]).items() >= expected.items()


@pytest.mark.parametrize("command", [["show"], ["update", "--name", "x"], ["revoke", "--yes"], ["roll", "--yes"]])
def test_unknown_id(run, command):
    unknown = keystring.new_id()
    result = run(command[0], unknown, *command[1:])
    assert result.exit_code == 1
    assert result.stderr == f"Error: no key has the id {unknown}\n"


@pytest.mark.parametrize(
    "arguments", ["verify {}", "show x {}", "list --status {}", "usage --html /nowhere/at/all/{}", "{}"]
)
def test_misplaced_key_is_redacted(run, created, arguments):
    result = run(*arguments.format(created["key"]).split())
    assert result.exit_code in {1, 2}
    assert f"{created['id']}_[redacted]" in result.stderr
    assert created["key"][-49:] not in result.output


def test_update_changes_given_fields_only(run, created):
    updated = run.json("update", created["id"], "--name", "renamed", "--expires", "30d")
    assert updated["name"] == "renamed"
    assert updated["expires_at"] == "2026-01-31T00:00:00+00:00"
    assert updated["scopes"] == created["scopes"]
    assert updated["version"] == 2


@pytest.mark.parametrize("past", ["2025-12-31", "0s"])
def test_update_confirms_past_expiry(run, created, past):
    assert run("update", created["id"], "--expires", past, stdin="n\n").exit_code == 1
    assert run.json("show", created["id"])["version"] == 1
    assert "expires at once" in run("update", created["id"], "--expires", past, stdin="y\n").stderr
    assert run.json("show", created["id"])["status"] == "expired"
    assert run("update", created["id"], "--expires", "2025-12-30").exit_code == 0
    other = run.json("create", "other")
    assert run.json("update", other["id"], "--expires", past, "--yes")["status"] == "expired"


def test_update_clears_fields(run):
    created = run.json("create", "ci", "--owner", "o", "--scope", "a", "--allow-ip", "::1", "--deny-ip", "::2")
    emptied = run.json(
        *("update", created["id"], "--owner", "", "--no-scopes", "--allow-any-ip", "--deny-no-ip", "--never-expires")
    )
    assert (emptied["owner"], emptied["expires_at"]) == (None, None)
    assert emptied["scopes"] == emptied["allowed_ips"] == emptied["denied_ips"] == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--scope", "a", "--no-scopes"],
        ["--allow-ip", "::1", "--allow-any-ip"],
        ["--deny-ip", "::1", "--deny-no-ip"],
        ["--expires", "2030-01-31", "--never-expires"],
        ["--expires", "tomorrow"],
    ],
)
def test_update_usage_errors(run, created, arguments):
    assert run("update", created["id"], *arguments).exit_code == 2
    assert run.json("show", created["id"])["version"] == 1


def test_revoke_confirms(run, created):
    assert run("revoke", created["id"], stdin="n\n").exit_code == 1
    assert run.json("show", created["id"])["status"] == "active"
    assert run("revoke", created["id"], "--reason", "left the company", stdin="y\n").exit_code == 0
    shown = run.json("show", created["id"])
    assert (shown["status"], shown["revocation_reason"]) == ("revoked", "left the company")


def test_roll_with_grace(run, created, clock):
    result = run("roll", created["id"], "--grace", "24h")
    assert "works until 2026-01-02 00:00:00 UTC" in result.stderr
    assert run("verify", stdin=created["key"]).exit_code == 0
    clock.advance(timedelta(hours=24))
    assert run("verify", stdin=created["key"]).exit_code == 1
    assert run("verify", stdin=result.stdout).exit_code == 0


def test_roll_without_grace_confirms(run, created):
    assert run("roll", created["id"], stdin="n\n").exit_code == 1
    assert run("verify", stdin=created["key"]).exit_code == 0
    rolled = run("roll", created["id"], stdin="y\n").stdout.strip().splitlines()[-1]  # Older Click echoes input.
    assert run("verify", stdin=rolled).exit_code == 0
    assert run("verify", stdin=created["key"]).exit_code == 1


def test_verify(run, created):
    assert run("verify", stdin=created["key"]).stderr.startswith("valid: ci")
    run("revoke", created["id"], "--yes")
    assert run("verify", stdin=created["key"]).stderr.startswith("key_revoked: ci")


def test_verify_json(run, created):
    result = run("verify", "--json", stdin=created["key"])
    verified = json.loads(result.stdout)
    assert (verified["valid"], verified["code"], verified["record"]["id"]) == (True, "valid", created["id"])
    result = run("verify", "--json", stdin="nonsense")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"valid": False, "code": "invalid_key", "reason": None, "record": None}


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("", "APIKEY_FERNET_KEY_FALLBACKS"), ("empty", "flask apikey init")],
    ids=["wrong Fernet key", "empty storage"],
)
def test_verify_undecided(run, created, tmp_path, folder, reason):
    app = Flask("other", instance_path=str(tmp_path / folder))
    app.config["APIKEY_FERNET_KEY"] = Fernet.generate_key().decode()
    APIKeys(app)
    result = CommandLine(app)("verify", stdin=created["key"])
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("unavailable: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    result = CommandLine(app)("verify", "--json", stdin=created["key"])
    assert result.exit_code == 3
    document = json.loads(result.stdout)
    assert (document["valid"], document["code"], document["record"]) == (False, "unavailable", None)
    assert reason in document["reason"]


def test_verify_address(run):
    created = run.json("create", "ci", "--allow-ip", "10.0.0.0/8")
    assert run("verify", "--address", "10.1.2.3", stdin=created["key"]).exit_code == 0
    assert run("verify", "--address", "11.1.2.3", stdin=created["key"]).exit_code == 1
    assert "--address" in run("verify", stdin=created["key"]).stderr


@pytest.mark.parametrize("wrong", ["not-an-address", "10.0.0.0/8", ""])
def test_verify_refuses_invalid_address(run, created, wrong):
    result = run("verify", "--address", wrong, stdin=created["key"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "expected an IP address" in result.stderr


def test_reveal_needs_recoverable_keys(run, created):
    result = run("reveal", created["id"])
    assert result.exit_code == 1
    assert "APIKEY_RECOVERABLE" in result.stderr


def test_reveal_prints_only_the_key(tmp_path):
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config.update(APIKEY_FERNET_KEY=Fernet.generate_key().decode(), APIKEY_RECOVERABLE=True)
    APIKeys(app)
    run = CommandLine(app)
    run("init")
    created = run.json("create", "ci")
    assert run("reveal", created["id"]).stdout == created["key"] + "\n"
    rolled = run("roll", created["id"], "--yes").stdout
    assert run("reveal", created["id"]).stdout == rolled


def test_prune(run, clock, created):
    ended = run.json("create", "short", "--lifetime", "1d")
    clock.advance(timedelta(days=92))
    assert run.json("prune", "--dry-run") == {"dry_run": True, "found": 1, "removed": 0}
    declined = run("prune", stdin="n\n")
    assert declined.exit_code == 1
    assert "Remove 1 key permanently?" in declined.stderr
    assert run.json("prune", "--older-than", "95d", "--yes") == {"dry_run": False, "found": 0, "removed": 0}
    assert run.json("prune", "--yes") == {"dry_run": False, "found": 1, "removed": 1}
    assert run("show", ended["id"]).exit_code == 1
    assert run("show", created["id"]).exit_code == 0


@pytest.mark.parametrize("command", ["init", "list", "doctor"])
def test_unusable_instance_folder(tmp_path, command):
    Path(tmp_path, "file").touch()
    app = Flask(__name__, instance_path=str(tmp_path / "file" / "instance"))
    app.config["APIKEY_FERNET_KEY"] = Fernet.generate_key().decode()
    APIKeys(app)
    result = CommandLine(app)(command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: the instance folder {app.instance_path}, ")
    assert result.stderr.count("\n") == 1


def test_every_command_has_help():
    for name, command in apikey.commands.items():
        result = CliRunner().invoke(apikey, [name, "--help"])
        assert result.exit_code == 0
        assert command.help
        assert all(parameter.help for parameter in command.params if parameter.param_type_name == "option")
