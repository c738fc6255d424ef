"""Storage URIs of SQL databases: drivers, options, and databases in memory."""

import re
from collections.abc import Mapping
from math import isfinite
from typing import Any
from urllib.parse import unquote

from sqlalchemy import URL, Dialect, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from flask_apikey.core.errors import ConfigurationError

_DRIVERS = {
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_EXTRAS = {"psycopg": "postgresql", "pymysql": "mysql"}

_SQLITE_OPTIONS = frozenset({"uri", "timeout", "cached_statements"})
# The others change what a connection returns, take objects, or are ours to set.
_PYMYSQL_OPTIONS = frozenset(
    {
        "charset",
        "connect_timeout",
        "init_command",
        "local_infile",
        "read_default_file",
        "read_default_group",
        "read_timeout",
        "sql_mode",
        "ssl_ca",
        "ssl_cert",
        "ssl_check_hostname",
        "ssl_key",
        "ssl_verify_cert",
        "ssl_verify_identity",
        "unix_socket",
        "write_timeout",
    }
)
_TRUE = frozenset({"1", "on", "true", "yes"})
_UTF8 = {"charset": ("utf8mb4",), "client_encoding": ("utf8", "utf-8", "unicode")}
_PREPARE_THRESHOLD = "prepare_threshold"
_shown = re.compile(r"[a-z][a-z_]{0,30}").fullmatch


def parse_uri(uri: str | URL) -> URL:
    """Parse a URI and set the driver for its database."""
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):
        raise malformed() from None
    if url.get_backend_name() == "sqlite":
        if url.host:
            # SQLAlchemy would open a database in memory, which ends with the process.
            raise ConfigurationError(
                "the storage URI names a host, and SQLite has none: write sqlite:///keys.db for a file in the working "
                "directory, and sqlite:////var/lib/keys.db for an absolute path"
            )
        if url.database in (None, "", "file:") and url.query.get("mode") != "memory":
            raise ConfigurationError(
                "the storage URI names no file: write sqlite:////var/lib/keys.db, or sqlite:///:memory: for keys that "
                "end with the process"
            )
    if any("\0" in (each or "") for each in (url.username, url.password, url.host, url.database)):
        raise malformed()
    if any("@" in each for each in (url.host or "", url.database or "")) and (url.password is not None or url.username):
        # The rest of a password, which errors of the driver would quote as a host or a database.
        raise malformed()
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def driver_of(url: URL) -> tuple[type[Dialect], Any]:
    """Import the dialect and the driver of a URL.

    Raises:
        ConfigurationError: The driver is unknown, asynchronous or not installed.
    """
    try:
        dialect = url.get_dialect()
        refuse_asynchronous(dialect)
        return dialect, dialect.import_dbapi()
    except NoSuchModuleError:
        raise ConfigurationError(f"SQLAlchemy knows no database driver {url.drivername!r}") from None
    except ImportError as exc:
        # psycopg is there, and cannot be imported, where neither libpq nor its extra `binary` is.
        extra = _EXTRAS.get(url.get_driver_name())
        advice = f": pip install 'flask-apikey-auth[{extra}]'" if extra else ""
        problem = "is not installed" if isinstance(exc, ModuleNotFoundError) else "cannot be imported"
        driver = exc.name or url.get_driver_name()
        raise ConfigurationError(f"the driver {driver!r} for {url.drivername!r} {problem}{advice}") from exc


def refuse_asynchronous(dialect: Dialect | type[Dialect]) -> None:
    """Raise if a dialect has an asynchronous driver."""
    if dialect.is_async:
        synchronous = _DRIVERS.get(dialect.name, dialect.name)
        raise ConfigurationError(
            f"the driver {dialect.driver!r} is asynchronous, and keys are read by synchronous code: "
            f"use a synchronous driver, such as {synchronous}://"
        )


