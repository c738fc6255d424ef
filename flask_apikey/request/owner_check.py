"""The check of owners in the decision on a request: ``APIKEY_CHECK_OWNER``."""

import inspect
import traceback
from typing import Any, NamedTuple

from flask import Flask

from flask_apikey.core.errors import ConfigurationError, OwnerInactive
from flask_apikey.core.keys.authenticator import Decision, Verdict
from flask_apikey.core.text import redacted
from flask_apikey.request.current import Loaders, OwnerLoader
from flask_apikey.settings import logger


class CheckedOwner(NamedTuple):
    """Result of a check.

    Attributes:
        decision: The decision, refused if the owner is inactive or unknown.
        owner: The object from the owner loader; None if the loader was not called or failed.
    """

    decision: Decision
    owner: Any = None


class OwnerCheck:
    """Refuses accepted keys of inactive owners.

    The owner loader belongs to the application and may raise anything. Only its return
    accepts the key: `OwnerInactive` refuses it, and any other exception makes the
    decision unavailable.
    """

    def __init__(self, app: Flask, loaders: Loaders) -> None:
        self._app = app
        self._loaders = loaders

    def loader(self) -> OwnerLoader:
        """Return the owner loader, which may be registered after ``init_app``.

        Raises:
            ConfigurationError: There is none.
        """
        loader = self._loaders.owner
        if loader is None:
            raise ConfigurationError(
                "APIKEY_CHECK_OWNER is True, but there is no owner loader to check owners: "
                "register one with @api_keys.owner_loader"
            )
        return loader

    def check(self, decision: Decision) -> CheckedOwner:
        """Load the owner of an accepted key. A key without an owner needs no check.

        Raises:
            ConfigurationError: There is no owner loader.
        """
        loader, record = self.loader(), decision.key
        if record is None or record.owner is None or not decision.accepted:
            return CheckedOwner(decision)
        try:
            owner = self._app.ensure_sync(loader)(record.owner)
        except OwnerInactive:
            return CheckedOwner(decision._replace(verdict=Verdict.OWNER_INACTIVE, at=None))
        except Exception as exc:  # noqa: BLE001  # the loader belongs to the application
            logger.error(  # not logger.exception: the traceback may quote the request, so its keys are redacted
                "the owner loader failed for key %s: %s", record.id, redacted("".join(traceback.format_exception(exc)))
            )
            return _undecided(decision, f"the owner loader raised {type(exc).__name__}")
        if inspect.isawaitable(owner):
            # Nothing has run yet that could have raised OwnerInactive.
            return _undecided(decision, "the owner loader returned an awaitable: define it with 'async def'")
        return CheckedOwner(decision, owner)


def _undecided(decision: Decision, failure: str) -> CheckedOwner:
    return CheckedOwner(decision._replace(verdict=Verdict.UNAVAILABLE, at=None, failure=failure))
