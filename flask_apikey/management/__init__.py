"""Management of keys as a JSON API, for keys with the scopes ``keys:read`` and ``keys:write``."""

from flask_apikey.management.blueprint import management_blueprint
from flask_apikey.management.openapi import openapi_document

__all__ = ["management_blueprint", "openapi_document"]
