"""``flask apikey copy`` between storages."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import mongomock_ng
import pytest
from sqlalchemy import CheckConstraint

from flask_apikey import APIKeys
from flask_apikey.cli import apikey
from flask_apikey.core.errors import StorageError
from flask_apikey.core.history import PRUNED, LifecycleEvent, all_events
from flask_apikey.core.inventory import take_inventory
from flask_apikey.core.records import Resealing, Rotation, StoredKey
from flask_apikey.core.sealing import FernetRing, SealedSecrets, generate_fernet_key
from flask_apikey.core.storage import backend_for
from flask_apikey.core.times import utc_now
from flask_apikey.core.transfer import copy_keys
from flask_apikey.core.uris import redacted_uri
from flask_apikey.core.usage_records import LastUse, UsageBatch, UsageLabel, UsageRow
from flask_apikey.testing.contract import NOW, changed, stored_key
from flask_apikey_mongodb import MongoDBBackend


@pytest.fixture
def source_uri(tmp_path):
    return f"sqlite:///{tmp_path}/source.db"


@pytest.fixture(params=["sqlite", "FLASK_APIKEY_TEST_POSTGRESQL_URI", "FLASK_APIKEY_TEST_MYSQL_URI"])
def target_uri(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/target.db"
    uri = os.environ.get(request.param)
    if uri is None:
        pytest.skip(f"{request.param} is not set")
    backend = backend_for(uri)
    backend.init_storage()
    with backend._engine().begin() as connection:
        connection.execute(backend._keys.delete())
        connection.execute(backend._events.delete())
        connection.execute(backend._rotation.delete())
    backend.close()
    return uri


@pytest.fixture
def source(source_uri):
    yield from opened(source_uri)


@pytest.fixture
def target(target_uri):
    yield from opened(target_uri)


def opened(uri):
    backend = backend_for(uri)
    backend.init_storage()
    yield backend
    backend.close()


@pytest.fixture
def ring(fernet_key):
    return FernetRing(fernet_key)


@pytest.fixture
def keys(ring):
    return [
        replace(
            stored_key(name=f"key {number}", created_at=NOW + timedelta(microseconds=number // 2)),
            seal=ring.seal(SealedSecrets((os.urandom(32),))),
        )
        for number in range(1200)
    ]


@pytest.fixture
def copy(make_app, source_uri, target_uri):
    app = make_app(APIKEY_STORAGE_URI=source_uri)
    APIKeys(app)

    def copy(*options):
        return app.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri, *options])

    return copy


def test_every_key_arrives_as_it_was(source, target, keys, copy):
    source.add_many(keys)
    result = copy("--verify", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["added"], report["verified"]) == (1200, True)
    assert report["source"] == report["target"]
    assert report["source"]["keys"] == 1200
    assert list(target.all_keys()) == list(source.all_keys())


def test_a_key_opens_the_api_from_its_new_storage(make_app, source_uri, target_uri, source, target, copy):
    app = make_app(APIKEY_STORAGE_URI=source_uri)
    api_keys = APIKeys(app)
    with app.app_context():
        key = api_keys.create(name="ci").key
    assert copy().exit_code == 0
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(moved)
    with moved.app_context():
        assert api_keys.verify(key).accepted


def test_a_repeated_copy_changes_nothing(source, target, keys, copy):
    source.add_many(keys)
    copy()
    before = take_inventory(target)
    report = json.loads(copy("--json").stdout)
    assert (report["added"], report["updated"], report["unchanged"], report["kept"]) == (0, 0, 1200, 0)
    assert take_inventory(target) == before


def test_older_rows_are_replaced_and_newer_ones_kept(source, target, keys, ring):
    older, newer, same = keys[:3]
    source.add_many([changed(older, name="changed here"), newer, same])
    ahead = changed(newer, name="changed there")
    target.add_many([older, ahead, same, keys[3]])
    report = copy_keys(source, target)
    assert (report.added, report.updated, report.unchanged, report.kept) == (0, 1, 1, 1)
    assert target.get(older.record.id) == changed(older, name="changed here")
    assert target.get(newer.record.id) == ahead
    assert target.get(keys[3].record.id) == keys[3]


def test_a_key_that_is_revoked_at_the_target_stays_so_however_often_it_changes_here(source, target, keys):
    source.add(changed(changed(keys[0]), name="changed twice"))
    revoked = changed(keys[0], revoked_at=NOW, revocation_reason="leaked")
    target.add(revoked)
    report = copy_keys(source, target)
    assert (report.updated, report.kept) == (0, 1)
    assert target.get(keys[0].record.id) == revoked


def test_a_revocation_comes_along_to_a_key_that_has_changed_more_often_at_the_target(source, target, keys):
    source.add(changed(keys[0], revoked_at=NOW, revocation_reason="leaked"))
    ahead = changed(changed(keys[0]), name="changed there")
    target.add(ahead)
    later = NOW + timedelta(days=1)
    assert copy_keys(source, target, clock=lambda: later).updated == 1
    assert target.get(keys[0].record.id) == changed(ahead, revoked_at=NOW, revocation_reason="leaked", updated_at=later)
    report = copy_keys(source, target)
    assert (report.updated, report.kept) == (0, 1)


def test_a_dry_run_counts_and_writes_nothing(source, target, keys, copy):
    source.add_many(keys)
    report = json.loads(copy("--dry-run", "--json").stdout)
    assert report["added"] == 1200
    assert list(target.all_keys()) == []


def used(backend, key):
    label = UsageLabel(key.record.id, 490_000, "/books", "GET", "2xx")
    backend.add_usage(UsageBatch("w", 1, [UsageRow(label, 5)], [LastUse(key.record.id, 1, NOW, None)], NOW))


EVERYTHING = {"added": 5, "events": 7, "counts": 1, "last_uses": 1, "rotation": True, "only_at_target": 0}


@pytest.fixture
def filled(make_app, source_uri, source):
    """A source with some of everything."""
    issue_some(make_app, source_uri)
    used(source, next(source.all_keys()))
    source.put_rotation(
        Rotation(from_fingerprint="a", to_fingerprint="b", started_at=NOW, due_at=NOW), expected_version=0
    )
    return source


def drop(backend, *names):
    tables = [backend._metadata.tables[name] for name in names or backend._metadata.tables]
    backend._metadata.drop_all(backend._engine(), tables=tables)


def test_a_dry_run_takes_a_target_without_tables_for_empty(filled, target, copy):
    drop(target)
    report = json.loads(copy("--dry-run", "--json").stdout)
    assert report == {**report, **EVERYTHING}
    assert "table flask_apikey_keys" in target.missing_parts()
    assert copy().exit_code == 0


def test_a_dry_run_counts_what_goes_into_tables_that_are_still_to_be_made(filled, target, copy):
    assert copy().exit_code == 0
    drop(target, "flask_apikey_usage", "flask_apikey_last_uses", "flask_apikey_rotation")
    result = copy("--dry-run", "--json")
    expected = {**EVERYTHING, "added": 0, "unchanged": 5, "events": 0}
    assert json.loads(result.stdout) == {**json.loads(result.stdout), **expected}


def test_a_dry_run_takes_a_mongodb_without_collections_for_empty(filled, copy, monkeypatch):
    target = MongoDBBackend(mongomock_ng.MongoClient())
    monkeypatch.setattr("flask_apikey.cli.copy_command.backend_for", lambda _: target)
    report = json.loads(copy("--dry-run", "--json").stdout)
    assert report == {**report, **EVERYTHING}
    assert target._keys().database.list_collection_names() == []


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_source_without_tables_is_an_error(source, target, copy, options):
    drop(source)
    result = copy(*options)
    assert result.exit_code == 1
    assert "the tables do not exist yet" in result.stderr


def test_a_failure_of_a_target_with_tables_is_no_empty_target(filled, target, copy, monkeypatch):
    def fail(*_, **__):
        raise StorageError("the database failed: gone")

    monkeypatch.setattr(type(target), "find", fail)
    result = copy("--dry-run")
    assert result.exit_code == 1
    assert "gone" in result.stderr


@pytest.fixture
def picky(target):
    """A target whose table of keys somebody has given a condition that one key does not meet."""
    drop(target, "flask_apikey_keys")
    target._keys.append_constraint(CheckConstraint("name <> 'key 1'"))
    target._keys.create(target._engine())
    yield target
    drop(target, "flask_apikey_keys")


def test_keys_that_the_target_refuses_for_another_reason_than_their_id_are_an_error(source, picky, keys, copy):
    source.add_many(keys[:3])
    result = copy()
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: the database failed")
    assert list(picky.all_keys()) == []


def test_verify_finds_what_is_missing(source, target, keys, copy, monkeypatch):
    source.add_many(keys)
    monkeypatch.setattr(type(target), "add_many", lambda self, keys: None)
    result = copy("--verify", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["verified"] is False


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_storage_sealed_with_another_fernet_key_is_refused_before_anything_is_written(
    request, source, target, keys, copy, side
):
    source.add(keys[0])
    stranger = FernetRing(generate_fernet_key())
    sealed_elsewhere = StoredKey(keys[1].record, stranger.seal(SealedSecrets((os.urandom(32),))))
    request.getfixturevalue(side).add(sealed_elsewhere)
    result = copy()
    assert result.exit_code == 1
    assert stranger.fingerprint in result.stderr
    assert "APIKEY_FERNET_KEY_FALLBACKS" in result.stderr
    assert target.get(keys[0].record.id) is None


def test_both_fernet_keys_configured_lets_the_copy_go_on(make_app, source_uri, target_uri, source, target, keys):
    other = generate_fernet_key()
    source.add(keys[0])
    target.add(StoredKey(keys[1].record, FernetRing(other).seal(SealedSecrets((os.urandom(32),)))))
    app = make_app(APIKEY_STORAGE_URI=source_uri, APIKEY_FERNET_KEY_FALLBACKS=[other])
    APIKeys(app)
    result = app.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri])
    assert result.exit_code == 0, result.output
    assert target.get(keys[0].record.id) == keys[0]


def test_a_copy_that_was_killed_goes_on(source, target, source_uri, target_uri, keys, fernet_key, tmp_path):
    source.add_many(keys)
    program = tmp_path / "copy_until_killed.py"
    program.write_text(
        f"""
