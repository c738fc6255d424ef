"""From what an application has (URI, client, database) to a database."""

from typing import Any, cast

from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database
from pymongo.errors import InvalidURI, PyMongoError

from flask_apikey.core.errors import ConfigurationError

DEFAULT_DATABASE = "flask_apikey"

DEFAULT_OPTIONS = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 20_000}
"""For what the URI leaves open. PyMongo's own would let a request wait for half a minute, or without end."""

Source = str | MongoClient[Any] | Database[Any]


def checked_source(source: object) -> Source:
    """`source`, if a database can be reached through it.

    Raises:
        ConfigurationError: It is something else, or a malformed URI.
    """
    if isinstance(source, str):
        make_client(source).close()
        return source
    if isinstance(source, AsyncMongoClient | AsyncDatabase) or not (_is_client(source) or _is_database(source)):
        raise ConfigurationError(
            "MongoDBBackend takes a URI, or a synchronous MongoClient or Database of PyMongo, "
            f"not {type(source).__module__}.{type(source).__name__}"
        )
    return cast("Source", source)


def make_client(uri: str) -> MongoClient[Any]:
    """A client of our own. Does not connect, nor look up DNS records.

    Raises:
        ConfigurationError: The URI is malformed.
    """
    given = uri.rpartition("?")[2].lower()
    options: dict[str, Any] = {
        name: value for name, value in DEFAULT_OPTIONS.items() if f"{name.lower()}=" not in given
    }
    # What PyMongo says may quote the part of the URI that holds the password.
    try:
        return MongoClient(uri, connect=False, **options)
    except (InvalidURI, ValueError, TypeError):
        raise ConfigurationError(
            "the storage URI is malformed; expected mongodb://user:password@host:port/database "
            "with special characters in the user name and password percent-encoded"
        ) from None
    except (PyMongoError, OSError):
        raise ConfigurationError(
            "the storage URI has options that PyMongo refuses, such as a TLS file that cannot be read"
        ) from None


def database_of(source: MongoClient[Any] | Database[Any]) -> Database[Any]:
    """The database itself, or the default one of a client."""
    if _is_client(source):
        return cast("MongoClient[Any]", source).get_default_database(DEFAULT_DATABASE)
    return cast("Database[Any]", source)


def _is_client(source: object) -> bool:
    # type() and not the object itself, which has a database for every name that it is asked for.
    return hasattr(type(source), "get_default_database")


def _is_database(source: object) -> bool:
    return hasattr(type(source), "get_collection")
