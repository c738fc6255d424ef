"""An application with the management API, its routes, and keys to call them with."""

from datetime import timedelta

import pytest
from flask import Flask

from flask_apikey import APIKeys
from flask_apikey.management import management_blueprint
from tests.support.keys import KeyScene

NAME = "api_key_management"
YEAR = timedelta(days=365)
OPERATOR = ["*"]
MANAGER = ["keys:read", "keys:write"]
BODIES: dict[str, dict[str, object]] = {
    "create_key": {"name": "new"},
    "update_key": {"name": "renamed"},
    "add_quota": {"amount": 1},
}


def routes():
    """Every route of the blueprint, from a URL map, as operation, method and path."""
    app = Flask("routes")
    app.register_blueprint(management_blueprint(APIKeys()))
    return [
        (rule.endpoint.removeprefix(f"{NAME}."), method, rule.rule.removeprefix("/management"))
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith(f"{NAME}.")
        for method in sorted(rule.methods - {"HEAD", "OPTIONS"})
    ]


ROUTES = routes()
KEY_ROUTES = [route for route in ROUTES if "<key_id>" in route[2]]
CHANGES = [route for route in KEY_ROUTES if route[1] != "GET"]


class Scene(KeyScene):
    """Application with the management API."""

    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **options)
        app.register_blueprint(management_blueprint(self.api_keys))

    def manager(self, **attributes):
        return self.issue("manager", **{"owner": "team-1", "scopes": MANAGER, **attributes})

    def operator(self, **attributes):
        return self.issue("operator", **{"scopes": OPERATOR, "lifetime": None, **attributes})

    def ask(self, issued, method, path, *, headers=None, **options):
        key = {} if issued is None else {"X-API-Key": issued.key}
        client = self.app.test_client()
        return client.open(f"/management{path}", method=method, headers={**key, **(headers or {})}, **options)

    def act(self, issued, route, key_id="", **fields):
        """Send a valid request to a route."""
        name, method, path = route
        options = {} if method == "GET" else {"json": BODIES.get(name, {}) | fields}
        return self.ask(issued, method, path.replace("<key_id>", key_id), **options)

    def post(self, issued, path, **body):
        return self.ask(issued, "POST", path, json=body)

    def patch(self, issued, target, **body):
        return self.ask(issued, "PATCH", f"/keys/{target.record.id}", json=body)

    def change(self, issued, target, act, **body):
        return self.post(issued, f"/keys/{target.record.id}/{act}", **body)

    def record(self, issued):
        return self.do("get", issued.record.id)


def code(answer):
    assert answer.mimetype == "application/problem+json"
    assert answer.json["status"] == answer.status_code
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code, answer.json["code"]


@pytest.fixture
def scene(make_app, clock):
    return Scene(make_app(APIKEY_USAGE="sync"), clock)
