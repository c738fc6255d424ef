"""Finding keys on the command line: whole lists, searches, counts, and keys pasted in place of ids."""

import json
from datetime import timedelta

import pytest

from flask_apikey.cli import apikey
from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.keystring import new_id


@pytest.fixture
def app(make_app):
    return make_app(APIKEY_RECOVERABLE=True)


@pytest.fixture
def run(app, api_keys):
    def run(*arguments, stdin="", **environment):
        return app.test_cli_runner().invoke(apikey, list(arguments), input=stdin, env=environment)

    return run


@pytest.fixture
def on_terminal(monkeypatch):
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True)


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr("flask_apikey.cli.key_commands._LIST_LIMIT", 3)
    monkeypatch.setattr("flask_apikey.cli.key_commands._PAGE", 2)
    monkeypatch.setattr("flask_apikey.core.keys.repository._PAGE", 2)


@pytest.fixture
def issued(issue, clock):
    issued = []
    for number in range(5):
        issued.append(issue(f"key {number}", owner="ab"[number % 2]))
        clock.advance(timedelta(seconds=1))
    return issued


def ids(issued):
    return [each.record.id for each in issued]


@pytest.mark.usefixtures("small_pages")
class TestWholeList:
    def test_list_to_a_file_is_whole(self, run, issued):
        result = run("list")
        assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ids(issued)
        assert result.stderr == ""

    @pytest.mark.usefixtures("on_terminal")
    def test_list_on_a_terminal_is_cut_with_a_note(self, run, issued):
        result = run("list")
        assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ids(issued[:3])
        assert result.stderr == f"More keys follow: add --after {issued[2].record.cursor}\n"

    @pytest.mark.usefixtures("on_terminal")
    def test_json_is_whole(self, run, issued):
        listed = json.loads(run("list", "--json").stdout)
        assert [key["id"] for key in listed["keys"]] == ids(issued)
        assert listed["next"] is None

    def test_limit_cuts_every_list(self, run, issued):
        listed = json.loads(run("list", "--json", "--limit", "2").stdout)
        assert ([key["id"] for key in listed["keys"]], listed["next"]) == (ids(issued[:2]), issued[1].record.cursor)
        listed = json.loads(run("list", "--json", "--limit", "2", "--newest-first", "--after", listed["next"]).stdout)
        assert ([key["id"] for key in listed["keys"]], listed["next"]) == (ids(issued[:1]), None)

    @pytest.mark.usefixtures("issued")
    @pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
    def test_list_is_printed_as_it_is_read(self, run, api_keys, monkeypatch, options):
        found = api_keys.list

        def interrupted(**arguments):
            for number, record in enumerate(found(**arguments)):
                if number == 4:
                    raise StorageError("gone")
                yield record

        monkeypatch.setattr(api_keys, "list", interrupted)
        result = run("list", *options)
        assert (result.exit_code, result.stderr) == (1, "Error: gone\n")
        assert all(f"key {number}" in result.stdout for number in range(4))

    def test_last_uses_that_become_unreadable(self, app, run, issued, monkeypatch):
        usage = app.extensions["apikey"].backend.usage
        pages = []

        def last_uses(key_ids):
            pages.append(key_ids)
            if len(pages) == 2:
                raise StorageError("gone")
            return []

        monkeypatch.setattr(usage, "last_uses", last_uses)
        result = run("list")
        assert result.stderr == "Last uses cannot be read: gone\n"
        lines = result.stdout.splitlines()[1:]
        assert ["never" in line for line in lines] == [True, True, False, False, False]
        assert ["unknown" in line for line in lines] == [False, False, True, True, True]
        assert len(lines) == len(issued)


def test_cells_without_a_terminal_are_whole(run, issue):
    issue("n" * 200, owner="o" * 200)
    (_, line) = run("list", COLUMNS=None).stdout.splitlines()
    assert "n" * 200 in line
    assert "o" * 200 in line
    (_, line) = run("list", COLUMNS="120").stdout.splitlines()
    assert len(line) <= 120


def test_empty_json_list(run):
    assert json.loads(run("list", "--json").stdout) == {"keys": [], "next": None}


def test_search(run, issued):
    assert ids(issued[1:2]) == [
        key["id"] for key in json.loads(run("list", "--search", "Y 1", "--json").stdout)["keys"]
    ]
    listed = run("list", "--search", "-", "--json", stdin=issued[3].record.id[:15]).stdout
    assert ids(issued[3:4]) == [key["id"] for key in json.loads(listed)["keys"]]


def test_unused_for(run, issued, clock):
    clock.advance(timedelta(days=90) - timedelta(seconds=2))
    result = run("list", "--unused-for", "90d", "--newest-first")
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ids(issued[2::-1])


@pytest.mark.usefixtures("issued")
def test_count(run):
    assert run("list", "--count").stdout == "5\n"
    assert run("list", "--count", "--owner", "a", "--search", "key").stdout == "3\n"
    assert json.loads(run("list", "--count", "--unused-for", "1d", "--json").stdout) == {"count": 0}


@pytest.mark.parametrize(
    "arguments",
    [
        "--count --limit 2",
        "--count --after x",
        "--count --newest-first",
        "--unused-for 1d --status expired",
        "--expiring 1d --status revoked",
    ],
)
def test_wrong_combination_of_options(run, arguments):
    result = run("list", *arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cannot be combined" in result.stderr


COMMANDS = ["show {}", "update {} --name other", "revoke {} --yes", "roll {} --yes", "reveal {}", "usage {}"]


@pytest.mark.parametrize("missing", [0, 1, 41])
@pytest.mark.parametrize("command", [*COMMANDS, "list --search {}"])
def test_pasted_key_in_place_of_an_id(run, issue, command, missing):
    issued = issue()
    pasted = issued.key[: len(issued.key) - missing]
    result = run(*command.format(pasted).split())
    assert result.exit_code == 0
    first, *_ = result.stderr.splitlines()
    assert first.startswith(f"The secret of key {issued.record.id} was on the command line")
    assert "Roll or revoke the key" in first
    assert pasted.rpartition("_")[2] not in result.stderr
    assert command.startswith("reveal") or pasted.rpartition("_")[2] not in result.stdout


@pytest.mark.parametrize("command", [*COMMANDS, "list --search {}"])
@pytest.mark.parametrize("whole", [True, False], ids=["key", "id"])
def test_key_on_standard_input(run, issue, command, whole):
    issued = issue()
    result = run(*command.format("-").split(), stdin=issued.key if whole else issued.record.id)
    assert result.exit_code == 0
    assert "command line" not in result.stderr
    assert command.startswith("reveal") or issued.key[-49:] not in result.output


def test_pasted_key_and_confirmation_on_standard_input(run, issue):
    issued = issue()
    assert run("revoke", "-", stdin=f"{issued.key}\nn\n").exit_code == 1
    assert run("revoke", "-", stdin=f"{issued.key}\ny\n").exit_code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_pasted_key_of_an_unknown_id(run, issue, command):
    issued = issue()
    unknown = new_id()
    result = run(*command.format(issued.key.replace(issued.record.id, unknown)).split())
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1] == f"Error: no key has the id {unknown}"
    assert issued.key[-40:] not in result.output


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "fak_short_abcdefgh"])
def test_standard_input_without_key(run, text):
    result = run("show", "-", stdin=text)
    assert (result.exit_code, result.stdout) == (1, "")
    note = "Not a key of this library. 'flask apikey verify' finds the id of an adopted key.\n" if text.strip() else ""
    assert result.stderr == f"{note}Error: not the id of a key: an id has 16 letters and digits\n"
