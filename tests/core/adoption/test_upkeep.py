"""Adopted keys in copies, in findings and on the command line."""

import hashlib
import json
from datetime import timedelta

import pytest

from flask_apikey.cli import apikey
from flask_apikey.core.copying.keys import copy_keys
from flask_apikey.core.keys.verification import verify_all
from flask_apikey.core.model.history import ADOPTION_ID
from tests.core.adoption.conftest import KEY, OTHER
from tests.support.attacker import Attacker
from tests.support.diagnosis import findings

DAY = timedelta(days=1)


def sha256(key):
    return hashlib.sha256(key.encode()).hexdigest()


def sha512(key):
    return hashlib.sha512(key.encode()).hexdigest()


@pytest.fixture
def record(lite):
    return lite.do("adopt", digest=sha256(KEY), name="x")


@pytest.fixture
def run(lite):
    def run(*arguments):
        return lite.app.test_cli_runner().invoke(apikey, arguments)

    return run


def test_copy(scene, make_scene, tmp_path):
    """Copied keys are found, revoked ones stay revoked, and a repeated copy has nothing to do."""
    scene.do("adopt", digest=sha256(KEY), name="x")
    scene.do("revoke", scene.do("adopt", digest=sha256(OTHER), name="y").id)
    target = make_scene(f"sqlite:///{tmp_path}/target.db")
    ring = scene.app.extensions["apikey"].ring
    report = copy_keys(scene.backend, target.backend, ring=ring)
    assert (report.added, report.refusals.count) == (2, 0)
    assert (target.code(KEY), target.code(OTHER)) == (None, "key_revoked")
    repeated = copy_keys(scene.backend, target.backend, ring=ring)
    assert (repeated.added, repeated.unchanged) == (0, 2)
    verified = verify_all(target.backend, ring)
    assert (verified.holds, verified.keys, verified.tombstones) == (True, 2, 0)


class TestFindings:
    def test_nothing_adopted(self, lite):
        assert not [code for code in findings(lite.app) if "adopt" in code]

    def test_adopted_keys_that_work(self, lite, record):
        assert findings(lite.app)["adopted_keys"].message == (
            "Keys that still have a secret of another system, and work: 1."
        )

    def test_only_adopted_keys_that_work_are_counted(self, lite, record):
        def adopt(name, **attributes):
            return lite.do("adopt", digest=sha256(f"old key {name}"), name=name, **attributes).id

        adopt("expires", expires_at=lite.clock() + DAY)
        lite.do("revoke", adopt("revoked"))
        lite.do("suspend", adopt("suspended"))
        lite.do("roll", adopt("rolled"), grace=DAY)
        counted = []
        for _ in range(2):
            counted.append(findings(lite.app)["adopted_keys"].message.rpartition(" ")[2])
            lite.clock.advance(DAY)
        assert counted == ["3.", "1."]
        assert lite.do("count", adopted=True) == 5

    def test_form_that_is_not_accepted(self, lite, record, make_scene):
        other = make_scene(lite.app.config["APIKEY_STORAGE_URI"], APIKEY_ADOPTED_KEYS=["sha512"])
        assert "Requests with them get 401" in findings(other.app)["adopted_keys_not_accepted"].message

    @pytest.mark.parametrize("damage", [{"seal": "x"}, {"history_hash": "x"}, {"version": "x"}])
    def test_unusable_row(self, lite, record, damage):
        lite.attacker.edit_row(ADOPTION_ID, **damage)
        assert "cannot be used" in findings(lite.app)["adoption_row_unusable"].message

    def test_missing_row(self, lite, record):
        lite.attacker.remove_row(ADOPTION_ID)
        assert "is missing" in findings(lite.app)["adoption_row_missing"].message

    def test_row_of_another_storage(self, lite, record, make_scene, tmp_path):
        other = make_scene(f"sqlite:///{tmp_path}/other.db")
        other.do("adopt", digest=sha256(KEY), name="x")
        lite.attacker.remove_row(ADOPTION_ID)
        lite.attacker.put_back(Attacker(other.backend).row(ADOPTION_ID))
        assert "that no request finds: 1" in findings(lite.app)["adopted_keys_lost"].message
        assert lite.code(KEY) == "invalid_key"


class TestCommands:
    def test_list_and_show(self, lite, record, run):
        lite.issue()
        listed = json.loads(run("list", "--adopted", "--json").stdout)
        assert [(each["id"], each["adopted"]) for each in listed["keys"]] == [(record.id, "sha256")]
        assert len(json.loads(run("list", "--json").stdout)["keys"]) == 2
        assert "adopted  " in run("show", record.id).stdout

    def test_pasted_adopted_key(self, lite, record):
        advice = "'flask apikey verify' finds the id of an adopted key.\n"
        invoke = lite.app.test_cli_runner().invoke
        shown = invoke(apikey, ["show", "-"], input=KEY)
        assert (shown.exit_code, KEY in shown.output) == (1, False)
        assert shown.stderr.startswith(f"Not a key of this library. {advice}Error: not the id of a key")
        assert invoke(apikey, ["list", "--search", "-"], input=KEY).stderr == f"No keys.\n{advice}"
        assert invoke(apikey, ["show", "-"], input=record.id).stderr == ""
        assert record.id in invoke(apikey, ["verify"], input=KEY).stderr

    def test_list_shows_the_last_use_of_the_adopted_secret(self, lite, record, run):
        def used():
            line = run("list", "--adopted").stdout.splitlines()[1]
            return line[47:63].strip()

        assert used() == "never"
        assert lite.code(KEY) is None
        at = f"{lite.clock():%Y-%m-%d %H:%M}"
        lite.clock.advance(DAY)
        rolled = lite.do("roll", record.id, grace=DAY).key
        lite.clock.advance(DAY / 2)
        assert lite.code(rolled) is None
        lite.api_keys.close()
        assert used() == at
        assert "  OLD USED (UTC)  " in run("list", "--adopted").stdout
        assert "  LAST USED (UTC)  " in run("list").stdout

    def test_repaired_row_of_an_adopted_key_stays_adopted(self, lite, record, run):
        lite.attacker.edit_row(record.id, name="changed")
        assert lite.code(KEY) == "unavailable"
        run("repair", record.id, "--yes")
        assert lite.code(KEY) is None

    def test_repaired_row_without_secrets_is_no_adopted_one(self, lite, record, run):
        lite.attacker.edit_row(record.id, seal="x")
        run("repair", record.id, "--yes")
        assert lite.do("get", record.id).adopted is None
        assert lite.code(KEY) == "invalid_key"
