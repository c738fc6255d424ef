"""``flask apikey rotation``: what it prints, how it exits, and what is logged."""

import json
import logging
from datetime import timedelta

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.cli import FlaskGroup

from flask_apikey import APIKeys
from flask_apikey.core.audit_log import FIELDS
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key

OLD, NEW, LOST = (generate_fernet_key() for _ in range(3))
OLD_PRINT, NEW_PRINT, LOST_PRINT = (FernetKeyring(key).fingerprint for key in (OLD, NEW, LOST))


@pytest.fixture
def process(make_app, tmp_path, clock):
    """Makes the application of a process with these Fernet keys; all processes share a storage."""

    def process(primary, *fallbacks, **config):
        app = make_app(
            APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/keys.db",
            APIKEY_FERNET_KEY=primary,
            APIKEY_FERNET_KEY_FALLBACKS=list(fallbacks),
            **config,
        )
        app.api_keys = APIKeys(app, clock=clock)
        return app

    return process


@pytest.fixture
def added(process):
    app = process(OLD, NEW)
    with app.app_context():
        app.api_keys.init_storage()
        for number in range(3):
            app.api_keys.create(name=f"key {number}")
    return app


@pytest.fixture
def promoted(process, added):
    return process(NEW, OLD)


def flask_apikey(app, *arguments):
    return CliRunner().invoke(FlaskGroup(create_app=lambda: app, set_debug_flag=False), ["apikey", *arguments])


def rotation(app, *arguments):
    return flask_apikey(app, "rotation", *arguments)


def document(app, *arguments):
    result = rotation(app, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result):
    """The one line that a refusal prints."""
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def stored(backend):
    return [key.record.id for key in backend.all_keys()]


def damage(backend, key_id, **columns):
    with backend._database().engine.begin() as connection:
        connection.execute(backend._keys.update().where(backend._keys.c.id == key_id).values(columns))


def test_a_whole_rotation_for_programs(process, added, promoted, clock):
    assert document(added, "status")["stage"] == "added"
    started = document(added, "start")
    assert started == {
        "stage": "started",
        "rotation": {
            "from": OLD_PRINT,
            "to": NEW_PRINT,
            "started_at": clock().isoformat(),
            "due_at": (clock() + timedelta(days=7)).isoformat(),
            "finished_at": None,
        },
        "overdue": False,
        "remaining": 3,
        "seals": [
            {"fingerprint": OLD_PRINT, "keys": 3, "setting": "APIKEY_FERNET_KEY"},
            {"fingerprint": NEW_PRINT, "keys": 0, "setting": "APIKEY_FERNET_KEY_FALLBACKS[0]"},
        ],
        "next": started["next"],
    }
    assert document(promoted, "run") == {
        "resealed": 3,
        "changed_meanwhile": 0,
        "remaining": 0,
        "not_configured": {},
        "damaged": 0,
        "unaccounted": 0,
        "examples": [],
    }
    assert document(promoted, "status")["stage"] == "resealed"
    finished = document(promoted, "finish")
    assert (finished["stage"], finished["rotation"]["finished_at"]) == ("finished", clock().isoformat())
    assert "Remove APIKEY_FERNET_KEY_FALLBACKS[0]" in finished["next"]
    assert document(process(NEW), "status")["stage"] == "none"


def test_a_whole_rotation_for_people(added, promoted, clock):
    result = rotation(added, "start")
    assert result.stdout.splitlines() == [
        f"From {OLD_PRINT} to {NEW_PRINT}",
        "  started   2026-01-01 00:00:00 UTC",
        "  due       2026-01-08 00:00:00 UTC",
        f"{OLD_PRINT}  3 keys  APIKEY_FERNET_KEY",
        f"{NEW_PRINT}  0 keys  APIKEY_FERNET_KEY_FALLBACKS[0]",
    ]
    assert result.stderr.startswith(f"Next: When every process has the Fernet key {NEW_PRINT}")
    clock.advance(timedelta(days=8))
    assert "  due       2026-01-08 00:00:00 UTC  overdue" in rotation(promoted, "status").stdout
    result = rotation(promoted, "run")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith(f"From {OLD_PRINT} to {NEW_PRINT}.\nRe-sealing")
    assert result.stderr.splitlines()[-2:] == [
        "Keys re-sealed: 3. Keys left under another Fernet key: 0.",
        "Next: Run 'flask apikey rotation finish'.",
    ]
    assert "  finished  2026-01-09 00:00:00 UTC" in rotation(promoted, "finish").stdout


