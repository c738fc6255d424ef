"""The applications in docs/examples, each asked what it is there to show."""

import hashlib
import os
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tests.support.wire_server import emptied

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = DOCS / "examples"


def loaded(name):
    specification = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


tests_of_an_application = loaded("test_with_keys")
app, clock = tests_of_an_application.app, tests_of_an_application.clock
test_a_key_needs_its_scope = tests_of_an_application.test_a_key_needs_its_scope
test_a_key_expires = tests_of_an_application.test_a_key_expires


class Example:
    """An application, with a client that presents keys."""

    def __init__(self, name, app=None):
        self.module = loaded(name)
        self.app = app or self.module.app
        self.client = self.app.test_client()

    def key(self, name="ci", **attributes):
        with self.app.app_context():
            return self.module.api_keys.create(name=name, **attributes).key

    def ask(self, path, key=None, method="GET", headers=(), **options):
        headers = {**dict(headers), **({"Authorization": f"Api-Key {key}"} if key else {})}
        return self.client.open(path, method=method, base_url="https://localhost", headers=headers, **options)

    def status(self, *args, **options):
        return self.ask(*args, **options).status_code


@pytest.fixture(autouse=True)
def environment(fernet_key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FLASK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLASK_APIKEY_FERNET_KEY", fernet_key)
    monkeypatch.setenv("FLASK_APIKEY_STORAGE_URI", "sqlite:///:memory:")


def test_minimal():
    example = Example("minimal")
    assert example.status("/") == 200
    assert example.status("/reports") == 401
    assert example.ask("/reports", example.key(owner="team-7")).json == {"caller": "ci", "owner": "team-7"}


def test_scopes():
    example = Example("scopes")
    reader, writer = example.key(scopes=["notes:read"]), example.key(scopes=["notes:write", "notes:count"])
    assert [example.status("/notes", key) for key in (reader, writer)] == [200, 403]
    assert [example.status("/notes/todo", key, "PUT", data="rest") for key in (reader, writer)] == [403, 200]
    assert example.status("/notes/welcome", writer, "PUT", data="bye") == 403
    assert example.ask("/notes/count", writer).json == {"notes": 2}
    assert example.ask("/notes", reader).json == {"welcome": "Hello!", "todo": "rest"}


def test_protect_everything():
    example = Example("protect_everything")
    key, admin = example.key(), example.key(scopes=["admin"])
    assert [example.status(path) for path in ("/health", "/reports")] == [200, 401]
    assert example.status("/reports", key) == 200
    assert [example.status("/admin/reindex", each, "POST") for each in (None, key, admin)] == [401, 403, 202]


def test_factory(monkeypatch):
    monkeypatch.delenv("FLASK_APIKEY_STORAGE_URI")
    module = loaded("factory")
    app = module.create_app({"SQLALCHEMY_DATABASE_URI": "sqlite:///:memory:"})
    assert app.test_cli_runner().invoke(args=["create-tables"]).exit_code == 0
    with app.app_context():
        key = module.api_keys.create(name="ci", owner="team-7", scopes=["orders:read"]).key
        module.db.session.add_all([module.Order(customer="team-7"), module.Order(customer="team-8")])
        module.db.session.commit()
    answer = app.test_client().get("/orders", base_url="https://localhost", headers={"X-API-Key": key})
    assert answer.json == {"orders": [1]}


def test_customers():
    example = Example("customers")
    example.key("of somebody else", owner="team-8")
    key = example.key("of this customer", owner="team-7", scopes=["orders:read"])
    assert example.ask("/my-api-keys/").location == "/sign-in/team-7"
    token = re.search(r'value="([^"]+)"', example.ask("/sign-in/team-7").text)[1]
    referrer = {"Referer": "https://localhost/sign-in/team-7"}
    signed_in = example.ask("/sign-in/team-7", method="POST", data={"csrf_token": token}, headers=referrer)
    assert signed_in.location == "/my-api-keys/"
    page = example.ask("/my-api-keys/").text
    assert "of this customer" in page
    assert "of somebody else" not in page
    assert "orders:read" in example.ask("/my-api-keys/new").text
    assert example.ask("/orders", key).json == {"orders of": "team-7"}


def test_plans():
    example = Example("plans")
    free, pro = example.key(owner="team-1"), example.key(owner="team-7")
    assert [example.status("/forecast", free) for _ in range(3)] == [200, 200, 429]
    assert [example.status("/forecast", pro) for _ in range(3)] == [200, 200, 200]
    assert example.ask("/forecast/month", pro).headers["RateLimit"].startswith('"second";r=12')


def test_behind_a_proxy():
    example = Example("behind_a_proxy")
    key = example.app.test_cli_runner().invoke(args=["create-office-key"]).output.strip()

    def code(caller, scheme="https", proxy="127.0.0.1"):
        headers = {"X-Forwarded-For": caller, "X-Forwarded-Proto": scheme, "X-API-Key": key}
        answer = example.client.get("/reports", headers=headers, environ_base={"REMOTE_ADDR": proxy})
        return answer.json.get("code", answer.status_code)

    assert code("192.0.2.1") == 200
    assert code("192.0.2.1", scheme="http") == "https_required"
    assert code("198.51.100.1") == "address_not_allowed"
    assert code("192.0.2.1", proxy="203.0.113.9") == "https_required"


def test_mongodb(wire_server, monkeypatch):
    monkeypatch.setenv("FLASK_APIKEY_STORAGE_URI", emptied(wire_server.uri))
    example = Example("mongodb")
    with example.app.app_context():
        example.module.api_keys.init_storage()
    key = example.app.test_cli_runner().invoke(args=["create-partner-key"]).output.strip()
    assert example.ask("/reports", key).json == {"caller": "partner"}
    with example.app.app_context():
        (record,) = example.module.api_keys.list()
        assert record.metadata == {"contract": 4711}
    example.module.api_keys.close()


def test_adopted_keys(tmp_path):
    example = Example("adopted_keys")
    held = "sk_live_2TqLCDJZbtZKlIS3zyRmAG"
    (tmp_path / "keys.csv").write_text(f"digest,customer\n{hashlib.sha256(held.encode()).hexdigest()},team-7\n")
    runner = example.app.test_cli_runner()
    assert runner.invoke(args=["adopt", "keys.csv"]).output == ""
    for presented in {"X-Acme-Key": held}, {"Authorization": f"Bearer {held}"}:
        assert example.ask("/reports", headers=presented).json == {"caller": "team-7"}
    assert example.status("/reports", headers={"X-Acme-Key": f"{held}x"}) == 401
    assert runner.invoke(args=["adopt", "keys.csv"]).output == "team-7 was adopted before\n"


def test_own_errors():
    example = Example("own_errors")
    refused = example.ask("/reports")
    assert (refused.status_code, refused.json["ok"], refused.json["error"]["type"]) == (401, False, "missing_key")
    assert "WWW-Authenticate" in refused.headers
    assert example.ask("/reports", example.key()).json["error"]["type"] == "forbidden"
    assert example.ask("/reports", example.key(scopes=["reports:read"])).json == {"ok": True, "reports": []}


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_on_the_page(example):
    source = example.read_text(encoding="utf-8")
    assert 20 <= source.count("\n") <= 50
    title = re.match(r'"""(.+)\."""\n', source)[1].partition(": ")[0]
    page = (DOCS / "guides" / "examples.rst").read_text(encoding="utf-8")
    assert f".. literalinclude:: ../examples/{example.name}\n" in page, title
