"""``flask apikey doctor``: each thing that can be wrong is told, and nothing else."""

import functools
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from flask import Blueprint, Flask, request
from flask.cli import FlaskGroup
from flask.views import MethodView, View
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import Rule

from flask_apikey import APIKeys, api_key_exempt, require_api_key
from flask_apikey.core.errors import StorageError
from flask_apikey.core.model.sealing import FernetKeyring, generate_fernet_key
from flask_apikey.core.rotation.status import RotationStage
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.doctor import checks as diagnosis_module
from flask_apikey.doctor.checks import MAX_LISTED, diagnose
from flask_apikey.doctor.findings import Severity

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make_app(make_app, tmp_path):
    """Applications as in production, in a directory of their own."""

    def make(**config):
        app = make_app(TESTING=False, **config)
        app.root_path = str(tmp_path)
        return app

    return make


@pytest.fixture
def bare(make_app, clock):
    """An application without static files, so that all of its views are those of the test."""
    app = Flask("bare", static_folder=None)
    app.config.update(make_app().config)
    APIKeys(app, clock=clock)
    return app


def findings(app):
    with app.app_context():
        return {finding.code: finding for finding in diagnose(app, app.extensions["apikey"])}


def doctor(app, *arguments, **options):
    group = FlaskGroup(create_app=lambda: app, set_debug_flag=False)
    return CliRunner(**options).invoke(group, ["apikey", "doctor", *arguments])


def listed(finding, *names):
    return [tuple(detail[name] for name in names) for detail in finding.details]


def severities(app):
    return {code: finding.severity for code, finding in findings(app).items() if finding.severity is not Severity.OK}


def test_an_application_in_order_has_no_problem_and_no_warning(bare):
    assert severities(bare) == {}
    assert findings(bare).keys() == {"fernet_keys", "https", "proxies", "storage", "keys", "views"}


# --- Fernet keys


def test_a_weak_fernet_key_is_a_problem(make_app):
    app = make_app(APIKEY_FERNET_KEY="A" * 43 + "=")
    APIKeys(app)
    found = findings(app)
    assert found["fernet_key_weak"].severity is Severity.PROBLEM
    assert "fernet_keys" not in found


def test_a_fernet_key_in_the_source_is_told_with_its_place(app, api_keys, tmp_path, fernet_key):
    (tmp_path / "shop.py").write_text(f"#\nKEY = '{fernet_key}'\n")
    app.root_path = str(tmp_path)
    found = findings(app)["fernet_key_in_source"]
    assert found.severity is Severity.PROBLEM
    assert listed(found, "file", "line") == [(str(tmp_path / "shop.py"), 2)]


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="names of files are Unicode there")
def test_a_file_with_a_strange_name_is_told_on_one_line(make_app, tmp_path, fernet_key, caplog):
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\nforged.py")).write_text(fernet_key)
    app = make_app(DEBUG=True)
    app.root_path = str(tmp_path)
    APIKeys(app)
    assert "\\u{a}forged.py:1" in caplog.records[0].getMessage()
    assert "\nforged" not in doctor(app).stdout
    assert json.loads(doctor(app, "--json").stdout)["checks"][0]["details"][0]["file"].endswith("/\ufffd\nforged.py")


def test_a_fernet_key_that_git_tracks_is_told_once(app, api_keys, tmp_path, fernet_key):
    (tmp_path / "shop.py").write_text(fernet_key)
    (tmp_path / "production.env").write_text(fernet_key)
    for arguments in (["init"], ["add", "-A"]):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)
    (tmp_path / ".env").write_text(fernet_key)
    app.root_path = str(tmp_path)
    found = findings(app)
    assert {Path(file).name for (file,) in listed(found["fernet_key_in_git"], "file")} == {"production.env", "shop.py"}
    assert "fernet_key_in_source" not in found


def test_a_repository_that_cannot_be_searched_is_a_warning(app, api_keys, tmp_path):
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    app.root_path = str(tmp_path)
    assert findings(app)["repository_not_searched"].severity is Severity.WARNING


