"""``flask apikey repair``."""

import json

import pytest

from flask_apikey.cli import apikey
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene


@pytest.fixture
def scene(make_app, tmp_path, clock):
    return KeyScene(make_app(APIKEY_STORAGE_URI=f"sqlite:///{tmp_path}/keys.db"), clock)


@pytest.fixture
def issued(scene):
    return scene.issue(owner="team-7", scopes=["read"])


@pytest.fixture
def key_id(issued):
    return issued.record.id


@pytest.fixture
def attacker(scene, key_id):
    return Attacker(scene.backend)


@pytest.fixture
def run(scene):
    def run(*options, answer=None):
        return scene.app.test_cli_runner().invoke(apikey, ["repair", *options], input=answer)

    return run


class TestOneRow:
    def test_row_that_fits(self, scene, run, key_id):
        result = run(key_id)
        assert result.exit_code == 0
        assert "there is nothing to repair" in result.stderr
        assert scene.backend.get(key_id).record.version == 1

    def test_pasted_key(self, scene, run, issued):
        assert "nothing to repair" in run(issued.key).stderr
        audit = scene.app.test_cli_runner().invoke(apikey, ["audit", "--key", issued.key])
        assert "key.created" in audit.stdout
        assert issued.key not in audit.output

    def test_shows_and_asks(self, scene, run, issued, key_id, attacker):
        attacker.edit_row(key_id, scopes="read write")
        declined = run(key_id, answer="n\n")
        assert declined.exit_code == 1
        assert "scopes   read, write" in declined.stdout
        assert "Changed outside of this library: scopes." in declined.stderr
        assert scene.works(issued) == [False]
        accepted = run(key_id, "--reason", "granted by hand", answer="y\n")
        assert accepted.exit_code == 0
        assert f"Key {key_id} was repaired: version 2." in accepted.stderr
        assert scene.works(issued) == [True]
        audit = scene.app.test_cli_runner().invoke(apikey, ["audit", "--last", "1"]).stdout
        assert "key.repaired" in audit
        assert "granted by hand" in audit
        assert "fields=scopes" in audit

    def test_dry_run(self, scene, run, key_id, attacker):
        attacker.edit_row(key_id, scopes="read write")
        result = run(key_id, "--dry-run", "--json")
        assert result.exit_code == 0
        shown = json.loads(result.stdout)
        assert (shown["fields"], shown["scopes"], shown["repaired"]) == (["scopes"], ["read", "write"], False)
        assert scene.backend.get(key_id).record.version == 1

    def test_json(self, run, key_id, attacker):
        attacker.edit_row(key_id, scopes="read write")
        shown = json.loads(run(key_id, "--yes", "--json").stdout)
        assert (shown["version"], shown["fields"], shown["repaired"]) == (2, ["scopes"], True)
        assert shown["key"] is None

    @pytest.mark.parametrize("as_json", [True, False])
    def test_new_secret_is_shown_once(self, scene, run, key_id, attacker, as_json):
        attacker.edit_row(key_id, seal="nonsense")
        result = run(key_id, *(["--yes", "--json"] if as_json else []), answer="y\n")
        assert result.exit_code == 0
        if as_json:
            key = json.loads(result.stdout)["key"]
        else:
            key = result.stdout.splitlines()[-1]
            assert "with a new secret?" in result.stderr
        assert scene.do("verify", key).accepted
        assert key not in result.stderr

    def test_history(self, run, key_id, attacker):
        attacker.remove_event(key_id, 1)
        result = run(key_id, "--yes")
        assert result.exit_code == 0
        assert "The history does not hold: event 1 is missing." in result.stderr

    def test_damaged_row(self, run, key_id, attacker):
        attacker.edit_row(key_id, metadata="no JSON")
        result = run(key_id, "--yes")
        assert result.exit_code == 1
        assert f"or revoke the key: 'flask apikey revoke {key_id}'" in result.stderr

    def test_revocation_of_a_damaged_row(self, scene, issued, key_id, attacker):
        attacker.edit_row(key_id, metadata="no JSON")
        revoke = scene.app.test_cli_runner().invoke
        declined = revoke(apikey, ["revoke", key_id], input="n\n")
        assert f"The row of key {key_id} is damaged. Revoke the key permanently?" in declined.stderr
        assert attacker.row(key_id)["revoked_at"] is None
        accepted = revoke(apikey, ["revoke", key_id, "--reason", "damaged"], input="y\n")
        assert accepted.exit_code == 0
        assert f"A key ({key_id}) was revoked" in accepted.stderr
        assert attacker.row(key_id)["revoked_at"] is not None

    def test_repair_after_revocation(self, scene, run, issued, key_id, attacker):
        attacker.edit_row(key_id, scopes="*")
        scene.do("revoke", key_id, reason="widened")
        assert scene.app.test_cli_runner().invoke(apikey, ["audit", "--verify"]).exit_code == 1
        assert run(key_id, "--yes").exit_code == 0
        assert scene.app.test_cli_runner().invoke(apikey, ["audit", "--verify"]).exit_code == 0
        assert scene.do("get", key_id).revocation_reason == "widened"
        assert scene.works(issued) == [False]

    def test_row_of_the_storage(self, scene, run, key_id, attacker):
        scene.app.extensions["apikey"].services.repository.record_without_key("rotation.run", {})
        attacker.edit_row("0" * 16, name="edited")
        assert run("storage", "--yes").exit_code == 0
        assert "nothing to repair" in run("storage").stderr


