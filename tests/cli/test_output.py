"""Output of ``flask apikey`` on unusual standard outputs: closed, full, unread, narrow, colourless, not in Unicode."""

import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from cryptography.fernet import Fernet
from flask import Flask

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.testing import FrozenClock

FLASK = Path(sys.executable).with_name("flask")
MIN_COLUMNS = 105


class Terminal:
    """Runs commands for one application, each in a subprocess.

    Attributes:
        app: The same application in this process, to prepare and check its storage quickly.
    """

    def __init__(self, folder):
        self.folder = folder
        (folder / "wsgi.py").write_text(
            dedent(
                """
                from flask import Flask
                from flask_apikey import APIKeys
                app = Flask(__name__)
                app.config.from_prefixed_env()
                APIKeys(app)
                """
            )
        )
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLASK_")}
        config = {
            "APIKEY_FERNET_KEY": Fernet.generate_key().decode(),
            "APIKEY_RECOVERABLE": True,
            "APIKEY_STORAGE_URI": f"sqlite:///{folder}/keys.db",
        }
        self.environment.update({f"FLASK_{name}": json.dumps(value) for name, value in config.items()})
        self.app = Flask(__name__)
        self.app.config.update(config)
        self.api_keys = APIKeys(self.app)
        with self.app.app_context():
            self.api_keys.init_storage()

    def __call__(self, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, wrapper=()):
        return subprocess.run(
            [*wrapper, FLASK, "apikey", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            check=False,
        )

    def closed(self, *arguments):
        return self(*arguments, stdout=None, wrapper=["sh", "-c", 'exec "$0" "$@" >&-'])

    def full(self, *arguments):
        with Path("/dev/full").open("w") as device:
            return self(*arguments, stdout=device)

    def unread(self, *arguments):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            return self(*arguments, stdout=writing)
        finally:
            os.close(writing)

    def create(self):
        with self.app.app_context():
            return self.api_keys.create(name="ci")

    def keys(self):
        with self.app.app_context():
            return list(self.api_keys.list())


@pytest.fixture
def terminal(tmp_path):
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.api_keys.close()


@pytest.fixture
def key_id(terminal):
    return terminal.create().record.id


def test_closed_stdout_issues_no_secret(terminal, key_id):
    before = terminal.keys()
    for command in (["create", "n"], ["roll", key_id, "--yes"], ["reveal", key_id], ["generate-fernet-key"]):
        result = terminal.closed(*command)
        assert result.returncode == 1
        assert result.stderr == (
            "Error: standard output is closed: the key could not be shown, and nothing was changed\n"
        )
    assert terminal.keys() == before
    assert [event["event"] for event in json.loads(terminal("audit", "--json").stdout)["events"]] == ["key.created"]


@pytest.mark.parametrize(
    ("stdout", "reason"), [("full", "No space left on device"), ("unread", "Broken pipe")], ids=["full", "unread"]
)
@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
def test_lost_secret_names_its_key(terminal, stdout, reason, as_json):
    result = getattr(terminal, stdout)("create", "n", *as_json)
    assert result.returncode == 1
    (key,) = terminal.keys()
    assert result.stderr.splitlines()[-1] == (
        f"Error: a new secret of key {key.id} was issued but could not be shown: roll the key again, or revoke it "
        f"(standard output cannot be written: {reason})"
    )
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_lost_secret_of_roll_and_reveal(terminal, key_id):
    rolled = terminal.full("roll", key_id, "--yes")
    revealed = terminal.full("reveal", key_id)
    assert rolled.returncode == revealed.returncode == 1
    assert f"a new secret of key {key_id} was issued but could not be shown" in rolled.stderr
    assert revealed.stderr.startswith(f"Error: key {key_id} was revealed but could not be shown: reveal it again")


def test_full_stderr_does_not_hide_the_key(terminal):
    with Path("/dev/full").open("w") as device:
        result = terminal("create", "n", stderr=device)
    assert (result.returncode, result.stdout.startswith("fak_")) == (0, True)


@pytest.mark.usefixtures("key_id")
@pytest.mark.parametrize("command", ["list", "list --json", "audit", "usage", "rotation status", "generate-fernet-key"])
def test_full_disk_is_one_line(terminal, command):
    result = terminal.full(*command.split())
    assert result.returncode == 1
    assert result.stderr == "Error: standard output cannot be written: No space left on device\n"


@pytest.mark.usefixtures("key_id")
def test_closed_pipe_is_silent(terminal):
    result = terminal.unread("list")
    assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.usefixtures("key_id")
@pytest.mark.parametrize("command", ["list", "usage", "doctor"])
def test_closed_stdout_without_secret(terminal, command):
    assert "Traceback" not in terminal.closed(command).stderr


def test_pasted_key_is_not_echoed(terminal):
    created = terminal.create().key
    device, terminal_side = pty.openpty()
    with subprocess.Popen(
        [FLASK, "apikey", "verify"],
        cwd=terminal.folder,
        env=terminal.environment,
        stdin=terminal_side,
        stdout=terminal_side,
        stderr=terminal_side,
        start_new_session=True,
    ) as process:
        os.close(terminal_side)
        shown = read_until(device, b"Paste the key: ")
        os.write(device, created.encode() + b"\n")
        shown += read_until(device, None)
    os.close(device)
    assert process.returncode == 0
    assert b"valid: ci" in shown
    assert created[-40:].encode() not in shown


def read_until(device, end):
    """Read from a terminal until `end` appears or the program ends."""
    shown = b""
    while end is None or end not in shown:
        if not select.select([device], [], [], 20)[0]:
            break
        try:
            piece = os.read(device, 1024)
        except OSError:  # raised by Linux when the other end of the terminal is closed
            piece = b""
        if not piece:
            break
        shown += piece
    return shown


NAME = "Łódź 你好 \U0001f511 é"


@pytest.fixture
def app(tmp_path):
    app = Flask(__name__, instance_path=str(tmp_path))
    app.config["APIKEY_FERNET_KEY"] = Fernet.generate_key().decode()
    APIKeys(app, clock=FrozenClock())
    return app


@pytest.fixture
def run(app):
    def run(*arguments, charset="utf-8", columns=None, color=False, **environment):
        runner = app.test_cli_runner(charset=charset)
        environment["COLUMNS"] = columns and str(columns)
        result = runner.invoke(apikey, list(arguments), env=environment, color=color)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    run("init")
    return run


@pytest.mark.parametrize("charset", ["latin-1", "ascii", "cp437"])
def test_unencodable_characters_are_escaped(run, charset):
    created = json.loads(run("create", NAME, "--owner", NAME * 10, "--metadata", json.dumps({NAME: NAME}), "--json"))
    for command in ("show", "usage"):
        assert r"\u0141" in run(command, created["id"], charset=charset)
    for command in ("list", "audit", "doctor", "usage --by key", "usage --csv", "usage --html -"):
        run(*command.split(), charset=charset)


def test_shortened_cells_fit_their_column(run):
    run("create", "n" * 50, "--owner", "owner", "--scope", "s")
    for charset, ellipsis in (("utf-8", "…"), ("latin-1", "...")):
        header, line = run("list", charset=charset, columns=MIN_COLUMNS).splitlines()
        assert f"{ellipsis}  owner" in line
        assert line.index("owner") == header.index("OWNER")


@pytest.mark.parametrize("charset", ["latin-1", "ascii"])
def test_json_is_independent_of_encoding(run, charset):
    created = json.loads(run("create", NAME, "--json"))
    in_unicode = json.loads(run("show", created["id"], "--json"))
    assert json.loads(run("show", created["id"], "--json", charset=charset)) == in_unicode
    assert in_unicode["name"] == NAME


def test_narrow_terminal_drops_columns(run):
    run("create", "n" * 50, "--owner", "o" * 50, "--scope", "s" * 50)
    titles = {}
    for columns in range(73, 130):
        lines = run("list", columns=columns).splitlines()
        assert max(map(len, lines)) <= columns
        assert all("…" in line for line in lines[1:])
        titles[columns] = lines[0].replace(" (UTC)", "").replace("LAST USED", "USED").split()[3:]
    assert titles[MIN_COLUMNS] == ["USED", "NAME", "OWNER", "SCOPES"]
    assert titles[MIN_COLUMNS - 1] == titles[91] == ["USED", "NAME", "SCOPES"]
    assert titles[90] == titles[80] == titles[73] == ["NAME", "SCOPES"]


@pytest.mark.parametrize("command", ["list", "usage", "doctor", "show"])
@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_disabled(run, command, name, value):
    created = json.loads(run("create", "ci", "--json"))
    arguments = [command, *([created["id"]] if command == "show" else [])]
    coloured = {"NO_COLOR": None, "TERM": "xterm"}
    assert "\x1b[" in run(*arguments, color=True, **coloured)
    assert "\x1b[" in run(*arguments, color=True, **{**coloured, "NO_COLOR": ""})
    assert "\x1b[" not in run(*arguments, color=True, **{**coloured, name: value})
