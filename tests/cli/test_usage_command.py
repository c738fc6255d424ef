"""``flask apikey usage``: output formats, files and pruning; last uses in ``list`` and ``show``."""

import csv
import io
import json
import stat
from datetime import datetime, timedelta, timezone

import pytest

from flask_apikey import APIKeys, StorageError
from flask_apikey.cli import apikey
from flask_apikey.core.model import keystring
from flask_apikey.core.model.usage import PREVIOUS_SECRET, LastUse
from tests.support.stored_usage import BOOK, BOOKS

NOW = datetime(2026, 1, 15, 12, 30, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def api_keys(app, storage, clock):
    clock.set(NOW)
    return APIKeys(app, backend=storage, clock=clock)


@pytest.fixture
def run(app, api_keys):
    def run(*arguments, columns=80, stdin="", **settings):
        runner = app.test_cli_runner(env={"COLUMNS": str(columns)}, **settings)
        return runner.invoke(apikey, list(arguments), input=stdin)

    return run


@pytest.fixture
def printed(run):
    """Run a command that succeeds and return its output."""

    def printed(*arguments, **settings):
        result = run(*arguments, **settings)
        assert result.exit_code == 0, result.output
        return result.stdout

    return printed


@pytest.fixture
def key(issue, counted):
    """A key with requests and refusals."""
    record = issue("nightly export", owner="team-7").record
    counted(record.id, NOW - DAY, 1_200, endpoint=BOOKS, owner="team-7")
    counted(record.id, NOW, 34, endpoint=BOOK, status="4xx", owner="team-7")
    counted(record.id, NOW, 5, reason="wrong_secret", owner="team-7")
    return record


def refused_line(run, *arguments):
    """Run a command that fails and return its one-line message."""
    result = run(*arguments)
    assert result.exit_code == 1
    assert (result.stdout != "") == ("--json" in arguments)
    (line,) = result.stderr.splitlines()
    return line


def test_report_with_bars(printed, key):
    assert (
        printed("usage", columns=60)
        == f"""\
Requests by endpoint, all that is stored: 1,234

/books                1,200  {"█" * 31}
/books/<int:book_id>     34  ▉

Refused: 5

wrong_secret  5  {"█" * 43}
"""
    )
    assert max(map(len, printed("usage", columns=100).splitlines())) > 80


def test_report_without_requests(printed):
    assert printed("usage") == "Requests by endpoint, all that is stored: 0\n"


def test_heading_names_selection(printed, key):
    assert printed("usage", key.id, "--by", "status").startswith(
        f"Requests with {key.id} (nightly export) by status, all that is stored: 1,234\n"
    )
    heading, *_ = printed("usage", "--owner", "team-7", "--since", "2h", "--until", "2026-01-16").splitlines()
    assert heading == "Requests with keys of team-7 by endpoint, from 2026-01-15 10:00 to 2026-01-16 00:00 UTC: 34"


def test_labels_of_hours_days_and_keys(printed, key):
    assert "\n2026-01-15 12:00     34  " in printed("usage", "--by", "hour")
    assert "\n2026-01-14  1,200  " in printed("usage", "--by", "day")
    assert f"\n{key.id} (nightly export)  1,234  " in printed("usage", "--by", "key")


def test_owners(printed, key, counted):
    counted(keystring.new_id(), NOW, 7)
    counted(keystring.new_id(), NOW, 6, owner="=1+1")
    assert printed("usage", "--by", "owner").splitlines()[2:5] == [
        f"team-7      1,234  {'█' * 60}",
        "(no owner)      7  ▎",
        "=1+1            6  ▎",
    ]
    assert printed("usage", "--by", "owner", "--csv") == "owner,requests\nteam-7,1234\n,7\n'=1+1,6\n"
    assert json.loads(printed("usage", "--by", "owner", "--owner", "team-8", "--json"))["rows"] == []


def test_deleted_key_is_marked(printed, counted):
    removed = keystring.new_id()
    counted(removed, NOW, 2)
    assert f"{removed} (removed)" in printed("usage", "--by", "key")
    assert f"{removed} (removed)" in printed("usage", removed)


def test_ascii_bars_without_block_characters(printed, key, counted):
    counted(key.id, NOW, 600, endpoint="/bücher/✓")
    shown = printed("usage", columns=60, charset="latin-1")
    assert f"/books                1,200  {'#' * 31}\n" in shown
    assert f"/bücher/\\u2713          600  {'#' * 15}\n" in shown
    assert "/books/<int:book_id>     34  #\n" in shown


def test_long_endpoint_is_cut(printed, key, counted):
    counted(key.id, NOW, 600, endpoint="/" + "x" * 499)
    lines = printed("usage", columns=60).splitlines()
    assert max(map(len, lines)) <= 60
    assert next(line for line in lines if line.startswith("/xxx")).endswith("x…    600  █████")


def test_escape_sequences_are_escaped(printed, key, counted):
    counted(key.id, NOW, 1, endpoint="/\x1b[2J")
    assert "\x1b" not in printed("usage")
    assert "\\u{1b}[2J" in printed("usage")


def test_json(printed, key):
    report = json.loads(printed("usage", key.id, "--since", "7d", "--by", "day", "--json"))
    assert report["total"] == 1_234
    assert report["rows"][-2:] == [{"label": "2026-01-14", "count": 1_200}, {"label": "2026-01-15", "count": 34}]
    assert len(report["rows"]) == 8
    assert report["since"] == "2026-01-08T12:00:00+00:00"
    assert report["refusals"] == [{"label": "wrong_secret", "count": 5}]


def test_csv(printed, key):
    assert printed("usage", "--csv") == "endpoint,requests\n/books,1200\n/books/<int:book_id>,34\n"
    assert printed("usage", "--csv", "--by", "key") == f"key,requests\n{key.id},1234\n"


@pytest.mark.parametrize(
    ("label", "cell"),
    [
        *((formula, f"'{formula}") for formula in ("=1+1", "+1", "-1", "@SUM(A1)", "=cmd|'/c calc'!A1")),
        ("/\x9b2J\u202e\n=1+1", r"/\u{9b}2J\u{202e}\u{a}=1+1"),
        ('/a,"b"', '/a,"b"'),
    ],
)
def test_csv_escapes_formulas_and_control_characters(printed, issue, counted, label, cell):
    counted(issue().record.id, NOW, 3, endpoint=label)
    _, row = csv.reader(io.StringIO(printed("usage", "--csv")))
    assert row == [cell, "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0" * 16], "no key has the id 0000000000000000"),
        (["no-id"], "not the id of a key"),
        (["--since", "1d", "--until", "2d"], "the period must begin before it ends"),
        (["--since", "2026-01-15", "--until", "2026-01-15"], "the period must begin before it ends"),
        (["--owner", " "], "owner must not be empty"),
        (["--prune", "47h", "--yes"], "usage less than 2 days old cannot be pruned"),
    ],
)
@pytest.mark.parametrize("output", [[], ["--json"], ["--csv"], ["--html", "-"]])
def test_errors_are_one_line(run, arguments, message, output):
    if "--prune" in arguments and output != ["--json"]:
        output = []
    assert refused_line(run, "usage", *arguments, *output).startswith(f"Error: {message}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--by", "week"],
        ["--since", "yesterday"],
        ["--since", "999999999w"],
        ["--json", "--csv"],
        ["--html", "-", "--json"],
        ["--html", "-", "--by", "day"],
        ["--no-fold"],
        ["--dry-run"],
        ["--prune", "90d", "--owner", "team-7"],
        ["--prune", "90d", "--csv"],
        ["0" * 16, "--prune", "90d"],
    ],
)
def test_contradicting_options(run, arguments):
    assert run("usage", *arguments).exit_code == 2


