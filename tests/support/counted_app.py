"""An application for load tests: twenty protected routes, and an open one."""

from flask import Flask

from flask_apikey import APIKeys, require_api_key

ROUTES = 20


def create_app():
    """Create the application. Its settings are environment variables with the prefix ``COUNTED_``."""
    app = Flask(__name__)
    app.config.from_prefixed_env("COUNTED")
    APIKeys(app)

    @require_api_key
    def view(number):
        return str(number)

    for each in range(ROUTES):
        app.add_url_rule(f"/route{each}/<int:number>", f"route{each}", view)
    app.add_url_rule("/open", "open", lambda: "open")
    return app
