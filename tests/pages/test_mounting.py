"""Mounting the operator's pages: sign-in, secret key, own templates, translations, and other protection."""

import subprocess
import sys

import pytest
from flask import Blueprint
from flask_babel import Babel
from jinja2 import DictLoader
from sqlalchemy import Engine, event

from flask_apikey import APIKeys, ConfigurationError
from flask_apikey.pages import operator_blueprint, portal_blueprint
from flask_apikey.request.protected_views import Protection, protected_views
from tests.pages.conftest import URL, PagesScene, hidden
from tests.support.stored_usage import StoredUsage

WITHOUT_FLASK_WTF = """
import sys
sys.modules["flask_wtf"] = None
import flask_apikey, flask_apikey.cli
import flask_apikey.pages.usage_page
try:
    from flask_apikey.pages import operator_blueprint
except flask_apikey.ConfigurationError as exc:
    print(exc)
"""


def test_authorize_is_needed():
    with pytest.raises(TypeError):
        operator_blueprint(APIKeys())  # type: ignore[call-arg]  # the mistake that is tested
    with pytest.raises(ConfigurationError, match="authorize must be a function"):
        operator_blueprint(APIKeys(), authorize="alice")


def test_missing_secret_key_is_named(make_app, clock):
    scene = PagesScene(make_app(), clock)
    with pytest.raises(ConfigurationError, match="set SECRET_KEY"):
        scene.client.get(f"{URL}/keys")


def test_missing_package_is_named():
    run = subprocess.run([sys.executable, "-c", WITHOUT_FLASK_WTF], capture_output=True, text=True, check=True)
    assert "pip install 'flask-apikey-auth[pages]'" in run.stdout


def test_pages_need_no_key_under_protect_all(make_app, clock):
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_PROTECT_ALL=True), clock)
    scene.app.add_url_rule("/other", "other", lambda: "other")
    assert scene.client.get("/other").status_code == 401
    scene.show("/keys")
    found = {view.protection for view in protected_views(scene.app, protect_all=True) if view.rule.startswith(URL)}
    assert found == {Protection.EXEMPT}


def test_pages_need_init_app(make_app):
    app = make_app(SECRET_KEY="made up")
    app.register_blueprint(operator_blueprint(APIKeys(), authorize=lambda: "alice"))
    with pytest.raises(ConfigurationError, match="init_app"):
        app.test_client().get(f"{URL}/keys")


@pytest.fixture
def mounted(make_app, clock):
    """Mount the pages with templates of the application."""

    def mounted(templates, **options):
        app = make_app(SECRET_KEY="made up")
        app.jinja_loader = DictLoader(templates)
        api_keys = APIKeys(app, clock=clock)
        with app.app_context():
            api_keys.init_storage()
        app.register_blueprint(operator_blueprint(api_keys, authorize=lambda: "alice", **options))
        return app.test_client()

    return mounted


def test_base_template(mounted):
    own = "<title>{% block title %}{% endblock %}</title><main>Acme {% block content %}{% endblock %}</main>"
    page = mounted({"acme.html": own}, base_template="acme.html").get(f"{URL}/keys").text
    assert "<title>Keys" in page
    assert "Acme" in page
    assert "No key matches" in page


def test_refusal_before_sign_in_is_in_the_base_template(make_app, clock):
    own = "<main>Acme {% block content %}{% endblock %}</main>"
    app = make_app(SECRET_KEY="made up")
    app.jinja_loader = DictLoader({"acme.html": own})
    api_keys = APIKeys(app, clock=clock)
    app.register_blueprint(operator_blueprint(api_keys, authorize=lambda: None, base_template="acme.html"))
    app.register_blueprint(portal_blueprint(api_keys, owner=lambda: None, base_template="acme.html"))
    for path in (f"{URL}/keys", "/my-api-keys/"):
        answer = app.test_client().get(path)
        assert answer.status_code == 403
        assert "<main>Acme" in answer.text
        assert "You are not allowed to see this page." in answer.text