@pytest.fixture
def old(issue, counted):
    """Counts of different ages. Each is a power of ten, so that a sum tells which it includes."""
    key_id = issue().record.id
    counted(key_id, NOW - 92 * DAY, 1)
    counted(key_id, NOW - 92 * DAY + HOUR, 10)
    counted(key_id, NOW - 90 * DAY - HOUR, 100)
    counted(key_id, NOW - 90 * DAY + HOUR, 1_000)
    counted(key_id, NOW, 10_000)
    return key_id


def hours(printed):
    report = json.loads(printed("usage", "--by", "hour", "--json"))
    return {row["label"][:13]: row["count"] for row in report["rows"] if row["count"]}


def test_prune_folds_whole_days(printed, run, old):
    result = run("usage", "--prune", "90d", "--yes")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "Rows folded: 2.\n")
    assert hours(printed) == {
        "2025-10-15T00": 11,
        "2025-10-17T11": 100,
        "2025-10-17T13": 1_000,
        "2026-01-15T12": 10_000,
    }


def test_prune_no_fold_removes_old_counts(printed, run, old):
    result = run("usage", "--prune", "90d", "--no-fold", "--yes")
    assert (result.exit_code, result.stderr) == (0, "Rows removed: 3.\n")
    assert hours(printed) == {"2025-10-17T13": 1_000, "2026-01-15T12": 10_000}


