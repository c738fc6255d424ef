"""Checks of ``flask apikey doctor``."""

import functools
import re
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from weakref import WeakSet

import pytest
from flask import Blueprint, abort
from flask.views import MethodView
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import Rule

from flask_apikey import APIKeys, api_key_exempt, decorators, require_api_key
from flask_apikey.core.errors import StorageError
from flask_apikey.core.rotation.status import RotationStage
from flask_apikey.core.storage.contract import KeyFilter
from flask_apikey.doctor import findings as findings_module
from flask_apikey.doctor.findings import Severity
from flask_apikey.request import protected_views
from tests.support.diagnosis import details, doctor, findings, severities
from tests.support.report_app import ReportScene

ROOT = Path(__file__).parents[2]


def test_application_in_order(bare):
    assert severities(bare) == {}
    assert findings(bare).keys() == {"fernet_keys", "https", "proxies", "storage", "keys", "views"}


def test_weak_fernet_key_in_source_and_in_a_file_with_loose_mode(make_app, tmp_path):
    path, source, weak = tmp_path / "fernet_key", tmp_path / "shop.py", "A" * 43 + "="
    path.write_text(weak)
    path.chmod(0o644)
    source.write_text(f"#\nKEY = '{weak}'\n")
    APIKeys(app := make_app(APIKEY_FERNET_KEY=None, APIKEY_FERNET_KEY_FILE=path))
    found = findings(app)
    assert "fernet_keys" not in found
    assert found["fernet_key_weak"].severity is found["fernet_key_in_source"].severity is Severity.PROBLEM
    assert details(found["fernet_key_in_source"], "file", "line") == [(str(source), 2)]
    assert found["fernet_key_file_mode"].severity is Severity.WARNING


def test_missing_owner_loader(make_app):
    app = make_app(APIKEY_CHECK_OWNER=True)
    api_keys = APIKeys(app)
    assert findings(app)["owner_loader_missing"].severity is Severity.PROBLEM
    api_keys.owner_loader(lambda owner: owner)
    assert "owner_loader_missing" not in findings(app)


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
def test_https(make_app, config, code, severity):
    app = make_app()
    app.config.update(config)
    APIKeys(app)
    found = {code: finding.severity for code, finding in findings(app).items() if code.startswith("https")}
    assert found == {code: severity}


@pytest.mark.parametrize(
    ("networks", "has_proxy_fix", "code", "severity", "message"),
    [
        ([], False, "proxies", Severity.OK, "No proxy is trusted"),
        (["10.0.0.0/8", "unix"], False, "proxies", Severity.OK, "X-Forwarded-For is trusted from 10.0.0.0/8"),
        ([], True, "proxies", Severity.OK, "ProxyFix"),
        (["10.0.0.0/8"], True, "proxies_twice", Severity.WARNING, "both read"),
        (["10.0.0.0/8", "::/0"], False, "proxies_everywhere", Severity.PROBLEM, "much of the Internet"),
        (["unix", "0.0.0.0/1", "128.0.0.0/1"], False, "proxies_everywhere", Severity.PROBLEM, "much of the Internet"),
        (["unix", "10.0.0.0/8", "fc00::/7"], False, "proxies", Severity.OK, "fc00::/7"),
    ],
)
def test_proxies(make_app, networks, has_proxy_fix, code, severity, message):
    app = make_app(APIKEY_TRUSTED_PROXIES=networks)
    APIKeys(app)
    if has_proxy_fix:
        app.wsgi_app = ProxyFix(app.wsgi_app)
    (found,) = [finding for code, finding in findings(app).items() if code.startswith("proxies")]
    assert (found.code, found.severity) == (code, severity)
    assert message in found.message


def test_proxy_fix_below_another_middleware(make_app):
    app = make_app(APIKEY_TRUSTED_PROXIES=["10.0.0.1"])
    APIKeys(app)
    app.wsgi_app = DispatcherMiddleware(ProxyFix(app.wsgi_app))
    assert "proxies_twice" in findings(app)


