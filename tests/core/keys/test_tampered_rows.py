"""Rows changed by somebody who can write to the database and has no Fernet key."""

import logging
from datetime import timedelta

import pytest

from flask_apikey import APIKeys, SealUnreadable, require_api_key
from flask_apikey.core.errors import RowDamaged, RowTampered
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.times import to_microseconds
from flask_apikey_sql import SQLBackend
from tests.support.attacker import Attacker
from tests.support.keys import KeyScene
from tests.support.stored import all_events

ADDRESS = "192.0.2.7"
HOUR = timedelta(hours=1)

EDITS = [
    {"prefix": "acme"},
    {"name": "another"},
    {"owner": "team-8"},
    {"owner": None},
    {"scopes": ["*"]},
    {"scopes": ["reports:read", "reports:write"]},
    {"allowed_ips": []},
    {"denied_ips": []},
    {"plan": None},
    {"plan": "other"},
    {"rate": None},
    {"rate": "9/second"},
    {"quota": None},
    {"quota": "9/day"},
    {"metadata": '{"tier":9}'},
    {"created_at": 1},
    {"updated_at": 1},
    {"expires_at": None},
    {"expires_at": 2**52},
    {"rolled_at": None},
    {"previous_secrets_expire_at": [2**52]},
    {"previous_secrets_expire_at": []},
    {"revoked_at": 1},
    {"revocation_reason": "gone"},
    {"adopted": "sha256"},
    {"suspended_at": 1},
    {"suspension_reason": "gone"},
    {"pruned_at": 1},
    {"version": 1},
    {"version": 2**31 - 1},
    {"history_hash": "0" * 64},
    {"sealed_by": "0" * 16},
    {"seal": "gAAAAA=="},
    {"seal": "gAAAAA==", "scopes": ["*"]},
]


class AnotherProcess(KeyScene):
    """An application on a storage that is prepared already."""

    def __init__(self, app, clock):
        self.app, self.clock = app, clock
        self.api_keys = APIKeys(app, clock=clock)


@pytest.fixture
def scene(make_app, clock, any_storage_uri):
    return KeyScene(make_app(APIKEY_STORAGE_URI=any_storage_uri, APIKEY_PLANS={"free": {}}), clock)


@pytest.fixture
def another_process(make_app, clock, any_storage_uri):
    """An application that has never seen the rows."""
    return lambda: AnotherProcess(make_app(APIKEY_STORAGE_URI=any_storage_uri, APIKEY_PLANS={"free": {}}), clock)


@pytest.fixture
def attacker(scene):
    return Attacker(scene.backend)


@pytest.fixture
def edit(scene, attacker):
    """Function that edits a row. Lists become text in SQL."""

    def edit(key_id, **values):
        if isinstance(scene.backend, SQLBackend):
            values = {
                name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()
            }
        attacker.edit_row(key_id, **values)

    return edit


def columns(row):
    return row.keys() - {"id", "_id", "pending", "changed_at"}


def issue(scene):
    """Issue a key of which every column has a value, and return both its secrets."""
    issued = scene.issue(
        owner="team-7",
        scopes=["reports:read"],
        allowed_ips=["192.0.2.0/24"],
        denied_ips=["192.0.2.9"],
        plan="free",
        rate="1/minute",
        quota="1000/month",
        metadata={"tier": 1},
        lifetime=HOUR,
    )
    return issued, scene.roll(issued, grace=HOUR)


def verdict(scene, issued):
    return scene.do("verify", issued.key, address=ADDRESS).verdict


def test_no_edit_of_a_column_opens_a_key(scene, another_process, attacker, edit):
    old, issued = issue(scene)
    key_id = issued.record.id
    genuine = attacker.row(key_id)
    assert verdict(scene, issued) is verdict(scene, old) is Verdict.ACCEPTED
    assert columns(genuine) == {name for values in EDITS for name in values}
    for values in EDITS:
        edit(key_id, **values)
        for each in (scene, another_process()):
            for secret in (old, issued):
                assert verdict(each, secret) in {Verdict.TAMPERED, Verdict.UNAVAILABLE}, values
        attacker.put_back(genuine)
        assert verdict(scene, issued) is Verdict.ACCEPTED