@pytest.mark.parametrize(("option", "found"), [((), 2), (("--no-fold",), 3)])
def test_prune_dry_run_changes_nothing(printed, run, old, option, found):
    before = hours(printed)
    assert json.loads(printed("usage", "--prune", "90d", *option, "--dry-run", "--json"))["found"] == found
    assert f"{found}." in run("usage", "--prune", "90d", *option, "--dry-run").stderr
    assert hours(printed) == before
    assert json.loads(printed("usage", "--prune", "90d", *option, "--yes", "--json"))["found"] == found


def test_prune_dry_run_after_fold(printed, old):
    printed("usage", "--prune", "90d", "--yes")
    assert json.loads(printed("usage", "--prune", "90d", "--dry-run", "--json"))["found"] == 0
    assert json.loads(printed("usage", "--prune", "90d", "--no-fold", "--dry-run", "--json"))["found"] == 2


@pytest.mark.parametrize("option", [(), ("--no-fold",)])
def test_prune_asks_for_confirmation(printed, run, old, option):
    before = hours(printed)
    result = run("usage", "--prune", "90d", *option, stdin="n\n")
    assert result.exit_code == 1
    assert "before 2025-10-17 12:00 UTC" in result.stderr
    assert hours(printed) == before


def test_list_and_show_last_use(printed, issue, counted, clock):
    used = issue("used").record
    clock.advance(HOUR)
    unused = issue("unused").record
    counted.last(used, NOW - DAY, address="2001:db8::7")
    listed = printed("list", columns=120).splitlines()
    assert [line[47:63].strip() for line in listed] == ["LAST USED (UTC)", "2026-01-14 12:30", "never"]
    assert "\nlast used   2026-01-14 12:30:00 UTC from 2001:db8::7\n" in printed("show", used.id)
    assert "\nlast used   never\n" in printed("show", unused.id)
    shown = json.loads(printed("show", used.id, "--json"))
    assert (shown["last_used_at"], shown["last_used_from"]) == ("2026-01-14T12:30:00+00:00", "2001:db8::7")
    first, second = json.loads(printed("list", "--json"))["keys"]
    assert {**first, "changed_by": "unknown", "quota_remaining": None} == shown
    assert second["last_used_at"] is None


def test_show_last_use_of_current_and_previous_secret(printed, api_keys, app, issue, counted, clock):
    record = issue().record
    clock.advance(DAY)
    with app.app_context():
        rolled = api_keys.roll(record.id, grace=DAY).record
    assert "previous secret used  never\n" in printed("show", record.id)
    counted.last(record, NOW + HOUR, secret=PREVIOUS_SECRET, address="203.0.113.8")
    counted.last(rolled, NOW + DAY, address=None)
    shown = printed("show", record.id)
    assert "last used             2026-01-16 12:30:00 UTC from an unknown address\n" in shown
    assert "current secret used   2026-01-16 12:30:00 UTC from an unknown address\n" in shown
    assert "previous secret used  2026-01-15 13:30:00 UTC from 203.0.113.8\n" in shown
    shown = json.loads(printed("show", record.id, "--json"))
    assert shown["previous_secret_last_used_at"] == "2026-01-15T13:30:00+00:00"
    assert shown["previous_secret_last_used_from"] == "203.0.113.8"


