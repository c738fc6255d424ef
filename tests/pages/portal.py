"""An application with the portal, and the routes of the portal."""

import re
from datetime import timedelta

from flask import Flask
from jinja2 import StrictUndefined

from flask_apikey import APIKeys
from flask_apikey.pages import portal_blueprint
from tests.pages.conftest import hidden
from tests.support.keys import KeyScene

DAY = timedelta(days=1)
URL = "/my-api-keys"
KEY = re.compile(r'id="new-key"[^>]*>([^<]+)<')
SCOPES = ["reports:read", "reports:write"]


def routes():
    """Every route of the portal, as method and path."""
    app = Flask("routes")
    app.register_blueprint(portal_blueprint(APIKeys(), owner=lambda: None))
    found = []
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith("api_key_portal.") and not rule.endpoint.endswith(".static"):
            actions = ["roll", "finish", "revoke"] if "action" in rule.arguments else [""]
            path = re.sub(r"<any\(.*\):action>", "{}", rule.rule).removeprefix(URL)
            for action in actions:
                found += [(method, path.format(action)) for method in sorted(rule.methods - {"HEAD", "OPTIONS"})]
    return found


ROUTES = routes()
KEY_ROUTES = [route for route in ROUTES if "<key_id>" in route[1]]
FORMS = [path for method, path in ROUTES if method == "POST"]


class Portal(KeyScene):
    """An application with the portal."""

    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **({"backend": options.pop("backend")} if "backend" in options else {}))
        self.customer = "team-1"
        app.jinja_env.undefined = StrictUndefined
        portal = {"scopes": SCOPES, "max_keys": 3, "max_lifetime": "90d", **options}
        app.register_blueprint(portal_blueprint(self.api_keys, owner=lambda: self.customer, **portal))
        self.client = app.test_client()

    def issue(self, name="ci", **attributes):
        return super().issue(name, **{"owner": "team-1", **attributes})

    def show(self, path, status=200):
        answer = self.client.get(URL + path)
        assert answer.status_code == status, answer.text
        return answer.text

    def send(self, method, path, target=None):
        path = path if target is None else path.replace("<key_id>", target.record.id)
        values = {**hidden(self.show("/new")), "version": "1", "name": "new"} if method == "POST" else None
        return self.client.open(URL + path, method=method, data=values)

    def post(self, path, **values):
        """Send a form, with the hidden fields of its page."""
        return self.client.post(URL + path, data={**hidden(self.show(path)), **values})