class TestServers:
    """Servers that believe what clients write into headers."""

    @pytest.fixture(autouse=True)
    def directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "line", "server"),
        [
            ("FORWARDED_ALLOW_IPS", "*", "gunicorn"),
            ("FORWARDED_ALLOW_IPS", "10.0.0.1,0.0.0.0/0", "gunicorn"),
            ("FORWARDED_ALLOW_IPS", "::/0", "gunicorn"),
            ("GUNICORN_CMD_ARGS", "--bind :80 --forwarded-allow-ips='*' --threads 2", "gunicorn"),
            ("GUNICORN_CMD_ARGS", "--forwarded-allow-ips *", "gunicorn"),
            ("gunicorn.conf.py", "forwarded_allow_ips = '*'", "gunicorn"),
            ("gunicorn.conf.py", 'forwarded_allow_ips="10.0.0.1, *"', "gunicorn"),
            ("Procfile", "web: gunicorn --forwarded-allow-ips=* shop:app", "gunicorn"),
            ("Dockerfile", 'CMD ["gunicorn", "--forwarded-allow-ips", "*", "shop:app"]', "gunicorn"),
            ("Dockerfile", "ENV FORWARDED_ALLOW_IPS=*", "gunicorn"),
            ("compose.yaml", '      FORWARDED_ALLOW_IPS: "*"', "gunicorn"),
            (".env", "FORWARDED_ALLOW_IPS=*", "gunicorn"),
            ("shop.service", "ExecStart=/srv/venv/bin/gunicorn --forwarded-allow-ips * shop:app", "gunicorn"),
            ("start.sh", "exec waitress-serve --trusted-proxy='*' --listen=:80 shop:app", "waitress"),
            ("Procfile", "web: waitress-serve --trusted-proxy * shop:app", "waitress"),
            ("UWSGI_HTTP", ":80", "uWSGI"),
            ("UWSGI_HTTP_SOCKET", ":80", "uWSGI"),
            ("uwsgi.ini", "http-socket = :80", "uWSGI"),
            ("uwsgi.ini", "http=:80", "uWSGI"),
            ("uwsgi.ini", "  http11-socket=:80", "uWSGI"),
            ("Procfile", "web: uwsgi --master --http :$PORT", "uWSGI"),
            ("Dockerfile", 'CMD ["uwsgi", "--http-socket", ":80"]', "uWSGI"),
        ],
    )
    def test_that_believe_everybody(self, bare, directory, monkeypatch, name, line, server):
        if name.isupper():
            monkeypatch.setenv(name, line)
        else:
            (directory / name).write_text(f"# comment\n{line}\n")
        found = findings(bare)["scheme_from_clients"]
        assert found.severity is Severity.WARNING
        assert server in found.message
        assert name in found.message

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("SERVER_SOFTWARE", "gunicorn/23.0.0"),
            ("GUNICORN_CMD_ARGS", "--bind 127.0.0.1:80"),
            ("GUNICORN_CMD_ARGS", "--bind unix:/run/gunicorn.sock --forwarded-allow-ips ''"),
            ("gunicorn.conf.py", "workers = 4"),
            ("Procfile", "web: gunicorn shop:app"),
        ],
    )
    def test_defaults_of_gunicorn(self, bare, make_app, directory, monkeypatch, name, line):
        assert "scheme_from_clients" not in findings(bare)
        if name.isupper():
            monkeypatch.setenv(name, line)
        else:
            (directory / name).write_text(line)
        assert "127.0.0.1 and from Unix sockets" in findings(bare)["scheme_from_clients"].message
        declared = make_app(APIKEY_TRUSTED_PROXIES=["127.0.0.1"])
        APIKeys(declared)
        assert "scheme_from_clients" not in findings(declared)

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("GUNICORN_CMD_ARGS", "--bind 127.0.0.1:80 --forwarded-allow-ips ''"),
            *(("FORWARDED_ALLOW_IPS", value) for value in ("", "127.0.0.1", "10.0.0.0/8", "127.0.0.1,::1", "fc00::/7")),
            ("GUNICORN_CMD_ARGS", "--forwarded-allow-ips 10.0.0.1 --bind *"),
            ("gunicorn.conf.py", "forwarded_allow_ips = ''  # not *"),
            ("gunicorn.conf.py", "# forwarded_allow_ips = '*'\nforwarded_allow_ips = '10.0.0.1'"),
            ("gunicorn.conf.py", "proxy_allow_ips = '*'\nforwarded_allow_ips = '10.0.0.1'"),
            ("uwsgi.ini", "socket = /run/uwsgi.sock\n; http = :80\nhttp-timeout = 60"),
            ("Procfile", "web: waitress-serve --listen=*:80 shop:app"),
            ("start.sh", "exec waitress-serve --trusted-proxy=10.0.0.1 --listen=*:80 shop:app"),
            ("Dockerfile", 'CMD ["gunicorn", "--forwarded-allow-ips", "10.0.0.1", "--bind", "*:80", "shop:app"]'),
            ("Dockerfile", "RUN pip install uwsgi && curl --http1.1 https://example.com"),
            ("Procfile", "web: waitress-serve --listen=*:80 shop:app" + " " * 200_000 + "gunicorn"),
        ],
    )
    def test_that_believe_proxies(self, bare, directory, monkeypatch, name, line):
        if name.isupper():
            monkeypatch.setenv(name, line)
        else:
            (directory / name).write_text(line)
        assert "scheme_from_clients" not in findings(bare)


