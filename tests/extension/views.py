"""Views of an application under test."""

from flask_apikey import (
    api_key_exempt,
    current_api_key,
    require_api_key,
)


def add_view(app):
    @app.get("/", endpoint="view")
    @require_api_key
    def view():
        return current_api_key.name

    @app.get("/optional", endpoint="optional")
    @require_api_key(optional=True)
    def optional():
        return current_api_key.name if current_api_key else "nobody"

    @app.get("/open", endpoint="open")
    @api_key_exempt
    def open_():
        return current_api_key.name if current_api_key else "nobody"