import os, signal
from flask_apikey.core import transfer
from flask_apikey.core.storage import backend_for
transfer._PAGE = 500
def killed(number):
    os.kill(os.getpid(), signal.SIGKILL)
transfer.copy_keys(backend_for({source_uri!r}), backend_for({target_uri!r}), progress=killed)
"""
    )
    killed = subprocess.run([sys.executable, program], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert take_inventory(target).keys == 500
    copy_keys(source, target)
    assert take_inventory(target) == take_inventory(source)


def before(monkeypatch, backend, method, step):
    """Let something happen just before a method of a backend."""
    original = getattr(type(backend), method)

    def after_step(self, *arguments, **options):
        monkeypatch.setattr(type(backend), method, original)
        step()
        return original(self, *arguments, **options)

    monkeypatch.setattr(type(backend), method, after_step)


def test_a_key_that_appears_at_the_target_meanwhile_is_left_alone(source, target, keys, monkeypatch):
    source.add_many(keys[:10])
    ahead = changed(keys[5], name="created there meanwhile")
    before(monkeypatch, target, "add_many", lambda: target.add(ahead))
    report = copy_keys(source, target)
    assert (report.added, report.kept) == (9, 1)
    assert target.get(ahead.record.id) == ahead


def test_a_key_that_another_copy_brings_meanwhile_is_none_that_was_kept(source, target, keys, monkeypatch):
    source.add_many(keys[:10])
    before(monkeypatch, target, "add_many", lambda: target.add(keys[5]))
    report = copy_keys(source, target)
    assert (report.added, report.kept) == (10, 0)


@pytest.mark.parametrize(
    "options", [["--from", "sqlite:///same.db", "--to", "sqlite:///same.db"], ["--dry-run", "--verify"], []]
)
def test_wrong_usage(make_app, options):
    app = make_app()
    APIKeys(app)
    assert app.test_cli_runner().invoke(apikey, ["copy", *options]).exit_code == 2


def test_an_unreachable_storage_is_one_line_without_the_password(copy, unused_port):
    result = copy("--from", f"postgresql://user:hunter2@127.0.0.1:{unused_port}/x")
    assert result.exit_code == 1
    assert "hunter2" not in result.output
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://user:p@ss:w/ord@host/x", "postgresql://user:***@host/x"),
        ("postgresql://user:@host/x", "postgresql://user:***@host/x"),
        ("postgresql://user@host/x", "postgresql://user@host/x"),
        ("mongodb://user:secret@a,b/x", "mongodb://user:***@a,b/x"),
        ("mongodb://host/x?tlsCertificateKeyFilePassword=secret", "mongodb://host/x?***"),
        ("mongodb://user:secret@host/x?replicaSet=rs0", "mongodb://user:***@host/x?***"),
        ("postgresql:///x?user=u&password=secret", "postgresql:///x?***"),
        ("postgresql://host:5432/x?user=u&password=sec@ret", "postgresql://***"),
        ("postgresql://user:sec?ret@host/x", "postgresql://***"),
        ("postgresql://user:sec?ret@host/x?sslpassword=secret", "postgresql://***"),
        ("mine:user:secret@host", "mine:***"),
        ("sqlite:////var/keys.db", "sqlite:////var/keys.db"),
        ("sqlite:////home/me@work/keys.db", "sqlite:////home/me@work/keys.db"),
    ],
)
def test_passwords_are_not_shown(uri, shown):
    assert redacted_uri(uri) == shown


@pytest.mark.parametrize(
    ("scheme", "query"),
    [
        ("postgresql", "password=hunter2"),
        ("postgresql", "sslpassword=hunter2&sslmode=nonsense"),
        ("postgresql", "sslpassword=hunter2&nonsense=hunter2"),
        ("mysql", "password=hunter2"),
        ("mongodb", "tls=true&tlsCertificateKeyFilePassword=hunter2"),
    ],
)
def test_a_failure_does_not_show_what_the_query_of_a_uri_has(make_app, unused_port, scheme, query):
    app = make_app()
    APIKeys(app)
    uri = f"{scheme}://user@127.0.0.1:{unused_port}/x?{query}"
    result = app.test_cli_runner().invoke(apikey, ["copy", "--from", uri, "--json"])
    assert result.exit_code == 1
    assert "hunter2" not in result.output
    assert result.stderr.startswith("Error: ")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_copy_shows_neither_side_with_what_its_query_has(source, target, copy, source_uri, options):
    result = copy("--from", f"{source_uri}?check_same_thread=false&timeout=17", *options)
    assert result.exit_code == 0, result.output
    assert f"{source_uri}?***" in result.output
    assert "timeout" not in result.output


def issue_some(make_app, uri):
    app = make_app(APIKEY_STORAGE_URI=uri)
    api_keys = APIKeys(app)
    with app.app_context():
        ids = [api_keys.create(name=f"key {number}").record.id for number in range(5)]
        api_keys.update(ids[0], name="renamed")
        api_keys.revoke(ids[1], reason="left")
    return app


def verified(app):
    return json.loads(app.test_cli_runner().invoke(apikey, ["audit", "--verify", "--json"]).stdout)


def test_the_history_comes_along(make_app, source_uri, target_uri, source, target, copy):
    original = issue_some(make_app, source_uri)
    assert json.loads(copy("--json").stdout)["events"] == 7
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(moved)
    assert verified(moved) == verified(original)
    with original.app_context():
        original.extensions["apikey"].extension.create(name="later")
    assert json.loads(copy("--json").stdout)["events"] == 1
    assert verified(moved) == verified(original)
    with moved.app_context():
        api_keys.create(name="made there")
    assert verified(moved)["intact"]


def test_a_target_with_a_history_of_its_own_tells_of_each_key(make_app, source_uri, target_uri, source, target, copy):
    issue_some(make_app, source_uri)
    there = issue_some(make_app, target_uri)
    report = json.loads(copy("--json").stdout)
    assert (report["added"], report["events"]) == (5, 5)
    assert verified(there)["intact"]
    assert verified(there)["number"] == 12


def killed_copy(source_uri, target_uri, method):
    """Copy with pages of two keys, and kill it when a method of the target is called for the second time."""
    program = f"""
