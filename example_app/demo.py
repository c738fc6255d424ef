"""The pages, behind a demo sign-in that asks for no password.

Whoever reaches it may choose who to be. So only ``python -m example_app`` adds it, which
listens on this machine only, and requests from elsewhere are refused. Never do this elsewhere.
"""

import secrets
from typing import Any

from flask import Blueprint, Flask, abort, redirect, render_template_string, request, session, url_for
from flask_wtf.csrf import generate_csrf, validate_csrf
from werkzeug.wrappers import Response
from wtforms import ValidationError

from example_app.catalogue import READ
from example_app.extensions import api_keys
from flask_apikey.pages import operator_blueprint, portal_blueprint

PEOPLE = {"olivia": "operator", "acme": "customer", "globex": "customer"}
_START_PAGES = {"operator": "api_key_operator.show_overview", "customer": "api_key_portal.list_keys"}
_LOCAL_HOSTS = {"127.0.0.1", "localhost"}
_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Demo sign-in</title>
<h1>Demo sign-in</h1>
<p>This asks for no password: choose who you want to be. It works on this machine only.</p>
<form method="post">
<input type="hidden" name="csrf_token" value="{{ token() }}">
{% for person, role in people.items() %}
<p><button name="person" value="{{ person }}">{{ person }}, {{ role }}</button></p>
{% endfor %}</form>
{% if name %}<p>You are {{ name }}. <a href="{{ url_for(start) }}">Go to the pages</a></p>{% endif %}
</html>"""

demo = Blueprint("demo", __name__)


def add_demo(app: Flask) -> None:
    """Add the demo sign-in, the pages of operators, and the portal of customers."""
    app.config.update(SECRET_KEY=secrets.token_hex(), SESSION_COOKIE_SAMESITE="Lax")
    app.register_blueprint(demo)
    app.register_blueprint(operator_blueprint(api_keys, authorize=lambda: _signed_in("operator")))
    app.register_blueprint(
        portal_blueprint(api_keys, owner=lambda: _signed_in("customer"), scopes=[READ], max_keys=5, max_lifetime="90d")
    )


@demo.route("/demo", methods=["GET", "POST"])
def sign_in() -> str | Response:
    """Let people choose who they are."""
    _refuse_strangers()
    if request.method == "POST":
        try:
            validate_csrf(request.form.get("csrf_token"))
        except ValidationError:
            abort(400)
        if request.form.get("person") not in PEOPLE:
            abort(400)
        session["person"] = request.form["person"]
        return redirect(url_for(_START_PAGES[PEOPLE[session["person"]]]), 303)
    name = session.get("person")
    start = _START_PAGES[PEOPLE[name]] if name in PEOPLE else None
    return render_template_string(_PAGE, people=PEOPLE, name=name, start=start, token=generate_csrf)


def _signed_in(role: str) -> Any:
    """Return the name of the signed-in person with a role, or a redirect to the sign-in. None refuses."""
    _refuse_strangers()
    person = session.get("person")
    if person is None:
        return redirect(url_for("demo.sign_in"))
    return person if PEOPLE.get(person) == role else None


def _refuse_strangers() -> None:
    """Refuse requests from other machines, and those that other sites send under a name of their own."""
    host = request.host.rpartition(":")[0] or request.host
    if request.remote_addr != "127.0.0.1" or host not in _LOCAL_HOSTS:
        abort(403)