class TestManyRows:
    @pytest.fixture
    def edited(self, scene, key_id, attacker):
        """Ids of three keys that were moved to another owner by hand, beside one that fits."""
        ids = [key_id, *(scene.issue(str(number), owner="team-7").record.id for number in range(2))]
        scene.issue("fits")
        for each in ids:
            attacker.edit_row(each, owner="team-8")
        return ids

    def test_preview(self, scene, run, edited):
        result = run("--all", "--dry-run")
        assert result.exit_code == 0
        assert "Rows that fit: 1. Rows that do not: 3." in result.stderr
        assert "owner: 3 rows" in result.stderr
        assert sorted(result.stdout.split()) == sorted([*edited, *["owner"] * 3])
        assert {scene.backend.get(each).record.version for each in edited} == {1}

    @pytest.mark.parametrize("choice", [["--all"], ["--owner", "team-8"]], ids=["all", "owner"])
    def test_repair(self, scene, run, edited, choice):
        assert run(*choice, answer="n\n").exit_code == 1
        result = run(*choice, "--reason", "migrated", answer="y\n")
        assert result.exit_code == 0
        assert "Accept 3 rows as they stand?" in result.stderr
        assert "Rows repaired: 3." in result.stderr
        assert {scene.backend.get(each).record.version for each in edited} == {2}
        assert scene.app.test_cli_runner().invoke(apikey, ["audit", "--verify"]).exit_code == 0

    def test_failures_are_reported(self, run, edited, attacker):
        attacker.edit_row(edited[0], metadata="no JSON")
        result = run("--all", "--yes", "--json")
        assert result.exit_code == 1
        shown = json.loads(result.stdout)
        assert (shown["repaired"], shown["failed"], shown["fitting"]) == (2, 1, 1)
        assert [failure["key_id"] for failure in shown["failures"]] == [edited[0]]

    def test_nothing_to_repair(self, run, key_id):
        result = run("--all")
        assert result.exit_code == 0
        assert "Rows that do not: 0." in result.stderr


@pytest.mark.parametrize(
    "options",
    [[], ["--all", "--owner", "team-7"], ["8sQ2dKf0LmX7Tz1B", "--all"], ["8sQ2dKf0LmX7Tz1B", "--owner", "team-7"]],
)
def test_one_choice_of_rows(run, options):
    result = run(*options)
    assert result.exit_code == 2
    assert "pass either the ID of a key, or --owner, or --all" in result.stderr
