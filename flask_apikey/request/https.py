"""The check that a request came over HTTPS."""

from flask import Flask

from flask_apikey.core.forwarding_headers import Caller


def is_plain_http_refused(caller: Caller, app: Flask, *, enforced: bool | None) -> bool:
    """Return True if a request came over plain HTTP and ``APIKEY_ENFORCE_HTTPS`` refuses that.

    Without the setting, plain HTTP passes only with ``app.debug`` or ``app.testing``.
    """
    if caller.is_secure:
        return False
    return not (app.debug or app.testing) if enforced is None else enforced