def test_a_key_file_for_everybody_is_a_warning(make_app, tmp_path, fernet_key):
    path = tmp_path / "fernet_key"
    path.write_text(fernet_key)
    path.chmod(0o644)
    app = make_app(APIKEY_FERNET_KEY=None, APIKEY_FERNET_KEY_FILE=path)
    APIKeys(app)
    assert findings(app)["fernet_key_file_mode"].severity is Severity.WARNING


# --- HTTPS and proxies


@pytest.mark.parametrize(
    ("config", "code", "severity"),
    [
        ({}, "https", Severity.OK),
        ({"APIKEY_ENFORCE_HTTPS": True, "DEBUG": True, "TESTING": True}, "https", Severity.OK),
        ({"DEBUG": True}, "https_relaxed", Severity.WARNING),
        ({"TESTING": True}, "https_relaxed", Severity.WARNING),
        ({"APIKEY_ENFORCE_HTTPS": False}, "https_not_enforced", Severity.PROBLEM),
        ({"APIKEY_ENFORCE_HTTPS": False, "TESTING": True}, "https_not_enforced", Severity.PROBLEM),
        ({"APIKEY_ENFORCE_HTTPS": False, "DEBUG": True}, "https_not_enforced", Severity.WARNING),
    ],
)
def test_https_is_judged_as_requests_will_be(make_app, config, code, severity):
    app = make_app()
    app.config.update(config)
    APIKeys(app)
    found = {code: finding.severity for code, finding in findings(app).items() if code.startswith("https")}
    assert found == {code: severity}


@pytest.mark.parametrize(
    ("networks", "fixed", "code", "severity", "said"),
    [
        ([], False, "proxies", Severity.OK, "No proxy is declared"),
        (["10.0.0.0/8", "unix"], False, "proxies", Severity.OK, "X-Forwarded-For counts when it comes from 10.0.0.0/8"),
        ([], True, "proxies", Severity.OK, "ProxyFix"),
        (["10.0.0.0/8"], True, "proxies_twice", Severity.WARNING, "both read"),
        (["10.0.0.0/8", "::/0"], False, "proxies_everywhere", Severity.PROBLEM, "much of the Internet"),
        (["unix", "0.0.0.0/1", "128.0.0.0/1"], False, "proxies_everywhere", Severity.PROBLEM, "much of the Internet"),
        (["unix", "10.0.0.0/8", "fc00::/7"], False, "proxies", Severity.OK, "fc00::/7"),
    ],
)
def test_whose_word_counts_is_told(make_app, networks, fixed, code, severity, said):
    app = make_app(APIKEY_TRUSTED_PROXIES=networks)
    APIKeys(app)
    if fixed:
        app.wsgi_app = ProxyFix(app.wsgi_app)
    (found,) = [finding for code, finding in findings(app).items() if code.startswith("proxies")]
    assert (found.code, found.severity) == (code, severity)
    assert said in found.message


# --- the storage and its keys


def test_a_storage_that_does_not_answer_is_a_problem(make_app, backend):
    app = make_app()
    APIKeys(app, backend=backend)
    backend.failure = StorageError("the database is away")
    found = findings(app)
    assert found["storage_unreachable"].severity is Severity.PROBLEM
    assert "the database is away" in found["storage_unreachable"].message
    assert found.keys().isdisjoint({"storage", "keys"})


@pytest.mark.parametrize("is_there", [True, False])
def test_missing_tables_are_a_problem(make_app, tmp_path, is_there):
    path = tmp_path / "empty.db"
    if is_there:
        path.touch()
    app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{path}")
    api_keys = APIKeys(app)
    assert findings(app)["storage_unusable"].severity is Severity.PROBLEM
    assert "table flask_apikey_keys" in findings(app)["storage_incomplete"].message
    assert path.exists() == is_there
    with app.app_context():
        api_keys.init_storage()
    assert "storage_unusable" not in findings(app)


def test_a_missing_index_is_a_problem(make_app, tmp_path):
    path = tmp_path / "keys.db"
    app = make_app(APIKEY_STORAGE_URI=f"sqlite:///{path}")
    api_keys = APIKeys(app)
    with app.app_context():
        api_keys.init_storage()
    assert "storage_incomplete" not in findings(app)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX ix_flask_apikey_keys_owner")
    found = findings(app)["storage_incomplete"]
    assert found.severity is Severity.PROBLEM
    assert "missing: index ix_flask_apikey_keys_owner." in found.message


