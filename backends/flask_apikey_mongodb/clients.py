"""Clients from URIs, and their databases."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pymongo
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database
from pymongo.errors import InvalidURI, PyMongoError

from flask_apikey.core.errors import ConfigurationError

DEFAULT_DATABASE = "flask_apikey"

DEFAULT_TIMEOUT = 5.0

TIMEOUT_OPTIONS = ("serverSelectionTimeoutMS", "connectTimeoutMS", "socketTimeoutMS")
"""Options that get the timeout unless the URI sets them. PyMongo's own let a request wait 30 s, or forever."""

_LONGEST = 3600
"""Seconds for an operation that may take its time."""

P = TypeVar("P", bound=Any)
A = ParamSpec("A")
T = TypeVar("T")

Source = str | MongoClient[Any] | Database[Any]


@dataclass
class Timeout:
    """Seconds to wait for a server, and for each answer."""

    seconds: float = DEFAULT_TIMEOUT


def checked_source(source: object) -> Source:
    """Return `source` if it is a valid URI, a client or a database."""
    if isinstance(source, str):
        with warnings.catch_warnings():
            # PyMongo ignores such an option, so that a mistyped timeout would mean none.
            warnings.simplefilter("error", UserWarning)
            make_client(source).close()
        return source
    if isinstance(source, AsyncMongoClient | AsyncDatabase) or not (_is_client(source) or _is_database(source)):
        raise ConfigurationError(
            "MongoDBBackend takes a URI, or a synchronous MongoClient or Database of PyMongo, "
            f"not {type(source).__module__}.{type(source).__name__}"
        )
    return cast("Source", source)


def make_client(uri: str, timeout: float = DEFAULT_TIMEOUT) -> MongoClient[Any]:
    """Create a client. Does not connect or resolve DNS names."""
    query = uri.rpartition("?")[2].lower()
    options: dict[str, Any] = {
        name: round(timeout * 1_000) for name in TIMEOUT_OPTIONS if f"{name.lower()}=" not in query
    }
    # Errors of PyMongo may quote the password in the URI.
    try:
        return MongoClient(uri, connect=False, **options)
    except (InvalidURI, ValueError, TypeError):
        problem = (
            "the storage URI is malformed; expected mongodb://user:password@host:port/database "
            "with special characters in the user name and password percent-encoded"
        )
    except UserWarning:
        problem = "the storage URI has an option that PyMongo does not know, or one with an invalid value"
    except (PyMongoError, OSError):
        problem = "the storage URI has options that PyMongo refuses, such as a TLS file that cannot be read"
    del uri, query  # hold the password
    raise ConfigurationError(problem)


def unlimited(method: Callable[Concatenate[P, A], T]) -> Callable[Concatenate[P, A], T]:
    """Let the commands of a method take their time, as for the creation of an index, once the server answers."""

    @wraps(method)
    def run(part: P, /, *arguments: A.args, **options: A.kwargs) -> T:
        # Otherwise the longer timeout would hold for the search of a server too.
        part._opened.get().database.command("ping")  # noqa: SLF001  # parts of this package
        with pymongo.timeout(_LONGEST):
            return method(part, *arguments, **options)

    return run


def database_of(source: MongoClient[Any] | Database[Any]) -> Database[Any]:
    """Return the database, or the default database of a client."""
    if _is_client(source):
        return cast("MongoClient[Any]", source).get_default_database(DEFAULT_DATABASE)
    return cast("Database[Any]", source)


def _is_client(source: object) -> bool:
    # type(), because a client has an attribute for every database name.
    return hasattr(type(source), "get_default_database")


def _is_database(source: object) -> bool:
    return hasattr(type(source), "get_collection")