@pytest.mark.parametrize("option", [[], ["--no-fold"]])
def test_prune_folds_last_uses(printed, api_keys, app, storage, issue, counted, clock, option):
    record = issue().record
    removed = LastUse("Z" * 16, 1, NOW, None)
    storage.usage.put([], [removed])
    for _ in range(5):
        counted.last(record, clock())
        clock.advance(HOUR)
        with app.app_context():
            record = api_keys.roll(record.id, grace=DAY).record
    counted.last(record, clock())
    assert len(storage.usage.last_uses([record.id, removed.key_id])) == 7
    before = printed("show", record.id)
    assert "previous secret used  2026-01-15 16:30:00 UTC" in before
    printed("usage", "--prune", "90d", *option, "--yes")
    assert len(storage.usage.last_uses([record.id, removed.key_id])) == 2
    assert printed("show", record.id) == before


def test_list_reads_last_uses_once(printed, storage, issue, monkeypatch):
    for _ in range(3):
        issue()
    calls = []
    last_uses = storage.usage.last_uses
    monkeypatch.setattr(storage.usage, "last_uses", lambda key_ids: calls.append(len(key_ids)) or last_uses(key_ids))
    printed("list")
    assert calls == [3]


def test_list_and_show_without_readable_last_uses(run, storage, issue, monkeypatch):
    record = issue().record

    def fail(key_ids):
        raise StorageError("no such table")

    monkeypatch.setattr(storage.usage, "last_uses", fail)
    for command in (["list"], ["show", record.id]):
        result = run(*command)
        assert result.exit_code == 0
        assert record.id in result.stdout
        assert "LAST USED" not in result.stdout
        assert result.stderr == "Last uses cannot be read: no such table\n"
    shown = json.loads(run("show", record.id, "--json").stdout)
    assert (shown["last_use_known"], shown["last_used_at"]) == (False, None)


def test_usage_off_omits_last_use(make_app, storage):
    app = make_app(APIKEY_USAGE="off")
    APIKeys(app, backend=storage)
    runner = app.test_cli_runner()
    assert runner.invoke(apikey, ["create", "ci"]).exit_code == 0
    assert "LAST USED" not in runner.invoke(apikey, ["list"]).stdout
    assert '"last_use_known": false' in runner.invoke(apikey, ["list", "--json"]).stdout


def test_storage_without_usage(make_app, backend):
    app = make_app()
    backend.init_storage()
    APIKeys(app, backend=backend)
    runner = app.test_cli_runner()
    assert runner.invoke(apikey, ["create", "ci"]).exit_code == 0
    assert "LAST USED" not in runner.invoke(apikey, ["list"]).stdout
    for way in (["--json"], ["--html", "-"], ["--prune", "90d", "--yes"]):
        result = runner.invoke(apikey, ["usage", *way])
        assert (result.exit_code, "error" in result.stdout) == (1, way == ["--json"])
        assert result.stderr == "Error: the storage (WatchedBackend) keeps no usage\n"


def test_page_file_is_private(printed, key, tmp_path):
    page = tmp_path / "usage.html"
    assert printed("usage", "--html", str(page)) == ""
    assert page.read_text(encoding="utf-8") == printed("usage", "--html", "-")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert list(tmp_path.glob("*usage*")) == [page]