def test_a_storage_that_counts_no_requests_is_a_warning_unless_none_are_wanted(make_app, backend):
    APIKeys(app := make_app(), backend=backend)
    assert "WatchedBackend keeps no usage" in findings(app)["usage_not_kept"].message
    APIKeys(unwatched := make_app(APIKEY_USAGE="off"), backend=backend)
    assert "usage_not_kept" not in findings(unwatched)


def test_a_scope_that_no_active_key_has_is_a_warning(app, api_keys, issue):
    @app.get("/reports")
    @require_api_key(scopes=["reports:read", "reports:wirte"])
    def reports():
        return {}

    issue(scopes=["reports:read"])
    revoked = issue(scopes=["reports:wirte"])
    with app.app_context():
        api_keys.revoke(revoked.record.id)
    found = findings(app)["scopes_without_key"]
    assert found.severity is Severity.WARNING
    assert listed(found, "scope", "endpoints") == [("reports:wirte", "reports")]
    issue(scopes=["*"])
    assert "scopes_without_key" not in findings(app)


def test_keys_that_expire_soon_are_a_warning(app, issue):
    soon = issue("soon", lifetime=timedelta(days=14))
    issue("later", lifetime=timedelta(days=14, seconds=1))
    issue("never", lifetime=None)
    found = findings(app)
    assert found["keys_expiring"].severity is Severity.WARNING
    assert listed(found["keys_expiring"], "id", "name") == [(soon.record.id, "soon")]
    assert "keys" not in found


@pytest.mark.parametrize(("notice", "said"), [("36h", "within 36 hours: 1."), ("1d", "within 1 day."), (0, "is 0")])
def test_what_is_soon_is_what_the_expiry_notice_says(make_app, clock, notice, said):
    app = make_app(APIKEY_EXPIRY_NOTICE=notice)
    api_keys = APIKeys(app, clock=clock)
    with app.app_context():
        api_keys.init_storage()
        api_keys.create(name="soon", lifetime=timedelta(hours=36))
    found = findings(app)
    assert said in (found.get("keys_expiring") or found["keys"]).message


def test_keys_that_ended_already_do_not_expire_soon(app, api_keys, issue, clock):
    issue(lifetime=timedelta(days=1))
    revoked = issue(lifetime=timedelta(days=10))
    with app.app_context():
        api_keys.revoke(revoked.record.id)
    clock.advance(timedelta(days=2))
    assert "keys_expiring" not in findings(app)


def test_a_long_list_is_cut_and_its_count_is_not(app, issue):
    for _ in range(MAX_LISTED + 3):
        issue(lifetime=timedelta(days=1))
    found = findings(app)["keys_expiring"]
    assert len(found.details) == MAX_LISTED
    assert f"14 days: {MAX_LISTED + 3}." in found.message


def test_keys_beyond_the_bound_are_not_looked_at_and_that_is_said(app, issue, monkeypatch, clock):
    monkeypatch.setattr(diagnosis_module, "MAX_KEYS", 2)
    issue()
    issue()
    assert "keys_not_all_read" not in findings(app)
    clock.advance(timedelta(seconds=1))
    issue(lifetime=timedelta(days=1))
    found = findings(app)
    assert found["keys_not_all_read"].severity is Severity.WARNING
    assert "Active keys: 2." in found["keys"].message


def test_keys_under_other_fernet_keys_are_told(make_app, backend, fernet_key):
    old, lost = generate_fernet_key(), generate_fernet_key()
    for key in (lost, old, old):
        app = make_app(APIKEY_FERNET_KEY=key)
        api_keys = APIKeys(app, backend=backend)
        with app.app_context():
            api_keys.init_storage()
            api_keys.create(name="ci")
    app = make_app(APIKEY_FERNET_KEY_FALLBACKS=[old, generate_fernet_key()])
    APIKeys(app, backend=backend)
    found = findings(app)
    assert found["keys_unreadable"].severity is Severity.PROBLEM
    assert listed(found["keys_unreadable"], "keys") == [(1,)]
    assert found["rotation_unrecorded"].severity is Severity.WARNING
    assert listed(found["rotation_unrecorded"], "setting", "keys") == [
        ("APIKEY_FERNET_KEY", 0),
        ("APIKEY_FERNET_KEY_FALLBACKS[0]", 2),
        ("APIKEY_FERNET_KEY_FALLBACKS[1]", 0),
    ]
    assert "This storage cannot re-seal them" in found["rotation_unrecorded"].advice


