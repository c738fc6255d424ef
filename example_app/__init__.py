"""A book catalogue whose views need an API key."""

import json
from collections.abc import Mapping
from typing import Any

from flask import Flask

from example_app.catalogue import catalogue
from example_app.extensions import api_keys, db
from flask_apikey.management import management_blueprint

INSTANCE_CONFIG = "config.json"


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Create the application.

    Args:
        config: Settings that override the instance folder's ``config.json`` and
            environment variables such as ``FLASK_APIKEY_FERNET_KEY``.
    """
    app = Flask(__name__, instance_relative_config=True)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///catalogue.db"
    app.config.from_file(INSTANCE_CONFIG, load=json.load, silent=True)
    app.config.from_prefixed_env()
    app.config.from_mapping(config)

    db.init_app(app)
    api_keys.init_app(app)
    app.register_blueprint(catalogue)
    app.register_blueprint(management_blueprint(api_keys))
    return app