import os, signal
from flask_apikey.core import transfer
from flask_apikey.core.storage import backend_for
transfer._PAGE = 2
source, target = backend_for({source_uri!r}), backend_for({target_uri!r})
target.init_storage()
method = type(target).{method}
def killed(self, *arguments, calls=[], **options):
    calls.append(arguments)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return method(self, *arguments, **options)
type(target).{method} = killed
transfer.copy_keys(source, target)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL


def test_an_interrupted_copy_to_a_target_that_goes_live_leaves_a_history_that_is_whole_in_the_end(
    make_app, source_uri, target_uri, source, target, copy
):
    original = issue_some(make_app, source_uri)
    killed_copy(source_uri, target_uri, "add_many")
    assert take_inventory(target).keys == 2
    live = issue_some(make_app, target_uri)
    with original.app_context():
        original.extensions["apikey"].extension.create(name="later")
    report = json.loads(copy("--verify", "--json").stdout)
    assert (report["added"], report["unchanged"], report["only_at_target"]) == (4, 2, 5)
    assert verified(live)["intact"]


def test_every_key_that_has_arrived_has_its_events_there_already(make_app, source_uri, target_uri, source, target):
    issue_some(make_app, source_uri)
    killed_copy(source_uri, target_uri, "add_many")
    told = {(event.event.key_id, event.event.key_version) for event in all_events(target)}
    versions = {(key.record.id, key.record.version) for key in target.all_keys()}
    assert len(versions) == 2
    assert versions <= told


