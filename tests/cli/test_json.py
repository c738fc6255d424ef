"""``--json`` of every command, as docs/reference/command-line.rst says."""

import json
import re
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

import click
import pytest
from cryptography.fernet import Fernet
from flask import Flask

from flask_apikey import APIKeys, StorageError
from flask_apikey.cli import apikey, key_commands
from flask_apikey.core.model.keystring import mint
from flask_apikey.testing import FrozenClock

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command-line.rst"
SECTION = PAGE.read_text(encoding="utf-8").partition(".. _json-output:")[2].partition("The samples below")[0]


def quoted(text):
    return re.findall(r"``([\w\- ]+)``", text)


def documented():
    """Return the documented members by command line, those of the first level only."""
    lists = {
        name: set(quoted(re.search(rf"- \*{name}\* (?:stands )?for (.+?)[.;]", SECTION, re.DOTALL)[1]))
        for name in ("the key", "its uses")
    }
    shapes = {}
    for names, members in re.findall(r"^   \* - (``.+)\n     - ((?:.+\n(?:       .+\n)*))", SECTION, re.MULTILINE):
        listed = re.sub(r"\([^)]*\)", "", members)
        shape = set().union(*(lists[name] for name in lists if f"*{name}*" in listed), quoted(listed))
        if "those of ``copy``" in listed:
            shape = (shape - {"copy"}) | shapes["copy"]
        shapes |= dict.fromkeys(quoted(names), shape)
    return shapes


SHAPES = documented()
SETTINGS = {"APIKEY_RECOVERABLE": True, "APIKEY_USAGE": "sync"}


def commands(group, prefix=""):
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} ")
        else:
            yield prefix + name, command


COMMANDS = dict(commands(apikey))


class Scene:
    def __init__(self, folder):
        self.old, self.new = (Fernet.generate_key().decode() for _ in range(2))
        self.folder = folder
        self.clock = FrozenClock()
        self.configure(APIKEY_FERNET_KEY=self.old)

    def configure(self, **config):
        self.app = Flask(__name__, instance_path=str(self.folder))
        self.app.config.update(config, **SETTINGS)
        APIKeys(self.app, clock=self.clock)

    def run(self, *arguments, sent=""):
        return self.app.test_cli_runner().invoke(apikey, arguments, input=sent)

    def json(self, *arguments, sent=""):
        """Return the exit status, and the JSON object on standard output."""
        result = self.run(*arguments, "--json", sent=sent)
        assert "Traceback" not in result.stderr
        document = json.loads(result.stdout)
        assert isinstance(document, dict)
        return result.exit_code, document

    def change_row(self):
        """Change the row of every key outside of this library."""
        with closing(sqlite3.connect(self.folder / "api_keys.db")) as connection, connection:
            connection.execute("UPDATE flask_apikey_keys SET name = 'other'")


@pytest.fixture
def scene(tmp_path):
    return Scene(tmp_path)


@pytest.fixture
def key(scene):
    assert scene.run("init").exit_code == 0
    return scene.json("create", "ci", "--owner", "team-7")[1]


def recipe(scene, key, line):
    """Return arguments with which a documented command line does something, and its standard input."""
    command, *options = line.split()
    if command == "rotation":
        fallback = "start" in options or "cancel" in options
        pair = (scene.old, scene.new) if fallback else (scene.new, scene.old)
        scene.configure(APIKEY_FERNET_KEY=pair[0], APIKEY_FERNET_KEY_FALLBACKS=[pair[1]])
        if "cancel" in options:
            assert scene.run("rotation", "start").exit_code == 0
        if "finish" in options:
            assert scene.run("rotation", "run").exit_code == 0
        return [command, *options], ""
    if line.startswith("resume"):
        scene.run("suspend", key["id"], "--yes")
    given = {
        "create": ["nightly"],
        "copy": ["--to", f"sqlite:///{scene.folder}/copy.db"],
        "usage --prune": ["90d", "--yes"],
        "prune": ["--yes"],
        "update": [key["id"], "--name", "other"],
        "repair --all": ["--yes"],
        "roll": [key["id"], "--yes"],
        "scanner-rules": ["gitleaks"],
    }
    if line == "usage --prune --no-fold":
        return ["usage", "--prune", "90d", "--no-fold", "--yes"], ""
    if command == "import":
        scene.configure(APIKEY_FERNET_KEY=scene.old, APIKEY_ADOPTED_KEYS=["sha256"])
        return ["import", "-", "--digest", "sha256"], f"digest,name\n{'0' * 64},ci\n"
    if command == "scan":
        return ["scan", "-"], mint("fak", key["id"])
    extra = given.get(line, given.get(command, []))
    if line.endswith("--owner"):
        extra = ["team-7", "--yes"]
    elif command in {"show", "limits", "reveal", "suspend", "resume", "revoke"} or line == "repair":
        extra = [key["id"], *(["--yes"] if "yes" in {each.name for each in COMMANDS[command].params} else [])]
    return [command, *options, *extra], key["key"] if command == "verify" else ""


def test_every_command_is_documented():
    assert {re.sub(r" --.*", "", line) for line in SHAPES} == COMMANDS.keys()


@pytest.mark.parametrize("line", SHAPES)
def test_shape_of_a_success(scene, key, line):
    arguments, sent = recipe(scene, key, line)
    status, document = scene.json(*arguments, sent=sent)
    assert (status, document.keys()) == (0, SHAPES[line])


