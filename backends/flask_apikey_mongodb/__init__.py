"""Keys in MongoDB."""

from flask_apikey.core.errors import ConfigurationError

try:
    from flask_apikey_mongodb.backend import MongoDBBackend
except ModuleNotFoundError as exc:
    if exc.name not in ("pymongo", "bson"):
        raise
    raise ConfigurationError(
        f"the driver {exc.name!r} for MongoDB is not installed: pip install 'flask-apikey-auth[mongodb]'"
    ) from exc

__all__ = ["MongoDBBackend"]
