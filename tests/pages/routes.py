"""Routes of the operator's pages, and what their changes write."""

import re

from flask import Flask

from flask_apikey import APIKeys
from flask_apikey.core.storage.contract import EventFilter
from flask_apikey.pages import operator_blueprint

URL = "/api-keys"


def rules(method):
    """Return the rules of the blueprint that take a method."""
    app = Flask(__name__)
    app.register_blueprint(operator_blueprint(APIKeys(), authorize=lambda: None))
    return sorted({rule.rule for rule in app.url_map.iter_rules() if method in rule.methods and URL in rule.rule})


def path_of(rule, key_id, action="revoke"):
    values = {"key_id": key_id, "action": action, "content": "keys", "form": "json", "filename": "pages.css"}
    return re.sub(r"<(?:[^:<>]+:)?(\w+)>", lambda match: values[match[1]], rule)


READ = rules("GET")
WRITTEN = rules("POST")


def stored(scene):
    """Return all that changes of keys write."""
    events = scene.backend.history.events(EventFilter(), after=None, limit=99)
    return list(scene.do("list")), events
