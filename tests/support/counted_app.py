"""An application for load tests: twenty protected routes, and an open one."""

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import text

from flask_apikey import APIKeys, require_api_key

ROUTES = 20


def create_app():
    """Create the application. Its settings are environment variables with the prefix ``COUNTED_``.

    With a database of its own, it has a view that uses it and issues a key.
    """
    app = Flask(__name__)
    app.config.from_prefixed_env("COUNTED")
    if "SQLALCHEMY_DATABASE_URI" in app.config:
        db = SQLAlchemy(app)
    api_keys = APIKeys(app)

    @require_api_key
    def view(number):
        return str(number)

    @require_api_key
    def changing():
        db.session.execute(text("SELECT 1"))
        return api_keys.create(name="ci").record.id

    for each in range(ROUTES):
        app.add_url_rule(f"/route{each}/<int:number>", f"route{each}", view)
    app.add_url_rule("/changing", "changing", changing)
    app.add_url_rule("/open", "open", lambda: "open")
    return app