def test_a_storage_where_none_was_ever_started(added):
    assert rotation(added, "status").stdout.splitlines()[0] == "No rotation was ever started."


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "no rotation is under way: begin with 'flask apikey rotation start'"),
        (["finish"], "no rotation is under way"),
        (["start", "--to", "0" * 16], f"no Fernet key has the fingerprint {'0' * 16} here; there are: "),
    ],
)
def test_a_refusal_is_one_line(promoted, arguments, said):
    assert said in refused(rotation(promoted, *arguments))


def test_what_is_ambiguous_is_listed_with_the_options_to_choose(process, added):
    ambiguous = process(OLD, NEW, LOST)
    said = refused(rotation(ambiguous, "start"))
    assert f"--from {OLD_PRINT} --to {NEW_PRINT}" in said
    assert document(ambiguous, "start", "--to", NEW_PRINT)["rotation"]["to"] == NEW_PRINT


@pytest.mark.parametrize("arguments", [["run", "--rate", "0"], ["run", "--rate", "9", "--urgent"], ["sideways"]])
def test_wrong_usage(promoted, arguments):
    assert rotation(promoted, *arguments).exit_code == 2


def test_a_rate_can_be_given(added, promoted):
    document(added, "start")
    assert document(promoted, "run", "--rate", "1000")["resealed"] == 3


def test_urgently_it_needs_no_start(promoted):
    assert document(promoted, "run", "--urgent")["resealed"] == 3
    assert document(promoted, "status")["stage"] == "resealed"