def test_unreachable_storage(make_app, backend):
    app = make_app()
    APIKeys(app, backend=backend)
    backend.failure = StorageError("the database is away")
    found = findings(app)
    assert found["storage_unreachable"].severity is Severity.PROBLEM
    assert "the database is away" in found["storage_unreachable"].message
    assert found.keys().isdisjoint({"storage", "keys"})


@pytest.mark.parametrize("is_there", [True, False], ids=["empty file", "no file"])
def test_missing_tables_and_indexes(make_app, tmp_path, is_there):
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
    assert findings(app).keys().isdisjoint({"storage_unusable", "storage_incomplete"})
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP INDEX ix_flask_apikey_keys_owner")
    found = findings(app)["storage_incomplete"]
    assert found.severity is Severity.PROBLEM
    assert "Missing tables, columns or indexes: index ix_flask_apikey_keys_owner." in found.message


def test_storage_without_usage(make_app, backend):
    APIKeys(app := make_app(), backend=backend)
    assert "WatchedBackend does not store usage" in findings(app)["usage_not_kept"].message
    APIKeys(unwatched := make_app(APIKEY_USAGE="off"), backend=backend)
    assert "usage_not_kept" not in findings(unwatched)


def test_nothing_is_written(app, api_keys, issue):
    issue(lifetime=timedelta(days=1))
    backend = app.extensions["apikey"].backend
    before = backend.find(KeyFilter(), after=None, limit=10)
    doctor(app)
    assert backend.find(KeyFilter(), after=None, limit=10) == before


def answer():
    return {}


def make_view():
    """Make a view that no other test marks."""

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

    @require_api_key(scopes=["half:write"])
    def post(self):
        return {}


def views(app, code):
    found = findings(app).get(code)
    return [] if found is None else details(found, "methods", "rule")


def test_rule_without_methods(bare):
    bare.url_map.add(Rule("/any", endpoint="any"))
    bare.endpoint("any")(answer)
    assert views(bare, "views_undeclared") == [("*", "/any")]


def test_undeclared_views(bare):
    bare.add_url_rule("/open", view_func=answer, methods=["GET", "PUT"])
    bare.add_url_rule("/closed", "closed", require_api_key(make_view()))
    assert findings(bare)["views_undeclared"].severity is Severity.WARNING
    assert views(bare, "views_undeclared") == [("GET, PUT", "/open")]


def test_methods_of_a_view_class(bare):
    bare.add_url_rule("/half", view_func=Half.as_view("half"))
    assert views(bare, "views_undeclared") == [("GET", "/half")]
    client = bare.test_client()
    assert client.get("/half", base_url="https://localhost").status_code == 200
    assert client.post("/half", base_url="https://localhost").status_code == 401
    assert details(findings(bare)["scopes_without_key"], "scope") == [("half:write",)]