def test_lists_have_the_documented_keys(scene, key):
    (listed,) = scene.json("list")[1]["keys"]
    assert listed.keys() == SHAPES["show"] - {"changed_by", "quota_remaining"}
    assert listed["last_use_known"] is True
    assert scene.json("verify", sent=key["key"])[1]["record"].keys() == SHAPES["revoke"]
    for name in ("last_used_at", "last_used_from"):
        assert listed[name] is None


def test_unknown_last_uses_have_the_same_shape(scene, key, monkeypatch):
    monkeypatch.setitem(SETTINGS, "APIKEY_USAGE", "off")
    scene.configure(APIKEY_FERNET_KEY=scene.old)
    shown = scene.json("show", key["id"])[1]
    assert shown.keys() == SHAPES["show"]
    assert (shown["last_use_known"], shown["last_used_at"]) == (False, None)


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_option(scene, name):
    status, document = scene.json(*name.split(), "--bogus")
    assert (status, document["error"]["code"]) == (2, "usage_error")
    assert document.keys() == {"error"}
    assert "--bogus" in document["error"]["message"]


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"generate-fernet-key", "init", "doctor", "scanner-rules"}))
def test_storage_without_tables(scene, name):
    arguments, sent = (
        recipe(scene, {"id": "8sQ2dKf0LmX7Tz1B", "key": "fak_x"}, name)
        if "rotation" not in name
        else (
            name.split(),
            "",
        )
    )
    result = scene.run(*arguments, "--json", sent=sent)
    document = json.loads(result.stdout)
    assert result.exit_code != 0
    if name == "verify":
        assert document == {"valid": False, "code": "invalid_key", "reason": None, "record": None}
    else:
        assert document["error"].keys() == {"code", "message"}
        assert document["error"]["message"] in result.stderr


ASKING = {
    "prune": ["--older-than", "0s"],
    "repair": [],
    "repair --all": [],
    "resume": [],
    "resume --owner": [],
    "revoke": [],
    "revoke --owner": [],
    "roll": [],
    "roll --finish": [],
    "suspend": [],
    "suspend --owner": [],
    "update": ["--expires", "2001-01-01"],
    "usage --prune": [],
}
"""Command lines that ask, and what else makes them ask."""


def test_commands_with_yes_ask():
    # scan asks after it has printed what it found: tests/cli/test_scan_command.py.
    asking = {line.partition(" --")[0] for line in ASKING} | {"scan"}
    assert {name for name, command in COMMANDS.items() if "yes" in {each.name for each in command.params}} == asking


@pytest.mark.parametrize("line", ASKING)
def test_question_without_an_answer(scene, key, line):
    arguments = [each for each in recipe(scene, key, line)[0] if each != "--yes"] + ASKING[line]
    if line == "prune":
        assert scene.run("revoke", key["id"], "--yes").exit_code == 0
    if line == "roll --finish":
        assert scene.run("roll", key["id"], "--grace", "1d").exit_code == 0
        arguments = ["roll", key["id"], "--finish"]
    if line.startswith("repair"):
        scene.change_row()
    before = scene.run("show", key["id"]).stdout
    status, document = scene.json(*arguments)
    assert (status, document["error"]["code"]) == (1, "not_confirmed")
    assert "--yes" in document["error"]["message"]
    assert scene.run("show", key["id"]).stdout == before
    assert scene.json(*arguments, "--yes")[0] == 0


def test_error_codes(scene, key):
    def code(*arguments):
        return scene.json(*arguments)[1]["error"]["code"]

    assert code("show", "0000000000000000") == "key_not_found"
    assert code("revoke", "--owner", "nobody", "--yes") == code("suspend", "--owner", "nobody") == "key_not_found"
    assert code("create", "") == "invalid_value"
    assert code("update", key["id"], "--bogus") == "usage_error"
    assert code("audit", "--verify", "--expect", "missing.jsonl") == "failed"
    assert code("unknown") == "usage_error"
    scene.app.extensions.clear()
    assert code("list") == "configuration_error"


def test_error_shows_no_secret(scene, key):
    result = scene.run("list", "--status", key["key"], "--json")
    assert result.exit_code == 2
    assert key["key"] not in result.output
    assert "[redacted]" in json.loads(result.stdout)["error"]["message"]


def test_error_after_the_first_output_is_on_standard_error_only(scene, key, monkeypatch):
    def broken(*args, **options):
        yield from APIKeys.list(*args, **options)
        raise StorageError("the storage went away")

    extension = scene.app.extensions["apikey"].extension
    monkeypatch.setattr(extension, "list", lambda **options: broken(extension, **options))
    monkeypatch.setattr(key_commands, "_PAGE", 1)
    result = scene.run("list", "--json")
    assert result.exit_code == 1
    assert key["id"] in result.stdout
    assert "error" not in result.stdout
    assert result.stderr == "Error: the storage went away\n"


def test_times_have_one_format(scene, key):
    def times(value):
        if isinstance(value, dict):
            for name, each in value.items():
                if name == "at" or name.endswith("_at") or name in {"since", "until"}:
                    yield from each if isinstance(each, list) else [each]
                else:
                    yield from times(each)
        elif isinstance(value, list):
            for each in value:
                yield from times(each)

    documents = [
        scene.json(*line)[1]
        for line in (
            ["show", key["id"]],
            ["list"],
            ["audit"],
            ["usage", "--since", "7d"],
            ["rotation", "status"],
            ["doctor"],
        )
    ]
    found = [time for document in documents for time in times(document) if time is not None]
    assert len(found) >= 8
    assert {datetime.fromisoformat(time).isoformat() for time in found} == set(found)
    assert {time[-6:] for time in found} == {"+00:00"}