def test_each_stage_of_a_rotation_is_recognised_and_the_next_step_told(make_app, tmp_path, fernet_key, clock):
    uri, new = f"sqlite:///{tmp_path}/keys.db", generate_fernet_key()

    def process(primary, *fallbacks):
        app = make_app(APIKEY_STORAGE_URI=uri, APIKEY_FERNET_KEY=primary, APIKEY_FERNET_KEY_FALLBACKS=list(fallbacks))
        return app, APIKeys(app, clock=clock)

    def told(app):
        found = [finding for code, finding in findings(app).items() if code.startswith("rotation_")]
        return [(each.code, each.severity.value, each.advice) for each in found]

    (before, api_keys), (added, adding), (promoted, promoting) = (
        process(fernet_key),
        process(fernet_key, new),
        process(new, fernet_key),
    )
    with before.app_context():
        api_keys.init_storage()
        api_keys.create(name="ci")
    assert told(before) == []
    ((code, severity, advice),) = told(added)
    assert (code, severity) == ("rotation_added", "ok")
    assert "rotation start" in advice
    assert told(promoted)[0][:2] == ("rotation_unrecorded", "warning")
    with added.app_context():
        adding.rotation.start()
    assert told(before)[0][:2] == ("rotation_not_configured", "problem")
    ((code, severity, advice),) = told(added)
    assert (code, severity) == ("rotation_started", "warning")
    assert "make it APIKEY_FERNET_KEY everywhere" in advice
    ((code, severity, advice),) = told(promoted)
    assert (code, severity) == ("rotation_promoted", "warning")
    assert "rotation run" in advice
    clock.advance(timedelta(days=7))
    ((code, severity, advice),) = told(promoted)
    assert (code, severity) == ("rotation_overdue", "warning")
    assert "rotation run" in advice
    with promoted.app_context():
        promoting.rotation.run()
        ((code, _, advice),) = told(promoted)
        assert code == "rotation_overdue"
        assert "rotation finish" in advice
        promoting.rotation.finish()
    ((code, severity, advice),) = told(promoted)
    assert (code, severity) == ("rotation_finished", "warning")
    assert "Remove APIKEY_FERNET_KEY_FALLBACKS[0]" in advice
    ((code, severity, advice),) = told(added)
    assert (code, severity) == ("rotation_behind", "problem")
    assert "which the last rotation retired: make" in advice
    assert told(process(new)[0]) == []


def test_seals_are_counted_by_the_storage_however_many_there_are(app, issue, monkeypatch):
    monkeypatch.setattr(diagnosis_module, "MAX_KEYS", 1)
    for _ in range(3):
        issue()
    app.extensions["apikey"].ring = FernetKeyring(generate_fernet_key())
    assert listed(findings(app)["keys_unreadable"], "keys") == [(3,)]


def damage(app, key_id):
    database = app.extensions["apikey"].backend._database()
    with database.engine.begin() as connection:
        edit = sa.text("UPDATE flask_apikey_keys SET previous_secrets_expire_at = 'nonsense' WHERE id = :id")
        assert connection.execute(edit, {"id": key_id}).rowcount == 1


def let_in(monkeypatch, app, visits):
    """Let somebody act between a reading of the keys and each of the next counts."""
    backend = app.extensions["apikey"].backend
    count_seals, visits = backend.count_seals, iter(visits)

    def counted():
        next(visits, int)()
        return count_seals()

    monkeypatch.setattr(backend, "count_seals", counted)