def test_head_method_of_a_view_class(bare):
    class Resource(MethodView):
        @require_api_key
        def get(self):
            return "reached"

        def head(self):
            return ""

    bare.add_url_rule("/own-head", view_func=Resource.as_view("own_head"))
    assert views(bare, "views_undeclared") == [("HEAD", "/own-head")]


class TestFunctionsThatAreNoView:
    """Functions with ``@require_api_key`` that are the view of no endpoint."""

    @pytest.fixture
    def app(self, make_app, monkeypatch):
        """Application in a process that has only the functions of the test."""
        functions = WeakSet()
        for module in (protected_views, decorators):
            monkeypatch.setattr(module, "decorated_functions", functions)
        APIKeys(app := make_app())
        app.import_name = "shop"
        return app

    @pytest.fixture
    def function(self):
        def function():
            return {}

        function.__module__ = "shop.views"
        return function

    @pytest.fixture
    def unregistered(self, app):
        def unregistered():
            found = findings(app).get("views_not_registered")
            return [] if found is None else [name.rpartition(".")[2] for (name,) in details(found, "function")]

        return unregistered

    def test_hidden(self, app, function, unregistered):
        app.add_url_rule("/", "view", hiding(require_api_key(function)))
        assert unregistered() == ["function"]
        assert findings(app)["views_not_registered"].severity is Severity.WARNING

    def test_hidden_below_the_decorator(self, app, function, unregistered):
        kept = hiding(app.get("/")(function))
        kept.__module__ = function.__module__
        kept = require_api_key(kept)
        assert unregistered() == ["wrapper"]

    def test_hook(self, app, function, unregistered):
        app.before_request(require_api_key(function))
        assert unregistered() == ["function"]

    @pytest.mark.parametrize(
        "register",
        [
            lambda app, function: app.get("/")(require_api_key(function)),
            lambda app, function: app.get("/")(showing(require_api_key(function))),
            lambda app, function: app.get("/")(require_api_key(require_api_key(function))),
            lambda app, function: require_api_key(showing(app.get("/")(function))),
            lambda app, function: app.add_url_rule("/", "view", functools.partial(require_api_key(function))),
        ],
        ids=["below", "wrapped", "twice", "above the route", "partial"],
    )
    def test_view(self, app, function, unregistered, register):
        kept = register(app, function)
        assert unregistered() == []
        del kept

    def test_method_of_a_view_class(self, app, function, unregistered):
        class Base(MethodView):
            get = require_api_key(function)

        class Resource(Base):
            get = require_api_key(Base.get)

        app.add_url_rule("/", view_func=Resource.as_view("resource"))
        assert unregistered() == []

    def test_view_of_another_application(self, app, make_app, function, unregistered):
        APIKeys(other := make_app())
        other.get("/")(require_api_key(function))
        assert unregistered() == []

    def test_function_of_another_package(self, function, unregistered):
        function.__module__ = "shopping"
        kept = require_api_key(function)
        assert unregistered() == []
        del kept


def test_protected_blueprint_and_application(make_app, bare):
    blueprint = Blueprint("admin", __name__, url_prefix="/admin")
    blueprint.add_url_rule("/", view_func=answer)
    bare.extensions["apikey"].extension.protect(blueprint)
    bare.register_blueprint(blueprint)
    assert views(bare, "views_undeclared") == []
    app = make_app(APIKEY_PROTECT_ALL=True)
    APIKeys(app)
    app.add_url_rule("/", view_func=hiding(answer))
    assert views(app, "views_undeclared") == views(app, "views_static") == []


def login_required(view):
    @functools.wraps(view)
    def checked(*args, **kwargs):
        abort(401)

    return checked


