"""``flask apikey rotation``: output, exit status and log."""

import json
import logging
import sqlite3
from datetime import timedelta

import pytest
from click.testing import CliRunner
from flask.cli import FlaskGroup

from flask_apikey import APIKeys
from flask_apikey.core.audit_log import FIELDS
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from tests.support.stored import all_keys

OLD, NEW, LOST = (generate_fernet_key() for _ in range(3))
OLD_PRINT, NEW_PRINT, LOST_PRINT = (FernetKeyring(key).fingerprint for key in (OLD, NEW, LOST))


@pytest.fixture
def process(make_app, tmp_path, clock):
    """Factory of applications with different Fernet keys on one storage."""

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


def test_hostile_fingerprints_do_not_reach_the_terminal(added, tmp_path):
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        connection.execute("UPDATE flask_apikey_keys SET sealed_by = char(27) || ']0;owned' || char(7)")
        connection.execute(
            "INSERT INTO flask_apikey_rotation VALUES (1, char(27) || '[2J', char(27) || '[8m', 1, 2, NULL, 1)"
        )
    for arguments in (["rotation", "status"], ["rotation", "run"], ["rotation", "finish"], ["rotation", "cancel"]):
        for flags in ([], ["--json"]):
            shown = flask_apikey(added, *arguments, *flags)
            assert not {"\x1b", "\x07"} & set(shown.output), arguments
    for arguments in (["doctor"], ["list"], ["audit", "--verify"], ["repair", "--all", "--dry-run"]):
        assert not {"\x1b", "\x07"} & set(flask_apikey(added, *arguments).output), arguments


def document(app, *arguments):
    result = rotation(app, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result):
    """Return the single line that a refused command prints."""
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def stored(backend):
    return [key.record.id for key in all_keys(backend)]


def damage(backend, key_id, **columns):
    with backend._opened.get().engine.begin() as connection:
        connection.execute(backend._keys.update().where(backend._keys.c.id == key_id).values(columns))


def test_whole_rotation_in_json(process, added, promoted, clock):
    assert document(added, "status")["stage"] == "added"
    started = document(added, "start")
    assert started == {
        "stage": "started",
        "rotation": {
            "from_fingerprint": OLD_PRINT,
            "to_fingerprint": NEW_PRINT,
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
        "next_step": started["next_step"],
    }
    assert document(promoted, "run") == {
        "resealed": 3,
        "conflicts": 0,
        "remaining": 0,
        "not_configured": {},
        "damaged": 0,
        "unaccounted": 0,
        "examples": [],
    }
    assert document(promoted, "status")["stage"] == "resealed"
    finished = document(promoted, "finish")
    assert (finished["stage"], finished["rotation"]["finished_at"]) == ("finished", clock().isoformat())
    assert "Remove APIKEY_FERNET_KEY_FALLBACKS[0]" in finished["next_step"]
    assert document(process(NEW), "status")["stage"] == "none"


def test_whole_rotation_in_text(added, promoted, clock):
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


def test_status_without_a_rotation(added):
    assert rotation(added, "status").stdout.splitlines()[0] == "No rotation was ever started."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "to retire"),
        (["finish"], "no rotation is under way"),
        (["start", "--from", OLD_PRINT, "--to", "0" * 16], f"no Fernet key has the fingerprint {'0' * 16} here"),
        (["start", "--to", NEW_PRINT], "name two Fernet keys, with --from and --to, or none"),
    ],
    ids=["run", "finish", "unknown fingerprint", "only --to"],
)
def test_refusal_is_one_line(added, arguments, message):
    assert message in refused(rotation(added, *arguments))


def test_ambiguous_direction_is_named(process, added):
    ambiguous = process(OLD, NEW, LOST)
    command = ["start", "--from", OLD_PRINT, "--to", NEW_PRINT]
    assert f"'flask apikey rotation {' '.join(command)}'" in refused(rotation(ambiguous, "start"))
    assert document(ambiguous, *command)["rotation"]["to_fingerprint"] == NEW_PRINT