def test_keys_whose_row_is_damaged_are_a_problem_and_the_log_names_them(app, issue, caplog):
    issued = [issue() for _ in range(3)]
    assert "keys_damaged" not in findings(app)
    for each in issued[1:]:
        damage(app, each.record.id)
    caplog.clear()
    found = findings(app)
    assert found["keys_damaged"].severity is Severity.PROBLEM
    assert "row is damaged: 2." in found["keys_damaged"].message
    assert "Active keys: 1." in found["keys"].message
    for each in issued[1:]:
        assert f"row of key {each.record.id!r} is damaged" in caplog.text


@pytest.mark.parametrize("visits", [1, 2, 100])
def test_keys_that_are_added_between_reading_and_counting_are_not_damaged(app, issue, monkeypatch, visits):
    issue()
    let_in(monkeypatch, app, [issue] * visits)
    assert "keys_damaged" not in findings(app)


def test_a_damaged_key_is_told_although_another_is_added_meanwhile(app, issue, monkeypatch):
    damage(app, issue().record.id)
    let_in(monkeypatch, app, [int, issue])
    assert "row is damaged: 1." in findings(app)["keys_damaged"].message


def test_damage_is_not_told_where_not_every_key_was_read(app, issue, monkeypatch):
    monkeypatch.setattr(diagnosis_module, "MAX_KEYS", 1)
    damage(app, issue().record.id)
    issue()
    issue()
    assert "keys_damaged" not in findings(app)


def test_a_storage_from_before_there_were_rotations_is_incomplete_and_no_more(app, issue):
    issue()
    backend = app.extensions["apikey"].backend
    backend._rotation.drop(backend._database().engine)
    found = findings(app)
    assert "table flask_apikey_rotation" in found["storage_incomplete"].message
    assert "storage_unusable" not in found


def test_a_rotation_that_is_under_way_is_told_although_an_index_is_missing(make_app, tmp_path, fernet_key, clock):
    new = generate_fernet_key()
    uri = f"sqlite:///{tmp_path}/keys.db"
    adding = make_app(APIKEY_FERNET_KEY_FALLBACKS=[new], APIKEY_STORAGE_URI=uri)
    promoting = make_app(APIKEY_FERNET_KEY=new, APIKEY_FERNET_KEY_FALLBACKS=[fernet_key], APIKEY_STORAGE_URI=uri)
    extensions = [APIKeys(each, clock=clock) for each in (adding, promoting)]
    with adding.app_context():
        extensions[0].init_storage()
        extensions[0].create(name="ci")
        extensions[0].rotation.start()
    backend = adding.extensions["apikey"].backend
    min(backend._keys.indexes, key=lambda index: index.name).drop(backend._database().engine)
    found = findings(promoting)
    assert "storage_incomplete" in found
    assert "rotation run" in found["rotation_promoted"].advice


def test_without_a_place_for_rotations_nothing_is_said_of_them(make_app, fernet_key):
    app = make_app(APIKEY_FERNET_KEY_FALLBACKS=[generate_fernet_key()])
    with app.app_context():
        APIKeys(app).init_storage()
    backend = app.extensions["apikey"].backend
    assert "rotation_added" in findings(app)
    backend._rotation.drop(backend._database().engine)
    assert not [code for code in findings(app) if code.startswith("rotation_")]


def test_nothing_is_written(app, api_keys, issue):
    issue(lifetime=timedelta(days=1))
    backend = app.extensions["apikey"].backend
    before = backend.find(KeyFilter(), after=None, limit=10)
    doctor(app)
    assert backend.find(KeyFilter(), after=None, limit=10) == before


# --- views


def answer():
    return {}


def answering():
    """A view that no other test marks."""

    def view():
        return {}

    return view


def hiding(view):
    def wrapper(*args, **kwargs):
        return view(*args, **kwargs)

    return wrapper


def showing(view):
    return functools.wraps(view)(hiding(view))


class Half(MethodView):
    def get(self):
        return {}

    @hiding
    @require_api_key(scopes=["half:write"])
    def post(self):
        return {}


class Whole(View):
    @require_api_key
    def dispatch_request(self):
        return {}


def views(app, code):
    found = findings(app).get(code)
    return [] if found is None else listed(found, "methods", "rule")