def test_views_behind_a_login(bare):
    bare.add_url_rule("/above", "above", api_key_exempt(login_required(make_view())))
    bare.add_url_rule("/below", "below", login_required(api_key_exempt(make_view())))
    foreign = Blueprint("foreign", __name__, url_prefix="/foreign")
    foreign.add_url_rule("/", "index", login_required(make_view()))
    bare.register_blueprint(foreign)
    assert views(bare, "views_undeclared") == [("GET", "/foreign/")]
    api_key_exempt(bare.blueprints["foreign"])
    assert views(bare, "views_undeclared") == []
    assert views(bare, "views_exempt") == [("GET", "/above"), ("GET", "/below"), ("GET", "/foreign/")]
    assert bare.test_client().get("/above").status_code == 401


def test_ignored_routes_without_a_rule(make_app):
    app = make_app(APIKEY_IGNORED_ROUTES=["/books/<int:number>", "/admin/", "/b*", "/book"])
    app.add_url_rule("/books/<int:number>", "book", api_key_exempt(lambda number: ""))
    APIKeys(app)
    found = findings(app)["ignored_routes_unknown"]
    assert found.severity is Severity.WARNING
    assert found.message.endswith("have no effect: /admin/, /book.")


def test_exempt_optional_and_static_views(app, api_keys):
    app.add_url_rule("/exempt", "exempt", api_key_exempt(make_view()))
    app.add_url_rule("/optional", "optional", require_api_key(optional=True)(make_view()))
    blueprint = Blueprint("site", __name__, static_folder=".", static_url_path="/static", url_prefix="/site")
    app.register_blueprint(blueprint)
    assert views(app, "views_undeclared") == []
    assert views(app, "views_exempt") == [("GET", "/exempt")]
    assert views(app, "views_optional") == [("GET", "/optional")]
    assert [rule for _, rule in views(app, "views_static")] == [
        "/site/static/<path:filename>",
        "/static/<path:filename>",
    ]


def test_documentation_of_every_code():
    sources = Path(findings_module.__file__).parent.glob("*.py")
    source = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    codes = set(re.findall(r'\b(?:ok|warning|problem|report)\(\s*"(\w+)"', source))
    codes |= {f"rotation_{stage.value}" for stage in RotationStage if stage is not RotationStage.NONE}
    codes |= {"rotation_overdue"} | {f"views_{kind}" for kind in ("optional", "exempt", "static")}
    page = (ROOT / "docs" / "guides" / "doctor.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^   \* - (``.+)$", page, re.MULTILINE)
    assert {code for row in rows for code in re.findall(r"``(\w+)``", row)} == codes


class TestReportMode:
    """Reminders of report mode."""

    def test_views_and_requests(self, make_app, clock):
        scene = ReportScene(make_app(APIKEY_PROTECT_ALL=True, APIKEY_ENFORCEMENT="report"), clock)
        scene.get("/everywhere")
        scene.would_refuse()
        clock.advance(timedelta(days=6))
        scene.get("/everywhere")
        scene.would_refuse()
        found = findings(scene.app)["report_mode"]
        assert found.severity is Severity.WARNING
        assert {rule for (rule,) in details(found, "rule")} == {
            "/named/plain",
            "/named/decorated",
            "/named/inside",
            "/decorated",
            "/everywhere",
            "/closed-inside",
            "/static/<path:filename>",
        }
        assert found.message.endswith("in the last 7 days: 2.")
        clock.advance(timedelta(days=3))
        assert findings(scene.app)["report_mode"].message.endswith("in the last 7 days: 1.")

    def test_named_views_without_the_setting(self, make_app, clock):
        scene = ReportScene(make_app(), clock)
        assert len(findings(scene.app)["report_mode"].details) == 4

    def test_setting_without_effect(self, make_app):
        APIKeys(app := make_app(APIKEY_ENFORCEMENT="report"))
        assert findings(app)["report_mode_without_effect"].severity is Severity.WARNING
        assert "report_mode" not in findings(app)

    def test_storage_that_does_not_answer(self, make_app, clock, backend):
        scene = ReportScene(make_app(APIKEY_PROTECT_ALL=True), clock, backend=backend)
        assert "last 7 days" not in findings(scene.app)["report_mode"].message