def test_page_is_not_written_through_a_link(run, key, tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "usage.html"
    victim.write_text("old")
    for target in (victim, tmp_path / "missing"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert "is not a file" in refused_line(run, "usage", "--html", str(link))
    assert victim.read_text() == "old"
    assert {path.name for path in tmp_path.glob("*")} >= {"victim", "usage.html"}
    assert not (tmp_path / "missing").exists()


def test_replaced_page_keeps_mode(printed, key, tmp_path):
    page = tmp_path / "usage.html"
    page.write_text("old")
    page.chmod(0o644)
    printed("usage", "--html", str(page))
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert stat.S_IMODE(page.stat().st_mode) == 0o644


def test_page_write_failure_leaves_no_file(run, key, tmp_path, monkeypatch):
    assert refused_line(run, "usage", "--html", str(tmp_path)).endswith("is not a file: name a file for the page")
    missing = tmp_path / "missing" / "usage.html"
    assert (
        refused_line(run, "usage", "--html", str(missing))
        == f"Error: {missing} cannot be written: No such file or directory"
    )
    page = tmp_path / "usage.html"
    page.write_text("old")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copymode", fail)
    assert (
        refused_line(run, "usage", "--html", str(page)) == f"Error: {page} cannot be written: No space left on device"
    )
    assert page.read_text() == "old"
    assert list(tmp_path.glob("*usage*")) == [page]


class TestWouldRefuse:
    """``--would-refuse``."""

    @pytest.fixture
    def passed(self, key, counted):
        """Requests that report mode let pass, of a key and of nobody."""
        counted.passed("", NOW - DAY, 3_000, "missing")
        counted.passed("", NOW, 2, "unknown", endpoint=BOOK)
        counted.passed(key.id, NOW, 7, "suspended", owner="team-7")
        return key

    def test_table(self, printed, passed):
        assert printed("usage", "--would-refuse").splitlines() == [
            "Requests that would be refused, all that is stored: 3,009",
            "",
            "REQUESTS  REASON     ENDPOINT              KEY               OWNER",
            "   3,000  missing    /books                -                 -",
            f"       7  suspended  /books                {passed.id}  team-7",
            "       2  unknown    /books/<int:book_id>  -                 -",
        ]

    def test_json(self, printed, passed):
        report = json.loads(printed("usage", "--would-refuse", "--json", "--since", "2h"))
        assert report == {
            "since": "2026-01-15T10:00:00+00:00",
            "until": None,
            "total": 9,
            "reasons": [{"label": "suspended", "count": 7}, {"label": "unknown", "count": 2}],
            "endpoints": [{"label": BOOKS, "count": 7}, {"label": BOOK, "count": 2}],
            "rows": [
                {"reason": "suspended", "endpoint": BOOKS, "key_id": passed.id, "owner": "team-7", "count": 7},
                {"reason": "unknown", "endpoint": BOOK, "key_id": "", "owner": "", "count": 2},
            ],
        }

    def test_of_a_key_or_an_owner(self, printed, passed):
        for arguments in ([passed.id], ["--owner", "team-7"], ["--owner", "team-7", passed.id]):
            assert json.loads(printed("usage", "--would-refuse", "--json", *arguments))["total"] == 7
        assert printed("usage", "--would-refuse", "--owner", "team-8").endswith(": 0\n")

    def test_other_reports_leave_it_out(self, printed, passed):
        report = json.loads(printed("usage", "--json"))
        assert (report["total"], report["refused"]) == (1_234, 5)
        assert passed.id in printed("usage", "--by", "key")

    @pytest.mark.parametrize("option", ["--by=key", "--csv", "--html=x", "--prune=90d"])
    def test_excluded_options(self, run, passed, option):
        result = run("usage", "--would-refuse", option)
        assert result.exit_code == 2
        assert "--would-refuse" in result.stderr

    def test_text_of_a_hostile_storage(self, printed, key, counted):
        counted.passed(key.id, NOW, 1, "missing", endpoint="/\x1b[2J\n", owner="\u202e")
        output = printed("usage", "--would-refuse")
        assert {"\x1b", "\u202e"}.isdisjoint(output)
        assert output.count("\n") == 4