def test_a_rule_for_every_method_is_not_overlooked(bare):
    bare.url_map.add(Rule("/any", endpoint="any"))
    bare.endpoint("any")(answer)
    assert views(bare, "views_unprotected") == [("*", "/any")]


def test_views_without_any_protection_are_a_warning(bare):
    bare.add_url_rule("/open", view_func=answer, methods=["GET", "PUT"])
    bare.add_url_rule("/closed", "closed", require_api_key(answering()))
    assert findings(bare)["views_unprotected"].severity is Severity.WARNING
    assert views(bare, "views_unprotected") == [("GET, PUT", "/open")]


@pytest.mark.parametrize(
    "view",
    [
        require_api_key(answering()),
        showing(require_api_key(answering())),
        hiding(require_api_key(answering())),
        hiding(showing(hiding(require_api_key(answering())))),
        hiding(functools.cache(require_api_key(answering()))),
        functools.partial(require_api_key(answering())),
        Whole.as_view("whole"),
        require_api_key(type("Closed", (MethodView,), {"get": lambda self: {}})).as_view("closed"),
    ],
)
def test_a_view_that_is_protected_somewhere_within_is_protected_and_answers_401(bare, view):
    bare.add_url_rule("/", "view", view)
    assert views(bare, "views_unprotected") == []
    assert bare.test_client().get("/", base_url="https://localhost").status_code == 401


def test_a_view_that_only_shares_its_function_with_a_protected_one_is_not_protected(bare):
    def shared():
        return {}

    bare.add_url_rule("/closed", "closed", require_api_key(shared))
    bare.add_url_rule("/open", "open", hiding(shared))
    assert bare.test_client().get("/open", base_url="https://localhost").status_code == 200
    assert views(bare, "views_unprotected") == [("GET", "/open")]


def test_a_proxy_in_a_view_is_not_asked(bare):
    def view():
        return {"caller": proxy.remote_addr}

    proxy = request
    bare.add_url_rule("/", "view", hiding(view))
    assert views(bare, "views_unprotected") == [("GET", "/")]


def test_the_methods_of_a_view_class_are_looked_at_one_by_one(bare):
    bare.add_url_rule("/half", view_func=Half.as_view("half"))
    assert views(bare, "views_unprotected") == [("GET", "/half")]
    client = bare.test_client()
    assert client.get("/half", base_url="https://localhost").status_code == 200
    assert client.post("/half", base_url="https://localhost").status_code == 401
    assert listed(findings(bare)["scopes_without_key"], "scope") == [("half:write",)]


def test_a_method_for_head_of_its_own_is_not_overlooked(bare):
    class Resource(MethodView):
        @require_api_key
        def get(self):
            return "reached"

        def head(self):
            return ""

    bare.add_url_rule("/own-head", view_func=Resource.as_view("own_head"))
    assert views(bare, "views_unprotected") == [("HEAD", "/own-head")]


def test_a_protected_blueprint_and_the_whole_application_protect_their_views(make_app, bare):
    blueprint = Blueprint("admin", __name__, url_prefix="/admin")
    blueprint.add_url_rule("/", view_func=answer)
    bare.extensions["apikey"].extension.protect(blueprint)
    bare.register_blueprint(blueprint)
    assert views(bare, "views_unprotected") == []
    app = make_app(APIKEY_PROTECT_ALL=True)
    APIKeys(app)
    app.add_url_rule("/", view_func=hiding(answer))
    assert views(app, "views_unprotected") == views(app, "views_static") == []


def test_exempt_optional_and_static_views_are_told_apart(app, api_keys):
    app.add_url_rule("/exempt", "exempt", api_key_exempt(answering()))
    app.add_url_rule("/optional", "optional", require_api_key(optional=True)(answering()))
    blueprint = Blueprint("site", __name__, static_folder=".", static_url_path="/static", url_prefix="/site")
    app.register_blueprint(blueprint)
    assert views(app, "views_unprotected") == []
    assert views(app, "views_exempt") == [("GET", "/exempt")]
    assert views(app, "views_optional") == [("GET", "/optional")]
    assert [rule for _, rule in views(app, "views_static")] == [
        "/site/static/<path:filename>",
        "/static/<path:filename>",
    ]


