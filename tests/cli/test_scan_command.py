"""``flask apikey scan``."""

import hashlib
import json
import os
import pty
import subprocess
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from flask_apikey import StorageError, require_api_key
from flask_apikey.cli import apikey
from flask_apikey.core.model.keystring import mint, new_id
from tests.support.keys import KeyScene
from tests.support.leaks import Repository

HOUR = timedelta(hours=1)


class Scene(KeyScene):
    def __init__(self, app, clock, folder):
        super().__init__(app, clock)
        self.folder = folder
        folder.mkdir()

    def leak(self, *keys, name="leak.env"):
        path = self.folder / name
        path.write_text("\n".join(["# settings", *keys]))
        return str(path)

    def run(self, *arguments, stdin=""):
        result = self.app.test_cli_runner().invoke(apikey, ["scan", *arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    def json(self, *arguments, stdin=""):
        result = self.run(*arguments, "--json", stdin=stdin)
        return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def scene(app, clock, tmp_path):
    return Scene(app, clock, tmp_path / "scanned")


def test_live_key_in_a_file(scene, clock):
    issued = scene.issue("nightly export", owner="team-7")
    path = scene.leak("x", f"KEY={issued.key}")
    result = scene.run(str(scene.folder))
    assert result.exit_code == 1
    key_id = issued.record.id
    assert result.stdout == f"{path}:3  fak_{key_id}_[redacted]  live  nightly export, owner team-7, never used\n"
    assert result.stderr == "Keys found: 1. Live secrets: 1.\n"


def test_output_never_has_a_secret(scene):
    issued = scene.issue()
    path = scene.leak(issued.key, name=f"{issued.key}.txt")
    for arguments in ([path], [path, "--json"], [str(scene.folder), "--revoke", "--yes"], [f"{path}.missing"]):
        assert issued.key[-40:] not in scene.run(*arguments).output


@pytest.mark.parametrize(
    ("state", "live"),
    [
        ("live", True),
        ("previous_secret", True),
        ("suspended", True),
        ("expired", False),
        ("revoked", False),
        ("wrong_secret", False),
        ("unknown", False),
    ],
)
def test_states(scene, clock, state, live):
    issued = scene.issue("ci", owner="team-7", lifetime=HOUR)
    key = issued.key
    if state == "previous_secret":
        scene.roll(issued, grace=HOUR)
    elif state == "suspended":
        scene.do("suspend", issued.record.id)
    elif state == "expired":
        clock.advance(HOUR)
    elif state == "revoked":
        scene.do("revoke", issued.record.id)
    elif state in {"wrong_secret", "unknown"}:
        key = mint("fak", issued.record.id if state == "wrong_secret" else new_id())
    status, document = scene.json("-", stdin=f"\n{key}")
    (finding,) = document["findings"]
    is_proven = state not in {"wrong_secret", "unknown"}
    assert finding == {
        "path": "-",
        "line": 2,
        "commit": None,
        "object": None,
        "key_id": key.split("_")[1],
        "prefix": "fak",
        "state": state,
        "live": live,
        "name": "ci" if is_proven else None,
        "owner": "team-7" if is_proven else None,
        "last_use_known": is_proven,
        "last_used_at": None,
        "last_used_from": None,
        "problem": None,
    }
    assert (status, document["found"], document["live"]) == (int(live), 1, int(live))


def test_last_use_is_that_of_the_leaked_secret(scene, clock):
    issued = scene.issue()
    previous, current = issued.key, scene.roll(issued, grace=HOUR * 9).key
    scene.app.add_url_rule("/", view_func=require_api_key(lambda: "ok"), endpoint="view")
    used = {}
    for key in (previous, current):
        clock.advance(HOUR)
        used[key] = clock().isoformat()
        assert scene.app.test_client().get("/", headers={"X-API-Key": key}).status_code == 200
    findings = scene.json(scene.leak(previous, current))[1]["findings"]
    assert [(each["last_used_at"], each["last_used_from"]) for each in findings] == [
        (used[previous], "127.0.0.1"),
        (used[current], "127.0.0.1"),
    ]


def test_nothing_found(scene):
    assert scene.json(scene.leak("nothing"))[0] == 0


@pytest.mark.parametrize("forms", [[], ["sha256:sk_live_", "drf-api-key"]], ids=["none", "two"])
def test_adopted_keys_are_not_looked_for(make_app, clock, tmp_path, forms):
    scene = Scene(make_app(APIKEY_ADOPTED_KEYS=forms), clock, tmp_path / "scanned")
    key = "sk_live_9fE2kQ7LmX4Tz1BvNc"
    if forms:
        scene.do("adopt", digest=hashlib.sha256(key.encode()).hexdigest(), name="exports")
    path = scene.leak(key)
    line = "Adopted keys are not looked for: sha256, drf-api-key. 'flask apikey verify' checks one.\n"
    assert scene.run(path).stderr == "Keys found: 0. Live secrets: 0.\n" + (line if forms else "")
    names = ["sha256", "drf-api-key"] if forms else []
    assert scene.json(path)[1]["adopted_forms_not_searched"] == names
    rules = partial(scene.app.test_cli_runner().invoke, apikey)
    assert (line in rules(["scanner-rules", "gitleaks"]).stderr) == bool(forms)
    assert json.loads(rules(["scanner-rules", "gitleaks", "--json"]).stdout)["adopted_forms_not_searched"] == names


def test_many_places_of_one_key(scene):
    issued = scene.issue()
    status, document = scene.json(scene.leak(*[issued.key] * 1200))
    assert (status, document["found"], document["live"]) == (1, 1200, 1)
    assert [each["line"] for each in document["findings"]] == list(range(2, 1202))


def test_lookups_are_batched(scene, monkeypatch):
    issued = [scene.issue() for _ in range(3)]
    scans = []
    scan = scene.backend.scan
    monkeypatch.setattr(scene.backend, "scan", lambda key_filter: scans.append(key_filter) or scan(key_filter))
    scene.run(scene.leak(*[each.key for each in issued] * 300))
    assert len(scans) == 1


def test_git_history(scene, tmp_path, monkeypatch):
    issued = scene.issue()
    repository = Repository(tmp_path / "repository")
    added = repository.commit(**{"config.py": f"\nKEY = '{issued.key}'\n"})
    repository.commit(**{"config.py": None, "readme": "hello"})
    assert scene.json(str(repository.folder))[0] == 0
    monkeypatch.chdir(repository.folder)
    status, document = scene.json("--git")
    (finding,) = document["findings"]
    assert (status, finding["path"], finding["line"], finding["commit"]) == (1, "config.py", 2, added)
    assert f"config.py:2 (commit {added})" in scene.run("--git", str(repository.folder)).stdout
    status, document = scene.json("--git", "--revoke", "--yes", "--reason", "in git")
    assert (status, document["revoked"]) == (1, 1)
    assert scene.works(issued) == [False]
    assert scene.do("get", issued.record.id).revocation_reason == "in git"
    assert scene.json("--git")[0] == 0


def test_revoke_asks(scene):
    issued = scene.issue()
    path = scene.leak(issued.key)
    result = scene.run(path, "--revoke")
    assert result.exit_code == 1
    assert "Permanently revoke 1 key?" in result.stderr
    assert "not confirmed" in result.stderr
    status, document = scene.json(path, "--revoke")
    assert (status, document["live"], document["revoked"]) == (1, 1, 0)
    assert scene.works(issued) == [True]
    result = scene.run(path, "--revoke", stdin="y\n")
    assert result.exit_code == 1
    assert "Keys revoked: 1." in result.stderr
    assert scene.works(issued) == [False]
    record = scene.do("get", issued.record.id)
    assert record.revocation_reason == "leaked: found by a scan"


def test_revoke_ends_a_previous_secret_alone(scene):
    issued = scene.issue()
    rolled = scene.roll(issued, grace=HOUR)
    status, document = scene.json(scene.leak(issued.key), "--revoke", "--yes", "--actor", "Ada")
    assert (status, document["revoked"], document["secrets_ended"]) == (1, 0, 1)
    assert scene.works(issued, rolled) == [False, True]


def test_revoke_is_repeatable(scene):
    issued = [scene.issue(), scene.issue()]
    path = scene.leak(*[each.key for each in issued])
    assert scene.json(path, "--revoke", "--yes")[1]["revoked"] == 2
    assert scene.json(path, "--revoke", "--yes") == (0, scene.json(path)[1])


def test_failed_revocations_are_reported(scene, monkeypatch):
    issued = [scene.issue(), scene.issue()]
    update = scene.backend.update

    def fail_once(key, **options):
        if key.record.id == issued[0].record.id:
            raise StorageError("the storage went away")
        update(key, **options)

    monkeypatch.setattr(scene.backend, "update", fail_once)
    status, document = scene.json(scene.leak(*[each.key for each in issued]), "--revoke", "--yes")
    assert (status, document["revoked"], document["failed"]) == (1, 1, 1)
    assert document["failures"] == [{"key_id": issued[0].record.id, "reason": "the storage went away"}]


def test_unreadable_paths_are_reported(scene, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    missing = [str(tmp_path / "missing"), str(tmp_path / "fifo")]
    status, document = scene.json(missing[0], scene.leak("x"), missing[1])
    assert (status, document["unreadable"]) == (1, 2)
    assert [each["path"] for each in document["unreadable_paths"]] == missing
    result = scene.run("--git", str(tmp_path))
    assert result.exit_code == 1
    assert "cannot be read" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["-", "x"], ["-", "--git"], ["x", "--yes"], ["x", "--reason", "y"], ["x", "--bogus"]],
)
def test_wrong_usage(scene, arguments):
    assert scene.run(*arguments).exit_code == 2


def test_storage_failure(scene, monkeypatch):
    path = scene.leak(scene.issue().key)

    def fail(_):
        raise StorageError("the storage went away")

    monkeypatch.setattr(scene.backend, "scan", fail)
    status, document = scene.json(path)
    assert (status, document["error"]["code"]) == (1, "storage_error")


def test_key_sealed_under_an_unknown_fernet_key(scene):
    issued = scene.issue()
    scene.app.extensions["apikey"].services.leaked._keyring._fernets.clear()
    status, document = scene.json(scene.leak(issued.key))
    assert (status, document["live"], document["findings"][0]["state"]) == (1, 0, "undecided")
    assert "APIKEY_FERNET_KEY_FALLBACKS" in document["findings"][0]["problem"]


def test_unprintable_paths(scene):
    issued = scene.issue()
    scene.leak(issued.key, name="a\n\x1b[31mb")
    result = scene.run(str(scene.folder))
    assert "a\\u{a}\\u{1b}[31mb:2" in result.stdout
    assert "\x1b" not in result.stdout


@pytest.mark.process
def test_bar_on_a_terminal(scene, tmp_path):
    """A bar is drawn on standard error, and only on a terminal."""
    scene.leak("x" * 3_000_000)
    (tmp_path / "app.py").write_text(
        "from flask import Flask\nfrom flask_apikey import APIKeys\napp = Flask(__name__)\n"
        f"app.config['APIKEY_FERNET_KEY'] = {scene.app.config['APIKEY_FERNET_KEY']!r}\nAPIKeys(app)\n"
    )
    program = Path(sys.executable).with_name("flask")
    device, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    command = [program, "apikey", "scan", str(scene.folder)]
    done = subprocess.run(command, cwd=tmp_path, stderr=terminal, stdout=subprocess.PIPE, env=environment, check=False)
    os.close(terminal)
    shown = os.read(device, 100_000).decode()
    os.close(device)
    assert done.returncode == 0, shown
    assert "Scanning" in shown
    assert "100%" in shown
