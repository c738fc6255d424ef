"""``flask apikey import``: tables of other systems, adopted as files."""

import hashlib
import json
import os
import shutil
import sqlite3
import stat
from contextlib import closing
from datetime import timedelta

import pytest

from flask_apikey import StorageError, require_api_key
from flask_apikey.cli import apikey
from flask_apikey.core.importing import run
from flask_apikey.core.keys.repository import KeyRepository
from tests.core.adoption.test_samples import CODES, SAMPLES, moment, rows_of

IGNORED = ["--ignore-column", "last_used_at"]


def digest(text, form="sha256"):
    return hashlib.new(form, text.encode()).hexdigest()


def import_file(scene, *arguments, rows="", status=0):
    result = scene.app.test_cli_runner().invoke(apikey, ["import", *map(str, arguments)], input=rows)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == status, result.output
    return result


def import_json(scene, *arguments, **options):
    return json.loads(import_file(scene, *arguments, "--json", **options).stdout)


def table(*rows, columns="digest,name"):
    return "\n".join([columns, *rows])


def names(scene):
    return sorted(record.name for record in scene.do("list"))


@pytest.mark.parametrize(
    ("sample", "form"),
    [
        ("sha256-hex", "sha256"),
        ("sha256-hex-sk_live", "sha256"),
        ("sha512-hex", "sha512"),
        ("plaintext-hex40", "plaintext"),
    ],
)
def test_sample(scene, sample, form):
    scene.clock.set(moment("2026-11-29T16:00:00"))
    report = import_json(scene, SAMPLES / f"{sample}.csv", "--digest", form, *IGNORED)
    assert (report["added"], report["expired"], report["revoked"], report["revoked_now"]) == (5, 1, 1, 1)
    presented = rows_of(f"{sample}.keys.csv")
    assert [scene.code(each["key"]) for each in presented] == [CODES[each["expected"]] for each in presented]
    assert import_json(scene, SAMPLES / f"{sample}.csv", "--digest", form, *IGNORED)["unchanged"] == 5
    (oldest, *_) = scene.do("list")
    assert oldest.created_at == moment("2026-01-05T08:00:00")