def test_keys_that_could_not_be_resealed_are_told_and_fail_the_command(process, added, promoted):
    elsewhere = process(LOST)
    with elsewhere.app_context():
        lost = elsewhere.api_keys.create(name="sealed elsewhere").record.id
    document(added, "start")
    result = rotation(promoted, "run")
    assert result.exit_code == 1
    assert f"1 under {LOST_PRINT}, which is not configured here" in result.stderr
    assert f"Among them: {lost}" in result.stderr
    again = rotation(promoted, "run", "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["not_configured"] == {LOST_PRINT: 1}
    assert f"1 key is still sealed under another Fernet key ({LOST_PRINT}: 1)" in refused(rotation(promoted, "finish"))


def test_what_is_said_of_a_lost_fernet_key_is_what_helps(process, added, promoted, clock):
    elsewhere = process(LOST)
    with elsewhere.app_context():
        active, ended = (elsewhere.api_keys.create(name=name).record.id for name in ("active", "ended"))
        elsewhere.api_keys.revoke(ended)
    document(added, "start")
    said = rotation(promoted, "run").stderr
    steps = ["roll", "prune --older-than 0s"]
    assert all(f"'flask apikey {step}" in said for step in steps)
    assert all(f"'flask apikey {step}" in refused(rotation(promoted, "finish")) for step in steps)
    assert flask_apikey(promoted, "roll", active, "--grace", "0s", "--yes").exit_code == 0
    clock.advance(timedelta(seconds=1))
    assert flask_apikey(promoted, "prune", "--older-than", "0s", "--yes").exit_code == 0
    assert document(promoted, "run")["remaining"] == 0
    assert document(promoted, "finish")["stage"] == "finished"


def test_a_rotation_to_a_fernet_key_that_was_lost_is_cancelled(process, added):
    document(added, "start")
    alone = process(OLD)
    assert "run 'flask apikey rotation cancel'" in rotation(alone, "status").stderr
    assert "'flask apikey rotation cancel'" in refused(rotation(alone, "run", "--urgent"))
    assert flask_apikey(alone, "doctor").exit_code == 1
    cancelled = document(alone, "cancel")
    assert (cancelled["stage"], cancelled["remaining"], cancelled["next"]) == ("none", 0, "")
    assert "rotation" not in {
        check["code"].split("_")[0] for check in json.loads(flask_apikey(alone, "doctor", "--json").stdout)["checks"]
    }
    assert "nothing to cancel" in refused(rotation(alone, "cancel"))


def test_a_cancelled_rotation_is_shown_as_one_back(added):
    document(added, "start")
    result = rotation(added, "cancel")
    assert result.stdout.splitlines() == [
        f"From {NEW_PRINT} to {OLD_PRINT}",
        "  started   2026-01-01 00:00:00 UTC",
        "  finished  2026-01-01 00:00:00 UTC",
        f"{OLD_PRINT}  3 keys  APIKEY_FERNET_KEY",
        f"{NEW_PRINT}  0 keys  APIKEY_FERNET_KEY_FALLBACKS[0]",
    ]
    assert result.stderr.startswith(f"Next: Remove APIKEY_FERNET_KEY_FALLBACKS[0] ({NEW_PRINT}) from every process")


def test_damaged_seals_and_rows_are_told(added, promoted):
    backend = added.extensions["apikey"].backend
    damaged, unreadable, _ = stored(backend)
    damage(backend, damaged, seal="nonsense")
    damage(backend, unreadable, previous_secrets_expire_at="nonsense")
    document(added, "start")
    result = rotation(promoted, "run")
    assert result.exit_code == 1
    assert "1 with a damaged seal" in result.stderr
    assert "1 that cannot be read, which the log names" in result.stderr


def test_the_period_is_a_setting(process, added):
    app = process(OLD, NEW, APIKEY_ROTATION_PERIOD="2d")
    rotated = document(app, "start")["rotation"]
    assert (rotated["started_at"], rotated["due_at"]) == ("2026-01-01T00:00:00+00:00", "2026-01-03T00:00:00+00:00")


def test_a_fernet_key_from_a_file_is_named_so(process, added, tmp_path):
    path = tmp_path / "fernet.key"
    path.write_text(NEW)
    path.chmod(0o400)
    app = process("", OLD, APIKEY_FERNET_KEY_FILE=str(path))
    assert [each["setting"] for each in document(app, "status")["seals"]] == [
        "APIKEY_FERNET_KEY_FILE",
        "APIKEY_FERNET_KEY_FALLBACKS[0]",
    ]


def test_each_step_is_an_audit_event(added, promoted, caplog):
    caplog.set_level(logging.INFO, logger="flask_apikey")
    document(added, "start")
    document(promoted, "run")
    document(promoted, "finish")
    events = [
        {field: vars(record)[field] for field in FIELDS if vars(record).get(field) is not None}
        for record in caplog.records
        if getattr(record, "event", "").startswith("rotation.")
    ]
    assert [(event["event"], event["outcome"]) for event in events] == [
        ("rotation.started", "success"),
        ("rotation.run", "success"),
        ("rotation.finished", "success"),
    ]
    assert f"from {OLD_PRINT}, to {NEW_PRINT}" in events[0]["reason"]
    assert "resealed 3" in events[1]["reason"]
    assert OLD not in caplog.text
    assert NEW not in caplog.text


def test_the_history_tells_of_each_step_and_stays_verifiable(added, promoted):
    document(added, "start")
    document(promoted, "run")
    document(promoted, "finish")
    lines = flask_apikey(promoted, "audit").stdout.splitlines()
    assert [line.split()[4] for line in lines[3:]] == ["rotation.started", "rotation.run", "rotation.finished"]
    assert all("  no key  " in line for line in lines[3:])
    (key_id, *_) = stored(promoted.extensions["apikey"].backend)
    events = json.loads(flask_apikey(promoted, "audit", "--key", key_id, "--json").stdout)["events"]
    assert [event["event"] for event in events] == ["key.created"]
    assert json.loads(flask_apikey(promoted, "audit", "--verify", "--json").stdout)["number"] == 6


def test_python_takes_the_same_steps(added, promoted):
    with added.app_context():
        assert added.api_keys.rotation.start().to_fingerprint == NEW_PRINT
    with promoted.app_context():
        assert promoted.api_keys.rotation.run().resealed == 3
        assert promoted.api_keys.rotation.finish().remaining == 0


def test_a_storage_that_cannot_reseal_says_so(make_app, backend):
    app = make_app()
    APIKeys(app, backend=backend)
    assert "the storage (WatchedBackend) cannot re-seal keys" in refused(rotation(app, "status"))


def test_without_an_extension_it_says_so():
    assert "call api_keys.init_app(app)" in rotation(Flask("plain"), "status").output