def driver_options(url: URL, driver: Any) -> tuple[URL, dict[str, Any]]:
    """Check the options of a URL.

    Args:
        url: A URL with a driver.
        driver: Module of the driver.

    Returns:
        The URL, and the options that the driver takes as objects or that have a default here.

    Raises:
        ConfigurationError: An option is unknown, has an invalid value, or changes what connections return.
    """
    for name, encodings in _UTF8.items():
        if name in url.query and str(url.query[name]).lower() not in encodings:
            raise ConfigurationError(
                f"{name} of the storage URI cannot store every name: remove it, or set it to {encodings[0]}"
            )
    match url.get_backend_name(), url.get_driver_name():
        case "sqlite", _:
            _allow(url, url.query.keys() if _is_true(url.query.get("uri")) else _SQLITE_OPTIONS)
            for name in ("check_same_thread", "detect_types", "isolation_level"):
                _allow(url, url.query.keys() - {name})
            return url, {}
        case "postgresql", "psycopg":
            known = {option.keyword.decode() for option in driver.pq.Conninfo.get_defaults()}
            _allow(url, known | {_PREPARE_THRESHOLD})
            options: dict[str, Any] = {} if "client_encoding" in url.query else {"client_encoding": "utf8"}
            if _PREPARE_THRESHOLD in url.query:
                options[_PREPARE_THRESHOLD] = _prepare_threshold(url.query)
            return url.difference_update_query([_PREPARE_THRESHOLD]), options
        case "mysql" | "mariadb", "pymysql":
            _allow(url, _PYMYSQL_OPTIONS)
            if not url.database and "read_default_file" not in url.query:
                raise ConfigurationError(
                    "the storage URI names no database: write mysql://user:password@host:3306/name"
                )
            return url, {} if "sql_mode" in url.query else {"sql_mode": "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"}
        case _:
            return url, {}


def is_in_memory(url: URL) -> bool:
    """Return True for a SQLite database in memory."""
    if url.get_backend_name() != "sqlite":
        return False
    database = url.database or ""
    name, _, options = database.partition("?") if database.startswith("file:") else (database, "", "")
    return (
        unquote(name) in ("", ":memory:", "file:", "file::memory:")
        or "mode=memory" in options
        or url.query.get("mode") == "memory"
        or url.query.get("vfs") == "memdb"
    )


def sqlite_timeout(url: URL, default: float) -> float:
    """Return the seconds that a SQLite URL lets a writer wait for another one."""
    text = url.query.get("timeout", default)
    try:
        timeout = float(str(text))
    except ValueError:
        timeout = -1
    if not isfinite(timeout) or timeout < 0:
        raise ConfigurationError("timeout of the storage URI must be a number of seconds, such as timeout=15")
    return timeout


def named_options(url: URL) -> str:
    """List the options of a URL by name. Names that may be parts of a password are left out."""
    return ", ".join(sorted(filter(_shown, url.query))) or "given"


def malformed() -> ConfigurationError:
    """Return the error for a malformed URI."""
    return ConfigurationError(
        "the storage URI is malformed; expected driver://user:password@host:port/database with special characters "
        "in the password percent-encoded, or sqlite:///file"
    )


def _is_true(value: object) -> bool:
    """Return True if an option of a URI is switched on."""
    return str(value).lower() in _TRUE


def _prepare_threshold(query: Mapping[str, Any]) -> int | None:
    text = str(query[_PREPARE_THRESHOLD]).lower()
    if text == "none":
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigurationError(
            f"{_PREPARE_THRESHOLD} of the storage URI must be a whole number, or None to prepare no statement"
        )
    # The drivers before psycopg 3 taught people to write 0 where nothing may be prepared, as behind pgbouncer.
    return int(text) or None


def _allow(url: URL, allowed: Any) -> None:
    refused = [name for name in url.query if name not in allowed]
    if refused:
        names = ", ".join(sorted(filter(_shown, refused))) or "one"
        raise ConfigurationError(
            f"an option of the storage URI is not supported ({names}): remove it, or pass an engine that is made "
            "with it, APIKeys(backend=SQLBackend(create_engine(...)))"
        )