def test_interrupted_import_is_resumed(lite, monkeypatch):
    """Nothing is missing, and nothing is there twice."""
    monkeypatch.setattr(run, "_BATCH", 2)
    rows = table(*[f"{digest(str(number))},key {number}" for number in range(7)])
    add_many, calls = KeyRepository.add_many, []

    def failing(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise StorageError("the connection was lost")
        return add_many(*arguments, **options)

    monkeypatch.setattr(KeyRepository, "add_many", failing)
    import_file(lite, "-", "--digest", "sha256", rows=rows, status=1)
    assert names(lite) == [f"key {number}" for number in range(4)]
    report = import_json(lite, "-", "--digest", "sha256", rows=rows)
    assert (report["rows"], report["added"], report["unchanged"]) == (7, 3, 4)
    assert names(lite) == [f"key {number}" for number in range(7)]
    assert [len(keys) for _, keys in calls] == [2, 2, 2, 2, 1]


def test_changed_and_removed_keys_stay(lite):
    rows = table(f"{digest('a')},first", f"{digest('b')},second")
    import_file(lite, "-", "--digest", "sha256", rows=rows)
    first, second = sorted(lite.do("list"), key=lambda record: record.name)
    lite.do("update", first.id, name="renamed")
    lite.do("revoke", second.id)
    lite.clock.advance(timedelta(days=2))
    lite.do("prune", ended_before=lite.clock())
    assert import_json(lite, "-", "--digest", "sha256", rows=rows)["unchanged"] == 2
    assert names(lite) == ["renamed"]
    assert (lite.code("a"), lite.code("b")) == (None, "invalid_key")


def test_concurrent_import(lite, monkeypatch):
    """Another process adopts a key between the look-up and the insertion."""
    add_many, rows = KeyRepository.add_many, table(f"{digest('a')},a", f"{digest('b')},b")

    def raced(*arguments, **options):
        monkeypatch.setattr(KeyRepository, "add_many", add_many)
        lite.do("adopt", digest=digest("a"), algorithm="sha256", name="theirs")
        return add_many(*arguments, **options)

    monkeypatch.setattr(KeyRepository, "add_many", raced)
    report = import_json(lite, "-", "--digest", "sha256", rows=rows)
    assert (report["added"], report["unchanged"]) == (1, 1)
    assert names(lite) == ["b", "theirs"]


def test_dry_run_writes_nothing(lite):
    rows = table(f"{digest('a')},a", f"{digest('b')},b")
    report = import_json(lite, "-", "--digest", "sha256", "--dry-run", rows=rows)
    assert (report["dry_run"], report["added"], report["lifetime_set"]) == (True, 2, 2)
    with closing(sqlite3.connect(lite.backend.file)) as connection:
        assert connection.execute("SELECT count(*) FROM flask_apikey_keys").fetchone() == (0,)


WRONG = table(
    f"{digest('a')},a,,,,,",
    "abc,b,,,,,",
    f"{digest('c')},c,2999-01-01,,,,",
    f"{digest('d')},d,,,,2999-01-01,",
    f"{digest('e')},,,,,,",
    f"{digest('f')},f,,\\,,,",
    f"{digest('g')},g,,,bogus,,",
    f"{digest('a')},again,,,,,",
    f"{digest('h')},h,,,bogus,,10/day",
    f"{digest('i')},i,,,,,bogus",
    columns="digest,name,created_at,scopes,plan,revoked,quota",
)
PLACES = [
    (3, "digest"),
    (4, "created_at"),
    (5, "revoked"),
    (6, "name"),
    (7, "scopes"),
    (8, "plan"),
    (9, "digest"),
    (10, "plan"),
    (11, "quota"),
]


def test_rows_with_errors_are_named_and_nothing_is_written(lite):
    report = import_json(lite, "-", "--digest", "sha256", rows=WRONG, status=1)
    assert [(each["line"], each["column"]) for each in report["refusals"]] == PLACES
    assert report["refusals"][6]["reason"] == "the same key as on line 2"
    assert (report["rows"], report["added"], report["refused"]) == (10, 0, 9)
    assert names(lite) == []


def test_skipped_errors(lite):
    report = import_json(lite, "-", "--digest", "sha256", "--skip-errors", rows=WRONG, status=1)
    assert (report["added"], report["refused"]) == (1, 9)
    assert names(lite) == ["a"]


def test_at_most_twenty_errors_are_shown(lite):
    rows = table(*["abc,a"] * 25)
    output = import_file(lite, "-", "--digest", "sha256", rows=rows, status=1).stderr
    assert output.count("line ") == 20
    assert "… and 5 more." in output
    assert "Nothing was written" in output


def test_file_that_changes_after_the_check(lite, monkeypatch, tmp_path):
    path = tmp_path / "keys.csv"
    path.write_text(table(f"{digest('a')},a"))
    key = type(lite.app.extensions["apikey"].services.adoption).key

    def changing(self, *, dry_run=False):
        if not dry_run:
            path.write_text(table("abc,a"))
        return key(self, dry_run=dry_run)

    monkeypatch.setattr(run.KeyAdoption, "key", changing)
    assert "line 2 changed" in import_file(lite, path, "--digest", "sha256", status=1).stderr


@pytest.mark.parametrize(("option", "codes"), [("all", (200, 200)), ("none", (200, 403))])
def test_empty_scopes(lite, option, codes):
    view = require_api_key(scopes=["reports:read"])(lambda: "open")
    lite.app.add_url_rule("/scoped", "scoped", view)
    rows = table(f"{digest('a')},a,reports:read", f"{digest('b')},b,", columns="digest,name,scopes")
    refused = import_file(lite, "-", "--digest", "sha256", rows=rows, status=2)
    assert "1 of 2 rows have no scopes" in refused.stderr
    assert names(lite) == []
    import_file(lite, "-", "--digest", "sha256", "--empty-scopes", option, rows=rows)
    client = lite.app.test_client()
    answers = [client.get("/scoped", headers={"X-API-Key": key}).status_code for key in "ab"]
    assert tuple(answers) == codes


def test_expiry(lite):
    """An empty cell means never. Without the column, the default lifetime holds."""
    lines = [{"digest": digest("a"), "name": "a"}, {"digest": digest("b"), "name": "b", "expires_at": None}]
    import_file(lite, "-", "--digest", "sha256", rows="\n".join(map(json.dumps, lines)))
    ends = {record.name: record.expires_at for record in lite.do("list")}
    assert ends["b"] is None
    assert ends["a"] is not None


def test_time_of_a_revocation(lite):
    rows = table(f"{digest('a')},a,2021-02-03", columns="digest,name,revoked_at")
    report = import_json(lite, "-", "--digest", "sha256", "--column", "revoked=revoked_at", rows=rows)
    assert report["revoked_now"] == 0
    assert [record.revoked_at for record in lite.do("list")] == [moment("2021-02-03T00:00:00")]
    audit = lite.app.test_cli_runner().invoke(apikey, ["audit", "--verify"])
    assert audit.exit_code == 0, audit.output


@pytest.mark.parametrize("key", ["", " a", "a\tb", "ä", "x" * 501])
def test_plaintext_that_no_client_can_present(lite, key):
    rows = json.dumps({"key": key, "name": "a"})
    report = import_json(lite, "-", "--digest", "plaintext", rows=rows, status=1)
    assert [(each["line"], each["column"]) for each in report["refusals"]] == [(1, "key")]


@pytest.mark.parametrize("column", ["name", "owner", "scopes", "created_at", "allowed_ips", "plan", "rate", "metadata"])
@pytest.mark.parametrize("form", ["sha256", "plaintext"])
def test_output_never_has_a_key(lite, column, form):
    """Not even where it is in another column by mistake."""
    secret = 'abc"' + "sk_live_2TqLCDJZbtZKlIS3zyRmAG" * 9
    argument = "key" if form == "plaintext" else "digest"
    rows = json.dumps({argument: secret, "name": "a", column: secret}) + "\n" + json.dumps({argument: secret})
    for options in ([], ["--json"], ["--skip-errors"]):
        result = import_file(lite, "-", "--digest", form, *options, rows=rows, status=1)
        assert "sk_live" not in result.output


def test_temporary_file_of_standard_input(lite, monkeypatch):
    copy, files = shutil.copyfileobj, []

    def noted(source, target):
        files.append(os.fstat(target.fileno()))
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfileobj", noted)
    import_file(lite, "-", "--digest", "sha256", rows=table(f"{digest('a')},a"))
    assert [(stat.S_IMODE(each.st_mode), each.st_nlink) for each in files] == [(0o600, 0)]


def test_pipe(lite):
    """Named pipes, as of a process substitution, can be read only once."""
    reader, writer = os.pipe()
    os.write(writer, table(f"{digest('a')},a").encode())
    os.close(writer)
    import_file(lite, f"/dev/fd/{reader}", "--digest", "sha256")
    os.close(reader)
    assert names(lite) == ["a"]


def test_form_must_be_accepted(make_scene, tmp_path):
    scene = make_scene(f"sqlite:///{tmp_path}/other.db", APIKEY_ADOPTED_KEYS=["sha512"])
    rows = table("a,a", columns="key,name")
    assert "APIKEY_ADOPTED_KEYS" in import_file(scene, "-", "--digest", "plaintext", rows=rows, status=1).stderr