@pytest.mark.parametrize("end", ["revoke", "suspend", "expire"])
def test_ended_key_cannot_be_revived(scene, another_process, edit, clock, end):
    _, issued = issue(scene)
    if end == "expire":
        clock.advance(HOUR)
        values = {"expires_at": to_microseconds(clock() + HOUR)}
    else:
        scene.do(end, issued.record.id)
        values = {"revoked_at": None, "revocation_reason": None} if end == "revoke" else {"suspended_at": None}
    assert verdict(scene, issued) not in {Verdict.ACCEPTED, Verdict.TAMPERED}
    edit(issued.record.id, **values)
    for each in (scene, another_process()):
        assert verdict(each, issued) is Verdict.TAMPERED


def test_seals_cannot_be_moved(scene, attacker, edit):
    mine, victim = scene.issue("mine"), scene.issue("victim", scopes=["*"])
    genuine = {each: attacker.row(each.record.id) for each in (mine, victim)}
    edit(mine.record.id, seal=genuine[victim]["seal"])
    edit(victim.record.id, seal=genuine[mine]["seal"])
    # Each presented secret belongs to the seal of the other row.
    assert verdict(scene, mine) is verdict(scene, victim) is Verdict.WRONG_SECRET
    edit(mine.record.id, **{name: genuine[victim][name] for name in columns(genuine[victim])})
    assert verdict(scene, mine) is Verdict.WRONG_SECRET
    with pytest.raises(RowTampered):
        scene.do("roll", mine.record.id)


def test_victims_key_is_not_revealed(make_app, clock, any_storage_uri):
    scene = KeyScene(make_app(APIKEY_STORAGE_URI=any_storage_uri, APIKEY_RECOVERABLE=True), clock)
    attacker = Attacker(scene.backend)
    mine, victim = scene.issue("mine"), scene.issue("victim")
    assert scene.do("reveal", victim.record.id) == victim.key
    attacker.edit_row(mine.record.id, seal=attacker.row(victim.record.id)["seal"])
    with pytest.raises(RowTampered):
        scene.do("reveal", mine.record.id)


@pytest.mark.parametrize(
    "values", [{"scopes": ["*"]}, {"version": 2**31 - 1}, {"seal": "x"}, {"metadata": "nonsense"}, {"history_hash": ""}]
)
def test_row_that_does_not_fit_can_only_be_revoked(scene, attacker, edit, values):
    _, issued = issue(scene)
    key_id = issued.record.id
    edit(key_id, **values)
    for method, options in (("update", {"name": "x"}), ("roll", {}), ("roll", {"grace": HOUR})):
        with pytest.raises((RowTampered, RowDamaged, SealUnreadable), match=key_id):
            scene.do(method, key_id, **options)
    before = attacker.row(key_id)
    assert scene.do("revoke", key_id, reason="stolen").revocation_reason == "stolen"
    after = attacker.row(key_id)
    assert after == {
        **before,
        "changed_at": after["changed_at"],
        "revoked_at": to_microseconds(scene.clock()),
        "revocation_reason": "stolen",
    }
    (event,) = (each for each in all_events(scene.backend.history) if each.event == "key.revoked_unsealed")
    assert (event.owner, event.reason) == ("team-7" if values != {"metadata": "nonsense"} else None, "stolen")
    assert key_id in event.details


def test_mass_revocation_includes_rows_that_do_not_fit(scene, attacker, edit):
    keys = [scene.issue(owner="team-7") for _ in range(4)]
    edit(keys[0].record.id, scopes=["*"])
    edit(keys[1].record.id, metadata="nonsense")
    edit(keys[2].record.id, seal="x")
    assert scene.do("revoke_many", owner="team-7").revoked == 4
    assert all(attacker.row(each.record.id)["revoked_at"] for each in keys)


def test_tampering_is_told_to_the_operator_only(scene, edit, caplog):
    @scene.app.get("/")
    @require_api_key
    def view():
        return "ok"

    _, issued = issue(scene)
    edit(issued.record.id, scopes=["*"])
    with caplog.at_level(logging.WARNING, "flask_apikey"):
        answer = scene.app.test_client().get(
            "/", headers={"X-API-Key": issued.key}, environ_overrides={"REMOTE_ADDR": ADDRESS}
        )
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    assert "scopes" not in answer.text
    (logged,) = caplog.records
    assert (logged.event, logged.outcome, logged.key_id) == ("tampered", "failure", issued.record.id)
    assert "scopes" in logged.reason
    wrong = issued.key[:-10] + ("x" if issued.key[-10] != "x" else "y") + issued.key[-9:]
    answer = scene.app.test_client().get("/", headers={"X-API-Key": wrong})
    assert (answer.status_code, answer.json["code"]) == (401, "invalid_key")