def remove_one(app):
    """Let a key end and be removed, and give its id."""
    extension = app.extensions["apikey"].extension
    with app.app_context():
        key_id = next(key.id for key in extension.list(status="active"))
        extension.revoke(key_id, reason="leaked")
        extension.prune(ended_before=utc_now() + timedelta(days=1))
    return key_id


def test_a_key_that_was_removed_here_is_removed_from_a_target_with_the_same_history(
    make_app, source_uri, target_uri, source, target, copy
):
    original = issue_some(make_app, source_uri)
    assert copy().exit_code == 0
    removed = remove_one(original)
    assert json.loads(copy("--dry-run", "--json").stdout)["removed"] == 2
    assert target.get(removed) is not None
    report = json.loads(copy("--verify", "--json").stdout)
    assert (report["removed"], report["only_at_target"], report["verified"]) == (2, 0, True)
    assert target.get(removed) is None
    assert take_inventory(target) == take_inventory(source)
    moved = make_app(APIKEY_STORAGE_URI=target_uri)
    APIKeys(moved)
    assert verified(moved) == verified(original)


def test_verify_finds_a_key_that_should_have_been_removed(
    make_app, source_uri, target_uri, source, target, copy, monkeypatch
):
    original = issue_some(make_app, source_uri)
    assert copy().exit_code == 0
    remove_one(original)
    monkeypatch.setattr(type(target), "delete", lambda *_, **__: None)
    result = copy("--verify")
    assert result.exit_code == 1
    assert "repeat the copy" in result.stderr


