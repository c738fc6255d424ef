"""Rows changed by somebody who can write to the database and has no Fernet key."""

import logging
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import pytest
from pymongo import MongoClient
from sqlalchemy import MetaData, Table, create_engine

from flask_apikey import SealUnreadable, require_api_key
from flask_apikey.core.errors import RowDamaged, RowTampered
from flask_apikey.core.keys.authenticator import Verdict
from flask_apikey.core.times import to_microseconds
from tests.support.keys import KeyScene
from tests.support.storages import MYSQL, POSTGRESQL, named_servers, new_database
from tests.support.stored import all_events
from tests.support.wire_server import emptied

ADDRESS = "192.0.2.7"
HOUR = timedelta(hours=1)
TABLE = "flask_apikey_keys"
NOT_THE_RECORD = {"id", "sealed_by", "seal", "history_hash"}

EDITS = [
    {"prefix": "acme"},
    {"name": "another"},
    {"owner": "team-8"},
    {"owner": None},
    {"scopes": ["*"]},
    {"scopes": ["reports:read", "reports:write"]},
    {"allowed_ips": []},
    {"denied_ips": []},
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


class Attacker:
    """Reads and writes rows behind the back of the library."""

    def __init__(self, uri):
        self._uri = uri

    def columns(self):
        if self._uri.startswith("mongodb"):
            with MongoClient(self._uri) as client:
                found = client.get_default_database()[TABLE].find_one()
                return {"id" if name == "_id" else name for name in found if name != "pending"}
        with self._table() as (_, table):
            return set(table.columns.keys())

    def write(self, key_id, **values):
        if self._uri.startswith("mongodb"):
            with MongoClient(self._uri) as client:
                client.get_default_database()[TABLE].update_one({"_id": key_id}, {"$set": values})
            return
        stored = {
            name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()
        }
        with self._table() as (connection, table):
            connection.execute(table.update().where(table.c.id == key_id).values(stored))

    def read(self, key_id):
        if self._uri.startswith("mongodb"):
            with MongoClient(self._uri) as client:
                found = client.get_default_database()[TABLE].find_one({"_id": key_id})
                return {name: value for name, value in found.items() if name not in {"_id", "pending"}}
        with self._table() as (connection, table):
            row = dict(connection.execute(table.select().where(table.c.id == key_id)).mappings().one())
            del row["id"]
            return row

    @contextmanager
    def _table(self):
        engine = create_engine(self._uri)
        try:
            with engine.begin() as connection:
                yield connection, Table(TABLE, MetaData(), autoload_with=connection)
        finally:
            engine.dispose()


@pytest.fixture(params=["SQLite", "MongoDB", *named_servers(POSTGRESQL, MYSQL)])
def uri(request, tmp_path):
    if request.param == "MongoDB":
        yield emptied(request.getfixturevalue("wire_server").uri)
        return
    named = nullcontext(f"sqlite:///{tmp_path}/keys.db") if request.param == "SQLite" else new_database(request.param)
    with named as uri:
        yield uri


@pytest.fixture
def attacker(uri):
    return Attacker(uri)


@pytest.fixture
def scene(make_app, clock, uri):
    return KeyScene(make_app(APIKEY_STORAGE_URI=uri), clock)


@pytest.fixture
def another_process(make_app, clock, uri):
    """An application that has never seen the rows."""
    return lambda: KeyScene(make_app(APIKEY_STORAGE_URI=uri), clock)


def issue(scene):
    """Issue a key of which every column has a value, and return both its secrets."""
    issued = scene.issue(
        owner="team-7",
        scopes=["reports:read"],
        allowed_ips=["192.0.2.0/24"],
        denied_ips=["192.0.2.9"],
        metadata={"tier": 1},
        lifetime=HOUR,
    )
    return issued, scene.roll(issued, grace=HOUR)


def verdict(scene, issued):
    return scene.do("verify", issued.key, address=ADDRESS).verdict


def test_no_edit_of_a_column_opens_a_key(scene, another_process, attacker):
    old, issued = issue(scene)
    key_id = issued.record.id
    genuine = attacker.read(key_id)
    assert verdict(scene, issued) is verdict(scene, old) is Verdict.ACCEPTED
    columns = attacker.columns()
    assert columns - {name for edit in EDITS for name in edit} == {"id"}
    for edit in EDITS:
        if not edit.keys() <= columns:
            continue
        attacker.write(key_id, **edit)
        for each in (scene, another_process()):
            for secret in (old, issued):
                assert verdict(each, secret) in {Verdict.TAMPERED, Verdict.UNAVAILABLE}, edit
        attacker.write(key_id, **genuine)
        assert verdict(scene, issued) is Verdict.ACCEPTED


@pytest.mark.parametrize("end", ["revoke", "suspend", "expire"])
def test_ended_key_cannot_be_revived(scene, another_process, attacker, clock, end):
    _, issued = issue(scene)
    if end == "expire":
        clock.advance(HOUR)
        edit = {"expires_at": to_microseconds(clock() + HOUR)}
    elif hasattr(scene.api_keys, end):
        scene.do(end, issued.record.id)
        edit = {"revoked_at": None, "revocation_reason": None} if end == "revoke" else {"suspended_at": None}
    else:
        pytest.skip("keys cannot be suspended")
    assert verdict(scene, issued) not in {Verdict.ACCEPTED, Verdict.TAMPERED}
    attacker.write(issued.record.id, **edit)
    for each in (scene, another_process()):
        assert verdict(each, issued) is Verdict.TAMPERED


def test_seals_cannot_be_moved(scene, attacker):
    mine, victim = scene.issue("mine"), scene.issue("victim", scopes=["*"])
    seals = {each: attacker.read(each.record.id)["seal"] for each in (mine, victim)}
    attacker.write(mine.record.id, seal=seals[victim])
    attacker.write(victim.record.id, seal=seals[mine])
    # Each presented secret belongs to the seal of the other row.
    assert verdict(scene, mine) is verdict(scene, victim) is Verdict.WRONG_SECRET
    attacker.write(mine.record.id, **{**attacker.read(victim.record.id), "seal": seals[victim]})
    assert verdict(scene, mine) is Verdict.WRONG_SECRET
    with pytest.raises(RowTampered):
        scene.do("roll", mine.record.id)


def test_victims_key_is_not_revealed(make_app, clock, uri, attacker):
    scene = KeyScene(make_app(APIKEY_STORAGE_URI=uri, APIKEY_RECOVERABLE=True), clock)
    mine, victim = scene.issue("mine"), scene.issue("victim")
    assert scene.do("reveal", victim.record.id) == victim.key
    attacker.write(mine.record.id, seal=attacker.read(victim.record.id)["seal"])
    with pytest.raises(RowTampered):
        scene.do("reveal", mine.record.id)


@pytest.mark.parametrize(
    "edit", [{"scopes": ["*"]}, {"version": 2**31 - 1}, {"seal": "x"}, {"metadata": "nonsense"}, {"history_hash": ""}]
)
def test_row_that_does_not_fit_can_only_be_revoked(scene, attacker, edit):
    _, issued = issue(scene)
    key_id = issued.record.id
    attacker.write(key_id, **edit)
    for method, options in (("update", {"name": "x"}), ("roll", {}), ("roll", {"grace": HOUR})):
        with pytest.raises((RowTampered, RowDamaged, SealUnreadable), match=key_id):
            scene.do(method, key_id, **options)
    before = attacker.read(key_id)
    assert scene.do("revoke", key_id, reason="stolen").revocation_reason == "stolen"
    assert attacker.read(key_id) == {
        **before,
        "revoked_at": to_microseconds(scene.clock()),
        "revocation_reason": "stolen",
    }
    (event,) = (each for each in all_events(scene.backend.history) if each.event == "key.revoked_unsealed")
    assert (event.owner, event.reason) == ("team-7" if edit != {"metadata": "nonsense"} else None, "stolen")
    assert key_id in event.details


def test_mass_revocation_includes_rows_that_do_not_fit(scene, attacker):
    keys = [scene.issue(owner="team-7") for _ in range(4)]
    attacker.write(keys[0].record.id, scopes=["*"])
    attacker.write(keys[1].record.id, metadata="nonsense")
    attacker.write(keys[2].record.id, seal="x")
    assert scene.do("revoke_many", owner="team-7").revoked == 4
    assert all(attacker.read(each.record.id)["revoked_at"] for each in keys)


def test_tampering_is_told_to_the_operator_only(scene, attacker, caplog):
    @scene.app.get("/")
    @require_api_key
    def view():
        return "ok"

    _, issued = issue(scene)
    attacker.write(issued.record.id, scopes=["*"])
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