@pytest.mark.parametrize("arguments", [["run", "--rate", "0"], ["sideways"]])
def test_wrong_usage(promoted, arguments):
    assert rotation(promoted, *arguments).exit_code == 2


def test_run_without_start(promoted):
    assert document(promoted, "run", "--rate", "1000")["resealed"] == 3
    events = json.loads(flask_apikey(promoted, "audit", "--key", "storage", "--json").stdout)["events"]
    assert [(each["event"], each["key_id"]) for each in events] == [("rotation.started", None), ("rotation.run", None)]
    assert document(promoted, "status")["stage"] == "resealed"


def test_remaining_keys_fail_the_command(process, added, promoted):
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


def test_advice_on_a_lost_fernet_key(process, added, promoted, clock):
    elsewhere = process(LOST)
    with elsewhere.app_context():
        lost = [
            elsewhere.api_keys.create(name=name, lifetime=timedelta(hours=hours)).record.id
            for name, hours in (("active", 9), ("revoked", 9), ("expired", 1))
        ]
        elsewhere.api_keys.revoke(lost[1])
    clock.advance(timedelta(hours=2))
    document(added, "start")
    for advice in (rotation(promoted, "run").stderr, refused(rotation(promoted, "finish"))):
        assert "'flask apikey repair ID'" in advice
        assert "'flask apikey prune --older-than 0s'" in advice
    for key_id in lost:
        assert flask_apikey(promoted, "repair", key_id, "--yes").exit_code == 0
    assert flask_apikey(promoted, "prune", "--older-than", "0s", "--yes").exit_code == 0
    assert document(promoted, "finish")["stage"] == "finished"
    assert len(stored(promoted.extensions["apikey"].backend)) == 4


def test_cancel_when_the_new_fernet_key_is_lost(process, added):
    document(added, "start")
    alone = process(OLD)
    assert "run 'flask apikey rotation cancel'" in rotation(alone, "status").stderr
    assert "'flask apikey rotation cancel'" in refused(rotation(alone, "run"))
    assert flask_apikey(alone, "doctor").exit_code == 1
    cancelled = document(alone, "cancel")
    assert (cancelled["stage"], cancelled["remaining"], cancelled["next_step"]) == ("none", 0, "")
    assert "rotation" not in {
        check["code"].split("_")[0] for check in json.loads(flask_apikey(alone, "doctor", "--json").stdout)["checks"]
    }
    assert "nothing to cancel" in refused(rotation(alone, "cancel"))


def test_cancelled_rotation_is_shown_in_reverse(added):
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


def test_damaged_seals_and_rows_are_reported(added, promoted):
    backend = added.extensions["apikey"].backend
    damaged, unreadable, _ = stored(backend)
    damage(backend, damaged, seal="nonsense")
    damage(backend, unreadable, previous_secrets_expire_at="nonsense")
    document(added, "start")
    result = rotation(promoted, "run")
    assert result.exit_code == 1
    assert "2 whose row or seal is damaged, or whose seal does not fit" in result.stderr


def test_period_setting(process, added):
    app = process(OLD, NEW, APIKEY_ROTATION_PERIOD="2d")
    rotated = document(app, "start")["rotation"]
    assert (rotated["started_at"], rotated["due_at"]) == ("2026-01-01T00:00:00+00:00", "2026-01-03T00:00:00+00:00")


def test_fernet_key_from_a_file(process, added, tmp_path):
    path = tmp_path / "fernet.key"
    path.write_text(NEW)
    path.chmod(0o400)
    app = process("", OLD, APIKEY_FERNET_KEY_FILE=str(path))
    assert [each["setting"] for each in document(app, "status")["seals"]] == [
        "APIKEY_FERNET_KEY_FILE",
        "APIKEY_FERNET_KEY_FALLBACKS[0]",
    ]


def test_audit_events(added, promoted, caplog):
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


def test_storage_that_cannot_reseal(make_app, backend):
    app = make_app()
    APIKeys(app, backend=backend)
    assert "the storage (WatchedBackend) cannot re-seal keys" in refused(rotation(app, "status"))
