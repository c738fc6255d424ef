"""Whether it can be known that a secret is not used any more."""

from flask import Flask

from flask_apikey.core.errors import ConfigurationError
from flask_apikey.core.storage.contract import Backend, KeepsUsage
from flask_apikey.core.usage.labels import EndpointLabels
from flask_apikey.request.protected_views import Protection, protected_views
from flask_apikey.settings import Settings

_UNKNOWN = "when a secret was last used is not known"
_TAKES_KEYS = {Protection.REQUIRED, Protection.OPTIONAL}


def refuse_unknown_uses(app: Flask, settings: Settings, backend: Backend) -> None:
    """Make sure that every use of a key is noted in the storage.

    Raises:
        ConfigurationError: Some are not; the message says which.
    """
    if settings.usage == "off":
        raise ConfigurationError(f"{_UNKNOWN}: APIKEY_USAGE is 'off'")
    if not isinstance(backend, KeepsUsage):
        raise ConfigurationError(f"{_UNKNOWN}: {type(backend).__name__} keeps no usage")
    labels = EndpointLabels(ignored=settings.ignored_routes)
    views = protected_views(app, protect_all=settings.protect_all)
    uncounted = {view.rule for view in views if view.protection in _TAKES_KEYS and labels[view.rule] is None}
    if uncounted:
        raise ConfigurationError(
            f"{_UNKNOWN}: keys are used at {', '.join(sorted(uncounted))}, which APIKEY_IGNORED_ROUTES leaves out"
        )