def test_block_of_a_page_is_overridden(mounted):
    name = "flask_apikey/operator/keys.html"
    own = f'{{% extends "default/{name}" %}}{{% block filters %}}<p>ours</p>{{{{ super() }}}}{{% endblock %}}'
    page = mounted({name: own}).get(f"{URL}/keys").text
    assert "<p>ours</p>" in page
    assert 'name="search"' in page


def test_nested_blueprint(make_app, clock):
    app = make_app(SECRET_KEY="made up")
    api_keys = APIKeys(app, clock=clock)
    parent = Blueprint("admin", __name__, url_prefix="/admin")
    parent.register_blueprint(operator_blueprint(api_keys, authorize=lambda: "alice"))
    app.register_blueprint(parent)
    with app.app_context():
        api_keys.init_storage()
    client = app.test_client()
    page = client.get("/admin/api-keys/keys/new")
    assert 'href="/admin/api-keys/static/pages.css"' in page.text
    made = client.post("/admin/api-keys/keys/new", data={**hidden(page.text), "name": "ci"})
    assert made.status_code == 200
    assert client.get("/admin/api-keys/keys/odd").status_code == 404


def test_flask_babel_translates(make_app, clock, tmp_path):
    catalogue = tmp_path / "de" / "LC_MESSAGES"
    catalogue.mkdir(parents=True)
    source = catalogue / "messages.po"
    head = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n'
    source.write_text(
        f'{head}\nmsgid "New key"\nmsgstr "Neuer <b>Schlüssel"\n\nmsgid "Owner"\nmsgstr "Inhaber"\n', encoding="utf-8"
    )
    command = ["compile", "-d", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "babel.messages.frontend", *command], check=True, capture_output=True)
    scene = PagesScene(make_app(SECRET_KEY="made up", BABEL_TRANSLATION_DIRECTORIES=str(tmp_path)), clock)
    Babel(scene.app, locale_selector=lambda: "de")
    page = scene.show("/keys/new")
    assert "Neuer &lt;b&gt;Schlüssel" in page
    assert "Inhaber" in page


STATEMENTS = {
    "/": 11,
    "/keys": 3,
    "/keys?search=key&owner=team-7&status=active": 3,
    "/keys/{id}": 11,
    "/keys/{id}/edit": 1,
    "/keys/{id}/roll": 2,
    "/owners?owner=team-7&action=revoke": 4,
    "/audit": 2,
    "/checks": 0,
    "/export/keys.csv": 3,
}


@pytest.fixture
def sql_scene(make_app, clock, sql_uri):
    """An application on each SQL database, with the statements that it sends."""
    scene = PagesScene(make_app(SECRET_KEY="made up", APIKEY_STORAGE_URI=sql_uri, APIKEY_USAGE="sync"), clock)
    scene.statements = []

    def listen(_connection, _cursor, statement, *_):
        if statement.lstrip().upper().startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
            scene.statements.append(statement)

    event.listen(Engine, "before_cursor_execute", listen)
    yield scene
    event.remove(Engine, "before_cursor_execute", listen)


@pytest.mark.parametrize("path", STATEMENTS)
def test_statements_of_a_page_do_not_grow(sql_scene, path):
    counts = []
    usage = StoredUsage(sql_scene.backend)
    for _ in range(2):
        for number in range(15):
            issued = sql_scene.issue(f"key {number}", owner="team-7", scopes=["a"], lifetime="5d")
            usage(issued.record.id, sql_scene.clock(), reason="expired", endpoint=f"/{number}")
        sql_scene.show(path.format(id=issued.record.id))
        sql_scene.statements.clear()
        sql_scene.show(path.format(id=issued.record.id))
        counts.append(len(sql_scene.statements))
    assert counts[0] == counts[1] <= STATEMENTS[path], "\n".join(sql_scene.statements)