# --- the command


def test_the_exit_status_is_1_for_a_problem_and_with_strict_for_a_warning(make_app, bare):
    assert doctor(bare).exit_code == doctor(bare, "--strict").exit_code == 0
    bare.add_url_rule("/", view_func=answer)
    assert doctor(bare).exit_code == 0
    assert doctor(bare, "--strict").exit_code == doctor(bare, "--strict", "--json").exit_code == 1
    app = make_app(APIKEY_ENFORCE_HTTPS=False)
    APIKeys(app)
    assert doctor(app).exit_code == doctor(app, "--json").exit_code == 1


def test_the_worst_comes_first(make_app):
    app = make_app(APIKEY_ENFORCE_HTTPS=False)
    APIKeys(app)
    app.add_url_rule("/", view_func=answer)
    result = doctor(app)
    symbols = re.findall(r"^[✓!✗]", result.stdout, re.MULTILINE)
    assert symbols == sorted(symbols, key="✗!✓".index)
    assert symbols[:3] == ["✗", "!", "✓"]
    assert result.stderr == "Problems: 1. Warnings: 1.\n"


def test_a_terminal_without_the_characters_gets_others(make_app):
    app = make_app(APIKEY_ENFORCE_HTTPS=False)
    APIKeys(app)
    app.add_url_rule("/wöb/✓", view_func=answer)
    shown = doctor(app, charset="latin-1").stdout
    assert re.findall(r"^\S", shown, re.MULTILINE)[:3] == ["x", "!", "+"]
    assert "/wöb/\\u2713" in shown


def test_a_name_cannot_forge_a_line(app, api_keys):
    app.add_url_rule("/\x1b[2J\n✓ https", "forged", answer)
    assert r"/\u{1b}[2J\u{a}✓ https" in doctor(app).stdout


def test_json_has_every_check(app, api_keys, issue):
    issue(lifetime=timedelta(days=1))
    document = json.loads(doctor(app, "--json").stdout)
    assert document["ok"] is True
    assert [check["code"] for check in document["checks"]] == list(findings(app))
    expiring = next(check for check in document["checks"] if check["code"] == "keys_expiring")
    assert expiring["severity"] == "warning"
    assert expiring["details"][0]["name"] == "ci"


def test_no_secret_is_printed(make_app, tmp_path):
    weak, fallback, secret_key = "A" * 43 + "=", generate_fernet_key(), "s" * 40
    (tmp_path / "shop.py").write_text(f"{weak}{fallback}")
    app = make_app(APIKEY_FERNET_KEY=weak, APIKEY_FERNET_KEY_FALLBACKS=[fallback], SECRET_KEY=secret_key)
    app.root_path = str(tmp_path)
    api_keys = APIKeys(app)
    with app.app_context():
        key = api_keys.create(name="ci", lifetime=timedelta(days=1)).key
    for arguments in ([], ["--json"]):
        shown = doctor(app, *arguments).output
        assert "keys_expiring" in shown
        for secret in (weak, fallback, secret_key, key, key[-40:]):
            assert secret not in shown


def test_an_application_without_an_extension_is_told_so():
    result = doctor(Flask("plain"))
    assert result.exit_code == 1
    assert "call api_keys.init_app(app)" in result.output


def test_the_documentation_explains_every_check():
    package = Path(diagnosis_module.__file__).parent
    sources = [
        package / name for name in ("diagnosis.py", "fernet_checks.py", "rotation_checks.py", "core/fernet_quality.py")
    ]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    codes = set(re.findall(r'(?:code=|_ok\(\s*|_finding\(|_reported\()"(\w+)"', code))
    codes |= {f"rotation_{stage.value}" for stage in RotationStage if stage is not RotationStage.NONE}
    codes |= {"rotation_overdue"} | {f"views_{kind}" for kind in ("optional", "exempt", "static")}
    page = (ROOT / "docs" / "doctor.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^   \* - (``.+)$", page, re.MULTILINE)
    assert {code for row in rows for code in re.findall(r"``(\w+)``", row)} == codes
