"""An application in report mode, whose views say which key they got."""

from flask import Blueprint, make_response

from flask_apikey import check_api_key, current_api_key, require_api_key
from flask_apikey.core.audit_log import WOULD_REFUSE
from tests.support.keys import KeyScene


class ReportScene(KeyScene):
    """An application with views that are open in report mode, and with closed ones.

    Attributes:
        audited: Audit events.
    """

    def __init__(self, app, clock, **options):
        super().__init__(app, clock, **options)
        self.audited = []
        app.extensions["apikey"].audit.record = self.audited.append
        named = Blueprint("named", __name__, url_prefix="/named")
        self.api_keys.protect(named, scopes=["read"], report=True)
        named.get("/plain", endpoint="plain")(new_view())
        named.get("/decorated", endpoint="decorated")(require_api_key(scopes=["read"])(new_view()))
        named.get("/inside", endpoint="inside")(new_checking_view())
        app.register_blueprint(named)
        app.get("/everywhere", endpoint="everywhere")(new_view())
        app.get("/decorated", endpoint="decorated")(require_api_key(scopes=["read"], report=True)(new_view()))
        app.get("/closed", endpoint="closed")(require_api_key(scopes=["read"])(new_view()))
        app.get("/closed-inside", endpoint="closed_inside")(new_checking_view())
        self.client = app.test_client()

    def get(self, path, key=None, **options):
        headers = {} if key is None else {"X-API-Key": key}
        return self.client.get(path, headers={**headers, **options.pop("headers", {})}, **options)

    def would_refuse(self):
        """Return reason, endpoint, key, owner and number of the requests that would be refused."""
        state = self.app.extensions["apikey"]
        with self.app.app_context():
            return [tuple(row) for row in state.stored_usage_reports().would_refuse().rows]

    def marked(self):
        """Return reason and key of the audit events of report mode."""
        return [(event.reason, event.key_id) for event in self.audited if event.event == WOULD_REFUSE]


def new_view():
    """Return a view of its own, since decorators mark functions."""

    def view():
        response = make_response(current_api_key.id if current_api_key else "nobody")
        response.headers["Cache-Control"] = "public, max-age=60"
        return response

    return view


def new_checking_view():
    """Return a view that checks the key itself."""
    view = new_view()

    def checking():
        check_api_key(scopes=["read"])
        return view()

    return checking
