"""The registry of backends: entry points, by URI scheme."""

import re
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points

from flask_apikey.core.errors import ConfigurationError, described, raise_alone
from flask_apikey.core.storage.contract import Backend

ENTRY_POINT_GROUP = "flask_apikey.backends"

_scheme = re.compile(r"([A-Za-z][A-Za-z0-9-]*)(?:\+[A-Za-z0-9_.-]+)?:").match


def backend_for(uri: str) -> Backend:
    """Create the backend registered for the scheme of a URI."""
    match = _scheme(uri)
    if match is None:
        raise ConfigurationError(
            "the storage URI has no scheme; expected something like sqlite:////var/lib/app/keys.db"
        )
    backend = backend_class(match[1].lower())
    try:
        return backend.from_uri(uri)
    except Exception as exc:  # noqa: BLE001  # backends of others may raise anything
        del uri, match  # hold the password
        if isinstance(exc, ConfigurationError):
            raise_alone(exc)
        raise_alone(ConfigurationError(f"{backend.__name__} does not take the storage URI: {described(exc)}"))


def backend_class(scheme: str) -> type[Backend]:
    """Return the only backend class registered for a URI scheme."""
    registered = _registered(tuple(sys.path))
    found = {(point.value, _distribution(point)): point for point in registered if point.name == scheme}
    if not found:
        known = ", ".join(sorted({point.name for point in registered})) or "none"
        raise ConfigurationError(
            f"no storage backend is registered for the scheme {scheme!r}; registered are: {known}. "
            "For any other SQLAlchemy database, pass an engine: APIKeys(app, backend=SQLBackend(engine))"
        )
    if len(found) > 1:
        rivals = ", ".join(sorted(f"{value} of {distribution}" for value, distribution in found))
        raise ConfigurationError(
            f"several storage backends claim the scheme {scheme!r}: {rivals}. Uninstall all but one."
        )
    (point,) = found.values()
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as exc:
        raise ConfigurationError(f"the storage backend {point.value} for {scheme!r} cannot be imported: {exc}") from exc
    if not (isinstance(loaded, type) and issubclass(loaded, Backend)):
        raise ConfigurationError(f"{point.value}, registered for the scheme {scheme!r}, is not a Backend class")
    return loaded


@lru_cache(maxsize=1)
def _registered(_path: tuple[str, ...]) -> EntryPoints:
    """Return the backends on the module path. Cached, because the metadata of every distribution is read."""
    return entry_points(group=ENTRY_POINT_GROUP)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown distribution"