def test_a_removal_is_carried_out_after_a_copy_that_was_killed_at_it(
    make_app, source_uri, target_uri, source, target, copy
):
    original = issue_some(make_app, source_uri)
    assert copy().exit_code == 0
    remove_one(original)
    killed_copy(source_uri, target_uri, "delete")
    assert json.loads(copy("--json").stdout)["removed"] == 1
    assert take_inventory(target) == take_inventory(source)


def test_verify_names_a_key_that_was_removed_here_and_still_works_at_a_target_with_its_own_history(
    make_app, source_uri, target_uri, source, target, copy
):
    original = issue_some(make_app, source_uri)
    assert copy().exit_code == 0
    live = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(live)
    with live.app_context():
        api_keys.create(name="made there")
    assert copy("--verify").exit_code == 0
    removed = remove_one(original)
    result = copy("--verify")
    assert result.exit_code == 1
    assert f"still work at the target: 1 ({removed})" in result.stderr
    assert "only at target 3" in result.stderr
    assert verified(live)["intact"]
    with live.app_context():
        api_keys.revoke(removed)
    result = copy("--verify", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["only_at_target"] == 3


@pytest.mark.parametrize("changes_there", [0, 2])
def test_a_target_without_history_keeps_what_was_removed_here_and_it_is_named(source, backend, keys, changes_there):
    backend.init_storage()
    there = keys[0]
    for _ in range(changes_there):
        there = changed(there)
    backend.add(there)
    source.add(keys[0])
    removal = LifecycleEvent(at=NOW, event=PRUNED, key_id=keys[0].record.id, key_version=2)
    source.delete_recorded(keys[0].record.id, expected_version=1, event=removal)
    report = copy_keys(source, backend)
    assert (report.removed, report.only_at_target, report.still_active) == (0, 1, [keys[0].record.id])


def test_a_key_that_has_changed_at_the_target_since_it_was_removed_here_stays(source, target, keys):
    target.add(changed(changed(keys[0])))
    source.add(keys[0])
    removal = LifecycleEvent(at=NOW, event=PRUNED, key_id=keys[0].record.id, key_version=2)
    source.delete_recorded(keys[0].record.id, expected_version=1, event=removal)
    report = copy_keys(source, target)
    assert (report.events, report.removed, report.still_active) == (1, 0, [keys[0].record.id])


def test_a_target_that_goes_live_while_it_takes_the_history_over_is_a_refusal_and_the_next_copy_completes_it(
    make_app, source_uri, target_uri, source, target, copy, monkeypatch
):
    issue_some(make_app, source_uri)
    live = make_app(APIKEY_STORAGE_URI=target_uri)
    api_keys = APIKeys(live)

    def go_live():
        with live.app_context():
            api_keys.create(name="made there")

    before(monkeypatch, target, "append_events", go_live)
    result = copy()
    assert result.exit_code == 1
    assert "repeat the copy" in result.stderr
    assert copy("--verify").exit_code == 0
    assert verified(live)["intact"]


def test_a_dry_run_counts_events_as_the_copy_does(make_app, source_uri, target_uri, source, target, copy):
    issue_some(make_app, source_uri)
    assert json.loads(copy("--dry-run", "--json").stdout)["events"] == 7
    there = issue_some(make_app, target_uri)
    assert json.loads(copy("--dry-run", "--json").stdout)["events"] == 5
    assert verified(there)["number"] == 7


def test_what_is_copied_is_sealed_under_the_primary_fernet_key(rotated, target_uri, source, target, keys):
    _, promoted = rotated
    newest = promoted.extensions["apikey"].ring
    older = changed(keys[1], name="changed here")
    source.add_many([keys[0], older])
    target.add(StoredKey(keys[1].record, newest.resealed(keys[1].seal)))
    report = copied(promoted, target_uri, "--verify")
    assert (report["added"], report["updated"], report["verified"]) == (1, 1, True)
    assert target.count_seals() == {newest.fingerprint: 2}
    for key in (keys[0], older):
        there = target.get(key.record.id)
        assert there.record == key.record
        assert newest.unseal(there.seal) == newest.unseal(key.seal)
    assert copied(promoted, target_uri)["unchanged"] == 2


def test_a_key_whose_seal_is_damaged_is_copied_as_it_is(rotated, target_uri, source, target, keys):
    _, promoted = rotated
    damaged = replace(keys[0], seal=replace(keys[0].seal, token="damaged"))
    source.add(damaged)
    assert copied(promoted, target_uri)["added"] == 1
    assert target.get(damaged.record.id) == damaged


@pytest.fixture
def rotated(make_app, source_uri, fernet_key):
    """A second Fernet key and two applications on the source: one before the promotion, one after."""
    new = generate_fernet_key()
    added = make_app(APIKEY_STORAGE_URI=source_uri, APIKEY_FERNET_KEY_FALLBACKS=[new])
    promoted = make_app(APIKEY_STORAGE_URI=source_uri, APIKEY_FERNET_KEY=new, APIKEY_FERNET_KEY_FALLBACKS=[fernet_key])
    for app in (added, promoted):
        app.api_keys = APIKeys(app)
    return added, promoted


def copied(app, target_uri, *options):
    result = app.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri, "--json", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_keys_that_were_copied_before_they_were_resealed_are_resealed_there_too(
    rotated, target_uri, source, target, keys
):
    added, promoted = rotated
    source.add_many(keys)
    assert copied(added, target_uri)["added"] == 1200
    with promoted.app_context():
        promoted.api_keys.rotation.run(urgent=True)
    assert copied(promoted, target_uri, "--dry-run")["resealed"] == 1200
    report = copied(promoted, target_uri, "--verify")
    assert (report["resealed"], report["kept"], report["verified"]) == (1200, 0, True)
    assert take_inventory(target) == take_inventory(source)
    assert copied(promoted, target_uri)["unchanged"] == 1200


def test_keys_that_are_resealed_at_the_target_already_stay_so(rotated, target_uri, source, target, keys):
    added, promoted = rotated
    source.add_many(keys[:3])
    copied(added, target_uri)
    newest = promoted.extensions["apikey"].ring
    target.reseal([Resealing(key.record.id, key.seal, newest.resealed(key.seal)) for key in keys[:3]])
    there = take_inventory(target)
    assert copied(promoted, target_uri)["unchanged"] == 3
    assert take_inventory(target) == there


def test_a_key_that_is_rolled_at_the_target_meanwhile_is_not_resealed(source, target, keys, ring, monkeypatch):
    newest = FernetRing(generate_fernet_key(), [])
    source.add(replace(keys[0], seal=newest.seal(SealedSecrets((os.urandom(32),)))))
    target.add(keys[0])
    ahead = changed(replace(keys[0], seal=ring.seal(SealedSecrets((os.urandom(32),)))))
    before(monkeypatch, target, "reseal", lambda: target.update(ahead, expected_version=1))
    report = copy_keys(source, target, ring=newest)
    assert (report.resealed, report.kept) == (0, 1)
    assert target.get(keys[0].record.id) == ahead


def test_a_storage_that_cannot_reseal_is_updated_instead(source, backend, keys):
    newest = FernetRing(generate_fernet_key())
    backend.init_storage()
    resealed = replace(keys[0], seal=newest.seal(SealedSecrets((os.urandom(32),))))
    source.add(resealed)
    backend.add(keys[0])
    assert copy_keys(source, backend, ring=newest).resealed == 1
    assert backend.get(keys[0].record.id) == resealed


def test_the_state_of_a_rotation_comes_along(rotated, target_uri, source, target, copy):
    added, promoted = rotated
    with added.app_context():
        started = added.api_keys.rotation.start()
    assert copied(added, target_uri, "--dry-run")["rotation"]
    assert target.get_rotation() is None
    assert copied(added, target_uri)["rotation"]
    assert target.get_rotation() == started
    assert not copied(added, target_uri)["rotation"]
    with promoted.app_context():
        promoted.api_keys.rotation.finish()
    result = promoted.test_cli_runner().invoke(apikey, ["copy", "--to", target_uri])
    assert "The state of the rotation of the Fernet key comes along." in result.stderr
    assert target.get_rotation() == source.get_rotation()


def test_a_rotation_that_is_further_at_the_target_stays(rotated, target_uri, source, target):
    added, _ = rotated
    with added.app_context():
        started = added.api_keys.rotation.start()
    finished = replace(started, finished_at=NOW + timedelta(days=900), version=5)
    target.put_rotation(finished, expected_version=0)
    assert not copied(added, target_uri)["rotation"]
    assert target.get_rotation() == finished
    earlier = replace(started, started_at=NOW - timedelta(days=900), version=6)
    target.put_rotation(earlier, expected_version=5)
    assert copied(added, target_uri)["rotation"]
    assert target.get_rotation() == replace(started, version=7)
